"""Frames by time: videos written here, each frame with its number in its brightness."""

from __future__ import annotations

import io
import os
import random
import struct
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from common.errors import BadImage
from faces.decode import decode_image
from faces.moving.animation import Animation
from faces.moving.ends import end_of
from faces.moving.kinds import kind_of
from faces.moving.upright import turned
from faces.video import EVERY, LEAST, Limits, Video, is_moving, is_video_name
from tests.faces.video_files import moving, write

FPS = 10.0


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
    with Video(write(tmp_path / "b.avi", frames=40, fps=1)) as video:
        assert video.interval() == EVERY


def test_what_is_no_video_is_refused_by_name(tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder.mp4").mkdir()
    for name in ("text.mp4", "empty.mp4", "folder.mp4", "absent.mp4"):
        with pytest.raises(BadImage, match=name):
            list(Video(tmp_path / name).frames(1.0))


def test_names():
    assert (
        is_video_name("a/B.MP4") and is_video_name("x.webm") and not is_video_name("mp4") and not is_video_name("a.gif")
    )


def animation(path, count: int = 6, form: str = "GIF", first: int = 0) -> str:
    """Frame i is a flat grey of 30 i + first, shown for 100 ms."""
    pictures = [Image.fromarray(np.full((24, 32, 3), (30 * i + first) % 256, np.uint8)) for i in range(count)]
    more = {"lossless": True} if form == "WEBP" else {}
    pictures[0].save(path, form, save_all=True, append_images=pictures[1:], duration=100, **more)
    return str(path)


@pytest.mark.parametrize(("form", "name"), [("GIF", "a.gif"), ("WEBP", "a.webp"), ("PNG", "a.png")])
def test_animations_are_videos(tmp_path, form, name):
    path = animation(tmp_path / name, form=form)
    assert is_moving(path)
    with Video(path) as video:
        assert (video.count, video.seconds) == (6, pytest.approx(0.6)) and video.interval() == pytest.approx(
            0.6 / LEAST
        )
        frames = list(video.frames(0))
        assert video.whole
    assert [round(frame.seconds, 3) for frame in frames] == [0, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert [int(frame.pixels.mean() + 0.5) for frame in frames] == [0, 30, 60, 90, 120, 150]
    animation(tmp_path / "still", count=1, form=form)
    assert not is_moving(tmp_path / "still")


@pytest.mark.parametrize("brand", [b"avis", b"msf1", b"mif1"])
def test_an_avif_is_an_animation_whatever_its_major_brand(tmp_path, brand):
    """AVIF 1.2, 6.3: `avis` may stand among the compatible brands alone."""
    pictures = [Image.fromarray(np.full((24, 32, 3), 40 * i, np.uint8)) for i in range(6)]
    files = {}
    for name, more in (("moving", pictures[1:]), ("still", [])):
        pictures[0].save(tmp_path / name, "AVIF", save_all=True, append_images=more, duration=100)
        data = (tmp_path / name).read_bytes()
        files[name] = data[:8] + brand + data[12:]
    assert is_moving(files["moving"], "a.avif") and not is_moving(files["still"], "a.avif")
    with Video(files["moving"], "a.avif") as video:
        assert len(list(video.frames(0))) == 6


def test_see_through_parts_of_an_animation_lie_on_grey(tmp_path):
    pictures = [Image.new("RGBA", (8, 8), (200, 0, 0, alpha)) for alpha in (0, 128, 255)]
    pictures[0].save(tmp_path / "a.png", save_all=True, append_images=pictures[1:], duration=50)
    with Video(tmp_path / "a.png") as video:
        assert [tuple(frame.pixels[0, 0]) for frame in video.frames(0)] == [(128,) * 3, (164, 64, 64), (200, 0, 0)]


def test_a_file_is_what_its_bytes_say(tmp_path):
    os.rename(write(tmp_path / "a.mp4", 20), tmp_path / "holiday.jpg")
    Image.fromarray(moving(0)).save(tmp_path / "photo.mp4", "JPEG")
    animation(tmp_path / "moving.jpg")
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "text.jpg").write_text("not a picture")
    found = {name: is_moving(tmp_path / name) for name in os.listdir(tmp_path)}
    assert found == {"holiday.jpg": True, "photo.mp4": False, "moving.jpg": True, "text.mp4": True, "text.jpg": False}
    with Video(tmp_path / "holiday.jpg") as video:
        assert len(list(video.frames(0))) == 20
    with pytest.raises(BadImage, match=r"a video \(MP4\), not an image"):
        decode_image((tmp_path / "holiday.jpg").read_bytes(), "holiday.jpg")
    with pytest.raises(BadImage, match="not a video"):
        Video(b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n", "list.mp4")


@pytest.mark.parametrize(
    ("ending", "codec", "name"),
    [
        ("mp4", "mpeg4", "MP4"),
        ("mov", "mpeg4", "QuickTime"),
        ("mkv", "mpeg4", "Matroska or WebM"),
        ("avi", "mpeg4", "AVI"),
        ("flv", "flv1", "FLV"),
        ("wmv", "wmv2", "WMV/ASF"),
        ("ts", "mpeg2video", "MPEG transport stream"),
        ("mpg", "mpeg2video", "MPEG program stream"),
        ("gif", None, "GIF"),
        ("png", None, "PNG"),
    ],
)
def test_ends_early_is_said_where_it_is_true(tmp_path, ending, codec, name):
    path = tmp_path / f"a.{ending}"
    if codec is None:
        animation(path, count=40, form=ending.upper())
    else:
        write(path, 50, codec="flv" if codec == "flv1" else codec, picture=moving, fps=25, size=(96, 128))
    data = path.read_bytes()
    assert kind_of(data[:4096]).name == name
    with Video(path) as video:
        shown = [frame.pixels for frame in video.frames(0)]
        assert video.whole and not [r for r in video.remarks() if "GIF" not in r] and len(shown) == video.count
    assert not end_of(io.BytesIO(data)).early and not end_of(io.BytesIO(data + bytes(500))).early, "padding is no loss"
    cut = data[: len(data) * 6 // 10]
    known = ending not in ("ts", "mpg")  # these say nowhere how long they are
    assert end_of(io.BytesIO(cut)).early == known
    try:
        with Video(cut, "cut") as video:
            left = [(frame.number, frame.pixels) for frame in video.frames(0)]
            assert video.whole == (not known) and ("the file ends early" in video.remarks()) == known
    except BadImage as error:
        assert ending in ("mp4", "mov") and "its index (moov) is not there" in str(error)
        return
    assert 0 < len(left) < len(shown)
    for number, pixels in left:
        assert np.array_equal(pixels, shown[number]), "a frame is whole, or it is not given"


@pytest.mark.parametrize("seed", range(4))
def test_damaged_frames_are_left_out_and_counted(tmp_path, seed):
    """What is given is what the whole file has, or is at least decoded without an error after a key frame."""
    data = bytearray(
        open(write(tmp_path / "a.mkv", 60, codec="libx264", picture=moving, options={"g": "10"}), "rb").read()
    )
    draw = random.Random(seed)
    for _ in range(20):
        data[draw.randrange(len(data) // 3, len(data) // 2)] ^= draw.randrange(1, 256)
    given = []
    for _ in range(3):
        with Video(bytes(data), "a.mkv") as video:
            given.append([(frame.number, frame.pixels) for frame in video.frames(0)])
            assert video.broken and "can't be decoded" in video.remarks()[0]
    assert all(len(one) == len(given[0]) for one in given) and len(given[0]) + video.broken <= 61
    for first, again in zip(given[0] * 2, given[1] + given[2]):
        assert first[0] == again[0] and np.array_equal(first[1], again[1]), "the same frames each time"


def test_limits(tmp_path):
    path = write(tmp_path / "a.mp4", 50)
    with Video(path, limits=Limits(frames=7)) as video:
        assert video.interval(0) == pytest.approx(5 / 7) and len(list(video.frames(video.interval(0)))) == 7
    with Video(path, limits=Limits(frames=7)) as video:
        assert len(list(video.frames(0))) == 7
    with pytest.raises(BadImage, match="more than 3,000 pixels, refused"):
        Video(path, limits=Limits(pixels=3000))
    with pytest.raises(BadImage, match="too small"):
        Video(path, limits=Limits(side=50))
    with pytest.raises(BadImage, match="refused"):
        Video(animation(tmp_path / "a.gif"), limits=Limits(pixels=700))
    with Video(path, limits=Limits(seconds=0.4)) as video:
        given = [time.sleep(0.1) for _ in video.frames(0)]
        assert 0 < len(given) < 50 and "stopped after 0.4 s of work: only its first" in video.remarks()[0]
    with pytest.raises(BadImage, match="refused"), Video(path, limits=Limits(seconds=0)) as video:
        list(video.frames(0))


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "AVIF"])
def test_seconds_are_shared_between_counting_an_animation_and_looking_at_it(tmp_path, monkeypatch, form):
    """Each frame takes a second: counting the forty of them left no time to look at one, and no face was found."""
    now, opened = [0.0], Animation._opened
    monkeypatch.setattr("faces.moving.frame.time", SimpleNamespace(monotonic=lambda: now[0]))

    def slow(self):
        image = opened(self)
        seek = image.seek

        def later(number):
            now[0] += 1
            seek(number)

        image.seek = later
        return image

    monkeypatch.setattr(Animation, "_opened", slow)

    def looked_at(limits, between=0.0):
        count = 0
        with Video(path, limits=limits) as video:
            for _ in video.frames(0):
                now[0], count = now[0] + between, count + 1
        return count, [remark for remark in video.remarks() if "GIF" not in remark]

    path = animation(tmp_path / "a", 40, form)
    assert looked_at(Limits(seconds=100)) == looked_at(Limits()) == (40, [])
    count, (remark,) = looked_at(Limits(seconds=20.5))
    assert 9 <= count <= 11
    assert remark == f"stopped after 20.5 s of work: only its first {count / 10:.1f} s were looked at"
    count, (remark,) = looked_at(Limits(seconds=90), 5.0)
    assert count == 9 and remark == "stopped after 90 s of work: only its first 0.9 of 4.0 s were looked at"
    assert looked_at(Limits(seconds=90, decoding_alone=True), 5.0) == (40, [])
    count, (remark,) = looked_at(Limits(seconds=20.5, decoding_alone=True), 5.0)
    assert 9 <= count <= 11 and "of decoding: only" in remark
    with pytest.raises(BadImage, match="no frame could be decoded within 0.9 s, refused"):
        looked_at(Limits(seconds=0.9))


def test_no_picture_in_it_is_said(tmp_path):
    import av

    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(BadImage, match="only sound in it"):
        Video(tmp_path / "sound.mp4")


def test_without_a_duration(tmp_path):
    """As browsers record: neither header nor file say how long it is."""
    out = io.BytesIO()
    out.seekable = lambda: False  # so that nothing can be filled in at the end
    import av

    with av.open(out, "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(30):
            frame = av.VideoFrame.from_ndarray(moving(i), format="rgb24").reformat(format="yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with Video(out.getvalue(), "recorded.webm") as video:
        assert video.seconds == pytest.approx(3, abs=0.05) and video.count == 30
        assert len(list(video.frames(video.interval()))) >= LEAST and video.whole


@pytest.mark.parametrize("degrees", [0, 3, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_display_matrix_moves_each_pixel(degrees, mirrored):
    """Against the definition: pixel (p, q) goes to (a p + c q, b p + d q), and the picture back to where it began."""
    picture = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    turn = np.deg2rad(degrees)
    a, b, c, d = np.array([np.cos(turn), np.sin(turn), -np.sin(turn), np.cos(turn)])
    a, c = (-a, -c) if mirrored else (a, c)
    matrix = struct.pack("=9i", *(int(65536 * x) for x in (a, b, 0, c, d, 0, 0, 0, 16384)))
    a, b, c, d = (int(round(float(x))) for x in (a, b, c, d))
    at = {(a * p + c * q, b * p + d * q): picture[q, p, 0] for p in range(4) for q in range(3)}
    left, top = (min(place[k] for place in at) for k in (0, 1))
    shown = turned(picture, matrix)
    for (x, y), value in at.items():
        assert shown[y - top, x - left, 0] == value
