"""The directories of a TIFF structure, as it is a file's own or EXIF's (TIFF 6.0, section 2)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from mmap import mmap

ORDERS = {b"II*\0": "<", b"MM\0*": ">"}  # how one begins: its byte order, for `struct`
Buffer = bytes | mmap  # a file's content, read or not yet
ENTRIES = 1000  # of a directory that are read


def entries(data: Buffer, order: str, start: int) -> Iterator[tuple[int, int, int, int]]:
    """(tag, type, number of values, where in `data` the four bytes lie that hold them or point to them) of each entry
    of the directory at `start`. struct.error, when its turn comes, for what lies outside."""
    (count,) = struct.unpack_from(order + "H", data, start)
    for at in range(start + 2, start + 2 + 12 * min(count, ENTRIES), 12):
        tag, kind, number = struct.unpack_from(order + "HHI", data, at)
        yield tag, kind, number, at + 8
