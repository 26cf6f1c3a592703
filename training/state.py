"""The state of a training on disk: one file, whole or absent, read without running code from it."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import torch

from common.errors import UserError
from common.files import save_atomically

FORMAT = "detective-1"
CHECKPOINT_NAME = re.compile(r"checkpoint-(\d{6,})\.pt")


def checkpoint_path(run: Path, step: int) -> Path:
    return run / f"checkpoint-{step:06d}.pt"


def checkpoints(run: Path) -> list[Path]:
    """The run's checkpoints, oldest first."""
    found = [(int(m.group(1)), p) for p in run.glob("checkpoint-*.pt") if (m := CHECKPOINT_NAME.fullmatch(p.name))]
    return [p for _, p in sorted(found)]


def save(
    run: Path,
    step: int,
    state: dict,
    keep: int = 2,
    spare: Collection[Path] = (),
    *,
    form: str | int = FORMAT,
    elsewhere: str = "--out",
) -> Path:
    """Write the state after `step` steps; then remove all but the last `keep` checkpoints and those in `spare`.

    Checkpoints of later steps belong to a course the run has left (it was resumed from an earlier one): they go too.
    form: what the reader knows its own files by. elsewhere: the option that names another place, for the UserError of a
    disk that doesn't take it.
    """
    path = checkpoint_path(run, step)
    try:
        save_atomically(path, lambda tmp: torch.save({"format": form, **state}, tmp))
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError of its zip writer
        left = checkpoints(run)
        if not run.is_dir():
            advice = "the run's folder was removed while it ran: start again"
        elif left:
            advice = f"free some space, then go on from the earlier {left[-1].name} with --resume {run}"
        else:
            advice = f"free some space or choose another {elsewhere}, then start again"
        reason = (getattr(error, "strerror", None) or str(error)).splitlines()[0]
        raise UserError(f"{path}: the checkpoint could not be written ({reason}); {advice}") from None
    found = checkpoints(run)
    current = found.index(path)
    for old in found[: max(0, current + 1 - keep)] + found[current + 1 :]:
        if old not in spare:
            old.unlink(missing_ok=True)
    return path


def load(run: Path) -> tuple[Path, dict]:
    """The newest checkpoint of a run, on the CPU. UserError where there is none of this program's."""
    found = checkpoints(run)
    if not found:
        raise UserError(f"{run}: holds no checkpoint to go on from; start the training again in another folder")
    path = found[-1]
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UserError(f"{path}: can't be read ({reason}); remove it to go on from the one before") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path}: not a checkpoint of train_detector.py of this version; give a run of it")
    return path, state
