"""The InceptionV3 of the Frechet inception distance, rebuilt for speed.

The network is the one Heusel et al. (2017, "GANs Trained by a Two Time-Scale Update Rule...", arXiv:1706.08500)
measured with: Szegedy et al. (2016, arXiv:1512.00567) as frozen in the graph of 2015-12-05. It differs from the usual
InceptionV3 in three places: average pools leave the padding out of the mean, the last block pools by maximum, and the
classifier has 1008 classes. Layer names are those of pytorch-fid's weight file.

Three rewrites make it faster and leave the function as it was, up to float32 rounding:

* batch norm is folded into the convolutions when the weights are loaded;
* the 1x1 convolutions that start the branches of a block read the same input, so they run as one convolution. The
  pooling branch joins in: a mean over valid pixels and a 1x1 convolution are both linear and the mean's weights sum to
  one, so they commute, bias included, and the mean then runs over fewer channels;
* tensors are channels-last and go through in chunks of 8 images, which keeps the working set in cache.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from faces.errors import UserError
from metrics.weights import find_weights, load_folded

__all__ = ["DIMS", "RESIZES", "InceptionFeatures", "find_weights"]

DIMS = (64, 192, 768, 2048)
"""Feature widths: after the first max pool, the second, the last 17x17 block, and the final pool."""

RESIZES = ("pytorch-fid", "none")
"""How images reach the network: bilinear to 299x299 without anti-aliasing, or as they are."""

_INPUT_SIZE = 299
_SMALLEST_INPUT = 75  # below this a valid (unpadded) 3x3 step has nothing left to read

Take = Callable[..., nn.Conv2d]


class _Chain(nn.Sequential):
    """Convolutions one after another, each followed by a ReLU."""

    def forward(self, x):
        for conv in self:
            x = F.relu_(conv(x))
        return x


class _Block(nn.Module):
    """An Inception block of the families A, C and E: branches that start with a 1x1 convolution, one of them pooled.

    ``heads`` is the joint 1x1 convolution; its output is cut into the direct branch, the inputs of ``tails`` and the
    pooling branch, in that order. The outputs are joined in the published order: direct, tails, pooled.
    """

    def __init__(self, heads: nn.Conv2d, widths: list[int], tails: list[nn.Module]):
        super().__init__()
        self.heads, self.widths, self.tails = heads, widths, nn.ModuleList(tails)

    def forward(self, x):
        direct, *inner, pooled = self.heads(x).split(self.widths, dim=1)
        pooled = F.avg_pool2d(pooled, kernel_size=3, stride=1, padding=1, count_include_pad=False)
        outputs = [tail(F.relu(part)) for tail, part in zip(self.tails, inner, strict=True)]
        return torch.cat([direct, *outputs, pooled], dim=1).relu_()


class _MaxPoolBlock(nn.Module):
    """The last block: its pooling branch takes the maximum, which does not commute with the convolution."""

    def __init__(self, heads: nn.Conv2d, widths: list[int], tails: list[nn.Module], pool: nn.Conv2d):
        super().__init__()
        self.heads, self.widths, self.tails, self.pool = heads, widths, nn.ModuleList(tails), pool

    def forward(self, x):
        direct, *inner = self.heads(x).split(self.widths, dim=1)
        outputs = [tail(F.relu(part)) for tail, part in zip(self.tails, inner, strict=True)]
        pooled = self.pool(F.max_pool2d(x, kernel_size=3, stride=1, padding=1))
        return torch.cat([direct, *outputs, pooled], dim=1).relu_()


class _Reduction(nn.Module):
    """Blocks 6a and 7a: strided branches beside a strided max pool."""

    def __init__(self, branches: list[nn.Module]):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x):
        return torch.cat([*(branch(x) for branch in self.branches), F.max_pool2d(x, kernel_size=3, stride=2)], dim=1)


class _Fork(nn.Module):
    """An optional chain, then a 1x3 and a 3x1 convolution side by side (the split ends of family E)."""

    def __init__(self, chain: nn.Module | None, row: nn.Conv2d, column: nn.Conv2d):
        super().__init__()
        self.chain, self.row, self.column = chain, row, column

    def forward(self, x):
        x = x if self.chain is None else self.chain(x)
        return torch.cat([self.row(x), self.column(x)], dim=1).relu_()


def _taker(folded: dict[str, tuple[torch.Tensor, torch.Tensor]], source: str) -> Take:
    """A function that builds the convolution of named layers (several names: stacked output channels)."""

    def take(names, inputs, outputs, kernel=1, stride=1, padding=0):
        names = [names] if isinstance(names, str) else names
        outputs = [outputs] if isinstance(outputs, int) else outputs
        kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
        for name, width in zip(names, outputs, strict=True):
            if name not in folded:
                raise UserError(f"{source}: no layer {name} in it; give the FID InceptionV3 weights of pytorch-fid")
            found, wanted = tuple(folded[name][0].shape), (width, inputs, *kernel)
            if found != wanted:
                raise UserError(f"{source}: layer {name} has shape {found}, the FID InceptionV3 has {wanted}")
        conv = nn.Conv2d(inputs, sum(outputs), kernel, stride=stride, padding=padding, device="meta")
        conv.weight = nn.Parameter(torch.cat([folded[name][0] for name in names]), requires_grad=False)
        conv.bias = nn.Parameter(torch.cat([folded[name][1] for name in names]), requires_grad=False)
        return conv

    return take


def _heads(take: Take, block: str, inputs: int, widths: dict[str, int]) -> nn.Conv2d:
    return take([f"{block}.{branch}" for branch in widths], inputs, list(widths.values()))


def _block_a(take: Take, name: str, inputs: int, pooled: int) -> nn.Module:
    widths = {"branch1x1": 64, "branch5x5_1": 48, "branch3x3dbl_1": 64, "branch_pool": pooled}
    five = _Chain(take(f"{name}.branch5x5_2", 48, 64, 5, padding=2))
    three = _Chain(
        take(f"{name}.branch3x3dbl_2", 64, 96, 3, padding=1), take(f"{name}.branch3x3dbl_3", 96, 96, 3, padding=1)
    )
    return _Block(_heads(take, name, inputs, widths), list(widths.values()), [five, three])


def _block_c(take: Take, name: str, inner: int) -> nn.Module:
    row, column = {"kernel": (1, 7), "padding": (0, 3)}, {"kernel": (7, 1), "padding": (3, 0)}
    widths = {"branch1x1": 192, "branch7x7_1": inner, "branch7x7dbl_1": inner, "branch_pool": 192}
    once = _Chain(take(f"{name}.branch7x7_2", inner, inner, **row), take(f"{name}.branch7x7_3", inner, 192, **column))
    twice = _Chain(
        take(f"{name}.branch7x7dbl_2", inner, inner, **column),
        take(f"{name}.branch7x7dbl_3", inner, inner, **row),
        take(f"{name}.branch7x7dbl_4", inner, inner, **column),
        take(f"{name}.branch7x7dbl_5", inner, 192, **row),
    )
    return _Block(_heads(take, name, 768, widths), list(widths.values()), [once, twice])


def _block_e(take: Take, name: str, inputs: int, *, max_pool: bool) -> nn.Module:
    row, column = {"kernel": (1, 3), "padding": (0, 1)}, {"kernel": (3, 1), "padding": (1, 0)}
    widths = {"branch1x1": 320, "branch3x3_1": 384, "branch3x3dbl_1": 448}
    once = _Fork(None, take(f"{name}.branch3x3_2a", 384, 384, **row), take(f"{name}.branch3x3_2b", 384, 384, **column))
    twice = _Fork(
        _Chain(take(f"{name}.branch3x3dbl_2", 448, 384, 3, padding=1)),
        take(f"{name}.branch3x3dbl_3a", 384, 384, **row),
        take(f"{name}.branch3x3dbl_3b", 384, 384, **column),
    )
    if max_pool:
        pool = take(f"{name}.branch_pool", inputs, 192)
        return _MaxPoolBlock(_heads(take, name, inputs, widths), list(widths.values()), [once, twice], pool)
    widths["branch_pool"] = 192
    return _Block(_heads(take, name, inputs, widths), list(widths.values()), [once, twice])


def _reduction_6a(take: Take) -> nn.Module:
    name = "Mixed_6a"
    double = _Chain(
        take(f"{name}.branch3x3dbl_1", 288, 64),
        take(f"{name}.branch3x3dbl_2", 64, 96, 3, padding=1),
        take(f"{name}.branch3x3dbl_3", 96, 96, 3, stride=2),
    )
    return _Reduction([_Chain(take(f"{name}.branch3x3", 288, 384, 3, stride=2)), double])


def _reduction_7a(take: Take) -> nn.Module:
    name = "Mixed_7a"
    three = _Chain(take(f"{name}.branch3x3_1", 768, 192), take(f"{name}.branch3x3_2", 192, 320, 3, stride=2))
    seven = _Chain(
        take(f"{name}.branch7x7x3_1", 768, 192),
        take(f"{name}.branch7x7x3_2", 192, 192, (1, 7), padding=(0, 3)),
        take(f"{name}.branch7x7x3_3", 192, 192, (7, 1), padding=(3, 0)),
        take(f"{name}.branch7x7x3_4", 192, 192, 3, stride=2),
    )
    return _Reduction([three, seven])


def _build(take: Take, dims: int) -> nn.Sequential:
    """The network up to the layer that gives ``dims`` channels; input [N, 3, H, W] in [-1, 1]."""
    layers: list[nn.Module] = [
        _Chain(take("Conv2d_1a_3x3", 3, 32, 3, stride=2)),
        _Chain(take("Conv2d_2a_3x3", 32, 32, 3), take("Conv2d_2b_3x3", 32, 64, 3, padding=1)),
        nn.MaxPool2d(3, stride=2),
    ]
    if dims >= 192:
        layers += [_Chain(take("Conv2d_3b_1x1", 64, 80), take("Conv2d_4a_3x3", 80, 192, 3)), nn.MaxPool2d(3, stride=2)]
    if dims >= 768:
        layers += [_block_a(take, f"Mixed_5{x}", i, p) for x, i, p in (("b", 192, 32), ("c", 256, 64), ("d", 288, 64))]
        layers += [_reduction_6a(take)]
        layers += [
            _block_c(take, f"Mixed_6{x}", inner) for x, inner in (("b", 128), ("c", 160), ("d", 160), ("e", 192))
        ]
    if dims >= 2048:
        layers += [_reduction_7a(take)]
        layers += [_block_e(take, "Mixed_7b", 1280, max_pool=False), _block_e(take, "Mixed_7c", 2048, max_pool=True)]
    return nn.Sequential(*layers)


class InceptionFeatures(nn.Module):
    """Image features for FID-like metrics: uint8 [N, 3, H, W] -> float32 [N, dims], spatially averaged.

    Args:
        weights: path of the weight file (see ``metrics.weights.find_weights``): pytorch-fid's own or a trunk with batch
            norm folded.
        dims: 64, 192, 768 or 2048. Distances of different ``dims`` are different quantities.
        resize: 'pytorch-fid' (bilinear to 299x299, half-pixel centres, no anti-aliasing) or 'none'.
        chunk: images per pass through the network; changes speed and memory, not results.

    Attributes ``dims``, ``resize``, ``weights_sha256`` say which features these are; keep them with every number.

    Raises:
        UserError: for a file that is not these weights, that lacks the layers ``dims`` needs, or an unknown option.
    """

    def __init__(self, weights: str | Path, dims: int = 2048, *, resize: str = "pytorch-fid", chunk: int = 8):
        super().__init__()
        if dims not in DIMS:
            raise UserError(f"Inception features have {', '.join(map(str, DIMS))} dimensions, not {dims}; choose one")
        if resize not in RESIZES:
            raise UserError(f"resize '{resize}' is unknown; choose one of {', '.join(RESIZES)}")
        if chunk < 1:
            raise UserError(f"chunk is {chunk}; give 1 image or more per pass")
        folded, self.weights_sha256 = load_folded(weights)
        if dims == 2048 and "Mixed_7a.branch3x3_1" in folded and "Mixed_7c.branch1x1" not in folded:
            raise UserError(
                f"{weights}: this file is a trunk without Mixed_7b and Mixed_7c and cannot give 2048 dimensions; "
                "ask for 64, 192 or 768, or give pytorch-fid's full weights"
            )
        self.dims, self.resize, self.chunk = dims, resize, chunk
        self.net = _build(_taker(folded, str(weights)), dims).to(memory_format=torch.channels_last).eval()

    def describe(self) -> dict:
        """What identifies these features, ready for a result or a cache key."""
        return {"dims": self.dims, "resize": self.resize, "weights_sha256": self.weights_sha256}

    @torch.inference_mode()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features of uint8 images [N, 3, H, W] (one grey channel is repeated), on the device of this module."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise UserError(
                f"Inception features need uint8 images [N, 3, H, W], got {str(images.dtype).removeprefix('torch.')} "
                f"{list(images.shape)}; convert them first"
            )
        if self.resize == "none" and min(images.shape[2:]) < _SMALLEST_INPUT:
            raise UserError(
                f"images of {images.shape[2]}x{images.shape[3]} are too small for resize 'none' "
                f"(at least {_SMALLEST_INPUT}x{_SMALLEST_INPUT}); use resize 'pytorch-fid'"
            )
        device = next(self.net.parameters()).device
        out = torch.empty(len(images), self.dims, device=device)
        # TF32 would cost three digits of the features; a caller's autocast would cost more.
        with (
            torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
            torch.autocast(device.type, enabled=False),
        ):
            for start in range(0, len(images), self.chunk):
                x = images[start : start + self.chunk].to(device, torch.float32, memory_format=torch.channels_last)
                # A bilinear sample is an affine mean, so scaling the small image first gives the same as scaling after.
                x = x.mul_(2 / 255).sub_(1).expand(-1, 3, -1, -1)
                if self.resize == "pytorch-fid" and x.shape[2:] != (_INPUT_SIZE, _INPUT_SIZE):
                    x = F.interpolate(x, size=(_INPUT_SIZE, _INPUT_SIZE), mode="bilinear", align_corners=False)
                out[start : start + self.chunk] = self.net(x).mean(dim=(2, 3))
        return out
