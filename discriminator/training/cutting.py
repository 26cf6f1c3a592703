"""What a training on patches learns from: whole images of every source, decoded once, held out before they are cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from common.files import cache_folder
from common.options import refuse
from common.words import counted
from discriminator.training.data import Gathered, Progress, hold_out, named, replayed
from discriminator.training.feed import ImageGroup
from discriminator.training.options import TrainerOptions
from discriminator.training.patches import (
    Crops,
    Held,
    PatchFeed,
    PatchValidation,
    Photos,
    Stacked,
    Window,
    amount,
    validation_of,
)
from discriminator.training.recipe import Recipe
from discriminator.training.twins import Half, OpenedBank, check_twin_options, open_bank
from faces.degrade import Degradation
from faces.patches import Patches
from faces.preprocess import Preprocess
from faces.source import FaceSource
from faces.twin_bank import Mark, mark_of
from training.data import DETECTOR_DRAW, at_most

BANKS = 1 << 16  # sets their draws apart

Open = Callable[[FaceSource, str], Patches]  # its second: for the progress line


@dataclass
class _Part:
    """Images of one label from one place. shapes: int64 [n, 2], heights and widths of `photos`' images."""

    name: str
    photos: Photos
    shapes: np.ndarray
    where: np.ndarray
    label: int
    dose: float = 0.0
    marks: tuple[Mark, ...] = ()  # of photos in files
    pair: int | None = None

    def of(self, where: np.ndarray) -> _Part:
        return replace(self, where=where)

    def crops(self, window: Window) -> Crops:
        return Crops(self.photos, window, len(self.shapes))


class _Both(NamedTuple):
    train: _Part
    valid: _Part


def check_patch_options(o: TrainerOptions, recipe: Recipe) -> None:
    """UserError for options that would say nothing of patches, or something else."""
    check_twin_options(o, recipe.balance, recipe.batch)
    if o.patch_size is None:
        return
    if o.resolution not in (None, o.patch_size):
        raise UserError(
            f"`resolution` {o.resolution}: `patch_size` {o.patch_size} is what is seen; leave out `resolution`"
        )
    if recipe.random_crop:
        raise UserError(f"`random_crop` {recipe.random_crop}: `patch_size` cuts already; leave it out")
    refuse(o, ("square", "resize_filter"), "with `patch_size` no image is cropped or resized; leave it out")


def opener(o: TrainerOptions, pre: Preprocess, workers: int, progress: Progress) -> Open:
    """Decodes every image of a source once, whole, into a mapped file."""
    cache = {None: cache_folder() / "photos", "none": None}.get(o.cache, Path(o.cache or ""))

    def build(source: FaceSource, what: str) -> Patches:
        told = lambda done, total: progress(f"reading {what} images {done}/{total}")  # noqa: E731
        return Patches.build(source, pre, workers=max(1, workers), cache_dir=cache, progress=told)

    return build


def share_out_patches(
    g: Gathered, o: TrainerOptions, recipe: Recipe, degradation: Degradation, build: Open
) -> tuple[PatchFeed, PatchValidation]:
    """Decode everything, and make feed and validation. UserError for what does not fit together."""
    side = g.pre.resolution
    left_out: list[tuple[str, str]] = []
    parts = _parts(g, o, recipe, build, left_out)
    banks = _banks(g, o, recipe, parts)
    if banks and all(b.train.pair is not None for b in parts if b.train.label):
        g.notes.append("twins are the only fakes, so the only photos shown are theirs")
    smallest = min(int(np.median(p.train.shapes[p.train.where].min(axis=1))) for p in parts if len(p.train.where))
    window = Window.of(side, smallest, degradation)
    chain = degradation.zooming_from(window.least)
    parts = [_Both(*(_wide(part, window) for part in both)) for both in parts]
    groups = [
        ImageGroup(t.name, t.crops(window), t.where, t.label, t.dose, amount(t.shapes[t.where], side), t.pair)
        for t, _ in parts
    ]
    feed = PatchFeed(groups, chain, recipe, window)
    validation = validation_of(_held(feed, parts, window), o.valid_images, window, chain)
    if len(np.unique(validation.labels)) < 2:
        raise UserError(f"{o.data}: validation needs images of both classes; give more images")
    g.notes += _told(window, degradation, validation)
    held = {name: int((validation.labels == label).sum()) for label, name in enumerate(("real", "fake"))}
    g.facts |= {
        "name": g.source.name, "fingerprint": g.source.fingerprint(), "preprocess": g.pre.to_dict(),
        "train": {one.name: len(one) for one in feed.groups},
        "shown": {one.name: round(s, 4) for one, s in zip(feed.groups, feed.shares, strict=True)},
        "valid": held, "held_out": g.splits.held_out, "num_skipped": len(left_out),
        "skipped": [[str(a), str(b)] for a, b in left_out[:100]], "notes": g.notes,
        "patches": {"size": side, "window": window.width, "least_factor": round(window.least, 4),
                    "photos": {"train": {one.name: len(one) for one in feed.groups}, "valid": validation.photos}},
    }  # fmt: skip
    if banks:
        g.facts["twins"] = {"mix": o.twin_mix, "banks": [bank.facts for bank in banks]}
    return feed, validation


