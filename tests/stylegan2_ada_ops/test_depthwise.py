"""The depthwise convolution of CPUs against PyTorch's in float64: values, gradients, gradients of gradients."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from stylegan2_ada.ops import depthwise as module
from stylegan2_ada.ops.depthwise import applies, depthwise

native = pytest.mark.skipif(
    not applies(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)), reason="needs the native operations"
)
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2.0**-8}  # of norms; the last is a rounding to bfloat16


def normal(*shape, seed, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def images(n, c, h, w, *, seed=0, dtype=torch.float32):
    return normal(n, c, h, w, seed=seed, dtype=dtype).contiguous(memory_format=torch.channels_last)


def exact(x, w, b, stride, padding):
    top, bottom, left, right = padding
    return F.conv2d(F.pad(x, (left, right, top, bottom)), w, b, stride, groups=x.shape[1])


def off(got, expected):
    return float((got.detach().double() - expected.detach()).norm() / (expected.detach().norm() + 1e-30))


def results(convolve, tensors, gy, stride, padding):
    """Value and all gradients."""
    leaves = [t.clone(memory_format=torch.preserve_format).requires_grad_() for t in tensors]
    y = convolve(*leaves, stride=stride, padding=padding)
    return [y.detach(), *torch.autograd.grad(y, leaves, gy)]


def check(x, w, b, stride, padding):
    """Errors against the sums of the terms' sizes: terms may cancel."""
    top, bottom, left, right = padding
    size = [x.shape[2] + top + bottom - w.shape[2], x.shape[3] + left + right - w.shape[3]]
    gy = normal(*x.shape[:2], *(side // stride + 1 for side in size), seed=9, dtype=x.dtype)
    ours = results(depthwise, (x, w, b), gy, stride, padding)
    theirs = results(exact, (x.double(), w.double(), b.double()), gy.double(), stride, padding)
    sizes = results(exact, (x.double().abs(), w.double().abs(), b.double().abs()), gy.double().abs(), stride, padding)
    for got, right, terms, like in zip(ours, theirs, sizes, [x, x, w, b], strict=True):
        assert got.dtype == like.dtype and got.shape == right.shape
        assert float((got.double() - right).norm()) <= TOLERANCE[x.dtype] * float(terms.norm())


@native
@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 20), c=st.integers(1, 50), h=st.integers(1, 12), w=st.integers(1, 12), ky=st.integers(1, 9),
    kx=st.integers(1, 9), stride=st.integers(1, 3), padding=st.tuples(*[st.integers(0, 4)] * 4),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)  # fmt: skip
def test_any_shape(n, c, h, w, ky, kx, stride, padding, dtype):
    h, w = max(h, ky - padding[0] - padding[1]), max(w, kx - padding[2] - padding[3])
    check(images(n, c, h, w, dtype=dtype), normal(c, 1, ky, kx, seed=1), normal(c, seed=2), stride, padding)


@native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "c, size, window, stride, padding",
    [(32, 24, 3, 1, (1, 1, 1, 1)), (96, 24, 3, 2, (0, 1, 0, 1)), (144, 12, 5, 2, (1, 2, 1, 2)), (40, 9, 5, 1, (2,) * 4)]
    + [(24, 14, 7, 1, (3,) * 4), (8, 224, 3, 2, (0, 1, 0, 1))],
)
def test_layers_of_mobile_networks(c, size, window, stride, padding, dtype):
    check(
        images(3, c, size, size, dtype=dtype), normal(c, 1, window, window, seed=1), normal(c, seed=2), stride, padding
    )


@native
def test_second_derivatives():
    x, w = images(2, 5, 6, 7).requires_grad_(), normal(5, 1, 3, 3, seed=1).requires_grad_()
    X, W = x.detach().double().requires_grad_(), w.detach().double().requires_grad_()
    results = []
    for a, b, of in ((x, w, depthwise), (X, W, lambda *args, stride, padding: exact(*args, None, stride, padding))):
        y = of(a, b, stride=2, padding=(1, 0, 0, 1))
        first = torch.autograd.grad(y.square().sum(), (a, b), create_graph=True)
        results.append(torch.autograd.grad(sum(g.square().sum() for g in first), (a, b)))
    for got, right in zip(*results, strict=True):
        assert off(got, right) < 1e-6


