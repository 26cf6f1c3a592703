"""Cross-validated AUC: against scikit-learn, the bootstrap, and what chance gives."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from faces.audit.crossval import clustered_auc, cross_validated_auc, grouped_folds


def data(n=200, features=4, shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], n)
    x = rng.normal(size=(2 * n, features))
    x[:, 0] += shift * labels
    return x, labels


def test_auc_is_the_mean_of_sklearns_over_folds():
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], 60)
    scores = rng.normal(size=120).round(1) + 0.4 * labels  # with ties
    folds = np.arange(120) % 3
    auc, error = clustered_auc(labels, scores, folds, np.arange(120))
    theirs = [roc_auc_score(labels[folds == f], scores[folds == f]) for f in range(3)]
    assert auc == pytest.approx(np.mean(theirs), abs=1e-12)
    assert 0 < error < 0.1


def test_standard_error_is_the_bootstraps():
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1], 100)
    scores = rng.normal(size=200) + 0.8 * labels
    one = np.zeros(200, int)
    _, error = clustered_auc(labels, scores, one, np.arange(200))
    draws = [np.concatenate([rng.integers(0, 100, 100), 100 + rng.integers(0, 100, 100)]) for _ in range(800)]
    boot = np.std([roc_auc_score(labels[d], scores[d]) for d in draws])
    assert error == pytest.approx(boot, rel=0.12)


def test_copies_count_once_for_the_error():
    rng = np.random.default_rng(3)
    labels, scores = np.repeat([0, 1], 80), rng.normal(size=160)
    fold = np.zeros(160, int)
    auc, error = clustered_auc(labels, scores, fold, np.arange(160))
    four = [np.tile(a, 4) for a in (labels, scores, fold, np.arange(160))]
    auc4, error4 = clustered_auc(*four)
    assert auc4 == pytest.approx(auc)
    assert error4 == pytest.approx(error, rel=0.02)
    assert clustered_auc(*four[:3], np.arange(640))[1] < 0.6 * error  # what ignoring the groups would claim


def test_folds_keep_groups_together_and_classes_even():
    rng = np.random.default_rng(4)
    groups = np.concatenate([np.repeat(np.arange(30), 5), np.arange(100, 500)])
    labels = (rng.random(len(groups)) < 0.3).astype(int)
    folds = grouped_folds(labels, groups, 5, 0)
    assert all(len(set(folds[groups == g])) == 1 for g in np.unique(groups))
    for label in (0, 1):
        share = np.bincount(folds[labels == label], minlength=5)
        assert np.ptp(share) <= 6, share
    assert (grouped_folds(labels, groups, 5, 0) == folds).all()


def test_monotone_and_bent_leaks_are_found_by_their_classifier():
    x, labels = data(shift=1.0)
    found = cross_validated_auc(x, labels)
    assert found.auc > 0.65 and found.beats_chance and found.low > 0.5
    rng = np.random.default_rng(5)
    wide = np.where(labels == 1, rng.choice([-3.0, 3.0], len(labels)), 0.0) + rng.normal(size=len(labels))
    bent = cross_validated_auc(np.column_stack([wide, x[:, 1:]]), labels)
    assert bent.by == "trees" and bent.auc > 0.9


def test_nothing_to_learn_is_not_recognised():
    """By the 99 % interval of the better of two classifiers, one draw in a hundred is expected to beat chance."""
    found = [cross_validated_auc(*data(100, 3, seed=seed), seed=seed) for seed in range(12)]
    assert sum(each.beats_chance for each in found) <= 1
    assert all(each.low < 0.5 < each.high or each.low > 0.5 for each in found)
    assert abs(np.mean([each.auc for each in found]) - 0.5) < 0.05


def test_what_does_not_hold_on_other_images_is_no_leak():
    """Each feature value occurs twice, once per class: what is learnt of one is wrong of the other, AUC below .5."""
    rng = np.random.default_rng(6)
    x = rng.normal(size=150)
    found = cross_validated_auc(np.tile(x, 2)[:, None], np.repeat([0, 1], 150))
    assert found.auc < 0.55 and not found.beats_chance
    together = cross_validated_auc(np.tile(x, 2)[:, None], np.repeat([0, 1], 150), np.tile(np.arange(150), 2))
    assert abs(together.auc - 0.5) < 0.1


def test_missing_numbers_constants_and_few_images():
    x, labels = data(60)
    x[:, 0] = np.where(labels == 1, np.nan, 1.0)  # there for one class only
    assert cross_validated_auc(x, labels).auc > 0.95
    same = cross_validated_auc(np.full((120, 2), 7.0), labels)
    assert (same.auc, same.low, same.high, same.constant) == (0.5, 0.5, 0.5, True)
    assert not cross_validated_auc(x[:61], labels[:61]).known  # one fake
    assert not cross_validated_auc(x[:60], labels[:60]).known
    assert cross_validated_auc(np.zeros((0, 2)), np.zeros(0, int)).real == 0


def test_a_class_of_few_groups_is_not_judged_by_a_point():
    """Nine copies of one photo, in three groups, against eight: the spread inside the folds is none."""
    rng = np.random.default_rng(8)
    groups = np.r_[np.arange(9) // 3, 10 + np.arange(8)]
    found = cross_validated_auc(rng.normal(size=(20, 2))[groups], np.repeat([0, 1], [9, 8]), groups)
    assert found.high - found.low > 0.3 and not found.beats_chance
