"""Wavelet filters of the ADA pipeline (Karras et al. 2020, "Training GANs with Limited Data", Appendix B).

The geometric part resamples with the 12-tap symlet sym6; the image-space filter splits the spectrum into four octaves
with a filter bank made of the 4-tap symlet sym2 (Daubechies, "Ten Lectures on Wavelets", Section 6.4). Both are tables
of numbers with a closed characterisation (orthonormal, K vanishing moments), which the tests check.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SYM2 = (-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025)
SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)

# Expected share of each band in the power of a natural image (1/f spectrum), lowest band first (Appendix B).
BAND_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)


def filter_bank() -> np.ndarray:
    """The four zero-phase band-pass filters, [4, 43] float64, lowest band first; they sum to a unit impulse.

    Band k of an octave decomposition of the zero-phase pair (lo * lo reversed, hi * hi reversed) / 2, which sums to one
    at every frequency: low-pass again and again, each time stretched by two, and keep what each step takes away.
    """
    lo = np.asarray(SYM2) / np.sqrt(2)
    hi = lo[::-1] * (-1.0) ** np.arange(len(lo))
    low, high = np.convolve(lo, lo[::-1]), np.convolve(hi, hi[::-1])

    def stretch(taps: np.ndarray, factor: int) -> np.ndarray:
        out = np.zeros((len(taps) - 1) * factor + 1)
        out[::factor] = taps
        return out

    # Finest octave first: band 3 is the half-band high-pass; what its low-pass leaves is split by the stretched pair.
    bands, rest = [], np.ones(1)
    for octave in range(len(BAND_POWER) - 1):
        factor = 2**octave
        bands.append(np.convolve(rest, stretch(high, factor)))
        rest = np.convolve(rest, stretch(low, factor))
    bands.append(rest)
    longest = len(rest)
    return np.stack([np.pad(b, (longest - len(b)) // 2) for b in reversed(bands)])


def reflect_pad(x: Tensor, left: int, right: int, top: int, bottom: int) -> Tensor:
    """Mirror [N, C, H, W] at its borders without repeating the border pixel, as often as the padding needs."""
    h, w = x.shape[2:]
    if max(left, right) < w and max(top, bottom) < h:
        return F.pad(x, (left, right, top, bottom), mode="reflect")

    def mirrored(size: int, before: int, after: int) -> Tensor:
        period = max(2 * size - 2, 1)
        i = torch.arange(-before, size + after, device=x.device) % period
        return torch.minimum(i, (period - i)) if size > 1 else i

    return x[:, :, mirrored(h, top, bottom)[:, None], mirrored(w, left, right)]


def filter_bands(x: Tensor, gains: Tensor, bank: Tensor) -> Tensor:
    """Amplify the bands of each image: [N, C, H, W] images, [N, 4] gains, [4, taps] bank. Borders are mirrored."""
    n, c, h, w = x.shape
    half = bank.shape[1] // 2
    taps = (gains.to(x, non_blocking=True) @ bank.to(x.dtype))[:, None, None].repeat_interleave(
        c, dim=0
    )  # [N * C, 1, 1, taps]
    x = reflect_pad(x, half, half, half, half).reshape(1, n * c, h + 2 * half, w + 2 * half)
    x = F.conv2d(x, taps, groups=n * c)
    x = F.conv2d(x, taps.transpose(2, 3), groups=n * c)
    return x.reshape(n, c, h, w)
