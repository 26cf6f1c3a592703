"""The sliced Wasserstein distance of features, and MIND, which is that of Inception's (Berthet et al. 2026, «MIND:
Monge Inception Distance for Generative Models Evaluation», arXiv:2605.06797).

Between points on a line the optimal transport is known: the smallest goes to the smallest, and so on. So features are
projected on random directions u, uniform on the sphere, sorted, and compared (Rabin et al. 2012; Bonneel et al. 2015):

    SW_p^p(P, Q) = E_u W_p^p(u.P, u.Q),      W_p^p(u.P, u.Q) = integral over t in (0, 1) of |F^-1(t) - G^-1(t)|^p

with F^-1 and G^-1 the quantiles of both projections: steps, where P and Q are samples. The integral is exact, also for
samples of different sizes. No mean, no covariance and no Gaussian is assumed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from common.errors import UserError

DIRECTIONS = 1000
_BLOCK = 64  # directions at a time
_TILE = 4096  # vectors at a time


@dataclass(frozen=True)
class Sliced:
    """`value`: the mean over `directions` of W_p^p. `standard_error`: of that mean, for having drawn only so many
    directions; nothing of the samples' own chance is in it (NaN for one direction)."""

    value: float
    standard_error: float
    directions: int


def mind(
    x: np.ndarray, y: np.ndarray, *, directions: int = DIRECTIONS, seed: int = 0, device: str | torch.device = "cpu"
) -> Sliced:
    """The mean of the squared Wasserstein distances (p = 2) of features x [n, d] and y [m, d] along random directions.

    Times d it is the squared distance of the means where the sets differ in nothing else, on the scale of FID.
    """
    values = distances(x, y, unit_vectors(x.shape[-1], directions, seed), device=device)
    error = values.std(ddof=1) / np.sqrt(directions) if directions > 1 else float("nan")
    return Sliced(float(values.mean()), float(error), directions)


def unit_vectors(dims: int, count: int, seed: int = 0) -> np.ndarray:
    """`count` directions, uniform on the sphere: float64 [count, dims], of (seed) alone."""
    if count < 1:
        raise UserError(f"`directions` is {count}; give one or more")
    drawn = np.random.default_rng([seed, 3]).standard_normal((count, dims))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def distances(
    x: np.ndarray, y: np.ndarray, along: np.ndarray, *, p: int = 2, device: str | torch.device = "cpu"
) -> np.ndarray:
    """W_p^p of the projections of x [n, d] and y [m, d] on each row of `along` [k, d]: float64 [k]. p: 1 or 2.

    Projections are float32 of vectors less the mean of y, the sums float64. Memory: 64 projections of both sets,
    whatever k. UserError for unequal widths, an empty set or values that are not finite.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or along.shape[1:] != x.shape[1:]:
        raise UserError(f"sliced distance: features of shapes {x.shape} and {y.shape} are not [n, d] and [m, d]")
    if min(len(x), len(y)) < 1:
        raise UserError(f"sliced distance: {len(x)} and {len(y)} images; it needs one or more in each set")
    centre = y.mean(axis=0, dtype=np.float64).astype(np.float32)
    first, second, width = (torch.as_tensor(part, device=device) for part in _steps(len(x), len(y)))
    found = np.empty(len(along))
    for start in range(0, len(along), _BLOCK):
        u = torch.as_tensor(along[start : start + _BLOCK], dtype=torch.float32, device=device)
        a, b = (_sorted_projections(s, u, centre) for s in (x, y))
        if len(x) != len(y):
            a, b = a[:, first], b[:, second]
        apart = (a - b).abs_().double()
        found[start : start + len(u)] = ((apart if p == 1 else apart.square_()) @ width).cpu().numpy()
    if not np.isfinite(found).all():
        raise UserError("sliced distance: the features hold NaN or infinite values; look at the images they came from")
    return found


def _sorted_projections(x: np.ndarray, u: torch.Tensor, centre: np.ndarray) -> torch.Tensor:
    """float32 [k, n], each row sorted."""
    out = torch.empty(len(u), len(x), device=u.device)
    for start in range(0, len(x), _TILE):
        part = torch.from_numpy(np.asarray(x[start : start + _TILE], np.float32) - centre).to(u.device)
        out[:, start : start + len(part)] = u @ part.T
    return out.sort(dim=1).values


def _steps(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where (0, 1) is cut so that both quantile functions are constant between: the index into n sorted values, that
    into m, and the width of each piece."""
    edges = np.union1d(np.arange(1, n + 1, dtype=np.int64) * m, np.arange(1, m + 1, dtype=np.int64) * n)
    widths = np.diff(edges, prepend=0) / (n * m)
    return (edges - 1) // m, (edges - 1) // n, widths
