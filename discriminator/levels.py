"""All levels of a published network, and one linear layer over them: what a probe is (`discriminator.training.probe`).

The body keeps weights learnt on other pictures; nothing of it is taught. Of every level (the stem's output, each
stage's, the last convolution's) the mean and the standard deviation over the places of an image are features, each
brought to mean 0 and deviation 1 over the training's images; one layer weighs them.

Features that no detector has shaped carry over to generators that were not in the training set: Ojha et al. 2023
("Towards universal fake image detectors that generalize across generative models") show it of the last layer. The
traces of up-sampling lie in the early levels too, and deviations hold what means average away. How strongly two
channels of a level rise and fall together is what a texture is to a network (Gatys, Ecker & Bethge 2015); Liu, Qi &
Torr 2020 ("Global texture enhancement for fake face detection in the wild") found it to be what carries over best.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from common.errors import UserError
from discriminator.backbones import BackboneConfig, Borrowing, fitted, is_published, published_body
from discriminator.network import Shape, VerdictOut, undecided
from discriminator.published import IMAGENET_MEAN, IMAGENET_STD, PUBLISHED, TimmFeatures

PREFIX = "levels:"
EPS = 1e-6  # of a variance
MOST_CORRELATED = 256  # channels: 32640 pairs
# Children of torchvision's layers whose output is no level of its own: what follows them belongs to it.
_WITHIN = (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d, nn.Dropout)


@dataclass(frozen=True)
class LevelsConfig(Shape):
    """model: "levels:" and the name of a published network, such as levels:timm:tf_efficientnet_lite0. resolution,
    any_size, mean, std: as in `BackboneConfig`. patches: whether there are patch logits. first, last: which levels,
    the stem's being 0; last None: up to the last, what lies beyond is not computed. correlations: of levels of at most
    so many channels the correlations of every two are features too; 0: of none. trimmed: whether the layers beyond the
    last level are left out (see `Levels.trimmed`)."""

    model: str
    resolution: int
    img_channels: int = 3
    patches: bool = True
    any_size: bool = True
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    first: int = 0
    last: int | None = None
    correlations: int = 0
    trimmed: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model.startswith(PREFIX) or not is_published(self.published):
            names = ", ".join(PUBLISHED)
            raise UserError(f"unknown network {self.model!r}: after {PREFIX} give one of {names} or timm:NAME")
        self.check_whole(resolution=(32, 2048), first=(0, 99), correlations=(0, MOST_CORRELATED))
        if self.last is not None:
            self.check_whole(last=(self.first, 99))
        if self.img_channels != 3:
            raise UserError(f"{self.model} takes colour images (3 channels), not {self.img_channels!r}")
        for key in ("mean", "std"):
            values = getattr(self, key)
            if len(values) != 3 or not all(math.isfinite(v) for v in values) or (key == "std" and min(values) <= 0):
                raise UserError(f"{key} must be three numbers, not {values!r}")

    @property
    def published(self) -> str:
        return self.model.removeprefix(PREFIX)


class Levels(Borrowing):
    """Images float [N, 3, R, R] in [-1, 1] -> `VerdictOut`; untaught, see `settle`.

    The patch logits are the verdict as it would be if a place's last level were that of the whole image: their mean is
    the logit. centre, gain [F]: what a feature loses, and what it is then multiplied by (0: it says nothing)."""

    cfg: LevelsConfig
    centre: torch.Tensor
    gain: torch.Tensor

    def __init__(self, cfg: LevelsConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.any_size = cfg.any_size
        self.body, _, _ = published_body(cfg.published)
        if cfg.trimmed:
            _trim(self.body, cfg)
        self.widths = _widths(self.body, cfg)
        number = sum(_number(width, cfg) for width in self.widths)
        self.register_buffer("centre", torch.zeros(number))
        self.register_buffer("gain", torch.ones(number))
        self.head = nn.Linear(number, 1)
        undecided(self.head)
        self.normalise_by(cfg.mean, cfg.std)

    @property
    def published(self) -> str:
        return self.cfg.published

    def taught(self) -> list[nn.Parameter]:
        return list(self.head.parameters())

    def features(self, img: torch.Tensor) -> torch.Tensor:
        """float32 [N, F] of images in [-1, 1]: of each level its channels' means, their standard deviations (of the
        population, `EPS` added to the variance), and where they are asked for the correlations of channels i < j, row
        by row."""
        return self._look(img)[0]

    def verdict(self, img: torch.Tensor) -> VerdictOut:
        features, last = self._look(img)
        logit = self.head((features - self.centre) * self.gain).squeeze(1)
        if not self.cfg.patches:
            return VerdictOut(logit, None)
        width = self.widths[-1]
        begin = len(self.centre) - _number(width, self.cfg)
        weight = (self.head.weight[0] * self.gain)[begin : begin + width]
        cells = last - features[:, begin : begin + width, None, None]
        return VerdictOut(logit, logit[:, None, None] + (cells * weight.view(1, -1, 1, 1)).sum(1))

    def settle(self, centre: torch.Tensor, gain: torch.Tensor, weight: torch.Tensor, bias: float) -> None:
        """What a fit has found: all of shape [F], the weight for standardised features."""
        with torch.no_grad():
            self.centre.copy_(centre)
            self.gain.copy_(gain)
            self.head.weight[0].copy_(weight)
            self.head.bias.fill_(bias)

    def trimmed(self) -> Levels:
        """The same network without the layers that no level asks for, where that can be told (EfficientNets and
        MobileNets of timm): a smaller file. Weights learnt elsewhere are to be in before."""
        if self.cfg.last is None or self.cfg.trimmed or not _staged(self.body):
            return self
        small = Levels(replace(self.cfg, trimmed=True))
        own = small.state_dict()
        small.load_state_dict({name: value for name, value in self.state_dict().items() if name in own})
        return small.to(self.centre.device).train(self.training)

    def train(self, mode: bool = True) -> Levels:
        """The body stays in evaluation mode: its batch statistics are part of what it was given."""
        super().train(mode)
        self.body.eval()
        return self

    def _look(self, img: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The features, and the last level float32 [N, C, h, w]."""
        out: list[torch.Tensor] = []
        level = img
        with self.autocast(img):
            for level in _chosen(levels(self.body, self.prepared(img)), self.cfg):
                level = level.float()
                out += _moments(level, level.shape[1] <= self.cfg.correlations)
        return torch.cat(out, 1), level


