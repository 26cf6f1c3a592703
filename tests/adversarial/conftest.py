"""A run small enough for a test: 8-pixel images, a few channels, every mechanism switched on."""

import dataclasses

import numpy as np
import pytest
import torch

from adversarial.config import resolve
from adversarial.feed import Feed
from adversarial.game import Game
from adversarial.options import Options
from faces.dataset import DecodedFaces
from faces.degrade import preset as degradation_preset
from faces.preprocess import Preprocess
from training.processes import Processes

RESOLUTION = 8


def small_config(world_size: int = 1, **changes):
    """A resolved configuration with every phase due within a few steps."""
    options = Options(data="test", cfg="tiny", precision="fp32", **{"batch": 8, "verdict_batch": 8, **changes})
    cfg = resolve(options, resolution=RESOLUTION, world_size=world_size, device=torch.device("cpu"), facts={})
    small = {"channel_base": 128, "channel_max": 16}
    trunk = dataclasses.replace(cfg.hybrid.trunk, **small)
    return dataclasses.replace(
        cfg,
        generator=dataclasses.replace(cfg.generator, z_dim=16, w_dim=16, **small),
        hybrid=dataclasses.replace(cfg.hybrid, trunk=trunk, artefact_channels=4, artefact_blocks=1, verdict_dim=8),
        pl_interval=2,
        r1_interval=2,
        ada_interval=2,
        ada_kimg=0.05,
    )


def small_faces() -> DecodedFaces:
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (24, 3, RESOLUTION, RESOLUTION), dtype=np.uint8)
    labels = np.arange(24) % 3 == 0
    return DecodedFaces(images, labels.astype(np.int64), np.arange(24), Preprocess(RESOLUTION), mirror=True)


def small_game(cfg, world: Processes | None = None) -> Game:
    feed = Feed(small_faces(), degradation_preset(cfg.options.degradation), cfg.options.seed)
    return Game(cfg, world or Processes(), feed)


@pytest.fixture
def make_game():
    def make(device: str = "cpu", **changes) -> Game:
        return small_game(small_config(**changes), Processes(device=torch.device(device)))

    return make
