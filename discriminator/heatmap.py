"""Where the detector saw it: the patch map laid over the photo.

Blue patches look photographed, orange ones generated, by themselves and before any calibration; the photo goes grey
underneath, so that no colour of its own can be taken for evidence. The scale is fixed from 0 to 1: a map that says
nothing stays pale instead of being stretched into drama.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from common.errors import UserError

# Blue and vermilion of Okabe & Ito (2008), which stay apart under every common colour blindness.
REAL_COLOUR = np.array([0, 114, 178], dtype=np.float32)
FAKE_COLOUR = np.array([213, 94, 0], dtype=np.float32)
# Reddish purple of the same, for maps that tell no sides.
EITHER_COLOUR = np.array([204, 121, 167], dtype=np.float32)
OPACITY = 0.6
LABEL_COLOURS = {"REAL": (0, 114, 178), "FAKE": (190, 70, 0), "UNSURE": (90, 90, 90)}

_SIDE = 448  # longest side of the photo in a panel, pixels


def overlay(photo: np.ndarray, patch_map: np.ndarray, *, crop: str = "center") -> np.ndarray:
    """Photo uint8 [H, W, 3] under its map float [h, w] in [0, 1] -> uint8 [H, W, 3].

    crop: how the detector's preprocessing squared the photo ("center", "none" or "pad"), which says where the map lies;
    what the detector did not see is darkened.
    """
    if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8:
        raise UserError(f"expected H x W x 3 uint8 pixels, got {photo.dtype} {photo.shape}")
    fake, seen = _project(patch_map, photo.shape[:2], crop)
    return _tinted(photo, seen, np.where(fake >= 0.5, FAKE_COLOUR, REAL_COLOUR), np.abs(2 * fake - 1))


def _tinted(photo: np.ndarray, seen: np.ndarray, colour: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """The photo in grey under a colour of some strength [H, W, 1] where it was seen, dark elsewhere."""
    grey, strength = np.asarray(Image.fromarray(photo).convert("L"), np.float32)[..., None], strength * OPACITY
    mixed = grey * (1 - strength) + colour * strength
    return np.where(seen, mixed, grey * 0.35).round().clip(0, 255).astype(np.uint8)


def _project(patch_map: np.ndarray, shape: tuple[int, int], crop: str) -> tuple[np.ndarray, np.ndarray]:
    """The map in the photo's pixels [H, W, 1], and a mask [H, W, 1] of the pixels it covers."""
    height, width = shape
    if crop == "none":
        top = left = 0
        tall, wide = height, width
    elif crop in ("center", "pad"):
        tall = wide = (min if crop == "center" else max)(height, width)
        # Negative where the square is larger than the photo.
        top = (height - tall) // 2 if crop == "center" else -((tall - height) // 2)
        left = (width - wide) // 2 if crop == "center" else -((wide - width) // 2)
    else:
        raise UserError(f"crop must be center, none or pad, not {crop!r}")
    picture = Image.fromarray(np.asarray(patch_map, dtype=np.float32))
    large = np.asarray(picture.resize((wide, tall), Image.Resampling.BILINEAR))
    out, seen = np.full(shape, 0.5, np.float32), np.zeros(shape, bool)
    y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + tall, height), min(left + wide, width)
    out[y0:y1, x0:x1] = large[y0 - top : y1 - top, x0 - left : x1 - left]
    seen[y0:y1, x0:x1] = True
    return out[..., None], seen[..., None]


def overlay_in(photo: np.ndarray, strength: np.ndarray, colour: np.ndarray, *, crop: str = "center") -> np.ndarray:
    """Photo uint8 [H, W, 3] under one colour [3], the more the larger float [h, w] in [0, 1]: uint8 [H, W, 3]."""
    projected, seen = _project(strength, photo.shape[:2], crop)
    return _tinted(photo, seen, colour, projected.clip(0, 1))


def overlay_region(photo: np.ndarray, values: np.ndarray, corners: np.ndarray, colour: np.ndarray | None) -> np.ndarray:
    """Photo uint8 [H, W, 3] in grey, under a map float [h, w] in [-1, 1] where it belongs: uint8 [H, W, 3].

    corners: float [4, 2], x and y in the photo's pixels of the map's upper left, upper right, lower right and lower
    left corner. colour: of a map without sides; None: blue below 0, orange above."""
    import cv2

    height, width = values.shape
    own = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32) - 0.5  # centres are whole numbers
    lies = cv2.getPerspectiveTransform(own, corners.astype(np.float32) - 0.5)
    size = photo.shape[1], photo.shape[0]
    there = cv2.warpPerspective(values.astype(np.float32), lies, size, flags=cv2.INTER_LINEAR)[..., None]
    tint = colour if colour is not None else np.where(there >= 0, FAKE_COLOUR, REAL_COLOUR)
    return _tinted(photo, np.ones(there.shape, bool), tint, np.abs(there).clip(0, 1))


def fit(photo: np.ndarray, side: int = _SIDE) -> np.ndarray:
    """The photo with its longest side at `side` (default: the panel's size); small ones are enlarged without smoothing
    them away."""
    height, width = photo.shape[:2]
    scale = side / max(height, width)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    kernel = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(np.ascontiguousarray(photo)).resize(size, kernel))


def write_line(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, font, room: float) -> None:
    """One line of text, its middle left out where it would not fit (both ends of a path matter)."""
    # The built-in font lacks most scripts; a file may be called anything.
    text = "".join(c if c.isprintable() else "?" for c in text)
    shown, keep = text, len(text)
    while keep > 4 and (length := draw.textlength(shown, font=font)) > room:
        keep = min(keep - 2, int(keep * room / length))
        shown = text[: keep // 2] + "…" + text[-(keep // 2) :]
    draw.text(at, shown, fill="black", font=font)
