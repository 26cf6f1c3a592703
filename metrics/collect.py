"""Features of many images: one pass, streaming statistics, vectors kept only where a metric needs them, cached."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from common.errors import UserError
from common.files import try_lock, written_whole
from metrics.features import FeatureNetwork
from metrics.images import BLOCK, Census, Images
from metrics.stats import GaussianStats, StreamingStats, load_stats, save_stats
from training.processes import Processes

Progress = Callable[[int, int | None], None]
"""Called with (images done, images in all or None where nobody knows)."""

CACHE_FORMAT = 1  # raise it when the same images would give other features


@dataclass
class Features:
    """What was seen in a set of images. `vectors`: float32 [n, dims] in the images' order, None where they were not
    kept. `skipped`: (name, reason) of every file left out. `size`: (height, width) of the images. `cached`: nothing had
    to be computed. `unkept`: why they could not be put into the cache. `left`: as `skipped`, by the images' numbers,
    which hold for a copy of the set under other names."""

    stats: GaussianStats
    vectors: np.ndarray | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)
    size: tuple[int, int] | None = None
    cached: bool = False
    unkept: str | None = None
    left: list[tuple[int, str]] = field(default_factory=list)

    @property
    def n(self) -> int | None:
        return self.stats.n

    def kept(self) -> np.ndarray:
        """`vectors`; UserError without."""
        if self.vectors is None:
            raise UserError("statistics are enough for fid alone: collect the features themselves, with `keep`")
        return self.vectors


@dataclass
class _BlockFeatures:
    """What one process found in one block; made to be sent to the others."""

    vectors: np.ndarray
    names: list[str]
    sizes: list[tuple[int, int]]
    grey: list[bool]
    skipped: list[tuple[int, str]]
    error: str = ""


def collect(
    images: Images,
    features: FeatureNetwork,
    *,
    keep: bool = False,
    ranks: Processes = Processes(),  # noqa: B008 (frozen)
    progress: Progress | None = None,
) -> Features:
    """Features of all `images`. Blocks of 64 are shared among `ranks` and added in their order, so the result does not
    depend on how many processes there are. Called on every rank; rank 0's result has the vectors, if they are to be
    kept: 4 * n * dims bytes.

    UserError, on every rank, for fewer than two usable images, images of different sizes, grey files among colour ones
    (where that matters), or features that are not finite. The line names the image.
    """
    blocks = -(-len(images) // BLOCK)

    def work(number: int) -> _BlockFeatures:
        try:
            block = images.block(number, (number + ranks.size, number + 2 * ranks.size))
            sizes = [image.shape[-2:] for image in block.images]
            vectors = np.empty((0, features.dims), np.float32)
            if len(set(sizes)) == 1:  # else the consumer below will complain
                vectors = features(torch.from_numpy(np.stack(block.images))).cpu().numpy()
            return _BlockFeatures(vectors, block.names, sizes, block.grey, block.skipped)
        except UserError as error:
            return _BlockFeatures(np.empty(0), [], [], [], [], str(error))

    stats, census, bad = StreamingStats(features.dims), Census(images.grey_matters), list[tuple[int, str]]()
    vectors = np.empty((len(images), features.dims), np.float32) if keep and ranks.is_main else None
    for part in ranks.share(blocks, work):
        if part.error:
            raise UserError(part.error)
        bad += part.skipped
        for seen in zip(part.names, part.sizes, part.grey, strict=True):
            census.add(*seen)
        _check_finite(part)
        if vectors is not None:
            vectors[stats.n : stats.n + len(part.vectors)] = part.vectors
        stats.update(part.vectors)
        if progress:
            progress(stats.n + len(bad), len(images))
    if stats.n < 2:
        why = f" ({len(bad)} can't be used, such as {images.name(bad[0][0])}: {bad[0][1]})" if bad else ""
        raise UserError(f"statistics need two images or more, got {stats.n}{why}")
    meta = features.describe()
    return Features(
        stats.finish(meta), None if vectors is None else vectors[: stats.n], _named(images, bad), census.size, left=bad
    )


def _named(images: Images, bad: list[tuple[int, str]]) -> list[tuple[str, str]]:
    return [(images.name(i), reason) for i, reason in bad]


def _check_finite(part: _BlockFeatures) -> None:
    bad = ~np.isfinite(part.vectors).all(axis=1)
    if bad.any():
        raise UserError(
            f"{part.names[int(np.argmax(bad))]}: its features hold NaN or infinite values ({int(bad.sum())} such "
            "images here); the weight file is damaged, or does not belong to this network"
        )


def collect_cached(
    images: Images,
    features: FeatureNetwork,
    content: str | Callable[[], str],
    folder: str | Path | None,
    *,
    keep: bool = False,
    ranks: Processes = Processes(),  # noqa: B008
    progress: Progress | None = None,
    before: Callable[[], None] | None = None,
) -> Features:
    """Like `collect`, from the cache `folder` where the same content was seen with the same features before.

    content: what names the content (or a function that finds out), such as `SourceImages.content_key`. It goes into the
    key together with the weights' hash, the width and the resize mode; no file name does. None as folder: no cache.
    before: called, on every rank, where something has to be computed.
    """
    if folder is None:
        if before:
            before()
        return collect(images, features, keep=keep, ranks=ranks, progress=progress)
    meta = _meta(features, ranks.main_does(content) if callable(content) else content)
    path = Path(folder) / f"stats-{cache_key(meta)}.npz"
    found = _from_cache(path, meta, keep, images) if ranks.is_main else None
    if ranks.main_does(lambda: found is not None):
        return found if found is not None else Features(GaussianStats(np.zeros(0), np.zeros((0, 0))), cached=True)
    if before:
        before()
    result = collect(images, features, keep=keep, ranks=ranks, progress=progress)
    if ranks.is_main:
        try:
            _keep(path, meta, result)
        except (OSError, UserError) as error:  # the numbers are good, only the next run will have to compute them again
            result.unkept = str(error)
    return result


def _keep(path: Path, meta: dict, result: Features) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("a") as lock:
        if not try_lock(lock.fileno()):
            return  # another process is writing the same
        if result.vectors is not None:  # before the statistics, which say that all is there
            with written_whole(_vectors(path)) as temporary, temporary.open("wb") as file:
                np.save(file, result.vectors)
        extra = {"skipped": [list(pair) for pair in result.left], "size": result.size}
        save_stats(path, GaussianStats(result.stats.mu, result.stats.sigma, result.stats.n, {**meta, **extra}))


def is_cached(features: FeatureNetwork, content: str, folder: str | Path) -> bool:
    """Whether `collect_cached` will find statistics of this content (they may yet prove damaged)."""
    return (Path(folder) / f"stats-{cache_key(_meta(features, content))}.npz").is_file()


def _meta(features: FeatureNetwork, content: str) -> dict:
    return {**features.describe(), "format": CACHE_FORMAT, "content": content}


def cache_key(meta: dict) -> str:
    """24 hex digits of the SHA-256 of what `meta` says."""
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()[:24]


def _vectors(path: Path) -> Path:
    return path.with_name(path.name.replace("stats-", "vectors-").replace(".npz", ".npy"))


def _from_cache(path: Path, meta: dict, keep: bool, images: Images) -> Features | None:
    """None where there is nothing, or something damaged: it is computed again and replaced."""
    if not path.is_file():
        return None
    try:
        stats = load_stats(path)
        if stats.n is None or any(stats.meta.get(k) != v for k, v in meta.items()):
            return None
        vectors = None
        if keep:
            vectors = np.load(_vectors(path), mmap_mode="r", allow_pickle=False)
            if vectors.shape != (stats.n, len(stats.mu)) or vectors.dtype != np.float32:
                return None
            scale = np.sqrt(stats.sigma.diagonal().max()) + np.abs(stats.mu).max()
            if not np.abs(vectors.mean(axis=0, dtype=np.float64) - stats.mu).max() <= 1e-6 * scale:  # NaN, too
                return None
        left = [(range(len(images))[number], reason) for number, reason in stats.meta["skipped"]]
        size = stats.meta["size"] and tuple(stats.meta["size"])
    except (UserError, OSError, ValueError, KeyError, TypeError, IndexError, EOFError):
        return None  # or one of a version that kept names, which are those of the place where it was seen first
    return Features(stats, vectors, _named(images, left), size, cached=True, left=left)


def seconds_for(images: Images, features: FeatureNetwork) -> float:
    """Seconds that `collect` will take in one process, measured on the first images: two passes of `features.chunk` (of
    a small set fewer, so that measuring costs less than the work) after a warm-up, of which the quicker counts
    (another program may have had the cores in one of them)."""
    if len(images) == 0:
        return 0.0
    began = time.perf_counter()
    first = images.block(0).images
    making = (time.perf_counter() - began) / max(1, len(first))
    same = [image for image in first if image.shape == first[0].shape]
    same = same[: min(features.chunk, max(1, len(images) // 12))]
    if not same:
        return 0.0
    batch, passes = torch.from_numpy(np.stack(same)), []
    for _ in range(3):
        began = time.perf_counter()
        features(batch).cpu()
        passes.append((time.perf_counter() - began) / len(batch))
    return (making + min(passes[1:])) * len(images)
