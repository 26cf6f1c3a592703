"""The losses and regularisers of StyleGAN2 (Karras et al. 2019, arXiv 1912.04958) for one micro-batch each.

Every function returns a scalar to call `backward()` on, already averaged over its micro-batch, and what telemetry
needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from stylegan2_ada.ops.convolution import input_gradients_only

Critic = Callable[[Tensor], Tensor]


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating logistic loss of the generator: mean softplus(-D(G(z))) (Goodfellow et al. 2014)."""
    return F.softplus(-fake_logits).mean()


def fake_loss(fake_logits: Tensor) -> Tensor:
    """The half of the discriminator's logistic loss that fakes give: mean softplus(D(G(z)))."""
    return F.softplus(fake_logits).mean()


def real_loss(real_logits: Tensor) -> Tensor:
    """The half that reals give: mean softplus(-D(x))."""
    return F.softplus(-real_logits).mean()


def r1_penalty(critic: Critic, real: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """R1: gamma/2 * |d D(x)/d x|^2 on real images (Mescheder et al. 2018, arXiv 1801.04406, eq. 9).

    `critic` includes the augmentation, so the gradient is taken with respect to the unaugmented image, as published.
    Args: real [N, C, H, W]; gamma >= 0. Returns (loss, |gradient|^2 per image [N], detached).
    """
    real = real.detach().requires_grad_(True)
    logits = critic(real)
    with input_gradients_only():
        (grad,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    square = grad.square().sum(dim=(1, 2, 3))
    return (square * (gamma / 2)).mean(), square.detach()


def path_lengths(images: Tensor, ws: Tensor, pixel_noise: Tensor) -> Tensor:
    """|J_w^T y| per image, the root mean square over layers (StyleGAN2, section 3.2 and appendix B).

    Args: images [N, C, H, W] made from ws [N, num_ws, w_dim]; pixel_noise: standard normal like images.
    Returns: [N], differentiable.
    """
    y = pixel_noise / math.sqrt(images.shape[2] * images.shape[3])
    with input_gradients_only():
        (grad,) = torch.autograd.grad((images * y).sum(), ws, create_graph=True)
    return grad.square().sum(dim=2).mean(dim=1).sqrt()


def path_length_penalty(lengths: Tensor, pl_mean: Tensor, decay: float = 0.01) -> tuple[Tensor, Tensor]:
    """(|J_w^T y| - a)^2 with `a` the running mean moved towards this micro-batch (StyleGAN2, eq. 4).

    Returns (penalty averaged over the micro-batch, mean length of the micro-batch, detached). The caller moves the
    shared running mean once per step, with the mean over all micro-batches of all processes.
    """
    target = pl_mean.lerp(lengths.mean(), decay)
    return (lengths - target).square().mean(), lengths.detach().mean()
