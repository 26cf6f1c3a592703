"""Calibration against planted truths, scikit-learn, scipy and counting by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression

from common.errors import UserError
from discriminator.calibration import (
    Calibration,
    calibrate,
    clopper_pearson,
    fit_temperature,
    sigmoid,
    threshold_at_fpr,
    unsure_band,
)


def overlapping(n0: int = 300, n1: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(-2, 3, n0), rng.normal(3, 3, n1)]), np.repeat([0, 1], [n0, n1])


def test_sigmoid_is_exact_at_both_ends():
    x = np.array([-800.0, -40.0, 0.0, 40.0, 800.0])
    np.testing.assert_allclose(sigmoid(x)[:4], [0.0, np.exp(-40) / (1 + np.exp(-40)), 0.5, 1 / (1 + np.exp(-40))])
    assert sigmoid(x)[4] == 1


def test_a_planted_temperature_and_bias_are_recovered():
    """20000 images at each logit, of which exactly the share the planted calibration says are fakes."""
    grid, n = np.linspace(-4, 4, 9), 20_000
    fakes = np.round(n * sigmoid(grid / 2.5 + 0.7)).astype(int)
    x = np.repeat(grid, n)
    y = np.concatenate([np.repeat([0, 1], [n - k, k]) for k in fakes])
    temperature, bias = fit_temperature(x, y)
    assert temperature == pytest.approx(2.5, abs=1e-3)
    assert bias == pytest.approx(0.7, abs=1e-3)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("balanced", [False, True])
def test_fit_is_the_unregularised_logistic_regression(seed, scale, balanced):
    x, y = overlapping(seed=seed)
    temperature, bias = fit_temperature(x * scale, y, balanced=balanced)
    reference = LogisticRegression(C=1e12, tol=1e-12, max_iter=10_000, class_weight="balanced" if balanced else None)
    reference.fit(x[:, None], y)
    assert scale / temperature == pytest.approx(reference.coef_[0, 0], rel=1e-4)
    assert bias == pytest.approx(reference.intercept_[0], rel=1e-4, abs=1e-5)


def test_fit_satisfies_the_likelihood_equations():
    x, y = overlapping()
    temperature, bias = fit_temperature(x, y)
    error = sigmoid(x / temperature + bias) - y
    assert abs(error.mean()) < 1e-12 and abs((error * x).mean()) < 1e-11


def test_separable_scores_get_platts_targets():
    x, y = np.array([-3.0, -2.0, -2.5, 1.0, 2.0]), np.array([0, 0, 0, 1, 1])
    temperature, bias = fit_temperature(x, y)
    target = np.where(y == 1, 3 / 4, 1 / 5)
    best = minimize(lambda p: np.sum(np.logaddexp(0, p[0] * x + p[1]) - target * (p[0] * x + p[1])), [1, 0], tol=1e-12)
    assert [1 / temperature, bias] == pytest.approx(best.x, abs=1e-4)


def test_a_detector_that_ranks_the_wrong_way_calibrates_to_a_coin():
    x, y = overlapping(200, 200)
    temperature, bias = fit_temperature(-x, y)
    assert temperature == pytest.approx(1000 * x.std())
    np.testing.assert_allclose(sigmoid(-x / temperature + bias), 0.5, atol=0.01)


def test_equal_scores_calibrate_to_the_base_rate():
    temperature, bias = fit_temperature(np.full(40, 3.0), np.repeat([0, 1], [30, 10]))
    assert sigmoid(3.0 / temperature + bias) == pytest.approx(0.25, abs=1e-6)


def test_calibration_needs_both_classes_and_numbers():
    with pytest.raises(UserError, match="3 real and 0 fake"):
        fit_temperature(np.zeros(3), np.zeros(3))
    with pytest.raises(UserError, match=r"scores that are not numbers \(1 of \d+\)"):
        fit_temperature(np.array([0.0, np.nan]), np.array([0, 1]))


@pytest.mark.parametrize(
    "n, fpr, allowed", [(500, 0.005, 2), (500, 0.01, 5), (199, 0.005, 0), (200, 0.005, 1), (20, 0.05, 1)]
)
def test_threshold_allows_exactly_the_stated_false_alarms(n, fpr, allowed):
    scores = np.random.default_rng(n).random(n)
    t = threshold_at_fpr(scores, fpr)
    assert (scores >= t).sum() == allowed
    # and it is the smallest such threshold
    assert (scores >= np.nextafter(t, -np.inf)).sum() == allowed + 1


def test_ties_are_counted_against_the_detector():
    scores = np.array([0.1] * 90 + [0.9] * 10)
    assert (scores >= threshold_at_fpr(scores, 0.05)).sum() == 0
    assert (scores >= threshold_at_fpr(scores, 0.10)).sum() == 10
    assert (np.ones(50) >= threshold_at_fpr(np.ones(50), 0.01)).sum() == 0


def test_threshold_refuses_nothing_to_go_by():
    with pytest.raises(UserError, match="none"):
        threshold_at_fpr(np.array([]), 0.01)
    with pytest.raises(ValueError, match="rate"):
        threshold_at_fpr(np.zeros(5), 1.0)


@pytest.mark.parametrize("k, n", [(0, 100), (1, 100), (5, 500), (100, 100), (37, 90)])
def test_interval_is_the_exact_one(k, n):
    reference = binomtest(k, n).proportion_ci(0.95, method="exact")
    assert clopper_pearson(k, n) == pytest.approx((reference.low, reference.high), abs=1e-12)


def test_interval_of_no_false_alarm_has_a_closed_form():
    assert clopper_pearson(0, 200) == pytest.approx((0, 1 - 0.025 ** (1 / 200)))


def test_unsure_band_by_counting():
    real, fake = np.linspace(0, 0.6, 101), np.linspace(0.4, 1, 101)
    band = unsure_band(real, fake, 0.55, miss=0.05)
    assert (fake < band.low).sum() == 5
    answered_real, answered_fake = (np.mean((s < band.low) | (s >= 0.55)) for s in (real, fake))
    assert band.coverage == pytest.approx((answered_real + answered_fake) / 2)
    wrong = (np.mean(real >= 0.55) + np.mean(fake < band.low)) / 2
    assert band.error == pytest.approx(wrong / band.coverage)


def test_a_perfect_detector_is_never_unsure_and_a_blind_one_nearly_always():
    perfect = unsure_band(np.zeros(100), np.ones(100), 0.5)
    assert perfect == (0.5, 1.0, 0.0)
    rng = np.random.default_rng(0)
    blind = calibrate(rng.normal(size=2000), np.repeat([0, 1], 1000)).at(0.01)
    assert blind.coverage < 0.1


def test_calibrate_reports_what_it_measured():
    x, y = overlapping(500, 400)
    c = calibrate(x, y)
    p = c.probability(x)
    assert (c.n_real, c.n_fake) == (500, 400)
    assert [p.target_fpr for p in c.points] == [0.005, 0.01, 0.05]
    for point in c.points:
        assert point.false_alarms == (p[y == 0] >= point.threshold).sum() <= 500 * point.target_fpr
        assert point.fpr == point.false_alarms / 500
        assert point.tpr == np.mean(p[y == 1] >= point.threshold)
        assert point.miss == np.mean(p[y == 1] < point.unsure_low) <= 0.05
        assert point.unsure_low <= point.threshold
        assert point.fpr_low <= point.fpr <= point.fpr_high
        assert point.enough_reals
    assert c.at().target_fpr == 0.01 and c.at(0.05).target_fpr == 0.05


def test_probabilities_are_at_equal_odds_whatever_the_mix():
    """Ten times as many fakes in the validation set must not make every photo look faker."""
    x, y = overlapping(2000, 2000)
    many = np.concatenate([x, np.tile(x[y == 1], 9)])
    a, b = calibrate(x, y), calibrate(many, np.concatenate([y, np.ones(18_000, int)]))
    np.testing.assert_allclose(b.probability(x), a.probability(x), atol=1e-6)


def test_too_few_reals_are_said():
    x, y = overlapping(60, 60)
    point = calibrate(x, y).at(0.01)
    assert point.false_alarms == 0 and not point.enough_reals
    assert "too few" in point.describe() and "at least 100" in point.describe()
    assert "too few" not in calibrate(x, y).at(0.05).describe()


def test_a_small_set_of_photos_is_not_hidden_by_a_large_one():
    rng = np.random.default_rng(4)
    logits = np.concatenate(
        [rng.normal(-4, 1, 2000), rng.normal(-2, 1, 300), rng.normal(-1, 1, 50), rng.normal(4, 1, 900)]
    )
    sources = np.repeat([0, 1, 2, 0], [2000, 300, 50, 900])
    labels = np.repeat([0, 0, 0, 1], [2000, 300, 50, 900])
    alone, each = (calibrate(logits, labels, sources=of) for of in (None, sources))
    assert (alone.temperature, alone.bias) == (each.temperature, each.bias)
    score = each.probability(logits)

    def accused(source: int, point) -> int:
        return int((score[(labels == 0) & (sources == source)] >= point.threshold).sum())

    assert accused(1, alone.at(0.01)) > 3 >= accused(1, each.at(0.01)) == 3  # 1 % of 300
    assert accused(0, each.at(0.01)) <= 20 and each.at(0.01).false_alarms == sum(
        accused(k, each.at(0.01)) for k in range(3)
    )
    assert each.at(0.005).threshold >= np.sort(score[sources == 1])[-2]  # one of 300, and none of 50 sets it
    assert calibrate(logits, labels, sources=np.zeros(len(labels), int)) == alone


def test_two_views_of_a_photo_are_not_two_photos():
    x, y = overlapping(400, 400)
    once, twice = calibrate(x, y), calibrate(np.tile(x, 2), np.tile(y, 2), views=2)
    assert twice.n_real == once.n_real == 400
    for a, b in zip(once.points, twice.points, strict=True):
        assert (b.threshold, b.fpr, b.fpr_low, b.fpr_high) == pytest.approx((a.threshold, a.fpr, a.fpr_low, a.fpr_high))
        assert b.false_alarms == 2 * a.false_alarms
    assert "800 views of 400" in twice.at().describe()
    with pytest.raises(ValueError, match="3 for each"):
        calibrate(x, y, views=3)


def test_calibration_travels_through_json_bit_for_bit():
    c = calibrate(*overlapping())
    again = Calibration.from_dict(json.loads(json.dumps(c.to_dict(), allow_nan=False)))
    assert again == c


def test_an_uncalibrated_rate_names_the_calibrated_ones():
    with pytest.raises(UserError, match=r"0\.02.*0\.005, 0\.01, 0\.05"):
        calibrate(*overlapping()).at(0.02)


def test_damaged_numbers_are_refused():
    good = calibrate(*overlapping()).to_dict()
    for change in ({"temperature": 0}, {"temperature": None}, {"bias": float("inf")}, {"default_fpr": 0.3}):
        with pytest.raises((ValueError, UserError)):
            Calibration.from_dict({**good, **change})
    with pytest.raises(ValueError, match="extra"):
        Calibration.from_dict({**good, "extra": 1})


SHARES = ("target_fpr", "threshold", "unsure_low", "fpr", "fpr_low", "fpr_high", "tpr", "miss", "coverage", "error")


@pytest.mark.parametrize("field", [*SHARES, "false_alarms", "n_real", "views"])
@pytest.mark.parametrize("value", [-5, 1e308, 10**39, float("nan"), True, "0.5", [1]])
def test_an_operating_point_of_a_file_is_held_to_what_it_means(field, value):
    """Before: a threshold of -5 called every photo FAKE, and a rate that is a word was a traceback after judging."""
    good = calibrate(*overlapping()).to_dict()
    points = [{**point, field: value} for point in good["points"]]
    what = "not a number from 0 to 1" if field in SHARES else "not a count"
    with pytest.raises(UserError, match=rf"the calibration's numbers are damaged \({field} is .*, {what}\)"):
        Calibration.from_dict({**good, "points": points})


@pytest.mark.parametrize("field", ["n_real", "n_fake"])
@pytest.mark.parametrize("value", [-5, 1.5, None, "many", True, 10**39])
def test_counts_of_a_calibration_are_counts(field, value):
    with pytest.raises(UserError, match=f"{field} is .*, not a count"):
        Calibration.from_dict({**calibrate(*overlapping()).to_dict(), field: value})


def test_false_alarms_are_among_the_photos_and_a_temperature_can_divide():
    good = calibrate(*overlapping()).to_dict()
    points = [{**point, "false_alarms": point["n_real"] * point["views"] + 1} for point in good["points"]]
    with pytest.raises(UserError, match="more false alarms than photos"):
        Calibration.from_dict({**good, "points": points})
    with pytest.raises(UserError, match="temperature or bias"):
        Calibration.from_dict({**good, "temperature": 1e-320})


def test_a_threshold_above_a_score_of_one_is_a_threshold():
    logits = np.array([-1.0] * 300 + [900.0] * 300)
    labels = np.array([0, 1] * 300)
    made = calibrate(logits, labels)
    assert Calibration.from_dict(json.loads(json.dumps(made.to_dict()))) == made
