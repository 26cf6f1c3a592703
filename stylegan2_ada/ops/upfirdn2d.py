"""Pad, upsample, FIR-filter and downsample images: the resampling operator of StyleGAN2 (Karras et al. 2020).

Along each axis the operator is

    y[o] = gain * sum_j g[j] * u[o * down + j - pad0],      u[i * up] = x[i], all other samples of u zero,

with g the filter turned round for a true convolution (`flip_filter=False`) or as it is for a correlation
(`flip_filter=True`). u is never made, and its zeros are not multiplied.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from common.errors import UserError

from . import reference
from .fir_kernels import Axis, resample
from .native import below_autograd, path, use_native

_SEPARABLE = 8  # taps from which on two passes along the axes are quicker than one


def fir_taps(taps: Sequence[float] | Sequence[Sequence[float]], *, device: torch.device | str | None = None) -> Tensor:
    """A low-pass filter for `upfirdn2d` in float32: the taps divided by their sum: a flat image keeps its value.

    taps: those of one axis, which the image is filtered with along both; or a table [height][width]. Up to seven taps
        become the table of their products, [n, n], which is one pass over the image; more stay [n], two passes of n
        products a pixel instead of one of n * n.

    Raises ValueError for taps that are none, or that sum to zero.
    """
    # never on another device: the sum is looked at, also where shapes alone are made (torch.device("meta"))
    g = torch.as_tensor(taps, dtype=torch.float32, device=taps.device if isinstance(taps, Tensor) else "cpu")
    if g.ndim not in (1, 2) or g.numel() == 0:
        raise UserError(f"filter taps must be a non-empty list or table, not an array of shape {list(g.shape)}")
    total = g.sum()
    if total == 0:
        raise UserError("filter taps sum to zero: they have no gain at zero frequency to be divided by")
    g = g / total
    return (torch.outer(g, g) if g.ndim == 1 and len(g) < _SEPARABLE else g).to(device)


def margins(taps: int, *, up: int = 1, down: int = 1) -> tuple[int, int]:
    """Samples (before, behind) an axis that keep a FIR of so many taps centred, and the size exact: H * up // down.

    (taps - down + up - 1) / 2 before, rounded up, and taps - down in all, counted in samples of the enlarged image;
    negative ones are cropped. conv2d_resample.py derives it.
    """
    before = -((down - taps - up + 1) // 2)
    return before, taps - down - before


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    *,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Upsample by zero insertion, pad, filter and keep every `down`-th sample, in one step.

    x: [N, C, H, W], any floating dtype, any strides.
    f: float filter from `fir_taps`, [taps] (separable) or [fh, fw]; None is the identity.
    up, down: a factor, or (x, y).
    padding: zeros added to the *upsampled* image; a number, (x, y) or (x0, x1, y0, y1). Negative crops.
    flip_filter: False convolves, True correlates.
    gain: factor on the result.

    Returns [N, C, (H * up + pad0 + pad1 - fh) // down + 1, ...] in the dtype of x. Differentiable any number of times
    with respect to x; the filter is a constant. Raises ValueError for a bad argument or when nothing would be left.
    """
    if x.ndim != 4 or not x.is_floating_point():
        raise UserError(f"images must be a floating [N, C, H, W] tensor, not {x.dtype} of shape {list(x.shape)}")
    if f is None:
        f = torch.ones(1, device=x.device)
    taps = f.shape
    if len(taps) not in (1, 2):
        raise UserError(f"a filter has one or two axes, not {len(taps)}")
    _, _, h, w = x.shape
    forgetful = torch.compiler.is_compiling() or not type(up) is type(down) is int  # symbolic sizes, lists
    padding = padding if isinstance(padding, int) else tuple(padding)
    geometry = _geometry if forgetful else _known_geometry
    y_axis, x_axis, pads = geometry(h, w, up, down, padding, taps[0], taps[-1])
    if use_native(x):
        f = f if f.dtype in (torch.float32, torch.float64) else f.float()
        factors = x_axis.up, y_axis.up, x_axis.down, y_axis.down
        return _native(x, f, (*factors, x_axis.pad, y_axis.pad, y_axis.out, x_axis.out, flip_filter, gain))
    if path() == "reference" and 0 not in x.shape[:2]:
        return reference.upfirdn2d(x, f, (x_axis.up, y_axis.up), (x_axis.down, y_axis.down), pads, flip_filter, gain)
    f = f.detach()
    if not flip_filter:
        f = f.flip(list(range(f.ndim)))
    if gain != 1:  # a separable filter meets the image twice, which is all right for its size but not for its sign
        f = f.to(torch.promote_types(f.dtype, x.dtype)) * abs(gain) ** (f.ndim / 2)
    y = _Resample.apply(x, f, y_axis, x_axis)
    return y if gain >= 0 else -y


