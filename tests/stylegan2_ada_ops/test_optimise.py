"""The norm of all gradients and Adam's step over all weights, against float64 and PyTorch's own."""

import pytest
import torch

from stylegan2_ada.ops import optimise
from stylegan2_ada.ops.native import use_native

native = pytest.mark.skipif(not use_native(torch.zeros(1)), reason="needs the native ops")
SHAPES = [(), (1,), (63,), (64,), (65, 3), (300, 301), (512, 128, 3, 3)]


def tensors(seed):
    torch.manual_seed(seed)
    return [torch.randn(shape) for shape in SHAPES]


@native
def test_norm_is_that_of_float64_on_any_number_of_threads():
    values = tensors(0)
    assert optimise.fits(values)
    exact = torch.cat([t.double().flatten() for t in values]).norm()
    before, norm = torch.get_num_threads(), optimise.norm_of_all(values)
    assert norm.dtype == torch.float32 and norm.shape == ()
    torch.testing.assert_close(norm.double(), exact, rtol=1e-6, atol=0)
    try:
        torch.set_num_threads(3 if before == 1 else 1)
        assert torch.equal(optimise.norm_of_all(values), norm)
    finally:
        torch.set_num_threads(before)
    for bad in (torch.nan, torch.inf):
        values[5][7, 7] = bad
        assert not optimise.norm_of_all(values).isfinite()


@native
def test_adam_is_pytorch_s():
    ours = [torch.nn.Parameter(t) for t in tensors(1)]
    theirs = [torch.nn.Parameter(t.detach().double()) for t in ours]
    adam = torch.optim.Adam(theirs, lr=0.01, betas=(0.0, 0.98), eps=1e-8)
    squares, steps = [torch.zeros_like(t) for t in ours], [torch.zeros(()) for _ in ours]
    for seed in range(2, 6):
        gradients = tensors(seed)
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = gradient.double()
        optimise.adam_(ours, gradients, squares, steps, 0.01, 0.98, 1e-8)
        adam.step()
    assert all(step == 4 for step in steps)
    for mine, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.double(), right, rtol=1e-5, atol=1e-6)


def test_what_does_not_fit_goes_to_pytorch():
    values = [torch.randn(4, 4).t(), torch.randn(3, dtype=torch.float64)]
    assert not optimise.fits(values[:1]) and not optimise.fits(values[1:])
    torch.testing.assert_close(optimise.norm_of_all(values[:1]), values[0].norm())


@native
def test_operands_that_do_not_fit_are_refused():
    w, step = [torch.zeros(3)], [torch.zeros(())]
    with pytest.raises(RuntimeError, match="as many gradients"):
        optimise.adam_(w, [], w, step, 0.1, 0.9, 1e-8)
    with pytest.raises(RuntimeError, match="must be like the weights"):
        optimise.adam_(w, [torch.zeros(4)], w, step, 0.1, 0.9, 1e-8)
