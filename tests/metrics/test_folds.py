"""Figures of folds against scikit-learn, their spread against scipy."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as reference

from metrics.folds import ALL, figures, pooled, spread, spreads


def some(seed: int, n: int = 211) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < 0.3).astype(int)
    return label, np.clip(np.round(rng.normal(0.4 + 0.2 * label, 0.2), 2), 0, 1)


@pytest.mark.parametrize("threshold", [0.3, 0.55, 0.9])
def test_a_fold_against_scikit_learn(threshold):
    label, score = some(1)
    called = score >= threshold
    found = figures(label, score, called)
    assert set(ALL) <= set(found)
    tn, fp, fn, tp = reference.confusion_matrix(label, called).ravel()
    assert found["confusion"] == {"tn": tn, "fp": fp, "fn": fn, "tp": tp}
    for kind, positive in (("fake", 1), ("real", 0)):
        for name in ("precision", "recall", "f1"):
            wanted = getattr(reference, f"{name}_score")(label, called, pos_label=positive)
            assert found[f"{name}_{kind}"] == pytest.approx(wanted), (name, kind)
    for name in ("precision", "recall", "f1"):
        wanted = getattr(reference, f"{name}_score")(label, called, average="macro")
        assert found[f"{name}_macro"] == pytest.approx(wanted), name
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(label, called))
    assert found["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(label, called))
    assert found["mcc"] == pytest.approx(reference.matthews_corrcoef(label, called))
    assert found["roc_auc"] == pytest.approx(reference.roc_auc_score(label, score))
    assert found["pr_auc"] == pytest.approx(reference.average_precision_score(label, score))
    fpr, tpr, _ = reference.roc_curve(label, score, drop_intermediate=False)
    assert found["tpr_at_fpr_0.01"] == pytest.approx(tpr[fpr <= 0.01].max())
    half = score >= 0.5
    assert found["accuracy_at_half"] == pytest.approx(reference.accuracy_score(label, half))
    assert found["f1_macro_at_half"] == pytest.approx(reference.f1_score(label, half, average="macro"))
    assert found["precision_fake_at_half"] == pytest.approx(reference.precision_score(label, half))


def test_calls_at_different_thresholds_are_pooled_as_they_were_made():
    parts = [(*some(seed), threshold) for seed, threshold in ((1, 0.4), (2, 0.8), (3, 0.6))]
    label, score = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    called = np.concatenate([s >= t for _, s, t in parts])
    found = pooled(label, score, called, resamples=50)
    sums = sum(np.array(list(figures(y, s, s >= t)["confusion"].values())) for y, s, t in parts)
    assert list(found["confusion"].values()) == sums.tolist()
    f1 = found["metrics"]["f1_macro"]
    assert f1["value"] == pytest.approx(reference.f1_score(label, called, average="macro"))
    assert f1["low"] < f1["value"] < f1["high"]
    assert found["metrics"]["roc_auc"]["value"] == pytest.approx(reference.roc_auc_score(label, score))


def test_repeats_of_an_image_are_one_observation():
    label, score = some(4)
    alone = pooled(label, score, score >= 0.5, groups=np.arange(len(label)), resamples=300)
    twice = pooled(*(np.tile(v, 2) for v in (label, score, score >= 0.5)), groups=np.tile(np.arange(len(label)), 2),
                   resamples=300)  # fmt: skip
    for name in ("roc_auc", "f1_fake", "recall_fake"):
        a, b = (one["metrics"][name] for one in (alone, twice))
        assert b["value"] == pytest.approx(a["value"])
        assert b["high"] - b["low"] == pytest.approx(a["high"] - a["low"], rel=0.1), name
    assert twice["groups"] == len(label)


def test_nothing_called_is_no_precision_and_an_f1_of_zero():
    label, score = some(5)
    found = figures(label, score, np.zeros(len(label), bool))
    assert math.isnan(found["precision_fake"]) and found["recall_fake"] == 0 and found["f1_fake"] == 0
    assert found["f1_real"] == pytest.approx(reference.f1_score(label, np.zeros(len(label)), pos_label=0))


def test_spread_against_scipy_and_by_hand():
    values = [0.71, 0.78, 0.69, 0.74, 0.8]
    found = spread(values, 0.25)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert (found["plain_low"], found["plain_high"]) == pytest.approx((low, high))
    assert found["mean"] == pytest.approx(0.744) and found["sd"] == pytest.approx(np.std(values, ddof=1))
    # Nadeau & Bengio: 1/5 + 1/4 in place of 1/5; t of 4 degrees of freedom is 2.776
    assert found["high"] - found["mean"] == pytest.approx(2.7764 * found["sd"] * math.sqrt(0.45), rel=1e-4)


def test_spread_of_what_is_sometimes_undefined_says_of_how_many_it_is():
    assert spread([0.5, math.nan, 0.7], 0.2)["n"] == 2
    lonely = spread([math.nan, 0.5], 0.2)
    assert lonely["mean"] == 0.5 and math.isnan(lonely["sd"]) and math.isnan(lonely["low"])
    assert math.isnan(spread([math.nan], 0.2)["mean"])
    wide = spread([0.0, 1.0], 0.5)
    assert (wide["low"], wide["high"]) == (0.0, 1.0)
    rows = [figures(*some(k), some(k)[1] >= 0.5) for k in (1, 2)]
    assert spreads(rows, 0.2)["mcc"]["low"] >= -1
