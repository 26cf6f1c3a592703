"""From a photo to the faces in it, each cut out the way a detector knows them; or the photo whole.

A detector that was trained on aligned crops must be shown aligned crops: of a holiday photo its verdict means nothing.
So faces are found (`faces.finding.align`) and each is cut out upright as FFHQ's photos are. A photo that is such a crop
already is judged whole: to cut it out once more would resample it and blur away what the detector looks for. Other
faces in it are judged besides. Of a photo that lies in a plain picture (`faces.finding.pasted`), or between blurred
copies of itself (`faces.finding.blurred_sides`), the same is true, and what is around it is left out; one that lies
there turned (`faces.finding.turned_photo`) is turned upright.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from faces.filters import quarter_turned
from faces.finding.align import FaceFinder, align_face
from faces.finding.bars import without_bars
from faces.finding.blurred_sides import photo_between
from faces.finding.face import Face, common_area, moved, same_face, taken, turned
from faces.finding.frame import frame_of, lean_of
from faces.finding.page import Page, page_about
from faces.finding.pasted import Part, photo_about
from faces.finding.rounded import RoundedPhoto, circle_about, rounded_about
from faces.finding.turned_photo import TurnedPhoto, turned_photo_about
from faces.finding.turns import in_words

ALIGNED_SIDE = 256  # at least; the crops of the sets that detectors are trained on
MOST_FACES = 64  # of a picture: the biggest
# When the frame of the biggest face is the photo itself. 480 photos of flickr140k, StyleGAN2 and SFHQ had frames of
# 0.81 to 1.22 sides, their middles up to 0.050 of the side off, turned by up to 13.4 degrees (by the cascade: 0.70 to
# 1.22, 0.061). Within these bounds are 1998 of 2000 such photos, 9 of 500 Unsplash portraits and none of 500 tight
# crops of UTKFace (by the cascade 1977, 153 and 2; it finds no face in 19, 93 and 198).
SIDES = (0.78, 1.28)
SIDES_BY_BOX = (0.68, 1.28)
OFF_MIDDLE = 0.08
TURNED = 16.0  # degrees
SQUARE = 0.02  # by how much the sides of a square photo may differ


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What a detector is shown of a photo: pixels uint8 [H, W, 3].

    how: "ffhq" (aligned by landmarks), "box" (a square about the box, where there are no landmarks), "crop" (the whole
    photo, which is an aligned crop already, turned by quarters where it lay on its side), "part" (the same, of a photo
    that lies in a larger picture) or "whole" (nobody looked for faces; `face` is None). part: where in the picture the
    photo lies whose face this is, level or turned; None where it is all of it.
    bars: how many were drawn across the face, and filled."""

    pixels: np.ndarray
    how: str
    face: Face | None = None
    part: Part | RoundedPhoto | TurnedPhoto | None = None
    bars: int = 0

    @property
    def turn(self) -> int:
        """Quarter turns, counter-clockwise, of the photo after which the face is upright."""
        return 0 if self.face is None else self.face.turn

    @property
    def whole(self) -> bool:
        """Whether all of a photo is shown, as it is; else a face that was cut out of it."""
        return self.how in ("crop", "part", "whole")

    @property
    def side(self) -> float:
        """Of what is shown, in the photo's pixels."""
        if self.face is None or self.whole:
            return float(min(self.pixels.shape[:2]))
        quad, _ = frame_of(self.face)
        return float(np.hypot(*(quad[3] - quad[0])))

    def upright(self, photo: np.ndarray) -> tuple[np.ndarray, tuple[float, float, float, float] | None]:
        """The photo turned so that the face is upright, and the face's `region` in it."""
        if not self.turn or self.face is None:
            return photo, self.region
        part = self.part and self.part.turned(photo.shape, self.turn)
        there = replace(self, face=turned(self.face, photo.shape, self.turn), part=part)
        return quarter_turned(photo, self.turn), there.region

    def notes(self) -> list[str]:
        """What is to be said of how the face was found."""
        told = [f"the face is {in_words(self.turn)} in the photo"] if self.turn else []
        if self.part is not None:
            told.append(_in_words(self.part))
        if self.bars:
            what = "a bar across it was" if self.bars == 1 else f"{self.bars} bars across it were"
            told.append(f"{what} filled with what lies above and below")
        return told + ["cut out by its box only, not turned upright"] * (self.how == "box")

    @property
    def doubt(self) -> str:
        """Why what is shown may not be the face as it should be, or ""."""
        unsure = self.face is not None and self.face.any_way_up
        return "which way up the face is can't be told" if unsure else ""

    @property
    def region(self) -> tuple[float, float, float, float] | None:
        """x0, y0, x1, y1: the upright square of the face's frame in the photo's pixels, as large and about the same
        middle; may reach over the photo's edge. None where the photo itself is what is shown."""
        if self.face is None or self.how == "crop":
            return None
        if self.how == "part" and not isinstance(self.part, TurnedPhoto | None):
            x0, y0, x1, y1 = (*self.part.low, *self.part.high) if isinstance(self.part, RoundedPhoto) else self.part
            return float(x0), float(y0), float(x1), float(y1)
        quad, _ = frame_of(self.face)
        (x, y), half = quad.mean(0), float(np.hypot(*(quad[3] - quad[0]))) / 2
        return float(x - half), float(y - half), float(x + half), float(y + half)

    def to_dict(self, index: int, count: int, finder: str) -> dict:
        """Plain JSON types: which of the photo's faces it is (from 1), its box and landmarks in the photo's pixels.
        part: None, x0, y0, x1, y1, or of a turned photo its four corners, from its upper left one clockwise.
        turned: degrees counter-clockwise by which the photo was turned to see the face upright."""
        face = self.face
        return {
            "index": index,
            "of": count,
            "box": None if face is None else [round(float(x), 2) for x in face.box],
            "landmarks": None
            if face is None or face.landmarks is None
            else [[round(float(x), 2) for x in point] for point in face.landmarks],
            "score": None if face is None else round(float(face.score), 4),
            "seen_as": self.how,
            "part": self._part(),
            "turned": 90 * self.turn,
            "finder": finder,
        }

    def _part(self) -> list | None:
        if isinstance(self.part, TurnedPhoto):
            return [[round(float(x), 2) for x in corner] for corner in self.part.corners]
        if isinstance(self.part, RoundedPhoto):
            return [round(x) for x in (*self.part.low, *self.part.high)]
        return None if self.part is None else list(self.part)


