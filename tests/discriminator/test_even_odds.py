"""REAL is never said of what is more likely generated than not, wherever the verdict is made."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from discriminator.calibration import Calibration, calibrate
from discriminator.detector_base import DetectorBase
from discriminator.verdict import Threshold, decide
from metrics.answers import answers
from metrics.breakdown import AnswerRule
from tests.discriminator.conftest import make_calibration


def logit_of(calibration: Calibration, probability: float) -> float:
    return calibration.temperature * (np.log(probability / (1 - probability)) - calibration.bias)


def narrow(threshold: float, low: float) -> Calibration:
    """As a file says it whose band was made before there was this rule: empty, above even odds."""
    old = make_calibration()
    return replace(old, points=tuple(replace(p, threshold=threshold, unsure_low=low) for p in old.points))


@pytest.mark.parametrize(
    ("threshold", "low", "said"),
    [
        (0.747, 0.747, {0.748: "FAKE", 0.74: "UNSURE", 0.5001: "UNSURE", 0.4999: "REAL"}),
        (0.9, 0.2, {0.95: "FAKE", 0.89: "UNSURE", 0.2001: "UNSURE", 0.19: "REAL"}),
        (0.244, 0.244, {0.3: "FAKE", 0.25: "FAKE", 0.243: "REAL"}),
    ],
)
def test_a_verdict_and_a_figure_follow_one_rule(threshold, low, said):
    detector = DetectorBase()
    detector.meta, detector.calibration = {}, narrow(threshold, low)
    by = Threshold.of(detector.calibration)
    for probability, label in said.items():
        verdict = detector.verdict(logit_of(detector.calibration, probability), by)
        assert (verdict.label, verdict.probability) == (label, pytest.approx(probability))
        assert verdict.unsure_low == min(threshold, low, 0.5) == by.to_dict()["unsure_low"]
        assert decide(probability, detector.calibration.at()) == label, "the file's point says it as well"
    scores = np.array(list(said))
    assert AnswerRule(threshold, low, "").answers(scores).tolist() == list(said.values())
    assert answers(scores, threshold, low).tolist() == list(said.values())


def test_what_a_narrower_band_did_on_validation_images_is_not_claimed():
    old = replace(make_calibration().at(), threshold=0.747, unsure_low=0.747)
    moved = Threshold(old).point
    assert (moved.miss, moved.coverage, moved.error) == (None, None, None)
    assert (moved.fpr, moved.tpr, moved.threshold) == (old.fpr, old.tpr, old.threshold)
    kept = replace(old, unsure_low=0.3)
    assert Threshold(kept).point is kept


def test_an_own_threshold_above_even_odds_leaves_a_band():
    by = Threshold.of(narrow(0.747, 0.747), threshold=0.99)
    assert (by.point.threshold, by.point.unsure_low) == (0.99, 0.5)
    assert Threshold.of(narrow(0.747, 0.747), threshold=0.1).point.unsure_low == 0.1


def test_new_calibrations_count_the_band_in():
    """Well parted classes, and a few high reals that lift the threshold above the lowest fakes' scores."""
    rng = np.random.default_rng(0)
    logits = np.concatenate([rng.normal(-3, 1, 990), np.full(10, 4.5), rng.normal(3, 1, 1000)])
    labels = np.repeat([0, 1], 1000)
    found = calibrate(logits, labels)
    p, point = found.probability(logits), found.at(0.005)
    assert point.threshold > 0.9 and point.unsure_low == 0.5
    said = answers(p, point.threshold, point.unsure_low)
    assert point.miss == np.mean(said[labels == 1] == "REAL") and point.tpr == np.mean(said[labels == 1] == "FAKE")
    assert point.coverage == pytest.approx(np.mean(said != "UNSURE")), "classes are of one size"
    assert (said[labels == 0] == "FAKE").sum() == point.false_alarms


def test_ranks_have_no_even_odds():
    rule = AnswerRule(2.0, 1.0, "", ranks=True)
    assert rule.unsure_low == 1.0
    assert rule.answers(np.array([2.0, 1.5, 0.7, -3.0])).tolist() == ["FAKE", "UNSURE", "REAL", "REAL"]
