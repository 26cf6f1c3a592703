"""Contact sheets: many images on one."""

from __future__ import annotations

import math

import numpy as np


def contact_sheet(images: np.ndarray, columns: int | None = None, *, gap: int = 2, background: int = 255) -> np.ndarray:
    """Images side by side, row by row.

    Args:
        images: uint8 [N, C, H, W], N at least 1, C one of 1 (grey), 3 (RGB), 4 (RGBA).
        columns: images in a row; None makes the sheet about square.
        gap: pixels between images (none around the sheet).
        background: grey value, 0 to 255, of gaps and of unfilled cells.

    Returns:
        uint8 [height, width, C], or [height, width] for grey images: what PIL's `Image.fromarray` takes.

    Raises:
        ValueError: for no images, another shape or type, or fewer than one column.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[1] not in (1, 3, 4) or not len(images):
        raise ValueError(f"images must be uint8 [N, 1|3|4, H, W] with N > 0, got {images.dtype} {list(images.shape)}")
    n, channels, height, width = images.shape
    columns = math.ceil(math.sqrt(n)) if columns is None else min(columns, n)
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    rows = -(-n // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), background, np.uint8)
    if channels == 4:
        sheet[..., 3] = 255
    for i, image in enumerate(images):
        y, x = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[y : y + height, x : x + width] = image.transpose(1, 2, 0)
    return sheet[..., 0] if channels == 1 else sheet