@native
def test_any_layout_and_weights_of_fewer_bits():
    x, w = normal(2, 20, 9, 9, seed=0), normal(20, 1, 3, 3, seed=1)
    right = exact(x.double(), w.double(), None, 1, (1, 1, 1, 1))
    assert off(depthwise(x, w, padding=(1, 1, 1, 1)), right) < 1e-6  # not channels-last
    assert off(depthwise(x[:, :, ::2], w), exact(x[:, :, ::2].double(), w.double(), None, 1, (0,) * 4)) < 1e-6
    half = w.bfloat16().requires_grad_()
    y = depthwise(x, half, padding=(1, 1, 1, 1))
    assert off(y, exact(x.double(), half.double(), None, 1, (1, 1, 1, 1))) < 1e-6
    assert torch.autograd.grad(y.sum(), half)[0].dtype == torch.bfloat16


@native
def test_sums_do_not_depend_on_threads():
    x, w = images(5, 24, 12, 12).requires_grad_(), normal(24, 1, 5, 5, seed=1).requires_grad_()
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            y = depthwise(x, w, stride=2, padding=(2, 2, 2, 2))
            results.append([y, *torch.autograd.grad(y.square().sum(), (x, w))])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@native
def test_nothing_to_do():
    w = normal(4, 1, 3, 3, seed=1).requires_grad_()
    y = depthwise(torch.zeros(0, 4, 8, 8, requires_grad=True), w, padding=(1, 1, 1, 1))
    assert y.shape == (0, 4, 8, 8)
    assert torch.autograd.grad(y.sum(), w)[0].eq(0).all()


@native
def test_wrong_arguments_are_told():
    x, w = images(1, 4, 8, 8), normal(4, 1, 3, 3, seed=1)
    with pytest.raises(RuntimeError, match="larger than the padded image"):
        depthwise(x[:, :, :2, :2], w)
    with pytest.raises(RuntimeError, match="padding is four numbers"):
        depthwise(x, w, padding=(-1, 0, 0, 0))
    with pytest.raises(RuntimeError, match="w must be float32"):
        depthwise(x, w[:3])
    with pytest.raises(RuntimeError, match="gy is not of"):
        torch.ops.stylegan2_ada.depthwise_input_grad(x, w, 8, 8, 1, [0, 0, 0, 0])
    with pytest.raises(RuntimeError, match="gy is not of"):
        torch.ops.stylegan2_ada.depthwise_weight_grad(x, x, 3, 3, 1, [0, 0, 0, 0])


@pytest.mark.parametrize("padding", [(1, 1, 1, 1), (0, 1, 1, 0)])
def test_without_native_code(padding, monkeypatch):
    monkeypatch.setattr(module, "use_native", lambda x: False)
    x, w, b = images(2, 6, 8, 8), normal(6, 1, 3, 3, seed=1), normal(6, seed=2)
    got = depthwise(x, w, b, stride=2, padding=padding)
    assert off(got, exact(x.double(), w.double(), b.double(), 2, padding)) < 1e-6


@native
def test_schemas_and_traced_shapes():
    x, w, b = images(2, 5, 8, 9).requires_grad_(), normal(5, 1, 3, 3, seed=1).requires_grad_(), normal(5, seed=2)
    ops = torch.ops.stylegan2_ada
    y = ops.depthwise(x, w, b, 2, [0, 1, 1, 0]).detach()
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(ops.depthwise, (x, w, b, 2, [0, 1, 1, 0]), test_utils=checks)
    torch.library.opcheck(ops.depthwise_input_grad, (y, w, 8, 9, 2, [0, 1, 1, 0]), test_utils=checks)
    torch.library.opcheck(ops.depthwise_weight_grad, (x, y, 3, 3, 2, [0, 1, 1, 0]), test_utils=checks)
