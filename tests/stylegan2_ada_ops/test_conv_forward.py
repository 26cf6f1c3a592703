import pytest
import torch
import torch.nn.functional as F

from stylegan2_ada.ops import conv_forward
from stylegan2_ada.ops.conv_forward import applies, convolve, pool, prepare

LAST = torch.channels_last
WINDOWS = [  # taps, padding, stride, worst error of normal data in units of the greatest result
    ((1, 1), (0, 0), 1, 2e-6),
    ((3, 3), (1, 1), 1, 4e-6),
    ((3, 3), (0, 0), 1, 4e-6),
    ((5, 5), (2, 2), 1, 1e-5),
    ((1, 7), (0, 3), 1, 2e-5),
    ((7, 1), (3, 0), 1, 2e-5),
    ((1, 3), (0, 1), 1, 4e-6),
    ((3, 1), (1, 0), 1, 4e-6),
    ((3, 3), (0, 0), 2, 2e-6),
    ((3, 5), (1, 2), 3, 2e-6),
]
SHAPES = [  # n, in, out, height, width
    (2, 32, 48, 17, 17),
    (1, 20, 37, 9, 13),
    (9, 3, 5, 7, 31),
    (3, 33, 100, 5, 5),
]


@pytest.fixture(autouse=True)
def native_code():
    if not applies(torch.zeros(1)):
        pytest.skip("no native code for this processor")


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def definition(x, w, b, padding, stride):
    return F.conv2d(x.double(), w.double(), b.double(), stride, padding)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("taps", "padding", "stride", "worst"), WINDOWS)
def test_equals_float64(taps, padding, stride, worst, shape):
    n, inputs, outputs, height, width = shape
    x, w, b = normal(n, inputs, height, width).to(memory_format=LAST), normal(outputs, inputs, *taps), normal(outputs)
    wanted = definition(x, w, b, padding, stride)
    conv = prepare(w, b, padding, stride)
    assert conv.out_size(height, width) == wanted.shape[2:]
    for relu in (False, True):
        y = torch.full(wanted.shape, torch.nan).to(memory_format=LAST)
        convolve(x, [conv], [relu], [y])
        error = (y - (wanted.relu() if relu else wanted)).abs().max() / wanted.abs().max()
        assert error < worst, float(error)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 6), (4, 4), (3, 11)])
@pytest.mark.parametrize(("taps", "padding", "stride", "worst"), [w for w in WINDOWS if w[1] != (0, 0)])
def test_images_smaller_than_a_tile(taps, padding, stride, worst, size):
    x, w, b = normal(2, 16, *size).to(memory_format=LAST), normal(16, 16, *taps), normal(16)
    wanted = definition(x, w, b, padding, stride)
    y = torch.empty(wanted.shape).to(memory_format=LAST)
    convolve(x, [prepare(w, b, padding, stride)], [False], [y])
    assert (y - wanted).abs().max() / wanted.abs().max() < worst


@pytest.mark.parametrize("batch", range(1, 10))
def test_batches(batch):
    w, b = normal(24, 16, 3, 3), normal(24)
    x = normal(batch, 16, 11, 6).to(memory_format=LAST)
    conv, y = prepare(w, b, (1, 1)), torch.empty(batch, 24, 11, 6).to(memory_format=LAST)
    convolve(x, [conv], [False], [y])
    one = torch.empty_like(y)
    for i in range(batch):
        convolve(x[i : i + 1], [conv], [False], [one[i : i + 1]])
    assert torch.equal(y, one)
    torch.testing.assert_close(y, F.conv2d(x, w, b, padding=1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("taps", [(1, 1), (1, 7), (3, 3)])
def test_several_from_and_into_slices_of_channels(taps):
    """Results lie where they should and nowhere else."""
    padding = (taps[0] // 2, taps[1] // 2)
    wide = normal(2, 50, 8, 9).to(memory_format=LAST)
    x, widths = wide[:, 7:40], (20, 3, 48)
    whole = torch.full((2, 80, 8, 9), 7.0).to(memory_format=LAST)
    outs = [whole[:, 2:22], whole[:, 22:25], whole[:, 30:78]]
    weights = [(normal(o, 33, *taps, seed=o), normal(o, seed=o)) for o in widths]
    convolve(x, [prepare(*wb, padding) for wb in weights], [True, False, True], outs)
    for (w, b), relu, out in zip(weights, (True, False, True), outs, strict=True):
        wanted = F.conv2d(x, w, b, padding=padding)
        torch.testing.assert_close(out, wanted.relu() if relu else wanted, rtol=1e-4, atol=2e-4)
    for untouched in (whole[:, :2], whole[:, 25:30], whole[:, 78:]):
        assert bool((untouched == 7).all())


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 2, 0), (3, 1, 1), (5, 3, 2), (2, 2, 1)])
@pytest.mark.parametrize("shape", [(2, 32, 9, 12), (1, 21, 5, 3)])
def test_pools(mean, size, stride, padding, shape):
    x = normal(*shape).to(memory_format=LAST)
    ours = F.avg_pool2d if mean else F.max_pool2d
    extra = {"count_include_pad": False} if mean else {}
    wanted = ours(x.double(), size, stride, padding, **extra)
    whole = torch.full((len(x), x.shape[1] + 6, *wanted.shape[2:]), 7.0).to(memory_format=LAST)
    for relu in (False, True):
        pool(x, whole[:, 2:-4], mean=mean, size=size, stride=stride, padding=padding, relu=relu)
        torch.testing.assert_close(whole[:, 2:-4], (wanted.relu() if relu else wanted).float(), rtol=1e-6, atol=1e-6)
        assert bool((whole[:, :2] == 7).all() and (whole[:, -4:] == 7).all())


