"""The pixel view: the artefact branch alone, over crops of a photo's own pixels.

A face shrunk to a network's square has lost what up-sampling leaves in the pixels of a file. This network is shown
crops that nothing has resampled; it judges each by itself, and a photo by the mean of its crops' logits. Its branch is
the module that learns in the adversarial game (`discriminator.hybrid`), under the same names, so that a game on patches
(`train_gan.py --patches`) hands it on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from common.errors import UserError
from discriminator.artefact import RESIDUALS, ArtefactBranch
from discriminator.hybrid import VerdictHead
from discriminator.network import Network, Shape, VerdictOut


@dataclass(frozen=True)
class PixelsConfig(Shape):
    """Shape of a `Pixels`.

    resolution: side of a crop. channels: width of the branch at full resolution. blocks: its number of halvings; 2
    gives a 28-pixel receptive field every 4 pixels. residual: of `discriminator.artefact.RESIDUALS`. hidden: width of
    the head.
    """

    model: str = "pixels"
    resolution: int = 64
    img_channels: int = 3
    channels: int = 16
    blocks: int = 2
    residual: str = "highpass"
    hidden: int = 64

    def __post_init__(self) -> None:
        if self.model != "pixels":
            raise UserError(f"the pixel view is called pixels, not {self.model!r}")
        self.check_whole(resolution=(8, 1024), channels=(1, 1024), blocks=(0, 6), hidden=(1, 8192))
        if self.img_channels not in (1, 3):
            raise UserError(f"img_channels must be 1 or 3, not {self.img_channels!r}")
        if self.residual not in RESIDUALS:
            raise UserError(f"residual must be one of {', '.join(RESIDUALS)}, not {self.residual!r}")
        if self.resolution >> self.blocks < 4:
            raise UserError(f"blocks {self.blocks} leave no patch map at {self.resolution} px")


class Pixels(Network):
    """Crops float [N, C, R, R] in [-1, 1] of a photo's own pixels -> `VerdictOut`; of other sizes too."""

    cfg: PixelsConfig
    any_size = True

    def __init__(self, cfg: PixelsConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.artefact = ArtefactBranch(
            img_channels=cfg.img_channels, channels=cfg.channels, blocks=cfg.blocks, residual=cfg.residual
        )
        self.verdict_head = VerdictHead(0, self.artefact.pooled_dim, cfg.hidden)

    def verdict(self, img: torch.Tensor) -> VerdictOut:
        low = torch.bfloat16 if self.lowp_dtype == torch.bfloat16 else None
        self.artefact.lowp_dtype = low
        patch_logits, pooled = self.artefact(img)
        return VerdictOut(self.verdict_head(None, pooled), patch_logits)
