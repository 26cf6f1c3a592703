"""float32 convolutions by minimal filtering, with stride 1 and 2, against float64: values, gradients and theirs."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from stylegan2_ada.ops import conv3x3, conv_taps, convolution
from stylegan2_ada.ops.conv2d_resample import conv2d_resample
from stylegan2_ada.ops.modulated_conv import modulated_conv2d
from stylegan2_ada.ops.upfirdn2d import fir_taps

ops = torch.ops.stylegan2_ada
UNIT = 2.0**-24  # largest relative error of a rounding to float32


def _supported() -> bool:
    return conv3x3.use_native(torch.zeros(1)) and conv3x3.supports(torch.float32)


def _filtered() -> bool:
    return _supported() and conv_taps._supported() & 6 == 4


plain = pytest.mark.skipif(not _supported(), reason="needs the native ops on a CPU with AVX2 or AVX-512")
strided = pytest.mark.skipif(not _filtered(), reason="needs the native ops on a CPU with AVX2 or AVX-512, without AMX")


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def turned(w, flip, swap):
    """The kernel [O, I, 3, 3] that PyTorch is to be given for those two."""
    w = w.flip([2, 3]) if flip else w
    return w.transpose(0, 1) if swap else w


def by_ops(x, gy, w, stride, pad, flip=False, swap=False, gain=1.0):
    """The convolution, its input gradient and its weight gradient."""
    if stride == 1:
        return (
            ops.conv3x3(x, w, gain, False),
            ops.conv3x3(gy, w, gain, True),
            ops.conv3x3_wgrad(x, gy, gain),
        )
    window = [2, *pad]
    return (
        ops.conv_taps(x, w, gain, window, False, flip, swap, gy.shape[2:]),
        ops.conv_taps(gy, w, gain, window, True, flip, not swap, x.shape[2:]),
        ops.conv_taps_wgrad(x, gy, gain, window, flip, swap, [3, 3]),
    )


def exactly(x, gy, w, stride, pad, flip=False, swap=False, gain=1.0):
    """The same in float64."""
    leaf = x.double().requires_grad_()
    kernel = (turned(w.double(), flip, swap) * gain).requires_grad_()
    y = F.conv2d(leaf, kernel, stride=stride, padding=pad)
    gx, gw = torch.autograd.grad(y, [leaf, kernel], gy.double())
    gw = turned(gw, False, swap) * gain
    return y.detach(), gx, gw.flip([2, 3]) if flip else gw


def close(got, exact, times=16.0, squares=None):
    """Errors relative to the root mean square of the exact result; a misplaced pixel would be a million times that.
    squares: the same of squared operands, whose root is what sums of so many products are expected to be; a few results
    may all be small by chance."""
    assert got.shape == exact.shape and got.dtype == torch.float32
    if got.numel() == 0:
        return
    mean = exact.square().mean()
    error, scale = got.detach().double() - exact, (mean if squares is None else max(mean, squares.mean())).sqrt()
    few = 3 if got.numel() < 32 else 1
    assert error.square().mean().sqrt() <= few * times * UNIT * scale
    assert error.abs().max() <= 12 * few * times * UNIT * scale


sizes = st.tuples(st.integers(1, 3), st.integers(1, 80), st.integers(1, 80), st.integers(1, 13), st.integers(1, 13))


@plain
@settings(max_examples=40, deadline=None)
@given(sizes, st.sampled_from([1.0, 0.03]), st.integers(0, 99))
def test_stride_1_of_any_shape(size, gain, seed):
    n, i, o, height, width = size
    x, gy = normal(n, i, height, width, seed=seed), normal(n, o, height, width, seed=seed + 1)
    w = normal(o, i, 3, 3, seed=seed + 2)
    squares = exactly(x.square(), gy.square(), w.square(), 1, (1, 1), gain=gain * gain)
    made, exact = by_ops(x, gy, w, 1, (1, 1), gain=gain), exactly(x, gy, w, 1, (1, 1), gain=gain)
    for one, right, expected in zip(made, exact, squares, strict=True):
        close(one, right, times=60, squares=expected)
    assert by_ops(x, gy, w, 1, (1, 1))[0].is_contiguous(memory_format=torch.channels_last)


shapes = st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 70), st.integers(3, 21), st.integers(3, 37))
pads = st.tuples(st.integers(0, 2), st.integers(0, 2))


@strided
@settings(max_examples=40, deadline=None)
@given(shapes, pads, st.booleans(), st.booleans(), st.integers(0, 99))
def test_stride_2_of_any_shape(shape, pad, flip, swap, seed):
    n, i, o, height, width = shape
    size = [(side + 2 * p - 3) // 2 + 1 for side, p in zip((height, width), pad)]
    x, gy = normal(n, i, height, width, seed=seed), normal(n, o, *size, seed=seed + 1)
    w = normal(*((i, o) if swap else (o, i)), 3, 3, seed=seed + 2)
    how = (2, pad, flip, swap)
    squares = exactly(x.square(), gy.square(), w.square(), *how, 0.09)
    for one, right, expected in zip(by_ops(x, gy, w, *how, 0.3), exactly(x, gy, w, *how, 0.3), squares, strict=True):
        close(one, right, times=60, squares=expected)


@plain
@pytest.mark.parametrize(
    "n, i, o, height, width",
    [(2, 64, 64, 40, 37), (1, 256, 192, 16, 16), (4, 513, 512, 4, 4), (1, 1030, 96, 5, 6), (1, 32, 1030, 8, 8)],
)
def test_stride_1_at_sizes_of_the_networks(n, i, o, height, width):
    x, gy, w = normal(n, i, height, width), normal(n, o, height, width, seed=1), normal(o, i, 3, 3, seed=2)
    for got, exact in zip(by_ops(x, gy, w, 1, (1, 1)), exactly(x, gy, w, 1, (1, 1))):
        close(got, exact, times=32)


@strided
@pytest.mark.parametrize("n, i, o, side", [(4, 513, 512, 5), (1, 32, 1030, 9), (2, 256, 96, 33), (3, 64, 64, 131)])
def test_stride_2_at_sizes_of_the_networks(n, i, o, side):
    small = (side - 3) // 2 + 1
    x, gy, w = normal(n, i, side, side), normal(n, o, small, small, seed=1), normal(o, i, 3, 3, seed=2)
    for got, exact in zip(by_ops(x, gy, w, 2, (0, 0)), exactly(x, gy, w, 2, (0, 0))):
        close(got, exact)


@plain
def test_weight_gradient_of_many_tiles():
    """More than are transformed at once, of one sign: sums that grow."""
    x, gy = normal(3, 64, 131, 129).abs(), normal(3, 32, 131, 129, seed=1).abs()
    exact = torch.nn.grad.conv2d_weight(x.double(), (32, 64, 3, 3), gy.double(), padding=1)
    close(ops.conv3x3_wgrad(x, gy, 1.0), exact, times=32)


@plain
@pytest.mark.parametrize("stride", [1, pytest.param(2, marks=strided)])
@pytest.mark.parametrize("kind", ["biased", "styles", "smooth"])
def test_error_is_that_of_float32_for_data_as_in_a_network(kind, stride):
    """At most four times the error of PyTorch's direct float32 convolution."""
    x = normal(2, 128, 25, 25)
    if kind == "biased":
        x = F.leaky_relu(x + 1, 0.2)
    elif kind == "styles":
        x = x * torch.exp(1.5 * normal(2, 128, 1, 1, seed=3))
    else:
        x = F.avg_pool2d(F.pad(x, (3, 3, 3, 3)), 7, 1) * 5 + 1
    pad = (1, 1) if stride == 1 else (0, 0)
    w, gy = normal(96, 128, 3, 3, seed=4), normal(2, 96, *((25, 25) if stride == 1 else (12, 12)), seed=5)
    leaf, kernel = x.clone().requires_grad_(), w.clone().requires_grad_()
    y = F.conv2d(leaf, kernel, stride=stride, padding=pad)
    direct = (y, *torch.autograd.grad(y, [leaf, kernel], gy))
    for ours, pytorchs, exact in zip(by_ops(x, gy, w, stride, pad), direct, exactly(x, gy, w, stride, pad)):
        errors = [(t.detach().double() - exact).norm() for t in (ours, pytorchs)]
        assert errors[0] <= 4 * errors[1]


