"""Which images of a generator are measured: latents, conditions and noise, all following from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from common.errors import UserError
from faces.dataset import to_uint8

_NOISE_BLOCK = 8  # images that share one random noise stream; part of what a seed means


@dataclass(frozen=True)
class Sampling:
    """How images are drawn.

    seed: latent i is drawn from the stream (seed, i), whatever the batch size and device.
    psi: truncation; 1 is none, as in published numbers.
    noise_mode: 'random' as in published numbers, 'const' or 'none'.
    labels: for a conditional generator, rows [M, c_dim] to draw conditions from; None: classes, uniformly.
    batch: images per generator call. With noise_mode 'random' calls always take 8 images, because images of one call
        share a noise stream and the result must not depend on `batch`.
    device: where to generate; None leaves the networks where they are.
    """

    seed: int = 0
    psi: float = 1.0
    noise_mode: str = "random"
    labels: np.ndarray | None = None
    batch: int = 32
    device: str | torch.device | None = None

    def describe(self) -> dict:
        """What belongs to every number."""
        return {"seed": self.seed, "psi": self.psi, "noise_mode": self.noise_mode}


def generate(G: torch.nn.Module, n: int, sampling: Sampling, *, first: int = 0) -> Iterator[torch.Tensor]:
    """Images `first` … n - 1 of a generator as uint8 batches [k, C, H, W]; the caller's random state is left alone.

    Args:
        G: ``G(z, c, psi=..., noise_mode=...) -> [N, C, H, W]`` in [-1, 1], with ``G.cfg.z_dim`` and ``G.cfg.c_dim``.
        first: a multiple of 8.

    Raises:
        UserError: for pixels that are not finite.
    """
    device = torch.device(sampling.device) if sampling.device is not None else next(G.parameters()).device
    G = G.to(device)
    step = _NOISE_BLOCK if sampling.noise_mode == "random" else max(sampling.batch, 1)
    gpus = [torch.cuda.current_device() if device.index is None else device.index] if device.type == "cuda" else []
    for start in range(first, n, step):
        # The last block is generated whole and cut, so that an image does not depend on how many were asked for.
        z, c = draw_latents(G, sampling, start, start + step)
        z, c = z.to(device), None if c is None else c.to(device)
        with torch.random.fork_rng(devices=gpus), torch.no_grad():
            # no_grad, not inference_mode: whatever the generator caches here must still serve training afterwards.
            noise_seed = int(np.random.SeedSequence([sampling.seed, 1, start]).generate_state(1, np.uint64)[0] >> 1)
            torch.random.default_generator.manual_seed(noise_seed)
            for gpu in gpus:
                torch.cuda.default_generators[gpu].manual_seed(noise_seed)
            images = G(z, c, psi=sampling.psi, noise_mode=sampling.noise_mode)
        if not torch.isfinite(images).all():
            raise UserError(
                "the generator gives NaN or infinite pixels, so it has no FID; go back to an earlier snapshot"
            )
        yield to_uint8(images.float())[: n - start]


def draw_latents(G: torch.nn.Module, sampling: Sampling, start: int, stop: int):
    """(z, c): z [stop - start, z_dim] and conditions [stop - start, c_dim] (None without classes) of images
    start … stop - 1, on the CPU."""
    drawn = [_draw(G.cfg, sampling, i) for i in range(start, stop)]
    z = torch.from_numpy(np.stack([z for z, _ in drawn]))
    return z, torch.from_numpy(np.stack([c for _, c in drawn])) if G.cfg.c_dim else None


def _draw(cfg, sampling: Sampling, index: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Latent [z_dim] and condition [c_dim] of one image."""
    rng = np.random.default_rng([sampling.seed, 0, index])
    z = rng.standard_normal(cfg.z_dim, dtype=np.float32)
    if not cfg.c_dim:
        return z, None
    if sampling.labels is not None:
        return z, np.asarray(sampling.labels[rng.integers(len(sampling.labels))], np.float32)
    return z, np.eye(cfg.c_dim, dtype=np.float32)[rng.integers(cfg.c_dim)]
