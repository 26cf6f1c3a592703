"""A dense layer of few rows, float32, on CPUs: what StyleGAN2's mapping, styles, demodulation and logits are made of.

With a batch of four rows all the time goes into reading weights once, and writing their gradients; a matrix product of
PyTorch's copies them first, and takes up to nine times as long: 0.3 ms for the gradient of [512, 512] on a Zen 5 where
0.04 do. Beyond `MOST_ROWS` PyTorch's is as good.

Schemas; the three are each other's derivatives:

dense(x, w, b, gain, bias_gain): [N, O], gain * x w' + bias_gain * b of x [N, I], w [O, I], b [O] or None.
dense_input(gy, w, gain): [N, I], gain * gy w.
dense_weight(gy, x, gain): [O, I], gain * gy' x.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from . import convolution
from .bilinear import bilinear
from .native import straight, use_native

torch.library.define("stylegan2_ada::dense", "(Tensor x, Tensor w, Tensor? b, float gain, float bias_gain) -> Tensor")
torch.library.define("stylegan2_ada::dense_input", "(Tensor gy, Tensor w, float gain) -> Tensor")
torch.library.define("stylegan2_ada::dense_weight", "(Tensor gy, Tensor x, float gain) -> Tensor")

_op, _input_op, _weight_op = (
    straight(op.default)
    for op in (
        torch.ops.stylegan2_ada.dense,
        torch.ops.stylegan2_ada.dense_input,
        torch.ops.stylegan2_ada.dense_weight,
    )
)
MOST_ROWS = 16


@torch.library.register_fake("stylegan2_ada::dense")
def _(x, w, b, gain, bias_gain):
    return x.new_empty((x.shape[0], w.shape[0]))


@torch.library.register_fake("stylegan2_ada::dense_input")
def _(gy, w, gain):
    return gy.new_empty((gy.shape[0], w.shape[1]))


@torch.library.register_fake("stylegan2_ada::dense_weight")
def _(gy, x, gain):
    return gy.new_empty((gy.shape[1], x.shape[1]))


def dense(x: Tensor, w: Tensor, b: Tensor | None = None, *, gain: float = 1.0, bias_gain: float = 1.0) -> Tensor:
    """`gain * x @ w.t() + bias_gain * b` for x [N, I], w [O, I], b [O], as often differentiable as wanted."""
    if not torch.compiler.is_compiling() and _applies(x, w):
        return _dense(x, w, b, (gain, bias_gain))
    b = b if b is None or bias_gain == 1 else b * bias_gain
    return F.linear(x * gain if gain != 1 else x, w, b)  # the gain costs no pass over the weights or their gradient


def _applies(x: Tensor, w: Tensor) -> bool:
    few = x.ndim == 2 and x.shape[0] <= MOST_ROWS and x.dtype == w.dtype == torch.float32
    return few and x.is_cpu and w.is_cpu and use_native(x)


def _to_bias(gy, how):
    gb, bias_gain = gy.sum(dim=0), how[1]
    return gb * bias_gain if bias_gain != 1 else gb


_dense = bilinear(
    lambda x, w, b, how: _op(x, w, b, *how),
    lambda gy, w, how, like: _input_op(gy, w, how[0]),
    lambda x, gy, how, like: _weight_op(gy, x, how[0]),
    _to_bias,
    weights_wanted=lambda: convolution._weights_wanted,
)
