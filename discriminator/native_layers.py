"""Layers of published networks that learn slowly on CPUs, done by native code while they learn.

A layer keeps its weights, its names and its settings; only its class becomes one that asks, call by call, whether
native code is to be used: on a CPU, for float32 or bfloat16, where gradients are on. Verdicts, exports and compilers
see the library's own layer.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from stylegan2_ada.ops import convolution, depthwise, norm_act, pointwise


def use_native_layers(net: nn.Module) -> int:
    """Make `net`'s depthwise, 1x1 and 3x3 convolutions and batch normalisations (torch's and timm's) learn by native
    code on CPUs; returns how many there are. State dict and results, up to rounding, stay."""
    found = [layer for layer in net.modules() if type(layer) in _known() and _suits(layer)]
    for layer in found:
        kind: Any = type(layer)
        layer.__class__ = _native(kind)
    return len(found)


@cache
def _known() -> dict[type, type]:
    """Of a layer's class: which of ours does its work. Classes derived from them may do other things, and are left."""
    known: dict[type, type] = {nn.Conv2d: _Convolution, nn.BatchNorm2d: _Norm}
    try:
        from timm.layers import BatchNormAct2d, Conv2dSame
    except ImportError:  # timm is only needed for its own networks
        return known
    return known | {Conv2dSame: _ConvolutionSame, BatchNormAct2d: _NormAct}


@cache
def _native(kind: type) -> type:
    return type(f"Native{kind.__name__}", (_known()[kind], kind), {})


def _suits(layer: Any) -> bool:
    if isinstance(layer, nn.BatchNorm2d):
        return layer.affine and layer.track_running_stats
    return _is_pointwise(layer) or _is_depthwise(layer) or _is_three(layer)


def _is_depthwise(layer: Any) -> bool:
    depth = layer.groups == layer.in_channels == layer.out_channels > 1
    return depth and layer.padding_mode == "zeros" and set(layer.dilation) == {1}


def _is_pointwise(layer: Any) -> bool:
    no_padding = set(layer._reversed_padding_repeated_twice) == {0}
    return layer.groups == 1 and set(layer.kernel_size) == {1} and set(layer.stride) == {1} and no_padding


def _is_three(layer: Any) -> bool:
    whole = layer.groups == 1 and set(layer.kernel_size) == {3} and set(layer.dilation) == {1}
    return whole and layer.stride in ((1, 1), (2, 2)) and layer.padding_mode == "zeros"


class _Convolution(nn.Conv2d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not (input.is_cpu and torch.is_grad_enabled() and input.ndim == 4):
            return super().forward(input)
        x = input.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else input
        if not depthwise.applies(x, self.weight):
            return super().forward(input)
        if self.groups == 1 and _is_pointwise(self):
            return self._pointwise(x)
        if _is_three(self):
            return self._three(input, x)
        if self.groups == 1 or self.stride[0] != self.stride[1]:
            return super().forward(input)
        return depthwise.depthwise(x, self.weight, self.bias, stride=self.stride[0], padding=self._zeros(x))

    def _pointwise(self, x: torch.Tensor) -> torch.Tensor:
        """As a product of matrices, which channels side by side make of it: PyTorch's convolution copies for it."""
        if self.bias is None and pointwise.applies(x, self.weight):
            return pointwise.pointwise(x, self.weight)
        y = F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias)
        return y.permute(0, 3, 1, 2)

    def _three(self, input: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """3x3, with fewer multiplications where `convolution` has them."""
        top, bottom, left, right = self._zeros(x)
        geometry = convolution.Geometry(self.stride[0], (top, left))
        if (top, left) != (bottom, right) or not convolution.is_native(x, self.weight, geometry):
            return super().forward(input)
        y = convolution.convolve(x, self.weight, geometry)
        return y if self.bias is None else y.add_(self.bias.to(y.dtype)[:, None, None])

    def _zeros(self, x: torch.Tensor) -> depthwise.Padding:
        left, right, top, bottom = self._reversed_padding_repeated_twice
        return top, bottom, left, right


class _ConvolutionSame(_Convolution):
    """With TensorFlow's padding: as many zeros as make ceil(size / stride) results, the odd one behind."""

    def _zeros(self, x: torch.Tensor) -> depthwise.Padding:
        sizes = zip(x.shape[2:], self.kernel_size, self.stride)
        high, wide = (max((-(-size // s) - 1) * s + window - size, 0) for size, window, s in sizes)
        return high // 2, high - high // 2, wide // 2, wide - wide // 2


class _Norm(nn.BatchNorm2d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        out = self._normalised(input, norm_act.NONE)
        return super().forward(input) if out is None else out

    def _normalised(self, x: torch.Tensor, act: norm_act.Activation) -> torch.Tensor | None:
        """Normalised and activated by native code, or None where that isn't for it."""
        if not torch.is_grad_enabled() or self.weight.dtype != torch.float32 or not norm_act.applies(x):
            return None
        mean, var = self.running_mean, self.running_var
        if mean is None or var is None or self.num_batches_tracked is None:
            return None
        n = x.shape[0] * x.shape[2] * x.shape[3]
        if not self.training:
            if n == 0 or x.requires_grad or self.weight.requires_grad or self.bias.requires_grad:
                return None
            scale = self.weight * (var + self.eps).rsqrt()
            return norm_act.scale_act(x, scale, self.bias - mean * scale, act)
        if n < 2:
            return None
        y, batch_mean, batch_var = norm_act.norm_act(x, self.weight, self.bias, self.eps, act)
        with torch.no_grad():
            tracked: Any = self.num_batches_tracked
            tracked += 1
            share = 1 / float(tracked) if self.momentum is None else self.momentum
            mean.lerp_(batch_mean, share)
            var.lerp_(batch_var * (n / (n - 1)), share)
        return y


class _NormAct(_Norm):
    """timm's, with an activation behind it."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        act = _ACTIVATIONS.get(type(self.act)) if isinstance(self.drop, nn.Identity) else None
        out = self._normalised(input, act or norm_act.NONE)
        if out is None:
            return super(_Norm, self).forward(input)
        return out if act else self.act(self.drop(out))


_ACTIVATIONS = {
    nn.Identity: norm_act.NONE,
    nn.ReLU: norm_act.RELU,
    nn.ReLU6: norm_act.RELU6,
    nn.SiLU: norm_act.SWISH,
}
