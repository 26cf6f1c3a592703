"""How many scans a JPEG has, from its markers alone: each scan is a pass over the whole picture, and costs as much."""

from __future__ import annotations

import re

MOST = 100  # cameras and web sites write 1 to 20, and no encoder's longest script has more
_SOF = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_SEQUENTIAL = (0xC0, 0xC1, 0xC9)
_SOS, _EOI = 0xDA, 0xD9
# inside of coded data: no marker but those of restarts (D0 to D7), FF written as FF 00, and filling FFs
_MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])")


def scans_of(data: bytes, most: int = MOST) -> int:
    """Scans of the first picture in a JPEG's bytes (ITU-T T.81, annex B), counted no further than `most` + 1.

    1 where the decoder stops after the first: a sequential picture whose first scan has all of its components."""
    at, scans, components, sequential = 2, 0, 0, False
    while scans <= most:
        found = _MARKER.search(data, at)
        if found is None:
            break
        kind, at = found[1][0], found.end()
        if kind == _EOI:
            break
        length = int.from_bytes(data[at : at + 2], "big")
        if kind in _SOF and not scans:
            sequential, components = kind in _SEQUENTIAL, int.from_bytes(data[at + 7 : at + 8], "big")
        if kind == _SOS:
            scans += 1
            if sequential and scans == 1 and data[at + 2 : at + 3] == bytes([components]):
                break
        # a stand-alone marker (01, F0 to FD of no known use) has no length; nothing here writes one
        at += max(length, 2)
    return scans
