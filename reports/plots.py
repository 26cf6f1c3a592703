"""Figures of a run as PNG bytes, in a light and a dark dress. Real is blue and fake orange, here and in every heat map.

Figures are drawn with matplotlib's Agg canvas and no pyplot: no window system, no global state, safe in threads.
Every function takes `theme` ("light" or "dark") and returns the bytes of a PNG.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.files import write_bytes
from synth.grid import contact_sheet as lay_out

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 140
COLOURS = {  # Okabe & Ito (2008), lifted a little on black; apart under every common colour blindness
    "light": {"paper": "#ffffff", "ink": "#24292f", "faint": "#8a9199", "grid": "#e6e8eb",
              "real": "#0072b2", "fake": "#d55e00", "third": "#00896b", "fourth": "#8a5aa8"},
    "dark": {"paper": "#16191d", "ink": "#dfe3e8", "faint": "#8f979f", "grid": "#2b3037",
             "real": "#56b4e9", "fake": "#f08a3c", "third": "#3fc29c", "fourth": "#c39bdf"},
}  # fmt: skip
STROKES = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))


def both(draw: Callable[..., bytes], *args, **options) -> tuple[bytes, bytes]:
    """The same figure for light and for dark pages."""
    return draw(*args, **options, theme="light"), draw(*args, **options, theme="dark")


def write_pngs(folder: Path, drawn: Mapping[str, tuple[bytes, bytes]]) -> None:
    """NAME-light.png and NAME-dark.png of every figure."""
    for name, pictures in drawn.items():
        for theme, png in zip(("light", "dark"), pictures):
            write_bytes(folder / f"{name}-{theme}.png", png)


def shortened(name: str, longest: int) -> str:
    """A name that fits beside a bar: its end, which tells it from others."""
    return name if len(name) <= longest else "…" + name[1 - longest :]


class _Sheet:
    """The open figure: `.axes`, and `.png` once the block is left."""

    def __init__(self, figure: Figure, axes: list[Axes], colours: dict[str, str]):
        self.figure, self.axes, self.colours = figure, axes, colours
        self.png = b""


@contextmanager
def _sheet(theme: str, columns: int = 1, rows: int = 1, *, width: float = 4.6, height: float = 3.4) -> Iterator[_Sheet]:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    colours = COLOURS[theme]
    style: dict[Any, Any] = {  # matplotlib's stubs want its names as literals
        "font.family": "sans-serif", "font.size": 9.5, "text.color": colours["ink"], "axes.labelcolor": colours["ink"],
        "axes.edgecolor": colours["faint"], "xtick.color": colours["faint"], "ytick.color": colours["faint"],
        "xtick.labelcolor": colours["ink"], "ytick.labelcolor": colours["ink"], "axes.titlesize": 10.5,
        "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
        "axes.facecolor": colours["paper"], "figure.facecolor": colours["paper"], "axes.grid": True,
        "grid.color": colours["grid"], "grid.linewidth": 0.8, "axes.axisbelow": True, "lines.linewidth": 1.7,
        "legend.frameon": False, "legend.fontsize": 8.5, "xtick.major.size": 0, "ytick.major.size": 0,
        "axes.formatter.useoffset": False,
    }  # fmt: skip
    with rc_context(style):
        figure = Figure(figsize=(width * columns, height * rows), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        axes = list(np.atleast_1d(figure.subplots(rows, columns)).ravel())
        sheet = _Sheet(figure, axes, colours)
        yield sheet
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
        sheet.png = buffer.getvalue()


def value(row: Mapping, name: str) -> float:
    """A row's number for `name`: the mean where it holds statistics, NaN where it has none."""
    found = row.get(name)
    if isinstance(found, Mapping):
        found = found.get("mean")
    return float(found) if isinstance(found, (int, float)) else float("nan")


def series(rows: Sequence[Mapping], name: str, along: str = "kimg") -> tuple[np.ndarray, np.ndarray]:
    """(x, y) of the rows in which both numbers are there and finite."""
    pairs = np.array([[value(row, along), value(row, name)] for row in rows], dtype=float).reshape(-1, 2)
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    return pairs[:, 0], pairs[:, 1]


def smooth(y: np.ndarray, span: int) -> np.ndarray:
    """Centred running mean over `span` points, over fewer near the ends."""
    half = span // 2
    total = np.concatenate([[0.0], np.cumsum(y)])
    at = np.arange(len(y))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(y))
    return (total[high] - total[low]) / (high - low)


