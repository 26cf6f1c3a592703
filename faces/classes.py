"""Classes of images for a conditional generator: from dataset.json (the published layout) or from folder names."""

from __future__ import annotations

import re

import numpy as np

from common.errors import UserError
from common.words import are, counted
from faces.layout import natural_key, parts_of
from faces.sidecars import FILE, Sidecars, read_sidecars
from faces.source import FaceSource
from faces.stores import RenderedStore

SHARD = re.compile("[0-9]{5,}")  # «00000»: a way of storing, as in the published layout


class ClassLabels:
    """The class of every real image of a source, by its path. `names` [C] are the classes, in order of their numbers.

    notes: lines about what a dataset.json names beside them.

    A dataset.json decides (`faces.sidecars`), {"labels": [["folder/image.png", 3], …]} with a whole number or a one-hot
    list for each image. Without one, an image's class is the folder it lies in (the nearest that is not called real,
    fake, train, valid, test or the like, nor a number of five digits, as archives are divided), in natural order.

    Raises UserError where an image has no class, or all have the same. asked, otherwise: how its message begins and
    what it advises: which parameter wanted the classes, and how to do without them.
    """

    def __init__(self, source: FaceSource, asked: str = "`cond`", otherwise: str = "leave `cond` out") -> None:
        if isinstance(source.store, RenderedStore):
            raise UserError(f"{asked}: {source.name} has no classes; {otherwise}")
        reals = [item.path for item in source.items if item.label == 0]
        try:
            told = read_sidecars(source.store, reals)
        except UserError as error:
            raise UserError(f"{asked}: {error}") from None
        if told.told:
            self._of = _by_sidecar(source, told, reals, asked, otherwise)
            self.names = [str(i) for i in range(max(told.classes.values(), default=0) + 1)]
        else:
            self._of, self.names = _by_folder(source, told, reals, asked, otherwise)
        self.notes = _notes(source, told)
        if len(self.names) < 2:
            raise UserError(f"{asked}: all images of {source.name} are of one class; {otherwise}")

    def of(self, part: FaceSource) -> np.ndarray:
        """int64 [len(part)]: the class of each image; -1 for fakes, which need none."""
        return np.array([self._of.get(item.path, -1) for item in part.items], dtype=np.int64)


def _by_sidecar(source: FaceSource, told: Sidecars, reals: list[str], asked: str, otherwise: str) -> dict[str, int]:
    found = {path: told.of(path) for path in reals}
    if lost := [path for path, number in found.items() if number is None]:
        more = f", nor for {len(lost) - 1} more of {counted(len(reals), 'image')}" if len(lost) > 1 else ""
        other = f" (but for {strange[0]}, which is not there)" if (strange := told.strangers(source.store)) else ""
        raise UserError(
            f"{asked}: {told.files[0]} names no class for {lost[0]}{more}{other}; complete it, or {otherwise}"
        )
    return {path: number for path, number in found.items() if number is not None}


def _notes(source: FaceSource, told: Sidecars) -> list[str]:
    """What a dataset.json says of images that are not there."""
    if not (strange := told.strangers(source.store)):
        return []
    count = counted(len(strange), "image")
    return [f"{told.files[0]}: names classes of {count} that {are(len(strange))} not there, like {strange[0]}"]


def _by_folder(
    source: FaceSource, told: Sidecars, reals: list[str], asked: str, otherwise: str
) -> tuple[dict[str, int], list[str]]:
    found = {path: _folder(source, path) for path in reals}
    if lost := [path for path, name in found.items() if not name]:
        if told.none:
            raise UserError(f"{asked}: {told.files[0]} says that there are no classes (null); {otherwise}")
        if SHARD.fullmatch(parts_of(lost[0])[-2:-1][0] if len(parts_of(lost[0])) > 1 else ""):
            where = f"{source.store.locate(lost[0])} lies in a folder that is a number, as archives are divided"
        else:
            where = f"{source.store.locate(lost[0])} lies in no class folder"
        raise UserError(
            f"{asked}: {where}{f', like {len(lost) - 1} more' if len(lost) > 1 else ''}; put"
            f" the images of each class into a sub-folder, or write a {FILE}"
        )
    names = sorted(set(found.values()), key=natural_key)
    number = {name: i for i, name in enumerate(names)}
    return {path: number[name] for path, name in found.items()}, names


def _folder(source: FaceSource, path: str) -> str:
    folders = parts_of(path)[:-1]
    return next((f for f in reversed(folders) if not source.names.tells(f) and not SHARD.fullmatch(f)), "")
