"""Rates under degradation: by hand, against scikit-learn and closed forms."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from faces.degrade import grid
from faces.manifest import text_column
from metrics.bootstrap import binomial_interval
from metrics.few import pair_interval
from metrics.robustness import FAMILIES, by_condition, curves, measure, split_name, worst
from metrics.scores import Scores
from metrics.significance import moved


def test_by_hand():
    labels = [0, 0, 0, 0, 1, 1]
    scores = {
        "clean": np.array([0.1, 0.2, 0.3, 0.9, 0.8, 0.7]),  # one of four accused, both found
        "web": np.array([0.1, 0.2, 0.9, 0.9, 0.1, 0.7]),  # two accused, one found
    }
    clean, web = measure(labels, scores, 0.7)
    assert (clean.tpr.value, clean.fpr.value, clean.balanced.value) == (1.0, 0.25, 0.875)
    assert (web.tpr.value, web.fpr.value, web.balanced.value) == (0.5, 0.5, 0.5)
    assert web.change.value == -0.375 and clean.change[:3] == (0, 0, 0)
    assert (web.fpr.low, web.fpr.high) == pytest.approx(binomial_interval(2, 4))
    assert (clean.fpr.n, clean.tpr.n, clean.balanced.n) == (4, 2, 6)
    assert worst([clean, web]) is web and worst([clean]) is None


def test_against_scikit_learn_and_the_paired_closed_form():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 300)
    clean = rng.normal(labels * 2.0, 1)
    noisy = clean + rng.normal(0.2, 0.7, 600)
    found = measure(labels, {"clean": clean, "x": noisy}, 1.0, count=3000)
    for c, scores in zip(found, (clean, noisy)):
        assert c.auc == pytest.approx(roc_auc_score(labels, scores))
        assert c.balanced.value == pytest.approx(balanced_accuracy_score(labels, scores >= 1.0))
    # the difference of each image's two outcomes is what varies; stratified by class
    gain = ((noisy >= 1) == labels).astype(float) - ((clean >= 1) == labels)
    error = np.sqrt(sum(gain[labels == k].var() / 300 for k in (0, 1))) / 2
    assert found[1].change.value == pytest.approx(sum(gain[labels == k].mean() for k in (0, 1)) / 2)
    assert found[1].change.high - found[1].change.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    again = measure(labels, {"clean": clean, "x": noisy}, 1.0, count=3000)
    assert repr(again) == repr(found)


def test_what_no_resample_changed_has_the_exact_bounds_of_its_parts():
    """A bootstrap of changes that are all 0 has no width, which is no certainty."""
    labels = np.repeat([0, 1], [30, 50])
    scores = np.where(labels == 1, 0.9, 0.1)
    scores[[0, 30, 31]] = 0.9, 0.1, 0.1
    clean, same = measure(labels, {"clean": scores, "x": scores}, 0.5, count=200)
    unmoved = [moved(np.zeros(n, bool), np.zeros(n, bool)) for n in (30, 50)]
    assert same.change[:3] == pytest.approx((0, sum(m.low for m in unmoved) / 2, sum(m.high for m in unmoved) / 2))
    assert -0.12 < same.change.low < -0.05 and clean.change[:3] == (0, 0, 0)
    without = measure(labels, {"clean": scores, "x": scores}, 0.5, count=0)[1]
    assert np.isnan([without.balanced.low, without.change.low]).all() and without.tpr == same.tpr


def test_of_few_images_the_balanced_accuracy_has_the_bound_for_any_number():
    labels = np.repeat([0, 1], [8, 30])
    scores = np.where(labels == 1, 0.9, 0.1)
    scores[[0, 8, 9]] = 0.9, 0.1, 0.1
    for count in (0, 200):
        found = measure(labels, {"clean": scores}, 0.5, count=count)[0].balanced
        assert (found.low, found.high) == pair_interval(found.value, 8, 30) and found.low < found.value < found.high
    pairs = measure(labels, {"clean": scores}, 0.5, groups=np.arange(38) // 2)[0].balanced
    assert (pairs.low, pairs.high) == pair_interval(pairs.value, 4, 15)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_its_rate_alone(label):
    scores = {"clean": np.array([0.1, 0.9, 0.2]), "a": np.array([0.1, 0.1, 0.2]), "b": np.array([0.9, 0.9, 0.9])}
    found = measure([label] * 3, scores, 0.5, count=20)
    assert all(np.isnan(c.balanced.value) and np.isnan(c.auc) and np.isnan(c.change.low) for c in found)
    rates = [(c.fpr if label == 0 else c.tpr).value for c in found]
    assert rates == pytest.approx([1 / 3, 0, 1])
    assert worst(found).name == ("b" if label == 0 else "a")


def test_the_grid_is_the_one_that_was_promised():
    names = list(grid())
    assert names[0] == "clean" and len(names) == 45
    families = {}
    for name in names:
        family, level, kernel = split_name(name)
        families.setdefault(family, []).append((level, kernel))
    assert [level for level, _ in families["jpeg"]] == [95, 90, 75, 60, 40, 30]
    assert [level for level, _ in families["webp"]] == [80, 50]
    assert {level for level, _ in families["resize"]} == {0.25, 0.5, 0.75, 1.5, 2}
    assert len({kernel for _, kernel in families["resize"]}) == 5 and len(families["resize"]) == 25
    assert {"blur", "noise", "crop-jpeg", "double-jpeg", "screenshot", "web", "hard"} <= families.keys()
    for size, longest, quality in (("web", 768, 60), ("hard", 512, 40)):
        step = grid()[size].steps[0]
        assert step.ranges == {"longest": (longest, longest), "quality": (quality, quality)}


def test_curves_have_clean_where_it_belongs():
    scores = {name: np.array([0.2, 0.8]) for name in grid()}
    found = curves(measure([0, 1], scores, 0.5, count=2))
    assert found.keys() == FAMILIES.keys()
    assert [c.level for c in found["jpeg"][""]] == [30, 40, 60, 75, 90, 95]
    assert [c.level for c in found["resize"]["box"]] == [0.25, 0.5, 0.75, 1, 1.5, 2]
    assert [c.level for c in found["blur"][""]] == [0, 0.5, 1, 2]


def test_a_table_is_taken_apart_by_condition():
    def table(rows):
        path, label, score, source, degradation = zip(*rows)
        return Scores(
            text_column(path),
            np.array(label, np.int8),
            np.array(score),
            text_column(source),
            text_column([""] * len(rows)),
            text_column(degradation),
        )

    rows = [
        ("b", 1, 0.2, "s", "web"), ("a", 0, 0.1, "s", "clean"), ("a", 0, 0.3, "s", "web"), ("b", 1, 0.9, "s", "clean"),
        ("a", 1, 0.5, "t", "clean"), ("a", 1, 0.6, "t", "web"), ("lost", 1, 0.6, "s", "clean"),
    ]  # fmt: skip
    tables, left_out = by_condition(table(rows))
    assert list(tables) == ["clean", "web"] and left_out == 1
    for found in tables.values():
        assert list(zip(found.source, found.path)) == [("s", "a"), ("s", "b"), ("t", "a")]
    np.testing.assert_array_equal(tables["clean"].score, [0.1, 0.9, 0.5])
    np.testing.assert_array_equal(tables["web"].score, [0.3, 0.2, 0.6])


def test_what_nobody_decides_on_is_neither_found_nor_an_alarm():
    """As if those images had scores below every threshold; the AUC is of the scores as they are."""
    rng = np.random.default_rng(2)
    labels, scores, undecided = np.arange(60) % 2, rng.random(60), rng.random(60) < 0.3
    low = np.where(undecided, -1.0, scores)
    (ours,) = measure(labels, {"clean": scores}, 0.4, undecided={"clean": undecided}, count=50)
    (theirs,) = measure(labels, {"clean": low}, 0.4, count=50)
    assert (ours.tpr, ours.fpr, ours.balanced) == (theirs.tpr, theirs.fpr, theirs.balanced)
    assert ours.auc == pytest.approx(roc_auc_score(labels, scores)) and ours.auc != theirs.auc
