"""Figures of a comparison (see `reports.plots`): ROC curves over each other, bars with intervals, speed against AUC."""

from __future__ import annotations

import numpy as np

from common.words import counted
from evaluation.contestants import Contestant
from metrics.classification import roc_curve
from reports.plots import STROKES, _plain_log, _sheet, shortened

# Okabe & Ito (2008); after them the same colours with other strokes
CYCLE = {
    "light": ("#0072b2", "#d55e00", "#00896b", "#8a5aa8", "#b8860b", "#56a0d3", "#7f7f7f"),
    "dark": ("#56b4e9", "#f08a3c", "#3fc29c", "#c39bdf", "#f0e442", "#8fb8ff", "#a8a8a8"),
}
LONGEST = 28  # letters of a name


def colours_of(contestants: list[Contestant], theme: str) -> dict[str, tuple[str, object]]:
    """name -> (colour, stroke), the same in every figure."""
    cycle = CYCLE[theme]
    return {
        one.name: (cycle[i % len(cycle)], STROKES[i // len(cycle) % len(STROKES)]) for i, one in enumerate(contestants)
    }


def size_of(number: int | None) -> str:
    """A number of parameters as 1.25 M or 8.4 k."""
    if number is None:
        return "–"
    return f"{number / 1e6:.2f} M" if number >= 1e5 else f"{number / 1e3:.1f} k"


def roc_overlay(contestants: list[Contestant], labels: np.ndarray, *, theme: str = "light") -> bytes:
    """All ROC curves; beside them the same with a logarithmic axis of false alarms, where a detector works. Dots are
    the thresholds in force."""
    paint = colours_of(contestants, theme)
    least = 0.5 / max(1, int((labels == 0).sum()))
    with _sheet(theme, 2, 1, width=4.7, height=4.4) as sheet:
        c = sheet.colours
        for axis, log in zip(sheet.axes, (False, True)):
            diagonal = np.geomspace(least, 1, 100) if log else np.array([0.0, 1.0])
            axis.plot(diagonal, diagonal, color=c["faint"], linewidth=1, linestyle=(0, (3, 3)))
            for one in contestants:
                colour, stroke = paint[one.name]
                found = roc_curve(labels, one.scores)
                auc = one.metrics["roc_auc"]["value"]
                fpr = np.maximum(found.fpr, least) if log else found.fpr
                axis.plot(
                    fpr,
                    found.tpr,
                    color=colour,
                    linestyle=stroke,
                    linewidth=1.6,
                    label=f"{shortened(one.name, LONGEST)} {auc:.3f}",
                )
                if one.called is not None:
                    at = float(one.called[labels == 0].mean()), float(one.called[labels == 1].mean())
                    axis.plot(max(at[0], least) if log else at[0], at[1], "o", color=colour, markersize=6,
                              markeredgecolor=c["paper"], zorder=5, clip_on=False)  # fmt: skip
            axis.set(xlabel="real photos called fake", ylabel="fakes found", ylim=(0, 1.01))
            if log:
                from matplotlib.ticker import FuncFormatter, NullLocator

                axis.set_xscale("log")
                axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:g} %"))
                axis.xaxis.set_minor_locator(NullLocator())
                axis.set_xlim(least, 1)
                axis.set_title("the same, few false alarms spread out", fontweight="normal")
            else:
                axis.set_xlim(0, 1)
                axis.legend(loc="lower right", title="AUC", alignment="left")
                axis.set_title("ROC; dots: thresholds in force", fontweight="normal")
    return sheet.png


def bars(contestants: list[Contestant], *, theme: str = "light") -> bytes:
    """AUC, balanced accuracy, and fakes found at 1 % false alarms, each with its 95 % interval."""
    panels = [
        ("ROC-AUC", "roc_auc", ""),
        ("Balanced accuracy", "balanced_accuracy", "at the threshold in force"),
        ("Fakes found at 1 % false alarms", "tpr_at_fpr_0.01", "by these images' ROC"),
    ]
    panels = [p for p in panels if any(p[1] in c.metrics for c in contestants)]
    paint = colours_of(contestants, theme)
    with _sheet(theme, len(panels), 1, width=3.9, height=1.2 + 0.42 * len(contestants)) as sheet:
        for number, (axis, (title, key, how)) in enumerate(zip(sheet.axes, panels)):
            values = [c.metrics.get(key) for c in contestants]
            top = max((100 * _span(v)[1] for v in values if v), default=100)
            low = min((100 * _span(v)[0] for v in values if v), default=0)
            start = 0 if low < 50 or key == "tpr_at_fpr_0.01" else 50
            for i, (one, found) in enumerate(zip(contestants, values)):
                if found is None or not np.isfinite(found["value"]):
                    axis.text(start + 0.5, i, "not known", va="center", fontsize=8, color=sheet.colours["faint"])
                    continue
                value = 100 * found["value"]
                axis.barh(i, value - start, 0.62, left=start, color=paint[one.name][0], alpha=0.85)
                axis.plot([100 * end for end in _span(found)], [i, i], color=sheet.colours["ink"], linewidth=1.2)
                axis.annotate(f"{value:.1f}", (max(value, 100 * _span(found)[1]), i), xytext=(4, 0), fontsize=8,
                              textcoords="offset points", va="center")  # fmt: skip
            axis.set_xlim(start, start + (max(top, start + 5) - start) * 1.22)
            axis.set_xticks([tick for tick in axis.get_xticks() if start <= tick <= 100])
            axis.set(title=title, xlabel=f"%, 95 % interval{'; ' + how if how else ''}", ylim=(len(values) - 0.4, -0.6))
            names = [shortened(c.name, LONGEST) for c in contestants] if number == 0 else [""] * len(contestants)
            axis.set_yticks(range(len(names)), names)
            axis.grid(axis="y", visible=False)
    return sheet.png


def _span(found: dict) -> tuple[float, float]:
    """The interval, or the value alone where there is none."""
    return (found["low"], found["high"]) if np.isfinite(found["low"]) else (found["value"], found["value"])


def speed_against_auc(contestants: list[Contestant], *, threads: int, theme: str = "light") -> bytes:
    """AUC with its interval over images a second; the area of a dot is the number of parameters."""
    from matplotlib.collections import PathCollection

    known = [(c, c.images_per_second) for c in contestants if c.images_per_second]
    paint = colours_of(contestants, theme)
    largest = max(c.parameters or 1 for c, _ in known)
    with _sheet(theme, width=7.4, height=4.2) as sheet:
        axis = sheet.axes[0]
        for one, speed in known:
            auc, colour = one.metrics["roc_auc"], paint[one.name][0]
            axis.plot([speed] * 2, _span(auc), color=colour, linewidth=1.3, alpha=0.8)
            area = 30 + 300 * (one.parameters or 1) / largest
            label = f"{shortened(one.name, LONGEST)}, {size_of(one.parameters)}"
            axis.scatter(speed, auc["value"], s=area, color=colour, alpha=0.85, zorder=3, label=label)
        found = axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), title="parameters", alignment="left")
        for mark in found.legend_handles:
            if isinstance(mark, PathCollection):  # a dot, whatever its size in the figure
                mark.set_sizes([45])
        _plain_log(axis, along_x=True)
        speeds = [speed for _, speed in known]
        axis.set_xlim(min(speeds) / 1.6, max(speeds) * 1.6)
        where = counted(threads, "thread")
        axis.set(xlabel=f"images a second, the network alone, {where}", ylabel="ROC-AUC, 95 % interval")
    return sheet.png
