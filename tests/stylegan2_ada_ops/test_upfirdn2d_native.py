"""The native operator stylegan2_ada::upfirdn2d: every way through its CPU kernel, its derivatives, its manners."""

import importlib

import numpy as np
import pytest
import scipy.signal
import torch

from stylegan2_ada.ada_filters import SYM6
from stylegan2_ada.ops import reference
from stylegan2_ada.ops.native import status, use_native
from stylegan2_ada.ops.upfirdn2d import fir_taps, upfirdn2d

pytestmark = pytest.mark.skipif(not status("cpu").native, reason=f"no native ops here: {status('cpu').why}")
module = importlib.import_module("stylegan2_ada.ops.upfirdn2d")
op = torch.ops.stylegan2_ada.upfirdn2d.default
FOUR = fir_taps([1, 3, 3, 1])
RESAMPLINGS = [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (1, 3), (3, 2), (2, 3)]


@pytest.fixture(autouse=True)
def native(monkeypatch):
    monkeypatch.setattr(module, "use_native", lambda x: True)


def exact(x, f, up=1, down=1, padding=0, flip_filter=False, gain=1.0):
    """The plain definition in float64. Crops after padding, so that what is cropped may exceed the image."""
    up, down = module._pair(up, "up"), module._pair(down, "down")
    pads = module._padding(padding)
    more = [max(0, -p) for p in pads]
    lowest = reference.upfirdn2d(
        x.double(), torch.ones(1), up, (1, 1), tuple(p + m for p, m in zip(pads, more)), True, 1.0
    )
    u = lowest[:, :, more[2] : lowest.shape[2] - more[3], more[0] : lowest.shape[3] - more[1]]
    return reference.upfirdn2d(u, f.double(), (1, 1), down, (0, 0, 0, 0), flip_filter, gain)


def layouts(x):
    """The same image in all the ways it may lie in memory."""
    n, c, h, w = x.shape
    yield x.contiguous()
    yield x.contiguous(memory_format=torch.channels_last)
    wide = torch.full((n + 1, c + 3, h + 2, w + 5), float("nan"), dtype=x.dtype)
    for layout in (torch.contiguous_format, torch.channels_last):
        view = wide.contiguous(memory_format=layout)[1:, 2:-1, 1:-1, 3:-2]
        view.copy_(x)
        yield view
    yield x.transpose(2, 3).contiguous().transpose(2, 3)
    yield x.flip(0).flip(0)[:, :, :, :].permute(1, 0, 2, 3).contiguous().permute(1, 0, 2, 3)


FILTERS = {
    "symmetric": FOUR,
    "lopsided": fir_taps([1, 2, -4, 5]),
    "one row": fir_taps(SYM6),
    "no product": fir_taps([[1, 2, 0, 3], [-1, 4, 1, 1]]),
}


@pytest.mark.parametrize("f", FILTERS.values(), ids=FILTERS)
@pytest.mark.parametrize(("up", "down"), RESAMPLINGS)
@pytest.mark.parametrize("channels", [1, 3, 20, 70])
def test_all_ways_through_the_kernel(channels, up, down, f):
    """Packed small planes, long rows, few and many channels, filters in and out of registers, in every layout."""
    rng = np.random.default_rng(channels * 100 + up * 10 + down)
    for n, h, w in ((2, 1, 2), (2, 7, 5), (1, 19, 26)):
        padding = rng.integers(-3, 7, 4)
        padding[1] = max(padding[1], f.shape[-1] - w * up - padding[0])
        padding[3] = max(padding[3], f.shape[0] - h * up - padding[2])
        kwargs = {"up": up, "down": down, "padding": tuple(padding), "gain": 2.0, "flip_filter": bool(h % 2)}
        x = torch.tensor(rng.normal(size=(n, channels, h, w)).round(1) * 10).div(8).float()  # exact in 16 bits, too
        expected = exact(x, f, **kwargs)
        scale = expected.abs().max()
        for view in layouts(x):
            y = upfirdn2d(view, f, **kwargs)
            assert (y - expected).abs().max() <= 1e-6 * scale
            for dtype in (torch.bfloat16, torch.float16):
                low = upfirdn2d(view.to(dtype), f, **kwargs)
                assert low.dtype == dtype
                assert (low - expected).abs().max() <= 0.51 * torch.finfo(dtype).eps * scale + 1e-6


