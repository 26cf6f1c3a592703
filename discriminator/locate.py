"""Which detector file is meant."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from common.errors import UserError

LATEST = "latest"
FILE = "detector.safetensors"  # of a run


def find_detector(
    spec: str | os.PathLike | None, *, runs: str | os.PathLike = "runs", shipped: Sequence[Path] = ()
) -> Path:
    """The detector file meant by `spec`: a file, a run folder, «latest» for the newest run's, or None for the first of
    `shipped` that is there. UserError, with what to do about it, where there is none."""
    if spec is None:
        for path in shipped:
            if Path(path).is_file():
                return Path(path)
        raise UserError(
            "no detector yet: the shipped one is not here; give `model` a detector file or run, or train one with"
            " `make demo`"
        )
    if spec == LATEST:
        return newest_detector(Path(runs))
    path = Path(spec)
    if not path.is_dir():
        return path
    if (path / FILE).is_file():
        return path / FILE
    raise UserError(f"{path}: the folder has no {FILE}; give a finished run or a detector file")


def newest_detector(runs: Path) -> Path:
    """Of `runs/<run>`, or failing these `runs/<group>/<run>`, the one whose detector file is newest."""
    for depth in ("*", "*/*"):  # runs of a group, such as runs/demo/, only where no run lies in `runs` itself
        found = [p for p in runs.glob(f"{depth}/{FILE}") if p.is_file()]
        if found:
            return max(found, key=lambda p: (p.stat().st_mtime_ns, p.parent.name))
    raise UserError(f"no detector yet: there is no {runs}/*/{FILE}; train one with `make demo`, or give `model` a file")


@contextmanager
def reading(path: str | os.PathLike) -> Iterator[None]:
    """Inside, a detector file that is not there or can't be read is a UserError."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such detector file; give a {FILE} or a run folder") from None
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}") from None
