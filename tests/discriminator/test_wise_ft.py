"""Networks between pretrained and taught weights: the numbers on the line, norms' statistics, what is refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from common.errors import UserError
from discriminator.calibration import calibrate
from discriminator.detector import Detector, fits_half, round_to_half
from discriminator.models import NetworkOptions, new_network
from discriminator.wise_ft import wise_ft
from faces.preprocess import Preprocess

CALIBRATION = calibrate(np.linspace(-1, 1, 40), np.arange(40) % 2)
IMAGES = np.random.default_rng(3).integers(0, 256, (40, 32, 32, 3), np.uint8)


def taught(model: str, folder, seed: int = 1):
    """(a detector, the pretrained network it began with, the file of that one's weights under the library's names)"""
    begun = new_network(model, 32, options=NetworkOptions(), seed=seed)
    net = copy.deepcopy(begun)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in net.parameters():
            tensor.add_(0.05 * torch.randn(tensor.shape, generator=generator))
    prefix = "features." if model == "squeezenet1_1" else ""
    state = {prefix + key.removeprefix("net."): value for key, value in begun.body.state_dict().items()}
    torch.save(state, folder / "pretrained.pth")
    return Detector(net.eval(), Preprocess(32), CALIBRATION), begun, str(folder / "pretrained.pth")


def test_the_body_lies_on_the_line_and_the_heads_are_the_detectors(tmp_path):
    detector, begun, file = taught("squeezenet1_1", tmp_path)
    made = wise_ft(detector, "a", file, 0.3, IMAGES)
    a, b, both = detector.net.state_dict(), begun.state_dict(), made.net.state_dict()
    for name, tensor in both.items():
        between = 0.3 * a[name].double() + 0.7 * b[name].double() if name.startswith("body.") else a[name].double()
        assert torch.allclose(tensor.double(), between, rtol=1e-5, atol=1e-7), name
    assert made.meta["wise_ft"]["alpha"] == 0.3 and made.meta["wise_ft"]["pretrained"] == "pretrained.pth"
    assert made.sha256 not in (detector.sha256, wise_ft(detector, "a", file, 0.4, IMAGES).sha256)
    assert (made.calibration.temperature, made.calibration.bias) == (1, 0)


def test_norms_know_what_the_new_network_shows_them(tmp_path):
    """The first norm's statistics are those of the first convolution's outputs, by numpy in float64."""
    pytest.importorskip("timm")
    detector, begun, file = taught("timm:resnet10t", tmp_path)
    net = wise_ft(detector, "a", file, 0.5, iter(IMAGES)).net
    stem, norm = net.body.net.conv1[0], net.body.net.conv1[1]
    half = (detector.net.body.net.conv1[0].weight + begun.body.net.conv1[0].weight) / 2
    assert torch.allclose(stem.weight, half, atol=1e-6)
    with torch.no_grad():
        shown = net.prepared(torch.from_numpy(detector.preprocess.normalise(IMAGES)))
        out = torch.nn.functional.conv2d(shown.double(), stem.weight.double(), None, stem.stride, stem.padding)
    mean = np.mean([out[s].mean((0, 2, 3)).numpy() for s in (slice(0, 32), slice(32, 40))], 0)
    var = np.mean([out[s].transpose(0, 1).flatten(1).var(1).numpy() for s in (slice(0, 32), slice(32, 40))], 0)
    assert np.allclose(norm.running_mean, mean, rtol=1e-4, atol=1e-5) and np.allclose(norm.running_var, var, rtol=1e-4)
    assert not net.training and not any(part.training for part in net.modules())


def test_a_rounded_detector_stays_rounded_and_goes_between_what_its_convolutions_are(tmp_path):
    """--half puts norms' scales, weight / deviation, into convolutions: the line goes on from there to the pretrained
    one's with theirs. A norm behind it takes any scale out, so filters are compared by their direction."""
    pytest.importorskip("timm")
    detector, begun, file = taught("timm:tf_efficientnet_lite0", tmp_path)
    rounded = copy.deepcopy(detector)
    round_to_half(rounded.net)
    made = wise_ft(rounded, "a", file, 0.6, IMAGES)
    large = [tensor for tensor in made.net.state_dict().values() if tensor.ndim == 4 and tensor.numel() >= 4096]
    assert large and all(fits_half(tensor) for tensor in large)

    def scaled(net):
        block = net.body.net.blocks[3][1]
        return (
            block.conv_pw.weight
            * (block.bn1.weight / (block.bn1.running_var + block.bn1.eps).sqrt())[:, None, None, None]
        )

    line = 0.6 * scaled(detector.net) + 0.4 * scaled(begun)
    alike = torch.cosine_similarity(line.flatten(1), scaled(made.net).flatten(1))
    assert alike.min() > 0.9999 and torch.cosine_similarity(line.flatten(1), scaled(begun).flatten(1)).mean() < 0.99
    x = detector.preprocess.normalise(IMAGES)
    assert np.isfinite(made.once(x).logits).all()


def test_what_lies_between_nothing_is_refused(tmp_path):
    detector, begun, file = taught("squeezenet1_1", tmp_path)
    same = Detector(begun, detector.preprocess, CALIBRATION)
    with pytest.raises(UserError, match="x: its body is as it began"):
        wise_ft(same, "x", file, 0.5, IMAGES)
    own = Detector(new_network("custom_cnn", 32, options=NetworkOptions()), Preprocess(32), CALIBRATION)
    with pytest.raises(UserError, match="y: a network that began with nobody's weights"):
        wise_ft(own, "y", file, 0.5, IMAGES)
    pytest.importorskip("timm")
    probe = new_network("levels:timm:tf_efficientnet_lite0", 64, options=NetworkOptions(levels=(1, 2)))
    with pytest.raises(UserError, match="p: a probe, its body is as it began"):
        wise_ft(Detector(probe, Preprocess(64), CALIBRATION), "p", file, 0.5, IMAGES)
    lite, _, file = taught("timm:tf_efficientnet_lite0", tmp_path)
    norm = next(part for part in lite.net.modules() if isinstance(part, torch.nn.BatchNorm2d))
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)
    with pytest.raises(UserError, match="z: holds no statistics of its batch norms"):
        wise_ft(lite, "z", file, 0.5, IMAGES)
