"""What a file holds and nobody read is said: another file behind its end, frames behind a hole in it, broken checksums.

How many frames there are is known from writing them, or from the program ffprobe.
"""

from __future__ import annotations

import io
import random
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from common.errors import BadImage
from discriminator.inputs import expand
from faces.decode import decode_image
from faces.moving.checks import crc, ogg_holes, wrong_clusters
from faces.moving.ends import CLUSTER, EBML, SEGMENT, clusters, end_of
from faces.pages import pages_note
from faces.video import Video, is_moving
from tests.faces.test_video import animation
from tests.faces.video_files import moving, write

QUALITY = {"qmin": "4", "qmax": "40", "b": "500k"}
ASSUMED = "it does not say how fast its frames follow: 25 a second were assumed"


def read(data: bytes, name: str = "a") -> tuple[list, Video]:
    with Video(data, name) as video:
        return list(video.frames(0)), video


def behind(size: int, kind: str) -> str:
    told = f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{max(1, round(size / 1e3))} kB"
    return f"behind its end lie {told} more, which begin as {kind} does, and were not looked at"


def yuv4mpeg(count: int, height: int = 33, width: int = 45, form: str = "420jpeg") -> bytes:
    planes = height * width + 2 * ((height + 1) // 2) * ((width + 1) // 2)
    frames = [b"FRAME\n" + bytes([10 * i + 20]) * planes for i in range(count)]
    return f"YUV4MPEG2 W{width} H{height} F10:1 Ip C{form}\n".encode() + b"".join(frames)


def jpegs(count: int, side: int = 64) -> list[bytes]:
    out = []
    for i in range(count):
        file = io.BytesIO()
        Image.fromarray(moving(i, side, side)).save(file, "JPEG", quality=90)
        out.append(file.getvalue())
    return out


JOINED = {  # ending: codec, kind, whether players go on into what was joined on
    "mp4": ("mpeg4", "MP4", False),
    "mov": ("mpeg4", "QuickTime", False),
    "flv": ("flv", "FLV", False),
    "wmv": ("wmv2", "WMV/ASF", False),
    "ivf": ("libvpx", "IVF", False),
    "avi": ("mpeg4", "AVI", True),
    "mkv": ("mpeg4", "Matroska or WebM", True),
}


@pytest.mark.parametrize("ending", JOINED)
def test_files_that_were_joined(tmp_path, ending):
    """Before: half of their frames were judged, and nothing was said; an IVF was 9 000 million years long."""
    codec, kind, goes_on = JOINED[ending]
    a, b = (
        Path(write(tmp_path / f"{n}.{ending}", n, codec=codec, picture=moving, options=QUALITY)).read_bytes()
        for n in (20, 30)
    )
    assert end_of(io.BytesIO(a + b)).at == len(a) or goes_on
    for name, data in ((str(tmp_path / "both"), None), ("both", a + b)):
        (tmp_path / "both").write_bytes(a + b)
        with Video(name if data is None else data, name) as video:
            frames = list(video.frames(0))
        assert len(frames) == video.count == (50 if goes_on else 20) and video.whole
        assert video.seconds == pytest.approx(5.0 if goes_on else 2.0, abs=0.11)
        assert video.remarks() == ([] if goes_on else [behind(len(b), kind)])


@pytest.mark.parametrize("length", [None, 0, 1])
def test_an_mp4_whose_index_tells_of_more_than_there_is(tmp_path, length):
    """Before: whole, where the box of the frames had no length (0), or one that had been mended (1)."""
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("mpeg4", rate=10, options={"g": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(40):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(moving(i), format="rgb24")))
        container.mux(stream.encode(None))
    whole = path.read_bytes()
    assert read(whole)[1].remarks() == []
    data = bytearray(whole[: len(whole) * 6 // 10])
    at = data.index(b"mdat") - 4
    if length is not None:
        data[at : at + 4] = struct.pack(">I", length * (len(data) - at))
    frames, video = read(bytes(data))
    assert 5 < len(frames) < 25 and not video.whole and video.remarks()[0] == "the file ends early"


def test_an_mp4_in_fragments_with_another_behind_it(tmp_path):
    """Before: frames of the second were looked for in the first, and «26 of 26 frames can't be decoded»."""
    data = []
    for n in (20, 30):
        with av.open(str(tmp_path / "a.mp4"), "w", options={"movflags": "frag_keyframe+empty_moov"}) as container:
            stream = container.add_stream("mpeg4", rate=10, options={"g": "10"})
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for i in range(n):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(moving(i), format="rgb24")))
            container.mux(stream.encode(None))
        data.append((tmp_path / "a.mp4").read_bytes())
    frames, video = read(b"".join(data))
    assert (len(frames), video.broken) == (20, 0) and video.remarks() == [behind(len(data[1]), "MP4")]


def test_yuv4mpeg(tmp_path):
    whole, kind = yuv4mpeg(12), "YUV4MPEG"
    frames, video = read(whole)
    assert len(frames) == 12 and video.remarks() == []
    frames, video = read(whole[:-1])
    assert len(frames) == 11 and not video.whole and video.remarks() == ["the file ends early"]
    frames, video = read(whole + yuv4mpeg(9))
    assert len(frames) == 12 and video.whole and video.remarks() == [behind(len(yuv4mpeg(9)), kind)]
    for form, bits in (("mono", 8), ("422", 16), ("444", 24), ("420p10", 24), ("444alpha", 32), ("411", 12)):
        head = f"YUV4MPEG2 W64 H32 F10:1 C{form}\n".encode()
        data = head + 2 * (b"FRAME\n" + bytes(64 * 32 * bits // 8))
        assert end_of(io.BytesIO(data)) == (False, None, "", 0), form
        assert end_of(io.BytesIO(data[:-1])).early, form


def test_what_follows_an_ivf_is_no_frame_of_a_month_later(tmp_path):
    data = Path(write(tmp_path / "a.ivf", 20, codec="libvpx", picture=moving, options=QUALITY)).read_bytes()
    frames, video = read(data + struct.pack("<Iq", 1000, 300_000_000) + bytes(5000))
    assert len(frames) == 20 and video.seconds == pytest.approx(2.0) and not video.whole


@pytest.mark.parametrize(("form", "kind"), [("GIF", "GIF"), ("PNG", "PNG"), ("WEBP", "WebP")])
def test_animations_that_were_joined(tmp_path, form, kind):
    a = Path(animation(tmp_path / "a", 6, form)).read_bytes()
    b = Path(animation(tmp_path / "b", 9, form, first=5)).read_bytes()
    frames, video = read(a + b)
    assert len(frames) == 6 and video.remarks()[0] == behind(len(b), kind)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "PPM", "AVIF"])
def test_photos_that_were_joined(form):
    files = []
    for i in range(2):
        file = io.BytesIO()
        Image.fromarray(moving(i, 96, 96)).save(file, form)
        files.append(file.getvalue())
    kind = {"WEBP": "WebP"}.get(form, form)
    assert pages_note(files[0]) == pages_note(files[0] + bytes(3000)) == "", "padding is nothing"
    assert pages_note(b"".join(files)) == behind(len(files[1]), kind)
    assert pages_note(files[0] + b"trailer of a camera" * 50) == ""


def test_a_video_behind_a_photo(tmp_path):
    clip = Path(write(tmp_path / "a.mp4", 12)).read_bytes()
    assert pages_note(jpegs(1)[0] + clip) == behind(len(clip), "MP4")


def test_views_of_a_jpeg_are_counted_but_no_gain_maps():
    pictures = [Image.fromarray(moving(i, 96, 96)) for i in range(3)]
    file = io.BytesIO()
    pictures[0].save(file, "MPO", save_all=True, append_images=pictures[1:])
    with Image.open(file) as image:
        assert image.n_frames == 3
    assert pages_note(file.getvalue()) == "page 1 of 3: the others were not looked at"
    data = file.getvalue()
    third = data.rfind(b"\xff\xd8\xff")
    mapped = data[:third] + data[third:].replace(b"JFIF", b"hdrgm", 1)
    assert pages_note(mapped) == "page 1 of 2: the others were not looked at"


@pytest.mark.parametrize("name", ["a.mjpeg", "a.jpg"])
def test_raw_motion_jpeg_is_a_video(tmp_path, name):
    """Before: its first picture was judged, and nothing was said of the others."""
    pictures = jpegs(12)
    (tmp_path / name).write_bytes(b"".join(pictures))
    assert is_moving(tmp_path / name) and is_moving(b"".join(pictures), name)
    assert list(expand([str(tmp_path)])) == [str(tmp_path / name)]
    frames, video = read(b"".join(pictures))
    assert len(frames) == 12 and video.seconds == pytest.approx(12 / 25) and video.remarks() == [ASSUMED]
    for frame, data in zip(frames, pictures, strict=True):
        assert np.abs(frame.pixels.astype(int) - np.asarray(Image.open(io.BytesIO(data)))).mean() < 4
    frames, video = read(b"".join(pictures)[:-500])
    assert len(frames) == 11 and not video.whole and video.remarks()[0] == "the file ends early"


def test_few_jpegs_are_a_photo_and_what_is_behind_it():
    four, more = b"".join(jpegs(4)), jpegs(1)[0]
    other = jpegs(1, 80)[0]
    assert not is_moving(four, "a.mjpeg") and is_moving(four + more, "a.jpg")
    assert not is_moving(four + other, "a.jpg"), "of another size"
    assert pages_note(four) == behind(sum(map(len, jpegs(4)[1:])), "JPEG")
    assert read(four, "a.mjpeg")[1].remarks() == [pages_note(four)], "where it is taken for a video by its name"


def test_a_cut_webp_is_said_to_be_cut():
    file = io.BytesIO()
    Image.fromarray(moving(0, 96, 96)).save(file, "WEBP")
    with pytest.raises(BadImage, match="truncated image"):
        decode_image(file.getvalue()[:-99], "a.webp")


def with_hole(data: bytes, share: float = 0.1) -> bytes:
    begin, length = len(data) * 4 // 10, int(len(data) * share)
    return data[:begin] + bytes(length) + data[begin + length :]


def test_frames_behind_a_hole_in_a_webm(tmp_path):
    """Before: a third of the frames was judged, and the file was said to be whole."""
    big = {"size": (240, 320), "options": QUALITY}
    data = Path(write(tmp_path / "a.webm", 60, codec="libvpx", picture=moving, **big)).read_bytes()
    assert read(data)[1].remarks() == []
    frames, video = read(with_hole(data))
    assert len(frames) < 40 and not video.whole and video.remarks()[0].startswith("the file is broken")


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the program ffmpeg is not installed")
def test_sound_that_is_longer_words_and_fonts_are_no_holes(tmp_path):
    write(tmp_path / "a.mkv", 20, picture=moving)
    (tmp_path / "a.srt").write_text("1\n00:00:00,000 --> 00:00:01,500\nhello\n")
    (tmp_path / "a.ttf").write_bytes(random.Random(0).randbytes(300_000))
    asked = (
        "-v error -y -i a.mkv -f lavfi -i sine=d=20 -i a.srt -map 0 -map 1 -map 2 -c:v copy -c:a flac -c:s srt"
        " -attach a.ttf -metadata:s:t mimetype=application/x-truetype-font b.mkv"
    )
    subprocess.run(["ffmpeg", *asked.split()], check=True, cwd=tmp_path)
    frames, video = read((tmp_path / "b.mkv").read_bytes())
    assert len(frames) == 20 and video.whole and video.remarks() == []


def test_clusters_that_are_missing_in_a_matroska_file(tmp_path):
    size = (240, 320)
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w", options={"cluster_size_limit": "20000"}) as container:
        stream = container.add_stream("mjpeg", rate=10)
        (stream.height, stream.width), stream.pix_fmt = size, "yuvj420p"
        for i in range(30):
            frame = av.VideoFrame.from_ndarray(np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8), "rgb24")
            container.mux(stream.encode(frame.reformat(format="yuvj420p")))
        container.mux(stream.encode(None))
    assert read(path.read_bytes())[1].remarks() == []
    frames, video = read(with_hole(path.read_bytes()))
    assert 20 < len(frames) < 30 and not video.whole
    assert video.remarks()[0] == "the file is broken in 1 place, and the frames there were not looked at"


