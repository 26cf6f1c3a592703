"""Which latents are meant: seeds, classes, truncation."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from common.errors import UserError
from stylegan2_ada.generator import Generator
from synth.options import MAX_SEED, Rendering

PLAIN = Rendering()  # no truncation, stored noise, fp32


def z_from_seed(seed: int, z_dim: int) -> np.ndarray:
    """The latent of one seed: float64 [z_dim], standard normal.

    It is drawn from numpy's Mersenne twister, whose numbers are frozen and which other StyleGAN tools use as well:
    a seed names the same latent everywhere and for ever. `seed` is from 0 to 2^32 - 1.
    """
    return np.random.RandomState(seed).randn(z_dim)  # noqa: NPY002 (frozen stream wanted)


def check_class(G: Generator, class_index: int | None) -> None:
    """UserError unless `class_index` is one of the generator's classes (None where it has none)."""
    classes = G.cfg.c_dim
    if classes == 0 and class_index is not None:
        raise UserError(f"`class_index` {class_index}: this generator knows no classes: leave `class_index` out")
    if classes and (class_index is None or not 0 <= class_index < classes):
        got = "none was given" if class_index is None else f"{class_index} is not one of them"
        raise UserError(f"`class_index`: this generator has classes 0 to {classes - 1} and {got}: give one of them")


def check_rendering(G: Generator, how: Rendering) -> None:
    """UserError where the class or the cutoff is not of this generator: told before anything is computed."""
    check_class(G, how.class_index)
    if how.cutoff is not None and how.cutoff > G.num_ws:
        raise UserError(
            f"`cutoff` {how.cutoff}: this generator has {G.num_ws} style layers: give 0 to {G.num_ws}, how many of"
            " them, from the coarsest on, are truncated"
        )


def device_of(G: Generator) -> torch.device:
    """Where a generator computes."""
    return next(G.parameters()).device


def one_hot(G: Generator, class_index: int | None, n: int) -> torch.Tensor | None:
    """Labels float32 [n, c_dim], or None for a generator without classes; UserError as in `check_class`."""
    check_class(G, class_index)
    if class_index is None:
        return None
    c = torch.zeros(n, G.cfg.c_dim, device=device_of(G))
    c[:, class_index] = 1
    return c


def block_size(resolution: int, device: torch.device) -> int:
    """Images of one network call. It depends on nothing that a user may vary, so that blocks are always the same."""
    small, pixels = (64, 256 * 256 * 32) if device.type == "cuda" else (8, 128 * 128 * 8)
    return max(1, min(small, pixels // resolution**2))


def blocks_of(seeds: Iterable[int], size: int) -> dict[int, list[int]]:
    """Seeds, doubles dropped, by the number of the block (`seed // size`) they belong to. UserError out of range."""
    blocks: dict[int, list[int]] = {}
    for seed in dict.fromkeys(seeds):
        if not 0 <= seed <= MAX_SEED:
            raise UserError(f"seed {seed}: seeds are from 0 to {MAX_SEED}")
        blocks.setdefault(seed // size, []).append(seed)
    return blocks


def block_ws(G: Generator, block: int, size: int, how: Rendering) -> torch.Tensor:
    """ws [size, num_ws, w_dim] of the seeds block * size … (beyond the last seed they wrap round)."""
    drawn = np.stack([z_from_seed((block * size + i) % (MAX_SEED + 1), G.cfg.z_dim) for i in range(size)])
    z = torch.from_numpy(drawn).to(device=device_of(G), dtype=torch.float32)
    return G.mapping(z, one_hot(G, how.class_index, size), psi=how.psi, cutoff=how.cutoff)


@torch.inference_mode()
def ws_from_seeds(G: Generator, seeds: Iterable[int], how: Rendering = PLAIN) -> torch.Tensor:
    """ws [N, num_ws, w_dim] of `seeds` in their order, the very numbers that `synth.sample` renders. UserError for a
    seed, class or cutoff out of range."""
    device, seeds = device_of(G), list(seeds)
    check_rendering(G, how)
    size = block_size(G.cfg.resolution, device)
    found: dict[int, torch.Tensor] = {}
    for block, wanted in blocks_of(seeds, size).items():
        ws = block_ws(G, block, size, how)
        found.update((seed, ws[seed - block * size]) for seed in wanted)
    if not seeds:
        return torch.zeros(0, G.num_ws, G.cfg.w_dim, device=device)
    return torch.stack([found[seed] for seed in seeds])
