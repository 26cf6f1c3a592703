"""Images to be measured, in blocks that can be asked for in any order: those of a source, and those of a generator."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np

from common.errors import BadImage, UserError
from faces.decode import mode_name, open_header, upright_size
from faces.patches import FixedPatches
from faces.preprocess import Preprocess
from faces.source import FaceSource
from faces.stores import RenderedStore
from metrics.sampling import Sampling, generate
from stylegan2_ada.generator import Generator

T = TypeVar("T")

BLOCK = 64  # images of one block; what a generator draws together, so part of what a seed means

LOOKED_AT = 64  # images of a side, to see whether it is grey
GREY_BELOW = 2.0  # levels of 255 between neighbouring channels, in the mean: a re-saved grey photo's chroma

_GREY = ("grey", "grey+alpha", "16-bit grey")


@dataclass
class ImageBlock:
    """Some images: uint8 [C, H, W] each with its name and whether its file is grey; files that can't be used, each with
    its number among all images and the reason."""

    images: list[np.ndarray] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    grey: list[bool] = field(default_factory=list)
    skipped: list[tuple[int, str]] = field(default_factory=list)


class Images(Protocol):
    """`len`, and block number b: images b * BLOCK … (b + 1) * BLOCK - 1. `upcoming` names blocks that will be asked for
    next, which may be begun already. `grey_matters`: whether grey files among colour ones are worth an error."""

    grey_matters: bool = False

    def __len__(self) -> int: ...

    def name(self, number: int) -> str:
        """What image `number` is called, for messages."""
        return f"image {number}"

    def block(self, number: int, upcoming: Sequence[int] = ()) -> ImageBlock: ...

    def close(self) -> None:
        """What is open, such as threads."""
        return None


class Census:
    """Holds images to one size and, with `grey_matters`, one kind. `size`: (height, width), None before the first."""

    def __init__(self, grey_matters: bool):
        self.grey_matters = grey_matters
        self.size: tuple[int, int] | None = None
        self._sized = ""
        self._first: dict[bool, str] = {}

    def add(self, name: str, size: tuple[int, int], grey: bool) -> None:
        """UserError, with both names, where this image is unlike the ones before."""
        if self.size is None:
            self.size, self._sized = size, name
        if size != self.size:
            a, b = (f"{w}x{h}" for h, w in (self.size, size))
            raise UserError(
                f"images of mixed sizes: {self._sized} is {a}, {name} is {b}; give `resolution` N to bring all to "
                "N x N, or sort them first"
            )
        self._first.setdefault(grey, name)
        if self.grey_matters and len(self._first) == 2:
            raise UserError(
                f"{self._first[True]}: a grey image among colour ones (such as {self._first[False]}); take it out, "
                "or give `allow_grey` to count it as a colour image, as pytorch-fid does"
            )


class SourceImages(Images):
    """The images of a source, decoded in `workers` threads while the network is busy with the ones before.

    preprocess: how each becomes square and of one size; None takes the pixels as they are.
    allow_grey: grey files count as colour ones.
    """

    def __init__(
        self, source: FaceSource, preprocess: Preprocess | None = None, *, workers: int = 2, allow_grey: bool = False
    ):
        self.source = source.rendered_at(preprocess.resolution) if preprocess else source
        self.preprocess, self.grey_matters = preprocess, not allow_grey
        self._pool = ThreadPoolExecutor(max(1, workers), thread_name_prefix="metrics-decode")
        self._begun: dict[int, list[Future]] = {}
        self._digests: list[bytes] | None = None

    def __len__(self) -> int:
        return len(self.source)

    def name(self, number: int) -> str:
        return self.source.locate(number)

    def block(self, number: int, upcoming: Sequence[int] = ()) -> ImageBlock:
        futures = self._begin(number)
        for later in upcoming:
            if later not in self._begun and later * BLOCK < len(self):
                self._begun[later] = self._begin(later)
        found = ImageBlock()
        for i, future in enumerate(futures, number * BLOCK):
            try:
                name, pixels, grey = future.result()
            except BadImage as error:
                found.skipped.append((i, error.reason))
                continue
            found.images.append(pixels)
            found.names.append(name)
            found.grey.append(grey)
        return found

    def _begin(self, number: int) -> list[Future]:
        if number in self._begun:
            return self._begun.pop(number)
        return [self._pool.submit(self._one, i) for i in range(number * BLOCK, min((number + 1) * BLOCK, len(self)))]

    def _one(self, i: int) -> tuple[str, np.ndarray, bool]:
        decoded = self.source.decoded(i)
        pixels = decoded.pixels if self.preprocess is None else self.preprocess.uint8(decoded.pixels)
        return self.source.locate(i), np.ascontiguousarray(pixels.transpose(2, 0, 1)), decoded.mode in _GREY

    def check_alike(self) -> None:
        """UserError for images of mixed sizes or kinds, by their headers alone: what `collect` would come upon perhaps
        hours later. Files that can't be read are left to it."""
        if isinstance(self.source.store, RenderedStore) or (self.preprocess and not self.grey_matters):
            return
        census = Census(self.grey_matters)
        for found in self._over_all(self._header):
            if found is not None:
                census.add(*found)

    def _header(self, i: int) -> tuple[str, tuple[int, int], bool] | None:
        name = self.source.locate(i)
        try:
            with open_header(self.source.read(i), name) as image:
                width, height = upright_size(image)
                size = (self.preprocess.resolution,) * 2 if self.preprocess else (height, width)
                return name, size, mode_name(image) in _GREY
        except BadImage:
            return None

    def colourless(self, most: int = LOOKED_AT) -> float:
        """The share of some images, evenly spread, without colour: whose red, green and blue differ by less than 2 grey
        levels in the mean, whatever kind of file they are. NaN where none can be read."""
        count = min(most, len(self))
        found = [grey for i in range(count) if (grey := self._is_grey(i * len(self) // count)) is not None]
        return float(np.mean(found)) if found else float("nan")

    def _is_grey(self, i: int) -> bool | None:
        try:
            pixels = self.source.decoded(i).pixels.astype(np.int16)
        except BadImage:
            return None
        return bool(np.abs(pixels[..., :2] - pixels[..., 1:]).mean() < GREY_BELOW)

    def content_key(self) -> str:
        """SHA-256 over the bytes of all files in order and what is done to them: equal for equal content, whatever the
        files are called and wherever they lie."""
        what = (self.preprocess and self.preprocess.to_dict(), self.grey_matters)  # refused once, refused again
        digest = hashlib.sha256(repr(what).encode())
        if isinstance(self.source.store, RenderedStore):
            digest.update(self.source.content_stamp().encode())
            return digest.hexdigest()
        for one in self.digests():
            digest.update(one)
        return digest.hexdigest()

    def digests(self) -> list[bytes]:
        """The SHA-256 of each file's bytes, read once; of drawn images none."""
        if self._digests is None:
            drawn = isinstance(self.source.store, RenderedStore)
            self._digests = [] if drawn else list(self._over_all(self._hash))
        return self._digests

    def _over_all(self, work: Callable[[int], T]) -> Iterator[T]:
        """`work` of every index, in order; not all at once: a million futures weigh more than the files."""
        for start in range(0, len(self), 1024):
            yield from self._pool.map(work, range(start, min(start + 1024, len(self))))

    def _hash(self, i: int) -> bytes:
        try:
            return hashlib.sha256(self.source.read(i)).digest()
        except BadImage as error:
            return hashlib.sha256(f"unreadable: {error.reason}".encode()).digest()

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


class GeneratedImages(Images):
    """`n` images of a generator (see `metrics.sampling.generate`)."""

    def __init__(self, G: Generator, n: int, sampling: Sampling):
        self.G, self.n, self.sampling = G, n, sampling

    def __len__(self) -> int:
        return self.n

    def block(self, number: int, upcoming: Sequence[int] = ()) -> ImageBlock:
        first, last = number * BLOCK, min((number + 1) * BLOCK, self.n)
        batches = generate(self.G, last, self.sampling, first=first)
        images = [image for batch in batches for image in batch.cpu().numpy()]
        names = [f"sample {i}" for i in range(first, last)]
        return ImageBlock(images, names, [False] * len(images), [])


class ArrayImages(Images):
    """Images that lie in memory: uint8 [N, C, H, W], an array or a memory map, or are cut from what does; those at
    `index` (None: all)."""

    def __init__(self, images: np.ndarray | FixedPatches, index: np.ndarray | None = None):
        self.images, self.index = images, np.arange(len(images)) if index is None else index

    def __len__(self) -> int:
        return len(self.index)

    def block(self, number: int, upcoming: Sequence[int] = ()) -> ImageBlock:
        chosen = self.index[number * BLOCK : (number + 1) * BLOCK]
        images = list(np.asarray(self.images[chosen]))
        return ImageBlock(images, [f"image {i}" for i in chosen], [False] * len(images), [])
