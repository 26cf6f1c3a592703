"""The page of a detector's evaluation: numbers with intervals, figures, every degradation, and how to read them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from common.errors import one_line
from common.words import counted
from evaluation.detector_result import DetectorResult
from evaluation.options import DetectorOptions
from metrics.breakdown import ANSWERS, Slice, least_found, most_accused
from metrics.classification import reliability_bins
from metrics.few import auc_text
from metrics.robustness import FAMILIES, worst
from reports import bias, plots
from reports.detector_lines import blocks, most_alarms, worst_of
from reports.detector_plots import bars, precision_recall, robustness_bars, robustness_curves
from reports.page import Number, Picture, Section, pairs, pictures, write_report
from reports.rates import percent, points
from reports.rates import with_interval as _with_interval

Figures = Mapping[str, tuple[bytes, bytes]]
SHOWN = ("clean", "web", "hard")  # conditions that each source's row tells, with its worst one
CURVES = 4


def figures(result: DetectorResult) -> dict[str, tuple[bytes, bytes]]:
    """name -> (light, dark) PNG of every figure that can be drawn of these images."""
    j, scores, rule = result.breakdown, result.scores, result.rule
    drawn: dict[str, tuple[bytes, bytes]] = {}
    pool = scores.select(j.pool) if len(j.pool) else scores
    drawn["scores"] = plots.both(
        plots.score_histogram, pool.label, pool.score, threshold=rule.threshold, unsure=rule.unsure_low,
        ranks=not result.calibrated,
    )  # fmt: skip
    drawn["answers"] = plots.both(plots.confusion, j.confusion)
    if j.overall is not None:
        found = j.overall["metrics"]
        point = found["false_alarm_rate"]["value"], found["recall_fake"]["value"]
        drawn["roc"] = plots.both(plots.roc, _roc_curves(result), point=point, point_name="fixed threshold")
        drawn["precision-recall"] = plots.both(
            precision_recall, pool.label, pool.score, called=pool.called(rule.threshold)
        )
        if result.calibrated:
            drawn["reliability"] = plots.both(plots.reliability, pool.label, pool.score, bins=15)
    rows = _short([*j.sources, *j.pairs])
    if len(rows) > 1:
        drawn["sources"] = plots.both(bars, rows)
    if len(j.generators) > 1:
        drawn["generators"] = plots.both(bars, _short(j.generators))
    if any(c.family in FAMILIES for c in result.robustness):
        drawn["robustness"] = plots.both(robustness_curves, result.robustness)
    if sum(c.family not in FAMILIES for c in result.robustness) > 1:
        drawn["robustness-chains"] = plots.both(robustness_bars, result.robustness)
    return drawn


def _short(rows: Sequence[Slice], count: int = 40) -> list[Slice]:
    """The rows, or of very many those that do worst."""
    if len(rows) <= count:
        return list(rows)
    badness = [max(np.nan_to_num(row.fpr.value), np.nan_to_num(1 - row.tpr.value)) for row in rows]
    kept = sorted(np.argsort(badness)[::-1][:count])
    return [rows[i] for i in kept]


def _roc_curves(result: DetectorResult) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """All together, and each source with both classes where there are a few."""
    scores, pool = result.scores, result.breakdown.pool
    both = [row.name for row in result.breakdown.sources if row.auc is not None]
    curves = {}
    if 1 < len(both) < CURVES:
        for name in both:
            mine = scores.source == name
            curves[plots.shortened(name, 28)] = (scores.label[mine], scores.score[mine])
    curves["together" if curves else "ROC"] = (scores.label[pool], scores.score[pool])
    return dict(reversed(curves.items()))


def with_interval(found) -> str:
    """A rate that stays on one line of a table."""
    return _with_interval(found).replace(" ", "\u00a0")


def write_outputs(options: DetectorOptions, result: DetectorResult) -> Iterator[str]:
    """Write the figures and the page that were asked for; yields a line for each that is there."""
    if options.report is None and options.plots is None:
        return
    drawn = figures(result)
    if options.plots is not None:
        folder = Path(options.plots)
        folder.mkdir(parents=True, exist_ok=True)
        plots.write_pngs(folder, drawn)
        yield f"{folder}: {2 * len(drawn)} pictures written"
    if options.report is not None:
        yield f"{write_detector_report(options.report, result, drawn)} written"


# ---- the page ---------------------------------------------------------------------------------------------------


def write_detector_report(path: str | Path, result: DetectorResult, drawn: Figures) -> Path:
    """Write the page with the figures `drawn`; returns its path."""
    j = result.breakdown
    sections = [
        Section("In short", numbers=_headline(result), notes=result.notes),
        *_metrics(result),
        Section(
            "Answers",
            text=[
                f"FAKE from {result.rule.threshold:.4f}, REAL below {result.rule.unsure_low:.4f}, UNSURE between. The"
                f" threshold: {one_line(result.rule.origin)}. In the two-way numbers UNSURE counts as not FAKE."
            ],
            rows=[("", *ANSWERS), *((f"is {k}", *(n[a] for a in ANSWERS)) for k, n in j.confusion.items())],
            head=True,
            pictures=pictures(
                drawn,
                {
                    "answers": "What was said of all the images given",
                    "scores": f"Scores of {one_line(j.pool_name) or 'all images'}",
                },
            ),
            columns=2,
            notes=[
                f"Answered (not UNSURE): {with_interval(j.answered['coverage'])}; wrong among these: "
                f"{with_interval(j.answered['error'])}."
            ],
        ),
        _points(result),
        Section(
            "Curves",
            pictures=pictures(
                drawn,
                {
                    "roc": "ROC: what every threshold would give; the dot is the fixed one",
                    "precision-recall": "Precision and recall of the fakes",
                    "reliability": "Reliability: on the diagonal a probability means what it says; larger dots are more"
                    " images",
                },
            ),
            columns=2,
            notes=_reliability_table(result),
        ),
        _rows("Sources", "source", [*j.sources, *j.pairs], pictures(drawn, {"sources": ""})),
        _rows("Generators", "generator", j.generators, pictures(drawn, {"generators": ""})),
        *(bias.sections(result.bias, result.rule.threshold) if result.bias is not None else ()),
        *_robustness(result, drawn),
        _skipped(result),
        Section("What this rests on", rows=pairs(_settings(result))),
        Section("How to read it", text=_cautions(result)),
    ]
    return write_report(path, title="How good the detector is", subtitle=one_line(result.title), sections=sections)


def _headline(result: DetectorResult) -> list[Number]:
    j = result.breakdown
    numbers = []
    if j.overall is not None:
        found = j.overall["metrics"]
        numbers.append(_tile(found["balanced_accuracy"], "balanced accuracy", "at the fixed threshold"))
        auc = found["roc_auc"]
        between = f"{auc['low']:.3f} to {auc['high']:.3f}; " if math.isfinite(auc["low"]) else ""
        numbers.append(Number(f"{auc['value']:.3f}", "ROC-AUC", f"{between}of every threshold, not of the one you get"))
        numbers.append(_tile(found["recall_fake"], "of the fakes found"))
        numbers.append(_tile(found["false_alarm_rate"], "of the reals called FAKE"))
    accused, missed = most_accused(j.sources), least_found(j.generators or j.sources)
    if accused is not None and (j.overall is None or sum(row.n_real > 0 for row in j.sources) > 1):
        where = one_line(accused.name) if accused.fpr.value > 0 else "none on any source"
        numbers.append(_tile(accused.fpr, "false alarms on the worst source", where))
    many = sum(row.n_fake > 0 for row in (j.generators or j.sources))
    if missed is not None and (j.overall is None or many > 1):
        kind = "generator" if j.generators else "source"
        numbers.append(_tile(missed.tpr, f"found of the worst {kind}'s fakes", one_line(missed.name)))
    bad = worst(result.robustness)
    if bad is not None and bad.balanced.n and math.isfinite(bad.balanced.value):
        numbers.append(_tile(bad.balanced, "balanced accuracy under the worst degradation", bad.name))
    return numbers


def _tile(found, label: str, note: str = "") -> Number:
    value, low, high = found[:3] if isinstance(found, tuple) else (found[k] for k in ("value", "low", "high"))
    between = f"{100 * low:.1f} to {100 * high:.1f} %" if math.isfinite(low) else ""
    return Number(percent(value), label, "; ".join(part for part in (between, note) if part))


def _metrics(result: DetectorResult) -> list[Section]:
    if result.breakdown.overall is None:
        return []
    o = result.breakdown.overall
    of = f"{o['n_real']} real and {o['n_fake']} fake images: {one_line(result.breakdown.pool_name)}."
    return [
        Section(title[0].upper() + title[1:], [of], rows=[("", "value", "95 % interval"), *rows], head=True)
        for title, rows in blocks(o, result)
    ]


def _points(result: DetectorResult) -> Section:
    points = result.breakdown.points
    if len(points) < 2:
        return Section("Thresholds")
    oracle = result.breakdown.overall and result.breakdown.overall["metrics"]
    rows: list[Sequence[object]] = [("set for", "threshold", "false alarms here", "fakes found", "found, at best")]
    for p in points:
        best = oracle.get(f"tpr_at_fpr_{p.target_fpr:g}") if oracle else None
        name, at_best = f"{100 * p.target_fpr:g} % false alarms", "–" if best is None else percent(best["value"])
        rows.append((name, f"{p.threshold:.4f}", with_interval(p.fpr), with_interval(p.tpr), at_best))
    text = "«At best» is an upper bound: the threshold with that false-alarm rate on these very images."
    return Section("Thresholds", [text], rows=rows, head=True)


def _reliability_table(result: DetectorResult) -> list[str]:
    if result.breakdown.overall is None or not result.calibrated:
        return []
    pool = result.scores.select(result.breakdown.pool)
    found = reliability_bins(pool.label, pool.score, 15)
    gaps = np.where(found.count >= 20, np.abs(found.mean - found.observed), -1.0)
    i = int(np.argmax(gaps))
    if gaps[i] < 0:
        return []
    return [
        f"The widest gap, among bins with 20 images and more: {found.count[i]} images were given {found.mean[i]:.2f} on"
        f" average, and {percent(found.observed[i], 0)} of them are fake."
    ]


def _rows(title: str, kind: str, rows: list[Slice], shown: list[Picture]) -> Section:
    if not rows:
        return Section(title)
    head = [(kind, "real", "fake", "false alarms", "fakes found", "balanced accuracy", "AUC", "UNSURE")]
    lines = []
    for row in rows:
        balanced = "–" if row.balanced is None else with_interval(row.balanced)
        auc = "–" if row.auc is None else _auc(row.auc)
        rates = (with_interval(row.fpr), with_interval(row.tpr), balanced, auc, percent(row.unsure.value))
        lines.append((one_line(row.name), row.n_real, row.n_fake, *rates))
    named = [line[0].upper() + line[1:] + "." for line in worst_of(kind, rows)]
    return Section(title, named, rows=[*head, *lines], head=True, pictures=shown)


def _auc(found: Mapping) -> str:
    between = f" ({found['low']:.3f} to {found['high']:.3f})" if math.isfinite(found["low"]) else ""
    return f"{found['value']:.3f}{between}".replace(" ", "\u00a0")


def _robustness(result: DetectorResult, drawn: Figures) -> list[Section]:
    bad = worst(result.robustness)
    if bad is None:
        return []
    alarms = most_alarms(result.robustness)
    first = result.robustness[0]
    text = [
        f"Every image once more under each degradation, reals and fakes alike, at the same threshold"
        f" ({counted(first.fpr.n, 'real')}, {counted(first.tpr.n, 'fake')}: {one_line(result.robustness_of)}).",
        f"Worst: {bad.name}, with {with_interval(bad.tpr)} of the fakes found and {with_interval(bad.fpr)} of the reals"
        " called FAKE.",
    ]
    if alarms is not None and alarms.fpr.value > 0:
        text.append(f"Most false alarms: {alarms.name}, {with_interval(alarms.fpr)}.")
    rows: list[Sequence[object]] = [
        ("degradation", "false alarms", "fakes found", "balanced accuracy", "change from clean", "AUC")
    ]
    for c in result.robustness:
        name = f"{c.name} (worst)" if c is bad else c.name
        auc = auc_text(c.auc, c.fpr.n, c.tpr.n)
        change = points(c.change) if c.name != "clean" else ""
        rows.append((name, with_interval(c.fpr), with_interval(c.tpr), with_interval(c.balanced), change, auc))
    curves = pictures(
        drawn,
        {
            "robustness": "Fakes found (orange) and false alarms (blue) at the fixed threshold; bands are 95 %"
            " intervals (of the first kernel), dashed lines the clean images",
            "robustness-chains": "Crops and chains of operations",
        },
    )
    return [
        Section("Robustness", text, pictures=curves),
        Section("Every degradation", rows=rows, head=True),
        _by_source(result),
    ]


def _by_source(result: DetectorResult) -> Section:
    if len(result.by_source) < 2:
        return Section("Robustness by source")
    rows: list[Sequence[object]] = [("source", "degradation", "false alarms", "fakes found")]
    for name, conditions in result.by_source.items():
        shown = [c for c in conditions if c.name in SHOWN]
        bad = worst(conditions)
        if bad is not None and bad not in shown:
            shown.append(bad)
        for c in shown:
            label = f"{c.name} (worst)" if c is bad else c.name
            rows.append((one_line(name), label, with_interval(c.fpr), with_interval(c.tpr)))
    return Section("Robustness by source", rows=rows, head=True)


def _skipped(result: DetectorResult) -> Section:
    skipped = result.skipped
    more = [f"… and {len(skipped) - 50} more."] if len(skipped) > 50 else []
    rows = [(one_line(name), one_line(reason)) for name, reason in skipped[:50]]
    return Section(f"Left out: {len(skipped)} images", rows=rows, notes=more)


def _settings(result: DetectorResult) -> dict[str, object]:
    s = result.settings
    meta = s.get("meta") or {}
    trained = {f"detector: {k.replace('_', ' ')}": v for k, v in meta.items() if isinstance(v, (str, int, float))}
    return {
        "judged": one_line(s["target"]),
        "detector's SHA-256": s.get("sha256"),
        "looks at": s.get("resolution") and f"{s['resolution']} x {s['resolution']} pixels",
        **trained,
        "data": ", ".join(map(one_line, s["data"])) if s.get("data") else None,
        "at most, of each class of each source": s.get("limit"),
        "threshold": f"{result.rule.threshold:.6g} ({result.rule.origin})",
        "UNSURE from": f"{result.rule.unsure_low:.6g}" if result.rule.unsure_low < result.rule.threshold else None,
        "bootstrap resamples": s["resamples"],
        "seed": s["seed"],
        "images left out": len(result.skipped) or None,
    }


def _cautions(result: DetectorResult) -> list[str]:
    text = [
        "Recall, false alarms and other shares of one class have exact intervals (Clopper and Pearson), so 0 of 500 is"
        " not a certain 0; the other intervals are bootstrap percentiles, stratified by class. An interval covers the"
        " chance of drawing these images from their source, not what happens on photos of another kind.",
        "AUC judges an order, not answers: a detector with a good AUC can call half of all foreign photos fake at its"
        " threshold. Read false alarms by source first.",
        "Numbers under «oracle» choose a threshold on the very images they judge. They are upper bounds and no"
        " promise.",
    ]
    if any(row.auc is None for row in result.breakdown.sources):
        text.append(
            "Sources of one class have no AUC: reals of one place and fakes of another differ in more than who made"
            " them, and an AUC between them would measure that."
        )
    if result.robustness:
        text.append(
            "Degradations act on the photo as it lies on the disk, before the detector's own resizing; «web» shrinks"
            " only what is longer than 768 pixels, «hard» what is longer than 512."
        )
    return text
