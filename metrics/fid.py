"""FID of a generator against a data set: generated images, feature statistics, and their cache.

Every result says its feature width, resize mode, sample counts, weights and seed: FIDs that differ in any of them
cannot be compared.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from faces.errors import UserError
from metrics.frechet import frechet_distance
from metrics.inception import InceptionFeatures
from metrics.stats import GaussianStats, StreamingStats, load_stats, save_stats

Progress = Callable[[int, int | None], None]
"""Called with (images done, images in all or None where nobody knows)."""

_STEP = 64  # images between two calls of a progress function
_NOISE_BLOCK = 8  # images that share one random noise stream; part of what a seed means


def parse_metric(name: str) -> int:
    """Number of generated images a metric name asks for: 'fid5k' -> 5000, 'fid500' -> 500, 'fid50k_full' -> 50000.

    Raises:
        UserError: for a name of another form or fewer than two images.
    """
    match = re.fullmatch(r"fid([1-9]\d*)(k?)(_full)?", name)
    count = int(match[1]) * (1000 if match[2] else 1) if match else 0
    if count < 2:
        raise UserError(
            f"--metrics: metric '{name}' is unknown; give fid1k, fid5k, fid10k, fid50k or another number of images"
        )
    return count


def dataset_stats(
    images: np.ndarray | torch.Tensor | Iterable,
    features: InceptionFeatures,
    *,
    cache_dir: str | Path | None = None,
    cache_key: str | None = None,
    progress: Progress | None = None,
) -> GaussianStats:
    """Feature statistics of uint8 images, from the cache if they were computed before.

    Args:
        images: array or tensor [N, 3, H, W], or an iterable of such batches or of single images [3, H, W].
        features: the feature extractor; its weights, width and resize mode are part of the cache key.
        cache_dir: folder of the cache; None turns it off.
        cache_key: what names the *content* (a source fingerprint with the preprocessing). None: the SHA-256 of the
            pixels, possible for an array only; an iterable without key is not cached.
        progress: called after every few images.

    Raises:
        UserError: for fewer than two images or images of a wrong kind.
    """
    meta = features.describe()
    path = None
    if cache_dir is not None:
        if cache_key is None and isinstance(images, np.ndarray | torch.Tensor):
            cache_key = _pixel_hash(images)
        if cache_key is not None:
            meta["content"] = cache_key
            key = hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()[:24]
            path = Path(cache_dir) / f"stats-{key}.npz"
            cached = _cached(path, meta)
            if cached is not None:
                return cached
    stats, total = StreamingStats(features.dims), len(images) if hasattr(images, "__len__") else None
    for batch in _batches(images):
        stats.update(features(batch).cpu().numpy())
        if progress:
            progress(stats.n, total)
    result = stats.finish(meta)
    if path is not None:
        try:
            save_stats(path, result)
        except UserError as error:  # the numbers are good, only the next run will have to compute them again
            warnings.warn(f"statistics are not cached: {error}", stacklevel=2)
    return result


def generator_stats(
    G: torch.nn.Module,
    features: InceptionFeatures,
    n: int,
    *,
    batch: int = 32,
    seed: int = 0,
    device: str | torch.device | None = None,
    psi: float = 1.0,
    noise_mode: str = "random",
    labels: np.ndarray | None = None,
    progress: Progress | None = None,
) -> GaussianStats:
    """Feature statistics of ``n`` generated images; arguments as in ``fid_of_generator``."""
    if n < 2:
        raise UserError(f"FID needs two images or more, got {n}")
    stats = StreamingStats(features.dims)
    for images in generate(G, n, batch=batch, seed=seed, device=device, psi=psi, noise_mode=noise_mode, labels=labels):
        stats.update(features(images).cpu().numpy())
        if progress:
            progress(stats.n, n)
    return stats.finish({**features.describe(), "seed": seed, "psi": psi, "noise_mode": noise_mode})


def fid_of_generator(
    G: torch.nn.Module,
    features: InceptionFeatures,
    real_stats: GaussianStats,
    n: int,
    *,
    batch: int = 32,
    seed: int = 0,
    device: str | torch.device | None = None,
    psi: float = 1.0,
    noise_mode: str = "random",
    labels: np.ndarray | None = None,
    progress: Progress | None = None,
) -> dict:
    """FID between ``n`` images of a generator and the statistics of a data set.

    Args:
        G: ``G(z, c, psi=..., noise_mode=...) -> [N, C, H, W]`` in [-1, 1], with ``G.cfg.z_dim`` and ``G.cfg.c_dim``.
        features: the extractor that made ``real_stats``.
        n: number of images; FID is biased upwards for few, so compare equal ``n`` only.
        batch: images per generator call. With noise_mode 'random' calls always take 8 images, because images of one
            call share a noise stream and the result must not depend on ``batch``.
        seed: latent i is drawn from the stream (seed, i), whatever the batch size and device.
        device: where to generate; None leaves the networks where they are.
        psi: truncation; 1 is none, as in published numbers.
        noise_mode: 'random' as in published numbers, 'const' or 'none'.
        labels: for a conditional generator, rows [M, c_dim] to draw conditions from; None: classes, uniformly.
        progress: called with (images done, n).

    Returns:
        dict with fid, metric, dims, resize, n_fake, n_real, weights_sha256, seed, psi, noise_mode and seconds.

    Raises:
        UserError: if the statistics come from other features, or the generator gives NaN.
    """
    _check_same_features(real_stats, features)
    began = time.perf_counter()
    fake = generator_stats(
        G, features, n, batch=batch, seed=seed, device=device, psi=psi, noise_mode=noise_mode, labels=labels,
        progress=progress,
    )  # fmt: skip
    fid = frechet_distance(fake.mu, fake.sigma, real_stats.mu, real_stats.sigma)
    return {
        "metric": f"fid{n // 1000}k" if n % 1000 == 0 else f"fid{n}",
        "fid": fid,
        **features.describe(),
        "n_fake": fake.n,
        "n_real": real_stats.n,
        "seed": seed,
        "psi": psi,
        "noise_mode": noise_mode,
        "seconds": time.perf_counter() - began,
    }


def estimate_seconds(
    G: torch.nn.Module | None,
    features: InceptionFeatures,
    n: int,
    *,
    batch: int = 32,
    device: str | torch.device | None = None,
    noise_mode: str = "random",
    max_images: int = 32,
) -> float:
    """Seconds that ``n`` images will take, measured on at most ``max_images`` after a warm-up of one chunk.

    With G None it is the time for the features alone (of 64x64 images; the resize hides the original size).
    """

    def run(count: int) -> float:
        began = time.perf_counter()
        if G is None:
            features(torch.zeros(count, 3, 64, 64, dtype=torch.uint8)).cpu()
        else:
            for images in generate(G, count, batch=batch, seed=0, device=device, psi=1.0, noise_mode=noise_mode):
                features(images).cpu()
        return time.perf_counter() - began

    run(min(features.chunk, n))
    count = min(max_images, n)
    return run(count) * n / count


def generate(
    G: torch.nn.Module,
    n: int,
    *,
    batch: int = 32,
    seed: int = 0,
    device: str | torch.device | None = None,
    psi: float = 1.0,
    noise_mode: str = "random",
    labels: np.ndarray | None = None,
) -> Iterator[torch.Tensor]:
    """Images of a generator as uint8 batches [k, C, H, W], ``n`` in all; the caller's random state is left alone."""
    device = torch.device(device) if device is not None else next(G.parameters()).device
    G = G.to(device)
    step = _NOISE_BLOCK if noise_mode == "random" else max(batch, 1)
    for start in range(0, n, step):
        # The last block is generated whole and cut, so that an image does not depend on how many were asked for.
        indices = range(start, start + step)
        drawn = [_draw(G.cfg, seed, i, labels) for i in indices]
        z = torch.from_numpy(np.stack([z for z, _ in drawn])).to(device)
        c = torch.from_numpy(np.stack([c for _, c in drawn])).to(device) if G.cfg.c_dim else None
        gpus = [torch.cuda.current_device() if device.index is None else device.index] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=gpus), torch.no_grad():
            # no_grad, not inference_mode: whatever the generator caches here must still serve training afterwards.
            noise_seed = int(np.random.SeedSequence([seed, 1, start]).generate_state(1, np.uint64)[0] >> 1)
            torch.random.default_generator.manual_seed(noise_seed)
            for gpu in gpus:
                torch.cuda.default_generators[gpu].manual_seed(noise_seed)
            images = G(z, c, psi=psi, noise_mode=noise_mode)
        if not torch.isfinite(images).all():
            raise UserError(
                "the generator gives NaN or infinite pixels, so it has no FID; go back to an earlier snapshot"
            )
        yield (images.float() * 127.5 + 128).clamp_(0, 255).to(torch.uint8)[: n - start]


