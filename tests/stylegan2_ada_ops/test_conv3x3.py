"""The fast bfloat16 3x3 convolution against float64, in value, gradients and gradients of gradients."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from stylegan2_ada.ops import conv3x3 as module
from stylegan2_ada.ops.conv3x3 import applies, conv3x3

ops = torch.ops.stylegan2_ada
UNIT = 2.0**-9  # largest relative error of a rounding to bfloat16


def _supported() -> bool:
    return module.use_native(torch.zeros(1, dtype=torch.bfloat16)) and module.supports(torch.bfloat16)


native = pytest.mark.skipif(not _supported(), reason="needs the native ops on a CPU with AVX512-BF16")


def normal(*shape, seed=0, dtype=torch.bfloat16):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return x.to(dtype=dtype, memory_format=torch.channels_last if dtype == torch.bfloat16 else torch.contiguous_format)


def exact(x, w, gain=1.0, transposed=False):
    x, w = x.double(), w.double() * gain
    return F.conv_transpose2d(x, w, padding=1) if transposed else F.conv2d(x, w, padding=1)


def exact_wgrad(x, gy, gain=1.0):
    if 0 in x.shape or 0 in gy.shape:
        return torch.zeros(gy.shape[1], x.shape[1], 3, 3, dtype=torch.float64)
    return gain * torch.nn.grad.conv2d_weight(x.double(), (gy.shape[1], x.shape[1], 3, 3), gy.double(), padding=1)


def check(got, expected, scale, rms=3.0):
    """Errors against `scale`, the RMS that sums of products with random signs would have.

    Each product has two rounded factors, each with an error of at most UNIT and of UNIT / sqrt(3) in the mean square,
    and the output transform adds up 9 of 16 frequencies; so the error is near 2 UNIT. A misplaced pixel would be
    hundreds of times that. Of a few numbers the mean square is no mean: they may lie three deviations off.
    """
    assert got.shape == expected.shape
    if got.numel() == 0:
        return
    error = got.double() - expected
    few = 3 if got.numel() < 32 else 1
    assert error.square().mean().sqrt() <= few * rms * UNIT * scale
    assert error.abs().max() <= 8 * rms * UNIT * scale


def scale(x, w, gain=1.0, transposed=False):
    return exact(x.double().square(), w.double().square(), gain**2, transposed).mean().sqrt()


def wgrad_scale(x, gy, gain=1.0):
    return exact_wgrad(x.double().square(), gy.double().square(), gain**2).mean().sqrt()


sizes = st.tuples(st.integers(1, 3), st.integers(1, 80), st.integers(1, 80), st.integers(1, 13), st.integers(1, 13))


@native
@settings(max_examples=40, deadline=None)
@given(sizes, st.sampled_from([1.0, 0.03]), st.booleans(), st.integers(0, 99))
def test_values_of_any_shape(size, gain, transposed, seed):
    n, i, o, h, w_ = size
    w = normal(o, i, 3, 3, seed=seed, dtype=torch.float32)
    x = normal(n, o if transposed else i, h, w_, seed=seed + 1)
    y = ops.conv3x3(x, w, gain, transposed)
    assert y.dtype == torch.bfloat16 and y.is_contiguous(memory_format=torch.channels_last)
    check(y, exact(x, w, gain, transposed), scale(x, w, gain, transposed), rms=5)
    gy = normal(n, i if transposed else o, h, w_, seed=seed + 2)
    a, b = (gy, x) if transposed else (x, gy)
    gw = ops.conv3x3_wgrad(a, b, gain)
    assert gw.dtype == torch.float32 and gw.is_contiguous()
    check(gw, exact_wgrad(a, b, gain), wgrad_scale(a, b, gain), rms=5)


@native
@pytest.mark.parametrize(
    "n, i, o, h, w_",
    [(2, 64, 64, 40, 37), (1, 256, 192, 16, 16), (4, 513, 512, 4, 4), (1, 1030, 96, 5, 6), (1, 32, 1030, 8, 8)],
)
def test_sizes_of_the_networks(n, i, o, h, w_):
    x, gy, w = normal(n, i, h, w_), normal(n, o, h, w_, seed=1), normal(o, i, 3, 3, seed=2, dtype=torch.float32)
    check(ops.conv3x3(x, w, 0.1, False), exact(x, w, 0.1), scale(x, w, 0.1))
    check(ops.conv3x3(gy, w, 0.1, True), exact(gy, w, 0.1, True), scale(gy, w, 0.1, True))
    check(ops.conv3x3_wgrad(x, gy, 0.1), exact_wgrad(x, gy, 0.1), wgrad_scale(x, gy, 0.1))


@native
def test_weight_gradient_of_many_tiles():
    """More than are transformed at once."""
    x, gy = normal(3, 64, 131, 129), normal(3, 32, 131, 129, seed=1)
    check(ops.conv3x3_wgrad(x, gy, 1.0), exact_wgrad(x, gy), wgrad_scale(x, gy))


@native
@pytest.mark.parametrize("kind", ["biased", "styles", "smooth"])
def test_error_is_that_of_bfloat16_for_data_as_in_a_network(kind):
    """At most 2.5 times the error of PyTorch's direct bfloat16 convolution."""
    x = normal(2, 128, 24, 24, dtype=torch.float32)
    if kind == "biased":
        x = F.leaky_relu(x + 1, 0.2)
    elif kind == "styles":
        x = x * torch.exp(1.5 * normal(2, 128, 1, 1, seed=3, dtype=torch.float32))
    else:
        x = F.avg_pool2d(F.pad(x, (3, 3, 3, 3)), 7, 1) * 5 + 1
    x = x.to(dtype=torch.bfloat16, memory_format=torch.channels_last)
    w = normal(128, 128, 3, 3, seed=4, dtype=torch.float32)
    expected = exact(x, w, 0.03)
    direct = F.conv2d(x, (w * 0.03).bfloat16(), padding=1)

    def error(y):
        return (y.double() - expected).square().mean().sqrt()

    assert error(ops.conv3x3(x, w, 0.03, False)) <= 2.5 * error(direct)


