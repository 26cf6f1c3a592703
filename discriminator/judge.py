"""Files to verdicts: what `detect.py` does, without its printing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from discriminator.detector import Detector, Verdict
from discriminator.heatmap import fit
from faces.decode import load_image
from faces.errors import BadImage, UserError
from faces.manifest import is_manifest, read_manifest
from faces.stores import list_folder

MIN_SIDE = 16  # pixels; below that there is no face, and nothing to judge


@dataclass(frozen=True)
class Judged:
    """One file's outcome: a verdict, or the reason there is none. `photo`: uint8 [H, W, 3] reduced for display, where
    it was asked for."""

    file: str
    verdict: Verdict | None
    error: str = ""
    photo: np.ndarray | None = None


@dataclass
class Totals:
    """Counts of outcomes; `add` is called once per file."""

    real: int = 0
    fake: int = 0
    unsure: int = 0
    unreadable: int = 0

    def add(self, judged: Judged) -> None:
        kind = "unreadable" if judged.verdict is None else judged.verdict.label.lower()
        setattr(self, kind, getattr(self, kind) + 1)

    @property
    def judged(self) -> int:
        return self.real + self.fake + self.unsure

    def exit_code(self, *, strict: bool = False) -> int:
        """1 if a fake was found (or, when strict, anything unsure), else 2 if a file could not be judged, else 0.

        An alarm is never hidden behind a broken file beside it.
        """
        if self.fake or (strict and self.unsure):
            return 1
        return 2 if self.unreadable else 0


def list_images(inputs: Sequence[str]) -> tuple[list[str], list[Judged]]:
    """Files named by `inputs`, and what could not be listed.

    A file stands for itself; a folder for the image files at any depth in it, sorted by path; a manifest (.csv,
    .parquet) for the images it lists, in its order.
    """
    files: list[str] = []
    failures: list[Judged] = []
    for given in inputs:
        if is_manifest(given) and os.path.isfile(given):
            _list_manifest(given, files, failures)
            continue
        if not os.path.isdir(given):
            files.append(given)
            continue
        try:
            entries, _ = list_folder(given)
        except UserError as error:
            failures.append(Judged(given, None, str(error).removeprefix(f"{given}: ")))
            continue
        if not entries:
            failures.append(Judged(given, None, "no image files in this folder"))
        files += [os.path.join(given, *path.split("/")) for path in sorted(entry.path for entry in entries)]
    return files, failures


def _list_manifest(given: str, files: list[str], failures: list[Judged]) -> None:
    try:
        table = read_manifest(given)
    except UserError as error:
        failures.append(Judged(given, None, str(error).removeprefix(f"{given}: ")))
        return
    if not len(table):
        failures.append(Judged(given, None, "no images in this manifest"))
    for i, path in enumerate(table["path"]):
        file = table.located(i)
        if ".zip/" in path.lower() and not os.path.lexists(file):
            failures.append(Judged(file, None, "in an archive: unpack it first"))
        else:
            files.append(file)


def judge_files(
    detector: Detector,
    files: Iterable[str],
    *,
    batch: int = 32,
    fpr: float | None = None,
    keep_photos: bool = False,
) -> Iterator[Judged]:
    """One `Judged` per file, in the order of `files`; a file that can't be decoded never stops the rest."""
    remaining = iter(files)
    while part := list(islice(remaining, batch)):
        errors: dict[int, str] = {}
        photos: dict[int, np.ndarray] = {}

        def decoded(part=part, errors=errors, photos=photos) -> Iterator[np.ndarray]:
            for i, file in enumerate(part):
                try:
                    image = load_image(file, min_side=MIN_SIDE)
                except BadImage as error:
                    errors[i] = error.reason
                    continue
                if keep_photos:
                    photos[i] = fit(image)
                yield image

        verdicts = iter(detector.predict(decoded(), batch=batch, fpr=fpr))
        for i, file in enumerate(part):
            if i in errors:
                yield Judged(file, None, errors[i])
            else:
                yield Judged(file, next(verdicts), photo=photos.get(i))
