"""Figures of a cross-validation (see `reports.plots`): ROC of every fold, tables of answers, figures, histories."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from common.words import counted
from reports.plots import STROKES, _curve, _nothing, _sheet, cells, series

MOST = 10  # tables of answers side by side


def rocs(
    folds: Sequence[tuple[str, np.ndarray, np.ndarray]],
    together: tuple[np.ndarray, np.ndarray],
    *,
    points: Sequence[tuple[float, float]] = (),
    theme: str = "light",
) -> bytes:
    """ROC of every fold (name, labels, scores) thin, of all pooled strong; `points` (false alarms, found) are the
    folds' own thresholds."""
    from metrics.classification import roc_auc, roc_curve

    with _sheet(theme, width=5.0, height=4.7) as sheet:
        axis, c = sheet.axes[0], sheet.colours
        axis.plot([0, 1], [0, 1], color=c["faint"], linewidth=1, linestyle=(0, (3, 3)))
        aucs = []
        for name, labels, scores in folds:
            found = roc_curve(labels, scores)
            aucs.append(roc_auc(labels, scores))
            label = f"{name} (AUC {aucs[-1]:.3f})" if len(folds) <= 6 else None
            axis.plot(
                found.fpr, found.tpr, color=c["real"], alpha=0.55, linewidth=0.9, label=label, clip_on=False,
                linestyle=STROKES[len(aucs) % 4],
            )  # fmt: skip
        if len(folds) > 6:
            axis.plot(
                [], [], color=c["real"], alpha=0.55, linewidth=0.9,
                label=f"{counted(len(folds), 'fold')} (AUC {min(aucs):.3f} to {max(aucs):.3f})",
            )  # fmt: skip
        found = roc_curve(*together)
        axis.plot(
            found.fpr, found.tpr, color=c["fake"], linewidth=2.2, label=f"pooled (AUC {roc_auc(*together):.3f})",
            clip_on=False,
        )  # fmt: skip
        if points:
            axis.plot(*zip(*points, strict=True), "o", color=c["ink"], markersize=4, label="own thresholds", zorder=5,
                      clip_on=False)  # fmt: skip
        axis.set(xlabel="real photos called fake", ylabel="fakes found", xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axis.legend(loc="lower right", fontsize=8)
    return sheet.png


def answers(tables: Sequence[tuple[str, Mapping[str, int]]], *, theme: str = "light") -> bytes:
    """Confusion matrices side by side; each (name, {tn, fp, fn, tp}), at that fold's own threshold."""
    shown = list(tables)[:MOST]
    columns = min(len(shown), 3)
    rows = math.ceil(len(shown) / columns)
    with _sheet(theme, columns, rows, width=2.7, height=2.3) as sheet:
        c = sheet.colours
        for axis, (name, n) in zip(sheet.axes, shown):
            counts = np.array([[n["tn"], n["fp"]], [n["fn"], n["tp"]]])
            cells(axis, counts, ["real", "fake"], ["not FAKE", "FAKE"], lambda i, j: c["third" if i == j else "fake"])
            axis.set_title(name)
        for axis in sheet.axes[len(shown) :]:
            axis.axis("off")
    return sheet.png


def figures_by_fold(rows: Sequence[tuple[str, Sequence[float], Mapping]], *, theme: str = "light") -> bytes:
    """Every figure (name, values of the folds, its spread) on one line: dots, mean, corrected interval."""
    with _sheet(theme, width=7.2, height=1.0 + 0.34 * len(rows)) as sheet:
        axis, c = sheet.axes[0], sheet.colours
        for i, (_, values, found) in enumerate(rows):
            known = [v for v in values if math.isfinite(v)]
            if math.isfinite(found["low"]):
                low, high = max(0.0, found["low"]), min(1.0, found["high"])
                axis.plot([low, high], [i, i], color=c["ink"], linewidth=1.2, alpha=0.8, zorder=2)
            axis.plot(known, [i] * len(known), "o", color=c["real"], alpha=0.55, markersize=5, zorder=3)
            if math.isfinite(found["mean"]):
                axis.plot(found["mean"], i, "D", color=c["fake"], markersize=6, zorder=4)
        axis.plot([], [], "o", color=c["real"], alpha=0.55, label="a fold")
        axis.plot([], [], "D", color=c["fake"], label="mean")
        axis.plot([], [], color=c["ink"], label="95 %, corrected")
        axis.set(xlim=(-0.01, 1.01), ylim=(len(rows) - 0.4, -0.6))
        axis.set_yticks(range(len(rows)), [name for name, _, _ in rows])
        sheet.figure.legend(loc="outside upper right", ncols=3, fontsize=8.5)
    return sheet.png


def histories(runs: Sequence[tuple[str, Sequence[Mapping], Sequence[Mapping]]], *, theme: str = "light") -> bytes:
    """Validation AUC and loss of every fold (name, rows of stats.jsonl, rows of metrics.jsonl) over its steps."""
    with _sheet(theme, 2, 1, width=4.6, height=3.2) as sheet:
        c = sheet.colours
        shades = [c["real"], c["fake"], c["third"], c["fourth"], c["ink"]]
        for k, (name, stats, metrics) in enumerate(runs):
            colour, label = shades[k % len(shades)], name if len(runs) <= len(shades) else ""
            x, y = series([row for row in metrics if not row.get("final")], "auc", "step")
            sheet.axes[0].plot(x, y, color=colour, label=label, alpha=0.85, linewidth=1.3)
            if len(y):
                top = int(np.argmax(y))
                sheet.axes[0].plot(x[top], y[top], "o", color=colour, markersize=4)
            _curve(sheet.axes[1], *series(stats, "Loss/total", "step"), colour, label)
        sheet.axes[0].set(title="Validation AUC (clean and degraded)", xlabel="step", ylabel="AUC")
        sheet.axes[1].set(title="Training loss", xlabel="step", ylabel="loss")
        for axis in sheet.axes:
            _nothing(axis, c)
        handles, names = sheet.axes[0].get_legend_handles_labels()
        if handles:
            sheet.figure.legend(handles, names, loc="outside lower center", ncols=len(handles))
    return sheet.png
