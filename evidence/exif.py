"""The few EXIF fields that tell where a picture came from, read from a TIFF structure with everything bounded.

Of each directory the named tags alone are read, of each value VALUE bytes at most: entries may all point at the same
large place, and would fill the memory. Exif 3.0 (CIPA DC-008), TIFF 6.0.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field

from faces.tiff import ORDERS, entries

VALUE = 1 << 16  # bytes
SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    129: 1,
}  # bytes of a value by its type
TEXTS = (2, 129)
MAIN = {0x010E: "description", 0x010F: "make", 0x0110: "model", 0x0131: "software", 0x013B: "artist"}
DETAIL = {
    0x9286: "comment", 0xA434: "lens", 0x9003: "taken", 0x829A: "exposure", 0x829D: "aperture", 0x8827: "iso",
    0x927C: "maker_note", 0x920A: "focal",
}  # fmt: skip
DETAILS, POSITION = 0x8769, 0x8825  # pointers to further directories
CODES = {b"ASCII\0\0\0": "ascii", b"UNICODE\0": "utf-16", b"JIS\0\0\0\0\0": "iso2022_jp"}


@dataclass
class Exif:
    """texts and numbers by their names in MAIN and DETAIL. has_position: whether a place is noted (it is not read).
    maker_note: bytes of the maker's own notes."""

    texts: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)
    has_position: bool = False
    maker_note: int = 0


def read_exif(data: bytes) -> Exif:
    """The fields of a TIFF structure. ValueError for what is none."""
    order = ORDERS.get(data[:4])
    if order is None:
        raise ValueError("not a TIFF structure")
    out = Exif()
    try:
        pointers = _directory(data, order, struct.unpack_from(order + "I", data, 4)[0], MAIN, out)
    except struct.error:
        raise ValueError("its directory lies outside") from None
    out.has_position = POSITION in pointers
    if DETAILS in pointers:
        try:
            _directory(data, order, pointers[DETAILS], DETAIL, out)
        except struct.error:
            raise ValueError("its second directory lies outside") from None
    return out


def _directory(data: bytes, order: str, start: int, wanted: dict[int, str], out: Exif) -> dict[int, int]:
    """Reads the wanted fields into `out`; the pointers to further directories."""
    pointers: dict[int, int] = {}
    seen: set[int] = set()
    for tag, kind, number, at in entries(data, order, start):
        if tag in (DETAILS, POSITION):
            pointers[tag] = struct.unpack_from(order + "I", data, at)[0]
        elif tag in wanted and kind in SIZES and tag not in seen:
            seen.add(tag)
            size = SIZES[kind] * number
            where = at if size <= 4 else struct.unpack_from(order + "I", data, at)[0]
            value = data[where : where + min(size, VALUE)]
            if tag == 0x927C:
                out.maker_note = min(size, len(data) - where) if where < len(data) else 0
            elif tag == 0x9286:
                out.texts[wanted[tag]] = comment(value, order)
            elif kind in TEXTS:
                out.texts[wanted[tag]] = value.partition(b"\0")[0].decode("utf-8", "replace").strip()
            elif (first := _number(value, kind, order)) is not None:
                out.numbers[wanted[tag]] = first
    return pointers


def _number(value: bytes, kind: int, order: str) -> float | None:
    if len(value) < SIZES[kind]:
        return None
    if kind in (5, 10):
        over, under = struct.unpack_from(order + ("II" if kind == 5 else "ii"), value)
        return over / under if under else None
    code = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d"}.get(kind)
    number = None if code is None else float(struct.unpack_from(order + code, value)[0])
    return number if number is not None and math.isfinite(number) else None


def comment(value: bytes, order: str) -> str:
    """The text of a UserComment: eight bytes that name its code, then the text.

    UTF-16 is to lie in the structure's byte order, and often does not: the order with fewer rare letters is taken."""
    code, text = CODES.get(value[:8]), value[8:]
    if code is None:
        return value.removeprefix(bytes(8)).decode("utf-8", "replace").strip("\0 ")
    if code != "utf-16":
        return text.decode("utf-8" if code == "ascii" else code, "replace").strip("\0 ")
    text = text[: len(text) // 2 * 2]
    first, second = ("utf-16-le", "utf-16-be") if order == "<" else ("utf-16-be", "utf-16-le")
    one, other = (text.decode(name, "replace") for name in (first, second))
    return (one if _plain(one) >= _plain(other) else other).strip("\0\ufeff ")


def _plain(text: str) -> int:
    return sum("\0" < c < "\u0250" for c in text)
