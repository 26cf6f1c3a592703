"""Frames of a video file through PyAV (FFmpeg's libraries). Nothing that a header says is believed where it can be counted.

A first pass goes over the packets without decoding one: their times give the length, the number of frames, and so how
often to look. The second decodes; a frame that the decoder marks as damaged, or that comes of a packet that the file's
end cut off, is left out and counted. Only containers are opened that refer to nothing outside of the file.
"""

from __future__ import annotations

import io
import os
import statistics
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from common.errors import BadImage
from faces.moving.ends import ends_early
from faces.moving.frame import Clock, Due, Frame, Limits
from faces.moving.upright import HDR, Deinterlacer, aspect_of, matrix_of, upright

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

# FFmpeg's demuxers by name. Playlists (HLS, DASH, concat, SDP) are not among them: they name other files and addresses.
FORMATS = (
    "mov,matroska,avi,mpeg,mpegts,mpegvideo,ogg,asf,flv,h264,hevc,m4v,mxf,ivf,yuv4mpegpipe,rm,dv,obu,nut,wtv,vc1"
).split(",")
UNKNOWN = "not a video that can be read, or a broken one"
NO_INDEX = "cut short: its index (moov) is not there, without which nothing can be decoded; get the whole file"


class Stream:
    """A `faces.moving.frame.Reader` of the best video stream of a file. Raises BadImage where there is none."""

    def __init__(self, source: str | bytes, name: str, limits: Limits):
        self._source, self._name, self._limits, self._clock = source, name, limits, Clock(limits.seconds)
        self.broken, self.stopped = 0, None
        self.notes: list[str] = []
        with self._file() as file:
            self._early = ends_early(file)
        self._container = self._opened()
        self._torn = False
        try:
            self._stream = self._chosen(self._container)
            self.aspect = aspect_of(self._stream.sample_aspect_ratio)
            self._check_size()
            self._count_packets()
        except BaseException:
            self.close()
            raise

    @property
    def whole(self) -> bool:
        return not (self._early or self._torn)

    def close(self) -> None:
        self._container.close()

    def frames(self, every: float) -> Iterator[Frame]:
        due, begin, number, seconds = Due(every), time.perf_counter(), -1, 0.0
        first: float | None = None
        for number, (frame, matrix) in enumerate(self._shown()):
            if self._clock.over:
                self.stopped = seconds
                break
            first = frame.time if first is None else first
            seconds = self._time(frame, first, number, seconds)
            if not due.now(seconds):
                continue
            self._check_pixels(frame.width, frame.height)
            self._remark(frame)
            pixels = upright(frame, self.aspect, matrix)
            yield Frame(number, seconds, pixels, time.perf_counter() - begin)
            begin = time.perf_counter()
        if number < 0:
            raise BadImage(self._name, self._nothing())

    # ---- opening -------------------------------------------------------------------------------------------------

    def _file(self) -> BinaryIO:
        return io.BytesIO(self._source) if isinstance(self._source, bytes) else open(self._source, "rb")

    def _opened(self) -> InputContainer:
        import av

        # a path is never taken for an address, whatever it is called
        given = io.BytesIO(self._source) if isinstance(self._source, bytes) else os.path.abspath(self._source)
        options = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "file"}
        try:
            return av.open(given, options=options, metadata_errors="ignore")
        except (av.error.FFmpegError, OSError, ValueError):
            with self._file() as file:
                boxes = file.read(8)[4:] == b"ftyp"
            raise BadImage(self._name, NO_INDEX if boxes and self._early else UNKNOWN) from None

    def _chosen(self, container: InputContainer) -> VideoStream:
        import av

        cover = av.stream.Disposition.attached_pic
        moving = [stream for stream in container.streams.video if not stream.disposition & cover]
        if not moving:
            sound = "only sound" if container.streams.audio else "no pictures"
            raise BadImage(self._name, f"a video file with {sound} in it{' and a cover' if container.streams.video else ''}")
        best = container.streams.best("video")
        stream = best if best in moving else moving[0]
        if stream.codec_context is None:
            raise BadImage(self._name, "its kind of video can't be decoded by this build of FFmpeg: save it as H.264")
        stream.codec_context.thread_type = "AUTO"
        stream.codec_context.thread_count = self._limits.threads or 0
        stream.codec_context.options = {"max_pixels": str(self._limits.pixels), "err_detect": "explode"}
        return stream

    def _check_size(self) -> None:
        width, height = self._stream.codec_context.width, self._stream.codec_context.height
        if width and height:
            self._check_pixels(width, height)

    def _check_pixels(self, width: int, height: int) -> None:
        if width * max(1.0, self.aspect) * height > self._limits.pixels:
            raise BadImage(self._name, f"frames of {width}x{height}, more than {self._limits.pixels:,} pixels, refused")

    # ---- counting ------------------------------------------------------------------------------------------------

    def _count_packets(self) -> None:
        """`seconds`, `count`, `fps` from the packets' own times; the file is at its beginning again afterwards."""
        times, last, count = [], 0.0, 0
        for packet in self._packets(self._container, self._stream):
            if packet.size == 0 or packet.is_discard:
                continue
            count += 1
            if packet.pts is not None:
                times.append(float(packet.pts * packet.time_base))
                if times[-1] >= max(times[-2:]):
                    last = float((packet.duration or 0) * packet.time_base)
        rate = self._stream.average_rate or self._stream.guessed_rate
        usual = 1 / float(rate) if rate else 0.04
        times = sorted(set(times))
        if len(times) > 1:
            usual = statistics.median(np.diff(times).tolist())
            self.seconds = times[-1] - times[0] + (last if 0 < last < 60 else usual)
        else:
            self.seconds = count * usual
        self.count, self._usual = count, usual
        self.fps = count / self.seconds if self.seconds > 0 else 0.0
        self._container.close()
        self._container = self._opened()
        self._stream = self._chosen(self._container)

    def _packets(self, container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
        import av

        packets = container.demux(stream)
        while not self._clock.over:
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, OSError):
                self._torn = True
                return
            if packet is None:
                return
            yield packet

    # ---- decoding ------------------------------------------------------------------------------------------------

    def _shown(self) -> Iterator[tuple[VideoFrame, bytes | None]]:
        """Whole frames in the order they are shown in, and the display matrix of each."""
        weave = Deinterlacer(self._stream.time_base)
        matrix: bytes | None = None
        for frame in self._decoded():
            matrix = matrix_of(frame) or matrix
            for shown in weave.through(frame):
                yield shown, matrix
        for shown in weave.through(None):
            yield shown, matrix

    def _decoded(self) -> Iterator[VideoFrame]:
        import av

        for packet in self._packets(self._container, self._stream):
            if packet.is_corrupt:
                self.broken += 1
                continue
            try:
                frames = packet.decode()
            except (av.error.FFmpegError, OSError):
                self.broken += packet.size > 0
                continue
            for frame in frames:
                if frame.is_corrupt:
                    self.broken += 1
                else:
                    yield frame

    def _time(self, frame: VideoFrame, first: float | None, number: int, before: float) -> float:
        """Seconds from the first frame; where the file doesn't say, or goes backwards, one step after the last."""
        if number == 0:
            return 0.0
        if frame.time is None or first is None or frame.time - first < before:
            return before + self._usual
        return float(frame.time - first)

    def _remark(self, frame: VideoFrame) -> None:
        kind = HDR.get(frame.color_trc)
        note = f"high dynamic range ({kind}) shown without tone mapping"
        if kind is not None and note not in self.notes:
            self.notes.append(note)

    def _nothing(self) -> str:
        if self._clock.over:
            return f"no frame could be decoded within {self._limits.seconds:g} s, refused"
        what = self._stream.codec_context.name
        if self.broken or self.count:
            return f"none of its {self.count or self.broken} frames can be decoded ({what}): broken, encrypted or cut short"
        return "a video without a readable frame"
