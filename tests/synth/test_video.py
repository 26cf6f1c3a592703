"""Video files: read back by OpenCV and Pillow frame for frame; whole or absent."""

import os
import shutil
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from faces.procedural.portrait import render_face
from synth.video import check_video, open_video


@pytest.fixture(scope="module")
def frames():
    """A face that moves to the right under a light that goes up."""
    face = render_face(3, 64)
    return [np.clip(np.roll(face, i, axis=1) * (0.5 + i / 22), 0, 255).astype(np.uint8) for i in range(11)]


def read(path):
    video = cv2.VideoCapture(str(path))
    frames = []
    while True:
        ok, frame = video.read()
        if not ok:
            return frames, video.get(cv2.CAP_PROP_FPS)
        frames.append(frame[..., ::-1])


def write_video(path, frames, fps, **options):
    with open_video(path, fps, **options) as video:
        for frame in frames:
            video.write(frame)
    return video.codec


def psnr(a, b):
    return 10 * np.log10(255**2 / np.square(np.asarray(a, float) - np.asarray(b, float)).mean())


def test_mp4_plays_back_with_the_same_frames(tmp_path, frames):
    codec = write_video(tmp_path / "new" / "walk.mp4", frames, 24, scale=2)
    found, fps = read(tmp_path / "new" / "walk.mp4")
    assert len(found) == len(frames) and fps == pytest.approx(24)
    assert any(word in codec for word in ("H.264", "VP9", "MPEG-4"))
    for frame, back in zip(frames, found):
        large = np.asarray(Image.fromarray(frame).resize((128, 128), Image.Resampling.BICUBIC))
        assert psnr(large, back) > 26  # lossy, and colours at half the resolution; a neighbouring frame gives 16
    assert os.listdir(tmp_path / "new") == ["walk.mp4"]


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg on the PATH")
def test_h264_where_there_is_ffmpeg(tmp_path, frames):
    assert "H.264 by ffmpeg" in write_video(tmp_path / "a.mp4", frames, 30)


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script in ffmpeg's place")
def test_an_encoder_that_gives_up_names_the_video(tmp_path, frames, monkeypatch):
    """As on a disk that fills: ffmpeg proves to have the codec, and then fails over the file."""
    program = tmp_path / "bin" / "ffmpeg"
    program.parent.mkdir()
    program.write_text(
        '#!/bin/sh\nfor last; do :; done\n[ "$last" = - ] && exit 0\n'
        'head -c 100 >/dev/null; echo "av_interleaved_write_frame(): No space left on device" >&2; exit 1\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(UserError) as told:
        write_video(tmp_path / "walk.mp4", frames, 30)
    assert str(told.value).startswith(f"{tmp_path / 'walk.mp4'}: ffmpeg could not write the video: av_inter")
    assert os.listdir(tmp_path) == ["bin"]


def test_without_a_working_ffmpeg_opencv_writes(tmp_path, frames, monkeypatch):
    program = tmp_path / ("ffmpeg.bat" if sys.platform == "win32" else "ffmpeg")
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "by OpenCV" in write_video(tmp_path / "a.mp4", frames, 30)
    assert len(read(tmp_path / "a.mp4")[0]) == len(frames)


@pytest.mark.parametrize("fps", [10, 30, 50])
def test_gif_has_every_frame_in_good_colours_at_the_right_speed(tmp_path, frames, fps):
    assert write_video(tmp_path / "walk.GIF", frames, fps) == "GIF"
    with Image.open(tmp_path / "walk.GIF") as gif:
        assert gif.format == "GIF" and gif.n_frames == len(frames) and gif.info["loop"] == 0
        total = 0
        for i, frame in enumerate(frames):
            gif.seek(i)
            total += gif.info["duration"]
            assert psnr(frame, gif.convert("RGB")) > 35
    assert total == pytest.approx(1000 * len(frames) / fps, abs=5)


def test_gif_of_equal_and_of_plain_frames(tmp_path):
    plain = [np.full((8, 8, 3), 9, np.uint8)] * 3
    write_video(tmp_path / "a.gif", plain, 10)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 3 and np.asarray(gif.convert("RGB")).tolist() == plain[0].tolist()


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_transparent_frames(tmp_path, channels):
    frame = np.full((16, 16, channels), 200, np.uint8)
    if channels == 4:
        frame[..., 3] = 0  # nothing but the mid-grey behind
    write_video(tmp_path / "a.gif", [frame], 10)
    pixels = np.asarray(Image.open(tmp_path / "a.gif").convert("RGB"))
    assert (pixels == (200 if channels == 1 else 128)).all()


@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
def test_an_interrupted_video_leaves_nothing(tmp_path, frames, name):
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error), open_video(tmp_path / name, 30) as video:
            video.write(frames[0])
            raise error
    with pytest.raises(ValueError, match="uint8"), open_video(tmp_path / name, 30) as video:
        video.write(frames[0].astype(float))
    with pytest.raises(UserError, match="at least one frame"), open_video(tmp_path / name, 30):
        pass
    assert not os.listdir(tmp_path)


def test_nothing_is_replaced_without_force(tmp_path, frames):
    path = tmp_path / "a.gif"
    path.write_bytes(b"mine")
    with pytest.raises(UserError, match="`force`"):
        write_video(path, frames, 10)
    with pytest.raises(KeyboardInterrupt), open_video(path, 10, force=True) as video:
        video.write(frames[0])
        raise KeyboardInterrupt
    assert path.read_bytes() == b"mine"
    write_video(path, frames, 10, force=True)
    assert path.read_bytes()[:6] == b"GIF89a"


@pytest.mark.parametrize(
    ("name", "fps", "said"),
    [
        ("a.avi", 30, "ends in .mp4 or .gif"),
        ("a", 30, "a.mp4"),
        ("a.gif", 60, "at most 50"),
        ("a.mp4", 0, "`fps` 0"),
        ("a.gif", 0.001, "`fps` 0.001: must be at least 0.01"),
    ],
)
def test_what_is_refused_before_the_first_frame(tmp_path, name, fps, said):
    with pytest.raises(UserError, match=said):
        check_video(tmp_path / name, fps)
    with pytest.raises(UserError, match="is there already"):
        check_video(tmp_path.parent / "x.mp4" if (tmp_path.parent / "x.mp4").exists() else _folder(tmp_path), 30)


def _folder(tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    return tmp_path / "folder.mp4"
