"""Several preprocessings of one photo, for networks that look at it in different ways.

`Views` (members of an ensemble) and `FaceAndPixels` (the face in a square, and crops of the photo's own pixels) stand
where a single `Preprocess` would: what `uint8` makes of a photo is one row of bytes, all views one after the other, so
everything that stacks, keeps or sends prepared photos goes on as with one view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.errors import UserError
from faces.pixel_crops import PixelCrops, Region
from faces.preprocess import Preprocess, centre_square

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

    @property
    def shape(self) -> tuple[int]:
        """Of the row as networks take it: L."""
        return (sum(c * h * w for c, h, w in self.shapes),)

    def uint8(self, image: np.ndarray, resampled: bool = False) -> np.ndarray:
        """H x W x 3 uint8 -> uint8 [L], the views' pixels one after the other."""
        return np.concatenate([view.uint8(image, resampled).ravel() for view in self.views])

    def planes(self, image: np.ndarray) -> np.ndarray:
        """The same, each view channels first."""
        return np.concatenate([view.planes(image).ravel() for view in self.views])

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

    def mirrored(self, rows: np.ndarray) -> np.ndarray:
        """What `normalise` made, float [N, L], of the mirror images."""
        parts, at = [], 0
        for shape in self.shapes:
            length = math.prod(shape)
            parts.append(rows[:, at : at + length].reshape(-1, *shape)[..., ::-1].reshape(-1, length))
            at += length
        return np.concatenate(parts, axis=1)

    def split(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """float [N, L] -> the views, float [N, C, R, R] each."""
        parts = flat.split([c * h * w for c, h, w in self.shapes], dim=1)
        return [part.reshape(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def to_dict(self) -> dict:
        return {"views": [view.to_dict() for view in self.views]}


@dataclass(frozen=True)
class FaceAndPixels:
    """The face brought to a square, and crops of the photo's own pixels inside it.

    A row of bytes holds the square; whether there are crops, as 255 or 0; and the crops, zeros where there are none.
    """

    face: Preprocess
    pixels: PixelCrops

    @property
    def resolution(self) -> int:
        return self.face.resolution

    @property
    def channels(self) -> int:
        return self.face.channels

    @property
    def crop(self) -> str:
        return self.face.crop

    @property
    def resample(self) -> str:
        return self.face.resample

    @property
    def shape(self) -> tuple[int]:
        """Of the row as networks take it: L."""
        return (math.prod(self.face.shape) + 1 + math.prod(self.pixels.shape),)

    def uint8(self, image: np.ndarray, photo: np.ndarray | None = None, region: Region | None = None) -> np.ndarray:
        """What is judged, H x W x 3 uint8, and the photo in which it is the region x0, y0, x1, y1 -> uint8 [L].

        Without a photo the image is its own, and its region what the face's preprocessing looks at of it."""
        return self._row(self.face.uint8(image, region is not None), self._crops(image, photo, region))

    def planes(self, image: np.ndarray) -> np.ndarray:
        """`uint8` of an image that is its own photo, all of it channels first."""
        crops = self._crops(image, None, None)
        return self._row(self.face.planes(image), None if crops is None else crops.transpose(0, 3, 1, 2))

    def normalise(self, pixels: np.ndarray) -> np.ndarray:
        """What `uint8` made, [..., L], as float32 [..., L] in [-1, 1], square and crops channels first."""
        lead, at, (c, side, _) = pixels.shape[:-1], math.prod(self.face.shape), self.face.shape
        count, channels, small, _ = self.pixels.shape
        parts = [
            pixels[..., :at].reshape(*lead, side, side, c),
            pixels[..., at : at + 1].reshape(*lead, 1, 1, 1),
            pixels[..., at + 1 :].reshape(*lead, count, small, small, channels),
        ]
        return np.concatenate([Preprocess.normalise(part).reshape(*lead, -1) for part in parts], axis=-1)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return self.normalise(self.uint8(image))

    def mirrored(self, rows: np.ndarray) -> np.ndarray:
        """What `normalise` made, float [N, L], of the mirror images: their crops lie in the other order, too."""
        at, (_, channels, small, _), grid = math.prod(self.face.shape), self.pixels.shape, self.pixels.grid
        face = rows[:, :at].reshape(-1, *self.face.shape)[..., ::-1]
        crops = rows[:, at + 1 :].reshape(-1, grid, grid, channels, small, small)[:, :, ::-1, ..., ::-1]
        return np.concatenate([face.reshape(-1, at), rows[:, at : at + 1], crops.reshape(len(rows), -1)], axis=1)

    def has_crops(self, row: np.ndarray) -> bool:
        """Whether a row of `uint8` holds crops."""
        return bool(row[math.prod(self.face.shape)])

    def split(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """float [N, L] -> faces [N, C, R, R]; crops [N * count, C', S, S]; bool [N], who has crops."""
        at, (_, *crop) = math.prod(self.face.shape), self.pixels.shape
        face, flag, crops = flat.split([at, 1, math.prod(self.pixels.shape)], dim=1)
        return face.reshape(-1, *self.face.shape), crops.reshape(-1, *crop), flag[:, 0] > 0

    def to_dict(self) -> dict:
        return {"face": self.face.to_dict(), "pixels": self.pixels.to_dict()}

    def _crops(self, image: np.ndarray, photo: np.ndarray | None, region: Region | None) -> np.ndarray | None:
        if photo is None:
            photo, region = image, self._seen(image.shape)
        if photo.ndim == 2 or photo.shape[2] == 1:
            photo = np.repeat(photo.reshape(*photo.shape[:2], 1), 3, axis=2)
        return self.pixels.cut(photo, region)

    def _row(self, square: np.ndarray, crops: np.ndarray | None) -> np.ndarray:
        row = np.zeros(self.shape, np.uint8)
        at = square.size
        row[:at] = square.ravel()
        if crops is not None:
            row[at], row[at + 1 :] = 255, crops.ravel()
        return row

    def _seen(self, shape: tuple[int, ...]) -> Region:
        """The part of an image that the face's preprocessing looks at."""
        height, width = shape[:2]
        if self.face.crop != "center":
            return 0.0, 0.0, float(width), float(height)
        top, left, side = centre_square(shape)
        return float(left), float(top), float(left + side), float(top + side)


Preparation = Preprocess | Views | FaceAndPixels


def preprocess_from(options: dict) -> Preparation:
    """The inverse of every `to_dict`. ValueError or TypeError on anything else."""
    if isinstance(options, dict) and set(options) == {"face", "pixels"}:
        return FaceAndPixels(Preprocess.from_dict(options["face"]), PixelCrops.from_dict(options["pixels"]))
    if isinstance(options, dict) and set(options) == {"views"}:
        return Views(tuple(Preprocess.from_dict(view) for view in options["views"]))
    return Preprocess.from_dict(options)


def joined(preprocesses: list[Preprocess]) -> tuple[Preprocess | Views, list[int]]:
    """(what a photo goes through, for each of `preprocesses` the number of its view); equal ones share a view."""
    different = list(dict.fromkeys(preprocesses))
    both = different[0] if len(different) == 1 else Views(tuple(different))
    return both, [different.index(one) for one in preprocesses]
