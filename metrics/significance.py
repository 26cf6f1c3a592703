"""Whether two detectors differ on the same images: McNemar's and DeLong's tests, Holm's correction, paired bootstrap;
and how far a rate moved on the same images (`moved`, which minds groups).

All of them compare image by image. McNemar's and DeLong's tests take images for independent; where they come in groups
(near-duplicates, one person), the bootstrap's intervals, which draw whole groups, are to be trusted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from metrics.bootstrap import LEVEL, RESAMPLES, Rate, resamples, varied, worth
from metrics.classification import _Ranked, _roc_auc, _tpr_at_fpr


class McNemar(NamedTuple):
    """`only_first`, `only_second`: images that only one of the two judged right; `p`: two-sided, exact."""

    only_first: int
    only_second: int
    p: float


class DeLong(NamedTuple):
    """`difference`: first AUC less second, with its interval; `z` and two-sided `p` (NaN where undefined)."""

    first: float
    second: float
    difference: float
    low: float
    high: float
    z: float
    p: float


def mcnemar(first_right, second_right) -> McNemar:
    """McNemar's test (1947) in its exact form: if both err as often, each image that only one judges right is a fair
    coin. p is the chance of a split at least as uneven; 1 where there is no such image.

    first_right, second_right: bool [N], of the same images."""
    a, b = np.asarray(first_right, bool), np.asarray(second_right, bool)
    if a.shape != b.shape or a.ndim != 1:
        raise UserError(f"verdicts of shape {a.shape} and {b.shape} are not of the same images")
    k, n = int((a & ~b).sum()), int((a != b).sum())
    if n == 0:
        return McNemar(0, 0, 1.0)
    from scipy.special import bdtr  # the binomial distribution's sum

    return McNemar(k, n - k, min(1.0, 2 * float(bdtr(min(k, n - k), n, 0.5))))


def moved(before, after, groups=None, *, level: float = LEVEL) -> Rate:
    """How far a share moved on the same images: share of `after` less share of `before` (bool [N] both).

    The interval is that of McNemar's score test turned round (Tango 1998): the differences d that
    (gained - lost - n d) / sqrt(n (2 q + d (1 - d))) does not reject, q being the likeliest share of lost ones given d.
    Unlike a bootstrap it says what 0 changes in 500 are worth. groups: [N], then of as many images as the groups are
    worth (`metrics.bootstrap.rate`). NaN without images."""
    a, b = np.asarray(before, bool), np.asarray(after, bool)
    if a.shape != b.shape or a.ndim != 1:
        raise UserError(f"answers of shape {a.shape} and {b.shape} are not of the same images")
    if not len(a):
        return Rate(math.nan, math.nan, math.nan, 0)
    from scipy.special import ndtri

    n, change = float(len(a)), b.astype(np.float64) - a
    share = 1.0 if groups is None else worth(change, groups) / n
    gained, lost = share * int((b & ~a).sum()), share * int((a & ~b).sum())
    z, d = float(ndtri((1 + level) / 2)), float(change.mean())
    low, high = (_reach(gained, lost, share * n, d, end, z) for end in (-1.0, 1.0))
    return Rate(d, low, high, len(a))


def _reach(gained: float, lost: float, n: float, inside: float, outside: float, z: float) -> float:
    """The difference between `inside`, which the score test accepts, and `outside`, from which on it rejects."""
    for _ in range(60):
        d = (inside + outside) / 2
        b, c = (2 * n - gained + lost) * d - gained - lost, -lost * d * (1 - d)
        q = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
        spread = math.sqrt(max(n * (2 * q + d * (1 - d)), 0.0))
        accepted = abs(gained - lost - n * d) <= z * spread
        inside, outside = (d, outside) if accepted else (inside, d)
    return inside


def delong_covariance(labels, scores) -> tuple[np.ndarray, np.ndarray]:
    """(AUCs [M], their covariance [M, M]) of M detectors' scores [M, N] on the same images.

    DeLong, DeLong & Clarke-Pearson 1988, equations 4 to 6: structural components V10 (each fake's share of the reals
    below it) and V01, S = S10 / m + S01 / n. Computed from midranks in O(N log N) as in Sun & Xu 2014. NaN covariance
    where a class has fewer than two images. UserError without both classes."""
    fake = np.asarray(labels).astype(bool)
    scores = np.atleast_2d(np.asarray(scores, np.float64))
    m, n = int(fake.sum()), int((~fake).sum())
    if not m or not n:
        raise UserError(f"an AUC needs images of both classes, not {n} real and {m} fake ones")
    v10, v01 = np.empty((len(scores), m)), np.empty((len(scores), n))
    for k, row in enumerate(scores):
        if not np.isfinite(row).all():
            raise UserError("a score is not a number; leave that image out")
        together, above = _midranks(row), row[fake]
        v10[k] = (together[fake] - _midranks(above)) / n
        v01[k] = 1 - (together[~fake] - _midranks(row[~fake])) / m
    aucs = v10.mean(axis=1)
    if m < 2 or n < 2:
        return aucs, np.full((len(scores), len(scores)), np.nan)
    cov = np.atleast_2d(np.cov(v10)) / m + np.atleast_2d(np.cov(v01)) / n
    return aucs, cov


def delong(labels, first, second, *, level: float = LEVEL) -> DeLong:
    """DeLong's test of two AUCs on the same images. Scores [N] each; equal differences everywhere (two perfect
    detectors) have no variance: then p is 1 if the AUCs are equal, else NaN."""
    from scipy.special import ndtr, ndtri

    (a, b), cov = delong_covariance(labels, np.stack([np.asarray(first), np.asarray(second)]))
    difference, variance = float(a - b), float(cov[0, 0] + cov[1, 1] - 2 * cov[0, 1])
    nan = math.nan
    if not variance >= 1e-18:  # or not known
        same = math.isfinite(variance) and abs(difference) < 1e-12
        return DeLong(float(a), float(b), difference, nan, nan, 0.0 if same else nan, 1.0 if same else nan)
    error = math.sqrt(variance)
    z, reach = difference / error, float(ndtri((1 + level) / 2)) * error
    low, high = max(-1.0, difference - reach), min(1.0, difference + reach)
    return DeLong(float(a), float(b), difference, low, high, z, float(2 * ndtr(-abs(z))))


def _midranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 on, those of equal values being their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's (1979) adjusted p-values, in the order given: reject where they are at most the wanted level, and the
    chance of any false rejection among all is at most that level. NaN stays NaN and is not counted."""
    p = np.asarray(p_values, np.float64)
    adjusted = np.full(len(p), np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else steps
    return adjusted


def paired(
    labels,
    scores: Mapping[str, np.ndarray],
    fprs: Sequence[float],
    *,
    called: Mapping[str, np.ndarray] | None = None,
    groups=None,
    count: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, dict[str, dict[str, float]]]:
    """The first detector less each other one, on the same resamples: {other: {metric: {"value", "low", "high"}}}.

    scores: {name: [N]}. Metrics: "auc", "tpr_at_fpr_<rate>" (from the ROC of the very images, anew in every resample)
    and, with `called` {name: bool [N], FAKE was said}, "found", "false_alarms" and "balanced" as they were said.
    Intervals of 95 %, percentiles of `count` grouped, stratified resamples (`metrics.bootstrap.resamples`), NaN where
    all came out the same."""
    labels = np.asarray(labels).astype(bool)
    names = list(scores)

    def measured(name: str, weights: np.ndarray) -> dict[str, np.ndarray]:
        said = None if called is None else np.asarray(called[name], bool)
        return _values(labels, scores[name], said, fprs, weights)

    values = {name: measured(name, np.ones((1, len(labels)))) for name in names}
    drawn: dict[str, dict[str, list]] = {name: {key: [] for key in values[names[0]]} for name in names}
    for weights in resamples(labels, groups, count, seed):
        for name in names:
            for key, found in measured(name, weights).items():
                drawn[name][key].append(found)
    first = names[0]
    out: dict[str, dict[str, dict[str, float]]] = {other: {} for other in names[1:]}
    for other in out:
        for key in values[first]:
            gap = [a - b for a, b in zip(drawn[first][key], drawn[other][key])]
            low, high = varied(np.concatenate(gap) if gap else np.empty(0))
            out[other][key] = {"value": float(values[first][key][0] - values[other][key][0]), "low": low, "high": high}
    return out


def _values(fake: np.ndarray, scores, called: np.ndarray | None, fprs, weights: np.ndarray) -> dict[str, np.ndarray]:
    ranked = _Ranked(fake, np.asarray(scores, np.float64))
    tps, fps = ranked.counts(weights[:, ranked.order].astype(np.int32))
    found = {"auc": _roc_auc(tps, fps)} | {f"tpr_at_fpr_{f:g}": _tpr_at_fpr(tps, fps, f) for f in fprs}
    if called is not None:
        with np.errstate(invalid="ignore", divide="ignore"):
            hit = (weights @ (called & fake)) / (weights @ fake)
            alarm = (weights @ (called & ~fake)) / (weights @ ~fake)
        found |= {"found": hit, "false_alarms": alarm, "balanced": (1 - alarm + hit) / 2}
    return found
