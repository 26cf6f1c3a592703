"""Networks of shapes alone: the same shapes, and no second of PyTorch's compiler."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from common.shapes import shapes_only

ROOT = Path(__file__).resolve().parents[2]
TRUNK = {"resolution": 32, "channel_base": 128, "channel_max": 8}
ARCHITECTURES = [
    {"model": "hybrid", "trunk": TRUNK, "artefact_channels": 4, "verdict_dim": 8},
    {"model": "capsnet", "resolution": 64},
    {"model": "pixels", "resolution": 64},
    {"model": "custom_cnn", "resolution": 32},
    {"model": "blur_noise_cnn", "resolution": 32, "blur": 1.0},
]


def made() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    nn.init.trunc_normal_(net[0].weight)
    net.noise = nn.Parameter(torch.randn(5, 6) / 0.01)
    net.register_buffer("scale", torch.rand(7) * 0.5)
    return net


def test_shapes_and_kinds_are_those_of_the_network():
    with shapes_only():
        shadow = made()
    for (name, one), (other, real) in zip(shadow.state_dict().items(), made().state_dict().items(), strict=True):
        assert (name, one.shape, one.dtype) == (other, real.shape, real.dtype)
        assert one.is_meta and not real.is_meta
    assert all(parameter.requires_grad for parameter in shadow.parameters())


def test_arithmetic_of_two_tensors_keeps_its_shape():
    with shapes_only():
        assert (torch.randn(3, 1) * torch.randn(1, 4)).shape == (3, 4)
        assert torch.empty(3, 4).t_().shape == (4, 3)


def test_outside_values_are_values():
    with shapes_only():
        kept = torch.ones(2, device="cpu").mul_(3)
    assert kept.tolist() == [3, 3] and torch.randn(2).isfinite().all()


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda values: values["model"])
def test_a_detector_is_built_without_the_compiler(architecture):
    program = f"from discriminator.models import build; build({architecture!r}); import sys"
    done = subprocess.run([sys.executable, "-c", f"{program}; sys.exit('sympy' in sys.modules)"], cwd=ROOT)
    assert done.returncode == 0
