"""Frames are those of an independent decoder: the program ffmpeg, where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from faces.video import Video
from tests.faces.video_files import moving, write

FFMPEG = shutil.which("ffmpeg")
pytestmark = pytest.mark.skipif(FFMPEG is None, reason="the program ffmpeg is not installed")
ONE = 65536
# a, b, c, d of the display matrix: all turns by 90 degrees, with and without a mirror
TURNS = {
    "as it lies": (1, 0, 0, 1),
    "90": (0, 1, -1, 0),
    "180": (-1, 0, 0, -1),
    "270": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
    "upside down": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "transversed": (0, -1, -1, 0),
}


def by_ffmpeg(path: str, filters: str = "null", form: str = "rgb24") -> np.ndarray:
    """Every frame, as the program gives them [N, H, W, 3]."""
    raw = ["-f", "rawvideo", "-pix_fmt", form, "-"]
    quiet = [FFMPEG, "-v", "error", "-nostdin", "-i", path, "-vf", filters, "-vsync", "passthrough"]
    shown = subprocess.run([*quiet, *raw], capture_output=True, check=True).stdout
    with Video(path) as video:
        height, width = next(iter(video.frames(0))).pixels.shape[:2]
    return np.frombuffer(shown, np.uint8).reshape(-1, height, width, len(form.rstrip("24")))


def by_us(path: str) -> np.ndarray:
    with Video(path) as video:
        return np.stack([frame.pixels for frame in video.frames(0)])


def assert_alike(path: str, filters: str = "null", most: float = 0.5) -> np.ndarray:
    """The same frames but for the rounding of two versions of libswscale; returns ours."""
    ours, theirs = by_us(path), by_ffmpeg(path, filters)
    assert ours.shape == theirs.shape
    apart = np.abs(ours.astype(int) - theirs)
    assert apart.mean() <= most and apart.max() <= 12, (apart.mean(), apart.max())
    return ours


@pytest.mark.parametrize("turn", TURNS)
def test_turned_and_mirrored(tmp_path, turn):
    a, b, c, d = (ONE * x for x in TURNS[turn])
    matrix = (a, b, 0, c, d, 0, 48 * ONE, 48 * ONE, 1 << 30)
    path = write(tmp_path / "a.mp4", 3, picture=moving, matrix=matrix)
    shown = assert_alike(path)
    plain = by_us(write(tmp_path / "b.mp4", 3, picture=moving))
    assert (np.array_equal(shown, plain)) == (turn == "as it lies")


@pytest.mark.parametrize("aspect", [Fraction(4, 3), Fraction(3, 4), Fraction(2)])
def test_pixel_aspect(tmp_path, aspect):
    path = write(tmp_path / "a.mkv", 3, picture=moving, aspect=aspect)
    shown = assert_alike(path, "format=rgb24,scale=iw*sar:ih")
    assert shown.shape[1:3] == (48, int(64 * aspect))


def test_aspect_comes_before_the_turn(tmp_path):
    matrix = (0, ONE, 0, -ONE, 0, 0, 48 * ONE, 0, 1 << 30)
    path = write(tmp_path / "a.mp4", 3, picture=moving, aspect=Fraction(3, 2), matrix=matrix)
    with Video(path) as video:
        assert next(iter(video.frames(0))).pixels.shape == (96, 48, 3)


def woven(number: int, height: int, width: int) -> np.ndarray:
    """The upper field of one moment and the lower field of half a frame later."""
    frame = moving(2 * number, height, width)
    frame[1::2] = moving(2 * number + 1, height, width)[1::2]
    return frame


@pytest.mark.parametrize("codec", ["mpeg2video", "libx264"])
def test_interlaced(tmp_path, codec):
    flags = {"flags": "+ildct+ilme", "top": "1"} if codec == "mpeg2video" else {"x264-params": "tff=1", "crf": "5"}
    path = write(tmp_path / "a.mkv", 8, picture=woven, codec=codec, options=flags, size=(64, 96), fps=25)
    bwdif = "bwdif=mode=send_frame:parity=auto:deint=interlaced"
    ours, theirs, combed = by_us(path), by_ffmpeg(path, bwdif), by_ffmpeg(path)
    assert ours.shape == theirs.shape == (8, 64, 96, 3)
    assert np.abs(ours.astype(int) - theirs).mean() < 0.5
    assert np.abs(ours.astype(int) - combed).mean() > 1, "the fields are of two moments"

    # the comb is gone: lines are nearer to their neighbours than to the next but one's
    def lines(frames):
        return np.abs(np.diff(frames.astype(int), axis=1)).mean()

    assert lines(ours) < 0.8 * lines(combed)
    assert np.array_equal(by_us(path), ours), "the same frames each time"


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("form", ["yuv420p", "yuv422p", "yuv444p"])
def test_range_of_colours(tmp_path, full, form):
    """Where limited range is taken for full, or the other way, black and white are 16 levels off."""
    path = write(tmp_path / "a.mkv", 3, picture=moving, codec="ffv1", pix_fmt=form, full=full, options={})
    shown = assert_alike(path)
    flat = write(
        tmp_path / "b.mkv",
        2,
        codec="ffv1",
        pix_fmt=form,
        full=full,
        picture=lambda i, h, w: np.full((h, w, 3), 255 * i, np.uint8),
    )
    black, white = by_us(flat)
    assert black.max() <= 1 and white.min() >= 252
    assert np.abs(shown[0].astype(int) - moving(0)).mean() < 6


def test_variable_rate(tmp_path):
    times = [0, 40, 80, 700, 1500, 1520, 1540, 3100, 3200, 4900]
    path = write(tmp_path / "a.mkv", len(times), times=times, picture=moving, fps=25)
    with Video(path) as video:
        assert video.seconds == pytest.approx(5, abs=0.2) and video.count == 10
        found = [(frame.number, round(1000 * frame.seconds)) for frame in video.frames(0)]
        assert video.whole and not video.remarks()
    assert found == list(enumerate(times))
    theirs = by_ffmpeg(path)
    with Video(path) as video:
        for frame in video.frames(1.0):
            assert np.abs(frame.pixels.astype(int) - theirs[frame.number]).mean() < 0.5
    with Video(path) as video:
        assert [frame.number for frame in video.frames(1.0)] == [0, 4, 7, 9]


def test_animation_with_parts_and_holes(tmp_path):
    """Frames of a GIF that repaint a part only, over what was there before."""
    pictures = [Image.fromarray(np.full((48, 64, 3), 40, np.uint8))]
    for i in range(4):
        picture = pictures[-1].copy()
        picture.paste((250, 30 * i, 10), (5 + 12 * i, 10, 20 + 12 * i, 30))
        pictures.append(picture)
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=[100, 50, 300, 200, 100])
    shown = assert_alike(str(tmp_path / "a.gif"))
    assert np.abs(shown.astype(int) - np.stack([np.asarray(p) for p in pictures])).max() <= 3
    with Video(tmp_path / "a.gif") as video:
        assert [round(frame.seconds, 3) for frame in video.frames(0)] == [0, 0.1, 0.15, 0.45, 0.65]
