"""The feature network of `metrics.network` on the convolutions of `stylegan2_ada.ops.conv_forward`, for CPUs.

The same layers with the same folded weights; every branch writes its results straight into its channels of the block's
output, so nothing is joined or cut apart. Up to the second max pool, where the tensors of one image are as large as a
cache, images go through one by one, then all together.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from metrics.network import Block, Chain, Convolution, Fork, MaxPoolBlock, Reduction
from stylegan2_ada.ops.conv_forward import Prepared, applies, convolve, pool, prepare
from stylegan2_ada.ops.native import path, status


def usable(net: nn.Module) -> bool:
    """Whether this machine has kernels for a network of this dtype and on this device, asked without a warning."""
    return path() == "native" and status("cpu").native and all(applies(p) for p in net.parameters())


class NativeNetwork:
    """`net` of `metrics.network.build`, on the CPU: float32 [N, 3, H, W] -> [N, C, H', W'], the same."""

    def __init__(self, net: nn.Sequential):
        layers = [_KINDS[type(layer)](layer) for layer in net]
        pools = [i for i, layer in enumerate(layers) if isinstance(layer, _MaxPool)]
        self._stem, self._blocks = layers[: pools[-1] + 1], layers[pools[-1] + 1 :]

    def __call__(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        channels, height, width = x.shape[1:]
        for layer in self._stem:
            channels, height, width = layer.shape(channels, height, width)
        found = _empty(len(x), channels, height, width)
        for image, target in zip(x.split(1), found.split(1), strict=True):
            for layer in self._stem[:-1]:
                image = layer(image)
            self._stem[-1](image, target)
        for block in self._blocks:
            found = block(found)
        return found


def _empty(n: int, channels: int, height: int, width: int) -> Tensor:
    return torch.empty((n, channels, height, width), memory_format=torch.channels_last)


def _prepare(conv: Convolution, part: slice = slice(None)) -> Prepared:
    return prepare(conv.weight[part], conv.bias[part], conv.padding, conv.stride[0])


class _NativeChain:
    def __init__(self, layer: Chain):
        self._convs = [_prepare(conv) for conv in layer.convs]
        self.width = layer.convs[-1].out_channels

    def shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        for conv in self._convs:
            height, width = conv.out_size(height, width)
        return self.width, height, width

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        for conv in self._convs:
            if out is None or conv is not self._convs[-1]:
                y = _empty(len(x), len(conv.bias), *conv.out_size(*x.shape[2:]))
            else:
                y = out
            convolve(x, [conv], [True], [y])
            x = y
        return x


class _MaxPool:
    """3x3 with stride 2, without padding."""

    def __init__(self, layer: nn.MaxPool2d | None = None):
        pass

    def shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        return channels, (height - 3) // 2 + 1, (width - 3) // 2 + 1

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        out = _empty(len(x), *self.shape(*x.shape[1:])) if out is None else out
        pool(x, out, mean=False, stride=2)
        return out


class _NativeFork:
    def __init__(self, layer: Fork):
        self._chain = None if layer.chain is None else _NativeChain(layer.chain)
        self._ends = [_prepare(layer.row), _prepare(layer.column)]
        self.width = sum(len(end.bias) for end in self._ends)

    def __call__(self, x: Tensor, out: Tensor) -> None:
        x = x if self._chain is None else self._chain(x)
        for end, target in zip(self._ends, out.split([len(end.bias) for end in self._ends], dim=1), strict=True):
            convolve(x, [end], [True], [target])


class _NativeBlock:
    """Blocks with a joint 1x1 convolution; their pooling branch is a mean after its convolution or a maximum before."""

    def __init__(self, layer: Block | MaxPoolBlock):
        ends = list(accumulate(layer.widths))
        self._heads = [
            _prepare(layer.heads, slice(end - width, end)) for end, width in zip(ends, layer.widths, strict=True)
        ]
        self._tails = [_KINDS[type(tail)](tail) for tail in layer.tails]
        self._pool = _prepare(layer.pool) if isinstance(layer, MaxPoolBlock) else None
        pooled = self._pool or self._heads[-1]
        self._widths = [layer.widths[0], *(tail.width for tail in self._tails), len(pooled.bias)]

    def __call__(self, x: Tensor) -> Tensor:
        n, _, height, width = x.shape
        out = _empty(n, sum(self._widths), height, width)
        direct, *tail_outs, pool_out = out.split(self._widths, dim=1)
        inner = [_empty(n, len(head.bias), height, width) for head in self._heads[1:]]
        relu = [True] * len(self._heads)
        if self._pool is None:
            relu[-1] = False  # it comes after the mean
        convolve(x, self._heads, relu, [direct, *inner])
        for tail, part, target in zip(self._tails, inner, tail_outs, strict=False):
            tail(part, target)
        if self._pool is None:
            pool(inner[-1], pool_out, mean=True, padding=1, relu=True)
        else:
            greatest = torch.empty_like(x)
            pool(x, greatest, mean=False, padding=1)
            convolve(greatest, [self._pool], [True], [pool_out])
        return out


class _NativeReduction:
    def __init__(self, layer: Reduction):
        self._branches = [_KINDS[type(branch)](branch) for branch in layer.branches]

    def __call__(self, x: Tensor) -> Tensor:
        pooled, height, width = _MaxPool().shape(*x.shape[1:])
        widths = [*(branch.width for branch in self._branches), pooled]
        out = _empty(len(x), sum(widths), height, width)
        *targets, last = out.split(widths, dim=1)
        for branch, target in zip(self._branches, targets, strict=True):
            branch(x, target)
        _MaxPool()(x, last)
        return out


_KINDS: dict[type[nn.Module], Callable[[Any], Any]] = {
    Chain: _NativeChain,
    nn.MaxPool2d: _MaxPool,
    Fork: _NativeFork,
    Block: _NativeBlock,
    MaxPoolBlock: _NativeBlock,
    Reduction: _NativeReduction,
}
