"""Depthwise convolution on CPUs: every channel filtered by a window of its own, forward and both gradients.

PyTorch's gradients of it are slow on CPUs (oneDNN has no good kernel, in bfloat16 none at all), and they were most of a
training step of a mobile network. The kernels in native/csrc/depthwise* take images whose channels lie side by side in
memory, one vector of channels at a time: a row is read once, kept as float32 while the window passes over it, and its
sums are float32, whatever the images are stored in.

Schemas; padding is (top, bottom, left, right), so that TensorFlow's uneven "SAME" needs no copy of the image. The three
are each other's derivatives:

depthwise(x, w, bias, stride, padding): y[n, c, i, j] = bias[c] + sum over a, b of
    x[n, c, stride i + a - top, stride j + b - left] w[c, 0, a, b].
depthwise_input_grad(gy, w, height, width, stride, padding): the transposed operator applied to gy.
depthwise_weight_grad(x, gy, kh, kw, stride, padding): [C, 1, kh, kw] float32, the correlation of x and gy.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .bilinear import bilinear
from .native import straight, use_native

Padding = tuple[int, int, int, int]

torch.library.define(
    "stylegan2_ada::depthwise", "(Tensor x, Tensor w, Tensor? bias, SymInt stride, SymInt[] padding) -> Tensor"
)
torch.library.define(
    "stylegan2_ada::depthwise_input_grad",
    "(Tensor gy, Tensor w, SymInt height, SymInt width, SymInt stride, SymInt[] padding) -> Tensor",
)
torch.library.define(
    "stylegan2_ada::depthwise_weight_grad",
    "(Tensor x, Tensor gy, SymInt kh, SymInt kw, SymInt stride, SymInt[] padding) -> Tensor",
)

_op, _input_op, _weight_op = (
    straight(op.default)
    for op in (
        torch.ops.stylegan2_ada.depthwise,
        torch.ops.stylegan2_ada.depthwise_input_grad,
        torch.ops.stylegan2_ada.depthwise_weight_grad,
    )
)


def depthwise(
    x: Tensor, w: Tensor, bias: Tensor | None = None, *, stride: int = 1, padding: Padding = (0, 0, 0, 0)
) -> Tensor:
    """`conv2d(pad(x), w, bias, stride, groups=C)` in the dtype of x, as often differentiable as wanted.

    x: [N, C, H, W]; w: [C, 1, kh, kw]; bias: [C]; both of any float dtype. padding: zeros at top, bottom, left, right.

    Returns [N, C, H', W'] in the dtype of x, channels-last where `applies`; gradients of w and bias have their dtypes.
    """
    if applies(x, w):
        return _depthwise(x, w.float(), None if bias is None else bias.float(), (stride, list(padding)))
    top, bottom, left, right = padding
    even = top == bottom and left == right
    x = x if even else F.pad(x, (left, right, top, bottom))
    b = None if bias is None else bias.to(x.dtype)
    return F.conv2d(x, w.to(x.dtype), b, stride, (top, left) if even else 0, groups=x.shape[1])


def applies(x: Tensor, w: Tensor) -> bool:
    """Whether the native kernels can do this convolution here."""
    return (
        x.device.type == w.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and w.dtype in (torch.float32, torch.bfloat16)
        and not torch.compiler.is_compiling()
        and use_native(x)
    )


def _channels_last(x: Tensor, height, width) -> Tensor:
    shape = (x.shape[0], x.shape[1], height, width)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


@torch.library.register_fake("stylegan2_ada::depthwise")
def _(x, w, bias, stride, padding):
    top, bottom, left, right = padding
    height = (x.shape[2] + top + bottom - w.shape[2]) // stride + 1
    return _channels_last(x, height, (x.shape[3] + left + right - w.shape[3]) // stride + 1)


@torch.library.register_fake("stylegan2_ada::depthwise_input_grad")
def _(gy, w, height, width, stride, padding):
    return _channels_last(gy, height, width)


@torch.library.register_fake("stylegan2_ada::depthwise_weight_grad")
def _(x, gy, kh, kw, stride, padding):
    return x.new_empty((x.shape[1], 1, kh, kw), dtype=torch.float32)


def _input_grad(gy, w, how, like):
    return _input_op(gy, w, like.shape[2], like.shape[3], *how)


def _weight_grad(x, gy, how, like):
    return _weight_op(x, gy, like.shape[2], like.shape[3], *how)


_depthwise = bilinear(
    lambda x, w, b, how: _op(x, w, b, *how),
    _input_grad,
    _weight_grad,
    lambda gy, how: gy.sum((0, 2, 3), dtype=torch.float32),
)
