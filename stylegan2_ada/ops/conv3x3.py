"""3x3 convolution on CPUs with fewer multiplications than a direct one, as often differentiable as wanted.

Minimal filtering (Winograd; Lavin & Gray 2015, arXiv 1509.09308) for the convolution, its input gradient and its weight
gradient; the kernels are in native/csrc/conv3x3* and conv_fixed*. Images are channels-last, weights and their gradients
float32, as are all sums but those of fixed point, which are exact. Errors are relative RMS for normal data:

| images | filter | multiplications | error | error of a direct convolution | needs |
|---|---|---|---|---|---|
| bfloat16 | F(2x2, 3x3) | 16 for 36 | 0.0043 (0.0031 for smooth data) | 0.0024 | AVX512-BF16 |
| the same, 64 pixels or more | F(4x4, 3x3), int16 | 36 for 144 | 0.0020 to 0.0031 (512 channels) | 0.0024 | no AMX |
| float32 | F(4x4, 3x3) | 36 for 144 | 7e-7 | 4e-7 | AVX2 or AVX-512 |

Weight gradients of bfloat16 images have the same tiles: an error of 0.0039 with those of 2x2, of 0.0010 to 0.0030 with
those of 4x4, from 256 pixels on (csrc/conv_fixed_wgrad.h).

Schemas; both compute with stride 1 and zero padding 1, and are each other's derivatives:

conv3x3(x, w, gain, transposed): gain * sum over i, dy, dx of x[n, i, y + dy - 1, x + dx - 1] w[o, i, dy, dx];
    `transposed`, its adjoint: w's o is summed over, its i comes out, and the kernel is turned by 180 degrees.
conv3x3_wgrad(x, gy, gain): [O, I, 3, 3], gain * sum over n, y, x of x[n, i, y + dy - 1, x + dx - 1] gy[n, o, y, x].
conv3x3_supported(): 1 for bfloat16, 2 for float32, and 4 for bfloat16 in fixed point.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .native import use_native

torch.library.define("stylegan2_ada::conv3x3", "(Tensor x, Tensor w, float gain, bool transposed) -> Tensor")
torch.library.define("stylegan2_ada::conv3x3_wgrad", "(Tensor x, Tensor gy, float gain) -> Tensor")
torch.library.define("stylegan2_ada::conv3x3_supported", "() -> int")

_op = torch.ops.stylegan2_ada
_LEVELS = {torch.bfloat16: 1, torch.float32: 2}


def conv3x3(x: Tensor, w: Tensor, gain: float = 1.0) -> Tensor:
    """`conv2d(x, w * gain, padding=1)` in the dtype of x, as often differentiable as wanted.

    x: [N, I, H, W]; channels-last is fastest.
    w: [O, I, 3, 3] float32.

    Returns [N, O, H, W] in the dtype of x, channels-last where `applies`; derivatives with respect to w are float32.
    """
    if applies(x, w):
        return _op.conv3x3(x, w, gain, False)
    w = (w * gain if gain != 1 else w).to(dtype=x.dtype, memory_format=torch.channels_last)
    return F.conv2d(x, w, padding=1)


def applies(x: Tensor, w: Tensor) -> bool:
    """Whether the native kernels can do this convolution here, and were measured faster than PyTorch's."""
    return (
        x.dtype in _LEVELS
        and w.dtype == torch.float32
        and x.device.type == w.device.type == "cpu"
        and w.shape[2:] == (3, 3)
        and min(w.shape[:2]) >= 32  # the transforms cost more than they save where they serve few channels
        and use_native(x)
        and supports(x.dtype)
    )


@cache
def supports(dtype: torch.dtype) -> bool:
    """Whether there are native kernels for images of this dtype on this processor."""
    return bool(_op.conv3x3_supported() & _LEVELS[dtype])


@torch.library.register_fake("stylegan2_ada::conv3x3")
def _(x, w, gain, transposed):
    return _images(x, w.shape[1] if transposed else w.shape[0])


@torch.library.register_fake("stylegan2_ada::conv3x3_wgrad")
def _(x, gy, gain):
    return x.new_empty((gy.shape[1], x.shape[1], 3, 3), dtype=torch.float32)


def _images(x, channels):
    shape = (x.shape[0], channels, x.shape[2], x.shape[3])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _save(ctx, inputs, output) -> None:
    x, w, ctx.gain, ctx.transposed = inputs
    ctx.save_for_backward(x, w)


def _backward(ctx, gy):
    x, w = ctx.saved_tensors
    gx = gw = None
    if ctx.needs_input_grad[0]:
        gx = _op.conv3x3(gy, w, ctx.gain, not ctx.transposed)
    if ctx.needs_input_grad[1]:
        gw = _op.conv3x3_wgrad(*((gy, x) if ctx.transposed else (x, gy)), ctx.gain)
    return gx, gw, None, None


def _save_wgrad(ctx, inputs, output) -> None:
    x, gy, ctx.gain = inputs
    ctx.save_for_backward(x, gy)


def _backward_wgrad(ctx, ggw):
    x, gy = ctx.saved_tensors
    gx = _op.conv3x3(gy, ggw, ctx.gain, True) if ctx.needs_input_grad[0] else None
    ggy = _op.conv3x3(x, ggw, ctx.gain, False) if ctx.needs_input_grad[1] else None
    return gx, ggy, None


torch.library.register_autograd("stylegan2_ada::conv3x3", _backward, setup_context=_save)
torch.library.register_autograd("stylegan2_ada::conv3x3_wgrad", _backward_wgrad, setup_context=_save_wgrad)
