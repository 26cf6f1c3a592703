"""Frames of a video file through PyAV (FFmpeg's libraries). No header is believed where its word can be counted.

A first pass goes over the packets without decoding one: their times give the length, the number of frames, and so how
often to look. The second decodes; a frame that the decoder marks as damaged, or that comes of a packet that the file's
end cut off, is left out and counted. Only containers are opened that refer to nothing outside of the file.
"""

from __future__ import annotations

import bisect
import io
import os
import statistics
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from common.errors import BadImage, TooSmall
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
# Formats that say nowhere how long they are: whether the last picture was cut off can not be told, so it is left out
ENDLESS = {"mpeg", "mpegts", "mpegvideo", "h264", "hevc", "m4v", "vc1", "obu"}
UNKNOWN = "not a video that can be read, or a broken one"
NO_INDEX = "cut short: its index (moov) is not there, without which nothing can be decoded; get the whole file"


class Stream:
    """A `faces.moving.frame.Reader` of the best video stream of a file. Raises BadImage where there is none."""

    def __init__(self, source: str | bytes, name: str, limits: Limits):
        self._source, self._name, self._limits, self.clock = source, name, limits, Clock(limits.seconds)
        self.broken, self.torn = 0, False
        self.stopped: float | None = None
        self.notes: list[str] = []
        with self._file() as file:
            self.early = ends_early(file)
        self._container = self._opened()
        try:
            self._stream = self._chosen(self._container)
            self.aspect = aspect_of(self._stream.sample_aspect_ratio)
            self._check_size()
            self._count_packets()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._container.close()

    def frames(self, every: float) -> Iterator[Frame]:
        import av

        try:
            yield from self._sampled(every)
        except (av.error.FFmpegError, MemoryError) as error:  # of filters and conversions; decoding has its own
            raise BadImage(self._name, f"its frames can't be converted ({error})") from None

    def _sampled(self, every: float) -> Iterator[Frame]:
        due, begin, number, seconds = Due(every), time.perf_counter(), -1, 0.0
        for frame, matrix in self._shown():
            number, seconds = self._moment(frame, number, seconds)
            if self.clock.over:
                break
            if not due.now(seconds):
                continue
            self._check_pixels(frame.width, frame.height)
            self._remark(frame)
            pixels = upright(frame, self.aspect, matrix)
            yield Frame(number, seconds, pixels, time.perf_counter() - begin)
            begin = time.perf_counter()
        if number < 0:
            raise BadImage(self._name, self._nothing())
        if self.clock.over:
            self.stopped = seconds

    # ---- opening -------------------------------------------------------------------------------------------------

    def _file(self) -> BinaryIO:
        return io.BytesIO(self._source) if isinstance(self._source, bytes) else open(self._source, "rb")

    def _opened(self) -> InputContainer:
        import av

        # a path is never taken for an address, whatever it is called
        given = io.BytesIO(self._source) if isinstance(self._source, bytes) else os.path.abspath(self._source)
        options = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "file"}
        try:
            return av.open(given, mode="r", options=options, metadata_errors="ignore")
        except (av.error.FFmpegError, OSError, ValueError):
            with self._file() as file:
                boxes = file.read(8)[4:] == b"ftyp"
            raise BadImage(self._name, NO_INDEX if boxes and self.early else UNKNOWN) from None

    def _chosen(self, container: InputContainer) -> VideoStream:
        import av

        cover = av.stream.Disposition.attached_pic
        moving = [stream for stream in container.streams.video if not stream.disposition & cover]
        if not moving:
            sound = "only sound" if container.streams.audio else "no pictures"
            raise BadImage(
                self._name, f"a video file with {sound} in it{' and a cover' if container.streams.video else ''}"
            )
        best = container.streams.best("video")
        stream = best if best in moving else moving[0]
        if stream.codec_context is None:
            raise BadImage(self._name, "its kind of video can't be decoded by this build of FFmpeg: save it as H.264")
        # Threads that decode several frames at once race on damaged ones: which are lost would differ from run to run
        stream.codec_context.thread_type = "SLICE"
        stream.codec_context.thread_count = self._limits.threads or 0
        stream.codec_context.options = {"max_pixels": str(self._limits.pixels)}
        return stream

    def _check_size(self) -> None:
        width, height = self._stream.codec_context.width, self._stream.codec_context.height
        if width and height:
            self._check_pixels(width, height)

    def _check_pixels(self, width: int, height: int) -> None:
        if width * max(1, float(self.aspect)) * height > self._limits.pixels:
            raise BadImage(self._name, f"frames of {width}x{height}, more than {self._limits.pixels:,} pixels, refused")
        if min(width, height) < self._limits.side:
            raise TooSmall(self._name, width, height, self._limits.side)

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
        self._times = times if 2 * len(times) > count else []  # AVI has no times for frames that depend on later ones
        if len(self._times) > 1:
            usual = statistics.median(np.diff(times).tolist())
            self.seconds = times[-1] - times[0] + (last if 0 < last < 60 else usual)
        else:
            self.seconds = count * usual
        self._last = count - 1 if count > 1 and self._container.format.name in ENDLESS else count
        self.count, self._usual = min(count, self._last), usual
        self.fps = count / self.seconds if self.seconds > 0 else 0.0
        self._container.close()
        self._container = self._opened()
        self._stream = self._chosen(self._container)

    def _packets(self, container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
        import av

        packets = container.demux(stream)
        while not self.clock.over:
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, OSError):
                self.torn = True
                return
            if packet is None:
                return
            yield packet

    # ---- decoding ------------------------------------------------------------------------------------------------

    def _shown(self) -> Iterator[tuple[VideoFrame, bytes | None]]:
        """Whole frames in the order they are shown in, and the display matrix of each."""
        weave = Deinterlacer(self._stream.time_base or Fraction(1, 1000))
        matrix: bytes | None = None
        for frame in self._decoded():
            matrix = matrix_of(frame) or matrix
            for shown in weave.through(frame):
                yield shown, matrix
        for shown in weave.through(None):
            yield shown, matrix

    def _decoded(self) -> Iterator[VideoFrame]:
        import av

        index, lost = 0, False  # what is predicted from a frame that isn't there is no picture, either
        for packet in self._packets(self._container, self._stream):
            index += packet.size > 0 and not packet.is_discard
            if packet.size and index > self._last:
                continue
            if packet.is_corrupt:
                self.broken, lost = self.broken + 1, True
                continue
            try:
                frames = packet.decode()
            except (av.error.FFmpegError, OSError):
                self.broken, lost = self.broken + (packet.size > 0), True
                continue
            for frame in frames:
                lost = (lost and not frame.key_frame) or frame.is_corrupt
                if lost:
                    self.broken += 1
                else:
                    yield frame

    def _moment(self, frame: VideoFrame, number: int, seconds: float) -> tuple[int, float]:
        """A frame's number and seconds, both from the first one's; those of the frame before are given. Where the file
        doesn't say, or goes backwards, it is a step later."""
        if frame.time is not None and self._times:
            at = float(frame.time) - self._times[0]
            if number < 0 or at >= seconds:
                return max(number + 1, bisect.bisect_left(self._times, float(frame.time) - 1e-6)), max(at, 0.0)
        return number + 1, seconds + self._usual if number >= 0 else 0.0

    def _remark(self, frame: VideoFrame) -> None:
        kind = HDR.get(frame.color_trc)
        note = f"high dynamic range ({kind}) shown without tone mapping"
        if kind is not None and note not in self.notes:
            self.notes.append(note)

    def _nothing(self) -> str:
        if self.clock.over:
            return self._limits.too_slow
        what = self._stream.codec_context.name
        if self.broken or self.count:
            count = self.count or self.broken
            return f"none of its {count} frames can be decoded ({what}): broken, encrypted or cut short"
        return "a video without a readable frame"
