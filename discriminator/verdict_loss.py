"""What the detector is taught by: labels on the verdict and on every patch, and agreement with itself.

Labels: 0 = real, 1 = fake. All terms are means over images in nats, so their weights do not depend on the batch size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F

from common.errors import UserError
from discriminator.network import VerdictOut
from discriminator.network_options import CONSISTENCIES


@dataclass(frozen=True)
class VerdictLossConfig:
    """Weights of the terms; ValueError on values out of range.

    patch: weight of the patch term: every patch is taught its image's label (Chai et al. 2020).
    consistency: weight of the agreement of the clean and the degraded view, where there are two.
    consistency_kind: "kl" (symmetric Kullback-Leibler divergence of the two verdicts) or "mse" (of their logits).
    smoothing: label smoothing s in [0, 1), targets s/2 and 1 - s/2 (Szegedy et al. 2016, section 7, two classes).
    balance: each class weighs half of the batch, whatever its share; off, every image weighs the same.
    """

    patch: float = 0.5
    consistency: float = 0.5
    consistency_kind: str = "kl"
    smoothing: float = 0.0
    balance: bool = True

    def __post_init__(self) -> None:
        if not (self.patch >= 0 and self.consistency >= 0):
            raise UserError(f"the patch and consistency weights must be >= 0: {self.patch}, {self.consistency}")
        if self.consistency_kind not in CONSISTENCIES:
            known = ", ".join(CONSISTENCIES)
            raise UserError(f"consistency_kind must be one of {known}, not {self.consistency_kind!r}")
        if not 0 <= self.smoothing < 1:
            raise UserError(f"smoothing must be at least 0 and below 1, not {self.smoothing!r}")


DEFAULTS = VerdictLossConfig()


class VerdictLoss(NamedTuple):
    """`total` to be minimised, and its unweighted terms (scalars, detached) for the log."""

    total: torch.Tensor
    verdict: torch.Tensor
    patch: torch.Tensor
    consistency: torch.Tensor


def verdict_loss(
    clean: VerdictOut,
    labels: torch.Tensor,
    *,
    degraded: VerdictOut | None = None,
    cfg: VerdictLossConfig = DEFAULTS,
    own: Sequence[torch.Tensor] | None = None,
) -> VerdictLoss:
    """Loss of N images seen once, or twice: `degraded` holds the verdicts on the same images in the same order,
    re-saved, resized and so on.

    labels: [N], 0 real, 1 fake. own: each view's loss of each image [N] by the network's own lights (capsules' margin
    loss), in place of the cross-entropy of the verdict. With two views both are taught the label (half the weight each)
    and asked to agree: the stability training of Zheng et al. 2016 ("Improving the robustness of deep neural networks
    via stability training", eq. 4), here with a gradient into both views. ValueError on other shapes.
    """
    views = [clean] if degraded is None else [clean, degraded]
    if labels.dim() != 1 or len(labels) == 0 or any(view.logit.shape != labels.shape for view in views):
        shapes = " and ".join(str(tuple(view.logit.shape)) for view in views)
        raise UserError(f"verdicts of shape {shapes} don't belong to labels of shape {tuple(labels.shape)}")
    labels = labels.to(clean.logit)
    weights = class_weights(labels) if cfg.balance else torch.full_like(labels, 1 / len(labels))
    targets = smoothed(labels, cfg)

    if own is None:
        verdict = _mean([_bce(view.logit[:, None], targets, weights) for view in views])
    else:
        verdict = _mean([(weights * each).sum() for each in own])
    patch = consistency = verdict.new_zeros(())
    if maps := [view.patch_logits.flatten(1) for view in views if view.patch_logits is not None]:
        patch = _mean([_bce(one, targets, weights) for one in maps])
    if degraded is not None:
        if cfg.consistency_kind == "kl":
            apart = symmetric_kl(clean.logit, degraded.logit)
        else:
            apart = (clean.logit - degraded.logit).square()
        consistency = (weights * apart).sum()
    total = verdict + cfg.patch * patch + cfg.consistency * consistency
    return VerdictLoss(total, verdict.detach(), patch.detach(), consistency.detach())


def _mean(terms: Sequence[torch.Tensor]) -> torch.Tensor:
    return sum(terms[1:], terms[0]) / len(terms)


def smoothed(labels: torch.Tensor, cfg: VerdictLossConfig) -> torch.Tensor:
    """What the verdict is asked to be: labels float [N], drawn towards 1/2 by label smoothing."""
    return labels * (1 - cfg.smoothing) + cfg.smoothing / 2


def class_weights(labels: torch.Tensor) -> torch.Tensor:
    """Weight of each image, summing to 1, so that each class present has the same total: float [N] like `labels`."""
    fakes = labels.sum()
    reals = len(labels) - fakes
    classes = (fakes > 0).to(labels.dtype) + (reals > 0).to(labels.dtype)
    return torch.where(labels > 0.5, 1 / fakes.clamp(min=1), 1 / reals.clamp(min=1)) / classes


def symmetric_kl(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(KL(p||q) + KL(q||p)) / 2 in nats for p = Bernoulli(sigmoid(a)), q = Bernoulli(sigmoid(b)), element by element.

    The logarithms cancel to (p - q)(a - b) / 2 (Jeffreys 1946), which needs no clamping at either end.
    """
    return (a.sigmoid() - b.sigmoid()) * (a - b) / 2


def _bce(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted binary cross-entropy of logits [N, P] under their image's target, averaged over P."""
    each = F.binary_cross_entropy_with_logits(logits, targets[:, None].expand_as(logits), reduction="none")
    return (weights * each.mean(1)).sum()
