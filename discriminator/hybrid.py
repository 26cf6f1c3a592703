"""The hybrid discriminator: one network, two heads.

`adversarial` is the StyleGAN2 residual discriminator, number for number, and is what the generator plays against.
`verdict` answers another question, "did any generator make this?", from the same trunk's deep features and from the
artefact branch, which sees the full-resolution high-pass residual the trunk loses in its first down-sampling.

Why two heads: the adversarial logit follows today's generator only (its trainers report it near chance on held-out
photos), while a verdict must still know yesterday's fakes. The trunk is shared; the verdict's gradient into it is
scaled by `trunk_grad_scale`, as in the gradient reversal layer of Ganin & Lempitsky (2015) with a positive factor, so
the detector's lessons colour the trunk but do not steer the game.

No layer on the verdict's path looks at other images of the batch (no batch norm, no minibatch standard deviation): an
image's verdict is the same alone or in a thousand.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from common.errors import UserError
from discriminator.artefact import RESIDUALS, SLOPE, ArtefactBranch, mean_std
from discriminator.network import Network, Shape, VerdictOut, undecided, zero_bias
from discriminator.network_options import BRANCHES
from stylegan2_ada.config import DiscriminatorConfig
from stylegan2_ada.discriminator import Discriminator


@dataclass(frozen=True)
class HybridConfig(Shape):
    """Shape of a `HybridDiscriminator`.

    trunk: the StyleGAN2 discriminator (resolution, channels, minibatch standard deviation, conditioning).
    artefact_channels: width of the artefact branch at full resolution.
    artefact_blocks: its number of halvings; 2 gives a 28-pixel receptive field every 4 pixels.
    residual: the filter bank it starts from, one of `discriminator.artefact.RESIDUALS`.
    verdict_dim: hidden width of the fused verdict head.
    trunk_grad_scale: factor on the verdict's gradient into the trunk; 0 = the trunk is only read, without a graph.
    branches: what the verdict sees: "spatial" (trunk features), "artefact", or both.
    """

    trunk: DiscriminatorConfig = field(default_factory=lambda: DiscriminatorConfig(resolution=64))
    artefact_channels: int = 16
    artefact_blocks: int = 2
    residual: str = "highpass"
    verdict_dim: int = 64
    trunk_grad_scale: float = 0.1
    branches: tuple[str, ...] = BRANCHES

    def __post_init__(self) -> None:
        self.check_whole(artefact_channels=(1, 1024), artefact_blocks=(0, 6), verdict_dim=(1, 8192))
        if not 0 <= self.trunk_grad_scale <= 1:
            raise UserError(f"trunk_grad_scale must be between 0 and 1, not {self.trunk_grad_scale!r}")
        if self.residual not in RESIDUALS:
            raise UserError(f"residual must be one of {', '.join(RESIDUALS)}, not {self.residual!r}")
        if not self.branches or not set(self.branches) <= set(BRANCHES) or len(set(self.branches)) < len(self.branches):
            raise UserError(f"branches must name one or both of {', '.join(BRANCHES)}, not {self.branches!r}")
        if self.trunk.resolution < 8:
            raise UserError(f"the hybrid discriminator needs at least 8 px, not {self.trunk.resolution}")
        if self.trunk.resolution >> self.artefact_blocks < 4:
            raise UserError(f"artefact_blocks {self.artefact_blocks} leave no patch map at {self.trunk.resolution} px")

    @property
    def resolution(self) -> int:
        """Side of the images."""
        return self.trunk.resolution

    @property
    def img_channels(self) -> int:
        """3 for colour, 1 for grey."""
        return self.trunk.img_channels

    @classmethod
    def from_dict(cls, data: dict) -> HybridConfig:
        return super().from_dict({**data, "trunk": DiscriminatorConfig.from_dict(data["trunk"])})


class HybridOut(NamedTuple):
    """`adversarial` [N, 1], positive = real as in the GAN literature; the other two as in `VerdictOut`."""

    adversarial: torch.Tensor
    logit: torch.Tensor
    patch_logits: torch.Tensor | None


def scale_gradient(x: torch.Tensor, scale: float) -> torch.Tensor:
    """x itself, bit for bit; its gradient times `scale`. 0 cuts the graph, 1 leaves it alone."""
    if scale == 0:
        return x.detach()
    if scale != 1 and x.requires_grad:
        x = x.view_as(x)
        x.register_hook(lambda grad: grad * scale)
    return x


class VerdictHead(nn.Module):
    """Trunk features and artefact features to one logit."""

    def __init__(self, trunk_dim: int, artefact_dim: int, hidden: int):
        super().__init__()
        # The trunk's features grow and shrink with the GAN game, so each image's are layer-normalised.
        self.trunk_norm = nn.LayerNorm(trunk_dim) if trunk_dim else None
        self.hidden = nn.Linear(trunk_dim + artefact_dim, hidden)
        self.out = nn.Linear(hidden, 1)
        nn.init.kaiming_normal_(self.hidden.weight, a=SLOPE, nonlinearity="leaky_relu")
        zero_bias(self.hidden)
        undecided(self.out)

    def forward(self, trunk: torch.Tensor | None, artefact: torch.Tensor | None) -> torch.Tensor:
        if self.trunk_norm is not None and trunk is not None:
            trunk = self.trunk_norm(trunk)
        parts = [part for part in (trunk, artefact) if part is not None]
        return self.out(F.leaky_relu(self.hidden(torch.cat(parts, dim=1)), SLOPE)).squeeze(1)


class HybridDiscriminator(Network):
    """StyleGAN2 discriminator with a second, forensic head.

    `lowp_dtype` may be set like a `Discriminator`'s; bfloat16 (never float16, which would need loss scaling) is then
    used in the artefact branch too when `trunk.num_lowp_res` is positive. In evaluation mode verdicts are always
    computed in float32, so that one calibration holds for every machine.
    """

    cfg: HybridConfig

    def __init__(self, cfg: HybridConfig):
        super().__init__()
        self.cfg = cfg
        self.any_size = "spatial" not in cfg.branches  # the trunk's number of halvings is fixed
        self.trunk = Discriminator(cfg.trunk)
        trunk_dim = artefact_dim = 0
        if "spatial" in cfg.branches:
            trunk_dim = sum(2 * cfg.trunk.channels(r) for r in _pooled_resolutions(cfg.trunk))
        self.artefact = None
        if "artefact" in cfg.branches:
            self.artefact = ArtefactBranch(
                img_channels=cfg.trunk.img_channels,
                channels=cfg.artefact_channels,
                blocks=cfg.artefact_blocks,
                residual=cfg.residual,
            )
            artefact_dim = self.artefact.pooled_dim
        self.verdict_head = VerdictHead(trunk_dim, artefact_dim, cfg.verdict_dim)
        self.lowp_dtype = self.trunk.lowp_dtype

    @property
    def lowp_dtype(self) -> torch.dtype:
        return self.trunk.lowp_dtype

    @lowp_dtype.setter
    def lowp_dtype(self, dtype: torch.dtype) -> None:
        self.trunk.lowp_dtype = dtype
        if self.artefact is not None:
            low = self.cfg.trunk.num_lowp_res > 0 and dtype == torch.bfloat16
            self.artefact.lowp_dtype = torch.bfloat16 if low else None

    def adversarial(self, img: torch.Tensor, c: torch.Tensor | None = None, *, batches: int = 1) -> torch.Tensor:
        """The StyleGAN2 discriminator's logits [N, 1] (Karras et al. 2020); the verdict head plays no part. batches: as
        many of one size, one behind the other, each with its own minibatch statistic."""
        return self.trunk(img, c, batches=batches)

    def verdict(self, img: torch.Tensor, *, into_trunk: float | None = None) -> VerdictOut:
        """The forensic head alone. Labels don't enter: a photo to be judged has none.

        into_trunk: the factor on the gradient that goes into the trunk, and through it into the image; None: that of
        the configuration.
        """
        scale = self.cfg.trunk_grad_scale if into_trunk is None else into_trunk
        features: list[torch.Tensor] = []
        if "spatial" in self.cfg.branches:
            # With nothing to send back, the trunk's graph (most of the memory and two thirds of the time) is not built.
            with torch.set_grad_enabled(torch.is_grad_enabled() and scale > 0):
                features = self.trunk.features(img, force_fp32=not self.training)
        return self._verdict(img, features, scale)

    def forward(self, img: torch.Tensor, c: torch.Tensor | None = None) -> HybridOut:
        """Both heads over one pass of the trunk (in float32 in evaluation mode, like `verdict`)."""
        features = self.trunk.features(img, force_fp32=not self.training)
        return HybridOut(self.trunk.head(features[-1], c), *self._verdict(img, features, self.cfg.trunk_grad_scale))

    def _verdict(self, img: torch.Tensor, features: list[torch.Tensor], scale: float) -> VerdictOut:
        trunk = artefact = patch_logits = None
        if "spatial" in self.cfg.branches:
            deep = features[-len(_pooled_resolutions(self.cfg.trunk)) :]
            pooled = torch.cat([mean_std(f.float().flatten(2)) for f in deep], dim=1)
            trunk = scale_gradient(pooled, scale)
        if self.artefact is not None:
            patch_logits, artefact = self.artefact(img)
        return VerdictOut(self.verdict_head(trunk, artefact), patch_logits)

    def adversarial_parameters(self) -> list[nn.Parameter]:
        """The trunk with its adversarial head: what the GAN game's optimiser owns."""
        return list(self.trunk.parameters())

    def verdict_parameters(self) -> list[nn.Parameter]:
        """All the rest: the artefact branch and the verdict head."""
        owned = {id(p) for p in self.trunk.parameters()}
        return [p for p in self.parameters() if id(p) not in owned]

    def taught(self) -> list[nn.Parameter]:
        """What a training of the verdict alone changes: the branches it looks through, and its own head."""
        unused = ("conv", "fc", "out", "mapping") if "spatial" in self.cfg.branches else ("",)
        prefixes = tuple(f"trunk.{name}{'.' if name else ''}" for name in unused)
        return [p for name, p in self.named_parameters() if not name.startswith(prefixes)]


def _pooled_resolutions(cfg: DiscriminatorConfig) -> tuple[int, ...]:
    """Resolutions of the block outputs the verdict reads: 8x8 and 4x4 (4x4 alone in an 8-pixel network)."""
    return (8, 4) if cfg.resolution > 8 else (4,)
