"""A photo that lies in a plain picture: on a page, in a screenshot, between bars.

What lies about the photo is none of its pixels; left in, it takes up a part of the face's frame, and a detector that
knows photos alone is misled by it. So where a photo's straight edges to a plain surrounding are found, what is beyond
them is left out: the face step then takes the photo for all there is.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from faces.filters import copied, most_of_colours
from faces.finding.face import Face, moved, turned_points
from faces.finding.frame import around, frame_of

SAMPLES, COLUMNS = 48, 256  # pixels of a line that are looked at: at first, and where a photo may end
SAME = 14  # grey levels by which a page's pixels differ from their line's colour: of JPEG in a narrow gap, of a scanner
STRAY = 0.03  # of a page's line that may be something else
STEP = 8  # levels from line to line, as of a drop shadow
LEAST = 2  # plain lines, from which on they may be a page: a narrow gap between photos
OTHER, FAINT = 16, 10  # levels from which on a pixel is not of the page; where three other sides are known
SEEN, WEAK = 0.25, 0.1  # of an edge's length that must show within three lines; likewise
GAP = 3  # lines over which an edge is soft where the picture was enlarged
SOFT = 16  # … over which a codec's ringing and its colours (of blocks of 16) reach
ENDS = 0.125  # of a line at either end that is not looked at: rounded corners, the ends of a shadow
PASSES = 4  # at most: what is known of the other sides tells where to look
# What edges must be worth together (`_Edge.worth`), by their number: more than walls, doors and hats are in photos that
# lie on no page. One or two are bars: less will do, for they must be as even as only drawn ones are.
WORTH = {1: 0.7, 2: 0.8, 3: 1.2, 4: 1.2}
CLEAR, SURE = 0.2, 0.25  # of one edge: less alone proves nothing; from that on what lies further out is not looked at
EVEN, EVENER = 0.6, 0.8  # of a bar; of one that stands at one side of the face only, where walls and windows have edges
LEVELS = 2  # by which the pixels of a drawn bar differ
AGREE = 24  # levels between two bars, or between a faint edge's page and another's
INWARDS = 0.15  # of a face's box: a face that the photo's edge cuts has a box that reaches over it


class Part(NamedTuple):
    """Of a picture, in pixels: x0 and y0 are in it, x1 and y1 are not."""

    x0: int
    y0: int
    x1: int
    y1: int

    def of(self, image: np.ndarray) -> np.ndarray:
        """These pixels of [H, W, ...]."""
        return image[self.y0 : self.y1, self.x0 : self.x1]

    def alone(self, picture: np.ndarray, face: Face) -> tuple[np.ndarray, Face]:
        """The photo that lies there, and a face of the picture as a face of that photo."""
        return self.of(picture), moved(face, 1.0, self[:2])

    def turned(self, shape: tuple[int, ...], turn: int) -> Part:
        """The same of `numpy.rot90(image, turn)`, the image of `shape` [H, W, ...]."""
        corners = turned_points(np.reshape(self, (2, 2)), shape, turn)
        return Part(*(int(n) for n in (*corners.min(0), *corners.max(0))))

    def moved(self, scale: float, shift: tuple[float, float], shape: tuple[int, ...]) -> Part:
        """The same of a picture that was cut by `shift` (x, y) at its upper left, then resized by `scale` to `shape`
        [H, W, ...]; at least a pixel, whatever was cut."""
        x0, y0, x1, y1 = ((np.reshape(self, (2, 2)) - shift) * scale).round().astype(int).ravel().tolist()
        x0, y0 = min(max(x0, 0), shape[1] - 1), min(max(y0, 0), shape[0] - 1)
        return Part(x0, y0, min(max(x1, x0 + 1), shape[1]), min(max(y1, y0 + 1), shape[0]))


def photo_about(image: np.ndarray, face: Face) -> Part | None:
    """The photo about a face, where it lies in a plain picture, uint8 [H, W, 3]; None where no edge of one is seen.

    Straight edges along the picture's sides are looked for, outwards from the face: an edge is where, over much of the
    photo's width or height, pixels change at once to lines of one colour. Edges beyond what a detector sees of the face
    are not looked for."""
    try:
        quad, _ = frame_of(face)
    except ValueError:
        return None
    height, width = image.shape[:2]
    (x0, y0), (x1, y1) = around(image.shape, quad)
    box = np.reshape(face.box, (2, 2))
    box = box + INWARDS * (box[::-1] - box)
    inner = (box.clip((x0, y0), (x1, y1)) - [x0, y0]).round().astype(int).ravel()
    if inner[2] - inner[0] < 8 or inner[3] - inner[1] < 8 or x1 - x0 < 16 or y1 - y0 < 16:
        return None
    near = image[y0:y1, x0:x1]
    part = _edges(near, *(int(n) for n in inner), upright=face.turn % 2 == 0)
    if part is None:
        return None
    a, b, c, d = part
    # beyond the view nothing is known of the photo: it goes on to the picture's edge
    return Part(
        x0 + a if a else 0,
        y0 + b if b else 0,
        x0 + c if c < near.shape[1] else width,
        y0 + d if d < near.shape[0] else height,
    )


class _Edge(NamedTuple):
    """Of one side of a photo. at: how many of the lines, going outwards from the face, are the photo's. colour: of the
    page there. worth: the share of the edge's length that shows at once, times how many of the pixels that differ from
    the page near it do so just inside of it and nowhere beyond. beyond: some of the pixels that lie beyond,
    uint8 [n, m, 3]."""

    at: int
    colour: np.ndarray
    worth: float
    beyond: np.ndarray

    @property
    def even(self) -> float:
        """The share of all that lies beyond that has its median colour, as what is drawn has."""
        some = self.beyond[:, :: max(1, self.beyond.shape[1] // 16)]
        away = np.abs(self.beyond - np.median(some.reshape(-1, 3), 0))
        return float((most_of_colours(away) <= LEVELS).mean())


def _edges(near: np.ndarray, x0: int, y0: int, x1: int, y1: int, *, upright: bool) -> tuple[int, int, int, int] | None:
    """Where the photo about the box begins and ends in `near`; its sides where there is no edge; None without any.
    upright: whether the face stands along the picture's height."""
    height, width = near.shape[:2]
    # each side as the rows above the box, from the box outwards
    sides = {
        "top": near[: y0 + 1][::-1],
        "bottom": near[y1 - 1 :],
        "left": near[:, : x0 + 1].transpose(1, 0, 2)[::-1],
        "right": near[:, x1 - 1 :].transpose(1, 0, 2),
    }
    across, down = (x0, x1), (y0, y1)
    found: dict[str, _Edge] = {}
    known: dict[tuple[str, int, int], _Edge | None] = {}
    for _ in range(PASSES):  # with the box's width first, then with the photo's
        before = across, down
        for side, lines in sides.items():
            low, high = across if side in ("top", "bottom") else down
            found.pop(side, None)
            others = list(found.values()) if len(found) > 2 else []
            if others or (side, low, high) not in known:
                edge = _edge(lines[:, low:high], others)
                if not others:
                    known[side, low, high] = edge
            else:
                edge = known[side, low, high]
            if edge is not None:
                found[side] = edge
        if not found:
            return None
        across, down = _ends(found, near.shape, (x0, y0, x1, y1))
        if (across, down) == before:
            break
    across, down = _ends(_of_a_photo(found, upright), near.shape, (x0, y0, x1, y1))
    part = across[0], down[0], across[1], down[1]
    return None if part == (0, 0, width, height) else part


