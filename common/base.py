"""Imported first by the scripts of the root: where this Python lacks what every command takes, one line says so, and
what to do, before an import of theirs fails. Mostly the project's environment is there and not active."""

from __future__ import annotations

import os
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from common.extras import PACKAGED, missing

TAKEN = ("click", "cv2", "numpy", "onnxruntime", "PIL", "tqdm")  # dependencies of pyproject.toml
ENVIRONMENTS = (".venv", ".venv-light")  # as bootstrap.py makes them; the complete one first
ROOT = Path(__file__).resolve().parents[1]


def lacking(names: list[str], root: Path = ROOT) -> str:
    """The one line about packages that this Python lacks."""
    line = f"this Python ({sys.executable}) has no {', '.join(names)}"
    if PACKAGED:
        return f"{line}: pip install ganface"
    for name in ENVIRONMENTS:
        windows = root / name / "Scripts" / "activate"
        script = root / name / "bin" / "activate"
        if os.name == "nt" and windows.is_file():
            return f"{line}: first activate the environment that is here: {windows}"
        if script.is_file():
            return f"{line}: first activate the environment that is here: source {shlex.quote(_near(script))}"
    return (
        f"{line}: `make setup` makes an environment with everything (without make: python3 bootstrap.py setup),"
        " `make detect ARGS=photo.jpg` a small one for verdicts"
    )


def _near(path: Path) -> str:
    """As it is typed here: without the folder, where that is the one we stand in."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def leave(line: str) -> NoReturn:
    print(f"error: {line}", file=sys.stderr)
    sys.exit(2)


def leave_without(error: ModuleNotFoundError) -> NoReturn:
    """End the program because an import failed; what is no package of an extra is a bug and keeps its traceback."""
    line = missing(error)
    if line is None:
        raise error
    leave(line)


if absent := [name for name in TAKEN if find_spec(name) is None]:
    leave(lacking(absent))
