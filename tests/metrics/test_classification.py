import json
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from common.errors import UserError
from metrics import classification as ours
from metrics.bootstrap import resamples

COARSE = st.integers(0, 6).map(lambda k: k / 6)  # few distinct values: many ties
ANY = st.floats(0, 1, allow_subnormal=False)


def data(score):
    """Labels with both classes and scores."""
    row = st.tuples(st.integers(0, 1), score)
    rows = st.lists(row, min_size=2, max_size=60).filter(lambda r: len({label for label, _ in r}) == 2)
    return rows.map(lambda r: (np.array([label for label, _ in r]), np.array([s for _, s in r])))


def value(name, labels, scores):
    return ours.report(labels, scores, resamples=0)["metrics"][name]["value"]


def sklearn_values(y, p, threshold):
    called = (p >= threshold).astype(int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = {
            "accuracy": sk.accuracy_score(y, called),
            "balanced_accuracy": sk.balanced_accuracy_score(y, called),
            "mcc": sk.matthews_corrcoef(y, called),
            "roc_auc": sk.roc_auc_score(y, p),
            "pr_auc": sk.average_precision_score(y, p),
            "brier": sk.brier_score_loss(y, p),
            "log_loss": sk.log_loss(y, p),
        }
        for name, score in (("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score)):
            result[f"{name}_fake"] = score(y, called, zero_division=np.nan)
            result[f"{name}_real"] = score(y, called, pos_label=0, zero_division=np.nan)
    return result


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.one_of(data(COARSE), data(ANY)), st.sampled_from([0.0, 1 / 6, 0.5, 1.0]))
def test_values_equal_scikit_learn(both, threshold):
    y, p = both
    found = ours.report(y, p, threshold=threshold, resamples=0)["metrics"]
    for name, wanted in sklearn_values(y, p, threshold).items():
        assert found[name]["value"] == pytest.approx(wanted, rel=1e-9, abs=1e-12, nan_ok=True), name
    assert tuple(ours.confusion(y, p, threshold)) == tuple(sk.confusion_matrix(y, p >= threshold).ravel())
    for name in ("precision", "recall", "f1"):
        mean = (found[f"{name}_fake"]["value"] + found[f"{name}_real"]["value"]) / 2
        assert found[f"{name}_macro"]["value"] == pytest.approx(mean, nan_ok=True)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.one_of(data(COARSE), data(ANY)))
def test_curves_equal_scikit_learn(both):
    y, p = both
    fpr, tpr, thresholds = sk.roc_curve(y, p, drop_intermediate=False)
    found = ours.roc_curve(y, p)
    np.testing.assert_allclose(found.fpr, fpr)
    np.testing.assert_allclose(found.tpr, tpr)
    np.testing.assert_array_equal(found.thresholds, thresholds)
    precision, recall, thresholds = sk.precision_recall_curve(y, p)
    found = ours.pr_curve(y, p)
    np.testing.assert_allclose(found.precision, precision[-2::-1])  # scikit-learn adds (1, 0) and goes upwards
    np.testing.assert_allclose(found.recall, recall[-2::-1])
    np.testing.assert_array_equal(found.thresholds, thresholds[::-1])
    for limit in (0.0, 0.005, 0.2, 0.5, 1.0):
        assert ours.tpr_at_fpr(y, p, limit) == pytest.approx(tpr[fpr <= limit + 1e-12].max())
    found = value("eer", y, p)  # on the joined ROC curve, and false alarms equal misses there
    assert 0 <= found <= 1
    low, high = (np.interp(found + e, fpr + 1e-13 * np.arange(len(fpr)), tpr) for e in (-1e-9, 1e-9))
    assert low - 1e-6 <= 1 - found <= high + 1e-6


def test_single_functions_equal_the_report():
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 2, 200), rng.random(200).round(2)
    for name in ("roc_auc", "pr_auc", "ece"):
        assert getattr(ours, name)(y, p) == pytest.approx(value(name, y, p))
    assert ours.tpr_at_fpr(y, p, 0.05) == pytest.approx(value("tpr_at_fpr_0.05", y, p))


def test_equal_error_rate_by_hand():
    # Reals .1 .2 .3 .9, fakes .4 .6 .7 .8: at .9 one false alarm of four; at .4 no miss. The ROC runs (0, 0), (.25, 0),
    # (.25, 1), (1, 1) and meets fpr = 1 - tpr on its vertical part, at fpr .25.
    y = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    assert value("eer", y, np.array([0.1, 0.2, 0.3, 0.9, 0.4, 0.6, 0.7, 0.8])) == pytest.approx(0.25)
    # All tied: one straight line from (0, 0) to (1, 1).
    assert value("eer", y, np.full(8, 0.5)) == pytest.approx(0.5)
    assert value("eer", y, y) == 0 and value("eer", y, 1 - y) == 1


