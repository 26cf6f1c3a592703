"""Resampling and modulated convolution against recorded numbers, a literal evaluation of their definitions, and
finite differences."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from stylegan2_ada.ops.conv2d_resample import conv2d_resample
from stylegan2_ada.ops.modulated_conv import modulated_conv2d
from stylegan2_ada.ops.upfirdn2d import setup_filter

TAPS = [1, 3, 3, 1]


def test_recorded_cases(golden):
    cases, arrays = golden("conv")
    assert len(cases) == 11
    for case in cases:
        x, w, s, noise, y = (
            torch.from_numpy(arrays[key]) if (key := f"{case['id']}.{name}") in arrays else None
            for name in ("x", "w", "s", "noise", "y")
        )
        f = setup_filter(case["taps"])
        geometry = {"up": case["up"], "padding": case["padding"], "flip_weight": case["correlation"]}
        if case["kind"] == "conv2d_resample":
            results = [conv2d_resample(x, w, f, down=case["down"], **geometry)]
        else:
            results = [
                modulated_conv2d(x, w, s, noise=noise, f=f, demodulate=case["demodulate"], fused=fused, **geometry)
                for fused in (False, True)
            ]
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
    u = np.pad(u, ((0, 0), (0, 0), (py0, py1), (px0, px1)))
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
    f = setup_filter(TAPS).double()
    y = conv2d_resample(
        torch.from_numpy(x),
        torch.from_numpy(w),
        f,
        up=up,
        down=down,
        padding=kernel // 2,
        groups=groups,
        flip_weight=flip_weight,
    ).numpy()
    expected = literal(x, w, f.numpy(), up, down, (kernel // 2,) * 4, flip_weight, groups)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)


def test_asymmetric_padding_and_no_filter():
    rng = np.random.default_rng(1)
    x, w = torch.from_numpy(rng.normal(size=(1, 2, 5, 5))), torch.from_numpy(rng.normal(size=(3, 2, 3, 3)))
    y = conv2d_resample(x, w, padding=(0, 2, 1, 1))
    torch.testing.assert_close(y, F.conv2d(F.pad(x, (0, 2, 1, 1)), w))
    f = setup_filter(TAPS).double()
    y = conv2d_resample(x, w, f, up=2, padding=(2, 1, 0, 3))
    expected = literal(x.numpy(), w.numpy(), f.numpy(), 2, 1, (2, 1, 0, 3), True, 1)
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
    y = conv2d_resample(x, w, f, up=2, down=2, padding=1)  # both: the FIR runs once each way
    expected = literal(x.numpy(), w.numpy(), f.numpy(), 2, 2, (1, 1, 1, 1), True, 1)
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("arguments", [{"up": 0}, {"down": 0}, {"padding": (1, 2, 3)}])
def test_wrong_arguments(arguments):
    with pytest.raises(ValueError):
        conv2d_resample(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 3, 3), **arguments)
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
            y = modulated_conv2d(x, w, s, noise=noise, bias=bias, act="lrelu", gain=1.7, clamp=2, fused=fused)
            torch.testing.assert_close(y[n : n + 1], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("up", [1, 2])
def test_samples_are_independent(fused, up):
    x, w, s, noise = operands(n=3, up=up)
    f = setup_filter(TAPS)
    call = lambda i: modulated_conv2d(x[i], w, s[i], noise=noise[i], up=up, f=f, fused=fused)  # noqa: E731
    whole = call(slice(None))
    for i in range(3):
        torch.testing.assert_close(call(slice(i, i + 1)), whole[i : i + 1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "up, demodulate, fused", [(1, True, False), (2, True, False), (1, False, False), (1, True, True)]
)
def test_gradients_of_both_orders(up, demodulate, fused):
    x, w, s, noise = (t.requires_grad_() for t in operands(i=2, o=2, size=4 - up, up=up))
    f = setup_filter(TAPS)

    def fn(x, w, s, noise):
        return modulated_conv2d(
            x, w, s, noise=noise, up=up, f=f, demodulate=demodulate, flip_weight=up == 1, fused=fused
        )

    assert gradcheck(fn, (x, w, s, noise))
    assert gradgradcheck(fn, (x, w, s, noise))


@pytest.mark.parametrize("up, down, kernel", [(2, 1, 3), (1, 2, 3), (1, 2, 1), (2, 1, 1)])
def test_resample_gradients_of_both_orders(up, down, kernel):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 4, 4, generator=rng, dtype=torch.float64).requires_grad_()
    w = torch.randn(2, 2, kernel, kernel, generator=rng, dtype=torch.float64).requires_grad_()
    f = setup_filter(TAPS)
    fn = lambda x, w: conv2d_resample(x, w, f, up=up, down=down, padding=kernel // 2)  # noqa: E731
    assert gradcheck(fn, (x, w))
    assert gradgradcheck(fn, (x, w))


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 0.03), (torch.float16, 0.004)])
def test_low_precision(up, dtype, tolerance):
    x, w, s, noise = operands(i=16, o=16, size=8, up=up)
    f = setup_filter(TAPS)
    exact = modulated_conv2d(x, w, s, noise=noise, up=up, f=f)
    low = x.to(dtype).contiguous(memory_format=torch.channels_last)
    y = modulated_conv2d(low, w.float(), s.float(), noise=noise, up=up, f=f)
    assert y.dtype == dtype
    assert (y.double() - exact).abs().max() < tolerance * exact.abs().max()


def test_float16_does_not_overflow():
    """Styles and weights of 500 would overflow a float16 convolution that wasn't normalised before."""
    x, w, s, noise = operands(i=16, o=16, size=4)
    exact = modulated_conv2d(x * 10, w * 500, s * 500, noise=noise)
    y = modulated_conv2d((x * 10).half(), (w * 500).float(), (s * 500).float(), noise=noise)
    torch.testing.assert_close(y.double(), exact, rtol=0.02, atol=0.1)
