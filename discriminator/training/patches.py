"""A detector taught on patches: crops of whole images at their own pixels, cut anew every time an image is shown.

Every image, of either class and whatever its size, gives a *window* of the same width; the window is degraded, and the
network sees a smaller square out of its middle, at an offset that puts an encoder's grid of blocks anywhere. So what
filters and encoders do at borders stays outside, and neither class is known by where its borders were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from discriminator.training.feed import ImageGroup, LabelledFeed, degrade
from discriminator.training.recipe import Recipe
from discriminator.training.selection import SEED, Validation
from discriminator.training.twins import Half
from faces.degrade import Degradation
from faces.patches import EACH

GRID = 8  # offsets of what is shown against an encoder's blocks
MARGIN = 8  # pixels around what is shown, where images allow it
CUT = 0xC07


class Photos(Protocol):
    """`faces.patches.Patches`, or anything that gives whole images."""

    def photo(self, i: int) -> np.ndarray:
        """uint8 [H, W, 3]."""


@dataclass(frozen=True)
class Stacked:
    """Images of one size as photos: uint8 [N, 3, R, R]."""

    images: np.ndarray

    def photo(self, i: int) -> np.ndarray:
        return self.images[i].transpose(1, 2, 0)


@dataclass(frozen=True)
class Window:
    """What is cut out of an image (`width`) and what of that is shown (`side`), in pixels."""

    side: int
    width: int

    @classmethod
    def of(cls, side: int, smallest: int, chain: Degradation) -> Window:
        """As wide as `chain` has use for, and as the `smallest` image allows."""
        least = min((low for low, _ in chain.zooms()), default=1.0)
        return cls(side, min(smallest, round((side + 2 * MARGIN) / min(1.0, least))))

    @property
    def least(self) -> float:
        """The factor below which a shrunk window no longer fills what is shown, wherever that is put."""
        return min(1.0, (self.side + min(GRID, self.width - self.side)) / self.width)

    def cut(self, window: np.ndarray, place: tuple[float, float]) -> np.ndarray:
        """[C, side, side] out of the middle of [C, width, width]; place: two numbers in [0, 1), where in the grid."""
        room = self.width - self.side
        turns = min(GRID, room + 1)
        first = (room - turns + 1) // 2
        top, left = (first + int(turns * at) for at in place)
        return window[:, top : top + self.side, left : left + self.side]


@dataclass(frozen=True)
class Crops:
    """Images by their windows. As an array (`Exploration` looks at some) the i-th is the middle of image i, uint8
    [3, side, side]."""

    photos: Photos
    window: Window
    count: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.count, 3, self.window.side, self.window.side

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> np.ndarray:
        return self.window.cut(self.at(i, (0.5, 0.5)), (0.5, 0.5))

    def at(self, i: int, place: tuple[float, float], photo: np.ndarray | None = None) -> np.ndarray:
        """uint8 [3, width, width] of image i, or of `photo` in its stead; place: two numbers in [0, 1), from the upper
        left to the lower right."""
        photo = self.photos.photo(i) if photo is None else photo
        top, left = (int((n - self.window.width + 1) * at) for n, at in zip(photo.shape, place, strict=False))
        return photo[top : top + self.window.width, left : left + self.window.width].transpose(2, 0, 1)


def amount(shapes: np.ndarray, side: int) -> int:
    """How many patches images of these [N, 2] heights and widths count for: what fits side by side, EACH at most."""
    return int(np.minimum((shapes // side).prod(axis=1), EACH).sum())


class PatchFeed(LabelledFeed):
    """Batches of patches. Where an image is cut follows, like all else, from (seed, group, epoch, index)."""

    def __init__(self, groups: Sequence[ImageGroup], degradation: Degradation, recipe: Recipe, window: Window) -> None:
        super().__init__(groups, degradation, recipe)
        self.window = window

    def _pair(self, number: int, epoch: int, i: int) -> tuple[np.ndarray, np.ndarray]:
        group, key = self.groups[number], self.keys[number]
        assert isinstance(group.images, Crops)
        rng = np.random.Generator(np.random.PCG64([self.recipe.seed, key, epoch, i, CUT]))
        where, place, shown = int(group.where[i]), (rng.random(), rng.random()), (rng.random(), rng.random())
        half = group.images.photos
        image = group.images.at(where, place, half.drawn(where, rng) if isinstance(half, Half) else None)
        return self._views(image, key, epoch, i, lambda whole: self.window.cut(whole, shown))


@dataclass
class PatchValidation(Validation):
    """windows: uint8 [N, 3, width, width], `images` their middles; photos: how many real and fake images they
    are of."""

    windows: np.ndarray
    window: Window
    photos: dict[str, int]

    def view(self, number: int, i: int) -> np.ndarray:
        chains = self.views[number][1]
        rng = np.random.Generator(np.random.PCG64([SEED, number, i]))
        place = rng.random(), rng.random()
        image = self.windows[i]
        return self.window.cut(degrade(chains[i % len(chains)], image, rng) if chains else image, place)


@dataclass(frozen=True)
class Held:
    """Images of one label kept for validation, and the share of that label's patches that are to be theirs."""

    crops: Crops
    where: np.ndarray
    label: int
    share: float


def validation_of(held: Sequence[Held], most: int, window: Window, chain: Degradation) -> PatchValidation:
    """At most `most` fixed windows of each label: of each source by its share, of each of its images equally many."""
    parts, labels, photos = [], [], {"real": 0, "fake": 0}
    for number, one in enumerate(held):
        room = max(1, round(most * one.share))
        where = one.where
        if len(where) > room:
            order = np.random.default_rng([SEED, number]).permutation(len(where))[:room]
            where = where[np.sort(order)]
        each = max(1, min(EACH, room // max(1, len(where))))
        photos["fake" if one.label else "real"] += len(where)
        rng = np.random.Generator(np.random.PCG64([SEED, number, CUT]))
        parts += [one.crops.at(int(i), (rng.random(), rng.random())) for i in where for _ in range(each)]
        labels += [one.label] * (len(where) * each)
    windows = np.stack(parts) if parts else np.empty((0, 3, window.width, window.width), np.uint8)
    middle = Crops(Stacked(windows), window, len(windows))
    plain = Validation.of(middle, np.array(labels, np.int64), chain)
    return PatchValidation(middle, plain.labels, plain.views, windows, window, photos)