def inputs(n=2, i=32, o=48, h=7, w_=6):
    return (
        normal(n, i, h, w_).requires_grad_(),
        normal(o, i, 3, 3, seed=1, dtype=torch.float32).requires_grad_(),
        normal(n, o, h, w_, seed=2).requires_grad_(),
    )


@native
def test_gradients_and_their_gradients():
    x, w, gy = inputs()
    x64, w64, gy64 = (t.detach().double().requires_grad_() for t in (x, w, gy))
    first = torch.autograd.grad(conv3x3(x, w, 0.5), [x, w], gy, create_graph=True)
    first64 = torch.autograd.grad(F.conv2d(x64, w64 * 0.5, padding=1), [x64, w64], gy64, create_graph=True)
    to_x, to_w = normal(*x.shape, seed=3), normal(*w.shape, seed=4, dtype=torch.float32)
    second = torch.autograd.grad(first, [x, w, gy], [to_x, to_w], create_graph=True)
    second64 = torch.autograd.grad(first64, [x64, w64, gy64], [to_x.double(), to_w.double()], create_graph=True)
    third = torch.autograd.grad(second[0].float().square().sum() + second[1].square().sum(), [gy, w], allow_unused=True)
    third64 = torch.autograd.grad(
        second64[0].square().sum() + second64[1].square().sum(), [gy64, w64], allow_unused=True
    )
    assert third[1] is third64[1] is None
    for got, expected in zip([*first, *second, third[0]], [*first64, *second64, third64[0]], strict=True):
        check(got, expected, expected.detach().square().mean().sqrt())
    assert [t.dtype for t in second] == [torch.bfloat16, torch.float32, torch.bfloat16]


