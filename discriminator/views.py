"""Several preprocessings of one photo, for members of an ensemble that look at it in different ways.

`Views` stands where a single `Preprocess` would: what `uint8` makes of a photo is one row of bytes, all views one after
the other, so everything that stacks, keeps or sends prepared photos goes on as with one view.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.errors import UserError
from faces.preprocess import Preprocess

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Views:
    """Two or more different preprocessings. ValueError for fewer, or two that are equal."""

    views: tuple[Preprocess, ...]

    def __post_init__(self) -> None:
        if len(self.views) < 2 or len(set(self.views)) < len(self.views):
            raise UserError("views are two or more different preprocessings")

    @property
    def main(self) -> Preprocess:
        """The one with most pixels, the first of equals: where maps lie, and what «too small» is measured by."""
        return max(self.views, key=lambda view: view.resolution)

    @property
    def resolution(self) -> int:
        return self.main.resolution

    @property
    def channels(self) -> int:
        return self.main.channels

    @property
    def crop(self) -> str:
        return self.main.crop

    @property
    def resample(self) -> str:
        return self.main.resample

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """(C, R, R) of each view."""
        return [(view.channels, view.resolution, view.resolution) for view in self.views]

    def uint8(self, image: np.ndarray) -> np.ndarray:
        """H x W x 3 uint8 -> uint8 [L], the views' pixels one after the other."""
        return np.concatenate([view.uint8(image).ravel() for view in self.views])

    def normalise(self, pixels: np.ndarray) -> np.ndarray:
        """What `uint8` made, [..., L], as float32 [..., L] in [-1, 1], each view channels first."""
        parts, at = [], 0
        for channels, side, _ in self.shapes:
            length = channels * side * side
            part = pixels[..., at : at + length].reshape(*pixels.shape[:-1], side, side, channels)
            parts.append(Preprocess.normalise(part).reshape(*pixels.shape[:-1], length))
            at += length
        return np.concatenate(parts, axis=-1)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return self.normalise(self.uint8(image))

    def split(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """float [N, L] -> the views, float [N, C, R, R] each."""
        parts = flat.split([c * h * w for c, h, w in self.shapes], dim=1)
        return [part.reshape(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def to_dict(self) -> dict:
        return {"views": [view.to_dict() for view in self.views]}


def preprocess_from(options: dict) -> Preprocess | Views:
    """The inverse of both `to_dict`. ValueError or TypeError on anything else."""
    if isinstance(options, dict) and set(options) == {"views"}:
        return Views(tuple(Preprocess.from_dict(view) for view in options["views"]))
    return Preprocess.from_dict(options)


def joined(preprocesses: list[Preprocess]) -> tuple[Preprocess | Views, list[int]]:
    """(what a photo goes through, for each of `preprocesses` the number of its view); equal ones share a view."""
    different = list(dict.fromkeys(preprocesses))
    both = different[0] if len(different) == 1 else Views(tuple(different))
    return both, [different.index(one) for one in preprocesses]
