"""Photos and their twins as a training meets them: both of a pair in one batch, through the same random draws.

A twin is saved as its photo's file was (JPEG quality, chroma, grid of blocks), because a photo from a camera has that
behind it. Where the photo's file was no JPEG, both of a pair are saved alike at a random quality. A share of the twins
keeps a part of its photo: some of every pixel, or some coefficients of all 8 x 8 blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import scipy.fft

from common.errors import UserError
from common.files import sha256_of
from common.words import counted
from discriminator.training.options import TrainerOptions
from faces import filters
from faces.twin_bank import MANIFEST, Mark, Pair, TwinBank

QUALITIES = (65, 97)  # of pairs whose photo's file says none
BLOCK = 8
GRID = 16  # blocks of chroma at half size
KEPT = 0.5  # of a photo in a mixed twin, at most
FIXED = 0x7B1D


@dataclass(frozen=True)
class Pairs:
    """The pairs of some decoders. parts: uint8 [n, 2, side, side, 3] of each; ends: running sums of their n; places:
    where each pair is from; mix: probability that a twin keeps a part of its photo."""

    parts: Sequence[np.ndarray]
    ends: np.ndarray
    places: Sequence[Pair]
    mix: float

    def __len__(self) -> int:
        return len(self.places)

    @property
    def side(self) -> int:
        return self.parts[0].shape[2]

    def both(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Photo and twin as the bank has them, uint8 [side, side, 3]."""
        part = int(np.searchsorted(self.ends, i, side="right"))
        photo, twin = self.parts[part][i - (self.ends[part - 1] if part else 0)]
        return np.asarray(photo), np.asarray(twin)


@dataclass(frozen=True)
class Half:
    """The photos of `pairs`, or their twins."""

    pairs: Pairs
    twin: bool

    def photo(self, i: int) -> np.ndarray:
        """Where something is measured: always the same, and no twin is mixed."""
        return self._saved(i, np.random.Generator(np.random.PCG64([FIXED, i])), 0.0)

    def drawn(self, i: int, rng: np.random.Generator) -> np.ndarray:
        """In training. Both halves take the same numbers from `rng`."""
        return self._saved(i, rng, self.pairs.mix)

    def _saved(self, i: int, rng: np.random.Generator, mix: float) -> np.ndarray:
        photo, twin = self.pairs.both(i)
        place = self.pairs.places[i]
        u = rng.random(6)
        mask = rng.random((BLOCK, BLOCK))
        if place.quality is None:
            quality, grid = int(QUALITIES[0] + (QUALITIES[1] - QUALITIES[0] + 1) * u[0]), (u[1], u[2])
            top, left = (int(GRID * at) for at in grid)
            return save(self._of(photo, twin, mix, u, mask), quality, "4:2:0", (top, left))
        if not self.twin:
            return photo
        mixed = self._of(photo, twin, mix, u, mask)
        return save(mixed, place.quality, place.subsampling, (place.top, place.left))

    def _of(self, photo: np.ndarray, twin: np.ndarray, mix: float, u: np.ndarray, mask: np.ndarray) -> np.ndarray:
        if not self.twin:
            return photo
        if u[3] >= mix:
            return twin
        return mixed_pixels(photo, twin, KEPT * u[5]) if u[4] < 0.5 else mixed_blocks(photo, twin, mask < KEPT * u[5])


def mixed_pixels(photo: np.ndarray, twin: np.ndarray, kept: float) -> np.ndarray:
    """uint8: `kept` of the photo's levels and the rest of the twin's."""
    return filters.to_uint8(kept * photo.astype(np.float32) + (1 - kept) * twin.astype(np.float32))


