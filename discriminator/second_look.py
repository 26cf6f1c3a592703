"""A second look at photos whose first answer is near the threshold: mirrored, and the mean of both answers counts.

A face and its mirror image are equally real, but a network does not say quite the same of them. What differs is noise,
and the mean of two answers has less of it, which tells where a verdict hangs on little; elsewhere it would change
nothing and cost a second time. No PyTorch here.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields

import numpy as np

from common.errors import UserError
from discriminator.calibration import Calibration

FURTHEST = 0.99  # share of validation scores that the mean of both looks lies no further from than the band is wide


@dataclass(frozen=True)
class SecondLook:
    """low, high: raw logits between which the mean of both looks counts in full. fade > 0: how far beyond them it still
    counts, less and less, so that the score has no jump: what two machines compute stays equal to rounding.
    UserError for other numbers."""

    low: float
    high: float
    fade: float

    def __post_init__(self) -> None:
        numbers = (self.low, self.high, self.fade)
        if not all(isinstance(x, int | float) and math.isfinite(x) for x in numbers):
            raise UserError("the bounds of the second look are not numbers")
        if not (self.low <= self.high and self.fade > 0):
            raise UserError("the second look's bounds go from low to high, and its fade is above 0")

    def weight(self, logits: np.ndarray) -> np.ndarray:
        """How much of the mean of both looks counts, float64 [n] in [0, 1], for first logits float64 [n]."""
        beyond = np.maximum(self.low - logits, logits - self.high)
        return np.clip(1 - beyond / self.fade, 0.0, 1.0)

    def score(self, first: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
        """The logits that count, of those of both looks; `mirrored` matters only where `weight` is above 0."""
        weight = self.weight(first)
        return np.where(weight > 0, joined(first, mirrored, weight), first)

    def in_words(self) -> str:
        return (
            f"where the logit lies from {self.low - self.fade:.4g} to {self.high + self.fade:.4g} the image is looked"
            f" at again, mirrored: the mean of both logits counts from {self.low:.4g} to {self.high:.4g}, less and less"
            " towards the ends"
        )

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict) -> SecondLook:
        """The inverse of `to_dict`; all fields are needed."""
        if not isinstance(data, dict) or set(data) != {field.name for field in fields(cls)}:
            raise UserError(f"a second look has {', '.join(field.name for field in fields(cls))}")
        return cls(**data)


def joined(first: np.ndarray, mirrored: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Numbers [n, …] of both looks as one, of the first one's type: their mean at weight [n] 1, the first at 0."""
    half = (weight / 2).astype(first.dtype).reshape(-1, *[1] * (first.ndim - 1))
    return first + half * (mirrored - first)


def around(calibration: Calibration, first: np.ndarray, mirrored: np.ndarray) -> SecondLook:
    """The second look for a threshold. calibration: of the means of both looks; first, mirrored: raw logits of
    validation images, float64 [n].

    It covers the default threshold, the unsure band beneath it, and on both sides as far as the mean lies from the
    first look in FURTHEST of these images: beyond that a second look would not change the answer. It fades over as
    much."""
    point = calibration.at()
    ends = (min(point.unsure_low, point.threshold), point.threshold)
    low, high = (calibration.logit(_log_odds(p)) for p in ends)
    reach = max(float(np.quantile(np.abs(mirrored - first) / 2, FURTHEST)), 1e-6)
    return SecondLook(low - reach, high + reach, reach)


def _log_odds(probability: float) -> float:
    p = min(max(probability, 1e-15), 1 - 1e-15)
    return math.log(p / (1 - p))
