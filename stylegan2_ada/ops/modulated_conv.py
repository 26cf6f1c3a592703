"""Modulated convolution with weight demodulation (StyleGAN2, Karras et al. 2020, section 2.2, equations 1 to 3)."""

import torch

from common.errors import UserError

from .conv2d_resample import conv2d_resample
from .modconv_epilogue import modconv_epilogue, scale_channels
from .reference import modulated_weights


def demodulation(w, s):
    """Equation 3: `1 / sqrt(sum over i, k of (w[o, i, k] * s[n, i])^2 + 1e-8)` as [N, O].

    The sum over the kernel does not depend on the style, so this is one matrix product and the [N, O, I, kh, kw]
    weights never exist.
    """
    return (s.square() @ w.square().sum(dim=[2, 3]).t() + 1e-8).rsqrt()


def _prenormalise(w, s):
    """Bound each output channel's weights by 1 / sqrt(fan-in) and each sample's styles by 1, so that float16 sums of
    products can't overflow; demodulation undoes it."""
    fan_in = w[0].numel()
    w = w * (fan_in**-0.5 / w.abs().amax(dim=[1, 2, 3], keepdim=True).clamp_min(1e-8))
    return w, s / s.abs().amax(dim=1, keepdim=True).clamp_min(1e-8)


def modulated_conv2d(
    x,
    w,
    s,
    *,
    noise=None,
    bias=None,
    up=1,
    padding=1,
    f=None,
    demodulate=True,
    flip_weight=True,
    act="linear",
    alpha=None,
    gain=1.0,
    clamp=None,
    fused=False,
):
    """Convolve each sample with its own weights `w * s[n]`, normalised to unit output variance; then the rest of the
    layer: `clamp(gain * act(y + noise + bias))`.

    The weights are never modulated by default: scaling the input by `s` and the output by the demodulation
    coefficient is the same sum (equation 1 is linear in the weight), keeps one plain convolution for the whole batch,
    and is about twice as fast as a grouped convolution on a CPU. With `fused` the weights are modulated per sample
    and the batch runs as groups of one convolution.

    Args:
        x: [N, I, H, W]. Its dtype is the one computed in.
        w: [O, I, kh, kw], usually float32 whatever `x` is; coefficients are computed in its dtype.
        s: styles [N, I], of the dtype of `w`.
        noise: [H * up, W * up] or [N or 1, 1, H * up, W * up], added to the convolution's result, or None.
        bias: [O] or None.
        up: upsampling factor; `f` is its FIR filter.
        padding: int, as for `conv2d_resample`.
        demodulate: apply equation 3. In float16 the operands are normalised first (StyleGAN2-ADA appendix), without
            effect on the result.
        flip_weight: True correlates, False convolves.
        act, alpha, clamp: as for `bias_act`. gain: 1 by default, whatever the activation.
        fused: modulate the weights instead of the activations.

    Returns:
        [N, O, H * up, W * up] in the dtype of `x`.

    Raises:
        ValueError: when `s` is not one style per sample and input channel, or noise or bias don't fit.
    """
    n, in_channels = x.shape[0], w.shape[1]  # plain numbers, or a symbol where an export leaves the batch open
    if tuple(s.shape) != (n, in_channels):
        raise UserError(f"styles must have shape [{n}, {in_channels}] for this input and weight, got {list(s.shape)}")
    if demodulate and x.dtype == torch.float16:
        w, s = _prenormalise(w, s)
    if noise is not None and noise.ndim == 2:
        noise = noise[None, None]
    resample = {"up": up, "padding": padding, "flip_weight": flip_weight}
    if fused:
        y = x.reshape(1, n * in_channels, *x.shape[2:])
        y = conv2d_resample(y, modulated_weights(w, s, demodulate).flatten(0, 1), f, groups=n, **resample)
        y, d = y.reshape(n, int(w.shape[0]), *y.shape[2:]), None
    else:
        y = conv2d_resample(scale_channels(x, s), w, f, **resample)
        d = demodulation(w, s) if demodulate else None
    return modconv_epilogue(y, d, noise, bias, act=act, alpha=alpha, gain=gain, clamp=clamp)
