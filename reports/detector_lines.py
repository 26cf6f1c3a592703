"""A detector's evaluation as lines of a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from common.errors import one_line
from evaluation.detector_result import DetectorResult
from metrics.breakdown import ANSWERS, Slice, least_found, most_accused
from metrics.few import ENOUGH, auc_text
from metrics.robustness import Condition, worst
from metrics.scores import Scores, write_scores
from reports import bias
from reports.rates import RATE, percent, with_interval

# name, how it is shown; those with % are shares
AT_THRESHOLD = {
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "recall_fake": "recall of fakes (found)",
    "recall_real": "recall of reals (kept)",
    "false_alarm_rate": "false alarms",
    "precision_fake": "precision of FAKE",
    "precision_real": "precision of not FAKE",
    "precision_macro": "precision, macro",
    "recall_macro": "recall, macro",
    "f1_fake": "F1 of fakes",
    "f1_real": "F1 of reals",
    "f1_macro": "F1, macro",
    "mcc": "MCC",
}
RANKING = {"roc_auc": "ROC-AUC", "pr_auc": "PR-AUC (average precision)", "eer": "equal error rate"}
CALIBRATION = {"brier": "Brier score", "log_loss": "log loss", "ece": "calibration error (ECE, 15 bins)"}
ORACLE = {
    "best_balanced_accuracy": "best balanced accuracy",
    "tpr_at_fpr_0.005": "fakes found at 0.5 % false alarms",
    "tpr_at_fpr_0.01": "fakes found at 1 % false alarms",
    "tpr_at_fpr_0.05": "fakes found at 5 % false alarms",
}
NAMED = 5  # broken images that are named on the terminal
_SHARES = ("accuracy", "recall", "precision", "false", "f1", "eer", "tpr", "best", "balanced")


def number(name: str, found: Mapping) -> tuple[str, str]:
    """(value, interval) of a metric as it is shown."""
    value, low, high = (found[k] for k in ("value", "low", "high"))
    if not math.isfinite(value):
        return "–", ""
    share = name.startswith(_SHARES)
    shown = percent(value) if share else f"{value:.4f}"
    if not math.isfinite(low):
        return shown, ""
    return shown, f"{100 * low:.1f} to {100 * high:.1f}" if share else f"{low:.4f} to {high:.4f}"


def blocks(overall: Mapping, result: DetectorResult) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """(title, rows of name, value, interval) of the `overall` numbers of the result's breakdown."""
    metrics = overall["metrics"]

    def rows(names: Mapping[str, str]) -> list[tuple[str, str, str]]:
        return [(shown, *number(name, metrics[name])) for name, shown in names.items()]

    yield f"at the threshold {result.rule.threshold:.4f}", rows(AT_THRESHOLD)
    yield "at every threshold", rows(RANKING)
    if result.calibrated:
        yield "probabilities", rows(CALIBRATION)
    yield "oracle (upper bound): threshold chosen on these images", rows(ORACLE)


def lines_of(result: DetectorResult) -> Iterator[str]:
    """What was found: the undegraded images, and degradations as far as they were judged."""
    if result.bias is not None:
        yield from bias.verdict_lines(result.bias)
        yield ""
    for name, reason in result.skipped[:NAMED]:
        yield f"left out: {one_line(name)}: {reason}"
    if len(result.skipped) > NAMED:
        yield f"left out: … and {len(result.skipped) - NAMED} more; `json` names them all"
    j, rule = result.breakdown, result.rule
    band = f", UNSURE from {rule.unsure_low:.4f}" if rule.unsure_low < rule.threshold else ""
    yield f"threshold: FAKE from {rule.threshold:.4f}{band} ({rule.origin})"
    if j.overall is not None:
        yield ""
        o = j.overall
        yield f"together: {o['n_real']} real and {o['n_fake']} fake ({one_line(j.pool_name)}); 95 % intervals"
        for title, rows in blocks(o, result):
            yield f"  {title}"
            for name, value, between in rows:
                yield f"    {name:<36}{value:>9}   {between}"
    yield ""
    yield "said:      " + "".join(f"{answer:>9}" for answer in ANSWERS)
    for word, counts in j.confusion.items():
        yield f"  is {word:<6}" + "".join(f"{counts[answer]:>9}" for answer in ANSWERS)
    yield (
        f"answered (not UNSURE): {with_interval(j.answered['coverage'])}; "
        f"wrong among these: {with_interval(j.answered['error'])}"
    )
    if len(j.points) > 1:
        yield ""
        yield f"{'thresholds':<22}{'threshold':>10}   {'false alarms here':<{RATE}}{'fakes found':<{RATE}}"
        for p in j.points:
            name = f"set for {100 * p.target_fpr:g} %"
            yield f"  {name:<20}{p.threshold:>10.4f}   {with_interval(p.fpr):<{RATE}}{with_interval(p.tpr):<{RATE}}"
    for kind, slices in (("source", j.sources), ("generator", j.generators), ("pair", j.pairs)):
        if slices:
            yield from _rows(kind, slices)
    if result.bias is not None:
        yield from bias.table_lines(result.bias, rule.threshold)
    if result.robustness:
        yield from map(robustness_line, (None, *result.robustness))


