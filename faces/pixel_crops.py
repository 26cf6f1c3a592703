"""A photo's own pixels: crops inside a face that nothing has resampled or turned.

What an up-sampling generator leaves behind lies in the pixels of a file; a face brought to a network's square has lost
it. So besides that square some crops are cut out of the decoded photo as it is.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

import numpy as np
from PIL import Image

from common.errors import UserError

Region = tuple[float, float, float, float]

# The share of a region's side that is left out at each of its edges: captions and frames lie there (a line of text in
# the lowest 5 % of a generator's samples would be told, not the synthesis), and what is outside the head.
BORDER = 0.05


@dataclass(frozen=True)
class PixelCrops:
    """`grid` x `grid` crops of `side` x `side` pixels, evenly spread over a region, overlapping where it is small.

    channels: 3 (RGB) or 1 (luma, ITU-R BT.601). UserError for values out of range."""

    side: int = 96
    grid: int = 3
    channels: int = 3

    def __post_init__(self) -> None:
        for name, low, high in (("side", 8, 1024), ("grid", 1, 16)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise UserError(f"{name} of the crops must be a whole number from {low} to {high}, not {value!r}")
        if self.channels not in (1, 3):
            raise UserError(f"channels of the crops must be 1 or 3, not {self.channels!r}")

    @property
    def count(self) -> int:
        return self.grid * self.grid

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the crops as networks take them: count, channels, side, side."""
        return self.count, self.channels, self.side, self.side

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, options: dict) -> PixelCrops:
        """The inverse of `to_dict`. UserError naming an unknown option."""
        if unknown := sorted(set(options) - {field.name for field in fields(cls)}):
            raise UserError(f"unknown option {unknown[0]!r} of the crops")
        return cls(**options)

    def places(self, shape: tuple[int, ...], region: Region | None = None) -> list[tuple[int, int]]:
        """(top, left) of each crop of a photo of `shape` [H, W, …], row by row; [] where they do not fit.

        region: x0, y0, x1, y1 in the photo's pixels, the whole photo by default. BORDER of it is left out at each edge,
        and what lies outside the photo."""
        height, width = shape[:2]
        x0, y0, x1, y1 = region or (0.0, 0.0, float(width), float(height))
        starts = []
        for low, high, most in ((y0, y1, height), (x0, x1, width)):
            inset = BORDER * (high - low)
            begin, end = max(int(np.ceil(low + inset)), 0), min(int(np.floor(high - inset)), most)
            if (room := end - begin - self.side) < 0:
                return []
            steps = max(self.grid - 1, 1)
            starts.append([begin + (room * i // steps if self.grid > 1 else room // 2) for i in range(self.grid)])
        return [(top, left) for top in starts[0] for left in starts[1]]

    def cut(self, photo: np.ndarray, region: Region | None = None) -> np.ndarray | None:
        """Crops uint8 [count, side, side, channels] of a photo uint8 [H, W, 3]; None where it holds fewer pixels than a
        crop there. region: see `places`."""
        places = self.places(photo.shape, region)
        if not places:
            return None
        crops = np.stack([photo[top : top + self.side, left : left + self.side] for top, left in places])
        if self.channels == 3:
            return crops
        tall = np.ascontiguousarray(crops.reshape(-1, self.side, 3))
        return np.asarray(Image.fromarray(tall).convert("L")).reshape(self.count, self.side, self.side, 1)
