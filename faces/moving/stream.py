"""Frames of a video file through PyAV (FFmpeg's libraries). No header is believed where its word can be counted.

A first pass goes over the packets without decoding one: their times give the length, the number of frames, and so how
often to look. The second decodes; a frame that the decoder marks as damaged, or that comes of a packet that the file's
end cut off, is left out and counted. Only containers are opened that refer to nothing outside of the file.
"""

from __future__ import annotations

import bisect
import io
import os
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, BinaryIO

from common.errors import BadImage, TooSmall
from faces.moving.ends import breaks_off, ends_early
from faces.moving.frame import Clock, Due, Frame, Limits
from faces.moving.times import Times, joined
from faces.moving.upright import HDR, WIDE, Deinterlacer, aspect_of, matrix_of, upright

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
# and those of them, or their like, whose frames may have no times
TIMELESS = {"h264", "hevc", "m4v", "vc1", "obu"}
RUN = 3  # frames one after the other that never came out of the decoder: lost, not meant to stay hidden
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
            self.early, self._cut_off = ends_early(file), breaks_off(file)
        self._container = self._opened()
        try:
            self._stream = self._chosen(self._container)
            self.aspect = aspect_of(self._stream.sample_aspect_ratio)
            self._check_size()
            self._count_packets()
            self._remark_file()
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
        due, begin, number, seconds, missing = Due(every), time.perf_counter(), -1, 0.0, 0
        for frame, matrix in self._shown():
            before = number
            number, seconds = self._moment(frame, number, seconds)
            missing += number - before - 1 if number - before > RUN and not self._hides else 0
            self.broken = max(self.broken, missing)
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
        elif self._times.shown and self.count - number > RUN and not self.torn and not self._hides:
            self.broken = max(self.broken, missing + self.count - number - 1)

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

    @staticmethod
    def _moving(container: InputContainer) -> list[VideoStream]:
        """The streams of pictures that are no cover."""
        import av

        cover = av.stream.Disposition.attached_pic
        return [stream for stream in container.streams.video if not stream.disposition & cover]

    def _chosen(self, container: InputContainer) -> VideoStream:
        moving = self._moving(container)
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
        options = {"max_pixels": str(self._limits.pixels)}
        if stream.codec_context.name.startswith("mjpeg"):  # it hands out half a picture and says nothing otherwise
            options["err_detect"] = "explode"
        stream.codec_context.options = options
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
        stream, form = self._stream, self._container.format.name
        rate = stream.guessed_rate or stream.average_rate
        self._hides = stream.codec_context.name == "mpeg4"  # it has packets that say «the same picture once more»
        # AVI has times of decoding alone, of which FFmpeg makes others in their order, not in that of the frames
        ordered = form != "avi" or not stream.codec_context.has_b_frames
        packets = self._packets(self._container, stream)
        times = self._times = Times.of(packets, float(rate) if rate else None, ordered=ordered)
        self._last = times.count - 1 if times.count > 1 and form in ENDLESS else times.count
        self.count, self.seconds = min(times.count, self._last), times.seconds
        self.fps = times.count / self.seconds if self.seconds > 0 else 0.0
        self.torn |= self._cut_off
        self._container.close()
        self._container = self._opened()
        self._stream = self._chosen(self._container)

    def _remark_file(self) -> None:
        """What is to be known of the file as a whole."""
        stream, times = self._stream, self._times
        others = len(self._moving(self._container)) - 1
        if others:
            size = f"{stream.codec_context.width}x{stream.codec_context.height}"
            self.notes.append(f"{others + 1} videos lie in it, of which one was looked at ({size})")
        if self._container.format.name in TIMELESS and not stream.codec_context.framerate:
            self.notes.append(
                f"it does not say how fast its frames follow: {1 / times.usual:.3g} a second were assumed"
            )
        if self._container.format.name == "avi" and stream.time_base and not self.early and not self.torn:
            told = float(stream.frames * stream.time_base)
            if told > max(1.02 * times.seconds, times.seconds + 0.5):
                self.notes.append(f"its header tells of {told:.1f} s, and {times.seconds:.1f} s are there")
        self.notes += times.gap_notes()

    def _packets(self, container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
        import av

        packets = joined(container.demux(stream))
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
        shown, steps = self._times.shown, self._times.steps
        if frame.time is not None and shown:
            at = float(frame.time) - shown[0]
            if number < 0 or at >= seconds:
                return max(number + 1, bisect.bisect_left(shown, float(frame.time) - 1e-6)), max(at, 0.0)
        if 0 <= number + 1 < len(steps):
            return number + 1, max(seconds, steps[number + 1] - steps[0])
        return number + 1, seconds + self._times.usual if number >= 0 else 0.0

    def _remark(self, frame: VideoFrame) -> None:
        kind, wide = HDR.get(frame.color_trc), WIDE.get(frame.color_primaries)
        note = ""
        if kind is not None:
            note = f"high dynamic range ({kind}) shown without tone mapping"
        elif wide is not None:
            note = f"wide colours ({wide}) shown as if they were those of BT.709"
        if note and note not in self.notes:
            self.notes.append(note)

    def _nothing(self) -> str:
        if self.clock.over:
            return self._limits.too_slow
        what = self._stream.codec_context.name
        if self.broken or self.count:
            count = self.count or self.broken
            which = "its only frame can't" if count == 1 else f"none of its {count} frames can"
            return f"{which} be decoded ({what}): broken, encrypted or cut short"
        return "a video without a readable frame"
