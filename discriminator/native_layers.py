"""Layers of published networks that learn slowly on CPUs, done by native code while they learn.

A layer keeps its weights, its names and its settings; only its class becomes one that asks, call by call, whether
native code is to be used: on a CPU, for float32 or bfloat16, where gradients are on. Verdicts, exports and compilers
see the library's own layer.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import nn

from stylegan2_ada.ops.depthwise import applies, depthwise


def use_native_depthwise(net: nn.Module) -> int:
    """Make `net`'s depthwise convolutions (torch's and timm's with TensorFlow's padding) learn by native code on CPUs;
    returns how many there are. State dict and results, up to rounding, stay."""
    found = [layer for layer in net.modules() if type(layer) in _plain_convolutions() and _is_depthwise(layer)]
    for layer in found:
        layer.__class__ = _native(type(layer))
    return len(found)


def _is_depthwise(layer: Any) -> bool:
    return (
        layer.groups == layer.in_channels == layer.out_channels > 1
        and layer.padding_mode == "zeros"
        and set(layer.dilation) == {1}
    )


@cache
def _plain_convolutions() -> dict[type, bool]:
    """Classes that convolve with their weights as they are, and whether they pad as TensorFlow does."""
    try:
        from timm.layers import Conv2dSame
    except ImportError:  # timm is only needed for its own networks
        return {nn.Conv2d: False}
    return {nn.Conv2d: False, Conv2dSame: True}


class _Depthwise(nn.Conv2d):
    same: bool

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if torch.is_autocast_enabled(input.device.type):
            x = input.to(torch.get_autocast_dtype(input.device.type))
        else:
            x = input
        if not (torch.is_grad_enabled() and self.stride[0] == self.stride[1] and applies(x, self.weight)):
            return super().forward(input)
        if self.same:
            top, bottom = _same(x.shape[2], self.kernel_size[0], self.stride[0])
            left, right = _same(x.shape[3], self.kernel_size[1], self.stride[1])
        else:
            left, right, top, bottom = self._reversed_padding_repeated_twice
        return depthwise(x, self.weight, self.bias, stride=self.stride[0], padding=(top, bottom, left, right))


def _same(size: int, window: int, stride: int) -> tuple[int, int]:
    """TensorFlow's padding before and behind: what makes ceil(size / stride) results, the odd zero behind."""
    total = max((-(-size // stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


@cache
def _native(kind: type) -> type:
    return type(f"Native{kind.__name__}", (_Depthwise, kind), {"same": _plain_convolutions()[kind]})
