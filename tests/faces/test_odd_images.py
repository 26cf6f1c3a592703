"""Image files that are odd but right, against references made without `faces.decode`: plain arithmetic, OpenCV,
ffmpeg; and files that can't be read, which say what would read them."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess

import cv2
import numpy as np
import pytest
from PIL import Image

import faces.foreign as foreign
from common.errors import BadImage
from faces.decode import decode, decode_image, load_image, open_header, upright_size
from faces.scan import scan
from faces.source import open_source
from metrics.images import SourceImages
from tests.faces.test_decode import PHOTO, encode, png_chunk, png_file

RNG = np.random.default_rng(3)


def tiff(values: np.ndarray, *, bits=16, white_is_zero=False, order="<", packed=None, extra=()) -> bytes:
    """A grey TIFF of one strip, by the specification (TIFF 6.0): values [H, W] as they are."""
    height, width = values.shape
    body = values.astype(f"{order}u2" if bits > 8 else "u1").tobytes() if packed is None else packed
    tags = {
        256: width,
        257: height,
        258: bits,
        259: 1,
        262: 0 if white_is_zero else 1,
        277: 1,
        278: height,
        **dict(extra),
    }
    tags |= {273: 0, 279: len(body)}
    start = 8 + 2 + 12 * len(tags) + 4
    tags[273] = start
    out = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8) + struct.pack(f"{order}H", len(tags))
    for tag, value in sorted(tags.items()):
        out += struct.pack(f"{order}HHII", tag, 4, 1, value)
    return out + bytes(4) + body


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_sixteen_bit_tiffs_have_white_where_they_say(order, white_is_zero):
    values = RNG.integers(0, 65536, (30, 44), dtype=np.uint16)
    found = decode_image(tiff(values, order=order, white_is_zero=white_is_zero), "a")[..., 0]
    light = 65535 - values.astype(int) if white_is_zero else values.astype(int)
    assert np.abs(found - light / 257).max() <= 1


def test_eight_bit_tiffs_with_white_as_zero():
    values = RNG.integers(0, 256, (30, 44), dtype=np.uint8)
    np.testing.assert_array_equal(decode_image(tiff(values, bits=8, white_is_zero=True), "a")[..., 1], 255 - values)


@pytest.mark.parametrize("white_is_zero", [False, True])
def test_twelve_bits_of_a_tiff_are_the_whole_range(white_is_zero):
    values = RNG.integers(0, 4096, (30, 44), dtype=np.uint16)
    first, second = values.reshape(-1, 2).T.astype(int)  # two samples in three bytes, the first bit first
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], -1).astype(np.uint8).tobytes()
    found = decode_image(tiff(values, bits=12, white_is_zero=white_is_zero, packed=packed), "a")[..., 2]
    light = 4095 - values.astype(int) if white_is_zero else values.astype(int)
    assert np.abs(found - light * 255 / 4095).max() < 1.1


def png16(samples: np.ndarray, bits: int | None, colour: int) -> bytes:
    rows = np.ascontiguousarray(samples.astype(">u2"))
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    extra = b"" if bits is None else png_chunk(b"sBIT", bytes([bits] * channels))
    return png_file(samples.shape[1], samples.shape[0], lines, extra, depth=16, colour=colour)


@pytest.mark.parametrize("colour", [0, 2, 6])
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_few_bits_in_sixteen_that_sbit_tells_of(colour, bits):
    """A camera's samples as they are (low), and as the specification has them (high): the same picture."""
    shape = (24, 36) if colour == 0 else (24, 36, 3)
    samples = RNG.integers(0, 1 << bits, shape).astype(np.uint16)
    expected = samples * 255.0 / ((1 << bits) - 1)
    expected = np.stack([expected] * 3, -1) if colour == 0 else expected
    full = 1 << bits
    low, high = samples, (samples << (16 - bits)) | (samples >> (2 * bits - 16))
    if colour == 6:
        low = np.dstack([low, np.full(shape[:2], full - 1)])
        high = np.dstack([high, np.full(shape[:2], 65535)])
    for written in (low, high):
        assert np.abs(decode_image(png16(written, bits, colour), "a") - expected).max() < 1.1
    # without a word about it nobody can know: 16 bits are 16 bits
    if colour != 6:
        assert decode_image(png16(low, None, colour), "a").max() <= (full - 1) >> 8


