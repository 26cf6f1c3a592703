"""The operators behind `bias_act` where native code is used: schemas, shapes for tracing, derivatives.

Their kernels are in native/csrc/bias_act*. With y = clamp(gain * act(x + b)):

bias_act: y.
bias_act_grad: gy * dy/dx, where dy/dx is read from `ref`: y itself, or x + b for swish and for a leaky ReLU with a
    negative slope, which y does not determine.
bias_act_grad_bias: the same and its sum over all dimensions but `dim`, in float32 (float64 for float64), in one pass.
bias_act_grad2: ggx * gy * d(dy/dx)/d(ref), which curved activations need for second derivatives.

`clamp` below zero means none; `act` is the position of the activation in `DEFAULT_GAIN`. Second derivatives of a curved
activation are as far as it goes; those of straight pieces can be taken any number of times.

`bias_act` and `bias_act_grad` here take the quickest way; compilers and exporters see the operators and their formulas.
"""

import torch
from torch import Tensor

from . import convolution
from .native import below_autograd, quick, sum_dtype

LINEAR, RELU, LRELU, SWISH = 0, 1, 2, 8
_PARAMETERS = "int act, float alpha, float gain, float clamp"

torch.library.define("stylegan2_ada::bias_act", f"(Tensor x, Tensor? b, int dim, {_PARAMETERS}) -> Tensor")
torch.library.define("stylegan2_ada::bias_act_grad", f"(Tensor gy, Tensor ref, {_PARAMETERS}) -> Tensor")
torch.library.define(
    "stylegan2_ada::bias_act_grad_bias", f"(Tensor gy, Tensor ref, int dim, {_PARAMETERS}) -> (Tensor, Tensor)"
)
torch.library.define("stylegan2_ada::bias_act_grad2", f"(Tensor ggx, Tensor gy, Tensor ref, {_PARAMETERS}) -> Tensor")

_act = torch.ops.stylegan2_ada.bias_act.default
_grad = torch.ops.stylegan2_ada.bias_act_grad.default
_grad_bias = torch.ops.stylegan2_ada.bias_act_grad_bias.default
_grad2 = torch.ops.stylegan2_ada.bias_act_grad2.default


def reads_input(act: int, alpha: float) -> bool:
    """Whether derivatives are read from x + b, not from y."""
    return act == SWISH or (act == LRELU and alpha < 0)


def along(b: Tensor, dim: int, ndim: int) -> Tensor:
    """A vector as a tensor that broadcasts along `dim`."""
    shape = [1] * ndim
    shape[dim] = -1
    return b.reshape(shape)


def sum_along(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """The sum over all dimensions but one, a vector."""
    others = [d for d in range(x.ndim) if d != dim % x.ndim]
    return x.sum(others, dtype=dtype) if others else x.to(dtype or x.dtype)  # an empty list would mean all of them


@torch.library.register_fake("stylegan2_ada::bias_act")
def _(x, b, dim, act, alpha, gain, clamp):
    return torch.empty_like(x)


@torch.library.register_fake("stylegan2_ada::bias_act_grad")
def _(gy, ref, act, alpha, gain, clamp):
    return torch.empty_like(ref)


@torch.library.register_fake("stylegan2_ada::bias_act_grad_bias")
def _(gy, ref, dim, act, alpha, gain, clamp):
    return torch.empty_like(ref), ref.new_empty(ref.shape[dim], dtype=sum_dtype(ref))


@torch.library.register_fake("stylegan2_ada::bias_act_grad2")
def _(ggx, gy, ref, act, alpha, gain, clamp):
    return torch.empty_like(ref)


def _save(ctx, inputs, output) -> None:
    x, b, ctx.dim, *ctx.parameters = inputs
    ctx.b_dtype = None if b is None else b.dtype
    if reads_input(*ctx.parameters[:2]):
        ctx.save_for_backward(x, b)
    else:
        ctx.save_for_backward(output)


def _backward(ctx, gy):
    ref, *b = ctx.saved_tensors
    if b and b[0] is not None:
        ref = ref + along(b[0].to(ref.dtype), ctx.dim, ref.ndim)
    gx = gb = None
    if ctx.b_dtype is not None and ctx.needs_input_grad[1] and convolution._weights_wanted:
        if torch.is_grad_enabled():
            gx = bias_act_grad(gy, ref, *ctx.parameters)
            gb = sum_along(gx, ctx.dim, sum_dtype(gx))
        else:
            with below_autograd():
                gx, gb = _grad_bias(gy, ref, ctx.dim, *ctx.parameters)
        gb = gb.to(ctx.b_dtype)
    elif ctx.needs_input_grad[0]:
        gx = bias_act_grad(gy, ref, *ctx.parameters)
    return gx, gb, None, None, None, None, None


def _save_grad(ctx, inputs, output) -> None:
    gy, ref, *ctx.parameters = inputs
    curved = ctx.parameters[0] > LRELU
    ctx.save_for_backward(*((gy, ref) if curved and ctx.needs_input_grad[1] else (ref,)))


def _backward_grad(ctx, ggx):
    *gy, ref = ctx.saved_tensors
    to_gy = bias_act_grad(ggx, ref, *ctx.parameters) if ctx.needs_input_grad[0] else None
    to_ref = _grad2(ggx, *gy, ref, *ctx.parameters) if gy else None
    return to_gy, to_ref, None, None, None, None


torch.library.register_autograd("stylegan2_ada::bias_act", _backward, setup_context=_save)
torch.library.register_autograd("stylegan2_ada::bias_act_grad", _backward_grad, setup_context=_save_grad)

bias_act = quick(_act, _save, _backward)
bias_act_grad = quick(_grad, _save_grad, _backward_grad)