def second_order(f, x, w):
    """f(x, w), its gradients, and those of the squared norm of the input gradient: what R1 and the path length take."""
    y = f(x, w)
    gy = torch.linspace(-1, 1, y.numel()).sin().reshape(y.shape).to(y.dtype)
    gx, gw = torch.autograd.grad(y, [x, w], gy, create_graph=True)
    second = torch.autograd.grad(gx.square().sum() + gw.square().sum(), [x, w], create_graph=True)
    (third,) = torch.autograd.grad(second[1].square().sum(), w)
    return y, gx, gw, *second, third


@plain
@pytest.mark.parametrize("n, side", [(1, 8), (3, 11), (2, 16)])
@pytest.mark.parametrize("how", ["plain", "up", "down", "modulated, up", "modulated"])
def test_layers_of_the_networks(n, side, how):
    """With the filters and the styles around them, against the definition in float64."""
    f, i, o = fir_taps([1, 3, 3, 1]), 40, 64
    x, w = normal(n, i, side, side).requires_grad_(), normal(o, i, 3, 3, seed=1).requires_grad_()
    s = normal(n, i, seed=2) + 2

    def layer(x, w):
        if how == "plain":
            return convolution.convolve(x, w, convolution.Geometry(1, (1, 1), gain=0.3))
        if how == "down":
            return conv2d_resample(x, w, f.to(w), down=2)
        if how == "up":
            return conv2d_resample(x, w, f.to(w), up=2, flip_weight=False)
        up = 2 if how.endswith("up") else 1
        return modulated_conv2d(x, w, s.to(w.dtype), f.to(w), up=up, flip_weight=up == 1)

    got = second_order(layer, x, w)
    exact = second_order(layer, x.detach().double().requires_grad_(), w.detach().double().requires_grad_())
    for ours, right in zip(got, exact):
        close(ours, right.detach(), times=64)


