"""One face in a photo, and how its coordinates go along when the photo is turned by quarters.

Coordinates are pixels from the image's upper left corner; the middle of the first pixel is (0.5, 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One face in an image. box: x0, y0, x1, y1 in pixels, may reach over the image's edge. landmarks: float32 [5, 2]
    (x, y) of the eye on the left of the upright face, the one on its right, the tip of the nose, the left and the right
    corner of the mouth; None from a detector that has none. score: the detector's own, comparable only within one
    detector. turn: quarter turns, counter-clockwise as `numpy.rot90`'s, after which the face is upright.
    any_way_up: whether another turn fits as well."""

    box: tuple[float, float, float, float]
    landmarks: np.ndarray | None
    score: float
    turn: int = 0
    any_way_up: bool = False

    @property
    def size(self) -> float:
        """Geometric mean of the box's sides, in pixels."""
        return float(np.sqrt(area(self.box)))


def area(box: tuple[float, float, float, float]) -> float:
    """Of a box, in square pixels; 0 where it is inside out."""
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def common_area(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """What two boxes share, in square pixels."""
    return area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))


def same_face(a: Face, b: Face) -> bool:
    """Whether two findings, of an image as it is and turned, are of one face: their boxes share much of the smaller."""
    return common_area(a.box, b.box) > 0.4 * min(area(a.box), area(b.box))


def turned_points(points: np.ndarray, shape: tuple[int, ...], turn: int) -> np.ndarray:
    """Points [n, 2] of an image of `shape` [H, W, ...], where they are in `numpy.rot90(image, turn)`."""
    (height, width), (x, y) = shape[:2], np.asarray(points).T
    return np.stack([(x, y), (y, width - x), (width - x, height - y), (height - y, x)][turn % 4], -1)


def turned(face: Face, shape: tuple[int, ...], turn: int) -> Face:
    """A face of an image of `shape` [H, W, ...] as a face of `numpy.rot90(image, turn)`."""
    if not turn % 4:
        return face
    (ax, ay), (bx, by) = turned_points(np.reshape(face.box, (2, 2)), shape, turn).tolist()
    box = (min(ax, bx), min(ay, by), max(ax, bx), max(ay, by))
    landmarks = face.landmarks
    if landmarks is not None:
        landmarks = turned_points(landmarks, shape, turn)
    return replace(face, box=box, landmarks=landmarks, turn=(face.turn - turn) % 4)


def moved(face: Face, scale: float, shift: tuple[float, float]) -> Face:
    """A face of a photo, as a face of the photo that was cut by `shift` (x, y) at its upper left and then resized by
    `scale`."""
    box = (np.reshape(face.box, (2, 2)) - shift) * scale
    landmarks = None if face.landmarks is None else (face.landmarks - np.asarray(shift)) * scale
    (x0, y0), (x1, y1) = box.tolist()
    return replace(face, box=(x0, y0, x1, y1), landmarks=landmarks)


def found_in_turned(face: Face, shape: tuple[int, ...], turn: int) -> Face:
    """The inverse, of a face that is upright in `numpy.rot90(image, turn)`, as a face of the image of `shape`
    itself."""
    return turned(face, shape[1::-1] if turn % 2 else shape, -turn)


def taken(face: Face, matrix: np.ndarray) -> Face:
    """A face where `matrix`, float64 [2, 3], takes its points; its box is what encloses the box's corners there."""
    (x0, y0), (x1, y1) = np.reshape(face.box, (2, 2))
    corners = np.array([(x0, y0), (x1, y0), (x0, y1), (x1, y1)]) @ matrix[:, :2].T + matrix[:, 2]
    landmarks = None if face.landmarks is None else face.landmarks @ matrix[:, :2].T + matrix[:, 2]
    (x0, y0), (x1, y1) = corners.min(0).tolist(), corners.max(0).tolist()
    return replace(face, box=(x0, y0, x1, y1), landmarks=landmarks)
