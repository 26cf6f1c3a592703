"""A comparison for people: lines for the terminal, Markdown, CSV, PNG and one HTML page."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

from common.errors import one_line
from common.files import write_json, write_text
from common.outputs import plain
from common.words import counted
from evaluation.compare import ComparisonResult, PairTests
from evaluation.contestants import OF_REALS, Contestant
from reports import plots
from reports.compare_plots import bars, roc_overlay, size_of, speed_against_auc
from reports.page import Section, pictures, write_report

# column, heading
RATES = (
    ("accuracy", "accuracy"), ("balanced_accuracy", "balanced accuracy"), ("precision_fake", "precision"),
    ("recall_fake", "recall"), ("f1_fake", "F1"), ("false_alarm_rate", "false alarms"), ("roc_auc", "AUC"),
    ("tpr_at_fpr_0.01", "TPR at 1 % FPR (ROC)"), ("tpr_at_shipped_0.01", "TPR at the 1 % threshold"),
    ("fpr_at_shipped_0.01", "FPR there"),
)  # fmt: skip
COSTS = ("parameters", "GFLOPs", "images/s", "training", "epochs")
UNKNOWN = "–"

HOW = [
    "All figures are of the same images; precision, recall and F1 are of the class fake (compare.csv and compare.json"
    " have those of the class real as well). Accuracy to false alarms are"
    " at each detector's own shipped threshold, where UNSURE counts as not FAKE. AUC and «TPR at 1 % FPR (ROC)» need no"
    " threshold; the latter takes the best one on these very images, so it is an upper bound of what a shipped"
    " threshold gives. «TPR at the 1 % threshold» is what the threshold set for 1 % on validation images finds here,"
    " and «FPR there» what it really costs here.",
    "GFLOPs: convolutions, matrix products and attention for one image, a multiply-add counted as two operations;"
    " filters, norms and activations are not counted. Images a second: the networks alone on prepared photos, 8 at a"
    " time, all measured by turns in one process, the best of several rounds. Training time and epochs are of the run's"
    " log or the file's header, on whatever machine that was.",
    "DeLong's test compares AUCs, McNemar's exact test the share of right answers at the shipped thresholds; Holm's"
    " correction is over all pairs of a test. Both take images for independent: where images come in groups, the"
    " intervals of the table, which draw whole groups, are the ones to trust.",
]


def lines_of(result: ComparisonResult) -> list[str]:
    """The table for the terminal."""
    width = max(8, max(len(c.name) for c in result.contestants))
    lines = [f"the same {result.n_real} real and {counted(result.n_fake, 'fake image')} for all"]
    lines.append(
        f"{'':{width}}     AUC  bal. acc.  found  false alarms  TPR@1%FPR (ROC)   params  GFLOPs  images/s"
        f" ({counted(result.threads, 'thread')})"
    )
    for c in result.contestants:
        m = {name: _percent(c.metrics.get(name)) for name, _ in RATES}
        costs = f"{size_of(c.parameters):>7}  {_said(c.flops and c.flops / 1e9):>6}  {_said(c.images_per_second):>8}"
        lines.append(
            f"{c.name:{width}}  {_value(c.metrics['roc_auc'])}  {m['balanced_accuracy']:>9}  {m['recall_fake']:>5}"
            f"  {m['false_alarm_rate']:>12}  {m['tpr_at_fpr_0.01']:>15}  {costs}"
        )
    lines += [pair_line(pair) for pair in result.pairs[:20]]
    if len(result.pairs) > 20:
        lines.append(f"… and {counted(len(result.pairs) - 20, 'more pair')} in the report")
    return [*lines, *(f"note: {note}" for note in result.notes)]


def pair_line(pair: PairTests) -> str:
    """What the tests say about two, in words."""
    a = pair.auc
    span = f" ({a.low:+.4f} to {a.high:+.4f})" if math.isfinite(a.low) else ""
    text = f"{pair.first} − {pair.second}: AUC {a.difference:+.4f}{span}"
    text += f", DeLong p {_p(a.p)}, Holm {_p(pair.auc_holm)}"
    if pair.verdicts is not None:
        v = pair.verdicts
        text += f"; right alone {v.only_first} : {v.only_second}, McNemar p {_p(v.p)}, Holm {_p(pair.verdicts_holm)}"
    return text


def write_comparison(out: Path, result: ComparisonResult) -> None:
    """compare.html, compare.md, compare.csv, compare.json and PNGs, light and dark, in the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "compare.json", plain(result.to_json()), indent=2)
    drawn = {
        "roc": plots.both(roc_overlay, result.contestants, result.labels),
        "bars": plots.both(bars, result.contestants),
    }
    if any(c.images_per_second for c in result.contestants):
        drawn["speed"] = plots.both(speed_against_auc, result.contestants, threads=result.threads)
    plots.write_pngs(out, drawn)
    write_text(out / "compare.csv", _csv(result))
    write_text(out / "compare.md", markdown(result, list(drawn)))
    captions = {
        "roc": "Every threshold's false alarms and fakes found; dots are the thresholds in force",
        "bars": "With 95 % intervals",
    }
    speed = "Quick and right is up and to the right; larger dots have more parameters"
    n = f"{result.n_real} real and {counted(result.n_fake, 'fake image')}"
    sections = [
        Section(
            "Figures",
            text=[f"The same {n} for all: {'; '.join(result.images)}."],
            rows=_rates(result, RATES[:6]),
            head=True,
        ),
        Section(
            "Order, and 1 % false alarms", rows=[row[:1] + row[2:] for row in _rates(result, RATES[6:])], head=True
        ),
        Section("Cost", rows=_costs(result), head=True, notes=[_threads(result)]),
        Section("Curves and bars", pictures=pictures(drawn, captions)),
        Section("Speed", pictures=pictures(drawn, {"speed": speed})),
        Section("Differences", rows=_tests(result), head=True),
        Section("Left out", rows=[(one_line(a), one_line(b)) for a, b in result.skipped[:100]]),
        Section("How to read it", text=HOW, notes=result.notes),
    ]
    write_report(out / "compare.html", title="Detectors compared", subtitle=n, sections=sections)


