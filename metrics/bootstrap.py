"""Intervals of measured numbers: stratified and grouped resampling, and the exact interval of a rate. numpy only.

Images of one group (near duplicates, one person) are one observation, not several: they are drawn together. Where every
image stands for itself, each is a group of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

LEVEL = 0.95
RESAMPLES = 1000
_CELLS = 2_000_000  # weights that are in memory at the same time


class Rate(NamedTuple):
    """A share of `n` images with its interval; NaN (and n = 0) where there is no image to take a share of."""

    value: float
    low: float
    high: float
    n: int


class Rated:
    """A dataclass with rates among its fields."""

    def to_dict(self) -> dict:
        return {name: x._asdict() if isinstance(x, Rate) else x for name, x in vars(self).items()}


def resamples(labels, groups=None, count: int = RESAMPLES, seed: int = 0) -> Iterator[np.ndarray]:
    """Image weights int32 [B, N] of `count` resamples in all, in blocks of bounded memory.

    labels: [N] of 0 and 1. groups: [N] of anything that can be compared, or None. Groups are drawn with replacement
    among those with the same classes in them (Efron & Tibshirani 1993, chapter 13; Field & Welsh 2007 for clusters), so
    without groups each class keeps its size in every resample.
    """
    fake = np.asarray(labels).astype(bool)
    rng = np.random.default_rng(seed)
    if groups is None:
        inverse, kinds = None, fake.astype(np.int64)
    else:
        inverse = np.unique(np.asarray(groups), return_inverse=True)[1]
        total = int(inverse.max(initial=-1)) + 1
        fakes, images = np.bincount(inverse, fake, minlength=total), np.bincount(inverse, minlength=total)
        kinds = (fakes > 0) + 2 * (fakes < images)
    # fakes first, then reals: the order of the draws is part of what a seed means
    strata = [np.flatnonzero(kinds == kind) for kind in sorted(set(kinds.tolist()), reverse=inverse is None)]
    block = max(1, _CELLS // max(1, len(fake)))
    for start in range(0, count, block):
        rows = min(block, count - start)
        weights = np.zeros((rows, len(kinds)), np.int32)
        for members in strata:
            drawn = rng.integers(len(members), size=(rows, len(members)))
            drawn += np.arange(rows)[:, None] * len(members)
            counts = np.bincount(drawn.ravel(), minlength=rows * len(members))
            weights[:, members] = counts.reshape(rows, len(members))
        yield weights if inverse is None else weights[:, inverse]


def varied(values: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """`interval`; NaN, too, where it has no width: that no resample differed is no certainty."""
    low, high = interval(values, level)
    return (low, high) if low < high else (float("nan"), float("nan"))


def interval(values: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The percentile interval of bootstrap values, those that are not finite left out; NaN without any."""
    values = np.asarray(values)
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def rate(hits, groups=None, *, level: float = LEVEL) -> Rate:
    """The share of `hits` (bool [N]) and its interval.

    Without groups the exact one (Clopper & Pearson 1934), which also says what 0 of 500 is worth, where a bootstrap
    would say that nothing is uncertain. With groups the same with as many images as the groups are worth: n divided by
    the design effect, the variance between groups over that of single images (Korn & Graubard 1998); if all images
    agree, the number of groups.
    """
    hits = np.asarray(hits, dtype=bool)
    n = len(hits)
    if not n:
        return Rate(float("nan"), float("nan"), float("nan"), 0)
    share = float(hits.mean())
    independent = float(n) if groups is None else worth(hits, groups)
    return Rate(share, *binomial_interval(share * independent, independent, level), n)


def worth(values, groups) -> float:
    """As how many independent images those in `groups` [N] count for the mean of `values` [N], see `rate`."""
    values, inverse = np.asarray(values, np.float64), np.unique(np.asarray(groups), return_inverse=True)[1]
    count, n = int(inverse.max()) + 1, len(values)
    if count == n:
        return float(n)
    variance = float(values.var())
    if variance == 0 or count < 2:
        return float(count)
    apart = np.bincount(inverse, values - values.mean())  # each group's deviation from what it should hold
    between = count / (count - 1) * np.sum(apart**2) / n**2
    return float(np.clip(n / max(between / (variance / n), 1e-12), 1.0, n))


def binomial_interval(k: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """Clopper & Pearson's interval of a rate seen k times in n, which need not be whole numbers."""
    from scipy.special import betaincinv  # 0.2 s to import

    tail = (1 - level) / 2
    low = 0.0 if k <= 0 else float(betaincinv(k, n - k + 1, tail))
    high = 1.0 if k >= n else float(betaincinv(k + 1, n - k, 1 - tail))
    return low, high