def test_calibration_by_hand_and_against_scikit_learn():
    y = np.array([0, 1, 1, 1, 0])
    p = np.array([0.1, 0.3, 0.9, 1.0, 0.25])
    # Four bins. [0, .25): p .1, none fake; [.25, .5): mean .275, half fake; [.75, 1]: mean .95, all fake.
    assert ours.ece(y, p, 4) == pytest.approx((1 * 0.1 + 2 * 0.225 + 2 * 0.05) / 5)
    found = ours.reliability_bins(y, p, 4)
    np.testing.assert_array_equal(found.count, [1, 2, 0, 2])
    np.testing.assert_allclose(found.mean, [0.1, 0.275, np.nan, 0.95])
    np.testing.assert_allclose(found.observed, [0, 0.5, np.nan, 1])
    np.testing.assert_allclose(found.edges, [0, 0.25, 0.5, 0.75, 1])
    rng = np.random.default_rng(1)
    p = rng.random(500)
    y = rng.random(500) < p**2
    observed, mean = calibration_curve(y, p, n_bins=10)
    found = ours.reliability_bins(y, p, 10)
    np.testing.assert_allclose(found.observed, observed)
    np.testing.assert_allclose(found.mean, mean)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_gives_nan_where_nothing_can_be_said(label):
    y, p = np.full(6, label), np.array([0.1, 0.2, 0.5, 0.5, 0.8, 0.9])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = ours.report(y, p, resamples=20)["metrics"]
        curve = ours.roc_curve(y, p)
    present, absent = ("fake", "real") if label else ("real", "fake")
    undefined = {k for k, v in found.items() if np.isnan(v["value"])}
    both = {"balanced_accuracy", "roc_auc", "eer", "mcc", "recall_macro", "best_balanced_accuracy"} | {
        k for k in found if k.startswith("tpr_at")
    }
    assert undefined == both | {f"recall_{absent}"} | ({"pr_auc"} if not label else {"false_alarm_rate"})
    assert found["accuracy"]["value"] == found[f"recall_{present}"]["value"] == pytest.approx(4 / 6 if label else 2 / 6)
    assert np.isnan(curve.tpr if label == 0 else curve.fpr).all()


def test_never_called_fake_has_no_precision():
    found = ours.report([0, 1, 1], [0.1, 0.2, 0.3], threshold=0.9, resamples=0)["metrics"]
    assert np.isnan(found["precision_fake"]["value"]) and found["f1_fake"]["value"] == 0 and found["mcc"]["value"] == 0


def test_resampled_values_equal_scikit_learn_on_the_resample():
    rng = np.random.default_rng(2)
    y, p = rng.integers(0, 2, 80), rng.random(80).round(1)
    ranked = ours._Ranked(y.astype(bool), p)
    weights = np.concatenate(list(resamples(ranked.fake, None, 5, seed=3)))
    assert (weights @ ranked.fake == y.sum()).all() and (weights @ ~ranked.fake == (1 - y).sum()).all()
    found = ours._everything(ranked, ranked, weights, ranked.scores >= 0.35, ours.FPRS, 15)
    for row, counts in enumerate(weights):
        drawn_y, drawn_p = np.repeat(ranked.fake, counts).astype(int), np.repeat(ranked.scores, counts)
        wanted = sklearn_values(drawn_y, drawn_p, 0.35)
        wanted |= {"ece": ours.ece(drawn_y, drawn_p), "eer": value("eer", drawn_y, drawn_p)}
        for name, right in wanted.items():
            assert found[name][row] == pytest.approx(right, abs=1e-12), name


def test_intervals_hold_the_value_and_are_seeded():
    rng = np.random.default_rng(4)
    y = np.r_[np.zeros(300, int), np.ones(200, int)]
    p = 1 / (1 + np.exp(-rng.normal(1.2 * y - 0.6, 1)))
    a, b, other = (ours.report(y, p, seed=s) for s in (0, 0, 1))
    assert a == b and a != other
    for name, v in a["metrics"].items():
        if name != "ece":  # its bootstrap is biased upwards
            assert v["low"] < v["value"] < v["high"], name
    # Accuracy is a sum of two binomials here, so its interval has a known width.
    tn, fp, fn, tp = ours.confusion(y, p)
    error = np.sqrt(300 * (tn * fp / 300**2) + 200 * (tp * fn / 200**2)) / 500
    width = a["metrics"]["accuracy"]["high"] - a["metrics"]["accuracy"]["low"]
    assert width == pytest.approx(2 * 1.96 * error, rel=0.1)
    # The AUC's interval against DeLong's variance (DeLong et al. 1988).
    wins = (p[y == 1][:, None] > p[y == 0]).astype(float)
    error = np.sqrt(wins.mean(1).var(ddof=1) / 200 + wins.mean(0).var(ddof=1) / 300)
    width = a["metrics"]["roc_auc"]["high"] - a["metrics"]["roc_auc"]["low"]
    assert width == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert json.loads(json.dumps(a)) == a


