"""Does a generator copy what it learnt from? Distances of its samples to training images, held against those of photos
that it never saw.

C. Meehan, K. Chaudhuri, S. Dasgupta, "A Non-Parametric Test to Detect Data-Copying in Generative Models" (AISTATS
2020), the global form of their test: where samples lie nearer to the training set than held-out photos do, the
generator copies; where they lie further away, it has not learnt enough of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.errors import UserError

ROWS = 256  # vectors whose distances are held at a time


@dataclass(frozen=True)
class Neighbours:
    """The k nearest of some vectors, the nearest first. index, distance: [n, k]."""

    index: np.ndarray
    distance: np.ndarray


def nearest(vectors: np.ndarray, among: np.ndarray, k: int = 1) -> Neighbours:
    """Of each of `vectors` [n, d] the k nearest rows of `among` [m, d], by Euclidean distance (ties: the first).

    UserError where `among` has fewer than k rows."""
    if not 1 <= k <= len(among):
        raise UserError(f"{k} nearest of {len(among)} images can't be told")
    there = np.ascontiguousarray(among, np.float64)
    lengths = (there**2).sum(1)
    index, distance = np.empty((len(vectors), k), np.int64), np.empty((len(vectors), k))
    for start in range(0, len(vectors), ROWS):
        own = np.asarray(vectors[start : start + ROWS], np.float64)
        square = np.maximum((own**2).sum(1)[:, None] + lengths - 2 * own @ there.T, 0)
        order = np.argsort(square, axis=1, kind="stable")[:, :k]
        index[start : start + ROWS] = order
        # of few again, without the cancellation: a copy has distance 0
        distance[start : start + ROWS] = np.sqrt(((own[:, None] - there[order]) ** 2).sum(2))
    return Neighbours(index, distance)


def copying_z(samples: np.ndarray, held_out: np.ndarray) -> float:
    """Meehan et al.'s C_T: the standard score of Mann and Whitney's U of distances to the training set [n], [m].

    Below -3 the samples are nearer to it than photos that were held out (copying), above 3 further away. U counts the
    pairs in which the sample is further away, equal ones by half; its mean is nm/2, its variance nm(n+m+1)/12, less
    for ties."""
    n, m = len(samples), len(held_out)
    if not n or not m:
        raise UserError("distances of no images can't be compared")
    both = np.concatenate([samples, held_out])
    values, where, counts = np.unique(both, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[where]  # the mean of equal ones
    u = ranks[:n].sum() - n * (n + 1) / 2
    ties = (counts.astype(float) ** 3 - counts).sum() / ((n + m) * (n + m - 1)) if n + m > 1 else 0.0
    spread = np.sqrt(n * m / 12 * (n + m + 1 - ties))
    return float((u - n * m / 2) / spread) if spread > 0 else 0.0
