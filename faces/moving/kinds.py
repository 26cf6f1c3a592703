"""What a file is by its first bytes, whatever its name says."""

from __future__ import annotations

from typing import NamedTuple

HEAD = 4096  # bytes that are looked at
VIDEO, IMAGE = "video", "image"
# ISO base media files (ISO/IEC 14496-12) whose major brand is that of a still or of a sequence of stills
CODED = b"avif avis heic heix heim heis hevc hevx hevm hevs".split()
ANY_CODEC = b"mif1 msf1 mif2".split()
STILLS = CODED + ANY_CODEC + b"jxl jp2 jpx jpm crx".split()
BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"styp", b"moof", b"sidx")
STARTS = (b"\0\0\0\x01", b"\0\0\x01")
VIDEOS = (  # (offset, bytes there, name)
    (0, b"\x1a\x45\xdf\xa3", "Matroska or WebM"),
    (0, b"FLV\x01", "FLV"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "WMV/ASF"),
    (0, b"\0\0\x01\xba", "MPEG program stream"),
    (0, b"\0\0\x01\xb3", "MPEG video"),
    # NAL units (ITU-T H.264 and H.265, annex B): parameters, an access unit's beginning, remarks
    *((0, start + unit, "H.264 stream") for start in STARTS for unit in (b"\x67", b"\x27", b"\x09", b"\x06")),
    *((0, start + unit + b"\x01", "H.265 stream") for start in STARTS for unit in (b"\x40", b"\x46", b"\x4e")),
    (0, b"\x12\0\x0a", "AV1 stream"),
    (0, b"\x1f\x07\0", "DV"),
    (0, b"nut/multimedia container", "NUT"),
    (0, b"\xb7\xd8\0\x20\x37\x49\xda\x11", "WTV"),
    (0, b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02", "MXF"),
    (0, b"DKIF", "IVF"),
    (0, b"YUV4MPEG2 ", "YUV4MPEG"),
    (0, b".RMF", "RealMedia"),
)
IMAGES = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"GIF8", "GIF"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    *((0, start + b"\n", "PPM") for start in (b"P4", b"P5", b"P6")),
)


class Kind(NamedTuple):
    """what: "video", "image" or "" (not known). name: of the format, for people."""

    what: str
    name: str


def kind_of(head: bytes) -> Kind:
    """What a file is that begins with `head` (HEAD bytes or the whole file)."""
    for offset, start, name in VIDEOS:
        if head.startswith(start, offset):
            return Kind(VIDEO, name)
    for offset, start, name in IMAGES:
        if head.startswith(start, offset):
            return Kind(IMAGE, name)
    if head.startswith(b"RIFF"):
        return {b"WEBP": Kind(IMAGE, "WebP"), b"AVI ": Kind(VIDEO, "AVI")}.get(head[8:12], Kind("", ""))
    if head.startswith(b"BM") and head[6:10] == bytes(4):
        return Kind(IMAGE, "BMP")
    if head[4:8] in BOXES:
        return _of_boxes(head)
    if head.startswith(b"OggS"):
        return Kind(VIDEO, "Ogg") if any(codec in head for codec in (b"theora", b"VP80", b"BBCD")) else Kind("", "")
    if _repeats(head, 0, 188) or _repeats(head, 4, 192):
        return Kind(VIDEO, "MPEG transport stream")
    return Kind("", "")


def brand_of(head: bytes) -> bytes:
    """What an ISO base media file says it is: its major brand, or where that leaves the codec open the first compatible
    one that names it. b"" of other files."""
    major, *others = _brands(head) or [b""]
    return next((brand for brand in others if brand in CODED), major) if major in ANY_CODEC else major


def _brands(head: bytes) -> list[bytes]:
    if head[4:8] != b"ftyp":
        return []
    end = min(len(head), int.from_bytes(head[:4], "big"))
    return [head[8:12], *(head[at : at + 4] for at in range(16, end, 4))]


def _of_boxes(head: bytes) -> Kind:
    if head[4:8] != b"ftyp":
        return Kind(VIDEO, "QuickTime")
    brand = brand_of(head)
    if brand.strip() in STILLS:
        name = {b"avif": "AVIF", b"avis": "AVIF", b"crx ": "CR3"}.get(brand, "HEIC")
        return Kind(IMAGE, name)
    return Kind(VIDEO, "QuickTime" if brand == b"qt  " else "MP4")


def _repeats(head: bytes, offset: int, length: int) -> bool:
    """Whether every packet of `length` bytes begins with the sync byte 0x47 (ISO/IEC 13818-1), four at least."""
    syncs = head[offset::length]
    return len(syncs) >= 4 and set(syncs) == {0x47}


def may_move(name: str, head: bytes) -> bool:
    """Whether a picture of that kind may have frames: most say in their first bytes that they are stills."""
    if name == "WebP":
        return head[12:16] == b"VP8X" and bool(head[20] & 0x02)
    if name == "PNG":
        return b"acTL" in head or b"IDAT" not in head
    return name in ("GIF", "JPEG") or (name == "AVIF" and not {b"avis", b"msf1"}.isdisjoint(_brands(head)))
