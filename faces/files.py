"""Files that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path


def save_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary path)`, flush it to the disk, then give it its name: a reader sees all of it or nothing.

    An existing file at `path` is replaced. If writing fails the temporary file is removed and the error passed on.
    """
    tmp = path.with_name(f".{path.name}.tmp")
    try:
        write(tmp)
        with open(tmp, "rb+") as f:
            os.fsync(f.fileno())
        os.replace(tmp, path)
        if os.name == "posix":  # elsewhere a folder cannot be opened to be flushed
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except BaseException:
        tmp.unlink(missing_ok=True)
        raise


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
