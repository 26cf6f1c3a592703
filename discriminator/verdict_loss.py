"""What the detective is taught by: labels on the verdict and on every patch, and agreement with itself.

Labels: 0 = real, 1 = fake. All terms are means over images in nats, so their weights do not depend on the batch size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from discriminator.hybrid import VerdictOut

CONSISTENCIES = ("kl", "mse")


class VerdictLoss(NamedTuple):
    """`total` to be minimised, and its unweighted terms (scalars, detached) for the log."""

    total: torch.Tensor
    verdict: torch.Tensor
    patch: torch.Tensor
    consistency: torch.Tensor


def verdict_loss(
    out: VerdictOut,
    labels: torch.Tensor,
    *,
    patch: float = 0.5,
    consistency: float = 0.5,
    consistency_kind: str = "kl",
    smoothing: float = 0.0,
    balance: bool = True,
) -> VerdictLoss:
    """Loss of N images seen once or twice.

    out: verdicts on N images, or on 2N: N clean ones, then the same N in the same order degraded (re-saved, resized…).
    labels: [N], 0 real, 1 fake.
    patch: weight of the patch term: every patch is taught its image's label (Chai et al. 2020).
    consistency: weight of the agreement of the two views, where there are two, both being taught the label. It is the
        stability training of Zheng et al. 2016 ("Improving the robustness of deep neural networks via stability
        training", eq. 4), here with a gradient into both views.
    consistency_kind: "kl" (symmetric Kullback-Leibler divergence of the two verdicts) or "mse" (of their logits).
    smoothing: label smoothing s in [0, 1), targets s/2 and 1 - s/2 (Szegedy et al. 2016, section 7, two classes).
    balance: each class weighs half of the batch, whatever its share; off, every image weighs the same.
    ValueError on other values or shapes.
    """
    n = len(labels)
    if n == 0 or labels.dim() != 1 or out.logit.shape not in ((n,), (2 * n,)):
        raise ValueError(
            f"logits {tuple(out.logit.shape)} fit neither one nor two views of labels {tuple(labels.shape)}"
        )
    if patch < 0 or consistency < 0 or not 0 <= smoothing < 1:
        raise ValueError(f"need patch >= 0, consistency >= 0, 0 <= smoothing < 1: {patch}, {consistency}, {smoothing}")
    if consistency_kind not in CONSISTENCIES:
        raise ValueError(f"consistency_kind must be one of {', '.join(CONSISTENCIES)}, not {consistency_kind!r}")
    views = len(out.logit) // n
    labels = labels.to(out.logit)
    weights = class_weights(labels) if balance else torch.full_like(labels, 1 / n)
    targets = (labels * (1 - smoothing) + smoothing / 2).repeat(views)
    each = weights.repeat(views) / views

    verdict = (each * F.binary_cross_entropy_with_logits(out.logit, targets, reduction="none")).sum()
    patches = disagreement = verdict.new_zeros(())
    if out.patch_logits is not None:
        logits = out.patch_logits.flatten(1)
        bce = F.binary_cross_entropy_with_logits(logits, targets[:, None].expand_as(logits), reduction="none")
        patches = (each * bce.mean(1)).sum()
    if views == 2:
        clean, degraded = out.logit.chunk(2)
        apart = symmetric_kl(clean, degraded) if consistency_kind == "kl" else (clean - degraded).square()
        disagreement = (weights * apart).sum()
    total = verdict + patch * patches + consistency * disagreement
    return VerdictLoss(total, verdict.detach(), patches.detach(), disagreement.detach())


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
