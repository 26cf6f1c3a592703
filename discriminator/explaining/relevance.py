"""Layer-wise relevance propagation for every network of this project, as a gradient of changed rules.

S. Bach et al., "On pixel-wise explanations for non-linear classifier decisions by layer-wise relevance propagation"
(PLoS ONE 2015). M. Ancona et al., "Towards better understanding of gradient-based attribution methods" (ICLR 2018),
proposition 1: the epsilon rule is input times a gradient in which each non-linearity's slope is replaced by f(z) / z.
So a mode that watches PyTorch's functions while the network computes needs no list of layers: residual sums, gates,
pooled deviations and capsules are functions, too. captum's own rules know sequences of modules only; there the two
agree (a test holds them together).

- Linear functions stay. Convolutions of inputs >= 0 take the gamma rule (G. Montavon et al., "Layer-wise relevance
  propagation: an overview", 2019): w + gamma max(w, 0) in place of w, which calms the map.
- Activations: f(z) / z. Gates (sigmoid, softmax) are constants: the signal takes all, as for LSTMs (Arras et al. 2017)
  and attention (Ali et al. 2022). So are a normalisation's deviations.
- Products of two signals: half to each, which conserves. Roots and squares: as x times a constant.
- This project's own operations are linear, or leaky rectifiers, whose slope is f(z) / z by itself.
- exp, log and logsumexp, which bring a score to its scale: their slope.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

GAMMA = 0.25
TINY = 1e-12


class NoRule(Exception):
    """A function for which there is no rule; its name."""


LINEAR = frozenset(
    """__get__ __getitem__ add add_ __add__ __radd__ __iadd__ sub __sub__ __rsub__ rsub neg __neg__ sum mean cat
    stack concat reshape view view_as flatten unflatten unsqueeze squeeze permute transpose movedim t contiguous
    clone to float double cpu cuda type expand expand_as repeat repeat_interleave split chunk unbind narrow pad
    interpolate upsample conv1d conv3d linear avg_pool2d adaptive_avg_pool2d max_pool2d max_pool2d_with_indices
    boolean_dispatch _max_pool2d adaptive_max_pool2d fold unfold pixel_shuffle pixel_unshuffle batch_norm
    dropout dropout2d dropout_ feature_dropout roll flip masked_fill index_select gather where select diagonal
    alpha_dropout amax max abs log log1p exp logsumexp logit requires_grad_ requires_grad register_hook detach
    detach_ depthwise bias_act upfirdn2d conv3x3 conv_taps broadcast_to tile nan_to_num maximum minimum type_as
    half bfloat16 _assert is_floating_point size dim numel has_names stride is_contiguous channel_shuffle
    native_channel_shuffle""".split()
)
ACTIVATIONS = frozenset(
    """relu relu_ relu6 leaky_relu leaky_relu_ hardtanh hardtanh_ silu hardswish gelu elu elu_ selu celu mish softplus
    tanh tanh_ clamp clamp_ clamp_min clamp_max clip sqrt threshold prelu rrelu logsigmoid""".split()
)
GATES = frozenset("sigmoid sigmoid_ hardsigmoid softmax rsqrt reciprocal log_softmax".split())
PRODUCTS = frozenset("mul __mul__ __rmul__ __imul__ multiply matmul __matmul__ bmm mm einsum baddbmm".split())
QUOTIENTS = frozenset("div __truediv__ __itruediv__ true_divide divide".split())


def _needs(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


def _constant(value: Any) -> Any:
    return value.detach() if isinstance(value, torch.Tensor) else value


def as_multiple(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """y, as x times a constant: what flows back is divided alike. Where x is 0, nothing does."""
    ratio = torch.where(x.abs() > TINY, y / torch.where(x.abs() > TINY, x, 1), 0).detach()
    return x * ratio + (y - x * ratio).detach()


class Rules(TorchFunctionMode):
    """Inside, what a network computes has the same values, and a gradient that is relevance over value."""

    def __init__(self, gamma: float = GAMMA) -> None:
        super().__init__()
        self.gamma = gamma

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        if not torch.is_grad_enabled() or not _any_needs((args, tuple(kwargs.values()))):
            return func(*args, **kwargs)
        if name == "conv2d":
            return self._convolution(func, args, kwargs)
        if name in ACTIVATIONS:
            x = args[0]
            return as_multiple(x, func(x.detach().clone(), *args[1:], **kwargs))
        if name in GATES:
            return func(*map(_constant, args), **kwargs).detach()
        if name in PRODUCTS:
            return _product(func, args, kwargs)
        if name in QUOTIENTS:
            return func(args[0], *map(_constant, args[1:]), **kwargs)
        if name in _OWN:
            return _OWN[name](func, args, kwargs)
        out = func(*args, **kwargs)
        if name not in LINEAR and _any_needs(out):
            raise NoRule(name.strip("_"))
        return out

    def _convolution(self, func: Callable, args: tuple, kwargs: dict) -> torch.Tensor:
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        given = dict(zip(names, args)) | kwargs
        x, weight, bias = given.pop("input"), given.pop("weight"), given.pop("bias", None)
        y = func(x, weight, bias, **given)
        if not self.gamma or _needs(weight) or bool((x.detach() < 0).any()):
            return y
        more = func(
            x, weight + self.gamma * weight.clamp(min=0),
            None if bias is None else bias + self.gamma * bias.clamp(min=0), **given,
        )  # fmt: skip
        # where y > 0 the quotient lies in (0, 1]; where it isn't, `more` may be as near to 0 as it likes
        return torch.where(y.detach() > 0, as_multiple(more, y.detach()), y)


def _any_needs(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_any_needs, value))
    return _needs(value)


def _product(func: Callable, args: tuple, kwargs: dict) -> torch.Tensor:
    """Of one signal and constants: linear. Of two signals: half of the relevance to each."""
    flat = list(args)
    signals = [i for i, value in enumerate(flat) if _needs(value)]
    if len(signals) < 2:
        return func(*args, **kwargs)
    if len(signals) > 2:
        raise NoRule(f"{func.__name__.strip('_')} of {len(signals)} signals")
    parts = []
    for keep in signals:
        own = [value if i == keep else _constant(value) for i, value in enumerate(flat)]
        parts.append(func(*own, **kwargs))
    return 0.5 * (parts[0] + parts[1])


def _square(func: Callable, args: tuple, kwargs: dict) -> torch.Tensor:
    return as_multiple(args[0], func(args[0].detach(), *args[1:], **kwargs))


def _var_mean(func: Callable, args: tuple, kwargs: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean: linear. Variance: the mean of x - mean times itself as a constant."""
    x, rest = args[0], args[1:]
    var, mean = func(x.detach(), *rest, **kwargs)
    dim = kwargs.get("dim", rest[0] if rest else None)
    count = x.numel() // max(mean.numel(), 1)
    keep = x.mean(dim, keepdim=True)
    own = ((x - keep) * (x - keep).detach()).sum(dim) / count
    through = x.mean(dim)
    if var.shape != own.shape:  # keepdim
        own, through = own.reshape(var.shape), through.reshape(var.shape)
    return own * (var / own.clamp(min=TINY)).detach(), through


def _layer_norm(func: Callable, args: tuple, kwargs: dict) -> torch.Tensor:
    names = ("input", "normalized_shape", "weight", "bias", "eps")
    given = {"weight": None, "bias": None, "eps": 1e-5} | dict(zip(names, args)) | kwargs
    x, dims = given["input"], tuple(range(-len(given["normalized_shape"]), 0))
    deviation = (x.detach().var(dims, correction=0, keepdim=True) + given["eps"]).sqrt()
    y = (x - x.mean(dims, keepdim=True)) / deviation
    y = y if given["weight"] is None else y * given["weight"]
    return y if given["bias"] is None else y + given["bias"]


_OWN = {"square": _square, "pow": _square, "__pow__": _square, "var_mean": _var_mean, "layer_norm": _layer_norm}


def relevance(score: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, gamma: float = GAMMA) -> torch.Tensor:
    """The relevance of each number of x for score(x) (a sum over the batch): a tensor like x.

    NoRule where the network uses a function that has none."""
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        with Rules(gamma):
            total = score(x).sum()
        (gradient,) = torch.autograd.grad(total, x)
    return (x * gradient).detach()
