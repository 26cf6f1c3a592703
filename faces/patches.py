"""Patches of photos at their own pixels: cut anew at every step, never resampled.

A photo shrunk to a network's square has lost what up-sampling, a camera or a JPEG encoder left in its pixels. Here the
photos of a source are decoded once, upright and whole, into one file that is mapped into memory, and what a network is
shown is a sub-array of N x N pixels of one of them. Which one follows from the shuffled order over photos (so each
counts alike, whatever its size), and where it is cut from (seed, position) alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
import PIL
import torch

from common.errors import BadImage, TooSmall, UserError
from common.files import cache_folder, write_json, written_whole
from common.parallel import Progress, in_order, told
from common.words import none_of
from faces.dataset import DecodedFaces, colour_kind, named_here, read_record, with_mirrors
from faces.preprocess import Preprocess
from faces.source import FaceSource

CACHE_FORMAT = 1
PACE = 8  # photos between two calls of a progress function
AHEAD = 2  # whole photos for each thread that may be in memory while others are written
PROBED = 9  # photos whose size tells how much room all of them will take
EACH = 64  # fixed patches of one photo, at most: they are no independent samples
CUT, FIXED = 0xC407, 0xF17ED  # tell these draws from others


@dataclass
class Patches:
    """Whole photos of a source, and patches of them.

    pixels: uint8, one photo behind the other, H x W x 3 each, in a mapped file. shapes: int64 [N, 2], their heights and
    widths. labels, kept, skipped, converted, name, mirror and mirror_y: as of `DecodedFaces`; what is mirrored is a
    patch. small: how many of the skipped are smaller than a patch. preprocess: makes a patch what the network sees,
    without resampling. folder: where the file lies."""

    pixels: np.ndarray
    shapes: np.ndarray
    labels: np.ndarray
    kept: np.ndarray
    preprocess: Preprocess
    mirror: bool = False
    mirror_y: bool = False
    skipped: list[tuple[str, str]] = field(default_factory=list)
    converted: dict[str, int] = field(default_factory=dict)
    small: int = 0
    name: str = ""
    folder: str = ""
    enlarged = not_square = 0  # nothing is made to fit

    def __post_init__(self) -> None:
        self._ends = np.cumsum(self.shapes.prod(axis=1) * 3)

    @classmethod
    def build(
        cls,
        source: FaceSource,
        preprocess: Preprocess,
        *,
        mirror: bool = False,
        mirror_y: bool = False,
        workers: int | None = None,
        cache_dir: str | os.PathLike | None = None,
        progress: Progress | None = None,
    ) -> Patches:
        """Decode every photo of `source` that holds a patch of `preprocess.resolution`; the others are listed.

        The file has no name and ends with the process; with `cache_dir` it lies there and the next build of the same
        content finds it. At most `AHEAD` photos a thread and one more are in memory at a time. Raises UserError when no
        photo is large enough, or the disk too full."""
        size = preprocess.resolution
        folder = os.fspath(cache_folder() if cache_dir is None else cache_dir)
        work = _Photos(source, size, workers, progress)
        try:
            os.makedirs(folder, exist_ok=True)
            if cache_dir is None:
                pixels, record = _nameless(work, folder)
            else:
                pixels, record = _cached(work, Path(folder))
        except OSError as error:
            raise UserError(
                f"{folder}: the decoded photos can't be written ({error.strerror or error}); set FACES_CACHE to a"
                f" folder on a disk with {work.estimate() / 1e9:.1f} GB of room"
            ) from None
        kept = np.array(record.kept, dtype=np.int64)
        return cls(
            pixels, np.array(record.shapes, dtype=np.int64), source.labels[kept], kept, preprocess, mirror, mirror_y,
            named_here(source, record.kept, record.skipped), dict(record.converted), record.small, source.name, folder,
        )  # fmt: skip

    @property
    def count(self) -> int:
        """Photos, without mirror images."""
        return len(self.shapes)

    def __len__(self) -> int:
        return self.count * (1 + self.mirror) * (1 + self.mirror_y)

    def photo(self, i: int) -> np.ndarray:
        """Photo `i`, whole: a read-only view, uint8 [H, W, 3]."""
        end, shape = self._ends[i], (*self.shapes[i].tolist(), 3)
        return np.asarray(self.pixels)[end - np.prod(shape) : end].reshape(shape)

    def batch(self, indices: Sequence[int] | np.ndarray, draw: tuple[int, int] = (0, 0)) -> torch.Tensor:
        """uint8 [n, C, R, R]: a patch of each photo at `indices` (0 <= index < len; beyond `count`: mirrored).

        draw: (seed, position); where the k-th is cut follows from seed and position + k alone, so a batch may be cut up
        as one likes. Raises IndexError outside."""
        seed, first = draw
        return torch.from_numpy(self.at(indices, seed, range(first, first + len(indices))))

    def at(self, indices: Sequence[int] | np.ndarray, seed: int, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        """As `batch`, with a position for each."""
        indices = np.asarray(indices, dtype=np.int64)
        if indices.ndim != 1 or (len(indices) and (indices.min() < 0 or indices.max() >= len(self))):
            raise IndexError(f"indices must be a list of numbers from 0 to {len(self) - 1}")
        images = np.empty((len(indices), *self.preprocess.shape), np.uint8)
        for k, (i, position) in enumerate(zip((indices % self.count).tolist(), positions, strict=True)):
            images[k] = self._patch(i, seed, int(position))
        return with_mirrors(images, indices // self.count, self.mirror, self.mirror_y)

    def _patch(self, i: int, seed: int, position: int) -> np.ndarray:
        side = self.preprocess.resolution
        height, width = self.shapes[i].tolist()
        # raw words: numpy promises their stream for all versions
        words = np.random.PCG64(np.random.SeedSequence([seed & (2**64 - 1), CUT, position])).random_raw(2)
        top, left = int(words[0]) % (height - side + 1), int(words[1]) % (width - side + 1)
        return self.preprocess.uint8(self.photo(i)[top : top + side, left : left + side]).transpose(2, 0, 1)

    def fixed(self, most: int, label: int) -> FixedPatches:
        """The patches that stand for the photos of a label where something is measured; the same in every run.

        As many of each photo as of any other: together at most `most` where that gives one of each, at most EACH of a
        photo, and no more than fit into the middling one side by side."""
        photos = np.flatnonzero(self.labels == label)
        if not len(photos):
            return FixedPatches(self, photos)
        fit = int(np.median((self.shapes[photos] // self.preprocess.resolution).prod(axis=1)))
        return FixedPatches(self, np.repeat(photos, max(1, min(most // len(photos), EACH, fit))))

    def frozen(self, most: int) -> DecodedFaces:
        """The fixed patches of both labels (at most `most` of each) as images like any others, in memory."""
        parts = [self.fixed(most, label) for label in (0, 1)]
        photos = np.concatenate([part.photos for part in parts])
        return DecodedFaces(
            np.concatenate([part[np.arange(len(part))] for part in parts]),
            self.labels[photos],
            self.kept[photos],
            preprocess=self.preprocess,
            skipped=self.skipped,
            converted=self.converted,
            name=self.name,
        )


@dataclass
class FixedPatches:
    """Patches that do not change, cut when they are asked for. photos: int64 [n], the photo of each."""

    patches: Patches
    photos: np.ndarray

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, chosen: np.ndarray) -> np.ndarray:
        """uint8 [n, C, R, R]."""
        return self.patches.at(self.photos[chosen], FIXED, chosen)


# ---- decoding ------------------------------------------------------------------------------------------------------


@dataclass
class _Record:
    """What came of a source besides the pixels."""

    shapes: list[list[int]] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    converted: Counter = field(default_factory=Counter)
    small: int = 0


@dataclass
class _Photos:
    """The photos of a source on their way into a file."""

    source: FaceSource
    size: int
    workers: int | None
    progress: Progress | None

    def key(self) -> str:
        what = ["patches", CACHE_FORMAT, PIL.__version__, self.source.content_stamp(), self.size]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:24]

    def decoded(self, i: int) -> tuple[np.ndarray, str] | BadImage:
        """Pixels and kind of photo `i`, or what is wrong with it."""
        try:
            photo = self.source.decoded(i, min_side=self.size)
            height, width = photo.pixels.shape[:2]
            if min(height, width) < self.size:  # a rendered one: no decoder has looked
                raise TooSmall(self.source.locate(i), width, height, self.size)
        except BadImage as error:
            return error
        return photo.pixels, colour_kind(photo.mode)

    def estimate(self) -> int:
        """Bytes all photos will take, by the size of some."""
        number = len(self.source)
        some = range(0, number, max(1, number // PROBED))
        return sum(self._bytes(i) for i in some) * number // max(1, len(some))

    def _bytes(self, i: int) -> int:
        one = self.decoded(i)
        return 0 if isinstance(one, BadImage) else one[0].nbytes

    def write(self, file: IO[bytes], folder: str | Path) -> _Record:
        """All of them into `file`, which lies in `folder`, in their order."""
        if (free := shutil.disk_usage(folder).free) < (needed := self.estimate()):
            raise OSError(None, f"they take about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} are free")
        record = _Record()
        for i, one in enumerate(self._in_turn()):
            if isinstance(one, BadImage):
                record.skipped.append((one.name, one.reason))
                record.small += isinstance(one, TooSmall)
                continue
            pixels, kind = one
            if kind != "RGB":
                record.converted[kind] += 1
            record.shapes.append(list(pixels.shape[:2]))
            record.kept.append(i)
            file.write(np.ascontiguousarray(pixels).data)
        file.flush()
        if not record.kept:
            does = f"holds a patch of {self.size} x {self.size} pixels"
            raise UserError(none_of(len(self.source), "photo", does, ": ".join(record.skipped[0]), self.source.name))
        return record

    def _in_turn(self) -> Iterator[tuple[np.ndarray, str] | BadImage]:
        number = len(self.source)
        return told(in_order(self.decoded, number, self.workers, chunk=1, ahead=AHEAD), number, self.progress, PACE)


def _nameless(work: _Photos, folder: str) -> tuple[np.ndarray, _Record]:
    """A file that only this process knows."""
    file = tempfile.TemporaryFile(dir=folder, prefix="photos-")
    record = work.write(file, folder)
    pixels = np.memmap(file, np.uint8, mode="r")
    weakref.finalize(pixels, file.close)  # where files can't lose their names while open, it deletes this one
    return pixels, record


def _cached(work: _Photos, folder: Path) -> tuple[np.ndarray, _Record]:
    """A file that the processes of a run share: <key>.u8 holds the pixels, <key>.json (written last) the rest."""
    pixels, text = folder / f"{work.key()}.u8", folder / f"{work.key()}.json"
    record = read_record(_Record, text, pixels, lambda found: sum(3 * height * width for height, width in found.shapes))
    if record is None:
        with written_whole(pixels, shared=True) as tmp, open(tmp, "wb") as file:
            record = work.write(file, folder)
        write_json(text, vars(record))
    return np.memmap(pixels, np.uint8, mode="r"), record
