"""Frames of a video, sampled by time, through OpenCV (FFmpeg): uint8 RGB, upright."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from common.errors import BadImage

EXTENSIONS = ".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .ogv .wmv .flv .3gp .mts .m2ts .ts".split()
EVERY = 1.0  # seconds between two samples
LEAST = 16  # samples of a short video, where the interval was not asked for
MAX_PIXELS = 64 << 20  # of a frame
# FFmpeg's remarks about a broken file name no file and tear the lines of output apart; what is wrong is told here
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


def is_video_name(name: str) -> bool:
    return name.lower().endswith(tuple(EXTENSIONS))


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One sampled frame: its number in the video (from 0), its time in seconds, uint8 RGB [H, W, 3]. spent: seconds it
    took to get there from the sample before."""

    number: int
    seconds: float
    pixels: np.ndarray
    spent: float = 0.0


class Video:
    """A video file that was opened. `seconds`: its length by its header, 0 where that is not known; `fps` likewise.

    Raises BadImage where it can't be read. After `frames` is through, `whole` says whether it went to the end."""

    def __init__(self, path: str | os.PathLike):
        self.path = os.fspath(path)
        if not os.path.isfile(self.path):
            raise BadImage(self.path, "is not a file" if os.path.lexists(self.path) else "no such file")
        if not os.access(self.path, os.R_OK):
            raise BadImage(self.path, "no permission to read it")
        logging = cv2.utils.logging
        before = logging.getLogLevel()
        logging.setLogLevel(min(before, logging.LOG_LEVEL_ERROR))
        try:
            self._reader = cv2.VideoCapture(os.path.abspath(self.path), cv2.CAP_FFMPEG)
        finally:
            logging.setLogLevel(before)
        if not self._reader.isOpened():
            raise BadImage(self.path, "not a video that can be read, or a broken one")
        self.fps = self._positive(cv2.CAP_PROP_FPS)
        count = self._positive(cv2.CAP_PROP_FRAME_COUNT)
        self.seconds = count / self.fps if self.fps else 0.0
        self.count, self.whole, self._begun = int(count), True, False
        if self._positive(cv2.CAP_PROP_FRAME_WIDTH) * self._positive(cv2.CAP_PROP_FRAME_HEIGHT) > MAX_PIXELS:
            raise BadImage(self.path, f"frames of more than {MAX_PIXELS:,} pixels, refused")

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_) -> None:
        if not self._begun:  # else `frames`, perhaps in another thread, releases what it may still be using
            self._reader.release()

    def interval(self, every: float | None = None) -> float:
        """Seconds between two samples: `every`, else EVERY, or less for a short video, so that it has LEAST samples."""
        if every is not None:
            return every
        return min(EVERY, self.seconds / LEAST) if self.seconds else EVERY

    def frames(self, every: float) -> Iterator[Frame]:
        """The first frame, and then the first at or after each multiple of `every` seconds (0: every frame).

        Times are the frames' own, so a variable frame rate is no matter. Frames between are decoded (H.264 needs that)
        but not converted."""
        self._begun = True
        number, due, seconds, begin = 0, 0.0, 0.0, time.perf_counter()
        try:
            while self._reader.grab():
                seconds = self._time(number, seconds)
                if seconds + 1e-6 >= due:
                    good, bgr = self._reader.retrieve()
                    if good and bgr is not None and bgr.size:
                        pixels = np.ascontiguousarray(bgr[..., ::-1])
                        yield Frame(number, seconds, pixels, time.perf_counter() - begin)
                        begin = time.perf_counter()
                    if every > 0:
                        due = (np.floor((seconds + 1e-6) / every) + 1) * every
                number += 1
        finally:
            self._reader.release()
        # a header's count is an estimate; a file cut short lacks much more than a few frames
        self.whole = number >= 0.9 * self.count - 2
        if not number:
            raise BadImage(self.path, "a video without a readable frame")

    def _time(self, number: int, before: float) -> float:
        seconds = float(self._reader.get(cv2.CAP_PROP_POS_MSEC)) / 1000
        if number and (not np.isfinite(seconds) or seconds <= 0):
            return number / self.fps if self.fps else before
        return max(seconds, before) if np.isfinite(seconds) else before

    def _positive(self, what: int) -> float:
        value = float(self._reader.get(what))
        return value if np.isfinite(value) and value > 0 else 0.0