def _rows(kind: str, rows: list[Slice]) -> Iterator[str]:
    wide = min(60, max(20, *(len(row.name) + 2 for row in rows)))
    right = max(9, *(len(auc_of(row)) for row in rows))
    yield ""
    rates = f"{'false alarms':<{RATE}}{'fakes found':<{RATE}}"
    yield f"{kind:<{wide}}{'real':>6}{'fake':>6}   {rates}{'AUC':<{right}}unsure"
    for row in rows:
        auc = auc_of(row)
        yield (
            f"{one_line(row.name):<{wide}}{row.n_real:>6}{row.n_fake:>6}   {with_interval(row.fpr):<{RATE}}"
            f"{with_interval(row.tpr):<{RATE}}{auc:<{right}}{percent(row.unsure.value)}"
        )
    yield from worst_of(kind, rows)


def auc_of(row: Slice) -> str:
    """The AUC of a part of the images, of a few of them with its interval; "" where there is none."""
    if row.auc is None:
        return ""
    if min(row.n_real, row.n_fake) >= ENOUGH or not math.isfinite(row.auc["low"]):  # the latter: without resamples
        return auc_text(row.auc["value"], row.n_real, row.n_fake, 4) + " "
    return f"{row.auc['value']:.4f} ({row.auc['low']:.2f} to {row.auc['high']:.2f}) "


def worst_of(kind: str, rows: list[Slice]) -> Iterator[str]:
    """The lines that name the worst rows, where there are several to choose from."""
    accused, missed = most_accused(rows), least_found(rows)
    if kind == "source" and accused is not None and len({row.fpr.value for row in rows if row.n_real}) > 1:
        yield f"most false alarms: {one_line(accused.name)}, {with_interval(accused.fpr)}"
    if missed is not None and len({row.tpr.value for row in rows if row.n_fake}) > 1:
        yield f"worst {kind}: {one_line(missed.name)}, {with_interval(missed.tpr)} of its fakes found"


def robustness_line(condition: Condition | None) -> str:
    """A row of the robustness table; its head for None."""
    if condition is None:
        return f"  {'degradation':<24}{'false alarms':<{RATE}}{'fakes found':<{RATE}}{'AUC':<9}balanced accuracy"
    c = condition
    few = min(c.fpr.n, c.tpr.n) < ENOUGH
    auc = f"{auc_text(c.auc, c.fpr.n, c.tpr.n, 4)} "
    balanced = with_interval(c.balanced) if few else percent(c.balanced.value)
    return f"  {c.name:<24}{with_interval(c.fpr):<{RATE}}{with_interval(c.tpr):<{RATE}}{auc:<9}{balanced}"


def most_alarms(conditions: Sequence[Condition]) -> Condition | None:
    """The degradation, or none of them, under which most reals are called FAKE; None without reals."""
    return max((c for c in conditions if c.fpr.n), key=lambda c: c.fpr.value, default=None)


def last_lines(result: DetectorResult) -> Iterator[str]:
    """The worst degradations, and what is to be said of it all."""
    if (bad := worst(result.robustness)) is not None:
        yield f"worst degradation: {bad.name}"
        yield robustness_line(bad)
        if (alarms := most_alarms(result.robustness)) is not None:
            where = f" under {alarms.name}" if alarms.fpr.value > 0 else " under any degradation"
            yield f"most false alarms: {100 * alarms.fpr.value:.1f} %{where}"
    yield from (f"note: {note}" for note in result.notes)


def write_csv(path: str, result: DetectorResult) -> str:
    """Every score with its verdict, as far as judged; returns the line that says so."""
    table = Scores.join(result.tables)
    write_scores(path, table, result.rule.said(table))
    return f"{path} written: a row for each image{' and degradation' if len(result.tables) > 1 else ''}"
