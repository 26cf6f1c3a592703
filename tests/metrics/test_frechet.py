import warnings

import numpy as np
import pytest
import scipy.linalg

from common.errors import UserError
from metrics.frechet import frechet_distance, frechet_from_features, trace_sqrt_product


def covariance(rng, d, rank=None):
    a = rng.standard_normal((d, rank or 3 * d)) * np.linspace(1, 0.1, d)[:, None]
    return a @ a.T / a.shape[1]


def by_sqrtm(mu1, sigma1, mu2, sigma2):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = np.real(scipy.linalg.sqrtm(sigma1 @ sigma2))
    return float(np.sum((mu1 - mu2) ** 2) + np.trace(sigma1 + sigma2 - 2 * root))


def by_singular_values(x, y):
    """The definition for samples: centred samples are covariance factors, whatever the rank."""
    a, b = ((s - s.mean(0)) / np.sqrt(len(s) - 1) for s in (x, y))
    cross = scipy.linalg.svd(a @ b.T, compute_uv=False, lapack_driver="gesvd").sum()
    return float(np.sum((x.mean(0) - y.mean(0)) ** 2) + np.sum(a**2) + np.sum(b**2) - 2 * cross)


def test_diagonal_gaussians_have_a_closed_form():
    rng = np.random.default_rng(0)
    mu1, mu2, s1, s2 = (rng.uniform(0.1, 3, 20) for _ in range(4))
    wanted = np.sum((mu1 - mu2) ** 2) + np.sum((np.sqrt(s1) - np.sqrt(s2)) ** 2)
    assert frechet_distance(mu1, np.diag(s1), mu2, np.diag(s2)) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("zeros", [0, 3])
def test_commuting_covariances_have_a_closed_form(zeros):
    rng = np.random.default_rng(1)
    q, _ = np.linalg.qr(rng.standard_normal((30, 30)))
    e1, e2 = rng.uniform(0.1, 3, 30), rng.uniform(0.1, 3, 30)
    e1[:zeros], e2[10 : 10 + 2 * zeros] = 0, 0
    wanted = 4.0 + np.sum((np.sqrt(e1) - np.sqrt(e2)) ** 2)
    mu = np.zeros(30)
    found = frechet_distance(mu, q * e1 @ q.T, mu + 2 / np.sqrt(30), q * e2 @ q.T)
    assert found == pytest.approx(wanted, rel=1e-12)


def test_full_rank_equals_scipy_sqrtm():
    rng = np.random.default_rng(2)
    mu1, mu2 = rng.standard_normal((2, 120))
    sigma1, sigma2 = covariance(rng, 120), covariance(rng, 120)
    found = frechet_distance(mu1, sigma1, mu2, sigma2)
    assert found == pytest.approx(by_sqrtm(mu1, sigma1, mu2, sigma2), rel=1e-10)
    assert type(found) is float


@pytest.mark.parametrize(("n", "m"), [(20, 30), (20, 500), (500, 20), (2, 2), (64, 65)])
def test_singular_covariances_equal_the_nuclear_norm(n, m):
    rng = np.random.default_rng(n)
    x, y = rng.standard_normal((n, 64)) + 1, rng.standard_normal((m, 64)) * np.linspace(2, 0.5, 64)
    wanted = by_singular_values(x, y)
    assert frechet_from_features(x, y) == pytest.approx(wanted, rel=1e-11)
    statistics = x.mean(0), np.cov(x, rowvar=False), y.mean(0), np.cov(y, rowvar=False)
    assert frechet_distance(*statistics) == pytest.approx(wanted, rel=1e-10)


def test_badly_scaled_covariances_stay_exact():
    # Eigenvalues over 14 decades: plain eigenvalues of the product would lose the small ones.
    rng = np.random.default_rng(3)
    q, _ = np.linalg.qr(rng.standard_normal((40, 40)))
    e1, e2 = np.logspace(-14, 0, 40), np.logspace(0, -14, 40)
    found = trace_sqrt_product(q * e1 @ q.T, q * e2 @ q.T)
    assert found == pytest.approx(np.sqrt(e1 * e2).sum(), abs=1e-9)


def test_equal_symmetric_and_constant():
    rng = np.random.default_rng(4)
    mu, sigma, other = rng.standard_normal(50), covariance(rng, 50), covariance(rng, 50, rank=5)
    assert 0 <= frechet_distance(mu, sigma, mu, sigma) < 1e-10 * np.trace(sigma)
    assert 0 <= frechet_distance(mu, other, mu, other) < 1e-10 * np.trace(other)
    there, back = frechet_distance(mu, sigma, -mu, other), frechet_distance(-mu, other, mu, sigma)
    assert there == pytest.approx(back, rel=1e-10)
    # One image repeated: no spread at all on one side.
    zero = np.zeros((50, 50))
    assert frechet_distance(mu, sigma, mu, zero) == pytest.approx(np.trace(sigma))
    assert frechet_distance(mu, zero, -mu, zero) == pytest.approx(4 * mu @ mu)


def test_one_clear_line_for_bad_input():
    eye, mu = np.eye(3), np.zeros(3)
    with pytest.raises(UserError, match="do not belong together"):
        frechet_distance(mu, eye, np.zeros(4), np.eye(4))
    with pytest.raises(UserError, match="NaN"):
        frechet_distance(mu, eye, mu, np.full((3, 3), np.nan))
    with pytest.raises(UserError, match="1 and 5 samples"):
        frechet_from_features(np.zeros((1, 3)), np.zeros((5, 3)))
    with pytest.raises(UserError, match="NaN"):
        frechet_from_features(np.full((5, 3), np.nan), np.zeros((5, 3)))
    with pytest.raises(UserError, match="shapes"):
        frechet_from_features(np.zeros((5, 3)), np.zeros((5, 4)))
