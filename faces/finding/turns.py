"""Faces that lie on their side or upside down: which way up a face is.

A face detector takes an upside-down face for an upright one, with eyes where its mouth is. But not as gladly: of 450
photos (flickr140k valid, choose_*) upright scores were .905 to .95, those of the same photos upside down at most .918,
lying at most .911, and of the four ways the upright one had the highest score in all 450, by .016 at least (from views
of 128 px: by .018). So a face that has less than SURE is looked at in all four ways, and the best is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from faces.filters import quarter_turned
from faces.finding.face import Face, found_in_turned, same_face

SURE = 0.925  # 95 % of upright photos have more
MARGIN = 0.01  # by which a turn must be better than the next; with less the face may be either way up
AROUND = 2.5  # the part of the photo about a face that is looked at, in box sides
VIEW = 192  # … and its longer side
MOST = 16  # faces of a photo that are looked at anew, the biggest

Look = Callable[[np.ndarray, int], list[Face]]


def best_of_four(image: np.ndarray, face: Face, look: Look) -> Face:
    """`face` of uint8 [H, W, 3], as it is found best in one of the four ways; itself, where no other way is better.

    look(image, side): the upright faces in an image that is reduced to `side`."""
    reach, (x, y) = face.size * AROUND / 2, ((face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2)
    height, width = image.shape[:2]
    x0, y0 = max(int(x - reach), 0), max(int(y - reach), 0)
    x1, y1 = min(int(x + reach) + 1, width), min(int(y + reach) + 1, height)
    part = image[y0:y1, x0:x1]
    ways: list[tuple[float, Face]] = []
    for turn in range(4):
        there = look(quarter_turned(part, turn), VIEW)
        moved = [_shifted(found_in_turned(f, part.shape, turn), x0, y0) for f in there]
        same = [f for f in moved if same_face(f, face)]
        best = max(same, key=lambda f: f.score, default=None)
        if turn == 0:  # as it was found at first, with the better landmarks
            ways.append((face.score if best is None else best.score, face))
        elif best is not None:
            ways.append((best.score, best))
    ways.sort(key=lambda way: -way[0])
    doubtful = len(ways) > 1 and ways[0][0] - ways[1][0] < MARGIN
    return replace(ways[0][1], any_way_up=doubtful)


def _shifted(face: Face, x: float, y: float) -> Face:
    x0, y0, x1, y1 = face.box
    landmarks = None if face.landmarks is None else face.landmarks + np.array([x, y], np.float32)
    return replace(face, box=(x0 + x, y0 + y, x1 + x, y1 + y), landmarks=landmarks)


def in_words(turn: int) -> str:
    """How a face lies in its photo that is upright after so many quarter turns, or ""."""
    return ("", "turned by 90 degrees to the right", "upside down", "turned by 90 degrees to the left")[turn % 4]
