"""2-D convolution joined with FIR up- or downsampling (StyleGAN2, Karras et al. 2020, section 4 and appendix B)."""

import torch.nn.functional as F

from common.errors import UserError

from .convolution import Geometry, convolve
from .upfirdn2d import upfirdn2d


def _pad4(padding) -> tuple[int, int, int, int]:
    """`int | (x, y) | (x0, x1, y0, y1)` -> `(x0, x1, y0, y1)`."""
    if isinstance(padding, int):
        return (padding,) * 4
    if len(padding) == 2:
        px, py = padding
        return px, px, py, py
    if len(padding) != 4:
        raise UserError(f"padding must be an int, (x, y) or (x0, x1, y0, y1), got {padding!r}")
    return tuple(padding)


def _convolve(x, w, *, stride=1, pad=(0, 0, 0, 0), groups=1, flip_weight=True, transpose=False, gain=1.0):
    """`conv2d` or `conv_transpose2d` with any padding (negative crops); `w` is [O, I / groups, kh, kw]."""
    # conv2d correlates, conv_transpose2d convolves
    flip = flip_weight == transpose and w.shape[2] * w.shape[3] > 1
    x0, x1, y0, y1 = pad
    if not transpose and (x0 != x1 or y0 != y1 or x0 < 0 or y0 < 0):
        x, x0, y0 = F.pad(x, pad), 0, 0
    if groups == 1:
        return convolve(x, w, Geometry(stride, (y0, x0), transpose, flip, gain))
    w = (w * gain if gain != 1 else w).to(x.dtype)
    if flip:
        w = w.flip([2, 3])
    if not transpose:
        return F.conv2d(x, w, stride=stride, padding=(y0, x0), groups=groups)
    o, i, kh, kw = w.shape
    w = w.reshape(groups, o // groups, i, kh, kw).transpose(1, 2).reshape(groups * i, o // groups, kh, kw)
    return F.conv_transpose2d(x, w, stride=stride, padding=(y0, x0), groups=groups)


def conv2d_resample(x, w, f=None, *, up=1, down=1, padding=0, groups=1, flip_weight=True, gain=1.0):
    """Upsample, convolve, downsample, in the cheapest of the mathematically equal orders.

    Equal to: insert `up - 1` zeros after each pixel, pad, filter with `f` (gain `up ** 2`) when upsampling, convolve
    with `w`, filter with `f` when downsampling, keep each `down`-th pixel. All zeros are padded at the start:
    `padding`, and what keeps the filters centred, so that a 3x3 kernel with `padding=1` maps H to `H * up / down`. No
    zeros are inserted here: `up` becomes a strided transposed convolution followed by the FIR at the high resolution,
    `down` the FIR followed by a strided convolution, and a 1x1 kernel is applied at whichever resolution is lower.

    Args:
        x: [N, C, H, W], any float dtype and memory format.
        w: [O, C / groups, kh, kw], of the dtype of `x` or a wider one.
        f: FIR taps from `setup_filter`, or None for no low-pass filter.
        up, down: integer factors >= 1.
        padding: of the convolution, in pixels of the upsampled image; int, (x, y) or (x0, x1, y0, y1).
        groups: as in `torch.nn.functional.conv2d`.
        flip_weight: True correlates (`conv2d`'s convention), False convolves.
        gain: factor on the weights.

    Returns:
        [N, O, H', W'] in the dtype of `x`, differentiable as often as PyTorch's convolutions are.

    Raises:
        ValueError: for factors below 1 or a padding of a wrong form.
    """
    if up < 1 or down < 1:
        raise UserError(f"up and down must be integers >= 1, got up={up}, down={down}")
    px0, px1, py0, py1 = _pad4(padding)
    kh, kw = int(w.shape[2]), int(w.shape[3])
    fw, fh = (1, 1) if f is None else (int(f.shape[-1]), int(f.shape[0]))

    # Padding that keeps the FIR centred on the pixel grid of the upsampled (or not yet decimated) image.
    if up > 1:
        px0, px1 = px0 + (fw + up - 1) // 2, px1 + (fw - up) // 2
        py0, py1 = py0 + (fh + up - 1) // 2, py1 + (fh - up) // 2
    if down > 1:
        px0, px1 = px0 + (fw - down + 1) // 2, px1 + (fw - down) // 2
        py0, py1 = py0 + (fh - down + 1) // 2, py1 + (fh - down) // 2
    pad = (px0, px1, py0, py1)
    conv = {"groups": groups, "flip_weight": flip_weight, "gain": gain}

    if up == 1 and down == 1:
        return _convolve(x, w, pad=pad, **conv)
    if kh == kw == 1 and up == 1:  # decimate first: the 1x1 convolution then sees 1 / down^2 of the pixels
        return _convolve(upfirdn2d(x, f, down=down, padding=pad), w, **conv)
    if kh == kw == 1 and down == 1:
        return upfirdn2d(_convolve(x, w, **conv), f, up=up, padding=pad, gain=float(up * up))
    if up == 1:
        return _convolve(upfirdn2d(x, f, padding=pad), w, stride=down, **conv)

    # The full (unpadded) transposed convolution reaches kw - 1 pixels further to the left and kw - up to the right.
    px0, px1, py0, py1 = px0 - (kw - 1), px1 - (kw - up), py0 - (kh - 1), py1 - (kh - up)
    crop_x, crop_y = max(min(-px0, -px1), 0), max(min(-py0, -py1), 0)
    y = _convolve(x, w, stride=up, pad=(crop_x, crop_x, crop_y, crop_y), transpose=True, **conv)
    pad = (px0 + crop_x, px1 + crop_x, py0 + crop_y, py1 + crop_y)
    y = upfirdn2d(y, f, padding=pad, gain=float(up * up))
    return y if down == 1 else upfirdn2d(y, f, down=down)
