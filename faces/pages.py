"""Files that hold several pictures one behind the other, of which the first is read: TIFFs of many pages, JPEGs of
several views, and whatever another file was joined on to.

Left out without a word the others would be missed. (Moving pictures are another matter: `faces.video` reads all.)
"""

from __future__ import annotations

import io
import struct

from faces.moving.ends import end_of
from faces.tiff import ORDERS, Buffer, entries

MOST = 10_000  # pages that are counted
NEW_SUBFILE_TYPE = 254
NO_PAGE = 1 | 4  # bits of it: a reduced copy of another picture, a mask for one
VIEWS, VIEW, COPY = 0xB002, 16, 0x01  # of a JPEG's index of views (CIPA DC-007): its tag, an entry's bytes, thumbnails
GAIN = b"hdrgm", b"HDRGainMap", b"urn:iso:std:iso:ts:21496"  # how brightness is to be raised is no view, either


def pages_note(data: bytes) -> str:
    """What is to be said of an image file's bytes beside its first picture, or "". TIFF 6.0, sections 2 and 8."""
    count = _views(data) if data.startswith(b"\xff\xd8") else tiff_pages(data)
    if count < 2:
        return "; ".join(end_of(io.BytesIO(data)).notes())
    return f"page 1 of {count if count < MOST else f'{MOST:,} and more'}: the others were not looked at"


def tiff_pages(data: Buffer) -> int:
    """Pages of a TIFF, less reduced copies and masks; 0 of another file. Broken directories end the count."""
    order = ORDERS.get(data[:4])
    if order is None:
        return 0
    pages, seen = 0, set[int]()
    try:
        (at,) = struct.unpack_from(order + "I", data, 4)
        while at and at not in seen and len(seen) < MOST:
            seen.add(at)
            sort = 0
            for tag, kind, _, where in entries(data, order, at):
                if tag == NEW_SUBFILE_TYPE:
                    (sort,) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, where)
            pages += not sort & NO_PAGE
            (count,) = struct.unpack_from(order + "H", data, at)
            (at,) = struct.unpack_from(order + "I", data, at + 2 + 12 * count)
    except struct.error:
        pass
    return pages


def _views(data: bytes) -> int:
    """Views of a JPEG, by its index of them; 0 without one."""
    at = data.find(b"MPF\0", 0, 1 << 18)
    index = data[at + 4 :] if at >= 0 else b""
    order = ORDERS.get(index[:4])
    if order is None:
        return 0
    try:
        (where,) = struct.unpack_from(order + "I", index, 4)
        tags = {tag: (count, value) for tag, _, count, value in entries(index, order, where)}
        count, value = tags.get(VIEWS, (0, 0))
        (begin,) = struct.unpack_from(order + "I", index, value)
        views = 0
        for i in range(min(count // VIEW, MOST)):
            sort, size, there = struct.unpack_from(order + "III", index, begin + VIEW * i)
            picture = index[there : there + min(size, 1 << 16)] if there else b""
            views += sort >> 16 & 0xFF != COPY and not any(word in picture for word in GAIN)
        return views
    except struct.error:
        return 0
