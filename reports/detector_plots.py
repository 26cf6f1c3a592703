"""Figures of a detector's evaluation (see `reports.plots`): precision-recall, sources, and rates under degradation.

Blue is what happens to reals (false alarms), orange what happens to fakes (found), in every figure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from metrics.bootstrap import Rate
from metrics.breakdown import Slice
from metrics.classification import pr_auc, pr_curve
from metrics.robustness import CLEAN, FAMILIES, Condition, curves
from reports.plots import STROKES, _sheet, shortened

KERNEL_STYLES = (*STROKES, (0, (3, 1, 1, 1, 1, 1)))
KERNEL_MARKS = ("o", "s", "^", "D", "v")
LONGEST = 34  # letters of a name beside a bar


def precision_recall(labels: np.ndarray, scores: np.ndarray, *, called: np.ndarray, theme: str = "light") -> bytes:
    """Precision over recall of the fakes, the share of fakes as the base line, what is called FAKE at the fixed
    threshold, bool [N], as a point."""
    labels, scores = np.asarray(labels), np.asarray(scores)
    with _sheet(theme, width=4.6, height=4.2) as sheet:
        axis, c = sheet.axes[0], sheet.colours
        found = pr_curve(labels, scores)
        share = float(np.mean(labels))
        axis.plot([0, 1], [share, share], color=c["faint"], linewidth=1, linestyle=(0, (3, 3)))
        axis.text(0.01, share + 0.012, f"{100 * share:.0f} % are fake", color=c["faint"], fontsize=8)
        recall, precision = np.r_[0, found.recall], np.r_[found.precision[:1], found.precision]
        axis.plot(recall, precision, color=c["fake"], drawstyle="steps-pre", clip_on=False)
        if called.any():
            at = float(np.mean(called[labels == 1])), float(np.mean(labels[called]))
            axis.plot(*at, "o", color=c["ink"], markersize=6, label="fixed threshold", zorder=5, clip_on=False)
            axis.legend(loc="lower left")
        axis.set(xlabel="share of the fakes found", ylabel="share of FAKE that is fake", xlim=(0, 1), ylim=(0, 1.02))
        axis.set_title(f"Average precision {pr_auc(labels, scores):.3f}", fontweight="normal")
    return sheet.png


def bars(rows: Sequence[Slice], *, theme: str = "light") -> bytes:
    """Two panels: false-alarm rate and detection rate of each row, with their intervals; the worst in bold."""
    names = [shortened(row.name, LONGEST) for row in rows]
    panels = [
        ("Real photos called FAKE", "real", [row.fpr for row in rows], max),
        ("Fakes found", "fake", [row.tpr for row in rows], min),
    ]
    panels = [panel for panel in panels if any(rate.n for rate in panel[2])]
    with _sheet(theme, len(panels), 1, width=5.2, height=1.0 + 0.36 * len(rows)) as sheet:
        for axis, (title, colour, rates, choose) in zip(sheet.axes, panels):
            known = [i for i, rate in enumerate(rates) if rate.n]
            different = len({rates[i].value for i in known}) > 1
            worst = choose(known, key=lambda i: rates[i].value) if different else None
            for i in known:
                _bar(axis, i, rates[i], sheet.colours[colour], sheet.colours["ink"], bold=i == worst)
            for i in set(range(len(rows))) - set(known):
                axis.text(1.5, i, "no such images", va="center", color=sheet.colours["faint"], fontsize=8)
            axis.set(title=title, xlabel="% with 95 % interval", ylim=(len(rows) - 0.4, -0.6))
            top = max(100 * rates[i].high for i in known)
            axis.set_xlim(0, min(100, max(5, top)) * 1.32)
            axis.set_xticks([tick for tick in axis.get_xticks() if 0 <= tick <= 100])
            axis.set_yticks(range(len(rows)), names)
            axis.grid(axis="y", visible=False)
    return sheet.png


def _bar(axis, at: float, rate: Rate, colour: str, ink: str, *, bold: bool) -> None:
    value, low, high = (100 * part for part in rate[:3])
    axis.barh(at, value, 0.62, color=colour, alpha=0.85)
    axis.plot([low, high], [at, at], color=ink, linewidth=1.2)
    text = f"{value:.1f}" + (" worst" if bold else "")
    axis.annotate(
        text, (high, at), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8,
        fontweight="bold" if bold else "normal",
    )  # fmt: skip


def robustness_curves(conditions: Sequence[Condition], *, theme: str = "light") -> bytes:
    """A panel per family that varies a number: fakes found (orange) and false alarms (blue) at the fixed threshold.

    Bands are 95 % intervals (of the first kernel alone, where a resize has several). The dashed lines are the clean
    images' rates.
    """
    found = {family: lines for family, lines in curves(conditions).items() if _drawable(lines)}
    clean = next((c for c in conditions if c.name == CLEAN), None)
    columns = max(1, min(3, len(found)))
    rows = max(1, math.ceil(len(found) / columns))
    with _sheet(theme, columns, rows, width=4.2, height=3.1) as sheet:
        c = sheet.colours
        for axis, (family, lines) in zip(sheet.axes, found.items()):
            for k, (kernel, line) in enumerate(lines.items()):
                x = np.array([condition.level for condition in line])
                for which, name, colour in (("tpr", "fakes found", "fake"), ("fpr", "false alarms", "real")):
                    rates = np.array([getattr(condition, which)[:3] for condition in line]) * 100
                    if not np.isfinite(rates).all():
                        continue
                    axis.plot(
                        x, rates[:, 0], color=c[colour], linestyle=KERNEL_STYLES[k % 5], linewidth=1.4,
                        marker=KERNEL_MARKS[k % 5], markersize=3.5, clip_on=False, zorder=3,
                        label=name if not kernel else None,
                    )  # fmt: skip
                    if k == 0:
                        axis.fill_between(x, rates[:, 1], rates[:, 2], color=c[colour], alpha=0.16, linewidth=0)
                if kernel:
                    axis.plot([], [], color=c["ink"], linestyle=KERNEL_STYLES[k % 5], marker=KERNEL_MARKS[k % 5],
                              markersize=3.5, label=kernel)  # fmt: skip
            if clean is not None:
                for rate, colour in ((clean.tpr, "fake"), (clean.fpr, "real")):
                    if rate.n:
                        axis.axhline(100 * rate.value, color=c[colour], alpha=0.6, linewidth=0.9, linestyle=(0, (4, 3)))
            _axis(axis, family, sorted({c.level for line in lines.values() for c in line}))
        for axis in sheet.axes[len(found) :]:
            axis.axis("off")
        if len(found) < len(sheet.axes):
            _explain(sheet.axes[len(found)], c)
    return sheet.png


def _drawable(lines: dict[str, list[Condition]]) -> bool:
    return any(len({condition.level for condition in line}) > 1 for line in lines.values())


def _axis(axis, family: str, levels: Sequence[float]) -> None:
    from matplotlib.ticker import NullLocator

    axis.set(xlabel=FAMILIES[family][0], ylabel="% of the class", ylim=(0, 100))
    if family in ("jpeg", "webp"):
        axis.invert_xaxis()  # what hurts is on the right
        axis.set_xticks(levels)
    if family == "resize":
        axis.set_xscale("log", base=2)
        axis.set_xticks(levels, [f"{level:g}" for level in levels])
        axis.xaxis.set_minor_locator(NullLocator())
    if family in ("blur", "noise"):
        axis.set_xticks(levels, [f"{level:g}" for level in levels])
    handles = axis.get_legend_handles_labels()[0]
    if handles:
        axis.legend(ncols=2 if len(handles) > 3 else 1, loc="best", fontsize=7.5)


def _explain(axis, colours: dict[str, str]) -> None:
    axis.plot([], [], color=colours["fake"], label="fakes found")
    axis.plot([], [], color=colours["real"], label="real photos called FAKE")
    axis.plot([], [], color=colours["ink"], linewidth=0.9, linestyle=(0, (4, 3)), label="the same on clean images")
    axis.legend(loc="center", fontsize=9)


def robustness_bars(conditions: Sequence[Condition], *, theme: str = "light") -> bytes:
    """Clean images and the degradations that are one thing each (double JPEG, screenshot, web, hard …), as `bars`."""
    single = [c for c in conditions if c.family not in FAMILIES]
    none = Rate(float("nan"), float("nan"), float("nan"), 0)
    return bars([Slice(c.name, c.fpr.n, c.tpr.n, c.fpr, c.tpr, none) for c in single], theme=theme)
