"""Convolutions as sums over taps, by AMX and by AVX512-BF16, against float64: values, gradients and theirs."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from stylegan2_ada.ops import conv_taps as module
from stylegan2_ada.ops import convolution
from stylegan2_ada.ops.conv2d_resample import conv2d_resample
from stylegan2_ada.ops.kernel_sums import with_kernel_squares
from stylegan2_ada.ops.modulated_conv import modulated_conv2d
from stylegan2_ada.ops.upfirdn2d import fir_taps

ops = torch.ops.stylegan2_ada
UNIT = 2.0**-9  # half the largest relative error of a rounding to bfloat16
SINGLE = 2.0**-18  # of sums of many products in float32


def _level() -> int:
    return module._supported() if module.use_native(torch.zeros(1, dtype=torch.bfloat16)) else 0


native = pytest.mark.skipif(not _level() & 1, reason="needs the native ops on a CPU with AVX512-BF16")
tiles = pytest.mark.skipif(not _level() & 2, reason="needs a CPU with AMX, and ONEDNN_MAX_CPU_ISA unset")


def normal(*shape, seed=0, dtype=torch.bfloat16):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def turned(w, flip, swap):
    """The kernel [O, I, kh, kw] that PyTorch is to be given for those two."""
    w = w.double()
    w = w.flip([2, 3]) if flip else w
    return w.transpose(0, 1) if swap else w


def in_fixed_point(small, window) -> bool:
    """Whether the weight gradient of bfloat16 images is; test_conv_fixed_strided.py bounds its errors more closely."""
    pixels = small.shape[2] * small.shape[3]
    return bool(ops.conv3x3_supported() & 4) and window[0] == 2 and 64 <= pixels <= 1024


def close(got, exact, scale, error):
    """The root mean square and the largest error against `scale`, the RMS of sums with random signs; the result itself
    may be rounded by `error`, too."""
    assert got.shape == exact.shape
    off = got.detach().double() - exact
    assert off.square().mean().sqrt() <= error * scale
    assert off.abs().max() <= 8 * error * scale + error * exact.abs().max()


def three(x, gy, w, window, flip=False, swap=False, gain=1.0):
    """The convolution, its input and its weight gradient by the ops; their exact values; those of squares; of sizes."""
    s, *pad = window
    got = (
        ops.conv_taps(x, w, gain, window, False, flip, swap, gy.shape[2:]),
        ops.conv_taps(gy, w, gain, window, True, flip, not swap, x.shape[2:]),
        ops.conv_taps_wgrad(x, gy, gain, window, flip, swap, w.shape[2:]),
    )
    exact = []
    for change in (lambda t: t, torch.square, torch.abs):
        leaf, kernel = (change(t.double()).requires_grad_() for t in (x, turned(w, flip, swap) * gain))
        y = F.conv2d(leaf, kernel, stride=s, padding=pad)
        gx, gw = torch.autograd.grad(y, [leaf, kernel], change(gy.double()))
        gw = turned(gw, flip, False) * change(torch.tensor(gain))
        exact.append((y.detach(), gx, gw.transpose(0, 1) if swap else gw))
    return got, *exact


shapes = st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 70), st.integers(3, 21), st.integers(3, 37))
windows = st.tuples(st.sampled_from([1, 2]), st.integers(0, 2), st.integers(0, 2))


@native
@settings(max_examples=40, deadline=None)
@given(shapes, windows, st.sampled_from([1, 3]), st.booleans(), st.booleans(), st.booleans(), st.integers(0, 99))
def test_values_of_any_shape(shape, window, kernel, flip, swap, float32, seed):
    n, i, o, height, width = shape
    s, *pad = window if kernel == 3 else (window[0], 0, 0)
    dtype = torch.float32 if float32 else torch.bfloat16
    size = [(side + 2 * p - kernel) // s + 1 for side, p in zip((height, width), pad)]
    x, gy = normal(n, i, height, width, seed=seed, dtype=dtype), normal(n, o, *size, seed=seed + 1, dtype=dtype)
    w = normal(*((i, o) if swap else (o, i)), kernel, kernel, seed=seed + 2, dtype=torch.float32)
    got, exact, _, sizes = three(x, gy, w, [s, *pad], flip, swap, gain=0.3)
    # by minimal filtering, roundings are of a tile's largest numbers, not of each one's own
    filtered = kernel == 3 and (s == 2 and not _level() & 2 if float32 else bool(ops.conv3x3_supported() & 4))
    fixed = not float32 and kernel == 3 and in_fixed_point(gy, window)
    for ours, right, size, rounded in zip(got, exact, sizes, (4.1 * UNIT, 4.1 * UNIT, UNIT if fixed else SINGLE)):
        size = size.max() if filtered else size
        assert ours.dtype == (torch.float32 if ours is got[2] else dtype) and ours.shape == right.shape
        # the bound of numbers that are each rounded once, as their sum is
        assert ((ours.double() - right).abs() <= (SINGLE if float32 else rounded) * size).all()


@native
@pytest.mark.parametrize("window", [[1, 1, 1], [2, 0, 0]], ids=str)
@pytest.mark.parametrize("n, i, o, side", [(4, 513, 512, 4), (1, 32, 1030, 9), (2, 256, 96, 33), (3, 64, 64, 131)])
def test_sizes_of_the_networks_and_images_of_several_blocks(window, n, i, o, side):
    small = (side + 2 * window[1] - 3) // window[0] + 1
    x, gy, w = normal(n, i, side, side), normal(n, o, small, small, seed=1), normal(o, i, 3, 3, seed=2).float()
    got, exact, squares, _ = three(x, gy, w, window)
    gradient = 0.6 * UNIT if in_fixed_point(gy, window) else 1e-4
    # weights that are bfloat16 already: only the result is rounded; in fixed point the error grows with the channels
    for ours, right, square, error in zip(got, exact, squares, (UNIT, 1.2 * UNIT, gradient)):
        close(ours, right, square.mean().sqrt(), error)


@native
def test_float32_is_float32():
    """Taken as three bfloat16 each, of which two would have 2^-16."""
    x, gy, w = (
        normal(*s, seed=i, dtype=torch.float32) for i, s in enumerate([(2, 96, 9, 9), (2, 64, 9, 9), (64, 96, 3, 3)])
    )
    got, exact, squares, _ = three(x, gy, w, [1, 1, 1])
    for ours, right, square in zip(got, exact, squares):
        assert (ours.double() - right).square().mean().sqrt() < 2.0**-16 * square.mean().sqrt()


@native
@pytest.mark.parametrize("window, transposed", [([1, 1, 1], False), ([2, 0, 0], False), ([2, 0, 0], True)], ids=str)
def test_gradients_and_their_gradients(window, transposed):
    s, *pad = window
    small, large = (2, 48, 4, 5), (2, 32, *((4, 5) if s == 1 else (9, 11)))
    x = normal(*(small if transposed else large)).requires_grad_()
    gy = normal(*(large if transposed else small), seed=1).requires_grad_()
    w = normal(gy.shape[1], x.shape[1], 3, 3, seed=2, dtype=torch.float32).bfloat16().float().requires_grad_()
    x64, gy64, w64 = (t.detach().double().requires_grad_() for t in (x, gy, w))
    y = ops.conv_taps(x, w, 1.0, window, transposed, False, False, gy.shape[2:])
    y64 = (F.conv_transpose2d if transposed else F.conv2d)(
        x64, w64.transpose(0, 1) if transposed else w64, stride=s, padding=pad
    )
    first = torch.autograd.grad(y, [x, w], gy, create_graph=True)
    first64 = torch.autograd.grad(y64, [x64, w64], gy64, create_graph=True)
    to_x, to_w = normal(*x.shape, seed=3), normal(*w.shape, seed=4)
    second = torch.autograd.grad(first, [x, w, gy], [to_x, to_w.float()], create_graph=True)
    second64 = torch.autograd.grad(first64, [x64, w64, gy64], [to_x.double(), to_w.double()], create_graph=True)
    third = torch.autograd.grad(second[0].float().square().sum() + second[1].square().sum(), gy)
    third64 = torch.autograd.grad(second64[0].square().sum() + second64[1].square().sum(), gy64)
    for got, exact in zip([*first, *second, *third], [*first64, *second64, *third64], strict=True):
        close(got, exact.detach(), exact.detach().square().mean().sqrt(), 3 * UNIT)
    assert [t.dtype for t in second] == [torch.bfloat16, torch.float32, torch.bfloat16]


def second_order(f, x, w):
    """f(x, w), its gradients, and those of the squared norm of the input gradient: what R1 and the path length take."""
    y = f(x, w)
    gy = torch.linspace(-1, 1, y.numel()).sin().reshape(y.shape).bfloat16().to(y.dtype)
    gx, gw = torch.autograd.grad(y, [x, w], gy, create_graph=True)
    (second,) = torch.autograd.grad(gx.to(w.dtype).square().sum(), w)
    return y, gx, gw, second


@native
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("n, side", [(1, 4), (3, 7), (2, 16)])
@pytest.mark.parametrize("how", ["up", "down", "modulated, up", "modulated"])
def test_layers_of_the_networks(dtype, n, side, how):
    """With the filters and the styles around them, against the definition in float64."""
    f, i, o = fir_taps([1, 3, 3, 1]), 40, 64
    x = normal(n, i, side, side).to(dtype).requires_grad_()
    w = normal(o, i, 3, 3, seed=1).float().requires_grad_()
    s = (normal(n, i, seed=2) + 2).float()

    def layer(x, w):
        if how == "down":
            return conv2d_resample(x, w, f.to(w), down=2)
        if how == "up":
            return conv2d_resample(x, w, f.to(w), up=2, flip_weight=False)
        up = 2 if how.endswith("up") else 1
        return modulated_conv2d(x, w, s.to(w.dtype), f.to(w), up=up, flip_weight=up == 1)

    got = second_order(layer, x, w)
    exact = second_order(layer, x.detach().double().requires_grad_(), w.detach().double().requires_grad_())
    for ours, right in zip(got, exact):
        right = right.detach()
        close(ours, right, right.square().mean().sqrt(), 4 * UNIT if dtype == torch.bfloat16 else 4 * SINGLE)


@native
def test_groups_and_few_channels_are_pytorchs():
    x, w = normal(2, 64, 8, 8), normal(64, 32, 3, 3, seed=1).float()
    with torch.autograd.profiler.profile() as p:
        conv2d_resample(x, w, fir_taps([1, 3, 3, 1]), down=2, groups=2)
        conv2d_resample(x[:, :3], w[:, :3], fir_taps([1, 3, 3, 1]), down=2)
    assert not [e for e in p.function_events if "conv_taps" in e.name]


@tiles
@pytest.mark.parametrize("stride", [1, 2])
def test_it_is_what_networks_use(stride):
    x, w = normal(2, 64, 9, 9).requires_grad_(), normal(64, 64, 3, 3, seed=1).float().requires_grad_()
    with torch.autograd.profiler.profile() as p:
        y = convolution.convolve(x, w, convolution.Geometry(stride, (1, 1)))
        torch.autograd.grad(y.sum(), [x, w])
    names = [e.name for e in p.function_events]
    assert names.count("stylegan2_ada::conv_taps") == 2 and names.count("stylegan2_ada::conv_taps_wgrad") == 1
    assert not [name for name in names if "mkldnn" in name or "conv3x3" in name]


@native
def test_result_depends_neither_on_threads_nor_on_the_rest_of_the_batch():
    x, gy, w = normal(3, 96, 33, 19), normal(3, 80, 16, 9, seed=1), normal(80, 96, 3, 3, seed=2).float()

    def all_three():
        return three(x, gy, w, [2, 0, 0])[0]

    one, before = all_three(), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        several = all_three()
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(one, several))
    alone = three(x[1:2], gy[1:2], w, [2, 0, 0])[0]
    assert torch.equal(alone[0], one[0][1:2]) and torch.equal(alone[1], one[1][1:2])


@native
def test_infinities_stay_where_they_are():
    """Cells between rows and images are no part of what lies next to them."""
    x, w = normal(2, 32, 6, 6), normal(32, 32, 3, 3, seed=1).float()
    x[0, 0, 0, 0] = float("inf")
    y = ops.conv_taps(x, w, 1.0, [1, 1, 1], False, False, False, [6, 6])
    assert not y[0, :, :2, :2].isfinite().any()
    assert y[1].isfinite().all() and y[0, :, 2:].isfinite().all() and y[0, :, :, 2:].isfinite().all()


@native
@pytest.mark.parametrize("empty", ["batch", "inputs", "outputs"])
def test_nothing_to_do(empty):
    n, i, o = (0 if empty == name else 5 for name in ("batch", "inputs", "outputs"))
    x, gy, w = normal(n, i, 5, 4), normal(n, o, 5, 4, seed=1), torch.randn(o, i, 3, 3)
    y = ops.conv_taps(x, w, 1.0, [1, 1, 1], False, False, False, [5, 4])
    assert y.shape == gy.shape and not y.any()
    gw = ops.conv_taps_wgrad(x, gy, 1.0, [1, 1, 1], False, False, [3, 3])
    assert gw.shape == (o, i, 3, 3) and not gw.any()


@native
def test_ops_are_registered_properly():
    x, gy = normal(2, 33, 9, 7).requires_grad_(), normal(2, 34, 4, 3, seed=1).requires_grad_()
    w = normal(34, 33, 3, 3, seed=2).float().requires_grad_()
    torch.library.opcheck(ops.conv_taps, (x, w, 0.5, [2, 0, 0], False, True, False, [4, 3]))
    torch.library.opcheck(ops.conv_taps, (gy, w, 0.5, [2, 0, 0], True, False, True, [9, 7]))
    torch.library.opcheck(ops.conv_taps_wgrad, (x, gy, 0.5, [2, 0, 0], True, True, [3, 3]))


@native
def test_wrong_operands_are_refused():
    x, w = normal(2, 8, 6, 6), torch.randn(8, 8, 3, 3)

    def call(x=x, w=w, window=(1, 1, 1), size=(6, 6)):
        return ops.conv_taps(x, w, 1.0, list(window), False, False, False, list(size))

    for change, message in [
        ({"x": x.half()}, "bfloat16 or float32"),
        ({"w": w.double()}, "float32"),
        ({"w": torch.randn(8, 7, 3, 3)}, "7 channels"),
        ({"size": (5, 6)}, "not the size"),
        ({"window": (1, 3, 3)}, "not the size"),
        ({"window": (1, 1)}, "window"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            call(**change)
    with pytest.raises(RuntimeError, match="same batch size"):
        ops.conv_taps_wgrad(x, x[:1], 1.0, [1, 1, 1], False, False, [3, 3])


@tiles
def test_all_of_it_without_tiles():
    """The same tests where AMX may not be used."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not registered", __file__],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "passed" in done.stdout, done.stdout[-2000:]


