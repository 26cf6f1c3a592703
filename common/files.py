"""Files that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

NAME_BYTES = 255  # of a file's name, on almost all file systems
SHARED = re.compile(r"\..*?\d+-[0-9a-f]{8}\.\w+")  # a temporary name that is one process's own
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@contextlib.contextmanager
def written_whole(
    path: Path, *, durable: bool = True, replace: bool = True, shared: bool = False, ending: str = ".tmp"
) -> Iterator[Path]:
    """A temporary path beside `path`, to be written to piece by piece: where the block ends well it gets the name,
    where an exception leaves it the file is removed. A disk's error that names no file, or the temporary one,
    is made to name `path`.

    durable=False leaves flushing to the system: for thousands of small files, of which a failing power supply may take
    the last. replace=False raises FileExistsError where `path` is there, even if it came meanwhile. shared: several
    processes may write `path` at once, each under a name of its own; what killed ones have left in the folder is
    removed. ending: for writers that go by it.
    """
    tmp = path.with_name(hidden_name(path.name, ending, f"{os.getpid()}-{secrets.token_hex(4)}" if shared else ""))
    lock = None
    if shared:
        _remove_abandoned(path.parent)
        lock = _locked(tmp)
    try:
        with disk_errors_of(path):
            yield tmp
            if durable:
                with open(tmp, "rb+") as f:
                    os.fsync(f.fileno())
            os.replace(tmp, path) if replace else _name_anew(tmp, path)
            if durable and os.name == "posix":  # elsewhere a folder cannot be opened to be flushed
                folder = os.open(path.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
    except OSError as error:
        if error.filename == str(tmp):  # a name that nobody gave
            error.filename = str(path)
        raise
    finally:
        with contextlib.suppress(OSError):  # a name that can't be is not there either
            tmp.unlink(missing_ok=True)
        if lock is not None:
            os.close(lock)


@contextlib.contextmanager
def disk_errors_of(path: str | Path) -> Iterator[None]:
    """In here an error of the disk that names no file, as a full disk's where one is written to, names `path`; what
    breaks on a network's way here is not the file's fault."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_ERRORS and error.filename is None:
            error.filename = str(path)
        raise


def _locked(path: Path) -> int | None:
    """A handle on the new file `path` with its lock, by which others see that it is being written; None where the
    system has no such locks, or nothing can be written (which its writer will find)."""
    if sys.platform == "win32":
        return None
    import fcntl

    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)  # who else has it has taken the file for abandoned, for a moment
        except OSError:  # a file system that knows no locks
            return handle
        if _is_called(handle, path):
            return handle
        os.close(handle)


def _is_called(handle: int, path: Path) -> bool:
    """Whether an open file still has this name: others may have removed it."""
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(handle), os.stat(path))
    return False


def _remove_abandoned(folder: Path) -> None:
    """Remove files of `written_whole` that nobody is writing any more: their writer was killed."""
    if sys.platform == "win32":
        return
    import fcntl

    with contextlib.suppress(OSError):
        for name in [name for name in os.listdir(folder) if SHARED.fullmatch(name)]:
            with contextlib.suppress(OSError):  # gone meanwhile, not ours to open, or being written
                handle = os.open(folder / name, os.O_RDWR)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if _is_called(handle, folder / name):
                        os.unlink(folder / name)
                finally:
                    os.close(handle)


def _name_anew(tmp: Path, path: Path) -> None:
    try:
        os.link(tmp, path)  # unlike a renaming, it never replaces what somebody else put there meanwhile
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        os.replace(tmp, path)


def save_atomically(path: Path, write: Callable[[Path], object], *, durable: bool = True) -> None:
    """Call `write(temporary path)`, then give what it wrote its name (`written_whole`): readers see all or nothing."""
    with written_whole(path, durable=durable) as tmp:
        write(tmp)


def write_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """`data` as a file, whole or not at all."""
    save_atomically(path, lambda tmp: tmp.write_bytes(data), durable=durable)


def write_text(path: Path, text: str) -> None:
    """`text` as a UTF-8 file, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: object, *, indent: int = 1) -> None:
    """`value` as a JSON file, whole or not at all; NaN and infinity are a ValueError (`common.outputs.plain`)."""
    write_text(path, json.dumps(value, indent=indent, allow_nan=False) + "\n")


def hidden_name(name: str, ending: str, own: str = "") -> str:
    """A name for what lies beside the file `name` while it is written, no longer than names may be."""
    whole = f".{name}{own and '.'}{own}{ending}"
    return whole if len(os.fsencode(whole)) <= NAME_BYTES else f".{zlib.crc32(os.fsencode(name)):08x}{own}{ending}"


def try_lock(handle: int) -> bool:
    """Whether this process now holds the lock of an open file. The system lets go of it when the process ends, however
    that happens, so a killed run leaves nothing that has to be removed by hand."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(handle, 1 << 40, os.SEEK_SET)  # beyond what the file says, so that others can read it
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # some network file systems know no locks: go on without
        return True
    return True


def sha256_of(path: str | os.PathLike) -> str:
    """SHA-256 (hex) of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """Where things are kept that can be had again: $FACES_CACHE, else `ganface` in the user's own cache folder."""
    if given := os.environ.get("FACES_CACHE"):
        return Path(given).expanduser()
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "ganface"
