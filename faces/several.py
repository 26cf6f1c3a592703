"""Files of a set that hold several pictures, of which one counts: animations, and TIFFs of many pages.

A set is of pictures. Left out without a word, the others would be missed by whoever takes an animation for its frames.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence

from common.errors import UserError
from common.words import counted
from faces.moving.kinds import HEAD, kind_of, may_move
from faces.pages import tiff_pages
from faces.stores import FolderStore, ManifestStore, RenderedStore, ZipStore
from faces.video import is_moving

OFTEN, SELDOM = (".gif", ".webp", ".apng", ".avif", ".tif", ".tiff"), (".png",)
MOST = 2000  # files of either sort that are looked at, evenly spread: 0.1 s where they were read before


def note_of_several(store: FolderStore | ZipStore | ManifestStore | RenderedStore, paths: Sequence[str]) -> list[str]:
    """A line about the files of a source that hold several pictures, by their names and then by their bytes."""
    if isinstance(store, RenderedStore):
        return []
    found, all_seen = [], True
    for endings in (OFTEN, SELDOM):
        named = [path for path in paths if path.lower().endswith(endings)]
        all_seen &= len(named) <= MOST
        count = min(len(named), MOST)
        found += [path for i in range(count) if _holds_several(store, path := named[i * len(named) // count])]
    if not found:
        return []
    files = f"{'' if all_seen else 'at least '}{counted(len(found), 'file')}"
    verb, whose = ("holds", "its") if len(found) == 1 else ("hold", "their")
    return [
        f"{files} (like {found[0]}) {verb} several pictures, as animations do: {whose} first one counts, the others are"
        " not looked at"
    ]


def _holds_several(store: FolderStore | ZipStore | ManifestStore, path: str) -> bool:
    """False, too, of what can't be read: whoever decodes it says why."""
    try:
        if isinstance(store, ZipStore) or (isinstance(store, ManifestStore) and store.is_inside(path)):
            return _in_bytes(store.read(path), path)
        file = store.locate(path)
        if not os.path.isfile(file):  # a pipe would block for ever
            return False
        with open(file, "rb") as handle:
            head = handle.read(HEAD)
            kind = kind_of(head).name
            if kind == "TIFF":  # its directories may lie anywhere
                with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as pages:
                    return tiff_pages(pages) > 1
        return may_move(kind, head) and kind != "JPEG" and is_moving(file)
    except (OSError, ValueError, UserError):
        return False


def _in_bytes(data: bytes, path: str) -> bool:
    kind = kind_of(data[:HEAD]).name
    if kind == "TIFF":
        return tiff_pages(data) > 1
    return may_move(kind, data[:HEAD]) and kind != "JPEG" and is_moving(data, os.path.basename(path))
