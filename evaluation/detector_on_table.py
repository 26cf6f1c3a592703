"""Any detector evaluated by a CSV of its scores, with a threshold given or set on validation scores."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from common.errors import UserError
from common.words import counted
from discriminator.calibration import calibrate, threshold_at_fpr, unsure_band
from evaluation.detector_result import DetectorResult, add_robustness, answer_rule, summarise
from evaluation.listener import Listener
from evaluation.options import DetectorOptions
from metrics.breakdown import AnswerRule
from metrics.classification import FPRS
from metrics.robustness import by_condition
from metrics.scores import CLEAN, Scores, own_thresholds, read_scores


def evaluate_table(
    options: DetectorOptions,
    listener: Listener = Listener(),  # noqa: B008 (frozen)
) -> DetectorResult:
    """Judge the scores in the file `options.target`."""
    everything = read_scores(options.target, group_by=options.group_by)
    rule, points, everything.score, shifted = _rule(options, everything)
    notes = [shifted] if shifted else []
    outside = not _probabilities(everything.score)
    if outside:
        notes.insert(
            0,
            f"scores go from {everything.score.min():g} to {everything.score.max():g}: they are ranks, not"
            " probabilities, so there is no Brier score, log loss or calibration error",
        )
    degraded = (everything.degradation != CLEAN).any()
    if not (everything.degradation == CLEAN).any():
        raise UserError(
            f"{options.target}: every row has a degradation; add the rows of the clean images (it left empty)"
        )
    clean = everything.select(everything.degradation == CLEAN)
    if options.robustness and not degraded:
        raise UserError(
            f"`robustness`: {options.target} has no column degradation with scores of degraded images; add them, or"
            " give the detector itself with `data`"
        )
    listener.tell(f"{options.target}: scores of {counted(len(clean), 'image')}")
    result = summarise(
        options, rule, clean, points=points, calibrated=not (outside or shifted), notes=notes,
        settings={"target": options.target},
    )  # fmt: skip
    result.tables = [everything]
    if degraded:
        seen, left_out = by_condition(everything)
        if left_out:
            result.notes.append(
                f"{counted(left_out, 'image')} without some degradation, left out of the robustness part"
            )
        if not len(seen[CLEAN]):
            raise UserError(f"{options.target}: no image has scores under all its degradations; complete the rows")
        add_robustness(options, result, seen)
    return result


def _rule(options: DetectorOptions, scores: Scores) -> tuple[AnswerRule, list[tuple[float, float]], np.ndarray, str]:
    """(rule, further operating points, the scores that the rule is for, a note where they were moved)"""
    if options.calibrate_on is not None:
        rule, points, change = _calibrated_on(options.calibrate_on, options, scores)
        return rule, points, change(scores.score), ""
    if (given := options.threshold) is not None:
        ranks = not _probabilities(scores.score)
        return answer_rule(options, given, given, "given by `threshold`", ranks=ranks), [], scores.score, ""
    own = own_thresholds(options.target)
    if own is None:
        raise UserError(
            f"{options.target}: scores have no threshold of their own: give `threshold` T, or `calibrate_on` VALID.csv,"
            " scores of validation images, to set it by `fpr`"
        )
    rule, moved, note = _by_their_own(options, scores.score, own)
    return rule, [], moved, note


def _probabilities(scores: np.ndarray) -> bool:
    """Whether scores can be taken for probabilities."""
    return bool(scores.min() >= 0 and scores.max() <= 1)


def _by_their_own(options: DetectorOptions, score: np.ndarray, own: np.ndarray) -> tuple[AnswerRule, np.ndarray, str]:
    """(rule, scores, note): every row judged at the threshold in its column `threshold`.

    Where there are several (folds have one each), the scores of each are moved, in log-odds where they are
    probabilities, so that all thresholds lie at the middling one. No row's call and no order within a fold changes."""
    common = float(np.sort(own)[len(own) // 2])
    different = np.unique(own)
    if len(different) == 1:
        ranks = not _probabilities(score)
        return answer_rule(options, common, common, "the file's column threshold", ranks=ranks), score, ""
    # what was moved is no probability any more
    rule = answer_rule(options, common, common, "each row's own, by the file's column threshold", ranks=True)
    if _probabilities(np.r_[score, own]):
        edge = np.finfo(np.float64).tiny
        odds, at = (np.log(np.maximum(v, edge)) - np.log1p(-np.minimum(v, 1 - 2**-53)) for v in (score, own))
        moved = 1 / (1 + np.exp(-(odds - at + np.log(common) - np.log1p(-min(common, 1 - 2**-53)))))
    else:
        moved = score - own + common
    moved = np.where(score >= own, np.maximum(moved, common), np.minimum(moved, np.nextafter(common, -np.inf)))
    note = (
        f"{counted(len(different), 'threshold')}, from {different[0]:.4g} to {different[-1]:.4g}, such as folds have:"
        " every image"
        f" is called at its own. Scores were moved so that all lie at {common:.4g}, and rank so; there is no"
        " calibration error of them"
    )
    return rule, moved, note


def _calibrated_on(
    file: str, options: DetectorOptions, tested: Scores
) -> tuple[AnswerRule, list[tuple[float, float]], Callable]:
    """(rule, further operating points, what turns raw scores into those the rule is for)."""
    valid = read_scores(file)
    valid = valid.select(valid.degradation == CLEAN)
    # equal paths alone may be chance (0001.png), equal scores with all their digits are not
    same = set(zip(valid.path, valid.label, valid.score)) & set(zip(tested.path, tested.label, tested.score))
    if same:
        raise UserError(
            f"`calibrate_on` {file}: holds {len(same)} of the images that are judged, like {min(same)[0]}: a threshold"
            " set on them proves nothing; give validation images"
        )
    real, fake = valid.score[valid.label == 0], valid.score[valid.label == 1]
    if not len(real):
        raise UserError(f"`calibrate_on` {file}: has no real images, and they set the threshold; add some")
    fpr = 0.01 if options.fpr is None else options.fpr
    if not 0 <= fpr < 1:
        raise UserError(f"`fpr` {fpr:g}: a false-alarm rate is at least 0 and below 1")
    everything = np.concatenate([valid.score, tested.score])
    said = f"set for {100 * fpr:g} % false alarms on the {counted(len(real), 'real')} of {file}"
    change: Callable = np.asarray
    ranks = not _probabilities(everything)
    if ranks:
        if len(fake):
            ranks = False
            found = calibrate(valid.score, valid.label)
            change = found.probability
            real, fake = change(real), change(fake)
            said += f", scores made probabilities there (temperature {found.temperature:.3g}, bias {found.bias:.3g})"
    threshold = threshold_at_fpr(real, fpr)
    low = unsure_band(real, fake, threshold).low if len(fake) else threshold
    rule = answer_rule(options, threshold, low, said, ranks=ranks)
    return rule, [(f, threshold_at_fpr(real, f)) for f in FPRS], change
