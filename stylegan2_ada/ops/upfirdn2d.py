"""Pad, upsample, FIR-filter and downsample images: the resampling operator of StyleGAN2 (Karras et al. 2020).

Along each axis the operator is

    y[o] = gain * sum_j g[j] * u[o * down + j - pad0],      u[i * up] = x[i], all other samples of u zero,

with g the filter turned round for a true convolution (`flip_filter=False`) or as it is for a correlation
(`flip_filter=True`). u is never made, and its zeros are not multiplied.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .fir_kernels import Axis, resample


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
        raise ValueError(
            f"filter taps must be a non-empty number, list or table, not an array of shape {list(f.shape)}"
        )
    if f.ndim == 0:
        f = f[None]
    if separable and f.ndim == 2:
        raise ValueError("a two-dimensional filter cannot be marked separable: give the taps of one axis")
    if f.ndim == 1 and not (len(f) >= 8 if separable is None else separable):
        f = torch.outer(f, f)
    if normalize:
        total = f.sum()
        if total == 0:
            raise ValueError("filter taps sum to zero and cannot be normalised: pass normalize=False")
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
    up_x, up_y = _pair(up, "up")
    down_x, down_y = _pair(down, "down")
    px0, px1, py0, py1 = _padding(padding)
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"images must be a floating [N, C, H, W] tensor, not {x.dtype} of shape {list(x.shape)}")
    if f is None:
        f = torch.ones(1, device=x.device)
    if f.ndim not in (1, 2):
        raise ValueError(f"a filter has one or two axes, not {f.ndim}")
    fh, fw = f.shape[0], f.shape[-1]
    for name, size, u, p0, p1, k in (
        ("wide", x.shape[3], up_x, px0, px1, fw),
        ("high", x.shape[2], up_y, py0, py1, fh),
    ):
        if size < 1 or size * u + p0 + p1 < k:
            raise ValueError(f"the padded image is {size * u + p0 + p1} samples {name}, less than the filter's {k}")
    y_axis = Axis(x.shape[2], up_y, down_y, py0, (x.shape[2] * up_y + py0 + py1 - fh) // down_y + 1)
    x_axis = Axis(x.shape[3], up_x, down_x, px0, (x.shape[3] * up_x + px0 + px1 - fw) // down_x + 1)
    f = f.detach()
    if not flip_filter:
        f = f.flip(list(range(f.ndim)))
    if gain != 1:  # a separable filter meets the image twice, which is all right for its size but not for its sign
        f = f.to(torch.promote_types(f.dtype, x.dtype)) * abs(gain) ** (f.ndim / 2)
    y = _Resample.apply(x, f, y_axis, x_axis)
    return y if gain >= 0 else -y


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
        raise ValueError(f"{name} must be a factor of at least 1, or a pair (x, y) of them, not {value!r}")
    return pair


def _padding(value: int | Sequence[int]) -> tuple[int, int, int, int]:
    p = (value,) * 4 if isinstance(value, int) else tuple(int(v) for v in value)
    if len(p) == 2:
        p = (p[0], p[0], p[1], p[1])
    if len(p) != 4:
        raise ValueError(f"padding must be a number, (x, y) or (x0, x1, y0, y1), not {value!r}")
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
