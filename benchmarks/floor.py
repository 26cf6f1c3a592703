#!/usr/bin/env python3
"""From which size, light and sharpness of a face on a detector's verdicts are worth something.

    python benchmarks/floor.py PHOTOS [--model FILE] [--count 125]

PHOTOS: a labelled source of aligned crops, for choosing (a validation part). Each of --count photos of a class is made
smaller, darker, brighter, blurred; the tables say what the detector then calls them, by the measures of
`faces.finding.quality`. Its constants come from here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click
import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.cli import run  # noqa: E402
from discriminator.engine import open_engine  # noqa: E402
from discriminator.locate import find_detector  # noqa: E402
from discriminator.options import SHIPPED  # noqa: E402
from discriminator.verdict import Threshold  # noqa: E402
from faces.finding.quality import quality  # noqa: E402
from faces.source import open_source  # noqa: E402

SIDES = (224, 160, 128, 96, 80, 64, 48, 32)
LIGHTS = (0.5, 0.35, 0.25, 0.18, 0.12, 0.08)
BRIGHT = (1.5, 2, 2.5, 3, 4)
BLURS = (0.5, 0.7, 0.9, 1.1, 1.4, 1.8, 2.4, 3.2)
EDGES = {
    "side": (0, 40, 56, 72, 88, 112, 144, 192, 999),
    "light": (0, 15, 25, 35, 40, 45, 50, 55, 60, 70, 80, 100, 256),
    "burnt": (0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 1.01),
    "detail": (0, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.05, 0.06, 0.1, 9),
}


def ruins() -> dict[str, list[Callable[[np.ndarray], np.ndarray]]]:
    """What is done to photos, by the measure that it is to tell."""

    def lit(by: float) -> Callable[[np.ndarray], np.ndarray]:
        return lambda x: np.clip(np.rint(x.astype(np.float32) * by), 0, 255).astype(np.uint8)

    return {
        "side": [lambda x, s=s: cv2.resize(x, (s, s), interpolation=cv2.INTER_AREA) for s in SIDES],  # type: ignore[misc]
        "light": [lit(by) for by in LIGHTS],
        "burnt": [lit(by) for by in BRIGHT],
        "detail": [lambda x, s=s: cv2.GaussianBlur(x, (0, 0), s) for s in BLURS],  # type: ignore[misc]
    }


@click.command(help=__doc__)
@click.argument("photos")
@click.option("--model")
@click.option("--count", default=125)
def main(photos: str, model: str | None, count: int) -> None:
    detector = open_engine(find_detector(model, shipped=SHIPPED)).detector
    threshold, source = Threshold.of(detector.calibration), open_source(photos)
    chosen = [i for label in (0, 1) for i in np.flatnonzero(source.labels == label)[:count]]
    images, labels = [source.decoded(int(i)).pixels for i in chosen], source.labels[chosen]
    for measure, ways in ruins().items():
        values, told, truth = [], [], []
        for way in [lambda x: x, *ways]:
            for image, label in zip(images, labels):
                seen = np.ascontiguousarray(way(image))
                values.append(getattr(quality(seen, len(seen), detector.preprocess.resolution), measure))
                told.append(detector.verdicts([detector.prepared(seen)], threshold)[0].label)
                truth.append(int(label))
        click.echo(f"{measure}: fakes, of these called FAKE and REAL; reals, of these called FAKE")
        at, verdicts, real = np.array(values), np.array(told), np.array(truth) == 0
        for low, high in zip(EDGES[measure], EDGES[measure][1:]):
            fake, ours = (at >= low) & (at < high) & ~real, (at >= low) & (at < high) & real
            if fake.any() and ours.any():
                shares = [(verdicts[fake] == word).mean() for word in ("FAKE", "REAL")]
                click.echo(f"  {low:g} to {high:g}: {fake.sum():5d}  {shares[0]:.2f}  {shares[1]:.2f}"
                           f"  {ours.sum():5d}  {(verdicts[ours] == 'FAKE').mean():.3f}")  # fmt: skip


if __name__ == "__main__":
    run(main)
