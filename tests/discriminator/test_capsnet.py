"""Capsules against the equations of Sabour, Frosst, Hinton 2017, read once more here, in numpy and float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from discriminator.capsnet import (
    CapsNet,
    CapsNetConfig,
    Capsules,
    Decoder,
    lengths,
    log_odds,
    margin_loss,
    route,
    squash,
)


def squash_of(s):
    """Eq. 1, one vector."""
    n = np.sqrt(sum(x * x for x in s))
    return n**2 / (1 + n**2) * s / n


def routing_of(u_hat, r):
    """Procedure 1, one image: u_hat [i, j, d]."""
    capsules, above, _ = u_hat.shape
    b = np.zeros((capsules, above))
    for _ in range(r):
        c = np.array([np.exp(row) / np.exp(row).sum() for row in b])  # eq. 3
        s = [sum(c[i, j] * u_hat[i, j] for i in range(capsules)) for j in range(above)]  # eq. 2
        v = np.array([squash_of(x) for x in s])
        for i in range(capsules):
            for j in range(above):
                b[i, j] += u_hat[i, j] @ v[j]
    return v


def margin_of(v, k):
    """Eq. 4, one image whose class is k."""
    total = 0.0
    for j, each in enumerate(v):
        n = np.linalg.norm(each)
        total += max(0, 0.9 - n) ** 2 if j == k else 0.5 * max(0, n - 0.1) ** 2
    return total


def test_squash_is_equation_1():
    s = np.random.default_rng(0).normal(0, 3, (5, 4, 8))
    expected = np.array([[squash_of(x) for x in row] for row in s])
    np.testing.assert_allclose(squash(torch.tensor(s)).numpy(), expected, rtol=1e-6)
    zero = torch.zeros(1, 8, requires_grad=True)
    out = squash(zero)
    out.sum().backward()
    assert torch.equal(out, torch.zeros(1, 8)) and torch.isfinite(zero.grad).all()


@pytest.mark.parametrize("iterations", [1, 2, 3, 5])
def test_routing_is_procedure_1(iterations):
    u_hat = np.random.default_rng(iterations).normal(0, 0.7, (3, 12, 4, 6))
    expected = np.array([routing_of(one, iterations) for one in u_hat])
    np.testing.assert_allclose(route(torch.tensor(u_hat), iterations).numpy(), expected, rtol=1e-5, atol=1e-8)


def test_routing_goes_where_predictions_agree():
    """Two capsules above; all below agree about the first and contradict each other about the second."""
    rng = np.random.default_rng(0)
    u_hat = rng.normal(0, 0.1, (1, 20, 2, 8))
    u_hat[:, :, 0] = u_hat[:, :1, 0]
    v1, v3 = (lengths(route(torch.tensor(u_hat), r))[0] for r in (1, 3))
    assert v3[0] >= v1[0] and v3[1] < v1[1]


def test_the_layers_are_the_papers_from_pixels_to_capsules():
    torch.manual_seed(0)
    net = Capsules(28, 1, 3, 2, 4, 3, 5, 3).double()
    images = torch.rand(2, 1, 28, 28, dtype=torch.float64)
    layers = (net.conv.weight, net.conv.bias, net.primary.weight, net.primary.bias)
    w1, b1, w2, b2 = (t.detach().numpy() for t in layers)

    def conv(x, w, b, stride):
        side = (x.shape[1] - 9) // stride + 1
        out = np.empty((len(w), side, side))
        for row in range(side):
            for column in range(side):
                patch = x[:, row * stride : row * stride + 9, column * stride : column * stride + 9]
                out[:, row, column] = [(patch * kernel).sum() for kernel in w]
        return out + b[:, None, None]

    expected = []
    for image in images.numpy():
        x = conv(np.maximum(conv(image, w1, b1, 1), 0), w2, b2, 2)  # [types * dim, 6, 6]
        u = [squash_of(x[4 * kind : 4 * kind + 4, r, c]) for kind in range(2) for r in range(6) for c in range(6)]
        matrices = net.W.detach().numpy() * len(u) ** -0.5  # W_ij of the paper
        u_hat = np.array([[u[i] @ matrices[i, j] for j in range(3)] for i in range(len(u))])
        expected.append(routing_of(u_hat, 3))
    # primaries are float32 in the network: they may come from a convolution in bfloat16
    got = net.float()(images.float()).detach().numpy()
    np.testing.assert_allclose(got, np.array(expected), rtol=2e-4, atol=1e-6)


def test_margin_loss_is_equation_4():
    v = np.random.default_rng(1).normal(0, 0.4, (6, 2, 16))
    classes = np.array([0, 1, 1, 0, 1, 0])
    targets = torch.tensor(np.eye(2)[classes])
    expected = [margin_of(one, k) for one, k in zip(v, classes, strict=True)]
    np.testing.assert_allclose(margin_loss(lengths(torch.tensor(v)), targets).numpy(), expected, rtol=1e-6)
    right = torch.tensor([[0.05, 0.95]])
    assert float(margin_loss(right, torch.tensor([[0.0, 1.0]]))) == 0
    assert float(margin_loss(right, torch.tensor([[1.0, 0.0]]))) == pytest.approx(0.85**2 + 0.5 * 0.85**2)


def test_the_papers_network_for_digits_has_the_papers_number_of_weights():
    """6.8 million without the decoder, 8.2 million with it (section 4)."""
    with torch.device("meta"):
        net, decoder = Capsules(28, 1, 256, 32, 8, 10, 16, 3), Decoder(160, 784)
    assert net.count == 32 * 6 * 6
    layers = [20_992, 5_308_672, 1152 * 10 * 8 * 16]  # 9 x 9 x 1 x 256 + 256; 9 x 9 x 256 x 256 + 256; W
    count = sum(p.numel() for p in net.parameters())
    assert count == sum(layers) == 6_804_224
    assert count + sum(p.numel() for p in decoder.parameters()) == 8_215_568


def test_the_logit_is_the_log_odds_of_the_lengths():
    length = torch.tensor([[0.1, 0.9], [0.5, 0.5], [0.8, 0.3]], dtype=torch.float64)
    real, fake = length.numpy().T
    odds = fake * (1 - real) / (real * (1 - fake))
    np.testing.assert_allclose(log_odds(length).numpy(), np.log(odds), atol=1e-12)
    assert torch.isfinite(log_odds(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))).all()


@pytest.mark.parametrize(("resolution", "inner", "grid"), [(256, 64, 10), (100, 64, 10), (48, 64, 16), (32, 64, 8)])
def test_shapes(resolution, inner, grid):
    net = CapsNet(CapsNetConfig(resolution, inner=inner, conv=4, types=2)).eval()
    assert net.capsules.count == 2 * grid * grid
    assert net.verdict(torch.zeros(2, 3, resolution, resolution)).logit.shape == (2,)


def test_a_lesson_is_the_margin_loss_and_the_redrawn_image():
    torch.manual_seed(0)
    images, targets = torch.rand(3, 3, 32, 32) * 2 - 1, torch.tensor([0.0, 1.0, 1.0])
    net = CapsNet(CapsNetConfig(32, conv=4, types=2, reconstruct=True))
    out, loss = net.lesson(images, targets)
    torch.testing.assert_close(out.logit, net.verdict(images).logit)
    v = net.class_capsules(images)
    masked = torch.zeros_like(v)
    for i, k in enumerate((0, 1, 1)):
        masked[i, k] = v[i, k]
    drawn = net.decoder.layers(masked.flatten(1)).view(3, 3, 28, 28)
    seen = torch.nn.functional.adaptive_avg_pool2d((images + 1) / 2, 28)
    margins = [margin_of(one, k) for one, k in zip(v.detach().double().numpy(), (0, 1, 1), strict=True)]
    expected = torch.tensor(margins) + 0.0005 * ((drawn - seen) ** 2).sum((1, 2, 3)).detach()
    torch.testing.assert_close(loss.detach(), expected.float(), rtol=1e-4, atol=1e-6)


def test_untrained_capsules_are_neither_dead_nor_full():
    """Where routing sees nothing, or lengths are near 1, nothing is learnt."""
    torch.manual_seed(0)
    images = torch.rand(8, 3, 256, 256) * 2 - 1
    with torch.no_grad():
        length = lengths(CapsNet(CapsNetConfig(256)).class_capsules(images))
    assert 0.02 < float(length.min()) and float(length.max()) < 0.9
