"""A source decoded once into one uint8 array, and the endless shuffled order in which training walks over it.

Decoding and resizing happen before training, not in it: afterwards a batch is one gather from memory (or from a
memory-mapped file), so the order, the position and a resumed run don't depend on workers or timing.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL
import torch

from common import reading
from common.errors import BadImage, UserError
from common.files import cache_folder, write_json, written_whole
from common.parallel import Progress, in_order, told
from common.words import none_of
from faces.preprocess import Preprocess
from faces.source import FaceSource

MIN_SIDE = 16  # smaller "photos" are thumbnails, spacers or accidents
PACE = 32  # images between two calls of a progress function
Found = TypeVar("Found")
CACHE_FORMAT = 2


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 tensor of any shape -> float32 in [-1, 1]: x / 127.5 - 1, on the tensor's device."""
    return images.to(torch.float32) / 127.5 - 1


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Float images, nominally in [-1, 1] (what lies outside is clipped), as uint8, rounded to the nearest level."""
    return (images * 127.5 + 127.5).round_().clamp_(0, 255).to(torch.uint8)


@dataclass
class DecodedFaces:
    """Every usable image of a source at one resolution.

    images: uint8 [N, C, R, R] (an array, or a read-only memory map of a cache file). labels: int64 [N], 0 real, 1 fake.
    kept: int64 [N], position of each image in the source. skipped: (name, reason) of every image that can't be used.
    converted: how many images of which kind (grey, RGBA, …) became RGB. enlarged, not_square: how many had a side
    shorter than R, and how many sides of two lengths. mirror: whether `len` and indices cover each image a second time,
    mirrored left to right (index i + N is the mirrored image i, as published); mirror_y: all of that once more, upside
    down."""

    images: np.ndarray
    labels: np.ndarray
    kept: np.ndarray
    preprocess: Preprocess
    mirror: bool = False
    mirror_y: bool = False
    skipped: list[tuple[str, str]] = field(default_factory=list)
    converted: dict[str, int] = field(default_factory=dict)
    enlarged: int = 0
    not_square: int = 0
    name: str = ""

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
        min_side: int = MIN_SIDE,
    ) -> DecodedFaces:
        """Decode and preprocess every image of `source`, in its order, in `workers` threads (default: one per core).

        Bad images, and those with a side below `min_side` pixels, are skipped and listed. The result lies in memory;
        with `cache_dir`, in a file there that the next build of the same content and preprocessing finds again.
        progress(done, total) is called from this thread. What takes more than half of the free memory goes into a
        nameless file in `common.files.cache_folder()` that ends with the process.

        Raises UserError when no image is usable, when the array fits neither limit nor disk, or the disk is full."""
        source = source.rendered_at(preprocess.resolution)
        if not len(source):
            raise UserError(f"{source.name or 'the source'} holds no images")
        results = _decoded(source, preprocess, workers, progress, min_side)
        images: np.ndarray
        if cache_dir is not None:
            cache = _Cache(os.fspath(cache_dir), source, preprocess, min_side)
            record = cache.find() or cache.fill(results)
            images = np.memmap(cache.pixels, np.uint8, mode="r", shape=(len(record.kept), *preprocess.shape))
        else:
            images, record = _in_memory(source, preprocess, results)
        kept = np.array(record.kept, dtype=np.int64)
        skipped = named_here(source, record.kept, record.skipped)
        found = vars(record) | {"kept": kept, "converted": dict(record.converted), "name": source.name,
                                "skipped": skipped}  # fmt: skip
        return cls(images, source.labels[kept], preprocess=preprocess, mirror=mirror, mirror_y=mirror_y, **found)

    @property
    def count(self) -> int:
        """Images, without mirror images."""
        return len(self.images)

    def __len__(self) -> int:
        return self.count * (1 + self.mirror) * (1 + self.mirror_y)

    def batch(self, indices: Sequence[int] | np.ndarray, draw: tuple[int, int] = (0, 0)) -> torch.Tensor:
        """uint8 [n, C, R, R] of the images at `indices` (0 <= index < len). Raises IndexError outside.

        draw: as `faces.patches.Patches.batch` takes it; whole images leave nothing to be drawn."""
        indices = np.asarray(indices, dtype=np.int64)
        if indices.ndim != 1 or (len(indices) and (indices.min() < 0 or indices.max() >= len(self))):
            raise IndexError(f"indices must be a list of numbers from 0 to {len(self) - 1}")
        images = self.images[indices % self.count]
        return torch.from_numpy(with_mirrors(images, indices // self.count, self.mirror, self.mirror_y))


def with_mirrors(images: np.ndarray, copies: np.ndarray, mirror: bool, mirror_y: bool) -> np.ndarray:
    """`images` [n, C, H, W], changed in place: each as its copy's number says, 0 as it is, then left to right where
    there is `mirror`, then (`mirror_y`) both of them upside down."""
    for on, dim in ((mirror & (copies % 2 == 1), 3), (mirror_y & (copies >= (2 if mirror else 1)), 2)):
        images[on] = np.flip(images[on], dim)
    return images


def colour_kind(mode: str) -> str:
    """The kind of a decoded file for people: YCbCr is only how some files store RGB; what counts is what a person would
    not call a colour photo."""
    return "RGB" if mode in ("YCbCr", "RGBX") else mode


def stream(
    source: FaceSource,
    preprocess: Preprocess,
    *,
    workers: int | None = None,
    skipped: list[tuple[str, str]] | None = None,
) -> Iterator[np.ndarray]:
    """The usable images of `source` one by one, uint8 [C, R, R], decoded in `workers` threads and kept nowhere.

    (name, reason) of each bad image is appended to `skipped`, where that is given."""
    source = source.rendered_at(preprocess.resolution)
    for _, image, _, _ in _decoded(source, preprocess, workers, None, MIN_SIDE):
        if isinstance(image, BadImage):
            if skipped is not None:
                skipped.append((image.name, image.reason))
        else:
            yield image


class IndexStream:
    """An endless shuffled order over 0..n-1 that is a function of the position alone.

    Position p lies in epoch p // n, whose permutation derives from (seed, epoch): to resume is to ask at the saved
    position, and processes share the stream by taking different positions. Each epoch holds every index once."""

    def __init__(self, n: int, seed: int):
        if n < 1:
            raise UserError(f"a stream needs at least one index, not {n}")
        self.n, self.seed = int(n), int(seed)
        self._epochs: dict[int, np.ndarray] = {}

    def at(self, position: int, count: int) -> np.ndarray:
        """int64 [count]: the indices at positions position … position + count - 1."""
        if position < 0 or count < 0:
            raise UserError(f"position and count must not be negative, got {position} and {count}")
        pieces = [np.empty(0, dtype=np.int64)]
        while count > 0:
            epoch, start = divmod(position, self.n)
            piece = self._permutation(epoch)[start : start + count]
            pieces.append(piece)
            position, count = position + len(piece), count - len(piece)
        return np.concatenate(pieces)

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            # Sorting raw 64-bit words: numpy promises their stream for all versions, but not that of `permutation`.
            words = np.random.PCG64(np.random.SeedSequence([self.seed & (2**64 - 1), epoch])).random_raw(self.n)
            while len(self._epochs) >= 2:  # a batch may straddle two epochs
                self._epochs.pop(next(iter(self._epochs)))
            self._epochs[epoch] = np.argsort(words, kind="stable").astype(np.int64)
        return self._epochs[epoch]


_Result = tuple[int, np.ndarray | BadImage, str, tuple[bool, bool]]


@dataclass
class _Record:
    """What came of a source besides the pixels."""

    kept: list[int] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    converted: Counter = field(default_factory=Counter)
    enlarged: int = 0
    not_square: int = 0

    def images(self, results: Iterator[_Result]) -> Iterator[np.ndarray]:
        """Take the decoder's results in order: note the bad ones, pass on the pixels of the others."""
        for i, result, mode, (enlarged, not_square) in results:
            if isinstance(result, BadImage):
                self.skipped.append((result.name, result.reason))
                continue
            if mode != "RGB":
                self.converted[mode] += 1
            self.enlarged += enlarged
            self.not_square += not_square
            self.kept.append(i)
            yield result

    def check(self, source: FaceSource) -> None:
        if not self.kept:
            name, reason = self.skipped[0]
            raise UserError(none_of(len(source), "image", "can be used", f"{name}: {reason}", source.name))


