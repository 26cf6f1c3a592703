"""The InceptionV3 of the Frechet inception distance, rebuilt for speed.

The network is the one Heusel et al. (2017, "GANs Trained by a Two Time-Scale Update Rule...", arXiv:1706.08500)
measured with: Szegedy et al. (2016, arXiv:1512.00567) as frozen in the graph of 2015-12-05. It differs from the usual
InceptionV3 in three places: average pools leave the padding out of the mean, the last block pools by maximum, and the
classifier has 1008 classes. Layer names are those of pytorch-fid's weight file.

Batch norm is folded into the convolutions when the weights are loaded. The 1x1 convolutions that start the branches of
a block read the same input, so they run as one convolution. The pooling branch joins in: a mean over valid pixels and a
1x1 convolution are both linear and the mean's weights sum to one, so they commute, bias included, and the mean then
runs over fewer channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from common.errors import UserError


class Convolution(nn.Conv2d):
    """One that has a bias, and zero padding (y, x)."""

    bias: nn.Parameter
    padding: tuple[int, int]


Take = Callable[..., Convolution]


class Chain(nn.Sequential):
    """Convolutions one after another, each followed by a ReLU."""

    @property
    def convs(self) -> list[Convolution]:
        return [layer for layer in self if isinstance(layer, Convolution)]

    def forward(self, x):
        for conv in self.convs:
            x = F.relu_(conv(x))
        return x


class Block(nn.Module):
    """An Inception block of the families A, C and E: branches that start with a 1x1 convolution, one of them pooled.

    ``heads`` is the joint 1x1 convolution; its output is cut into the direct branch, the inputs of ``tails`` and the
    pooling branch, in that order. The outputs are joined in the published order: direct, tails, pooled.
    """

    def __init__(self, heads: Convolution, widths: list[int], tails: list[nn.Module]):
        super().__init__()
        self.heads, self.widths, self.tails = heads, widths, nn.ModuleList(tails)

    def forward(self, x):
        direct, *inner, pooled = self.heads(x).split(self.widths, dim=1)
        pooled = F.avg_pool2d(pooled, kernel_size=3, stride=1, padding=1, count_include_pad=False)
        outputs = [tail(F.relu(part)) for tail, part in zip(self.tails, inner, strict=True)]
        return torch.cat([direct, *outputs, pooled], dim=1).relu_()


class MaxPoolBlock(nn.Module):
    """The last block: its pooling branch takes the maximum, which does not commute with the convolution."""

    def __init__(self, heads: Convolution, widths: list[int], tails: list[nn.Module], pool: Convolution):
        super().__init__()
        self.heads, self.widths, self.tails, self.pool = heads, widths, nn.ModuleList(tails), pool

    def forward(self, x):
        direct, *inner = self.heads(x).split(self.widths, dim=1)
        outputs = [tail(F.relu(part)) for tail, part in zip(self.tails, inner, strict=True)]
        pooled = self.pool(F.max_pool2d(x, kernel_size=3, stride=1, padding=1))
        return torch.cat([direct, *outputs, pooled], dim=1).relu_()


class Reduction(nn.Module):
    """Blocks 6a and 7a: strided branches beside a strided max pool."""

    def __init__(self, branches: list[nn.Module]):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x):
        return torch.cat([*(branch(x) for branch in self.branches), F.max_pool2d(x, kernel_size=3, stride=2)], dim=1)


class Fork(nn.Module):
    """An optional chain, then a 1x3 and a 3x1 convolution side by side (the split ends of family E)."""

    def __init__(self, chain: Chain | None, row: Convolution, column: Convolution):
        super().__init__()
        self.chain, self.row, self.column = chain, row, column

    def forward(self, x):
        x = x if self.chain is None else self.chain(x)
        return torch.cat([self.row(x), self.column(x)], dim=1).relu_()


def taker(folded: dict[str, tuple[torch.Tensor, torch.Tensor]], source: str) -> Take:
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
        conv = Convolution(inputs, sum(outputs), kernel, stride=stride, padding=padding, device="meta")
        conv.weight = nn.Parameter(torch.cat([folded[name][0] for name in names]), requires_grad=False)
        conv.bias = nn.Parameter(torch.cat([folded[name][1] for name in names]), requires_grad=False)
        return conv

    return take


def _heads(take: Take, block: str, inputs: int, widths: dict[str, int]) -> tuple[Convolution, list[int]]:
    """(the joint convolution, the widths it is cut into)"""
    outputs = list(widths.values())
    return take([f"{block}.{branch}" for branch in widths], inputs, outputs), outputs


def _block_a(take: Take, name: str, inputs: int, pooled: int) -> nn.Module:
    widths = {"branch1x1": 64, "branch5x5_1": 48, "branch3x3dbl_1": 64, "branch_pool": pooled}
    five = Chain(take(f"{name}.branch5x5_2", 48, 64, 5, padding=2))
    three = Chain(
        take(f"{name}.branch3x3dbl_2", 64, 96, 3, padding=1), take(f"{name}.branch3x3dbl_3", 96, 96, 3, padding=1)
    )
    return Block(*_heads(take, name, inputs, widths), [five, three])


def _block_c(take: Take, name: str, inner: int) -> nn.Module:
    row, column = {"kernel": (1, 7), "padding": (0, 3)}, {"kernel": (7, 1), "padding": (3, 0)}
    widths = {"branch1x1": 192, "branch7x7_1": inner, "branch7x7dbl_1": inner, "branch_pool": 192}
    once = Chain(take(f"{name}.branch7x7_2", inner, inner, **row), take(f"{name}.branch7x7_3", inner, 192, **column))
    twice = Chain(
        take(f"{name}.branch7x7dbl_2", inner, inner, **column),
        take(f"{name}.branch7x7dbl_3", inner, inner, **row),
        take(f"{name}.branch7x7dbl_4", inner, inner, **column),
        take(f"{name}.branch7x7dbl_5", inner, 192, **row),
    )
    return Block(*_heads(take, name, 768, widths), [once, twice])


def _block_e(take: Take, name: str, inputs: int, *, max_pool: bool) -> nn.Module:
    row, column = {"kernel": (1, 3), "padding": (0, 1)}, {"kernel": (3, 1), "padding": (1, 0)}
    widths = {"branch1x1": 320, "branch3x3_1": 384, "branch3x3dbl_1": 448}
    once = Fork(None, take(f"{name}.branch3x3_2a", 384, 384, **row), take(f"{name}.branch3x3_2b", 384, 384, **column))
    twice = Fork(
        Chain(take(f"{name}.branch3x3dbl_2", 448, 384, 3, padding=1)),
        take(f"{name}.branch3x3dbl_3a", 384, 384, **row),
        take(f"{name}.branch3x3dbl_3b", 384, 384, **column),
    )
    if max_pool:
        pool = take(f"{name}.branch_pool", inputs, 192)
        return MaxPoolBlock(*_heads(take, name, inputs, widths), [once, twice], pool)
    return Block(*_heads(take, name, inputs, widths | {"branch_pool": 192}), [once, twice])


def _reduction_6a(take: Take) -> nn.Module:
    name = "Mixed_6a"
    double = Chain(
        take(f"{name}.branch3x3dbl_1", 288, 64),
        take(f"{name}.branch3x3dbl_2", 64, 96, 3, padding=1),
        take(f"{name}.branch3x3dbl_3", 96, 96, 3, stride=2),
    )
    return Reduction([Chain(take(f"{name}.branch3x3", 288, 384, 3, stride=2)), double])


def _reduction_7a(take: Take) -> nn.Module:
    name = "Mixed_7a"
    three = Chain(take(f"{name}.branch3x3_1", 768, 192), take(f"{name}.branch3x3_2", 192, 320, 3, stride=2))
    seven = Chain(
        take(f"{name}.branch7x7x3_1", 768, 192),
        take(f"{name}.branch7x7x3_2", 192, 192, (1, 7), padding=(0, 3)),
        take(f"{name}.branch7x7x3_3", 192, 192, (7, 1), padding=(3, 0)),
        take(f"{name}.branch7x7x3_4", 192, 192, 3, stride=2),
    )
    return Reduction([three, seven])


def build(take: Take, dims: int) -> nn.Sequential:
    """The network up to the layer that gives ``dims`` channels; input [N, 3, H, W] in [-1, 1]."""
    layers: list[nn.Module] = [
        Chain(take("Conv2d_1a_3x3", 3, 32, 3, stride=2)),
        Chain(take("Conv2d_2a_3x3", 32, 32, 3), take("Conv2d_2b_3x3", 32, 64, 3, padding=1)),
        nn.MaxPool2d(3, stride=2),
    ]
    if dims >= 192:
        layers += [Chain(take("Conv2d_3b_1x1", 64, 80), take("Conv2d_4a_3x3", 80, 192, 3)), nn.MaxPool2d(3, stride=2)]
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
