"""Samples beside the training images nearest to them: lines for the terminal, and a sheet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from evaluation.nearest import NearestResult
from synth.grid import labelled_grid
from synth.writer import save_sheet

LEAST = 96  # pixels of an image on the sheet, at least


def lines_of(result: NearestResult) -> Iterator[str]:
    """The distances, the score and what it means."""
    for note in result.notes:
        yield f"note: {note}"
    yield f"{'distance to the nearest training image':<40}" + "".join(
        f"{name:>9}" for name in next(iter(result.distances.values()))
    )
    for whose, numbers in result.distances.items():
        yield f"{whose:<40}" + "".join(f"{value:9.3f}" for value in numbers.values())
    if result.copies:
        yield f"{result.copies} of {result.settings['n_samples']} are training images, to the last feature"
    if result.z is not None and result.nearer is not None:
        yield f"copying z {result.z:+.1f} (below -3 copies, above 3 lies further away; Meehan et al. 2020)"
        yield (
            f"{100 * result.nearer:.1f} % of the samples are nearer than all but 1 % of held-out photos (1 % by chance)"
        )
    yield result.says


def write_sheet(path: str | Path, result: NearestResult) -> Path:
    """One row for a sample: it, and its neighbours with their distances."""
    k = max(len(near) for _, _, near in result.rows)
    side = max(image.shape[-1] for _, image, _ in result.rows)
    zoom = max(1, -(-LEAST // side))
    cells: list[list[np.ndarray | None]] = [
        [_large(image, zoom), *(_large(there, zoom) for _, _, there in near)] for _, image, near in result.rows
    ]
    names = [f"{name.rsplit('/', 1)[-1][:12]} {near[0][1]:.2f}" for name, _, near in result.rows]
    columns = ["sample", *(f"nearest {i + 1}" for i in range(k))]
    return save_sheet(Path(path), labelled_grid(cells, names, columns))


def _large(image: np.ndarray, zoom: int) -> np.ndarray:
    """uint8 [1|3, H, W] in colour, enlarged by a whole factor without smoothing."""
    pixels = np.repeat(image, 3, 0) if image.shape[0] == 1 else image
    if zoom == 1:
        return pixels
    size = (pixels.shape[2] * zoom, pixels.shape[1] * zoom)
    return np.asarray(Image.fromarray(pixels.transpose(1, 2, 0)).resize(size, Image.Resampling.NEAREST)).transpose(
        2, 0, 1
    )
