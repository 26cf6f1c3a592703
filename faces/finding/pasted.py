"""A photo that lies in a plain picture: on a page, in a screenshot, between bars.

What lies about the photo is none of its pixels; left in, it takes up a part of the face's frame, and a detector that
knows photos alone is misled by it. So where a photo's straight edges to a plain surrounding are found, what is beyond
them is left out: the face step then takes the photo for all there is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from faces.finding.align import frame_of
from faces.finding.face import Face, turned_points

LINES = 4  # plain ones of one colour, from which on they are a surrounding
SAME = 6  # grey levels by which pixels of one colour differ at most: of JPEG far from an edge
OTHER = 16  # … from which on a pixel is not of the surrounding
SOFT = 10  # pixels that a codec's ringing (its blocks have 8) or a resampling reaches over an edge
STRAY = 0.03  # of a surrounding's line at either end of the scale: a caption, a rounded corner
LOOKS = ((16, 1 / 16), (96, STRAY))  # pixels of a line that are looked at first, which tells most, and the stray ones
STRAIGHT = 0.4  # of an edge's length that must show within two lines: a head before a white wall has no such edge
INWARDS = 0.15  # of a face's box: a face that the photo's edge cuts has a box that reaches over it
REACH = 1.0  # sides of the face's frame from its middle: what is further off is never seen


class Part(NamedTuple):
    """Of a picture, in pixels: x0 and y0 are in it, x1 and y1 are not."""

    x0: int
    y0: int
    x1: int
    y1: int

    def of(self, image: np.ndarray) -> np.ndarray:
        """These pixels of [H, W, ...]."""
        return image[self.y0 : self.y1, self.x0 : self.x1]

    def turned(self, shape: tuple[int, ...], turn: int) -> Part:
        """The same of `numpy.rot90(image, turn)`, the image of `shape` [H, W, ...]."""
        corners = turned_points(np.reshape(self, (2, 2)), shape, turn)
        return Part(*(int(n) for n in (*corners.min(0), *corners.max(0))))

    def moved(self, scale: float, shift: tuple[float, float], shape: tuple[int, ...]) -> Part:
        """The same of a picture that was cut by `shift` (x, y) at its upper left, then resized by `scale` to `shape`
        [H, W, ...]; at least a pixel, whatever was cut."""
        x0, y0, x1, y1 = ((np.reshape(self, (2, 2)) - shift) * scale).round().astype(int).ravel().tolist()
        x0, y0 = min(max(x0, 0), shape[1] - 1), min(max(y0, 0), shape[0] - 1)
        return Part(x0, y0, min(max(x1, x0 + 1), shape[1]), min(max(y1, y0 + 1), shape[0]))


def photo_about(image: np.ndarray, face: Face) -> Part | None:
    """The photo about a face, where it lies in a plain picture, uint8 [H, W, 3]; None where no edge of one is seen.

    Straight edges along the picture's sides are looked for, outwards from the face: an edge is where, over most of the
    photo's width or height, pixels change at once to `LINES` lines of one colour. Edges beyond what a detector sees of
    the face are not looked for."""
    try:
        quad, _ = frame_of(face)
    except ValueError:
        return None
    height, width = image.shape[:2]
    reach = REACH * float(np.hypot(*(quad[3] - quad[0])))
    middle = quad.mean(0)
    (left, top), (right, bottom) = middle - reach, middle + reach
    x0, y0 = max(int(left), 0), max(int(top), 0)
    x1, y1 = min(int(np.ceil(right)), width), min(int(np.ceil(bottom)), height)
    box = np.reshape(face.box, (2, 2))
    box = box + INWARDS * (box[::-1] - box)
    inner = (box - [x0, y0]).round().astype(int).ravel()
    if inner[2] - inner[0] < 8 or inner[3] - inner[1] < 8 or x1 - x0 < 16 or y1 - y0 < 16:
        return None
    near = image[y0:y1, x0:x1]
    part = _edges(near, *(int(n) for n in inner))
    if part is None:
        return None
    a, b, c, d = part
    # beyond the view nothing is known of the photo: it goes on to the picture's edge
    return Part(
        x0 + a if a else 0,
        y0 + b if b else 0,
        x0 + c if c < near.shape[1] else width,
        y0 + d if d < near.shape[0] else height,
    )


def _edges(near: np.ndarray, x0: int, y0: int, x1: int, y1: int) -> tuple[int, int, int, int] | None:
    """Where the photo about the box begins and ends in `near`; its sides where there is no edge; None without any."""
    height, width = near.shape[:2]
    x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    # each side as the rows above the box, from the box outwards
    sides = {
        "top": near[: y0 + 1][::-1],
        "bottom": near[y1 - 1 :],
        "left": near[:, : x0 + 1].transpose(1, 0, 2)[::-1],
        "right": near[:, x1 - 1 :].transpose(1, 0, 2),
    }
    across, down = (x0, x1), (y0, y1)
    found: dict[str, int] = {}
    for _ in range(2):  # with the box's width first, then with the photo's
        for side, lines in sides.items():
            low, high = across if side in ("top", "bottom") else down
            at = _edge(lines[:, low:high])
            found.pop(side, None)
            if at is not None:
                found[side] = at
        if not found:
            return None
        across = (x0 + 1 - found["left"] if "left" in found else 0, x1 - 1 + found.get("right", width - x1 + 1))
        down = (y0 + 1 - found["top"] if "top" in found else 0, y1 - 1 + found.get("bottom", height - y1 + 1))
    return across[0], down[0], across[1], down[1]


def _edge(lines: np.ndarray) -> int | None:
    """How many of the lines [n, m, 3] belong to the photo, going outwards; None where they all may."""
    if len(lines) <= LINES or lines.shape[1] < 8:
        return None
    plain = np.ones(len(lines), bool)
    for pixels, stray in LOOKS:
        some = lines[:, :: max(1, lines.shape[1] // pixels)]
        plain[plain] = _is_plain(some[plain], stray)
    run = plain[: len(plain) - LINES + 1].copy()
    for k in range(1, LINES):
        run &= plain[k : len(plain) - LINES + 1 + k]
    before, colour_before = -2, np.zeros(3)
    for first in np.flatnonzero(run).tolist():
        colour = np.median(lines[first], 0)
        block = lines[first : first + LINES]
        if first == before + 1 and np.abs(colour - colour_before).max() <= SAME:
            before = first  # goes on as it was
            continue
        if not _is_plain(block, STRAY).all() or np.abs(np.median(block, 1) - colour).max() > SAME:
            continue
        before, colour_before = first, colour
        inside = lines[max(first - SOFT, 0) : first].astype(np.int16)
        other = np.append((np.abs(inside - colour).max(-1) > OTHER).mean(-1), (0, 0))
        if len(inside) and (other[:-2] - other[2:]).max() >= STRAIGHT:
            return first - len(inside) + int(np.flatnonzero(other >= 0.7 * other.max())[-1]) + 1
        # what is plain there begins without an edge: a wall, a sky; the page may come behind it
    return None


def _is_plain(lines: np.ndarray, stray: float) -> np.ndarray:
    """bool [n]: which of the lines uint8 [n, m, 3] are of one colour, but for a share of stray pixels at either end of
    the scale."""
    levels = np.sort(lines, axis=1).astype(np.int16)
    few = int(np.ceil(stray * lines.shape[1]))
    return np.all(levels[:, -1 - few] - levels[:, few] <= SAME, axis=-1)
