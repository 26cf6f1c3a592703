"""A detector's thresholds set anew on photos of the person who uses it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.outputs import check_folder
from common.words import counted
from discriminator.calibration import Calibration, clopper_pearson, recalibrate
from discriminator.detector import Detector
from discriminator.files import judge_files
from discriminator.inputs import list_images
from discriminator.judge import Judge
from faces.finding.face_step import FaceStep
from faces.video import is_video_name

PLENTY = 10  # false alarms to be expected before a rate is known to about half of itself


@dataclass
class Scored:
    """One class of a person's photos: a logit for each that could be judged, by its biggest face, and the others."""

    folder: str
    logits: np.ndarray
    files: int
    no_face: int
    unreadable: list[tuple[str, str]]

    def lines(self, kind: str) -> list[str]:
        """How many were judged, and which could not be, for people."""
        left = [f"{self.no_face} without a face"] * bool(self.no_face)
        left += [f"{len(self.unreadable)} unreadable"] * bool(self.unreadable)
        words = f" ({', '.join(left)} left out)" if left else ""
        out = [f"{kind:<6} {len(self.logits)} of {counted(self.files, 'photo')} judged{words}"]
        return out + [f"  left out {file}: {reason}" for file, reason in self.unreadable[:5]]


def score(
    detector: Detector,
    folder: str,
    kind: str,
    faces: FaceStep,
    *,
    workers: int | None = None,
    on_read: Callable[[], object] = lambda: None,
) -> Scored:
    """The photos in `folder` the way detect.py judges them. kind: "reals" or "fakes". UserError where it holds none."""
    entries, _ = list_images([folder])
    photos = [entry for entry in entries if isinstance(entry, str) and not is_video_name(entry)]
    if not photos:
        raise UserError(f"`{kind}` {folder}: holds no photos; give a folder of them")
    logits, no_face, bad = [], 0, []
    for judged in judge_files(Judge(detector, faces=faces), photos, workers=workers, on_read=on_read):
        if judged.video is not None:  # also where the name does not say so
            bad.append((judged.file, "a video or an animation; only photos are counted here"))
        elif judged.verdict is None:
            no_face += judged.no_face
            if not judged.no_face:
                bad.append((judged.file, judged.error))
        elif judged.face is None or judged.face["index"] <= 1:  # faces of one photo are no two photos
            logits.append(judged.verdict.logit)
    return Scored(folder, np.array(logits, np.float64), len(photos), no_face, bad)


def calibrate_on(detector: Detector, reals: Scored, fakes: Scored | None) -> Detector:
    """The detector under thresholds set on these scores; its `meta` tells so."""
    given = {"real": reals} | ({"fake": fakes} if fakes is not None else {})
    logits = np.concatenate([s.logits for s in given.values()])
    labels = np.concatenate([np.full(len(s.logits), k) for k, s in enumerate(given.values())])
    new = detector.recalibrated(recalibrate(detector.calibration, logits, labels))
    own: dict[str, object] = {"recalibrated_from": detector.sha256}
    for kind, scored in given.items():
        own |= {f"{kind}s": Path(scored.folder).name, f"n_{kind}": len(scored.logits)}
    new.meta = {**detector.meta, "calibrated_on": "photos of the user's own", "own_photos": own}
    return new


def needed(fpr: float) -> tuple[int, int]:
    """(least, enough) real photos for a false-alarm rate: with fewer than `least` no threshold can show it at all; with
    `enough` the true rate is known to about half of itself."""
    return math.ceil(1 / fpr - 1e-9), math.ceil(PLENTY / fpr - 1e-9)


def lines(old: Calibration, new: Calibration) -> list[str]:
    """What changed, for people."""
    out = [f"{'asked rate':>10}  {'threshold':>9}  {'was':>7}  {'false alarms':>14}  what that says"]
    for before, point in zip(old.points, new.points, strict=True):
        least, enough = needed(point.target_fpr)
        if point.n_real < least:
            says = (
                f"nothing about {100 * point.target_fpr:g} %: that takes at least {least} real photos, better {enough}"
            )
        else:
            top = clopper_pearson(point.false_alarms, point.n_real)[1]
            says = f"on photos like these at most {100 * top:.2g} % (95 % sure)"
            if point.n_real < enough:
                says += f"; {enough} photos would narrow that"
        out.append(
            f"{100 * point.target_fpr:>8g} %  {point.threshold:>9.4f}  {before.threshold:>7.4f}"
            f"  {point.false_alarms:>6} of {point.n_real:<5}  {says}"
        )
    point = new.at()
    if point.coverage is None or point.tpr is None:
        out.append("without fakes the probability's scale and the lower end of the unsure band stay as they were")
    else:
        out.append(
            f"at {100 * point.target_fpr:g} %: {100 * point.tpr:.1f} % of the fakes found,"
            f" {100 * (1 - point.coverage):.1f} % of the photos unsure"
        )
    return out


def check_out(out: Path) -> None:
    """UserError unless a new detector file can have this name: nothing is overwritten."""
    if out.exists():
        raise UserError(f"`out` {out}: exists already; give another name")
    check_folder(f"`out` {out}", out.absolute().parent)
    if not out.parent.is_dir():
        raise UserError(f"`out` {out}: there is no folder {out.parent}; make it first")
    if out.suffix != ".safetensors":
        raise UserError(f"`out` {out}: detector files end in .safetensors; give {out.with_suffix('.safetensors')}")
