"""The end of a training: the kept network, calibrated on validation images, as a detector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from discriminator.calibration import Calibration, calibrate, default_fpr_for
from discriminator.detector import Detector
from discriminator.network import Network
from discriminator.training.selection import Validation, figures, scores
from faces.preprocess import Preprocess


@dataclass(frozen=True)
class TrainingEnd:
    """What came of a training. labels [N]; views: name -> raw logits [N] of the validation images; figures: theirs."""

    detector: Detector
    labels: np.ndarray
    views: dict[str, np.ndarray]
    figures: dict[str, float]


def calibrated(
    net: Network,
    validation: Validation,
    preprocess: Preprocess,
    meta: dict,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> TrainingEnd:
    """The detector, and its figures on the validation images at its own default threshold.

    Scores are computed in float32, as a verdict's are. Temperature and thresholds are fitted on the clean and the
    degraded views together, so that a stated false-alarm rate holds for re-saved photos too; its interval counts
    photos, not views. UserError if a class is missing or scores are not finite."""
    logits = scores(net, validation, workers=workers, progress=progress)
    n_real = int((validation.labels == 0).sum())
    calibration = calibrate(
        logits.ravel(),
        np.tile(validation.labels, len(logits)),
        default_fpr=default_fpr_for(n_real),
        views=len(logits),
    )
    told = {
        "calibrated_on": "validation images, each clean and once degraded (the training's chain, web, hard in turn)",
        "validation_images": {"real": n_real, "fake": int(len(validation) - n_real)},
    }
    detector = Detector(net, preprocess, calibration, {**meta, **told})
    views = {name: row for (name, _), row in zip(validation.views, logits, strict=True)}
    found = figures(validation, logits) | at_threshold(validation, logits, calibration)
    return TrainingEnd(detector, validation.labels, views, found)


def at_threshold(validation: Validation, logits: np.ndarray, calibration: Calibration) -> dict[str, float]:
    """False alarms, fakes found and balanced accuracy of each view at the default threshold."""
    threshold, labels = calibration.at().threshold, validation.labels
    out = {"threshold": threshold}
    for (name, _), row in zip(validation.views, logits, strict=True):
        called = calibration.probability(row) >= threshold
        false, found = float(called[labels == 0].mean()), float(called[labels == 1].mean())
        out |= {f"false_alarms_{name}": false, f"found_{name}": found, f"balanced_{name}": (1 - false + found) / 2}
    return out
