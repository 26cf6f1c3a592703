"""A photo between blurred copies of itself, as films and stories fill a screen of another shape.

The copy is the photo enlarged until it fills the screen, or stretched to it, then blurred and perhaps made darker. So
where two straight lines cross the whole picture, what is beyond them is smooth, and what is between them, enlarged so,
looks alike there, the photo is what is between.
"""

from __future__ import annotations

import cv2
import numpy as np

from faces.filters import copied
from faces.finding.face import Face
from faces.finding.pasted import Part

LINES, ALONG = 64, 512  # of a picture that are looked at, and the pixels that each is reduced to
MOST = 48  # levels that a step counts for
CLEAR, BOTH = 3, 9  # times the mean step beyond: of each edge, and of both together
STEP = 4  # levels of an edge in the mean, at least
NARROWEST = 0.03  # of a side, of the picture
ALIKE = 0.7  # correlation of the sides with the enlarged photo
COARSE = 32  # pixels of the picture's length at which they are compared


def photo_between(image: np.ndarray, face: Face) -> Part | None:
    """The photo about a face, where it lies between blurred copies of itself, uint8 [H, W, 3]; None where none is
    seen."""
    height, width = image.shape[:2]
    for axis in (0, 1):  # between what is left and right; above and below
        apart = -(-image.shape[axis] // LINES)
        lines = _grey(image[::apart]) if axis == 0 else np.ascontiguousarray(_grey(image[:, ::apart]).T)
        scale = min(1.0, ALONG / lines.shape[1])
        some = lines if scale == 1 else cv2.resize(lines, (ALONG, len(lines)), interpolation=cv2.INTER_AREA)
        ends = _ends(some, *(float(face.box[k + axis]) * scale for k in (0, 2)))
        if ends is None:
            continue
        begin, end = (_place(lines, one / scale, 1 / scale) for one in ends)
        if end - begin >= 16 and _alike(image if axis == 0 else image.transpose(1, 0, 2), begin, end):
            return Part(begin, 0, end, height) if axis == 0 else Part(0, begin, width, end)
    return None


def _grey(pixels: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(copied(pixels), cv2.COLOR_RGB2GRAY)


def _ends(grey: np.ndarray, low: float, high: float) -> tuple[int, int] | None:
    """The photo's first column and the one after its last, of uint8 [h, w]; the face is from `low` to `high`."""
    width = grey.shape[1]
    least, most = max(4, int(NARROWEST * width)), int(min(low, width - high))
    if most <= least:
        return None
    steps = cv2.reduce(np.minimum(cv2.absdiff(grey[:, 1:], grey[:, :-1]), MOST), 0, cv2.REDUCE_AVG, dtype=cv2.CV_32F)[0]
    left, right = steps[:most], steps[::-1][:most]  # k: to the photo's column k + 1
    about = np.r_[right[1:], 0], right, np.r_[0, right[:-1]]  # it is in the middle, to a column
    both = np.minimum(left, np.max(about, 0))
    both[: least - 1] = 0
    k = int(both.argmax())
    if both[k] < STEP:
        return None
    other = k + (1, 0, -1)[int(np.argmax([shares[k] for shares in about]))]
    edges = [(float(side[at]), float(side[: at - 1].mean())) for side, at in ((left, k), (right, other))]
    if any(edge < CLEAR * mean for edge, mean in edges):
        return None
    if sum(edge for edge, _ in edges) < BOTH * sum(mean for _, mean in edges):
        return None
    return k + 1, width - other - 1


def _alike(picture: np.ndarray, begin: int, end: int) -> bool:
    """Whether what is beside [h, w, 3] from `begin` to `end` looks like this enlarged."""
    height, width = picture.shape[:2]
    photo = np.ascontiguousarray(picture[:, begin:end])
    tall = round(height * width / (end - begin))
    copies = [cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA)]
    if tall < 16 * height:
        filled = cv2.resize(photo, (width, tall), interpolation=cv2.INTER_AREA)
        copies.append(filled[(tall - height) // 2 :][:height])
    coarse = [max(4, round(COARSE * n / max(width, height))) for n in (width, height)]
    beside = np.ones(coarse[0], bool)
    beside[int(begin / width * coarse[0]) : int(np.ceil(end / width * coarse[0]))] = False
    if not beside.any():
        return False

    def seen(image: np.ndarray) -> np.ndarray:
        some = cv2.resize(np.ascontiguousarray(image), coarse, interpolation=cv2.INTER_AREA)
        some = cv2.blur(some.astype(np.float32), (5, 5))[:, beside]
        return (some - some.mean((0, 1))).ravel()

    sides = seen(picture)
    others = [seen(one) for one in copies]
    most = max(float(sides @ one) / max(float(np.linalg.norm(sides) * np.linalg.norm(one)), 1e-6) for one in others)
    return most >= ALIKE


def _place(lines: np.ndarray, about: float, within: float) -> int:
    """The column of uint8 [h, w] at which most changes near a place."""
    first = max(1, int(about - within) - 1)
    near = lines[:, first - 1 : int(np.ceil(about + within)) + 2]
    return first + int(np.minimum(cv2.absdiff(near[:, 1:], near[:, :-1]), MOST).mean(0).argmax())
