"""Grad-CAM against its equations by hand, on networks where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from discriminator.gradcam import gradcam
from discriminator.hybrid import VerdictOut


class Toy(nn.Module):
    """One convolution, then a weighted sum of the pooled channels; after it a map of one place that must not count."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 4, stride=4)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.out = nn.Linear(4, 1)

    def verdict(self, img):
        return VerdictOut(self.out(self.pool(self.conv(img).tanh()).flatten(1)).squeeze(1), None)


@pytest.mark.parametrize("towards_fake", [True, False])
def test_the_equations_by_hand(towards_fake):
    net = Toy()
    image = torch.rand(1, 3, 40, 40) * 2 - 1
    a = net.conv(image).detach().requires_grad_()
    y = net.out(net.pool(a.tanh()).flatten(1)).sum() * (1 if towards_fake else -1)
    (g,) = torch.autograd.grad(y, a)
    want = torch.relu((g.mean((2, 3), keepdim=True) * a).sum(1))[0].detach().numpy()
    found = gradcam(net, image, towards_fake=towards_fake)
    assert found.shape == (10, 10) and found.max() == pytest.approx(1)
    np.testing.assert_allclose(found, want / want.max(), atol=1e-5)
    assert not any(m._forward_hooks for m in net.modules())


class Spot(nn.Module):
    """Says FAKE for brightness in the upper left corner only."""

    def __init__(self):
        super().__init__()
        self.copy = nn.Identity()
        self.register_buffer("mask", torch.zeros(1, 1, 16, 16))
        self.mask[..., :4, :4] = 1

    def verdict(self, img):
        seen = self.copy(img * self.mask)
        return VerdictOut(seen.sum((1, 2, 3)), None)


def test_it_points_where_the_answer_comes_from():
    found = gradcam(Spot(), torch.ones(1, 3, 16, 16))
    assert (found[:4, :4] == 1).all() and found.sum() == 16
    assert gradcam(Spot(), torch.ones(1, 3, 16, 16), towards_fake=False).max() == 0


@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0])
def test_a_hybrid_whose_trunk_gets_no_gradient_is_still_explained(hybrid, scale):
    net = hybrid(trunk_grad_scale=scale).eval().requires_grad_(False)
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    found = gradcam(net, image)
    full = gradcam(hybrid(trunk_grad_scale=1.0).eval(), image)
    assert found.shape == (8, 8) and 0 <= found.min() and found.max() == pytest.approx(1)
    np.testing.assert_allclose(found, full, atol=1e-5)
    assert net.cfg.trunk_grad_scale == scale


def test_a_network_without_maps_has_none():
    class Flat(nn.Module):
        def verdict(self, img):
            return VerdictOut(img.mean((1, 2, 3)), None)

    assert gradcam(Flat(), torch.rand(1, 3, 8, 8)) is None
