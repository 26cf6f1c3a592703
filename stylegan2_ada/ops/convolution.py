"""Convolution of low-precision activations with full-precision weights, differentiable any number of times.

A network keeps its weights in float32 and convolves in bfloat16, with an equalised-rate gain on them (Progressive GAN,
Karras et al. 2018, section 4.1). Written out in PyTorch that is a multiplication, a cast, a change of layout and
perhaps a turn of the kernel before every convolution, and all of them again, backwards, in the gradient: a tenth of a
training step on a CPU. Here the weights are made ready by themselves, and the functions

    convolve(x, w)     y = x * w
    input_gradient     the transposed operator applied to gy
    weight_gradient    the correlation of x and gy

are each other's derivatives, so that the double backward passes of R1 and of the path length run on the same three.
"""

from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import conv3x3, conv_taps
from .bilinear import bilinear
from .native import path, straight


class Geometry(NamedTuple):
    """What, besides its operands, a convolution is: see `convolve`."""

    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    transposed: bool = False
    flip: bool = False
    gain: float = 1.0
    layout: torch.memory_format = torch.contiguous_format  # of all three tensors; `convolve` sets it


_conv3x3 = straight(torch.ops.stylegan2_ada.conv3x3.default)
_conv3x3_wgrad = straight(torch.ops.stylegan2_ada.conv3x3_wgrad.default)
_conv_taps = straight(torch.ops.stylegan2_ada.conv_taps.default)
_conv_taps_wgrad = straight(torch.ops.stylegan2_ada.conv_taps_wgrad.default)

_weights_wanted = True


@contextmanager
def input_gradients_only():
    """Inside, backward passes leave out the gradients with respect to convolution weights.

    For `torch.autograd.grad(..., create_graph=True)` with respect to images or latents: the first half of R1 and of the
    path length, whose weight gradients nobody wants and which a custom function cannot see to be unwanted. For all
    threads: the passes of a GPU run in their own.
    """
    global _weights_wanted
    before, _weights_wanted = _weights_wanted, False
    try:
        yield
    finally:
        _weights_wanted = before


def convolve(x: Tensor, w: Tensor, geometry: Geometry) -> Tensor:
    """`conv2d` or (`transposed`) `conv_transpose2d` of x with `w * gain` in the dtype of x.

    x: [N, I, H, W]; w: [O, I, kh, kw], of any float dtype; gradients with respect to it have its dtype.
    geometry: stride; zero padding (y, x); `transposed`: the output is `stride` times larger, and padding crops it;
        `flip` turns the kernel by 180 degrees; `gain` multiplies the weights.

    Returns [N, O, H', W'] in the dtype of x.
    """
    # The definition. A compiler fuses its casts by itself, and must not see what is kept.
    if path() == "reference" or torch.compiler.is_compiling():
        w = (w * geometry.gain if geometry.gain != 1 else w).to(x.dtype)
        w = w.flip([2, 3]) if geometry.flip else w
        if geometry.transposed:
            return F.conv_transpose2d(x, w.transpose(0, 1), stride=geometry.stride, padding=geometry.padding)
        return F.conv2d(x, w, stride=geometry.stride, padding=geometry.padding)
    # A gradient may come in any layout; left to itself, a double backward pass would go on in the one it began with.
    return _convolve(x, w, None, geometry._replace(layout=_layout(x)))


def is_native(x: Tensor, w: Tensor, geometry: Geometry) -> bool:
    """Whether native kernels convolve x [N, I, H, W] with w [O, I, kh, kw] here, and were measured faster."""
    return _by_taps(x, w, geometry) or _quick(x, w, geometry)


def _layout(x: Tensor) -> torch.memory_format:
    if x.device.type == "cpu" or (x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()):
        return torch.channels_last
    return torch.contiguous_format


def _by_taps(x: Tensor, w: Tensor, g: Geometry, weight_gradient: bool = False) -> bool:
    """Whether conv_taps does this convolution, and quicker than others."""
    fits = g.stride in (1, 2) and max(g.padding) < 3 and w.dtype == torch.float32 and w.is_cpu
    return fits and conv_taps.applies(x, tuple(w.shape), g.stride, weight_gradient)


def _window(g: Geometry) -> list[int]:
    return [g.stride, *g.padding]


