"""Modulated convolution with weight demodulation (StyleGAN2, Karras et al. 2020, section 2.2, equations 1 to 3)."""

import torch

from .conv2d_resample import conv2d_resample
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
    x, w, s, *, noise=None, up=1, padding=1, f=None, demodulate=True, flip_weight=True, gain=1.0, fused=False
):
    """Convolve each sample with its own weights `w * s[n]`, normalised to unit output variance, and add noise.

    The weights are never modulated by default: scaling the input by `s` and the output by the demodulation
    coefficient is the same sum (equation 1 is linear in the weight), keeps one plain convolution for the whole batch,
    and is about twice as fast as a grouped convolution on a CPU. With `fused` the weights are modulated per sample
    and the batch runs as groups of one convolution.

    Args:
        x: [N, I, H, W]. Its dtype is the one computed in.
        w: [O, I, kh, kw], usually float32 whatever `x` is; coefficients are computed in its dtype.
        s: styles [N, I], of the dtype of `w`.
        noise: added to the output, broadcastable to [N, O, H * up, W * up], or None.
        up: upsampling factor; `f` is its FIR filter.
        padding: int, as for `conv2d_resample`.
        demodulate: apply equation 3. In float16 the operands are normalised first (StyleGAN2-ADA appendix), without
            effect on the result.
        flip_weight: True correlates, False convolves.
        gain: factor on the convolution's result; the noise is added after it.
        fused: modulate the weights instead of the activations.

    Returns:
        [N, O, H * up, W * up] in the dtype of `x`.

    Raises:
        ValueError: when `s` is not one style per sample and input channel.
    """
    n, in_channels = int(x.shape[0]), int(w.shape[1])
    if tuple(s.shape) != (n, in_channels):
        raise ValueError(f"styles must have shape [{n}, {in_channels}] for this input and weight, got {list(s.shape)}")
    dtype = x.dtype
    if demodulate and dtype == torch.float16:
        w, s = _prenormalise(w, s)
    if noise is not None:
        noise = noise.to(dtype)
    resample = {"up": up, "padding": padding, "flip_weight": flip_weight}

    if fused:
        w = modulated_weights(w, s, demodulate, gain)
        y = x.reshape(1, n * in_channels, *x.shape[2:])
        y = conv2d_resample(y, w.flatten(0, 1), f, groups=n, **resample)
        y = y.reshape(n, w.shape[1], *y.shape[2:])
        return y if noise is None else y + noise

    if demodulate:
        d = demodulation(w, s) * gain
    else:
        d, s = None, s * gain
    y = conv2d_resample(x * s.to(dtype).reshape(n, in_channels, 1, 1), w, f, **resample)
    if d is None:
        return y if noise is None else y + noise
    y = y * d.to(dtype).reshape(n, -1, 1, 1)
    return y if noise is None else y.add_(noise)  # in place is half the memory traffic; nothing keeps y for a gradient
