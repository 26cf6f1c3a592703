"""The images of a step, found from (seed, step) alone, prepared by threads ahead of the network.

A stream is an endless shuffled order over one group of images. Which image a stream gives at a position, how it is
mirrored, degraded and cropped, follows from (seed, group, epoch, index): not from threads, timing or how often the run
was resumed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch

from common.errors import UserError
from common.parallel import in_order
from discriminator.training.recipe import Recipe
from faces.dataset import DecodedFaces, IndexStream
from faces.degrade import SCENE, Degradation

AHEAD = 3  # batches for each thread
AUGMENTED = 0xA06  # sets the augmentations' random numbers apart
BACKGROUND = 0xBAC  # and those of a matched filter's further views


@dataclass(frozen=True)
class Rows:
    """Decoded images, read where they lie and not copied: the i-th is `faces.images[index[i]]`."""

    faces: DecodedFaces
    index: np.ndarray

    @classmethod
    def all(cls, faces: DecodedFaces) -> Rows:
        return cls(faces, np.arange(len(faces.images)))

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.faces.images[self.index[i]]

    @property
    def labels(self) -> np.ndarray:
        return self.faces.labels[self.index]


class Images(Protocol):
    """uint8 [N, 3, R, R]: an array, or what gives one image after the other."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, i: int, /) -> np.ndarray: ...


@dataclass
class ImageGroup:
    """Images that are shown together with one label: uint8 [N, 3, R, R] and where in them the group's own lie.

    dose: share of what is shown of this label that comes from this group; 0 for what fills the rest. patches: how many
    images the group counts for; None: as many as it holds. pair: a real and a fake group of the same number hold photos
    and their twins, in one order: they are shown together, as often as the fake's dose says."""

    name: str
    images: Images
    where: np.ndarray
    label: int
    dose: float = 0.0
    patches: int | None = None
    pair: int | None = None

    def __len__(self) -> int:
        return len(self.where)

    @property
    def follows(self) -> bool:
        """Whether it is shown as often as its twins are."""
        return self.pair is not None and not self.label

    @property
    def amount(self) -> int:
        return len(self) if self.patches is None else self.patches


class Batch(NamedTuple):
    """uint8 [N, C, S, S] twice (clean is None where only degraded images are shown), labels float32 [N], 1 = fake."""

    clean: torch.Tensor | None
    degraded: torch.Tensor
    labels: torch.Tensor


def shares(groups: Sequence[ImageGroup], balance: str) -> list[float]:
    """The share of each group in what is shown; they add up to 1. UserError where doses don't fit."""
    reals, fakes = (sum(g.amount for g in groups if g.label == label) for label in (0, 1))
    if not reals or not fakes:
        kind, option = ("real", "`data`") if not reals else ("fake", "`data` or `extra_fakes`")
        raise UserError(f"there are no {kind} images to learn from; give some by {option}")
    within = [_within(groups, label) for label in (0, 1)]
    half = 0.5 if balance == "sampling" else reals / (reals + fakes)
    found = [(1 - half if g.label else half) * within[g.label][i] for i, g in enumerate(groups)]
    twins: dict[int | None, float] = {
        g.pair: share for g, share in zip(groups, found, strict=True) if g.label and g.pair is not None
    }
    room = 1 - sum(twins.values()) / half if twins else 1.0  # photos of twins are real, too
    room = room if room > 1e-9 else 0.0
    return [
        twins[g.pair] if g.follows else share if g.label else share * room
        for g, share in zip(groups, found, strict=True)
    ]


def _within(groups: Sequence[ImageGroup], label: int) -> list[float]:
    """The share of each group in what is shown of its label; 0 for those of the other."""
    mine = [g for g in groups if g.label == label and not g.follows]
    dosed = sum(g.dose for g in mine)
    rest = sum(g.amount for g in mine if not g.dose)
    if dosed > 1 + 1e-9 or (rest and dosed > 1 - 1e-9):
        kind = ("reals", "fakes")[label]
        raise UserError(
            f"the doses of extra {kind} add up to {dosed:g}: they are shares of all {kind} shown and must leave room"
            " for the set's own; lower them"
        )

    def of(g: ImageGroup) -> float:
        if g.label != label or g.follows:
            return 0.0
        return g.dose / (1 if rest else dosed) if g.dose else (1 - dosed) * g.amount / rest

    return [of(g) for g in groups]


