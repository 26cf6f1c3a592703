"""Which detector file is meant."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from common.errors import UserError
from training.run_folder import LATEST, newest_run

FILE = "detector.safetensors"  # of a run


def find_detector(
    spec: str | os.PathLike | None,
    *,
    runs: str | os.PathLike = "runs",
    shipped: Sequence[Path] = (),
    parameter: str = "model",
) -> Path:
    """The detector file meant by `spec`: a file, a run folder, «latest» for the newest run's, or None for the first of
    `shipped` that is there. parameter: whose value `spec` is. UserError, with what to do about it, where there is
    none."""
    if spec is None:
        for path in shipped:
            if Path(path).is_file():
                return Path(path)
        raise UserError(
            f"no detector yet: the shipped one is not here; give `{parameter}` a detector file or run, or train one"
            " with `make demo`"
        )
    if spec == LATEST:
        run = newest_run(Path(runs), lambda folder: (folder / FILE).is_file())
        if run is None:
            raise UserError(
                f"`{parameter}` {LATEST}: no detector yet: there is no {runs}/*/{FILE}; train one with `make demo`, or"
                " give a detector file or a run folder"
            )
        return run / FILE
    path = Path(spec)
    if not path.is_dir():
        return path
    if (path / FILE).is_file():
        return path / FILE
    raise UserError(f"{path}: the folder has no {FILE}; give a finished run or a detector file")


@contextmanager
def reading(path: str | os.PathLike) -> Iterator[None]:
    """Inside, a detector file that is not there or can't be read is a UserError."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such detector file; give a {FILE} or a run folder") from None
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}") from None