@native
def test_the_transposed_op_and_the_weight_gradient_are_differentiable_too():
    x, w, gy = inputs()
    y = ops.conv3x3(gy, w, 0.5, True)
    y64 = exact(gy64 := gy.detach().double().requires_grad_(), w64 := w.detach().double().requires_grad_(), 0.5, True)
    for got, expected in zip(
        torch.autograd.grad(y, [gy, w], x.detach()), torch.autograd.grad(y64, [gy64, w64], x.detach().double())
    ):
        check(got, expected, expected.square().mean().sqrt())


@native
def test_only_wanted_gradients_are_computed():
    x, w, gy = inputs()
    with torch.autograd.profiler.profile() as p:
        torch.autograd.grad(conv3x3(x, w.detach()), x, gy)
    assert not [e for e in p.function_events if "conv3x3_wgrad" in e.name]


@native
def test_result_depends_neither_on_threads_nor_on_the_rest_of_the_batch():
    x, w, gy = (t.detach() for t in inputs(n=3, i=96, o=80, h=15, w_=14))
    one = ops.conv3x3(x, w, 1.0, False), ops.conv3x3_wgrad(x, gy, 1.0)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        several = ops.conv3x3(x, w, 1.0, False), ops.conv3x3_wgrad(x, gy, 1.0)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one[0], several[0]) and torch.equal(one[1], several[1])
    assert torch.equal(ops.conv3x3(x[1:2], w, 1.0, False), one[0][1:2])


@native
def test_other_strides():
    x, w, _ = (t.detach() for t in inputs())
    y = conv3x3(x, w, 0.5)
    wide = torch.zeros(2, 40, 7, 9, dtype=torch.bfloat16)
    wide[:, 4:36, :, 1:7] = x
    assert torch.equal(conv3x3(wide[:, 4:36, :, 1:7], w, 0.5), y)
    assert torch.equal(conv3x3(x.contiguous(), w.transpose(0, 1).contiguous().transpose(0, 1), 0.5), y)


@native
@pytest.mark.parametrize("empty", ["batch", "height", "inputs", "outputs"])
def test_nothing_to_do(empty):
    n, h, i, o = (0 if empty == name else 5 for name in ("batch", "height", "inputs", "outputs"))
    x, gy = torch.randn(n, i, h, 4).bfloat16(), torch.randn(n, o, h, 4).bfloat16()
    y = ops.conv3x3(x, torch.randn(o, i, 3, 3), 1.0, False)
    assert y.shape == gy.shape and not y.any()
    gw = ops.conv3x3_wgrad(x, gy, 1.0)
    assert gw.shape == (o, i, 3, 3) and not gw.any()


@native
def test_ops_are_registered_properly():
    x, w, gy = inputs()
    for op, arguments in [
        (ops.conv3x3, (x, w, 0.5, False)),
        (ops.conv3x3, (gy, w, 0.5, True)),
        (ops.conv3x3_wgrad, (x, gy, 0.5)),
    ]:
        torch.library.opcheck(op, arguments)


@native
def test_wrong_operands_are_refused():
    x, w, gy = (t.detach() for t in inputs())
    for arguments, message in [
        ((x.half(), w, 1.0, False), "bfloat16 or float32"),
        ((x, w.double(), 1.0, False), "float32"),
        ((x, w[:, :, :2], 1.0, False), "3, 3"),
        ((x, w, 1.0, True), "48 channels"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            ops.conv3x3(*arguments)
    for other in (gy[:1], gy.float()):
        with pytest.raises(RuntimeError, match="same type, batch size"):
            ops.conv3x3_wgrad(x, other, 1.0)


def test_elsewhere_it_is_pytorchs_convolution():
    x, w = torch.randn(2, 5, 6, 7), torch.randn(4, 5, 3, 3)
    assert not applies(x, w)
    torch.testing.assert_close(conv3x3(x, w, 0.5), F.conv2d(x, w * 0.5, padding=1))
    assert conv3x3(x.bfloat16(), w).dtype == torch.bfloat16
