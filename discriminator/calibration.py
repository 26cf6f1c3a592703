"""From a network's score to a verdict with known error rates.

Everything here is measured on validation images and computed in float64. Three steps:

1. temperature and bias: p = sigmoid(logit / T + b) (Guo et al. 2017, "On calibration of modern neural networks", with
   the bias of Platt 1999), so that p can be read as a probability at equal odds of real and fake;
2. thresholds: FAKE is said when p >= t, with t set so that at most a stated share of the validation reals is accused;
3. the unsure band: REAL is said only below the score under which at most a stated share of the validation fakes lies,
   and never from even odds on.

So each of the two answers has its own bounded error (a reject option in the sense of Chow 1970), and what satisfies
neither bound is answered UNSURE, not guessed.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import asdict, dataclass, fields
from typing import NamedTuple, TypeVar

import numpy as np

from common.errors import UserError
from common.words import counted
from metrics.answers import real_below

Numbers = TypeVar("Numbers", float, np.ndarray)
FPRS = (0.005, 0.01, 0.05)
DEFAULT_FPR = 0.01
DEFAULT_MISS = 0.05
ENOUGH_REALS = 200  # validation photos from which on the 1 % threshold is the default
# Bounds of the slope per standard deviation of the logits. The lower one: a detector no better than a coin calibrates
# to p = 0.5 everywhere, not to a negative slope.
_SLOPES = (1e-3, 1e3)
_LEAST_TEMPERATURE = 1e-30  # what divides a logit; less, and the quotient is no number
_MOST_COUNT = 1 << 53  # of photos; more is no count that can be divided by


def sigmoid(x: np.ndarray | float) -> np.ndarray:
    """Logistic function in float64, exact to rounding at both ends."""
    x = np.asarray(x, dtype=np.float64)
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def fit_temperature(logits: np.ndarray, labels: np.ndarray, *, balanced: bool = False) -> tuple[float, float]:
    """(T, bias) that minimise the log loss of sigmoid(logit / T + bias), by Newton's method.

    logits, labels: [n], labels 0 real, 1 fake. `balanced`: each class weighs half, as for equal odds beforehand.
    Where the classes don't overlap the best fit would be a step; Platt's (1999) targets (n1 + 1) / (n1 + 2) and
    1 / (n0 + 2) then keep it finite. T stays within a thousandth and a thousand times the logits' standard deviation.
    UserError if a class is missing or a logit is not finite.
    """
    x, y = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    n1 = int(y.sum())
    n0 = len(y) - n1
    if len(x) != len(y) or n0 == 0 or n1 == 0:
        raise UserError(f"calibration needs scores of real and of fake images, not {n0} real and {n1} fake ones")
    if not np.isfinite(x).all():
        bad = int((~np.isfinite(x)).sum())
        raise UserError(f"calibration met scores that are not numbers ({bad} of {len(x)}); retrain the detector")
    separable = x[y == 1].min() > x[y == 0].max()
    target = np.where(y == 1, (n1 + 1) / (n1 + 2), 1 / (n0 + 2)) if separable else y
    weight = np.where(y == 1, 0.5 / n1, 0.5 / n0) if balanced else np.full(len(y), 1 / len(y))

    # Standardised scores keep the 2x2 system well conditioned whatever the network's range.
    centre, spread = x.mean(), max(x.std(), 1e-6 * max(1, abs(x.mean())))
    z = (x - centre) / spread
    start = (weight * target).sum()
    slope, offset = _newton(z, target, weight, _SLOPES[0], math.log(start / (1 - start)))
    clipped = float(np.clip(slope, *_SLOPES))
    if clipped != slope:
        slope, offset = clipped, _newton(z, target, weight, clipped, offset, fixed_slope=True)[1]
    inverse_temperature = slope / spread
    return float(1 / inverse_temperature), float(offset - inverse_temperature * centre)


def _newton(
    z: np.ndarray, target: np.ndarray, weight: np.ndarray, a: float, b: float, *, fixed_slope: bool = False
) -> tuple[float, float]:
    """Minimise the weighted log loss of sigmoid(a z + b); convex, so damped Newton steps find the one minimum."""

    def loss(a: float, b: float) -> float:
        u = a * z + b
        return float((weight * (np.logaddexp(0, u) - target * u)).sum())

    design = np.stack([np.zeros_like(z) if fixed_slope else z, np.ones_like(z)])
    value = loss(a, b)
    for _ in range(200):
        p = sigmoid(a * z + b)
        gradient = design @ (weight * (p - target))
        hessian = (design * (weight * p * (1 - p))) @ design.T + 1e-15 * np.eye(2)
        if fixed_slope:
            hessian[0, 0] = 1.0
        step = np.linalg.solve(hessian, gradient)
        decrease = float(gradient @ step)
        if decrease < 1e-24:
            break
        size = 1.0
        while loss(a - size * step[0], b - size * step[1]) > value - 1e-4 * size * decrease and size > 1e-12:
            size /= 2
        if size <= 1e-12:  # the loss is flat to rounding
            break
        a, b = a - size * step[0], b - size * step[1]
        value = loss(a, b)
    return float(a), float(b)


def threshold_at_fpr(real_scores: np.ndarray, fpr: float) -> float:
    """The smallest threshold t for which at most `fpr` of the real scores are >= t.

    With n reals at most floor(n * fpr) false alarms are allowed: 500 reals allow 2 at 0.5 %, and below 200 none, so the
    threshold then lies just above the highest real. Ties count as false alarms, all of them.
    """
    scores = np.sort(np.asarray(real_scores, dtype=np.float64))[::-1]
    if len(scores) == 0:
        raise UserError("a threshold needs scores of real images; none were given")
    if not 0 <= fpr < 1:
        raise UserError(f"a false-alarm rate must be at least 0 and below 1, not {fpr!r}")
    allowed = math.floor(len(scores) * fpr + 1e-9)
    return float(np.nextafter(scores[allowed], np.inf))


def default_fpr_for(reals: int) -> float:
    """The false-alarm rate whose threshold is the default of a detector calibrated on `reals` real photos: 1 or 5 %.

    A 1 % quantile of n photos rests on n / 100 of them. From 200 on these are two or more; of fewer a single odd photo
    would set the threshold, and 5 % is what can be told of them (10 of 200).
    """
    return DEFAULT_FPR if reals >= ENOUGH_REALS else 0.05


def clopper_pearson(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval of a rate seen k times in n (Clopper & Pearson 1934)."""
    from scipy.special import betaincinv  # 0.2 s to import, and only calibration needs it

    tail = (1 - confidence) / 2
    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, tail))
    high = 1.0 if k == n else float(betaincinv(k + 1, n - k, 1 - tail))
    return low, high


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def _check_share(name: str, value: object) -> None:
    """UserError for what is no share or probability: a threshold of 2 or -5 would say one thing of every photo."""
    # a threshold lies just above a score, which may be 1
    if not _is_number(value) or not 0 <= value <= math.nextafter(1, 2):  # type: ignore[operator]
        raise UserError(f"the calibration's numbers are damaged ({name} is {_short(value)}, not a number from 0 to 1)")


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or not 0 <= int(value) <= _MOST_COUNT:
        raise UserError(f"the calibration's numbers are damaged ({name} is {_short(value)}, not a count)")


