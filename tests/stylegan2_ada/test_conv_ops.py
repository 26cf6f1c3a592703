"""Resampling and modulated convolution against recorded numbers, a literal evaluation of their definitions, and
finite differences."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from stylegan2_ada.ops.conv2d_resample import conv2d_resample
from stylegan2_ada.ops.modconv_epilogue import scale_channels
from stylegan2_ada.ops.modulated_conv import LayerEnd, modulated_conv2d
from stylegan2_ada.ops.upfirdn2d import fir_taps, margins

TAPS = [1, 3, 3, 1]


def test_recorded_cases(golden):
    cases, arrays = golden("conv")
    assert len(cases) == 11
    for case in cases:
        x, w, s, noise, y = (
            torch.from_numpy(arrays[key]) if (key := f"{case['id']}.{name}") in arrays else None
            for name in ("x", "w", "s", "noise", "y")
        )
        f = fir_taps(case["taps"])
        geometry = {"up": case["up"], "flip_weight": case["correlation"]}
        assert case["padding"] == case["kernel"] // 2
        if case["kind"] == "conv2d_resample":
            results = [conv2d_resample(x, w, f, down=case["down"], **geometry)]
        elif case["demodulate"]:
            end = LayerEnd(noise)
            results = [modulated_conv2d(x, w, s, f, fused=fused, end=end, **geometry) for fused in (False, True)]
        else:  # without it there is only the scaled input, which is `ToRGB`
            results = [conv2d_resample(scale_channels(x, s), w, f, **geometry)]
        for result in results:
            torch.testing.assert_close(result, y, rtol=1e-12, atol=1e-12, msg=lambda m, c=case: f"{c['id']}: {m}")


def literal(x, w, f, up, down, padding, flip_weight, groups):
    """The definition word for word: insert zeros, pad, filter, convolve, filter, drop pixels; in numpy loops over
    taps."""
    n, c, h, width = x.shape
    o, ci, kh, kw = w.shape
    px0, px1, py0, py1 = padding
    fh, fw = f.shape
    u = np.zeros((n, c, h * up, width * up))
    u[:, :, ::up, ::up] = x

    def correlate(a, k):  # k [O, I, kh, kw], groups
        out_h, out_w = a.shape[2] - k.shape[2] + 1, a.shape[3] - k.shape[3] + 1
        g = a.shape[1] // k.shape[1]
        y = np.zeros((n, k.shape[0], out_h, out_w))
        for j in range(g):
            rows = slice(j * k.shape[0] // g, (j + 1) * k.shape[0] // g)
            part = a[:, j * k.shape[1] : (j + 1) * k.shape[1]]
            for p in range(k.shape[2]):
                for q in range(k.shape[3]):
                    y[:, rows] += np.einsum("nchw,oc->nohw", part[:, :, p : p + out_h, q : q + out_w], k[rows, :, p, q])
        return y

    def fir(a):
        return correlate(a, np.broadcast_to(f[None, None, ::-1, ::-1], (a.shape[1], 1, fh, fw)))

    if up > 1:
        px0, px1, py0, py1 = (
            px0 + (fw + up - 1) // 2,
            px1 + (fw - up) // 2,
            py0 + (fh + up - 1) // 2,
            py1 + (fh - up) // 2,
        )
    if down > 1:
        px0, px1 = px0 + (fw - down + 1) // 2, px1 + (fw - down) // 2
        py0, py1 = py0 + (fh - down + 1) // 2, py1 + (fh - down) // 2
    u = F.pad(torch.from_numpy(u), (px0, px1, py0, py1)).numpy()  # negative ones crop
    if up > 1:
        u = fir(u) * up * up
    u = correlate(u, w if flip_weight else w[:, :, ::-1, ::-1])
    if down > 1:
        u = fir(u)[:, :, ::down, ::down]
    return u


@pytest.mark.parametrize("up, down", [(1, 1), (2, 1), (1, 2), (3, 1), (1, 3)])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("flip_weight", [True, False])
def test_definition(up, down, kernel, groups, flip_weight):
    rng = np.random.default_rng(7)
    x, w = rng.normal(size=(2, 4, 6, 7)), rng.normal(size=(6, 4 // groups, kernel, kernel))
    f = fir_taps(TAPS).double()
    y = conv2d_resample(
        torch.from_numpy(x),
        torch.from_numpy(w),
        f,
        up=up,
        down=down,
        groups=groups,
        flip_weight=flip_weight,
    ).numpy()
    expected = literal(x, w, f.numpy(), up, down, (kernel // 2,) * 4, flip_weight, groups)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", [1, 3])
def test_no_filter_and_both_factors(kernel):
    rng = np.random.default_rng(1)
    x = torch.from_numpy(rng.normal(size=(1, 2, 5, 5)))
    w = torch.from_numpy(rng.normal(size=(3, 2, kernel, kernel)))
    f, one = fir_taps(TAPS).double(), np.ones((1, 1))
    for factors, taps in (((1, 1), None), ((2, 1), None), ((1, 2), None), ((3, 1), None), ((2, 2), f), ((1, 3), f)):
        y = conv2d_resample(x, w, taps, up=factors[0], down=factors[1])  # both: the FIR runs once each way
        numbers = one if taps is None else taps.numpy()
        expected = literal(x.numpy(), w.numpy(), numbers, *factors, (kernel // 2,) * 4, True, 1)
        assert y.shape[2] == 5 * factors[0] // factors[1]
        np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("taps", [1, 2, 3, 4, 5, 12])
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_margins(taps, factor):
    """As derived: the filter's middle on the pixel's, or half a sample before it; sizes kept."""
    for up, down in ((factor, 1), (1, factor)):
        before, behind = margins(taps, up=up, down=down)
        late = before - ((taps - 1) / 2 + (up - down) / 2)
        assert late in (0, 0.5)
        assert (12 * up + before + behind - taps) // down + 1 == 12 * up // down


@pytest.mark.parametrize("arguments", [{"up": 0}, {"down": 0}, {"w": torch.zeros(1, 1, 2, 2)}])
def test_wrong_arguments(arguments):
    with pytest.raises(ValueError):
        conv2d_resample(**{"x": torch.zeros(1, 1, 4, 4), "w": torch.zeros(1, 1, 3, 3)} | arguments)
    with pytest.raises(ValueError, match="styles must have shape"):
        modulated_conv2d(torch.zeros(2, 3, 4, 4), torch.zeros(5, 3, 3, 3), torch.zeros(2, 4))


def operands(n=2, i=3, o=4, size=4, up=1, dtype=torch.float64, seed=0):
    rng = torch.Generator().manual_seed(seed)
    make = lambda *shape: torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype)  # noqa: E731
    return make(n, i, size, size), make(o, i, 3, 3), make(n, i) + 1, make(n, 1, size * up, size * up)


def test_equations():
    """Equations 1 to 3 written out: modulate, demodulate and convolve each sample on its own."""
    x, w, s, noise = operands()
    bias = torch.tensor([0.3, -0.2, 0.0, 1.0], dtype=torch.float64)
    for n in range(len(x)):
        modulated = w * s[n].reshape(1, -1, 1, 1)
        demodulated = modulated / (modulated.square().sum(dim=[1, 2, 3], keepdim=True) + 1e-8).sqrt()
        expected = F.conv2d(x[n : n + 1], demodulated, padding=1) + noise[n] + bias.reshape(-1, 1, 1)
        expected = (1.7 * F.leaky_relu(expected, 0.2)).clamp(-2, 2)
        for fused in (False, True):
            y = modulated_conv2d(x, w, s, fused=fused, end=LayerEnd(noise, bias, "lrelu", 1.7, 2))
            torch.testing.assert_close(y[n : n + 1], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("up", [1, 2])
def test_samples_are_independent(fused, up):
    x, w, s, noise = operands(n=3, up=up)
    f = fir_taps(TAPS)
    call = lambda i: modulated_conv2d(x[i], w, s[i], f, up=up, fused=fused, end=LayerEnd(noise[i]))  # noqa: E731
    whole = call(slice(None))
    for i in range(3):
        torch.testing.assert_close(call(slice(i, i + 1)), whole[i : i + 1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("up, fused", [(1, False), (2, False), (1, True)])
def test_gradients_of_both_orders(up, fused):
    x, w, s, noise = (t.requires_grad_() for t in operands(i=2, o=2, size=4 - up, up=up))
    f = fir_taps(TAPS)

    def fn(x, w, s, noise):
        return modulated_conv2d(x, w, s, f, up=up, flip_weight=up == 1, fused=fused, end=LayerEnd(noise))

    assert gradcheck(fn, (x, w, s, noise))
    assert gradgradcheck(fn, (x, w, s, noise))


@pytest.mark.parametrize("up, down, kernel", [(2, 1, 3), (1, 2, 3), (1, 2, 1), (2, 1, 1)])
def test_resample_gradients_of_both_orders(up, down, kernel):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 4, 4, generator=rng, dtype=torch.float64).requires_grad_()
    w = torch.randn(2, 2, kernel, kernel, generator=rng, dtype=torch.float64).requires_grad_()
    f = fir_taps(TAPS)
    fn = lambda x, w: conv2d_resample(x, w, f, up=up, down=down)  # noqa: E731
    assert gradcheck(fn, (x, w))
    assert gradgradcheck(fn, (x, w))


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 0.03), (torch.float16, 0.004)])
def test_low_precision(up, dtype, tolerance):
    x, w, s, noise = operands(i=16, o=16, size=8, up=up)
    f = fir_taps(TAPS)
    exact = modulated_conv2d(x, w, s, f, up=up, end=LayerEnd(noise))
    low = x.to(dtype).contiguous(memory_format=torch.channels_last)
    y = modulated_conv2d(low, w.float(), s.float(), f, up=up, end=LayerEnd(noise))
    assert y.dtype == dtype
    assert (y.double() - exact).abs().max() < tolerance * exact.abs().max()


def test_float16_does_not_overflow():
    """Styles and weights of 500 would overflow a float16 convolution that wasn't normalised before."""
    x, w, s, noise = operands(i=16, o=16, size=4)
    exact = modulated_conv2d(x * 10, w * 500, s * 500, end=LayerEnd(noise))
    y = modulated_conv2d((x * 10).half(), (w * 500).float(), (s * 500).float(), end=LayerEnd(noise))
    torch.testing.assert_close(y.double(), exact, rtol=0.02, atol=0.1)
