"""Add a bias, apply an activation, scale and clamp: the end of every layer of StyleGAN2 (Karras et al. 2020)."""

from functools import lru_cache
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError

from . import bias_act_native, reference
from .bias_act_native import along as _along
from .bias_act_native import sum_along
from .native import path, use_native

# Activation -> the gain that keeps unit variance for unit-normal input, the square root of 2 or 1.
DEFAULT_GAIN = {
    "linear": 1.0,
    "relu": sqrt(2),
    "lrelu": sqrt(2),
    "tanh": 1.0,
    "sigmoid": 1.0,
    "elu": 1.0,
    "selu": 1.0,
    "softplus": 1.0,
    "swish": sqrt(2),
}
ACTIVATIONS = {act: number for number, act in enumerate(DEFAULT_GAIN)}  # the kernels' numbers for them
DEFAULT_ALPHA = 0.2  # negative slope of lrelu


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    *,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """clamp(gain * act(x + b), -clamp, clamp).

    x: any shape, any floating dtype and strides; never changed.
    b: [x.shape[dim]], added along `dim`; None adds nothing.
    act: 'linear', 'relu', 'lrelu', 'tanh', 'sigmoid', 'elu', 'selu', 'softplus' or 'swish'.
    alpha: negative slope of lrelu (default 0.2); the other activations have no parameter.
    gain: factor on the activation; None takes sqrt(2) for relu, lrelu and swish, else 1.
    clamp: bound on the absolute value of the result; None does not clamp.

    Returns a tensor like x, twice differentiable. Raises ValueError for an unknown activation, a bias that does not fit
    `dim`, or a negative `clamp`.
    """
    alpha, gain = settled(act, alpha, gain, clamp)
    if b is not None and (not -x.ndim <= dim < x.ndim or b.ndim != 1 or len(b) != x.shape[dim]):
        raise UserError(f"bias of shape {list(b.shape)} does not fit dimension {dim} of shape {list(x.shape)}")
    if use_native(x):
        number = ACTIVATIONS[act]
        return bias_act_native.bias_act(x, b, dim, number, alpha, gain, -1.0 if clamp is None else float(clamp))
    if path() == "reference":
        return reference.bias_act(x, b, dim, act, alpha, gain, clamp)
    slope = {"linear": 1.0, "relu": 0.0, "lrelu": alpha}.get(act, -1.0)
    if slope >= 0 and gain > 0 and not torch.compiler.is_compiling():  # a compiler fuses the plain form better
        return _Bent.apply(x, b, dim % x.ndim, slope, gain, clamp)
    if b is not None:
        x = x + _along(b.to(x.dtype), dim, x.ndim)
    x = F.silu(x) if act == "swish" else reference.ACTIVATIONS[act](x, alpha)
    if gain != 1:
        x = x * gain
    if clamp is not None:
        x = x.clamp(-clamp, clamp)
    return x


def settled(act: str, alpha: float | None, gain: float | None, clamp: float | None) -> tuple[float, float]:
    """(alpha, gain) of an activation, the defaults put in; UserError for an unknown one or a negative clamp."""
    if act not in DEFAULT_GAIN:
        raise UserError(f"unknown activation {act!r}: choose from {', '.join(DEFAULT_GAIN)}")
    if clamp is not None and clamp < 0:
        raise UserError(f"clamp must not be negative, got {clamp}")
    return DEFAULT_ALPHA if alpha is None else float(alpha), DEFAULT_GAIN[act] if gain is None else float(gain)


class _Bent(torch.autograd.Function):
    """The whole of `bias_act` for activations of two straight pieces, slope 1 above zero and `slope` below.

    Such an activation commutes with a positive gain, and its derivative can be read off the result. So everything is
    done in the one tensor that is returned, and that tensor is all that is kept for the backward pass.
    """

    @staticmethod
    def forward(x: Tensor, b: Tensor | None, dim: int, slope: float, gain: float, clamp: float | None) -> Tensor:
        if b is None:
            y = x * gain
        else:
            y = torch.add(_along(b.to(x.dtype) * gain, dim, x.ndim), x, alpha=gain)
        if slope == 0:
            torch.relu_(y)
        elif slope != 1:
            F.leaky_relu_(y, slope)
        return y if clamp is None else y.clamp_(-clamp, clamp)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        _, b, ctx.dim, ctx.slope, ctx.gain, clamp = inputs
        ctx.clamp = None if clamp is None else _rounded(clamp, output.dtype)  # what clamped results are equal to
        ctx.b_dtype = None if b is None else b.dtype
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx, gy: Tensor):
        (y,) = ctx.saved_tensors
        gx = _Slope.apply(gy, y, ctx.slope, ctx.gain, ctx.clamp)
        gb = None
        if ctx.needs_input_grad[1]:
            gb = sum_along(gx, ctx.dim).to(ctx.b_dtype)
        return gx, gb, None, None, None, None


@lru_cache
def _rounded(value: float, dtype: torch.dtype) -> float:
    return torch.tensor(value, dtype=dtype).item()


class _Slope(torch.autograd.Function):
    """gy times the derivative of the activation where its result is y: linear in gy, piecewise constant in y."""

    @staticmethod
    def forward(gy: Tensor, y: Tensor, slope: float, gain: float, clamp: float | None) -> Tensor:
        if slope == 1:
            gx = gy * gain
        else:
            gx = torch.ops.aten.leaky_relu_backward(gy, y, slope, True)
            if gain != 1:
                gx.mul_(gain)
        return gx if clamp is None else torch.ops.aten.hardtanh_backward(gx, y, -clamp, clamp)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        _, y, ctx.slope, ctx.gain, ctx.clamp = inputs
        ctx.save_for_backward(y)

    @staticmethod
    def backward(ctx, ggx: Tensor):
        (y,) = ctx.saved_tensors
        return _Slope.apply(ggx, y, ctx.slope, ctx.gain, ctx.clamp), None, None, None, None
