"""A 1x1 convolution of bfloat16 images with float32 weights, on CPUs with AVX512-BF16: a product of matrices.

PyTorch first copies the weights into bfloat16, and their gradients back; oneDNN's products of few channels wait for
memory. Here weights are rounded as they are read, sums are float32, and so are the gradients of weights. Where a
processor has AMX, oneDNN's products are several times as quick as these, and are left to it.

Schemas, for images [N, C, H, W] bfloat16 with even numbers of channels, channels-last, and w [O, I, 1, 1] float32; the
three are each other's derivatives:

pointwise(x, w): y[n, o] = sum over i of w[o, i] x[n, i] at every pixel.
pointwise_input(gy, w): the sum over o of w[o, i] gy[n, o].
pointwise_weight(x, gy): [O, I, 1, 1], the sum over n and pixels of gy[n, o] x[n, i].
pointwise_supported(): whether there are kernels for this processor.
"""

from functools import cache

import torch
from torch import Tensor

from . import conv_taps
from .bilinear import bilinear
from .native import straight, use_native

torch.library.define("stylegan2_ada::pointwise", "(Tensor x, Tensor w) -> Tensor")
torch.library.define("stylegan2_ada::pointwise_input", "(Tensor gy, Tensor w) -> Tensor")
torch.library.define("stylegan2_ada::pointwise_weight", "(Tensor x, Tensor gy) -> Tensor")
torch.library.define("stylegan2_ada::pointwise_supported", "() -> int")

_op, _input_op, _weight_op = (
    straight(op.default)
    for op in (
        torch.ops.stylegan2_ada.pointwise,
        torch.ops.stylegan2_ada.pointwise_input,
        torch.ops.stylegan2_ada.pointwise_weight,
    )
)


def pointwise(x: Tensor, w: Tensor) -> Tensor:
    """`conv2d(x, w)` for x [N, I, H, W] and w [O, I, 1, 1] where `applies`: [N, O, H, W] bfloat16, channels-last, as
    often differentiable as wanted."""
    return _pointwise(x, w, None, None)


def applies(x: Tensor, w: Tensor) -> bool:
    """Whether the native kernels can do this convolution here, and were measured faster."""
    known = x.dtype == torch.bfloat16 and w.dtype == torch.float32 and x.is_cpu and w.is_cpu
    fits = known and x.ndim == 4 and w.shape[0] % 2 == w.shape[1] % 2 == 0 and tuple(w.shape[2:]) == (1, 1)
    return fits and not torch.compiler.is_compiling() and use_native(x) and _supported()


@cache
def _supported() -> bool:
    return bool(torch.ops.stylegan2_ada.pointwise_supported()) and not conv_taps.has_tiles()


def _images(x: Tensor, channels) -> Tensor:
    shape = (x.shape[0], channels, *x.shape[2:])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


@torch.library.register_fake("stylegan2_ada::pointwise")
def _(x, w):
    return _images(x, w.shape[0])


@torch.library.register_fake("stylegan2_ada::pointwise_input")
def _(gy, w):
    return _images(gy, w.shape[1])


@torch.library.register_fake("stylegan2_ada::pointwise_weight")
def _(x, gy):
    return x.new_empty((gy.shape[1], x.shape[1], 1, 1), dtype=torch.float32)


_pointwise, _, _ = bilinear(
    lambda x, w, b, how: _op(x, w),
    lambda gy, w, how, like: _input_op(gy, w),
    lambda x, gy, how, like: _weight_op(x, gy),
)
