"""Samples of more than 8 bits: which of their bits say something, which end is white, and how they become 8 bits.

What a file says of that is put into the opened image's `info` (`note_depth`), which goes with it through rotations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from PIL import Image

from common.errors import BadImage

BITS, PACKED, WHITE_IS_ZERO = "bits that say something", "they stand low", "white is zero"  # keys of `info`
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF 6.0


def note_depth(image: Image.Image, data: bytes) -> None:
    """Write down what Pillow does not heed: PNG's sBIT chunk, 12 bits a sample and white as zero in TIFF; and of the
    transparent colour of a 16-bit PNG the upper eight bits, as it keeps of the pixels (it takes the lower ones)."""
    if image.format == "PNG" and data[24:25] == b"\x10":
        if (bits := _significant(data)) < 16:
            image.info[BITS] = bits
        if isinstance(clear := image.info.get("transparency"), tuple):
            image.info["transparency"] = tuple(value >> 8 for value in clear)
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        if tags.get(_PHOTOMETRIC) == 0 and image.mode.startswith("I;16"):
            image.info[WHITE_IS_ZERO] = True
        if set(tags.get(_BITS_PER_SAMPLE, ())) == {12}:
            image.info |= {BITS: 12, PACKED: True}


def with_white_turned(data: bytes) -> bytes | None:
    """A grey TIFF whose white is zero, its tag turned round, for kinds that Pillow reads only the other way: then the
    samples are to be turned. None for any other file."""
    order = {b"II": "little", b"MM": "big"}.get(data[:2])
    if order is None:
        return None
    number = lambda at, size: int.from_bytes(data[at : at + size], order)  # type: ignore[arg-type]  # noqa: E731
    first = number(4, 4)
    for at in range(first + 2, min(first + 2 + 12 * number(first, 2), len(data) - 11), 12):
        if number(at, 2) == _PHOTOMETRIC and not any(data[at + 8 : at + 12]):
            one = (1).to_bytes(2 if number(at + 2, 2) == 3 else 4, order)  # type: ignore[arg-type]
            return data[: at + 8] + one + data[at + 8 + len(one) :]
    return None


def _significant(data: bytes) -> int:
    """Bits of a PNG's colour samples that say something (PNG specification, 11.3.2.5), 16 where it doesn't tell."""
    at = 8
    while at + 12 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if kind == b"IDAT":
            break
        if kind == b"sBIT":
            colours = data[at + 8 : at + 8 + min(length, 3 if length >= 3 else 1)]
            return max(colours, default=16) if all(0 < bits <= 16 for bits in colours) else 16
        at += 12 + length
    return 16


def grey(image: Image.Image, strips: Iterable[Image.Image], name: str) -> Callable[[Image.Image], np.ndarray]:
    """What makes uint8 [h, W] of strips of a 16-bit grey image. BadImage for integers beyond 16 bits."""
    least = largest = seen = 0
    for strip in strips:
        values = np.asarray(strip).astype(np.int64)
        least, largest = min(least, int(values.min())), max(largest, int(values.max()))
        seen |= int(np.bitwise_or.reduce(values, axis=None))
    if image.mode == "I" and (least < 0 or largest > 65535):
        raise BadImage(name, "32-bit integer pixels have no defined range: save it with 8 or 16 bits per channel")
    bits, turned = image.info.get(BITS, 16), image.info.get(WHITE_IS_ZERO)
    low = image.info.get(PACKED) or low_aligned(largest, seen, bits)

    def convert(strip: Image.Image) -> np.ndarray:
        values = eight(np.asarray(strip).astype(np.int64), bits if low else 16)
        return 255 - values if turned else values

    return convert


def low_aligned(largest: int, seen: int, bits: int) -> bool:
    """Whether 16-bit samples have their `bits` significant bits at the lower end. largest: of them; seen: the bits that
    are set in any of them.

    By the specification they stand at the upper end, and an image is read as any other; but many programs write a
    camera's 12 bits as they are. Then none is larger than 12 bits can say: as it stands the picture would be black, as
    nobody's photo is. Of 13 to 15 bits a dark photo may be as small; but the low bits of a scaled sample are zero then.
    """
    if bits >= 16 or largest >= 1 << bits:
        return False
    return bits <= 12 or bool(seen & ((1 << 16 - bits) - 1))


def eight(values: np.ndarray, bits: int) -> np.ndarray:
    """Samples of `bits` bits to uint8: the upper eight, or what is less scaled to the whole range."""
    if bits >= 8:
        return (values >> (bits - 8)).astype(np.uint8)  # Pillow reduces 16-bit colour the same way: one rule for both
    return (values * 255 // ((1 << bits) - 1)).astype(np.uint8)


def colour(image: Image.Image, data: bytes) -> Image.Image:
    """A loaded 16-bit colour PNG with fewer significant bits, from its whole samples: Pillow keeps the upper eight of
    sixteen, in which little is left. Other images come back as they are."""
    bits = image.info.get(BITS, 16)
    if image.format != "PNG" or bits >= 16 or image.mode not in ("RGB", "RGBA", "LA"):
        return image
    import cv2

    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None or samples.dtype != np.uint16 or samples.ndim != 3 or samples.shape[2] not in (3, 4):
        return image
    colours = samples[..., :3]
    if not low_aligned(int(colours.max()), int(np.bitwise_or.reduce(colours, axis=None)), bits):
        return image
    planes = np.empty(samples.shape, np.uint8)
    deepest = bits if samples.shape[2] == 3 or samples[..., 3].max() < 1 << bits else 16
    for y in range(len(samples)):
        values = samples[y].astype(np.int64)
        planes[y, :, :3] = eight(values[:, 2::-1], bits)
        if samples.shape[2] == 4:
            planes[y, :, 3] = eight(values[:, 3], deepest)
    made = Image.fromarray(planes)
    made.info = dict(image.info)
    return made