def _size(x: Tensor, w: Tensor, g: Geometry) -> list[int]:
    """Height and width of the result."""
    sides = zip(x.shape[2:], w.shape[2:], g.padding)
    if g.transposed:
        return [(side - 1) * g.stride + kernel - 2 * pad for side, kernel, pad in sides]
    return [(side + 2 * pad - kernel) // g.stride + 1 for side, kernel, pad in sides]


def _quick(x: Tensor, w: Tensor, g: Geometry) -> bool:
    """Whether this is a convolution that conv3x3 does with fewer multiplications."""
    return g.stride == 1 and g.padding == (1, 1) and not g.transposed and not g.flip and conv3x3.applies(x, w)


def _forward(x: Tensor, w: Tensor, g: Geometry) -> Tensor:
    if _by_taps(x, w, g):
        size = _size(x, w, g)
        return _conv_taps(x, w, g.gain, _window(g), g.transposed, g.flip, False, size)
    x = x.contiguous(memory_format=g.layout)
    if _quick(x, w, g):
        return _conv3x3(x, w, g.gain, False)
    ready = prepared(w, x.dtype, g)
    return torch.ops.aten.convolution(x, ready, None, [g.stride] * 2, g.padding, [1, 1], g.transposed, [0, 0], 1)


def _input_gradient(gy: Tensor, w: Tensor, g: Geometry, x_shape: tuple[int, ...]) -> Tensor:
    if _by_taps(gy, w, g):
        turned = not g.transposed
        return _conv_taps(gy, w, g.gain, _window(g), turned, g.flip, True, x_shape[2:])
    if _quick(gy, w, g):
        gy = gy.contiguous(memory_format=g.layout)
        return _conv3x3(gy, w, g.gain, True)
    ready = prepared(w, gy.dtype, g)
    x = torch.empty(x_shape, dtype=gy.dtype, device=gy.device, memory_format=g.layout)  # only its shape is looked at
    return _backward(gy, x, ready, g, 0)


def _weight_gradient(x: Tensor, gy: Tensor, g: Geometry, w_shape: tuple[int, ...], w_dtype: torch.dtype) -> Tensor:
    w = torch.empty(w_shape, dtype=w_dtype, device=x.device)  # only its shape is looked at
    if _by_taps(x, w, g, weight_gradient=True):
        large, small = (gy, x) if g.transposed else (x, gy)
        kernel = w_shape[2:]
        return _conv_taps_wgrad(large, small, g.gain, _window(g), g.flip, g.transposed, kernel)
    if _quick(x, w, g):
        x, gy = x.contiguous(memory_format=g.layout), gy.contiguous(memory_format=g.layout)
        return _conv3x3_wgrad(x, gy, g.gain)
    shape = (w_shape[1], w_shape[0], *w_shape[2:]) if g.transposed else w_shape
    w = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=g.layout)
    gw = _backward(gy, x.contiguous(memory_format=g.layout), w, g, 1)
    if g.transposed:
        gw = gw.transpose(0, 1)
    if g.flip:
        gw = gw.flip([2, 3])
    gw = gw.to(w_dtype, memory_format=torch.contiguous_format)
    return gw.mul_(g.gain) if g.gain != 1 else gw


_convolve = bilinear(
    lambda x, w, b, g: _forward(x, w, g),
    lambda gy, w, g, like: _input_gradient(gy, w, g, like.shape),
    lambda x, gy, g, like: _weight_gradient(x, gy, g, like.shape, like.dtype),
    weights_wanted=lambda: _weights_wanted,
)


def _backward(gy, x, w, g: Geometry, which: int) -> Tensor:
    gy = gy.contiguous(memory_format=g.layout)
    mask = [which == 0, which == 1, False]
    return torch.ops.aten.convolution_backward(
        gy, x, w, None, [g.stride] * 2, g.padding, [1, 1], g.transposed, [0, 0], 1, mask
    )[which]


def prepared(w: Tensor, dtype: torch.dtype, g: Geometry) -> Tensor:
    """`w * gain`, turned and transposed as the geometry asks, in `dtype` and the geometry's layout."""
    w = w.detach()
    if g.gain != 1:
        w = w * g.gain
    if g.flip:
        w = w.flip([2, 3])
    if g.transposed:
        w = w.transpose(0, 1)
    return w.to(dtype=dtype, memory_format=g.layout)
