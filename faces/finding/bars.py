"""Bars that were drawn across a face's photo: a story's line of text, a name below a speaker.

A detector that knows photos alone takes them for signs of one: of 30 fakes with a bar across the mouth 2 were called
FAKE, of 30 with a name over the shoulders 16. So a bar that reaches across the whole frame, of one colour but for what
is written on it, is filled with what lies above and below, mirrored.
"""

from __future__ import annotations

import cv2
import numpy as np

from faces.filters import quarter_turned
from faces.finding.face import Face, turned
from faces.finding.frame import frame_of
from faces.finding.page import away_from

FLAT = 12  # levels by which a bar's pixels differ, in JPEG
OTHER = 24  # … from which on a pixel is not of the bar
ENDS = 1 / 40  # of the frame, at one side of it, that nothing is written on
LOWEST, HIGHEST = 0.04, 0.3  # of the frame: a bar's height
REACH = 0.3  # of the frame beyond it that a bar reaches over, where the photo does
OWN = 0.3  # of a bar's pixels, at least, that have its colour
LEVELS, EVEN = 3, 0.38  # levels within which so much of these is: what is drawn is even (a wall 0.28)
LINE = 0.97  # … of its first and its last lines
SEEN = 0.6  # of its edges that show at once, above and below
SOFT = 3  # lines over which an edge may be soft


def without_bars(photo: np.ndarray, face: Face) -> tuple[np.ndarray, int]:
    """(the photo, uint8 [H, W, 3], with the bars across a face's frame filled; how many these are)."""
    upright = turned(face, photo.shape, face.turn)
    image = quarter_turned(photo, face.turn) if face.turn % 4 else photo
    try:
        quad, _ = frame_of(upright)
    except ValueError:
        return photo, 0
    height, width = image.shape[:2]
    (left, top), (right, bottom) = quad.min(0), quad.max(0)
    side = bottom - top
    x0, x1 = max(int(left - REACH * side), 0), min(int(np.ceil(right + REACH * side)), width)
    wide = max(3, int(ENDS * side))
    y0, y1 = max(int(top - HIGHEST * side), 0), min(int(bottom + HIGHEST * side), height)
    if x1 - x0 < 4 * wide or y1 - y0 < 16:
        return photo, 0
    near = image[y0:y1, x0:x1]
    least, most = LOWEST * side, HIGHEST * side
    bars: list[tuple[int, int]] = []
    few = max(1, wide // 4)
    for end in (near[:, -wide::few], near[:, :wide:few]):  # what is written begins at either side
        for low, high in _plain(end, least):
            taken = any(low < last and high > first for first, last in bars)
            if not taken and least <= high - low <= most and (bar := _bar(near, end, low, high)) is not None:
                bars.append(bar)
    bars = [(y0 + low, y0 + high) for low, high in bars]
    bars = [(low, high) for low, high in bars if low < bottom and high > top]
    if not bars:
        return photo, 0
    image = image.copy()
    for low, high in bars:
        _fill(image[:, x0:x1], low, high, top, bottom)
    return np.ascontiguousarray(quarter_turned(image, -face.turn % 4)), len(bars)


def _plain(end: np.ndarray, least: float) -> list[tuple[int, int]]:
    """Where lines [n, m, 3] are of one colour, the same in all of at least `least`: the first and the one after the
    last."""
    few = max(1, int(least / 3))
    if not _flat(end[::few, :: end.shape[1] - 1]).any():
        return []
    flat = _flat(end)
    changes = np.concatenate([[False], flat[:-1] & flat[1:] & _same(end), [False]])
    places = np.flatnonzero(changes[1:] != changes[:-1]).reshape(-1, 2)
    return [(begin, stop + 1) for begin, stop in places.tolist() if stop + 1 - begin >= least]


def _flat(lines: np.ndarray) -> np.ndarray:
    """bool [n]: which of [n, m, 3] have one colour."""
    planes = lines.transpose(1, 2, 0).copy()  # numpy is quick along long axes only
    spread: np.ndarray = planes.max(axis=0) - planes.min(axis=0)
    return np.asarray(spread.max(axis=0)) <= FLAT


def _same(lines: np.ndarray) -> np.ndarray:
    """bool [n - 1]: where the next of [n, m, 3] has the same colour."""
    first = lines[:, 0].T.copy()
    return np.asarray(cv2.absdiff(first[:, 1:], first[:, :-1]).max(0)) <= FLAT


def _bar(near: np.ndarray, end: np.ndarray, low: int, high: int) -> tuple[int, int] | None:
    """The first line of a bar and the one after its last, with what is soft about them; None where it is none."""
    height = len(near)
    if low < SOFT or high > height - SOFT:
        return None
    colour = end[(low + high) // 2, end.shape[1] // 2]
    few = away_from(near[low - SOFT : high + SOFT : high + 2 * SOFT - 1 - low, ::8], colour)  # most are none
    if (few > OTHER).mean(1).min() < SEEN / 2:
        return None
    beyond = away_from(near[[low - SOFT, high + SOFT - 1]], colour)
    if (beyond > OTHER).mean(1).min() < SEEN:
        return None
    first = away_from(near[[low + 1, low + 2, high - 3, high - 2]], colour)
    if (first <= OTHER).mean(1).min() < LINE:
        return None
    inside = near[low + 1 : high - 1]
    away = away_from(inside, np.median(inside[:, ::4].reshape(-1, 3), 0))
    own = np.count_nonzero(away <= FLAT)
    if own < OWN * away.size or np.count_nonzero(away <= LEVELS) < EVEN * own:
        return None
    return low - SOFT // 2, high + SOFT // 2


def _fill(image: np.ndarray, low: int, high: int, top: float, bottom: float) -> None:
    """What lies above a bar and below, mirrored at its edges, goes over into each other in it; of a side that lies
    outside of the face's frame, from `top` to `bottom`, nothing is taken."""
    n = high - low
    share = (np.arange(n, dtype=np.float32) + 0.5) / n
    if high >= bottom - 2:
        share[:] = 0
    elif low <= top + 2:
        share[:] = 1
    above = image[(low - 1 - np.arange(n)).clip(0, low - 1)].astype(np.float32)
    below = image[(high + np.arange(n)).clip(high, len(image) - 1)][::-1].astype(np.float32)
    share = share[:, None, None]
    image[low:high] = np.rint(cv2.add(above * (1 - share), below * share))
