"""How images reach the network's 299 x 299: four ways, each another metric.

Parmar, Zhang & Zhu (2022, "On Aliased Resizing and Surprising Subtleties in GAN Evaluation", arXiv:2104.11222) measured
how much an FID changes with nothing but this step. So the way is part of every number.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

INPUT_SIZE = 299

RESIZES = {
    "tf1": "bilinear, half-pixel centres, no anti-aliasing (pytorch-fid)",
    "clean": "bicubic with anti-aliasing, in float (clean-fid)",
    "original": "bilinear, asymmetric, no anti-aliasing (the TensorFlow graph of 2015, torch-fidelity)",
    "none": "not resized",
}
"""'tf1' is what pytorch-fid does and what most published FIDs since were measured with. The graph it was ported from
samples at other places (pixel i of the result at i * in / out, a shift of up to half an input pixel) and scales pixels
as (x - 128) / 128; that is 'original', which StyleGAN's and torch-fidelity's numbers are of."""

_CENTRED = ("clean", "original")  # pixels as (x - 128) / 128, like the graph; the others as 2 x / 255 - 1


def network_input(images: torch.Tensor, resize: str) -> torch.Tensor:
    """uint8 [N, 1 or 3, H, W] -> float32 [N, 3, 299, 299] in about [-1, 1], channels-last, on the images' device.

    With resize 'none' the size stays. One grey channel is repeated.
    """
    x = images.to(torch.float32).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
    # All of it is linear (but clean-fid's clipping), so what is cheaper on the small image is done there.
    if resize in _CENTRED:
        x = _separable(x, resize)
        if resize == "clean":
            x = x.clamp_(0, 255)
        x = x.sub_(128).mul_(1 / 128)
    else:
        x = x.mul_(2 / 255).sub_(1)
        if resize == "tf1" and x.shape[2:] != (INPUT_SIZE, INPUT_SIZE):
            x = F.interpolate(x, size=(INPUT_SIZE, INPUT_SIZE), mode="bilinear", align_corners=False)
    return x


def _separable(x: torch.Tensor, resize: str) -> torch.Tensor:
    height, width = x.shape[2:]
    if width != INPUT_SIZE:
        x = x @ _matrix(resize, width).T.to(x)
    if height != INPUT_SIZE:
        x = _matrix(resize, height).to(x) @ x
    return x.contiguous(memory_format=torch.channels_last)


@lru_cache(maxsize=32)
def _matrix(resize: str, side: int) -> torch.Tensor:
    """Weights [299, side] of one axis, float32."""
    rows, scale = np.arange(INPUT_SIZE), side / INPUT_SIZE
    if resize == "original":
        weights, place = np.zeros((INPUT_SIZE, side)), rows * scale
        low = np.floor(place).astype(int)
        np.add.at(weights, (rows, low), 1 - (place - low))
        np.add.at(weights, (rows, np.minimum(low + 1, side - 1)), place - low)
    else:
        stretch = max(scale, 1.0)  # the kernel covers all that becomes one pixel
        centre = (rows + 0.5) * scale
        weights = _bicubic((np.arange(side) + 0.5 - centre[:, None]) / stretch)
        weights /= weights.sum(axis=1, keepdims=True)
    return torch.from_numpy(weights.astype(np.float32))


def _bicubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic with a = -1/2 (Keys 1981), Pillow's."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
