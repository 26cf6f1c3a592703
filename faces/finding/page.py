"""The plain page that a photo lies on, as far about a face as anything of a picture is ever seen."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np

from faces.filters import most_of_colours
from faces.finding.face import Face
from faces.finding.frame import around, frame_of

LOOK = 256  # pixels that the longer side of what is looked at is reduced to
SAME = 16  # levels by which a page's pixels differ from its colour: of JPEG beside an edge
OTHER = 20  # levels from which on a pixel is not of the page
LEAST, MOST = 0.02, 0.9  # of what is looked at that must be page, at most
ENDS = [0, 1, 2, -3, -2, -1]  # lines and columns of the corners


@dataclass(frozen=True, eq=False)
class Page:
    """What has one colour and reaches the sides of what lies about a face.

    at: (x, y) where that begins in the picture; scale: of the look at it. colour: uint8 [3]. In the look: middle and
    side of the face's frame; away: uint8 [h, w], levels from the colour; mask: bool [h, w], the page; rest: uint8
    [h, w], not 0 where something other than specks lies."""

    at: tuple[int, int]
    scale: float
    colour: np.ndarray
    middle: tuple[float, float]
    side: float
    away: np.ndarray
    mask: np.ndarray
    rest: np.ndarray

    @functools.cached_property
    def around_face(self) -> np.ndarray | None:
        """uint8 [h, w]: of what is no page that which hangs together with the face's middle, where there is more; None
        where that is page itself, or all."""
        height, width = self.rest.shape
        x, y = (int(min(max(place, 0), length - 1)) for place, length in zip(self.middle, (width, height), strict=True))
        _, parts = cv2.connectedComponents(self.rest, connectivity=4)
        return None if not parts[y, x] or parts.max() == 1 else (parts == parts[y, x]).astype(np.uint8)


def page_about(picture: np.ndarray, face: Face) -> Page | None:
    """The page about a face of uint8 [H, W, 3]: what has the colour of most corners and reaches the sides. None where
    there is none."""
    try:
        quad, _ = frame_of(face)
    except ValueError:
        return None
    (x0, y0), (x1, y1) = around(picture.shape, quad)
    if x1 - x0 < 16 or y1 - y0 < 16:
        return None
    near = picture[y0:y1, x0:x1]
    colour = plain_colour(near, 2)
    if colour is None:
        return None
    scale = min(1.0, LOOK / max(near.shape[:2]))
    if scale < 1:
        near = cv2.resize(near, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    away = away_from(near, colour)
    mask = _page(away)
    if mask is None:
        return None
    side = float(np.hypot(*(quad[3] - quad[0]))) * scale
    x, y = ((quad.mean(0) - [x0, y0]) * scale).tolist()
    rest = cv2.morphologyEx((~mask).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    return Page((x0, y0), scale, colour, (x, y), side, away, mask, rest)


def away_from(pixels: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """uint8 [h, w]: by how many levels uint8 [h, w, 3] differs from a colour, in the colour where it differs most."""
    return most_of_colours(cv2.absdiff(pixels, np.array([*colour, 0], np.float64)))  # four numbers: OpenCV's one colour


def plain_colour(pixels: np.ndarray, least: int) -> np.ndarray | None:
    """uint8 [3]: the colour that most of the corners of [H, W, 3] share; None where fewer than `least` do."""
    corners = pixels[ENDS][:, ENDS].reshape(2, 3, 2, 3, 3).transpose(0, 2, 1, 3, 4).reshape(4, 9, 3).astype(np.int16)
    plain = np.ptp(corners, 1).max(-1) <= SAME
    colours = corners.mean(1)
    alike = (np.abs(colours[:, None] - colours).max(-1) <= SAME / 2) & plain & plain[:, None]
    most = alike[alike.sum(1).argmax()]
    return colours[most].mean(0).round().astype(np.uint8) if most.sum() >= least else None


def _page(away: np.ndarray) -> np.ndarray | None:
    """bool [h, w]: what has the page's colour and reaches the sides; None where that is too little or all."""
    number, parts = cv2.connectedComponents((away <= SAME).astype(np.uint8), connectivity=4)
    at_a_side = np.zeros(number, bool)
    at_a_side[np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])] = True
    at_a_side[0] = False
    page = at_a_side[parts]
    return page if LEAST <= page.mean() <= MOST else None
