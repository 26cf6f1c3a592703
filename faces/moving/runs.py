"""Where files end that are pictures one behind the other, or a single one, each of a length that can be found.

Each function takes a seekable file and its size and gives the byte behind the last element: beyond `size` where the
file was cut short, None where it can't be told.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import BinaryIO

MOST = 200_000  # elements that are walked over
HOLES = 100  # places at which something is missing that are looked behind
PAUSE = 3600  # seconds from one frame of an IVF to the next, at most
GLANCE = 64 << 20  # bytes of a JPEG in which its end is looked for
RUN = 5  # JPEGs one behind the other that are a video: of fewer frames no verdict on one is given
DIF = 12_000  # bytes of a DIF sequence of DV (IEC 61834)
SOI, EOI = b"\xff\xd8\xff", b"\xff\xd9"
SOF = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
PLANES = {"420": (2, 2), "411": (4, 1), "422": (2, 1), "444": (1, 1)}  # of YUV4MPEG: how much narrower, lower


def at_of(file: BinaryIO, where: int, count: int) -> bytes:
    file.seek(where)
    return file.read(count)


def gif(file: BinaryIO, size: int) -> int | None:
    """GIF89a: blocks until the trailer, which a file that is whole has."""
    flags = at_of(file, 0, 13)[10:11]
    if not flags:
        return size + 1
    at = 13 + _table(flags[0])
    for _ in range(MOST):
        head = at_of(file, at, 10)
        if head[:1] == b"\x2c" and len(head) == 10:
            at += 11 + _table(head[9])
        elif head[:1] == b"\x21" and len(head) >= 2:
            at += 2
        elif not head or head[:1] in b"\x2c\x21":
            return size + 1
        else:
            return at + 1 if head[:1] == b"\x3b" else None
        while (length := at_of(file, at, 1)) not in (b"", b"\0"):
            at += 1 + length[0]
        if not length:
            return size + 1
        at += 1
    return None


def _table(flags: int) -> int:
    """Bytes of a colour table."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def png(file: BinaryIO, size: int) -> int | None:
    at = 8
    for _ in range(MOST):
        head = at_of(file, at, 8)
        if len(head) < 8:
            break
        at += 12 + int.from_bytes(head[:4], "big")
        if head[4:] == b"IEND":
            return at
    # else a length in it is broken
    return None if at_of(file, max(0, size - 12), 12).startswith(b"\0\0\0\0IEND") else size + 1


def jpeg(file: BinaryIO, size: int) -> int | None:
    """The first picture's end; a file that lacks one is decoded by what there is of it."""
    picture = _jpeg_at(file, 0, size)
    return None if picture is None else picture[1]


def _jpeg_at(file: BinaryIO, begin: int, size: int) -> tuple[bytes, int] | None:
    """Of the JPEG that begins at a byte: its sides, as they are written, and where it ends. None of one that is none,
    or has no end, or is one of several by its own word (CIPA DC-007: views and reduced copies of one photo)."""
    at, sides = begin + 2, b""
    for _ in range(MOST):
        head = at_of(file, at, 9)
        if len(head) < 9 or head[0] != 0xFF:
            return None
        if head[1] == 0xFF:  # filling
            at += 1
            continue
        if head[1] == 0xE2 and head[4:8] == b"MPF\0":
            return None
        if head[1] in SOF:
            sides = head[5:9]
        at += 2 + int.from_bytes(head[2:4], "big")
        if head[1] == 0xDA:  # coded data have no FF D9 in them
            end = found_in(file, at, min(size, at + GLANCE), EOI)
            return None if end is None else (sides, end + 2)
    return None


def found_in(file: BinaryIO, at: int, end: int, what: bytes) -> int | None:
    while at < end:
        part = at_of(file, at, min(1 << 20, end - at))
        place = part.find(what)
        if place >= 0:
            return at + place
        if len(part) < len(what):
            return None
        at += len(part) - len(what) + 1
    return None


