"""Whether a video or an animation was cut short, by its own structure: a length in it that goes beyond the file's end.

Durations in headers are no proof (a variable frame rate, a last frame that stays, sound that is longer), so they are
not looked at. A format whose files have no lengths (transport and program streams) is never said to end early.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

MOST = 200_000  # elements that are walked over
SEGMENT = 0x18538067
LEVELS = {0x1A45DFA3, SEGMENT, 0x1F43B675}  # EBML header, segment, cluster (RFC 9559)
FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # ASF


def ends_early(file: BinaryIO) -> bool:
    """Of a seekable file, whose position is where it was afterwards."""
    before = file.tell()
    try:
        size = file.seek(0, os.SEEK_END)
        head = _at(file, 0, 16)
        if head.startswith(b"\x1a\x45\xdf\xa3"):
            return _matroska(file, size)
        if head.startswith(b"RIFF"):
            return _riff(file, size)
        if head.startswith(b"GIF8"):
            return _gif(file)
        if head.startswith(b"\x89PNG"):
            return _png(file, size)
        if head.startswith(b"FLV"):
            return _flv(file, size)
        if head.startswith(b"OggS"):
            return _ogg(file, size)
        if head.startswith(b"\x30\x26\xb2\x75"):
            return _asf(file, size)
        if head[4:8].isalnum():
            return _boxes(file, size)
        return False
    finally:
        file.seek(before)


def breaks_off(file: BinaryIO) -> bool:
    """Whether an MP4 in fragments (moof) goes on with what is none, so that no reader finds the fragments behind it. Of
    a seekable file, whose position is where it was afterwards."""
    before = file.tell()
    try:
        size = file.seek(0, os.SEEK_END)
        names = list(_box_names(file, size)) if _at(file, 4, 4) in (b"ftyp", b"styp", b"moof", b"moov") else []
        return b"moof" in names and names[-1] == b""
    finally:
        file.seek(before)


def _box_names(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Of the boxes one after the other that are whole, and b"" for what is none."""
    at = 0
    for _ in range(MOST):
        head = _at(file, at, 16)
        if len(head) < 8:
            return
        length, name = struct.unpack(">I4s", head[:8])
        if length == 1 and len(head) == 16:
            length = struct.unpack(">Q", head[8:])[0]
        if not name.isalnum() or 0 < length < 8:
            yield b""
            return
        if not length or at + length > size:  # to the end, or beyond it
            return
        yield name
        at += length


def _at(file: BinaryIO, where: int, count: int) -> bytes:
    file.seek(where)
    return file.read(count)


def _boxes(file: BinaryIO, size: int) -> bool:
    """MP4, QuickTime: boxes of a length and a name, one after the other; what counts is in moov, moof and mdat."""
    at = 0
    for _ in range(MOST):
        head = _at(file, at, 16)
        if len(head) < 8:
            return False
        length, name = struct.unpack(">I4s", head[:8])
        if length == 1 and len(head) == 16:
            length = struct.unpack(">Q", head[8:])[0]
        if length < 8:  # 0: to the end; else no box any more
            return False
        if at + length > size:
            return name in (b"moov", b"moof", b"mdat")
        at += length
    return False


def _matroska(file: BinaryIO, size: int) -> bool:
    at = 0
    for _ in range(MOST):
        if at >= size:
            return at > size
        head = _at(file, at, 12)
        width = 9 - head[0].bit_length() if head[0] else 9
        if width > 4 or len(head) <= width:
            return False
        mark = head[width]
        long = 9 - mark.bit_length() if mark else 9
        if long > 8:
            return False
        if len(head) < width + long:
            return True
        name = int.from_bytes(head[:width], "big")
        length = int.from_bytes(head[width : width + long], "big") & ((1 << 7 * long) - 1)
        unknown = length == (1 << 7 * long) - 1
        if name == SEGMENT and not unknown:
            return at + width + long + length > size
        # a recording that never knew its length: go into it
        at += width + long + (0 if unknown and name in LEVELS else length)
    return False


def _riff(file: BinaryIO, size: int) -> bool:
    at = 0
    while len(head := _at(file, at, 8)) == 8 and head.startswith(b"RIFF"):
        length = struct.unpack("<I", head[4:])[0]
        if length == 0:  # a recording that was never closed
            return False
        at += 8 + length
        if at > size:
            return True
        at += length % 2
    return False


def _png(file: BinaryIO, size: int) -> bool:
    at = 8
    for _ in range(MOST):
        head = _at(file, at, 8)
        if len(head) < 8:
            break
        at += 12 + int.from_bytes(head[:4], "big")
        if head[4:] == b"IEND":
            return at > size
    return not _at(file, max(0, size - 12), 12).startswith(b"\0\0\0\0IEND")  # else a length in it is broken


def _gif(file: BinaryIO) -> bool:
    """GIF89a: blocks until the trailer, which a file that is whole has."""
    flags = _at(file, 0, 13)[10:11]
    if not flags:
        return True
    at = 13 + _table(flags[0])
    for _ in range(MOST):
        head = _at(file, at, 10)
        if head[:1] == b"\x2c" and len(head) == 10:
            at += 11 + _table(head[9])
        elif head[:1] == b"\x21" and len(head) >= 2:
            at += 2
        else:
            return not head or head[:1] in b"\x2c\x21"
        while (length := _at(file, at, 1)) not in (b"", b"\0"):
            at += 1 + length[0]
        if not length:
            return True
        at += 1
    return False


def _table(flags: int) -> int:
    """Bytes of a colour table."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _flv(file: BinaryIO, size: int) -> bool:
    at = 13
    for _ in range(MOST):
        tag = _at(file, at, 4)
        if len(tag) < 4 or tag[0] & 0x1F not in (8, 9, 18):
            return False
        at += 11 + int.from_bytes(tag[1:], "big")
        if at > size:
            return True
        at += 4
    return False


def _ogg(file: BinaryIO, size: int) -> bool:
    """The last page (RFC 3533) must be there to its end."""
    start = max(0, size - (1 << 17))
    tail = _at(file, start, size - start)
    at = tail.rfind(b"OggS")
    if at < 0:
        return False
    if len(tail) < at + 27:
        return True
    count = tail[at + 26]
    table = tail[at + 27 : at + 27 + count]
    return len(table) < count or at + 27 + count + sum(table) > len(tail)


def _asf(file: BinaryIO, size: int) -> bool:
    head = _at(file, 0, 1 << 16)
    at = head.find(FILE_PROPERTIES)
    if at < 0 or len(head) < at + 48:
        return False
    return struct.unpack("<Q", head[at + 40 : at + 48])[0] > size
