"""Small autoencoders whose decoders leave the traces that generators leave: what photos become twins through.

    photo -> stride-2 convolutions to 1/2, 1/4 or 1/8 -> a narrow code -> up-sampling blocks, colours each -> twin

A block doubles the size in one of the ways in which generators do: StyleGAN2's (this project's own modulated
convolutions, FIR 1-3-3-1 and noise; Karras et al. 2020), copied pixels, bilinear interpolation, transposed convolution
(Radford et al. 2016) or sub-pixel convolution (Shi et al. 2016). All is convolution, so a twin may be of any size that
the halvings divide. Three channels of a code are the photo's own pixels, averaged: colours are right from the first
step on, and the rest of the code and the time go into detail.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from stylegan2_ada.config import GeneratorConfig
from stylegan2_ada.generator import SynthesisBlock, SynthesisLayer
from stylegan2_ada.layers import unit_rms
from stylegan2_ada.ops.upfirdn2d import fir_taps

KINDS = ("stylegan2", "shuffle", "transposed", "stylegan2", "nearest", "bilinear")  # of decoder 0, 1, 2, …
W_DIM = 64
MOST_CHANNELS = 64
CODES = {1: (5, 9), 2: (10, 21), 3: (28, 49)}  # channels of a code, by depth: from, and below
DRAW = 0x7415
SLOPE = 0.2


@dataclass(frozen=True)
class DecoderShape:
    """What a decoder is. depth: doublings; width: its channels at full size, twice as many at each size below, at most
    MOST_CHANNELS; code: channels of what is left at the lowest size; noise: whether a block adds some."""

    kind: str
    depth: int
    width: int
    code: int
    noise: bool

    @classmethod
    def drawn(cls, seed: int, number: int) -> DecoderShape:
        """Decoder `number` of a bank: its kind in turn, all else at random."""
        rng = np.random.default_rng([seed, number, DRAW])
        depth = int(rng.choice([1, 2, 2, 3]))
        width, code = int(rng.integers(16, 33)), int(rng.integers(*CODES[depth]))
        kind = KINDS[number % len(KINDS)]
        return cls(kind, depth, width, code, kind == "stylegan2" or bool(rng.random() < 0.5))

    @property
    def multiple(self) -> int:
        """Sides of images are multiples of it."""
        return 1 << self.depth

    def channels(self, halvings: int) -> int:
        return min(self.width << halvings, MOST_CHANNELS)

    def to_dict(self) -> dict:
        return asdict(self)


class TwinDecoder(nn.Module):
    """Images float32 [N, 3, H, W] in [-1, 1], H and W multiples of `shape.multiple` -> their twins, the same shape, not
    clipped. `lowp_dtype` (torch.bfloat16 or None: float32): of convolutions, in training and after."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.lowp_dtype: torch.dtype | None = None
        self.encoder = _encoder(shape)
        self.enter = _conv(shape.code, shape.channels(shape.depth))
        self.colour = _silent(nn.Conv2d(shape.code, 3, 1))
        self.style: nn.Sequential | None = None
        halvings = range(shape.depth - 1, -1, -1)
        if shape.kind == "stylegan2":
            self.style = nn.Sequential(nn.Linear(2 * shape.code, W_DIM), nn.LeakyReLU(SLOPE), nn.Linear(W_DIM, W_DIM))
            self.blocks = nn.ModuleList(_StyleBlock(shape, k) for k in halvings)
        else:
            self.blocks = nn.ModuleList(_PlainBlock(shape, k) for k in halvings)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(images.device.type, self.lowp_dtype, enabled=self.lowp_dtype is not None):
            code = self.encoder(images.contiguous(memory_format=torch.channels_last)).float()
            small = F.avg_pool2d(images, self.shape.multiple)
            code = torch.cat([small, code], dim=1)
            x, colour = F.leaky_relu(self.enter(code), SLOPE), self.colour(code)
        w = None
        if self.style is not None:
            w = unit_rms(self.style(torch.cat([code.mean((2, 3)), code.std((2, 3))], dim=1)))
        x, colour = x.to(self.lowp_dtype or torch.float32), small + colour.float()
        for block in self.blocks:
            x, colour = block(x, colour, w)
        return colour


