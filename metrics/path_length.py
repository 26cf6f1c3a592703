"""Perceptual path length (Karras et al. 2019, arXiv:1812.04948, equation 3; in W and at the end points, as in Karras
et al. 2020, arXiv:1912.04958): how far an image moves for a small step of its latent."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from common.errors import UserError

EPSILON = 1e-4

Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(images a, images b), float [N, C, R, R] in [-1, 1] -> squared distance [N]; it must grow with the square of a small
difference, or the division by epsilon^2 has no limit."""


@torch.no_grad()
def path_lengths(
    mapping: Callable[[torch.Tensor], torch.Tensor],
    synthesis: Callable[[torch.Tensor], torch.Tensor],
    distance: Distance,
    z: torch.Tensor,
    *,
    epsilon: float = EPSILON,
    t: torch.Tensor | None = None,
) -> torch.Tensor:
    """distance(G(lerp(w0, w1, t)), G(lerp(w0, w1, t + epsilon))) / epsilon^2 of pairs of latents, [N].

    mapping: z [2N, z_dim], of which neighbours form a pair, -> ws [2N, ...]. synthesis: ws -> images; noise must be the
    same at every call. t: [N] in [0, 1), where on the path ('full'); None: at its beginning ('end'), as published in
    2020.
    """
    ws = mapping(z)
    w0, w1 = ws[0::2], ws[1::2]
    step = (torch.zeros(len(w0)) if t is None else t).reshape(-1, *[1] * (w0.ndim - 1)).to(w0)
    near, far = torch.lerp(w0, w1, step), torch.lerp(w0, w1, step + epsilon)
    images = synthesis(torch.stack([near, far], dim=1).flatten(0, 1))
    return distance(images[0::2], images[1::2]).double() / epsilon**2


def summary(lengths: np.ndarray) -> float:
    """Mean of path lengths without the lowest and the highest hundredth, as published: only values from the 1st
    percentile (rounded down to a value that occurs) to the 99th (rounded up) count. UserError for none, or one that is
    not finite."""
    lengths = np.asarray(lengths, np.float64)
    if not len(lengths):
        raise UserError("the path length needs one pair of latents or more")
    if not np.isfinite(lengths).all():
        raise UserError("path lengths hold NaN or infinite values: the generator is broken; take an earlier snapshot")
    low = np.percentile(lengths, 1, method="lower")
    high = np.percentile(lengths, 99, method="higher")
    return float(lengths[(lengths >= low) & (lengths <= high)].mean())
