"""Image members of an uncompressed tar archive, such as the shards that large sets are published in."""

from __future__ import annotations

import functools
import os
import tarfile
import threading
from collections.abc import Callable
from typing import IO

from common.errors import BadImage, UserError
from faces.decode import MAX_BYTES
from faces.foreign import Sieve
from faces.layout import is_hidden, parts_of
from faces.moving.kinds import HEAD


def is_tar(path: str | os.PathLike) -> bool:
    """Whether a file is called like a tar archive (.tar)."""
    return os.fspath(path).lower().endswith(".tar") and os.path.isfile(path)


class TarStore:
    """Read in place: the members are found once, by their heads, and each is then one read. Nothing is extracted, so a
    member's name can't reach outside."""

    def __init__(self, path: str):
        self.path = path
        self.trouble = ""  # why not all of it can be seen
        self._open: tuple[int, IO[bytes], dict[str, tuple[int, int]], threading.Lock] | None = None

    def __reduce__(self) -> tuple:
        return TarStore, (self.path,)

    def locate(self, path: str) -> str:
        return f"{self.path}:{path}"

    def members(self) -> dict[str, tuple[int, int]]:
        """Name -> (place in bytes, size) of every file in it, of those with one name the last. UserError where it is
        not a whole tar archive, or a compressed one."""
        return self._archive()[1]

    def _archive(self) -> tuple[IO[bytes], dict[str, tuple[int, int]], threading.Lock]:
        if self._open is None or self._open[0] != os.getpid():  # a forked child must not share the file's position
            try:
                file = open(self.path, "rb")
                found = self._index(file)
            except PermissionError:
                raise UserError(f"{self.path}: no permission to read it") from None
            except (OSError, tarfile.TarError, ValueError, EOFError) as error:
                raise UserError(
                    f"{self.path}: not a readable uncompressed tar archive ({error}); unpack it, or make it again"
                ) from None
            self._open = (os.getpid(), file, found, threading.Lock())
        return self._open[1:]

    def _index(self, file: IO[bytes]) -> dict[str, tuple[int, int]]:
        found: dict[str, tuple[int, int]] = {}
        with tarfile.open(fileobj=file, mode="r:") as archive:
            try:
                for one in archive:
                    if one.isreg() and not one.sparse:
                        found[one.name] = (one.offset_data, one.size)
            except (OSError, tarfile.TarError, ValueError, EOFError) as error:
                if not found:
                    raise
                self.trouble = f"damaged or cut off after {len(found)} members ({error}): what follows is not seen"
        return found

    def read(self, path: str) -> bytes:
        """A member's bytes. BadImage where they can't be had."""
        return self._bytes(path, None)

    def head(self, path: str) -> bytes:
        """A member's first bytes, none where they can't be had."""
        try:
            return self._bytes(path, HEAD)
        except UserError:
            return b""

    def _bytes(self, path: str, most: int | None) -> bytes:
        file, members, lock = self._archive()
        name = self.locate(path)
        if path not in members:
            raise BadImage(name, "not in the archive")
        place, size = members[path]
        if size > MAX_BYTES:
            raise BadImage(name, f"{size >> 20} MiB, refused")
        wanted = size if most is None else min(most, size)
        try:
            with lock:
                file.seek(place)
                data = file.read(wanted)
        except OSError as error:
            raise BadImage(name, f"broken in the archive ({error.strerror})") from None
        if len(data) < wanted:
            raise BadImage(name, "cut off at the archive's end")
        return data

    def close(self) -> None:
        if self._open is not None and self._open[0] == os.getpid():
            self._open[1].close()
        self._open = None


def list_tar(store: TarStore, wanted: Callable[[str], bool], *, videos: bool = False) -> tuple[list[str], list[str]]:
    """The names of the image members, sorted, and notes about what was left out (wanted, videos: as in
    `faces.stores.list_folder`)."""
    sieve = Sieve(wanted, videos, strangers=videos)
    found = [
        name
        for name in sorted(store.members())
        if not is_hidden(parts_of(name)) and sieve.takes(name, functools.partial(store.head, name))
    ]
    return found, sieve.notes() + ([f"{store.path}: {store.trouble}"] if store.trouble else [])
