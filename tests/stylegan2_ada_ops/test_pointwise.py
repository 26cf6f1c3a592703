"""1x1 convolutions against products of matrices in float64: values, gradients, gradients of gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stylegan2_ada.ops import pointwise as module
from stylegan2_ada.ops.pointwise import applies, pointwise

native = pytest.mark.skipif(
    not applies(torch.zeros(1, 2, 1, 1, dtype=torch.bfloat16), torch.zeros(2, 2, 1, 1)),
    reason="needs AVX512-BF16, and no AMX",
)
DTYPES = [torch.float32, torch.bfloat16]
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2.0**-8}  # of norms; the last is a rounding to bfloat16


def normal(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def images(n, c, h, w, seed=0, dtype=torch.bfloat16):
    return normal(n, c, h, w, seed=seed).to(dtype).contiguous(memory_format=torch.channels_last)


def exact(x, w):
    return torch.einsum("nihw,oi->nohw", x, w[:, :, 0, 0])


def check(n, inputs, outputs, h, w, dtype):
    """Weights are rounded to the images' dtype, and images that come out; gradients of weights are not. Errors against
    the sums of the terms' sizes: terms may cancel."""
    x, gy = images(n, inputs, h, w, dtype=dtype), images(n, outputs, h, w, seed=2, dtype=dtype)
    weights = normal(outputs, inputs, 1, 1, seed=1)
    leaves = x.clone().requires_grad_(), weights.clone().requires_grad_()
    y = pointwise(*leaves)
    ours = [y.detach(), *torch.autograd.grad(y, leaves, gy)]
    assert y.is_contiguous(memory_format=torch.channels_last)
    all64 = [t.double() for t in (x, weights.to(dtype), gy)]
    for got, kind, right, terms in zip(
        ours, (dtype, dtype, torch.float32), results(*all64), results(*(t.abs() for t in all64)), strict=True
    ):
        assert got.dtype == kind and got.shape == right.shape
        assert not (got.double() - right).isnan().any()
        assert (got.double() - right).norm() <= TOLERANCE[kind] * terms.norm()


def results(x, w, gy):
    gx = torch.einsum("nohw,oi->nihw", gy, w[:, :, 0, 0])
    return [exact(x, w), gx, torch.einsum("nohw,nihw->oi", gy, x)[:, :, None, None]]


@native
@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 5), inputs=st.integers(1, 90), outputs=st.integers(1, 90), h=st.integers(1, 20),
    w=st.integers(1, 20), dtype=st.sampled_from(DTYPES),
)  # fmt: skip
def test_any_shape(n, inputs, outputs, h, w, dtype):
    step = 1 if dtype == torch.float32 else 2
    check(n, step * inputs, step * outputs, h, w, dtype)


@native
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "n, inputs, outputs, size",
    [(8, 16, 96, 48), (2, 24, 144, 24), (3, 672, 112, 12), (1, 1152, 320, 7), (2, 320, 1280, 6), (8, 2, 4, 96)],
)
def test_layers_of_mobile_networks(n, inputs, outputs, size, dtype):
    check(n, inputs, outputs, size, size, dtype)


@native
@pytest.mark.parametrize("dtype", DTYPES)
def test_second_derivatives(dtype):
    x, w = images(2, 6, 5, 4, dtype=dtype), normal(8, 6, 1, 1, seed=1)
    results = []
    for of, a, b in ((pointwise, x, w), (exact, x.double(), w.double())):
        a, b = a.requires_grad_(), b.requires_grad_()
        first = torch.autograd.grad(of(a, b).double().square().sum(), (a, b), create_graph=True)
        results.append(torch.autograd.grad(sum(g.double().square().sum() for g in first), (a, b)))
    for got, right in zip(*results, strict=True):
        assert (got.double() - right).norm() < 4 * TOLERANCE[dtype] * right.norm()


@native
def test_any_layout():
    x, w = images(2, 20, 9, 9), normal(6, 20, 1, 1, seed=1)
    assert torch.equal(pointwise(x.contiguous(), w), pointwise(x, w))
    assert torch.equal(pointwise(x[:, :, ::2], w), pointwise(x, w)[:, :, ::2])
    assert torch.equal(pointwise(x, w.expand(2, 6, 20, 1, 1)[1]), pointwise(x, w))


@native
@pytest.mark.parametrize("dtype", DTYPES)
def test_results_do_not_depend_on_threads(dtype):
    x, w = images(3, 24, 64, 64, dtype=dtype).requires_grad_(), normal(144, 24, 1, 1, seed=1).requires_grad_()
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            y = pointwise(x, w)
            results.append([y, *torch.autograd.grad(y.square().sum(), (x, w))])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@native
def test_nan_stays():
    x, w = images(1, 32, 4, 4), normal(32, 32, 1, 1, seed=1)
    x[0, 3, 1, 2] = torch.nan
    bad = pointwise(x, w).isnan()
    assert bad[0, :, 1, 2].all() and bad.sum() == 32


@native
def test_nothing_to_do():
    w = normal(4, 6, 1, 1, seed=1).requires_grad_()
    y = pointwise(torch.zeros(0, 6, 3, 3, dtype=torch.bfloat16, requires_grad=True), w)
    assert y.shape == (0, 4, 3, 3)
    assert torch.autograd.grad(y.sum(), w)[0].eq(0).all()


@native
def test_wrong_arguments_are_told():
    x, w = images(1, 4, 3, 3), normal(4, 4, 1, 1, seed=1)
    with pytest.raises(RuntimeError, match="even number of channels"):
        pointwise(x[:, :3], w[:, :3])
    with pytest.raises(RuntimeError, match="w must be float32"):
        pointwise(x, w[:, :2])
    with pytest.raises(RuntimeError, match="gy is not of this x"):
        torch.ops.stylegan2_ada.pointwise_weight(x, x.float())
    with pytest.raises(RuntimeError, match="gy is not of this x"):
        torch.ops.stylegan2_ada.pointwise_weight(x, x[:, :, :2])


@native
def test_operators_pass_opcheck():
    ops, x, w = torch.ops.stylegan2_ada, images(2, 6, 3, 4), normal(8, 6, 1, 1, seed=1)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(ops.pointwise, (x, w), test_utils=checks)
    torch.library.opcheck(ops.pointwise_input, (images(2, 8, 3, 4), w), test_utils=checks)
    torch.library.opcheck(ops.pointwise_weight, (x, images(2, 8, 3, 4)), test_utils=checks)


def test_what_it_is_not_for(monkeypatch):
    x, w = images(1, 4, 3, 3), normal(4, 4, 1, 1, seed=1)
    monkeypatch.setattr(module, "_supported", lambda: True)
    assert applies(x, w) == module.use_native(x)
    assert not applies(x.double(), w) and not applies(x, w.bfloat16())
    assert not applies(x[:, :3], w[:, :3]) and not applies(x, normal(4, 4, 3, 3, seed=1))
    monkeypatch.setattr(module, "_supported", lambda: False)
    assert not applies(x, w)
