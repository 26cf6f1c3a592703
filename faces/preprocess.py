"""THE preprocessing: photo pixels to network input. Training, evaluation, detection and export all call this object."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import cast

import numpy as np
from PIL import Image

from common.errors import UserError
from faces.filters import jpeg, to_size
from faces.options import CROPS, MOST_SAVES, RESAMPLE

PAD_VALUE = 128


def centre_square(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(top, left, side) of the largest centred square of an image of `shape` [H, W, …]."""
    height, width = shape[:2]
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side


def _qualities(saved: object) -> tuple[int, ...]:
    """What `Preprocess.saved` may be, as a tuple. UserError for anything else."""
    if saved == 0 and not isinstance(saved, bool):
        return ()
    numbers = tuple(saved) if isinstance(saved, (tuple, list)) else (saved,)
    wrong = [q for q in numbers if isinstance(q, bool) or not isinstance(q, int) or not 1 <= q <= 100]
    if wrong or len(numbers) > MOST_SAVES:
        raise UserError(
            f"saved must be a JPEG quality from 1 to 100, 0 for none, or a list of at most {MOST_SAVES}, not {saved!r}"
        )
    return numbers


@dataclass(frozen=True)
class Preprocess:
    """How a photo becomes `resolution` x `resolution` network input.

    resolution: side of the result in pixels.
    crop: "center" cuts the largest centred square, "none" squeezes the whole image, "pad" adds mid-grey (128) around.
    resample: Pillow's kernel, stretched when shrinking (so it is an anti-aliasing filter); or "points", OpenCV's
        bilinear interpolation, which is none (`faces.filters.to_size`). An image that has the size already is not
        touched. Which kernel was used shows in the spectrum of the result, hence one object for all.
    channels: 3 (RGB) or 1 (luma, ITU-R BT.601).
    saved: JPEG qualities (chroma at half size) at which an image that had to be resampled is saved and read again, one
        after the other; one number or none, and at most four. Sets of faces are made by shrinking and saving: a network
        that learnt from such files knows no others, so a photo that comes in larger is brought to the same state.
        Colour only. Kept as a tuple, empty for none.
    Raises ValueError for values outside these.
    """

    resolution: int
    crop: str = "center"
    resample: str = "lanczos"
    channels: int = 3
    saved: int | tuple[int, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "saved", _qualities(self.saved))
        if isinstance(self.resolution, bool) or not isinstance(self.resolution, int) or self.resolution < 1:
            raise UserError(f"resolution must be a whole number of pixels above 0, not {self.resolution!r}")
        if self.crop not in CROPS:
            raise UserError(f"crop must be one of {', '.join(CROPS)}, not {self.crop!r}")
        if self.resample not in RESAMPLE:
            raise UserError(f"resample must be one of {', '.join(RESAMPLE)}, not {self.resample!r}")
        if self.channels not in (1, 3):
            raise UserError(f"channels must be 1 or 3, not {self.channels!r}")

    @property
    def qualities(self) -> tuple[int, ...]:
        """`saved`, which is a tuple once it was checked."""
        return cast("tuple[int, ...]", self.saved)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the result as networks take it: channels, height, width."""
        return self.channels, self.resolution, self.resolution

    def to_dict(self) -> dict:
        """The options as plain values, for JSON headers; without `saved` where there is none, as one number where it is
        one: as files had it first."""
        values, saved = asdict(self), self.qualities
        values["saved"] = saved[0] if len(saved) == 1 else list(saved)
        return values if saved else {name: value for name, value in values.items() if name != "saved"}

    @classmethod
    def from_dict(cls, options: dict) -> Preprocess:
        """The inverse of `to_dict`. Raises ValueError naming an unknown option (a file of a newer version)."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(options) - known):
            raise UserError(f"unknown preprocessing option {unknown[0]!r} (known: {', '.join(sorted(known))})")
        if "resolution" not in options:
            raise UserError("preprocessing options have no 'resolution'")
        return cls(**options)

    def uint8(self, image: np.ndarray, resampled: bool = False) -> np.ndarray:
        """H x W x 3 (or H x W, H x W x 1) uint8 -> resolution x resolution x channels uint8.

        resampled: whether the image was already (a face cut out and turned upright), for `saved`."""
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
            raise UserError(f"expected H x W x 3 uint8 pixels, got {image.dtype} {image.shape}")
        if 0 in image.shape:
            raise UserError(f"expected at least one pixel, got shape {image.shape}")
        if image.ndim == 2 or image.shape[2] == 1:
            image = np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
        image = self._squared(image)
        size = (self.resolution, self.resolution)
        if image.shape[:2] != size:
            image = to_size(np.ascontiguousarray(image), *size, self.resample)
            resampled = True
        for quality in self.qualities if resampled else ():
            image = jpeg(np.ascontiguousarray(image), quality)
        if self.channels == 1:
            image = np.asarray(Image.fromarray(np.ascontiguousarray(image)).convert("L"))[..., None]
        return np.ascontiguousarray(image)

    def planes(self, image: np.ndarray) -> np.ndarray:
        """The same with channels first, as training keeps images: uint8 of `shape`."""
        return self.uint8(image).transpose(2, 0, 1)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """H x W x 3 uint8 -> channels x resolution x resolution float32 in [-1, 1] (x / 127.5 - 1)."""
        return self.normalise(self.uint8(image))

    @staticmethod
    def normalise(pixels: np.ndarray) -> np.ndarray:
        """What `uint8` made, [..., R, R, C], as network input: float32 [..., C, R, R] in [-1, 1] (x / 127.5 - 1)."""
        planes = np.moveaxis(pixels, -1, -3).astype(np.float32, order="C")
        planes /= np.float32(127.5)
        planes -= np.float32(1)
        return planes

    @staticmethod
    def mirrored(planes: np.ndarray) -> np.ndarray:
        """What `normalise` made, of the mirror image."""
        return np.ascontiguousarray(planes[..., ::-1])

    def _squared(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        if height == width or self.crop == "none":
            return image
        if self.crop == "center":
            top, left, side = centre_square(image.shape)
            return image[top : top + side, left : left + side]
        side = max(height, width)
        top, left = (side - height) // 2, (side - width) // 2
        square = np.full((side, side, image.shape[2]), PAD_VALUE, np.uint8)
        square[top : top + height, left : left + width] = image
        return square
