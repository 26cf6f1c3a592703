"""What `evaluate.py detector` does: scores from a detector or a file, one fixed rule, numbers, and what is written."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np

from app.cli import pick_device, progress
from app.detector_table import lines_of, robustness_line
from faces.degrade import PRESETS, grid
from faces.errors import UserError, one_line
from faces.files import cache_folder, save_atomically
from metrics.classification import FPRS, best_threshold
from metrics.judging import Judgement, Rule, judge
from metrics.robustness import Condition, by_condition, measure
from metrics.scores import CLEAN, Scores, read_scores, write_scores

NAMED = 5  # broken images that are named on the terminal
OUTPUTS = ("json", "report", "csv")


@dataclass(frozen=True)
class Request:
    """The options of the command, by name."""

    target: str
    data: tuple[str, ...] = ()
    robustness: bool = False
    limit: int | None = None
    threshold: float | None = None
    fpr: float | None = None
    unsure_from: float | None = None
    calibrate_on: str | None = None
    reals_from: str | None = None
    group_by: str | None = None
    label: str | None = None
    split: str | None = None
    data_root: str | None = None
    resamples: int = 1000
    seed: int = 0
    device: str = "auto"
    batch: int = 32
    workers: int | None = None
    no_cache: bool = False
    csv: str | None = None
    json: str | None = None
    report: str | None = None
    plots: str | None = None
    force: bool = False


@dataclass
class Judged:
    """All that was found. `scores`: the undegraded images. `robustness`: conditions of the images `pool_name`, clean
    first; `by_source`: for each source the same as far as it is shown. `skipped`: (name, reason) of broken images."""

    title: str
    rule: Rule
    scores: Scores
    judgement: Judgement
    calibrated: bool
    oracle: tuple[float, float] | None
    robustness: list[Condition] = field(default_factory=list)
    robustness_of: str = ""
    by_source: dict[str, list[Condition]] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    settings: dict = field(default_factory=dict)

    def to_json(self) -> dict:
        j = self.judgement
        return {
            "settings": self.settings,
            "rule": {"threshold": self.rule.threshold, "unsure_low": self.rule.unsure_low, "origin": self.rule.origin},
            "overall": j.overall and {"images": j.pool_name, **j.overall},
            "oracle": self.oracle and {"balanced_accuracy": self.oracle[0], "threshold": self.oracle[1]},
            "answers": j.confusion,
            "answered": {name: found.to_dict() for name, found in j.answered.items()},
            "operating_points": [
                {"target_fpr": p.target_fpr, "threshold": p.threshold, "fpr": p.fpr.to_dict(), "tpr": p.tpr.to_dict()}
                for p in j.points
            ],
            "sources": [row.to_dict() for row in j.sources],
            "generators": [row.to_dict() for row in j.generators],
            "pairs": [row.to_dict() for row in j.pairs],
            "robustness": {"images": self.robustness_of, "conditions": [c.to_dict() for c in self.robustness]},
            "robustness_by_source": {name: [c.to_dict() for c in rows] for name, rows in self.by_source.items()},
            "skipped": [list(pair) for pair in self.skipped],
            "notes": self.notes,
        }


def evaluate(r: Request) -> Judged:
    """Judge what `r` names, print it and write what was asked for."""
    is_table = r.target.lower().endswith(".csv")
    _check(r, is_table)
    result = _of_table(r) if is_table else _of_detector(r)
    _write(r, result)
    return result


def _check(r: Request, is_table: bool) -> None:
    """Everything that can be refused before anything is opened."""
    for option in OUTPUTS:
        path = getattr(r, option)
        if path is not None and Path(path).exists() and (Path(path).is_dir() or not r.force):
            raise UserError(f"--{option} {path}: is there already: choose another name, or --force")
        if path is not None and is_table and Path(path).resolve() == Path(r.target).resolve():
            raise UserError(f"--{option} {path}: is the file that is judged: choose another name")
    if r.plots is not None and Path(r.plots).is_dir() and any(Path(r.plots).glob("*.png")) and not r.force:
        raise UserError(f"--plots {r.plots}: holds pictures already: choose another folder, or --force")
    if r.plots is not None and Path(r.plots).is_file():
        raise UserError(f"--plots {r.plots}: is a file: give a folder")
    for name, value in (("threshold", r.threshold), ("unsure-from", r.unsure_from)):
        if value is not None and not math.isfinite(value):
            raise UserError(f"--{name} {value}: is not a finite number: give one")
    if r.threshold is not None and r.fpr is not None:
        raise UserError("--threshold and --fpr both set the threshold: give one of them")
    if r.unsure_from is not None and r.threshold is not None and r.unsure_from > r.threshold:
        raise UserError(f"--unsure-from {r.unsure_from:g}: lies above the threshold {r.threshold:g}: lower it")
    if r.limit is not None and r.limit < 1:
        raise UserError(f"--limit {r.limit}: at least one image of a class is needed")
    if is_table:
        for option in ("data", "limit", "label", "split"):
            if getattr(r, option):
                raise UserError(f"--{option}: {r.target} brings its own images and labels: leave --{option} out")
        if r.threshold is not None and r.calibrate_on is not None:
            raise UserError("--threshold and --calibrate-on both set the threshold: give one of them")
        if r.threshold is None and r.calibrate_on is None:
            raise UserError(
                f"{r.target}: scores have no threshold of their own: give --threshold T, or --calibrate-on VALID.csv,"
                " scores of validation images, to set it by --fpr"
            )
    else:
        if not r.data:
            raise UserError("no images to judge: give --data SOURCE, once or several times")
        if r.calibrate_on is not None:
            raise UserError("--calibrate-on is for SCORES.csv: a detector has its own calibration; leave it out")


# ---- a file of scores -------------------------------------------------------------------------------------------


def _of_table(r: Request) -> Judged:
    everything = read_scores(r.target, group_by=r.group_by)
    notes = []
    points: list[tuple[float, float]] = []
    if r.calibrate_on is not None:
        rule, points, change = _calibrated_on(r, everything)
        everything.score = change(everything.score)
    else:
        low = r.threshold if r.unsure_from is None else r.unsure_from
        rule = Rule(r.threshold, low, "given by --threshold")
    outside = everything.score.min() < 0 or everything.score.max() > 1
    if outside:
        notes.append(
            f"scores go from {everything.score.min():g} to {everything.score.max():g}: they are ranks, not"
            " probabilities, so there is no Brier score, log loss or calibration error"
        )
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
    result = _judged(r, r.target, rule, clean, points, not outside, notes, settings)
    if degraded:
        seen, scores, left_out = by_condition(everything)
        if left_out:
            result.notes.append(f"{left_out} images lack some degradation and are left out of the robustness part")
        if not len(seen):
            raise UserError(f"{r.target}: no image has scores under all its degradations; complete the rows")
        _add_robustness(r, result, seen, scores)
    _print(result, everything=True)
    for condition in result.robustness:
        click.echo(robustness_line(condition))
    _print_end(result)
    if r.csv:
        write_scores(r.csv, everything, rule.answers(everything.score))
        click.echo(f"{r.csv} written: every row with its verdict")
    return result


def _calibrated_on(r: Request, judged: Scores) -> tuple[Rule, list[tuple[float, float]], Callable]:
    """(rule, further operating points, what turns raw scores into those the rule is for)."""
    from discriminator.calibration import calibrate, threshold_at_fpr, unsure_band

    valid = read_scores(r.calibrate_on)
    valid = valid.select(valid.degradation == CLEAN)
    shared = set(zip(valid.source, valid.path)) & set(zip(judged.source, judged.path))
    same = set(valid.path) & set(judged.path) if Path(r.calibrate_on).resolve() == Path(r.target).resolve() else shared
    if same:
        raise UserError(
            f"--calibrate-on {r.calibrate_on}: holds {len(same)} of the images that are judged, like"
            f" {sorted(same, key=str)[0]}: a threshold set on them proves nothing; give validation images"
        )
    real, fake = valid.score[valid.label == 0], valid.score[valid.label == 1]
    if not len(real):
        raise UserError(f"--calibrate-on {r.calibrate_on}: has no real images, and they set the threshold; add some")
    fpr = 0.01 if r.fpr is None else r.fpr
    if not 0 <= fpr < 1:
        raise UserError(f"--fpr {fpr:g}: a false-alarm rate is at least 0 and below 1")
    everything = np.concatenate([valid.score, judged.score])
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


# ---- a detector -------------------------------------------------------------------------------------------------


def _of_detector(r: Request) -> Judged:
    from app.scoring import Scorer, open_parts
    from discriminator.detector import Detector, find_detector

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
    conditions = list(grid().values()) if r.robustness else [PRESETS["none"]]
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
    result = _judged(r, str(where), rule, table, points, True, notes, settings)
    result.skipped = skipped
    _print(result, everything=not r.robustness)
    done: list[Scores] = [table]
    if r.robustness:
        try:
            _degraded(r, result, scorer, parts, good, values, conditions[1:], done, None if known else seconds)
        finally:
            if r.csv:
                _write_csv(r, done, rule)
    elif r.csv:
        _write_csv(r, done, rule)
    _print_end(result)
    return result


def _rule(r: Request, detector) -> tuple[Rule, list[tuple[float, float]]]:
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


def _scored(scorer, parts: Sequence, degradation, bar) -> list[np.ndarray]:
    scorer.advance = bar.update
    try:
        return [scorer.score(part, degradation) for part in parts]
    finally:
        scorer.advance = lambda n: None


def _degraded(
    r: Request,
    result: Judged,
    scorer,
    parts: Sequence,
    good: list[np.ndarray],
    values: dict[str, list[np.ndarray]],
    conditions: Sequence,
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
    pool = _pool(result)
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
    _add_robustness(r, result, result.scores, dict(zip(names, (table.score for table in done))))


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


# ---- what both have in common -----------------------------------------------------------------------------------


def _judged(
    r: Request,
    title: str,
    rule: Rule,
    scores: Scores,
    points: Sequence[tuple[float, float]],
    calibrated: bool,
    notes: list[str],
    settings: dict,
) -> Judged:
    names = set(scores.source)
    lender = r.reals_from
    if lender is not None and lender not in names:
        from app.scoring import short_name

        lender = short_name(lender) if short_name(lender) in names else lender
    found = judge(
        scores, rule, points=points, reals_from=lender, calibrated=calibrated, count=r.resamples, seed=r.seed
    )  # fmt: skip
    oracle = None
    if found.overall is not None:
        oracle = best_threshold(scores.label[found.pool], scores.score[found.pool])
        share = found.overall["n_fake"] / (found.overall["n_fake"] + found.overall["n_real"])
        if calibrated and not 0.4 <= share <= 0.6:
            notes.append(
                f"{100 * share:.0f} % of these images are fake; a probability is meant at equal odds, so Brier score,"
                " log loss and calibration error measure the odds as well"
            )
    elif scores.label.min() != scores.label.max():
        notes.append(
            "no source has both reals and fakes, so there is no AUC and no accuracy: --reals-from NAME pairs the reals"
            " of one source with the fakes of the others"
        )
    if scores.group is not None:
        count = len(set(scores.group))
        notes.append(f"intervals: {len(scores)} images are {count} groups by «{scores.grouped_by}», each drawn whole")
    return Judged(title, rule, scores, found, calibrated, oracle, notes=notes, settings=settings)


def _pool(result: Judged) -> np.ndarray:
    """Rows that a robustness curve is of: those that belong together, else all."""
    pool = result.judgement.pool
    return pool if len(pool) else np.arange(len(result.scores))


def _add_robustness(r: Request, result: Judged, clean: Scores, scores: dict[str, np.ndarray]) -> None:
    """`clean`: the images; `scores`: each condition's, in their order."""
    inside = set(result.scores.source[result.judgement.pool])
    pool = np.array([source in inside for source in clean.source]) if inside else np.ones(len(clean), dtype=bool)
    if inside and len(clean) == len(result.scores):
        pool = np.isin(np.arange(len(clean)), result.judgement.pool)

    def of(mask: np.ndarray, names: Sequence[str], count: int) -> list[Condition]:
        return measure(
            clean.label[mask],
            {name: scores[name][mask] for name in names},
            result.rule.threshold,
            groups=None if clean.group is None else clean.group[mask],
            count=count,
            seed=r.seed,
        )

    result.robustness = of(pool, list(scores), max(r.resamples, 2))
    result.robustness_of = result.judgement.pool_name or "all"
    if not inside:  # reals and fakes that have nothing in common
        result.robustness = [_without_auc(c) for c in result.robustness]
    for name in dict.fromkeys(clean.source):
        result.by_source[name] = of(clean.source == name, list(scores), 2)


