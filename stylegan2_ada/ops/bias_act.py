"""Add a bias, apply an activation, scale and clamp: the end of every layer of StyleGAN2 (Karras et al. 2020)."""

from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

# Activation -> the gain that keeps unit variance for unit-normal input, by the published choice.
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

    Returns a tensor like x, twice differentiable. Raises ValueError for an unknown activation, a bias whose length is not that of `dim`,
    or a negative `clamp`.
    """
    if act not in DEFAULT_GAIN:
        raise ValueError(f"unknown activation {act!r}: choose from {', '.join(DEFAULT_GAIN)}")
    if clamp is not None and clamp < 0:
        raise ValueError(f"clamp must not be negative, got {clamp}")
    alpha = DEFAULT_ALPHA if alpha is None else float(alpha)
    gain = DEFAULT_GAIN[act] if gain is None else float(gain)
    if b is not None:
        if not -x.ndim <= dim < x.ndim or b.ndim != 1 or len(b) != x.shape[dim]:
            raise ValueError(f"bias of shape {list(b.shape)} does not fit dimension {dim} of shape {list(x.shape)}")
        shape = [1] * x.ndim
        shape[dim] = -1
        x = x + b.to(x.dtype).reshape(shape)
    x = _activate(x, act, alpha)
    if gain != 1:
        x = x * gain
    if clamp is not None:
        x = x.clamp(-clamp, clamp)
    return x


def _activate(x: Tensor, act: str, alpha: float) -> Tensor:
    match act:
        case "relu":
            return F.relu(x)
        case "lrelu":
            return F.leaky_relu(x, alpha)
        case "tanh":
            return torch.tanh(x)
        case "sigmoid":
            return torch.sigmoid(x)
        case "elu":
            return F.elu(x)
        case "selu":
            return F.selu(x)
        case "softplus":
            return F.softplus(x)
        case "swish":
            return F.silu(x)
    return x
