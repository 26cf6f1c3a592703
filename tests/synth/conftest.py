"""A small generator whose noise shows, for the tests of sampling."""

import pytest
import torch

from stylegan2_ada.config import GeneratorConfig
from stylegan2_ada.generator import Generator


def tiny_generator(resolution=16, **kwargs):
    torch.manual_seed(0)
    cfg = GeneratorConfig(resolution, z_dim=32, w_dim=32, mapping_layers=2, channel_base=512, channel_max=64, **kwargs)
    G = Generator(cfg).eval().requires_grad_(False)
    G.mapping.w_avg.normal_(std=0.3)
    for name, parameter in G.named_parameters():
        if name.endswith("noise_strength"):
            parameter.fill_(0.3)
    return G


@pytest.fixture
def make_generator():
    """`make_generator(resolution, **config)`: a generator of its own."""
    return tiny_generator


@pytest.fixture(scope="session")
def G():
    """A 16-pixel generator that no test may change."""
    return tiny_generator()