def _without_auc(c: Condition) -> Condition:
    return Condition(**{**c.__dict__, "auc": float("nan")})


def _print(result: Judged, *, everything: bool) -> None:
    for name, reason in result.skipped[:NAMED]:
        click.echo(f"left out: {one_line(name)}: {reason}")
    if len(result.skipped) > NAMED:
        click.echo(f"left out: … and {len(result.skipped) - NAMED} more; --json names them all")
    for line in lines_of(result):
        click.echo(line)
    if everything and result.robustness:
        click.echo(robustness_line(None))


def _print_end(result: Judged) -> None:
    from metrics.robustness import worst

    if result.robustness:
        bad = worst(result.robustness)
        alarms = max((c for c in result.robustness if c.fpr.n), key=lambda c: c.fpr.value, default=None)
        click.echo(f"worst degradation: {bad.name}")
        click.echo(robustness_line(bad))
        if alarms is not None:
            where = f" under {alarms.name}" if alarms.fpr.value > 0 else " under any degradation"
            click.echo(f"most false alarms: {100 * alarms.fpr.value:.1f} %{where}")
    for note in result.notes:
        click.echo(f"note: {note}")


def _write_csv(r: Request, done: Sequence[Scores], rule: Rule) -> None:
    table = Scores.join(done)
    write_scores(r.csv, table, rule.answers(table.score))
    click.echo(f"{r.csv} written: a row for each image{' and degradation' if len(done) > 1 else ''}")


def _write(r: Request, result: Judged) -> None:
    if r.json is not None:
        text = json.dumps(_plain(result.to_json()), indent=2, allow_nan=False) + "\n"
        path = Path(r.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_atomically(path, lambda tmp: tmp.write_text(text, encoding="utf-8") and None)
        click.echo(f"{path} written")
    if r.report is None and r.plots is None:
        return
    from app.detector_report import figures, write_detector_report

    drawn = figures(result)
    if r.plots is not None:
        folder = Path(r.plots)
        folder.mkdir(parents=True, exist_ok=True)
        for name, both in drawn.items():
            for theme, png in zip(("light", "dark"), both):
                save_atomically(folder / f"{name}-{theme}.png", lambda tmp, png=png: tmp.write_bytes(png) and None)
        click.echo(f"{folder}: {2 * len(drawn)} pictures written")
    if r.report is not None:
        click.echo(f"{write_detector_report(r.report, result, drawn)} written")


def _plain(value):
    """JSON has no NaN and no infinity: what can't be told is null. File names may hold bytes that are no text."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value
