"""What stands beside the pixels in a JPEG, PNG, WebP or TIFF: metadata blocks, texts, quantisation tables.

Only whole blocks of whole containers count: a text behind the end of a picture, in a chunk whose checksum is wrong, or
in a file that is no picture is not read. Nothing is decoded but compressed texts, and these up to BLOCK bytes, so that
no file can fill the memory. Formats: ISO/IEC 10918-1 (JPEG), the PNG specification (third edition), the WebP container
specification, TIFF 6.0 with Adobe's tags for XMP and image resources.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

import numpy as np

from faces.tiff import ORDERS, entries

BLOCK = 1 << 20  # bytes of a metadata block, unpacked: no program writes more, but for pictures in pictures
BLOCKS = 256  # metadata blocks that are kept
STEPS = 100_000  # chunks or segments that are passed over

PNG = b"\x89PNG\r\n\x1a\n"
EXIF, XMP, IRB = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"Photoshop 3.0\0"
XMP_KEY = "XML:com.adobe.xmp"
TIFF_XMP, TIFF_IPTC, TIFF_IRB = 700, 33723, 34377
SOF = {0xC0, 0xC1, 0xC2}  # Huffman-coded DCT: baseline, extended, progressive
ALONE = {0x01, *range(0xD0, 0xD8)}  # markers without a length
# row-major place of the i-th number of a table as a JPEG stores it
ZIGZAG = np.array(
    sorted(range(64), key=lambda at: (sum(divmod(at, 8)), (at // 8 if sum(divmod(at, 8)) % 2 else at % 8)))
)


@dataclass
class Parts:
    """form: "JPEG", "PNG", "WEBP", "TIFF", or "" for what is not looked into. exif: a TIFF structure (of a TIFF, the
    file). xmp: an XML packet. irb: Photoshop's image resources, with IPTC's records, or these alone. texts: (keyword,
    text) of a PNG; of a JPEG ("comment", text).

    tables: quantisation tables int [8, 8] by their number, components: (horizontal, vertical sampling, table) of each,
    progressive, size (width, height): of a JPEG. problems: what could not be read, and why."""

    form: str = ""
    exif: bytes | None = None
    xmp: bytes | None = None
    irb: bytes | None = None
    texts: list[tuple[str, str]] = field(default_factory=list)
    tables: dict[int, np.ndarray] = field(default_factory=dict)
    components: list[tuple[int, int, int]] = field(default_factory=list)
    progressive: bool = False
    size: tuple[int, int] = (0, 0)
    problems: list[str] = field(default_factory=list)

    def _keep(self, name: str, block: bytes) -> None:
        if len(block) > BLOCK:
            self.problems.append(f"{name} of {len(block):,} bytes: too large, not read")
        elif getattr(self, name) is None:
            setattr(self, name, block)
        else:
            self.problems.append(f"{name} is there twice; the first is read")

    def _keep_text(self, key: str, text: str) -> None:
        if len(self.texts) < BLOCKS:
            self.texts.append((key, text))
        elif "more texts" not in " ".join(self.problems[-1:]):
            self.problems.append(f"more texts than {BLOCKS}; the rest is not read")


def parts_of(data: bytes) -> Parts:
    """The parts of an encoded picture. What is broken is named in `problems`; nothing is raised."""
    parts = Parts()
    for form, starts, read in (
        ("JPEG", data[:3] == b"\xff\xd8\xff", _jpeg),
        ("PNG", data[:8] == PNG, _png),
        ("WEBP", data[:4] == b"RIFF" and data[8:12] == b"WEBP", _webp),
        ("TIFF", data[:4] in ORDERS, _tiff),
    ):
        if starts:
            parts.form = form
            try:
                read(data, parts)
            except (struct.error, IndexError, ValueError):
                parts.problems.append("the file ends early, or its structure is broken")
    return parts


def _jpeg(data: bytes, parts: Parts) -> None:
    at = 2
    for _ in range(STEPS):
        while data[at] == 0xFF and data[at + 1] == 0xFF:  # fill bytes
            at += 1
        if data[at] != 0xFF:
            raise ValueError("no marker")
        marker = data[at + 1]
        at += 2
        if marker in ALONE:
            continue
        if marker == 0xD9:
            return
        (length,) = struct.unpack_from(">H", data, at)
        if length < 2 or at + length > len(data):
            raise ValueError("segment")
        _segment(marker, data[at + 2 : at + length], parts)
        at += length
        if marker == 0xDA:  # pixels follow
            return
    parts.problems.append(f"more than {STEPS:,} segments; the rest is not read")


def _segment(marker: int, body: bytes, parts: Parts) -> None:
    if marker == 0xE1 and body.startswith(EXIF):
        parts._keep("exif", body[len(EXIF) :])
    elif marker == 0xE1 and body.startswith(XMP):
        parts._keep("xmp", body[len(XMP) :])
    elif marker == 0xED and body.startswith(IRB):
        if parts.irb is None:
            parts.irb = b""
        if len(parts.irb) + len(body) <= BLOCK:  # resources may go on in the next segment
            parts.irb += body[len(IRB) :]
    elif marker == 0xFE:
        parts._keep_text("comment", body.decode("utf-8", "replace"))
    elif marker == 0xDB:
        _quantisation(body, parts)
    elif marker in SOF and len(body) >= 6:
        height, width, count = struct.unpack_from(">HHB", body, 1)
        parts.size, parts.progressive = (width, height), marker == 0xC2
        parts.components = [(body[at + 1] >> 4, body[at + 1] & 15, body[at + 2]) for at in range(6, 6 + 3 * count, 3)]


def _quantisation(body: bytes, parts: Parts) -> None:
    at = 0
    while at < len(body):
        precise, number = body[at] >> 4, body[at] & 15
        kind = np.dtype(">u2" if precise else ">u1")
        stored = np.frombuffer(body, kind, 64, at + 1).astype(int)
        table = np.empty(64, int)
        table[ZIGZAG] = stored
        parts.tables[number] = table.reshape(8, 8)
        at += 1 + 64 * kind.itemsize


def _png(data: bytes, parts: Parts) -> None:
    at = len(PNG)
    for _ in range(STEPS):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            raise ValueError("chunk")
        if kind in (b"tEXt", b"zTXt", b"iTXt", b"eXIf"):
            name = kind.decode()
            if zlib.crc32(data[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
                parts.problems.append(f"{name}: its checksum is wrong, not read")
            else:
                _chunk(name, data[at + 8 : end], parts)
        at = end + 4
        if kind == b"IEND":
            return
    parts.problems.append(f"more than {STEPS:,} chunks; the rest is not read")


def _chunk(name: str, body: bytes, parts: Parts) -> None:
    if name == "eXIf":
        parts._keep("exif", body)
        return
    key, _, rest = body[: BLOCK + 200].partition(b"\0")
    word = key.decode("latin-1")[:79]
    packed, code = False, "latin-1"
    if name == "zTXt":
        packed, rest = True, rest[1:]
    elif name == "iTXt":
        packed, code = rest[:1] == b"\1", "utf-8"
        _, _, rest = rest[2:].partition(b"\0")  # language
        _, _, rest = rest.partition(b"\0")  # the keyword translated
    try:
        text = _unpacked(rest) if packed else rest
    except zlib.error:
        parts.problems.append(f"{name} {word}: broken, not read")
        return
    if len(text) > BLOCK:
        parts.problems.append(f"{name} {word}: more than {BLOCK:,} bytes, not read")
    elif word == XMP_KEY:
        parts._keep("xmp", text)
    else:
        parts._keep_text(word, text.decode(code, "replace"))


def _unpacked(data: bytes) -> bytes:
    """Inflated, at most one byte more than BLOCK."""
    return zlib.decompressobj().decompress(data, BLOCK + 1)


def _webp(data: bytes, parts: Parts) -> None:
    (size,) = struct.unpack_from("<I", data, 4)
    if size + 8 > len(data):
        raise ValueError("RIFF")
    at = 12
    for _ in range(STEPS):
        if at + 8 > size + 8:
            return
        kind, length = struct.unpack_from("<4sI", data, at)
        body = data[at + 8 : at + 8 + length]
        if at + 8 + length > size + 8:
            raise ValueError("chunk")
        if kind == b"EXIF":
            parts._keep("exif", body.removeprefix(EXIF))
        elif kind == b"XMP ":
            parts._keep("xmp", body)
        at += 8 + length + length % 2
    parts.problems.append(f"more than {STEPS:,} chunks; the rest is not read")


def _tiff(data: bytes, parts: Parts) -> None:
    """Of its first picture: the tags of EXIF lie in the file itself."""
    order = ORDERS[data[:4]]
    parts.exif = data
    (start,) = struct.unpack_from(order + "I", data, 4)
    found: dict[int, bytes] = {}
    for tag, kind, number, at in entries(data, order, start):
        if tag in (TIFF_XMP, TIFF_IPTC, TIFF_IRB) and tag not in found:
            size = number * (4 if kind == 4 else 1)  # IPTC's are called longs by many programs
            (where,) = struct.unpack_from(order + "I", data, at)
            found[tag] = data[where : where + min(size, BLOCK + 1)]
    if TIFF_XMP in found:
        parts._keep("xmp", found[TIFF_XMP])
    if (records := found.get(TIFF_IPTC) or found.get(TIFF_IRB)) is not None:
        parts._keep("irb", records)
