"""Pictures that consist of a great many pieces, or of few that cost much: refused at once, at the price of a header."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import ImageCms

from common.errors import BadImage
from faces import pieces, profiles
from faces.decode import decode_image
from faces.moving.animation import is_animated
from faces.video import is_moving
from tests.bad_files import encoded, photo, png

COUNT = 20_000
JPEG, PNG, GIF = (encoded(photo(), "JPEG"), encoded(photo(), "PNG"), encoded(photo().quantize(), "GIF"))
PALETTE = 13 + 3 * 256  # bytes of a GIF before its first block
EMPTY = struct.pack(">I", 0) + b"prVt" + struct.pack(">I", zlib.crc32(b"prVt"))
SMALL = {
    "comments of a JPEG": JPEG[:2] + b"\xff\xfe\0\2" * COUNT + JPEG[2:],
    "filling bytes of a JPEG": JPEG[:2] + b"\xff" * COUNT + JPEG[2:],
    "zeros of a JPEG": JPEG[:2] + b"\xff\0" * COUNT + JPEG[2:],
    "chunks of a PNG": PNG[:33] + EMPTY * COUNT + PNG[33:],
    "pixels of a PNG": PNG[:33] + EMPTY.replace(b"prVt", b"IDAT") * COUNT + PNG[33:],
    "extensions of a GIF": GIF[:PALETTE] + b"\x21\xf9\x04\0\0\0\0\0" * COUNT + GIF[PALETTE:],
    "comments before a netpbm's size": b"P6\n" + b"#\n" * COUNT + b"48 48\n255\n" + bytes(48 * 48 * 3),
}


@pytest.mark.parametrize("name", SMALL)
def test_many_small_pieces_are_refused(name, monkeypatch):
    monkeypatch.setattr(pieces, "READS", 1000)
    with pytest.raises(BadImage, match=r"^a\.x: is made of too many small pieces, refused: save it again$"):
        decode_image(SMALL[name], "a.x")


def test_whether_it_moves_is_asked_at_the_same_price(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "READS", 1000)
    (path := tmp_path / "a.gif").write_bytes(data := SMALL["extensions of a GIF"])
    assert not is_moving(data, "a.gif") and not is_moving(path)
    with pieces.CountedFile(str(path)) as file:
        assert not is_animated(file)
        assert file._left < 0, "it was given up by the count"


def test_an_ordinary_file_is_far_from_the_bound():
    """A GIF of 100 frames and a PNG in chunks of 8 KiB: the formats that are read in the smallest pieces."""
    frames = [photo(64, seed).quantize() for seed in range(100)]
    gif = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50)
    assert is_moving(gif, "a.gif")
    for data in (gif, encoded(photo(300), "PNG")):
        file = pieces.CountedBytes(data)
        assert is_animated(file) == (data is gif)
        assert pieces.READS + len(data) // pieces.BYTES - file._left < len(data) / 100 + 500


def test_exif_in_many_parts():
    part = b"\xff\xe1\0\x09Exif\0\0x"
    with pytest.raises(BadImage, match="a JPEG with EXIF in more than 256 parts"):
        decode_image(JPEG[:2] + part * 257 + JPEG[2:], "a.jpg")
    assert decode_image(JPEG[:2] + part * 256 + JPEG[2:], "a.jpg").shape == (48, 48, 3)


def test_comments_in_plain_text():
    plain = lambda count: b"P3\n2 1\n255\n1 2 3\n" + b"#\n" * count + b"4 5 6\n"  # noqa: E731
    assert decode_image(plain(1000), "a.ppm").tolist() == [[[1, 2, 3], [4, 5, 6]]]
    with pytest.raises(BadImage, match="more than 1000 comments"):
        decode_image(plain(1001), "a.ppm")


def tiff(*more: tuple[int, int, int, bytes | int], behind: bytes = b"") -> bytes:
    """48 x 48, RGB, deflated; `more` entries, those of bytes with their value behind the directory. 1 << 31: where what
    is `behind` lies."""
    entries = [(256, 4, 1, 48), (257, 4, 1, 48), (258, 3, 3, struct.pack("<3H", 8, 8, 8)), (259, 3, 1, 8),
               (262, 3, 1, 2), (277, 3, 1, 3), *more]  # fmt: skip
    at = 14 + 12 * len(entries)
    values = b"".join(value for *_, value in entries if isinstance(value, bytes))
    body, end = b"", at + len(values)
    for tag, kind, count, value in sorted(entries):
        body += struct.pack("<HHI", tag, kind, count)
        if isinstance(value, bytes):
            body += struct.pack("<I", at + values.index(value))
        else:
            body += struct.pack("<I", end if value == 1 << 31 else value)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4) + values + behind


def test_a_tile_that_is_larger_than_its_picture():
    """Before: a file of 2 MB with 48 x 48 pixels took 1.8 GB."""
    rows = zlib.compress(bytes(range(48)) * 48 * 3)
    strips = tiff((273, 4, 1, 1 << 31), (278, 4, 1, 48), (279, 4, 1, len(rows)), behind=rows)
    assert decode_image(strips, "a.tif")[0, 1].tolist() == [3, 4, 5]
    tile = lambda side: tiff(  # noqa: E731
        (322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, 1 << 31), (325, 4, 1, len(rows)), behind=rows
    )
    assert decode_image(tile(48), "a.tif")[0, 1].tolist() == [3, 4, 5]
    with pytest.raises(BadImage, match="tiles of 25008x25008 pixels in a smaller picture, refused"):
        decode_image(tile(25008), "a.tif")
    with pytest.raises(BadImage, match="its tiles have no size"):
        decode_image(
            tiff(
                (322, 11, 1, struct.unpack("<I", struct.pack("<f", 25008))[0]),
                (323, 4, 1, 48),
                (324, 4, 1, 8),
                (325, 4, 1, 8),
            ),
            "a.tif",
        )


@pytest.mark.parametrize(("kind", "size", "most"), [(5, 8, pieces.FRACTIONS), (4, 4, pieces.NUMBERS)])
def test_a_tag_of_very_many_numbers(kind, size, most):
    """Each becomes an object of its own: 26 MB of fractions took more than 500 MB and half a minute."""
    count = most + 1
    with pytest.raises(BadImage, match=f"a tag of more than {most:,} numbers"):
        decode_image(tiff((273, 4, 1, 8), (278, 4, 1, 48), (282, kind, count, bytes(size * count))), "a.tif")
    # as a photo's orientation it can't be read, which is no reason to lose the photo
    head = b"II*\0" + struct.pack("<IHHHII", 8, 1, 0x112, kind, count, 26) + bytes(4)
    exif = head + struct.pack("<I", 6) * (size // 4 * count)
    pixels = encoded(photo(), "WEBP", lossless=True, exif=exif)
    np.testing.assert_array_equal(decode_image(pixels, "a.webp"), np.asarray(photo()))


# ---- colour profiles ------------------------------------------------------------------------------------------------


def profile(elements: int) -> bytes:
    """A display's whose table (A2B0) leaves colours as they are, and whose floating-point tag (D2B0) is a row of
    matrices."""
    one = struct.pack(">9I", *(0x10000 if i % 4 == 0 else 0 for i in range(9)))
    ends = struct.pack(">6H", *(0, 65535) * 3)
    cube = b"".join(struct.pack(">3H", *(65535 * (i >> k & 1) for k in (2, 1, 0))) for i in range(8))
    table = b"mft2" + bytes(4) + bytes([3, 3, 2, 0]) + one + struct.pack(">HH", 2, 2) + ends + cube + ends
    matrix = b"matf" + bytes(4) + struct.pack(">HH12f", 3, 3, 0.9, 0.1, 0, 0.1, 0.8, 0.1, 0, 0.1, 0.9, 0, 0, 0)
    row = b"mpet" + bytes(4) + struct.pack(">HHI", 3, 3, elements)
    row += struct.pack(">II", 16 + 8 * elements, len(matrix)) * elements + matrix
    white = b"XYZ " + bytes(4) + struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)
    words = b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", 2, 28) + b"\0x"
    tags, body = b"", b""
    for name, data in ((b"desc", words), (b"cprt", words), (b"wtpt", white), (b"A2B0", table), (b"D2B0", row)):
        tags += name + struct.pack(">II", 128 + 4 + 12 * 5 + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = b"lcms\x04\x30\0\0mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28) + white[8:]
    head = struct.pack(">I", 132 + len(tags + body)) + head
    return head + bytes(128 - len(head)) + struct.pack(">I", 5) + tags + body


def test_elements_of_a_colour_profile_are_not_run(monkeypatch):
    """Before: 1.6 MB of them took minutes at 48 x 48 pixels. What the profile's tables say is heeded as ever."""
    built = []
    build = ImageCms.buildTransform
    monkeypatch.setattr(ImageCms, "buildTransform", lambda source, *more, **how: built.append(source) or build(
        source, *more, **how))  # fmt: skip
    profiles.transform_of.cache_clear()
    many, one = (decode_image(encoded(photo(), "PNG", icc_profile=profile(n)), "a.png") for n in (10_000, 1))
    assert len(built) == 2
    np.testing.assert_array_equal(many, one)
    assert b"D2B0" in profile(1) and b"D2B0" not in profiles._without_elements(profile(1))
    assert np.abs(many.astype(int) - np.asarray(photo())).max() > 20, "its table is not sRGB's"


def test_a_colour_profile_beyond_any_devices_is_left_out():
    """Before: the 32 last ones were kept, whatever their size."""
    profiles.transform_of.cache_clear()
    large = profile(1) + bytes(profiles.MOST)
    pixels = decode_image(encoded(photo(), "TIFF", icc_profile=large), "a.tif")
    np.testing.assert_array_equal(pixels, np.asarray(photo()))
    assert profiles.transform_of.cache_info().currsize == 0


def test_a_whole_png_is_still_read():
    assert decode_image(png(2, 1, rows=bytes([0, 1, 2, 3, 4, 5, 6])), "a.png").tolist() == [[[1, 2, 3], [4, 5, 6]]]
