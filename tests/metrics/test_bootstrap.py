"""Intervals: exact ones against SciPy, resampled ones against closed forms and by how often they hold the truth."""

import numpy as np
import pytest
from scipy import stats

from metrics.bootstrap import binomial_interval, interval, rate, resamples
from metrics.classification import report


@pytest.mark.parametrize(("k", "n"), [(0, 1), (0, 500), (1, 500), (7, 20), (250, 500), (499, 500), (500, 500)])
def test_exact_interval_equals_scipy(k, n):
    found = stats.binomtest(k, n).proportion_ci(0.95, method="exact")
    assert binomial_interval(k, n) == pytest.approx((found.low, found.high), abs=1e-12)
    hits = np.arange(n) < k
    assert rate(hits)[:3] == pytest.approx((k / n, found.low, found.high), abs=1e-12)


def test_rate_of_nothing_is_nan():
    found = rate(np.empty(0, bool))
    assert np.isnan(found[:3]).all() and found.n == 0


def test_resamples_keep_classes_and_draw_groups_whole():
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 2, 60), rng.integers(0, 20, 60).astype(str)
    for weights in resamples(labels, None, 50):
        assert weights.shape == (50, 60)
        assert (weights @ labels == labels.sum()).all() and (weights.sum(1) == 60).all()
    alone = np.where(rng.random(60) < 0.3, groups, np.arange(60).astype(str))
    for weights in resamples(labels, alone, 50, seed=1):
        for group in np.unique(alone):
            assert (np.ptp(weights[:, alone == group], axis=1) == 0).all()
        assert (weights @ labels > 0).all()
    a, b = (np.concatenate(list(resamples(labels, groups, 30, seed=3))) for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_mean_of_resamples_has_the_binomial_distribution():
    """Resampling 40 hits of 100 is drawing from a binomial distribution: its quantiles are known."""
    hits = np.arange(100) < 40
    drawn = np.concatenate([w @ hits for w in resamples(np.ones(100), None, 20000)]) / 100
    low, high = interval(drawn)
    assert (low, high) == pytest.approx(stats.binom(100, 0.4).ppf([0.025, 0.975]) / 100, abs=0.0101)
    assert drawn.var() == pytest.approx(0.4 * 0.6 / 100, rel=0.05)


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Reals are called right with .9, fakes with .7; balanced and plain accuracy are .8 then."""
    rng, held = np.random.default_rng(1), {"accuracy": 0, "recall_fake": 0, "false_alarm_rate": 0}
    truth = {"accuracy": 0.8, "recall_fake": 0.7, "false_alarm_rate": 0.1}
    labels, times = np.repeat([0, 1], 120), 250
    for i in range(times):
        right = rng.random(240) < np.where(labels == 1, 0.7, 0.9)
        scores = np.where(right == (labels == 1), 0.75, 0.25)
        found = report(labels, scores, resamples=250, seed=i)["metrics"]
        for name, value in truth.items():
            held[name] += found[name]["low"] <= value <= found[name]["high"]
    error = np.sqrt(0.95 * 0.05 / times)
    assert held["accuracy"] / times == pytest.approx(0.95, abs=3.5 * error)
    assert held["recall_fake"] / times >= 0.95 - 3 * error  # exact intervals hold it at least so often
    assert held["false_alarm_rate"] / times >= 0.95 - 3 * error


def test_copies_of_an_image_are_no_further_evidence():
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1], 100)
    scores = 1 / (1 + np.exp(-rng.normal(labels * 1.5 - 0.75, 1)))
    once = report(labels, scores, groups=np.arange(200))
    thrice = report(np.tile(labels, 3), np.tile(scores, 3), groups=np.tile(np.arange(200), 3))
    naive = report(np.tile(labels, 3), np.tile(scores, 3))
    width = lambda r, name: r["metrics"][name]["high"] - r["metrics"][name]["low"]  # noqa: E731
    for name in ("accuracy", "roc_auc", "brier", "recall_fake", "false_alarm_rate"):
        assert thrice["metrics"][name]["value"] == pytest.approx(once["metrics"][name]["value"])
        assert width(thrice, name) == pytest.approx(width(once, name), rel=0.03), name
        assert width(naive, name) < 0.65 * width(once, name), name
    assert thrice["groups"] == 200 and naive["groups"] is None
    assert rate(labels == 1, np.arange(200)) == rate(labels == 1)
    # nothing wrong: as many observations as groups
    hits = np.ones(60, bool)
    assert rate(hits, np.repeat(np.arange(20), 3)).low == pytest.approx(binomial_interval(20, 20)[0])


def test_grouped_rates_hold_the_truth():
    """30 people of 8 photos each; what happens to one photo of a person mostly happens to all."""
    rng, held, naive = np.random.default_rng(3), 0, 0
    people = np.repeat(np.arange(30), 8)
    for _ in range(400):
        own = rng.beta(0.5, 2.0, 30)  # mean .2
        hits = rng.random(240) < own[people]
        held += (found := rate(hits, people)).low <= 0.2 <= found.high
        naive += (found := rate(hits)).low <= 0.2 <= found.high
    assert held / 400 >= 0.92
    assert naive / 400 < 0.8


def test_nothing_wrong_is_not_certainty():
    found = report([0] * 30 + [1] * 20, [0.1] * 30 + [0.9] * 20)["metrics"]
    assert found["false_alarm_rate"]["high"] == pytest.approx(1 - 0.025 ** (1 / 30))
    assert found["recall_fake"]["low"] == pytest.approx(0.025 ** (1 / 20))
    assert found["accuracy"]["low"] == pytest.approx(0.025 ** (1 / 50))
    assert found["balanced_accuracy"]["low"] == pytest.approx((0.025 ** (1 / 30) + 0.025 ** (1 / 20)) / 2)
