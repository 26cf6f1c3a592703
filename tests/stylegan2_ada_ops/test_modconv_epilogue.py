"""The fused end of a modulated convolution against its definition in float64, and its derivatives by differences."""

from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from stylegan2_ada.ops import reference
from stylegan2_ada.ops.convolution import input_gradients_only
from stylegan2_ada.ops.modconv_epilogue import modconv_epilogue, scale_channels
from stylegan2_ada.ops.native import use_native

LAYOUTS = (torch.contiguous_format, torch.channels_last)


def operands(shape, dtype=torch.float64, layout=torch.contiguous_format, wide=torch.float64, common_noise=False):
    """y, d, noise, b that require gradients."""
    n, c, h, w = shape
    g = torch.Generator().manual_seed(n + 10 * c + 100 * h + w)
    y = torch.randn(shape, generator=g, dtype=torch.float64).to(dtype).contiguous(memory_format=layout)
    d = torch.rand(n, c, generator=g, dtype=torch.float64).add(0.3).to(wide)
    noise = torch.randn(1 if common_noise else n, 1, h, w, generator=g, dtype=torch.float64).mul(0.3).to(wide)
    b = torch.randn(c, generator=g, dtype=torch.float64).mul(0.3).to(wide)
    return [t.requires_grad_() for t in (y, d, noise, b)]


def defined(y, d, noise, b, act, alpha, gain, clamp):
    if d is not None:
        d = d.to(y.dtype)
    return reference.modconv_epilogue(y, d, noise, b, act, alpha, gain, clamp)


SHAPES = [
    (2, 3, 5, 4),
    (1, 1, 1, 1),
    (3, 1, 1, 7),
    (1, 37, 3, 3),
    (2, 64, 8, 8),
    (1, 600, 5, 5),
    (0, 4, 3, 3),
    (2, 33, 40, 41),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(shape, layout, dtype):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    inputs = operands(shape, dtype, layout, wide, common_noise=shape[0] == 3)
    out = modconv_epilogue(*inputs, act="lrelu", clamp=1.3)
    assert out.dtype == dtype and (out.numel() == 0 or out.is_contiguous(memory_format=layout))
    exact_inputs = [t.detach().double().requires_grad_() for t in inputs]
    exact = defined(*exact_inputs, "lrelu", 0.2, 2**0.5, 1.3)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(out.double(), exact, rtol=4 * eps, atol=4 * eps)
    # A result within rounding of zero or of the clamp may be on the other side of it: no gradient comes from there.
    z = defined(*exact_inputs, "lrelu", 0.2, 2**0.5, None).detach().abs()
    sure = (z > 32 * eps) & ((z - 1.3).abs() > 32 * eps)
    g = (torch.randn(out.shape, dtype=torch.float64) * sure).to(dtype)
    grads = torch.autograd.grad(out, inputs, g)
    exact_grads = torch.autograd.grad(exact, exact_inputs, g.double())
    torch.testing.assert_close(grads[0].double(), exact_grads[0], rtol=4 * eps, atol=4 * eps)
    for name, grad, value, operand in zip(("d", "noise", "b"), grads[1:], exact_grads[1:], inputs[1:]):
        assert grad.dtype == operand.dtype and grad.shape == operand.shape
        scale = value.abs().amax().item() if value.numel() else 1
        tolerance = 1e-5 if dtype == torch.float32 else 1e-10 if dtype == torch.float64 else 0.03
        torch.testing.assert_close(
            grad.double(), value, rtol=0, atol=tolerance * max(scale, 1), msg=lambda m, at=name: f"{at}: {m}"
        )


@pytest.mark.parametrize("present", ["dnb", "d", "n", "dn", "db", "nb"])
@pytest.mark.parametrize("act,gain", [("lrelu", None), ("linear", 0.5), ("relu", None), ("tanh", 1.5), ("swish", -1.0)])
def test_first_and_second_derivatives(act, gain, present):
    y, d, noise, b = operands((2, 3, 3, 2), common_noise=present == "n")
    inputs = [y] + [t for key, t in zip("dnb", (d, noise, b)) if key in present]

    def f(y, *rest):
        rest = list(rest)
        d, noise, b = (rest.pop(0) if key in present else None for key in "dnb")
        return modconv_epilogue(y, d, noise, b, act=act, gain=gain, clamp=1.1)

    assert gradcheck(f, inputs)
    assert gradgradcheck(f, inputs)


@pytest.mark.parametrize("alpha,gain", [(0.0, 1.0), (-0.3, 1.0), (0.2, -1.0), (0.2, 0.0)])
def test_derivatives_where_the_result_does_not_determine_its_input(alpha, gain):
    inputs = operands((2, 2, 2, 3))
    assert gradcheck(lambda *t: modconv_epilogue(*t, act="lrelu", alpha=alpha, gain=gain), inputs)
    assert gradgradcheck(lambda *t: modconv_epilogue(*t, act="lrelu", alpha=alpha, gain=gain), inputs)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scale_channels(layout):
    x = torch.randn(3, 5, 4, 3, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    s = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(scale_channels(x, s), x * s[:, :, None, None], rtol=1e-15, atol=0)
    assert gradcheck(scale_channels, (x, s))
    assert gradgradcheck(scale_channels, (x, s))
    half = scale_channels(x.bfloat16(), s.float())
    torch.testing.assert_close(half.double(), (x.bfloat16().double() * s[:, :, None, None]), rtol=1e-2, atol=1e-6)
    (gs,) = torch.autograd.grad(half.float().sum(), s)
    loose = 1e-4 if use_native(x) else 2e-2  # PyTorch sums in float32, too, but rounds the sum to bfloat16
    torch.testing.assert_close(gs, x.bfloat16().double().sum((2, 3)).float().double(), rtol=loose, atol=loose)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(0, 3), st.integers(1, 70), st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from(["plain", "last", "transposed", "strided", "expanded"]),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["lrelu", "linear", "sigmoid"]),
    st.sampled_from([None, 0.9]),
)
def test_any_shape_and_strides(shape, strides, dtype, with_d, with_noise, act, clamp):
    y, d, noise, b = (t.detach() for t in operands(shape, dtype, wide=torch.float32))
    if strides == "last":
        y = y.contiguous(memory_format=torch.channels_last)
    elif strides == "transposed":
        y = y.transpose(1, 3).contiguous().transpose(1, 3)
    elif strides == "strided":
        y = torch.cat([y, y], 3)[..., ::2]
    elif strides == "expanded":
        y = y[:, :1].expand(shape)
    d, noise = d if with_d else None, noise if with_noise else None
    out = modconv_epilogue(y, d, noise, b, act=act, clamp=clamp)
    gain = 2**0.5 if act == "lrelu" else 1.0
    operands64 = [None if t is None else t.double() for t in (y, d, noise, b)]
    exact = defined(*operands64, act, 0.2, gain, clamp)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(out.double(), exact, rtol=4 * eps, atol=4 * eps)


