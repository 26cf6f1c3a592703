"""Face sources: a folder, a zip, a manifest or a named set becomes one ordered list of images with labels and splits.

    source = open_source("flickr140k", split="train")
    source.image(0), source.labels[0]

Labels: 0 real, 1 fake. Order is the same on every machine (natural order of the paths, a manifest's own order).
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import zipfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import PureWindowsPath
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from common.tables import windows_text
from common.words import counted, none_of
from faces.decode import Decoded, decode, extensions
from faces.field_lists import METADATA, is_list, is_metadata, lists_beside, read_list
from faces.foreign import ARCHIVE
from faces.label_columns import Doubt, undecided
from faces.labelling import contradictions, label_paths
from faces.layout import (
    AS_NAMED,
    FAKE,
    REAL,
    FolderNames,
    LabelRule,
    Reading,
    label_of,
    natural_key,
    parts_of,
    without_copies,
)
from faces.manifest import Manifest, text_column
from faces.named_sets import DEMO_SPLITS, NAMED_SETS, SET_NAMES, by_hand, fetch, places, root_folder
from faces.several import note_of_several
from faces.sidecars import FILE, read_sidecars
from faces.stores import Entry, FolderStore, ManifestStore, RenderedStore, ZipStore, firsts, list_folder, list_zip

SPLIT_NAMES = ("train", "valid", "test")
DEMO_RESOLUTION = 64
LISTED = "seems to say which are real and fake, and is not looked at"  # of a list in a folder, in a note
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


class FaceItem(NamedTuple):
    """One image: path inside the source, label (0 real, 1 fake), split ("train", "valid", "test" or None)."""

    path: str
    label: int
    split: str | None


class FaceSource:
    """An ordered list of images that can be read. Made by `open_source`; picklable, usable from several threads.

    name: the set's name, or the folder's, zip's or manifest's. items: list of FaceItem. notes: lines worth telling the
    user (what was left out while listing). manifest: for a source made from one, its rows, one for each item. names:
    which folders of it tell labels and splits."""

    def __init__(
        self,
        name: str,
        store: FolderStore | ZipStore | ManifestStore | RenderedStore,
        items: Sequence[FaceItem],
        entries: Sequence[Entry],
        notes: Sequence[str] = (),
        manifest: Manifest | None = None,
        names: FolderNames | None = None,
    ):
        self.name, self.store, self.notes, self.manifest = name, store, tuple(notes), manifest
        self.names = names or FolderNames()
        self.items, self._entries = list(items), list(entries)

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        return f"<FaceSource {self.name}: {counted(len(self), 'image')}, {int(self.labels.sum())} fake>"

    @cached_property
    def labels(self) -> np.ndarray:
        """int64 [len]: 0 real, 1 fake."""
        return np.array([item.label for item in self.items], dtype=np.int64)

    @cached_property
    def splits(self) -> set[str]:
        """The splits that occur; empty where the source defines none."""
        return {item.split for item in self.items if item.split is not None}

    def locate(self, i: int) -> str:
        """Where image `i` lies, for messages: a file's path, or archive:member."""
        return self.store.locate(self.items[i].path)

    def size(self, i: int) -> int:
        """Bytes of image `i` as listed; for a rendered set its side in pixels."""
        return self._entries[i].size

    def places(self) -> list[str]:
        """Where each image lies, the same in every source that has it (`ManifestStore.identities`)."""
        paths, store = [item.path for item in self.items], self.store
        if isinstance(store, RenderedStore):
            return [store.locate(path) for path in paths]
        if isinstance(store, ManifestStore):
            return list(ManifestStore(store.folder).identities(paths))
        root = store.root if isinstance(store, FolderStore) else store.path
        return list(ManifestStore("").identities(f"{root}/{path}" for path in paths))

    def read(self, i: int) -> bytes:
        """The encoded bytes of image `i`. Raises BadImage when they can't be had."""
        return self.store.read(self.items[i].path)

    def decoded(self, i: int, *, min_side: int = 1, data: bytes | None = None) -> Decoded:
        """Image `i` and what kind of file it was. data: its bytes, where they were read already. Raises BadImage (see
        `faces.decode`)."""
        if isinstance(self.store, RenderedStore):
            return Decoded(self.store.pixels(self.items[i].path), "RGB", "rendered", False)
        return decode(self.read(i) if data is None else data, self.locate(i), min_side=min_side)

    def image(self, i: int) -> np.ndarray:
        """Image `i` as H x W x 3 uint8 RGB. Raises BadImage."""
        return self.decoded(i).pixels

    def select(
        self, indices: Sequence[int] | np.ndarray | None = None, *, label: int | None = None, split: str | None = None
    ) -> FaceSource:
        """The images at `indices` (in that order), of one label, of one split; conditions combine. May be empty."""
        chosen = list(range(len(self)) if indices is None else (int(i) for i in indices))
        if label is not None:
            chosen = [i for i in chosen if self.items[i].label == label]
        if split is not None:
            chosen = [i for i in chosen if self.items[i].split == split]
        items, entries = [self.items[i] for i in chosen], [self._entries[i] for i in chosen]
        rows = None if self.manifest is None else self.manifest.select(chosen)
        return FaceSource(self.name, self.store, items, entries, self.notes, rows, self.names)

    def rendered_at(self, resolution: int) -> FaceSource:
        """A rendered set drawn at `resolution` where that is more than it has; photos come back as they are."""
        if not isinstance(self.store, RenderedStore) or resolution <= self.store.resolution:
            return self
        store = RenderedStore(self.store.name, resolution)
        return FaceSource(
            self.name, store, self.items, [e._replace(size=resolution) for e in self._entries], self.notes
        )

    def fingerprint(self) -> str:
        """SHA-256 (hex) over the sorted paths, sizes and labels: the same for a copy of the set, without reading it."""
        return self._digest(stamped=False)

    def content_stamp(self) -> str:
        """Like `fingerprint`, but an edit that keeps the size shows too (modification times, CRCs): for caches."""
        return self._digest(stamped=True)

    def _digest(self, stamped: bool) -> str:
        digest = hashlib.sha256()
        if stamped and isinstance(self.store, RenderedStore):
            digest.update(f"{self.store.mark()}\n".encode())
        for item, entry in sorted(zip(self.items, self._entries), key=lambda pair: pair[0].path):
            line = (item.path, entry.size, item.label, *((entry.stamp,) if stamped else ()))
            digest.update(repr(line).encode("utf-8", "backslashreplace") + b"\n")
        return digest.hexdigest()

    def close(self) -> None:
        """Close this process's handles. The source stays usable: reading opens them again."""
        self.store.close()


