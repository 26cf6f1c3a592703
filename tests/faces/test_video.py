"""Frames by time: videos written here, each frame with its number in its brightness."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from common.errors import BadImage
from faces.video import EVERY, LEAST, Video, is_video_name

FPS = 10.0


def write(path, frames: int = 40, fps: float = FPS) -> str:
    """Frame i is a flat grey of 4 i + 20, with a red and a blue half to tell the channels by."""
    out = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, (64, 48))
    if not out.isOpened():
        pytest.skip("this OpenCV writes no MJPG")
    for i in range(frames):
        frame = np.full((48, 64, 3), 4 * i + 20, np.uint8)
        frame[:24, :32, 2], frame[:24, 32:, 0] = 255, 255  # BGR: red left, blue right
        out.write(frame)
    out.release()
    return str(path)


def numbers(path: str, every: float) -> list[tuple[int, float]]:
    with Video(path) as video:
        return [(frame.number, frame.seconds) for frame in video.frames(every)]


def test_frames_come_at_their_time(tmp_path):
    path = write(tmp_path / "a.avi")
    assert numbers(path, 1.0) == [(0, 0.0), (10, pytest.approx(1)), (20, pytest.approx(2)), (30, pytest.approx(3))]
    assert [n for n, _ in numbers(path, 0.25)] == [0, 3, 5, 8, 10, 13, 15, 18, 20, 23, 25, 28, 30, 33, 35, 38]
    assert [n for n, _ in numbers(path, 0)] == list(range(40))
    assert numbers(path, 60.0) == [(0, 0.0)]


def test_pixels_are_those_of_the_frame_in_rgb(tmp_path):
    with Video(write(tmp_path / "a.avi")) as video:
        assert video.fps == pytest.approx(FPS) and video.seconds == pytest.approx(4)
        for frame in video.frames(1.0):
            assert frame.pixels.shape == (48, 64, 3) and frame.pixels.dtype == np.uint8
            assert abs(int(np.median(frame.pixels[30:])) - (4 * frame.number + 20)) <= 6
            assert frame.pixels[5, 5, 0] > frame.pixels[5, 5, 2] + 40 and frame.pixels[5, 60, 2] > 200
        assert video.whole


def test_short_videos_are_looked_at_more_often(tmp_path):
    with Video(write(tmp_path / "a.avi")) as video:
        assert video.interval() == pytest.approx(4 / LEAST) and video.interval(2.0) == 2.0
    with Video(write(tmp_path / "b.avi", frames=40, fps=1.0)) as video:
        assert video.interval() == EVERY


def test_what_is_no_video_is_refused_by_name(tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder.mp4").mkdir()
    for name in ("text.mp4", "empty.mp4", "folder.mp4", "absent.mp4"):
        with pytest.raises(BadImage, match=name):
            list(Video(tmp_path / name).frames(1.0))


def test_a_video_cut_short_gives_what_it_has(tmp_path):
    data = open(write(tmp_path / "a.avi", frames=58), "rb").read()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) // 2])
    try:
        with Video(tmp_path / "cut.avi") as video:
            found = list(video.frames(0))
    except BadImage:
        return  # without its index this FFmpeg may not open it at all
    assert 0 < len(found) < 58


def test_names():
    assert (
        is_video_name("a/B.MP4") and is_video_name("x.webm") and not is_video_name("mp4") and not is_video_name("a.gif")
    )
