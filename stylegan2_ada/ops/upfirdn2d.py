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


def setup_filter(
    taps: Tensor | Sequence[float] | Sequence[Sequence[float]] | float | None,
    *,
    separable: bool | None = None,
    normalize: bool = True,
    flip: bool = False,
    gain: float = 1.0,
    device: torch.device | str | None = None,
) -> Tensor:
    """Make a filter for `upfirdn2d` out of its taps.

    taps: a number, a 1-D list (used along both axes) or a 2-D list [height][width]; None is the identity.
    separable: keep a 1-D filter 1-D, to be applied along x and then y (True), or expand it to its outer product
        (False). None keeps filters of 8 taps and more separable, as the published code does. The result is the same
        up to rounding.
    normalize: scale to unit gain at zero frequency.
    flip: turn the filter round.
    gain: overall gain of the two-dimensional filter.

    Returns a float32 tensor, [taps] or [height, width]. Raises ValueError for taps that are empty, not 1-D or 2-D, or
    that cannot be normalised because they sum to zero.
    """
    f = torch.as_tensor(1.0 if taps is None else taps, dtype=torch.float32)
    if f.ndim > 2 or f.numel() == 0:
        raise UserError(f"filter taps must be a non-empty number, list or table, not an array of shape {list(f.shape)}")
    if f.ndim == 0:
        f = f[None]
    if separable and f.ndim == 2:
        raise UserError("a two-dimensional filter cannot be marked separable: give the taps of one axis")
    if f.ndim == 1 and not (len(f) >= 8 if separable is None else separable):
        f = torch.outer(f, f)
    if normalize:
        total = f.sum()
        if total == 0:
            raise UserError("filter taps sum to zero and cannot be normalised: pass normalize=False")
        f = f / total
    if flip:
        f = f.flip(list(range(f.ndim)))
    return (f * gain ** (f.ndim / 2)).to(device)


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
    f: float filter from `setup_filter`, [taps] (separable) or [fh, fw]; None is the identity.
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
    if torch.compiler.is_compiling() or not type(up) is type(down) is int:  # symbolic sizes, lists
        y_axis, x_axis, padding = _geometry(h, w, up, down, _padding(padding), taps[0], taps[-1])
    else:
        y_axis, x_axis, padding = _known_geometry(h, w, up, down, padding, taps[0], taps[-1])
    if use_native(x):
        f = f if f.dtype in (torch.float32, torch.float64) else f.float()
        factors = x_axis.up, y_axis.up, x_axis.down, y_axis.down
        return _native(x, f, (*factors, x_axis.pad, y_axis.pad, y_axis.out, x_axis.out, flip_filter, gain))
    if path() == "reference" and 0 not in x.shape[:2]:
        return reference.upfirdn2d(x, f, (x_axis.up, y_axis.up), (x_axis.down, y_axis.down), padding, flip_filter, gain)
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
    px0, px1, py0, py1 = padding
    for name, size, u, p0, p1, k in (("wide", w, up_x, px0, px1, fw), ("high", h, up_y, py0, py1, fh)):
        if size < 1 or size * u + p0 + p1 < k:
            raise UserError(f"the padded image is {size * u + p0 + p1} samples {name}, less than the filter's {k}")
    y_axis = Axis(h, up_y, down_y, py0, (h * up_y + py0 + py1 - fh) // down_y + 1)
    x_axis = Axis(w, up_x, down_x, px0, (w * up_x + px0 + px1 - fw) // down_x + 1)
    return y_axis, x_axis, padding


@lru_cache(maxsize=1024)
def _cached_geometry(h: int, w: int, up, down, padding, fh: int, fw: int):
    return _geometry(h, w, up, down, _padding(padding), fh, fw)


def _known_geometry(h: int, w: int, up, down, padding, fh: int, fw: int):
    """`_geometry`, remembered: small images would otherwise take longer to check than to filter."""
    return _cached_geometry(h, w, up, down, padding if type(padding) is int else tuple(padding), fh, fw)


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
def _(x, f, up_x, up_y, down_x, down_y, pad_x0, pad_y0, out_h, out_w, flip, gain):
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


def filter2d(
    x: Tensor, f: Tensor | None, *, padding: int | Sequence[int] = 0, flip_filter: bool = False, gain: float = 1.0
) -> Tensor:
    """Filter an image and keep its size (for zero `padding`, which is added to that); arguments as in `upfirdn2d`."""
    return _centred(x, f, 1, 1, padding, flip_filter, gain)


def upsample2d(
    x: Tensor,
    f: Tensor | None,
    *,
    up: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Enlarge an image by an integer factor, its brightness kept; arguments as in `upfirdn2d`.

    The result is [N, C, H * up, W * up], plus `padding`, which counts output samples.
    """
    up_x, up_y = _pair(up, "up")
    return _centred(x, f, (up_x, up_y), 1, padding, flip_filter, gain * up_x * up_y)


def downsample2d(
    x: Tensor,
    f: Tensor | None,
    *,
    down: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Shrink an image by an integer factor; arguments as in `upfirdn2d`.

    The result is [N, C, H // down, W // down]; `padding` counts input samples.
    """
    return _centred(x, f, 1, _pair(down, "down"), padding, flip_filter, gain)


def _centred(x, f, up, down, padding, flip_filter, gain) -> Tensor:
    """`upfirdn2d` with the padding that keeps the image's centre in place."""
    up_x, up_y = _pair(up, "up")
    down_x, down_y = _pair(down, "down")
    px0, px1, py0, py1 = _padding(padding)
    fh, fw = (1, 1) if f is None else (f.shape[0], f.shape[-1])
    # The filter uses up taps - 1 samples. When enlarging, up - 1 zeros follow the last sample, so the start needs as
    # many more than the end; when shrinking, the last stride needs down - 1 fewer. An odd one goes to the start.
    p = []
    for p0, p1, u, d, k in ((px0, px1, up_x, down_x, fw), (py0, py1, up_y, down_y, fh)):
        before = (k + u - 1) // 2 if d == 1 else (k - d + 1) // 2
        after = (k - u) // 2 if d == 1 else (k - d) // 2
        p += [p0 + before, p1 + after]
    return upfirdn2d(x, f, up=(up_x, up_y), down=(down_x, down_y), padding=p, flip_filter=flip_filter, gain=gain)
