"""The state of a training on disk: one file, whole or absent, read without running code from it."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Literal

import torch

from common.errors import UserError
from common.files import save_atomically
from stylegan2_ada.torch_files import read_torch
from training.run_folder import LATEST, config_in, is_detectors, newest_run

Kind = Literal["gan", "detector"]
FORMATS = {"gan": (1,), "detector": ("detector-1", "detective-1")}  # the first is written, all are read
NAME = re.compile(r"checkpoint-(\d{6,})\.pt")


def checkpoint_path(run: Path, step: int) -> Path:
    return run / f"checkpoint-{step:06d}.pt"


def checkpoints(run: Path) -> list[Path]:
    """The run's checkpoints, oldest first."""
    found = [(int(m.group(1)), p) for p in run.glob("checkpoint-*.pt") if (m := NAME.fullmatch(p.name))]
    return [p for _, p in sorted(found)]


def checkpoint_number(path: Path) -> int:
    """The steps in a checkpoint's name; 0 for a file of another name."""
    found = NAME.fullmatch(path.name)
    return int(found.group(1)) if found else 0


def is_checkpoint_name(path: Path) -> bool:
    """Whether a file is called like a checkpoint of this project."""
    return NAME.fullmatch(path.name) is not None


def save(run: Path, step: int, state: dict, kind: Kind, *, keep: int = 2, spare: Collection[Path] = ()) -> Path:
    """Write the state after `step` steps; then remove all but the last `keep` checkpoints and those in `spare`.

    Checkpoints of later steps belong to a course the run has left (it was resumed from an earlier one): they go too.
    UserError where the disk does not take it.
    """
    path = checkpoint_path(run, step)
    try:
        save_atomically(path, lambda tmp: torch.save({"format": FORMATS[kind][0], **state}, tmp))
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError of its zip writer
        left = checkpoints(run)
        if not run.is_dir():
            advice = "the run's folder was removed while it ran: start again"
        elif left:
            advice = f"free some space, then go on from the earlier {left[-1].name} with `resume` {run}"
        else:
            advice = "free some space or choose another `outdir`, then start again"
        said = getattr(error, "strerror", None) or str(error).splitlines()[0]
        if said.startswith("[enforce fail"):  # a line of C++, which names none of it
            said = "not all of it was taken: the disk is full, or a limit reached"
        raise UserError(f"{path}: the checkpoint could not be written ({said}); {advice}") from None
    found = checkpoints(run)
    current = found.index(path)
    for old in found[: max(0, current + 1 - keep)] + found[current + 1 :]:
        if old not in spare:
            old.unlink(missing_ok=True)
    return path


def load(where: Path, kind: Kind) -> dict:
    """The state in a checkpoint, or in the newest one of a run, on the CPU.

    UserError for anything that is not a checkpoint of a training of this kind.
    """
    path = find_checkpoint(str(where))
    try:
        state = read_torch(path)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UserError(
            f"{path}: not a readable checkpoint ({reason}); give a checkpoint-*.pt of this project, or remove it to go"
            " on from the one before"
        ) from None
    if not isinstance(state, dict) or "format" not in state:
        raise UserError(f"{path}: not a run's checkpoint; give a run folder or its checkpoint-*.pt")
    if state["format"] not in FORMATS[kind] or (kind == "gan" and not isinstance(state.get("game"), dict)):
        raise UserError(
            f"{path}: not a checkpoint of a {kind} training of this version (format {FORMATS[kind][0]}); give a run of"
            " one, retrain or use that version"
        )
    return state


def misfit(error: Exception) -> str:
    """Why a state can't go on, as what `load_state_dict` raised tells it."""
    what = " ".join(str(error).split())
    if isinstance(error, KeyError):
        what = f"it lacks {what}"
    what = what.partition("in loading state_dict for ")[2].partition(": ")[2] or what  # torch's first words say nothing
    return (
        f"the checkpoint is of another network than the run's config.json describes ({what[:160]}); put this run's own"
        " back, or remove it to go on from the one before"
    )


def find_checkpoint(asked: str, outdir: Path = Path("runs"), parameter: str = "resume") -> Path:
    """What is asked for: `latest` below `outdir`, a run folder (its newest checkpoint) or a checkpoint file.

    `latest` is that of train_gan.py: runs of train_detector.py, which may lie beside them, are passed over. parameter:
    the one that named it, for the UserError where there is none.
    """
    if asked == LATEST:
        run = newest_run(outdir, lambda folder: bool(checkpoints(folder)) and not is_detectors(config_in(folder)))
        if run is None:
            raise UserError(
                f"{outdir}: no run with a checkpoint to resume; start one without `{parameter}`, or name `outdir`"
            )
        return checkpoints(run)[-1]
    path = Path(asked)
    if path.is_dir():
        found = checkpoints(path)
        if not found:
            raise UserError(f"{path}: the folder holds no checkpoint-*.pt; give a run folder, a checkpoint or latest")
        return found[-1]
    if not path.exists():
        raise UserError(f"`{parameter}` {asked}: no such run folder or checkpoint; give one of them or latest")
    return path
