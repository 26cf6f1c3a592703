"""grid_sample: the supplied double backward against PyTorch's own, and against finite differences."""

import numpy as np
import pytest
import torch

from stylegan2_ada.ops import grid_sample as module
from stylegan2_ada.ops.grid_sample import grid_sample


@pytest.fixture(params=["as detected", "fallback"])
def path(request, monkeypatch):
    if request.param == "fallback":
        monkeypatch.setattr(module, "native_double_backward", lambda device_type: False)
    return request.param


def test_matches_the_definition(path):
    """Bilinear weights of the four neighbours, zero outside, pixel centres at (i + 0.5) * 2 / size - 1."""
    rng = np.random.default_rng(0)
    x, grid = rng.normal(size=(2, 3, 4, 5)), rng.uniform(-1.4, 1.4, size=(2, 6, 7, 2))
    px, py = (grid[..., 0] + 1) * 5 / 2 - 0.5, (grid[..., 1] + 1) * 4 / 2 - 0.5
    expected = np.zeros((2, 3, 6, 7))
    for n, r, s in np.ndindex(2, 6, 7):
        for i in range(4):
            for j in range(5):
                weight = max(0, 1 - abs(py[n, r, s] - i)) * max(0, 1 - abs(px[n, r, s] - j))
                expected[n, :, r, s] += weight * x[n, :, i, j]
    np.testing.assert_allclose(grid_sample(torch.tensor(x), torch.tensor(grid)).numpy(), expected, atol=1e-12)


def test_first_and_second_derivative(path):
    grid = torch.empty(2, 3, 4, 2, dtype=torch.float64).uniform_(-1.3, 1.3)
    x = torch.randn(2, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: grid_sample(x, grid), x)
    assert torch.autograd.gradgradcheck(lambda x: grid_sample(x, grid), x)


def test_fallback_equals_native_on_a_gradient_penalty(monkeypatch):
    """The R1 penalty through a warp, and its gradient with respect to weights behind it."""
    if not module.native_double_backward("cpu"):
        pytest.skip("this PyTorch has no double backward of grid_sample to compare with")
    torch.manual_seed(0)
    x, w0 = torch.randn(3, 2, 9, 7), torch.randn(4, 2, 3, 3)
    grid = torch.empty(3, 8, 8, 2).uniform_(-1.2, 1.2)

    def penalty():
        image, w = x.clone().requires_grad_(), w0.clone().requires_grad_()
        logits = torch.nn.functional.conv2d(grid_sample(image, grid), w).tanh().sum()
        (g,) = torch.autograd.grad(logits, image, create_graph=True)
        r1 = g.square().sum()
        return r1, *torch.autograd.grad(r1, (image, w))

    native = penalty()
    monkeypatch.setattr(module, "native_double_backward", lambda device_type: False)
    for a, b in zip(penalty(), native):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_fallback_takes_strided_gradients(monkeypatch):
    monkeypatch.setattr(module, "native_double_backward", lambda device_type: False)
    x = torch.randn(1, 2, 4, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    grid = torch.zeros(1, 3, 3, 2)
    (gx,) = torch.autograd.grad(grid_sample(x, grid).sum(), x)
    torch.testing.assert_close(gx.sum(), torch.tensor(18.0))


def test_capability_is_tested_not_guessed(monkeypatch):
    """Where the double backward raises, the answer is no; the mode of the caller does not matter."""
    assert module.native_double_backward.__wrapped__("cpu") in (True, False)
    with torch.inference_mode():
        inside = module.native_double_backward.__wrapped__("cpu")
    assert inside == module.native_double_backward.__wrapped__("cpu")

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, grid):
            ctx.shape = x.shape
            return x.sum().reshape(1, 1, 1, 1)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, gy):
            return gy.expand(ctx.shape), None

    monkeypatch.setattr(module, "_native", Once.apply)
    assert module.native_double_backward.__wrapped__("cpu") is False


def test_grid_is_a_constant():
    with pytest.raises(ValueError, match="grid"):
        grid_sample(torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2, 2, requires_grad=True))
