"""A detector's evaluation as data: what was found, and what every way to it has in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from common.errors import UserError
from evaluation.bias import Bias
from evaluation.options import DetectorOptions
from evaluation.scoring import place_of
from metrics.bootstrap import Rate
from metrics.breakdown import AnswerRule, Breakdown, break_down
from metrics.classification import best_threshold, swapped_note
from metrics.robustness import Condition, measure
from metrics.scores import CLEAN, Scores, groups_in_words


@dataclass
class DetectorResult:
    """All that was found. `scores`: the undegraded images. `robustness`: conditions of the images `pool_name`, clean
    first; `by_source`: for each source the same as far as it is shown. `skipped`: (name, reason) of broken images.
    `tables`: every score, a table a condition, those of undegraded images first. `bias`: where it was asked for."""

    title: str
    rule: AnswerRule
    scores: Scores
    breakdown: Breakdown
    calibrated: bool
    oracle: tuple[float, float] | None
    robustness: list[Condition] = field(default_factory=list)
    robustness_of: str = ""
    by_source: dict[str, list[Condition]] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    settings: dict = field(default_factory=dict)
    tables: list[Scores] = field(default_factory=list)
    bias: Bias | None = None

    def to_json(self) -> dict:
        j = self.breakdown
        return {
            "settings": self.settings,
            "rule": {"threshold": self.rule.threshold, "unsure_low": self.rule.unsure_low, "origin": self.rule.origin},
            "overall": j.overall and {"images": j.pool_name, **j.overall},
            "oracle": self.oracle and {"balanced_accuracy": self.oracle[0], "threshold": self.oracle[1]},
            "answers": j.confusion,
            "answered": {name: found._asdict() for name, found in j.answered.items()},
            "operating_points": [p.to_dict() for p in j.points],
            "sources": [row.to_dict() for row in j.sources],
            "generators": [row.to_dict() for row in j.generators],
            "pairs": [row.to_dict() for row in j.pairs],
            "robustness": {"images": self.robustness_of, "conditions": [c.to_dict() for c in self.robustness]},
            "robustness_by_source": {name: [c.to_dict() for c in rows] for name, rows in self.by_source.items()},
            "bias": self.bias and self.bias.to_dict(),
            "skipped": [list(pair) for pair in self.skipped],
            "notes": self.notes,
        }


def summarise(
    options: DetectorOptions,
    rule: AnswerRule,
    scores: Scores,
    *,
    points: Sequence[tuple[float, float]],
    calibrated: bool,
    notes: list[str],
    settings: dict,
) -> DetectorResult:
    """All figures of the scores of undegraded images. points: (false-alarm rate, threshold) of further operating
    points; calibrated: whether scores are probabilities; settings: what the report names as the basis."""
    names = set(scores.source)
    lender = options.reals_from
    if lender is not None and lender not in names:
        lender = short if (short := place_of(lender)[1]) in names else lender
    found = break_down(
        scores, rule, points=points, reals_from=lender, calibrated=calibrated, count=options.resamples,
        seed=options.seed,
    )  # fmt: skip
    notes += _swapped(scores, found)
    oracle = None
    if found.overall is not None:
        pool = scores.select(found.pool)
        oracle = best_threshold(pool.label, pool.score, pool.undecided)
        share = found.overall["n_fake"] / (found.overall["n_fake"] + found.overall["n_real"])
        if calibrated and not 0.4 <= share <= 0.6:
            notes.append(
                f"{100 * share:.0f} % of these images are fake; a probability is meant at equal odds, so Brier score,"
                " log loss and calibration error measure the odds as well"
            )
    elif scores.label.min() != scores.label.max():
        notes.append(
            "no source has both reals and fakes, so there is no AUC and no accuracy: `reals_from` NAME pairs the reals"
            " of one source with the fakes of the others"
        )
    if together := groups_in_words(scores.group, scores.grouped_by):
        notes.append(f"intervals: {together}")
    settings = settings | {"seed": options.seed, "resamples": options.resamples}
    return DetectorResult(
        settings["target"], rule, scores, found, calibrated, oracle, notes=notes, settings=settings, tables=[scores]
    )


def _swapped(scores: Scores, found: Breakdown) -> list[str]:
    """A line for each source whose labels look the wrong way round, or for all of them together."""
    lines = []
    for row in found.sources:
        if row.auc is not None:
            own = scores.label[scores.source == row.name]
            lines.append(swapped_note(row.auc["value"], int((own == 0).sum()), int((own == 1).sum()), row.name))
    if found.overall is not None and not any(lines):
        own = scores.label[found.pool]
        value = found.overall["metrics"]["roc_auc"]["value"]
        lines.append(swapped_note(value, int((own == 0).sum()), int((own == 1).sum())))
    return [line for line in lines if line]


def answer_rule(
    options: DetectorOptions, threshold: float, low: float, origin: str, *, ranks: bool = False
) -> AnswerRule:
    """The rule of a threshold and its lower end of UNSURE, unless `unsure_from` is another; ranks: as `AnswerRule` has
    it. UserError above the threshold."""
    low = low if options.unsure_from is None else options.unsure_from
    if low > threshold:
        raise UserError(f"`unsure_from` {low:g}: lies above the threshold {threshold:g}: lower it")
    return AnswerRule(threshold, low, origin, ranks)


def add_robustness(options: DetectorOptions, result: DetectorResult, tables: dict[str, Scores]) -> None:
    """tables: the same images in every condition, in the same order, the clean ones among them."""
    clean = tables[CLEAN]
    inside = set(result.scores.source[result.breakdown.pool])
    pool = np.array([source in inside for source in clean.source]) if inside else np.ones(len(clean), dtype=bool)
    if inside and len(clean) == len(result.scores):
        pool = np.isin(np.arange(len(clean)), result.breakdown.pool)

    def of(mask: np.ndarray) -> list[Condition]:
        part = {name: table.select(mask) for name, table in tables.items()}
        return at_threshold(part, result, options.resamples, options.seed)

    result.robustness = of(pool)
    result.robustness_of = result.breakdown.pool_name or "all"
    if not inside:  # no figure sets reals from one place against fakes from another
        nan = float("nan")
        none = Rate(nan, nan, nan, 0)
        result.robustness = [replace(c, auc=nan, balanced=none, change=none) for c in result.robustness]
    for name in dict.fromkeys(clean.source):
        result.by_source[name] = of(clean.source == name)


def at_threshold(tables: dict[str, Scores], result: DetectorResult, count: int, seed: int = 0) -> list[Condition]:
    """Each condition's rates by the result's rule. tables: as in `add_robustness`."""
    clean, seen, undecided = tables[CLEAN], {}, {}
    for name, table in tables.items():
        seen[name], undecided[name] = table.score, table.undecided
    return measure(
        clean.label, seen, result.rule.threshold, undecided=undecided, groups=clean.group, count=count, seed=seed
    )
