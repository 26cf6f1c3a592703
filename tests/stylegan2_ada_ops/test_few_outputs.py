"""few_outputs against its definition in float64."""

import pytest
import torch

from stylegan2_ada.ops import few_outputs as module
from stylegan2_ada.ops.few_outputs import few_outputs
from stylegan2_ada.ops.native import use_native

pytestmark = pytest.mark.skipif(not use_native(torch.zeros(1)), reason="no native code")
SHAPES = [(2, 32, 5, 3, 3), (3, 16, 1, 1, 1), (1, 80, 17, 9, 4), (4, 256, 16, 16, 3)]


def _operands(n, c, height, width, outputs, dtype):
    torch.manual_seed(0)
    x = torch.randn(n, c, height, width).to(dtype, memory_format=torch.channels_last)
    return x, torch.randn(n, outputs, c), torch.randn(n, outputs, height, width)


def _error(got, want):
    return float((got.detach().double() - want.detach()).norm() / want.detach().norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_each_operator_is_its_sum(shape, dtype):
    x, m, g = _operands(*shape, dtype)
    assert _error(few_outputs(x, m), torch.einsum("nchw,noc->nohw", x.double(), m.double())) < 1e-6
    assert few_outputs(x, m).dtype == torch.float32
    assert _error(module._weight_op(x, g), torch.einsum("nchw,nohw->noc", x.double(), g.double())) < 1e-6
    gx = module._input_op(g, m, dtype == torch.float32)
    assert gx.dtype == dtype and gx.is_contiguous(memory_format=torch.channels_last)
    want = torch.einsum("nohw,noc->nchw", g.double(), m.double())
    assert _error(gx, want) < (1e-6 if dtype == torch.float32 else 0.0025)  # bfloat16 rounds by up to a 512th


def _three_derivatives(call, x, m, g):
    """Gradients of the result, and twice those of the sum of their squares, in all operands and its own gradient."""
    operands = [t.detach().requires_grad_() for t in (x, m, g)]
    first = torch.autograd.grad(call(*operands[:2]), operands[:2], operands[2], create_graph=True)
    second = torch.autograd.grad(sum(f.float().square().sum() for f in first), operands, create_graph=True)
    third = torch.autograd.grad(sum(s.float().square().sum() for s in second), operands)
    return [*first, *second, *third]


@pytest.mark.parametrize("shape", SHAPES)
def test_is_differentiable_three_times(shape):
    x, m, g = _operands(*shape, torch.float32)
    got = _three_derivatives(few_outputs, x, m, g)
    want = _three_derivatives(lambda x, m: torch.einsum("nchw,noc->nohw", x, m), x.double(), m.double(), g.double())
    for a, b in zip(got, want, strict=True):
        assert _error(a, b.double()) < 1e-5


def test_gradients_of_bfloat16_images():
    x, m, g = _operands(2, 64, 8, 8, 3, torch.bfloat16)
    got = _three_derivatives(few_outputs, x, m, g)
    want = _three_derivatives(lambda x, m: torch.einsum("nchw,noc->nohw", x, m), x.double(), m.double(), g.double())
    for a, b in zip(got, want, strict=True):
        assert _error(a, b.double()) < 0.01


def test_any_number_of_threads_gives_the_same_bits():
    x, m, g = _operands(4, 256, 32, 32, 3, torch.bfloat16)
    results, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append((few_outputs(x, m), module._weight_op(x, g), module._input_op(g, m, False)))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_other_numbers_of_channels_go_by_a_matrix_product():
    x, m, _ = _operands(2, 20, 4, 4, 3, torch.float32)
    assert not module._applies(x, m)
    assert _error(few_outputs(x, m), torch.einsum("nchw,noc->nohw", x.double(), m.double())) < 1e-6


def test_shapes_that_do_not_fit_are_refused():
    x, m, _ = _operands(2, 32, 4, 4, 3, torch.float32)
    with pytest.raises(RuntimeError, match="do not fit"):
        few_outputs(x, m[:1])
