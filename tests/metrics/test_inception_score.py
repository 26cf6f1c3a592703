import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

from common.errors import UserError
from metrics.inception_score import inception_score


def test_by_scipy():
    rng = np.random.default_rng(0)
    features, classifier = rng.standard_normal((40, 6)), rng.standard_normal((9, 6))
    p = softmax(features @ classifier.T, axis=1)
    parts = [np.exp(entropy(part, part.mean(axis=0)[None], axis=1).mean()) for part in np.split(p, 4)]
    assert inception_score(features, classifier, splits=4, seed=None) == pytest.approx((np.mean(parts), np.std(parts)))


@pytest.mark.parametrize("count", [20, 43, 109])
def test_parts_are_cut_as_torch_fidelity_cuts_them(count):
    theirs = pytest.importorskip("torch_fidelity.metric_isc").isc_features_to_metric
    rng = np.random.default_rng(count)
    features, classifier = rng.standard_normal((count, 6)), rng.standard_normal((9, 6))
    wanted = theirs(torch.from_numpy(features @ classifier.T), 10, False, 0)
    found = inception_score(features, classifier, seed=None)
    assert found == pytest.approx((wanted["inception_score_mean"], wanted["inception_score_std"]), rel=1e-6)


def test_bounds_and_seed():
    certain = np.eye(5)[np.arange(50) % 5] * 1000
    assert inception_score(certain, np.eye(5), splits=1)[0] == pytest.approx(5)  # as many as there are classes
    assert inception_score(np.ones((50, 5)), np.eye(5))[0] == pytest.approx(1)
    x = np.random.default_rng(1).standard_normal((50, 5))
    assert inception_score(x, np.eye(5), seed=1) == inception_score(x, np.eye(5), seed=1)
    assert inception_score(x, np.eye(5), seed=1) != inception_score(x, np.eye(5), seed=2)
    with pytest.raises(UserError, match="10 parts of two or more, got 19"):
        inception_score(x[:19], np.eye(5))
