"""Frames of a video file through PyAV (FFmpeg's libraries). No header is believed where its word can be counted.

A first pass goes over the packets without decoding one: their times give the length, the number of frames, and so how
often to look. The second decodes; a frame that the decoder marks as damaged, or that comes of a packet that the file's
end cut off, or whose own checksum is wrong, is left out and counted; so is what was predicted from it. Only containers
are opened that refer to nothing outside of the file.
"""

from __future__ import annotations

import bisect
import io
import os
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any, BinaryIO

from common.errors import BadImage, TooSmall
from common.words import counted
from faces.moving.checks import checker, ogg_holes, wrong_clusters
from faces.moving.ends import Beginning, breaks_off, clusters, end_of
from faces.moving.frame import Clock, Due, Frame, Limits
from faces.moving.kinds import HEAD, kind_of
from faces.moving.runs import EOI, at_of
from faces.moving.times import Times, joined
from faces.moving.upright import HDR, WIDE, Deinterlacer, aspect_of, matrix_of, upright

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

# FFmpeg's demuxers by name. Playlists (HLS, DASH, concat, SDP) are not among them: they name other files and addresses.
FORMATS = (
    "mov,matroska,avi,mpeg,mpegts,mpegvideo,ogg,asf,flv,h264,hevc,m4v,mxf,ivf,yuv4mpegpipe,rm,dv,obu,nut,wtv,vc1,mjpeg"
).split(",")
# Formats that say nowhere how long they are: whether the last picture was cut off can not be told, so it is left out
ENDLESS = {"mpeg", "mpegts", "mpegvideo", "h264", "hevc", "m4v", "vc1", "obu"}
# and those of them, or their like, whose frames may have no times
TIMELESS = {"h264", "hevc", "m4v", "vc1", "obu", "mjpeg"}
# Kinds of files that another one behind them is no part of: FFmpeg would mistake it, or stop at it. (What is joined of
# the others is read on.)
ALONE = {"MP4", "QuickTime", "IVF", "YUV4MPEG", "FLV", "WMV/ASF"}
LAST = 100  # entries of an index that are looked at
LOOSE = 4096  # bytes behind the last frame of a cluster that are none, or of a laced block, that may be 5 % of it
# Decoders that hand out what they could not read, and say nothing, unless asked to be strict
STRICT = {"mjpeg": "explode", "mjpegb": "explode"}
STRICT |= dict.fromkeys(("msmpeg4v1", "msmpeg4v2", "msmpeg4", "wmv1", "wmv2"), "bitstream")
RUN = 3  # frames one after the other that never came out of the decoder: lost, not meant to stay hidden
UNKNOWN = "not a video that can be read, or a broken one"
NO_INDEX = "cut short: its index (moov) is not there, without which nothing can be decoded; get the whole file"


