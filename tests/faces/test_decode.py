"""Pixels of `faces.decode` against references made without it: OpenCV, plain arithmetic, hand-made files."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

import faces.decode as decode_module
from common.errors import BadImage, UserError, one_line
from faces.decode import decode, decode_image, load_image

RNG = np.random.default_rng(7)
PHOTO = cv2.GaussianBlur(RNG.integers(0, 256, (40, 56, 3), dtype=np.uint8), (0, 0), 3)


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_file(width: int, height: int, rows: bytes, extra: bytes = b"", depth: int = 8, colour: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + extra + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def cv2_rgb(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "TGA"])
def test_lossless_formats_return_the_pixels(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    got = decode_image(encode(Image.fromarray(PHOTO), kind, **options), "a")
    assert got.dtype == np.uint8 and got.flags.c_contiguous
    np.testing.assert_array_equal(got, PHOTO)


def test_jpeg_agrees_with_opencv():
    data = encode(Image.fromarray(PHOTO), "JPEG", quality=90, subsampling=0)
    assert np.abs(decode_image(data, "a").astype(int) - cv2_rgb(data)).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 95}, "PNG": {}, "WEBP": {"lossless": True}}[kind]
    data = encode(Image.fromarray(PHOTO), kind, exif=exif, **options)
    plain = decode_image(encode(Image.fromarray(PHOTO), kind, **options), "a")
    # the eight cases of the EXIF standard (tag 0x0112) in array language
    expected = {
        1: plain,
        2: plain[:, ::-1],
        3: plain[::-1, ::-1],
        4: plain[::-1],
        5: plain.transpose(1, 0, 2),
        6: np.rot90(plain, -1),
        7: plain[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(plain),
    }[orientation]
    found = decode(data, "a")
    np.testing.assert_array_equal(found.pixels, expected)
    assert found.rotated == (orientation != 1)
    if kind == "JPEG":
        assert np.abs(found.pixels.astype(int) - cv2_rgb(data)).max() <= 4


def test_nonsense_orientation_and_broken_exif_are_ignored():
    exif = Image.Exif()
    exif[0x0112] = 77
    np.testing.assert_array_equal(decode_image(encode(Image.fromarray(PHOTO), "PNG", exif=exif), "a"), PHOTO)
    junk = png_file(1, 1, b"\0\1\2\3", png_chunk(b"eXIf", b"not exif at all"), colour=2)
    np.testing.assert_array_equal(decode_image(junk, "a")[0, 0], [1, 2, 3])


def test_grey_becomes_three_equal_channels():
    grey = PHOTO[..., 0]
    for kind in ("PNG", "TIFF"):
        found = decode(encode(Image.fromarray(grey), kind), "a")
        np.testing.assert_array_equal(found.pixels, np.stack([grey] * 3, -1))
        assert found.mode == "grey"
    bits = Image.fromarray(grey > 128)
    np.testing.assert_array_equal(decode_image(encode(bits, "PNG"), "a")[..., 1], np.where(grey > 128, 255, 0))


@pytest.mark.parametrize("kind", [".png", ".tiff"])
def test_sixteen_bits_are_scaled_not_clipped(kind):
    deep = RNG.integers(0, 65536, (32, 40), dtype=np.uint16)
    found = decode(cv2.imencode(kind, deep)[1].tobytes(), "a")
    assert np.abs(found.pixels[..., 0] - deep / 257).max() < 1 and found.mode == "16-bit grey"
    exact = (PHOTO[..., 0].astype(np.uint16)) * 257
    np.testing.assert_array_equal(decode_image(cv2.imencode(kind, exact)[1].tobytes(), "a")[..., 2], PHOTO[..., 0])
    colour = PHOTO.astype(np.uint16) * 257
    data = cv2.imencode(kind, colour[..., ::-1])[1].tobytes()
    np.testing.assert_array_equal(decode_image(data, "a"), PHOTO)


def test_big_endian_sixteen_bit_tiff_and_netpbm():
    deep = RNG.integers(0, 65536, (32, 40), dtype=np.uint16)
    swapped = Image.frombytes("I;16B", (40, 32), deep.astype(">u2").tobytes())
    np.testing.assert_array_equal(decode_image(encode(swapped, "TIFF"), "a")[..., 0], deep >> 8)
    netpbm = b"P5 40 32 65535\n" + deep.astype(">u2").tobytes()
    np.testing.assert_array_equal(decode_image(netpbm, "a")[..., 0], deep >> 8)


def test_alpha_is_composited_over_mid_grey():
    alpha = RNG.integers(0, 256, PHOTO.shape[:2] + (1,), dtype=np.uint8)
    expected = np.rint((PHOTO.astype(float) * alpha + 128.0 * (255 - alpha)) / 255)
    rgba = Image.fromarray(np.concatenate([PHOTO, alpha], -1))
    for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
        found = decode(encode(rgba, kind, **options), "a")
        np.testing.assert_array_equal(found.pixels, expected)
        assert found.mode == "RGBA"
    la = Image.fromarray(np.concatenate([PHOTO[..., :1], alpha], -1), "LA")
    np.testing.assert_array_equal(decode_image(encode(la, "PNG"), "a")[..., 0], expected[..., 0])


def test_transparent_palette_and_colour_key():
    palette = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4), "P")
    palette.putpalette(RNG.integers(0, 256, 768, dtype=np.uint8).tolist())
    table = np.array(palette.getpalette()).reshape(-1, 3)
    plain = table[np.arange(12).reshape(3, 4)]
    np.testing.assert_array_equal(decode_image(encode(palette, "PNG"), "a"), plain)
    keyed = plain.copy()
    keyed.reshape(-1, 3)[5] = 128
    for kind in ("PNG", "GIF"):
        np.testing.assert_array_equal(decode_image(encode(palette, kind, transparency=5), "a"), keyed)
    rgb_key = encode(Image.new("RGB", (4, 4), (1, 2, 3)), "PNG", transparency=(1, 2, 3))
    assert (decode_image(rgb_key, "a") == 128).all()


def test_cmyk_jpeg_and_tiff():
    cmyk = cv2.GaussianBlur(RNG.integers(0, 256, (32, 32, 4), dtype=np.uint8), (0, 0), 4)
    ink = cmyk.astype(float) / 255
    expected = 255 * (1 - ink[..., :3]) * (1 - ink[..., 3:])
    image = Image.frombytes("CMYK", (32, 32), cmyk.tobytes())
    jpeg = encode(image, "JPEG", quality=100, subsampling=0)
    assert b"Adobe" in jpeg[:400]  # stored inverted, as Photoshop does
    for data, tolerance in ((jpeg, 3), (encode(image, "TIFF"), 1.5)):
        found = decode(data, "a")
        assert found.mode == "CMYK" and np.abs(found.pixels - expected).max() <= tolerance


def test_colour_profile_is_converted_to_srgb():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(decode_image(encode(Image.fromarray(PHOTO), "PNG", icc_profile=srgb), "a"), PHOTO)
    # sRGB with red and blue primaries exchanged: a file in it means the same colours with its channels exchanged
    swapped = srgb.replace(b"rXYZ", b"#tmp").replace(b"bXYZ", b"rXYZ", 1).replace(b"#tmp", b"bXYZ")
    assert swapped != srgb
    for kind in ("PNG", "JPEG", "TIFF"):
        plain = decode_image(encode(Image.fromarray(PHOTO), kind), "a").astype(int)
        found = decode_image(encode(Image.fromarray(PHOTO), kind, icc_profile=swapped), "a")
        assert np.abs(found - plain[..., ::-1]).max() <= 2, kind
    junk = encode(Image.fromarray(PHOTO), "PNG", icc_profile=b"junk" * 40)
    np.testing.assert_array_equal(decode_image(junk, "a"), PHOTO)


def grey_profile() -> bytes:
    """An ICC profile (version 2.4) of grey with the gamma 1.8."""
    white = struct.pack(">3i", 63190, 65536, 54061)  # D50
    bodies = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"grey\0" + bytes(79),
        b"wtpt": b"XYZ " + bytes(4) + white,
        b"kTRC": b"curv" + bytes(4) + struct.pack(">IHH", 1, 461, 0),
        b"cprt": b"text" + bytes(4) + b"none" + bytes(4),
    }
    table, rest, at = struct.pack(">I", len(bodies)), b"", 132 + 12 * len(bodies)
    for name, body in bodies.items():
        table, rest = table + name + struct.pack(">II", at + len(rest), len(body)), rest + body
    head = struct.pack(">I", at + len(rest)) + b"lcms" + bytes.fromhex("02400000") + b"mntrGRAYXYZ " + bytes(12)
    return (head + b"acsp" + bytes(28) + white).ljust(128, b"\0") + table + rest


def test_a_grey_profile_is_heeded_in_8_and_16_bits_and_beside_transparency():
    values = np.tile(np.arange(256, dtype=np.uint8), (4, 1))
    light = (values[0] / 255) ** (461 / 256)  # to sRGB by IEC 61966-2-1
    shown = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    grey, half = Image.fromarray(values), Image.new("L", (256, 4), 51)
    for image in (grey, Image.fromarray(values.astype(np.uint16) * 257)):
        for kind in ("PNG", "TIFF"):
            found = decode_image(encode(image, kind, icc_profile=grey_profile()), "a")
            assert np.abs(found - shown[:, None]).max() <= 1.5, (image.mode, kind)
    clear = decode_image(encode(Image.merge("LA", (grey, half)), "PNG", icc_profile=grey_profile()), "a")
    assert np.abs(clear - (shown[:, None] * 0.2 + 128 * 0.8)).max() <= 1.5
    keyed = decode_image(encode(grey, "PNG", icc_profile=grey_profile(), transparency=7), "a")
    assert (keyed[:, 7] == 128).all() and np.abs(np.delete(keyed - shown[:, None], 7, 1)).max() <= 1.5


@pytest.mark.parametrize("channels", [1, 3])
def test_the_transparent_colour_of_a_16_bit_png(channels):
    """One sample of 16 bits (PNG specification, 11.3.2.1); not what has the same lower byte."""
    samples = np.array([0, 0x1234, 0x3434, 0x8080, 0xFFFF], ">u2")
    rows = b"\0" + np.repeat(samples, channels).tobytes()
    key = png_chunk(b"tRNS", struct.pack(">H", 0x1234) * channels)
    found = decode_image(png_file(5, 1, rows, key, depth=16, colour=0 if channels == 1 else 2), "a")
    np.testing.assert_array_equal(found[0, :, 0], [0, 128, 0x34, 0x80, 0xFF])


def test_animations_give_the_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    for kind, options in (("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(decode_image(data, kind)[4, 4], [255, 0, 0])


BAD = {
    "empty": (b"", "empty file"),
    "text": (b"this is a text file\nnamed .jpg", "not an image"),
    "html": (b"<!doctype html><html>404</html>", "not an image"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
    "jpeg start": (b"\xff\xd8\xff\xe0", "header"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
    "float tiff": (encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "floating-point"),
    "float colour tiff": (cv2.imencode(".tiff", np.ones((4, 4, 3), np.float32))[1].tobytes(), "floating-point"),
    "int32 tiff": (encode(Image.fromarray(np.full((4, 4), 10**9, np.int32)), "TIFF"), "32-bit"),
    "bomb": (png_file(60000, 60000, b""), "refused"),
    "huge bomb": (png_file(2**31 - 1, 2**31 - 1, b""), "refused"),
    "text bomb": (png_file(1, 1, b"\0\0", png_chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(10**8)))), "broken"),
}


@pytest.mark.parametrize("case", BAD)
def test_refusals_are_one_line_with_a_reason(case):
    data, expected = BAD[case]
    with pytest.raises(BadImage) as info:
        decode_image(data, f"{case}.jpg")
    assert expected in info.value.reason and info.value.name == f"{case}.jpg"
    assert "\n" not in str(info.value) and str(info.value).startswith(f"{case}.jpg: ")
    assert len(info.value.reason) < 160


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF"])
@pytest.mark.parametrize("part", [0.04, 0.3, 0.6, 0.9])
def test_truncated_images_are_refused(kind, part):
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow has no {kind}")
    noise = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encode(noise, kind)
    with pytest.raises(BadImage):
        decode_image(data[: int(len(data) * part)], "cut")
    if kind == "JPEG" and part > 0.1:
        with pytest.raises(BadImage, match="cut: truncated image"):
            decode_image(data[: int(len(data) * part)], "cut")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_random_damage_never_escapes_as_another_error():
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"):
        data = np.frombuffer(encode(Image.fromarray(PHOTO), kind), np.uint8)
        for seed in range(60):
            rng = np.random.default_rng(seed)
            broken = data.copy()
            broken[rng.integers(0, len(data), 6)] = rng.integers(0, 256, 6)
            try:
                pixels = decode_image(broken.tobytes(), "a", max_pixels=10**6)
                assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
            except BadImage:
                pass


def test_a_pillow_without_some_formats(monkeypatch):
    monkeypatch.setattr(decode_module, "_formats", decode_module._formats.__wrapped__)
    for name in ("AVIF", "JPEG2000"):
        monkeypatch.delitem(Image.OPEN, name, raising=False)
    monkeypatch.setattr(Image, "init", lambda: None)
    np.testing.assert_array_equal(decode_image(encode(Image.fromarray(PHOTO), "PNG"), "a"), PHOTO)
    with pytest.raises(BadImage, match="a: not an image"):
        decode_image(b"text", "a")


def test_size_limits():
    one = encode(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG")
    np.testing.assert_array_equal(decode_image(one, "a"), [[[9, 8, 7]]])
    with pytest.raises(BadImage, match="1x1 pixels: too small"):
        decode_image(one, "a", min_side=16)
    with pytest.raises(BadImage, match="60000x1 pixels: a side of more than 32,767, refused"):
        decode_image(png_file(60000, 1, b"\0" + bytes(60000)), "a")
    wide = png_file(30000, 1, b"\0" + bytes(30000))
    assert decode_image(wide, "a").shape == (1, 30000, 3)
    with pytest.raises(BadImage, match="30000x1 pixels is more than the 5,000 allowed"):
        decode_image(wide, "a", max_pixels=5000)


def test_files(tmp_path):
    good = tmp_path / "a.png"
    good.write_bytes(encode(Image.fromarray(PHOTO), "PNG"))
    np.testing.assert_array_equal(load_image(good), PHOTO)
    for path, reason in ((tmp_path / "b.png", "no such file"), (tmp_path, "is a folder")):
        with pytest.raises(BadImage, match=reason):
            load_image(path)
    with pytest.raises(BadImage, match="no such file|null"):
        load_image("a\0b")


def test_error_lines_stay_one_printable_line():
    error = BadImage("new\nline\x1b[31m\udcff.jpg", "a\nb")
    assert str(error) == "new\\nline\\x1b[31m\\udcff.jpg: a\\nb" and str(error).isprintable()
    assert one_line("Gesicht äöü 顔.png") == "Gesicht äöü 顔.png"
    assert isinstance(error, UserError)
    import pickle

    copy = pickle.loads(pickle.dumps(error))
    assert (copy.name, copy.reason, str(copy)) == (error.name, error.reason, str(error))
