"""The images of a cross-validation: decoded once, dealt into folds, and handed to each fold's training.

All labelled images outside the test split take part. Every fold's training sees rows of one decoded array: nothing is
decoded or copied again however many folds and repeats there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from common.errors import UserError
from common.words import are, counted
from discriminator.training.data import Decode, Gathered, decoder, open_all, pass_gates
from discriminator.training.feed import Rows
from discriminator.training.options import CrossValidation, TrainerOptions
from faces.crossfolds import cut_validation, deal_folds, related, relatives, taught, torn
from faces.dataset import DecodedFaces
from faces.layout import LABEL_NAMES
from faces.manifest import Manifest, text_column
from faces.scan import scan
from faces.similar import hashes_of, overlaps, thumbnail
from faces.source import FaceSource
from faces.splitting import strata_of
from faces.stores import RenderedStore
from faces.tabulate import tabulate
from training.data import DETECTOR_DRAW, Splits, at_most

MOST_TESTED = 5000  # test images of a class


@dataclass
class Fold:
    """One fold of one repeat; all bool [n] over the pool's images. `number`, `repeat` count from 0."""

    repeat: int
    number: int
    held_out: np.ndarray
    valid: np.ndarray
    taught: np.ndarray


class HeldOut(NamedTuple):
    """Images that a fold's detector judges; table: their manifest; groups: int64 [n] of the folds."""

    source: FaceSource
    rows: Rows
    table: Manifest | None
    groups: np.ndarray | None


@dataclass
class Pool:
    """All images that take part, decoded. table: their manifest [n]; groups: int64 [n]; fold: int32 [repeats, n]; test:
    of the test split, if there is one."""

    data: Gathered
    source: FaceSource
    faces: DecodedFaces
    table: Manifest
    groups: np.ndarray
    fold: np.ndarray
    decode: Decode
    test: HeldOut | None
    grouped_by: str
    notes: list[str]
    _extra: dict[str, Rows] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def labels(self) -> np.ndarray:
        return self.faces.labels

    def folds(self, seed: int) -> list[Fold]:
        """Every fold of every repeat, in the order in which they are trained."""
        out = []
        for repeat, row in enumerate(self.fold):
            for number in range(int(row.max()) + 1):
                held_out = row == number
                valid = cut_validation(self.table, self.groups, held_out, (seed, 0xF01E, repeat, number))
                out.append(Fold(repeat, number, held_out, valid, taught(self.groups, held_out, valid)))
        return out

    def gathered(self, fold: Fold) -> Gathered:
        """What a training of this fold learns from and chooses on."""
        parts = [self.source.select(np.flatnonzero(mask)) for mask in (fold.taught, fold.valid)]
        of = {"fold": fold.number, "repeat": fold.repeat, "held_out": int(fold.held_out.sum())}
        facts = {"gates": self.data.facts.get("gates"), "fold": of}
        splits = Splits(parts[0], parts[1], None, False, self.data.source)
        return Gathered(self.data.source, splits, self.data.extra, self.data.pre, facts)

    def held_out(self, fold: Fold) -> HeldOut:
        at = np.flatnonzero(fold.held_out)
        return HeldOut(self.source.select(at), Rows(self.faces, at), self.table.select(at), self.groups[at])

    def decoded(self, source: FaceSource, what: str) -> Rows:
        """Stands in for the decoding of a training: rows of what is decoded, and extra fakes decoded once."""
        if what in ("training", "validation"):
            place = {item.path: i for i, item in enumerate(self.source.items)}
            return Rows(self.faces, np.array([place[item.path] for item in source.items], np.int64))
        key = source.content_stamp()
        if key not in self._extra:
            self._extra[key] = self._strangers(self.decode(source, what).faces, what)
        return self._extra[key]

    def _strangers(self, extra: DecodedFaces, what: str) -> Rows:
        """Extra fakes without those that an image of the folds or of the test split nearly equals: whoever learnt from
        them would know what it is tested on."""
        known = [self.faces.images] + ([] if self.test is None else [self.test.rows.faces.images])
        seen = np.concatenate([hashes_of_images(images) for images in known])
        near = np.unique(overlaps(hashes_of_images(extra.images), seen, mirror=True)[:, 0])
        left = np.setdiff1d(np.arange(len(extra.images)), near)
        if not len(left):
            raise UserError(f"`extra_fakes` {what}: all of them are in {self.source.name} already; leave them out")
        if len(near):
            count = f"{counted(len(near), 'image')} {are(len(near))}"
            self.notes.append(f"extra fakes {what}: {count} (nearly) in {self.source.name} already: left out")
        return Rows(extra, left)

    def counts(self, mask: np.ndarray) -> dict[str, int]:
        """{"real": …, "fake": …} of a bool [n]."""
        return {name: int((mask & (self.labels == label)).sum()) for label, name in enumerate(LABEL_NAMES)}


