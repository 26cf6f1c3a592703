"""Faces marked in their photo: numbered boxes whose colour and line say the verdict. No PyTorch here.

Colours are Okabe & Ito's (2008), which stay apart under every common colour blindness; the line says it, too: FAKE
thick, UNSURE dashed, REAL thin. A black seam keeps them visible on light and on dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

COLOURS = {"FAKE": (213, 94, 0), "UNSURE": (240, 228, 66), "REAL": (0, 114, 178)}
WIDTHS = {"FAKE": 4, "UNSURE": 3, "REAL": 2}  # at a longest side of SIDE pixels
SIDE = 448
_INK = {"UNSURE": "black"}  # of the number on its colour; white else


@dataclass(frozen=True)
class Mark:
    """A face in a photo. box: x0, y0, x1, y1 as shares of the photo's sides. label: FAKE, UNSURE or REAL. number: as
    the words call it, 0 for a face that is alone."""

    box: tuple[float, float, float, float]
    label: str
    number: int = 0


def boxed(photo: np.ndarray, marks: Sequence[Mark]) -> np.ndarray:
    """A copy of uint8 [H, W, 3] with the marks drawn, FAKE last and so on top."""
    if not marks:
        return photo
    picture = Image.fromarray(np.ascontiguousarray(photo))
    draw, scale = ImageDraw.Draw(picture), max(1.0, max(photo.shape[:2]) / SIDE)
    for mark in sorted(marks, key=lambda m: (list(COLOURS).index(m.label), m.number), reverse=True):
        x0, y0, x1, y1 = (x * side for x, side in zip(mark.box, (picture.width, picture.height) * 2))
        width, colour = max(2, round(WIDTHS[mark.label] * scale)), COLOURS[mark.label]
        corners = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
        for grown, line, ink in ((2, width + 4, "black"), (0, width, colour)):
            _frame(draw, [c - grown if i < 2 else c + grown for i, c in enumerate(corners)], line, ink,
                   dashed=mark.label == "UNSURE" and not grown)  # fmt: skip
        if mark.number:
            _tag(draw, corners[:2], mark, round(15 * scale))
    return np.asarray(picture)


def _frame(draw: ImageDraw.ImageDraw, corners: Sequence[float], width: int, ink, *, dashed: bool) -> None:
    x0, y0, x1, y1 = corners
    if not dashed:
        draw.rectangle((x0, y0, x1, y1), outline=ink, width=width)
        return
    step = 5 * width
    for a, b in (((x0, y0), (x1, y0)), ((x1, y0), (x1, y1)), ((x1, y1), (x0, y1)), ((x0, y1), (x0, y0))):
        length = max(abs(b[0] - a[0]), abs(b[1] - a[1]), 1e-6)
        inside = width / 2  # as a rectangle's outline lies inside it
        dx, dy = (b[0] - a[0]) / length, (b[1] - a[1]) / length
        ox, oy = -dy * inside, dx * inside
        for start in np.arange(0, length, step):
            end = min(start + 0.6 * step, length)
            draw.line((a[0] + dx * start + ox, a[1] + dy * start + oy, a[0] + dx * end + ox, a[1] + dy * end + oy),
                      fill=ink, width=width)  # fmt: skip


def _tag(draw: ImageDraw.ImageDraw, corner: Sequence[float], mark: Mark, size: int) -> None:
    """The number on the verdict's colour, at the box's upper left corner, inside the photo."""
    font, text = ImageFont.load_default(size), str(mark.number)
    wide, tall = draw.textlength(text, font=font) + size * 0.7, size * 1.35
    x, y = max(corner[0], 0), max(corner[1], 0)
    draw.rectangle((x - 2, y - 2, x + wide + 2, y + tall + 2), fill="black")
    draw.rectangle((x, y, x + wide, y + tall), fill=COLOURS[mark.label])
    draw.text((x + wide / 2, y + tall / 2), text, fill=_INK.get(mark.label, "white"), font=font, anchor="mm")
