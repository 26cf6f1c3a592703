"""An interval for FID: halves of both sets tell how far chance moves it, and how much too high it is.

FID of finite samples is too high, by nearly c / n (Chong & Forsyth 2020, "Effectively unbiased FID and Inception
Score", arXiv:1911.07023), often by many times what chance does to it, and a bootstrap, whose resamples hold fewer
different images still, doubles that instead of removing it: its intervals hold the true distance in hardly any case.
Halves drawn without replacement serve both ends. Split both sets at random into halves a and b, K times:

* the mean of FID(a) and FID(b) is too high by 2c / n, so  2 FID - mean  has no bias of order 1 / n (the jackknife's
  idea, Quenouille 1956; chance cancels in the pair, because what a has too much, b has too little);
* (FID(a) - FID(b)) / 2 scatters as FID does from sample to sample: the delete-half jackknife (Shao & Wu 1989, "A
  general theory for jackknife variance estimation"), here balanced. Its root mean square is the standard error.

The interval is the first, plus and minus the second times Student's quantile for K degrees of freedom. It is one of the
distance of the two distributions' Gaussians, for whatever number of images. Nothing is inverted, so fewer images than
dimensions are computed alike; but then the bias falls less regularly, and where variances fall slowly (as 1 / i, one
image for each dimension) a fifth of it is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from metrics.bootstrap import LEVEL
from metrics.frechet import frechet_distance, frechet_from_features
from metrics.stats import GaussianStats, StreamingStats

HALVINGS = 20
FEWEST = 8  # images of a set


@dataclass(frozen=True)
class FrechetInterval:
    """`value`: FID without its bias of order 1 / n (may be just below 0 where there is no difference); `low`, `high`:
    the interval of `level`, not below 0; `standard_error`; `halvings`: how often both sets were split.

    `low` and `high` are NaN where all of the interval would lie below 0, which no distance does: the sets are then not
    drawn independently of each other (they share images), as what is said here of chance takes for granted."""

    value: float
    low: float
    high: float
    standard_error: float
    halvings: int
    level: float = LEVEL


def frechet_interval(
    x: np.ndarray,
    y: np.ndarray,
    whole: float,
    *,
    halvings: int = HALVINGS,
    level: float = LEVEL,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> FrechetInterval:
    """Of features x [n, d] and y [m, d] whose FID is `whole`. Costs `halvings` times two FIDs of half the images each;
    progress: called with (halvings done, in all). UserError for fewer than eight vectors in a set, or one halving.
    """
    if min(len(x), len(y)) < FEWEST:
        raise UserError(
            f"`metrics` ci: {len(x)} and {len(y)} images; an interval for FID needs {FEWEST} or more of each set"
        )
    if halvings < 2:
        raise UserError(f"an interval takes 2 or more halvings, not {halvings}")
    from scipy.special import stdtrit  # 0.2 s to import

    rng, means, apart = np.random.default_rng([seed, 4]), np.empty(halvings), np.empty(halvings)
    for i in range(halvings):
        (xa, xb), (ya, yb) = (_halves(s, rng) for s in (x, y))
        a, b = _distance(xa, ya), _distance(xb, yb)
        means[i], apart[i] = (a + b) / 2, (a - b) / 2
        if progress:
            progress(i + 1, halvings)
    value, error = 2 * whole - float(means.mean()), float(np.sqrt(np.mean(apart**2)))
    reach = float(stdtrit(halvings, (1 + level) / 2)) * error
    low, high = (max(0.0, value - reach), value + reach) if value + reach >= 0 else (math.nan, math.nan)
    return FrechetInterval(value, low, high, error, halvings, level)


def _halves(x: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of len(x) // 2 rows, drawn without replacement; of an odd number one is left out."""
    order, half = rng.permutation(len(x)), len(x) // 2
    return x[np.sort(order[:half])], x[np.sort(order[half : 2 * half])]


def _distance(x: np.ndarray, y: np.ndarray) -> float:
    if max(len(x), len(y)) <= x.shape[1]:
        return frechet_from_features(x, y)
    a, b = _stats(x), _stats(y)
    return frechet_distance(a.mu, a.sigma, b.mu, b.sigma)


def _stats(x: np.ndarray) -> GaussianStats:
    stats = StreamingStats(x.shape[1])
    stats.update(x)
    return stats.finish()