@plain
@pytest.mark.parametrize("stride", [1, pytest.param(2, marks=strided)])
def test_it_is_what_networks_use(stride):
    x, w = normal(2, 64, 33, 33).requires_grad_(), normal(64, 64, 3, 3, seed=1).requires_grad_()
    with torch.autograd.profiler.profile() as p:
        y = convolution.convolve(x, w, convolution.Geometry(stride, (1, 1)))
        torch.autograd.grad(y.sum(), [x, w])
    names = [e.name for e in p.function_events]
    op = "stylegan2_ada::conv3x3" if conv_taps._supported() & 2 == 0 and stride == 1 else "stylegan2_ada::conv_taps"
    assert names.count(op) == 2 and names.count(f"{op}_wgrad") == 1
    assert not [name for name in names if "mkldnn" in name]


@plain
@pytest.mark.parametrize("stride", [1, pytest.param(2, marks=strided)])
def test_result_depends_neither_on_threads_nor_on_the_rest_of_the_batch(stride):
    pad, small = ((1, 1), (33, 19)) if stride == 1 else ((0, 0), (16, 9))
    x, gy, w = normal(3, 96, 33, 19), normal(3, 80, *small, seed=1), normal(80, 96, 3, 3, seed=2)
    one, before = by_ops(x, gy, w, stride, pad), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        several = by_ops(x, gy, w, stride, pad)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(one, several))
    alone = by_ops(x[1:2], gy[1:2], w, stride, pad)
    assert torch.equal(alone[0], one[0][1:2]) and torch.equal(alone[1], one[1][1:2])


@plain
@pytest.mark.parametrize("empty", ["batch", "inputs", "outputs"])
def test_nothing_to_do(empty):
    n, i, o = (0 if empty == name else 5 for name in ("batch", "inputs", "outputs"))
    y, gx, gw = by_ops(normal(n, i, 5, 4), normal(n, o, 5, 4), normal(o, i, 3, 3), 1, (1, 1))
    assert y.shape == (n, o, 5, 4) and gx.shape == (n, i, 5, 4) and gw.shape == (o, i, 3, 3)
    assert not y.any() and not gx.any() and not gw.any()


@plain
def test_stride_1_is_registered_properly_and_refuses_wrong_operands():
    x, gy = normal(2, 33, 9, 7).requires_grad_(), normal(2, 34, 9, 7, seed=1).requires_grad_()
    w = normal(34, 33, 3, 3, seed=2).requires_grad_()
    torch.library.opcheck(ops.conv3x3, (x, w, 0.5, False))
    torch.library.opcheck(ops.conv3x3, (gy, w, 0.5, True))
    torch.library.opcheck(ops.conv3x3_wgrad, (x, gy, 0.5))
    for arguments, message in [
        ((x.double(), w, 1.0, False), "float32"),
        ((x, w.double(), 1.0, False), "float32"),
        ((x, w[:, :, :2], 1.0, False), "3, 3"),
        ((x, w, 1.0, True), "34 channels"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            ops.conv3x3(*arguments)
    with pytest.raises(RuntimeError, match="same type, batch size"):
        ops.conv3x3_wgrad(x, gy[:1], 1.0)


@strided
def test_stride_2_is_registered_properly_and_refuses_wrong_operands():
    x, gy = normal(2, 33, 9, 7).requires_grad_(), normal(2, 34, 4, 3, seed=1).requires_grad_()
    w = normal(34, 33, 3, 3, seed=2).requires_grad_()
    torch.library.opcheck(ops.conv_taps, (x, w, 0.5, [2, 0, 0], False, True, False, [4, 3]))
    torch.library.opcheck(ops.conv_taps, (gy, w, 0.5, [2, 0, 0], True, False, True, [9, 7]))
    torch.library.opcheck(ops.conv_taps_wgrad, (x, gy, 0.5, [2, 0, 0], True, True, [3, 3]))

    def call(x=x, w=w, window=(2, 0, 0), size=(4, 3)):
        return ops.conv_taps(x, w, 1.0, list(window), False, False, False, list(size))

    for change, message in [
        ({"x": x.double()}, "float32"),
        ({"w": w.double()}, "float32"),
        ({"w": w[:, 1:]}, "32 channels"),
        ({"size": (5, 3)}, "not the size"),
        ({"window": (2, 3, 3)}, "not the size"),
        ({"window": (2, 0)}, "window"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            call(**change)
