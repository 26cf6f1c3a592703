"""Files as strangers send them: damaged, something else than their name says, or made to cost time and memory.

`FILES` maps a name to a function that gives the bytes; `write` puts one into a folder. Small valid files stand beside
them (`good_*`). Nothing is random but by a seed.
"""

from tests.bad_files import detectors, images, networks, tables
from tests.bad_files.detectors import detector
from tests.bad_files.files import FILES, encoded, photo, write
from tests.bad_files.images import png, scans

__all__ = [
    "FILES", "detector", "detectors", "encoded", "images", "networks", "photo", "png", "scans", "tables", "write",
]  # fmt: skip
