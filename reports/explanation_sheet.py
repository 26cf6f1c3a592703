"""One sheet for a face: the verdict in words, the photo, maps side by side, one legend.

Every map lies over the photo in grey, so that it can always be seen what it points at. Blue and orange (and purple,
where a method tells no sides) stay apart under every common colour blindness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from discriminator import words
from discriminator.boxes import Mark, boxed
from discriminator.explaining.attributions import Attribution
from discriminator.heatmap import (
    EITHER_COLOUR,
    LABEL_COLOURS,
    fit,
    overlay,
    overlay_in,
    overlay_region,
    write_line,
)
from discriminator.verdict import Verdict

TILE, GAP, COLUMNS = 336, 16, 4  # pixels of a picture's longest side, pixels between, pictures in a row
HEAD, CAPTION, FOOT = 96, 44, 96
WHOLE = ((0, 0), (1, 0), (1, 1), (0, 1))  # the corners of a photo
STEPS = 25  # of a legend's bar

Tile = tuple[np.ndarray, str, str]  # picture, two lines under it


@dataclass(frozen=True)
class Face:
    """A face of a photo. number, of: which of how many. corners [4, 2]: of what was judged of it (upper left, upper
    right, lower right, lower left), as shares of the photo's sides."""

    number: int
    of: int
    corners: np.ndarray


def sheet(
    photo: np.ndarray,
    verdict: Verdict,
    maps: Sequence[Attribution],
    *,
    title: str = "",
    crop: str = "center",
    view: np.ndarray | None = None,
    face: Face | None = None,
    marks: Sequence[Mark] = (),
) -> np.ndarray:
    """uint8 [H', W', 3], of a photo uint8 [H, W, 3] and maps of the face in it.

    view: what was judged, uint8, where that is not the photo itself. crop: how the preprocessing squared it. face:
    where that lies; with a view, the first map is laid back onto the photo there. marks: the photo's
    faces, drawn on it.
    """
    number = f"face {face.number} of {face.of}" if face is not None else ""
    tiles: list[Tile] = [(boxed(fit(photo, TILE), marks), "the photo", number)]
    drawn = [one for one in maps if one.values is not None]
    under = fit(photo if view is None else view, TILE)
    if view is not None and face is not None and drawn and not np.allclose(face.corners, WHOLE, atol=0.05):
        back = fit(photo, TILE)
        size = np.array([back.shape[1], back.shape[0]])
        colour = None if drawn[0].signed else EITHER_COLOUR
        tiles.append(
            (overlay_region(back, _values(drawn[0]), face.corners * size, colour), "on the photo", drawn[0].title)
        )
    tiles += [(over(under, one, crop), one.title, f"{one.seconds:.1f} s") for one in drawn]
    notes = list(dict.fromkeys(one.note for one in maps if one.note))
    return _laid_out(tiles, verdict, title, notes, unsigned=any(not one.signed for one in drawn))


def _values(one: Attribution) -> np.ndarray:
    shown = one.shown()
    assert shown is not None
    return shown


def over(under: np.ndarray, one: Attribution, crop: str) -> np.ndarray:
    """A photo uint8 [H, W, 3] in grey under a map that has values: uint8 [H, W, 3]."""
    if one.signed:
        return overlay(under, (_values(one) + 1) / 2, crop=crop)
    return overlay_in(under, _values(one), EITHER_COLOUR, crop=crop)


def _laid_out(tiles: list[Tile], verdict: Verdict, title: str, notes: list[str], *, unsigned: bool) -> np.ndarray:
    columns = min(COLUMNS, len(tiles))
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    heights = [max(picture.shape[0] for picture, *_ in row) + CAPTION for row in rows]
    width = max(columns * (TILE + GAP) + GAP, 2 * (TILE + GAP) + GAP)
    said = [*notes, *([verdict.note] if verdict.note else [])]
    page = Image.new("RGB", (width, HEAD + sum(heights) + FOOT + 20 * len(said)), "white")
    draw = ImageDraw.Draw(page)
    _head(draw, verdict, title, width)
    y = HEAD
    for row, height in zip(rows, heights, strict=True):
        for i, (picture, first, second) in enumerate(row):
            x = GAP + i * (TILE + GAP)
            page.paste(Image.fromarray(picture), (x, y))
            for text, below in ((first, 4), (second, 20)):
                write_line(draw, (x, y + picture.shape[0] + below), text, ImageFont.load_default(14), TILE)
        y += height
    _legend(page, draw, y + 8, unsigned)
    for i, text in enumerate(said):
        write_line(draw, (GAP, y + FOOT - 8 + 20 * i), text, ImageFont.load_default(14), width - 2 * GAP)
    return np.asarray(page)


def _head(draw: ImageDraw.ImageDraw, verdict: Verdict, title: str, width: int) -> None:
    """The verdict in words, over everything."""
    big, normal, small = (ImageFont.load_default(size) for size in (30, 17, 14))
    said = words.HEADLINES[verdict.label]
    draw.text((GAP, 12), said, fill=LABEL_COLOURS[verdict.label], font=big)
    x = GAP + draw.textlength(said, font=big) + GAP
    told = f"score {words.score(verdict)}, «looks generated» from {verdict.threshold:.2g}"
    write_line(draw, (x, 22), told, normal, width - x - GAP)
    write_line(draw, (GAP, 52), words.says(verdict), small, width - 2 * GAP)
    write_line(draw, (GAP, 72), title, small, width - 2 * GAP)


def _legend(page: Image.Image, draw: ImageDraw.ImageDraw, y: int, unsigned: bool) -> None:
    """Bars of the colours over middle grey, with what they mean."""
    grey, small = np.full((16, 10 * STEPS, 3), 128, np.uint8), ImageFont.load_default(14)
    values = np.repeat(np.linspace(-1, 1, STEPS, dtype=np.float32)[None], 16, 0)
    page.paste(Image.fromarray(overlay(grey, (values + 1) / 2, crop="none")), (GAP, y))
    write_line(draw, (GAP, y + 20), "for REAL", small, 100)
    write_line(draw, (GAP + 5 * STEPS - 24, y + 20), "nothing", small, 100)
    write_line(draw, (GAP + 10 * STEPS - 58, y + 20), "for FAKE", small, 100)
    write_line(draw, (GAP, y + 40), "patches: their own scale; all others: to their own maximum", small, 400)
    if unsigned:
        x = GAP + 10 * STEPS + 5 * GAP
        page.paste(Image.fromarray(overlay_in(grey, (values + 1) / 2, EITHER_COLOUR, crop="none")), (x, y))
        write_line(draw, (x, y + 20), "nothing", small, 100)
        write_line(draw, (x + 10 * STEPS - 118, y + 20), "matters, either way", small, 130)
