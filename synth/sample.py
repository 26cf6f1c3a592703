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

from common.errors import UserError
from faces.dataset import to_uint8
from stylegan2_ada.generator import Generator
from synth.latents import PLAIN, block_size, block_ws, blocks_of, check_rendering, device_of
from synth.options import Rendering
from synth.render import in_precision
from training.randomness import seeded


@torch.inference_mode()
def _render_block(G: Generator, block: int, size: int, how: Rendering) -> torch.Tensor:
    """uint8 [size, C, H, W] on the generator's device: the images of the block's seeds."""
    ws = block_ws(G, block, size, how)
    with seeded(block * size, ws.device):  # the noise of noise_mode='random' then belongs to the block as well
        return to_uint8(G.synthesis(ws, noise_mode=how.noise_mode))


def sample_batches(
    G: Generator, seeds: Iterable[int], how: Rendering = PLAIN, *, batch: int = 64
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Render seeds, doubles once, and yield them in portions as (seeds, uint8 [n, C, H, W]), in the blocks' order.

    batch: about how many images gather on the device before they are handed out; no pixel depends on it. UserError for
    a seed out of range, or a class or cutoff that the generator doesn't have."""
    if batch < 1:
        raise UserError(f"`batch` {batch} is too small; give at least 1")
    check_rendering(G, how)
    size = block_size(G.cfg.resolution, device_of(G))
    blocks = blocks_of(seeds, size)
    G = in_precision(G, how.precision)

    names: list[int] = []
    images: list[torch.Tensor] = []
    for block, wanted in blocks.items():
        rendered = _render_block(G, block, size, how)
        names += wanted
        images.append(rendered if len(wanted) == size else rendered[[seed - block * size for seed in wanted]])
        if len(names) >= batch:
            yield names, torch.cat(images).cpu().numpy()
            names, images = [], []
    if names:
        yield names, torch.cat(images).cpu().numpy()


def sample(G: Generator, seeds: Iterable[int], how: Rendering = PLAIN, *, batch: int = 64) -> np.ndarray:
    """All images of `seeds`, in their order, as one uint8 array [N, C, H, W]; arguments as for `sample_batches`."""
    seeds = list(seeds)
    found: dict[int, np.ndarray] = {}
    for names, images in sample_batches(G, seeds, how, batch=batch):
        found.update(zip(names, images))
    if not seeds:
        return np.zeros((0, G.cfg.img_channels, G.cfg.resolution, G.cfg.resolution), np.uint8)
    return np.stack([found[seed] for seed in seeds])
