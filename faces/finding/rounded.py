"""A photo with rounded corners on a plain page, or cut out as a circle, as profile pages show faces.

What lies in its corners is none of its pixels, and misleads a detector that knows whole photos: so it is filled with
what the photo mirrors there, and the photo taken for all there is. Of 60 fakes (flickr140k, test split) cut out as
circles 39 were called FAKE as they were, and 58 filled so; filled softly, as `align_face` fills what lies outside of a
photo, 51; of 60 photos none, one, none, and one of the whole ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from faces.finding.face import Face, turned_points
from faces.finding.page import SAME, Page, away_from, plain_colour
from faces.finding.pasted import Part

LEAST = 0.04  # of the photo's shorter side: smaller radii change no answer
INWARDS = 1.5  # pixels of the photo along the arc that are left out: half page
BESIDE = 1.25  # pixels from the arc at which it must be page outside, and photo inside
CLEAN = 0.97  # of what lies outside of the arcs that has the page's colour
SEEN = 0.6  # … of what lies inside that has another
SLACK = 0.03  # of that, within which radii are as good
POINTS = 24  # of a quarter circle that are looked at
BEND = 1.2  # pixels of the look by which a circle's outline may be off
ROUND = 0.85  # of it that is not
EDGE = 32  # levels from the page at which an edge is, within which JPEG's ringing stays
BESIDES = 0.05  # of a circle's outline that may lie further out: shoulders below a head do
SHOWS = 0.5  # … that must be seen: the rest may be as dark as the page
SOFT = 0.03  # of the radius by which a soft outline may be off
LOOSE = 2.0  # pixels by which a circle may reach over the picture
REACH = 0.3, 2.0  # of the face's frame: how large its circle may be
RING = 0.2  # of the radius: how far in a drawn ring may reach
EVEN = 0.95  # of a ring's line that has one colour
SHARP, FADED = 0.6, 0.9  # of the usual distance from the page's colour, that of a sharp outline; the rest fades into it


@dataclass(frozen=True, slots=True)
class RoundedPhoto:
    """Of a picture, in pixels. low, high: (x, y) of the upper left and the lower right corner that the photo would
    have; radius: of its corners, for a circle half of its side."""

    low: tuple[float, float]
    high: tuple[float, float]
    radius: float

    @property
    def is_circle(self) -> bool:
        return 2 * self.radius >= 0.97 * min(self.high[0] - self.low[0], self.high[1] - self.low[1])

    def box(self, shape: tuple[int, ...]) -> Part:
        """The whole pixels of a picture of `shape` [H, W, ...] that the photo has, corners included."""
        (x0, y0), (x1, y1), (height, width) = np.rint(self.low).astype(int), np.rint(self.high).astype(int), shape[:2]
        x0, y0 = min(max(int(x0), 0), width - 1), min(max(int(y0), 0), height - 1)
        return Part(x0, y0, min(max(int(x1), x0 + 1), width), min(max(int(y1), y0 + 1), height))

    def alone(self, picture: np.ndarray, face: Face) -> tuple[np.ndarray, Face]:
        """The photo with its corners filled, and a face of the picture as a face of that photo."""
        box = self.box(picture.shape)
        photo, there = box.alone(picture, face)
        return self._filled(photo, box), there

    def _filled(self, photo: np.ndarray, box: Part) -> np.ndarray:
        """What lies beyond the arcs is as far within that it mirrors."""
        out, radius = photo.copy(), self.radius - INWARDS
        middle = [np.array([self.low[k] + self.radius, self.high[k] - self.radius]) - box[k] for k in (0, 1)]
        height, width = photo.shape[:2]
        for down in (0, 1):
            for right in (0, 1):
                cx, cy = middle[0][right], middle[1][down]
                rows = slice(max(int(np.ceil(cy)), 0), height) if down else slice(0, max(int(cy), 0))
                columns = slice(max(int(np.ceil(cx)), 0), width) if right else slice(0, max(int(cx), 0))
                dx = np.arange(columns.start, columns.stop, dtype=np.float32) + np.float32(0.5 - cx)
                dy = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + np.float32(0.5 - cy)
                away = np.hypot(dx, dy)
                if not away.size or away.max() <= radius:
                    continue
                share = np.where(away > radius, np.maximum(2 * radius - away, 0) / np.maximum(away, 1), 1)
                x, y = cx - 0.5 + dx * share, cy - 0.5 + dy * share
                drawn = cv2.remap(
                    photo, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
                )
                out[rows, columns] = np.where((away > radius)[..., None], drawn, out[rows, columns])
        return out

    def turned(self, shape: tuple[int, ...], turn: int) -> RoundedPhoto:
        """The same of `numpy.rot90(picture, turn)`, the picture of `shape` [H, W, ...]."""
        corners = turned_points(np.array([self.low, self.high]), shape, turn)
        return replace(self, low=tuple(corners.min(0).tolist()), high=tuple(corners.max(0).tolist()))

    def moved(self, scale: float, shift: tuple[float, float], shape: tuple[int, ...]) -> RoundedPhoto:
        """The same of a picture that was cut by `shift` (x, y) at its upper left, then resized by `scale`."""
        low, high = ((np.array([self.low, self.high]) - shift) * scale).tolist()
        return RoundedPhoto(tuple(low), tuple(high), self.radius * scale)


def circle_about(picture: np.ndarray, page: Page | None) -> RoundedPhoto | None:
    """The photo cut out as a circle that a face's page lies about; None where none is seen.

    What hangs together with the face has a hull, which of a circle is one; at the picture's own pixels its outline is
    looked at along rays."""
    if page is None:
        return None
    own = page.around_face
    found = _circle(page.rest if own is None else own)
    if found is None or not REACH[0] * page.side <= found[2] <= REACH[1] * page.side:
        return None
    cx, cy, radius = found
    cx, cy, radius = cx / page.scale + page.at[0], cy / page.scale + page.at[1], radius / page.scale
    found = _refined(picture, page.colour, cx, cy, radius, 3 + 1.2 / page.scale)
    if found is None:
        return None
    cx, cy, radius = found
    radius = _photos_own(picture, page.colour, cx, cy, radius)
    return RoundedPhoto((cx - radius, cy - radius), (cx + radius, cy + radius), radius)


def rounded_about(picture: np.ndarray, box: Part) -> RoundedPhoto | None:
    """The photo with rounded corners that fills a box of a picture, where its four corners have one colour; None where
    they are its own."""
    photo = box.of(picture)
    height, width = photo.shape[:2]
    if min(height, width) < 16 or (colour := plain_colour(photo, 4)) is None:
        return None
    most = min(height, width) / 2
    # along the diagonal a corner reaches in by 1 - 1 / sqrt(2) of the radius
    steps = np.arange(int(most / 2))
    depths = [(photo[::down, ::right][steps, steps]) for down in (1, -1) for right in (1, -1)]
    other = away_from(np.stack(depths), colour) > EDGE
    depth = float(np.median(np.where(other.any(1), other.argmax(1), 0)))
    about = depth / (1 - 0.5**0.5)
    if about < LEAST * 2 * most:
        return None
    radii = np.arange(max(3.0, 0.85 * about - 2), min(1.15 * about + 3, most + 0.25), 0.5)
    worth = np.array([_worth(photo, colour, radius) for radius in radii])
    if worth.max(initial=0) < SEEN:
        return None
    radius = float(radii[worth >= worth.max() - SLACK].mean())
    return RoundedPhoto((float(box.x0), float(box.y0)), (float(box.x1), float(box.y1)), radius)


def _worth(photo: np.ndarray, colour: np.ndarray, radius: float) -> float:
    """The share of what lies just inside of the corners' arcs that is not of the page; 0 where what lies outside isn't
    page, or where at an arc nothing shows."""
    height, width = photo.shape[:2]
    angles = (np.arange(POINTS) + 0.5) * np.pi / 2 / POINTS
    shares: list[float] = []
    clean: list[float] = []
    for reach, out in ((radius + BESIDE, clean), (radius - BESIDE, shares)):
        x, y = radius - reach * np.cos(angles), radius - reach * np.sin(angles)
        inside = (x >= 0) & (y >= 0)
        x, y = x[inside].astype(int), y[inside].astype(int)
        if not x.size:
            return 0.0
        for across in (x, width - 1 - x):
            for down in (y, height - 1 - y):
                out.append(float((away_from(photo[down, across][None], colour) > EDGE).mean()))
    return float(np.mean(shares)) if np.mean(clean) <= 1 - CLEAN and min(shares) >= SEEN / 2 else 0.0


def _circle(rest: np.ndarray) -> tuple[float, float, float] | None:
    """(x, y, radius) of the circle that the hull of `rest`, uint8 [h, w], is; None where it is none."""
    outlines, _ = cv2.findContours(rest, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not outlines:
        return None
    hull = cv2.convexHull(np.concatenate(outlines))
    points = hull[:, 0].astype(np.float64) + 0.5
    if len(points) < 12:
        return None
    found = _fitted(points, BEND)
    if found is None:
        return None
    return found if cv2.contourArea(hull) >= ROUND * np.pi * found[2] ** 2 else None


def _fitted(points: np.ndarray, bend: float) -> tuple[float, float, float] | None:
    """The circle (x, y, radius) of least squares through points [n, 2] (Kåsa 1976), then through those near it; None
    where these are too few."""
    near = np.ones(len(points), bool)
    for _ in range(4):
        some = points[near]
        system = np.column_stack([2 * some, np.ones(len(some))])
        (x, y, rest), *_ = np.linalg.lstsq(system, (some**2).sum(1), rcond=None)
        radius = float(np.sqrt(max(rest + x * x + y * y, 0)))
        off = np.abs(np.hypot(*(points - [x, y]).T) - radius)
        now = off <= max(bend, float(np.median(off)))
        if (now == near).all():
            break
        near = now
    good = off <= bend
    return (float(x), float(y), radius) if good.mean() >= SEEN else None


def _refined(
    picture: np.ndarray, colour: np.ndarray, cx: float, cy: float, radius: float, within: float
) -> tuple[float, float, float] | None:
    """The circle near to one, by where along rays through the picture's own pixels its page begins; None where it does
    not so at one circle all around."""
    angles = (np.arange(4 * POINTS) + 0.5) * np.pi / 2 / POINTS
    steps = np.arange(-within, within + 0.5, 0.5)
    x = cx + np.cos(angles)[:, None] * (radius + steps)
    y = cy + np.sin(angles)[:, None] * (radius + steps)
    height, width = picture.shape[:2]
    there = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    away = away_from(picture[y.clip(0, height - 1).astype(int), x.clip(0, width - 1).astype(int)], colour)
    for edge in (EDGE, SAME):  # JPEG's ringing stays below the first; a dark photo's edge on a dark page, too
        other = (away > edge) & there
        last = len(steps) - 1 - other[:, ::-1].argmax(1)
        beyond = there[np.arange(len(angles)), np.minimum(last + 4, len(steps) - 1)]
        usable = other.any(1) & beyond & (last < len(steps) - 1)
        if usable.sum() < POINTS:
            continue
        at = radius + steps[last[usable]]
        points = np.column_stack([cx + np.cos(angles[usable]) * at, cy + np.sin(angles[usable]) * at])
        shown = int((there[:, -1] | usable).sum())  # elsewhere the picture itself ends there
        outside = int(other[:, -1].sum())
        for bend in (1.0, SOFT * radius):  # a soft outline is seen further in where the photo is like the page
            found = _fitted(points, bend)
            if found is None:
                continue
            mx, my, reach = found
            if min(mx - reach, my - reach) < -LOOSE or mx + reach > width + LOOSE or my + reach > height + LOOSE:
                continue
            off = np.hypot(*(points - [mx, my]).T) - reach
            if (off > bend).sum() + outside <= BESIDES * shown and (np.abs(off) <= bend).sum() >= SHOWS * shown:
                return found
    return None


def _photos_own(picture: np.ndarray, colour: np.ndarray, cx: float, cy: float, radius: float) -> float:
    """The radius of what is the photo's alone: inside of a ring that is drawn about it, or of where it fades into the
    page."""
    height, width = picture.shape[:2]
    angles = np.arange(4 * POINTS) * np.pi / 2 / POINTS
    soft = max(2.0, 0.015 * radius)
    reach = np.arange(radius - INWARDS, (1 - RING) * radius, -max(0.5, radius / 200))
    x = (cx + np.cos(angles) * reach[:, None]).clip(0, width - 1).astype(int)
    y = (cy + np.sin(angles) * reach[:, None]).clip(0, height - 1).astype(int)
    lines = picture[y, x]
    even = (np.abs(lines - np.median(lines, 1, keepdims=True)).max(-1) <= SAME).mean(1) >= EVEN
    level = away_from(lines, colour).mean(1)
    even &= np.logical_or.accumulate(level > 2 * EDGE)  # a soft outline begins as the page
    if even.any():
        return float(reach[even][-1]) - soft
    usual = float(level[len(level) // 2 :].mean())
    if level[reach < radius - soft][0] < SHARP * usual:
        return float(reach[level >= FADED * usual][0])
    return radius
