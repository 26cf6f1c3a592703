"""Audits of a detector itself: does it go by the face, or by how its file was saved?

One class alone is saved again and the other left as it is, as the world does not do but training sets do: a detector
that learnt «fakes are PNG» or «photos are JPEG» then moves. Beside it, false alarms for each source of photos, and for
each compression tier of the files as they come, with the threshold that the tier would need.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from common.words import counted
from discriminator.calibration import threshold_at_fpr
from evaluation.listener import Listener, nobody
from evaluation.scoring import Judged, LabelledImages, Scorer, chosen
from faces.degrade import resaves
from faces.manifest import text_column
from faces.scan import Facts
from metrics.answers import decided_by
from metrics.bootstrap import LEVEL, Rate, Rated, rate
from metrics.breakdown import AnswerRule, Slice
from metrics.scores import CLEAN, Scores
from metrics.significance import mcnemar, moved

LIMIT = 0.03  # as much may a rate move
TARGET = 0.01  # false alarms that one threshold should hold in every tier
PASS, FAIL, UNCLEAR = "PASS", "FAIL", "UNCLEAR"
TIERS = ("as saved", "web", "hard", "unknown")
ALL = "all"
WORDS = ("real", "fake")


@dataclass(frozen=True)
class Move(Rated):
    """One class of one source saved again, the other left as it is.

    saved: "real" or "fake". how: of `faces.degrade.resaves`. before, after: share of the class called FAKE; change: of
    the same images. p: McNemar's exact test. unsure_before, unsure_after: share answered UNSURE. verdict: PASS where
    the interval of the change lies within the limit, FAIL where it lies beyond, UNCLEAR where it is on both sides."""

    saved: str
    how: str
    source: str
    before: Rate
    after: Rate
    change: Rate
    p: float
    unsure_before: Rate
    unsure_after: Rate
    verdict: str


@dataclass(frozen=True)
class Tier(Rated):
    """Files of one compression tier as they come.

    side: the median longer side in pixels. fpr, tpr: at the one threshold. needed: the threshold with the target
    false-alarm rate on these very reals, with its interval; allowed: of how many of them it rests on. verdict: whether
    the one threshold holds the target, by the interval of fpr; "" without reals."""

    name: str
    n_real: int
    n_fake: int
    side: int
    fpr: Rate
    tpr: Rate
    needed: Rate
    allowed: int
    verdict: str


@dataclass(frozen=True)
class Bias:
    """What the audits found. alarms: of each source with reals."""

    moves: list[Move]
    alarms: list[Slice]
    tiers: list[Tier]
    limit: float = LIMIT
    target: float = TARGET

    @property
    def verdict(self) -> str:
        """The worst of the moves."""
        said = {move.verdict for move in self.moves}
        return next(word for word in (FAIL, UNCLEAR, PASS) if word in said)

    @property
    def worst(self) -> Move:
        """The rate that moved most."""
        return max(self.moves, key=lambda move: abs(move.change.value))

    def count(self, verdict: str) -> int:
        return sum(move.verdict == verdict for move in self.moves)

    def tier(self, name: str) -> Tier | None:
        return next((tier for tier in self.tiers if tier.name == name), None)

    def to_dict(self) -> dict:
        return {
            "verdict": self.verdict,
            "limit": self.limit,
            "target_fpr": self.target,
            "moves": [move.to_dict() for move in self.moves],
            "false_alarms": [{"source": row.name, **row.fpr._asdict()} for row in self.alarms],
            "tiers": [tier.to_dict() for tier in self.tiers],
        }


def audit_bias(
    scorer: Scorer,
    parts: Sequence[LabelledImages],
    values: Sequence[Judged],
    rule: AnswerRule,
    sources: Sequence[Slice],
    listener: Listener = Listener(),  # noqa: B008 (frozen)
) -> Bias:
    """Audit the detector of `scorer` on `parts`, of which `values` were said undegraded; sources:
    what is known of each of them."""
    clean = Scores.join([part.scores(v, CLEAN) for part, v in zip(parts, values)])
    ways = resaves()
    listener.tell(
        f"bias: {counted(len(clean), 'image')} saved again in {counted(len(ways), 'way')}, one class at a time"
    )
    bar = listener.bar(total=len(clean) * len(ways), title="saved again", unit="img")
    scorer.advance = bar.update
    try:
        moves = list(_moves(scorer, parts, values, rule))
    finally:
        scorer.advance = nobody
        bar.close()
    facts = [
        f for part, v in zip(parts, values) for f in scorer.facts(part, np.flatnonzero(np.isfinite(v.score)).tolist())
    ]
    return Bias(moves, [row for row in sources if row.n_real], tiers_of(facts, clean, rule))


def _moves(
    scorer: Scorer, parts: Sequence[LabelledImages], values: Sequence[Judged], rule: AnswerRule
) -> Iterator[Move]:
    """Fakes first, as it was asked first; in every way all of the class, then source by source."""
    for label in (1, 0):
        rows = [np.flatnonzero((part.labels == label) & np.isfinite(v.score)) for part, v in zip(parts, values)]
        some = [
            (chosen(part, at), Judged(v.score[at], v.undecided[at]))
            for part, v, at in zip(parts, values, rows)
            if len(at)
        ]
        if not some:
            continue
        before = Scores.join([part.scores(v, CLEAN) for part, v in some])
        masks = {name: before.source == name for name in dict.fromkeys(before.source)}
        together = [(ALL, np.ones(len(before), bool))] if len(masks) > 1 else []
        for how in resaves().values():
            # an image that was read undegraded is one when saved again: the rows are the same
            after = Scores.join([part.scores(scorer.score(part, how), CLEAN) for part, _ in some])
            for name, mask in [*together, *masks.items()]:
                yield move_of(WORDS[label], how.name, name, before.select(mask), after.select(mask), rule)


def move_of(saved: str, how: str, source: str, before: Scores, after: Scores, rule: AnswerRule) -> Move:
    """after: the images of `before`, in their order, saved again."""
    groups, first, second = before.group, before.called(rule.threshold), after.called(rule.threshold)
    change = moved(first, second, groups)
    return Move(
        saved, how, source,
        before=rate(first, groups), after=rate(second, groups), change=change, p=mcnemar(first, second).p,
        unsure_before=rate(rule.said(before) == "UNSURE", groups),
        unsure_after=rate(rule.said(after) == "UNSURE", groups),
        verdict=judged(change, -LIMIT, LIMIT),
    )  # fmt: skip


def judged(found: Rate, low: float, high: float) -> str:
    """PASS where the interval lies in low..high, FAIL where it lies outside, UNCLEAR where it is wider than that."""
    if low <= found.low and found.high <= high:
        return PASS
    return FAIL if found.low > high or found.high < low else UNCLEAR


# ---- compression tiers ------------------------------------------------------------------------------------------


def tier_of(facts: Facts) -> str:
    """By the JPEG quality that its tables tell: as saved from 90 on, web from 60 on, hard below; else unknown."""
    if facts.quality is None:
        return "unknown"
    return TIERS[0 if facts.quality >= 90 else 1 if facts.quality >= 60 else 2]


def tiers_of(facts: Sequence[Facts], scores: Scores, rule: AnswerRule) -> list[Tier]:
    """The tiers that occur. facts: of the images of `scores`, in their order."""
    names = text_column([tier_of(f) for f in facts])
    sides = np.array([max(f.width, f.height) for f in facts])
    found = []
    for name in TIERS:
        mine = names == name
        if not mine.any():
            continue
        part = scores.select(mine)
        reals, called = part.label == 0, part.called(rule.threshold)
        fpr, tpr = (rate(called[c], None if part.group is None else part.group[c]) for c in (reals, ~reals))
        verdict = judged(fpr, 0.0, TARGET) if fpr.n else ""
        needed, allowed = needed_threshold(decided_by(part.score, part.undecided)[reals], TARGET)
        sizes = int(np.median(sides[mine]))
        found.append(Tier(name, int(reals.sum()), int((~reals).sum()), sizes, fpr, tpr, needed, allowed, verdict))
    return found


def needed_threshold(reals: np.ndarray, target: float, level: float = LEVEL) -> tuple[Rate, int]:
    """(the threshold that calls at most `target` of these reals FAKE, how many it calls FAKE by that).

    They are probabilities, or -inf (`decided_by`). Its interval holds the quantile of the photos that these were drawn
    from, whatever their distribution: the j-th highest score lies above it where j or more lie above it, whose number
    is binomial. From so few reals that none may lie above it, the upper end is 1."""
    n = len(reals)
    if not n:
        return Rate(math.nan, math.nan, math.nan, 0), 0
    from scipy.special import bdtr

    tail, ordered = (1 - level) / 2, np.sort(np.asarray(reals, np.float64))[::-1]
    at_most: Callable = lambda j: float(bdtr(j, n, target))  # noqa: E731
    lower = next((ordered[j] for j in range(n) if 1 - at_most(j) <= tail), 0.0)
    above = [j for j in range(n) if at_most(j) <= tail]
    upper = ordered[above[-1]] if above else 1.0
    low, needed, high = (max(float(end), 0.0) for end in (lower, threshold_at_fpr(reals, target), upper))
    return Rate(needed, low, high, n), math.floor(n * target + 1e-9)
