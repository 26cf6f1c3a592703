"""Would the verdict survive? A photo is judged again in the versions that the web makes of photos.

The face is found once; the photo is saved as JPEG, resized, cut off its grid, shown on a screen; and the same face is
prepared anew from each of these. The rule, by the answers at the threshold in force:

- *flips*: the photo itself is FAKE and a version of it REAL, or the other way round. The score has crossed the whole
  band of UNSURE, so the answer hangs on how the file was saved: UNSURE is said, with the reason.
- *weakens*: some versions are UNSURE, none is on the other side. The answer stays.
- *holds*: all versions have the photo's own answer, however far the score moved within it.
- *unsure*: the photo itself is UNSURE; nothing can flip.

A version that can't be judged (the face too small at half size, too blurred) counts as UNSURE.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from discriminator.verdict import Verdict
from discriminator.words import quoted
from faces.filters import jpeg, resize
from faces.finding.face_step import FaceStep, View, seen_again
from faces.finding.frame import frame_of

MOST_FACES = 8  # of a photo: the biggest
MOST_PIXELS = 50_000_000  # of a version: a larger one is left out
GRID = 16  # pixels: the block of a JPEG with halved colour; parts of photos are cut along it
SHIFT = (3, 5)  # rows and columns that are cut away: off the grid of 8
QUALITIES = (95, 90, 80, 70, 60, 50, 40)
SCREEN = 0.8  # of its size is a photo shown at
HOLDS, WEAKENS, FLIPS, OPEN, NOT_TRIED = "holds", "weakens", "flips", "unsure", "not tried"
TOO_MANY = {"outcome": NOT_TRIED, "reason": f"of a photo's faces the {MOST_FACES} biggest are tried", "points": []}
NO_VIDEOS = {"outcome": NOT_TRIED, "reason": "videos are not tried, only photos", "points": []}
OTHER = {"FAKE": "REAL", "REAL": "FAKE"}


@dataclass(frozen=True)
class Variant:
    """name: of the version. pixels: what the network is to see of it. doubt: why it can't be judged, or ""."""

    name: str
    pixels: np.ndarray
    doubt: str = ""


@dataclass(frozen=True)
class Version:
    """name: as it is told. make: uint8 RGB [H, W, 3] to the photo's other version, in which what was at (x, y) lies at
    ((x, y) - shift) * scale."""

    name: str
    make: Callable[[np.ndarray], np.ndarray]
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)


def _sized(photo: np.ndarray, factor: float, kernel: str) -> np.ndarray:
    height, width = photo.shape[:2]
    return resize(photo, max(1, round(height * factor)), max(1, round(width * factor)), kernel)


def _off_grid(photo: np.ndarray) -> np.ndarray:
    top, left = SHIFT
    return jpeg(np.ascontiguousarray(photo[top:, left:]), 90)


VERSIONS = (
    *(Version(f"JPEG {quality}", partial(jpeg, quality=quality)) for quality in QUALITIES),
    Version("half size", partial(_sized, factor=0.5, kernel="lanczos"), 0.5),
    Version("double size", partial(_sized, factor=2.0, kernel="bicubic"), 2.0),
    Version("cut off the grid, JPEG 90", _off_grid, 1.0, (SHIFT[1], SHIFT[0])),
    Version("screenshot", partial(_sized, factor=SCREEN, kernel="bilinear"), SCREEN),
)


def variants_of(
    views: Sequence[View], photo: np.ndarray, step: FaceStep, prepared: Callable[[str, View, np.ndarray], Variant]
) -> list[list[Variant]]:
    """The other versions of each of the biggest faces. views: of uint8 RGB [H, W, 3] by `step`, prepared: what makes
    a variant of its name, the face's view of a version, and this version of the photo."""
    out = []
    for view in views[:MOST_FACES]:
        part, corner = _part(view, photo)
        variants = []
        for version in VERSIONS:
            if part.shape[0] * part.shape[1] * version.scale**2 > MOST_PIXELS:
                continue
            changed = version.make(part)
            shift = corner[0] + version.shift[0], corner[1] + version.shift[1]
            seen = seen_again(view, changed, step, scale=version.scale, shift=shift)
            variants.append(prepared(version.name, seen, changed))
        out.append(variants)
    return out


