"""Where a video or a picture ends by its own structure: beyond the file's end, where it was cut short, or before it,
where another file was joined on.

Durations in headers are no proof (a variable frame rate, a last frame that stays, sound that is longer), so they are
not looked at. A format whose files have no lengths (transport and program streams) is never said to end early.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from faces.moving import runs
from faces.moving.kinds import HEAD, kind_of
from faces.moving.runs import HOLES, MOST, at_of, found_in

EBML = b"\x1a\x45\xdf\xa3"
SEGMENT, CLUSTER = 0x18538067, 0x1F43B675
LEVELS = {0x1A45DFA3, SEGMENT, CLUSTER}  # EBML header, segment, cluster (RFC 9559)
FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # ASF


class End(NamedTuple):
    """early: whether the file was cut short. at: the byte behind its last element, None where that can't be told.
    behind: what kind of file begins there, "" where none does. rest: the bytes from there on."""

    early: bool = False
    at: int | None = None
    behind: str = ""
    rest: int = 0

    def notes(self) -> list[str]:
        """What is to be said of a file of which nothing behind its end was looked at."""
        if not self.behind:
            return []
        size = f"{self.rest / 1e6:.1f} MB" if self.rest >= 1e6 else f"{max(1, round(self.rest / 1e3))} kB"
        return [f"behind its end lie {size} more, which begin as {self.behind} does, and were not looked at"]


class Beginning(io.RawIOBase):
    """The first bytes of a file, as if there were no more."""

    def __init__(self, file: BinaryIO, size: int):
        self._file, self._size = file, size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, where: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self._size}[whence]
        return self._file.seek(base + where)

    def read(self, count: int = -1) -> bytes:
        left = max(0, self._size - self.tell())
        return self._file.read(left if count < 0 else min(count, left))

    def close(self) -> None:
        self._file.close()
        super().close()


def end_of(file: BinaryIO) -> End:
    """Of a seekable file, whose position is where it was afterwards."""
    before = file.tell()
    try:
        size = file.seek(0, os.SEEK_END)
        at = _walked(file, size)
        if at is None or at >= size:
            return End(at is not None and at > size)
        name = kind_of(at_of(file, at, HEAD)).name
        return End(False, at, name, size - at)
    finally:
        file.seek(before)


def _walked(file: BinaryIO, size: int) -> int | None:
    """The byte behind the last element, beyond `size` where the file was cut short; None where that can't be told."""
    head = at_of(file, 0, 16)
    if head.startswith(EBML):
        return _matroska(file, size)
    if head.startswith(b"RIFF"):
        return _riff(file, size)
    if head.startswith(b"FLV"):
        return _flv(file, size)
    if head.startswith(b"OggS"):
        return _ogg(file, size)
    if head.startswith(b"\x30\x26\xb2\x75"):
        return _asf(file)
    for start, walk in runs.WALKS.items():
        if head.startswith(start):
            return walk(file, size)
    return _boxes(file, size) if head[4:8].isalnum() else None


def breaks_off(file: BinaryIO) -> bool:
    """Whether an MP4 in fragments (moof) goes on with what is none, so that no reader finds the fragments behind it. Of
    a seekable file, whose position is where it was afterwards."""
    before = file.tell()
    try:
        size = file.seek(0, os.SEEK_END)
        names = list(_box_names(file, size)) if at_of(file, 4, 4) in (b"ftyp", b"styp", b"moof", b"moov") else []
        return b"moof" in names and names[-1] == b""
    finally:
        file.seek(before)


def _box(file: BinaryIO, at: int) -> tuple[int, bytes] | None:
    """The length, 0 to the file's end, and the name of the box that begins at a byte; None where none does."""
    head = at_of(file, at, 16)
    if len(head) < 8:
        return None
    length, name = struct.unpack(">I4s", head[:8])
    return (struct.unpack(">Q", head[8:])[0] if length == 1 and len(head) == 16 else length), name