class Stream:
    """A `faces.moving.frame.Reader` of the best video stream of a file. Raises BadImage where there is none.

    form: FFmpeg's name of its format where its bytes don't tell FFmpeg, else ""."""

    def __init__(self, source: str | bytes, name: str, limits: Limits, form: str = ""):
        self._source, self._name, self._limits, self.clock = source, name, limits, Clock(limits.seconds)
        self.broken, self.torn, self._form = 0, False, form
        self.stopped: float | None = None
        self.notes: list[str] = []
        with self._file() as file:
            self._end, kind = end_of(file), kind_of(at_of(file, 0, HEAD)).name
            # what follows an IVF's frames has no beginning that FFmpeg would know
            self._only = self._end.at if kind in ALONE and (self._end.behind or kind == "IVF") else None
            self._cut_off = (
                kind == "IVF" and self._end.rest > 0 and not self._end.behind
                if self._only is not None
                else breaks_off(file)
            )
            file.seek(0)
            self._clusters, self.holes = clusters(file)
            self._wrong_clusters = wrong_clusters(file, self._clusters)
            if file.read(4) == b"OggS":
                self.holes = ogg_holes(file)
            self.early = self._end.early or (form == "mjpeg" and not _closed(file))
        self._beginning: io.IOBase = io.BytesIO()
        self._container = self._opened()
        try:
            self._stream = self._chosen(self._container)
            self.aspect = aspect_of(self._stream.sample_aspect_ratio)
            self._check_size()
            self.early |= kind in ("MP4", "QuickTime") and self._announces_more()
            self._count_packets()
            self._remark_file()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._container.close()
        self._beginning.close()

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
        given: Any = io.BytesIO(self._source) if isinstance(self._source, bytes) else os.path.abspath(self._source)
        if self._only is not None:
            self._beginning.close()
            given = self._beginning = Beginning(self._file(), self._only)
        options = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "file"}
        try:
            return av.open(given, mode="r", format=self._form or None, options=options, metadata_errors="ignore")
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
        if stream.codec_context.name in STRICT:
            options["err_detect"] = STRICT[stream.codec_context.name]
        stream.codec_context.options = options
        return stream

    def _announces_more(self) -> bool:
        """Whether the index of a file (moov) tells of frames beyond its end; the last ones tell it."""
        index = self._stream.index_entries
        ends = (index[i].pos + index[i].size for i in range(max(0, len(index) - LAST), len(index)))
        with self._file() as file:
            return max(ends, default=0) > (self._only or file.seek(0, os.SEEK_END))

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
        packets = (packet for packet in self._walked(stream) if not _is_header(packet))
        times = self._times = Times.of(packets, float(rate) if rate else None, ordered=ordered)
        self._last = times.count - 1 if times.count > 1 and form in ENDLESS else times.count
        self.count, self.seconds = min(times.count, self._last), times.seconds
        self.fps = times.count / self.seconds if self.seconds > 0 else 0.0
        self.torn |= self._cut_off
        self._container.close()
        self._container = self._opened()
        self._stream = self._chosen(self._container)

    def _walked(self, stream: VideoStream) -> Iterator[Packet]:
        """The stream's packets. Afterwards it is known how far into the file, and into each cluster, any stream's went:
        FFmpeg passes over what is broken."""
        self._reached, self._packet_count = 0, 0
        whole = [begin for begin, _ in self._clusters]
        ends = list(whole)

        def seen(packet: Packet) -> None:
            begin = packet.pos or 0
            self._reached = max(self._reached, begin)
            if whole and (number := bisect.bisect_right(whole, begin) - 1) >= 0:
                ends[number] = max(ends[number], begin + packet.size)

        for packet in self._packets(self._container, stream, seen):
            self._packet_count += packet.dts is not None
            yield packet
        if self.clock.over or self.early:
            return
        lost = [
            at
            for at, (begin, end) in zip(ends, self._clusters, strict=True)
            if end - at > max(LOOSE, (end - begin) // 20)
        ]
        if lost and lost[-1] == ends[-1]:
            self.torn = True
            lost.pop()
        self.holes += lost

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
        if self._end.at is not None and self._reached < self._end.at:
            self.notes += self._end.notes()
        if self._wrong_clusters and not self.early:
            share = f"{self._wrong_clusters} of {counted(len(self._clusters), 'cluster')}"
            self.notes.append(f"the checksums of {share} of the file are wrong: frames that were judged may be damaged")
        if self._container.format.name == "avi" and stream.time_base and not self.early and not self.torn:
            told = float(stream.frames * stream.time_base)
            if stream.frames > self._packet_count and told > times.seconds + 0.5 * times.usual:
                self.notes.append(f"its header tells of {told:.1f} s, and {times.seconds:.1f} s are there")
        self.notes += times.gap_notes()

    def _packets(
        self, container: InputContainer, stream: VideoStream, seen: Callable[[Packet], None] | None = None
    ) -> Iterator[Packet]:
        """Of the stream. seen: hears of all streams'."""
        import av

        def own() -> Iterator[Packet]:
            for packet in container.demux(stream) if seen is None else container.demux():
                if seen is not None:
                    seen(packet)
                if packet.stream.index == stream.index:  # what ends a stream of no packets has no index of its own
                    yield packet

        packets = joined(own())
        while not self.clock.over:
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, OSError):
                self.torn = True
                return
            except IndexError:  # PyAV ends streams that it never knew, which began anew in a chained Ogg file
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

        index, lost, before = 0, False, 0  # what is predicted from a frame that isn't there is no picture, either
        is_whole = checker(self._stream.codec_context.name)
        for packet in self._packets(self._container, self._stream):
            header = _is_header(packet)
            index += packet.size > 0 and not packet.is_discard and not header
            if packet.size and index > self._last:
                continue
            if packet.pos is not None:
                lost |= bisect.bisect_right(self.holes, packet.pos) > bisect.bisect_right(self.holes, before)
                before = packet.pos
            if packet.is_corrupt or (packet.size and is_whole is not None and not is_whole(bytes(packet))):
                self.broken, lost = self.broken + 1, True
                continue
            try:
                frames = packet.decode()
            except (av.error.FFmpegError, OSError):
                if not header:
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


def _is_header(packet: Packet) -> bool:
    """Whether it is none of a frame, but of a stream of Ogg that begins anew: its parameters (Theora I, 6.1; VP8)."""
    codec = packet.stream.codec_context.name
    return packet.size > 0 and (
        (codec == "theora" and bytes(packet)[0] >= 0x80) or (codec == "vp8" and bytes(packet).startswith(b"OVP80"))
    )


def _closed(file: BinaryIO) -> bool:
    """Whether a file of JPEGs has the last one's end."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
    return file.read().rstrip(b"\0").endswith(EOI)