class LabelledFeed:
    """Batches of a training. `len_epoch`: steps in which as many images are shown as the groups hold in all."""

    def __init__(self, groups: Sequence[ImageGroup], degradation: Degradation, recipe: Recipe) -> None:
        self.groups = [g for g in groups if len(g)]
        self.shares = shares(self.groups, recipe.balance)
        self.degradation, self.recipe, self.augmentation = degradation, recipe, recipe.augmentation
        # what a group's draws go by: its place, and for twins that of their photos
        first = {g.pair: i for i, g in reversed(list(enumerate(self.groups))) if g.pair is not None}
        self.keys = [i if g.pair is None else first[g.pair] for i, g in enumerate(self.groups)]
        self.streams = [IndexStream(len(g), recipe.seed + 7919 * i) for i, g in zip(self.keys, self.groups)]
        undosed = sum(g.amount for g in self.groups if not g.dose)
        self.len_epoch = max(1, math.ceil((undosed or sum(g.amount for g in self.groups)) / recipe.batch))
        side = self.groups[0].images.shape[-1]
        if recipe.random_crop > side:
            raise UserError(
                f"`random_crop` {recipe.random_crop}: the images have only {side} px; give at most that, or 0 for whole"
            )
        self.side = recipe.random_crop or side
        # Rounding a share in every step would favour groups; positions of a common line don't.
        self._twins = [i for i, g in enumerate(self.groups) if g.pair is not None and g.label]
        self._others = [i for i, g in enumerate(self.groups) if g.pair is None]
        self._edges = np.cumsum([self.shares[i] for i in self._others])
        if self._twins and len(self._edges) and self._edges[-1] > 0:
            self._edges = self._edges / self._edges[-1]
        self._twin_edges = np.cumsum([self.shares[i] for i in self._twins])

    def composition(self, step: int) -> list[tuple[int, int]]:
        """(first position, count) of each group's stream in step `step`; counts add up to the batch."""
        batch = self.recipe.batch
        before, after = (self._shown(step + i) for i in (0, 1))
        counts = [b - a for a, b in zip(before, after, strict=True)]
        assert sum(counts) == batch and min(counts) >= 0
        return list(zip(before, counts, strict=True))

    def _shown(self, step: int) -> list[int]:
        """Images of each group shown before `step`: floors of the shares' running sums, so no group falls behind."""
        total = self.recipe.batch * step
        shown = [0] * len(self.groups)
        pairs = [math.floor(edge * total + 1e-6) for edge in self._twin_edges]
        for i, before, after in zip(self._twins, [0, *pairs], pairs):
            for k, g in enumerate(self.groups):
                if g.pair == self.groups[i].pair:  # a photo and its twin
                    shown[k] = after - before
        rest = total - sum(shown)
        edges = [math.floor(edge * rest + 1e-6) for edge in self._edges[:-1]] + [rest]
        for i, before, after in zip(self._others, [0, *edges], edges):
            shown[i] = after - before
        return shown

    def batch(self, step: int, rank: int = 0, size: int = 1) -> Batch:
        """The images of a step; with several processes, those of this one (every size-th, of both classes)."""
        picked = []
        for number, (first, count) in enumerate(self.composition(step)):
            index = self.streams[number].at(first, count)
            picked += [(number, (first + k) // len(self.groups[number]), int(i)) for k, i in enumerate(index)]
        picked = picked[rank::size]
        clean = np.empty((len(picked), 3, self.side, self.side), np.uint8)
        degraded = np.empty_like(clean)
        for k, (number, epoch, i) in enumerate(picked):
            clean[k], degraded[k] = self._pair(number, epoch, i)
        labels = torch.tensor([float(self.groups[number].label) for number, _, _ in picked])
        both = self.recipe.consistency > 0
        return Batch(torch.from_numpy(clean) if both else None, torch.from_numpy(degraded), labels)

    def view(self, number: int, draw: int, i: int) -> np.ndarray:
        """uint8 [C, S, S]: the i-th image of a group, clean in draw 0, in the others as an epoch would degrade it."""
        return self._pair(number, draw, i)[draw > 0]

    def background(self, number: int, draw: int, i: int) -> np.ndarray:
        """uint8 [C, S, S]: the i-th image of a group, after `SCENE` degraded as in an epoch; draws count from 1."""
        rng = np.random.Generator(np.random.PCG64([self.recipe.seed, number, draw, i, BACKGROUND]))
        group = self.groups[number]
        image = degrade(SCENE, group.images[int(group.where[i])], rng)
        return self._views(image, number, self.recipe.draws + draw, i)[1]

    def _pair(self, number: int, epoch: int, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Both views of the i-th image of a group, as it is shown in an epoch."""
        group = self.groups[number]
        return self._views(group.images[int(group.where[i])], number, epoch, i)

    def _views(
        self,
        image: np.ndarray,
        group: int,
        epoch: int,
        index: int,
        cut: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Both views of an image [C, R, R], mirrored, augmented and cropped alike (by `cut`, or `random_crop`).
        Degraded before it is cropped, as a photo is re-saved whole."""
        rng = np.random.Generator(np.random.PCG64([self.recipe.seed, group, epoch, index]))
        if self.recipe.mirror and rng.random() < 0.5:
            image = image[:, :, ::-1]
        if self.augmentation.steps:  # with a generator of its own: the other draws stay what they are without it
            own = np.random.Generator(np.random.PCG64([self.recipe.seed, group, epoch, index, AUGMENTED]))
            image = degrade(self.augmentation, image, own)
        if cut is None:
            room = image.shape[-1] - self.side + 1
            top, left = int(room * rng.random()), int(room * rng.random())
            cut = lambda whole: whole[:, top : top + self.side, left : left + self.side]  # noqa: E731
        return cut(image), cut(degrade(self.degradation, image, rng))

    def run(self, first: int, last: int, *, workers: int, rank: int = 0, size: int = 1) -> Generator[Batch, None, None]:
        """The batches of steps first … last - 1, made by `workers` threads that run ahead (0: when asked for)."""
        steps = range(first, last)
        if workers == 0:
            yield from (self.batch(step, rank, size) for step in steps)
        else:
            yield from in_order(lambda k: self.batch(steps[k], rank, size), len(steps), workers, chunk=1, ahead=AHEAD)


def degrade(degradation: Degradation, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`image` uint8 [3, H, W] through a chain: same shape."""
    return degradation.apply(np.ascontiguousarray(image.transpose(1, 2, 0)), rng).transpose(2, 0, 1)
