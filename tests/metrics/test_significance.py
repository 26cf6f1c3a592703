"""Tests of differences, against definitions written out, scipy and simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from common.errors import UserError
from metrics.classification import roc_auc, tpr_at_fpr
from metrics.significance import delong, delong_covariance, holm, mcnemar, moved, paired


def some_scores(seed, n=90, detectors=3, ties=True, gap=1.0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 3 == 0).astype(int)
    common = rng.normal(size=n) + gap * labels
    scores = np.stack([common + k * rng.normal(size=n) for k in range(1, detectors + 1)])
    return labels, np.round(scores, 1) if ties else scores


def by_definition(labels, scores):
    """DeLong et al. 1988, equations 4 to 6, pair by pair."""
    fake, real = scores[:, labels == 1], scores[:, labels == 0]
    psi = (fake[:, :, None] > real[:, None, :]) + 0.5 * (fake[:, :, None] == real[:, None, :])
    v10, v01 = psi.mean(2), psi.mean(1)
    m, n = fake.shape[1], real.shape[1]
    theta = psi.mean((1, 2))
    s10 = (v10 - theta[:, None]) @ (v10 - theta[:, None]).T / (m - 1)
    s01 = (v01 - theta[:, None]) @ (v01 - theta[:, None]).T / (n - 1)
    return theta, s10 / m + s01 / n


@pytest.mark.parametrize("ties", [True, False])
def test_delong_equals_its_definition(ties):
    labels, scores = some_scores(1, ties=ties)
    theta, cov = by_definition(labels, scores)
    aucs, fast = delong_covariance(labels, scores)
    np.testing.assert_allclose(aucs, theta, atol=1e-14)
    np.testing.assert_allclose(fast, cov, atol=1e-15)
    assert aucs[0] == pytest.approx(roc_auc(labels, scores[0]))
    found = delong(labels, scores[0], scores[2])
    error = math.sqrt(cov[0, 0] + cov[2, 2] - 2 * cov[0, 2])
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(theta[0] - theta[2]) / error))
    assert found.high - found.difference == pytest.approx(stats.norm.ppf(0.975) * error)


def test_delong_s_error_is_that_of_a_bootstrap():
    labels, scores = some_scores(2, n=300)
    rng = np.random.default_rng(0)
    real, fake = np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)
    drawn = []
    for _ in range(1500):
        rows = np.r_[rng.choice(real, len(real)), rng.choice(fake, len(fake))]
        drawn.append(roc_auc(labels[rows], scores[0, rows]) - roc_auc(labels[rows], scores[1, rows]))
    found = delong(labels, scores[0], scores[1])
    error = (found.high - found.low) / 2 / stats.norm.ppf(0.975)
    assert error == pytest.approx(np.std(drawn), rel=0.1)


def test_delong_says_no_more_than_the_level_where_nothing_differs():
    seen = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        labels = np.repeat([0, 1], 40)
        common = rng.normal(size=80) + labels
        seen.append(delong(labels, common + rng.normal(size=80), common + rng.normal(size=80)).p < 0.05)
    assert np.mean(seen) == pytest.approx(0.05, abs=0.03)


def test_delong_at_its_ends():
    labels = np.repeat([0, 1], 5)
    perfect = delong(labels, np.arange(10), np.arange(10) ** 2)
    assert (perfect.first, perfect.second, perfect.p, perfect.z) == (1, 1, 1, 0)
    assert math.isnan(delong(labels, np.arange(10), -np.arange(10)).p)
    assert math.isnan(delong([0, 1, 1], [0, 1, 2], [1, 0, 3]).p)  # one real: no variance to be had
    with pytest.raises(UserError, match="both classes"):
        delong([1, 1], [1, 2], [2, 1])
    with pytest.raises(UserError, match="not a number"):
        delong([0, 1, 0, 1], [0, 1, np.nan, 1], [0, 1, 0, 1])


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (1, 0), (7, 2), (3, 3), (40, 61), (0, 12)])
def test_mcnemar_is_the_binomial_test(only_first, only_second):
    a = np.r_[np.ones(only_first), np.zeros(only_second), np.ones(5), np.zeros(4)].astype(bool)
    b = np.r_[np.zeros(only_first), np.ones(only_second), np.ones(5), np.zeros(4)].astype(bool)
    found = mcnemar(a, b)
    assert (found.only_first, found.only_second) == (only_first, only_second)
    n = only_first + only_second
    assert found.p == pytest.approx(stats.binomtest(only_first, n, 0.5).pvalue if n else 1.0)
    with pytest.raises(UserError, match="same images"):
        mcnemar(a, b[1:])


def test_holm_by_hand():
    # sorted .01 .02 .03 .04 times 4 3 2 1 = .04 .06 .06 .04, then never falling
    np.testing.assert_allclose(holm([0.03, 0.01, np.nan, 0.04, 0.02]), [0.06, 0.04, np.nan, 0.06, 0.06])
    np.testing.assert_allclose(holm([0.9, 0.8]), [1.0, 1.0])
    assert len(holm([])) == 0


def test_paired_differences_are_of_the_same_resamples():
    labels, scores = some_scores(5, n=240, ties=False)
    called = {"a": scores[0] > 1, "b": scores[1] > 1}
    found = paired(labels, {"a": scores[0], "b": scores[1]}, (0.05,), called=called, count=400)["b"]
    assert found["auc"]["value"] == pytest.approx(roc_auc(labels, scores[0]) - roc_auc(labels, scores[1]))
    gap = tpr_at_fpr(labels, scores[0], 0.05) - tpr_at_fpr(labels, scores[1], 0.05)
    assert found["tpr_at_fpr_0.05"]["value"] == pytest.approx(gap)
    fake = labels == 1
    assert found["found"]["value"] == pytest.approx(called["a"][fake].mean() - called["b"][fake].mean())
    assert found["false_alarms"]["value"] == pytest.approx(called["a"][~fake].mean() - called["b"][~fake].mean())
    test = delong(labels, scores[0], scores[1])
    assert found["auc"]["low"] == pytest.approx(test.low, abs=0.02)
    assert found["auc"]["high"] == pytest.approx(test.high, abs=0.02)
    same = paired(labels, {"a": scores[0], "b": 2 * scores[0]}, (0.05,), count=50)["b"]
    for entry in same.values():  # no resample differed, which says nothing of how sure that is
        assert entry["value"] == 0 and np.isnan([entry["low"], entry["high"]]).all()


def test_groups_widen_paired_intervals():
    labels, scores = some_scores(6, n=60, ties=False)
    many = np.repeat(np.arange(60), 10)
    alone, together = (
        paired(labels[many], {"a": scores[0, many], "b": scores[1, many]}, (0.05,), groups=g, count=300)["b"]["auc"]
        for g in (None, many)
    )
    assert together["high"] - together["low"] > 2 * (alone["high"] - alone["low"])


def _score_interval(gained: int, lost: int, n: int) -> tuple[float, float]:
    """Tango's interval by brute force: the likeliest share of lost ones by a search, the ends by a root finder."""
    from scipy.optimize import brentq, minimize_scalar
    from scipy.special import xlogy

    def z(d: float) -> float:
        def loss(q: float) -> float:
            return -float(xlogy(gained, q + d) + xlogy(lost, q) + xlogy(n - gained - lost, 1 - 2 * q - d))

        q = minimize_scalar(loss, bounds=(max(0, -d), (1 - d) / 2), method="bounded", options={"xatol": 1e-13}).x
        return (gained - lost - n * d) / np.sqrt(n * (2 * q + d * (1 - d)))

    here, reach = (gained - lost) / n, stats.norm.ppf(0.975)
    return brentq(lambda d: z(d) - reach, -1 + 1e-9, here), brentq(lambda d: z(d) + reach, here, 1 - 1e-9)


