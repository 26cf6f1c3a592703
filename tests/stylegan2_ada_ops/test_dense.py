"""Dense layers of few rows against float64: values, gradients and theirs, whatever the sizes."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from stylegan2_ada.ops import dense as module
from stylegan2_ada.ops.convolution import input_gradients_only
from stylegan2_ada.ops.dense import MOST_ROWS, dense
from stylegan2_ada.ops.native import use_native

native = pytest.mark.skipif(not use_native(torch.zeros(1)), reason="needs the native ops")


def results(layer, x, w, b, gain, bias_gain):
    """Value, gradients, and the gradients of what these three make."""
    x, w, b = (t.requires_grad_() for t in (x, w, b))
    y = layer(x, w, b, gain, bias_gain)
    first = torch.autograd.grad(y.sin().sum(), (x, w, b), create_graph=True)
    second = torch.autograd.grad(sum((g * g.detach().cos()).sum() for g in first), (x, w, b), allow_unused=True)
    return y, *first, *(torch.zeros(1) if g is None else g for g in second)


@native
@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, MOST_ROWS),
    st.sampled_from([1, 2, 15, 16, 17, 33, 64, 130]),
    st.sampled_from([1, 2, 3, 5, 32, 67]),
    st.floats(-2, 2),
    st.integers(0, 9),
)
def test_values_and_derivatives_are_those_of_float64(rows, inputs, outputs, gain, seed):
    torch.manual_seed(seed)
    x, w, b = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
    assert module._applies(x, w)
    ours = results(lambda x, w, b, g, h: dense(x, w, b, gain=g, bias_gain=h), x, w, b, gain, 0.3)
    wide = (t.detach().double() for t in (x, w, b))
    exact = results(lambda x, w, b, g, h: F.linear(x * g, w, b * h), *wide, gain, 0.3)
    for got, right in zip(ours, exact, strict=True):
        # numbers are of the order of 1; one or a few of them may be small by chance
        assert (got.double() - right.double()).norm() <= 1e-4 * (right.norm() + right.numel() ** 0.5)


@native
def test_without_a_bias_on_strided_operands_and_threads():
    x, w = torch.randn(300, 5).t(), torch.randn(300, 200).t()
    torch.testing.assert_close(dense(x, w), x @ w.t(), rtol=1e-4, atol=1e-4)
    before, y = torch.get_num_threads(), dense(x, w)
    try:
        torch.set_num_threads(1)
        assert torch.equal(dense(x, w), y)
    finally:
        torch.set_num_threads(before)


@native
def test_the_first_half_of_a_penalty_leaves_out_weights():
    x, w = torch.randn(3, 8, requires_grad=True), torch.randn(5, 8, requires_grad=True)
    y = dense(x, w).sum()
    with input_gradients_only():
        gx, gw = torch.autograd.grad(y, (x, w), create_graph=True, allow_unused=True)
    assert gw is None and torch.autograd.grad(gx.square().sum(), w)[0].abs().sum() > 0


@pytest.mark.parametrize("rows, dtype", [(MOST_ROWS + 1, torch.float32), (2, torch.float64), (2, torch.bfloat16)])
def test_anything_else_goes_to_pytorch(rows, dtype):
    x, w, b = torch.randn(rows, 6, dtype=dtype), torch.randn(4, 6, dtype=dtype), torch.randn(4, dtype=dtype)
    assert not module._applies(x, w)
    assert torch.equal(dense(x, w, b, gain=0.5, bias_gain=2.0), F.linear(x * 0.5, w, b * 2.0))


@native
def test_operands_that_do_not_fit_are_refused():
    with pytest.raises(RuntimeError, match="weights of 5 inputs for 4"):
        dense(torch.zeros(2, 4), torch.zeros(3, 5))
    with pytest.raises(RuntimeError, match="a bias of 2 for 3"):
        dense(torch.zeros(2, 4), torch.zeros(3, 4), torch.zeros(2))
    assert dense(torch.zeros(0, 4), torch.zeros(3, 4)).shape == (0, 3)


@native
def test_operators_are_well_made():
    x, w, gy = torch.randn(3, 20), torch.randn(5, 20), torch.randn(3, 5)
    ops = torch.ops.stylegan2_ada
    for op, args in (
        (ops.dense, (x, w, None, 0.5, 1.0)),
        (ops.dense_input, (gy, w, 0.5)),
        (ops.dense_weight, (gy, x, 0.5)),
    ):
        torch.library.opcheck(op.default, args, test_utils=("test_schema", "test_faketensor"))
