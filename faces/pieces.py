"""What an encoded picture may consist of besides its pixels: Pillow reads a header piece by piece, in Python.

A file of nothing but pieces (empty chunks of a PNG, comments of a JPEG, extensions of a GIF) costs minutes and many
times its own size in memory, before a pixel is seen and so before any clock runs. Here the reads are counted, and what
costs the square of its number is counted before.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from PIL import Image, TiffImagePlugin

from common.errors import BadImage

READS, BYTES = 200_000, 100  # reads of a file: so many, and one more for so many bytes; a GIF needs one for 128
EXIF_PARTS = 256  # of a JPEG's EXIF, 64 KiB each: every one is joined to those before
COMMENTS = 1000  # of a netpbm file of plain text: a copy of the text for each
NUMBERS, FRACTIONS = 2_000_000, 100_000  # of a TIFF's or EXIF's tag: an object in memory for each
TILE = 24_000_000  # pixels that a tile of a TIFF may have more than the picture
TOO_MANY = "is made of too many small pieces, refused: save it again"


class _Counted:
    """A file that may be read in so many pieces. BadImage where they are more."""

    name: Any

    def _begin(self, name: str, size: int) -> None:
        self._of, self._left = name, READS + size // BYTES

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise BadImage(self._of, TOO_MANY)


class CountedBytes(_Counted, io.BytesIO):
    def __init__(self, data: bytes, name: str = ""):
        super().__init__(data)
        self._begin(name, len(data))

    def read(self, size: int | None = -1, /) -> bytes:
        self._count()
        return super().read(size)


class CountedFile(_Counted, io.BufferedReader):
    """The file at a path, open to be read; closed by `close` or as a context."""

    def __init__(self, path: str):
        super().__init__(io.FileIO(path))
        self._begin(path, self.seek(0, io.SEEK_END))
        self.seek(0)

    def read(self, size: int | None = -1, /) -> bytes:
        self._count()
        return super().read(size)


def check_pieces(data: bytes, name: str) -> None:
    """BadImage where opening the file would cost the square of the number of its pieces."""
    if data.startswith(b"\xff\xd8") and data.count(b"Exif\0\0") > EXIF_PARTS:
        raise BadImage(name, f"a JPEG with EXIF in more than {EXIF_PARTS} parts, refused: save it again")
    if data[:2] in (b"P1", b"P2", b"P3") and data.count(b"#") > COMMENTS:
        raise BadImage(name, f"more than {COMMENTS} comments, refused: save it again")


def check_tiles(image: Image.Image, name: str) -> None:
    """BadImage where a TIFF's tiles are far larger than the picture they make up: each is unpacked whole."""
    if image.format != "TIFF":
        return
    width, height = (image.tag_v2.get(tag, 0) for tag in (322, 323))  # type: ignore[attr-defined]
    if not (isinstance(width, int) and isinstance(height, int)):
        raise BadImage(name, "broken image (its tiles have no size)")
    if width * height > image.width * image.height + TILE:
        raise BadImage(name, f"tiles of {width}x{height} pixels in a smaller picture, refused: save it again")


def _bounded(read: Callable, size: int, most: int) -> Callable:
    def bounded(self, data: bytes, *args) -> Any:
        if len(data) > size * most:
            raise ValueError(f"a tag of more than {most:,} numbers")
        return read(self, data, *args)

    return bounded


def bound_tags() -> None:
    """Hold Pillow's reader of tags to so many numbers in one. It is at work wherever there is EXIF, some of it before
    a file is open for us, and makes an object of each number."""
    readers = TiffImagePlugin.ImageFileDirectory_v2._load_dispatch
    for kind, (size, read) in readers.items():
        if kind in (5, 10):  # rational, signed rational
            readers[kind] = size, _bounded(read, size, FRACTIONS)
        elif kind not in (1, 2, 7):  # bytes, text and blobs stay what they are
            readers[kind] = size, _bounded(read, size, NUMBERS)
