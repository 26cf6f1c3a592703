import numpy as np
import pytest

from common.errors import UserError
from metrics.frechet import frechet_from_features
from metrics.halving import frechet_interval


class Gaussians:
    """Two diagonal Gaussians whose distance is known: variances i^-decay, the second shifted and wider."""

    def __init__(self, dims: int, shift: float, scale: float, decay: float = 1.0):
        self.s = np.arange(1, dims + 1) ** (-decay / 2)
        self.mu, self.t = shift * self.s, scale * self.s
        self.exact = float(self.mu @ self.mu + ((self.s - self.t) ** 2).sum())

    def draw(self, rng, n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
        d = len(self.s)
        return rng.standard_normal((n, d)) * self.s, rng.standard_normal((m, d)) * self.t + self.mu


@pytest.mark.parametrize(
    ("dims", "n", "m", "shift", "scale", "decay"),
    [
        (16, 200, 200, 0.3, 1.2, 1),
        (32, 200, 500, 0.2, 1.1, 1),
        (64, 60, 60, 0.3, 1.2, 1.5),  # fewer images than dimensions, halves of fewer still
        (16, 200, 200, 0.0, 1.0, 1),  # no difference at all: FID is nothing but bias
    ],
)
def test_the_interval_holds_the_true_distance(dims, n, m, shift, scale, decay):
    pair, rng, times = Gaussians(dims, shift, scale, decay), np.random.default_rng(dims + n), 60
    plain, held = [], 0
    values = []
    for i in range(times):
        x, y = pair.draw(rng, n, m)
        plain.append(frechet_from_features(x, y))
        found = frechet_interval(x, y, plain[-1], seed=i)
        values.append(found.value)
        held += found.low <= pair.exact <= found.high
    assert held >= 53  # of 60; 95 % fall below with a probability of 2 %
    spread = np.std(values)
    assert abs(np.mean(values) - pair.exact) < 0.5 * spread + 4 * spread / times**0.5
    assert np.mean(plain) - pair.exact > 1.5 * spread  # what is printed as FID is far too high here


def test_a_bootstrap_would_not_hold_it():
    pair, rng = Gaussians(32, 0.2, 1.1), np.random.default_rng(0)
    held = 0
    for _ in range(10):
        x, y = pair.draw(rng, 200, 200)
        values = [
            frechet_from_features(x[rng.integers(200, size=200)], y[rng.integers(200, size=200)]) for _ in range(50)
        ]
        low, high = np.quantile(values, [0.025, 0.975])
        held += low <= pair.exact <= high
    assert held == 0


def test_a_seed_names_the_halves_and_few_images_are_refused():
    pair = Gaussians(8, 0.3, 1.2)
    x, y = pair.draw(np.random.default_rng(1), 41, 30)
    fid, seen = frechet_from_features(x, y), []
    found = frechet_interval(x, y, fid, seed=2, progress=lambda *done: seen.append(done))
    assert found == frechet_interval(x, y, fid, seed=2) != frechet_interval(x, y, fid, seed=3)
    assert seen[-1] == (20, 20) and found.low <= found.value <= found.high and found.low >= 0
    with pytest.raises(UserError, match="7 and 30 images; an interval for FID needs 8"):
        frechet_interval(x[:7], y, fid)


def test_sets_that_share_their_images_have_no_interval():
    """It was (0.0000 to 0.0000) around -0.37: an estimate outside its own interval, and sure of it."""
    x, _ = Gaussians(32, 0, 1).draw(np.random.default_rng(3), 60, 2)
    found = frechet_interval(x, x, frechet_from_features(x, x))
    assert found.value + 3 * found.standard_error < 0 and np.isnan([found.low, found.high]).all()
