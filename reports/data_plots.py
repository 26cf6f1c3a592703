"""Figures of a data set: real blue, fake orange, unlabelled green; PNG bytes, light or dark (see `reports.plots`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from faces.audit.survey import LEVELS, ClassSurvey, ring_frequencies
from reports.plots import _nothing, _plain_log, _sheet, image_png

SHOWN = 12  # bars of a field; the rest is added up
CHANNELS = ("red", "green", "blue")
Panel = tuple[str, np.ndarray, str | None, tuple[float | None, float | None]]  # title, image, colour map, limits


def _colour(colours: Mapping[str, str], name: str) -> str:
    return colours.get({"unlabelled": "third"}.get(name, name), colours["ink"])


def counts(table: Mapping[str, Mapping[str, int]], title: str, *, theme: str = "light") -> bytes:
    """Grouped bars: % of each class that has a value, the commonest values on top; `table` as of `Survey.table`."""
    rest = list(table)[SHOWN:]
    names = list(next(iter(table.values()), {}))
    total = {name: max(sum(row[name] for row in table.values()), 1) for name in names}
    shown = dict(list(table.items())[:SHOWN])
    if rest:
        shown[f"{len(rest)} others"] = {name: sum(table[value][name] for value in rest) for name in names}
    with _sheet(theme, width=4.6, height=1.1 + 0.24 * len(shown) * max(len(names), 1)) as sheet:
        axis, c = sheet.axes[0], sheet.colours
        thick = 0.8 / max(len(names), 1)
        for k, name in enumerate(names):
            at = np.arange(len(shown)) + (k - (len(names) - 1) / 2) * thick
            share = [100 * row[name] / total[name] for row in shown.values()]
            bars = axis.barh(at, share, thick * 0.92, color=_colour(c, name), label=f"{name} ({total[name]})")
            axis.bar_label(
                bars, [f"{s:.0f}" if s >= 1 or not s else f"{s:.2g}" for s in share], padding=2, fontsize=7.5
            )
        axis.set_yticks(range(len(shown)), [value if len(value) <= 24 else value[:23] + "…" for value in shown])
        axis.invert_yaxis()
        axis.grid(False, axis="y")
        axis.set(title=title, xlabel="% of the class", xlim=(0, 112))
        axis.set_xticks(range(0, 101, 25))
        if len(names) > 1:
            sheet.figure.legend(loc="outside upper right", ncols=len(names))
    return sheet.png


def spreads(groups: Sequence[ClassSurvey], *, theme: str = "light") -> bytes:
    """Brightness, contrast and sharpness of the images, as histograms by class."""
    with _sheet(theme, 3, 1, width=3.6, height=3.0) as sheet:
        c = sheet.colours
        panels = [("Brightness", "mean luma of an image", "brightness", False),
                  ("Contrast", "standard deviation of luma", "contrast", False),
                  ("Sharpness", "variance of the Laplacian, log scale", "sharpness", True)]  # fmt: skip
        for axis, (title, label, name, log) in zip(sheet.axes, panels):
            values = [np.maximum(getattr(g, name), 0.1) if log else getattr(g, name) for g in groups]
            everything = np.concatenate(values) if values else np.zeros(0)
            if len(everything):
                low, high = np.quantile(everything, (0.001, 0.999))
                low, high = (low * 0.95, high * 1.05) if high > low else (low * 0.9 - 1e-3, high * 1.1 + 1e-3)
                bins = np.geomspace(max(low, 1e-2), high, 33) if log else np.linspace(low, high, 33)
                for g, mine in zip(groups, values):
                    _steps(axis, mine, bins, _colour(c, g.name), g.name)
                if log:
                    _plain_log(axis, along_x=True, decades=np.log10(bins[-1] / bins[0]))
                if len(groups) > 1:
                    axis.legend()
            axis.set(title=title, xlabel=label, ylabel="% of the class")
            _nothing(axis, c)
    return sheet.png


def _steps(axis, values: np.ndarray, bins: np.ndarray, colour: str, label: str) -> None:
    if len(values):
        weights = np.full(len(values), 100 / len(values))
        axis.hist(values, bins, weights=weights, color=colour, alpha=0.3)
        axis.hist(values, bins, weights=weights, color=colour, histtype="step", linewidth=1.4, label=label)


def channel_histograms(groups: Sequence[ClassSurvey], *, theme: str = "light") -> bytes:
    """How often each level of red, green and blue occurs, by class."""
    with _sheet(theme, 3, 1, width=3.6, height=3.0) as sheet:
        c = sheet.colours
        x = (np.arange(LEVELS) + 0.5) * 256 / LEVELS
        for channel, axis in enumerate(sheet.axes):
            for g in groups:
                if total := g.histograms[channel].sum():
                    axis.plot(x, 100 * g.histograms[channel] / total, color=_colour(c, g.name), label=g.name)
            if len(groups) > 1 and axis.has_data():
                axis.legend()
            axis.set(title=CHANNELS[channel].capitalize(), xlabel="level", ylabel="% of the pixels", xlim=(0, 256))
            axis.set_ylim(bottom=0)
            _nothing(axis, c)
    return sheet.png


def radial_spectra(groups: Sequence[ClassSurvey], *, theme: str = "light") -> bytes:
    """Mean log power over frequency, a band for the middle half of the images; of two classes also the difference."""
    seen = [g for g in groups if len(g.spectrum)]
    two = len(seen) == 2
    with _sheet(theme, 2 if two else 1, 1, width=5.0, height=3.4) as sheet:
        c, x = sheet.colours, ring_frequencies()
        axis = sheet.axes[0]
        for g in seen:
            low, high = np.quantile(g.spectrum, (0.25, 0.75), axis=0)
            axis.fill_between(x, low, high, color=_colour(c, g.name), alpha=0.16, linewidth=0)
            axis.plot(x, g.spectrum.mean(0), color=_colour(c, g.name), label=g.name)
        axis.set(title="Radial power spectrum", xlabel="cycles per pixel (.5: finest along a side)", ylabel="ln power")
        if len(seen) > 1:
            axis.legend()
        _nothing(axis, c)
        if two:
            axis = sheet.axes[1]
            real, fake = seen
            apart = fake.spectrum.mean(0) - real.spectrum.mean(0)
            error = 1.96 * np.sqrt(sum(g.spectrum.var(0) / len(g.spectrum) for g in seen))
            axis.axhline(0, color=c["faint"], linewidth=1)
            axis.fill_between(x, apart - error, apart + error, color=c["fourth"], alpha=0.25, linewidth=0)
            axis.plot(x, apart, color=c["fourth"])
            axis.set(title=f"{fake.name} - {real.name}", xlabel="cycles per pixel", ylabel="difference of ln power")
    return sheet.png


def spectrum_pictures(groups: Sequence[ClassSurvey], *, theme: str = "light") -> bytes:
    """Average two-dimensional log power, frequency 0 in the middle; with two classes also their difference."""
    seen = [g for g in groups if g.looked_at]
    powers = [g.spectrum_image for g in seen]
    span = (min(p.min() for p in powers), max(p.max() for p in powers)) if powers else (0, 1)
    panels: list[Panel] = [(g.name, g.spectrum_image, "magma", span) for g in seen]
    if len(seen) == 2:
        apart = powers[1] - powers[0]
        most = float(np.quantile(np.abs(apart), 0.995))
        panels.append((f"{seen[1].name} - {seen[0].name}", apart, "RdBu_r", (-most, most)))
    return _pictures(panels, "ln power", theme)


def mean_images(groups: Sequence[ClassSurvey], *, theme: str = "light") -> bytes:
    """The average of all images of a class; with two classes also their difference in luma, in grey levels."""
    seen = [g for g in groups if g.looked_at]
    panels: list[Panel] = [
        (f"{g.name}: mean of {g.looked_at}", np.rint(g.mean_image).astype(np.uint8), None, (None, None)) for g in seen
    ]
    if len(seen) == 2:
        apart = (seen[1].mean_image - seen[0].mean_image) @ np.array([0.299, 0.587, 0.114])
        most = max(float(np.quantile(np.abs(apart), 0.995)), 0.5)
        panels.append((f"{seen[1].name} - {seen[0].name}", apart, "RdBu_r", (-most, most)))
    return _pictures(panels, "grey levels", theme)


def _pictures(panels: Sequence[Panel], label: str, theme: str) -> bytes:
    with _sheet(theme, max(len(panels), 1), 1, width=3.3, height=3.2) as sheet:
        for axis, (title, image, colours, (low, high)) in zip(sheet.axes, panels):
            shown = axis.imshow(image, cmap=colours, vmin=low, vmax=high, interpolation="nearest")
            axis.set_title(title)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.grid(False)
            axis.spines[:].set_visible(False)
            if colours is not None:
                bar = sheet.figure.colorbar(shown, ax=axis, shrink=0.85, label=label)
                bar.outline.set_visible(False)
        for axis in sheet.axes[len(panels) :]:
            _nothing(axis, sheet.colours)
    return sheet.png


def side_by_side(first: np.ndarray, second: np.ndarray) -> bytes:
    """Two uint8 images of one size, with a gap."""
    gap = np.full((first.shape[0], 4, 3), 128, np.uint8)
    return image_png(np.concatenate([first, gap, second], axis=1))
