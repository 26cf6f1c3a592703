"""The small networks that people write themselves: convolution, max-pooling, dense, one verdict.

`custom_cnn` ends in one logit, whose sigmoid is the probability of a fake. `blur_noise_cnn` first blurs the image and,
while it learns, adds noise, both inside the network, so that a file or an exported network has the same preprocessing;
it ends in a softmax over real and fake, whose log-odds of fake are the logit (so that its cross-entropy is the one that
every network here is taught by).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from common.errors import UserError
from discriminator.network import Network, Shape, VerdictOut, undecided, zero_bias

CHANNELS = (32, 64, 128, 128)  # of the blocks; the last width repeats
SMALLEST = 8  # pixels a side, to which the blocks' pooling brings an image
DENSE = 128
PLAIN = ("custom_cnn", "blur_noise_cnn")


@dataclass(frozen=True)
class PlainConfig(Shape):
    """model: one of PLAIN. resolution: side of its images, and of no others. dropout: before the verdict.

    blur: standard deviation in pixels of the blur, 0 for none; noise: of the noise added while it learns, in units of
    images in [-1, 1] (0.05 are 6.4 grey levels)."""

    model: str
    resolution: int
    img_channels: int = 3
    dropout: float = 0.3
    blur: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.model not in PLAIN:
            raise UserError(f"unknown network {self.model!r}: give one of {', '.join(PLAIN)}")
        self.check_whole(resolution=(32, 1024))
        if self.img_channels not in (1, 3):
            raise UserError(f"img_channels must be 1 or 3, not {self.img_channels!r}")
        for name, most in (("dropout", 0.99), ("blur", 8.0), ("noise", 2.0)):
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise UserError(f"{name} must be from 0 to {most:g}, not {value!r}")

    @property
    def blocks(self) -> int:
        """How often the image is halved."""
        return max(3, math.ceil(math.log2(self.resolution / SMALLEST)))


class Plain(Network):
    """Blocks of a 3 x 3 convolution, ReLU and a 2 x 2 maximum, then two dense layers; no patches. Random weights (He et
    al. 2015)."""

    cfg: PlainConfig
    kernel: torch.Tensor
    any_size = False  # its dense layer has a weight for each place

    def __init__(self, cfg: PlainConfig) -> None:
        super().__init__()
        self.cfg = cfg
        layers: list[nn.Module] = []
        width, side = cfg.img_channels, cfg.resolution
        for i in range(cfg.blocks):
            out = CHANNELS[min(i, len(CHANNELS) - 1)]
            layers += [nn.Conv2d(width, out, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
            width, side = out, side // 2
        self.layers = nn.Sequential(*layers)
        self.dense = nn.Linear(width * side * side, DENSE)
        self.dropout = nn.Dropout(cfg.dropout)
        self.classes = nn.Linear(DENSE, 1 if cfg.model == "custom_cnn" else 2)
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                zero_bias(layer)
        undecided(self.classes)
        kernel = gaussian(cfg.blur)
        self.register_buffer("kernel", kernel.view(1, 1, 1, -1), persistent=False)

    def prepared(self, img: torch.Tensor) -> torch.Tensor:
        """The image as the first convolution sees it: blurred, edges reflected; while learning with noise on it."""
        if self.cfg.blur:
            channels, radius = img.shape[1], self.kernel.shape[-1] // 2
            img = F.pad(img, (radius,) * 4, mode="reflect")
            across = self.kernel.to(img).expand(channels, 1, 1, -1)
            img = F.conv2d(F.conv2d(img, across, groups=channels), across.transpose(2, 3), groups=channels)
        if self.training and self.cfg.noise:
            img = img + self.cfg.noise * torch.randn_like(img)
        return img

    def scores(self, img: torch.Tensor) -> torch.Tensor:
        """[N, 1], the logit; or [N, 2], what the softmax over real and fake is taken of."""
        with self.autocast(img):
            x = self.layers(self.prepared(img).contiguous(memory_format=torch.channels_last))
            x = self.dropout(self.dense(x.flatten(1)).relu())
        return self.classes(x.float())

    def verdict(self, img: torch.Tensor) -> VerdictOut:
        """log(p / (1 - p)) of a softmax over two is the difference."""
        scores = self.scores(img)
        logit = scores.squeeze(1) if scores.shape[1] == 1 else scores[:, 1] - scores[:, 0]
        return VerdictOut(logit, None)


def gaussian(sigma: float) -> torch.Tensor:
    """A Gaussian's values at whole distances, cut at 3 sigma, summing to 1: float [2r + 1]; [1.0] for sigma 0."""
    radius = math.ceil(3 * sigma)
    # on the CPU also where shapes alone are made: there PyTorch would import its compiler for an exponential
    x = torch.arange(-radius, radius + 1, dtype=torch.float64, device="cpu")
    values = torch.exp(-0.5 * (x / sigma) ** 2) if sigma else torch.ones(1, dtype=torch.float64, device="cpu")
    return (values / values.sum()).float()
