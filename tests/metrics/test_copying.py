"""Nearest neighbours against SciPy's, the score of copying against SciPy's rank test and against sets known to copy."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import mannwhitneyu, norm

from common.errors import UserError
from metrics.copying import copying_z, nearest


def test_neighbours_are_scipys():
    rng = np.random.default_rng(0)
    ours, among = rng.normal(size=(300, 20)).astype(np.float32), rng.normal(size=(500, 20)).astype(np.float32)
    found = nearest(ours, among, 4)
    table = cdist(ours.astype(float), among.astype(float))
    np.testing.assert_array_equal(found.index, np.argsort(table, axis=1, kind="stable")[:, :4])
    np.testing.assert_allclose(found.distance, np.sort(table, axis=1)[:, :4], rtol=1e-9)


def test_a_copy_is_at_distance_zero_however_long_its_vector():
    among = np.random.default_rng(1).normal(1000, 1, (50, 30)).astype(np.float32)
    found = nearest(among[[7, 3]], among, 2)
    assert found.index[:, 0].tolist() == [7, 3]
    assert (found.distance[:, 0] == 0).all() and (found.distance[:, 1] > 0).all()


def test_more_neighbours_than_there_are_images_are_refused():
    with pytest.raises(UserError, match="3 nearest of 2"):
        nearest(np.zeros((1, 2)), np.zeros((2, 2)), 3)


@pytest.mark.parametrize("ties", [False, True])
def test_the_score_is_the_rank_tests(ties):
    rng = np.random.default_rng(2)
    a, b = rng.normal(0, 1, 200), rng.normal(0.3, 1, 150)
    if ties:
        a, b = a.round(), b.round()
    p = mannwhitneyu(a, b, alternative="less", method="asymptotic", use_continuity=False).pvalue
    assert copying_z(a, b) == pytest.approx(norm.ppf(p), rel=1e-9)
    assert copying_z(b, a) == pytest.approx(-copying_z(a, b))


def test_all_equal_tells_nothing_and_none_is_refused():
    assert copying_z(np.ones(5), np.ones(9)) == 0
    with pytest.raises(UserError):
        copying_z(np.ones(0), np.ones(9))


def test_copies_are_told_from_samples_of_the_same_law_and_of_another():
    rng = np.random.default_rng(3)
    train, held, fresh = (rng.normal(size=(400, 8)) for _ in range(3))

    def z(samples):
        return copying_z(nearest(samples, train).distance[:, 0], nearest(held, train).distance[:, 0])

    assert abs(z(fresh)) < 3
    assert z(train + rng.normal(0, 0.3, train.shape)) < -10
    assert z(3 * fresh) > 10
