"""Batch normalisation with its activation on CPUs against PyTorch's two in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from stylegan2_ada.ops.norm_act import NONE, RELU, RELU6, SWISH, applies, norm_act, scale_act

pytestmark = pytest.mark.skipif(not applies(torch.zeros(1, 1, 1, 1)), reason="needs the native operations")
EXACT = {NONE: lambda z: z, RELU: F.relu, RELU6: F.relu6, SWISH: F.silu}
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 4e-3}
EPS = 1e-3


def images(n, c, h, w, dtype=torch.float32, mean=0.5):
    x = torch.randn(n, c, h, w, generator=torch.Generator().manual_seed(0)) * 2 + mean
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def parameters(c):
    g = torch.Generator().manual_seed(1)
    return torch.rand(c, generator=g) + 0.5, torch.randn(c, generator=g)


def off(got, expected):
    return float((got.detach().double() - expected.detach()).norm() / (expected.detach().norm() + 1e-30))


def away_from_kinks(x, w, b, act):
    """gy [N, C, H, W], zero where a rounding may turn one slope of a clamp into the other."""
    z = F.batch_norm(x.double(), None, None, w.double(), b.double(), True, 0, EPS)
    gy = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    for kink in (act.low, act.high):
        gy[(z - kink).abs() < 1e-4] = 0
    return gy.to(x.dtype)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 9), c=st.integers(1, 70), h=st.integers(1, 9), w=st.integers(2, 9),
    act=st.sampled_from(list(EXACT)), dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)  # fmt: skip
def test_any_shape(n, c, h, w, act, dtype):
    x, (weight, bias) = images(n, c, h, w, dtype), parameters(c)
    quick = [t.clone(memory_format=torch.preserve_format).requires_grad_() for t in (x, weight, bias)]
    wide = [t.double().requires_grad_() for t in (x, weight, bias)]
    y, mean, var = norm_act(*quick, EPS, act)
    expected = EXACT[act](F.batch_norm(wide[0], None, None, wide[1], wide[2], True, 0, EPS))
    assert y.dtype == dtype and y.shape == x.shape
    assert off(y, expected) < TOLERANCE[dtype]
    assert torch.allclose(mean.double(), wide[0].mean((0, 2, 3)), atol=1e-6)
    assert off(var, wide[0].var((0, 2, 3), correction=0)) < 1e-5
    gy = away_from_kinks(x, weight, bias, act)
    ours, theirs = torch.autograd.grad(y, quick, gy), torch.autograd.grad(expected, wide, gy.double())
    size = wide[1].detach().max() * gy.double().norm()  # a gradient of two pixels nearly vanishes: off by roundings
    for got, right in zip(ours, theirs, strict=True):
        assert float((got.double() - right).norm()) < TOLERANCE[dtype] * max(float(right.norm()), float(size))


def test_large_images_far_from_zero():
    x = images(4, 24, 48, 48, mean=300.0)
    weight, bias = parameters(24)
    y, mean, var = norm_act(x, weight, bias, EPS, RELU6)
    wide = x.double()
    assert off(mean, wide.mean((0, 2, 3))) < 1e-7
    assert off(var, wide.var((0, 2, 3), correction=0)) < 1e-5  # the difference of squares would be off by 1e-2
    expected = F.relu6(F.batch_norm(wide, None, None, weight.double(), bias.double(), True, 0, EPS))
    assert off(y, expected) < 2e-5


@pytest.mark.parametrize("act", list(EXACT))
def test_fixed_statistics(act):
    x, (scale, shift) = images(3, 40, 5, 7), parameters(40)
    expected = EXACT[act](x.double() * scale.double().view(1, -1, 1, 1) + shift.double().view(1, -1, 1, 1))
    assert off(scale_act(x, scale, shift, act), expected) < 1e-6
    assert scale_act(x[:0], scale, shift, act).shape == (0, 40, 5, 7)


def test_what_is_no_number_stays():
    x, (weight, bias) = images(2, 20, 4, 4), parameters(20)
    x[0, 3, 1, 1] = torch.nan
    y, mean, var = norm_act(x, weight, bias, EPS, RELU6)
    assert y[:, 3].isnan().all() and mean[3].isnan() and var[3].isnan()
    assert y[:, [*range(3), *range(4, 20)]].isfinite().all()


def test_sums_do_not_depend_on_threads():
    x, (weight, bias) = images(6, 24, 40, 40).requires_grad_(), parameters(24)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            y, *moments = norm_act(x, weight.requires_grad_(), bias.requires_grad_(), EPS, RELU)
            results.append([y, *moments, *torch.autograd.grad(y.square().sum(), (x, weight, bias))])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_second_derivative_is_refused():
    x, (weight, bias) = images(2, 4, 5, 5).requires_grad_(), parameters(4)
    y, _, _ = norm_act(x, weight, bias, EPS, SWISH)
    (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        first.square().sum().backward()


def test_wrong_arguments_are_told():
    x, (weight, bias) = images(2, 4, 5, 5), parameters(4)
    with pytest.raises(RuntimeError, match="vectors of 4 channels"):
        norm_act(x, weight[:3], bias, EPS, NONE)
    with pytest.raises(RuntimeError, match="no mean of no pixels"):
        norm_act(x[:0], weight, bias, EPS, NONE)


def test_schemas_and_traced_shapes():
    x, (weight, bias) = images(2, 5, 4, 4).requires_grad_(), parameters(5)
    ops = torch.ops.stylegan2_ada
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(ops.norm_act, (x, weight, bias, EPS, *RELU6), test_utils=checks)
    y, mean, var = (t.detach() for t in ops.norm_act(x, weight, bias, EPS, *RELU6))
    torch.library.opcheck(ops.norm_act_grad, (y, x.detach(), mean, var, weight, bias, EPS, *RELU6), test_utils=checks)
    torch.library.opcheck(ops.scale_act, (x.detach(), weight, bias, *SWISH), test_utils=checks)