def _moments(level: torch.Tensor, correlated: bool) -> list[torch.Tensor]:
    """Of [N, C, h, w] the means and standard deviations, each [N, C], and where they are asked for the correlations
    [N, C (C - 1) / 2] of channels i < j, row by row.

    What is large is read as seldom as can be: deviations are the roots of the products' diagonal."""
    if torch.compiler.is_exporting():  # ONNX Runtime has its own order in memory
        mean = level.mean((2, 3))
        apart = (level - mean[:, :, None, None]).flatten(2)
    else:
        # As rows of places, the sums run along memory: on a CPU, a fifth of the time of sums over two dimensions.
        rows = level.permute(0, 2, 3, 1).flatten(1, 2)
        mean = rows.mean(1)
        apart = (rows - mean[:, None]).transpose(1, 2)
    places = apart.shape[2]
    if not correlated:
        return [mean, (apart.square().mean(2) + EPS).sqrt()]
    width = level.shape[1]
    products = apart @ apart.transpose(1, 2) / places
    within = torch.arange(0, width * width, width + 1, device=level.device)
    deviation = (products.flatten(1)[:, within] + EPS).sqrt()
    standard = (products / (deviation[:, :, None] * deviation[:, None, :])).flatten(1)
    above = [i * width + j for i in range(width) for j in range(i + 1, width)]
    return [mean, deviation, standard[:, torch.tensor(above, dtype=torch.int64, device=level.device)]]


def _number(width: int, cfg: LevelsConfig) -> int:
    """Features of a level of so many channels: means, deviations, correlations of every two."""
    return 2 * width + (width * (width - 1) // 2 if width <= cfg.correlations else 0)


def _chosen(found: Iterator[torch.Tensor], cfg: LevelsConfig) -> Iterator[torch.Tensor]:
    """Those from `first` to `last`; what comes after them is not asked for."""
    for number, level in enumerate(found):
        if number >= cfg.first:
            yield level
        if number == cfg.last:
            return


def _staged(body: nn.Module) -> bool:
    """Whether it is one of timm's EfficientNets or MobileNets."""
    net = getattr(body, "net", None)
    return isinstance(body, TimmFeatures) and all(hasattr(net, name) for name in ("conv_stem", "bn1", "blocks"))


def _trim(body: nn.Module, cfg: LevelsConfig) -> None:
    if cfg.last is None or not _staged(body):
        raise UserError("trimmed is for a chosen last level of a network in stages")
    net: Any = body.net
    if cfg.last > len(net.blocks):
        return  # the last convolution's output is asked for
    net.blocks = net.blocks[: cfg.last]  # the stem is level 0
    for name in ("conv_head", "bn2", "norm_head"):
        if hasattr(net, name):
            setattr(net, name, nn.Identity())


def levels(body: nn.Module, x: torch.Tensor) -> Iterator[torch.Tensor]:
    """The output [N, C, h, w] of each level of a published body, of normalised images. UserError where it has none."""
    if not isinstance(body, TimmFeatures):
        for child in body.children():
            x = child(x)
            if not isinstance(child, _WITHIN) and type(child).__name__ != "_Transition":
                yield x
        return
    net: Any = body.net
    if _staged(body):
        yield (x := net.bn1(net.conv_stem(x)))
        for stage in net.blocks:
            yield (x := stage(x))
        if hasattr(net, "conv_head") and hasattr(net, "bn2"):  # of MobileNetV3 it stands behind the pooling
            yield net.bn2(net.conv_head(x))
    elif hasattr(net, "forward_intermediates"):
        yield from net.forward_intermediates(x, intermediates_only=True)
    else:
        raise UserError(
            "timm gives no intermediate levels of this network; give another, such as tf_efficientnet_lite0"
        )


def fitted_levels(cfg: LevelsConfig) -> LevelsConfig:
    """`cfg` with what only the network itself knows, as `backbones.fitted`. UserError where it has no levels."""
    told = fitted(BackboneConfig(cfg.published, cfg.resolution, patches=False))
    return replace(cfg, any_size=told.any_size, mean=told.mean, std=told.std)


@torch.no_grad()
def _widths(body: nn.Module, cfg: LevelsConfig) -> list[int]:
    """Channels of each level, found without computing anything."""
    shadow = copy.deepcopy(body).to("meta").eval()
    try:
        image = torch.empty(1, 3, cfg.resolution, cfg.resolution, device="meta")
        found = list(_chosen(levels(shadow, image), cfg))
    except UserError as error:
        raise UserError(f"`model` {cfg.model}: {error}") from None
    if not found or any(level.ndim != 4 for level in found):
        raise UserError(f"`model` {cfg.model}: its layers make no maps of features; give a convolutional network")
    return [level.shape[1] for level in found]
