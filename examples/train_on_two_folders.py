"""Train a detector on two folders of your own, photos of people and generated ones, and judge a photo with it.

    python -m examples.train_on_two_folders my_reals/ my_fakes/ my_detector/
    python detect.py photo.jpg --model my_detector/run

Both folders first go through the same hands (faces cut out alike, one encoder), or the detector would learn which of
them is JPEG. A few hundred faces of each are the least: from fewer than 500 the file says so beside every verdict.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from common.device import pick_device
from discriminator.training.options import RunPlace, TrainerOptions
from discriminator.training.recipe import Recipe
from discriminator.training.run import train
from discriminator.training.settle import settled
from faces.finding.align import FaceFinder
from faces.normalise import normalise
from faces.prepare_options import Normalisation
from faces.source import open_source


def main(reals: str, fakes: str, out: str, *, resolution: int = 128, **recipe: float) -> Path:
    """The detector's file. recipe: fields of `Recipe`, as the flags of train_detector.py: epochs=30, batch=32, …"""
    folder = Path(out)
    for label, given in (("real", reals), ("fake", fakes)):
        shutil.copytree(given, folder / "both" / label)
    how = Normalisation(resolution, align="ffhq")
    report = normalise(open_source(folder / "both"), folder / "even", how, FaceFinder.open())
    print(*report.lines(), *report.warnings(), sep="\n")

    options = TrainerOptions(
        data=str(folder / "even"), resolution=resolution, face="ffhq", device=str(pick_device()), cache="none"
    )
    usual = asdict(Recipe()) | {"lr": None, "frozen_epochs": None, "seed": None}  # None: what suits the network
    settings, _ = settled(options, usual | recipe)
    return train(options, settings, RunPlace(out=folder / "run")) / "detector.safetensors"


if __name__ == "__main__":
    print(main(*sys.argv[1:4]))