def open_pool(
    o: TrainerOptions,
    dealt: CrossValidation,
    seed: int,
    *,
    workers: int,
    progress: Callable[[str], None],
    gates: bool = True,
) -> Pool:
    """Open `o.data`, pass the leak gates, decode everything and deal the folds.

    UserError where a class is missing or has too few images."""
    whole = open_all(replace(o, subset=None), seed)
    if o.patch_size is not None:
        raise UserError("`patch_size`: `folds` are of whole images; leave one of them out")
    if o.replay:
        raise UserError("`replay`: with `folds` every fold learns from the set's own fakes; give them by `extra_fakes`")
    if gates:
        pass_gates(whole, o, workers=workers, progress=progress, folds=True)
    source, test, notes = _pool_and_test(whole.source, seed, o.subset)
    if len(np.unique(source.labels)) < 2:
        raise UserError(f"{o.data}: `folds` needs real and fake images (folders called real and fake give the labels)")
    decode = decoder(o, whole.pre, workers, progress)
    faces = decode(source, "all").faces
    tested = None
    if test is not None:
        rows = decode(test, "test")
        test = test.select(rows.faces.kept)
        tested = HeldOut(test, rows, test.manifest, None)
    whole.facts |= {"skipped": [[str(a), str(b)] for a, b in faces.skipped[:100]], "num_skipped": len(faces.skipped)}
    faces.skipped = []  # told for all folds together
    source = source.select(faces.kept)
    table = _table(source, faces, workers, lambda done, total: progress(f"looking for relatives {done}/{total}"))
    groups, said = relatives(table)
    fold = deal_folds(table, groups, dealt.number, dealt.repeats, seed)
    pool = Pool(whole, source, faces, table, groups, fold, decode, tested, said, [*whole.notes, *notes])
    pool.notes += _remarks(pool, dealt.number)
    for one in whole.extra:  # what can't be used is refused before the first fold
        pool.decoded(one.source, Path(one.spec).name)
    return pool


def _pool_and_test(
    source: FaceSource, seed: int, subset: int | None
) -> tuple[FaceSource, FaceSource | None, list[str]]:
    whole, split = source, bool(source.splits & {"train", "valid"})
    if split:
        whole = source.select([i for i, item in enumerate(source.items) if item.split != "test"])
    pool = whole if subset is None else at_most(whole, subset, seed, DETECTOR_DRAW)
    if not split:
        return pool, None, [f"{source.name} has no splits: {_so_many(pool, whole)} take part in the folds"]
    said = f"train and valid of {source.name} take part in the folds together ({_so_many(pool, whole)})"
    test = source.select(split="test")
    if not len(test):
        return pool, None, [f"{said}; there is no test split"]
    few = at_most(test, MOST_TESTED, seed, DETECTOR_DRAW)
    judged = f"the test split stays out of them, each fold's detector judges {_so_many(few, test)} of it when it is"
    return pool, few, [f"{said}; {judged} finished"]


def _so_many(part: FaceSource, of: FaceSource) -> str:
    if len(part) == len(of):
        return f"all {counted(len(of), 'labelled image')}"
    return f"{len(part)} of {counted(len(of), 'image')}, drawn at random"


def _table(source: FaceSource, faces: DecodedFaces, workers: int, progress: Callable[[int, int], None]) -> Manifest:
    """One row for each image of `source`, in its order, with the hashes that a manifest has, or of the files, or of the
    pixels where there is no file."""
    paths, labels = text_column([item.path for item in source.items]), source.labels.astype(np.int8)
    if isinstance(source.store, RenderedStore):
        return Manifest({"path": paths, "label": labels, "phash": hashes_of_images(faces.images)})
    rows = source.manifest
    if rows is not None and (rows["sha256"] != "").all() and rows["phash"].any():
        return rows.having(path=paths, label=labels)
    # decoded whole a moment ago: whatever a scan has against one of them, it takes part
    facts = [replace(fact, error=None) for fact in scan(source, workers=workers, progress=progress)]
    return tabulate(source, facts).having(path=paths)


def hashes_of_images(images: np.ndarray) -> np.ndarray:
    """uint64 [n]: perceptual hashes of uint8 [n, 3, R, R]."""
    return hashes_of(np.stack([thumbnail(Image.fromarray(image.transpose(1, 2, 0))) for image in images]))


def _remarks(pool: Pool, folds: int) -> list[str]:
    sizes = np.bincount(np.unique(pool.groups, return_inverse=True)[1])
    together = int(sizes[sizes > 1].sum())
    lines = [
        f"{together} of {counted(len(pool), 'image')} {are(together)} in {counted(int((sizes > 1).sum()), 'group')},"
        f" the largest of {sizes.max()}; each"
        f" group is in one fold. Grouped by {pool.grouped_by}"
    ]
    if count := torn(pool.groups, pool.fold[0]):
        away = sum(int(related(pool.groups, pool.fold[0] == k).sum()) for k in range(folds))
        lines.append(
            f"the manifest's folds tear {counted(count, 'group')} apart; relatives of held-out images are left out of"
            " learning"
            f" ({counted(away, 'time')})"
        )
    rare = np.bincount(strata_of(pool.table))
    if rare.min() < folds:
        lines.append(f"{int((rare < folds).sum())} kinds (label, source, generator) have fewer images than folds")
    return lines
