"""Under which name an image of a source goes into a new folder: inside it, unique, its label and split readable."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from faces.layout import FAKE, LABEL_NAMES, label_of, label_word, parts_of, split_of, split_word
from faces.source import FaceSource
from faces.stores import ZipStore


def targets(source: FaceSource, ending: str) -> list[str | None]:
    """For each image a relative path with "/" between folders, without its old ending and with `ending` (".jpg").

    The path is the image's own. Where that doesn't tell the image's label and split (a manifest's word goes before
    the folders' names), they become its first folders and such names further in are dropped. Two images that would get
    one name, also on disks that don't tell upper case from lower, keep their old endings inside the new ones. A path's
    root, drive letters and ".." are dropped; None for a member of an archive with such a name, which is no accident."""
    labelled = bool((source.labels == FAKE).any()) or source.names.rule is not None
    taken: set[str] = set()
    names: list[str | None] = []
    for item in source.items:
        parts = parts_of(item.path)
        clean = [part for part in parts if part not in (".", "..") and not (len(part) == 2 and part[1] == ":")]
        if not clean or (isinstance(source.store, ZipStore) and (".." in parts or item.path.startswith(("/", "\\")))):
            names.append(None)
            continue
        folders = _telling(clean[:-1], item.label if labelled else None, item.split)
        stem, dot, old = clean[-1].rpartition(".")
        stem, old = (stem, old) if dot and stem else (clean[-1], "img")
        name = "/".join([*folders, stem + ending])
        number = 1
        while (key := unicodedata.normalize("NFC", name).casefold()) in taken:
            again = f"-{number}" if number > 1 else ""
            name = "/".join([*folders, f"{stem}.{old}{again}{ending}"])
            number += 1
        taken.add(key)
        names.append(name)
    return names


def _telling(folders: Sequence[str], label: int | None, split: str | None) -> list[str]:
    """`folders`, so changed that `faces.layout` reads this label (None: any) and split from them."""
    has = label_of(folders)
    label_fits, split_fits = label is None or has == label, split_of(folders) == split
    if label_fits and split_fits:
        return list(folders)
    rest = [f for f in folders if split_word(f) is None and (label is None or label_word(f) is None)]
    return [*([split] if split else []), *([LABEL_NAMES[label]] if label is not None else []), *rest]
