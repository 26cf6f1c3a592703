"""What `train_detector.py calibrate` is asked, declared once (see `common.options`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.options import DEVICE, WORKERS, argument, check, option
from faces.options import FACE_MODEL, OFFLINE


@dataclass(frozen=True, kw_only=True)
class OwnPhotos:
    """A detector, and the photos of a person on which its thresholds are to be set."""

    model: str = argument("MODEL")
    reals: str = option(
        help="Real photos like those you will have judged; 100 at least for 1 %, better 1000.", metavar="FOLDER"
    )
    fakes: str | None = option(
        None, "Generated ones; with them the probability's scale and the unsure band are set, too.", metavar="FOLDER"
    )
    out: Path = option(help="The new detector file; MODEL stays as it is.", metavar="FILE")
    face: str = option(
        "auto",
        "As in detect.py: look for faces where the detector learnt from aligned ones, or judge photos whole.",
        choices=("auto", "whole"),
    )
    face_model: str | None = FACE_MODEL()
    offline: bool = OFFLINE()
    device: str = DEVICE()
    workers: int | None = WORKERS(help="Threads that decode.  [default: one per core]")

    def __post_init__(self) -> None:
        check(self)
