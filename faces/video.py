"""Frames of a video or an animation, sampled by time: uint8 RGB, upright, as a player shows them.

What a file is, its bytes say, not its name. Videos are decoded by PyAV (`faces.moving.stream`), animated pictures by
Pillow (`faces.moving.animation`). JPEGs one behind the other are raw Motion JPEG where they are enough for a verdict.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator

from common.errors import BadImage
from common.extras import is_there, lacking
from common.words import counted
from faces.decode import read_file
from faces.moving.frame import Frame, Limits, Reader
from faces.moving.kinds import HEAD, IMAGE, VIDEO, kind_of, may_move
from faces.moving.runs import is_motion_jpeg

EXTENSIONS = (
    ".mp4 .m4v .mov .qt .avi .divx .mkv .webm .mpg .mpeg .m2v .m2p .vob .ogv .ogm .wmv .asf .flv .f4v .3gp .3g2 .mts"
    " .m2ts .ts .mxf .dv .nut .wtv .rm .rmvb .y4m .ivf .obu .h264 .264 .avc .h265 .265 .hevc .swf .mjpeg .mjpg"
).split()
EVERY = 1.0  # seconds between two samples
LEAST = 16  # samples of a short video, where the interval was not asked for
__all__ = ["EVERY", "EXTENSIONS", "LEAST", "Frame", "Limits", "Video", "is_moving", "is_video_name", "may_be_moving"]


def is_video_name(name: str) -> bool:
    return name.lower().endswith(tuple(EXTENSIONS))


def is_moving(source: str | os.PathLike | bytes, name: str = "") -> bool:
    """Whether a file (its path, or its bytes and name) is a video or an animated picture: by its bytes, and by its name
    where they don't tell, or can't be had."""
    name = name or ("" if isinstance(source, bytes) else os.fspath(source))
    try:
        head = _head(source)
    except OSError:
        return is_video_name(name) and not os.path.isdir(name)
    kind = kind_of(head)
    if kind.what == IMAGE:
        return may_move(kind.name, head) and (_is_motion_jpeg if kind.name == "JPEG" else _is_animated)(source)
    return kind.what == VIDEO or is_video_name(name)


def may_be_moving(data: bytes, name: str) -> bool:
    """As `is_moving` of a file's bytes, at a glance: true of some stills, too."""
    kind = kind_of(data[:HEAD])
    if kind.name == "JPEG":
        return _is_motion_jpeg(data)
    return may_move(kind.name, data[:HEAD]) if kind.what == IMAGE else kind.what == VIDEO or is_video_name(name)


def _head(source: str | os.PathLike | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[:HEAD]
    if not os.path.isfile(source):  # a pipe would block for ever
        raise OSError
    with open(source, "rb") as file:
        return file.read(HEAD)


def _is_motion_jpeg(source: str | os.PathLike | bytes) -> bool:
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
        return is_motion_jpeg(file, len(source) if isinstance(source, bytes) else os.path.getsize(source))


def _is_animated(source: str | os.PathLike | bytes) -> bool:
    from faces.moving.animation import is_animated
    from faces.pieces import CountedBytes, CountedFile

    if isinstance(source, bytes):
        return is_animated(CountedBytes(source))
    with CountedFile(os.fspath(source)) as file:
        return is_animated(file)


class Video:
    """A video file, or an animated picture, that was opened: by its path, or its bytes under a name.

    `seconds`, `count` and `fps` are those of the frames that are there, whatever a header says. Raises BadImage where
    it can't be read. After `frames` is through: `whole`: whether the file was read to an end that is its own; `broken`:
    frames that can't be decoded and were left out; `remarks()`: these and what else is to be known, in words."""

    def __init__(self, source: str | os.PathLike | bytes, name: str = "", *, limits: Limits | None = None):
        self.limits, self._begun = limits or Limits(), False
        self.path = name or ("video" if isinstance(source, bytes) else os.fspath(source))
        if not isinstance(source, bytes):
            source = os.fspath(source)
            if not os.path.isfile(source):
                raise BadImage(self.path, "is not a file" if os.path.lexists(source) else "no such file")
            if not os.access(source, os.R_OK):
                raise BadImage(self.path, "no permission to read it")
        self._reader = self._opened(source)

    def _opened(self, source: str | bytes) -> Reader:
        head = _head(source)
        if not head:
            raise BadImage(self.path, "empty file (0 bytes)")
        kind = kind_of(head)
        raw = "mjpeg" if kind.name == "JPEG" and _is_motion_jpeg(source) else ""
        if kind.what == IMAGE and not raw:
            from faces.moving.animation import Animation

            data = source if isinstance(source, bytes) else read_file(source, self.path)
            return Animation(data, self.path, self.limits)
        if not is_there("av"):
            raise BadImage(self.path, lacking("videos need PyAV", "video"))
        from faces.moving.stream import Stream

        return Stream(source, self.path, self.limits, raw)

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_) -> None:
        if not self._begun:  # else `frames`, perhaps in another thread, closes what it may still be using
            self._reader.close()

    @property
    def seconds(self) -> float:
        return self._reader.seconds

    @property
    def count(self) -> int:
        return self._reader.count

    @property
    def fps(self) -> float:
        return self._reader.fps

    @property
    def whole(self) -> bool:
        return not (self._reader.early or self._reader.torn or self._reader.holes)

    @property
    def broken(self) -> int:
        return self._reader.broken

    def remarks(self) -> list[str]:
        """What the reader of a verdict should know of the file, each a phrase without a full stop."""
        reader = self._reader
        out = ["the file ends early"] if reader.early else []
        if reader.torn and not reader.early:
            out.append(f"the file is broken after {reader.seconds:.1f} s, and what follows was not looked at")
        if reader.holes and not (reader.early or reader.torn):
            places = counted(len(reader.holes), "place")
            out.append(f"the file is broken in {places}, and the frames there were not looked at")
        if reader.broken:
            out.append(
                f"{reader.broken} of {max(reader.count, reader.broken)} frames can't be decoded and were left out"
            )
        if reader.stopped is not None:
            work = "decoding" if self.limits.decoding_alone else "work"
            known = f" of {reader.seconds:.1f}" if reader.stopped < reader.seconds else ""  # else it wasn't counted on
            out.append(
                f"stopped after {self.limits.seconds:g} s of {work}: only its first {reader.stopped:.1f}{known} s were"
                " looked at"
            )
        return out + reader.notes

    def interval(self, every: float | None = None) -> float:
        """Seconds between two samples: `every`, else EVERY, or less for a short video, so that it has LEAST samples;
        more where there would be more than the limit of them."""
        if every is None:
            every = min(EVERY, self.seconds / LEAST) if self.seconds else EVERY
        most = self.limits.frames
        return max(every, self.seconds / most) if most else every

    def frames(self, every: float) -> Iterator[Frame]:
        """The first frame, and then the first at or after each multiple of `every` seconds (0: every frame).

        Times are the frames' own, so a variable frame rate is no matter. Frames between are decoded but not converted.
        """
        self._begun = True
        try:
            for number, frame in enumerate(self._reader.frames(every)):
                if self.limits.frames is not None and number >= self.limits.frames:
                    return
                with self._reader.clock.held() if self.limits.decoding_alone else contextlib.nullcontext():
                    yield frame
        finally:
            self._reader.close()
