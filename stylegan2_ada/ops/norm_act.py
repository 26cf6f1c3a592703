"""Batch normalisation with the activation behind it, on CPUs, in one operation with one derivative.

PyTorch makes of them four passes over the images forward and five backward, with a copy of the normalised images kept
for the activation's derivative. Here it is two and two, and only the input is kept: what the activation's derivative
needs is computed again. Images lie in memory with their channels side by side, in float32 or bfloat16; sums and
everything in between are float32 or wider.

With z = (x - mean) / sqrt(var + eps) w + b, mean and variance over all but the channels (Ioffe & Szegedy 2015, arXiv
1502.03167), and an activation that is a clamp to [low, high] (number 0) or swish, z sigmoid(z) (number 1):

norm_act(x, w, b, eps, act, low, high): y = act(z), and the mean and variance (biased) that were used, float32 [C].
norm_act_grad(gy, x, mean, var, w, b, eps, act, low, high): gradients of x, w and b. It has no derivative.
scale_act(x, scale, shift, act, low, high): act(x scale + shift), for fixed statistics. It has no derivative.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .native import quick, use_native


class Activation(NamedTuple):
    """Its number, and the bounds of a clamp."""

    number: int = 0
    low: float = -math.inf
    high: float = math.inf


NONE, RELU, RELU6, SWISH = Activation(), Activation(low=0.0), Activation(low=0.0, high=6.0), Activation(1)

_ACT = "float eps, int act, float low, float high"
torch.library.define("stylegan2_ada::norm_act", f"(Tensor x, Tensor w, Tensor b, {_ACT}) -> (Tensor, Tensor, Tensor)")
torch.library.define(
    "stylegan2_ada::norm_act_grad",
    f"(Tensor gy, Tensor x, Tensor mean, Tensor var, Tensor w, Tensor b, {_ACT}) -> (Tensor, Tensor, Tensor)",
)
torch.library.define(
    "stylegan2_ada::scale_act", "(Tensor x, Tensor scale, Tensor shift, int act, float low, float high) -> Tensor"
)

_op = torch.ops.stylegan2_ada


def applies(x: Tensor) -> bool:
    """Whether the native kernels take these images."""
    return (
        x.device.type == "cpu"
        and x.ndim == 4
        and x.dtype in (torch.float32, torch.bfloat16)
        and not torch.compiler.is_compiling()
        and use_native(x)
    )


def norm_act(x: Tensor, w: Tensor, b: Tensor, eps: float, act: Activation) -> tuple[Tensor, Tensor, Tensor]:
    """`act(batch_norm(x))` with the statistics of x, and those: y, mean [C], biased variance [C].

    x: [N, C, H, W] where `applies`; w, b: float32 [C]. y is of x's dtype, channels-last, once differentiable; mean and
    variance are float32 without gradient.
    """
    y, mean, var = _norm_act(x, w, b, eps, *act)
    return y, mean.detach(), var.detach()


def scale_act(x: Tensor, scale: Tensor, shift: Tensor, act: Activation) -> Tensor:
    """`act(x * scale + shift)` by channel, for x [N, C, H, W] where `applies`; not differentiable."""
    with torch.no_grad():
        return _op.scale_act(x, scale, shift, *act)


def _like(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


@torch.library.register_fake("stylegan2_ada::norm_act")
def _(x, w, b, eps, act, low, high):
    return _like(x), x.new_empty(x.shape[1], dtype=torch.float32), x.new_empty(x.shape[1], dtype=torch.float32)


@torch.library.register_fake("stylegan2_ada::norm_act_grad")
def _(gy, x, mean, var, w, b, eps, act, low, high):
    return _like(x), x.new_empty(x.shape[1], dtype=torch.float32), x.new_empty(x.shape[1], dtype=torch.float32)


@torch.library.register_fake("stylegan2_ada::scale_act")
def _(x, scale, shift, act, low, high):
    return _like(x)


def _save(ctx, inputs, output) -> None:
    x, w, b, *ctx.rest = inputs
    _, mean, var = output
    ctx.save_for_backward(x, w, b, mean, var)
    ctx.mark_non_differentiable(mean, var)
    ctx.set_materialize_grads(False)  # those of mean and variance, which nobody reads


def _backward(ctx, gy, _mean, _var):
    x, w, b, mean, var = ctx.saved_tensors
    gx, gw, gb = _grad(gy.to(x.dtype), x, mean, var, w, b, *ctx.rest)
    return gx, gw.to(w.dtype), gb.to(b.dtype), None, None, None, None


def _nothing(ctx, inputs, output) -> None:
    """The second derivative that there is not needs nothing."""


def _no_second(ctx, *gradients):
    raise NotImplementedError("norm_act has no second derivative; set STYLEGAN_OPS=torch to have PyTorch's")


_norm_act = quick(_op.norm_act.default, _save, _backward)
_grad = quick(_op.norm_act_grad.default, _nothing, _no_second)
torch.library.register_autograd("stylegan2_ada::norm_act", _backward, setup_context=_save)
torch.library.register_autograd("stylegan2_ada::norm_act_grad", _no_second)
