"""Operations that are linear in images and in weights, with both gradients; the three are each other's derivatives."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .native import plain


class Like(NamedTuple):
    """What of an operand its gradient has too."""

    shape: torch.Size
    dtype: torch.dtype


def _like(t: Tensor) -> Like:
    return Like(t.shape, t.dtype)


def bilinear(
    product: Callable,
    to_input: Callable,
    to_weights: Callable,
    to_bias: Callable | None = None,
    weights_wanted: Callable[[], bool] = lambda: True,
) -> Callable:
    """`product`, differentiable any number of times by the other two; none of them has derivatives of its own. `how` is
    whatever else they depend on:

    product(x, w, b, how): linear in x and in w, and a bias b, or None, is added.
    to_input(gy, w, how, like): its gradient in x, which is `like` that; to_weights(x, gy, how, like): in w;
    to_bias(gy, how): in b, where there is one.

    weights_wanted: asked in backward passes; where it says no, gradients of w and b are left out.
    """

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(x, w, b, how):
            return product(x, w, b, how)

        @staticmethod
        def setup_context(ctx, inputs, output):
            x, w, _, ctx.how = inputs
            ctx.save_for_backward(x, w)

        @staticmethod
        def backward(ctx, gy):
            x, w = ctx.saved_tensors
            gx = gw = gb = None
            if ctx.needs_input_grad[0]:
                gx = of_input(gy, w, ctx.how, _like(x))
            if ctx.needs_input_grad[1] and weights_wanted():
                gw = of_weights(x, gy, ctx.how, _like(w))
            if ctx.needs_input_grad[2] and to_bias is not None and weights_wanted():
                gb = to_bias(gy, ctx.how)
            return gx, gw, gb, None

    class ToInput(torch.autograd.Function):
        @staticmethod
        def forward(gy, w, how, like):
            return to_input(gy, w, how, like)

        @staticmethod
        def setup_context(ctx, inputs, output):
            gy, w, ctx.how, _ = inputs
            ctx.save_for_backward(gy, w)

        @staticmethod
        def backward(ctx, ggx):
            gy, w = ctx.saved_tensors
            ggy = gw = None
            if ctx.needs_input_grad[0]:
                ggy = of(ggx, w, None, ctx.how)
            if ctx.needs_input_grad[1] and weights_wanted():
                gw = of_weights(ggx, gy, ctx.how, _like(w))
            return ggy, gw, None, None

    class ToWeights(torch.autograd.Function):
        @staticmethod
        def forward(x, gy, how, like):
            return to_weights(x, gy, how, like)

        @staticmethod
        def setup_context(ctx, inputs, output):
            x, gy, ctx.how, _ = inputs
            ctx.save_for_backward(x, gy)

        @staticmethod
        def backward(ctx, ggw):
            x, gy = ctx.saved_tensors
            gx = of_input(gy, ggw, ctx.how, _like(x)) if ctx.needs_input_grad[0] else None
            ggy = of(x, ggw, None, ctx.how) if ctx.needs_input_grad[1] else None
            return gx, ggy, None, None

    functions: tuple[Any, ...] = (Product, ToInput, ToWeights)
    of, of_input, of_weights = (plain(function) for function in functions)
    return of
