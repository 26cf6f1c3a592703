"""Weight gradients of bfloat16 convolutions with stride 2 by minimal filtering in fixed point against float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stylegan2_ada_ops.fixed_point import UNIT, native, normal, ops, relative, uneven


def strided_weight_gradient(large, small, pad=(0, 0), gain=1.0, flip=False, by_large=False):
    """By the op, and in float64."""
    shape = (small.shape[1], large.shape[1], 3, 3)
    exact = gain * torch.nn.grad.conv2d_weight(large.double(), shape, small.double(), stride=2, padding=pad)
    exact = exact.transpose(0, 1) if by_large else exact
    got = ops.conv_taps_wgrad(large, small, gain, [2, *pad], flip, by_large, [3, 3])
    return got, exact.flip([2, 3]) if flip else exact


def pair_of_images(n, i, o, height, width, pad=(0, 0), spare=0, seed=0):
    size = [2 * side + 1 - 2 * p + spare for side, p in zip((height, width), pad, strict=True)]
    return normal(n, i, *size, seed=seed), normal(n, o, height, width, seed=100)


@native
@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 70), st.integers(8, 19), st.integers(8, 29)),
    st.tuples(st.integers(0, 2), st.integers(0, 2)), st.integers(0, 1), st.booleans(), st.booleans(),
    st.integers(0, 99),
)  # fmt: skip
def test_strided_weight_gradients_of_any_shape(shape, pad, spare, flip, by_large, seed):
    images = pair_of_images(*shape, pad, spare, seed)
    got, exact = strided_weight_gradient(*images, pad, -0.03, flip, by_large)
    assert got.dtype == torch.float32 and got.is_contiguous() and got.shape == exact.shape
    assert relative(got, exact) <= 0.6 * UNIT
    assert (got - exact).abs().max() <= 5 * UNIT * exact.square().mean().sqrt()


@native
@pytest.mark.parametrize(("n", "size", "bound"), [(4, 8, 0.0005), (4, 16, 0.0008), (1, 32, 0.0009), (8, 32, 0.0013)])
def test_error_of_a_strided_weight_gradient_by_size(n, size, bound):
    """Less than that of the two images' own rounding to bfloat16, 0.0024, and not growing with their number."""
    assert relative(*strided_weight_gradient(*pair_of_images(n, 64, 96, size, size))) <= bound


@native
@pytest.mark.parametrize("kind", ["biased", "styles", "smooth", "loud channel", "loud pixel"])
def test_error_of_a_strided_weight_gradient_of_uneven_images(kind):
    """0.0025 for loud pixels, half of that for all others."""
    x = uneven(normal(4, 64, 33, 33, dtype=torch.float32), kind, apart=16)
    gy = normal(4, 64, 16, 16, seed=1, dtype=torch.float32)
    if kind == "biased":
        gy = gy + 0.3
    x, gy = (v.to(dtype=torch.bfloat16, memory_format=torch.channels_last) for v in (x, gy))
    got, exact = strided_weight_gradient(x, gy)
    assert relative(got, exact) <= (1.8 if kind == "loud pixel" else 0.7) * UNIT


@native
def test_sums_of_a_strided_weight_gradient_as_large_as_they_can_get_stay_in_int32():
    """At each of the 36 points: all numbers of tiles that are not zero as large as pixels allow, of one sign."""
    points = [1 / 2, -1 / 2, 5 / 4, -5 / 4]
    of_large = [np.append(np.poly([q for q in points if q != p])[::-1], 0) for p in points] + [np.poly(points)[::-1]]
    of_large = [np.kron(row, [1, 0])[:9] for row in of_large] + [np.arange(9) % 2]
    of_small = [np.array([1, p, p * p, p**3]) for p in points] + [np.array([0, 0, 0, 1]), np.ones(4)]
    sizes = normal(9, 1, 1, 1, seed=5, dtype=torch.float32).bfloat16().float().abs() + 1
    for point in range(36):
        row, column = divmod(point, 6)
        x, gy = torch.zeros(9, 32, 17, 17), torch.zeros(9, 32, 8, 8)
        x[:, :, :9, :9] = torch.from_numpy(np.sign(np.outer(of_large[row], of_large[column]))).float() * sizes
        gy[:, :, :4, :4] = torch.from_numpy(np.sign(np.outer(of_small[row], of_small[column]))).float() * sizes
        gy[:, 1::2] *= -1
        x, gy = (v.to(dtype=torch.bfloat16, memory_format=torch.channels_last) for v in (x, gy))
        assert relative(*strided_weight_gradient(x, gy)) <= UNIT


@native
@pytest.mark.parametrize("size", [1e-31, 1e-29, 1e-25, 1e-18, 1e18, 1e30])
def test_strided_weight_gradients_of_numbers_whose_squares_have_no_float32(size):
    x, gy = pair_of_images(2, 48, 40, 9, 11)
    for pair in ((x * size, gy), (x, gy * size)):
        got, exact = strided_weight_gradient(*pair)
        assert relative(got, exact) <= (1.001 if size < 1e-27 else 1.4 * UNIT)


@native
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_seen_in_the_strided_weight_gradient(bad):
    """In all of the channel's, and in no other."""
    x, gy = pair_of_images(2, 48, 40, 16, 16)
    x[1, 5, 20, 11] = bad
    finite = strided_weight_gradient(x, gy)[0].isfinite()
    assert not finite[:, 5].any() and finite[:, :5].all() and finite[:, 6:].all()
    x, gy = pair_of_images(2, 48, 40, 16, 16)
    gy[1, 7, 9, 11] = bad
    finite = strided_weight_gradient(x, gy)[0].isfinite()
    assert not finite[7].any() and finite[:7].all() and finite[8:].all()


@native
def test_strided_weight_gradient_of_zeros_and_with_any_number_of_threads():
    x, gy = pair_of_images(3, 96, 150, 31, 30)
    assert not strided_weight_gradient(torch.zeros_like(x), gy)[0].any()
    assert not strided_weight_gradient(x, torch.zeros_like(gy))[0].any()
    one, before = strided_weight_gradient(x, gy)[0], torch.get_num_threads()
    try:
        for threads in (2, 7):
            torch.set_num_threads(threads)
            assert torch.equal(strided_weight_gradient(x, gy)[0], one)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(strided_weight_gradient(x, gy)[0], one)
