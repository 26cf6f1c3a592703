"""The run folders of `train_detector.py`: where a new one goes, and what an older one holds to go on from."""

from __future__ import annotations

import json
import os
import re
from dataclasses import fields
from pathlib import Path

from common.errors import UserError
from discriminator.training.data import Options
from discriminator.training.recipe import Recipe
from training import state as checkpoints


def check_free(out: Path | None, outdir: Path) -> None:
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: already holds something; give another folder, or go on with --resume {out}")
    parent = out if out is not None else outdir
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"{parent}: can't be written; give another folder with --out")


def numbered(outdir: Path, kind: str, name: str, resolution: int, o: Options) -> Path:
    """The next free numbered name in `outdir`, which is made if it is not there."""
    words = f"{name}-{resolution}-{o.model}" + (f"-{o.size}" if o.model == "hybrid" else "")
    outdir.mkdir(parents=True, exist_ok=True)
    numbers = [int(m.group()) for d in outdir.iterdir() if (m := re.match(r"\d+", d.name))]
    words = re.sub(r"[^A-Za-z0-9_.-]+", "-", words)
    return outdir / f"{max(numbers, default=-1) + 1:05d}-{kind}-{words}"


def resumed(resume: Path, now: Options) -> tuple[Path, dict, Options, Recipe, dict]:
    """The run's folder, state, options, recipe and config.json, with the machine's options as asked for now."""
    folder = resume.parent if resume.is_file() else resume
    if not folder.is_dir():
        raise UserError(f"--resume {resume}: no such run folder")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        saved, recipe = config["options"], config["recipe"]
        _ = config["degradation"], config["origin"], config["data"]["fingerprint"]
        if config.get("detective") != 1:
            raise KeyError("detective")
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"--resume {resume}: holds no config.json of train_detector.py; give a run of it") from None
    _, state = checkpoints.load(folder)
    return folder, state, saved_options(saved, now), Recipe.from_dict(recipe), config


def saved_options(saved: dict, now: Options) -> Options:
    """A run's own options from its JSON, with the machine's as asked for now."""
    known = {f.name for f in fields(Options)}
    values = {key: value for key, value in saved.items() if key in known}
    values["branches"] = tuple(values["branches"])
    for name in ("extra_fakes", "replay"):
        values[name] = tuple((spec, dose) for spec, dose in values[name])
    for name in ("device", "workers", "threads", "checkpoint_minutes", "cache"):
        values[name] = getattr(now, name)
    return Options(**values)


def newest_run(outdir: Path) -> Path:
    """The run of this command with the newest checkpoint below `outdir`. UserError where there is none."""
    runs = []
    for config in outdir.glob("*/config.json"):
        found = checkpoints.checkpoints(config.parent)
        if found and '"detective"' in config.read_text(encoding="utf-8", errors="replace")[:200]:
            runs.append((found[-1].stat().st_mtime_ns, config.parent))
    for plan in outdir.glob("*/folds.json"):  # of folds the newest sign of life
        signs = [plan, *plan.parent.glob("log.txt"), *plan.parent.glob("**/checkpoint-*.pt")]
        runs.append((max(sign.stat().st_mtime_ns for sign in signs), plan.parent))
    if not runs:
        raise UserError(f"{outdir}: no training of a detector to go on with; start one without --resume")
    return max(runs)[1]
