"""Error levels as a picture: what changes when a photo is saved as JPEG once more.

Krawetz, "A Picture's Worth: Digital Image Analysis and Forensics" (2007): a part that was pasted in after the last
compression may change more than the rest. So do edges, fine texture and saturated colours, which is why this is a
picture to look at and no figure.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from common.files import save_atomically
from faces.filters import fit_longest, jpeg

QUALITY = 90
BRIGHTEST = 0.999  # share of the values that are not cut off
LONGEST = 1600  # pixels of the picture's longer side
MOST_GAIN = 40.0


def error_levels(photo: np.ndarray, quality: int = QUALITY) -> tuple[np.ndarray, float]:
    """(uint8 [H, W, 3], gain): the absolute difference between uint8 RGB [H, W, 3] and itself after JPEG, times
    `gain`, by which all but a thousandth of the values fill 0..255."""
    off = np.abs(photo.astype(np.int16) - jpeg(photo, quality, "444"))
    counts = np.cumsum(np.bincount(off.ravel(), minlength=256))
    top = int(np.searchsorted(counts, BRIGHTEST * counts[-1]))
    gain = min(255 / max(top, 1), MOST_GAIN)
    return np.clip(np.rint(off * gain), 0, 255).astype(np.uint8), gain


def save_error_levels(path: Path, photo: np.ndarray) -> float:
    """Draws the photo and its error levels side by side as a PNG (whole or not at all); the gain."""
    levels, gain = error_levels(photo)
    both = [fit_longest(part, LONGEST, "box") for part in (photo, levels)]
    picture = Image.fromarray(np.concatenate(both, axis=1))
    save_atomically(path, lambda tmp: picture.save(tmp, "PNG"))
    return gain
