"""A detector evaluated on images, clean and, degradation by degradation, as the world would treat them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import UserError, one_line
from common.files import sha256_of
from common.words import counted, none_of
from discriminator.detector import Detector
from discriminator.detector_base import DetectorBase
from discriminator.engine import open_engine
from discriminator.locate import find_detector
from discriminator.verdict import Threshold
from evaluation.bias import audit_bias
from evaluation.detector_result import DetectorResult, add_robustness, answer_rule, at_threshold, summarise
from evaluation.listener import Listener, nobody
from evaluation.options import DetectorOptions
from evaluation.scoring import Judged, LabelledImages, Scorer, not_cut_out, open_labelled, taught_with
from faces.degrade import PRESETS, Degradation, grid
from faces.stores import RenderedStore
from metrics.breakdown import AnswerRule
from metrics.robustness import Condition
from metrics.scores import CLEAN, Scores

Image = tuple[LabelledImages, int]  # a source's image by its number


@dataclass
class _Work:
    """The images, and who scores them under one condition after the other."""

    options: DetectorOptions
    listener: Listener
    scorer: Scorer
    parts: list[LabelledImages]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def is_known(self, degradation: Degradation) -> bool:
        """Whether all scores lie in the cache."""
        return all(self.scorer.known(part, degradation) is not None for part in self.parts)

    def scores(self, degradation: Degradation, bar) -> list[Judged]:
        """Of each part."""
        self.scorer.advance = bar.update
        try:
            return [self.scorer.score(part, degradation) for part in self.parts]
        finally:
            self.scorer.advance = nobody

    def table(self, values: Sequence[Judged], name: str) -> Scores:
        return Scores.join([part.scores(v, name) for part, v in zip(self.parts, values)])


def evaluate_images(
    options: DetectorOptions,
    listener: Listener = Listener(),  # noqa: B008 (frozen)
    *,
    found: Callable[[DetectorResult], None] = nobody,
    under: Callable[[Condition | None], None] = nobody,
) -> DetectorResult:
    """Judge the detector `options.target` on `options.data`.

    found(result): called when the undegraded images are judged; hours may follow. `result.tables` grows then.
    under(condition): called with each degradation's outcome as soon as it is there, before the first with None.
    """
    where = find_detector(options.target, parameter="target")
    engine = open_engine(where, device=options.device)
    detector = engine.detector
    if engine.note:
        listener.tell(f"note: {engine.note}")
    rule, points = _rule(options, detector)
    size = detector.preprocess.resolution
    digest = sha256_of(where)
    by = f"{detector.device}" if isinstance(detector, Detector) else f"ONNX Runtime ({engine.onnx})"
    listener.tell(f"{where} ({size}x{size}, sha256 {digest[:12]}…) on {by}")
    parts = open_labelled(options, group_by=options.group_by)
    for part in parts:
        listener.tell(part.describe())
    alike = of_one_size(parts)
    every = ((part, i) for part in parts for i in range(len(part)))
    noted = [part.source.locate(i) for part, i in (every if options.bias else itertools.chain(*alike))]
    scorer = Scorer(detector, options, keep=options.degraded or options.bias, noted=noted)
    work = _Work(options, listener, scorer, parts)
    clean, *conditions = _conditions(options) if options.degraded else [PRESETS["none"]]

    if conditions:  # their duration is told from that of the clean images; a first pass is slower
        blank = detector.preprocess(np.zeros((size, size, 3), np.uint8))
        detector.raw(np.stack([blank] * min(options.batch, len(work))))
    began, known = time.perf_counter(), work.is_known(clean)
    values = work.scores(clean, listener.bar(total=len(work), title="images", unit="img"))
    seconds = None if known else time.perf_counter() - began
    if known:
        listener.tell(
            f"all {len(work)} scores were here already (in {work.scorer.cache}; `no_cache` computes them again)"
        )
    table, skipped = work.table(values, CLEAN), list(work.scorer.skipped.items())
    if not len(table):
        name, reason = skipped[0]
        raise UserError(none_of(len(work), "image", "can be judged", f"{name}: {reason}"))
    settings = {
        "target": str(where),
        "sha256": digest,
        "resolution": size,
        "meta": detector.meta,
        "data": list(options.data),
        "limit": options.limit,
        "images_per_second": seconds and len(work) / seconds,
    }
    notes = taught_with(parts, detector.meta, "the detector") + not_cut_out(parts, detector)
    notes += both_labels(alike, scorer)
    if options.limit:
        notes.append(
            f"a quick look at no more than {counted(options.limit, 'image')} of a class from each `data` (`limit`)"
        )
    result = summarise(options, rule, table, points=points, calibrated=True, notes=notes, settings=settings)
    result.skipped = skipped
    if options.bias:  # its verdict is told first
        result.bias = audit_bias(work.scorer, parts, values, rule, result.breakdown.sources, listener)
    found(result)
    if conditions:
        _degraded(work, result, [np.isfinite(v.score) for v in values], conditions, seconds, under)
    return result


def of_one_size(parts: Sequence[LabelledImages]) -> list[list[Image]]:
    """The files, size by size, where some of a size are real and some fake: no others can be the same file."""
    alike: dict[int, list[Image]] = {}
    for part in parts:
        if not isinstance(part.source.store, RenderedStore):  # no files
            for i in range(len(part)):
                alike.setdefault(part.source.size(i), []).append((part, i))
    return [some for some in alike.values() if _both(some)]


def both_labels(alike: Sequence[Sequence[Image]], scorer: Scorer) -> list[str]:
    """A line about files that are there as real and as fake. alike: of `of_one_size`."""
    rows: dict[int, list[Image]] = {}
    for part, i in itertools.chain(*alike):
        if part.source.locate(i) not in scorer.skipped:
            rows.setdefault(id(part), []).append((part, i))
    files: dict[str, list[Image]] = {}
    for some in rows.values():
        for one, fact in zip(some, scorer.facts(some[0][0], [i for _, i in some])):
            if fact.sha256:
                files.setdefault(fact.sha256, []).append(one)
    twice = [some for some in files.values() if _both(some)]
    if not twice:
        return []
    real, fake = (next(one_line(p.source.locate(i)) for p, i in twice[0] if p.labels[i] == label) for label in (0, 1))
    count = f"{len(twice)} images are" if len(twice) > 1 else "an image is"
    return [
        f"{count} there as real and as fake, the same file (like {real} and {fake}): one of the labels is wrong, and"
        " the figures with it"
    ]


def _both(images: Sequence[Image]) -> bool:
    """Whether some are real and some fake."""
    return len({int(part.labels[i]) for part, i in images}) > 1


def _rule(options: DetectorOptions, detector: DetectorBase) -> tuple[AnswerRule, list[tuple[float, float]]]:
    points = [(p.target_fpr, p.threshold) for p in detector.calibration.points]
    if (own := options.threshold) is not None:
        point = Threshold.of(detector.calibration, threshold=own).point
        return answer_rule(options, own, point.unsure_low, "given by `threshold`, not the detector's own"), points
    point = detector.calibration.at(options.fpr)
    shipped = "the shipped one" if options.fpr is None else "the detector's own, chosen by `fpr`"
    origin = f"{shipped}, for {100 * point.target_fpr:g} % false alarms"
    return answer_rule(options, point.threshold, point.unsure_low, origin), points


def _conditions(options: DetectorOptions) -> list[Degradation]:
    """The degradations asked for, the clean images first."""
    known = grid()
    if options.conditions is None:
        return list(known.values())
    names = dict.fromkeys(name.strip() for name in options.conditions.split(",") if name.strip())
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"`conditions`: no degradation is called {unknown[0]!r}; there are {', '.join(known)}")
    if not set(names) - {CLEAN}:
        raise UserError("`conditions`: name at least one degradation, such as web,hard")
    return [known[CLEAN], *(known[name] for name in names if name != CLEAN)]


def _degraded(
    work: _Work,
    result: DetectorResult,
    good: list[np.ndarray],
    conditions: Sequence[Degradation],
    clean_seconds: float | None,
    under: Callable[[Condition | None], None],
) -> None:
    """Score every degradation and tell of each as it is there; `result.tables` grows."""
    total, listener = len(work), work.listener
    known = sum(map(work.is_known, conditions))
    left = len(conditions) - known
    took = f", about {_minutes(left * clean_seconds)}" if clean_seconds is not None and left else ""
    had = f" ({known} of them known from an earlier run)" if known else ""
    listener.tell(f"robustness: {counted(len(conditions), 'degradation')}{had} of {counted(total, 'image')}{took}")
    bar = listener.bar(total=total * len(conditions), title="degraded", unit="img")
    clean, together = result.scores, result.breakdown.pool
    pool = together if len(together) else np.arange(len(clean))
    under(None)
    try:
        for condition in conditions:
            found = work.scores(condition, bar)
            # an image that can't be read clean is out everywhere; all conditions are of the same images
            kept = [v._replace(score=np.where(g, v.score, np.nan)) for g, v in zip(good, found)]
            result.tables.append(work.table(kept, condition.name))
            both = {CLEAN: clean.select(pool), condition.name: result.tables[-1].select(pool)}
            one = at_threshold(both, result, 0)[1]
            bar.clear()
            under(one)
    except KeyboardInterrupt:
        bar.close()
        goes_on = "" if work.scorer.cache is None else "; the same command goes on from there"
        listener.warn(f"stopped after {len(result.tables) - 1} of {counted(len(conditions), 'degradation')}{goes_on}")
        raise
    bar.close()
    names = [CLEAN, *(c.name for c in conditions)]
    add_robustness(work.options, result, dict(zip(names, result.tables)))


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
