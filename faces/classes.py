"""Classes of images for a conditional generator: from dataset.json (the published layout) or from folder names."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from common.errors import BadImage, UserError
from faces.layout import LABELS, SPLITS, natural_key, parts_of
from faces.source import FaceSource
from faces.stores import RenderedStore

FILE = "dataset.json"


class ClassLabels:
    """The class of every real image of a source, by its path. `names` [C] are the classes, in order of their numbers.

    A dataset.json in the source's root decides, {"labels": [["folder/image.png", 3], …]} with a whole number or a
    one-hot list for each image. Without one, an image's class is the folder it lies in (the nearest that is not called
    real, fake, train, valid, test or the like), numbered in natural order.

    Raises UserError where an image has no class, or all have the same. asked, otherwise: how its message begins and
    what it advises: which parameter wanted the classes, and how to do without them.
    """

    def __init__(self, source: FaceSource, asked: str = "`cond`", otherwise: str = "leave `cond` out") -> None:
        reals = [item.path for item in source.items if item.label == 0]
        told = _told(source, asked, otherwise)
        if told is None:
            found = {path: _folder(path) for path in reals}
            if lost := [path for path, name in found.items() if not name]:
                raise UserError(
                    f"{asked}: {source.store.locate(lost[0])} lies in no class folder, like {len(lost) - 1} more; put"
                    f" the images of each class into a sub-folder, or write a {FILE}"
                )
            self.names = sorted(set(found.values()), key=natural_key)
            number = {name: i for i, name in enumerate(self.names)}
            self._of = {path: number[name] for path, name in found.items()}
        else:
            if lost := [path for path in reals if path not in told]:
                raise UserError(
                    f"{asked}: {source.store.locate(FILE)} names no class for {lost[0]}, nor for {len(lost) - 1} more"
                    f" of {len(reals)} images; complete it, or {otherwise}"
                )
            self._of = {path: told[path] for path in reals}
            self.names = [str(i) for i in range(max(told.values(), default=0) + 1)]
        if len(self.names) < 2:
            raise UserError(f"{asked}: all images of {source.name} are of one class; {otherwise}")

    def of(self, part: FaceSource) -> np.ndarray:
        """int64 [len(part)]: the class of each image; -1 for fakes, which need none."""
        return np.array([self._of.get(item.path, -1) for item in part.items], dtype=np.int64)


def _folder(path: str) -> str:
    folders = parts_of(path)[:-1]
    return next((f for f in reversed(folders) if f.lower() not in LABELS and f.lower() not in SPLITS), "")


def _told(source: FaceSource, asked: str, otherwise: str) -> dict[str, int] | None:
    """dataset.json as {path: class}; None where there is none."""
    if isinstance(source.store, RenderedStore):
        raise UserError(f"{asked}: {source.name} has no classes; {otherwise}")
    where = source.store.locate(FILE)
    try:
        data = source.store.read(FILE)
    except BadImage:  # there is no such file
        return None
    try:
        labels = json.loads(data)["labels"]
        return None if labels is None else {str(path).replace("\\", "/"): _number(value) for path, value in labels}
    except (ValueError, KeyError, TypeError) as e:
        raise UserError(
            f'{asked}: {where}: not a list of classes ({e}); write {{"labels": [["image.png", 0], …]}}'
        ) from None


def _number(value: int | Sequence[float]) -> int:
    if isinstance(value, bool) or not isinstance(value, int | list):
        raise UserError(f"{value!r} is neither a whole number nor a one-hot list")
    if isinstance(value, list):
        if sorted(value) != [0] * (len(value) - 1) + [1]:
            raise UserError("a label that is a list must be one-hot: one 1 among zeros")
        return value.index(1)
    if value < 0:
        raise UserError(f"a class can't be {value}")
    return value
