"""The sum of squares over each kernel of convolution weights, for demodulation, in one pass over the weights.

In PyTorch's operations it is a square, a sum over nine numbers, and backwards an expansion and two products, each a
pass over memory and slow where the numbers summed are few: a twelfth of a training step on a CPU once its convolutions
were quick.

Schemas; each of the derivatives of the two is one of them, so they are differentiable any number of times:

kernel_dot(a, b): [O, I], the sum over y, x of a[o, i, y, x] b[o, i, y, x].
kernel_scale(a, s): a[o, i, y, x] s[o, i].
kernel_scale_add_(y, a, s): the same, added to y.
"""

import torch
from torch import Tensor

from .native import below_autograd, use_native

torch.library.define("stylegan2_ada::kernel_dot", "(Tensor a, Tensor b) -> Tensor")
torch.library.define("stylegan2_ada::kernel_scale", "(Tensor a, Tensor s) -> Tensor")
torch.library.define("stylegan2_ada::kernel_scale_add_", "(Tensor(a!) y, Tensor a, Tensor s) -> ()")

_op = torch.ops.stylegan2_ada


@torch.library.register_fake("stylegan2_ada::kernel_dot")
def _(a, b):
    return a.new_empty(a.shape[:2])


@torch.library.register_fake("stylegan2_ada::kernel_scale")
def _(a, s):
    return a.new_empty(a.shape)


@torch.library.register_fake("stylegan2_ada::kernel_scale_add_")
def _(y, a, s):
    return None


def with_kernel_squares(w: Tensor) -> tuple[Tensor, Tensor]:
    """w itself, to be convolved with, and `w.square().sum(dim=[2, 3])`: [O, I] of weights [O, I, kh, kw], as often
    differentiable as wanted.

    The gradient of the squares is added to that of the convolution where this lies, instead of being made, kept and
    added by autograd: two passes over the weights less.
    """
    if torch.compiler.is_compiling() or not (w.is_cpu and w.dtype == torch.float32 and use_native(w)):
        return w, w.square().sum(dim=[2, 3])
    return _Squares.apply(w)


class _Squares(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w):
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(w)
        with below_autograd():
            return w.detach(), _op.kernel_dot(w, w)

    @staticmethod
    def backward(ctx, gw, g):
        (w,) = ctx.saved_tensors
        if g is None:
            return gw
        if gw is None or torch.is_grad_enabled() or not gw.is_contiguous():
            own = _Scale.apply(w, 2 * g)
            return own if gw is None else gw + own
        with below_autograd():
            _op.kernel_scale_add_(gw, w, 2 * g)  # a convolution just made it, and nobody else has it
        return gw


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, s):
        ctx.save_for_backward(a, s)
        with below_autograd():
            return _op.kernel_scale(a, s)

    @staticmethod
    def backward(ctx, g):
        a, s = ctx.saved_tensors
        to_a = _Scale.apply(g, s) if ctx.needs_input_grad[0] else None
        to_s = _Dot.apply(g, a) if ctx.needs_input_grad[1] else None
        return to_a, to_s


class _Dot(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        with below_autograd():
            return _op.kernel_dot(a, b)

    @staticmethod
    def backward(ctx, g):
        a, b = ctx.saved_tensors
        to_a = _Scale.apply(b, g) if ctx.needs_input_grad[0] else None
        to_b = _Scale.apply(a, g) if ctx.needs_input_grad[1] else None
        return to_a, to_b