def test_bootstrap_of_a_large_set_is_quick():
    rng = np.random.default_rng(5)
    y, p = rng.integers(0, 2, 2000), rng.random(2000)
    began = time.process_time()
    ours.report(y, p)
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("labels", "scores", "line"),
    [
        ([], [], "no labels"),
        ([0, 1], [0.5], "one score per label"),
        ([0, 1], [0.5, np.nan], "score of image 1 is NaN"),
        ([0, 2], [0.5, 0.5], "got 2"),
        ([0, -1], [0.5, 0.5], "got -1"),
        ([0, 1], [0.5, 1.5], r"lie in \[0, 1\], got 0.5 to 1.5"),
    ],
)
def test_one_clear_line_for_bad_input(labels, scores, line):
    with pytest.raises(UserError, match=line):
        ours.report(labels, scores)
    with pytest.raises(UserError, match="0 bins"):
        ours.ece([0, 1], [0.1, 0.9], bins=0)


def test_any_scores_may_be_ranked():
    y, s = np.array([0, 0, 1, 1]), np.array([-np.inf, -3.0, -3.0, np.inf])
    assert ours.roc_auc(y, s) == pytest.approx(0.875)
    assert tuple(ours.confusion(y, s, 0.0)) == (2, 0, 1, 1)


def test_importing_it_loads_no_torch(request):
    code = "import sys, metrics.classification; sys.exit('torch' in sys.modules or 'scipy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=request.config.rootpath)


@pytest.mark.parametrize(
    ("auc", "real", "fake", "swapped"),
    [
        (0.02, 20, 20, True), (0.25, 12, 12, False), (0.12, 12, 12, True), (0.29, 500, 500, True),
        (0.35, 5000, 5000, False), (0.0, 2, 2, False), (0.98, 50, 50, False), (float("nan"), 0, 20, False),
    ],
)  # fmt: skip
def test_labels_that_look_swapped(auc, real, fake, swapped):
    assert ours.looks_swapped(auc, real, fake) == swapped
    assert (ours.swapped_note(auc, real, fake) is not None) == swapped


def test_chance_hardly_ever_looks_swapped():
    rng = np.random.default_rng(0)
    for n in (8, 20, 100):
        labels = np.r_[np.zeros(n, int), np.ones(n, int)]
        found = [ours.looks_swapped(ours.roc_auc(labels, rng.normal(size=2 * n)), n, n) for _ in range(1000)]
        assert np.mean(found) < 0.012  # 2.5 standard errors on one side: .6 %
    scores = np.r_[rng.normal(0, 1, 50), rng.normal(3, 1, 50)]
    assert ours.looks_swapped(ours.roc_auc(np.r_[np.ones(50, int), np.zeros(50, int)], scores), 50, 50)


def test_what_is_not_decided_on_is_called_by_no_chosen_threshold():
    """An «upper bound» below what was found at the shipped threshold was none."""
    rng = np.random.default_rng(3)
    labels = rng.permutation(np.repeat([0, 1], 60))
    scores, undecided = np.round(0.3 * labels + 0.7 * rng.random(120), 2), rng.random(120) < 0.3
    rates = []
    for threshold in np.r_[np.unique(scores), np.inf]:
        called = (scores >= threshold) & ~undecided
        rates.append((called[labels == 1].mean(), called[labels == 0].mean(), threshold))
    best = max((1 + tpr - fpr) / 2 for tpr, fpr, _ in rates)
    found = ours.report(labels, scores, undecided=undecided, resamples=0)["metrics"]
    assert found["best_balanced_accuracy"]["value"] == pytest.approx(best)
    assert found["tpr_at_fpr_0.05"]["value"] == max(tpr for tpr, fpr, _ in rates if fpr <= 0.05)
    value, threshold = ours.best_threshold(labels, scores, undecided)
    assert value == pytest.approx(best) == next((1 + tpr - fpr) / 2 for tpr, fpr, t in rates if t == threshold)
    without = ours.report(labels, scores, resamples=0)["metrics"]
    assert all(found[name]["value"] == without[name]["value"] for name in ("roc_auc", "pr_auc"))
    # in resamples, too: those that are not decided on lie below all others already
    low = np.where(undecided, scores / 100, scores + 1)
    drawn, again = (ours.report(labels, low, undecided=u, resamples=60, calibrated=False) for u in (undecided, False))
    for name in ("best_balanced_accuracy", "tpr_at_fpr_0.05", "roc_auc"):
        assert drawn["metrics"][name] == again["metrics"][name]
