"""Contact sheets: many images on one."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from common.errors import UserError


def contact_sheet(images: np.ndarray, columns: int | None = None, *, gap: int = 2, background: int = 255) -> np.ndarray:
    """uint8 [N, C, H, W] side by side, row by row: uint8 [height, width, C], without C where it is 1, for Pillow.

    columns: None makes the sheet about square. gap: pixels between images, none around them. background: grey value of
    gaps and of unfilled cells."""
    images = np.asarray(images)
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[1] not in (1, 3, 4) or not len(images):
        raise UserError(f"images must be uint8 [N, 1|3|4, H, W] with N > 0, got {images.dtype} {list(images.shape)}")
    n, channels, height, width = images.shape
    columns = math.ceil(math.sqrt(n)) if columns is None else min(columns, n)
    if columns < 1:
        raise UserError(f"columns must be at least 1, got {columns}")
    rows = -(-n // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), background, np.uint8)
    if channels == 4:
        sheet[..., 3] = 255
    for i, image in enumerate(images):
        y, x = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[y : y + height, x : x + width] = image.transpose(1, 2, 0)
    return sheet[..., 0] if channels == 1 else sheet


def labelled_grid(
    cells: list[list[np.ndarray | None]], rows: list[str], columns: list[str], *, corner: str = "", gap: int = 2
) -> np.ndarray:
    """Images in rows and columns with their names beside and above: uint8 [height, width, 3].

    cells: one list for each row, of uint8 [C, H, W] of one shape; None leaves a cell white. corner: a word for the
    upper left corner. Images below 64 pixels are enlarged by whole factors, to leave room for the names."""
    if len(cells) != len(rows) or any(len(row) != len(columns) for row in cells) or not rows or not columns:
        raise UserError(f"{len(rows)} x {len(columns)} names do not fit the images")
    first = next(image for row in cells for image in row if image is not None)
    zoom = max(1, -(-64 // first.shape[1]))
    height, width = first.shape[1] * zoom, first.shape[2] * zoom
    size = max(10, min(width // 6, 28))
    font = ImageFont.load_default(size)
    left = 2 * gap + math.ceil(max(font.getlength(text) for text in [corner, *rows]))
    top = size + 3 * gap
    sheet = Image.new("RGB", (left + len(columns) * (width + gap), top + len(rows) * (height + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((gap, gap), corner, "black", font)
    for j, text in enumerate(columns):
        draw.text((left + j * (width + gap) + width // 2, gap), _fitted(text, font, width), "black", font, anchor="ma")
    for i, (text, row) in enumerate(zip(rows, cells)):
        y = top + i * (height + gap)
        draw.text((left - gap, y + height // 2), text, "black", font, anchor="rm")
        for j, image in enumerate(row):
            if image is not None:
                picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0).squeeze()))
                picture = picture.resize((width, height), Image.Resampling.NEAREST).convert("RGBA")
                sheet.paste(picture, (left + j * (width + gap), y), picture)
    return np.asarray(sheet)


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """`text`, its beginning cut off where it is wider than `width` (the last digits tell seeds apart)."""
    while len(text) > 1 and font.getlength(text) > width:
        text = "…" + text.lstrip("…")[1:]
    return text