def open_source(
    spec: str | os.PathLike,
    *,
    data_root: str | None = None,
    split: str | None = None,
    label: int | None = None,
    max_items: int | None = None,
    allow_fetch: bool = True,
    reading: Reading = AS_NAMED,
) -> FaceSource:
    """A folder, a zip of images, a manifest (.csv, .parquet) or list (.txt, .json: `faces.field_lists`), or a named set
    (demo, flickr140k, rvf10k, deepfake-and-real, yonsei).

    Labels and splits come from folder names below the source at any depth (`faces.layout`), or from `reading.labels`.
    Beside a folder that tells a label, images in no such folder are left out and noted; beside splits likewise. Where
    no folder tells a label all images are real, unless the given folder (zip) is itself called "fake", or there are two
    folders of unknown names, one of which may well be the fakes: they are refused by name. A named set is looked for
    under `data_root` (default: FACES_DATA_ROOT, else ./datasets), then fetched from Kaggle if `allow_fetch`. A manifest
    says itself which label and split an image has; where it has no column for them, the folder names in its paths do.

    split: "train", "valid", "test", or None for all. label: 0 or 1 for one class. max_items: at most so many, evenly
    spread over the list. Raises UserError where nothing is there, or no images, or not the split or label."""
    spec = os.path.expanduser(os.fspath(spec))
    if split is not None and split not in SPLIT_NAMES:
        raise UserError(f"split must be one of {', '.join(SPLIT_NAMES)}, not {split!r}")
    if spec in SET_NAMES:
        source = _open_named(spec, data_root, allow_fetch, reading)
    else:
        source = _open_path(spec, reading)
    if split is not None:
        if split not in source.splits:
            has = ", ".join(s for s in SPLIT_NAMES if s in source.splits)
            there = f"it has: {has}" if has else "it defines no splits"
            raise UserError(f"{source.name} has no {split!r} split ({there}); give another one, or all its images")
        source = source.select(split=split)
    if label is not None:
        source = source.select(label=label)
        if not len(source):
            which = {REAL: "real", FAKE: "fake"}.get(label, f"label {label}")
            raise UserError(
                f"{source.name} has no {which} images{f' in {split!r}' if split else ''}; give another source, or say"
                " with `labels` real=A,fake=B which they are"
            )
    if max_items is not None:
        if max_items < 1:
            raise UserError(f"at least one image must be asked of {source.name}, not {max_items}")
        count = min(max_items, len(source))
        source = source.select(np.arange(count, dtype=np.int64) * len(source) // count)
    source.notes += tuple(note_of_several(source.store, [item.path for item in source.items]))
    return source


def _open_named(name: str, root: str | None, allow_fetch: bool, reading: Reading) -> FaceSource:
    if reading.labels is not None:
        raise UserError(f"`labels` {reading.labels}: the labels of {name} are known; leave it out")
    if name == "demo":
        paths = [(f"{split}/{seed:06d}", split) for split, seeds in DEMO_SPLITS.items() for seed in seeds]
        items = [FaceItem(path, REAL, split) for path, split in paths]
        entries = [Entry(path, DEMO_RESOLUTION, 0) for path, _ in paths]
        return FaceSource(name, RenderedStore(name, DEMO_RESOLUTION), items, entries)
    named, root = NAMED_SETS[name], root_folder(root)
    for place in places(named, root):
        try:
            source = _open_path(_only_zip_in(place) or place)
        except NoImages:
            continue
        return _renamed(source, name)
    if not allow_fetch:
        raise by_hand(named, root, "fetching is turned off")
    return _renamed(_open_path(fetch(named, root)), name)


def _renamed(source: FaceSource, name: str) -> FaceSource:
    if set(source.labels.tolist()) != {REAL, FAKE}:
        example = NAMED_SETS[name].example
        raise UserError(
            f"{source.store.locate('')}: this is not all of {name}: it needs its label folders ({example}, …)"
        )
    source.name = name
    return source


class NoImages(UserError):
    """A folder or zip that holds no images."""


def _open_path(spec: str, reading: Reading = AS_NAMED) -> FaceSource:
    choices = f"give a folder, a zip, a manifest (.csv) or one of {', '.join(SET_NAMES)}"
    if not spec:
        raise UserError(f"the data source is empty; {choices}")
    try:
        is_folder, is_file = os.path.isdir(spec), os.path.isfile(spec)
    except ValueError:  # a NUL byte
        is_folder = is_file = False
    store: FolderStore | ZipStore
    if is_folder:
        store = FolderStore(os.path.abspath(spec))
        entries, notes = list_folder(store.root, labelled=True)
        name = os.path.basename(store.root) or store.root
    elif is_file and is_list(spec):
        return _open_manifest(spec, reading)
    elif is_file:
        store, name = ZipStore(os.path.abspath(spec)), os.path.basename(spec)
        try:
            is_zip = zipfile.is_zipfile(spec)
        except OSError:
            is_zip = True  # opening it tells why
        if not is_zip and not spec.lower().endswith(".zip"):
            packed = " (an archive: unpack it)" if spec.lower().endswith(ARCHIVE.names) else ""
            raise UserError(f"{spec}: neither a folder nor a zip of images nor a manifest{packed}; {choices}")
        entries, notes = list_zip(store, labelled=True)
    else:
        raise UserError(f"{spec}: no such folder or zip or manifest; {choices}")

    keep = without_copies([entry.path for entry in entries])
    entries = sorted((e for e, kept in zip(entries, keep) if kept), key=lambda entry: natural_key(entry.path))
    if not entries:
        hint = f" (it holds {os.path.basename(inner)}: give that file)" if (inner := _only_zip_in(spec)) else ""
        hint += "".join(f" ({note})" for note in notes)
        raise NoImages(f"no images in {spec}{hint} (looked for {' '.join(extensions())}); {choices}")
    if is_folder and (listed := _metadata(store, entries)):
        return _open_manifest(listed, reading)
    return _by_folders(name, store, entries, notes, reading)


def _metadata(store: FolderStore | ZipStore, entries: Sequence[Entry]) -> str | None:
    """DFDC's metadata.json in the root of a folder where no folder's name tells a label."""
    path = store.locate(METADATA)
    if any(label_of(parts_of(entry.path)[:-1]) is not None for entry in entries):
        return None
    return path if os.path.isfile(path) and is_metadata(path) else None


def _by_folders(
    name: str, store: FolderStore | ZipStore, entries: list[Entry], notes: list[str], reading: Reading
) -> FaceSource:
    paths = [entry.path for entry in entries]
    root = name if isinstance(store, FolderStore) else os.path.splitext(name)[0]
    told = label_paths(
        paths, store.locate("").rstrip("/:"), root, reading, classed=lambda: bool(read_sidecars(store).files)
    )
    kept = np.flatnonzero(told.labels >= 0).tolist()
    items = [FaceItem(paths[i], int(told.labels[i]), told.splits[i]) for i in kept]
    notes = [*notes, *told.notes]
    if isinstance(store, FolderStore):
        notes += _lists_not_read(store, paths, told.untold)
    return FaceSource(name, store, items, [entries[i] for i in kept], notes, names=told.names)


def _lists_not_read(store: FolderStore, paths: list[str], untold: bool) -> list[str]:
    """A line where a list in a folder has labels, and the folders' names count, or nothing does (untold)."""
    if untold and (found := lists_beside(store.root, paths, classes=True)):
        return [f"{found[0]} in it is built as a {FILE} of classes, and is not looked at: call it so, for `cond`"]
    if untold and (found := lists_beside(store.root, paths)):
        return [f"{found[0]} in it {LISTED}: give it in place of the folder"]
    if os.path.isfile(store.locate(METADATA)) and is_metadata(store.locate(METADATA)):
        return [f"{METADATA} in it is not looked at, for folders' names tell labels"]
    return []


def _open_manifest(spec: str, reading: Reading) -> FaceSource:
    rows = read_list(spec, LabelRule.parse(reading.labels))
    if not len(rows):
        raise NoImages(f"{spec}: a manifest without images; give another")
    rows.folder = os.path.abspath(rows.folder)
    store, written, notes, asked = ManifestStore(rows.folder), rows["path"].tolist(), list(rows.notes), rows.doubts
    paths, found = (list(each) for each in zip(*map(store.found, written)))
    if paths != written:
        rows = rows.having(path=text_column(paths))
        notes += _read_otherwise(spec, written, paths)
    missing = [i for i, entry in enumerate(found) if entry is None]
    if len(missing) == len(paths):
        way = "move it back, or write it again with prepare_data.py split"
        if ADDRESS.match(written[0]):
            way = "addresses are not fetched: download what they lead to and list the files"
        elif PureWindowsPath(written[0]).is_absolute() or os.path.isabs(written[0]):
            way = "cut off what these have before that folder, which is another machine's or has moved"
        raise UserError(
            f"{spec}: {none_of(len(paths), 'image', 'can be found', store.locate(paths[0]))}; paths are"
            f" relative to the manifest's own folder: {way}"
        )
    if missing:
        notes.append(f"{spec}: {_count(len(missing))} not there, like {store.locate(paths[missing[0]])}")
    repeated, same = np.ones(len(paths), dtype=bool), list(store.identities(paths))
    repeated[firsts(same)] = False
    if repeated.any():
        _refuse_contradictions(spec, rows, paths, same, np.flatnonzero(repeated))
        notes.append(f"{spec}: {_count(int(repeated.sum()))} listed before in it, left out")
    # what is missing stays in the list: whoever reads it counts it as a bad image, by name
    entries = [entry or Entry(path, 0, 0) for entry, path in zip(found, paths)]

    labels, names, more = _listed_labels(spec, rows, paths, ~repeated, reading, asked)
    splits = [text or None for text in rows["split"]] if "split" in rows else [_split(path, names) for path in paths]
    kept = np.flatnonzero((labels >= 0) & ~repeated)
    chosen = kept.tolist()
    items = [FaceItem(paths[i], int(labels[i]), splits[i]) for i in chosen]
    name, entries = os.path.basename(spec), [entries[i] for i in chosen]
    return FaceSource(name, store, items, entries, [*notes, *more], rows.select(kept), names)


def _refuse_contradictions(spec: str, rows: Manifest, paths: list[str], same: list[str], repeated: np.ndarray) -> None:
    """UserError where an image is listed again as another class: nobody can tell which row is right."""
    if "label" not in rows:
        return
    first: dict[str, int] = {}
    for row, place in enumerate(same):
        first.setdefault(place, row)
    labels = rows["label"]
    for again in repeated.tolist():
        row = first[same[again]]
        if labels[again] != labels[row] and min(labels[again], labels[row]) >= 0:
            said, then = ("fake" if labels[i] == FAKE else "real" for i in (row, again))
            raise UserError(
                f"{spec}: {paths[again]} is {said} in row {row + 1} and {then} in row {again + 1}; delete the wrong row"
            )


def _listed_labels(
    spec: str, rows: Manifest, paths: list[str], counted: np.ndarray, reading: Reading, asked: Sequence[Doubt]
) -> tuple[np.ndarray, FolderNames, list[str]]:
    """(labels [n], -1 for none; which folders tell what; notes) of a manifest, by its column or by folders' names.
    asked: its columns that may tell labels where none does."""
    if "label" not in rows:
        told = label_paths(paths, spec, "", dataclasses.replace(reading, unsplit=True))
        unread = undecided(spec, len(paths), asked) if told.untold and not reading.classes else []
        return told.labels, told.names, told.notes + (unread if reading.otherwise is None else [])
    labels, notes, names = rows["label"], [], FolderNames.read(parts_of(path)[:-1] for path in paths)
    if unknown := int((labels[counted] < 0).sum()):
        if unknown == int(counted.sum()):
            labels = np.full(len(paths), REAL)  # as in a folder that tells nothing
        else:
            notes.append(f"{spec}: {_count(unknown)} without a label, left out")
    return labels, names, notes + contradictions(spec, paths, labels, reading.labels is None)


def _read_otherwise(spec: str, written: list[str], paths: list[str]) -> list[str]:
    """What is said of paths that lead to an image only in another spelling (`stores.spellings`)."""
    changed = [(old, new) for old, new in zip(written, paths) if old != new]
    slashed = sum("\\" in old and "\\" not in new for old, new in changed)
    encoded = sum(windows_text(old) != old and windows_text(new) == new for old, new in changed)
    notes = []
    if slashed:
        notes.append(f"{spec}: {_count(slashed)} with backslashes in their paths, which were taken as slashes")
    if encoded:
        notes.append(f"{spec}: {_count(encoded)} with paths that are not UTF-8, taken as Windows-1252")
    return notes


def _split(path: str, names: FolderNames) -> str | None:
    return names.split(parts_of(path)[:-1])


def _count(images: int) -> str:
    return counted(images, "image")


def _only_zip_in(folder: str) -> str | None:
    """The one zip file of a folder, where Kaggle's download was put without unpacking it."""
    try:
        zips = [name for name in os.listdir(folder) if name.lower().endswith(".zip") and name[0] != "."]
    except OSError:
        return None
    return os.path.join(folder, zips[0]) if len(zips) == 1 else None