def test_nan_and_infinity_are_not_hidden():
    x = torch.zeros(1, 16, 12, 12).to(memory_format=LAST)
    x[0, 3, 5, 5] = torch.nan
    y = torch.empty_like(x)
    convolve(x, [prepare(normal(16, 16, 3, 3), torch.zeros(16), (1, 1))], [True], [y])
    assert bool(y[0, :, 4:7, 4:7].isnan().all())
    for mean in (True, False):
        pool(x, y, mean=mean, padding=1, relu=True)
        assert bool(y[0, 3, 4:7, 4:7].isnan().all()) and not bool(y[0, 4].isnan().any())


def test_threads_give_the_same():
    x, w, b = normal(3, 32, 33, 20).to(memory_format=LAST), normal(64, 32, 3, 3), normal(64)
    conv, before, found = prepare(w, b, (1, 1)), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(torch.empty(3, 64, 33, 20).to(memory_format=LAST))
            convolve(x, [conv], [True], [found[-1]])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_what_does_not_fit_is_refused():
    x, conv = torch.zeros(1, 16, 8, 8).to(memory_format=LAST), prepare(normal(16, 16, 3, 3), normal(16), (1, 1))
    with pytest.raises(RuntimeError, match="another size"):
        convolve(x, [conv], [True], [torch.empty(1, 16, 8, 7).to(memory_format=LAST)])
    with pytest.raises(ValueError, match="do not go with 8 channels"):
        convolve(x[:, :8], [conv], [True], [torch.empty(1, 16, 8, 8).to(memory_format=LAST)])
    with pytest.raises(RuntimeError, match="channels last"):
        convolve(x.contiguous(), [conv], [True], [torch.empty(1, 16, 8, 8)])
    with pytest.raises(RuntimeError, match="no transforms"):
        torch.ops.stylegan2_ada.conv_forward_matrix(3, 3)


def test_without_native_code_pytorch_does_the_same(monkeypatch):
    x, w, b = normal(2, 16, 9, 9).to(memory_format=LAST), normal(20, 16, 1, 7), normal(20)
    fast, plain = (torch.empty(2, 20, 9, 9).to(memory_format=LAST) for _ in range(2))
    pools = [torch.empty(2, 16, 4, 4).to(memory_format=LAST) for _ in range(2)]
    convolve(x, [prepare(w, b, (0, 3))], [True], [fast])
    pool(x, pools[0], mean=False, stride=2)
    monkeypatch.setattr(conv_forward, "use_native", lambda x: False)
    conv = prepare(w, b, (0, 3))
    assert conv.u is None
    convolve(x, [conv], [True], [plain])
    pool(x, pools[1], mean=False, stride=2)
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)
    assert torch.equal(*pools)


def test_ops_are_declared_as_they_behave():
    x, conv = normal(1, 16, 6, 6).to(memory_format=LAST), prepare(normal(8, 16, 3, 3), normal(8), (1, 1))
    out = torch.empty(1, 8, 6, 6).to(memory_format=LAST)
    args = (x, [conv.u], [conv.padded_bias], [1], list(conv.tile), conv.window, [out])
    torch.library.opcheck(torch.ops.stylegan2_ada.conv_forward.default, args)
    pooled = torch.empty(1, 16, 2, 2).to(memory_format=LAST)
    torch.library.opcheck(torch.ops.stylegan2_ada.pool_forward.default, (x, True, [3, 3, 0, 0, 2], False, pooled))
