"""A hybrid discriminator small enough for a test, and a detector around it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from discriminator.calibration import Calibration, calibrate
from discriminator.detector import Detector
from discriminator.hybrid import HybridConfig, HybridDiscriminator
from faces.preprocess import Preprocess
from stylegan2_ada.config import DiscriminatorConfig


def make_config(**changes) -> HybridConfig:
    trunk = {"resolution": 32, "channel_base": 256, "channel_max": 16, **changes.pop("trunk", {})}
    return HybridConfig(DiscriminatorConfig(**trunk), **{"artefact_channels": 4, "verdict_dim": 8, **changes})


def make_net(**changes) -> HybridDiscriminator:
    """A network whose untrained verdicts differ from image to image by more than rounding."""
    torch.manual_seed(0)
    net = HybridDiscriminator(make_config(**changes))
    with torch.no_grad():
        net.verdict_head.out.weight.mul_(30)
        if net.artefact is not None:
            net.artefact.patch.weight.mul_(30)
    return net


def make_calibration(n: int = 400) -> Calibration:
    rng = np.random.default_rng(1)
    logits = np.concatenate([rng.normal(-1, 1, n), rng.normal(1, 1, n)])
    return calibrate(logits, np.repeat([0, 1], n))


@pytest.fixture(scope="session")
def hybrid_config():
    """`hybrid_config(**changes)`: a tiny `HybridConfig`; `trunk` is a dict of changes to the trunk."""
    return make_config


@pytest.fixture(scope="session")
def hybrid():
    """`hybrid(**changes)`: a fresh tiny `HybridDiscriminator`, always the same."""
    return make_net


@pytest.fixture
def detector() -> Detector:
    return Detector(make_net(), Preprocess(32), make_calibration(), {"trained_on": "nothing"})


@pytest.fixture
def photos() -> list[np.ndarray]:
    """Noise photos of many shapes: uint8 HWC."""
    rng = np.random.default_rng(2)
    shapes = [(32, 32), (64, 48), (17, 90), (200, 133), (32, 33), (5, 5), (40, 40)]
    return [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