def _decoded(
    source: FaceSource, preprocess: Preprocess, workers: int | None, progress: Progress | None, min_side: int
) -> Iterator[_Result]:
    """(position, C x R x R uint8 or the reason against, kind of file, whether it was enlarged and was not square) for
    every image of the source, in order."""

    def one(i: int) -> _Result:
        try:
            image = source.decoded(i, min_side=min_side)
        except BadImage as error:
            return i, error, "", (False, False)
        height, width = image.pixels.shape[:2]
        odd = (min(height, width) < preprocess.resolution, height != width)
        return i, preprocess.planes(image.pixels), colour_kind(image.mode), odd

    return told(in_order(one, len(source), workers), len(source), progress, PACE)


def _in_memory(source: FaceSource, preprocess: Preprocess, results: Iterator[_Result]) -> tuple[np.ndarray, _Record]:
    """The images in an array, or in a file that only this process knows: what memory has no room for is read from the
    disk's cache."""
    size, limit, record = len(source) * math.prod(preprocess.shape), _half_of_free_memory(), _Record()
    if size <= limit:
        images = np.empty((len(source), *preprocess.shape), np.uint8)
        for number, image in enumerate(record.images(results)):
            images[number] = image
        record.check(source)
        return images[: len(record.kept)], record
    folder = cache_folder()
    trouble = "there is no room"
    try:
        os.makedirs(folder, exist_ok=True)
        if shutil.disk_usage(folder).free > size:
            file = tempfile.TemporaryFile(dir=folder, prefix="decoding-")
            for image in record.images(results):
                file.write(image.tobytes())
            record.check(source)
            file.flush()
            mapped = np.memmap(file, np.uint8, mode="r", shape=(len(record.kept), *preprocess.shape))
            weakref.finalize(mapped, file.close)  # where files can't lose their names while open, it deletes this one
            return mapped, record
    except OSError as error:
        trouble = f"it can't be written ({error.strerror})"
    raise UserError(
        f"{source.name} at {preprocess.resolution} px takes {size / 2**30:.1f} GiB, more than the "
        f"{limit / 2**30:.1f} GiB of memory it may have, and {trouble} in {folder}: set FACES_CACHE to a folder on a "
        "disk with that much room, or give a lower resolution"
    )


