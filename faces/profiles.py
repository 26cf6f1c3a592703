"""Embedded colour profiles (ICC.1:2022) to sRGB: little CMS, relative colorimetric.

A profile is a program of sorts, run for some ten thousand colours before the first pixel. Two things in it have no
bound of their own and are left out: its floating-point elements (tags D2B0 to B2D3), as many in a row as the file
likes, beside which every profile has tables (A2B) that say the same; and a size beyond any device's.
"""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

MOST = 8 << 20  # bytes of a profile: printers' have 3 MiB. As many are kept for the next photo as `maxsize` says
_TAGS = 128  # where a profile's list of tags begins: their number, then for each its name, place and length
_LISTED = 1000


def note_on(image: Image.Image) -> str:
    """What is to be said of an opened image whose profile is not followed for its size, or ""."""
    size = len(image.info.get("icc_profile") or b"")
    if size <= MOST:
        return ""
    return f"its colour profile of {size / (1 << 20):.1f} MiB is too large and was left out: colours may be off"


@lru_cache(maxsize=16)
def transform_of(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Profile -> sRGB for images of `mode`; None where the profile is sRGB already, broken, or of other channels."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(_without_elements(profile)))
        space = source.profile.xcolor_space.strip()
        if {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}.get(mode) != space:
            return None
        srgb = ImageCms.createProfile("sRGB")
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        transform = ImageCms.buildTransform(source, srgb, mode, "RGB", renderingIntent=intent)
        return None if mode == "RGB" and _is_identity(transform) else transform
    except Exception:  # a broken profile: show the pixels as they are, as viewers do
        return None


def _without_elements(profile: bytes) -> bytes:
    """The profile whose floating-point elements have a name that nobody looks for."""
    count = min(int.from_bytes(profile[_TAGS : _TAGS + 4], "big"), _LISTED)
    out = bytearray(profile)
    for at in range(_TAGS + 4, min(_TAGS + 4 + 12 * count, len(profile) - 11), 12):
        if profile[at : at + 3] in (b"D2B", b"B2D"):
            out[at : at + 4] = b"none"
    return bytes(out)


def _is_identity(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether a transform moves no colour by more than 2 of 255, as the many variants of the sRGB profile do.

    Pixels of ordinary photos then stay exactly as the file has them."""
    ramp = np.linspace(0, 255, 9).round().astype(np.uint8)
    cube = np.stack(np.meshgrid(ramp, ramp, ramp), -1).reshape(27, 27, 3)
    moved = np.asarray(ImageCms.applyTransform(Image.fromarray(cube), transform)).astype(int) - cube
    return bool(np.abs(moved).max() <= 2)
