"""Projection: the published schedules, the noise penalty by its definition, and images that are found again."""

import math

import numpy as np
import pytest
import torch

from common.errors import UserError
from stylegan2_ada.config import GeneratorConfig
from stylegan2_ada.generator import Generator
from stylegan2_ada.names import load_published
from synth.latents import ws_from_seeds
from synth.options import ProjectionSettings, Rendering
from synth.perceptual import pyramid
from synth.projection import (
    latent_statistics,
    noise_maps,
    noise_penalty,
    project,
)
from synth.render import with_noise


def test_schedules_of_the_paper():
    s = ProjectionSettings()
    assert (s.steps, s.lr, s.w_samples, s.noise_weight) == (1000, 0.1, 10_000, 1e5)
    assert s.rate(0) == 0 and s.rate(25) == pytest.approx(0.05) and s.rate(50) == pytest.approx(0.1)
    assert s.rate(749) == pytest.approx(0.1)
    assert s.rate(875) == pytest.approx(0.1 * (0.5 - 0.5 * math.cos(math.pi / 2)))  # half-way down the cosine
    assert 0 < s.rate(999) < 1e-5
    assert s.jitter_at(0) == 0.05 and s.jitter_at(375) == pytest.approx(0.05 / 4) and s.jitter_at(750) == 0
    for wrong in ({"steps": 0}, {"space": "z"}):
        with pytest.raises(UserError, match=f"`{next(iter(wrong))}`"):
            ProjectionSettings(**wrong)


def by_definition(noise):
    """Appendix D in loops over numpy arrays."""
    total, n = 0.0, noise.numpy().astype(np.float64)
    while True:
        side = len(n)
        right = sum(n[y, x] * n[y, (x - 1) % side] for y in range(side) for x in range(side)) / side**2
        down = sum(n[y, x] * n[(y - 1) % side, x] for y in range(side) for x in range(side)) / side**2
        total += right**2 + down**2
        if side <= 8:
            return total
        n = (n[::2, ::2] + n[1::2, ::2] + n[::2, 1::2] + n[1::2, 1::2]) / 2


@pytest.mark.parametrize("sides", [(4,), (8,), (32,), (32, 32, 16, 8, 8, 4), (64, 8, 4), (16, 4)])
def test_noise_penalty_by_its_definition(sides):
    torch.manual_seed(len(sides))
    maps = [torch.randn(side, side) + 0.2 for side in sides]
    assert noise_penalty(maps).item() == pytest.approx(sum(map(by_definition, maps)), rel=1e-4)


def test_noise_penalty_is_small_for_white_noise_and_large_for_a_pattern():
    torch.manual_seed(0)
    white = torch.randn(64, 64)
    stripes = torch.tensor([1.0, 1, -1, -1]).repeat(16).expand(64, 64)
    assert noise_penalty([white]) < 0.1 < 1 < noise_penalty([stripes])


def test_latent_statistics(G):
    mean, deviation = latent_statistics(G, 4000, 1, None)
    w = ws_from_seeds(G, range(2000))[:, 0]
    assert (mean - w.mean(0)).abs().max() < 0.1 * w.std()
    assert deviation == pytest.approx((w - w.mean(0)).square().sum(1).mean().sqrt().item(), rel=0.03)


def recovered(G, ws, *, space="w", steps=100, noises=None, class_index=None):
    """PSNR in dB (of the image's own range) of a projection of what G makes of `ws`."""
    with torch.no_grad():
        target = with_noise(G, noises or {}).synthesis(ws[None], noise_mode="const")[0]
    settings = ProjectionSettings(steps=steps, space=space, w_samples=1000)
    found = project(G, target, pyramid(), settings, Rendering(class_index=class_index))
    with torch.no_grad():
        image = with_noise(G, found.noises).synthesis(found.ws[None], noise_mode="const")[0]
        start = G.synthesis(latent_statistics(G, 1000, 0, class_index)[0].repeat(1, G.num_ws, 1), noise_mode="const")

    def psnr(x):
        return 10 * math.log10((target.max() - target.min()) ** 2 / (x - target).square().mean())

    return found, psnr(image), psnr(start[0])


@pytest.fixture(params=["uncond32", "cond64"])
def published(request, golden):
    """The small recorded networks under their published weights, and a class or None."""
    cfg = golden(request.param)[0]
    cfg.pop("mbstd_group_size")
    G = Generator(GeneratorConfig(**cfg)).eval().requires_grad_(False)
    load_published(G, golden(f"{request.param}_weights")[1], "G.")
    return G, 1 if cfg["c_dim"] else None


def test_an_image_of_the_generator_is_found_again(published):
    G, class_index = published
    state = {name: t.clone() for name, t in G.state_dict().items()}
    ws = ws_from_seeds(G, [5], Rendering(0.8, class_index=class_index))[0]
    found, psnr, at_start = recovered(G, ws, class_index=class_index)
    assert psnr > at_start + 12 and psnr > 26, f"{psnr:.1f} dB, at the start {at_start:.1f} dB"
    assert found.history[-1][1] < 0.4 * found.history[0][1]
    assert [step for step, *_ in found.history] == list(range(100))
    assert torch.equal(found.ws[0], found.ws[-1])  # one latent for all layers
    assert all(torch.equal(t, state[name]) for name, t in G.state_dict().items())  # the generator is as it was
    for noise in found.noises.values():
        assert abs(noise.mean()) < 1e-5 and noise.square().mean().item() == pytest.approx(1, abs=1e-4)


def test_w_plus_finds_an_image_that_one_latent_cannot_make(make_generator):
    G = make_generator()
    a, b = ws_from_seeds(G, [1, 2])
    ws = torch.cat([a[:3], b[3:]])
    _, in_w, _ = recovered(G, ws, steps=60)
    found, in_w_plus, _ = recovered(G, ws, steps=60, space="w+")
    assert in_w_plus > in_w + 3
    assert not torch.equal(found.ws[0], found.ws[-1])


def test_the_same_seed_finds_the_same(G):
    target = torch.rand(3, 16, 16) * 2 - 1
    settings = ProjectionSettings(steps=5, w_samples=100, seed=3)
    torch.manual_seed(0)
    first = project(G, target, pyramid(), settings)
    torch.manual_seed(1)
    again = project(G, target, pyramid(), settings)
    assert torch.equal(first.ws, again.ws) and first.history == again.history
    assert all(torch.equal(first.noises[name], again.noises[name]) for name in noise_maps(G))
    other = project(G, target, pyramid(), ProjectionSettings(steps=5, w_samples=100, seed=4))
    assert not torch.equal(first.ws, other.ws)


def test_every_step_is_told(G):
    told = []
    settings = ProjectionSettings(steps=4, w_samples=10)
    result = project(G, torch.zeros(3, 16, 16), pyramid(), settings, on_step=lambda *step: told.append(step))
    assert [(step, distance) for step, _, distance in told] == [(s, d) for s, d, _ in result.history]
    assert all(image.shape == (3, 16, 16) and not image.requires_grad for _, image, _ in told)
    with pytest.raises(ValueError, match="target"):
        project(G, torch.zeros(3, 8, 8), pyramid(), settings)
    with pytest.raises(UserError, match="`class_index`"):
        project(G, torch.zeros(3, 16, 16), pyramid(), settings, Rendering(class_index=0))
