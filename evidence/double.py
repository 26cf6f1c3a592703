"""Was a JPEG compressed twice on the same 8x8 grid, the first time at another quality?

Quantising by q1 and again by q2 leaves holes and peaks in the histograms of the DCT coefficients, in the rhythm of the
two steps (Lukas & Fridrich, "Estimation of primary quantization matrix in double compressed JPEG images", DFRWS 2003).
What the histogram of a coefficient would be without the first compression is estimated from the same picture cut by
four pixels, off the grid (the same paper's calibration); and once more cut by three and five, since of a picture that
was cropped after its first compression one of the two may lie on that one's grid: the lower score counts. For each IJG
quality that the first compression may have had, this estimate is quantised by its step, spread by the rounding to whole
grey levels in between, and quantised by the file's own step; the log-likelihood of the real histograms under this, less
that under one compression, is the quality's score. Scores are means over the blocks and sums over the coefficients.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from evidence.containers import ZIGZAG
from evidence.quantisation import standard_table

SIDE = 1024  # pixels of the middle that are looked at
LEAST = 128  # pixels a side
COEFFICIENTS = ZIGZAG[1:16]
FIRST = range(30, 100)  # qualities that the first compression may have had
MOST = 40  # levels of a coefficient on each side of zero
ROUNDING = 0.29  # grey levels: the deviation of a rounding error, 1 / sqrt(12); a DCT of length one keeps it
FLOOR = 1e-4  # probability of a level that the estimate has none of

# the score from which it is said, and from which quality of the file on the higher one: the finer the steps, the less
# does the estimate know of a picture's own rhythm (drawn pictures saved once at 90 scored up to .16, photos .07)
FROM, FROM_FINE, FINE = 0.12, 0.25, 85

_at = np.arange(8)
DCT = np.cos(np.pi * (2 * _at[None] + 1) * _at[:, None] / 16) / 2
DCT[0] /= np.sqrt(2)
# the normal distribution's share below a value, in deviations: beyond five there is nothing left
_DEVIATIONS = np.linspace(-5, 5, 2001)
_BELOW = np.array([math.erfc(-x / math.sqrt(2)) / 2 for x in _DEVIATIONS])


@dataclass(frozen=True)
class Primary:
    """score: how much better the file is explained by two compressions than by one, in nats a block. quality: of the
    first one, where that is so."""

    score: float
    quality: int


def said_from(quality: int) -> float:
    """The score from which a first compression is said of a file of this IJG quality."""
    return FROM_FINE if quality >= FINE else FROM


def luminance(data: bytes) -> np.ndarray:
    """A JPEG's luminance as it is stored, uint8 [H, W]: the middle, cut along the grid."""
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        image.draft("L", image.size)
        grey = np.asarray(image if image.mode == "L" else image.convert("L"))
    (top, left), (height, width) = ((max(0, (n - SIDE) // 2) // 8 * 8 for n in grey.shape), grey.shape)
    return grey[top : min(height, top + SIDE) // 8 * 8, left : min(width, left + SIDE) // 8 * 8]


def coefficients(grey: np.ndarray) -> np.ndarray:
    """float32 [blocks, 64] of uint8 [H, W]: the orthonormal DCT of each 8x8 block."""
    height, width = (n // 8 for n in grey.shape)
    blocks = grey[: 8 * height, : 8 * width].reshape(height, 8, width, 8).swapaxes(1, 2).astype(np.float32) - 128
    transform = DCT.astype(np.float32)
    return (transform @ blocks @ transform.T).reshape(-1, 64)


def primary(grey: np.ndarray, table: np.ndarray) -> Primary:
    """What speaks for a first compression of the luminance [H, W] of a JPEG with the quantisation table [8, 8].

    ValueError where a side is shorter than LEAST."""
    if min(grey.shape) < LEAST:
        raise ValueError(f"less than {LEAST}x{LEAST} pixels")
    real = coefficients(grey)
    scores = np.min([_scores(real, coefficients(cut), table) for cut in (grey[4:-4, 4:-4], grey[3:-5, 5:-3])], axis=0)
    best = int(scores.argmax())
    return Primary(float(scores[best]), FIRST[best])


def _scores(real: np.ndarray, free: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Of each quality in FIRST, by coefficients [blocks, 64] of the file and of its picture off the grid."""
    scores = np.zeros(len(FIRST))
    for at in COEFFICIENTS:
        second = int(table.flat[at])
        counts = _levels(real[:, at] / second)
        steps = np.array([standard_table(quality).flat[at] for quality in FIRST])
        once = _likelihood(counts, _levels(free[:, at] / second))
        for step in np.unique(steps):
            if step != second:
                expected = _twice(free[:, at], int(step), second)
                scores[steps == step] += (_likelihood(counts, expected) - once) / len(real)
    return scores


def _levels(values: np.ndarray) -> np.ndarray:
    """Counts [2 MOST + 1] of values rounded to whole numbers; what is further out is left out."""
    whole = np.rint(values).astype(int)
    return np.bincount(whole[np.abs(whole) <= MOST] + MOST, minlength=2 * MOST + 1).astype(float)


def _twice(values: np.ndarray, first: int, second: int) -> np.ndarray:
    """Expected counts [2 MOST + 1] of values that were quantised by `first`, rounded as pixels, quantised by
    `second`."""
    levels, counts = np.unique(np.rint(values / first), return_counts=True)
    edges = (np.arange(-MOST, MOST + 2) - 0.5) * second
    off = (edges[None] - (levels * first)[:, None]) / ROUNDING
    below = np.interp(off, _DEVIATIONS, _BELOW, left=0, right=1)
    return counts @ np.diff(below, axis=1)


def _likelihood(counts: np.ndarray, expected: np.ndarray) -> float:
    share = expected / max(expected.sum(), 1.0) + FLOOR
    return float(counts @ np.log(share / share.sum()))
