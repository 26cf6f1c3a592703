"""bias_act against the recorded numbers, its formula, and finite differences."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stylegan2_ada.ops import native, reference
from stylegan2_ada.ops.bias_act import DEFAULT_GAIN, bias_act


def test_golden(golden):
    """Values, first gradients and second-order terms of 9 activations in 4 settings."""
    cases, arrays = golden("bias_act")
    assert len(cases) == 36
    for case in cases:

        def array(name, key=case["id"]):
            return torch.tensor(arrays[f"{key}.{name}"])

        x, gy = array("x").requires_grad_(), array("gy").requires_grad_()
        b = array("b").requires_grad_() if case["bias"] else None
        y = bias_act(x, b, **{k: case[k] for k in ("dim", "act", "alpha", "gain", "clamp")})
        gx, *gb = torch.autograd.grad(y, [x] if b is None else [x, b], gy, create_graph=True)
        d2_x, d2_gy = torch.autograd.grad(gx, [x, gy], array("ggx"), allow_unused=True)
        results = {"y": y, "gx": gx, "d2_gy": d2_gy, "d2_x": torch.zeros_like(x) if d2_x is None else d2_x}
        if gb:
            results["gb"] = gb[0]
        for name, value in results.items():
            torch.testing.assert_close(
                value, array(name), rtol=0, atol=1e-12, msg=lambda m, at=(case, name): f"{at}: {m}"
            )


FORMULA = {
    "linear": lambda x, alpha: x,
    "relu": lambda x, alpha: max(x, 0.0),
    "lrelu": lambda x, alpha: x if x > 0 else alpha * x,
    "tanh": lambda x, alpha: math.tanh(x),
    "sigmoid": lambda x, alpha: 1 / (1 + math.exp(-x)),
    "elu": lambda x, alpha: x if x > 0 else math.expm1(x),
    "selu": lambda x, alpha: 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * math.expm1(x)),
    "softplus": lambda x, alpha: math.log1p(math.exp(x)),
    "swish": lambda x, alpha: x / (1 + math.exp(-x)),
}


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=4),
    st.data(),
    st.sampled_from(list(FORMULA)),
    st.sampled_from([None, 0.1, 1.5, -0.3]),
    st.sampled_from([None, 2.0, 0.5, -1.0, 0.0]),
    st.sampled_from([None, 0.7, 0.0]),
)
def test_matches_the_formula(shape, data, act, alpha, gain, clamp):
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = torch.randn(shape, dtype=torch.float64)
    if len(shape) > 1 and data.draw(st.booleans()):
        x = x.transpose(0, -1).contiguous().transpose(0, -1)
    b = torch.randn(shape[dim], dtype=torch.float64) if data.draw(st.booleans()) else None
    kept = x.clone()
    y = bias_act(x, b, dim=dim, act=act, alpha=alpha, gain=gain, clamp=clamp)
    assert torch.equal(x, kept)
    place = [1] * len(shape)
    place[dim] = -1
    z = x if b is None else x + b.reshape(place)
    expected = torch.tensor(
        [FORMULA[act](v, 0.2 if alpha is None else alpha) for v in z.flatten().tolist()], dtype=torch.float64
    ).reshape(shape)
    expected = expected * (DEFAULT_GAIN[act] if gain is None else gain)
    torch.testing.assert_close(y, expected if clamp is None else expected.clamp(-clamp, clamp))


@pytest.mark.parametrize("clamp", [None, 0.9])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("act", list(FORMULA))
def test_first_and_second_derivative(act, bias, clamp):
    x = torch.linspace(-2.03, 2.11, 24, dtype=torch.float64).reshape(2, 3, 4).requires_grad_()
    inputs = (x, torch.tensor([0.1, -0.3, 0.007], dtype=torch.float64, requires_grad=True)) if bias else (x,)

    def f(*args):
        return bias_act(*args, act=act, clamp=clamp)

    assert torch.autograd.gradcheck(f, inputs)
    assert torch.autograd.gradgradcheck(f, inputs)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_keeps_dtype_and_layout(dtype, layout):
    x = torch.randn(2, 5, 3, 4).to(dtype).contiguous(memory_format=layout).requires_grad_()
    b = torch.randn(5, requires_grad=True)
    y = bias_act(x, b, act="lrelu", clamp=2)
    assert y.dtype == dtype and y.is_contiguous(memory_format=layout)
    gx, gb = torch.autograd.grad(y.float().square().sum(), (x, b))
    assert gx.dtype == dtype and gb.dtype == torch.float32
    exact = bias_act(x.detach().double(), b.detach().to(dtype).double(), act="lrelu", clamp=2)
    torch.testing.assert_close(y.double(), exact, rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)


@pytest.fixture
def by_path(monkeypatch):
    """`by_path(name)` makes `bias_act` take one of the paths "reference", "torch" and "native"."""

    def take(name):
        monkeypatch.setattr("stylegan2_ada.ops.bias_act.path", lambda: name)
        monkeypatch.setattr("stylegan2_ada.ops.bias_act.use_native", lambda x: name == "native")

    if not native.status("cpu").native:
        pytest.skip("no native code on this machine")
    return take


LAYOUTS = {
    "plain": lambda x: x,
    "last": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1) if x.ndim > 2 else x,
    "turned": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "strided": lambda x: torch.stack([x, x], -1).flatten(-2)[..., ::2],
    "expanded": lambda x: x[:1].expand(x.shape) if x.shape[0] else x,
}
SMALL = st.integers(0, 5)
SIZES = st.one_of(
    st.lists(SMALL, min_size=1, max_size=5),
    st.tuples(st.integers(1, 3), st.integers(1, 1100), st.integers(1, 4), st.integers(1, 4)).map(list),
    st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(20, 40), st.integers(20, 40)).map(list),
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    SIZES,
    st.data(),
    st.sampled_from(list(LAYOUTS)),
    st.sampled_from(list(FORMULA)),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    st.sampled_from([None, -0.7]),
    st.sampled_from([None, 0.6]),
)
def test_all_paths_agree(by_path, shape, data, layout, act, dtype, gain, clamp):
    """Results and gradients of any shape and strides, against the definition in float64."""
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = LAYOUTS[layout](torch.randn(shape, dtype=torch.float64).to(dtype))
    b = torch.randn(shape[dim]).to(dtype) if data.draw(st.booleans()) else None
    gy = torch.randn(shape).to(dtype)
    results = {}
    for name in ("reference", "torch", "native"):
        by_path(name)
        kind = torch.float64 if name == "reference" else dtype
        leaves = [t.detach().to(kind).requires_grad_() for t in (x, b) if t is not None]
        y = bias_act(leaves[0], leaves[1] if b is not None else None, dim=dim, act=act, gain=gain, clamp=clamp)
        if name == "reference" and y.numel():  # next to a kink a rounding turns one derivative into the other, rightly
            u = (leaves[0] if b is None else leaves[0] + b.double().reshape(place(shape, dim))).detach()
            eps = torch.finfo(dtype).eps
            gy = torch.where((u.abs() < 8 * eps) | ((y.detach().abs() - 0.6).abs() < 8 * eps), 0, gy)
        results[name] = [y.detach().double(), *(g.double() for g in torch.autograd.grad(y, leaves, gy.to(kind)))]
    eps = torch.finfo(dtype).eps
    for name in ("torch", "native"):
        for i, (value, exact) in enumerate(zip(results[name], results["reference"])):
            sums = 4 * math.sqrt(x.numel()) if i == 2 else 1  # the gradient of b
            sums = sums * 4 if name == "torch" else sums  # PyTorch sums what is rounded already
            torch.testing.assert_close(
                value, exact, rtol=16 * eps, atol=16 * eps * sums, msg=lambda m, at=(name, i): f"{at}: {m}"
            )


def place(shape, dim):
    return [-1 if d == dim % len(shape) else 1 for d in range(len(shape))]


@pytest.mark.parametrize("act", list(FORMULA))
def test_float32_is_exact_to_a_few_units_in_the_last_place(act):
    """The polynomials of the vectorised exponential function included."""
    x = torch.cat([torch.linspace(-30, 30, 20001), torch.logspace(-12, 2, 500), -torch.logspace(-12, 2, 500)])
    x.requires_grad_()
    y = bias_act(x[None], act=act, gain=1.0)[0]
    (gx,) = torch.autograd.grad(y.sum(), x)
    wide = x.detach().double().requires_grad_()
    exact = reference.bias_act(wide[None], None, 1, act, 0.2, 1.0, None)[0]
    if act == "softplus":  # F.softplus rounds off beyond 20
        exact = torch.logaddexp(wide, torch.zeros(()))
    (exact_gx,) = torch.autograd.grad(exact.sum(), wide)
    torch.testing.assert_close(y.double(), exact, rtol=1e-6, atol=1e-36)
    # Derivatives are read from the result, next to whose bound (1 of tanh, -1 of elu) they lose digits, not more.
    torch.testing.assert_close(gx.double(), exact_gx, rtol=2e-6, atol=5e-7)


def test_special_numbers():
    x = torch.tensor([math.inf, -math.inf, math.nan, 0.0, -0.0, 3e38, -3e38, 1e-45])
    for act in ("linear", "relu", "lrelu"):
        for dtype in (torch.float32, torch.float64):
            y = bias_act(x.to(dtype)[None], act=act, gain=1.0)[0]
            exact = reference.bias_act(x.to(dtype)[None], None, 1, act, 0.2, 1.0, None)[0]
            torch.testing.assert_close(y, exact, rtol=1e-6, atol=0, equal_nan=True)
    x[5:] = 1
    for act in FORMULA:
        for dtype in (torch.bfloat16, torch.float16):
            y = bias_act(x.to(dtype)[None], act=act, clamp=2)[0]
            assert y[2].isnan() and not y[3:].isnan().any() and y[0] == (1 if act in ("tanh", "sigmoid") else 2)


def test_bfloat16_and_float16_round_to_nearest():
    """All finite numbers of the type, and what lies between two of them, by way of a bias in float32."""
    if not native.use_native(torch.empty(0)):
        pytest.skip("no native code on this machine")
    for dtype in (torch.bfloat16, torch.float16):
        x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
        x = x[x.isfinite() & (x.abs() >= torch.finfo(dtype).tiny)][None]
        for step in (0.0, 2.0**-9, 2.0**-12, 0.37):
            y = bias_act(x, torch.tensor([step]), dim=0)
            torch.testing.assert_close(y, (x.float() + step).to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("act", [0, 2, 3, 8])
def test_operators_pass_opcheck(act, layout):
    if not native.use_native(torch.empty(0)):
        pytest.skip("no native code on this machine")
    op = torch.ops.stylegan2_ada
    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=layout).requires_grad_()
    b = torch.randn(3, requires_grad=True)
    parameters = (act, 0.2, 1.3, 0.8)
    torch.library.opcheck(op.bias_act, (x, b, 1, *parameters))
    torch.library.opcheck(op.bias_act, (x, None, 0, *parameters[:3], -1.0))
    gy, ref = torch.randn_like(x).requires_grad_(), torch.rand_like(x).requires_grad_()
    torch.library.opcheck(op.bias_act_grad, (gy, ref, *parameters))
    gy, ref = gy.detach(), ref.detach()
    torch.library.opcheck(op.bias_act_grad_bias, (gy, ref, 1, *parameters))
    torch.library.opcheck(op.bias_act_grad2, (gy, gy, ref, *parameters))


def test_a_vector_is_its_own_bias_gradient():
    x, b = (
        torch.randn(4, dtype=torch.float64, requires_grad=True),
        torch.randn(4, dtype=torch.float64, requires_grad=True),
    )
    assert torch.autograd.gradcheck(lambda x, b: bias_act(x, b, dim=0, act="lrelu"), (x, b))
    assert torch.autograd.gradgradcheck(lambda x, b: bias_act(x, b, dim=0, act="tanh"), (x, b))


def test_other_ways_of_calling():
    """Inference mode, autocast, fake tensors and views of parameters."""
    x, b = torch.randn(2, 3, 4, 4), torch.randn(3, requires_grad=True)
    expected = reference.bias_act(x, b, 1, "lrelu", 0.2, 2**0.5, None).detach()
    with torch.inference_mode():
        torch.testing.assert_close(bias_act(x, b, act="lrelu"), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert bias_act(x, b, act="lrelu").dtype == torch.float32
    constant = b.detach()
    with torch._subclasses.FakeTensorMode() as mode:
        assert bias_act(mode.from_tensor(x), mode.from_tensor(constant), act="lrelu").shape == x.shape
    assert bias_act(torch.empty(2, 3, device="meta"), act="lrelu").device.type == "meta"
    (gb,) = torch.autograd.grad(bias_act(x, b[None, :, None][0, :, 0] * 2, act="linear").sum(), b)
    torch.testing.assert_close(gb, torch.full((3,), 64.0))


def test_compiled_graph_agrees_with_eager():
    x, b = torch.randn(2, 5, 3), torch.randn(5)
    compiled = torch.compile(lambda x, b: bias_act(x, b, act="lrelu", clamp=1), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, b), bias_act(x, b, act="lrelu", clamp=1))


@pytest.mark.parametrize(
    "kwargs",
    [{"act": "gelu"}, {"clamp": -1}, {"b": torch.ones(4)}, {"b": torch.ones(3), "dim": 5}, {"b": torch.ones(3, 1)}],
)
def test_bad_arguments_are_one_line_errors(kwargs):
    with pytest.raises(ValueError) as error:
        bias_act(torch.ones(2, 3), **kwargs)
    assert "\n" not in str(error.value)
