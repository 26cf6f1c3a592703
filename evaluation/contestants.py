"""One contestant of a comparison: what its file says of it, what it costs, and how fast it is here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from common.errors import UserError
from discriminator.detector import Detector
from training.telemetry import read_jsonl

AT_ONCE = 8  # images
OF_REALS = ("precision_real", "recall_real", "f1_real")  # figures in compare.csv and compare.json, not in the tables
ROUNDS = 7
LONGEST = 60.0  # seconds of measuring for all


@dataclass
class Contestant:
    """`scores` [n]: grows with the belief in FAKE; `called` bool [n]: FAKE was said at the shipped threshold, None
    where that is not known; undecided bool [n]: it would not be at any threshold (`evaluation.scoring.Judged`).
    metrics: {name: {"value", "low", "high"}}. flops: of one image, a multiply-add counted as two. What is not known is
    None."""

    name: str
    spec: str
    path: Path
    detector: Detector | None = None
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0))
    called: np.ndarray | None = None
    undecided: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    threshold: float | None = None
    target_fpr: float | None = None
    at_one_percent: float | None = None
    resolution: int | None = None
    parameters: int | None = None
    flops: int | None = None
    images_per_second: float | None = None
    training_seconds: float | None = None
    epochs: float | None = None
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)

    def keep(self, rows: np.ndarray) -> None:
        """Only these images."""
        self.scores = self.scores[rows]
        self.called = None if self.called is None else self.called[rows]
        self.undecided = self.undecided[rows] if len(self.undecided) else self.undecided

    def to_dict(self) -> dict:
        left = ("path", "detector", "scores", "called", "undecided")
        digest = {} if self.detector is None else {"sha256": self.detector.sha256}
        return {name: value for name, value in vars(self).items() if name not in left} | digest


def open_model(one: Contestant, detector: Detector, fpr: float | None) -> None:
    """Fill in what a detector's file tells. fpr: of the threshold that counts (default: the shipped one).
    UserError for a rate that was not calibrated."""
    try:
        point = detector.calibration.at(fpr)
    except UserError as error:
        raise UserError(f"{one.spec}: {error}") from None
    one.detector = detector
    one.threshold, one.target_fpr = point.threshold, point.target_fpr
    one.at_one_percent = {round(p.target_fpr, 6): p.threshold for p in detector.calibration.points}.get(0.01)
    one.resolution = detector.preprocess.resolution
    one.parameters = sum(p.numel() for p in detector.net.parameters())
    one.flops = flops_of(detector)
    one.training_seconds, one.epochs = training_of(one.path, detector.meta)


def flops_of(detector: Detector) -> int:
    """Floating-point operations of one verdict in convolutions, matrix products and attention, a multiply-add counted
    as two; filters, norms and activations are not counted."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        detector.net.verdict(torch.from_numpy(_zeros(detector, 1)).to(detector.device))
    return int(counter.get_total_flops())


def _zeros(detector: Detector, count: int) -> np.ndarray:
    photo = np.full((detector.preprocess.resolution,) * 2 + (3,), 127, np.uint8)
    pixels = detector.preprocess.uint8(photo)
    return detector.preprocess.normalise(np.stack([pixels] * count))


def training_of(path: Path, meta: dict) -> tuple[float | None, float | None]:
    """(seconds, epochs) of the training: of the run's log beside the file, else what the header tells."""
    seconds = epochs = None
    for row in read_jsonl(path.parent / "stats.jsonl"):
        seconds = row.get("Timing/total_sec", seconds)
        epochs = row.get("Progress/epoch", row.get("epoch", epochs))
    if seconds is None:
        seconds = meta.get("seconds")
    if epochs is None:
        steps, recipe = meta.get("steps"), meta.get("recipe") or {}
        shown = sum((meta.get("train_images") or {}).values()) if isinstance(meta.get("train_images"), dict) else 0
        if isinstance(steps, int) and recipe.get("batch") and shown:
            epochs = steps * recipe["batch"] / shown
    return _number(seconds), _number(epochs)


def _number(value: object) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def measure_speed(contestants: Sequence[Contestant], bar: Callable) -> None:
    """Images a second of the networks alone, on prepared photos, AT_ONCE at a time: all of them by turns, ROUNDS times,
    the best of each, so that whatever else the machine does hits all alike."""
    networks = [(one, one.detector, _zeros(one.detector, AT_ONCE)) for one in contestants if one.detector is not None]
    best = dict.fromkeys((one.name for one, _, _ in networks), math.inf)
    began = time.perf_counter()
    for number in bar(range(ROUNDS + 1), title="speed", unit="round"):
        for one, detector, photos in networks:
            begin = time.perf_counter()
            detector.once(photos)  # brings the logits to the CPU, so the device has finished
            if number:  # the first is a warming up
                best[one.name] = min(best[one.name], time.perf_counter() - begin)
        if number >= 2 and time.perf_counter() - began > LONGEST:
            break
    for one, _, _ in networks:
        one.images_per_second = AT_ONCE / best[one.name]
