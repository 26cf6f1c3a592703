"""Training state on disk: one file, whole or absent, read without running code from it."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path

import torch

from faces.errors import UserError
from faces.files import save_atomically

FORMAT = 1
_NAME = re.compile(r"checkpoint-(\d{6,})\.pt$")


def save_json(path: Path, value: dict) -> None:
    """`value` as a JSON file, whole or not at all."""
    save_atomically(path, lambda tmp: tmp.write_text(json.dumps(value, indent=1), encoding="utf-8"))


def remove_leftovers(run: Path) -> None:
    """Delete what a killed process was writing when it died: temporary files no reader ever sees."""
    for path in run.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def checkpoint_path(run: Path, step: int) -> Path:
    return run / f"checkpoint-{step:06d}.pt"


def is_checkpoint_name(path: Path) -> bool:
    """Whether a file is called like a checkpoint of this project."""
    return _NAME.fullmatch(path.name) is not None


def checkpoints(run: Path) -> list[Path]:
    """The run's checkpoints, oldest first."""
    found = [(int(m.group(1)), p) for p in run.glob("checkpoint-*.pt") if (m := _NAME.search(p.name))]
    return [p for _, p in sorted(found)]


def save_checkpoint(run: Path, step: int, state: dict, keep: int = 2, spare: Collection[Path] = ()) -> Path:
    """Write the state after `step` steps; then remove all but the last `keep` checkpoints and those in `spare`.

    Checkpoints of later steps belong to a course the run has left (it was resumed from an earlier one): they go too.
    """
    path = checkpoint_path(run, step)
    try:
        save_atomically(path, lambda tmp: torch.save({"format": FORMAT, **state}, tmp))
    except (OSError, RuntimeError) as e:  # torch reports a full disk as a RuntimeError of its zip writer
        left = checkpoints(run)
        advice = (
            f"free some space, then go on from the earlier {left[-1].name} with --resume {run}"
            if left
            else "free some space or choose another --outdir, then start again"
        )
        reason = (getattr(e, "strerror", None) or str(e)).splitlines()[0]
        raise UserError(f"{path}: the checkpoint could not be written ({reason}); {advice}") from None
    found = checkpoints(run)
    current = found.index(path)
    for old in found[: max(0, current + 1 - keep)] + found[current + 1 :]:
        if old not in spare:
            old.unlink(missing_ok=True)
    return path


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
