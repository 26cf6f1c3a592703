"""Files that hold several pictures one behind the other, of which the first is read: TIFFs of many pages.

Left out without a word the others would be missed. (Moving pictures are another matter: `faces.video` reads all.)
"""

from __future__ import annotations

import struct

from faces.tiff import ORDERS, entries

MOST = 10_000  # pages that are counted
NEW_SUBFILE_TYPE = 254
NO_PAGE = 1 | 4  # bits of it: a reduced copy of another picture, a mask for one


def pages_note(data: bytes) -> str:
    """What is to be said of an image file's bytes beside its first picture, or "". TIFF 6.0, sections 2 and 8."""
    count = _tiff_pages(data)
    if count < 2:
        return ""
    return f"page 1 of {count if count < MOST else f'{MOST:,} and more'}: the others were not looked at"


def _tiff_pages(data: bytes) -> int:
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
