"""2-D convolution joined with FIR up- or downsampling (StyleGAN2, Karras et al. 2020, section 4 and appendix B).

Where the samples lie, along one axis, in pixels of the image at its highest resolution. A pixel is an interval, so when
an image is enlarged u times, the centre of pixel i goes to u i + (u - 1) / 2; inserting u - 1 zeros behind each pixel
puts its value at u i, that is (u - 1) / 2 too early. When an image is shrunk d times, pixel o covers d pixels and its
centre is at d o + (d - 1) / 2, which is d o + (d - u) / 2 counted on that early grid.

Output o of a filter of n taps that starts m samples before the image, moving d samples at a time, has its middle at
d o - m + (n - 1) / 2. The two agree for

    m = (n - 1) / 2 + (u - d) / 2       samples before the image.

From S samples with m before and m' behind them come floor((S + m + m' - n) / d) + 1. That is S / d for

    m + m' = n - d                      samples in all.

Both are `margins`, the half sample, where there is one, going before the image. A convolution kernel is a filter with
u = d = 1. Filters one after the other may be given all their samples at the start: margins add up.
"""

import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError

from .convolution import Geometry, convolve
from .upfirdn2d import margins, upfirdn2d


def conv2d_resample(
    x: Tensor,
    w: Tensor,
    f: Tensor | None = None,
    *,
    up: int = 1,
    down: int = 1,
    groups: int = 1,
    flip_weight: bool = True,
    gain: float = 1.0,
) -> Tensor:
    """Enlarge `up` times, convolve, shrink `down` times; the size is H * up / down exactly.

    The definition: insert zeros; surround by as many as all filters need; filter with `f`, times `up ** 2`, if
    enlarging; convolve with `w`; filter with `f` if shrinking, and keep each `down`-th pixel. Linear filters may change
    places, which saves most of the arithmetic:

    - a 1x1 kernel sees one pixel at a time, so it is applied at the lower resolution: a quarter of the work for 2;
    - zeros are not multiplied: inserting them and convolving is a strided transposed convolution, the FIR behind it;
    - pixels are not computed to be dropped: the FIR first, then a strided convolution.

    Args:
        x: [N, C, H, W], any float dtype and memory format.
        w: [O, C / groups, kh, kw] of odd kh and kw, of the dtype of `x` or a wider one.
        f: FIR taps from `fir_taps`, or None for no low-pass filter.
        up, down: integer factors >= 1.
        groups: as in `torch.nn.functional.conv2d`.
        flip_weight: True correlates (`conv2d`'s convention), False convolves.
        gain: factor on the weights.

    Returns [N, O, H * up / down, W * up / down] in the dtype of `x`, differentiable as often as PyTorch's convolutions
    are. Raises ValueError for factors below 1 and kernels of an even size.
    """
    if up < 1 or down < 1:
        raise UserError(f"up and down must be integers >= 1, got up={up}, down={down}")
    kernel = int(w.shape[3]), int(w.shape[2])  # along x and y, as all pairs here
    if kernel[0] % 2 == 0 or kernel[1] % 2 == 0:
        raise UserError(f"kernels must be of odd size to have a middle, got {kernel[1]}x{kernel[0]}")
    one_pixel = kernel == (1, 1)
    plain = Geometry(flip=not flip_weight and not one_pixel, gain=gain)
    if up == down == 1:
        return _convolve(x, w, plain._replace(padding=(kernel[1] // 2, kernel[0] // 2)), groups)
    around = []  # samples before and behind, along x and then y
    for n, k in zip((1, 1) if f is None else (int(f.shape[-1]), int(f.shape[0])), kernel):
        needed = [margins(k), *([margins(n, up=up)] if up > 1 else []), *([margins(n, down=down)] if down > 1 else [])]
        # A transposed convolution reaches as far as its kernel meets a pixel: k - 1 samples before the first one, and
        # behind the last k - 1 less the u - 1 zeros that would follow it. The rest, or what is too much, is the FIR's.
        done = (k - 1, k - up) if up > 1 and not (one_pixel and down == 1) else (0, 0)
        around += [sum(side) - reached for side, reached in zip(zip(*needed), done)]
    amplify = float(up * up)  # inserted zeros take that much of the brightness
    if up == 1:
        if one_pixel:
            return _convolve(upfirdn2d(x, f, down=down, padding=around), w, plain, groups)
        return _convolve(upfirdn2d(x, f, padding=around), w, plain._replace(stride=down), groups)
    if one_pixel and down == 1:
        return upfirdn2d(_convolve(x, w, plain, groups), f, up=up, padding=around, gain=amplify)
    turned = plain._replace(stride=up, transposed=True, flip=flip_weight and not one_pixel)  # it convolves by itself
    y = upfirdn2d(_convolve(x, w, turned, groups), f, padding=around, gain=amplify)
    return y if down == 1 else upfirdn2d(y, f, down=down)


def _convolve(x: Tensor, w: Tensor, geometry: Geometry, groups: int) -> Tensor:
    """`convolve` for any number of groups; `w` is [O, I / groups, kh, kw]."""
    if groups == 1:
        return convolve(x, w, geometry)
    w = (w * geometry.gain if geometry.gain != 1 else w).to(x.dtype)
    if geometry.flip:
        w = w.flip([2, 3])
    if not geometry.transposed:
        return F.conv2d(x, w, stride=geometry.stride, padding=geometry.padding, groups=groups)
    w = w.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)  # [I, O / groups, kh, kw]
    return F.conv_transpose2d(x, w, stride=geometry.stride, groups=groups)
