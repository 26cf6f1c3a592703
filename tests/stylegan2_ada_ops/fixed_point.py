"""What the tests of convolutions in fixed point share: where they run, numbers, uneven images, errors."""

import pytest
import torch
import torch.nn.functional as F

from stylegan2_ada.ops import conv3x3, conv_taps  # noqa: F401 - their schemas

ops = torch.ops.stylegan2_ada
UNIT = 2.0**-9  # largest relative error of a rounding to bfloat16

native = pytest.mark.skipif(
    not (conv3x3.use_native(torch.zeros(1, dtype=torch.bfloat16)) and ops.conv3x3_supported() & 4),
    reason="needs the native ops on a CPU with AVX512-BF16 and without AMX",
)


def normal(*shape, seed=0, dtype=torch.bfloat16):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return x.to(dtype=dtype, memory_format=torch.channels_last if dtype == torch.bfloat16 else torch.contiguous_format)


def uneven(x, kind, apart=8):
    """Float32 images [N, C, H, W] made uneven in one way, or left as they are. apart: pixels between loud ones."""
    if kind == "biased":
        return F.leaky_relu(x + 1, 0.2)
    if kind == "styles":
        return x * torch.exp(1.5 * normal(*x.shape[:2], 1, 1, seed=3, dtype=torch.float32))
    if kind == "smooth":
        return F.avg_pool2d(F.pad(x, (3, 3, 3, 3)), 7, 1) * 5 + 1
    if kind == "loud channel":
        x[:, 7] *= 1000
    elif kind == "loud pixel":
        x[:, :, 12::apart, 12::apart] *= 50
    return x


def relative(got, exact):
    return float((got.double() - exact).norm() / exact.norm())
