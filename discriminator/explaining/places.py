"""Where the numbers that a network is given lie in the picture, whatever the preparation: squares, cells, fillings.

A prepared photo is one row of numbers: one square, several of them (`Views`), or a square and crops of the photo's own
pixels (`FaceAndPixels`). Maps tell of the square that is reported (and of views of the same part of the photo); all
else is held as it is.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

from discriminator.views import FaceAndPixels, Preparation, Views

GRID = 32  # cells a side of maps that tell of every pixel


class Square(NamedTuple):
    """channels x side x side numbers of a row, from `start` on."""

    start: int
    channels: int
    side: int

    @property
    def stop(self) -> int:
        return self.start + self.channels * self.side**2


class Places:
    """Of a preparation. squares: what the maps tell of. note: what of the preparation they don't, or ""."""

    def __init__(self, preprocess: Preparation) -> None:
        self.shape = tuple(preprocess.shape)  # of an image, as the network takes it
        self.length, self.note = math.prod(self.shape), ""
        if isinstance(preprocess, FaceAndPixels):
            self.squares = [Square(0, preprocess.channels, preprocess.resolution)]
            self.note = "the map is of the face; the crops of the photo's own pixels are held as they are"
            return
        views = preprocess.views if isinstance(preprocess, Views) else (preprocess,)
        self.squares, start = [], 0
        for view in views:
            square = Square(start, view.channels, view.resolution)
            start = square.stop
            if view.crop == preprocess.crop:
                self.squares.append(square)
        if len(self.squares) < len(views):
            self.note = "views of another part of the photo are held as they are"

    @property
    def side(self) -> int:
        """Of the smallest square."""
        return min(square.side for square in self.squares)

    def row(self, pixels: torch.Tensor) -> torch.Tensor:
        """[N, *shape] as rows [N, L]."""
        return pixels.reshape(len(pixels), self.length)

    def image(self, rows: torch.Tensor) -> torch.Tensor:
        """The inverse of `row`."""
        return rows.reshape(-1, *self.shape)

    def part(self, rows: torch.Tensor, square: Square) -> torch.Tensor:
        """[N, C, R, R] of rows [N, L]."""
        return rows[:, square.start : square.stop].reshape(-1, square.channels, square.side, square.side)

    def cells(self, grid: int) -> torch.Tensor:
        """int64 [L]: of each number its cell, 0 to grid^2 - 1, row by row; grid^2 where it lies in none."""
        out = torch.full((self.length,), grid * grid)
        for square in self.squares:
            at = torch.arange(square.side) * grid // square.side
            out[square.start : square.stop] = (at[:, None] * grid + at).flatten().repeat(square.channels)
        return out

    def filled(self, row: torch.Tensor, cells: int = 8) -> torch.Tensor:
        """A row [1, L] whose squares are blurred until about `cells` means a side are left of them."""
        out = row.clone()
        for square in self.squares:
            x = self.part(row, square)
            few = F.adaptive_avg_pool2d(x, max(2, min(cells, square.side // 4)))
            soft = F.interpolate(few, (square.side, square.side), mode="bilinear", align_corners=False)
            out[:, square.start : square.stop] = soft.flatten(1)
        return out

    def grey(self, row: torch.Tensor) -> torch.Tensor:
        """A row [1, L] whose squares are their own mean colour."""
        out = row.clone()
        for square in self.squares:
            mean = self.part(row, square).mean((2, 3), keepdim=True)
            out[:, square.start : square.stop] = mean.expand(1, square.channels, square.side, square.side).flatten(1)
        return out

    def summed(self, values: torch.Tensor, grid: int = GRID) -> torch.Tensor:
        """Values [L] of each number, summed over channels, views and the pixels of each cell: [g, g], g at most the
        smallest square's side. The whole is kept."""
        grid = min(grid, self.side)
        total = torch.zeros(grid, grid, dtype=values.dtype)
        for square in self.squares:
            x = self.part(values[None], square)[0].sum(0)
            total += F.adaptive_avg_pool2d(x[None, None], grid)[0, 0] * (square.side / grid) ** 2
        return total

    def strongest(self, values: torch.Tensor, grid: int = GRID) -> torch.Tensor:
        """Values [L] >= 0: the largest of the channels, averaged over a cell's pixels, summed over views: [g, g]."""
        grid = min(grid, self.side)
        total = torch.zeros(grid, grid, dtype=values.dtype)
        for square in self.squares:
            x = self.part(values[None], square)[0].amax(0)
            total += F.adaptive_avg_pool2d(x[None, None], grid)[0, 0]
        return total