def test_float64_is_exact():
    f = fir_taps([[1, 2, 0], [-1, 4, 1]]).double() / 3
    for up, down in RESAMPLINGS:
        x = torch.randn(2, 5, 9, 8, dtype=torch.float64)
        y = upfirdn2d(x, f, up=up, down=down, padding=3)
        torch.testing.assert_close(y, exact(x, f, up, down, 3), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("up", "down"), RESAMPLINGS)
def test_scipy(up, down, layout):
    """Full convolution along both axes, as scipy.signal.upfirdn does it."""
    f = fir_taps(SYM6)
    x = torch.randn(1, 18, 13, 10).contiguous(memory_format=layout)
    k = len(f)
    taps = f.double().numpy()
    expected = x.double().numpy()
    for axis in (2, 3):
        expected = scipy.signal.upfirdn(taps, expected, up, down, axis=axis)
    y = upfirdn2d(x, f, up=up, down=down, padding=(k - 1, k - up, k - 1, k - up))
    np.testing.assert_allclose(y.numpy(), expected, atol=2e-6)


def test_whole_range_of_sizes():
    for shape, kwargs in (
        ((0, 3, 5, 5), {"padding": 2}),
        ((2, 0, 5, 5), {"up": 2, "padding": 2}),
        ((1, 1, 1, 1), {"padding": 5}),
        ((1, 1, 3, 3), {"padding": (40, 50, 60, 70), "down": 7}),  # filters larger than the image, mostly zeros
        ((1, 2, 4, 4), {"padding": (-9, 20, 20, -9)}),  # nothing of the image is left
        ((1, 2, 4, 4), {"up": 5, "padding": (-19, 19, 3, 3)}),
        ((1, 5000, 3, 4), {"padding": 2}),
        ((1, 1, 2, 30000), {"up": 2, "padding": 2}),
        ((1, 3, 2, 9000), {"down": 2, "padding": 2}),
        ((1, 40, 1, 700), {"up": 3, "down": 2, "padding": 2}),
    ):
        x = torch.randn(shape)
        for view in (x, x.contiguous(memory_format=torch.channels_last)):
            y = upfirdn2d(view, FOUR, **kwargs)
            if 0 in shape:
                assert y.shape[:2] == shape[:2] and y.numel() == 0 and y.shape[2] > 1
            else:
                torch.testing.assert_close(y.double(), exact(x, FOUR, **kwargs), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("channels", [3, 48])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_infinities_and_nan_reach_as_far_as_the_filter(layout, channels, dtype):
    """No product with a zero that is not in the definition."""
    for up, down in RESAMPLINGS[:3]:
        x = torch.randn(1, channels, 9, 29).to(dtype).contiguous(memory_format=layout)
        x[0, 1, 0, 0], x[0, 2, 8, 28], x[0, 0, 4, 13] = float("inf"), float("nan"), -float("inf")
        y = upfirdn2d(x, FOUR, up=up, down=down, padding=2)
        reached = exact((~x.isfinite()).double(), FOUR, up, down, 2) > 0
        assert torch.equal(~y.isfinite(), reached)
        nan = exact(x.isnan().double(), FOUR, up, down, 2) > 0
        assert y[nan].isnan().all()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_threads_change_nothing(layout):
    before = torch.get_num_threads()
    try:
        for channels in (3, 40):
            x = torch.randn(3, channels, 65, 70).contiguous(memory_format=layout)
            for kwargs in ({"padding": 1}, {"up": 2, "padding": 2}, {"down": 2}, {"down": 3, "up": 2, "padding": 3}):
                torch.set_num_threads(1)
                expected = upfirdn2d(x, FOUR, **kwargs)
                torch.set_num_threads(3)
                assert torch.equal(upfirdn2d(x, FOUR, **kwargs), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("up", "down"), RESAMPLINGS[:4])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradient_is_the_adjoint(layout, up, down):
    """<gy, A x> = <A* gy, x> where the kernel keeps all in registers, and A* A has the right second derivative."""
    x = torch.randn(2, 64, 17, 19).contiguous(memory_format=layout).requires_grad_()
    y = upfirdn2d(x, FOUR, up=up, down=down, padding=(2, 1, 0, 3))
    gy = torch.randn_like(y).requires_grad_()
    (gx,) = torch.autograd.grad(y, x, gy, create_graph=True)
    assert gx.is_contiguous(memory_format=layout)
    torch.testing.assert_close((gx.double() * x).sum(), (gy.double() * y).sum(), rtol=1e-5, atol=1e-4)
    v = torch.randn_like(gx)
    (ggy,) = torch.autograd.grad(gx, gy, v)
    torch.testing.assert_close(ggy, upfirdn2d(v, FOUR, up=up, down=down, padding=(2, 1, 0, 3)))


def sample_arguments():
    for dtype in (torch.float32, torch.bfloat16):
        for layout in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(2, 3, 6, 5).to(dtype).contiguous(memory_format=layout)
            yield x, FOUR, 2, 1, 1, 2, 2, 1, 3, 10, False, 2.0
    yield torch.randn(1, 2, 4, 4).transpose(2, 3), fir_taps(SYM6), 1, 1, 1, 1, 6, 6, 5, 5, True, -1.0


def test_operator_keeps_to_pytorchs_rules():
    for arguments in sample_arguments():
        torch.library.opcheck(op, arguments, test_utils=("test_schema", "test_faketensor"))
    x, *rest = next(sample_arguments())
    torch.library.opcheck(op, (x.requires_grad_(), *rest))


def test_operator_refuses_what_it_cannot_do():
    x = torch.ones(1, 1, 4, 4)
    for bad in (
        (x[0], FOUR, 1, 1, 1, 1, 0, 0, 1, 1, False, 1.0),
        (x, FOUR.half(), 1, 1, 1, 1, 0, 0, 1, 1, False, 1.0),
        (x, FOUR[None], 1, 1, 1, 1, 0, 0, 1, 1, False, 1.0),
        (x, FOUR[:0], 1, 1, 1, 1, 0, 0, 1, 1, False, 1.0),
        (x, FOUR, 0, 1, 1, 1, 0, 0, 1, 1, False, 1.0),
        (x, FOUR, 1, 1, 1, 1, 0, 0, -1, 1, False, 1.0),
        (x.int(), FOUR, 1, 1, 1, 1, 0, 0, 1, 1, False, 1.0),
    ):
        with pytest.raises(RuntimeError, match="stylegan2_ada::upfirdn2d takes"):
            op(*bad)


def test_compiled_exported_autocast(monkeypatch):
    """Dispatch by the true switch: the operator is one node of the graph, and works in the dtype it is given."""
    monkeypatch.undo()
    x = torch.randn(1, 20, 8, 8)
    if not use_native(x):
        pytest.skip("STYLEGAN_OPS forbids native ops")

    def f(x):
        return upfirdn2d(x, FOUR, up=2, padding=(2, 1, 2, 1)) * 2

    expected = exact(x, FOUR, 2, 1, (2, 1, 2, 1)).float() * 2
    compiled = torch.compile(f, backend="aot_eager", fullgraph=True, dynamic=True)
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(compiled(leaf), expected)
    (gx,) = torch.autograd.grad(compiled(leaf).sum(), leaf)
    (expected_gx,) = torch.autograd.grad(f(leaf).sum(), leaf)
    torch.testing.assert_close(gx, expected_gx)
    torch.testing.assert_close(compiled(x[..., :6, :7]), f(x[..., :6, :7]))

    def slope(x):
        return torch.func.grad(lambda x: f(x).square().sum())(x)

    torch.testing.assert_close(torch.compile(slope, backend="aot_eager", fullgraph=True)(x), slope(x))

    class Up(torch.nn.Module):
        def forward(self, x):
            return f(x)

    program = torch.export.export(Up(), (x,))
    assert [n.target for n in program.graph.nodes if n.op == "call_function"][0] is op
    torch.testing.assert_close(program.module()(x), expected)

    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16):
            y = upfirdn2d(x.to(dtype), FOUR, up=2, padding=(2, 1, 2, 1))
        assert y.dtype == dtype and y.shape == (1, 20, 16, 16)


def test_half_precision_filters_and_doubles():
    """A module cast to half casts its filters, too."""
    x = torch.randn(1, 2, 9, 9)
    for f in (FOUR.half(), FOUR.double(), FOUR.bfloat16()):
        torch.testing.assert_close(upfirdn2d(x, f, padding=1), exact(x, FOUR, padding=1).float())