def _part(view: View, photo: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """What of a photo the face's view depends on, cut along the grid, and (x, y) of its corner: JPEG's blocks know
    nothing of what lies further off, so a face of a large photo costs no more than a small photo."""
    if view.face is None or view.how in ("crop", "whole"):
        return photo, (0, 0)
    quad, _ = frame_of(view.face)
    reach = float(np.hypot(*(quad[3] - quad[0])))  # as far as what is mirrored in at the photo's edge may come from
    low = np.maximum((quad.min(0) - reach) // GRID, 0).astype(int) * GRID
    high = np.minimum(np.ceil((quad.max(0) + reach) / GRID) * GRID, photo.shape[1::-1]).astype(int)
    return np.ascontiguousarray(photo[low[1] : high[1], low[0] : high[0]]), (int(low[0]), int(low[1]))


@dataclass(frozen=True)
class Point:
    """One version's answer. label: FAKE, REAL or UNSURE."""

    name: str
    label: str
    probability: float
    logit: float
    doubt: str = ""


@dataclass(frozen=True)
class Stability:
    """What became of a verdict in other versions of its photo. label, probability: of the photo itself; threshold,
    unsure_low: in force."""

    label: str
    probability: float
    threshold: float
    unsure_low: float
    points: tuple[Point, ...]

    @classmethod
    def of(cls, verdict: Verdict, variants: Sequence[Variant], told: Sequence[Verdict]) -> Stability:
        """verdict: on the photo itself, told: on its variants."""
        points = (
            Point(variant.name, one.label, one.probability, one.logit, variant.doubt)
            for variant, one in zip(variants, told, strict=True)
        )
        return cls(verdict.label, verdict.probability, verdict.threshold, verdict.unsure_low, tuple(points))

    @property
    def outcome(self) -> str:
        """ "holds", "weakens", "flips" or "unsure" (see the module's docstring)."""
        labels = {point.label for point in self.points}
        if self.label not in OTHER:
            return OPEN
        if OTHER[self.label] in labels:
            return FLIPS
        return WEAKENS if "UNSURE" in labels else HOLDS

    @property
    def flips(self) -> str:
        """Why the answer is UNSURE for it, or ""."""
        if self.outcome != FLIPS:
            return ""
        other = OTHER[self.label]
        names = [point.name for point in self.points if point.label == other]
        return f"flips from {quoted(self.label)} to {quoted(other)} after {' and '.join(_short(names))}"

    @property
    def reason(self) -> str:
        """The outcome in the words of `discriminator.words`."""
        if self.outcome == FLIPS:
            return self.flips
        if self.outcome == WEAKENS:
            names = [point.name for point in self.points if point.label == "UNSURE"]
            return f"stays {quoted(self.label)}, but for {quoted('UNSURE')} after {' and '.join(_short(names))}"
        if self.outcome == OPEN:
            return f"{quoted('UNSURE')} as it is"
        return f"stays {quoted(self.label)} in all {len(self.points)} versions"

    def to_dict(self) -> dict:
        """Plain JSON types. before: the answer without a regard to flips."""
        return {
            "outcome": self.outcome,
            "reason": self.reason,
            "before": self.label,
            "probability": self.probability,
            "threshold": self.threshold,
            "unsure_low": self.unsure_low,
            "points": [
                {"version": p.name, "verdict": p.label, "probability": p.probability, "logit": p.logit}
                | ({"doubt": p.doubt} if p.doubt else {})
                for p in self.points
            ],
        }


def _short(names: Sequence[str]) -> list[str]:
    """Names of versions, of the JPEGs only the best quality."""
    jpegs = [name for name in names if name.startswith("JPEG")]
    return jpegs[:1] + [name for name in names if name not in jpegs]
