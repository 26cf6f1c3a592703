import numpy as np
import pytest

from common.errors import UserError
from metrics.kernel import kid, squared_mmd


def test_mmd_by_hand():
    # one dimension, so the kernel is (x y + 1)^3
    x, y = np.array([[0.0], [1.0]]), np.array([[2.0], [-1.0]])
    within_x, within_y = 1.0, (2 * -1 + 1) ** 3
    between = (1 + 1 + (2 + 1) ** 3 + (-1 + 1) ** 3) / 4
    assert squared_mmd(x, y) == pytest.approx(within_x + within_y - 2 * between)


def test_mmd_is_unbiased():
    rng = np.random.default_rng(0)
    values = [squared_mmd(rng.standard_normal((20, 3)), rng.standard_normal((30, 3))) for _ in range(2000)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))


@pytest.mark.parametrize(("n", "size"), [(600, 50), (300, 150)])
def test_the_standard_error_is_that_of_repetition(n, size):
    rng = np.random.default_rng(1)
    found = [
        kid(rng.standard_normal((n, 4)) + 0.5, rng.standard_normal((n, 4)), subsets=40, size=size) for _ in range(60)
    ]
    spread = np.std([k.mean for k in found])
    assert 0.75 < np.mean([k.standard_error for k in found]) / spread < 1.4
    # E k(x, y) of Gaussians has a closed form only for the whole kernel; the exact distance by a large sample instead
    exact = squared_mmd(rng.standard_normal((4000, 4)) + 0.5, rng.standard_normal((4000, 4)))
    assert abs(np.mean([k.mean for k in found]) - exact) < 4 * spread


def test_a_seed_names_the_subsets_and_defaults_shrink_with_the_set():
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((40, 3)), rng.standard_normal((30, 3))
    assert kid(x, y, seed=1) == kid(x, y, seed=1) != kid(x, y, seed=2)
    assert (kid(x, y).size, kid(x, y).subsets) == (15, 100)
    assert np.isnan(kid(x, y, subsets=1).standard_error)
    for bad, line in (((x[:1], y), "two images or more"), ((x, y[:, :2]), "not \\[n, d\\]")):
        with pytest.raises(UserError, match=line):
            kid(*bad)
    with pytest.raises(UserError, match="100 subsets of 31 can't be drawn from 30 images"):
        kid(x, y, size=31)


def _expected_kernel(a, A, b, B) -> float:
    """E (x.y / d + 1)^3 of independent x ~ N(a, diag A), y ~ N(b, diag B): x.y given y is normal, and odd moments of y
    about its mean vanish."""
    d, p = len(a), a @ b
    v, w, t = a @ (B * a), b @ (A * b), (A * B).sum()
    third = p**3 + 3 * p * v + 3 * (p * (w + t) + 2 * (a * B * A) @ b)
    return third / d**3 + 3 * (p * p + v + w + t) / d**2 + 3 * p / d + 1


def test_the_interval_holds_the_true_distance_of_gaussians():
    rng, d, n, times, held = np.random.default_rng(3), 16, 200, 60, 0
    a, s = np.full(d, 0.5), np.arange(1, d + 1) ** -0.5
    b, t = a + 0.3 * s, 1.2 * s
    exact = _expected_kernel(a, s**2, a, s**2) + _expected_kernel(b, t**2, b, t**2)
    exact -= 2 * _expected_kernel(a, s**2, b, t**2)
    for i in range(times):
        found = kid(rng.standard_normal((n, d)) * s + a, rng.standard_normal((n, d)) * t + b, seed=i)
        held += found.low <= exact <= found.high
    assert held >= 53