def _in_words(part: Part | RoundedPhoto | TurnedPhoto) -> str:
    if isinstance(part, RoundedPhoto):
        shape = "cut out as a circle" if part.is_circle else "cut out with rounded corners"
        return f"it is {shape}; what lies beyond was filled with what it mirrors"
    lies = "lies turned" if isinstance(part, TurnedPhoto) else "lies"
    return f"it {lies} in a larger picture, the rest of which was left out"


class FaceStep:
    """Photo to views. `finder` None judges photos whole. Usable from several threads.

    side: of the aligned crops, in pixels; resample: the kernel they are shrunk by, the detector's own."""

    def __init__(self, finder: FaceFinder | None = None, side: int = ALIGNED_SIDE, resample: str = "lanczos"):
        self.finder, self.side, self.resample = finder, max(side, ALIGNED_SIDE), resample

    @property
    def name(self) -> str:
        """Which finder is at work: "yunet-2023mar", "haar", … or "none"."""
        return "none" if self.finder is None else self.finder.name

    def __call__(self, image: np.ndarray) -> list[View]:
        """The views of uint8 RGB [H, W, 3], the biggest face first. Empty where there is no face."""
        if self.finder is None:
            return [View(image, "whole")]
        return self.views(image, self.finder.find(image))

    def views(self, image: np.ndarray, faces: list[Face]) -> list[View]:
        """The views of the faces that were found in uint8 RGB [H, W, 3], the biggest first."""
        views = []
        for number, face in enumerate(faces[:MOST_FACES]):
            own = photo_of(image, face, self.finder)
            if (view := self._view(own, whole=number == 0 or own.part is not None)) is not None:
                views.append(view)
        return views

    def _view(self, own: OwnPhoto, *, whole: bool) -> View | None:
        """One face of a picture. whole: whether its photo itself may be what is shown."""
        if whole and (crop := _as_crop(own.pixels, own.there)) is not None:
            return View(crop, "crop" if own.part is None else "part", own.face, own.part, own.bars)
        try:
            pixels, how = align_face(own.pixels, own.there, self.side, self.resample)
        except ValueError:  # landmarks in one point or far outside: nothing was found
            return None
        return View(pixels, how, own.face, own.part, own.bars)


