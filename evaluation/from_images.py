"""Judging a detector on images, clean and, degradation by degradation, as the world would treat them."""

from __future__ import annotations

import time
from collections.abc import Sequence

import click
import numpy as np

from common.cli import progress
from common.device import pick_device
from common.errors import UserError
from common.files import cache_folder
from discriminator.detector import Detector, find_detector
from evaluation.detector_result import Judged, Request, add_robustness, judged, pool_of
from evaluation.scoring import Part, Scorer, open_parts
from faces.degrade import PRESETS, Degradation, grid
from metrics.judging import Rule
from metrics.robustness import measure
from metrics.scores import CLEAN, Scores, write_scores
from reports.detector_lines import print_end, print_found, robustness_line


def judge_detector(r: Request) -> Judged:
    """Judge the detector `r.target` on `r.data` and print what was found."""
    where = find_detector(r.target)
    detector = Detector.load(where, pick_device(r.device))
    rule, points = _rule(r, detector)
    size = detector.preprocess.resolution
    click.echo(f"{where} ({size}x{size}, sha256 {detector.sha256[:12]}…) on {detector.device}")
    parts = open_parts(
        r.data, data_root=r.data_root, split=r.split, label=r.label, limit=r.limit, group_by=r.group_by
    )  # fmt: skip
    for part in parts:
        click.echo(part.describe())
    total = sum(map(len, parts))
    conditions = _conditions(r) if r.robustness else [PRESETS["none"]]
    clean = conditions[0]
    cache = None if r.no_cache else cache_folder() / "scores"
    scorer = Scorer(
        detector, batch=r.batch, workers=r.workers, seed=r.seed, cache=cache, keep=r.robustness
    )  # fmt: skip

    if r.robustness:  # its duration is told from that of the clean images; a first pass is slower
        detector.predict([np.zeros((size, size, 3), np.uint8)] * min(r.batch, total))
    began, known = time.perf_counter(), all(scorer.is_known(part, clean) for part in parts)
    values = {CLEAN: _scored(scorer, parts, clean, progress(total=total, title="images", unit="img"))}
    seconds = time.perf_counter() - began
    if known:
        click.echo(f"all {total} scores were here already (in {cache}; --no-cache computes them again)")
    skipped = list(scorer.skipped.items())
    good = [np.isfinite(v) for v in values[CLEAN]]
    table = Scores.join([part.scores(v, CLEAN) for part, v in zip(parts, values[CLEAN])])
    if not len(table):
        name, reason = skipped[0]
        raise UserError(f"none of the {total} images can be judged; the first, {name}: {reason}")
    settings = {
        "target": str(where),
        "sha256": detector.sha256,
        "resolution": size,
        "meta": detector.meta,
        "data": list(r.data),
        "limit": r.limit,
        "seed": r.seed,
        "resamples": r.resamples,
        "images_per_second": None if known else total / seconds,
    }
    notes = [f"a quick look at no more than {r.limit} images of a class from each --data (--limit)"] if r.limit else []
    result = judged(r, str(where), rule, table, points, True, notes, settings)
    result.skipped = skipped
    print_found(result, everything=not r.robustness)
    done: list[Scores] = [table]
    if r.robustness:
        try:
            _degraded(r, result, scorer, parts, good, values, conditions[1:], done, None if known else seconds)
        finally:
            if r.csv:
                _write_csv(r, done, rule)
    elif r.csv:
        _write_csv(r, done, rule)
    print_end(result)
    return result


def _rule(r: Request, detector: Detector) -> tuple[Rule, list[tuple[float, float]]]:
    points = [(p.target_fpr, p.threshold) for p in detector.calibration.points]
    if r.threshold is not None:
        low = r.threshold if r.unsure_from is None else r.unsure_from
        return Rule(r.threshold, low, "given by --threshold, not the detector's own"), points
    point = detector.calibration.at(r.fpr)
    shipped = "the shipped one" if r.fpr is None else "the detector's own, chosen by --fpr"
    low = point.unsure_low if r.unsure_from is None else r.unsure_from
    if low > point.threshold:
        raise UserError(f"--unsure-from {low:g}: lies above the threshold {point.threshold:g}: lower it")
    return Rule(point.threshold, low, f"{shipped}, for {100 * point.target_fpr:g} % false alarms"), points


def _conditions(r: Request) -> list[Degradation]:
    """The degradations asked for, the clean images first."""
    known = grid()
    if r.conditions is None:
        return list(known.values())
    names = dict.fromkeys(name.strip() for name in r.conditions.split(",") if name.strip())
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"--conditions: no degradation is called {unknown[0]!r}; there are {', '.join(known)}")
    if not set(names) - {CLEAN}:
        raise UserError("--conditions: name at least one degradation, such as web,hard")
    return [known[CLEAN], *(known[name] for name in names if name != CLEAN)]


def _scored(scorer: Scorer, parts: Sequence[Part], degradation: Degradation, bar) -> list[np.ndarray]:
    scorer.advance = bar.update
    try:
        return [scorer.score(part, degradation) for part in parts]
    finally:
        scorer.advance = lambda n: None


def _degraded(
    r: Request,
    result: Judged,
    scorer: Scorer,
    parts: Sequence[Part],
    good: list[np.ndarray],
    values: dict[str, list[np.ndarray]],
    conditions: Sequence[Degradation],
    done: list[Scores],
    clean_seconds: float | None,
) -> None:
    """Score every degradation, a line as each is there; `done` and `values` grow."""
    total = sum(map(len, parts))
    known = [all(scorer.is_known(part, c) for part in parts) for c in conditions]
    left = len(conditions) - sum(known)
    took = f", about {_minutes(left * clean_seconds)}" if clean_seconds is not None and left else ""
    had = f" ({sum(known)} of them known from an earlier run)" if any(known) else ""
    click.echo(f"robustness: {len(conditions)} degradations{had} of {total} images{took}")
    bar = progress(total=total * len(conditions), title="degraded", unit="img")
    pool = pool_of(result)
    click.echo(robustness_line(None))
    try:
        for condition in conditions:
            found = _scored(scorer, parts, condition, bar)
            # an image that can't be read clean is out everywhere; all conditions are of the same images
            kept = [np.where(g, v, np.nan) for g, v in zip(good, found)]
            values[condition.name] = kept
            done.append(Scores.join([part.scores(v, condition.name) for part, v in zip(parts, kept)]))
            flat = {CLEAN: result.scores.score, condition.name: done[-1].score}
            one = measure(
                result.scores.label[pool],
                {name: s[pool] for name, s in flat.items()},
                result.rule.threshold,
                count=2,
                groups=None if result.scores.group is None else result.scores.group[pool],
            )[1]
            bar.clear()
            click.echo(robustness_line(one))
    except KeyboardInterrupt:
        bar.close()
        kept_there = "" if scorer.cache is None else "; the same command goes on from there"
        click.echo(f"stopped after {len(done) - 1} of {len(conditions)} degradations{kept_there}", err=True)
        raise
    bar.close()
    names = [CLEAN, *(c.name for c in conditions)]
    add_robustness(r, result, result.scores, dict(zip(names, (table.score for table in done))))


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _write_csv(r: Request, done: Sequence[Scores], rule: Rule) -> None:
    table = Scores.join(done)
    write_scores(r.csv, table, rule.answers(table.score))
    click.echo(f"{r.csv} written: a row for each image{' and degradation' if len(done) > 1 else ''}")
