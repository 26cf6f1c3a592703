"""Finding faces in a photo, and cutting them out upright, the way FFHQ's photos are cut.

    finder = FaceFinder.open()
    faces = finder.find(image)                       # biggest first; empty when there is none
    aligned, how = align_face(image, faces[0], 256)  # how: "ffhq" by landmarks, "box" by the box alone

The detector is YuNet (`faces.finding.yunet`): its known file by ONNX Runtime (`faces.finding.yunet_network`), another
version by OpenCV. Where no file can be had, it is OpenCV's Haar cascade, which finds fewer faces and no landmarks;
`FaceFinder.name` says which. Measured (threshold .7, 120 photos of each set): YuNet finds a face in all of flickr140k,
Yonsei and UTKFace at 64 to 320 pixels and in 97.5 % or more of Unsplash portraits; the cascade in 97.5 to 100 %, 84 %,
and 78 % of the portraits. Of 60 pictures put together from shuffled pieces of faces YuNet took 2 for faces. On
flickr140k, whose photos are aligned, the frame found has 1.01 +- 0.07 of the photo's side, its middle within 0.01; of
photos turned by 25 degrees it is off by a fifth of its side, so faces that lean are looked at in other turns
(`faces.finding.leaning`).

Coordinates are pixels from the image's upper left corner; the middle of the first pixel is (0.5, 0.5).
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from common.errors import UserError
from common.files import sha256_of
from faces.filters import quarter_turned, to_size
from faces.finding.face import Face, found_in_turned
from faces.finding.frame import frame_of
from faces.finding.leaning import best_way_up, levelled
from faces.finding.looks import COVERED, FINE, SAME, covered, merged, overlap, sides, without_parts
from faces.finding.turns import MOST, SURE
from faces.finding.yunet import SHA256, find_model
from faces.finding.yunet_network import MOST as MOST_BOXES
from faces.finding.yunet_network import NMS, YuNet

SCORE = 0.7  # YuNet's confidence from which on something is a face
HINT = 0.15  # … from which on it wonders: reason enough to look closer, or at the photo turned
MIN_FACE = 12.0  # pixels: there is nothing to align in smaller boxes
LOOK_LEAST = 128  # smaller pictures are enlarged to this: at 64 px scores of clear faces fall below .9
TWO_CELLS = 64  # pixels: the narrowest view that OpenCV's own YuNet is given
HAAR = "haar"  # as a face model: the cascade, asked for
HAAR_NEIGHBOURS = 4
HAAR_MIN = 1 / 8  # of the shorter side


class FaceFinder:
    """A face detector, usable from several threads. Made by `open`. name: what it is, for results and manifests.

    model: YuNet's file, or None for OpenCV's bundled cascade; why: the reason for that, as `fallback`."""

    def __init__(self, model: Path | None, why: str = ""):
        self.model, self.fallback = model, why
        self._own = threading.local()  # OpenCV's detectors keep the size of their input: one for each thread
        self._known: YuNet | None = None
        if model is None:
            self.name = "haar"
        elif (digest := sha256_of(model)) == SHA256:
            self.name, self._known = "yunet-2023mar", YuNet(model, HINT)
            return
        else:
            self.name = f"yunet (sha256 {digest[:12]})"
        self._detector()

    @classmethod
    def open(
        cls,
        model: str | os.PathLike | None = None,
        allow_download: bool = True,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> FaceFinder:
        """YuNet from `model`, this program's folder, the cache or a download; without any, or where `model` is "haar",
        the Haar cascade; `fallback` then says why.

        Raises UserError when a file that was named is missing or is not YuNet's."""
        if str(model or os.environ.get("FACES_FACE_MODEL")) == HAAR:
            return cls(None, "it was asked for")
        try:
            return cls(find_model(model, download=allow_download, progress=progress))
        except UserError as error:
            if model or os.environ.get("FACES_FACE_MODEL"):
                raise
            return cls(None, str(error))

    def __reduce__(self) -> tuple:
        return FaceFinder, (self.model, self.fallback)

    def find(self, image: np.ndarray) -> list[Face]:
        """The faces in uint8 RGB [H, W, 3], the biggest first; [] when there is none.

        Looks at copies of several sizes (`faces.finding.looks`), and where a face is doubtful or there is none, at
        turned ones, too (`faces.finding.turns`). The cascade looks for upright faces, and at the larger copies only
        where it found none."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise UserError(f"expected H x W x 3 uint8 pixels, got {image.dtype} {image.shape}")
        found, wonders = self._at_all_sizes(image)
        if self.model and (found or wonders):
            found = self._upright(image, found)
        return sorted(found, key=lambda face: -face.size)

    def _at_all_sizes(self, image: np.ndarray) -> tuple[list[Face], bool]:
        """The upright faces of an image, and whether anything made the detector wonder: of 120 photos that lay on their
        side it did in 119, and upside down in all."""
        height, width = image.shape[:2]
        looks: list[tuple[float, list[Face]]] = []
        faces: list[Face] = []
        wonders = False
        for side in sides(max(height, width)):
            seen = [face for face in self._look(image, side) if face.size >= MIN_FACE]
            found = [face for face in seen if self.model is None or face.score >= SCORE]
            wonders = wonders or bool(seen)
            looks.append((max(height, width) / min(side, max(height, width)), found))
            faces = merged(looks)
            if faces and (self.model is None or self._is_all(seen, faces, image.shape, side)):
                break
        return faces, wonders

    @staticmethod
    def _is_all(seen: list[Face], faces: list[Face], shape: tuple[int, ...], side: int) -> bool:
        """Whether what was seen at one size is all there is to be seen: faces fill the photo, and all else that made
        the detector wonder belongs to them, or would be seen at this size were it a face of some pixels."""
        wonders = any(all(overlap(hint, face) < SAME for face in faces) for hint in seen)
        if wonders and max(shape[:2]) > FINE * side:
            return False
        quads = []
        for face in faces:
            with contextlib.suppress(ValueError):  # landmarks in one point
                quads.append(frame_of(face)[0])
        return covered(quads, *shape[:2]) >= COVERED

    def _upright(self, image: np.ndarray, found: list[Face]) -> list[Face]:
        """The faces of an image whichever way up they are, of those that were found upright."""
        ordered = sorted(found, key=lambda face: -face.size)
        doubtful = [i for i, face in enumerate(ordered) if face.score < SURE][:MOST]
        sure = [i for i, face in enumerate(ordered) if face.score >= SURE][:MOST]
        for i in doubtful:
            ordered[i] = best_way_up(image, ordered[i], self._sure)
        for i in sure:
            ordered[i] = levelled(image, ordered[i], self._sure)
        turns = {face.turn for face in ordered} - {0} if ordered else {1, 2, 3}
        for turn in sorted(turns):
            there, _ = self._at_all_sizes(quarter_turned(image, turn))
            ordered += [found_in_turned(face, image.shape, turn) for face in there]
        return without_parts(ordered) if turns else ordered

    def _sure(self, image: np.ndarray, side: int) -> list[Face]:
        return [face for face in self._look(image, side) if face.score >= SCORE]

    def _look(self, image: np.ndarray, side: int) -> list[Face]:
        height, width = image.shape[:2]
        factor = min(side, max(max(height, width), LOOK_LEAST)) / max(height, width)
        view, sx, sy = image, 1.0, 1.0
        if factor != 1:
            to = (max(1, round(width * factor)), max(1, round(height * factor)))
            view = cv2.resize(image, to, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
            sx, sy = width / to[0], height / to[1]
        if min(view.shape[:2]) < 8:  # a ribbon: no detector takes it, no face is in it
            return []
        return self._yunet(view, sx, sy) if self.model else self._haar(view, sx, sy)

    def _yunet(self, view: np.ndarray, sx: float, sy: float) -> list[Face]:
        scale, faces = np.array([sx, sy], np.float32), []
        for row in self._rows(view):
            if np.isfinite(row).all():
                (x0, y0), (x1, y1) = row[:2] * scale, (row[:2] + row[2:4]) * scale
                box = (float(x0), float(y0), float(x1), float(y1))
                faces.append(Face(box, row[4:14].reshape(5, 2) * scale, float(row[14])))
        return faces

    def _rows(self, view: np.ndarray) -> np.ndarray:
        """YuNet's findings [n, 15], in the view's pixels."""
        if self._known is not None:
            return self._known.detect(view)
        detector = self._detector()
        # Of a view one cell of 32 wide or high, OpenCV 4.14 reads memory that nobody wrote, and finds "faces" there.
        down, across = (max(0, TWO_CELLS - length) for length in view.shape[:2])
        view = cv2.copyMakeBorder(view, 0, down, 0, across, cv2.BORDER_CONSTANT)  # by zeros, as OpenCV fills cells
        detector.setInputSize((view.shape[1], view.shape[0]))
        _, rows = detector.detect(cv2.cvtColor(view, cv2.COLOR_RGB2BGR))
        return np.empty((0, 15), np.float32) if rows is None else rows

    def _haar(self, view: np.ndarray, sx: float, sy: float) -> list[Face]:
        grey = cv2.cvtColor(view, cv2.COLOR_RGB2GRAY)
        least = max(20, round(min(grey.shape) * HAAR_MIN))
        boxes, _, weights = self._detector().detectMultiScale3(
            grey, 1.1, HAAR_NEIGHBOURS, 0, (least, least), outputRejectLevels=True
        )
        faces = []
        for (x, y, w, h), weight in zip(boxes, weights):
            box = (float(x * sx), float(y * sy), float((x + w) * sx), float((y + h) * sy))
            faces.append(Face(box, None, float(weight)))
        return faces

    def _detector(self):
        if getattr(self._own, "detector", None) is None:
            self._own.detector = _load_cascade() if self.model is None else _load_yunet(self.model)
        return self._own.detector


def _load_yunet(path: Path):
    try:
        detector = cv2.FaceDetectorYN.create(os.fspath(path), "", (TWO_CELLS, TWO_CELLS), HINT, NMS, MOST_BOXES)
        detector.detect(np.zeros((TWO_CELLS, TWO_CELLS, 3), np.uint8))  # a network of other outputs shows only here
    except cv2.error as error:
        reason = str(error).strip().splitlines()[-1][:120]
        raise UserError(f"{path}: OpenCV can't use it as YuNet ({reason}); give the file of 2023mar") from None
    return detector


def _load_cascade():
    path = os.path.join(cv2.data.haarcascades, "haarcascade_frontalface_default.xml")
    cascade = cv2.CascadeClassifier(path)
    if cascade.empty():
        raise UserError(f"{path}: OpenCV's face cascade is missing; reinstall opencv-python-headless")
    return cascade


# ---- alignment --------------------------------------------------------------------------------------------------


def align_face(image: np.ndarray, face: Face, size: int, resample: str = "lanczos") -> tuple[np.ndarray, str]:
    """(`face` cut out at size x size, how); how: see `frame_of`, resample: see `cut_quad`. What lies outside the photo
    is mirrored sharply: FFHQ's blur there hides fakes (docs/detecting.md, «Faces»)."""
    quad, how = frame_of(face)
    return cut_quad(image, quad, size, resample=resample, blurred=False), how