def markdown(result: ComparisonResult, figures: list[str]) -> str:
    """The tables as Markdown."""
    parts = [
        "# Detectors compared", "",
        f"The same {result.n_real} real and {counted(result.n_fake, 'fake image')} for all:"
        f" {'; '.join(result.images)}.", "",
        *_table(_rates(result)), "", "## Cost", "", *_table(_costs(result)), "", _threads(result), "",
        "## Differences", "", *_table(_tests(result)), "",
        *(f"![{name}]({name}-light.png)" for name in figures), "", "## How to read it", "",
    ]  # fmt: skip
    for text in HOW:
        parts += [text, ""]
    parts += [f"- {note}" for note in result.notes]
    return "\n".join(parts).rstrip() + "\n"


def _table(rows: list[tuple]) -> list[str]:
    lines = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def _rates(result: ComparisonResult, columns: tuple = RATES) -> list[tuple]:
    rows = [("", "threshold set for", *(heading for _, heading in columns))]
    for c in result.contestants:
        cells = []
        for name, _ in columns:
            found = c.metrics.get(name)
            text = _value(found) if name == "roc_auc" else _percent(found)
            if found is not None and math.isfinite(found["low"]):
                low, high = found["low"], found["high"]
                text += f" ({low:.4f}–{high:.4f})" if name == "roc_auc" else f" ({100 * low:.1f}–{100 * high:.1f})"
            cells.append(text.replace(" ", "\u00a0"))
        target = UNKNOWN if c.target_fpr is None else f"{100 * c.target_fpr:g}\u00a0% false alarms"
        rows.append((one_line(c.name), target, *cells))
    return rows


def _costs(result: ComparisonResult) -> list[tuple]:
    rows = [("", "resolution", *COSTS)]
    for c in result.contestants:
        side = UNKNOWN if c.resolution is None else f"{c.resolution} px"
        counts = _said(c.flops and c.flops / 1e9), _said(c.images_per_second), _time(c), _said(c.epochs)
        rows.append((one_line(c.name), side, size_of(c.parameters), *counts))
    return rows


def _tests(result: ComparisonResult) -> list[tuple]:
    rows = [
        ("", "AUC difference", "95 % interval", "DeLong p", "Holm", "right alone", "McNemar p", "Holm"),
    ]
    for pair in result.pairs:
        a, v = pair.auc, pair.verdicts
        span = f"{a.low:+.4f} to {a.high:+.4f}" if math.isfinite(a.low) else UNKNOWN
        alone = (f"{v.only_first} : {v.only_second}", _p(v.p), _p(pair.verdicts_holm)) if v else (UNKNOWN,) * 3
        name = f"{one_line(pair.first)} − {one_line(pair.second)}"
        rows.append((name, f"{a.difference:+.4f}", span, _p(a.p), _p(pair.auc_holm), *alone))
    return rows


def _csv(result: ComparisonResult) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = [*(name for name, _ in RATES), *OF_REALS]
    bounds = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    writer.writerow(
        ["name", "file", "n_real", "n_fake", *bounds, "threshold", "resolution", "parameters", "flops",
         "images_per_second", "threads", "training_seconds", "epochs"]
    )  # fmt: skip
    for c in result.contestants:
        cells = []
        for name in names:
            found = c.metrics.get(name)
            cells += [
                "" if found is None or not math.isfinite(v := found[k]) else repr(v) for k in ("value", "low", "high")
            ]
        rest = [c.threshold, c.resolution, c.parameters, c.flops, c.images_per_second, result.threads,
                c.training_seconds, c.epochs]  # fmt: skip
        writer.writerow(
            [one_line(c.name), one_line(c.spec), result.n_real, result.n_fake, *cells]
            + ["" if value is None else value for value in rest]
        )
    return stream.getvalue()


def _threads(result: ComparisonResult) -> str:
    return f"Measured on this machine with {counted(result.threads, 'thread')}."


def _said(value: float | None, form: str = "{:.3g}") -> str:
    return UNKNOWN if value is None or not math.isfinite(value) else form.format(value)


def _percent(found: dict | None) -> str:
    return _said(None if found is None else 100 * found["value"], "{:.1f} %")


def _value(found: dict | None) -> str:
    return _said(None if found is None else found["value"], "{:.4f}")


def _time(c: Contestant) -> str:
    if c.training_seconds is None:
        return UNKNOWN
    minutes = c.training_seconds / 60
    return f"{minutes:.1f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else _said(value, "{:.2g}")
