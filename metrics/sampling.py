"""Which images of a generator are measured: latents, conditions and noise, all following from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from common.errors import UserError
from faces.dataset import to_uint8
from stylegan2_ada.config import GeneratorConfig
from stylegan2_ada.generator import Generator
from training.randomness import seeded

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


def generate(G: Generator, n: int, sampling: Sampling, *, first: int = 0) -> Iterator[torch.Tensor]:
    """Images `first` (a multiple of 8) … n - 1 of a generator as uint8 batches [k, C, H, W]; the caller's random state
    is left alone. UserError for pixels that are not finite."""
    device = torch.device(sampling.device) if sampling.device is not None else next(G.parameters()).device
    G = G.to(device)
    step = _NOISE_BLOCK if sampling.noise_mode == "random" else max(sampling.batch, 1)
    for start in range(first, n, step):
        # The last block is generated whole and cut, so that an image does not depend on how many were asked for.
        z, c = draw_latents(G.cfg, sampling, start, start + step)
        z, c = z.to(device), None if c is None else c.to(device)
        noise_seed = int(np.random.SeedSequence([sampling.seed, 1, start]).generate_state(1, np.uint64)[0] >> 1)
        # no_grad, not inference_mode: whatever the generator caches here must still serve training afterwards.
        with seeded(noise_seed, device), torch.no_grad():
            images = G(z, c, psi=sampling.psi, noise_mode=sampling.noise_mode)
        if not torch.isfinite(images).all():
            raise UserError(
                "the generator gives NaN or infinite pixels, so it has no FID; go back to an earlier snapshot"
            )
        yield to_uint8(images.float())[: n - start]


def draw_latents(
    cfg: GeneratorConfig, sampling: Sampling, start: int, stop: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(z, c): z [stop - start, z_dim] and conditions [stop - start, c_dim] (None without classes) of images
    start … stop - 1, on the CPU."""
    latents, conditions = [], []
    rows = np.eye(cfg.c_dim) if sampling.labels is None else sampling.labels
    for index in range(start, stop):
        rng = np.random.default_rng([sampling.seed, 0, index])
        latents.append(rng.standard_normal(cfg.z_dim, dtype=np.float32))
        if cfg.c_dim:
            conditions.append(rows[rng.integers(len(rows))])
    z = torch.from_numpy(np.stack(latents))
    return z, torch.from_numpy(np.stack(conditions).astype(np.float32)) if cfg.c_dim else None
