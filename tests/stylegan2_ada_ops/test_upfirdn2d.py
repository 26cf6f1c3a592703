"""upfirdn2d, native, torch and reference, against the recorded numbers and its definition written out in numpy."""

import importlib
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stylegan2_ada.ada_filters import SYM6
from stylegan2_ada.ops import fir_kernels as kernels
from stylegan2_ada.ops.native import status
from stylegan2_ada.ops.upfirdn2d import downsample2d, fir_taps, upfirdn2d, upsample2d

module = importlib.import_module("stylegan2_ada.ops.upfirdn2d")
needs_native = pytest.mark.skipif(not status("cpu").native, reason=f"no native ops here: {status('cpu').why}")
PATHS = [pytest.param("native", marks=needs_native), "torch", "reference"]


@contextmanager
def forced(path):
    """Only this implementation, whatever the environment says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "use_native", lambda x: path == "native")
        patch.setattr(module, "path", lambda: path)
        yield


@pytest.fixture(params=PATHS)
def path(request):
    with forced(request.param):
        yield request.param


def definition(x, f, up, down, padding, flip_filter, gain):
    """Insert zeros, pad or crop, correlate at every place, keep every down-th: float64 numpy, nothing clever."""
    f = np.outer(f, f) if f.ndim == 1 else f
    f = f if flip_filter else f[::-1, ::-1]
    (ux, uy), (dx, dy), (x0, x1, y0, y1) = up, down, padding
    n, c, h, w = x.shape
    u = np.zeros((n, c, h * uy, w * ux))
    u[:, :, ::uy, ::ux] = x
    u = np.pad(u, [(0, 0), (0, 0), (max(y0, 0), max(y1, 0)), (max(x0, 0), max(x1, 0))])
    u = u[:, :, max(-y0, 0) : u.shape[2] - max(-y1, 0), max(-x0, 0) : u.shape[3] - max(-x1, 0)]
    if u.shape[0] * u.shape[1] == 0:
        return np.zeros((n, c, (u.shape[2] - f.shape[0]) // dy + 1, (u.shape[3] - f.shape[1]) // dx + 1))
    windows = np.lib.stride_tricks.sliding_window_view(u, f.shape, axis=(2, 3))[:, :, ::dy, ::dx]
    return np.einsum("nchwij,ij->nchw", windows, f) * gain


def test_golden(golden, path):
    cases, arrays = golden("upfirdn2d")
    assert len(cases) == 61
    for case in cases:
        f = None if case["taps"] is None else fir_taps(case["taps"])
        if f is not None:
            torch.testing.assert_close(f, torch.tensor(case["normalized_filter"]), rtol=0, atol=1e-7)
        key = case["id"]
        x = torch.tensor(arrays[f"{key}.x"], requires_grad=True)
        y = upfirdn2d(
            x,
            f,
            up=case["up"],
            down=case["down"],
            padding=case["padding_x0_x1_y0_y1"],
            flip_filter=case["flip_filter"],
            gain=case["gain"],
        )
        (gx,) = torch.autograd.grad(y, x, torch.tensor(arrays[f"{key}.gy"]))
        torch.testing.assert_close(
            y, torch.tensor(arrays[f"{key}.y"]), rtol=0, atol=1e-6, msg=lambda m, case=case: f"{case}: {m}"
        )
        torch.testing.assert_close(
            gx, torch.tensor(arrays[f"{key}.gx"]), rtol=0, atol=1e-6, msg=lambda m, case=case: f"{case}: {m}"
        )
        for layout in (torch.contiguous_format, torch.channels_last):
            x32 = x.detach().float().contiguous(memory_format=layout)
            y32 = upfirdn2d(
                x32,
                f,
                up=case["up"],
                down=case["down"],
                padding=case["padding_x0_x1_y0_y1"],
                flip_filter=case["flip_filter"],
                gain=case["gain"],
            )
            assert (y32 - y).abs().max() <= 1e-5 * y.abs().max(), case


@st.composite
def problems(draw):
    """An image shape, a filter and arguments of `upfirdn2d` that leave at least one sample."""
    separable = draw(st.booleans())
    fh, fw = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    if separable:
        fw = fh
    factor = st.tuples(st.integers(1, 4), st.integers(1, 4))
    up, down = draw(factor), draw(factor)
    n, c = draw(st.integers(0, 2)), draw(st.sampled_from([1, 3, 9]))
    h, w = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    padding = []
    for size, u, k in ((w, up[0], fw), (h, up[1], fh)):
        before = draw(st.integers(-min(size * u, 5), 7))
        # np.pad's crop cannot pass the far edge either: keep what is cropped within the image.
        least = max(k - size * u - before, -(size * u - max(-before, 0)))
        padding += [before, draw(st.integers(least, max(least, 0) + 7))]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    f = rng.normal(size=fh if separable else (fh, fw)).astype(np.float32)
    if not separable and draw(st.booleans()):  # a product, which takes the separable kernels
        f = np.outer(f[:, 0], f[0]).astype(np.float32)
    layout = draw(st.sampled_from(["contiguous", "channels_last", "strided", "expanded"]))
    x = rng.normal(size=(n, c, h, w))
    kwargs = {
        "up": up,
        "down": down,
        "padding": tuple(padding),
        "flip_filter": draw(st.booleans()),
        "gain": draw(st.sampled_from([1.0, -0.5, 4.0])),
    }
    return x, f, layout, kwargs


def laid_out(x: np.ndarray, layout: str) -> torch.Tensor:
    t = torch.tensor(x)
    if layout == "channels_last":
        return t.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        return t.repeat_interleave(2, dim=3)[..., ::2].flip(2).flip(2).transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "expanded":
        return t[:, :1].expand(t.shape)
    return t


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=200, deadline=None)
@given(problem=problems())
def test_matches_the_definition(path, problem):
    with forced(path):
        check_against_the_definition(*problem)


def check_against_the_definition(x, f, layout, kwargs):
    t = laid_out(x, layout).requires_grad_()
    y = upfirdn2d(t, torch.tensor(f), **kwargs)
    expected = definition(t.detach().numpy(), f.astype(np.float64), **kwargs)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y.detach().numpy(), expected, atol=2e-5 * max(1, np.abs(f).max() ** 2))
    # The gradient is the adjoint: <gy, A x> = <A* gy, x>.
    gy = torch.randn(y.shape, dtype=torch.float64)
    (gx,) = torch.autograd.grad(y, t, gy)
    torch.testing.assert_close((gx * t).sum(), (gy * y).sum(), rtol=1e-5, atol=1e-6)


def random_axis(rng, taps):
    while True:
        size, up, down, before, after = rng.integers([1, 1, 1, -4, -4], [40, 5, 5, 8, 8])
        if size * up + before + after >= taps:
            return kernels.Axis(*map(int, (size, up, down, before, (size * up + before + after - taps) // down + 1)))


@pytest.mark.parametrize("channels_last", [False, True])
def test_all_kernels_agree(channels_last):
    rng = np.random.default_rng(0)
    for _ in range(60):
        ky, kx = rng.integers(1, 7, 2)
        gy, gx = rng.normal(size=ky), rng.normal(size=kx)
        y_axis, x_axis = random_axis(rng, ky), random_axis(rng, kx)
        x = torch.tensor(rng.normal(size=(2, 9, y_axis.size, x_axis.size)))
        if channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        pair, f = (tuple(gy), tuple(gx)), torch.tensor(np.outer(gy, gx))
        expected = kernels.matrix(x, *pair, y_axis, x_axis)
        for kernel in (kernels.depthwise, kernels._by_phase):
            torch.testing.assert_close(kernel(x, f, y_axis, x_axis), expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(kernels.shifted(x, *pair, y_axis, x_axis), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "f",
    [fir_taps([1, 3, 3, 1]), fir_taps(SYM6), fir_taps([[1, 2, 0], [-1, 4, 1]])],
    ids=["product", "separable", "general"],
)
@pytest.mark.parametrize(
    "kwargs", [{"up": 2, "padding": 5}, {"down": 2, "padding": 6}, {"up": (1, 3), "down": (2, 1), "padding": 5}]
)
def test_first_and_second_derivative(f, kwargs, path):
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: upfirdn2d(x, f, **kwargs), x)
    assert torch.autograd.gradgradcheck(lambda x: upfirdn2d(x, f, **kwargs), x)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "kwargs", [{"padding": (2, 1, 2, 1)}, {"down": 2, "padding": 1}, {"up": 2, "padding": (2, 1, 2, 1), "gain": 4.0}]
)
@pytest.mark.parametrize("size", [6, 33, 70])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("path", PATHS[:2])
def test_every_kernel_choice_in_low_precision(path, dtype, size, kwargs, layout):
    with forced(path):
        check_low_precision(dtype, size, kwargs, layout)


def check_low_precision(dtype, size, kwargs, layout):
    f = fir_taps([1, 3, 3, 1])
    for channels in (3, 70):
        x = torch.randn(1, channels, size, size).to(dtype).contiguous(memory_format=layout).requires_grad_()
        y = upfirdn2d(x, f, **kwargs)
        (gx,) = torch.autograd.grad(y.sum(), x)
        exact = x.detach().double().requires_grad_()
        y64 = upfirdn2d(exact, f, **kwargs)
        (gx64,) = torch.autograd.grad(y64.sum(), exact)
        assert y.dtype == gx.dtype == dtype
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(y.double(), y64, rtol=0, atol=16 * eps)
        torch.testing.assert_close(gx.double(), gx64, rtol=0, atol=16 * eps)


@pytest.mark.parametrize("path", PATHS[:2])
def test_channels_last_is_kept(path):
    with forced(path):
        check_layout()


def check_layout():
    x = torch.randn(2, 16, 12, 12).contiguous(memory_format=torch.channels_last)
    for dtype in (torch.float32, torch.bfloat16):
        for kwargs in ({"padding": 1}, {"down": 2}, {"up": 2, "padding": 2}):
            y = upfirdn2d(x.to(dtype), fir_taps([1, 3, 3, 1]), **kwargs)
            assert y.is_contiguous(memory_format=torch.channels_last)


def test_result_computed_in_inference_mode_does_not_poison_training(path):
    x = torch.randn(1, 1, 11, 13)
    f = fir_taps([1, 4, 1])
    with torch.inference_mode():
        upfirdn2d(x, f, padding=1)
    x.requires_grad_()
    upfirdn2d(x, f, padding=1).square().sum().backward()
    assert x.grad.isfinite().all()


def test_functional_gradient_and_compiled_graph_agree_with_eager(path):
    f = fir_taps([1, 3, 3, 1])
    x = torch.randn(1, 2, 8, 8, dtype=torch.float64)

    def energy(x):
        return upfirdn2d(x, f, up=2, padding=(2, 1, 2, 1)).square().sum()

    eager = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(energy(eager), eager)
    torch.testing.assert_close(torch.func.grad(energy)(x), expected)
    compiled = torch.compile(lambda x: upfirdn2d(x, f, up=2, padding=(2, 1, 2, 1)), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), upfirdn2d(x, f, up=2, padding=(2, 1, 2, 1)))


@pytest.mark.parametrize("taps", [[1, 3, 3, 1], [1, 2, 1], [1], [1, 4, 6, 4, 1], SYM6])
def test_helpers_keep_sizes_and_brightness(taps):
    f = fir_taps(taps)
    x = torch.ones(1, 1, 32, 30)
    assert upsample2d(x, f).shape == (1, 1, 64, 60)
    assert downsample2d(x, f).shape == (1, 1, 16, 15)
    assert downsample2d(x, f, crop=3).shape == (1, 1, 13, 12)
    if len(taps) > 1:  # else zeros remain between the pixels
        torch.testing.assert_close(upsample2d(x, f)[..., 8:-8, 7:-7], torch.ones(1, 1, 48, 46), rtol=0, atol=1e-5)
    torch.testing.assert_close(downsample2d(x, f)[..., 7:9, 7:8], torch.ones(1, 1, 2, 1), rtol=0, atol=1e-5)


def test_enlarged_then_shrunk_image_stays_in_place():
    """Both helpers keep the centre: a symmetric image stays symmetric."""
    f = fir_taps([1, 3, 3, 1])
    x = torch.randn(1, 1, 8, 8)
    x = x + x.flip(3)
    for y in (upsample2d(x, f), downsample2d(x, f), downsample2d(upsample2d(x, f), f)):
        torch.testing.assert_close(y, y.flip(3))


def test_fir_taps():
    assert fir_taps([1, 3, 3, 1]).shape == (4, 4)
    assert fir_taps(SYM6).shape == (12,)
    assert fir_taps([1, 3]).tolist() == [[0.0625, 0.1875], [0.1875, 0.5625]]
    assert fir_taps([[1, 2], [3, 2]]).tolist() == [[0.125, 0.25], [0.375, 0.25]]


@pytest.mark.parametrize(
    "call",
    [
        lambda: fir_taps([]),
        lambda: fir_taps([1, -1]),
        lambda: fir_taps([[[1]]]),
        lambda: upfirdn2d(torch.ones(1, 3, 3), None),
        lambda: upfirdn2d(torch.ones(1, 1, 3, 3, dtype=torch.int64), None),
        lambda: upfirdn2d(torch.ones(1, 1, 3, 3), None, up=0),
        lambda: upfirdn2d(torch.ones(1, 1, 3, 3), None, down=(1, 2, 3)),
        lambda: upfirdn2d(torch.ones(1, 1, 3, 3), None, padding=(1, 2, 3)),
        lambda: upfirdn2d(torch.ones(1, 1, 3, 3), fir_taps([1, 3, 3, 1])),
        lambda: upfirdn2d(torch.ones(1, 1, 3, 3), None, padding=-2),
    ],
)
def test_bad_arguments_are_one_line_errors(call, path):
    with pytest.raises(ValueError) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("down", [1, 2])
def test_results_larger_than_the_caches(dtype, down):
    """Which are stored past them: 17 MB, compared with a depthwise convolution of PyTorch's."""
    f = fir_taps([1, 3, 3, 1])
    channels, size = (64, 186) if down == 1 else (64, 369)
    channels *= 4 // dtype.itemsize
    x = torch.randn(2, channels, size, size).to(dtype).contiguous(memory_format=torch.channels_last)
    y = upfirdn2d(x, f, down=down, padding=[1, 2, 2, 1])
    assert y.numel() * y.element_size() > 16 << 20
    taps = f if f.ndim == 2 else torch.outer(f, f)
    padded = torch.nn.functional.pad(x.float(), [1, 2, 2, 1])
    expected = torch.nn.functional.conv2d(padded, taps.expand(channels, 1, 4, 4), stride=down, groups=channels)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(y.float(), expected, rtol=2 * eps, atol=4 * eps)
