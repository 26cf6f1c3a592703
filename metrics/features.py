"""What metrics need of the network whose features they compare."""

from __future__ import annotations

from typing import Protocol

import torch


class FeatureNetwork(Protocol):
    """uint8 images [N, 3, H, W] (grey ones [N, 1, H, W] too) -> float32 [N, dims]. Such are
    `metrics.inception.InceptionFeatures` and `discriminator.network_features.NetworkFeatures`.

    name: "inception", or the network's. used: what computed the last images, None before the first. classifier: float32
    [classes, dims] for the Inception Score, None without.
    """

    name: str
    dims: int
    weights_sha256: str
    used: str | None
    classifier: torch.Tensor | None

    @property
    def chunk(self) -> int:
        """Images per pass."""

    def describe(self) -> dict:
        """What identifies these features, ready for a result or a cache key."""

    def __call__(self, images: torch.Tensor) -> torch.Tensor: ...
