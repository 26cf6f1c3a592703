"""Short FIR filters over many channels as depthwise convolutions: what the layers of StyleGAN2 spend on resampling.

With a filter g (already turned round for a true convolution), along each axis

    y[o] = sum_i x[i] * g[i * up - o * down + pad],      0 <= i < size, 0 <= o < out.

The gradient with respect to x has the same form with `up` and `down` exchanged, g reversed and `pad` replaced by taps
- 1 - pad. So the one autograd function below is its own derivative of every order, and only ever runs *forward*
convolutions: on a CPU the backward kernels of depthwise bfloat16 convolutions are up to 60 times slower than the
forward ones. Channels-last images stay channels-last.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F


class Axis(NamedTuple):
    """Geometry along one axis, in samples."""

    size: int
    up: int
    down: int
    pad: int
    out: int

    def adjoint(self, taps: int) -> "Axis":
        return Axis(self.out, self.down, self.up, taps - 1 - self.pad, self.size)

    def phase(self, r: int) -> tuple[int, "Axis"]:
        """Outputs r, r + up, r + 2 up, …: the first tap they use (then each `up`-th), and their geometry without
        upsampling."""
        first = -((self.pad - r) // self.up)  # ceil((r - pad) / up), the first input sample of output r
        out = len(range(r, self.out, self.up))
        return first * self.up - (r - self.pad), Axis(self.size, 1, 1, -first, out)


def _correlate(x, g, y_axis: Axis, x_axis: Axis):
    """The sum above for `up` 1: one depthwise convolution of the padded image."""
    c, (gh, gw) = x.shape[1], g.shape
    y0, y1 = y_axis.pad, (y_axis.out - 1) * y_axis.down + gh - y_axis.size - y_axis.pad
    x0, x1 = x_axis.pad, (x_axis.out - 1) * x_axis.down + gw - x_axis.size - x_axis.pad
    padding = (y0, x0)
    if y0 != y1 or x0 != x1 or min(padding) < 0:
        x, padding = F.pad(x, (x0, x1, y0, y1)), 0
    return F.conv2d(x, g.expand(c, 1, gh, gw), stride=(y_axis.down, x_axis.down), padding=padding, groups=c)


def _apply(x, g, y_axis: Axis, x_axis: Axis):
    g = g.to(x.dtype)
    if y_axis.up == x_axis.up == 1:
        return _correlate(x, g, y_axis, x_axis)
    channels_last = x.is_contiguous(memory_format=torch.channels_last)
    y = torch.empty(
        (*x.shape[:2], y_axis.out, x_axis.out),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last if channels_last else torch.contiguous_format,
    )
    for r in range(y_axis.up):
        for s in range(x_axis.up):
            row, y_phase = y_axis.phase(r)
            column, x_phase = x_axis.phase(s)
            y[:, :, r :: y_axis.up, s :: x_axis.up] = _correlate(
                x, g[row :: y_axis.up, column :: x_axis.up], y_phase, x_phase
            )
    return y


class _Fir(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, g, y_axis, x_axis):
        ctx.save_for_backward(g)
        ctx.axes = y_axis, x_axis
        return _apply(x, g, y_axis, x_axis)

    @staticmethod
    def backward(ctx, gy):
        (g,) = ctx.saved_tensors
        y_axis, x_axis = (axis.adjoint(taps) for axis, taps in zip(ctx.axes, g.shape, strict=True))
        return _Fir.apply(gy, g.flip([0, 1]), y_axis, x_axis), None, None, None


def suits(x, f, up: int, down: int) -> bool:
    """Whether `depthwise_fir` can and should do this: a small 2-D filter with a tap for each phase, in one direction,
    on feature maps."""
    return (
        f is not None
        and f.ndim == 2
        and up <= min(f.shape)
        and max(f.shape) <= 6
        and 1 in (up, down)
        and x.shape[1] >= 8
    )


def depthwise_fir(x, f, *, up: int = 1, down: int = 1, padding=(0, 0, 0, 0), gain: float = 1.0):
    """`upfirdn2d` (true convolution) for the cases `suits` names.

    Args:
        x: [N, C, H, W], any float dtype and memory format.
        f: filter [fh, fw], a constant.
        up, down: integer factors, one of them 1.
        padding: (x0, x1, y0, y1) of the upsampled image; negative crops.
        gain: factor on the result.

    Returns:
        [N, C, (H * up + y0 + y1 - fh) // down + 1, ...] in the dtype and memory format of `x`; differentiable in `x`
        to any order.
    """
    x0, x1, y0, y1 = padding
    (fh, fw), (height, width) = f.shape, x.shape[2:]
    y_axis = Axis(height, up, down, y0, (height * up + y0 + y1 - fh) // down + 1)
    x_axis = Axis(width, up, down, x0, (width * up + x0 + x1 - fw) // down + 1)
    return _Fir.apply(x, f.detach().flip([0, 1]) * gain, y_axis, x_axis)
