"""The latents of a photo: the generator's image nearest to it (StyleGAN2, Karras et al. 2020, sec. 5, appendix D)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from common.errors import UserError
from stylegan2_ada.generator import Generator
from synth.latents import one_hot
from synth.perceptual import Perceptual
from synth.render import in_precision, with_noise

SPACES = ("w", "w+")
SMALLEST_NOISE = 8  # maps are compared with themselves down to this resolution


@dataclass(frozen=True)
class ProjectionSettings:
    """The published settings.

    space: 'w' seeks one latent for all layers, 'w+' one for each (nearer to the photo, farther from a face).
    w_samples: latents that give the starting point (their mean) and the scale of the latent noise.
    lr: highest rate of Adam (betas 0.9, 0.999); it rises over the first `lr_rise` of the steps and falls as a cosine
        over the last `lr_fall`.
    jitter: standard deviation of the noise on w, as a share of that of the latents; it falls to zero, quadratically,
        until `jitter_until` of the steps are done.
    noise_weight: of the penalty that keeps the noise maps noise (see `noise_penalty`).
    """

    steps: int = 1000
    space: str = "w"
    seed: int = 0
    w_samples: int = 10_000
    lr: float = 0.1
    lr_rise: float = 0.05
    lr_fall: float = 0.25
    jitter: float = 0.05
    jitter_until: float = 0.75
    noise_weight: float = 1e5

    def __post_init__(self):
        if self.steps < 1:
            raise UserError(f"--steps {self.steps}: must be at least 1")
        if self.space not in SPACES:
            raise UserError(f"--space {self.space}: must be w or w+")

    def rate(self, step: int) -> float:
        """The learning rate of a step, 0 to steps - 1."""
        t = step / self.steps
        fall = min(1.0, (1 - t) / self.lr_fall)
        return self.lr * (0.5 - 0.5 * math.cos(math.pi * fall)) * min(1.0, t / self.lr_rise)

    def jitter_at(self, step: int) -> float:
        """The noise on w at a step, as a share of the latents' deviation."""
        return self.jitter * max(0.0, 1 - step / self.steps / self.jitter_until) ** 2


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
def latent_statistics(
    G: Generator, samples: int, seed: int, class_index: int | None, device: torch.device
) -> tuple[torch.Tensor, float]:
    """Mean of w [w_dim] and root of the mean squared distance from it, over `samples` latents (appendix D)."""
    z = torch.randn(samples, G.cfg.z_dim, generator=torch.Generator().manual_seed(seed)).to(device)
    w = G.mapping(z, one_hot(G, class_index, samples, device))[:, 0].float()
    mean = w.mean(dim=0)
    return mean, (w - mean).square().sum(dim=1).mean().sqrt().item()


def project(
    G: Generator,
    target: torch.Tensor,
    perceptual: Perceptual,
    settings: ProjectionSettings,
    *,
    class_index: int | None = None,
    precision: str = "fp32",
    on_step: Callable[[int, torch.Tensor, float], None] | None = None,
) -> Projection:
    """Find w and noise maps whose image is nearest to `target`.

    Args:
        G: stays as it is.
        target: float [C, R, R] in [-1, 1], C and R those of the generator, on its device.
        perceptual: the distance that is made small.
        precision: of the generator during the search, 'fp32' or 'bf16'.
        on_step: called with the step, the image [C, R, R] it saw (not clipped) and the perceptual distance.

    Raises:
        UserError: for a class the generator doesn't have. ValueError: for a target of another shape.
    """
    s, device = settings, target.device
    shape = (G.cfg.img_channels, G.cfg.resolution, G.cfg.resolution)
    if tuple(target.shape) != shape:
        raise UserError(f"the target must be {list(shape)}, got {list(target.shape)}")
    mean, deviation = latent_statistics(G, s.w_samples, s.seed, class_index, device)
    draws = torch.Generator().manual_seed(s.seed)
    # from the generator's own maps, not from fresh ones: what it made itself is then found again, and for a photo any
    # noise is as good a beginning
    noises = {name: noise.clone() for name, noise in noise_maps(G).items()}
    found = [n.requires_grad_() for n in noises.values()]
    w = mean.repeat(G.num_ws if s.space == "w+" else 1, 1).requires_grad_()
    net = with_noise(in_precision(G, precision), noises)
    with torch.no_grad():
        wanted = perceptual.features(target[None])

    adam = torch.optim.Adam([w, *found], betas=(0.9, 0.999), foreach=True)
    result, began = Projection(w, noises), 0.0
    for step in range(s.steps):
        adam.param_groups[0]["lr"] = s.rate(step)
        jitter = torch.randn(w.shape, generator=draws).to(device) * (deviation * s.jitter_at(step))
        ws = (w + jitter).expand(G.num_ws, -1)
        image = net.synthesis(ws[None], noise_mode="const")
        distance = perceptual.distance(perceptual.features(image), wanted).sum()
        penalty = noise_penalty(found)
        adam.zero_grad(set_to_none=True)
        (distance + s.noise_weight * penalty).backward()
        adam.step()
        with torch.no_grad():
            for n in found:
                n.sub_(n.mean()).mul_(n.square().mean().rsqrt())
        result.history.append((step, distance.item(), penalty.item()))
        if step == 0:
            began = time.monotonic()  # the first step also makes ready what the others need
        if on_step is not None:
            on_step(step, image.detach()[0], result.history[-1][1])
    result.speed = (s.steps - 1) / max(time.monotonic() - began, 1e-9)
    result.ws = w.detach().expand(G.num_ws, -1).clone()
    result.noises = {name: n.detach() for name, n in noises.items()}
    return result
