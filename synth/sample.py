"""Seeds to images: the same seed gives the same pixels whatever else is asked for in the same call.

A network evaluated on 5 images at once rounds its sums in another order than on 1, and here and there a pixel comes
out one grey level apart. So images are always computed in the same company: seed s belongs to block s // size, a block
is always computed whole, and only the images asked for are kept. The cost is at most one block more than asked for.
The promise holds on one machine, device, torch version and number of threads; across those a grey level may differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from faces.errors import UserError
from stylegan2_ada.generator import Generator

MAX_SEED = 2**32 - 1


def z_from_seed(seed: int, z_dim: int) -> np.ndarray:
    """The latent of one seed: float64 [z_dim], standard normal.

    It is drawn from numpy's Mersenne twister, whose numbers are frozen and which other StyleGAN tools use as well:
    a seed names the same latent everywhere and for ever. `seed` is from 0 to 2^32 - 1.
    """
    return np.random.RandomState(seed).randn(z_dim)  # noqa: NPY002 (frozen stream wanted)


def block_size(resolution: int, device: torch.device) -> int:
    """Images of one network call. It depends on nothing that a user may vary, so that blocks are always the same."""
    small, pixels = (64, 256 * 256 * 32) if device.type == "cuda" else (8, 128 * 128 * 8)
    return max(1, min(small, pixels // resolution**2))


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Float images, nominally in [-1, 1] (what lies outside is clipped), to uint8, rounding to the nearest."""
    return (images * 127.5 + 127.5).round_().clamp_(0, 255).to(torch.uint8)


def _one_hot(G: Generator, class_index: int | None, n: int, device: torch.device) -> torch.Tensor | None:
    classes = G.cfg.c_dim
    if classes == 0:
        if class_index is not None:
            raise UserError(f"--class {class_index}: this generator knows no classes: leave --class out")
        return None
    if class_index is None or not 0 <= class_index < classes:
        got = "none was given" if class_index is None else f"{class_index} is not one of them"
        raise UserError(f"--class: this generator has classes 0 to {classes - 1} and {got}: give one of them")
    c = torch.zeros(n, classes, device=device)
    c[:, class_index] = 1
    return c


@torch.inference_mode()
def _render_block(G, first, size, psi, noise_mode, class_index, device) -> torch.Tensor:
    """uint8 [size, C, H, W] on `device`: the images of seeds first .. first + size - 1 (the last seeds wrap round)."""
    z = np.stack([z_from_seed((first + i) % (MAX_SEED + 1), G.cfg.z_dim) for i in range(size)])
    z = torch.from_numpy(z).to(device=device, dtype=torch.float32)
    c = _one_hot(G, class_index, size, device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(first)  # the noise of noise_mode='random' then belongs to the block as well
        return to_uint8(G(z, c, psi=psi, noise_mode=noise_mode, force_fp32=True))


def sample_batches(
    G: Generator,
    seeds: Iterable[int],
    *,
    psi: float = 1.0,
    noise_mode: str = "const",
    batch: int = 64,
    class_index: int | None = None,
    device: str | torch.device = "cpu",
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Render seeds and yield them in portions as (seeds, uint8 [n, C, H, W]).

    Args:
        G: on `device`; its mode (train or eval) makes no difference. It computes in float32 throughout.
        seeds: each from 0 to 2^32 - 1; doubles are rendered once. The order of the output is that of the blocks.
        psi: truncation, see `Mapping`; 1 is none.
        noise_mode: 'const' (the stored maps), 'none', or 'random' (fresh maps, but always the same for a seed).
        batch: about how many images gather on the device before they are handed out; no pixel depends on it.
        class_index: the class of a conditional generator.

    Raises:
        UserError: for a seed out of range, a batch below 1, or a class that the generator doesn't have.
        ValueError: for an unknown `noise_mode`.
    """
    device = torch.device(device)
    if batch < 1:
        raise UserError(f"--batch {batch}: must be at least 1")
    _one_hot(G, class_index, 1, device)  # a wrong class is told before anything is computed
    size = block_size(G.cfg.resolution, device)
    blocks: dict[int, list[int]] = {}
    for seed in dict.fromkeys(seeds):
        if not 0 <= seed <= MAX_SEED:
            raise UserError(f"seed {seed}: seeds are from 0 to {MAX_SEED}")
        blocks.setdefault(seed // size, []).append(seed)

    names: list[int] = []
    images: list[torch.Tensor] = []
    for block, wanted in blocks.items():
        rendered = _render_block(G, block * size, size, psi, noise_mode, class_index, device)
        names += wanted
        images.append(rendered if len(wanted) == size else rendered[[seed - block * size for seed in wanted]])
        if len(names) >= batch:
            yield names, torch.cat(images).cpu().numpy()
            names, images = [], []
    if names:
        yield names, torch.cat(images).cpu().numpy()


def sample(
    G: Generator,
    seeds: Iterable[int],
    psi: float = 1.0,
    noise_mode: str = "const",
    batch: int = 64,
    device: str | torch.device = "cpu",
    *,
    class_index: int | None = None,
) -> np.ndarray:
    """All images of `seeds`, in their order, as one uint8 array [N, C, H, W]; arguments as for `sample_batches`."""
    seeds = list(seeds)
    found: dict[int, np.ndarray] = {}
    for names, images in sample_batches(
        G, seeds, psi=psi, noise_mode=noise_mode, batch=batch, class_index=class_index, device=device
    ):
        found.update(zip(names, images))
    if not seeds:
        return np.zeros((0, G.cfg.img_channels, G.cfg.resolution, G.cfg.resolution), np.uint8)
    return np.stack([found[seed] for seed in seeds])


def parse_seeds(text: str) -> list[int]:
    """`'0-99,200'` -> [0, ..., 99, 200], doubles dropped. UserError for anything else."""
    seeds: dict[int, None] = {}
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UserError(f"--seeds {text}: «{part.strip()}» is neither a number nor a range: write it like 0-99,200")
        low, high = int(first), int(last or first)
        if high < low:
            raise UserError(f"--seeds {text}: the range {low}-{high} runs backwards: write {high}-{low}")
        if high > MAX_SEED:
            raise UserError(f"--seeds {text}: seeds are from 0 to {MAX_SEED}")
        if high - low >= 10_000_000:
            raise UserError(f"--seeds {text}: more than ten million images in one call: ask for them in parts")
        seeds.update(dict.fromkeys(range(low, high + 1)))
    return list(seeds)
