"""Says once that what is shown to a detector of aligned faces is no aligned crop, and who would cut one out."""

from __future__ import annotations

import functools
import warnings

import numpy as np

from faces.finding.align import FaceFinder
from faces.finding.face_step import SQUARE, is_aligned_crop

LOOKED_AT = 8  # square photos in which a face is looked for: some 10 ms each
LEAST = 64  # pixels: of smaller pictures not having found a face says little


class CropWatch:
    """`watch(photo)` for each photo, uint8 RGB [H, W, 3]: a UserWarning at the first that is no aligned crop.

    Of one that is not square that is plain; in the first `LOOKED_AT` square ones a face is looked for, by YuNet's file
    where it is here (nothing is downloaded)."""

    def __init__(self) -> None:
        self._left = LOOKED_AT
        self._told = False

    def __call__(self, photo: np.ndarray) -> None:
        if self._told or photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8:
            return
        why = self._why(photo)
        if why:
            self._told = True
            warnings.warn(
                f"predict() judges a picture as it is, and this detector knows aligned face crops only: {why}."
                " reports.library.judge(photo) finds the faces, cuts them out and judges each (this is said once)",
                stacklevel=4,
            )

    def _why(self, photo: np.ndarray) -> str:
        """What shows that the photo is no aligned crop, or ""."""
        if not _is_square(photo):
            return no_crop(photo)
        self._left -= 1
        return no_crop(photo) if self._left >= 0 else ""


def no_crop(photo: np.ndarray) -> str:
    """What shows that a photo uint8 RGB [H, W, 3] is no aligned crop of a face, or ""."""
    height, width = photo.shape[:2]
    if not _is_square(photo):
        return f"a photo of {width}x{height} pixels is not square"
    finder = _finder()
    faces = finder.find(photo)
    if faces:
        return "" if is_aligned_crop(photo.shape, faces[0]) else "the face does not lie in the photo as in a crop"
    return "no face is found in the photo" if finder.model is not None and min(height, width) >= LEAST else ""


def _is_square(photo: np.ndarray) -> bool:
    height, width = photo.shape[:2]
    return abs(height - width) <= SQUARE * max(height, width)


@functools.cache
def _finder() -> FaceFinder:
    return FaceFinder.open(allow_download=False)
