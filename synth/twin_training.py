"""Teaching one decoder to give photos their twins, and measuring how alike they are.

The loss: L1, of pixels and of the means of small areas; L1 of high-pass residuals; for each patch, how much of them
there is and how its power is spread over spatial frequencies, both as ratios, so that a twin is as sharp as its photo;
and, from a quarter of the time on, the non-saturating adversarial loss (Goodfellow et al. 2014) against an artefact
branch. All of it on the middle of a larger window: what convolutions do at borders stays outside.

All but L1 looks at the twin as a training will meet it, saved as its photo's file was: JPEG takes more from a twin than
from a photo that went through it already, and an adversary that sees twins unsaved learns to know JPEG. The encoder is
OpenCV's; gradients pass it as if it were not there (Bengio et al. 2013, straight-through).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from common.words import counted
from discriminator.artefact import ArtefactBranch, ResidualBank
from discriminator.training.twins import save
from faces.dataset import to_float
from faces.patches import Patches
from synth.twin_decoders import DecoderShape, TwinDecoder
from training.precision import computes_bf16
from training.randomness import seeded

BATCH = 12
SEEN = 48  # pixels of a side that count in the loss
MARGIN = 8  # around them in training
AROUND = 16  # around a twin that is kept
LR = {"stylegan2": 2e-3}  # of the kinds whose layers learn at one rate
PLAIN_LR = 1e-3
CLIP = 10.0  # of the gradient's norm: twice what is usual; a few steps beyond it and a decoder is lost
WARM, RISE = 0.25, 0.1  # of the time: without the adversary, and until it has all its weight
BANDS = 32  # rings of the spectrum in the loss
HIGH_PASS, ENERGY, SPECTRUM = 0.02, 0.2, 0.2
AREA, AREAS = 8, 3.0  # pixels of a side, weight
ADVERSARY = 0.3  # its gradient's norm, as a share of that of the L1 terms
LEARN, NOISE, SAMPLE = 0x7EAC, 0x7015, 0x5A3B

File = tuple[int | None, str]
Told = Callable[[float, str], None]  # of (share done, a few words)


@dataclass(frozen=True)
class Length:
    """How long a decoder learns: `steps`, or where that is None `minutes` of the processor's time: a busy machine takes
    longer and comes as far."""

    minutes: float
    steps: int | None = None

    def share(self, step: int, began: float) -> float:
        """What is done of it, 0 to 1 and beyond."""
        return step / self.steps if self.steps is not None else (time.thread_time() - began) / (60 * self.minutes)


@dataclass(frozen=True)
class Taught:
    """A decoder that has learnt. l1: mean difference of levels in [-1, 1] at the end."""

    decoder: TwinDecoder
    steps: int
    l1: float


class Twins:
    """Windows of photos, and what a decoder makes of them. photos: which of `patches`' images to cut from; files: JPEG
    quality (None: no JPEG) and subsampling of each image's file."""

    def __init__(self, patches: Patches, photos: np.ndarray, files: Sequence[File], device: torch.device) -> None:
        self.patches, self.photos, self.files, self.device = patches, photos, files, device

    def places(self, draw: tuple[int, ...], count: int, width: int) -> np.ndarray:
        """int64 [count, 3]: photo, top and left of random windows of `width` pixels, as many of each photo."""
        rng = np.random.Generator(np.random.PCG64(list(draw)))
        turns = [rng.permutation(self.photos) for _ in range(-(-count // len(self.photos)))]
        photos = np.concatenate(turns)[:count]
        room = self.patches.shapes[photos] - width + 1
        return np.column_stack([photos, (room * rng.random((count, 2))).astype(np.int64)])

    def cut(self, places: np.ndarray, width: int) -> np.ndarray:
        """uint8 [n, 3, width, width]."""
        found = [self.patches.photo(i)[top : top + width, left : left + width] for i, top, left in places.tolist()]
        return np.ascontiguousarray(np.stack(found).transpose(0, 3, 1, 2))

    def saved(self, twins: torch.Tensor, places: np.ndarray) -> torch.Tensor:
        """Twins [n, 3, width, width] of windows at `places` as their photos' files were saved; gradients pass."""
        twins = twins.clamp(-1, 1)
        images = ((twins.detach() + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        found = []
        for image, (i, top, left) in zip(images, places.tolist(), strict=True):
            quality, subsampling = self.files[i]
            found.append(image if quality is None else save(image, quality, subsampling, (top, left)))
        real = to_float(torch.from_numpy(np.stack(found).transpose(0, 3, 1, 2).copy()).to(self.device))
        return twins + (real - twins).detach()

    def of(self, decoder: TwinDecoder, windows: np.ndarray, margin: int, seed: int) -> np.ndarray:
        """uint8 [n, 3, s, s]: the twins' middles, `margin` pixels left out at every edge."""
        twins = []
        with torch.inference_mode(), seeded(seed, self.device):
            for part in np.array_split(windows, max(1, len(windows) // 32)):
                made = middle(decoder(to_float(torch.from_numpy(part).to(self.device))), margin)
                twins.append(((made.clamp(-1, 1) + 1) * 127.5).round().byte().cpu().numpy())
        return np.concatenate(twins)


def teach(shape: DecoderShape, twins: Twins, draw: tuple[int, int], length: Length, told: Told) -> Taught:
    """A decoder of this shape that has learnt from the photos of `twins`. draw: (seed, number), from which, with the
    steps done, all follows that is random."""
    work = _Work(shape, twins, draw)
    began, step, l1 = time.thread_time(), 0, 1.0
    while (share := length.share(step, began)) < 1:
        now = work.step(step, share)
        l1 = now if step == 0 else 0.95 * l1 + 0.05 * now
        step += 1
        told(share, f"{counted(step, 'step')}, L1 {l1:.3f}")
    return Taught(work.decoder.eval().requires_grad_(False), step, l1)


class _Work:
    """Decoder, adversary and their optimisers."""

    def __init__(self, shape: DecoderShape, twins: Twins, draw: tuple[int, int]) -> None:
        self.shape, self.twins, self.draw, device = shape, twins, draw, twins.device
        with seeded(_word(*draw, LEARN), device):
            self.decoder = TwinDecoder(shape).to(device)
            self.adversary = ArtefactBranch(channels=12, blocks=2).to(device)
        if computes_bf16(device):
            self.decoder.lowp_dtype = self.adversary.lowp_dtype = torch.bfloat16
        self.bank, self.rings = ResidualBank("highpass", 3).to(device), Rings(SEEN).to(device)
        networks = self.decoder, self.adversary
        self.lr = LR.get(shape.kind, PLAIN_LR)
        self.optimisers = [torch.optim.Adam(n.parameters(), self.lr, betas=(0.0, 0.99)) for n in networks]

    def step(self, step: int, share: float) -> float:
        """One batch through both; returns its L1."""
        for optimiser in self.optimisers:
            optimiser.param_groups[0]["lr"] = self.lr * min(1.0, 2 * (1 - share))
        width = SEEN + 2 * MARGIN
        places = self.twins.places((*self.draw, LEARN, step), BATCH, width)
        whole = to_float(torch.from_numpy(self.twins.cut(places, width)).to(self.twins.device))
        x = middle(whole, MARGIN)
        with seeded(_word(*self.draw, NOISE, step), self.twins.device):
            made = self.decoder(whole)
        y = middle(self.twins.saved(made, places), MARGIN)
        apart = middle(made, MARGIN) - x
        l1 = apart.abs().mean()
        # differences of whole areas, above all in colour, are small beside those of pixels and would be learnt last
        near = l1 + AREAS * F.avg_pool2d(apart, AREA).abs().mean()
        against = F.softplus(-self.adversary(y).patch_logits).mean() if share >= WARM else None
        grown = ADVERSARY * min(1.0, (share - WARM) / RISE)
        self._descend(made, near, self._apart(x, y), against, grown)
        logits = self.adversary(torch.cat([y.detach(), x])).patch_logits
        told = F.softplus(logits[:BATCH]).mean() + F.softplus(-logits[BATCH:]).mean()
        self.optimisers[1].zero_grad()
        told.backward()
        _step(self.optimisers[1])
        return l1.item()

    def _descend(
        self, made: torch.Tensor, near: torch.Tensor, alike: torch.Tensor, against: torch.Tensor | None, weight: float
    ) -> None:
        """A step of the decoder. The adversary's gradient, which nothing bounds, is held to `weight` of that of `near`
        (cf. Esser et al. 2021, equation 7): JPEG hides small answers to it, and larger and larger ones would follow."""
        (pull,) = torch.autograd.grad(near, made)
        (gradient,) = torch.autograd.grad(alike, made, retain_graph=True)
        gradient = gradient + pull
        if against is not None:
            (its,) = torch.autograd.grad(against, made)
            gradient = gradient + its * (weight * pull.norm() / (its.norm() + 1e-12))
        self.optimisers[0].zero_grad()
        made.backward(gradient)
        _step(self.optimisers[0])

    def _apart(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """How far high frequencies of photo and saved twin are apart."""
        high_x, high_y = self.bank(x), self.bank(y)
        energy = (_energy(high_y) / _energy(high_x)).log()
        rings = self.rings(y) - self.rings(x)
        matched = ENERGY * (energy.abs().mean() + energy.mean(0).abs().mean())
        spread = SPECTRUM * (rings.abs().mean() + rings.mean(0).abs().mean())
        return HIGH_PASS * (high_y - high_x).abs().mean() + matched + spread


class Rings(torch.nn.Module):
    """Log power of luma in BANDS rings of spatial frequency, of images [N, 3, side, side]: [N, BANDS]; Hann window, as
    `faces.audit.leak_features.radial_spectrum`."""

    window: torch.Tensor
    share: torch.Tensor
    luma: torch.Tensor

    def __init__(self, side: int) -> None:
        super().__init__()
        hann = torch.hann_window(side + 2, periodic=False)[1:-1]
        fy, fx = torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)[None]
        ring = (torch.hypot(fy, fx) / 0.5**0.5 * BANDS).long().clamp(max=BANDS - 1).flatten()
        share = F.one_hot(ring, BANDS).float()
        self.register_buffer("window", hann[:, None] * hann[None], persistent=False)
        self.register_buffer("share", share / share.sum(0), persistent=False)
        self.register_buffer("luma", torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        grey = (images * self.luma).sum(1)
        spectrum = torch.fft.rfft2((grey - grey.mean((1, 2), keepdim=True)) * self.window)
        power = spectrum.real.square() + spectrum.imag.square()
        return (power.flatten(1) @ self.share + 1e-3).log()


def middle(images: torch.Tensor, margin: int) -> torch.Tensor:
    return images[:, :, margin:-margin, margin:-margin] if margin else images


def _energy(residuals: torch.Tensor) -> torch.Tensor:
    return residuals.abs().mean((2, 3)) + 1e-2


def _step(optimiser: torch.optim.Optimizer) -> None:
    torch.nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], CLIP)
    optimiser.step()


def _word(*draw: int) -> int:
    return int(np.random.SeedSequence(list(draw)).generate_state(1, np.uint64)[0] >> np.uint64(1))
