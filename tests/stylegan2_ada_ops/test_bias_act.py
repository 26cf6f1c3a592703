"""bias_act against the recorded numbers, its formula, and finite differences."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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
