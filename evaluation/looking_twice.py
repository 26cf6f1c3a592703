"""A detector learns where to look a second time (`discriminator.second_look`), on validation images alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common.device import pick_device
from common.errors import UserError
from discriminator.calibration import Calibration, calibrate, default_fpr_for
from discriminator.detector import Detector
from discriminator.detector_base import Raw
from discriminator.ensemble_fit import as_given
from discriminator.second_look import SecondLook, around
from evaluation.ensemble import check_looks_once, check_no_fold, detector_file
from evaluation.ensemble_scores import LEAST, MemberScores, check_enough, fit_parts, score_parts, tell_parts
from evaluation.listener import Listener
from evaluation.options import SecondLookOptions
from evaluation.scoring import LabelledImages
from metrics.answers import called_fake
from metrics.classification import roc_auc, tpr_at_fpr


class _Mirrored(Detector):
    """The same detector, of the mirror image."""

    def once(self, pixels: np.ndarray) -> Raw:
        return super().once(self.preprocess.mirrored(pixels))


@dataclass
class LookingTwice:
    """The detector; what one look and both say of images: {"validation": …, "test": …} -> {"one look" | "second look"
    -> {"auc", "found", "false_alarms", …}}; twice: {"validation real": share looked at twice, …}."""

    detector: Detector
    figures: dict[str, dict[str, dict[str, float]]]
    twice: dict[str, float]
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict:
        look = self.detector.second_look
        assert look is not None
        return {
            "sha256": self.detector.sha256, "second_look": look.to_dict(), "figures": self.figures,
            "looked_at_twice": self.twice, "calibration": self.detector.calibration.to_dict(), "notes": self.notes,
        }  # fmt: skip


def look_twice(options: SecondLookOptions, listener: Listener = Listener()) -> LookingTwice:  # noqa: B008 (frozen)
    """Score, fit, calibrate. UserError, one line, for what a person can mend."""
    path = detector_file(options.target, "target")
    if Path(options.out).exists() and Path(options.out).resolve() == path.resolve():
        raise UserError(f"`out` {options.out}: is the detector itself; choose another name")
    first = Detector.load(path, pick_device(options.device))
    check_looks_once(options.target, first)
    check_no_fold(options.target, first, "give a detector of one training")
    other = _Mirrored(first.net, first.preprocess, first.calibration, first.meta)
    other.sha256 = hashlib.sha256(f"the mirror image, by {first.sha256}".encode()).hexdigest()  # scores are kept by it
    valid_parts, test_parts = fit_parts(options, [first])
    tell_parts(listener, valid_parts, test_parts)
    fit = score_parts([first, other], valid_parts, options, listener, degraded=True, what="validation")
    check_enough(
        fit.labels,
        lambda few: (
            f"`data` {', '.join(options.data)}: {few} validation images can be judged; a second look is fitted on"
            f" {LEAST} of each class at least"
        ),
    )
    look, calibration = fitted(_logits(first, fit), fit.labels, fit.sources if options.each_source else None)
    meta = first.meta | fit.origin | {"second_look": {"of": first.sha256, "fitted_on": fit.said}}
    twice = Detector(first.net, first.preprocess, calibration, meta, look)
    found = LookingTwice(twice, {}, {}, list(fit.notes))
    sides: list[tuple[str, MemberScores, Sequence[LabelledImages]]] = [("validation", fit, valid_parts)]
    if test_parts:
        rows = score_parts([first, other], test_parts, options, listener, degraded=False, what="test")
        sides.append(("test", rows, test_parts))
    for name, rows, parts in sides:
        logits, labels = _logits(first, rows).reshape(-1, 2), np.tile(rows.labels, len(rows.z))
        both = look.score(*logits.T)
        once_open = again_open = np.zeros(len(labels), bool)
        if first.join is not None:  # what both looks leave open follows from no score: the detector itself is asked
            assert rows.undecided is not None
            once_open = rows.undecided[:, :, 0].ravel()
            said = score_parts([twice], parts, options, listener, degraded=len(rows.z) > 1, what=f"{name}, twice:")
            assert said.undecided is not None
            again_open = said.undecided[:, :, 0].ravel()
        found.figures[name] = {
            "one look": _figures(first.calibration, logits[:, 0], labels, once_open),
            "second look": _figures(calibration, both, labels, again_open),
        }
        weight = look.weight(logits[:, 0])
        for label, kind in enumerate(("real", "fake")):
            if (of := labels == label).any():
                found.twice[f"{name} {kind}"] = float((weight[of] > 0).mean())
    return found


def fitted(logits: np.ndarray, labels: np.ndarray, sources: np.ndarray | None = None) -> tuple[SecondLook, Calibration]:
    """logits float64 [views, n, 2]: of the first look and of the mirror image; labels [n]; sources: see `calibrate`."""
    views, flat, every = len(logits), logits.reshape(-1, 2), np.tile(labels, len(logits))
    fpr = default_fpr_for(int((labels == 0).sum()))
    first, mirrored = flat.T
    of = None if sources is None else np.tile(sources, views)
    look = around(calibrate(flat.mean(1), every, default_fpr=fpr, views=views, sources=of), first, mirrored)
    return look, calibrate(look.score(first, mirrored), every, default_fpr=fpr, views=views, sources=of)


def _logits(detector: Detector, rows: MemberScores) -> np.ndarray:
    """The raw logits that gave calibrated log-odds."""
    return as_given(detector.calibration.logit(rows.z))


def _figures(
    calibration: Calibration, logits: np.ndarray, labels: np.ndarray, undecided: np.ndarray
) -> dict[str, float]:
    point = calibration.at()
    said = called_fake(calibration.probability(logits), point.threshold, undecided)
    out = {"threshold": point.threshold, "target_fpr": point.target_fpr}
    for label, name in enumerate(("false_alarms", "found")):
        if (of := labels == label).any():
            out[name] = float(said[of].mean())
    if len(np.unique(labels)) == 2:
        out |= {"auc": roc_auc(labels, logits), "tpr_at_fpr": tpr_at_fpr(labels, logits, point.target_fpr)}
    return out


def lines_of(found: LookingTwice) -> list[str]:
    """What a second look changes, for people."""
    lines = [f"note: {note}" for note in found.notes]
    for name, both in found.figures.items():
        twice = [f"{100 * share:.1f} % of the {what.split()[1]}" for what, share in found.twice.items() if name in what]
        lines.append(f"{name} images: looks twice at {' and '.join(f'{one} ones' for one in twice)}")
        lines += [f"  {how:<12} {_line(one)}" for how, one in both.items()]
    detector = found.detector
    lines += [f"calibrated: {100 * p.target_fpr:g} %: {p.describe()}" for p in detector.calibration.points]
    return lines


def _line(one: dict[str, float]) -> str:
    texts: Sequence[tuple[str, str]] = (
        ("auc", "AUC {:.4f}"), ("found", "found {:.1%}"), ("false_alarms", "false alarms {:.2%}"),
    )  # fmt: skip
    told = [text.format(one[key]).replace("%", " %") for key, text in texts if key in one]
    return ", ".join([*told, f"at its threshold {one['threshold']:.4f}"])
