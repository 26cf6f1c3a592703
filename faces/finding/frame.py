"""A face's frame: the square that FFHQ's photos have about it. (x, y) in pixels from the image's upper left corner."""

from __future__ import annotations

import functools

import numpy as np

from common.errors import UserError
from faces.finding.face import Face

# Where an FFHQ photo's frame lies about the cascade's box, in box widths: measured on 240 photos of flickr140k, whose
# frames are known (box 0.67 +- 0.05 of the frame, its middle 0.050 +- 0.012 below the frame's).
HAAR_FRAME, HAAR_UP = 1.49, 0.075
REACH = 1.0  # sides of the face's frame from its middle: what is further off is never seen


def ffhq_quad(landmarks: np.ndarray) -> np.ndarray:
    """float64 [4, 2]: the upper left, lower left, lower right and upper right corner of a face's frame, in pixels.

    The oriented square of Karras et al., "Progressive Growing of GANs" (ICLR 2018), appendix C: with eyes e0, e1 and
    the corners of the mouth m0, m1, x' = e1 - e0, y' = (e0 + e1) / 2 - (m0 + m1) / 2, its middle is
    c = (e0 + e1) / 2 - 0.1 y', its side s = max(4.0 |x'|, 3.6 |y'|), its axis x along x' - Rotate90(y').

    landmarks: [5, 2] as in `Face` (the nose is not used). Raises ValueError where eyes and mouth are one point."""
    e0, e1, _, m0, m1 = np.asarray(landmarks, np.float64)
    across, up = e1 - e0, (e0 + e1) / 2 - (m0 + m1) / 2
    middle = (e0 + e1) / 2 - 0.1 * up
    side = max(4.0 * np.hypot(*across), 3.6 * np.hypot(*up))
    x = across - np.array([up[1], -up[0]])  # `up` points up, y down: turned by a quarter it points to the left
    length = np.hypot(*x)
    if not np.isfinite(side) or side <= 0 or length < 1e-9:
        raise UserError("these landmarks span no face")
    x = x / length * side / 2
    y = np.array([-x[1], x[0]])
    return np.stack([middle - x - y, middle - x + y, middle + x + y, middle + x - y])


def box_quad(box: tuple[float, float, float, float]) -> np.ndarray:
    """The upright frame of an FFHQ photo about a box of the Haar cascade, as far as a box can tell: [4, 2]."""
    x0, y0, x1, y1 = box
    width = np.sqrt((x1 - x0) * (y1 - y0))
    x, y, half = (x0 + x1) / 2, (y0 + y1) / 2 - HAAR_UP * width, HAAR_FRAME * width / 2
    return np.array([[x - half, y - half], [x - half, y + half], [x + half, y + half], [x + half, y - half]])


def lean_of(face: Face) -> tuple[float, float]:
    """(degrees clockwise by which a face's frame is turned, -180 to 180; what of it is beside quarter turns, -45 to
    45). Raises ValueError where its landmarks span no face."""
    quad, _ = frame_of(face)
    across = quad[3] - quad[0]
    turned = float(np.degrees(np.arctan2(across[1], across[0])))
    return turned, (turned + 45) % 90 - 45


@functools.lru_cache(maxsize=64)  # a face is asked for its frame half a dozen times
def frame_of(face: Face) -> tuple[np.ndarray, str]:
    """(float64 [4, 2], read-only; how): the frame by the face's landmarks ("ffhq"), by its box where it has none
    ("box")."""
    quad, how = (box_quad(face.box), "box") if face.landmarks is None else (ffhq_quad(face.landmarks), "ffhq")
    quad.flags.writeable = False
    return quad, how


def around(shape: tuple[int, ...], quad: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]]:
    """(x0, y0), (x1, y1): as far about a face's frame as anything of a picture of `shape` [H, W, ...] is ever seen."""
    reach, size = REACH * float(np.hypot(*(quad[3] - quad[0]))), shape[1::-1]
    low = np.floor(quad.mean(0) - reach).clip(0, size).astype(int)
    high = np.ceil(quad.mean(0) + reach).clip(0, size).astype(int)
    return (int(low[0]), int(low[1])), (int(high[0]), int(high[1]))
