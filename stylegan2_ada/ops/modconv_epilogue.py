"""What surrounds a modulated convolution: styles on its input; demodulation, noise, bias and activation behind it.

StyleGAN2 (Karras et al. 2020, section 2.2 and figure 2): with the weights left alone, a modulated convolution is
`conv(x * s) * d`, styles s and demodulation coefficients d one number per sample and channel. In PyTorch's operations
that and the rest of the layer are seven passes over memory, and twice as many backwards; native code does it in one
pass each. Its backward pass keeps nothing but the result where the activation can be undone: y * d is what remains
of it when activation, bias and noise are taken off again.
"""

import torch
from torch import Tensor

from common.errors import UserError

from . import convolution, reference
from .bias_act import ACTIVATIONS, settled
from .bias_act import bias_act as _bias_act
from .bias_act_native import LINEAR, LRELU, bias_act_grad, reads_input
from .native import below_autograd, path, quick, sum_dtype, use_native

_PARAMETERS = "int act, float alpha, float gain, float clamp"
_AS_IT_IS = (LINEAR, 0.0, 1.0, -1.0)  # parameters of no activation, no gain, no clamp

# out = clamp(gain * act(y * d[n, c] + noise[n, 0, h, w] + b[c])), with y [N, C, H, W] in either layout, d [N, C],
# noise [N or 1, 1, H, W], b [C].
torch.library.define(
    "stylegan2_ada::modconv_epilogue", f"(Tensor y, Tensor? d, Tensor? noise, Tensor? b, {_PARAMETERS}) -> Tensor"
)
# From g, the gradient with respect to out, those with respect to y, d, noise and b: the first in the dtype and layout
# of out, the others summed in float32 (float64 for float64), and of size 0 for absent operands. y may be left out for
# a linear activation or a leaky ReLU with alpha > 0, if gain > 0.
torch.library.define(
    "stylegan2_ada::modconv_epilogue_grad",
    f"(Tensor g, Tensor out, Tensor? y, Tensor? d, Tensor? noise, Tensor? b, {_PARAMETERS})"
    " -> (Tensor, Tensor, Tensor, Tensor)",
)

_epilogue = torch.ops.stylegan2_ada.modconv_epilogue.default
_epilogue_grad = torch.ops.stylegan2_ada.modconv_epilogue_grad.default


def modconv_epilogue(
    y: Tensor,
    d: Tensor | None = None,
    noise: Tensor | None = None,
    b: Tensor | None = None,
    *,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """clamp(gain * act(y * d + noise + b), -clamp, clamp).

    y: [N, C, H, W], any floating dtype and strides; never changed.
    d: [N, C] factor on each sample's channels, usually float32 whatever y is; None is 1.
    noise: [N, 1, H, W], or [1, 1, H, W] for all samples alike; None is 0.
    b: [C]; None is 0.
    act, alpha, gain, clamp: as for `bias_act`.

    Returns a tensor like y, twice differentiable with respect to all operands; gradients have the operands' dtypes and
    are summed in float32. Raises ValueError for operands that do not fit y and for what `bias_act` refuses.
    """
    if y.ndim != 4:
        raise UserError(f"the result of a convolution has shape [N, C, H, W], not {list(y.shape)}")
    n, c, h, w = y.shape
    if d is not None and d.shape != (n, c):
        raise UserError(
            f"factors of shape {list(d.shape)} do not fit images of shape {list(y.shape)}: expected {[n, c]}"
        )
    if noise is not None and noise.shape != (n, 1, h, w) and noise.shape != (1, 1, h, w):
        raise UserError(f"noise of shape {list(noise.shape)} does not fit images of shape {list(y.shape)}")
    if d is None and noise is None:
        return _bias_act(y, b, act=act, alpha=alpha, gain=gain, clamp=clamp)
    if b is not None and b.shape != (c,):
        raise UserError(f"bias of shape {list(b.shape)} does not fit images of shape {list(y.shape)}")
    alpha, gain = settled(act, alpha, gain, clamp)
    if use_native(y):
        number = ACTIVATIONS[act]
        if reads_input(number, alpha):
            return _bias_act(_native(y, d, noise, b, *_AS_IT_IS), act=act, alpha=alpha, gain=gain, clamp=clamp)
        return _native(y, d, noise, b, number, alpha, gain, -1.0 if clamp is None else float(clamp))
    if path() == "reference":
        return reference.modconv_epilogue(y, d, noise, b, act, alpha, gain, clamp)
    if d is not None:
        y = y * d.to(y.dtype)[:, :, None, None]
    if noise is not None:
        noise = noise.to(y.dtype)
        y = y + noise if d is None else y.add_(noise)  # a product keeps its factors for the gradient, not itself
    return _bias_act(y, b, act=act, alpha=alpha, gain=gain, clamp=clamp)


def scale_channels(x: Tensor, s: Tensor) -> Tensor:
    """x * s[:, :, None, None] in the dtype of x: the styles of a modulated convolution (equation 1).

    x: [N, C, H, W]; s: [N, C], usually float32. Differentiable any number of times; the gradient with respect to s is
    summed in float32 and has the dtype of s. Raises ValueError for an s that does not fit.
    """
    if x.ndim != 4 or s.shape != x.shape[:2]:
        raise UserError(f"factors of shape {list(s.shape)} do not fit images of shape {list(x.shape)}")
    if not use_native(x):
        return x * s.to(x.dtype)[:, :, None, None]
    if torch.compiler.is_compiling():
        return _epilogue(x, s, None, None, *_AS_IT_IS)
    return _scale(x, s)


@torch.library.register_fake("stylegan2_ada::modconv_epilogue")
def _(y, d, noise, b, act, alpha, gain, clamp):
    return _like(y)


@torch.library.register_fake("stylegan2_ada::modconv_epilogue_grad")
def _(g, out, y, d, noise, b, *_activation):
    n, c, h, w = out.shape
    wide = sum_dtype(out)
    return (
        _like(out),
        out.new_empty((0 if d is None else n, c), dtype=wide),
        out.new_empty((0 if noise is None else noise.shape[0], 1, h, w), dtype=wide),
        out.new_empty(0 if b is None else c, dtype=wide),
    )


def _like(x: Tensor) -> Tensor:
    """An empty tensor as kernels return it: in one of the two layouts, that of x if it is in one."""
    if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last):
        return torch.empty_like(x)
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _save(ctx, inputs, output) -> None:
    y, d, noise, b, *ctx.parameters = inputs
    act, alpha, gain, _ = ctx.parameters
    if not reads_input(act, alpha):
        needs_y = d is not None and ctx.needs_input_grad[1]
        recoverable = gain > 0 and (act == LINEAR or (act == LRELU and alpha > 0))
        y = y if needs_y and not recoverable else None
    ctx.save_for_backward(output, y, d, noise, b)


