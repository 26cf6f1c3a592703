"""The artefact branch: local traces of synthesis, looked for at full resolution, patch by patch.

An up-sampling generator leaves its mark in the highest frequencies, and a classifier that down-samples first throws
that mark away (Gragnaniello et al. 2021, "Are GAN generated images easy to detect?": a stride-1 stem gains several AUC
points). A small receptive field makes every output a judgement about one patch (Chai et al. 2020, "What makes fake
images detectable?"), so the patch logits are a map of where the verdict comes from, with nothing added.

    image -> fixed high-pass bank -> truncation -> 3x3 convs at full resolution -> (conv, 2x mean, conv) * blocks -> 1x1

No layer looks at other images or at statistics of the whole image: a patch's logit depends on the pixels in its
receptive field and on nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from common.errors import UserError
from discriminator.network import undecided, zero_bias

BANK_SIZE = 5  # every kernel of a bank is embedded in a 5x5 window
# 1 unit after scaling is about 8 grey levels of an 8-bit image: what generators leave behind is smaller than edges are.
SCALE = 16.0
CLIP = 3.0
SLOPE = 0.2


def _bank(*kernels: Sequence[Sequence[float]]) -> torch.Tensor:
    """Kernels of up to 5x5 taps, embedded centred in 5x5 and scaled to unit L2 norm: float32 [K, 5, 5]."""
    bank = torch.zeros(len(kernels), BANK_SIZE, BANK_SIZE, dtype=torch.float64)
    for i, taps in enumerate(kernels):
        k = torch.tensor(taps, dtype=torch.float64)
        y, x = (BANK_SIZE - k.shape[0]) // 2, (BANK_SIZE - k.shape[1]) // 2
        bank[i, y : y + k.shape[0], x : x + k.shape[1]] = k / k.norm()
    return bank.float()


_NEIGHBOUR = (
    [[-1, 1]],
    [[-1], [1]],
    [[-1, 0], [0, 1]],
    [[0, -1], [1, 0]],
)
_SECOND_ORDER = (
    [[1, -2, 1]],
    [[1], [-2], [1]],
    [[-1, 2, -1], [2, -4, 2], [-1, 2, -1]],
    [[-1, 2, -2, 2, -1], [2, -6, 8, -6, 2], [-2, 8, -12, 8, -2], [2, -6, 8, -6, 2], [-1, 2, -2, 2, -1]],
)


def _cosines(n: int) -> list[list[list[float]]]:
    """The n * n - 1 basis functions of the two-dimensional cosine transform (DCT-II) that are not constant."""
    waves = [[math.cos(math.pi * (2 * t + 1) * k / (2 * n)) for t in range(n)] for k in range(n)]
    return [[[y * x for x in waves[j]] for y in waves[i]] for i in range(n) for j in range(n) if i or j]


RESIDUALS: dict[str, torch.Tensor] = {
    # First and second differences and the two square predictors of the spatial rich model
    # (Fridrich & Kodovsky 2012, "Rich models for steganalysis of digital images", table 1).
    "highpass": _bank(*_NEIGHBOUR, *_SECOND_ORDER),
    # Neighbouring-pixel differences only (the idea of Tan et al. 2024, "Rethinking the up-sampling operations").
    "neighbour": _bank(*_NEIGHBOUR),
    # The three undecimated Haar details (horizontal, vertical, diagonal).
    "wavelet": _bank([[-1, 1], [-1, 1]], [[-1, -1], [1, 1]], [[1, -1], [-1, 1]]),
    # The local spectrum: every pixel's 4x4 cosine transform but for its mean, undecimated (after Frank et al. 2020,
    # "Leveraging frequency analysis for deep fake image recognition", whose transform is of the whole image).
    "spectrum": _bank(*_cosines(4)),
    # The pixels themselves: the control that shows what a bank is worth.
    "pixels": _bank([[1]]),
}


class ResidualBank(nn.Module):
    """Fixed high-pass filters on every colour channel, and truncation.

    Input float [N, C, H, W] in [-1, 1], output [N, C * K, H, W] in [-3, 3]. The kernels sum to zero (but for the
    control "pixels"), so flat areas give zero whatever their colour. The truncation is that of the rich models: an
    edge must not drown the noise beside it.

    `dense` (attribute, default False): compute the same as one ordinary convolution, whose kernels are zero for the
    other colours. ONNX Runtime has no quick way for a grouped one and turns its output round (`export_onnx` sets it).
    """

    kernels: torch.Tensor
    dense = False

    def __init__(self, residual: str, img_channels: int):
        super().__init__()
        if residual not in RESIDUALS:
            raise UserError(f"residual must be one of {', '.join(RESIDUALS)}, not {residual!r}")
        bank = RESIDUALS[residual]
        self.img_channels = img_channels
        self.out_channels = img_channels * len(bank)
        scale = 1.0 if residual == "pixels" else SCALE
        self.register_buffer("kernels", (bank * scale).repeat(img_channels, 1, 1).unsqueeze(1), persistent=False)

    def forward(self, img: torch.Tensor) -> torch.Tensor:
        pad = BANK_SIZE // 2
        # Zero padding would draw a frame of false edges around the photo.
        x = F.pad(img, (pad, pad, pad, pad), mode="reflect")
        if img.device.type == "cpu":  # 1.8x faster, and what follows wants this layout; the numbers are the same
            x = x.contiguous(memory_format=torch.channels_last)
        kernels, groups = (self._dense_kernels(), 1) if self.dense else (self.kernels, self.img_channels)
        return F.hardtanh(F.conv2d(x, kernels, groups=groups), -CLIP, CLIP)

    def _dense_kernels(self) -> torch.Tensor:
        """float32 [C * K, C, 5, 5]: each kernel at its own colour, zeros at the others."""
        own = torch.eye(self.img_channels).repeat_interleave(self.out_channels // self.img_channels, 0)
        return self.kernels * own.to(self.kernels.device)[:, :, None, None]


class ArtefactOut(NamedTuple):
    """`patch_logits` float32 [N, h, w] (positive = fake); `pooled` float32 [N, pooled_dim] for the fused head."""

    patch_logits: torch.Tensor
    pooled: torch.Tensor


class ArtefactBranch(nn.Module):
    """High-pass residuals to patch logits, without early down-sampling.

    channels: width at full resolution; it doubles with each halving, up to four times `channels`.
    blocks: number of (conv, 2x2 mean, conv) stages; the map is `resolution / 2**blocks` on a side.
    `lowp_dtype` (attribute, default None = float32): in training mode the convolutions run in it (torch.bfloat16).
    """

    def __init__(self, *, img_channels: int = 3, channels: int = 16, blocks: int = 2, residual: str = "highpass"):
        super().__init__()
        self.lowp_dtype: torch.dtype | None = None
        self.residual = ResidualBank(residual, img_channels)
        # The learnable scale of each residual acts after the truncation, so it can be folded into the stem's weights
        # and no gradient has to travel back through the full-resolution residuals (a fifth of the training time).
        self.log_scale = nn.Parameter(torch.zeros(self.residual.out_channels))
        self.stem = _conv(self.residual.out_channels, channels)
        width = channels
        self.before_pool, self.after_pool = nn.ModuleList(), nn.ModuleList()
        for i in range(blocks):
            wider = min(channels * 2 ** (i + 1), channels * 4)
            self.before_pool.append(_conv(width, width))
            self.after_pool.append(_conv(width, wider))
            width = wider
        self.patch = nn.Conv2d(width, 1, 1)
        undecided(self.patch)
        self.pooled_dim = 2 * width + 3

    def forward(self, img: torch.Tensor) -> ArtefactOut:
        """img float [N, C, H, W] in [-1, 1]."""
        x = self.residual(img.float())
        dtype = self.lowp_dtype if self.training and self.lowp_dtype else torch.float32
        # channels_last is 1.5x faster in float32 and 1.6x in bfloat16 on a CPU at these widths.
        x = x.to(dtype).contiguous(memory_format=torch.channels_last)
        x = F.leaky_relu(_applied(self.stem, x, self.log_scale.exp().view(1, -1, 1, 1)), SLOPE)
        for before, after in zip(self.before_pool, self.after_pool, strict=True):
            x = F.avg_pool2d(F.leaky_relu(_applied(before, x), SLOPE), 2)
            x = F.leaky_relu(_applied(after, x), SLOPE)
        patch = _applied(self.patch, x).squeeze(1).float()
        return ArtefactOut(patch, torch.cat([mean_std(x.float().flatten(2)), _patch_statistics(patch)], dim=1))


def _conv(cin: int, cout: int) -> nn.Conv2d:
    conv = nn.Conv2d(cin, cout, 3, padding=1)
    nn.init.kaiming_normal_(conv.weight, a=SLOPE, nonlinearity="leaky_relu")
    zero_bias(conv)
    return conv


def _applied(conv: Any, x: torch.Tensor, scale: torch.Tensor | float = 1.0) -> torch.Tensor:
    """A convolution, its weights times `scale`, in the precision of x."""
    weight, bias = (conv.weight * scale).to(x.dtype), conv.bias.to(x.dtype)
    return F.conv2d(x, weight, bias, padding=conv.padding)


def mean_std(x: torch.Tensor) -> torch.Tensor:
    """[N, C, P] -> [N, 2C]. The epsilon inside the root keeps the gradient finite on flat images."""
    var, mean = torch.var_mean(x, dim=2, correction=0)
    return torch.cat([mean, (var + 1e-6).sqrt()], dim=1)


def _patch_statistics(patch: torch.Tensor) -> torch.Tensor:
    """[N, h, w] -> [N, 3]: mean, standard deviation, and log-mean-exp (a soft maximum, whatever the map's size)."""
    flat = patch.flatten(1)
    soft_max = torch.logsumexp(flat, dim=1, keepdim=True) - torch.tensor(float(flat.shape[1])).log().item()
    return torch.cat([mean_std(flat.unsqueeze(1)), soft_max], dim=1)
