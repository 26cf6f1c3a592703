"""What the operators mean: plain PyTorch, written to be read. Slow, right, and differentiable as often as PyTorch is.

The quick paths are held to these by the tests; `STYLEGAN_OPS=reference` runs the whole project on them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def upfirdn2d(
    x: Tensor,
    f: Tensor,
    up: tuple[int, int],
    down: tuple[int, int],
    padding: tuple[int, int, int, int],
    flip_filter: bool,
    gain: float,
) -> Tensor:
    """Insert zeros, pad or crop, filter, keep every `down`-th sample (StyleGAN2, Karras et al. 2020, appendix B).

    x: [N, C, H, W]; f: [taps], applied along both axes, or [fh, fw]; up, down: (x, y); padding: (x0, x1, y0, y1) of the
    upsampled image, negative crops; flip_filter: False convolves, True correlates.
    """
    n, c, h, w = x.shape
    x = x.reshape(n, c, h, 1, w, 1)
    x = F.pad(x, (0, up[0] - 1, 0, 0, 0, up[1] - 1))  # up - 1 zeros after every sample
    x = x.reshape(n, c, h * up[1], w * up[0])
    x = F.pad(x, padding)
    if f.ndim == 1:
        f = torch.outer(f, f)
    if not flip_filter:
        f = f.flip([0, 1])  # conv2d correlates
    f = (f * gain).to(x.dtype)
    return F.conv2d(x, f.expand(c, 1, *f.shape), stride=(down[1], down[0]), groups=c)


ACTIVATIONS = {
    "linear": lambda x, alpha: x,
    "relu": lambda x, alpha: F.relu(x),
    "lrelu": lambda x, alpha: F.leaky_relu(x, alpha),
    "tanh": lambda x, alpha: torch.tanh(x),
    "sigmoid": lambda x, alpha: torch.sigmoid(x),
    "elu": lambda x, alpha: F.elu(x),
    "selu": lambda x, alpha: F.selu(x),
    "softplus": lambda x, alpha: F.softplus(x),
    "swish": lambda x, alpha: torch.sigmoid(x) * x,
}


def bias_act(x: Tensor, b: Tensor | None, dim: int, act: str, alpha: float, gain: float, clamp: float | None) -> Tensor:
    """`clamp(gain * act(x + b))`, the bias along `dim`, the result bounded by `clamp` on both sides."""
    if b is not None:
        x = x + b.to(x.dtype).reshape([-1 if d == dim % x.ndim else 1 for d in range(x.ndim)])
    x = ACTIVATIONS[act](x, alpha) * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


def modulated_weights(w: Tensor, s: Tensor) -> Tensor:
    """Each sample's own weights [N, O, I, kh, kw] from w [O, I, kh, kw] and styles s [N, I] (StyleGAN2, equations 1
    and 3)."""
    w = w.unsqueeze(0) * s[:, None, :, None, None]
    return w * (w.square().sum(dim=[2, 3, 4], keepdim=True) + 1e-8).rsqrt()


def modconv_epilogue(
    y: Tensor,
    d: Tensor | None,
    noise: Tensor | None,
    b: Tensor | None,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> Tensor:
    """`clamp(gain * act(y * d + noise + b))`: d [N, O], noise [N or 1, 1, H, W], b [O]; what follows a convolution."""
    if d is not None:
        y = y * d.to(y.dtype)[:, :, None, None]
    if noise is not None:
        y = y + noise.to(y.dtype)
    return bias_act(y, b, 1, act, alpha, gain, clamp)