def _half_of_free_memory() -> int:
    try:
        with open("/proc/meminfo") as file:
            free = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        free = 8 << 30
    return free // 2


def read_record(kind: Callable[..., Found], text: Path, pixels: Path, size: Callable[[Found], int]) -> Found | None:
    """The record of a finished cache, in its <key>.json; None when there is none or it isn't whole.

    kind: makes the record of its fields. size: the bytes that its pixels take."""
    try:
        saved = reading.json_file(text)
        saved["skipped"] = [tuple(pair) for pair in saved["skipped"]]
        record = kind(**{**saved, "converted": Counter(saved["converted"])})
        whole = pixels.stat().st_size == size(record) > 0
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if whole else None


def named_here(source: FaceSource, kept: Sequence[int], skipped: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """`skipped` under the names that its images have in `source`: a record that was found may be of another place."""
    left = np.setdiff1d(np.arange(len(source)), kept).tolist()
    return [(source.locate(i), reason) for i, (_, reason) in zip(left, skipped, strict=True)]


class _Cache:
    """One decoded array in a folder: <key>.u8 holds the pixels, <key>.json (written last) the rest."""

    def __init__(self, folder: str, source: FaceSource, preprocess: Preprocess, min_side: int):
        what = [CACHE_FORMAT, PIL.__version__, source.content_stamp(), preprocess.to_dict(), min_side]
        key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:24]
        self.folder, self.source, self.preprocess = folder, source, preprocess
        self.pixels, self.text = os.path.join(folder, f"{key}.u8"), os.path.join(folder, f"{key}.json")

    def find(self) -> _Record | None:
        """The record of a finished cache, None when there is none or it isn't whole."""
        each = math.prod(self.preprocess.shape)
        return read_record(_Record, Path(self.text), Path(self.pixels), lambda record: len(record.kept) * each)

    def fill(self, results: Iterator[_Result]) -> _Record:
        """Write the cache. Plain writes, not a writable map: a full disk is then an error and not a crash."""
        record = _Record()
        try:
            os.makedirs(self.folder, exist_ok=True)
            with written_whole(Path(self.pixels), shared=True) as tmp, open(tmp, "wb") as file:
                for image in record.images(results):
                    file.write(image.tobytes())
                record.check(self.source)
            write_json(Path(self.text), vars(record))
        except OSError as error:
            raise UserError(
                f"{self.folder}: the decoded images can't be written ({error.strerror}); give a cache folder on a disk "
                f"with {len(self.source) * math.prod(self.preprocess.shape) / 2**30:.1f} GiB of room"
            ) from None
        return record