def _draw(cfg, seed: int, index: int, labels: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Latent [z_dim] and condition [c_dim] of one image."""
    rng = np.random.default_rng([seed, 0, index])
    z = rng.standard_normal(cfg.z_dim, dtype=np.float32)
    if not cfg.c_dim:
        return z, None
    if labels is not None:
        return z, np.asarray(labels[rng.integers(len(labels))], np.float32)
    return z, np.eye(cfg.c_dim, dtype=np.float32)[rng.integers(cfg.c_dim)]


def _batches(images) -> Iterator[torch.Tensor]:
    if isinstance(images, np.ndarray | torch.Tensor):
        if images.ndim == 3:
            images = images[None]
        for start in range(0, len(images), _STEP):
            yield _tensor(images[start : start + _STEP])
        return
    held: list[torch.Tensor] = []
    for item in images:
        item = _tensor(item)
        if item.ndim == 4:
            yield item
        elif held and item.shape != held[0].shape:
            yield torch.stack(held)
            held = [item]
        else:
            held.append(item)
        if len(held) == _STEP:
            yield torch.stack(held)
            held = []
    if held:
        yield torch.stack(held)


def _tensor(images) -> torch.Tensor:
    if isinstance(images, torch.Tensor):
        return images
    # A copy: memory-mapped packs are read-only, which torch warns about.
    return torch.from_numpy(np.array(images))


def _pixel_hash(images: np.ndarray | torch.Tensor) -> str:
    digest = hashlib.sha256(repr((tuple(images.shape), str(images.dtype).removeprefix("torch."))).encode())
    for start in range(0, len(images), _STEP):
        digest.update(np.ascontiguousarray(_tensor(images[start : start + _STEP]).cpu().numpy()))
    return f"pixels-{digest.hexdigest()}"


def _cached(path: Path, meta: dict) -> GaussianStats | None:
    if not path.is_file():
        return None
    try:
        stats = load_stats(path)
    except UserError:  # a damaged cache file is computed again and replaced
        return None
    return stats if stats.meta == meta and stats.n is not None else None


def _check_same_features(stats: GaussianStats, features: InceptionFeatures) -> None:
    if len(stats.mu) != features.dims:
        raise UserError(
            f"the real statistics have {len(stats.mu)} dimensions, these features {features.dims}; "
            "use the same --dims for both"
        )
    for key, value in features.describe().items():
        if stats.meta.get(key, value) != value:
            raise UserError(
                f"the real statistics were made with {key} {stats.meta[key]}, these features with {value}; "
                "make them again"
            )
