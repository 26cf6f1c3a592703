"""Modulated convolution with weight demodulation (StyleGAN2, Karras et al. 2020, section 2.2, equations 1 to 3)."""

from typing import NamedTuple

import torch
from torch import Tensor

from common.errors import UserError

from .conv2d_resample import conv2d_resample
from .dense import dense
from .kernel_sums import with_kernel_squares
from .modconv_epilogue import modconv_epilogue, scale_channels
from .reference import modulated_weights


def demodulation(squares: Tensor, s: Tensor) -> Tensor:
    """Equation 3: `1 / sqrt(sum over i, k of (w[o, i, k] * s[n, i])^2 + 1e-8)` as [N, O].

    squares: [O, I], the sum over each kernel of w's squares. It does not depend on the style, so this is one matrix
    product and the [N, O, I, kh, kw] weights never exist.
    """
    return (dense(s.square(), squares) + 1e-8).rsqrt()


def _prenormalise(w: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Bound each output channel's weights by 1 / sqrt(fan-in) and each sample's styles by 1, so that float16 sums of
    products can't overflow; demodulation undoes it."""
    fan_in = w[0].numel()
    w = w * (fan_in**-0.5 / w.abs().amax(dim=[1, 2, 3], keepdim=True).clamp_min(1e-8))
    return w, s / s.abs().amax(dim=1, keepdim=True).clamp_min(1e-8)


class LayerEnd(NamedTuple):
    """What follows the convolution in a layer: `clamp(gain * act(y + noise + bias))`; see `modconv_epilogue`.

    noise: [H, W] or [N or 1, 1, H, W] of the result, or None. bias: [O] or None. gain: 1 whatever the activation.
    """

    noise: Tensor | None = None
    bias: Tensor | None = None
    act: str = "linear"
    gain: float = 1.0
    clamp: float | None = None


_BARE = LayerEnd()


def modulated_conv2d(
    x: Tensor,
    w: Tensor,
    s: Tensor,
    f: Tensor | None = None,
    *,
    up: int = 1,
    flip_weight: bool = True,
    fused: bool = False,
    end: LayerEnd = _BARE,
) -> Tensor:
    """Convolve each sample with its own weights `w * s[n]`, normalised to unit output variance; then the layer's end.

    The weights are never modulated by default: scaling the input by `s` and the output by the demodulation
    coefficient is the same sum (equation 1 is linear in the weight), keeps one plain convolution for the whole batch,
    and is about twice as fast as a grouped convolution on a CPU. With `fused` the weights are modulated per sample
    and the batch runs as groups of one convolution. In float16 the operands are normalised first (StyleGAN2-ADA
    appendix), without effect on the result.

    Args:
        x: [N, I, H, W]. Its dtype is the one computed in.
        w: [O, I, kh, kw], usually float32 whatever `x` is; coefficients are computed in its dtype.
        s: styles [N, I], of the dtype of `w`.
        f: FIR filter of upsampling; up: its factor.
        flip_weight: True correlates, False convolves.
        fused: modulate the weights instead of the activations.
        end: noise, bias, activation, gain and clamp.

    Returns:
        [N, O, H * up, W * up] in the dtype of `x`.

    Raises:
        ValueError: when `s` is not one style per sample and input channel, or noise or bias don't fit.
    """
    n, in_channels = x.shape[0], w.shape[1]  # plain numbers, or a symbol where an export leaves the batch open
    if tuple(s.shape) != (n, in_channels):
        raise UserError(f"styles must have shape [{n}, {in_channels}] for this input and weight, got {list(s.shape)}")
    if x.dtype == torch.float16:
        w, s = _prenormalise(w, s)
    if fused:
        y = x.reshape(1, n * in_channels, *x.shape[2:])
        y = conv2d_resample(y, modulated_weights(w, s).flatten(0, 1), f, up=up, groups=n, flip_weight=flip_weight)
        y, d = y.reshape(n, int(w.shape[0]), *y.shape[2:]), None
    else:
        w, squares = with_kernel_squares(w)
        y = conv2d_resample(scale_channels(x, s), w, f, up=up, flip_weight=flip_weight)
        d = demodulation(squares, s)
    noise = end.noise[None, None] if end.noise is not None and end.noise.ndim == 2 else end.noise
    return modconv_epilogue(y, d, noise, end.bias, act=end.act, gain=end.gain, clamp=end.clamp)
