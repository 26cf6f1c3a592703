"""Capsules with dynamic routing: Sabour, Frosst, Hinton 2017, "Dynamic routing between capsules".

The layers are the paper's (section 4): a 9 x 9 convolution with ReLU, primary capsules from a 9 x 9 convolution of
stride 2, and one capsule for each class, whose length says whether its class is there. Equations are numbered as in the
paper. What differs, because these images are not 28 x 28 digits: the image is first averaged down to `inner` pixels,
the first convolution has stride 2 where those are more than 48, there are two classes, and fewer channels, so that a
CPU can teach it. The layers take any of these numbers, the paper's
own among them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from common.errors import UserError
from discriminator.network import Network, Shape, VerdictOut, zero_bias

M_PLUS, M_MINUS, LAMBDA = 0.9, 0.1, 0.5  # of the margin loss
RECONSTRUCTION = 0.0005  # weight of the reconstruction's sum of squares (section 4.1)
REDRAWN = 28  # pixels a side of what the decoder draws, as in the paper
KERNEL = 9
TINY = 1e-12  # the least under a root, whose slope is infinite at 0; as a summand an exporter takes it for 0
CLASSES = ("real", "fake")


def squash(s: torch.Tensor) -> torch.Tensor:
    """Eq. 1 over the last dimension: |s|^2 / (1 + |s|^2) * s / |s|. Lengths go to [0, 1), directions stay."""
    squared = s.square().sum(-1, keepdim=True)
    return s * (squared / ((1 + squared) * squared.clamp(min=TINY).sqrt()))


def route(u_hat: torch.Tensor, iterations: int) -> torch.Tensor:
    """Procedure 1: predictions float [N, i, j, d] of capsules i about capsules j -> v [N, j, d].

    Eq. 3: the coupling c_i is a softmax over j of b_i, which begins at 0. Eq. 2: s_j is the sum of c_ij u_hat_ij. After
    each round b_ij grows by u_hat_ij . v_j; after the last nothing would read it, so it is left out there."""
    b = torch.zeros_like(u_hat[..., 0])
    for left in reversed(range(iterations)):
        v = squash((b.softmax(2).unsqueeze(-1) * u_hat).sum(1))
        if left:
            b = b + (u_hat * v.unsqueeze(1)).sum(-1)
    return v


def margin_loss(lengths: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Eq. 4, summed over the classes: lengths and targets float [N, j] -> [N]. T_k is 1 where class k is there (between
    0 and 1 with label smoothing)."""
    there = (M_PLUS - lengths).clamp(min=0).square()
    absent = (lengths - M_MINUS).clamp(min=0).square()
    return (targets * there + LAMBDA * (1 - targets) * absent).sum(1)


