"""Do the eyes sit where FFHQ's alignment puts them, as in almost everything that a StyleGAN made?

StyleGAN's faces are aligned as the photos that it learnt from: the eyes are always at the same place of a square
picture. EYES is their mean over 800 flickr140k training photos (half of them FFHQ's, half StyleGAN's), found by YuNet
in 256 pixels; OFF holds 95 % of these. `python benchmarks/evidence.py eyes` measures the shares in FITS.
"""

from __future__ import annotations

import numpy as np

from evidence.line import ABSENT, PRESENT, UNKNOWN, Line

KIND = "eye position"
EYES = np.array(
    [[0.3744, 0.4636], [0.6248, 0.4682]]
)  # of the sides, from the upper left: the eye on the left, the right
OFF = 0.04  # of the side, the eye that is further off
SQUARE = 0.02
FITS = (
    "490 of 500 StyleGAN faces and 150 of 150 of another generator fit, but also 451 of 500 FFHQ photos; of photos with"
    " other framing 1 of 950"
)
PROVES = "little alone: " + FITS
CAN_NOT = (
    "that it was generated: every photo cut out in the way of FFHQ fits; a generated face that was cropped does not"
)


def eyes_off(landmarks: np.ndarray, height: int, width: int) -> float:
    """How far the further eye is from its place, in sides. landmarks: [5, 2] as `faces.finding.face.Face` has them, of
    a photo of `height` and `width`; infinite where the photo is not square."""
    if abs(height - width) > SQUARE * max(height, width):
        return float("inf")
    there = np.asarray(landmarks, float)[:2] / (width, height)
    return float(np.hypot(*(there - EYES).T).max())


def eye_position(landmarks: np.ndarray | None, size: tuple[int, int] | None) -> Line:
    """The line on it. landmarks: of the biggest face of the upright photo of `size` (height, width), None where there
    is none."""
    if landmarks is None or size is None:
        return Line(KIND, UNKNOWN, "no face with landmarks was looked for or found", PROVES, CAN_NOT)
    off = eyes_off(landmarks, *size)
    if not np.isfinite(off):
        return Line(KIND, ABSENT, "the picture is not square, as a StyleGAN's whole picture is", PROVES, CAN_NOT)
    facts = {"off": round(off, 4), "limit": OFF}
    words = f"the eyes are within {off:.3f} of the side of where FFHQ's alignment puts them (limit {OFF:g})"
    if off <= OFF:
        return Line(KIND, PRESENT, f"fits: {words}", PROVES, CAN_NOT, facts)
    return Line(KIND, ABSENT, f"does not fit: {words}", PROVES, CAN_NOT, facts)
