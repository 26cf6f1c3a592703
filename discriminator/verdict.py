"""A verdict, and the threshold by which it follows from a score."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from common.errors import UserError
from discriminator.calibration import Calibration, OperatingPoint
from metrics.answers import answers, real_below


@dataclass(frozen=True)
class Verdict:
    """What is said about one image.

    label: FAKE if probability >= threshold, REAL if probability < unsure_low, which is never above even odds, UNSURE
    between (`decide`).
    probability: P(made by a generator), calibrated, at equal odds beforehand.
    fpr: share of the `n_real` validation reals that this threshold called FAKE; None for a threshold of the user's own.
    logit: the network's raw output before calibration.
    patch_map: float32 [h, w] in [0, 1], how much each patch by itself looks generated; None without artefact branch.
    note: what the reader of the verdict should know about this image, or "".
    doubt: why nothing can be said of this image whatever its score, or ""; `note` says it, too.
    views: calibrated log-odds of «fake» of the face and of the photo's own pixels (None where there are too few), for a
    detector that joins the two. contradiction: why these contradict each other beyond what validation photos showed, or
    ""; then the label is UNSURE and `note` says so.
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
    views: tuple[float, float | None] | None = field(default=None, compare=False)
    contradiction: str = ""
    doubt: str = ""

    def to_dict(self) -> dict:
        """Plain JSON types, without the map."""
        row: dict = {
            "verdict": self.label,
            "probability": self.probability,
            "threshold": self.threshold,
            "unsure_low": self.unsure_low,
            "false_alarm_rate": self.fpr,
            "validation_reals": self.n_real,
            "logit": self.logit,
            "note": self.note,
        }
        if self.views is not None:
            row["views"] = dict(zip(("face", "pixels"), self.views, strict=True))
        return row


def decide(probability: float, point: OperatingPoint, contradiction: str = "") -> str:
    """REAL, FAKE or UNSURE at an operating point, by the rule that every evaluation counts by (`metrics.answers`)."""
    return str(answers(probability, point.threshold, point.unsure_low, bool(contradiction)))


@dataclass(frozen=True)
class Threshold:
    """The threshold in force: a calibrated operating point, or a threshold of the user's own in its place.

    own: whether the threshold is the user's. Its false-alarm rate was then not measured; what is known of it is
    `between`: the measured rates of the calibrated thresholds above and below it (0 and 1 where there is none).

    REAL is said below even odds at most (`metrics.answers`). Where a file's point has a higher end of UNSURE, it is
    brought down; what that point did on validation images above it (miss, coverage, error) is then not known."""

    point: OperatingPoint
    own: bool = False
    between: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        low = real_below(self.point.threshold, self.point.unsure_low)
        if low != self.point.unsure_low:
            lower = replace(self.point, unsure_low=low, miss=None, coverage=None, error=None)
            object.__setattr__(self, "point", lower)

    @classmethod
    def of(cls, calibration: Calibration, *, fpr: float | None = None, threshold: float | None = None) -> Threshold:
        """fpr: a calibrated false-alarm rate (default: the file's). threshold: the user's own, in [0, 1].

        UserError for a rate that was not calibrated, a threshold out of range, or both at once."""
        if threshold is None:
            return cls(calibration.at(fpr))
        if fpr is not None:
            raise UserError("`threshold` and `fpr` both set the threshold; give one of them")
        if not 0 <= threshold <= 1:
            raise UserError(f"`threshold` {threshold:g}: it is a probability; give a number from 0 to 1")
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
