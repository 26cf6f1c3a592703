import numpy as np
import pytest

from common.errors import UserError
from metrics.manifold import manifold


def brute(real, fake, k, k_density):
    """Both papers' definitions, point by point."""

    def radius(points, i, k):
        return sorted(np.linalg.norm(points[i] - p) for j, p in enumerate(points) if j != i)[k - 1]

    def inside(x, points, k):
        return [np.linalg.norm(x - p) <= radius(points, i, k) for i, p in enumerate(points)]

    precision = np.mean([any(inside(x, real, k)) for x in fake])
    recall = np.mean([any(inside(x, fake, k)) for x in real])
    hits = np.array([inside(x, real, k_density) for x in fake])
    return precision, recall, hits.sum() / (k_density * len(fake)), hits.any(axis=0).mean()


def test_by_hand_on_a_line():
    real = np.array([[0.0], [1.0], [3.0], [10.0]])  # distances to the nearest: 1, 1, 2, 7
    fake = np.array([[0.5], [2.5], [20.0]])  # 2, 2, 17.5
    found = manifold(real, fake, k=1, k_density=2)
    # 0.5 and 2.5 lie in balls of the reals, 20 in none; reals 0, 1, 3 within 2 of a fake, 10 within 17.5 of 20
    assert (found.precision, found.recall) == (pytest.approx(2 / 3), 1.0)
    # radii to the second: 3, 2, 3, 9: 0.5 lies in those of 0, 1 and 3; 2.5 in all four; 20 in none
    assert found.density == pytest.approx(7 / 6) and found.coverage == 1.0


def test_equals_the_definitions():
    rng = np.random.default_rng(0)
    for scale, shift in ((1.0, 0.0), (0.5, 0.6), (2.0, 0.2), (1.0, 30.0)):
        real, fake = rng.standard_normal((41, 5)), scale * rng.standard_normal((29, 5)) + shift
        wanted = brute(real, fake, 3, 5)
        for block in (7, 1000):
            found = manifold(real, fake, block=block)
            assert (found.precision, found.recall, found.density, found.coverage) == pytest.approx(wanted)


def test_equal_and_doubled_sets_despite_rounding():
    rng = np.random.default_rng(1)
    x = (rng.standard_normal((60, 2048)) + 100).astype(np.float32)  # far from the origin
    same = manifold(x, x)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    doubled = np.repeat(x[:10], 6, axis=0)  # each radius is zero, and each point lies in five balls of its copies
    found = manifold(doubled, doubled)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1) and found.density == pytest.approx(6 / 5)
    assert manifold(doubled, x[10:20]).precision == 0


def test_too_few_images():
    with pytest.raises(UserError, match="more than 5 images in each set, got 5 real and 9 generated"):
        manifold(np.zeros((5, 2)), np.zeros((9, 2)))
    with pytest.raises(UserError, match="are not"):
        manifold(np.zeros((9, 2)), np.zeros((9, 3)))
