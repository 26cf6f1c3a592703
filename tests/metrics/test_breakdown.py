"""One rule on a table of scores: by hand."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from common.errors import UserError
from faces.manifest import text_column
from metrics.breakdown import AnswerRule, break_down, least_found, most_accused
from metrics.scores import Scores

RULE = AnswerRule(0.7, 0.3, "a test")


def table(*rows, group=None):
    """rows: (label, score, source[, generator])"""
    n = len(rows)
    return Scores(
        text_column([f"{i}.png" for i in range(n)]),
        np.array([r[0] for r in rows], np.int8),
        np.array([r[1] for r in rows]),
        text_column([r[2] for r in rows]),
        text_column([r[3] if len(r) > 3 else "" for r in rows]),
        text_column(["clean"] * n),
        group,
    )


BOTH = [
    (0, 0.1, "a"),
    (0, 0.3, "a"),
    (0, 0.8, "a"),
    (0, 0.2, "a"),
    (1, 0.7, "a", "G1"),
    (1, 0.69, "a", "G2"),
    (1, 0.9, "a", "G2"),
    (1, 0.05, "a", "G1"),
]


def test_answers_at_the_edges():
    assert RULE.answers(np.array([0.7, 0.6999, 0.3, 0.2999])).tolist() == ["FAKE", "UNSURE", "UNSURE", "REAL"]
    assert AnswerRule(0.5, 0.5, "").answers(np.array([0.5, 0.4])).tolist() == ["FAKE", "REAL"]
    with pytest.raises(ValueError):
        AnswerRule(0.3, 0.5, "")


def test_confusion_has_a_third_column():
    found = break_down(table(*BOTH), RULE, count=20)
    assert found.confusion == {
        "real": {"REAL": 2, "UNSURE": 1, "FAKE": 1}, "fake": {"REAL": 1, "UNSURE": 1, "FAKE": 2},
    }  # fmt: skip
    assert found.answered["coverage"].value == 6 / 8 and found.answered["error"].value == 2 / 6
    assert found.overall["confusion"] == {"tn": 3, "fp": 1, "fn": 2, "tp": 2}  # UNSURE is not FAKE
    assert found.pool_name == "a" and len(found.pool) == 8 and not found.pairs


def test_generators_against_the_reals_beside_them():
    found = break_down(table(*BOTH, (0, 0.99, "elsewhere")), RULE, count=20)
    assert [(g.name, g.n_fake, g.n_real, g.tpr.value) for g in found.generators] == [
        ("G1", 2, 4, 0.5),
        ("G2", 2, 4, 0.5),
    ]
    assert found.generators[1].auc["value"] == pytest.approx(
        roc_auc_score([0] * 4 + [1] * 2, [0.1, 0.3, 0.8, 0.2, 0.69, 0.9])
    )


def test_sources_of_one_class_have_no_auc():
    rows = [*BOTH, (0, 0.9, "reals"), (0, 0.1, "reals"), (1, 0.1, "fakes"), (1, 0.2, "fakes"), (1, 0.75, "fakes")]
    found = break_down(table(*rows), RULE, count=20)
    a, reals, fakes = found.sources
    assert (reals.n_real, reals.n_fake, reals.fpr.value) == (2, 0, 0.5) and reals.auc is reals.balanced is None
    assert (fakes.n_real, fakes.n_fake, fakes.tpr.value) == (0, 3, pytest.approx(1 / 3)) and fakes.auc is None
    assert np.isnan(reals.tpr.value) and np.isnan(fakes.fpr.value)
    assert found.overall["n_real"] == 4 and found.overall["n_fake"] == 4 and a.auc is not None
    assert most_accused(found.sources) is reals and least_found(found.sources) is fakes
    # nothing belongs together
    alone = break_down(table(*rows[8:]), RULE, count=20)
    assert alone.overall is None and not len(alone.pool) and alone.confusion["fake"]["FAKE"] == 1


def test_pairs_on_request():
    rows = [(0, 0.1, "r"), (0, 0.4, "r"), (1, 0.3, "f"), (1, 0.9, "f"), (1, 0.9, "g")]
    found = break_down(table(*rows), RULE, reals_from="r", count=20)
    assert [(p.name, p.n_real, p.n_fake) for p in found.pairs] == [
        ("fakes of f, reals of r", 2, 2), ("fakes of g, reals of r", 2, 1),
    ]  # fmt: skip
    assert found.pairs[0].auc["value"] == 0.75 and found.overall["n_fake"] == 3
    with pytest.raises(UserError, match="no source of that name with reals .with reals: r."):
        break_down(table(*rows), RULE, reals_from="f")
    with pytest.raises(UserError, match="every source with fakes has reals of its own"):
        break_down(table(*BOTH), RULE, reals_from="a")


def test_further_points_and_nothing_at_all():
    found = break_down(table(*BOTH), RULE, points=[(0.01, 0.85), (0.5, 0.25)], count=20)
    assert [(p.target_fpr, p.fpr.value, p.tpr.value) for p in found.points] == [(0.01, 0, 0.25), (0.5, 0.5, 0.75)]
    with pytest.raises(UserError, match="no images to judge"):
        break_down(table(*BOTH).select(np.zeros(8, bool)), RULE)
    margins = break_down(table((0, -3.0, "a"), (1, 8.0, "a")), AnswerRule(0.0, 0.0, ""), calibrated=False, count=20)
    assert np.isnan(margins.overall["metrics"]["ece"]["value"]) and margins.overall["metrics"]["accuracy"]["value"] == 1


def test_a_contradiction_is_unsure_in_every_figure():
    """As a table in which those images lie in the band; what ranks (AUC) stays."""
    scores, undecided = table(*BOTH), np.array([False, False, True, False, True, False, False, True])
    scores.undecided = undecided
    found = break_down(scores, RULE, points=[(0.5, 0.25)], count=20)
    plain = break_down(table(*BOTH), RULE, count=20)
    assert found.confusion == {
        "real": {"REAL": 2, "UNSURE": 2, "FAKE": 0},
        "fake": {"REAL": 0, "UNSURE": 3, "FAKE": 1},
    }
    (row,) = found.sources
    assert (row.fpr.value, row.tpr.value, row.unsure.value) == (0.0, 0.25, 5 / 8)
    assert row.balanced["value"] == 0.625 and row.auc == plain.sources[0].auc
    assert found.overall["confusion"] == {"tn": 4, "fp": 0, "fn": 3, "tp": 1}
    assert found.overall["metrics"]["recall_fake"]["value"] == 0.25
    assert found.answered["coverage"].value == 3 / 8 and found.answered["error"].value == 0.0
    assert (found.points[0].fpr.value, found.points[0].tpr.value) == (0.25, 0.5)
    assert {g.name: g.tpr.value for g in found.generators} == {"G1": 0.0, "G2": 0.5}