def mixed_blocks(photo: np.ndarray, twin: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3]: of the cosine transform of every 8 x 8 block, the coefficients `kept` (bool [8, 8]) are the
    photo's, the others the twin's. What is left beyond whole blocks is the twin's."""
    height, width = (n // BLOCK * BLOCK for n in twin.shape[:2])
    shape = (height // BLOCK, BLOCK, width // BLOCK, BLOCK, 3)
    a, b = (
        scipy.fft.dctn(im[:height, :width].astype(np.float32).reshape(shape), axes=(1, 3), norm="ortho")
        for im in (photo, twin)
    )
    both = np.where(kept[None, :, None, :, None], a, b)
    out = twin.copy()
    out[:height, :width] = filters.to_uint8(scipy.fft.idctn(both, axes=(1, 3), norm="ortho").reshape(height, width, 3))
    return out


def save(image: np.ndarray, quality: int, subsampling: str, place: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W, 3] as if it had been cut at `place` (top, left) out of a file that was saved so: JPEG's blocks lie
    where they would there. subsampling: "4:4:4", or anything else for chroma of half the size."""
    top, left = (at % GRID for at in place)
    whole = cv2.copyMakeBorder(image, top, 0, left, 0, cv2.BORDER_REFLECT_101)
    return filters.jpeg(whole, quality, "444" if subsampling == "4:4:4" else "420")[top:, left:]


# ---- banks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OpenedBank:
    """The pairs of a bank. where: int64 [n], those that a training may use; photos: a number for the photo of each of
    `pairs`; facts: for the record."""

    spec: str
    dose: float
    pairs: Pairs
    where: np.ndarray
    photos: np.ndarray
    facts: dict

    def say(self) -> str:
        f = self.facts
        kinds = ", ".join(f"{number} {kind}" for number, kind in zip(f["decoders"], f["kinds"], strict=True))
        out = f"; {f['left_out']} pairs of photos that this training holds out are not shown" if f["left_out"] else ""
        failed = [number for number in f["failed"] if number not in f["decoders"]]
        out += f"; left out because they failed their gates: decoders {', '.join(map(str, failed))}" if failed else ""
        return f"{self.spec}: {counted(f['pairs'], 'pair')} of photo and twin from decoders {kinds}{out}"


def check_twin_options(o: TrainerOptions, balance: str, batch: int) -> None:
    """UserError for what does not go with pairs, or says nothing without."""
    if not o.twins:
        for name in ("twin_decoders", "twin_mix"):
            if getattr(o, name) != getattr(TrainerOptions, name):
                raise UserError(f"`{name}` {getattr(o, name)}: of a bank of twins; give one by `twins`")
        return
    if o.patch_size is None:
        raise UserError("`twins`: are patches of photos; give `patch_size`, at most the side of the bank's crops")
    if balance != "sampling":
        raise UserError(f"`balance` {balance}: twins come in pairs with their photos; leave it sampling")
    if batch % 2:
        raise UserError(f"`batch` {batch}: twins come in pairs; give an even number")


def open_bank(spec: str, dose: float, o: TrainerOptions, held: set[Mark]) -> OpenedBank:
    """held: marks of the photos whose pairs are not for learning."""
    bank = TwinBank.open(spec)
    chosen = bank.chosen(o.twin_decoders)
    places: list[Pair] = []
    parts, kept, left_out = [], [], 0
    for one in chosen:
        mine = bank.pairs[one.number]
        free = [k for k, pair in enumerate(mine) if pair.mark not in held]
        left_out += len(mine) - len(free)
        kept += [len(places) + k for k in free]
        places += mine
        parts.append(bank.pixels(one))
    if not kept:
        raise UserError(f"`twins` {spec}: all of its photos are held out by this training; make a bank of the others")
    photos = np.unique([pair.photo for pair in places], return_inverse=True)[1]
    pairs = Pairs(parts, np.cumsum([len(part) for part in parts]), places, o.twin_mix)
    facts = {
        "bank": spec, "decoders": [one.number for one in chosen], "kinds": [one.shape["kind"] for one in chosen],
        "failed": [one.number for one in bank.decoders if one.failed], "pairs": len(kept), "left_out": left_out,
        "manifest": sha256_of(bank.folder / MANIFEST),
    }  # fmt: skip
    return OpenedBank(spec, dose, pairs, np.array(kept), photos, facts)