def _curve(axis: Axes, x: np.ndarray, y: np.ndarray, colour: str, label: str = "") -> None:
    """A measured curve; long ones faint, with their running mean drawn over them."""
    if not len(x):
        return
    if len(x) < 30:
        axis.plot(x, y, color=colour, label=label, marker="o", markersize=3)
        return
    axis.plot(x, y, color=colour, alpha=0.25, linewidth=0.8)
    axis.plot(x, smooth(y, max(3, len(x) // 25)), color=colour, label=label)


def _plain_log(axis: Axes, *, along_x: bool = False, decades: float = 1) -> None:
    """A logarithmic axis labelled 0.5, 1, 2 instead of powers of ten, or 1, 10, 100 where it spans many `decades`."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set(**{"xscale" if along_x else "yscale": "log"})
    line = axis.xaxis if along_x else axis.yaxis
    line.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 3 else (1,)))
    line.set_minor_locator(NullLocator())
    line.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _nothing(axis: Axes, colours: dict[str, str]) -> None:
    if not axis.has_data():
        axis.text(0.5, 0.5, "not recorded", transform=axis.transAxes, ha="center", color=colours["faint"])
        axis.grid(False)


def training_curves(rows: Sequence[Mapping], *, theme: str = "light") -> bytes:
    """Six panels over kimg from the rows of stats.jsonl: losses, logits, augmentation, verdict, gradients, speed."""
    game = [row for row in rows if "verdict_step" not in row]
    with _sheet(theme, 3, 2, width=3.9, height=2.75) as sheet:
        c = sheet.colours
        panels = [
            ("Losses", "loss", [("Loss/G/loss", "generator", c["fake"]), ("Loss/D/loss", "discriminator", c["real"])]),
            ("Adversarial logits", "mean logit",
             [("Loss/scores/fake", "fakes", c["fake"]), ("Loss/scores/real", "reals", c["real"])]),
            ("Augmentation", "",
             [("Progress/augment", "ADA p", c["third"]), ("Loss/signs/real", "r_t: mean sign of reals", c["fourth"])]),
            ("Verdict head", "", [("Loss/verdict", "loss", c["fourth"]), ("Verdict/accuracy", "accuracy", c["third"])]),
            ("Gradient norms", "L2 norm, log scale", [
                (name, name.removeprefix("Gradients/"), colour)
                for name, colour in zip(_gradient_names(game), (c["fake"], c["real"], c["third"], c["fourth"]))
            ]),
            ("Speed", "seconds per kimg", [("Timing/sec_per_kimg", "", c["ink"])]),
        ]  # fmt: skip
        for axis, (title, label, lines) in zip(sheet.axes, panels):
            for name, legend, colour in lines:
                _curve(axis, *series(game, name), colour, legend)
            axis.set(title=title, xlabel="thousand images shown (kimg)", ylabel=label)
            if title == "Gradient norms" and axis.has_data():
                _plain_log(axis)
            if title == "Speed":
                axis.set_ylim(bottom=0)
            if len(lines) > 1 and axis.has_data():
                axis.legend()
            _nothing(axis, c)
    return sheet.png


def _gradient_names(rows: Sequence[Mapping]) -> list[str]:
    """Up to four, generator and discriminator first, so that they have the colours of their losses."""
    names = {name for row in rows for name in row if name.startswith("Gradients/") and "nonfinite" not in name}
    first = ["Gradients/G", "Gradients/D", "Gradients/V"]
    return sorted(names, key=lambda name: (first.index(name) if name in first else len(first), name))[:4]


def verdict_curves(rows: Sequence[Mapping], *, theme: str = "light") -> bytes:
    """Loss and accuracy of the verdict head trained alone, over its steps (rows with `verdict_step`)."""
    alone = [row for row in rows if "verdict_step" in row]
    with _sheet(theme, 2, 1) as sheet:
        for axis, name, label, colour in zip(
            sheet.axes, ("Loss/verdict", "Verdict/accuracy"), ("loss", "accuracy on degraded batches"),
            (sheet.colours["fourth"], sheet.colours["third"])
        ):  # fmt: skip
            _curve(axis, *series(alone, name, "verdict_step"), colour)
            axis.set(xlabel="step of the verdict head alone", ylabel=label)
            _nothing(axis, sheet.colours)
    return sheet.png


def fid_curve(rows: Sequence[Mapping], *, name: str = "fid", label: str = "FID", theme: str = "light") -> bytes:
    """`name` over kimg on a logarithmic scale, the best snapshot marked. Lower is better."""
    with _sheet(theme) as sheet:
        axis, c = sheet.axes[0], sheet.colours
        x, y = series(rows, name)
        if len(x):
            axis.plot(x, y, color=c["third"], marker="o", markersize=4)
            best = int(np.argmin(y))
            axis.plot(x[best], y[best], "o", color=c["fake"], markersize=7)
            axis.annotate(f"{y[best]:.3g}", (x[best], y[best]), xytext=(0, 9), textcoords="offset points", ha="center")
            if y.min() > 0 and y.max() / y.min() > 3:
                _plain_log(axis)
            axis.margins(y=0.18)
        axis.set(xlabel="thousand images shown (kimg)", ylabel=f"{label} (lower is better)")
        _nothing(axis, c)
    return sheet.png


def roc(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    point: tuple[float, float] | None = None,
    point_name: str = "shipped threshold",
    theme: str = "light",
) -> bytes:
    """ROC curves; `curves` maps a name to (labels, scores). `point` (false-alarm rate, hit rate) is the shipped one,
    or what `point_name` says."""
    from metrics.classification import roc_auc, roc_curve

    with _sheet(theme, width=4.6, height=4.2) as sheet:
        axis, c = sheet.axes[0], sheet.colours
        axis.plot([0, 1], [0, 1], color=c["faint"], linewidth=1, linestyle=(0, (3, 3)))
        for (name, (labels, scores)), colour in zip(curves.items(), (c["real"], c["fake"], c["third"], c["fourth"])):
            found = roc_curve(labels, scores)
            axis.plot(
                found.fpr, found.tpr, color=colour, label=f"{name} (AUC {roc_auc(labels, scores):.3f})", clip_on=False
            )
        if point is not None:
            axis.plot(*point, "o", color=c["ink"], markersize=6, label=point_name, zorder=5, clip_on=False)
        axis.set(xlabel="real photos called fake", ylabel="fakes found", xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axis.legend(loc="lower right")
    return sheet.png


def class_histograms(axis: Axes, colours: dict[str, str], labels: np.ndarray, scores: np.ndarray, bins) -> None:
    """Reals and fakes over the same bins, each class in per cent of itself."""
    for which, name in ((0, "real"), (1, "fake")):
        mine, colour = scores[labels == which], colours[name]
        if len(mine):
            share = np.full(len(mine), 100 / len(mine))
            axis.hist(mine, bins, weights=share, color=colour, alpha=0.45, label=f"{name} ({len(mine)})")
            axis.hist(mine, bins, weights=share, color=colour, histtype="step", linewidth=1.4)


def score_histogram(
    labels: np.ndarray, scores: np.ndarray, *, threshold: float | None = None, unsure: float | None = None,
    ranks: bool = False, theme: str = "light",
) -> bytes:  # fmt: skip
    """Distribution of P(fake) of reals and fakes, with the shipped threshold and the lower end of the unsure band.
    ranks: the scores are no probabilities."""
    labels, scores = np.asarray(labels), np.asarray(scores)
    with _sheet(theme, width=4.6, height=4.2) as sheet:
        axis, c = sheet.axes[0], sheet.colours
        low, high, digits = (scores.min(), max(scores.max(), scores.min() + 1e-9), "g") if ranks else (0, 1, "f")
        class_histograms(axis, c, labels, scores, np.linspace(low, high, 41 if ranks else 31))
        if threshold is not None:
            axis.axvline(threshold, color=c["ink"], linewidth=1.3, label=f"FAKE from {threshold:.3{digits}}")
            if unsure is not None and unsure < threshold:
                label = "UNSURE" if ranks else f"UNSURE from {unsure:.3f}"
                axis.axvspan(unsure, threshold, color=c["faint"], alpha=0.16, linewidth=0, label=label)
        axis.set(xlabel="score" if ranks else "probability of being generated", ylabel="% of the images of the class")
        if not ranks:
            axis.set_xlim(0, 1)
        axis.legend(loc="best" if ranks else "upper center")
    return sheet.png


def reliability(labels: np.ndarray, probabilities: np.ndarray, *, bins: int = 10, theme: str = "light") -> bytes:
    """Share of fakes among the images given a probability: on the diagonal, probabilities mean what they say."""
    from metrics.classification import ece, reliability_bins

    with _sheet(theme, width=4.6, height=4.2) as sheet:
        axis, c = sheet.axes[0], sheet.colours
        found = reliability_bins(labels, probabilities, bins)
        axis.plot([0, 1], [0, 1], color=c["faint"], linewidth=1, linestyle=(0, (3, 3)))
        sizes = 18 + 160 * found.count / max(found.count.max(), 1)
        keep = found.count > 0
        axis.plot(found.mean[keep], found.observed[keep], color=c["third"], alpha=0.6)
        axis.scatter(found.mean[keep], found.observed[keep], s=sizes[keep], color=c["third"], zorder=3)
        error = ece(labels, probabilities, bins)
        axis.set(xlabel="probability given", ylabel="share that is fake", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        axis.set_title(f"Expected calibration error {error:.3f}", fontweight="normal")
    return sheet.png


def confusion(counts: Mapping[str, Mapping[str, int]], *, theme: str = "light") -> bytes:
    """Table of what was said (columns) about what (rows), e.g. {"real": {"REAL": 95, "UNSURE": 4, "FAKE": 1}, ...}."""
    rows, columns = list(counts), list(dict.fromkeys(key for row in counts.values() for key in row))
    table = np.array([[counts[row].get(column, 0) for column in columns] for row in rows])
    with _sheet(theme, width=1.6 + 1.15 * len(columns), height=1.2 + 0.8 * len(rows)) as sheet:
        cells(sheet.axes[0], table, rows, columns, lambda row, column: sheet.colours["real"])
    return sheet.png


def cells(
    axis: Axes, table: np.ndarray, rows: Sequence[str], columns: Sequence[str], colour: Callable[[int, int], str]
) -> None:
    """Counts [rows, columns] of what was said about what, with their shares of the row; the larger, the stronger."""
    from matplotlib.patches import Rectangle

    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    axis.grid(False)
    for (i, j), part in np.ndenumerate(share):
        place = (j - 0.48, i - 0.47)
        axis.add_patch(Rectangle(place, 0.96, 0.94, facecolor=colour(i, j), alpha=0.06 + 0.55 * part, linewidth=0))
        axis.text(j, i, f"{int(table[i, j])}\n{100 * part:.1f} %", ha="center", va="center")
    axis.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5), xlabel="said", ylabel="is")
    axis.set_xticks(range(len(columns)), columns)
    axis.set_yticks(range(len(rows)), rows)
    axis.spines[:].set_visible(False)


def intervals(rows: Mapping[str, tuple[float, float, Sequence[float]]], *, label: str, theme: str = "light") -> bytes:
    """One line a name: the single values, their mean and the interval around it. `rows`: name to (mean, half width,
    values); a half width that is not a number is not drawn."""
    with _sheet(theme, width=6.2, height=0.9 + 0.32 * len(rows)) as sheet:
        axis, c = sheet.axes[0], sheet.colours
        for y, (mean, half, values) in enumerate(rows.values()):
            axis.plot(values, [y] * len(values), "o", color=c["real"], markersize=4, alpha=0.5, linewidth=0)
            axis.errorbar(mean, y, xerr=half if np.isfinite(half) else None, color=c["fake"], marker="|",
                          markersize=11, capsize=3, linewidth=1.4)  # fmt: skip
        axis.set(xlabel=label, yticks=range(len(rows)), yticklabels=list(rows), ylim=(len(rows) - 0.4, -0.6))
    return sheet.png


def image_png(image: np.ndarray) -> bytes:
    """uint8 [H, W, 3] or [H, W] as PNG bytes, unchanged."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def image_jpeg(image: np.ndarray) -> bytes:
    """For sheets of photos, which would be large as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def contact_sheet(images: Sequence[np.ndarray], columns: int) -> bytes:
    """Images uint8 [H, W, 3 or 1] of one size, in rows of `columns`, as PNG bytes."""
    return image_png(lay_out(np.stack(images).transpose(0, 3, 1, 2), columns))


def sheet_of_photos(images: np.ndarray, columns: int) -> bytes:
    """uint8 [N, H, W, 3] in rows of `columns`, with a thin grey gap, as JPEG."""
    return image_jpeg(lay_out(images.transpose(0, 3, 1, 2), columns, background=128))