def _backward(ctx, g):
    out, y, d, noise, b = ctx.saved_tensors
    parameters = tuple(ctx.parameters)
    if reads_input(*parameters[:2]):  # only where the operator itself is called; `modconv_epilogue` takes it apart
        out = _native(y, d, noise, b, *_AS_IT_IS)
        g, parameters = bias_act_grad(g, out, *parameters), _AS_IT_IS
    if torch.is_grad_enabled():
        grads = _composed(ctx.needs_input_grad, g, out, y, d, noise, b, parameters)
    else:
        with below_autograd():
            grads = _epilogue_grad(g, out, y, d, noise, b, *parameters)
    grads = [
        grad.to(operand.dtype) if grad is not None and operand is not None and needed else None
        for grad, operand, needed in zip(grads, (out, d, noise, b), ctx.needs_input_grad)
    ]
    return *grads, None, None, None, None


def _composed(needed, g, out, y, d, noise, b, parameters):
    """The gradients once more, of differentiable parts."""
    act, alpha, gain, _ = parameters
    gz = bias_act_grad(g, out, *parameters)
    wide = sum_dtype(out)
    gy = gd = gn = gb = None
    if d is None:
        gy = gz
    elif needed[1]:
        if y is None:  # take off the activation (a leaky ReLU undoes a leaky ReLU), bias and noise
            z = out if act == LINEAR and gain == 1 else _straighten(out, act, alpha, gain)
            z = z if noise is None else z - noise.to(z.dtype)
            z = z if b is None else z - b.to(z.dtype)[:, None, None]
            y = _scale(z, d.reciprocal())
        gy, gd = _scale_grad(gz, y, d)
    else:
        gy = _scale(gz, d)
    weights = convolution._weights_wanted
    if noise is not None and needed[2] and weights:
        gn = gz.sum(dim=(0, 1) if noise.shape[0] == 1 else 1, keepdim=True, dtype=wide)
    if b is not None and needed[3] and weights:
        gb = gz.sum(dim=(0, 2, 3), dtype=wide)
    return gy, gd, gn, gb


def _straighten(out: Tensor, act: int, alpha: float, gain: float) -> Tensor:
    return _bias_act(out, act="lrelu", alpha=1 / alpha if act == LRELU else 1.0, gain=1 / gain)


torch.library.register_autograd("stylegan2_ada::modconv_epilogue", _backward, setup_context=_save)


_native = quick(_epilogue, _save, _backward)


def _scale(x: Tensor, s: Tensor) -> Tensor:
    if torch.is_grad_enabled() and (x.requires_grad or s.requires_grad):
        return _Scale.apply(x, s)
    with below_autograd():
        return _epilogue(x, s, None, None, *_AS_IT_IS)


def _scale_grad(g: Tensor, x: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """g * s[n, c], and the sum of g * x over each plane, in one pass."""
    if torch.is_grad_enabled() and (g.requires_grad or x.requires_grad or s.requires_grad):
        return _ScaleGrad.apply(g, x, s)
    with below_autograd():
        gx, gs, _, _ = _epilogue_grad(g, g, x, s, None, None, *_AS_IT_IS)
    return gx, gs.to(s.dtype)


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, s):
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, s)
        with below_autograd():
            return _epilogue(x, s, None, None, *_AS_IT_IS)

    @staticmethod
    def backward(ctx, g):
        x, s = ctx.saved_tensors
        if x is None:
            return _scale(g, s), None
        return _scale_grad(g, x, s)


class _ScaleGrad(torch.autograd.Function):
    """Linear in each of g, x and s."""

    @staticmethod
    def forward(ctx, g, x, s):
        ctx.save_for_backward(g, x, s)
        ctx.set_materialize_grads(False)
        with below_autograd():
            gx, gs, _, _ = _epilogue_grad(g, g, x, s, None, None, *_AS_IT_IS)
        return gx, gs.to(s.dtype)

    @staticmethod
    def backward(ctx, ggx, ggs):
        g, x, s = ctx.saved_tensors
        need_g, need_x, need_s = ctx.needs_input_grad
        to_g = to_x = to_s = None
        if ggx is not None and need_s:
            to_g, to_s = _scale_grad(ggx, g, s)
        elif ggx is not None and need_g:
            to_g = _scale(ggx, s)
        if ggs is not None and need_g:
            to_g = _scale(x, ggs) if to_g is None else to_g + _scale(x, ggs)
        if ggs is not None and need_x:
            to_x = _scale(g, ggs)
        return to_g, to_x, to_s