def _short(value: object) -> str:
    return repr(value) if isinstance(value, (int, float, str, type(None))) and len(repr(value)) < 50 else "something"


class Band(NamedTuple):
    """`low`: REAL is said below it. `coverage`: share of the validation images answered (not UNSURE), `error`: share of
    wrong ones among the answered (0 if none is answered); each class weighs half."""

    low: float
    coverage: float
    error: float


def unsure_band(
    real_scores: np.ndarray, fake_scores: np.ndarray, threshold: float, *, miss: float = DEFAULT_MISS
) -> Band:
    """The band [low, threshold) in which the answer is UNSURE.

    low is the largest score, but never more than the threshold or even odds, below which at most `miss` of the fakes
    lie. A strong detector has a narrow band, from even odds; a weak one a wide band, which is the truth about it.
    """
    real, fake = (np.asarray(s, dtype=np.float64) for s in (real_scores, fake_scores))
    if len(real) == 0 or len(fake) == 0:
        raise UserError(f"the unsure band needs real and fake images, not {len(real)} real and {len(fake)} fake ones")
    low = float(np.sort(fake)[min(math.floor(len(fake) * miss + 1e-9), len(fake) - 1)])
    low = real_below(threshold, low)
    decided = [np.mean((s < low) | (s >= threshold)) for s in (real, fake)]
    wrong = [np.mean(real >= threshold), np.mean(fake < low)]
    coverage = float(sum(decided) / 2)
    return Band(low, coverage, float(sum(wrong) / 2 / coverage) if coverage > 0 else 0.0)


