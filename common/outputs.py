"""Files that a command is going to write: what cannot be is refused before the work, not after it; numbers for JSON."""

from __future__ import annotations

import math
import os
from numbers import Integral, Real
from pathlib import Path

from common.errors import UserError


def check_output(option: str, path: str | os.PathLike | None, *, force: bool) -> None:
    """UserError where `path` (None: not asked for) is there already and not to be replaced, or can't be written.

    option: the parameter that asked for it, in backticks, for the message."""
    if path is None:
        return
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{option} {path}: is a folder: give a file's name")
    if path.exists() and not path.is_file():  # a device, which would be replaced, or a pipe
        raise UserError(f"{option} {path}: is no ordinary file: give a file's name")
    if path.exists() and not force:
        raise UserError(f"{option} {path}: is there already: choose another name, or `force`")
    check_folder(option, path.absolute().parent)


def check_folder(option: str, folder: Path) -> None:
    """UserError unless files can be made in `folder`, which is there or can be made itself."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise UserError(f"{option}: {folder} is a file, not a folder: choose another place")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{option}: nothing can be written in {folder}: choose another place")


def plain(value):
    """JSON has no NaN and no infinity: what can't be told is null. numpy's numbers become Python's."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    return value