def test_an_avi_that_lacks_a_few_frames(tmp_path):
    """Before: up to half a second was not worth a word."""
    path = Path(write(tmp_path / "a.avi", 60, codec="mjpeg", picture=moving, pix_fmt="yuvj420p"))
    data = bytearray(with_hole(path.read_bytes(), 0.05))
    at = data.rfind(b"idx1")
    data[at : at + 4] = b"JUNK"
    frames, video = read(bytes(data))
    assert 54 < len(frames) < 60 and any("its header tells of 6.0 s" in remark for remark in video.remarks())


def slow_crc(data: bytes) -> int:
    """RFC 3533's, bit by bit."""
    value = 0
    for byte in data:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value >> 31 else 0)) & 0xFFFFFFFF
    return value


def test_checksum():
    data = random.Random(1).randbytes(500)
    assert crc(data) == slow_crc(data) and crc(data + struct.pack(">I", crc(data))) == 0


def ogg(path, count: int) -> bytes:
    return Path(
        write(path, count, codec="libvpx", form="ogg", picture=moving, options=QUALITY | {"g": "8"})
    ).read_bytes()


def test_pages_of_an_ogg_file_that_are_broken(tmp_path):
    """FFmpeg passes over them: what was predicted from their frames was judged, and nothing was said."""
    data = ogg(tmp_path / "a.ogg", 200)
    good = {round(10 * frame.seconds): frame.pixels for frame in read(data)[0]}
    at = [i for i in range(len(data)) if data.startswith(b"OggS", i)]
    assert len(good) == 200 and len(at) > 4 and ogg_holes(io.BytesIO(data)) == [] and read(data)[1].remarks() == []
    middle = at[len(at) // 2]
    flipped = data[: middle + 200] + bytes([data[middle + 200] ^ 8]) + data[middle + 201 :]
    gone = data[:middle] + data[at[len(at) // 2 + 1] :]
    for broken in (flipped, gone):
        assert ogg_holes(io.BytesIO(broken)) == [middle]
        frames, video = read(broken)
        assert len(frames) < 200 and not video.whole and "the file is broken in 1 place" in video.remarks()[0]
        assert all(np.array_equal(frame.pixels, good[round(10 * frame.seconds)]) for frame in frames), (
            "none that was predicted"
        )


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the program ffmpeg is not installed")
@pytest.mark.parametrize("sound", [False, True])
def test_chained_ogg_is_read_to_its_end(tmp_path, sound):
    """Before: the second stream's headers were three frames that can't be decoded; with sound there was a traceback."""
    parts = []
    for n, side in ((20, 64), (30, 96)):
        write(tmp_path / "a.mkv", n, picture=moving, size=(side, side))
        out = str(tmp_path / f"{n}.ogv")
        more = ["-f", "lavfi", "-i", "sine=d=2", "-c:a", "libvorbis"] if sound and parts else []
        asked = ["ffmpeg", "-v", "error", "-y", "-i", str(tmp_path / "a.mkv"), *more, "-c:v", "libtheora", out]
        done = subprocess.run(asked, check=False)
        if done.returncode:
            pytest.skip("no encoder of Theora")
        parts.append(Path(out).read_bytes())
    frames, video = read(b"".join(parts))
    assert len(frames) == video.count == 50 and video.broken == 0 and video.remarks() == []
    assert {frame.pixels.shape[0] for frame in frames} == {64, 96}


def damaged(path: str, draw: random.Random) -> bytes:
    """A video with three bits turned over in every fifth packet."""
    with av.open(path) as container:
        out = [(p.pos, bytes(p)) for p in container.demux(video=0) if p.size]
    whole = bytearray(Path(path).read_bytes())
    for pos, data in out[5::5]:
        place = whole.index(data, pos)
        for _ in range(3):
            whole[place + draw.randrange(len(data) // 3, len(data))] ^= 1 << draw.randrange(8)
    return bytes(whole)


@pytest.mark.parametrize(
    ("codec", "seed"),
    [*(("ffv1", seed) for seed in range(4)), ("wmv2", 1), ("wmv1", 1), ("msmpeg4", 4), ("msmpeg4v2", 0)],
)
def test_damage_that_a_decoder_hides(tmp_path, codec, seed):
    """FFV1's checksums were not looked at, and Microsoft's MPEG-4 gave what it had made up."""
    ending = "mkv" if codec == "ffv1" else "avi"
    options = {"slicecrc": "1", "level": "3", "g": "4"} if codec == "ffv1" else {"g": "4"}
    path = write(tmp_path / f"a.{ending}", 30, codec=codec, picture=moving, options=options, size=(144, 192))
    good = {frame.number: frame.pixels for frame in read(Path(path).read_bytes())[0]}
    frames, video = read(damaged(path, random.Random(seed)))
    assert len(good) == 30 > len(frames) and video.broken >= 30 - len(frames)
    wrong = [f.number for f in frames if np.abs(f.pixels.astype(int) - good[f.number]).mean() > 1]
    assert not wrong


def test_clusters_whose_checksums_are_wrong(tmp_path):
    """VP9's decoder finds nothing wrong; FFmpeg's Matroska files have checksums (those of WebM have none)."""
    path = write(tmp_path / "a.mkv", 80, codec="libvpx-vp9", picture=moving, options=QUALITY | {"cpu-used": "8"})
    assert read(Path(path).read_bytes())[1].remarks() == []
    frames, video = read(damaged(path, random.Random(1)))
    assert len(frames) >= 30
    assert "frames that were judged may be damaged" in video.remarks()[-1]


def test_clusters_too_small_for_their_checksums_are_not_read():
    """A length below 0 was asked of the file: a traceback; where the file lay in memory, all of it was read."""

    class Counting(io.BytesIO):
        count = 0

        def read(self, size=-1):
            data = super().read(size)
            self.count += len(data)
            return data

    segment, cluster = (name.to_bytes(4, "big") for name in (SEGMENT, CLUSTER))
    whole = cluster + b"\x8a" + b"\xbf\x84" + zlib.crc32(b"data").to_bytes(4, "little") + b"data"
    wrong = cluster + b"\x8a" + b"\xbf\x84" + bytes(4) + b"data"
    data = EBML + b"\x80" + segment + b"\xff" + 200 * (cluster + b"\x83\xbf\x84\0") + whole + wrong + b"\xec\xff"
    file = Counting(data + bytes(1_000_000))
    found, _ = clusters(file)
    assert len(found) == 202
    file.count = 0
    assert wrong_clusters(file, found) == 1 and file.count < 10_000


def test_dv_that_lost_a_part(tmp_path):
    data = Path(write(tmp_path / "a.dv", 6, codec="dvvideo", fps=25, size=(576, 720), picture=moving)).read_bytes()
    assert len(data) == 6 * 144_000 and len(read(data)[0]) == 6
    broken = data[:300_000] + bytes(40_000) + data[340_000:]
    frames, video = read(broken)
    assert [frame.number for frame in frames] == [0, 1, 3, 4, 5] and video.broken == 1
    assert "the file ends early" in read(data[:-1000])[1].remarks()


def test_a_hole_of_half_a_second_is_said(tmp_path):
    times = [100 * i for i in range(40) if not 15 <= i < 20]
    _, video = read(Path(write(tmp_path / "a.mkv", len(times), times=times)).read_bytes())
    assert video.remarks() == ["no pictures from 1.4 to 2.0 s: lost, or never recorded"]
