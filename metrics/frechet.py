"""The Frechet distance of two Gaussians, exact for singular covariances and fast.

Dowson & Landau (1982), as used for FID by Heusel et al. (2017, arXiv:1706.08500, equation 6):

    d^2 = |mu1 - mu2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2))

The last trace is what costs. With any factors S1 = A A^T and S2 = B B^T it is the nuclear norm of A^T B (the sum of its
singular values), so no matrix square root is needed, nothing complex appears, and singular covariances need no epsilon:

* both covariances well conditioned: with the Cholesky factor of S1, the eigenvalues of L^T S2 L and their square roots;
* one of them singular: its pivoted Cholesky factor has as many columns as its rank, and the same follows with it;
* otherwise: eigenvectors give factors with as many columns as the rank; singular values of the product;
* fewer samples than dimensions: the centred samples themselves are the factors; no covariance is ever formed.

All in float64.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg.lapack import dpstrf, dsygst

from common.errors import UserError

_TOLERANCE = 1e-9  # of the mean trace: the rounding error the fast way may add


def frechet_distance(mu1: np.ndarray, sigma1: np.ndarray, mu2: np.ndarray, sigma2: np.ndarray) -> float:
    """Squared Frechet distance between N(mu1, sigma1) and N(mu2, sigma2), the number called FID, of means [d] and
    covariances [d, d], which may be singular. UserError for shapes that do not fit together, or values that are not
    finite."""
    mu1, mu2 = (np.asarray(m, np.float64).reshape(-1) for m in (mu1, mu2))
    sigma1, sigma2 = (np.atleast_2d(np.asarray(s, np.float64)) for s in (sigma1, sigma2))
    d = len(mu1)
    if len(mu2) != d or sigma1.shape != (d, d) or sigma2.shape != (d, d):
        raise UserError(
            f"Frechet distance: means of {d} and {len(mu2)} dimensions and covariances of {sigma1.shape} and "
            f"{sigma2.shape} do not belong together; compare statistics of the same features"
        )
    if not all(np.isfinite(a).all() for a in (mu1, mu2, sigma1, sigma2)):
        raise UserError("Frechet distance: the statistics hold NaN or infinite values; compute them again")
    trace1, trace2 = np.trace(sigma1), np.trace(sigma2)
    return _assemble(mu1 - mu2, trace1, trace2, trace_sqrt_product(sigma1, sigma2))


def frechet_from_features(x: np.ndarray, y: np.ndarray) -> float:
    """Squared Frechet distance between the Gaussians fitted to samples x [n, d] and y [m, d] (divisors n-1, m-1).

    With n and m below d this uses the samples as covariance factors: an n x m problem instead of a d x d one. UserError
    for fewer than two samples, unequal widths, or values that are not finite.
    """
    x, y = (np.asarray(a, np.float64) for a in (x, y))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise UserError(f"Frechet distance: features of shapes {x.shape} and {y.shape} are not [n, d] and [m, d]")
    if min(len(x), len(y)) < 2:
        raise UserError(f"Frechet distance: {len(x)} and {len(y)} samples; a covariance needs two or more")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise UserError("Frechet distance: the features hold NaN or infinite values; look at the images they came from")
    mu_x, mu_y = x.mean(axis=0), y.mean(axis=0)
    if max(len(x), len(y)) > x.shape[1]:
        return frechet_distance(mu_x, np.cov(x, rowvar=False), mu_y, np.cov(y, rowvar=False))
    a, b = (x - mu_x) / np.sqrt(len(x) - 1), (y - mu_y) / np.sqrt(len(y) - 1)
    return _assemble(mu_x - mu_y, np.sum(a * a), np.sum(b * b), _nuclear_norm(a @ b.T))


def trace_sqrt_product(sigma1: np.ndarray, sigma2: np.ndarray) -> float:
    """tr((sigma1 sigma2)^(1/2)) of two symmetric positive semi-definite matrices [d, d] in float64."""
    for way in (_by_cholesky, _by_low_rank):
        fast = way(sigma1, sigma2)
        if fast is not None:
            return fast
    return _nuclear_norm(_factor(sigma1).T @ _factor(sigma2))


def _assemble(difference: np.ndarray, trace1: float, trace2: float, cross: float) -> float:
    # A distance is never negative; equal Gaussians can come out at minus a few rounding errors of the traces.
    return max(float(difference @ difference + trace1 + trace2 - 2 * cross), 0.0)


def _by_cholesky(sigma1: np.ndarray, sigma2: np.ndarray) -> float | None:
    """The trace if the covariances are well enough conditioned for it to be exact, else None."""
    try:
        lower = np.linalg.cholesky(sigma1)
    except np.linalg.LinAlgError:
        return None
    # L^T S2 L by the routine for it, which knows that L is triangular and the result symmetric (its lower half is made)
    product, info = dsygst(np.asfortranarray(sigma2), np.asfortranarray(lower), itype=2, lower=1)
    return None if info else _sum_of_roots(product, sigma1, sigma2)


def _by_low_rank(sigma1: np.ndarray, sigma2: np.ndarray) -> float | None:
    """The trace from a pivoted Cholesky factor of the matrix of lower rank, if that is exact, else None."""
    factors = [_pivoted(sigma) for sigma in (sigma1, sigma2)]
    for factor, other in sorted(zip(factors, (sigma2, sigma1)), key=lambda pair: pair[0].shape[1]):
        if not factor.size:
            return 0.0
        found = _sum_of_roots(factor.T @ other @ factor, sigma1, sigma2)
        if found is not None:
            return found
    return None


def _pivoted(sigma: np.ndarray) -> np.ndarray:
    """A [d, rank] with A A^T = sigma up to rounding (dpstrf stops where what is left is d * eps of the largest)."""
    packed, pivots, rank, _ = dpstrf(np.asfortranarray(sigma), lower=1)
    factor = np.empty((len(sigma), rank))
    factor[pivots - 1] = np.tril(packed)[:, :rank]
    return factor


def _sum_of_roots(product: np.ndarray, sigma1: np.ndarray, sigma2: np.ndarray) -> float | None:
    """Sum of the square roots of the eigenvalues of a symmetric matrix (its lower half is read); None where they may be
    off by more than _TOLERANCE of the mean trace."""
    values = np.linalg.eigvalsh(product)
    if values[0] <= 0:
        return None
    # eigvalsh is off by about eps * largest in each value, and a square root turns that into error / (2 sqrt(value)).
    roots = np.sqrt(values)
    error = np.finfo(np.float64).eps * values[-1] * np.sum(0.5 / roots)
    if error > _TOLERANCE * 0.5 * (np.trace(sigma1) + np.trace(sigma2)):
        return None
    return float(roots.sum())


def _factor(sigma: np.ndarray) -> np.ndarray:
    """A [d, rank] with A A^T = sigma up to rounding; eigenvalues that are rounding errors of zero are left out."""
    values, vectors = np.linalg.eigh(sigma)
    keep = values > max(values[-1], 0.0) * len(values) * np.finfo(np.float64).eps
    return vectors[:, keep] * np.sqrt(values[keep])


def _nuclear_norm(matrix: np.ndarray) -> float:
    return float(np.linalg.svd(matrix, compute_uv=False).sum()) if matrix.size else 0.0
