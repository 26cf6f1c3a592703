"""Animated GIF, PNG, WebP and AVIF as the videos that they are: each frame composed as a browser shows it."""

from __future__ import annotations

import io
import itertools
import time
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image

from common.errors import BadImage
from faces import profiles
from faces.decode import TRANSPOSE, open_header, orientation_of, rgb_of
from faces.moving.ends import end_of
from faces.moving.frame import Clock, Due, Frame, Limits

FORMATS = ("GIF", "PNG", "WEBP", "AVIF")
SLOWED = 0.1  # seconds that viewers show a frame for which asks for a hundredth or less


def is_animated(file: BinaryIO) -> bool:
    """Whether a picture has more than one frame; False where it can't be opened."""
    Image.init()
    try:
        with Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN]) as image:
            return bool(getattr(image, "is_animated", False)) and _frames_of(image) > 1
    except Exception:  # broken files raise almost anything; who decodes it says what is wrong
        return False


def _frames_of(image: Image.Image) -> int:
    # of a GIF that costs a walk through the file, and two frames are enough to know
    return 2 if image.format == "GIF" else getattr(image, "n_frames", 1) - _hidden(image)


def _hidden(image: Image.Image) -> int:
    """1 for an APNG whose first picture is for programs that know no animations, and no part of its own."""
    return int(bool(getattr(image, "default_image", False)))


class Animation:
    """A `faces.moving.frame.Reader` of an encoded file. Raises BadImage where it can't be opened."""

    def __init__(self, data: bytes, name: str, limits: Limits):
        self._name, self.clock = name, Clock(limits.seconds)
        self.broken = 0
        self.stopped: float | None = None
        end = end_of(io.BytesIO(data))
        self.early, self.torn, self.holes = end.early, False, list[int]()
        self.notes: list[str] = end.notes()
        self._data, self._limits = data, limits
        self._image = self._opened()
        if self._image.format == "GIF":
            self.notes.append("a GIF's frames have 256 colours, for which nothing was measured")
        self.notes += filter(None, [profiles.note_on(self._image)])
        self._first = _hidden(self._image)
        self.count, self.seconds, self._cut = 0, 0.0, False
        counting = Clock(None if limits.seconds is None else limits.seconds / 2)  # which decodes all, as `frames` does
        for _ in self._walk(counting):
            self.count, self.seconds = self.count + 1, self.seconds + self._lasts()
        self.fps = self.count / self.seconds if self.seconds else 0.0
        if not self.count:
            raise BadImage(name, limits.too_slow if self._cut else "an animation without a readable frame")

    def frames(self, every: float) -> Iterator[Frame]:
        due, seconds, begin, counted = Due(every), 0.0, time.perf_counter(), not self._cut
        self._image.close()
        self._image = self._opened()  # Pillow does not always find its way back after a broken frame
        for number, image in enumerate(itertools.islice(self._walk(self.clock), self.count)):
            if due.now(seconds):
                yield Frame(number, seconds, self._pixels(image), time.perf_counter() - begin)
                begin = time.perf_counter()
            seconds += self._lasts()
        if self._cut and not seconds:
            raise BadImage(self._name, self._limits.too_slow)
        if self._cut:
            self.stopped = seconds
            self.seconds = self.seconds if counted else seconds

    def close(self) -> None:
        self._image.close()

    def _opened(self) -> Image.Image:
        return open_header(self._data, self._name, max_pixels=self._limits.pixels, min_side=self._limits.side)

    def _walk(self, clock: Clock) -> Iterator[Image.Image]:
        """Every frame, decoded, until the end, the first broken one, or the time is over."""
        number = self._first
        while not clock.over:
            try:
                self._image.seek(number)
                self._image.load()
            except EOFError:
                return
            except Exception:  # broken files raise almost anything
                self.torn = True
                return
            yield self._image
            number += 1
        self._cut = True

    def _lasts(self) -> float:
        """Seconds the current frame is shown for."""
        given = float(self._image.info.get("duration") or 0) / 1000
        return given if np.isfinite(given) and given > 0.0101 else SLOWED

    def _pixels(self, image: Image.Image) -> np.ndarray:
        turned = orientation_of(image)
        upright = image.copy() if turned == 1 else image.transpose(TRANSPOSE[turned])
        return np.ascontiguousarray(rgb_of(upright, self._name))
