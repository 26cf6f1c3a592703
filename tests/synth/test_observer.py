"""Which network looks at a photo: what is at hand decides, and what was asked for is not replaced silently."""

import numpy as np
import pytest
import torch
import torchvision

from common.errors import UserError
from discriminator.calibration import calibrate
from discriminator.detector import Detector
from discriminator.hybrid import HybridConfig, HybridDiscriminator
from faces.preprocess import Preprocess
from stylegan2_ada.config import DiscriminatorConfig, GeneratorConfig
from synth.observer import ENVIRONMENT, choose_observer
from synth.perceptual import BACKBONES


@pytest.fixture(autouse=True)
def nothing_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    for name in ("FACES_INCEPTION_WEIGHTS", ENVIRONMENT):
        monkeypatch.delenv(name, raising=False)


CFG = GeneratorConfig(16, z_dim=8, w_dim=8, mapping_layers=1, channel_base=64)


def save_detector(path, resolution=16):
    trunk = DiscriminatorConfig(resolution, channel_base=128, channel_max=16, mapping_layers=1)
    rng = np.random.default_rng(0)
    logits = np.concatenate([rng.normal(-1, 1, 200), rng.normal(1, 1, 200)])
    calibration = calibrate(logits, np.repeat([0, 1], 200))
    Detector(HybridDiscriminator(HybridConfig(trunk, artefact_blocks=1)), Preprocess(resolution), calibration).save(
        path
    )


def save_squeezenet(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), path)


def test_auto_takes_the_best_that_is_here(tmp_path, monkeypatch):
    assert "pyramid" in choose_observer("auto", CFG, tmp_path).name
    save_detector(tmp_path / "detector.safetensors", 8)
    assert "pyramid" in choose_observer("auto", CFG, tmp_path).name  # of another resolution
    save_detector(tmp_path / "detector.safetensors")
    see = choose_observer("auto", CFG, tmp_path)
    assert "discriminator" in see.name
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    assert (see.distance(see.features(images), see.features(images.flip(0))) > 0).all()
    save_squeezenet(tmp_path / "torch" / "hub" / "checkpoints" / BACKBONES["squeezenet1_1"].file)
    assert "squeezenet1_1" in choose_observer("auto", CFG, tmp_path).name
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "detector.safetensors"))
    assert "discriminator" in choose_observer("auto", CFG, tmp_path).name
    assert "pyramid" in choose_observer("pyramid", CFG, tmp_path).name


def test_files(tmp_path):
    save_squeezenet(tmp_path / "weights.pth")
    assert "squeezenet1_1" in choose_observer(str(tmp_path / "weights.pth"), CFG, tmp_path / "run").name
    save_detector(tmp_path / "d.safetensors")
    assert "discriminator" in choose_observer(str(tmp_path / "d.safetensors"), CFG, tmp_path / "run").name


def test_inception(tmp_path, shared_dir, monkeypatch):
    monkeypatch.setenv("FACES_INCEPTION_WEIGHTS", str(shared_dir / "weights/fid_inception_2015-12-05_trunk.pth"))
    see = choose_observer("auto", CFG, tmp_path)
    assert "Inception" in see.name
    image = (torch.rand(1, 3, 16, 16) * 2 - 1).requires_grad_()
    see.distance(see.features(image), see.features(torch.zeros(1, 3, 16, 16))).sum().backward()
    assert image.grad.abs().sum() > 0


def test_what_is_not_here_is_told(tmp_path, monkeypatch):
    for name, said in {
        "vgg16": "torchvision",
        "squeezenet": "torchvision",
        "inception": "Inception weights",
        "discriminator": "detector.safetensors",
        "vgg61": "neither one of auto, vgg16",
        "none.safetensors": "neither one of",
    }.items():
        with pytest.raises(UserError, match=said):
            choose_observer(name, CFG, tmp_path)
    save_detector(tmp_path / "detector.safetensors", 8)
    with pytest.raises(UserError, match="3 channels of 8 px, the generator makes 3 of 16"):
        choose_observer("discriminator", CFG, tmp_path)
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "gone.pth"))
    with pytest.raises(UserError, match="gone.pth"):
        choose_observer("auto", CFG, tmp_path)
