"""Videos as few programs write them, and damaged ones: what is not looked at, or was guessed, is said."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from discriminator.inputs import expand
from faces.video import Video, is_moving
from tests.faces.video_files import grey, moving, write


def read(path) -> tuple[list, Video]:
    with Video(str(path)) as video:
        return list(video.frames(0)), video


def packets(path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def remuxed(path, out, keep, change=lambda number, data: data) -> Path:
    """A copy with the packets of the numbers that are kept, each changed."""
    with av.open(str(path)) as source, av.open(str(out), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(p for p in source.demux(video=0) if p.size):
            if not keep(number):
                continue
            new = av.Packet(change(number, bytes(packet)))
            new.pts, new.dts, new.duration = packet.pts, packet.dts, packet.duration
            new.time_base, new.is_keyframe, new.stream = packet.time_base, packet.is_keyframe, stream
            target.mux(new)
    return Path(out)


X264 = {"codec": "libx264", "options": {"bf": "2", "g": "20"}, "picture": moving}
RAW = [
    ("h264", "libx264", {}),
    ("h264", "libx264", {"x264-params": "aud=1"}),
    ("hevc", "libx265", {"x265-params": "log-level=none:aud=1"}),
]


@pytest.mark.parametrize(("form", "codec", "options"), RAW)
def test_raw_streams_are_videos_of_their_own_rate(tmp_path, form, codec, options):
    """Before: left out of folders without a word unless they began with their parameters, and 25 frames a second."""
    path = write(tmp_path / f"a.{form}", 30, codec=codec, form=form, options=options)
    assert is_moving(path) and is_moving(Path(path).read_bytes(), "a")
    assert list(expand([str(tmp_path)])) == [path]
    frames, video = read(path)
    assert len(frames) == 29 and video.seconds == pytest.approx(3.0)  # the last may be half of one
    assert [frame.seconds for frame in frames] == pytest.approx([i / 10 for i in range(29)])
    assert video.remarks() == []


def test_a_rate_that_nobody_told_is_said(tmp_path):
    if "libsvtav1" not in av.codecs_available:
        pytest.skip("no encoder of AV1")
    _, video = read(write(tmp_path / "a.obu", 12, codec="libsvtav1", form="obu"))
    assert video.remarks() == ["it does not say how fast its frames follow: 25 a second were assumed"]


def test_several_videos_in_one_file_are_said(tmp_path):
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mpeg4", rate=10) for _ in range(2)]
        for stream, (height, width) in zip(streams, ((48, 64), (96, 128)), strict=True):
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(12):
            for stream in streams:
                frame = av.VideoFrame.from_ndarray(grey(i, stream.height, stream.width), format="rgb24")
                frame.pts, frame.time_base = i, Fraction(1, 10)
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    frames, video = read(path)
    height, width = frames[0].pixels.shape[:2]
    assert video.remarks() == [f"2 videos lie in it, of which one was looked at ({width}x{height})"]


@pytest.mark.parametrize(("primaries", "name"), [(9, "BT.2020"), (12, "Display P3"), (1, None)])
def test_wide_colours_are_said(tmp_path, primaries, name):
    path = write(tmp_path / "a.mp4", 12, codec="libx264", options={"x264-params": _primaries(primaries)})
    _, video = read(path)
    assert video.remarks() == ([f"wide colours ({name}) shown as if they were those of BT.709"] if name else [])


def _primaries(number: int) -> str:
    return f"colorprim={ {1: 'bt709', 9: 'bt2020', 12: 'smpte432'}[number] }:transfer=bt709:colormatrix=bt709"


def test_frames_that_never_come_are_counted(tmp_path):
    """A recording that begins between two key frames: the decoder passes over the first second in silence."""
    whole = write(tmp_path / "a.mkv", 60, **X264)
    frames, video = read(remuxed(whole, tmp_path / "b.mkv", lambda number: number >= 6))
    assert frames[0].seconds == pytest.approx(1.4, abs=0.21) and video.broken == 60 - 6 - len(frames) > 10
    assert video.remarks() == [f"{video.broken} of 54 frames can't be decoded and were left out"]


def test_frames_behind_a_damaged_one_are_counted(tmp_path):
    """The decoder of H.265 gives nothing at all until the next key frame, which here never comes."""
    whole = write(
        tmp_path / "a.mkv", 60, codec="libx265", picture=moving, options={"x265-params": "log-level=none:keyint=100"}
    )
    rng = np.random.default_rng(0)
    broken = remuxed(
        whole, tmp_path / "b.mkv", lambda number: True, lambda n, data: rng.bytes(len(data)) if n == 20 else data
    )
    frames, video = read(broken)
    assert len(frames) < 25 and video.broken == 60 - len(frames)


def test_a_hole_in_the_middle_is_said(tmp_path):
    whole = write(tmp_path / "a.mkv", 100, codec="mpeg4", picture=moving, options={"g": "1"})
    frames, video = read(remuxed(whole, tmp_path / "b.mkv", lambda number: not 40 <= number < 60))
    assert len(frames) == 80 and video.seconds == pytest.approx(10)
    assert video.remarks() == ["no pictures from 3.9 to 6.0 s: lost, or never recorded"]
    slow = write(tmp_path / "c.mkv", 30, times=[i * 100 if i < 15 else 1500 * (i - 14) for i in range(30)])
    assert read(slow)[1].remarks() == []  # a variable rate is no hole


def test_an_avi_that_lacks_what_its_header_tells(tmp_path):
    path = Path(write(tmp_path / "a.avi", 60, codec="mjpeg", picture=moving, pix_fmt="yuvj420p"))
    data = bytearray(path.read_bytes())
    data[len(data) * 4 // 10 : len(data) * 5 // 10] = bytes(len(data) * 5 // 10 - len(data) * 4 // 10)
    at = data.rfind(b"idx1")
    data[at : at + 4] = b"JUNK"
    path.write_bytes(data)
    frames, video = read(path)
    assert len(frames) < 58
    assert any(f"its header tells of 6.0 s, and {video.seconds:.1f} s are there" in r for r in video.remarks())


def test_b_frames_in_an_avi_have_their_numbers_and_times(tmp_path):
    """Before: 0, 2, 3, …, 41 of 40 frames."""
    frames, video = read(write(tmp_path / "a.avi", 40, codec="libx264", options={"bf": "3"}))
    assert [frame.number for frame in frames] == list(range(40)) and video.seconds == pytest.approx(4.0)
    assert [frame.seconds for frame in frames] == pytest.approx([i / 10 for i in range(40)])
    shades = [frame.pixels[40, 10].mean() for frame in frames]
    assert shades == sorted(shades)


def test_recordings_one_behind_the_other(tmp_path):
    """Their times begin anew: 6 s, not 4."""
    a, b = (Path(write(tmp_path / f"{n}.ts", n, codec="mpeg2video", picture=moving, fps=25)) for n in (50, 100))
    (tmp_path / "both.ts").write_bytes(a.read_bytes() + b.read_bytes())
    frames, video = read(tmp_path / "both.ts")
    times = [frame.seconds for frame in frames]
    assert video.seconds == pytest.approx(6.0, abs=0.1) and times[-1] == pytest.approx(5.9, abs=0.1)
    assert times == sorted(times) and max(np.diff(times)) < 0.2


def test_fragments_behind_a_broken_one(tmp_path):
    """Before: 4 of 10 seconds were judged, and the file was said to be whole."""
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w", options={"movflags": "frag_keyframe+empty_moov"}) as container:
        stream = container.add_stream("mpeg4", rate=10, options={"g": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(100):
            frame = av.VideoFrame.from_ndarray(moving(i), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert read(path)[1].whole
    data = bytearray(path.read_bytes())
    at = [i for i in range(len(data)) if data[i : i + 4] == b"moof"][4] - 4
    data[at : at + 8] = b"\x9c\x01\x02\x03\x04\x05\x06\x07"
    path.write_bytes(data)
    frames, video = read(path)
    assert len(frames) < 60 and not video.whole
    assert f"the file is broken after {video.seconds:.1f} s, and what follows was not looked at" in video.remarks()


def test_half_a_picture_of_motion_jpeg_is_no_frame(tmp_path):
    """Its decoder fills the rest with green, or leaves it as it was, and says nothing."""
    whole = write(tmp_path / "a.mkv", 12, codec="mjpeg", pix_fmt="yuvj420p", picture=moving)
    good = read(whole)[0]

    def change(number: int, data: bytes) -> bytes:
        if number != 5:
            return data
        at = data.index(b"\xff\xda") + 12
        middle = at + (len(data) - at) // 3
        return data[:middle] + b"\xff\xcf\x00\x02" + data[middle:]

    frames, video = read(remuxed(whole, tmp_path / "b.mkv", lambda number: True, change))
    for frame in frames:
        assert np.abs(frame.pixels.astype(int) - good[frame.number].pixels).mean() < 8
    assert len(frames) + video.broken == 12


def test_kinds_by_their_bytes():
    from faces.moving.kinds import kind_of

    for head, name in (
        (b"\0\0\1\x09\x10", "H.264 stream"),
        (b"\0\0\0\1\x06\x05", "H.264 stream"),
        (b"\x1f\x07\0\xbf", "DV"),
        (b"nut/multimedia container\0", "NUT"),
        (b"\x12\0\x0a\x0b", "AV1 stream"),
    ):
        assert kind_of(head) == ("video", name)
