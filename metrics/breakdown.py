"""A table of scores and one fixed rule, and all that is to be said of the detector: together, by source, by generator.

A source with reals only has a false-alarm rate, one with fakes only a detection rate. What needs both classes (AUC,
balanced accuracy, calibration) is told only of images that belong together: of sources with both, or of pairs somebody
asked for. Reals from here and fakes from there differ in more than the generator, and an AUC would measure that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from faces.manifest import text_column
from metrics.answers import EVEN, answers, real_below
from metrics.bootstrap import RESAMPLES, Rate, Rated, rate
from metrics.classification import report
from metrics.scores import Scores

ANSWERS = ("REAL", "UNSURE", "FAKE")
LARGE, FEWER = 20_000, 200  # rows of so many images have narrow intervals, which fewer resamples find as well


@dataclass(frozen=True)
class AnswerRule:
    """FAKE is said of scores >= threshold, REAL of those < unsure_low, UNSURE between and where a detector would not
    decide (`metrics.answers`). `origin`: where it is from. ranks: scores are no probabilities; of those an `unsure_low`
    above even odds is brought down to them."""

    threshold: float
    unsure_low: float
    origin: str
    ranks: bool = False

    def __post_init__(self) -> None:
        if not self.unsure_low <= self.threshold:
            raise UserError(f"UNSURE from {self.unsure_low} can't begin above the threshold {self.threshold}")
        object.__setattr__(self, "unsure_low", real_below(self.threshold, self.unsure_low, self._even))

    @property
    def _even(self) -> float:
        return math.inf if self.ranks else EVEN

    def answers(self, scores: np.ndarray, undecided: np.ndarray | bool = False) -> np.ndarray:
        """object [N] of "REAL", "UNSURE" and "FAKE"."""
        return text_column(answers(scores, self.threshold, self.unsure_low, undecided, self._even))

    def said(self, scores: Scores) -> np.ndarray:
        """The answers on a table of scores."""
        return self.answers(scores.score, scores.undecided)


@dataclass(frozen=True)
class Slice(Rated):
    """One part of the images. Rates are NaN where the part has no image of the class.

    fpr: share of reals called FAKE; tpr: share of fakes called FAKE; unsure: share of all that is answered UNSURE.
    balanced, auc: {"value", "low", "high"}, or None where the part has not both classes.
    """

    name: str
    n_real: int
    n_fake: int
    fpr: Rate
    tpr: Rate
    unsure: Rate
    balanced: dict | None = None
    auc: dict | None = None


@dataclass(frozen=True)
class TestedPoint(Rated):
    """Another threshold with the rate it was set for, and what it does here."""

    target_fpr: float
    threshold: float
    fpr: Rate
    tpr: Rate


@dataclass
class Breakdown:
    """What was found.

    overall: `metrics.classification.report` of the images `pool` (row numbers), None where reals and fakes have nothing
    in common. pool_name: what these are. confusion: of all images that were given. answered: {"coverage", "error"} of
    the pool as rates: share not UNSURE, and share of wrong ones among these.
    """

    overall: dict | None
    pool: np.ndarray
    pool_name: str
    confusion: dict[str, dict[str, int]]
    answered: dict[str, Rate]
    points: list[TestedPoint]
    sources: list[Slice]
    generators: list[Slice]
    pairs: list[Slice]


def break_down(
    scores: Scores,
    rule: AnswerRule,
    *,
    points: Sequence[tuple[float, float]] = (),
    reals_from: str | None = None,
    calibrated: bool = True,
    count: int = RESAMPLES,
    seed: int = 0,
) -> Breakdown:
    """All figures of a detector's scores of undegraded images.

    points: (false-alarm rate it was set for, threshold) of further operating points. reals_from: the source whose reals
    are paired with the fakes of sources without reals. calibrated: whether scores are probabilities.
    UserError where `reals_from` is no source with reals, or there is nothing to judge.
    """
    if not len(scores):
        raise UserError("there are no images to judge; give a source that holds some")
    fake, of = scores.label == 1, scores.source
    has = {name: (bool((~fake[of == name]).any()), bool(fake[of == name].any())) for name in dict.fromkeys(of)}
    settings = {"count": count, "seed": seed}
    alone = [name for name, (reals, fakes) in has.items() if fakes and not reals]
    lent = _lent(scores, has, alone, reals_from)
    pairs = [
        _slice(f"fakes of {name}, reals of {reals_from}", scores, rule, lent | ((of == name) & fake), **settings)
        for name in (alone if reals_from is not None else ())
    ]
    pool, pool_name = np.zeros(len(scores), dtype=bool), ""
    if whole := [name for name, both in has.items() if all(both)]:
        pool, pool_name = np.isin(of.astype(str), whole), ", ".join(whole)
    elif reals_from is not None:
        pool = lent | (np.isin(of.astype(str), alone) & fake)
        pool_name = f"fakes of {', '.join(alone)}, reals of {reals_from}"
    chosen = scores.select(pool)
    overall = None
    if len(chosen):
        overall = report(
            chosen.label, chosen.score, threshold=rule.threshold, undecided=chosen.undecided, groups=chosen.group,
            resamples=count, seed=seed, calibrated=calibrated,
        )  # fmt: skip
    among = chosen if len(chosen) else scores
    return Breakdown(
        overall=overall,
        pool=np.flatnonzero(pool),
        pool_name=pool_name,
        confusion=confusion(scores.label, rule.said(scores)),
        answered=_answered(among, rule),
        points=[TestedPoint(target, t, *_rates(among, t)) for target, t in points],
        sources=[_slice(name, scores, rule, of == name, **settings) for name in has],
        generators=_generators(scores, rule, has, settings),
        pairs=pairs,
    )


def _lent(scores: Scores, has: dict, alone: Sequence[str], reals_from: str | None) -> np.ndarray:
    """bool [N]: the reals that the fakes of the sources `alone` are paired with. has: {source: (reals?, fakes?)}."""
    if reals_from is None:
        return np.zeros(len(scores), dtype=bool)
    if not has.get(reals_from, (False, False))[0]:
        known = ", ".join(name for name, (reals, _) in has.items() if reals) or "none has"
        raise UserError(f"`reals_from` {reals_from}: no source of that name with reals (with reals: {known})")
    if not alone:
        raise UserError(f"`reals_from` {reals_from}: every source with fakes has reals of its own; leave it out")
    return (scores.source == reals_from) & (scores.label == 0)


def confusion(labels: np.ndarray, said: np.ndarray) -> dict[str, dict[str, int]]:
    """{"real": {answer: count}, "fake": {…}}, a class without images left out. said [N]: the answers."""
    return {
        word: {answer: int(np.sum(said[labels == label] == answer)) for answer in ANSWERS}
        for label, word in enumerate(("real", "fake"))
        if (labels == label).any()
    }


def _answered(scores: Scores, rule: AnswerRule) -> dict[str, Rate]:
    said, wrong = rule.said(scores), np.where(scores.label == 1, "REAL", "FAKE")
    decided, groups = said != "UNSURE", scores.group
    return {
        "coverage": rate(decided, groups),
        "error": rate((said == wrong)[decided], None if groups is None else groups[decided]),
    }


def _generators(scores: Scores, rule: AnswerRule, has: dict, settings: dict) -> list[Slice]:
    """A row for each named generator, with the reals of the sources its fakes lie in."""
    fake, of = scores.label == 1, scores.source
    rows = []
    for name in dict.fromkeys(scores.generator[fake]):
        if not name:
            continue
        mine = fake & (scores.generator == name)
        homes = [home for home in dict.fromkeys(of[mine]) if has[home][0]]
        rows.append(_slice(name, scores, rule, mine | (np.isin(of.astype(str), homes) & ~fake), **settings))
    return rows


def _rates(scores: Scores, threshold: float) -> tuple[Rate, Rate]:
    """(fpr, tpr)"""
    called, classes = scores.called(threshold), (scores.label == 0, scores.label == 1)
    fpr, tpr = (rate(called[c], None if scores.group is None else scores.group[c]) for c in classes)
    return fpr, tpr


def _slice(name: str, scores: Scores, rule: AnswerRule, mask: np.ndarray, *, count: int, seed: int) -> Slice:
    part = scores.select(mask)
    fake = part.label == 1
    fpr, tpr = _rates(part, rule.threshold)
    both = {}
    if fake.any() and not fake.all():
        count = count if len(part) <= LARGE else min(count, FEWER)
        found = report(
            part.label, part.score, threshold=rule.threshold, undecided=part.undecided, groups=part.group,
            resamples=count, seed=seed, calibrated=False,  # neither of the two needs probabilities
        )["metrics"]  # fmt: skip
        both = {"balanced": found["balanced_accuracy"], "auc": found["roc_auc"]}
    unsure = rate(rule.said(part) == "UNSURE", part.group)
    return Slice(name, int((~fake).sum()), int(fake.sum()), fpr, tpr, unsure, **both)


def most_accused(rows: Sequence[Slice]) -> Slice | None:
    """The row with the highest false-alarm rate; None where no row has reals."""
    return max((row for row in rows if row.n_real), key=lambda row: row.fpr.value, default=None)


def least_found(rows: Sequence[Slice]) -> Slice | None:
    """The row with the lowest detection rate; None where no row has fakes."""
    return min((row for row in rows if row.n_fake), key=lambda row: row.tpr.value, default=None)
