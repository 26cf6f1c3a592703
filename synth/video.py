"""Frames to a video file, one at a time: .mp4 or .gif by the name's ending. The file appears when it is whole.

An .mp4 is H.264 where the program `ffmpeg` is on the PATH or this build of OpenCV has an encoder; the OpenCV wheels of
the package index have none for reasons of licence, and it is VP9 then, which browsers, VLC and mpv play.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import GifImagePlugin, Image

from common.errors import UserError
from common.files import written_whole
from synth.options import FASTEST, SLOWEST
from synth.writer import refuse_existing

ENDINGS = (".mp4", ".gif")
MATTE = 128  # grey behind transparent pixels, as in `faces.decode`
GIF_FASTEST = 50  # frames a second: viewers slow frames of less than two hundredths down to ten
_FFMPEG_CODECS = {  # the first that works; quality settings that look lossless at a few hundred kB a second
    "libx264": ("-preset", "medium", "-crf", "16"),
    "h264_videotoolbox": ("-q:v", "80"),
    "libopenh264": ("-b:v", "8M"),
}
_OPENCV_CODECS = {"avc1": "H.264 by OpenCV", "vp09": "VP9 by OpenCV", "mp4v": "MPEG-4 by OpenCV"}


class Encoder(Protocol):
    """What writes one format: `codec` says which in words; after `close` the file is complete."""

    codec: str

    def write(self, frame: np.ndarray) -> None: ...
    def close(self) -> None: ...


class VideoWriter:
    """A video file being written, see `open_video`; `codec` tells after the first frame how it is encoded."""

    def __init__(self, path: Path, fps: float, scale: int):
        self.codec, self.frames = "", 0
        self._path, self._fps, self._scale = path, fps, scale
        self._encoder: Encoder | None = None

    def write(self, frame: np.ndarray) -> None:
        """Add one frame, enlarged by the whole number `scale`."""
        frame = _rgb(frame)
        if self._scale > 1:
            size = (frame.shape[1] * self._scale, frame.shape[0] * self._scale)
            frame = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
        if self._encoder is None:
            height, width = frame.shape[:2]
            open_ = _Gif if self._path.suffix == ".gif" else _open_mp4
            self._encoder = open_(self._path, self._fps, width, height)
            self.codec = self._encoder.codec
        self._encoder.write(frame)
        self.frames += 1

    def close(self) -> None:
        if self._encoder is not None:
            self._encoder.close()


@contextlib.contextmanager
def open_video(path: str | Path, fps: float = 30, *, scale: int = 1, force: bool = False) -> Iterator[VideoWriter]:
    """A video file to be written: `with open_video(path, fps) as video: video.write(frame)`.

    Frames are uint8 [H, W, C] of one size, C 1 (grey), 3 (RGB) or 4 (RGBA, composed over mid-grey). The file appears at
    the end; where the block is left by an exception there is none. UserError as of `check_video`, for no frames at all,
    or where no encoder works."""
    path = check_video(path, fps, force=force)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path, shared=True, ending=path.suffix.lower()) as temporary:  # encoders go by the ending
        video = VideoWriter(temporary, fps, scale)
        try:
            try:
                yield video
            except BaseException:
                with contextlib.suppress(Exception):  # the first error is the one to tell
                    video.close()
                raise
            video.close()
        except _EncoderFailed as error:  # it knows the temporary name alone
            raise UserError(f"{path}: {error}") from None
        if not video.frames:
            raise UserError(f"{path}: a video needs at least one frame")


def check_video(path: str | Path, fps: float, *, force: bool = False) -> Path:
    """`path`, or the UserError that writing a video there would end in."""
    path = Path(path)
    if path.suffix.lower() not in ENDINGS:
        raise UserError(f"{path}: a video's name ends in {' or '.join(ENDINGS)}: call it {path.stem or 'video'}.mp4")
    refuse_existing([path], force)
    if not SLOWEST <= fps <= FASTEST:
        raise UserError(f"`fps` {fps:g}: must be at least {SLOWEST:g} and at most {FASTEST:g}")
    if path.suffix.lower() == ".gif" and fps > GIF_FASTEST:
        raise UserError(f"`fps` {fps:g}: GIF viewers show at most {GIF_FASTEST} frames a second: lower it or use .mp4")
    return path


def enlargement(resolution: int) -> int:
    """The whole factor that brings faces to 256 pixels or more."""
    return max(1, 256 // resolution)


def _rgb(frame: np.ndarray) -> np.ndarray:
    if frame.ndim != 3 or frame.dtype != np.uint8 or frame.shape[2] not in (1, 3, 4):
        raise UserError(f"a frame must be uint8 [H, W, 1|3|4], got {frame.dtype} {list(frame.shape)}")
    if frame.shape[2] == 1:
        return np.repeat(frame, 3, axis=2)
    if frame.shape[2] == 4:
        alpha = frame[..., 3:].astype(np.float32) / 255
        return (frame[..., :3] * alpha + MATTE * (1 - alpha) + 0.5).astype(np.uint8)
    return np.ascontiguousarray(frame)


class _Gif:
    """GIF89a, each frame with 256 colours of its own (one palette for all costs 2 dB of PSNR, dithering 3 more).

    Pillow's `save_all` would keep all frames until the last is known; header and frames are written one by one here.
    """

    def __init__(self, path: Path, fps: float, width: int, height: int):
        self.codec, self._fps, self._size, self._count = "GIF", fps, (width, height), 0
        self._file = path.open("wb")

    def write(self, frame: np.ndarray) -> None:
        image = Image.fromarray(frame).quantize(256, method=Image.Quantize.MEDIANCUT)
        if self._count == 0:
            for part in GifImagePlugin.getheader(image, info={"loop": 0})[0]:
                self._file.write(part)
        # hundredths of a second are whole numbers: rounding the moments, not the lengths, keeps the speed right
        start, end = (round(100 * i / self._fps) for i in (self._count, self._count + 1))
        for part in GifImagePlugin.getdata(image, duration=10 * (end - start), include_color_table=True):
            self._file.write(part)
        self._count += 1

    def close(self) -> None:
        self._file.write(b";")
        self._file.close()


class _EncoderFailed(UserError):
    """An encoder gave up while it wrote: a full disk, mostly."""


class _Ffmpeg:
    """Raw frames through a pipe to the program `ffmpeg`."""

    def __init__(self, program: str, codec: str, path: Path, fps: float, width: int, height: int):
        self.codec = f"H.264 by ffmpeg ({codec})"
        # what ffmpeg has to say is read when it has ended; a pipe nobody reads could fill up and stop it
        self._messages = tempfile.TemporaryFile()
        even = "pad=ceil(iw/2)*2:ceil(ih/2)*2"  # 4:2:0 has one colour sample for 2 x 2 pixels
        source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:.6f}", "-i", "-"]
        # BT.709 is what players assume for H.264; without saying so colours shift
        colours = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
        matrix = f"{even},scale=out_color_matrix=bt709:flags=accurate_rnd+full_chroma_int+full_chroma_inp"
        target = ["-vf", matrix, "-c:v", codec, *_FFMPEG_CODECS[codec], *colours]
        target += ["-pix_fmt", "yuv420p", "-movflags", "+faststart", "-y", str(path.resolve())]
        self._process = subprocess.Popen(
            [program, "-hide_banner", "-loglevel", "error", "-nostdin", *source, *target],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._messages,
        )
        self._pipe: Any = self._process.stdin

    def write(self, frame: np.ndarray) -> None:
        try:
            self._pipe.write(frame.data)
        except BrokenPipeError:
            self.close()

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._pipe.close()
        if self._process.wait() != 0:
            self._messages.seek(0)
            lines = self._messages.read().decode(errors="replace").split("\n")
            raise _EncoderFailed(f"ffmpeg could not write the video: {next(filter(None, lines), 'no reason given')}")
        self._messages.close()


class _OpenCV:
    def __init__(self, fourcc: str, path: Path, fps: float, width: int, height: int):
        import cv2

        self.codec = _OPENCV_CODECS[fourcc]
        self._writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*fourcc), fps, (width, height))
        if not self._writer.isOpened():
            raise UserError(f"OpenCV has no encoder {fourcc}")

    def write(self, frame: np.ndarray) -> None:
        self._writer.write(np.ascontiguousarray(frame[..., ::-1]))

    def close(self) -> None:
        self._writer.release()


def _ffmpeg_codec() -> tuple[str, str] | None:
    """The program and the first of its H.264 encoders we know; None where there is none. A trial decides: builds list
    encoders whose library or hardware is absent."""
    program = shutil.which("ffmpeg")
    if program is None:
        return None
    for codec in _FFMPEG_CODECS:
        trial = ["-f", "lavfi", "-i", "color=s=64x64:d=0.1", "-c:v", codec, "-pix_fmt", "yuv420p", "-f", "null", "-"]
        try:
            done = subprocess.run([program, "-v", "quiet", "-nostdin", *trial], capture_output=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode == 0:
            return program, codec
    return None


def _open_mp4(path: Path, fps: float, width: int, height: int) -> Encoder:
    if found := _ffmpeg_codec():
        return _Ffmpeg(*found, path, fps, width, height)
    for fourcc in _OPENCV_CODECS:
        try:
            with _silent_stderr():
                return _OpenCV(fourcc, path, fps, width, height)
        except UserError:
            continue
    raise UserError(f"{path}: nothing here can write an .mp4: put ffmpeg on the PATH, or use a name ending in .gif")


class _silent_stderr:
    """OpenCV and the FFmpeg inside it complain of each absent encoder on the process's stderr, past Python: it is
    pointed elsewhere for a moment."""

    def __enter__(self):
        self._saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)

    def __exit__(self, *_):
        os.dup2(self._saved, 2)
        os.close(self._saved)
