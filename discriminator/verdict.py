"""A verdict, how it follows from a score, and where detectors lie: all that is known of a detector without PyTorch.

`Detector` (PyTorch) and `OnnxDetector` (ONNX Runtime) are two engines for one course of things, `JudgesImages`:
photo, preprocessing, logit, calibration, verdict. What they share is here, so that they cannot drift apart.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np

from common.errors import UserError
from discriminator.calibration import Calibration, OperatingPoint
from faces.preprocess import Preprocess

ALIGNED_SETS = ("flickr140k", "rvf10k")  # named sets of which every photo is an aligned crop, as in FFHQ
NOT_NUMBERS = "the detector's network gives values that are not numbers: the file is damaged, retrain it"


@dataclass(frozen=True)
class Verdict:
    """What is said about one image.

    label: FAKE if probability >= threshold, REAL if probability < unsure_low, UNSURE between.
    probability: P(made by a generator), calibrated, at equal odds beforehand.
    fpr: share of the `n_real` validation reals that this threshold called FAKE; None for a threshold of the user's own.
    logit: the network's raw output before calibration.
    patch_map: float32 [h, w] in [0, 1], how much each patch by itself looks generated; None without artefact branch.
    note: what the reader of the verdict should know about this image, or "".
    """

    label: str
    probability: float
    threshold: float
    unsure_low: float
    fpr: float | None
    n_real: int
    logit: float
    patch_map: np.ndarray | None = field(default=None, repr=False, compare=False)
    note: str = ""

    def to_dict(self) -> dict:
        """Plain JSON types, without the map."""
        return {
            "verdict": self.label,
            "probability": self.probability,
            "threshold": self.threshold,
            "unsure_low": self.unsure_low,
            "false_alarm_rate": self.fpr,
            "validation_reals": self.n_real,
            "logit": self.logit,
            "note": self.note,
        }


def decide(probability: float, point: OperatingPoint) -> str:
    """REAL, FAKE or UNSURE at an operating point."""
    if probability >= point.threshold:
        return "FAKE"
    return "REAL" if probability < point.unsure_low else "UNSURE"


@dataclass(frozen=True)
class Rule:
    """The threshold in force: a calibrated operating point, or a threshold of the user's own in its place.

    own: whether the threshold is the user's. Its false-alarm rate was then not measured; what is known of it is
    `between`: the measured rates of the calibrated thresholds above and below it (0 and 1 where there is none)."""

    point: OperatingPoint
    own: bool = False
    between: tuple[float, float] = (0.0, 1.0)

    @classmethod
    def of(cls, calibration: Calibration, *, fpr: float | None = None, threshold: float | None = None) -> Rule:
        """fpr: a calibrated false-alarm rate (default: the file's). threshold: the user's own, in [0, 1].

        UserError for a rate that was not calibrated, a threshold out of range, or both at once."""
        if threshold is None:
            return cls(calibration.at(fpr))
        if fpr is not None:
            raise UserError("--threshold and --fpr both set the threshold; give one of them")
        if not 0 <= threshold <= 1:
            raise UserError(f"--threshold {threshold:g}: it is a probability; give a number from 0 to 1")
        above = [p.fpr for p in calibration.points if p.threshold >= threshold]
        below = [p.fpr for p in calibration.points if p.threshold <= threshold]
        usual = calibration.at()
        point = replace(usual, threshold=float(threshold), unsure_low=min(usual.unsure_low, float(threshold)))
        return cls(point, True, (max(above, default=0.0), min(below, default=1.0)))

    @property
    def fpr(self) -> float | None:
        """The measured false-alarm rate, None where the threshold is the user's own."""
        return None if self.own else self.point.fpr

    def describe(self) -> str:
        """One line for people."""
        p = self.point
        if not self.own:
            return f"threshold {p.threshold:.4f} set for {100 * p.target_fpr:g} % false alarms: {p.describe()}"
        low, high = (100 * rate for rate in self.between)
        return (
            f"threshold {p.threshold:.4f} was given: its false alarms were not measured; by the calibrated thresholds"
            f" around it, {low:.3g} to {high:.3g} % of {p.n_real} validation reals"
        )

    def to_dict(self) -> dict:
        """Plain JSON types; of an own threshold only what is known."""
        if not self.own:
            return dict(self.point.__dict__)
        return {
            "target_fpr": None,
            "threshold": self.point.threshold,
            "unsure_low": self.point.unsure_low,
            "fpr": None,
            "fpr_low": self.between[0],
            "fpr_high": self.between[1],
            "n_real": self.point.n_real,
        }


class JudgesImages:
    """The course of a verdict for any engine. A subclass has `preprocess`, `calibration`, `meta`, `sha256` and `raw`.

    in_threads: whether the engine does most when many threads ask it for one image each; else one thread is to ask it
    for many at once."""

    preprocess: Preprocess
    calibration: Calibration
    meta: dict
    sha256: str
    in_threads = False

    def raw(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Preprocessed float32 [N, C, R, R] in [-1, 1] to raw logits float64 [N] and patch maps float32 [N, h, w] in
        [0, 1] (None without them). UserError if a logit is not finite."""
        raise NotImplementedError

    def predict(self, images: Iterable[np.ndarray], *, batch: int = 32, fpr: float | None = None) -> list[Verdict]:
        """Verdicts in the order of `images`, each uint8 [H, W, 3] RGB of any size.

        Images are taken one by one and only their preprocessed form is kept, so a generator that decodes files needs
        the memory of one photo.
        fpr: which calibrated false-alarm rate sets the threshold (default: the file's). An image's verdict does not
        depend on its neighbours. UserError for a rate that was not calibrated or a network that gives no numbers.
        """
        if batch < 1:
            raise UserError(f"batch must be at least 1, not {batch}")
        rule = Rule.of(self.calibration, fpr=fpr)
        verdicts: list[Verdict] = []
        prepared = ((self.preprocess.uint8(image), self.note(image)) for image in images)
        while part := list(islice(prepared, batch)):
            verdicts += self.judge(np.stack([pixels for pixels, _ in part]), rule, [note for _, note in part])
        return verdicts

    def judge(self, pixels: np.ndarray, rule: Rule, notes: Sequence[str] = ()) -> list[Verdict]:
        """One batch of what `preprocess.uint8` made, uint8 [N, R, R, C], to its verdicts."""
        logits, maps = self.raw(self.preprocess.normalise(pixels))
        probabilities = self.calibration.probability(logits)
        return [
            self.verdict(
                float(logits[i]), float(p), rule, None if maps is None else maps[i], notes[i] if len(notes) else ""
            )
            for i, p in enumerate(probabilities)
        ]

    def judge_some(self, pixels: Sequence[np.ndarray], rule: Rule, notes: Sequence[str], batch: int) -> list[Verdict]:
        """As `judge`, for any number of images, at most `batch` at once (one at a time where `in_threads`)."""
        batch, verdicts = 1 if self.in_threads else batch, []
        for start in range(0, len(pixels), batch):
            part = slice(start, start + batch)
            verdicts += self.judge(np.stack(pixels[part]), rule, notes[part])
        return verdicts

    def verdict(
        self, logit: float, probability: float, rule: Rule, patch_map: np.ndarray | None = None, note: str = ""
    ) -> Verdict:
        """The verdict that follows from a logit and its calibrated probability."""
        return Verdict(
            label=decide(probability, rule.point),
            probability=probability,
            threshold=rule.point.threshold,
            unsure_low=rule.point.unsure_low,
            fpr=rule.fpr,
            n_real=rule.point.n_real,
            logit=logit,
            patch_map=patch_map,
            note=note,
        )

    def note(self, image: np.ndarray) -> str:
        """What to say about an image that is smaller than the network looks at, else ""."""
        height, width = image.shape[:2]
        side = self.preprocess.resolution
        if min(height, width) < side:
            return f"only {width}x{height} pixels, enlarged to the {side}x{side} this detector looks at"
        return ""

    @property
    def trained_on_aligned_faces(self) -> bool:
        """Whether the detector knows upright, aligned crops only, as FFHQ's: then faces are to be cut out like that.

        `meta["face"]` says so ("ffhq", or "whole"); files without it are known by the set they were trained on."""
        face = self.meta.get("face")
        if isinstance(face, str) and face:
            return face not in ("whole", "none")
        return self.meta.get("trained_on") in ALIGNED_SETS


@contextmanager
def reading(path: str | os.PathLike) -> Iterator[None]:
    """Inside, a detector file that is not there or can't be read is a UserError."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(
            f"{path}: there is no such detector file; give a detector.safetensors or a run folder"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}") from None


def find_detector(
    spec: str | os.PathLike | None, *, runs: str | os.PathLike = "runs", shipped: Sequence[Path] = ()
) -> Path:
    """The detector file meant by `spec`: a file, a run folder, or None for the newest run's, else the shipped one.

    Runs are `runs/<run>`, or failing these `runs/<group>/<run>`; newest is by the file's time.
    UserError, with what to do about it, where there is none.
    """
    if spec is not None:
        path = Path(spec)
        if not path.is_dir():
            return path
        inside = path / "detector.safetensors"
        if inside.is_file():
            return inside
        raise UserError(f"{path}: the folder has no detector.safetensors; give a finished run or a detector file")
    for depth in ("*", "*/*"):  # runs of a group, such as runs/demo/, only where no run lies in `runs` itself
        found = [p for p in Path(runs).glob(f"{depth}/detector.safetensors") if p.is_file()]
        if found:
            return max(found, key=lambda p: (p.stat().st_mtime_ns, p.parent.name))
    for path in shipped:
        if Path(path).is_file():
            return Path(path)
    raise UserError(
        f"no detector yet: there is no {runs}/*/detector.safetensors; train one with `make demo` or "
        "`python train_gan.py --data demo`, or give --model FILE"
    )