class _StyleBlock(nn.Module):
    """StyleGAN2's block of synthesis, of any size."""

    taps: torch.Tensor

    def __init__(self, shape: DecoderShape, halvings: int) -> None:
        super().__init__()
        side = 8  # of the noise maps that are stored and not used; what counts is the channels
        cfg = _Widths(side, shape.channels(halvings), shape.channels(halvings + 1))
        self.block = SynthesisBlock(cfg, side)
        nn.init.zeros_(self.block.torgb.weight)
        self.register_buffer("taps", fir_taps([1, 3, 3, 1]), persistent=False)

    def forward(self, x: torch.Tensor, colour: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for layer in (self.block.conv0, self.block.conv1):
            assert isinstance(layer, SynthesisLayer)
            layer.resolution = 2 * x.shape[-1]  # the noise fits whatever comes
        return self.block(x, colour, (w, w, w), self.taps, "random", False)


class _Widths(GeneratorConfig):
    """A generator's configuration whose channels are given, not computed."""

    given: dict[int, int]

    def __init__(self, side: int, here: int, below: int) -> None:
        super().__init__(resolution=side, z_dim=W_DIM, w_dim=W_DIM)
        object.__setattr__(self, "given", {side: here, side // 2: below})

    def channels(self, res: int) -> int:
        return self.given[res]


class _PlainBlock(nn.Module):
    """Twice the size by `shape.kind`, two convolutions, noise where the shape has some, colours added."""

    def __init__(self, shape: DecoderShape, halvings: int) -> None:
        super().__init__()
        self.kind, wide, here = shape.kind, shape.channels(halvings + 1), shape.channels(halvings)
        self.up: nn.Module
        if self.kind == "transposed":
            self.up = nn.ConvTranspose2d(wide, here, 4, 2, 1)
            self.up_colour: nn.Module = _as_it_is(nn.ConvTranspose2d(3, 3, 4, 2, 1))
        elif self.kind == "shuffle":
            self.up = nn.Sequential(_conv(wide, 4 * here), nn.PixelShuffle(2))
            self.up_colour = nn.Sequential(_between(_conv(3, 12)), nn.PixelShuffle(2))
        else:
            mode = {"nearest": {}, "bilinear": {"align_corners": False}}[self.kind]
            self.up = nn.Sequential(nn.Upsample(scale_factor=2, mode=self.kind, **mode), _conv(wide, here))
            self.up_colour = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.conv, self.to_colour = _conv(here, here), _silent(nn.Conv2d(here, 3, 1))
        self.noise = nn.Parameter(torch.zeros(2)) if shape.noise else None

    def forward(self, x: torch.Tensor, colour: torch.Tensor, w: None) -> tuple[torch.Tensor, torch.Tensor]:
        lowp = x.dtype
        with torch.autocast(x.device.type, lowp, enabled=lowp != torch.float32):
            x = F.leaky_relu(self._noisy(self.up(x), 0), SLOPE)
            x = F.leaky_relu(self._noisy(self.conv(x), 1), SLOPE)
            colour = self.up_colour(colour).float() + self.to_colour(x).float()
        return x.to(lowp), colour

    def _noisy(self, x: torch.Tensor, number: int) -> torch.Tensor:
        if self.noise is None:
            return x
        drawn = torch.randn((x.shape[0], 1, *x.shape[2:]), device=x.device)
        return x + drawn.to(x.dtype) * self.noise[number].to(x.dtype)


def _encoder(shape: DecoderShape) -> nn.Sequential:
    """To the code; mirrored at the edges, where zeros would be a frame that the twin remembers."""
    width = 32
    layers: list[nn.Module] = [_conv(3, width), nn.LeakyReLU(SLOPE)]
    for _ in range(shape.depth):
        wider = min(2 * width, MOST_CHANNELS)
        layers += [nn.Conv2d(width, wider, 3, 2, 1, padding_mode="reflect"), nn.LeakyReLU(SLOPE)]
        width = wider
    return nn.Sequential(*layers, _conv(width, shape.code - 3))


def _empty(conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)


def _silent(conv: nn.Conv2d) -> nn.Conv2d:
    """Begins with nothing."""
    _empty(conv)
    return conv


def _as_it_is(conv: nn.ConvTranspose2d) -> nn.ConvTranspose2d:
    """Begins by interpolating each channel, bilinearly."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
    _empty(conv)
    with torch.no_grad():
        for k in range(3):
            conv.weight[k, k] = taps[:, None] * taps[None]
    return conv


def _between(conv: nn.Conv2d) -> nn.Conv2d:
    """Begins by interpolating each channel, bilinearly, where PixelShuffle(2) follows."""
    taps = torch.tensor([[1.0, 3.0, 0.0], [0.0, 3.0, 1.0]]) / 4  # of the first and the second of two new pixels
    _empty(conv)
    with torch.no_grad():
        for k in range(12):  # four channels in a row become one, its rows first
            conv.weight[k, k // 4] = taps[k % 4 // 2][:, None] * taps[k % 2][None]
    return conv


def _conv(cin: int, cout: int) -> nn.Conv2d:
    return nn.Conv2d(cin, cout, 3, padding=1, padding_mode="reflect")