def _ends(
    found: dict[str, _Edge], shape: tuple[int, ...], box: tuple[int, int, int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """From where to where the photo goes, across and down, by its sides' edges; without one to the end of `shape`."""
    (height, width), (x0, y0, x1, y1) = shape[:2], box
    at = {side: edge.at for side, edge in found.items()}
    left, top = x0 + 1 - at.get("left", x0 + 1), y0 + 1 - at.get("top", y0 + 1)
    return (left, x1 - 1 + at.get("right", width - x1 + 1)), (top, y1 - 1 + at.get("bottom", height - y1 + 1))


def _of_a_photo(found: dict[str, _Edge], upright: bool) -> dict[str, _Edge]:
    """Those of one to four edges that are a photo's on a page, and not of things in a photo."""
    clear = {side: edge for side, edge in found.items() if edge.worth >= CLEAR}
    edges = list(clear.values())
    if not edges or sum(edge.worth for edge in edges) < WORTH[len(edges)]:
        return {}
    if len(edges) > 2:
        return found
    lone = len(edges) == 1 and ({"left", "right"} if upright else {"top", "bottom"}) & set(clear)
    even = min(edge.even for edge in edges) >= (EVENER if lone else EVEN)
    return clear if even and _unlike(edges[0], edges[-1]) <= AGREE else {}


def _unlike(one: _Edge, other: _Edge) -> int:
    return int(np.abs(one.colour - other.colour).max())


def _edge(lines: np.ndarray, others: list[_Edge]) -> _Edge | None:
    """Where the photo's lines [n, m, 3] end, going outwards; None where no edge is seen. others: of the other sides:
    where two are known, a fainter one to the same page will do."""
    n, m = lines.shape[:2]
    if n <= GAP or m < 8:
        return None
    lines = lines[:, int(ENDS * m) : m - int(ENDS * m)]
    few = lines[:, :: -(-lines.shape[1] // SAMPLES)]
    some = cv2.cvtColor(copied(few), cv2.COLOR_RGB2GRAY)
    plain = _may_be_plain(some)
    plain[:-1] &= plain[1:]
    plain[-1] = False
    if not plain.any():
        return None
    # where lines change within a few to what the next plain one is
    following = np.minimum.accumulate(np.where(plain, np.arange(n), n)[::-1])[::-1]
    places = np.flatnonzero(following[GAP:] - np.arange(n)[:-GAP] <= GAP + SOFT)
    places = places[following[places + GAP] < n]
    if not places.size:
        return None
    page = some[following[places + GAP]]
    inside, beyond = cv2.absdiff(some[places], page), cv2.absdiff(some[places + GAP], page)
    for other, seen in ((OTHER, SEEN), (FAINT, WEAK))[: 1 + (len(others) > 2)]:
        done, best = -1, None
        for k in places[((inside > other) & (beyond <= other)).mean(1) >= 0.8 * seen].tolist():
            if k <= done:
                continue
            done, start = k + SOFT // 2, max(k - SOFT // 2, 0)
            edge = _looked_at(lines[start : k + GAP + SOFT + 2 * LEAST], start, seen, other)
            if edge is None or (other == FAINT and min(_unlike(edge, one) for one in others) > AGREE):
                continue
            if best is None or edge.worth > best.worth:
                best = edge
            if edge.worth >= SURE:
                break
        if best is not None:
            return best._replace(beyond=few[best.at :])
    return None


def _may_be_plain(grey: np.ndarray) -> np.ndarray:
    """bool [n]: which lines uint8 [n, m] may be of one colour or of a gradient, by few of their pixels."""
    few = grey[:, :: max(1, grey.shape[1] // 16)].astype(np.float32)
    x = np.arange(few.shape[1], dtype=np.float32) - (few.shape[1] - 1) / 2
    even = few - (few @ x / max(x @ x, 1))[:, None] * x
    few.sort(1)
    even.sort(1)
    return (few[:, -2] - few[:, 1] <= SAME) | (even[:, -2] - even[:, 1] <= SAME)


def _trend(lines: np.ndarray) -> np.ndarray:
    """float32, of the lines' shape [..., m]: each line's level, which may change evenly along it."""
    m, halves = lines.shape[-1], []
    for half in (lines[..., : m // 2], lines[..., m // 2 :]):
        # by sorting: several times as quick as numpy.median on so few
        levels = np.sort(half[..., :: max(1, m // 32)].astype(np.float32), -1)
        middle = (levels.shape[-1] - 1) // 2, levels.shape[-1] // 2
        halves.append((levels[..., middle[0], None] + levels[..., middle[1], None]) / 2)
    share = np.arange(m, dtype=np.float32) / m * 2 - 0.5
    return halves[0] + share * (halves[1] - halves[0])


def _looked_at(window: np.ndarray, start: int, seen: float, other: int) -> _Edge | None:
    """The edge within a few lines, of which the first is number `start`; None where there is none."""
    window = copied(window[:, :: -(-window.shape[1] // COLUMNS)])
    planes = np.array(cv2.split(window))  # numpy is slow along so short an axis as a pixel's
    colours = _trend(planes)
    m = planes.shape[2]
    plain = np.count_nonzero(np.abs(planes - colours).max(0) > SAME, 1) / m <= STRAY
    ends = colours[..., :: m - 1]
    goes_on = (np.abs(ends[:, 1:] - ends[:, :-1]) <= STEP).all((0, 2)) & plain[1:]
    firsts = np.flatnonzero(plain[1:-1] & goes_on[1:]) + 1
    if not firsts.size:
        return None
    grey = cv2.cvtColor(window, cv2.COLOR_RGB2GRAY)
    pages = _trend(grey)
    for first in firsts.tolist():
        away = np.abs(grey[: first + 2] - pages[first])
        level = away[: first + 1].mean(1)
        drop = level[:-1] - level[1:]
        if (most := drop.max()) <= 0:
            continue
        at = int(np.flatnonzero(drop >= 0.6 * most)[-1]) + 1  # the page's first line
        differs = away > other
        beyond = differs[at + 1 : first + 2].any(0)
        edge = np.count_nonzero(differs[max(at - 2, 0) : at].any(0) & ~beyond)
        if edge / m < seen:
            continue
        all_there = np.count_nonzero(differs[max(at - 5, 0) : at].any(0) | beyond)
        worth = edge / m * edge / all_there
        return _Edge(start + at, colours[:, first].T.copy().mean(0), worth, window[:0])
    return None