def _answers(gained: int, lost: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    before, after = np.zeros(n, bool), np.zeros(n, bool)
    after[:gained], before[gained : gained + lost] = True, True
    before[gained + lost :] = after[gained + lost :] = np.arange(n - gained - lost) % 2 == 0
    return before, after


@pytest.mark.parametrize(("gained", "lost", "n"), [(0, 0, 500), (10, 0, 40), (0, 3, 150), (7, 12, 500), (40, 35, 90)])
def test_a_moved_rate_has_the_interval_of_the_score_test(gained, lost, n):
    found = moved(*_answers(gained, lost, n))
    assert found.value == pytest.approx((gained - lost) / n) and found.n == n
    assert (found.low, found.high) == pytest.approx(_score_interval(gained, lost, n), abs=2e-6)


def test_a_moved_rate_agrees_with_mcnemars_statistic_at_its_edges():
    for gained, lost in ((12, 3), (12, 4), (9, 2), (9, 3), (20, 9), (20, 10)):
        found = moved(*_answers(gained, lost, 200))
        assert (found.low > 0) == ((gained - lost) / np.sqrt(gained + lost) > 1.959964)
    everything = moved(np.zeros(20, bool), np.ones(20, bool))
    share = stats.norm.ppf(0.975) ** 2 / 20  # all of one kind: n (1 - d) = z sqrt(n (1 - d d))
    assert everything.value == everything.high == 1.0
    assert everything.low == pytest.approx((1 - share) / (1 + share))
    nothing = moved(np.zeros(0, bool), np.zeros(0, bool))
    assert nothing.n == 0 and np.isnan(nothing.value)
    with pytest.raises(UserError, match="not of the same images"):
        moved(np.zeros(3, bool), np.zeros(4, bool))


def test_a_moved_rate_counts_groups_not_their_copies():
    before, after = _answers(20, 5, 300)
    single, groups = moved(before, after), np.repeat(np.arange(300), 4)
    fourfold = moved(np.repeat(before, 4), np.repeat(after, 4), groups)
    assert fourfold.value == pytest.approx(single.value) and fourfold.n == 1200
    assert (fourfold.low, fourfold.high) == pytest.approx((single.low, single.high), abs=2e-4)
    assert moved(np.repeat(before, 4), np.repeat(after, 4)).high < fourfold.high - 0.01


def test_the_interval_of_a_moved_rate_holds_it():
    rng, held = np.random.default_rng(0), []
    for _ in range(600):
        draw = rng.choice(4, size=150, p=[0.05, 0.02, 0.4, 0.53])
        found = moved((draw == 1) | (draw == 2), (draw == 0) | (draw == 2))
        held.append(found.low <= 0.03 <= found.high)
    assert abs(np.mean(held) - 0.95) < 3 * np.sqrt(0.05 * 0.95 / 600)
