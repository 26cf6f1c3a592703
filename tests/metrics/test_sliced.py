import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment, linprog
from scipy.stats import wasserstein_distance

from common.errors import UserError
from metrics.sliced import distances, mind, unit_vectors


def sets(n: int, m: int, d: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    y = rng.gamma(2, size=(m, d)).astype(np.float32)
    return (rng.standard_normal((n, d)) + 3).astype(np.float32), y


@pytest.mark.parametrize(("n", "m"), [(40, 40), (37, 23), (1, 5), (300, 299)])
def test_each_projection_is_scipys_wasserstein_distance(n, m):
    x, y = sets(n, m)
    along = unit_vectors(12, 70, seed=1)
    wanted = [wasserstein_distance(x.astype(float) @ u, y.astype(float) @ u) for u in along]
    np.testing.assert_allclose(distances(x, y, along, p=1), wanted, rtol=1e-5)


def transport(a: np.ndarray, b: np.ndarray) -> float:
    """The least mean squared distance of any plan that moves a to b, as a linear programme."""
    cost = (a[:, None] - b) ** 2
    n, m = cost.shape
    if n == m:
        return float(cost[linear_sum_assignment(cost)].mean())
    sums = [np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))]
    filled = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    return linprog(cost.ravel(), A_eq=np.concatenate(sums), b_eq=filled).fun


@pytest.mark.parametrize(("n", "m"), [(50, 50), (12, 7), (6, 15)])
def test_squares_are_those_of_the_best_plan(n, m):
    x, y = sets(n, m)
    along = unit_vectors(12, 5)
    wanted = [transport(x.astype(float) @ u, y.astype(float) @ u) for u in along]
    np.testing.assert_allclose(distances(x, y, along), wanted, rtol=1e-5)


def test_a_shift_is_its_square_over_the_dimensions():
    x, shift = sets(200, 200)[0], np.linspace(-1, 2, 12, dtype=np.float32)
    found = mind(x + shift, x, directions=4000)
    assert abs(found.value - shift @ shift / 12) < 4 * found.standard_error < 0.1
    assert mind(x, x[::-1]).value < 1e-9 and found.directions == 4000


def test_gaussians_of_two_sizes():
    """E W2^2 = (s - t)^2 along every direction of two round Gaussians: less what few samples add."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((4000, 30)) * 1.5, rng.standard_normal((6000, 30))
    assert mind(x, y, directions=200).value == pytest.approx(0.25, rel=0.05)


def test_directions_are_of_the_seed_and_of_length_one():
    u = unit_vectors(20, 5000, seed=3)
    np.testing.assert_allclose(np.linalg.norm(u, axis=1), 1)
    np.testing.assert_allclose(u.T @ u / 5000, np.eye(20) / 20, atol=4 / 20 / 5000**0.5 * 3)
    x, y = sets(20, 30)
    assert mind(x, y, seed=1) == mind(x, y, seed=1) != mind(x, y, seed=2)
    assert np.isnan(mind(x, y, directions=1).standard_error)


def test_what_cannot_be():
    x, y = sets(5, 5)
    with pytest.raises(UserError, match="not \\[n, d\\]"):
        mind(x, y[:, :3])
    with pytest.raises(UserError, match="0 and 5 images"):
        mind(x[:0], y)
    x[2, 3] = np.nan
    with pytest.raises(UserError, match="NaN or infinite"):
        mind(x, y)
