"""Where what a network saw lies in the photo that it came from."""

from __future__ import annotations

import numpy as np

from faces.finding.face import turned_points
from faces.finding.frame import box_quad, ffhq_quad


def region_of(face: dict | None, height: int, width: int, crop: str) -> np.ndarray:
    """float [4, 2]: the upper left, upper right, lower right and lower left corner of what the network saw, x and y in
    pixels of the upright photo.

    face: as in a result (`faces.finding.face_step.View.to_dict`), None where the photo was judged whole. crop: how the
    detector's preprocessing squares a picture."""
    face = face or {}
    if face.get("seen_as") == "ffhq":
        return ffhq_quad(np.array(face["landmarks"]))[[0, 3, 2, 1]]
    if face.get("seen_as") == "box":
        return box_quad(face["box"])[[0, 3, 2, 1]]
    if face.get("part"):  # a photo that lies in this one
        first, second, _, last = _part_corners(face["part"])
        across, down = (round(float(np.hypot(*(end - first)))) for end in (second, last))
        inside = region_of({**face, "part": None}, down, across, crop) / [across, down]
        return first + inside @ np.stack([second - first, last - first])
    turn = face.get("turned", 0) // 90  # the network saw the photo turned
    shape = (width, height) if turn % 2 else (height, width)
    (tall, wide), left, top = shape, 0.0, 0.0
    if crop != "none":
        wide = tall = (min if crop == "center" else max)(shape)
        left, top = (shape[1] - wide) / 2, (shape[0] - tall) / 2
    right, bottom = left + wide, top + tall
    return turned_points(np.array([[left, top], [right, top], [right, bottom], [left, bottom]]), shape, -turn)


def _part_corners(part: list) -> np.ndarray:
    """float [4, 2]: the corners of a face's `part`, which is x0, y0, x1, y1, or the four themselves of a turned one."""
    if len(np.shape(part)) == 2:
        return np.array(part, float)
    x0, y0, x1, y1 = part
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float)