@dataclass(frozen=True)
class OperatingPoint:
    """One threshold with what it did on the validation images.

    target_fpr: the false-alarm rate asked for; threshold: FAKE when p >= it; unsure_low: REAL when p < it.
    n_real real photos were scored `views` times each (clean, re-saved…), and false_alarms of these n_real * views
    scores were FAKE: a rate of fpr, with the 95 % interval fpr_low to fpr_high for n_real independent photos.
    tpr: share of fakes called FAKE; miss: share of fakes called REAL. coverage, error: see `Band`. These four are None
    where the threshold was set on real photos alone.
    """

    target_fpr: float
    threshold: float
    unsure_low: float
    false_alarms: int
    n_real: int
    views: int
    fpr: float
    fpr_low: float
    fpr_high: float
    tpr: float | None
    miss: float | None
    coverage: float | None
    error: float | None

    def check(self) -> None:
        """UserError where a field is not what it says, as in a file that was changed."""
        for field in ("target_fpr", "threshold", "unsure_low", "fpr", "fpr_low", "fpr_high"):
            _check_share(field, getattr(self, field))
        for field in ("tpr", "miss", "coverage", "error"):
            if (value := getattr(self, field)) is not None:
                _check_share(field, value)
        for field in ("false_alarms", "n_real", "views"):
            _check_count(field, getattr(self, field))
        if self.false_alarms > self.n_real * self.views:
            raise UserError("the calibration's numbers are damaged (more false alarms than photos)")

    @property
    def enough_reals(self) -> bool:
        """Whether there were reals enough for the asked rate to be seen at all: at least one allowed false alarm."""
        return self.n_real * self.target_fpr >= 1 - 1e-9

    def describe(self) -> str:
        """One line for people: the rate, its interval, and a warning where the reals were too few."""
        reals = counted(self.n_real, "validation real")
        if self.views > 1:
            reals = f"{counted(self.n_real * self.views, 'view')} of {reals}"
        text = f"{self.false_alarms} of {reals} called FAKE ({100 * self.fpr:.2g} %, 95 % interval "
        text += f"{100 * self.fpr_low:.2g} to {100 * self.fpr_high:.2g} %)"
        if not self.enough_reals:
            need = math.ceil(1 / self.target_fpr - 1e-9)
            text += f"; too few to show {100 * self.target_fpr:g} %, which takes at least {need}"
        return text


@dataclass(frozen=True)
class Calibration:
    """All that turns a raw logit into a verdict. `to_dict`/`from_dict` are plain JSON."""

    temperature: float
    bias: float
    points: tuple[OperatingPoint, ...]
    default_fpr: float
    n_real: int
    n_fake: int

    def __post_init__(self) -> None:
        if not _is_number(self.bias) or not _is_number(self.temperature) or self.temperature < _LEAST_TEMPERATURE:
            raise UserError("the calibration's temperature or bias is damaged")
        for field in ("n_real", "n_fake"):
            _check_count(field, getattr(self, field))
        for point in self.points:
            point.check()
        self.at(self.default_fpr)

    def at(self, fpr: float | None = None) -> OperatingPoint:
        """The operating point for a false-alarm rate (default: `default_fpr`). UserError if it was not calibrated."""
        wanted = self.default_fpr if fpr is None else fpr
        for point in self.points:
            if math.isclose(point.target_fpr, wanted, rel_tol=1e-6):
                return point
        known = ", ".join(f"{p.target_fpr:g}" for p in self.points)
        raise UserError(f"`fpr` {wanted:g}: no threshold was calibrated for that false-alarm rate; give one of {known}")

    def probability(self, logits: np.ndarray | float) -> np.ndarray:
        """P(fake) in float64, at equal odds beforehand."""
        return sigmoid(np.asarray(logits, dtype=np.float64) / self.temperature + self.bias)

    def logit(self, log_odds: Numbers) -> Numbers:
        """The raw logit, a number or float64 [n], of calibrated log-odds: `probability` the other way round."""
        return (log_odds - self.bias) * self.temperature

    def to_dict(self) -> dict:
        return {**asdict(self), "points": [asdict(p) for p in self.points]}

    @classmethod
    def from_dict(cls, data: dict) -> Calibration:
        """ValueError or TypeError on a dict of another shape."""
        names = {f.name for f in fields(cls)}
        if set(data) != names:
            raise UserError(f"a calibration has {', '.join(sorted(names))}, not {', '.join(sorted(data))}")
        return cls(**{**data, "points": tuple(OperatingPoint(**p) for p in data["points"])})


