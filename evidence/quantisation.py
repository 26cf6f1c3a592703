"""A JPEG's quantisation tables, and the quality that they speak of.

The tables of ISO/IEC 10918-1, annex K, scaled as the Independent JPEG Group's library does: at quality Q the factor is
5000 / Q per cent below 50, 200 - 2 Q from there on, and an entry is (base * factor + 50) // 100, held to 1..255.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

LUMINANCE = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55], [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62], [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
])  # fmt: skip
CHROMINANCE = np.full((8, 8), 99)
CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
QUALITIES = range(1, 101)


@lru_cache(maxsize=256)
def standard_table(quality: int, chroma: bool = False) -> np.ndarray:
    """int [8, 8]: the table of IJG quality 1..100, for luminance or chrominance."""
    factor = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.clip(((CHROMINANCE if chroma else LUMINANCE) * factor + 50) // 100, 1, 255)


@dataclass(frozen=True)
class Estimate:
    """quality: the IJG quality whose tables lie nearest, by least squares. off: root of the mean squared difference of
    an entry; standard: no difference at all."""

    quality: int
    off: float

    @property
    def standard(self) -> bool:
        return self.off == 0


def estimate_quality(tables: list[tuple[np.ndarray, bool]]) -> Estimate:
    """The IJG quality of int tables [8, 8], each with whether it is chrominance's. ValueError for none."""
    if not tables:
        raise ValueError("no tables")

    def squares(quality: int) -> float:
        return float(sum(((table - standard_table(quality, chroma)) ** 2).sum() for table, chroma in tables))

    # of two qualities with the same tables the higher: 1 and 2 apart, there is none
    best = min(QUALITIES, key=lambda quality: (squares(quality), -quality))
    return Estimate(best, float(np.sqrt(squares(best) / (64 * len(tables)))))
