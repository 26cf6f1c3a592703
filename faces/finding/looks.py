"""At which sizes a photo is looked at for faces, and how what was found at each becomes one list.

YuNet knows faces of about 10 to 300 pixels, so a photo is looked at reduced to several sizes; each face is then found
at some of them, and what lies upon another is the same face once more (non-maximum suppression).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from faces.finding.face import Face, area, common_area

LOOKS = (320, 640, 1280, 2560)  # longer sides
GAIN = 1.25  # a look that shows so little more is left out
MORE = 3 * LOOKS[2]  # the longer side from which on the last look is worth its time: faces of 40 pixels need it
# Boxes that share so much of their union, or of the smaller one, are of one face.
SAME, WITHIN = 0.3, 0.6
# The size in a look, in pixels, at which boxes and landmarks are good: of 40 photos (native_train_real) reduced, the
# frame's side was off by 20 % (standard deviation) at 20 px, by 8 % at 30 to 40, by 4.5 to 7.5 % from 60 to 480, and
# scores fell from .94 to .89 at 480. Within this span the coarsest look is taken, as for photos with one face.
GOOD = (40.0, 330.0)
# A photo that the found frames cover to this share is one portrait: nothing more is looked for where nothing small
# made the detector wonder either.
COVERED = 0.75
PLACES = (np.arange(32) + 0.5) / 32  # of a side, at which frames are looked for
FINE = 2.0  # photo's pixels for one of a look's; in a portrait no closer look is taken after one as fine as this


def sides(longest: int) -> list[int]:
    """The longer sides, in pixels, at which a photo of `longest` is looked at, the smallest first."""
    out = [LOOKS[0]]
    for side in LOOKS[1:]:
        if min(side, longest) >= GAIN * out[-1] and (side < LOOKS[-1] or longest >= MORE):
            out.append(side)
    return out


def merged(looks: Sequence[tuple[float, Sequence[Face]]]) -> list[Face]:
    """The faces of several looks, each (photo's pixels for one of the look's, faces): every face once.

    Of one face's findings the coarsest in which it has a GOOD size is kept, else the one with the highest score."""
    order = []
    for number, (scale, faces) in enumerate(looks):
        for face in faces:
            good = GOOD[0] <= face.size / scale <= GOOD[1]
            order.append(((not good, number if good else 0, -face.score), face))
    order.sort(key=lambda entry: entry[0])
    kept: list[Face] = []
    for _, face in order:
        if all(overlap(face, other) < SAME for other in kept):
            kept.append(face)
    return without_parts(kept)


def without_parts(faces: Sequence[Face]) -> list[Face]:
    """Without what lies in, or around, another face of a higher score: a mouth, a crowd that looks like one face."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: -face.score):
        if all(common_area(face.box, o.box) <= WITHIN * min(area(face.box), area(o.box)) for o in kept):
            kept.append(face)
    return kept


def overlap(a: Face, b: Face) -> float:
    """Shared area over joint area of two faces' boxes."""
    both = common_area(a.box, b.box)
    return both / max(area(a.box) + area(b.box) - both, 1e-9)


def covered(quads: Sequence[np.ndarray], height: int, width: int) -> float:
    """The share of a photo that the frames [4, 2] cover, to about 3 %."""
    x, y = PLACES * width, PLACES[:, None] * height
    inside = np.zeros((len(y), len(x)), bool)
    for quad in quads:
        (ax, ay), (bx, by) = quad[3] - quad[0], quad[1] - quad[0]
        u = (x - quad[0, 0]) * ax + (y - quad[0, 1]) * ay
        v = (x - quad[0, 0]) * bx + (y - quad[0, 1]) * by
        inside |= (u >= 0) & (u <= ax**2 + ay**2) & (v >= 0) & (v <= bx**2 + by**2)
    return float(inside.mean())
