"""Figures of what a detector is taught with and of how it learnt (see `reports.plots`); sheets of images are JPEG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from discriminator.training.exploration import CHANNELS, LEVELS, Exploration, SplitPixels
from faces.layout import LABEL_NAMES
from reports.plots import _curve, _nothing, _plain_log, _sheet, class_histograms, series, sheet_of_photos

STYLES = {"train": "-", "validation": (0, (4, 2))}


def class_counts(counts: Mapping[str, Mapping[str, int]], *, theme: str = "light") -> bytes:
    """Images of each class in each split, as bars with their numbers and shares."""
    with _sheet(theme, width=6.4, height=0.9 + 0.62 * len(counts)) as sheet:
        axis, c = sheet.axes[0], sheet.colours
        for k, row in enumerate(counts.values()):
            total = max(1, sum(row.values()))
            for j, name in enumerate(LABEL_NAMES):
                at, n = k + (j - 0.5) * 0.38, row.get(name, 0)
                axis.barh(at, n, 0.35, color=c[name], label=name if k == 0 else None)
                axis.annotate(
                    f"{n} ({100 * n / total:.0f} %)", (n, at), xytext=(4, 0), textcoords="offset points", va="center",
                    fontsize=8,
                )  # fmt: skip
        most = max((n for row in counts.values() for n in row.values()), default=1)
        axis.set(xlabel="images", xlim=(0, 1.22 * max(most, 1)))
        axis.set_yticks(range(len(counts)), list(counts))
        axis.invert_yaxis()
        axis.grid(False, axis="y")
        sheet.figure.legend(loc="outside upper right", ncols=2)
    return sheet.png


def pixel_levels(parts: Sequence[SplitPixels], *, theme: str = "light") -> bytes:
    """How often each level of luma, red, green and blue occurs: class by colour, split by line."""
    with _sheet(theme, 4, 1, width=3.2, height=3.0) as sheet:
        x = (np.arange(LEVELS) + 0.5) * 256 / LEVELS
        for k, axis in enumerate(sheet.axes):
            for p in parts:
                axis.plot(
                    x, 100 * p.histograms[k] / p.histograms[k].sum(), color=sheet.colours[LABEL_NAMES[p.label]],
                    linestyle=STYLES[p.split], linewidth=1.4, label=p.name if k == 0 else None,
                )  # fmt: skip
            axis.set(title=CHANNELS[k].capitalize(), xlabel="level", ylabel="% of the pixels", xlim=(0, 256))
            axis.set_ylim(bottom=0)
        sheet.figure.legend(loc="outside upper right", ncols=4)
    return sheet.png


def brightness(parts: Sequence[SplitPixels], *, theme: str = "light") -> bytes:
    """Mean luma of the images and its spread, a panel for each split."""
    splits = list(dict.fromkeys(p.split for p in parts))
    with _sheet(theme, len(splits), 1, width=4.2, height=3.0) as sheet:
        everything = np.concatenate([p.brightness for p in parts])
        low, high = float(everything.min()), float(everything.max())
        bins = np.linspace(low, high if high > low else low + 1, 33)
        for axis, split in zip(sheet.axes, splits):
            mine = [p for p in parts if p.split == split]
            labels = np.concatenate([np.full(len(p.brightness), p.label) for p in mine])
            class_histograms(axis, sheet.colours, labels, np.concatenate([p.brightness for p in mine]), bins)
            axis.set(title=split.capitalize(), xlabel="mean luma of an image", ylabel="% of the class")
            axis.legend()
    return sheet.png


def history(stats: Sequence[Mapping], metrics: Sequence[Mapping], *, theme: str = "light") -> bytes:
    """Losses, accuracy, learning rate, and the validation's AUC with the state that was kept, over epochs."""
    checked = [row for row in metrics if not row.get("final")]
    steps, epochs = series(stats, "epoch", "step")

    def by_epoch(name: str) -> tuple[np.ndarray, np.ndarray]:
        at, y = series(checked, name, "step")
        return (np.interp(at, steps, epochs) if len(steps) else at), y

    with _sheet(theme, 2, 2, width=4.8, height=2.9) as sheet:
        c = sheet.colours
        losses, accuracy, rate, auc = sheet.axes
        for name, label, colour in (
            ("Loss/total", "total", c["ink"]), ("Loss/verdict", "verdict", c["fourth"]),
            ("Loss/patch", "patches", c["third"]), ("Loss/consistency", "agreement", c["fake"]),
        ):  # fmt: skip
            x, y = series(stats, name, "epoch")
            if len(y) and np.any(y):
                _curve(losses, x, y, colour, label)
        _curve(accuracy, *series(stats, "Train/accuracy", "epoch"), c["ink"], "training, degraded")
        _curve(rate, *series(stats, "Progress/lr", "epoch"), c["ink"])
        for name, label, colour in (
            ("auc", "all views: what decides", c["ink"]), ("auc_clean", "clean", c["third"]),
            ("auc_degraded", "degraded", c["fourth"]),
        ):  # fmt: skip
            x, y = by_epoch(name)
            auc.plot(x, y, color=colour, label=label, marker="o" if len(y) < 30 else None, markersize=3)
            if name == "auc" and len(y):
                best = int(np.argmax(y))
                auc.plot(x[best], y[best], "o", color=c["fake"], markersize=8, fillstyle="none", label="kept")
        for name, colour in (("clean", c["third"]), ("degraded", c["fourth"])):
            x, y = by_epoch(f"balanced_accuracy_{name}")
            if len(y):
                accuracy.plot(x, y, color=colour, label=f"validation, {name}")
        losses.set(title="Losses", ylabel="loss")
        accuracy.set(title="Accuracy at logit 0", ylabel="accuracy (validation: balanced)")
        rate.set(title="Learning rate", ylabel="learning rate")
        auc.set(title="Validation AUC", ylabel="AUC")
        if rate.has_data():
            _, y = series(stats, "Progress/lr", "epoch")
            if (y > 0).sum() > 1 and y[y > 0].max() / y[y > 0].min() > 50:
                _plain_log(rate)
        for axis in sheet.axes:
            axis.set(xlabel="epoch")
            if axis is not rate and axis.has_data():
                axis.legend(fontsize=7.5)
            _nothing(axis, c)
    return sheet.png