def seen_again(view: View, photo: np.ndarray, step: FaceStep, *, scale: float, shift: tuple[float, float]) -> View:
    """The same face of a photo that was cut and resized: seen in the same way, without looking for it again.

    photo: uint8 RGB [H, W, 3], in which what was at (x, y) pixels lies at ((x, y) - shift) * scale. step: by whose size
    and kernel the view was cut out."""
    face = None if view.face is None else moved(view.face, scale, shift)
    if face is None or view.how == "whole":
        return View(photo, "whole")
    part = None if view.part is None else view.part.moved(scale, shift, photo.shape)
    own, there = (photo, face) if part is None else part.alone(photo, face)
    if view.bars:
        own, _ = without_bars(own, there)
    if view.whole:
        return View(quarter_turned(own, face.turn), view.how, face, part, view.bars)
    pixels, how = align_face(own, there, step.side, step.resample)
    return View(pixels, how, face, part, view.bars)


class Finder(Protocol):
    """What finds the faces of uint8 RGB [H, W, 3], the biggest first."""

    def find(self, image: np.ndarray) -> list[Face]: ...


class OwnPhoto(NamedTuple):
    """A face of a picture and the photo that it is in. part: where in the picture that lies; None where it is all of
    it. pixels: of the photo alone, upright, uint8 [H, W, 3]; there: the face in them. bars: how many were filled."""

    face: Face
    part: Part | RoundedPhoto | TurnedPhoto | None
    pixels: np.ndarray
    there: Face
    bars: int = 0


def photo_of(picture: np.ndarray, face: Face, finder: Finder | None) -> OwnPhoto:
    """The photo that a face of uint8 RGB [H, W, 3] is in: one that lies in the picture, or the picture itself. Of one
    that lies there turned, the face has the landmarks that `finder` sees once the photo is upright."""
    own = _photo_of(picture, face, finder)
    pixels, bars = without_bars(own.pixels, own.there)
    return own._replace(pixels=pixels, bars=bars)


def _photo_of(picture: np.ndarray, face: Face, finder: Finder | None) -> OwnPhoto:
    """The same with whatever was drawn across it."""
    page = page_about(picture, face)
    if (circle := circle_about(picture, page)) is not None:
        return OwnPhoto(face, circle, *circle.alone(picture, face))
    level = photo_about(picture, face) or photo_between(picture, face)
    part = rounded_about(picture, level or Part(0, 0, picture.shape[1], picture.shape[0])) or level
    if part is not None:
        return OwnPhoto(face, part, *part.alone(picture, face))
    return _turned_photo_of(picture, face, finder, page) or OwnPhoto(face, None, picture, face)


def _turned_photo_of(picture: np.ndarray, face: Face, finder: Finder | None, page: Page | None) -> OwnPhoto | None:
    """None where the face lies in no turned photo, or is no more upright in it.

    For aligned sets have such corners, too: where a photo was turned so that its face is upright, and ended. Of 49 such
    photos (choose_foreign_real) faces were more upright with the photo's edges in 6, of 118 photos turned in place in
    all."""
    tilted = None if page is None else turned_photo_about(picture, face, page)
    if tilted is None or finder is None:
        return None
    photo, matrix = tilted.upright(picture)
    there = taken(face, matrix)
    same = [one for one in finder.find(photo) if same_face(one, there)]
    if not same:
        return None
    there = max(same, key=lambda one: common_area(one.box, there.box))
    try:
        more_upright = abs(lean_of(there)[1]) < abs(lean_of(face)[1])
    except ValueError:  # landmarks that span no face
        return None
    if not more_upright and _as_crop(photo, there) is None:
        return None
    face = taken(there, cv2.invertAffineTransform(matrix))
    return OwnPhoto(face, tilted, photo, taken(face, matrix))


def _as_crop(image: np.ndarray, face: Face) -> np.ndarray | None:
    """The photo, turned by quarters so that its face is upright, where it is an aligned crop of the face."""
    upright = turned(face, image.shape, face.turn)
    shape = image.shape[1::-1] if face.turn % 2 else image.shape
    return quarter_turned(image, face.turn) if is_aligned_crop(shape, upright) else None


def is_aligned_crop(shape: tuple[int, ...], face: Face) -> bool:
    """Whether a photo of `shape` [H, W, ...] lies about its face as FFHQ's photos do, to within their own spread."""
    height, width = shape[:2]
    if abs(height - width) > SQUARE * max(height, width):
        return False
    try:
        quad, how = frame_of(face)
    except ValueError:
        return False
    across = (quad[3] - quad[0]) / width
    side, turned = float(np.hypot(*across)), float(np.degrees(np.arctan2(across[1], across[0])))
    off = float(np.hypot(*(quad.mean(0) / (width, height) - 0.5)))
    low, high = SIDES if how == "ffhq" else SIDES_BY_BOX
    return low <= side <= high and off <= OFF_MIDDLE and abs(turned) <= TURNED
