"""What a study found: the primary endpoint of every arm, and the differences that its plan asked for. numpy only.

Everything that could have come out otherwise is drawn anew in each resample, for all arms alike: the test images of
every set (an image under all conditions together), the seeds, and the validation photos that set the thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from metrics.bootstrap import binomial_interval, interval, varied
from metrics.significance import holm

BLOCK = 500  # resamples at a time
Scores = Mapping[str, np.ndarray]  # condition -> float64 [seeds, images]


@dataclass(frozen=True)
class Scored:
    """The scores of an arm, high = fake: of the validation photos, and of each test."""

    valid: Scores
    tests: Mapping[str, Scores]

    @property
    def seeds(self) -> int:
        return len(next(iter(self.valid.values())))


@dataclass(frozen=True)
class Measured:
    """A share, its interval (of a mean of shares NaN where no resample differed), and each seed's own."""

    value: float
    low: float
    high: float
    seeds: list[float]


@dataclass(frozen=True)
class Difference:
    """`first` less `second`, of the primary endpoint. p: two-sided, of the bootstrap; holm: corrected for all
    differences of the study."""

    first: str
    second: str
    value: float
    low: float
    high: float
    p: float
    holm: float
    seeds: list[float]


@dataclass(frozen=True)
class Findings:
    """endpoint: of each arm; rates: share called fake, {test: {condition: {arm: …}}}."""

    endpoint: dict[str, Measured]
    rates: dict[str, dict[str, dict[str, Measured]]]
    differences: list[Difference]


def threshold_of(valid: Scores, seed: int, fpr: float) -> float:
    """The least threshold that at most `fpr` of the photos reach, under each condition."""
    found = []
    for scores in valid.values():
        ordered = np.sort(scores[seed])[::-1]
        found.append(np.nextafter(ordered[_allowed(len(ordered), fpr)], np.inf))
    return float(max(found))


def compare(
    scored: Mapping[str, Scored],
    pairs: Sequence[tuple[str, str]],
    endpoint: Sequence[str],
    fpr: float,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Findings:
    """scored: arms with the same images and number of seeds. endpoint: tests whose shares, under all conditions, it is
    the mean of."""
    arms = list(scored)
    first = scored[arms[0]]
    now = {arm: _rates(one, *_unweighted(first), fpr) for arm, one in scored.items()}
    drawn: dict[str, dict[tuple[str, str], list[np.ndarray]]] = {arm: {} for arm in arms}
    for weights, valid, seeds in _resamples(first, resamples, seed):
        for arm, one in scored.items():
            for cell, found in _rates(one, weights, valid, fpr).items():
                drawn[arm].setdefault(cell, []).append(np.take_along_axis(found, seeds, axis=1).mean(1))
    spread = {arm: {cell: np.concatenate(blocks) for cell, blocks in found.items()} for arm, found in drawn.items()}
    primary = [(test, condition) for test in endpoint for condition in first.tests[test]]
    means = {arm: np.mean([now[arm][cell][0] for cell in primary], axis=0) for arm in arms}
    ends = {arm: np.mean([spread[arm][cell] for cell in primary], axis=0) for arm in arms}
    rates: dict[str, dict[str, dict[str, Measured]]] = {
        test: {
            c: {arm: _share(now[arm][test, c][0], spread[arm][test, c], scores.shape[1]) for arm in arms}
            for c, scores in conditions.items()
        }
        for test, conditions in first.tests.items()
    }
    raw = [_difference(a, b, means[a] - means[b], ends[a] - ends[b]) for a, b in pairs]
    corrected = holm([one.p for one in raw])
    differences = [Difference(**{**vars(one), "holm": float(p)}) for one, p in zip(raw, corrected)]
    return Findings({arm: _measured(means[arm], ends[arm]) for arm in arms}, rates, differences)


def _difference(first: str, second: str, seeds: np.ndarray, drawn: np.ndarray) -> Difference:
    """p: twice the smaller share of resamples on either side of 0, those at 0 counting for both."""
    low, high = varied(drawn)
    tail = min(int((drawn <= 1e-12).sum()), int((drawn >= -1e-12).sum()))
    p = min(1.0, 2 * (tail + 1) / (len(drawn) + 1))
    return Difference(first, second, float(seeds.mean()), low, high, p, math.nan, seeds.tolist())


def _measured(seeds: np.ndarray, drawn: np.ndarray) -> Measured:
    return Measured(float(seeds.mean()), *varied(drawn), seeds.tolist())


def _share(seeds: np.ndarray, drawn: np.ndarray, images: int) -> Measured:
    """Of all or of none of the images, with their exact interval at least: no resample of such images differs."""
    found = _measured(seeds, drawn)
    if found.value not in (0.0, 1.0):
        return found
    exact = binomial_interval(found.value * images, images)
    (low, high) = interval(drawn)
    return replace(found, low=min(low, exact[0]), high=max(high, exact[1]))


def _allowed(photos: int, fpr: float) -> int:
    return math.floor(photos * fpr + 1e-9)


def _unweighted(one: Scored) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Every image once."""
    count = lambda scores: np.ones((1, next(iter(scores.values())).shape[1]), np.int64)  # noqa: E731
    return {test: count(scores) for test, scores in one.tests.items()}, count(one.valid)


def _resamples(one: Scored, count: int, seed: int) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]]:
    """(weights int64 [B, images] of each test, of the thresholds' photos, seeds int64 [B, S]), `count` of each."""
    sizes = {test: next(iter(scores.values())).shape[1] for test, scores in one.tests.items()}
    photos = next(iter(one.valid.values())).shape[1]
    for number, start in enumerate(range(0, count, BLOCK)):
        rows = min(BLOCK, count - start)
        rng = np.random.default_rng([seed, 0x57D7, number])
        weights = {test: rng.multinomial(n, np.full(n, 1 / n), size=rows) for test, n in sizes.items()}
        valid = rng.multinomial(photos, np.full(photos, 1 / photos), size=rows)
        yield weights, valid, rng.integers(one.seeds, size=(rows, one.seeds))


def _rates(
    one: Scored, weights: Mapping[str, np.ndarray], valid: np.ndarray, fpr: float
) -> dict[tuple[str, str], np.ndarray]:
    """(test, condition) -> share called fake, float64 [B, seeds], at the thresholds of the weighted photos."""
    found = {
        (test, condition): np.empty((len(valid), one.seeds))
        for test, scores in one.tests.items()
        for condition in scores
    }
    allowed = _allowed(int(valid[0].sum()), fpr)
    for seed in range(one.seeds):
        threshold = np.full(len(valid), -np.inf)
        for scores in one.valid.values():
            order = np.argsort(-scores[seed], kind="stable")
            at = (np.cumsum(valid[:, order], axis=1) > allowed).argmax(axis=1)
            threshold = np.maximum(threshold, scores[seed][order[at]])
        for test, conditions in one.tests.items():
            for condition, scores in conditions.items():
                order = np.argsort(-scores[seed], kind="stable")
                above = np.searchsorted(-scores[seed][order], -threshold, side="left")  # those beyond the threshold
                sums = np.cumsum(weights[test][:, order], axis=1)
                hits = np.where(above > 0, np.take_along_axis(sums, np.maximum(above - 1, 0)[:, None], axis=1)[:, 0], 0)
                found[test, condition][:, seed] = hits / sums[:, -1]
    return found
