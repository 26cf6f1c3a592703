"""How much there is to be seen of a face: its pixels, its light, its sharpness; and the floor below which a verdict is
not worth the name.

The floor is where fewer than half of the fakes are still found. Measured with the shipped detector (256 px) on 125
real and 125 fake photos of flickr140k's validation part (white: 60 and 60; `benchmarks/floor.py`), of which it finds 88
% untouched and calls 5 % REAL. Found of the fakes in percent, in brackets called REAL; false alarms were at most 5.6 %:

    side, px             96: 79 (10)       80: 67 (18)       64: 38 (35)        48: 10 (70)
    light                60-70: 65 (15)    50-55: 64 (11)    45-50: 37 (13)     35-40: 30 (33)     25-35: 4 (47)
    white                .2-.3: 65 (17)    .3-.4: 72 (17)    .4-.5: 35 (38)     .6-.7: 8 (80)
    detail, blurred      .035-.04: 72 (18) .03-.035: 58 (22) .025-.03: 47 (37)  .02-.025: 20 (51)
    detail, reduced      .035-.04: 58 (23) .03-.035: 52 (34) .025-.03: 21 (47)  .02-.025: 15 (69)

The darkest of the 250 untouched photos has 111, the softest .050, the
brightest .22. Light is measured by the brightest part of the face
(eyes, teeth, highlights), not by its mean: a dark skin in good light is not in the dark.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

# pixels of the face's frame in the photo, for each pixel of the network's side: 72 at 256, between the 80 that give 67
# % and the 64 that give 38
LEAST_SIDE = 0.28
# … from which on it has enough. Of 200 validation photos reduced to 248, 240 and 232 of 256 pixels none had another
# answer; and the edges of photos in pictures, as those of faces, are found to some pixels only.
ENOUGH = 0.9
LEAST_LIGHT = 50.0  # grey level (0 to 255) that 5 % of the face's middle must exceed
LEAST_DETAIL = 0.03
MOST_BURNT = 0.4
WIDEST = 256  # pixels: detail is measured at the network's side, at most at this


class Quality(NamedTuple):
    """What there is to be seen of one face.

    side: of the face's frame in the photo, in pixels. light: the grey level (0 to 255) that 5 % of the middle of the
    face exceed. burnt: the share of it that is white (250 and more).
    detail: standard deviation of what a Gaussian blur (sigma 1 pixel at the network's side) takes away,
    over that of the grey levels: without a unit, the same in any light."""

    side: float
    light: float
    detail: float
    burnt: float = 0.0

    def doubts(self, resolution: int) -> list[str]:
        """Why a network of `resolution` pixels a side can't judge it; [] where it can."""
        out = []
        if too_small(self.side, resolution):
            least = LEAST_SIDE * min(resolution, WIDEST) / FRAME
            out.append(f"too small to judge: the face has {self.side / FRAME:.0f} pixels, {least:.0f} are needed")
        if self.light < LEAST_LIGHT:
            out.append(f"too dark to judge: the face's brightest parts have grey level {self.light:.0f} of 255")
        elif self.burnt > MOST_BURNT:
            out.append(f"too bright to judge: {100 * self.burnt:.0f} % of the face are white")
        elif self.detail < LEAST_DETAIL:
            out.append("too blurred to judge")
        return out


def too_small(side: float, resolution: int) -> bool:
    """Whether a face's frame of `side` pixels is too small for a network of `resolution` pixels a side."""
    return side < LEAST_SIDE * min(resolution, WIDEST)


def has_few(side: float, resolution: int) -> bool:
    """Whether a picture of `side` pixels has notably fewer than a network of `resolution` pixels a side looks at."""
    return side < ENOUGH * resolution


FRAME = 1.6  # sides of a face's box in the side of its frame, about


def quality(square: np.ndarray, side: float, resolution: int) -> Quality:
    """Of a face's frame, uint8 [H, W, 3] of any size, that has `side` pixels in the photo, for a network of
    `resolution` pixels a side."""
    to = min(resolution, WIDEST)
    short = min(square.shape[:2])
    top, left = (square.shape[0] - short) // 2, (square.shape[1] - short) // 2
    grey = cv2.cvtColor(square[top : top + short, left : left + short], cv2.COLOR_RGB2GRAY)
    if short != to:
        grey = cv2.resize(grey, (to, to), interpolation=cv2.INTER_AREA if short > to else cv2.INTER_CUBIC)
    level = grey.astype(np.float32)
    middle = (slice(to // 5, to - to // 6), slice(to // 5, to - to // 5))
    fine = cv2.subtract(level, cv2.GaussianBlur(level, (0, 0), 1.0))[middle]
    counts = np.bincount(grey[middle].ravel(), minlength=256)
    detail = _deviation(fine) / max(_deviation(grey[middle]), 1e-3)
    return Quality(side, _exceeded(counts, 0.05), detail, float(counts[250:].sum() / counts.sum()))


def _deviation(values: np.ndarray) -> float:
    return float(cv2.meanStdDev(values)[1][0, 0])


def _exceeded(counts: np.ndarray, share: float) -> float:
    """The grey level that a share of the pixels exceed, by how many have each: numpy.quantile's, interpolated."""
    upto = np.cumsum(counts)
    place = (1 - share) * (int(upto[-1]) - 1)
    low, high = np.searchsorted(upto, [np.floor(place), np.ceil(place)], side="right").tolist()
    return low + (place - np.floor(place)) * (high - low)