def _banks(g: Gathered, o: TrainerOptions, recipe: Recipe, parts: list[_Both]) -> list[OpenedBank]:
    """The banks of twins, opened; their parts are added. What the training holds out of photos stays out of pairs, and
    the twins of a tenth of a bank's photos are kept for validation."""
    held = {both.valid.marks[i] for both in parts if both.valid.marks for i in both.valid.where.tolist()}
    for source in (g.splits.valid, g.splits.test):
        held |= set(_marks(source, range(len(source)))) if source is not None else set()
    banks = [open_bank(spec, dose, o, held) for spec, dose in o.twins]
    for k, bank in enumerate(banks):
        of = bank.photos[bank.where]
        kept, taught = hold_out(np.unique(of), (recipe.seed, BANKS + k))
        if not len(taught):
            raise UserError(f"`twins` {bank.spec}: one photo can't both teach and validate; make a bank of more")
        train, valid = (bank.where[np.isin(of, photos)] for photos in (taught, kept))
        shapes = np.full((len(bank.pairs), 2), bank.pairs.side, np.int64)
        for label, name in enumerate(("photos", "twins")):
            name = _name(f"{Path(bank.spec).name} {name}", label, parts)
            mine = _Part(name, Half(bank.pairs, bool(label)), shapes, train, label, bank.dose, pair=k)
            parts.append(_Both(mine, mine.of(valid if label else valid[:0])))
        g.notes.append(bank.say())
    return banks


def _parts(g: Gathered, o: TrainerOptions, recipe: Recipe, build: Open, left_out: list[tuple[str, str]]) -> list[_Both]:
    """What trains and what is held out of every place, images that hold no patch left out."""

    def decoded(source: FaceSource, what: str) -> Patches:
        photos = build(source, what)
        left_out.extend(photos.skipped)
        return photos

    def part(name: str, source: FaceSource, photos: Patches, label: int, dose: float = 0.0) -> _Part:
        marks = _marks(source, photos.kept.tolist())
        return _Part(name, photos, photos.shapes, np.flatnonzero(photos.labels == label), label, dose, marks)

    train = decoded(g.splits.train, "training")
    watched = at_most(g.splits.valid, o.valid_images, recipe.seed, DETECTOR_DRAW)
    valid = decoded(watched, "validation")
    if g.splits.held_out:
        g.notes.append("the set has no validation split: a tenth of its images, at random, is held out for it")
    parts = [
        _Both(part(name, g.splits.train, train, label), part(name, watched, valid, label))
        for label, name in enumerate(("real", "set's fakes"))
    ]
    parts = [both for both in parts if len(both.train.where)]
    for k, one in enumerate(g.extra):
        photos = decoded(one.source, Path(one.spec).name)
        mine = part(_name(one.spec, one.label, parts), one.source, photos, one.label, one.dose)
        if len(one.valid):
            kept = at_most(one.valid, o.valid_images, recipe.seed, DETECTOR_DRAW)
            other = part(mine.name, kept, decoded(kept, f"{Path(one.spec).name} validation"), one.label)
            parts.append(_Both(mine, other))
        else:
            parts.append(_halved(mine, (recipe.seed, k)))
    for k, (run, dose) in enumerate(o.replay, len(g.extra)):
        images = replayed(run, g.pre.resolution, larger=True)
        shapes = np.tile(np.array(images.shape[2:], np.int64), (len(images), 1))
        mine = _Part(_name(run, 1, parts), Stacked(images), shapes, np.arange(len(images)), 1, dose)
        parts.append(_halved(mine, (recipe.seed, k)))
    return parts


def _marks(source: FaceSource, indices: Iterable[int]) -> tuple[Mark, ...]:
    return tuple(mark_of(source.items[i].path, source.size(i)) for i in indices)


def _name(spec: str, label: int, parts: list[_Both]) -> str:
    return named(spec, label, [both.train.name for both in parts])


def _halved(part: _Part, draw: tuple[int, int]) -> _Both:
    kept, taught = hold_out(part.where, draw)
    if not len(taught):
        raise UserError(f"{part.name}: {counted(len(part.where), 'image')} can't both teach and validate; give more")
    return _Both(part.of(taught), part.of(kept))


def _wide(part: _Part, window: Window) -> _Part:
    """Without the images that are smaller than the window."""
    return part.of(part.where[part.shapes[part.where].min(axis=1, initial=1 << 30) >= window.width])


def _held(feed: PatchFeed, parts: list[_Both], window: Window) -> list[Held]:
    """Validation has a source's patches in the proportion in which training shows them."""
    shown = {group.name: share for group, share in zip(feed.groups, feed.shares, strict=True)}
    valid = [both.valid for both in parts if len(both.valid.where)]
    total = [sum(shown.get(p.name, 0.0) for p in valid if p.label == label) for label in (0, 1)]

    def share(p: _Part) -> float:
        if not total[p.label]:  # nothing of the label is shown but photos of twins
            return 1 / sum(other.label == p.label for other in valid)
        return shown.get(p.name, 0.0) / total[p.label]

    return [Held(p.crops(window), p.where, p.label, share(p)) for p in valid]


def _told(window: Window, asked: Degradation, validation: PatchValidation) -> list[str]:
    n = validation.photos
    lines = [
        f"patches of {window.side} x {window.side} pixels out of windows of {window.width}, cut anew every time;"
        f" validation: {int((validation.labels == 0).sum())} fixed ones of {n['real']} real images,"
        f" {int((validation.labels == 1).sum())} of {n['fake']} fake ones, none of which teaches"
    ]
    if any(low < window.least for low, _ in asked.zooms()):
        lines.append(
            f"windows of {window.width} pixels, which the smaller images allow, are not made smaller than"
            f" {window.least:.2f} of their size; smaller patches, or larger images, would allow more"
        )
    return lines