def is_motion_jpeg(file: BinaryIO, size: int) -> bool:
    """Whether a file is RUN JPEGs or more of one size, one behind the other: raw Motion JPEG. Its position moves."""
    at, sides = 0, None
    for _ in range(RUN):
        if at_of(file, at, 3) != SOI or (picture := _jpeg_at(file, at, size)) is None:
            return False
        if sides not in (None, picture[0]):
            return False
        sides, at = picture
        at += len(re.match(rb"\0*", at_of(file, at, 64))[0])  # type: ignore[index]
    return True


def bmp(file: BinaryIO, size: int) -> int | None:
    length = int.from_bytes(at_of(file, 2, 4), "little")
    return length if 26 <= length <= size else None  # else a header that is wrong, as many are


def netpbm(file: BinaryIO, size: int) -> int | None:
    """PBM, PGM, PPM of bytes, of which several may lie in a file."""
    head = at_of(file, 0, 512)
    found = re.match(rb"P([456])(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)", head)
    if found is None:
        return None
    width, height, end = int(found[2]), int(found[3]), found.end()
    if found[1] == b"4":
        return end + 1 + (width + 7) // 8 * height
    most = re.match(rb"(?:\s|#[^\n]*\n)+(\d+)\s", head[end:])
    if most is None:
        return None
    sample = (1 if found[1] == b"5" else 3) * (1 if int(most[1]) < 256 else 2)
    return end + most.end() + width * height * sample


def yuv4mpeg(file: BinaryIO, size: int) -> int | None:
    """A line that says how large its frames are, and each of them behind a line of its own."""
    head = at_of(file, 0, 1024)
    line = head.partition(b"\n")[0].decode("latin-1")
    words = {word[0]: word[1:] for word in reversed(line.split()[1:])}
    try:
        width, height, form = int(words["W"]), int(words["H"]), words.get("C", "420")
    except (KeyError, ValueError):
        return None
    length, at = _planes(width, height, form), len(line) + 1
    for _ in range(MOST if length else 0):
        head = at_of(file, at, 80)
        if head[:5] != b"FRAME" or b"\n" not in head:
            return size + 1 if head and b"FRAME".startswith(head[:5]) else min(at, size)
        at += head.index(b"\n") + 1 + length
        if at > size:
            return at
    return None


def _planes(width: int, height: int, form: str) -> int:
    """Bytes of a frame; 0 of a form that isn't known."""
    deep = 2 if re.search(r"p(9|1\d)$|^mono(9|1\d)$", form) else 1
    if form.startswith("mono"):
        return deep * width * height
    if form[:3] not in PLANES:
        return 0
    across, down = PLANES[form[:3]]
    colours = 2 * -(-width // across) * -(-height // down) + (width * height if "alpha" in form else 0)
    return deep * (width * height + colours)


def ivf(file: BinaryIO, size: int) -> int | None:
    """A header, and frames behind their length and time, which goes on from each to the next."""
    head = at_of(file, 0, 32)
    at, before = int.from_bytes(head[6:8], "little"), -1
    rate, scale = int.from_bytes(head[16:20], "little"), int.from_bytes(head[20:24], "little")
    leap = PAUSE * max(rate, 1) // max(scale, 1)
    for _ in range(MOST):
        head = at_of(file, at, 12)
        if not head or head.startswith(b"DKIF"):
            return min(at, size)
        time = int.from_bytes(head[4:12], "little", signed=True)
        if len(head) < 12:
            return size + 1
        if not before <= time <= before + leap:
            return at
        before = time
        at += 12 + int.from_bytes(head[:4], "little")
        if at > size:
            return at
    return None


def dv(file: BinaryIO, size: int) -> int | None:
    """Frames of 10 or 12 DIF sequences, by the system that the first one names."""
    length = DIF * (12 if at_of(file, 3, 1) >= b"\x80" else 10)
    rest = size % length
    return size + 1 if rest and at_of(file, size - rest, 3) == b"\x1f\x07\0" else None


WALKS: dict[bytes, Callable[[BinaryIO, int], int | None]] = {
    b"GIF8": gif,
    b"\x89PNG": png,
    SOI: jpeg,
    b"BM": bmp,
    b"P4": netpbm,
    b"P5": netpbm,
    b"P6": netpbm,
    b"YUV4MPEG2 ": yuv4mpeg,
    b"DKIF": ivf,
    b"\x1f\x07\0": dv,
}
