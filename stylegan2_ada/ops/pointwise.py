"""A 1x1 convolution of bfloat16 or float32 images, on CPUs with AVX512-BF16: a product of matrices.

In bfloat16 PyTorch first copies the weights, and their gradients back, and oneDNN's products of few channels wait for
memory; here weights are rounded as they are read, sums are float32, and so are the gradients of weights. In float32
PyTorch's products (MKL) take twice as long on an AMD processor. Where a processor has AMX, which these do
not use, PyTorch's are left to it.

Schemas, for images [N, C, H, W], channels-last, in bfloat16 with even numbers of channels, and w [O, I, 1, 1] float32;
the three are each other's derivatives:

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
    """`conv2d(x, w)` for x [N, I, H, W] and w [O, I, 1, 1] where `applies`: [N, O, H, W] in the dtype of x,
    channels-last, as often differentiable as wanted."""
    return _pointwise(x, w, None, None)


def applies(x: Tensor, w: Tensor) -> bool:
    """Whether the native kernels can do this convolution here, and were measured faster."""
    known = x.dtype in (torch.bfloat16, torch.float32) and w.dtype == torch.float32 and x.is_cpu and w.is_cpu
    even = x.dtype == torch.float32 or w.shape[0] % 2 == w.shape[1] % 2 == 0
    fits = known and even and x.ndim == 4 and tuple(w.shape[2:]) == (1, 1)
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


_pointwise = bilinear(
    lambda x, w, b, how: _op(x, w),
    lambda gy, w, how, like: _input_op(gy, w),
    lambda x, gy, how, like: _weight_op(x, gy),
)