def _geometry(h: int, w: int, up, down, padding, fh: int, fw: int) -> tuple[Axis, Axis, tuple[int, int, int, int]]:
    """The axes along y and x, and the padding written out; ValueError if nothing would be left of the image."""
    up_x, up_y = _pair(up, "up")
    down_x, down_y = _pair(down, "down")
    px0, px1, py0, py1 = pads = _padding(padding)
    for name, size, u, p0, p1, k in (("wide", w, up_x, px0, px1, fw), ("high", h, up_y, py0, py1, fh)):
        if size < 1 or size * u + p0 + p1 < k:
            raise UserError(f"the padded image is {size * u + p0 + p1} samples {name}, less than the filter's {k}")
    y_axis = Axis(h, up_y, down_y, py0, (h * up_y + py0 + py1 - fh) // down_y + 1)
    x_axis = Axis(w, up_x, down_x, px0, (w * up_x + px0 + px1 - fw) // down_x + 1)
    return y_axis, x_axis, pads


# Remembered: small images would otherwise take longer to check than to filter.
_known_geometry = lru_cache(maxsize=1024)(_geometry)


# The native operator: y[o] = gain * sum_j g[j] * u[o * down + j - pad0], g = f (flip) or f turned round. The size of
# the result is told, so that the transposed operator, which is the gradient, is one, too. The kernels come with the
# library that `native` loads.
torch.library.define(
    "stylegan2_ada::upfirdn2d",
    "(Tensor x, Tensor f, int up_x, int up_y, int down_x, int down_y, int pad_x0, int pad_y0, SymInt out_h,"
    " SymInt out_w, bool flip, float gain) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)
_op = torch.ops.stylegan2_ada.upfirdn2d.default


@torch.library.register_fake("stylegan2_ada::upfirdn2d")
def _(  # so many arguments: the operator's
    x, f, up_x, up_y, down_x, down_y, pad_x0, pad_y0, out_h, out_w, flip, gain
):
    channels_last = x.shape[1] > 1 and x.stride(1) == 1 and not x.is_contiguous()  # the kernels' rule
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty((*x.shape[:2], out_h, out_w), dtype=x.dtype, device=x.device, memory_format=layout)


def _transposed(x: Tensor, f: Tensor, options: tuple) -> tuple:
    """What to call the operator with for its gradient: it is linear in x."""
    up_x, up_y, down_x, down_y, pad_x, pad_y, _, _, flip, gain = options
    pads = f.shape[-1] - 1 - pad_x, f.shape[0] - 1 - pad_y
    return (down_x, down_y, up_x, up_y, *pads, x.shape[2], x.shape[3], not flip, gain)


def _keep(ctx, inputs, output) -> None:
    x, f, *options = inputs
    ctx.transposed = _transposed(x, f, tuple(options))
    ctx.save_for_backward(f)


def _gradients(ctx, gy):
    gx = _op(gy, ctx.saved_tensors[0], *ctx.transposed) if ctx.needs_input_grad[0] else None
    return (gx, *[None] * 11)


torch.library.register_autograd("stylegan2_ada::upfirdn2d", _gradients, setup_context=_keep)


def _native(x: Tensor, f: Tensor, options: tuple) -> Tensor:
    """The operator, by the shortest way that does what is needed.

    The way through `register_autograd`, which compiled graphs take, costs 50 us a call and as much again going back; a
    filtered image of 8x8 pixels costs 5.
    """
    if torch._C._are_functorch_transforms_active():
        return _Functional.apply(x, f, options)
    if torch.compiler.is_compiling():
        return _op(x, f, *options)
    if x.requires_grad and torch.is_grad_enabled():
        return _Native.apply(x, f, options)
    with below_autograd():
        return _op(x, f, *options)


class _Native(torch.autograd.Function):
    """The operator with the same derivatives as above."""

    @staticmethod
    def forward(ctx, x: Tensor, f: Tensor, options: tuple) -> Tensor:
        ctx.transposed = _transposed(x, f, options)
        ctx.save_for_backward(f)
        with below_autograd():
            return _op(x, f, *options)

    @staticmethod
    def backward(ctx, gy: Tensor):
        return _native(gy, ctx.saved_tensors[0], ctx.transposed), None, None


class _Functional(torch.autograd.Function):
    """The same in the form that torch.func asks for, which takes three times as long to call."""

    @staticmethod
    def forward(x: Tensor, f: Tensor, options: tuple) -> Tensor:
        return _op(x, f, *options)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.transposed = _transposed(*inputs)
        ctx.save_for_backward(inputs[1])

    backward = _Native.backward


class _Resample(torch.autograd.Function):
    """Linear in x, so the gradient is the transposed operator: the same one with the factors exchanged.

    Left to autograd, the backward pass of the kernels would be up to thirty times slower than this one in bfloat16.
    """

    @staticmethod
    def forward(x: Tensor, f: Tensor, y_axis: Axis, x_axis: Axis) -> Tensor:
        return resample(x, f, y_axis, x_axis)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        _, f, ctx.y_axis, ctx.x_axis = inputs
        ctx.save_for_backward(f)

    @staticmethod
    def backward(ctx, gy: Tensor):
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        (f,) = ctx.saved_tensors
        y_axis, x_axis = ctx.y_axis.adjoint(f.shape[0]), ctx.x_axis.adjoint(f.shape[-1])
        turned = f.flip(list(range(f.ndim)))
        return _Resample.apply(gy, turned, y_axis, x_axis), None, None, None


def _pair(value: int | Sequence[int], name: str) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(int(v) for v in value)
    if len(pair) != 2 or min(pair) < 1:
        raise UserError(f"{name} must be a factor of at least 1, or a pair (x, y) of them, not {value!r}")
    return pair


def _padding(value: int | Sequence[int]) -> tuple[int, int, int, int]:
    p = (value,) * 4 if isinstance(value, int) else tuple(int(v) for v in value)
    if len(p) == 2:
        p = (p[0], p[0], p[1], p[1])
    if len(p) != 4:
        raise UserError(f"padding must be a number, (x, y) or (x0, x1, y0, y1), not {value!r}")
    return p


def upsample2d(x: Tensor, f: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C, 2 H, 2 W], the brightness and the centre kept; arguments as in `upfirdn2d`."""
    return upfirdn2d(x, f, up=2, padding=[*margins(f.shape[-1], up=2), *margins(f.shape[0], up=2)], gain=4.0)


def downsample2d(x: Tensor, f: Tensor, *, crop: int = 0, flip_filter: bool = False) -> Tensor:
    """[N, C, H, W], less `crop` pixels on every side, to half the size, the centre kept; otherwise as `upfirdn2d`."""
    padding = [m - crop for taps in (f.shape[-1], f.shape[0]) for m in margins(taps, down=2)]
    return upfirdn2d(x, f, down=2, padding=padding, flip_filter=flip_filter)
