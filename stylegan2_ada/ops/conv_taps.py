"""Convolutions with stride 1 or 2 and their transposes, on CPUs with AVX512-BF16 or, much faster, AMX; of float32 those
with stride 2 also with AVX2 or AVX-512.

A convolution is a sum over the taps of its kernel of products [pixels, channels] x [channels, channels]. With a stride
the image is parted by the remainder of its coordinates (polyphase), the result of a transposed one likewise, so that no
inserted zero is multiplied and no pixel is computed to be dropped; native/csrc/conv_taps_plan.h has the equations.
Weights and their gradients are float32, as is every sum. Images are bfloat16, or float32: with AMX these are taken
as three bfloat16 each, which have all their bits, and six products of those; without it the parts of a convolution with
stride 2 go by minimal filtering, 81 multiplications for 144 (native/csrc/conv_strided_float.h; relative error 5e-7).
Without AMX so do those of bfloat16 images where measured faster: in fixed point (native/csrc/conv_fixed*; relative
error 0.0018 to 0.0021, of a direct one 0.0023; of weight gradients 0.0003 to 0.0013, of direct ones that of float32).

Schemas; `window` is (stride, zero padding along y, along x). The two are each other's derivatives:

conv_taps(x, w, gain, window, transposed, flip, by_input, size): gain * sum over i, a, b of
    x[n, i, s y + a - pad_y, s x + b - pad_x] w[o, i, a, b], of height and width `size`; `transposed`, its adjoint: what
    went to (y, x) comes from there. `flip` turns the kernel by 180 degrees; `by_input` sums over w's o, i comes out.
conv_taps_wgrad(large, small, gain, window, flip, by_large, kernel): gain * sum over n, y, x of
    large[n, i, s y + a - pad_y, s x + b - pad_x] small[n, o, y, x] as [O, I, *kernel], `by_large` [I, O, *kernel].
"""

from functools import cache

import torch
from torch import Tensor

from .native import use_native

torch.library.define(
    "stylegan2_ada::conv_taps",
    "(Tensor x, Tensor w, float gain, int[] window, bool transposed, bool flip, bool by_input, SymInt[] size)"
    " -> Tensor",
)
torch.library.define(
    "stylegan2_ada::conv_taps_wgrad",
    "(Tensor large, Tensor small, float gain, int[] window, bool flip, bool by_large, int[] kernel) -> Tensor",
)
torch.library.define("stylegan2_ada::conv_taps_supported", "() -> int")

_op = torch.ops.stylegan2_ada
_VECTORS, _TILES, _FLOAT = 1, 2, 4
_FEWEST_PIXELS = 256


@cache
def _supported() -> int:
    """Sum of 1: bfloat16 by AVX512-BF16; 2: everything by AMX; 4: float32 with stride 2 by AVX2 or AVX-512."""
    return _op.conv_taps_supported()


def has_tiles() -> bool:
    """Whether this process may use AMX."""
    return bool(_supported() & _TILES)


def applies(x: Tensor, w_shape: tuple[int, ...], stride: int, weight_gradient: bool = False) -> bool:
    """Whether the native kernels can convolve x with float32 weights [O, I, kh, kw], or find the gradient in these, and
    were measured faster."""
    if x.dtype not in (torch.bfloat16, torch.float32) or not x.is_cpu or not use_native(x):
        return False
    if tuple(w_shape[2:]) != (3, 3) or min(w_shape[:2]) < 32 or max(w_shape[:2]) < 64:
        return False
    level = _supported()
    if level & _TILES or stride != 2:
        return bool(level & _TILES)
    if x.dtype == torch.bfloat16:
        return bool(level & _VECTORS)
    # of small images the tiles of 4 x 4 are mostly border, and the weights' transforms are dear
    return bool(level & _FLOAT) and (weight_gradient or x.shape[2] * x.shape[3] >= _FEWEST_PIXELS)


@torch.library.register_fake("stylegan2_ada::conv_taps")
def _(x, w, gain, window, transposed, flip, by_input, size):
    shape = (x.shape[0], w.shape[1 if by_input else 0], *size)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


@torch.library.register_fake("stylegan2_ada::conv_taps_wgrad")
def _(large, small, gain, window, flip, by_large, kernel):
    channels = (large.shape[1], small.shape[1]) if by_large else (small.shape[1], large.shape[1])
    return large.new_empty((*channels, *kernel), dtype=torch.float32)


def _save(ctx, inputs, output) -> None:
    x, w, *ctx.how, _ = inputs
    ctx.save_for_backward(x, w)


def _backward(ctx, gy):
    x, w = ctx.saved_tensors
    gain, window, transposed, flip, by_input = ctx.how
    gx = gw = None
    if ctx.needs_input_grad[0]:
        gx = _op.conv_taps(gy, w, gain, window, not transposed, flip, not by_input, x.shape[2:])
    if ctx.needs_input_grad[1]:
        large, small = (gy, x) if transposed else (x, gy)
        gw = _op.conv_taps_wgrad(large, small, gain, window, flip, transposed != by_input, w.shape[2:])
    return gx, gw, None, None, None, None, None, None


def _save_wgrad(ctx, inputs, output) -> None:
    large, small, *ctx.how, _ = inputs
    ctx.save_for_backward(large, small)


def _backward_wgrad(ctx, ggw):
    large, small = ctx.saved_tensors
    gain, window, flip, by_large = ctx.how
    to_large = to_small = None
    if ctx.needs_input_grad[0]:
        to_large = _op.conv_taps(small, ggw, gain, window, True, flip, not by_large, large.shape[2:])
    if ctx.needs_input_grad[1]:
        to_small = _op.conv_taps(large, ggw, gain, window, False, flip, by_large, small.shape[2:])
    return to_large, to_small, None, None, None, None, None


torch.library.register_autograd("stylegan2_ada::conv_taps", _backward, setup_context=_save)
torch.library.register_autograd("stylegan2_ada::conv_taps_wgrad", _backward_wgrad, setup_context=_save_wgrad)
