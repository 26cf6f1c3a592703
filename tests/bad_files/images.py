"""Images and archives of them."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

import numpy as np
from PIL import Image

from tests.bad_files.files import FILES, encoded, file, photo

FILES["good.jpg"] = lambda: encoded(photo(), "JPEG")
FILES["empty.jpg"] = bytes
FILES["text.jpg"] = lambda: b"this is no picture, whatever its name says" * 20
FILES["cut.jpg"] = lambda: encoded(photo(), "JPEG")[:900]
FILES["cut.png"] = lambda: encoded(photo(), "PNG")[:900]
FILES["cut.webp"] = lambda: encoded(photo(), "WEBP")[:500]
FILES["head.jpg"] = lambda: encoded(photo(), "JPEG")[:12]
FILES["tiny.png"] = lambda: encoded(photo(4), "PNG")
FILES["float.tif"] = lambda: encoded(Image.new("F", (32, 32)), "TIFF")
FILES["whole.tif"] = lambda: encoded(Image.fromarray(np.full((32, 32), 1 << 20, np.int32)), "TIFF")
FILES["svg.png"] = lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>'
FILES["postscript.jpg"] = lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(hello) show\n"


def scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is there again and again."""
    data = encoded(photo(), "JPEG", progressive=True)
    last = data.rfind(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + b"\xff\xd9"


FILES["scans.jpg"] = lambda: scans(120)


def png(width: int, height: int, kind: int = 2, rows: bytes = b"") -> bytes:
    """A PNG by hand, whose rows may be fewer than it claims."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


FILES["bomb.png"] = lambda: png(20_000, 20_000)
FILES["wide.png"] = lambda: png(40_000, 20)
FILES["rgba.png"] = lambda: png(12_000, 12_000, 6)


@file("broken.zip")
def _() -> bytes:
    return b"PK\x03\x04" + bytes(100)


@file("bomb.zip")
def _() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("real/a.png", encoded(photo(), "PNG"))
        archive.writestr("fake/b.png", bytes(1000))
    data = out.getvalue()  # the directory's size of the second member is made a terabyte's
    at = data.rfind(b"PK\x01\x02")
    return data[: at + 24] + struct.pack("<I", 0xF0000000) + data[at + 28 :]


for _ending in ("txt", "json", "jsonl"):  # half a sign of UTF-16: found by fuzzing
    FILES[f"half.{_ending}"] = lambda: b"\xff\xfea"


@file("nameless.zip")
def _() -> bytes:
    """One member, whose name is empty in the directory: found by fuzzing."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("x", encoded(photo(), "PNG"))
    data = out.getvalue()
    at = data.rfind(b"PK\x01\x02")
    entry = data[at : at + 28] + bytes(2) + data[at + 30 : at + 46]
    end = data.rfind(b"PK\x05\x06")
    tail = data[end : end + 12] + struct.pack("<I", len(entry)) + data[end + 16 :]
    return data[:at] + entry + tail