ROWS = 64  # of a photo's surroundings that are blended at once
SUPERSAMPLING = 4  # as published: bilinear onto 4096, from there to 1024


def cut_quad(
    image: np.ndarray, quad: np.ndarray, size: int, *, resample: str = "lanczos", blurred: bool = True
) -> np.ndarray:
    """The square with the corners `quad` (upper left, lower left, lower right, upper right) as uint8 [size, size, 3].

    Drawn bilinearly at four times `size`, then shrunk by the kernel `resample` (of `faces.options.RESAMPLE`), so photos
    of any size go through the same two filters; of a much larger photo, whole pixels are averaged before. What lies
    outside the photo is its mirror image; blurred: out of focus the more the further out, as in FFHQ."""
    side = float(np.hypot(*(quad[3] - quad[0])))
    image, quad = _cropped(image, quad, side)
    if (shrink := int(side / (2 * SUPERSAMPLING * size))) > 1:
        height, width = (max(1, length // shrink) for length in image.shape[:2])
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        quad, side = quad / shrink, side / shrink
    image, quad = _surrounded(image, quad, side, blurred)
    fine = SUPERSAMPLING * size
    across, down = (quad[3] - quad[0]) / fine, (quad[1] - quad[0]) / fine
    # the middle of output pixel (u, v) lies at u + 0.5, and OpenCV counts from the middle of the first pixel
    start = quad[0] + 0.5 * across + 0.5 * down - 0.5
    matrix = np.column_stack([across, down, start])
    drawn = cv2.warpAffine(
        image, matrix, (fine, fine), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
    )
    return to_size(drawn, size, size, resample)


def _cropped(image: np.ndarray, quad: np.ndarray, side: float) -> tuple[np.ndarray, np.ndarray]:
    """The part of the image that the frame sees, mirrored edges included."""
    low = np.floor(quad.min(0) - 0.1 * side - 3).astype(int)
    high = np.ceil(quad.max(0) + 0.1 * side + 3).astype(int)
    height, width = image.shape[:2]
    # what is mirrored in from outside lies as far inside: never crop between the frame and an edge it crosses
    over = np.maximum(np.maximum(-low, high - [width, height]), 0)
    x0, y0 = np.clip(low - np.where(high > [width, height], over, 0), 0, [width - 1, height - 1])
    x1, y1 = np.clip(high + np.where(low < 0, over, 0), 1, [width, height])
    return image[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)], quad - [x0, y0]


def _surrounded(image: np.ndarray, quad: np.ndarray, side: float, blurred: bool) -> tuple[np.ndarray, np.ndarray]:
    """The image with as much mirrored (and `blurred`) surroundings as the frame reaches over its edges."""
    height, width = image.shape[:2]
    left, top = np.maximum(np.ceil(-quad.min(0)), 0).astype(int)
    right, bottom = np.maximum(np.ceil(quad.max(0) - [width, height]), 0).astype(int)
    if not max(left, top, right, bottom):
        return image, quad
    # a frame far outside the photo (a landmark gone astray) would take memory without end
    if max(left, right) > 4 * width + side or max(top, bottom) > 4 * height + side:
        raise UserError("the face's frame lies far outside the photo")
    left, top, right, bottom = (int(n) + 2 for n in (left, top, right, bottom))
    wide = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_REFLECT)
    sigma = 0.02 * side
    if sigma <= 0.1 or not blurred:
        return wide, quad + [left, top]
    soft = cv2.GaussianBlur(wide, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    x, y = np.arange(wide.shape[1], dtype=np.float32), np.arange(wide.shape[0], dtype=np.float32)
    out_x = np.maximum(np.maximum(left - x, x - (left + width - 1)), 0)
    out_y = np.maximum(np.maximum(top - y, y - (top + height - 1)), 0)
    # what lies outside the photo: above and below it, and to its left and right
    outside = [(slice(0, top), slice(None)), (slice(top + height, None), slice(None))]
    outside += [(slice(top, top + height), columns) for columns in (slice(0, left), slice(left + width, None))]
    for rows, columns in outside:
        part, soft_part, beyond_x, beyond_y = (
            wide[rows, columns],
            soft[rows, columns],
            out_x[columns],
            out_y[rows, None],
        )
        for start in range(0, len(part), ROWS):  # in floats the whole would take sixteen times its memory
            some = slice(start, start + ROWS)
            share = np.clip(np.maximum(beyond_x, beyond_y[some]) / np.float32(0.1 * side), 0, 1)[..., None]
            part[some] = np.rint(part[some] + (soft_part[some].astype(np.float32) - part[some]) * share)
    return wide, quad + [left, top]
