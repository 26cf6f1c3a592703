"""The latents of a photo: the generator's image nearest to it (StyleGAN2, Karras et al. 2020, sec. 5, appendix D)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from common.errors import UserError
from stylegan2_ada.generator import Generator
from synth.latents import PLAIN, device_of, one_hot
from synth.options import ProjectionSettings, Rendering
from synth.perceptual import Perceptual
from synth.render import in_precision, with_noise

SMALLEST_NOISE = 8  # maps are compared with themselves down to this resolution


@dataclass
class Projection:
    """What was found: `ws` [num_ws, w_dim], noise maps by the name of their buffer in the generator, the history of
    (step, perceptual distance, noise penalty) and the steps a second, the first one not counted."""

    ws: torch.Tensor
    noises: dict[str, torch.Tensor]
    history: list[tuple[int, float, float]] = field(default_factory=list)
    speed: float = 0.0


def noise_penalty(noises: Iterable[torch.Tensor]) -> torch.Tensor:
    """How far square noise maps [R, R] are from being white (StyleGAN2, appendix D).

    The squared correlations of a map with itself shifted by one pixel to the side and down, summed over the maps and
    over their scales R, R/2, … 8 (maps of 4 and 8 pixels have one scale).
    """
    by_side: dict[int, list[torch.Tensor]] = {}
    for noise in noises:
        by_side.setdefault(noise.shape[0], []).append(noise[None])
    penalty, side = torch.zeros(()), max(by_side, default=0)
    halved: list[torch.Tensor] = []
    # all maps of one side go together, those that were larger before included: a few operations instead of hundreds
    while by_side or halved:
        maps = torch.cat([*by_side.pop(side, []), *halved])
        shifted = torch.stack([maps * maps.roll(1, 1), maps * maps.roll(1, 2)])
        penalty = shifted.mean(dim=(2, 3)).square().sum() + penalty.to(maps)
        # times two: the mean of four independent numbers has half their deviation
        halved = [F.avg_pool2d(maps[:, None], 2)[:, 0] * 2] if side > SMALLEST_NOISE else []
        side = side // 2 if halved else max(by_side, default=0)
    return penalty


def noise_maps(G: Generator) -> dict[str, torch.Tensor]:
    """The generator's constant noise maps by the names of their buffers."""
    return {name: t for name, t in G.named_buffers() if name.endswith("noise_const")}


@torch.no_grad()
def latent_statistics(G: Generator, samples: int, seed: int, class_index: int | None) -> tuple[torch.Tensor, float]:
    """Mean of w [w_dim] and root of the mean squared distance from it, over `samples` latents (appendix D)."""
    z = torch.randn(samples, G.cfg.z_dim, generator=torch.Generator().manual_seed(seed)).to(device_of(G))
    w = G.mapping(z, one_hot(G, class_index, samples))[:, 0].float()
    mean = w.mean(dim=0)
    return mean, (w - mean).square().sum(dim=1).mean().sqrt().item()


class _Search:
    """The state of a search: latents, noise maps and Adam over both.

    The maps begin as the generator's own, not as fresh ones: what it made itself is then found again, and for a photo
    any noise is as good a beginning.
    """

    def __init__(self, G: Generator, settings: ProjectionSettings, how: Rendering):
        mean, self.deviation = latent_statistics(G, settings.w_samples, settings.seed, how.class_index)
        self.settings, self.num_ws = settings, G.num_ws
        self.noises = {name: noise.clone().requires_grad_() for name, noise in noise_maps(G).items()}
        self.w = mean.repeat(G.num_ws if settings.space == "w+" else 1, 1).requires_grad_()
        self.net = with_noise(in_precision(G, how.precision), self.noises)
        self.draws = torch.Generator().manual_seed(settings.seed)
        self.adam = torch.optim.Adam([self.w, *self.noises.values()], betas=(0.9, 0.999), foreach=True)

    def image(self, step: int) -> torch.Tensor:
        """What the latents, a little shaken, look like: [1, C, R, R]."""
        jitter = torch.randn(self.w.shape, generator=self.draws).to(self.w.device)
        ws = (self.w + jitter * (self.deviation * self.settings.jitter_at(step))).expand(self.num_ws, -1)
        return self.net.synthesis(ws[None], noise_mode="const")

    def improve(self, step: int, loss: torch.Tensor) -> None:
        """A step of Adam; then the maps get mean 0 and deviation 1 again."""
        self.adam.param_groups[0]["lr"] = self.settings.rate(step)
        self.adam.zero_grad(set_to_none=True)
        loss.backward()
        self.adam.step()
        with torch.no_grad():
            for n in self.noises.values():
                n.sub_(n.mean()).mul_(n.square().mean().rsqrt())


def project(
    G: Generator,
    target: torch.Tensor,
    perceptual: Perceptual,
    settings: ProjectionSettings,
    how: Rendering = PLAIN,
    *,
    on_step: Callable[[int, torch.Tensor, float], None] | None = None,
) -> Projection:
    """Find w and noise maps whose image by `G`, which stays as it is, is nearest to `target`.

    target: float [C, R, R] in [-1, 1], C and R those of the generator, on its device. how: class, and the precision
    during the search. on_step: called with the step, the image [C, R, R] it saw (not clipped) and the perceptual
    distance. UserError for a class the generator doesn't have, or a target of another shape."""
    shape = (G.cfg.img_channels, G.cfg.resolution, G.cfg.resolution)
    if tuple(target.shape) != shape:
        raise UserError(f"the target must be {list(shape)}, got {list(target.shape)}")
    search = _Search(G, settings, how)
    with torch.no_grad():
        wanted = perceptual.features(target[None])
    result, began = Projection(search.w, search.noises), 0.0
    for step in range(settings.steps):
        image = search.image(step)
        distance = perceptual.distance(perceptual.features(image), wanted).sum()
        penalty = noise_penalty(search.noises.values())
        search.improve(step, distance + settings.noise_weight * penalty)
        result.history.append((step, distance.item(), penalty.item()))
        if step == 0:
            began = time.monotonic()  # the first step also makes ready what the others need
        if on_step is not None:
            on_step(step, image.detach()[0], result.history[-1][1])
    result.speed = (settings.steps - 1) / max(time.monotonic() - began, 1e-9)
    result.ws = search.w.detach().expand(G.num_ws, -1).clone()
    result.noises = {name: n.detach() for name, n in search.noises.items()}
    return result
