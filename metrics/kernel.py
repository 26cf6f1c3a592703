"""Kernel inception distance (Binkowski et al. 2018, "Demystifying MMD GANs", arXiv:1801.01401)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.errors import UserError

SUBSETS, SUBSET_SIZE = 100, 1000  # as published
NORMAL_95 = 1.959964  # standard deviations on both sides of the mean that hold 95 % of a normal


@dataclass(frozen=True)
class Kid:
    """`mean` of the squared MMD over subsets, their `spread` (standard deviation, what is often printed after ±), and
    the `standard_error` of the mean as an estimate of the true distance. `subsets` of `size` vectors each. `low`,
    `high`: the 95 % interval of the true distance, mean ± 1.96 standard errors; NaN without one."""

    mean: float
    standard_error: float
    spread: float
    subsets: int
    size: int

    @property
    def low(self) -> float:
        return self.mean - NORMAL_95 * self.standard_error

    @property
    def high(self) -> float:
        return self.mean + NORMAL_95 * self.standard_error


def kid(x: np.ndarray, y: np.ndarray, *, subsets: int = SUBSETS, size: int | None = None, seed: int = 0) -> Kid:
    """KID of features x [n, d] and y [m, d]: the unbiased squared MMD with the kernel (x.y / d + 1)^3, averaged over
    random subsets. size: vectors of each set in a subset; None: 1000, or half of the smaller set where that is less, so
    that subsets differ.

    The standard error of the mean has two parts: the sample's own, which all subsets share (the variance of an MMD
    falls with 1 / size, and subsets of one sample differ less by 1 - size / n, so it is spread^2 size / (n - size), the
    delete-d jackknife of Shao & Wu 1989 over subsets drawn at random; n: of the smaller set, so too large for others),
    and that of having drawn only so many subsets (spread^2 / subsets). Where the two distributions are equal it is too
    large, not too small. NaN where nothing can be said: for a single subset, or subsets that are the whole set.

    Memory: a few size x size matrices, whatever n and m. Float64. UserError for fewer than two vectors in a set,
    unequal widths or subsets larger than a set.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise UserError(f"KID: features of shapes {x.shape} and {y.shape} are not [n, d] and [m, d]")
    fewest = min(len(x), len(y))
    if fewest < 2:
        raise UserError(f"KID needs two images or more in each set, got {len(x)} and {len(y)}")
    size = max(2, min(SUBSET_SIZE, fewest // 2)) if size is None else size
    if not 2 <= size <= fewest or subsets < 1:
        raise UserError(f"KID: {subsets} subsets of {size} can't be drawn from {fewest} images; ask for smaller ones")
    rng = np.random.default_rng([seed, 2])
    values = np.empty(subsets)
    for i in range(subsets):
        a, b = (np.sort(rng.choice(len(s), size, replace=False)) for s in (x, y))
        values[i] = squared_mmd(x[a], y[b])
    spread = float(values.std())
    known = subsets > 1 and size < fewest
    error = spread * np.sqrt(size / (fewest - size) + 1 / subsets) if known else float("nan")
    return Kid(float(values.mean()), float(error), spread, subsets, size)


def squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased estimate of MMD^2 with the kernel (x.y / d + 1)^3 (Gretton et al. 2012, equation 3); may be negative."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)

    def within(a: np.ndarray) -> float:
        k = _kernel(a, a)
        return (k.sum() - np.trace(k)) / (len(a) * (len(a) - 1))

    return float(within(x) + within(y) - 2 * _kernel(x, y).mean())


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    k = a @ b.T
    k /= a.shape[1]
    k += 1
    return k * k * k