def test_sums_over_kernels_and_their_derivatives():
    w = normal(5, 7, 3, 3, dtype=torch.float32).requires_grad_()
    w64 = w.detach().double().requires_grad_()
    results = []
    for f, leaf in ((lambda w: with_kernel_squares(w)[1], w), (lambda w: w.square().sum(dim=[2, 3]), w64)):
        y = f(leaf)
        (first,) = torch.autograd.grad((y**2).sum(), leaf, create_graph=True)
        (second,) = torch.autograd.grad((first**3).sum(), leaf, create_graph=True)
        (third,) = torch.autograd.grad((second**2).sum(), leaf)
        results.append((y, first, second, third))
    for ours, exact in zip(*results):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=0)
    assert with_kernel_squares(w64)[1].dtype == torch.float64


def test_the_gradient_of_squares_joins_that_of_the_convolution():
    """Also where a gradient is asked for twice, and where only one of the two is used."""
    torch.manual_seed(0)
    x, w = torch.randn(2, 5, 6, 6), torch.randn(4, 5, 3, 3, requires_grad=True)
    for used in ("both", "convolution", "squares"):
        gradients = []
        for leaf, of in ((w, with_kernel_squares), (w.detach().double().requires_grad_(), None)):
            kernel, squares = of(leaf) if of else (leaf, leaf.square().sum(dim=[2, 3]))
            y = convolution.convolve(x.to(leaf.dtype), kernel, convolution.Geometry(1, (1, 1))).square().sum()
            y = (y if used != "squares" else 0) + ((squares**2).sum() if used != "convolution" else 0)
            once, again = (torch.autograd.grad(y, leaf, retain_graph=True)[0] for _ in range(2))
            assert torch.equal(once, again)
            (first,) = torch.autograd.grad(y, leaf, create_graph=True)
            gradients.append((once, first, *torch.autograd.grad((first**2).sum(), leaf)))
        for ours, exact in zip(*gradients, strict=True):
            torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-3)