def test_a_dark_picture_whose_bits_stand_high_stays_dark():
    samples = (RNG.integers(0, 4000, (24, 36)) << 2).astype(np.uint16)  # below 16384, the low bits zero as scaled
    np.testing.assert_array_equal(decode_image(png16(samples, 14, 0), "a")[..., 0], samples >> 8)


def test_a_sbit_chunk_that_lies_is_not_believed():
    samples = RNG.integers(0, 65536, (24, 36)).astype(np.uint16)
    for bits in (0, 12, 16, 17, 200):
        np.testing.assert_array_equal(decode_image(png16(samples, bits, 0), "a")[..., 0], samples >> 8)


def test_the_recorded_cases(shared_dir):
    folder = shared_dir / "cases/images"
    raw = cv2.imread(str(folder / "miniswhite16.tif"), cv2.IMREAD_UNCHANGED)  # OpenCV gives the samples as they lie
    found = load_image(folder / "miniswhite16.tif")[..., 0]
    stored = np.frombuffer((folder / "miniswhite16.tif").read_bytes()[122 : 122 + 4800], "<u2").reshape(40, 60)
    np.testing.assert_array_equal(found, (65535 - stored.astype(int)) >> 8)
    assert raw is not None
    raw = cv2.imread(str(folder / "grey12in16_sBIT.png"), cv2.IMREAD_UNCHANGED)
    assert raw.max() < 4096
    np.testing.assert_array_equal(load_image(folder / "grey12in16_sBIT.png")[..., 0], raw >> 4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sides_of_turned_pictures_in_a_manifest(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind, name in (("TIFF", "a.tif"), ("JPEG", "b.jpg"), ("PNG", "c.png"), ("WEBP", "d.webp")):
        options = {"tiffinfo": {0x0112: orientation}} if kind == "TIFF" else {"exif": exif.tobytes()}
        (tmp_path / name).write_bytes(encode(Image.fromarray(PHOTO), kind, **options))
    source = open_source(tmp_path)
    for i, facts in enumerate(scan(source, workers=1)):
        height, width = source.image(i).shape[:2]
        expected = PHOTO.shape[:2] if orientation < 5 else PHOTO.shape[1::-1]
        assert (height, width) == (facts.height, facts.width) == expected, facts.path
        with open_header(source.read(i), "a") as image:
            assert upright_size(image) == (width, height)
        assert SourceImages(source, workers=1)._header(i)[1] == (height, width)
        assert source.decoded(i).rotated == (orientation != 1)


def test_multi_picture_jpegs(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(PHOTO).save(buffer, "MPO", save_all=True, append_images=[Image.fromarray(255 - PHOTO)], quality=95)
    (tmp_path / "3d.MPO").write_bytes(buffer.getvalue())
    source = open_source(tmp_path)
    assert len(source) == 1 and np.abs(source.image(0).astype(int) - PHOTO).mean() < 4
    assert source.decoded(0).format == "JPEG"


# ---- HEIC and AVIF ---------------------------------------------------------------------------------------------------


@pytest.fixture
def heif():
    return pytest.importorskip("pillow_heif", reason="the extra heif is not installed")


def heic(heif, pixels: np.ndarray, **how) -> bytes:
    buffer = io.BytesIO()
    heif.from_pillow(Image.fromarray(pixels)).save(buffer, quality=-1, chroma=444, **how)
    return buffer.getvalue()


def test_heic_photos(heif, tmp_path):
    smooth = cv2.GaussianBlur(RNG.integers(0, 256, (80, 112, 3), dtype=np.uint8), (0, 0), 5)
    data = heic(heif, smooth)
    found = decode(data, "a.heic")
    assert found.format == "HEIF" and found.pixels.shape == smooth.shape
    assert np.abs(found.pixels.astype(int) - smooth).mean() < 3
    exif = Image.Exif()
    exif[0x0112] = 6  # as a telephone held upright
    turned = decode_image(heic(heif, smooth, exif=exif.tobytes()), "a")
    assert np.abs(turned.astype(int) - np.rot90(smooth, -1)).mean() < 3
    for name in ("a.HEIC", "b.heif", "c.jpg", "d.hif"):
        (tmp_path / name).write_bytes(data)
    source = open_source(tmp_path)
    assert len(source) == 4 and {facts.format for facts in scan(source, workers=1)} == {"HEIF"}
    with pytest.raises(BadImage):
        decode_image(data[: len(data) // 2], "half.heic")


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg here")
def test_a_heic_photo_as_ffmpeg_decodes_it(heif, tmp_path):
    smooth = cv2.GaussianBlur(RNG.integers(0, 256, (64, 96, 3), dtype=np.uint8), (0, 0), 5)
    (tmp_path / "a.heic").write_bytes(heic(heif, smooth))
    call = ["ffmpeg", "-v", "error", "-i", str(tmp_path / "a.heic"), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(call, capture_output=True)
    if done.returncode or len(done.stdout) != smooth.size:
        pytest.skip("this ffmpeg reads no HEIC")
    theirs = np.frombuffer(done.stdout, np.uint8).reshape(smooth.shape).astype(int)
    assert np.abs(load_image(tmp_path / "a.heic") - theirs).mean() < 4


def test_without_the_library_the_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(foreign, "reads_heif", lambda: False)
    monkeypatch.setattr(foreign, "reads_avif", lambda: False)
    monkeypatch.setattr("faces.decode._formats", lambda: ("JPEG", "PNG", "TIFF"))
    for brand, words in (("heic", "pillow-heif"), ("mif1", "pillow-heif"), ("avif", "Pillow 11.3")):
        with pytest.raises(BadImage, match=f"a: .*needs {words}.*pip install"):
            decode_image(b"\0\0\0\x18ftyp" + brand.encode() + bytes(200), "a")
    with pytest.raises(BadImage, match=r"Pillow 11\.3"):
        decode_image(b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif" + bytes(200), "a")
    assert foreign.sort_of("x/IMG_1.HEIC") is foreign.HEIF and foreign.sort_of("b.avif") is foreign.AVIF


# ---- raw photos and what else is no picture --------------------------------------------------------------------------


RAWS = {
    "dng": tiff(np.zeros((8, 8)), extra={50706: 1}),
    "nef": tiff(np.zeros((8, 8)), extra={254: 1, 330: 8}),
    "cr2": b"II*\0\x10\0\0\0CR\x02\0" + bytes(200),
    "orf": b"IIRO\x08\0\0\0" + bytes(200),
    "rw2": b"IIU\0\x18\0\0\0" + bytes(200),
    "raf": b"FUJIFILMCCD-RAW 0201" + bytes(200),
    "x3f": b"FOVb" + bytes(200),
    "cr3": b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom" + bytes(200),
}


@pytest.mark.parametrize("name", RAWS)
def test_a_raw_photo_is_never_its_own_thumbnail(name):
    for called in (f"a.{name}", "a.tif", "a.jpg"):
        with pytest.raises(BadImage, match="a raw photo.*develop it"):
            decode_image(RAWS[name], called)


def test_what_else_is_no_picture_is_named():
    for start, words in (
        (b"PK\x03\x04", "an archive.*unpack it"),
        (b"Rar!\x1a\x07\0", "an archive"),
        (b"8BPS\0\x01", "a kind that is not read"),
        (b"\xff\x0a", "JPEG XL"),
    ):
        with pytest.raises(BadImage, match=words):
            decode_image(start + bytes(100), "a.jpg")