def test_native_and_pytorch_agree_in_their_gradients(monkeypatch):
    """The same call with native code switched off, so that both branches of the wrapper are held to one another."""
    if not use_native(torch.empty(0)):
        pytest.skip("no native code on this machine")
    inputs = operands((2, 5, 6, 7))

    def run():
        out = modconv_epilogue(*inputs, act="lrelu", clamp=1.0)
        first = torch.autograd.grad(out.square().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
        return out, *first, *second

    native = run()
    monkeypatch.setattr("stylegan2_ada.ops.native._usable", {"cpu": False})
    for a, b in zip(native, run()):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_penalties_leave_out_what_they_do_not_want(layout):
    """As of the path length: weight gradients there or not, it is the same."""
    inputs = y, d, noise, b = operands((2, 5, 6, 7), layout=layout)

    def penalty(only):
        out = modconv_epilogue(*inputs, act="lrelu", clamp=1.0)
        with input_gradients_only() if only else nullcontext():
            first = torch.autograd.grad(out.sin().sum(), (y, d), create_graph=True)
        return *first, *torch.autograd.grad(sum(g.square().sum() for g in first), inputs)

    for a, e in zip(penalty(True), penalty(False)):
        torch.testing.assert_close(a, e)
    out = modconv_epilogue(*inputs, act="lrelu")
    with input_gradients_only():
        gradients = torch.autograd.grad(out.sum(), inputs, create_graph=True, allow_unused=True)
    if use_native(y):
        assert gradients[2] is None and gradients[3] is None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_operators_pass_opcheck(layout):
    if not use_native(torch.empty(0)):
        pytest.skip("no native code on this machine")
    op = torch.ops.stylegan2_ada
    y, d, noise, b = operands((2, 3, 4, 5), torch.float32, layout, torch.float32)
    lrelu, swish = (2, 0.2, 1.4, 0.9), (8, 0.2, 1.4, -1.0)
    torch.library.opcheck(op.modconv_epilogue, (y, d, noise, b, *lrelu))
    torch.library.opcheck(op.modconv_epilogue, (y, d, None, None, *swish))
    torch.library.opcheck(op.modconv_epilogue, (y, None, noise.detach()[:1], b, *lrelu))
    y, d, noise, b = (t.detach() for t in (y, d, noise, b))
    torch.library.opcheck(op.modconv_epilogue_grad, (y, y, None, d, noise, b, *lrelu))
    torch.library.opcheck(op.modconv_epilogue_grad, (y, y, y, d, None, None, *lrelu))


def test_compiled_graph_agrees_with_eager():
    inputs = operands((2, 3, 4, 5), torch.float32, wide=torch.float32)

    def f(y, d, noise, b):
        return modconv_epilogue(scale_channels(y, d + 1), d, noise, b, act="lrelu", clamp=1.0)

    compiled = torch.compile(f, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), f(*inputs))
    for a, b in zip(
        torch.autograd.grad(compiled(*inputs).square().sum(), inputs),
        torch.autograd.grad(f(*inputs).square().sum(), inputs),
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"act": "gelu", "d": torch.ones(2, 3)},
        {"clamp": -1, "d": torch.ones(2, 3)},
        {"d": torch.ones(3)},
        {"noise": torch.ones(2, 3, 4, 4)},
        {"noise": torch.ones(1, 1, 4, 4), "b": torch.ones(4)},
    ],
)
def test_bad_arguments_are_one_line_errors(kwargs):
    with pytest.raises(ValueError) as error:
        modconv_epilogue(torch.ones(2, 3, 4, 4), **kwargs)
    assert "\n" not in str(error.value)
