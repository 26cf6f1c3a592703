"""Files beside images that say what these are: dataset.json with classes. One reader, one rule for all who ask:
a file that is there is read or refused, never passed over.

    {"labels": [["00000/img00000000.png", 3], …]}      the published layout of StyleGAN2-ADA's data
    {"labels": null}                                   there are no classes
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from common import reading
from common.errors import BadImage, UserError
from faces.layout import is_hidden, parts_of
from faces.stores import FolderStore, ManifestStore, RenderedStore, ZipStore, list_folder

FILE = "dataset.json"
MAX_CLASS = (1 << 16) - 1  # a conditional generator has a column of weights for each; ImageNet has 1000
Store = FolderStore | ZipStore | ManifestStore | RenderedStore


@dataclass
class Sidecars:
    """What all dataset.json of a source say. files: where they lie. none: one of them says that there are no classes.
    classes: of each image, by its path inside the source with "/" between folders."""

    files: list[str] = field(default_factory=list)
    none: bool = False
    classes: dict[str, int] = field(default_factory=dict)

    def strangers(self, store: Store) -> list[str]:
        """The images that have a class and are not in the store."""
        if isinstance(store, ZipStore):
            there = {"/".join(parts_of(info.filename)) for info in store.archive()[0].infolist()}
            return [path for path in self.classes if path not in there]
        if isinstance(store, ManifestStore):
            return [path for path in self.classes if store.entry(path) is None]
        return [path for path in self.classes if not os.path.isfile(store.locate(path))]

    def of(self, path: str) -> int | None:
        """The class of an image by its path as the source has it."""
        return self.classes.get("/".join(parts_of(path)))

    @property
    def told(self) -> bool:
        """Whether there are classes."""
        return bool(self.files) and bool(self.classes or not self.none)


def read_sidecars(store: Store, paths: Sequence[str] = ()) -> Sidecars:
    """The classes that are written down anywhere inside a source. paths: its images', for a manifest.

    A file's paths are relative to its own folder, as published, or to the source's root; slashes may be backslashes.
    Raises UserError for a file that can't be understood, and for an image with two classes."""
    found = Sidecars()
    for name in _named(store, paths):
        where = store.locate(name)
        try:
            data = store.read(name)
        except BadImage as error:
            raise UserError(f"{where}: can't be read ({error.reason}); mend it, or take it away") from None
        found.files.append(where)
        labels = _labels(data, where)
        if labels is None:
            found.none = True
            continue
        folder = parts_of(name)[:-1]
        for path, number in labels:
            own = tuple(part for part in parts_of(path) if part != ".")
            # a path from the root already begins with the folder that the file was put into
            key = "/".join(own if folder and own[: len(folder)] == folder else (*folder, *own))
            if found.classes.setdefault(key, number) != number:
                raise UserError(
                    f"{where}: {path} has two classes, {found.classes[key]} and {number}; an image has one: mend it"
                )
    return found


def _named(store: Store, paths: Sequence[str]) -> list[str]:
    """The sidecars of a store, by their paths in it."""
    if isinstance(store, ZipStore):
        names = [info.filename for info in store.archive()[0].infolist()]
        return [n for n in names if parts_of(n.lower())[-1:] == (FILE,) and not is_hidden(parts_of(n))]
    if isinstance(store, FolderStore):
        return sorted(entry.path for entry in list_folder(store.root, lambda name: name.lower() == FILE)[0])
    if isinstance(store, ManifestStore):
        # beside the manifest, beside its images and above them, and in the archives that they lie in
        folders = {"/".join(parts[:i]) for parts in {parts_of(p)[:-1] for p in paths if p[:1] != "/"}
                   for i in range(len(parts) + 1)}  # fmt: skip
        names = [f"{folder}/{FILE}".lstrip("/") for folder in sorted(folders)]
        return [name for name in names if store.entry(name) is not None]
    return []


def _labels(data: bytes, where: str) -> list[tuple[str, int]] | None:
    """[(path, class)] of a file's content; None where it says that there are none."""
    try:
        labels = reading.json_of(data, once=True)["labels"]
        if labels is None:
            return None
        pairs = labels.items() if isinstance(labels, dict) else labels
        return [(str(path), _number(value)) for path, value in pairs]
    except (ValueError, KeyError, TypeError, UserError) as error:
        raise UserError(
            f'{where}: not a list of classes ({error}); write {{"labels": [["image.png", 0], …]}}, or take it away'
        ) from None


def _number(value: int | list[float]) -> int:
    if isinstance(value, bool) or not isinstance(value, int | list):
        raise UserError(f"{reading.shown(value)} is neither a whole number nor a one-hot list")
    if isinstance(value, list):
        if len(value) > MAX_CLASS + 1 or not all(isinstance(one, int | float) for one in value):
            raise UserError(f"a one-hot list has at most {MAX_CLASS + 1} numbers and nothing else")
        if sorted(value) != [0] * (len(value) - 1) + [1]:
            raise UserError("a label that is a list must be one-hot: one 1 among zeros")
        return value.index(1)
    if not 0 <= value <= MAX_CLASS:
        raise UserError(f"a class can't be {value}; classes are numbers from 0 to {MAX_CLASS}")
    return value