def scores(
    labels: np.ndarray, views: Mapping[str, np.ndarray], thresholds: Sequence[tuple[str, float]], unsure: float,
    *, theme: str = "light",
) -> bytes:  # fmt: skip
    """P(fake) of reals and fakes in each view, with every threshold (name, value; the first is the shipped one)."""
    with _sheet(theme, len(views), 1, width=4.6, height=3.6) as sheet:
        c = sheet.colours
        for axis, (name, probability) in zip(sheet.axes, views.items()):
            class_histograms(axis, c, labels, probability, np.linspace(0, 1, 31))
            for k, (said, value) in enumerate(thresholds):
                axis.axvline(
                    value, color=c["ink"], linewidth=1.5 if k == 0 else 0.9,
                    linestyle="-" if k == 0 else (0, (2 + 2 * k, 2)), label=said,
                )  # fmt: skip
            if thresholds and unsure < thresholds[0][1]:
                axis.axvspan(unsure, thresholds[0][1], color=c["faint"], alpha=0.16, linewidth=0, label="UNSURE")
            axis.set(title=name.capitalize(), xlabel="probability of being generated", ylabel="% of the class")
            axis.set_xlim(0, 1)
        sheet.figure.legend(*sheet.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return sheet.png


def sheets(found: Exploration) -> dict[str, bytes]:
    """Name -> JPEG of the samples of each class, the degradations, and the first batch."""
    out = {f"samples-{name}": sheet_of_photos(images, 12) for name, images in found.samples.items() if len(images)}
    rows = found.degraded
    out["degradations"] = sheet_of_photos(rows.reshape(-1, *rows.shape[2:]), rows.shape[1])
    out["first-batch"] = sheet_of_photos(found.shown.reshape(-1, *found.shown.shape[2:]), found.shown.shape[1])
    return out
