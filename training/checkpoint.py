"""Training state on disk: one file, whole or absent, read without running code from it."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

import torch

from common.errors import UserError
from common.files import save_atomically
from training.state import CHECKPOINT_NAME, checkpoints, save
from training.state import checkpoint_path as checkpoint_path

FORMAT = 1


def save_json(path: Path, value: dict) -> None:
    """`value` as a JSON file, whole or not at all."""
    save_atomically(path, lambda tmp: tmp.write_text(json.dumps(value, indent=1), encoding="utf-8"))


def remove_leftovers(run: Path) -> None:
    """Delete what a killed process was writing when it died: temporary files no reader ever sees."""
    for path in run.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def is_checkpoint_name(path: Path) -> bool:
    """Whether a file is called like a checkpoint of this project."""
    return CHECKPOINT_NAME.fullmatch(path.name) is not None


def save_checkpoint(run: Path, step: int, state: dict, keep: int = 2, spare: Collection[Path] = ()) -> Path:
    """`training.state.save` for the game's state."""
    return save(run, step, state, keep, spare, form=FORMAT, elsewhere="--outdir")


def load_checkpoint(path: Path) -> dict:
    """The state in `path` on the CPU; UserError for anything that is not a checkpoint of this project."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint; give a run folder or «latest»") from None
    except Exception as e:
        reason = str(e).splitlines()[0][:120]
        raise UserError(
            f"{path}: not a readable checkpoint ({reason}); give a checkpoint-*.pt of this project"
        ) from None
    if not isinstance(state, dict) or "format" not in state:
        raise UserError(f"{path}: not a run's checkpoint; give a run folder or its checkpoint-*.pt")
    if state["format"] != FORMAT or not isinstance(state.get("game"), dict):
        raise UserError(f"{path}: not a checkpoint of this version (format {FORMAT}); retrain or use that version")
    return state


def newest_run(outdir: Path) -> Path:
    """The run folder under `outdir` that holds the newest checkpoint; where there is none, groups of runs such as
    runs/demo/ are looked into, too."""
    for pattern in ("*", "*/*"):
        runs = [(found[-1].stat().st_mtime_ns, d) for d in outdir.glob(pattern) if (found := checkpoints(d))]
        if runs:
            return max(runs)[1]
    raise UserError(f"{outdir}: no run with a checkpoint to resume; start one without --resume, or name --outdir")


def find_checkpoint(resume: str, outdir: Path, option: str = "--resume") -> Path:
    """What `option` names: `latest`, a run folder or a checkpoint file."""
    if resume == "latest":
        return checkpoints(newest_run(outdir))[-1]
    path = Path(resume)
    if path.is_dir():
        found = checkpoints(path)
        if not found:
            raise UserError(f"{path}: the folder holds no checkpoint-*.pt; give a run folder, a checkpoint or «latest»")
        return found[-1]
    if not path.exists():
        raise UserError(f"{option} {resume}: no such run folder or checkpoint; give one of them or «latest»")
    return path
