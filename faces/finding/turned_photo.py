"""A photo that lies turned in a plain picture: on a page, or turned in place, with plain corners.

Its edges are straight, but not along the picture's (`faces.finding.pasted` looks for those). What lies beyond them is
none of its pixels and misleads a detector, and landmarks of turned faces are poor (YuNet sees a turn of 25 degrees as
one of 10): so the face step turns such a photo upright, takes it for all there is, and finds its face anew.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from faces.finding.face import Face, taken, turned_points
from faces.finding.page import OTHER, Page, page_about

LONG = 0.1  # of the face's frame: the least of an edge that can be told
STRAIGHT = 1.5  # pixels of the look by which an edge may bend
LEVEL = 0.5  # degrees from which on a photo is turned
AGREE = 2.0  # degrees between a photo's edges, but for right angles
SEEN = 0.5  # of an edge's length where the photo differs from the page
BESIDE = 12  # pixels beyond the edges: the page, whatever else is on it
CLEAN = 0.97  # of these that have the page's colour
FEWEST = 3  # edges that must be seen: walls, roofs and hats have one or two
INTERPOLATION = cv2.INTER_CUBIC
INWARDS = 2.0  # pixels that an edge is moved into the photo: what is half page


@dataclass(frozen=True, slots=True, eq=False)
class TurnedPhoto:
    """A turned rectangle of a picture. axes: float64 [2, 2], unit vectors (x, y) along its sides. low, high: float64
    [2], between which its points lie along each, in pixels; on a side that is not seen, the picture's end."""

    axes: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def upright(self, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(the photo alone and upright, uint8 [h, w, 3]; float64 [2, 3], which takes the picture's points there).

        Corners that lie outside of the picture are filled with what they mirror at its edge."""
        size = tuple(max(1, int(length)) for length in self.high - self.low)
        there = np.column_stack([self.axes, -self.low])
        # OpenCV counts from the middle of the first pixel
        centred = np.column_stack([self.axes, there @ [0.5, 0.5, 1] - 0.5])
        return cv2.warpAffine(picture, centred, size, flags=INTERPOLATION, borderMode=cv2.BORDER_REFLECT), there

    def alone(self, picture: np.ndarray, face: Face) -> tuple[np.ndarray, Face]:
        """The photo that lies there, upright, and a face of the picture as a face of that photo."""
        photo, matrix = self.upright(picture)
        return photo, taken(face, matrix)

    @property
    def corners(self) -> np.ndarray:
        """float64 [4, 2]: where in the picture the upright photo's upper left, upper right, lower right and lower left
        corner lie, in pixels; outside of it where they were cut off."""
        (x0, y0), (x1, y1) = self.low, self.high
        return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]) @ self.axes

    def turned(self, shape: tuple[int, ...], turn: int) -> TurnedPhoto:
        """The same of `numpy.rot90(picture, turn)`, the picture of `shape` [H, W, ...]."""
        zero, *ends = turned_points(np.concatenate([np.zeros((1, 2)), self.axes]), shape, turn)
        axes = np.stack(ends) - zero
        return TurnedPhoto(axes, self.low + axes @ zero, self.high + axes @ zero)

    def moved(self, scale: float, shift: tuple[float, float], shape: tuple[int, ...]) -> TurnedPhoto:
        """The same of a picture that was cut by `shift` (x, y) at its upper left, then resized by `scale` to `shape`
        [H, W, ...], beyond which it may reach."""
        by = self.axes @ np.asarray(shift, np.float64)
        return replace(self, low=(self.low - by) * scale, high=(self.high - by) * scale)


def turned_photo_about(picture: np.ndarray, face: Face, page: Page | None = None) -> TurnedPhoto | None:
    """The turned photo about a face, where it lies in a plain picture, uint8 [H, W, 3]; None where none is seen,
    and for a face without landmarks.

    What has the colour of the picture's corners and reaches its sides is the page. All else has a convex hull, and of a
    turned photo that has straight edges at right angles, along which the photo differs from the page at once."""
    page = page or page_about(picture, face)
    if page is None or face.landmarks is None:
        return None
    (x0, y0), scale, side, rest = page.at, page.scale, page.side, page.rest
    found = _rectangle(rest, page, LONG * side)
    if found is None:
        own = page.around_face
        if own is None:
            return None
        found = _rectangle(own, page, LONG * side)
    if found is None:
        return None
    at = found.axes @ np.array([x0, y0], np.float64)
    height, width = picture.shape[:2]
    ends = found.axes @ np.array([[0, width, 0, width], [0, 0, height, height]], np.float64)
    low, high = found.low / scale + at + INWARDS, found.high / scale + at - INWARDS
    return replace(found, low=np.maximum(low, ends.min(1)), high=np.minimum(high, ends.max(1)))


def _rectangle(rest: np.ndarray, page: Page, long: float) -> TurnedPhoto | None:
    """The turned rectangle that `rest` (uint8 [h, w], not 0) fills out to its edges, in the look's pixels; None where
    it fills out none, or where beyond it there is no page."""
    edges = _straight(rest, long)
    if len(edges) < FEWEST:
        return None
    # the angle that most of their length has, of right angles all the same
    lengths = np.array([np.hypot(*(b - a)) for a, b in edges])
    angles = np.array([np.degrees(np.arctan2(*(b - a)[::-1])) % 90 for a, b in edges])
    apart = np.abs((angles[:, None] - angles + 45) % 90 - 45)
    chosen = apart[(lengths * (apart <= AGREE)).sum(1).argmax()] <= AGREE
    angle = np.angle((lengths[chosen] * np.exp(4j * np.radians(angles[chosen]))).sum()) / 4
    if abs(np.degrees(angle)) < LEVEL:
        return None
    axes = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    low, high = np.full(2, -np.inf), np.full(2, np.inf)
    middle = axes @ np.mean(edges, (0, 1))
    for start, end in (edge for edge, agrees in zip(edges, chosen, strict=True) if agrees):
        along = axes @ np.column_stack([start, end])  # [axis, end]
        axis = int(np.abs(along[:, 1] - along[:, 0]).argmin())
        at = float(along[axis].mean())
        if not _shows(page.away, start, end, axes[axis] * np.sign(at - middle[axis])):
            continue
        if at < middle[axis]:
            low[axis] = max(low[axis], at)
        else:
            high[axis] = min(high[axis], at)
    if np.isfinite([low, high]).sum() < FEWEST:
        return None
    y, x = np.indices(page.mask.shape) + 0.5
    along = np.stack([axes[0, 0] * x + axes[0, 1] * y, axes[1, 0] * x + axes[1, 1] * y])
    beyond = np.maximum(low[:, None, None] - along, along - high[:, None, None]).max(0)
    beside = (beyond > 1) & (beyond <= BESIDE)
    return TurnedPhoto(axes, low, high) if beside.any() and page.mask[beside].mean() >= CLEAN else None


def _straight(rest: np.ndarray, long: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """The straight edges (start, end) of what `rest` encloses, of at least `long` pixels, but for the picture's own."""
    rows = np.flatnonzero(rest.any(1))
    if not rows.size:
        return []
    first, last = rest[rows].argmax(1), rest.shape[1] - 1 - rest[rows, ::-1].argmax(1)
    ends = np.concatenate([np.column_stack([first, rows]), np.column_stack([last, rows])]).astype(np.int32)
    corners = cv2.approxPolyDP(cv2.convexHull(ends), STRAIGHT, True)[:, 0].astype(np.float64) + 0.5
    edges = zip(corners, np.roll(corners, -1, 0), strict=True)
    return [(a, b) for a, b in edges if np.hypot(*(b - a)) >= long and not _at_a_side(a, b, rest.shape)]


def _at_a_side(start: np.ndarray, end: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether an edge lies along the picture's own."""
    (ax, ay), (bx, by), (height, width) = start, end, shape[:2]
    return bool(max(ax, bx) < 3 or max(ay, by) < 3 or min(ax, bx) > width - 3 or min(ay, by) > height - 3)


def _shows(away: np.ndarray, start: np.ndarray, end: np.ndarray, outwards: np.ndarray) -> bool:
    """Whether along an edge what is within differs from the page: a silhouette touches its hull in places only."""
    places = start + np.linspace(0.05, 0.95, max(8, int(np.hypot(*(end - start)))))[:, None] * (end - start)
    within = np.stack([_levels(away, places - step * outwards) for step in (1, 2, 3)]).max(0)
    return bool((within > OTHER).mean() >= SEEN)


def _levels(away: np.ndarray, places: np.ndarray) -> np.ndarray:
    x, y = places.astype(int).T
    return away[y.clip(0, away.shape[0] - 1), x.clip(0, away.shape[1] - 1)]
