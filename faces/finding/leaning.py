"""How far a face leans. YuNet's landmarks follow only a part of a turn: of 60 photos turned by 5, 10, 20 and 30 degrees
they lean by 2, 4, 7 and 10 more (medians). Its score knows better: it is the highest where the face is upright, and
falls alike to both sides. So a face that leans is looked at in several turns.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from faces.finding.face import Face, moved, taken
from faces.finding.frame import lean_of
from faces.finding.turns import MARGIN, Look, best_of_four

HARDLY = 3.5  # degrees of a doubtful face that are not looked into
LEANS = 5.0  # … of any face from which on it is worth it: 5 to 12 % of upright photos seem to lean so far
DOUBTFUL = 0.91  # YuNet's score under which a face is looked for all around: 1 % of upright photos have less
MORE = 1.7  # by which a lean is first thought to be larger than it seems
TURNS = (-40, -20, 0, 20, 40)  # degrees beside that
AROUND = 2.5  # the part of the photo about a face that is looked at, in box sides
VIEW = 192  # … and its side in pixels


def levelled(image: np.ndarray, face: Face, look: Look, least: float = LEANS) -> Face:
    """`face` of uint8 [H, W, 3] with landmarks that lean as far as it does; itself where they hardly lean.

    Its lean is the mean of the turns that it is looked at in, weighted by the square of what the score has there above
    the lowest. Of 50 photos in mirrored surroundings, turned by 12, 20 and 30 degrees, that was off by -1, 0 and 4
    degrees (standard deviation 4, 4 and 8); as their landmarks had it, by 8, 13 and 21.
    look(image, side): the upright faces in an image of `side` pixels. least: degrees from which on it is looked at."""
    if face.landmarks is None or face.any_way_up:
        return face
    try:
        turned, lean = lean_of(face)
        if abs(lean) < least:
            return face
        part, scale, shift = _about(image, face)
        there = moved(face, scale, shift)
        start = turned - lean + MORE * lean
        seen = {angle: one for turn in TURNS if (one := _seen(part, there, angle := start + turn, look)) is not None}
        worth = np.array([one.score for one in seen.values()])
        worth = (worth - worth.min(initial=1)) ** 2
        if not worth.any():
            return face
        angle = float((worth * list(seen)).sum() / worth.sum())
        best = _seen(part, there, angle, look)
        if best is None or best.landmarks is None:
            return face
        middle = best.landmarks.mean(0)
        level = cv2.getRotationMatrix2D(middle.tolist(), lean_of(best)[0] - angle, 1)
    except ValueError:  # landmarks that span no face
        return face
    landmarks = (np.asarray(taken(best, level).landmarks) / scale + shift).astype(np.float32)
    return replace(face, landmarks=landmarks, turn=round(angle / 90) % 4, score=max(face.score, best.score))


def best_way_up(image: np.ndarray, face: Face, look: Look) -> Face:
    """`face` of uint8 [H, W, 3] that was found upright, as it is found best whichever way up it is; itself, where no
    other way is better.

    It is looked at in four ways (`faces.finding.turns`), from where it is level if it leans; and where it is still
    doubtful then, all around."""
    if face.landmarks is None:
        return best_of_four(image, face, look)
    try:
        level = levelled(image, face, look, HARDLY)
        turned, lean = lean_of(level)
        if abs(lean) < LEANS:
            best = best_of_four(image, face, look)
        else:
            part, scale, shift = _about(image, level)
            view, matrix = _turned(part, moved(level, scale, shift), turned)
            whole = matrix @ np.array([[scale, 0, -scale * shift[0]], [0, scale, -scale * shift[1]], [0, 0, 1]])
            found = best_of_four(view, replace(taken(level, whole), turn=0), look)
            best = _as_it_lies(taken(found, cv2.invertAffineTransform(whole)), face)
        return best if best.score >= DOUBTFUL else _best_around(image, best, look)
    except ValueError:  # landmarks that span no face
        return best_of_four(image, face, look)


def _best_around(image: np.ndarray, face: Face, look: Look) -> Face:
    """The same, where a way is better that lies between those that were tried."""
    part, scale, shift = _about(image, face)
    there = moved(face, scale, shift)
    seen = [one for angle in range(0, 360, 30) if (one := _seen(part, there, angle, look)) is not None]
    best = max(seen, key=lambda one: one.score, default=None)
    if best is None or best.score < face.score + MARGIN:
        return face
    best = moved(best, 1 / scale, (-shift[0] * scale, -shift[1] * scale))
    return levelled(image, _as_it_lies(best, face), look, 0.0)


def _as_it_lies(found: Face, face: Face) -> Face:
    """What was found of a face in a turned view, with the face's own box, as a turned one's would be too large."""
    return replace(found, box=face.box, turn=round(lean_of(found)[0] / 90) % 4)


def _about(image: np.ndarray, face: Face) -> tuple[np.ndarray, float, tuple[float, float]]:
    """(what lies about a face, at most as large as it is looked at; its scale; x and y where it begins)."""
    reach = 0.75 * AROUND * face.size  # a turned square's corners are within
    middle = np.reshape(face.box, (2, 2)).mean(0)
    low = np.floor(middle - reach).clip(0, None).astype(int)
    high = np.ceil(middle + reach).clip(None, image.shape[1::-1]).astype(int)
    part, scale = image[low[1] : high[1], low[0] : high[0]], VIEW / (AROUND * face.size)
    if not part.size:
        raise ValueError("the face lies outside")
    if scale < 1:
        width, height = (max(1, round(length * scale)) for length in part.shape[1::-1])
        part = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
    return part, min(scale, 1.0), (float(low[0]), float(low[1]))


def _turned(part: np.ndarray, face: Face, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """(the part about a face, turned counter-clockwise by `angle` degrees, uint8 [VIEW, VIEW, 3]; float64 [2, 3], which
    takes the part's points there)."""
    x, y = np.reshape(face.box, (2, 2)).mean(0).tolist()
    matrix = cv2.getRotationMatrix2D((x, y), angle, VIEW / (AROUND * face.size))
    matrix = matrix + np.array([[0, 0, VIEW / 2 - x], [0, 0, VIEW / 2 - y]])
    centred = matrix.copy()
    centred[:, 2] = matrix @ [0.5, 0.5, 1] - 0.5  # OpenCV counts from the middle of the first pixel
    view = cv2.warpAffine(part, centred, (VIEW, VIEW), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return view, matrix


def _seen(part: np.ndarray, face: Face, angle: float, look: Look) -> Face | None:
    """What is found of a face where the part is turned counter-clockwise by `angle` degrees, in the part's pixels."""
    view, matrix = _turned(part, face, angle)
    near = [one for one in look(view, VIEW) if np.abs(np.reshape(one.box, (2, 2)).mean(0) - VIEW / 2).max() < VIEW / 4]
    best = max(near, key=lambda one: one.score, default=None)
    return None if best is None else taken(best, cv2.invertAffineTransform(matrix))
