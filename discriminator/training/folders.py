"""The run folders of `train_detector.py`: where a new one goes, and what an older one holds to go on from."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

from common.errors import UserError
from discriminator.training.options import MACHINE, TrainerOptions
from discriminator.training.recipe import Recipe
from training.checkpoint import checkpoints, is_checkpoint_name, load
from training.run_folder import check_writable, config_in, is_detectors
from training.run_folder import newest_run as newest


def check_free(out: Path | None, outdir: Path) -> None:
    """UserError where the run's folder can't be made, or holds something."""
    if out is not None and out.is_dir() and any(out.iterdir()):
        raise UserError(f"`out` {out}: already holds something; give another folder, or go on with `resume` {out}")
    check_writable(out if out is not None else outdir, "outdir" if out is None else "out")


def name_of(kind: str, data: str, resolution: int, o: TrainerOptions) -> str:
    """What stands behind the number of a run's folder."""
    return f"{kind}-{data}-{resolution}-{o.model}" + (f"-{o.size}" if o.model == "hybrid" else "")


class Begun(NamedTuple):
    """A run to go on with: its own options with the machine's as asked for now; config: config.json."""

    folder: Path
    state: dict
    options: TrainerOptions
    recipe: Recipe
    config: dict


def resumed(resume: Path, now: TrainerOptions) -> Begun:
    """UserError where there is no run."""
    folder = resume.parent if resume.is_file() else resume
    if not folder.is_dir():
        raise UserError(f"`resume` {resume}: no such run folder")
    try:
        config = config_in(folder)
        saved, recipe = config["options"], config["recipe"]
        _ = config["degradation"], config["origin"], config["data"]["fingerprint"]
        if not is_detectors(config):
            raise KeyError("detector")
    except (KeyError, TypeError):
        raise UserError(f"`resume` {resume}: holds no config.json of train_detector.py; give a run of it") from None
    state = load(resume if is_checkpoint_name(resume) else folder, "detector")
    return Begun(folder, state, saved_options(saved, now), Recipe.from_dict(recipe), config)


def check_unchanged(same: bool, data: str) -> None:
    """UserError where the images of a run that goes on are no longer the `same`."""
    if not same:
        raise UserError(
            f"`resume`: {data} is not what it was when the run began (other files, sizes or labels); bring it back, or"
            " start a new run"
        )


def saved_options(saved: dict, now: TrainerOptions) -> TrainerOptions:
    """A run's own options from its JSON, with the machine's as asked for now."""
    values = {f.name: saved[f.name] for f in fields(TrainerOptions) if f.name in saved}
    values["branches"] = tuple(values["branches"])
    values["face"] = values["face"] or None  # once "" where nothing was said
    for name in ("extra_reals", "extra_fakes", "twins", "replay"):
        values[name] = tuple((spec, dose) for spec, dose in values.get(name, ()))
    return TrainerOptions(**values | {name: getattr(now, name) for name in MACHINE})


def newest_run(outdir: Path) -> Path:
    """The newest run of this command below `outdir`. UserError where there is none."""

    def holds(run: Path) -> bool:
        if (run / "folds.json").is_file():
            return True
        return bool(checkpoints(run)) and is_detectors(config_in(run))

    run = newest(outdir, holds)
    if run is None:
        raise UserError(f"{outdir}: no training of a detector to go on with; start one without `resume`")
    return run
