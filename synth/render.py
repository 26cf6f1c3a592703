"""Latents to pixels, in blocks of one size, in the precision asked for."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import nn

from faces.dataset import to_uint8
from stylegan2_ada.generator import Generator
from synth.latents import block_size, device_of
from training.precision import resolve_precision

LOWP_RES = 4  # resolutions in bfloat16, counted from the highest, as in the published mixed precision


def _twin(G: Generator, tensors: dict[int, torch.Tensor]) -> Generator:
    """A generator of its own that shares all weights with `G`, without gradients, but those replaced in `tensors`, by
    the id of the old one."""
    shared = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in G.parameters()}
    return copy.deepcopy(G, shared | {id(t): t for t in G.buffers()} | tensors)


def in_precision(G: Generator, precision: str) -> Generator:
    """A generator that computes in 'fp32', 'bf16' or what 'auto' is, and shares all weights with `G`, which stays as it
    is.

    fp32: float32 throughout, however it was trained. bf16: the four highest resolutions (or more, if it was trained so)
    compute in bfloat16, all the rest in float32.
    """
    precision = resolve_precision(precision, device_of(G))
    lowp = 0 if precision == "fp32" else max(LOWP_RES, G.cfg.num_lowp_res)
    if lowp == G.cfg.num_lowp_res and (lowp == 0 or G.lowp_dtype == torch.bfloat16):
        return G
    twin = _twin(G, {})
    twin.cfg = twin.synthesis.cfg = dataclasses.replace(G.cfg, num_lowp_res=lowp)
    twin.lowp_dtype = torch.bfloat16
    return twin


def with_noise(G: Generator, noises: dict[str, torch.Tensor]) -> Generator:
    """A generator that shares all weights with `G`, which stays as it is, and has other noise maps: `noises`, by the
    names of G's buffers. Gradients flow to these and to no weight."""
    buffers = dict(G.named_buffers())
    return _twin(G, {id(buffers[name]): noise for name, noise in noises.items()})


def render_ws(G: Generator, ws: Iterable[torch.Tensor], *, noise_mode: str = "const") -> Iterator[np.ndarray]:
    """Render latents given one by one, each [num_ws, w_dim]; yields uint8 [n, C, H, W], n at most the block size.

    Only one block is in memory at a time. The last block is filled up, so that each image is computed in a company of
    the same size whatever the number of latents.
    """
    size, block = block_size(G.cfg.resolution, device_of(G)), []
    for one in ws:
        block.append(one)
        if len(block) == size:
            yield _rendered(G, block, noise_mode)
            block = []
    if block:
        yield _rendered(G, block + block[-1:] * (size - len(block)), noise_mode)[: len(block)]


@torch.inference_mode()
def _rendered(G: Generator, block: list[torch.Tensor], noise_mode: str) -> np.ndarray:
    return to_uint8(G.synthesis(torch.stack(block), noise_mode=noise_mode)).cpu().numpy()
