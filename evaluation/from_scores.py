"""Judging any detector by a CSV of its scores, with a threshold given or set on validation scores."""

from __future__ import annotations

from collections.abc import Callable

import click
import numpy as np

from common.errors import UserError
from evaluation.detector_result import Judged, Request, add_robustness, judged
from metrics.classification import FPRS
from metrics.judging import Rule
from metrics.robustness import by_condition
from metrics.scores import CLEAN, Scores, own_thresholds, read_scores, write_scores
from reports.detector_lines import print_end, print_found, robustness_line


def judge_table(r: Request) -> Judged:
    """Judge the scores in the file `r.target` and print what was found."""
    everything = read_scores(r.target, group_by=r.group_by)
    notes = []
    points: list[tuple[float, float]] = []
    shifted = ""
    if r.calibrate_on is not None:
        rule, points, change = _calibrated_on(r, everything)
        everything.score = change(everything.score)
    elif r.threshold is not None:
        low = r.threshold if r.unsure_from is None else r.unsure_from
        rule = Rule(r.threshold, low, "given by --threshold")
    else:
        rule, everything.score, shifted = _by_their_own(r, everything.score)
    outside = everything.score.min() < 0 or everything.score.max() > 1
    if outside:
        notes.append(
            f"scores go from {everything.score.min():g} to {everything.score.max():g}: they are ranks, not"
            " probabilities, so there is no Brier score, log loss or calibration error"
        )
    if shifted:
        notes.append(shifted)
    degraded = (everything.degradation != CLEAN).any()
    if not (everything.degradation == CLEAN).any():
        raise UserError(f"{r.target}: every row has a degradation; add the rows of the clean images (it left empty)")
    clean = everything.select(everything.degradation == CLEAN)
    if r.robustness and not degraded:
        raise UserError(
            f"--robustness: {r.target} has no column degradation with scores of degraded images; add them, or give the"
            " detector itself with --data"
        )
    click.echo(f"{r.target}: scores of {len(clean)} images")
    settings = {"target": r.target, "seed": r.seed, "resamples": r.resamples}
    result = judged(r, r.target, rule, clean, points, not (outside or shifted), notes, settings)
    if degraded:
        seen, scores, left_out = by_condition(everything)
        if left_out:
            result.notes.append(f"{left_out} images lack some degradation and are left out of the robustness part")
        if not len(seen):
            raise UserError(f"{r.target}: no image has scores under all its degradations; complete the rows")
        add_robustness(r, result, seen, scores)
    print_found(result, everything=True)
    for condition in result.robustness:
        click.echo(robustness_line(condition))
    print_end(result)
    if r.csv:
        write_scores(r.csv, everything, rule.answers(everything.score))
        click.echo(f"{r.csv} written: every row with its verdict")
    return result


def _by_their_own(r: Request, score: np.ndarray) -> tuple[Rule, np.ndarray, str]:
    """(rule, scores, note): every row judged at the threshold in its column `threshold`.

    Where there are several (folds have one each), the scores of each are moved, in log-odds where they are
    probabilities, so that all thresholds lie at the middling one. No row's call and no order within a fold changes."""
    own = own_thresholds(r.target)
    common = float(np.sort(own)[len(own) // 2])
    low = common if r.unsure_from is None else r.unsure_from
    if low > common:
        raise UserError(f"--unsure-from {low:g}: lies above the threshold {common:g}: lower it")
    different = np.unique(own)
    if len(different) == 1:
        return Rule(common, low, "the file's column threshold"), score, ""
    both = np.r_[score, own]
    if both.min() >= 0 and both.max() <= 1:
        edge = np.finfo(np.float64).tiny
        odds, at = (np.log(np.maximum(v, edge)) - np.log1p(-np.minimum(v, 1 - 2**-53)) for v in (score, own))
        moved = 1 / (1 + np.exp(-(odds - at + np.log(common) - np.log1p(-min(common, 1 - 2**-53)))))
    else:
        moved = score - own + common
    moved = np.where(score >= own, np.maximum(moved, common), np.minimum(moved, np.nextafter(common, -np.inf)))
    note = (
        f"{len(different)} thresholds, from {different[0]:.4g} to {different[-1]:.4g}, such as folds have: every image"
        f" is called at its own. Scores were moved so that all lie at {common:.4g}, and rank so; there is no"
        " calibration error of them"
    )
    return Rule(common, low, "each row's own, by the file's column threshold"), moved, note


def _calibrated_on(r: Request, tested: Scores) -> tuple[Rule, list[tuple[float, float]], Callable]:
    """(rule, further operating points, what turns raw scores into those the rule is for)."""
    from discriminator.calibration import calibrate, threshold_at_fpr, unsure_band

    valid = read_scores(r.calibrate_on)
    valid = valid.select(valid.degradation == CLEAN)
    # equal paths alone may be chance (0001.png), equal scores with all their digits are not
    same = set(zip(valid.path, valid.label, valid.score)) & set(zip(tested.path, tested.label, tested.score))
    if same:
        raise UserError(
            f"--calibrate-on {r.calibrate_on}: holds {len(same)} of the images that are judged, like {min(same)[0]}: a"
            " threshold set on them proves nothing; give validation images"
        )
    real, fake = valid.score[valid.label == 0], valid.score[valid.label == 1]
    if not len(real):
        raise UserError(f"--calibrate-on {r.calibrate_on}: has no real images, and they set the threshold; add some")
    fpr = 0.01 if r.fpr is None else r.fpr
    if not 0 <= fpr < 1:
        raise UserError(f"--fpr {fpr:g}: a false-alarm rate is at least 0 and below 1")
    everything = np.concatenate([valid.score, tested.score])
    said = f"set for {100 * fpr:g} % false alarms on the {len(real)} reals of {r.calibrate_on}"
    change: Callable = np.asarray
    if everything.min() < 0 or everything.max() > 1:
        if len(fake):
            found = calibrate(valid.score, valid.label)
            change = found.probability
            real, fake = change(real), change(fake)
            said += f", scores made probabilities there (temperature {found.temperature:.3g}, bias {found.bias:.3g})"
    threshold = threshold_at_fpr(real, fpr)
    low = threshold
    if r.unsure_from is not None:
        low = r.unsure_from
    elif len(fake):
        low = unsure_band(real, fake, threshold).low
    if low > threshold:
        raise UserError(f"--unsure-from {low:g}: lies above the threshold {threshold:g}: lower it")
    return Rule(threshold, low, said), [(f, threshold_at_fpr(real, f)) for f in FPRS], change