def _box_names(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Of the boxes one after the other that are whole, and b"" for what is none."""
    at = 0
    for _ in range(MOST):
        if (box := _box(file, at)) is None:
            return
        length, name = box
        if not name.isalnum() or 0 < length < 8:
            yield b""
            return
        if not length or at + length > size:  # to the end, or beyond it
            return
        yield name
        at += length


def _boxes(file: BinaryIO, size: int) -> int | None:
    """MP4, QuickTime, AVIF, HEIC, JPEG 2000: boxes of a length and a name, one after the other; what counts is in moov,
    moof, mdat and jp2c. A second ftyp begins another file: of each readers know one index alone."""
    at, names = 0, set[bytes]()
    for _ in range(MOST):
        if (box := _box(file, at)) is None:
            return at
        length, name = box
        if name in (b"ftyp", b"jP  ") and name in names:
            return at
        if length < 8:  # 0: to the end; else no box any more
            return size if length == 0 and name.isalnum() else at
        if at + length > size:
            return at + length if name in (b"moov", b"moof", b"mdat", b"jp2c") else at
        names.add(name)
        at += length
    return None


class Element(NamedTuple):
    """Of Matroska: where its contents begin, and their length, None where it is not known."""

    name: int
    begin: int
    length: int | None


def element_at(file: BinaryIO, at: int) -> Element | None:
    """The element that begins at a byte; None where none does. Raises EOFError where the file ends in its head."""
    head = at_of(file, at, 12)
    width = 9 - head[0].bit_length() if head and head[0] else 9
    if width > 4 or len(head) <= width:
        return None
    mark = head[width]
    long = 9 - mark.bit_length() if mark else 9
    if long > 8:
        return None
    if len(head) < width + long:
        raise EOFError
    length = int.from_bytes(head[width : width + long], "big") & ((1 << 7 * long) - 1)
    unknown = length == (1 << 7 * long) - 1
    return Element(int.from_bytes(head[:width], "big"), at + width + long, None if unknown else length)


def _matroska(file: BinaryIO, size: int) -> int | None:
    at = 0
    for _ in range(MOST):
        if at >= size:
            return at
        try:
            found = element_at(file, at)
        except EOFError:
            return size + 1
        if found is None:
            return None
        if found.name == SEGMENT and found.length is not None:
            return found.begin + found.length
        # a recording that never knew its length: go into it
        at = found.begin + (0 if found.length is None and found.name in LEVELS else found.length or 0)
    return None


def clusters(file: BinaryIO) -> tuple[list[tuple[int, int]], list[int]]:
    """Where the clusters of known length of a Matroska file begin and end, and the bytes at which what should follow is
    no element. The position is where it was afterwards."""
    before, found, holes = file.tell(), list[tuple[int, int]](), list[int]()
    try:
        size, at, end = file.seek(0, os.SEEK_END), 0, 0  # end: of the segment
        for _ in range(MOST if at_of(file, 0, 4) == EBML else 0):
            element = element_at(file, at) if at < size else None
            if element is None and at < min(end, size):
                holes.append(at)
                if len(holes) == HOLES:
                    break
                at = found_in(file, at + 1, min(end, size), CLUSTER.to_bytes(4, "big")) or size
                continue
            if element is None:
                break
            if element.name == SEGMENT:
                end = size if element.length is None else element.begin + element.length
            if element.name == CLUSTER and element.length is not None:
                found.append((at, min(size, element.begin + element.length)))
            inside = element.name == SEGMENT or element.length is None
            at = element.begin + (0 if inside else element.length or 0)
    except EOFError:
        pass
    finally:
        file.seek(before)
    return found, holes


def _riff(file: BinaryIO, size: int) -> int | None:
    """AVI, which may go on in further RIFFs, and WebP, which does not."""
    at, form = 0, at_of(file, 8, 4)
    while len(head := at_of(file, at, 12)) >= 8 and head.startswith(b"RIFF"):
        length = struct.unpack("<I", head[4:8])[0]
        if length == 0:  # a recording that was never closed
            return None
        if at and form == b"WEBP":
            break
        at += 8 + length
        if at > size:
            return at
        at += length % 2
    return min(at, size)


def _flv(file: BinaryIO, size: int) -> int | None:
    at = 13
    for _ in range(MOST):
        tag = at_of(file, at, 4)
        if len(tag) < 4 or tag[0] & 0x1F not in (8, 9, 18):
            return min(at, size)
        at += 11 + int.from_bytes(tag[1:], "big")
        if at > size:
            return at
        at += 4
    return None


def _ogg(file: BinaryIO, size: int) -> int | None:
    """The last page (RFC 3533) must be there to its end."""
    start = max(0, size - (1 << 17))
    tail = at_of(file, start, size - start)
    at = tail.rfind(b"OggS")
    if at < 0:
        return None
    if len(tail) < at + 27:
        return size + 1
    count = tail[at + 26]
    table = tail[at + 27 : at + 27 + count]
    end = start + at + 27 + count + sum(table)
    return size + 1 if len(table) < count or end > size else end


def _asf(file: BinaryIO) -> int | None:
    head = at_of(file, 0, 1 << 16)
    at = head.find(FILE_PROPERTIES)
    if at < 0 or len(head) < at + 48:
        return None
    return struct.unpack("<Q", head[at + 40 : at + 48])[0] or None