def calibrate(
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    fprs: tuple[float, ...] = FPRS,
    default_fpr: float = DEFAULT_FPR,
    miss: float = DEFAULT_MISS,
    views: int = 1,
    sources: np.ndarray | None = None,
) -> Calibration:
    """Calibrate on validation logits [n] with labels [n] (0 real, 1 fake).

    sources: int [n], which set of photos each score is of; then at most `fpr` of the reals of each set are accused, not
    only of all together, where a large set would hide what is done to a small one. A set too small for a single false
    alarm at that rate counts with all others only.

    views: how many of the scores belong to each photo (2 for every photo once clean and once degraded). All scores set
    the thresholds, but two views of a photo are not two photos: intervals count photos.
    UserError as in `fit_temperature`; ValueError when the scores can't be `views` per photo.
    """
    labels = np.asarray(labels)
    temperature, bias = fit_temperature(logits, labels, balanced=True)
    return _at((temperature, bias), logits, labels, fprs, default_fpr, miss, views, {}, sources)


def recalibrate(old: Calibration, logits: np.ndarray, labels: np.ndarray, *, miss: float = DEFAULT_MISS) -> Calibration:
    """New thresholds on scores of a person's own photos, each seen once.

    With both classes all is fitted anew. With real photos alone temperature and bias stay, the thresholds move to what
    these reals allow, and the unsure band keeps its lower end (never above the threshold): what is known of fakes is
    what was known before. UserError without real photos."""
    labels = np.asarray(labels)
    if not (labels == 0).any():
        raise UserError("calibration needs real photos, and none of those given could be judged")
    fprs = tuple(p.target_fpr for p in old.points)
    if (labels == 1).any():
        return calibrate(logits, labels, fprs=fprs, default_fpr=old.default_fpr, miss=miss)
    low = {p.target_fpr: p.unsure_low for p in old.points}
    return _at((old.temperature, old.bias), logits, labels, fprs, old.default_fpr, miss, 1, low)


def _at(
    scale: tuple[float, float],
    logits: np.ndarray,
    labels: np.ndarray,
    fprs: tuple[float, ...],
    default_fpr: float,
    miss: float,
    views: int,
    known_low: dict[float, float],
    sources: np.ndarray | None = None,
) -> Calibration:
    """Operating points of scores under a `scale` of temperature and bias. known_low: ends of the unsure bands where
    there are no fakes to set them by."""
    temperature, bias = scale
    scores = sigmoid(np.asarray(logits, dtype=np.float64) / temperature + bias)
    real, fake = scores[labels == 0], scores[labels == 1]
    if views < 1 or len(real) % views or len(fake) % views:
        raise UserError(f"{len(real)} real and {counted(len(fake), 'fake score')} can't be {views} for each photo")
    photos = len(real) // views
    of = [] if sources is None else np.asarray(sources)[labels == 0]
    sets = [real[of == source] for source in np.unique(of)]
    points = []
    for fpr in fprs:
        t = max(threshold_at_fpr(some, fpr) for some in [real, *(s for s in sets if len(s) * fpr >= 1 - 1e-9)])
        band = None if known_low else unsure_band(real, fake, t, miss=miss)
        alarms = int((real >= t).sum())
        # The interval of a share of photos; a fraction of a photo is rounded outwards, against ourselves.
        low, high = clopper_pearson(alarms // views, photos)[0], clopper_pearson(-(-alarms // views), photos)[1]
        points.append(
            OperatingPoint(
                target_fpr=float(fpr),
                threshold=t,
                unsure_low=band.low if band else real_below(t, known_low[fpr]),
                false_alarms=alarms,
                n_real=photos,
                views=views,
                fpr=alarms / len(real),
                fpr_low=low,
                fpr_high=high,
                tpr=float((fake >= t).mean()) if band else None,
                miss=float((fake < band.low).mean()) if band else None,
                coverage=band.coverage if band else None,
                error=band.error if band else None,
            )
        )
    return Calibration(temperature, bias, tuple(points), float(default_fpr), photos, len(fake) // views)
