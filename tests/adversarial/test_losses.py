"""Losses against their equations in closed form and against finite differences."""

import math

import numpy as np
import pytest
import torch

from adversarial.losses import (
    fake_loss,
    generator_loss,
    path_length_penalty,
    path_lengths,
    r1_penalty,
    real_loss,
)


def test_logistic_losses_are_the_papers_equations():
    real, fake = torch.tensor([[2.0], [-1.0]]), torch.tensor([[0.5], [-3.0]])
    sig = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    # Goodfellow et al. 2014: D minimises -log D(x) - log(1 - D(G(z))), G minimises -log D(G(z))
    d = -np.mean([math.log(sig(2.0)), math.log(sig(-1.0))]) - np.mean([math.log(1 - sig(0.5)), math.log(1 - sig(-3.0))])
    g = -np.mean([math.log(sig(0.5)), math.log(sig(-3.0))])
    assert (real_loss(real) + fake_loss(fake)).item() == pytest.approx(d, rel=1e-6)
    assert generator_loss(fake).item() == pytest.approx(g, rel=1e-6)


def test_r1_of_a_linear_critic_is_its_squared_weight():
    w = torch.randn(3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    real = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    loss, square = r1_penalty(lambda x: (x * w).sum(dim=(1, 2, 3))[:, None], real, gamma=3.0)
    assert torch.allclose(square, w.detach().square().sum().expand(5))
    loss.backward()
    # d/dw (gamma/2 |w|^2) = gamma w
    assert torch.allclose(w.grad, 3.0 * w.detach())


def test_r1_of_a_curved_critic_matches_finite_differences():
    real = torch.randn(2, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    critic = lambda x: (x**3).sum(dim=(1, 2, 3))[:, None]  # noqa: E731
    loss, square = r1_penalty(critic, real, gamma=2.0)
    eps, numeric = 1e-6, torch.zeros_like(real)
    flat = real.view(-1)
    for i in range(flat.numel()):
        up, down = flat.clone(), flat.clone()
        up[i] += eps
        down[i] -= eps
        numeric.view(-1)[i] = (critic(up.view_as(real)).sum() - critic(down.view_as(real)).sum()) / (2 * eps)
    expected = numeric.square().sum(dim=(1, 2, 3))
    assert torch.allclose(square, expected, rtol=1e-6)
    assert loss.item() == pytest.approx(expected.mean().item(), rel=1e-6)


def test_path_length_of_a_linear_generator():
    """image = A w per layer: |J^T y| = |A^T y| averaged over layers as a root mean square."""
    g = torch.Generator().manual_seed(3)
    a = torch.randn(3 * 4 * 4, 2 * 5, dtype=torch.float64, generator=g)
    ws = torch.randn(6, 2, 5, dtype=torch.float64, generator=g, requires_grad=True)
    noise = torch.randn(6, 3, 4, 4, dtype=torch.float64, generator=g)
    images = (ws.flatten(1) @ a.T).view(6, 3, 4, 4)
    expected = (noise.flatten(1) / 4 @ a).view(6, 2, 5).square().sum(2).mean(1).sqrt()
    assert torch.allclose(path_lengths(images, ws, noise), expected)


def test_path_length_penalty_moves_the_target_as_published():
    lengths = torch.tensor([1.0, 3.0])
    penalty, mean = path_length_penalty(lengths, torch.tensor(4.0), decay=0.01)
    target = 4.0 + 0.01 * (2.0 - 4.0)
    assert mean.item() == 2.0
    assert penalty.item() == pytest.approx(((1 - target) ** 2 + (3 - target) ** 2) / 2, rel=1e-6)