class Capsules(nn.Module):
    """Images float [N, channels, side, side] -> capsules [N, classes, class_dim].

    conv: channels of the first convolution. types, dim: kinds of primary capsules and the length of each. The paper's
    for digits: side 28, channels 1, conv 256, types 32, dim 8, classes 10, class_dim 16, iterations 3."""

    def __init__(
        self,
        side: int,
        channels: int,
        conv: int,
        types: int,
        dim: int,
        classes: int,
        class_dim: int,
        iterations: int,
    ) -> None:
        super().__init__()
        stride = 2 if side > 48 else 1
        self.dim, self.iterations = dim, iterations
        self.conv = nn.Conv2d(channels, conv, KERNEL, stride)
        self.primary = nn.Conv2d(conv, types * dim, KERNEL, stride=2)
        grid = (((side - KERNEL) // stride + 1) - KERNEL) // 2 + 1
        if grid < 1:
            raise UserError(f"images of {side} px are too small for two convolutions of {KERNEL} x {KERNEL}")
        self.count = types * grid * grid
        # The paper does not say where it begins. Sizes by which no capsule begins near length 0, where squashing and
        # routing have no slope, nor near 1. W is kept larger than it counts: thousands of capsules add up, and Adam's
        # first steps, alike for all of them, would saturate every length.
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        nn.init.kaiming_normal_(self.primary.weight, nonlinearity="linear")
        for layer in (self.conv, self.primary):
            zero_bias(layer)
        self.W = nn.Parameter(torch.randn(self.count, classes, dim, class_dim))
        self.scale = self.count**-0.5

    def primaries(self, x: torch.Tensor) -> torch.Tensor:
        """u [N, i, dim], squashed: the channels of one kind at one place are one capsule."""
        x = self.primary(self.conv(x).relu()).float()
        n, _, h, w = x.shape
        return squash(x.reshape(n, -1, self.dim, h * w).transpose(2, 3).reshape(n, self.count, self.dim))

    def routed(self, u: torch.Tensor) -> torch.Tensor:
        """[N, classes, class_dim] of the primary capsules, always in float32."""
        u_hat = torch.einsum("nid,ijdk->nijk", u, self.W * self.scale)  # eq. 2, right
        return route(u_hat, self.iterations)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.routed(self.primaries(x))


class Decoder(nn.Module):
    """Section 4.1: from the capsule of the class that is there (the others masked with 0) to the image in [0, 1]."""

    def __init__(self, capsules: int, pixels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(capsules, 512), nn.ReLU(), nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, pixels), nn.Sigmoid()
        )

    def forward(self, v: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """v [N, j, d], targets [N, j] one-hot -> [N, pixels]."""
        return self.layers((v * targets.unsqueeze(-1)).flatten(1))


@dataclass(frozen=True)
class CapsNetConfig(Shape):
    """resolution: side of the images. inner: side they are averaged down to. conv, types, dim, class_dim, iterations:
    see `Capsules`. reconstruct: with the decoder's regulariser."""

    resolution: int
    img_channels: int = 3
    inner: int = 64
    conv: int = 64
    types: int = 16
    dim: int = 8
    class_dim: int = 16
    iterations: int = 3
    reconstruct: bool = False
    model: str = "capsnet"

    def __post_init__(self) -> None:
        if self.model != "capsnet" or not isinstance(self.reconstruct, bool):
            raise UserError("not the options of a capsnet")
        self.check_whole(resolution=(32, 2048), inner=(28, 128), conv=(1, 512))
        self.check_whole(types=(1, 64), dim=(1, 64), class_dim=(1, 64), iterations=(1, 10))
        if self.img_channels not in (1, 3):
            raise UserError(f"img_channels must be 1 or 3, not {self.img_channels!r}")


class CapsNet(Network):
    """A network without patches that is taught by `lesson`, not by cross-entropy.

    The paper reads a capsule's length as the probability that its class is there. One of the two is: the odds of "fake
    and not real" against "real and not fake" are p_f (1 - p_r) / (p_r (1 - p_f)), so the logit is the difference of the
    two lengths' logits."""

    cfg: CapsNetConfig

    def __init__(self, cfg: CapsNetConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.side = min(cfg.inner, cfg.resolution)
        self.capsules = Capsules(
            self.side, cfg.img_channels, cfg.conv, cfg.types, cfg.dim, len(CLASSES), cfg.class_dim, cfg.iterations
        )
        pixels = cfg.img_channels * REDRAWN**2
        self.decoder = Decoder(len(CLASSES) * cfg.class_dim, pixels) if cfg.reconstruct else None

    def class_capsules(self, img: torch.Tensor) -> torch.Tensor:
        """v [N, 2, class_dim], of real and of fake."""
        if img.shape[-1] != self.side:
            img = shrunk(img, self.side)
        with self.autocast(img):
            u = self.capsules.primaries(img)
        return self.capsules.routed(u)

    def verdict(self, img: torch.Tensor) -> VerdictOut:
        return VerdictOut(log_odds(lengths(self.class_capsules(img))), None)

    def lesson(self, img: torch.Tensor, targets: torch.Tensor) -> tuple[VerdictOut, torch.Tensor]:
        """The verdict, and each image's own loss [N]: margin loss, and 0.0005 times the squared error of the redrawn
        image where there is a decoder. targets: [N] in [0, 1], 1 = fake."""
        v = self.class_capsules(img)
        length = lengths(v)
        both = torch.stack([1 - targets, targets], 1)
        loss = margin_loss(length, both)
        if self.decoder is not None:
            seen = (shrunk(img, REDRAWN) / 2 + 0.5).flatten(1)
            loss = loss + RECONSTRUCTION * (self.decoder(v, both.round()) - seen).square().sum(1)
        return VerdictOut(log_odds(length), None), loss


def lengths(v: torch.Tensor) -> torch.Tensor:
    """|v_j| of [N, j, d]: [N, j] in [0, 1)."""
    return v.square().sum(-1).clamp(min=TINY).sqrt()


def log_odds(length: torch.Tensor) -> torch.Tensor:
    """[N] of the lengths [N, 2] of real and fake; see `CapsNet`."""
    p = length.clamp(1e-6, 1 - 1e-6)
    logit = p.log() - (-p).log1p()
    return logit[:, 1] - logit[:, 0]


def shrunk(img: torch.Tensor, side: int) -> torch.Tensor:
    """Averaged to `side` pixels a side."""
    factor, rest = divmod(img.shape[-1], side)
    return F.avg_pool2d(img, factor) if not rest else F.interpolate(img, (side, side), mode="area")
