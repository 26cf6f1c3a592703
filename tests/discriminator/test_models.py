"""Architectures by name, published networks as bodies, and detector files of them."""

from __future__ import annotations

import json
import time

import click
import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision

from common.errors import UserError
from discriminator.backbones import Backbone, BackboneConfig, fitted, load_pretrained
from discriminator.calibration import calibrate
from discriminator.detector import HEADER_KEY, Detector
from discriminator.hybrid import HybridDiscriminator
from discriminator.models import HYBRID_SIZES, NetworkOptions, build, hybrid_config, names, new_network
from discriminator.network_options import Span
from faces.preprocess import Preprocess


def squeezenet(**changes) -> Backbone:
    torch.manual_seed(0)
    return Backbone(BackboneConfig("squeezenet1_1", 64, **changes)).eval()


def calibration():
    rng = np.random.default_rng(1)
    return calibrate(np.concatenate([rng.normal(-1, 1, 400), rng.normal(1, 1, 400)]), np.repeat([0, 1], 400))


def test_a_header_without_a_name_is_a_hybrid(hybrid_config):
    cfg = hybrid_config()
    net = build(cfg.to_dict())
    assert isinstance(net, HybridDiscriminator) and net.cfg == cfg
    assert build({"model": "hybrid", **cfg.to_dict()}).cfg == cfg


@pytest.mark.parametrize("size", HYBRID_SIZES)
def test_sizes_of_the_hybrid(size):
    net = new_network("hybrid", 64, options=NetworkOptions(size=size))
    out = net.eval().verdict(torch.zeros(2, 3, 64, 64))
    assert out.logit.shape == (2,) and out.patch_logits.shape == (2, 16, 16)
    assert build(net.cfg.to_dict()).cfg == net.cfg


def test_a_hybrid_learns_only_what_the_verdict_looks_through():
    for branches, trunk, artefact in (
        (("spatial", "artefact"), True, True),
        (("spatial",), True, False),
        (("artefact",), False, True),
    ):
        net = HybridDiscriminator(hybrid_config("tiny", 32, branches=branches))
        out = net.verdict(torch.randn(2, 3, 32, 32))
        extra = 0 if out.patch_logits is None else out.patch_logits.sum()
        (out.logit.sum() + extra).backward()
        taught = {id(p) for p in net.taught()}
        assert taught == {id(p) for p in net.parameters() if p.grad is not None}
        assert any(id(p) in taught for p in net.trunk.parameters()) == trunk
        assert (net.artefact is not None) == artefact


def test_squeezenet_is_torchvisions():
    net = squeezenet()
    whole = torchvision.models.squeezenet1_1()
    # 1 235 496 weights as published (torchvision's table), of which the classifier has 513 000
    assert sum(p.numel() for p in whole.parameters()) == 1_235_496
    assert sum(p.numel() for p in net.body.parameters()) == 1_235_496 - 513_000
    net.body.load_state_dict(whole.features.state_dict())
    images = torch.rand(2, 3, 64, 64)
    expected = whole.features(torchvision.transforms.functional.normalize(
        images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))  # fmt: skip
    torch.testing.assert_close(net.features(images * 2 - 1), expected, atol=1e-5, rtol=1e-4)


def test_a_verdict_does_not_depend_on_its_neighbours():
    net, images = squeezenet(), torch.rand(3, 3, 64, 64) * 2 - 1
    alone = torch.cat([net.verdict(image[None]).logit for image in images])
    torch.testing.assert_close(net.verdict(images).logit, alone)


@pytest.mark.parametrize(("stride1", "side"), [(0, 3), (1, 7), (2, 15)])
def test_early_down_sampling_can_be_left_out(stride1, side):
    net = squeezenet(stride1=stride1)
    assert net.verdict(torch.zeros(1, 3, 64, 64)).patch_logits.shape == (1, side, side)
    assert net.state_dict().keys() == squeezenet().state_dict().keys()


def test_real_imagenet_weights(shared_dir):
    file = shared_dir / "weights" / "squeezenet1_1_gluon_imagenet.pth"
    net = squeezenet(stride1=1)
    assert load_pretrained(net, file) == file.name
    state = torch.load(file, weights_only=True)
    for key, value in net.body.state_dict().items():
        assert torch.equal(value, state[f"features.{key}"])


def test_weights_that_do_not_fit_are_refused_in_a_line(tmp_path):
    net = squeezenet()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    whole = torchvision.models.squeezenet1_1().state_dict()
    files = {
        "other.pth": torchvision.models.squeezenet1_0().state_dict(),
        "short.pth": {k: v for k, v in whole.items() if k != "features.12.expand3x3.bias"},
        "nan.pth": {**whole, "features.0.bias": torch.full_like(whole["features.0.bias"], torch.nan)},
        "list.pth": [1, 2],
    }
    for name, value in files.items():
        torch.save(value, tmp_path / name)
    (tmp_path / "text.pth").write_text("hello")
    for name in (*files, "text.pth", "absent.pth", "."):
        with pytest.raises(UserError) as error:
            load_pretrained(net, tmp_path / name)
        assert "\n" not in str(error.value), name
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    safetensors.torch.save_file(whole, tmp_path / "whole.safetensors")
    load_pretrained(net, tmp_path / "whole.safetensors")
    assert torch.equal(net.body[0].weight, whole["features.0.weight"])


def test_timm_networks():
    cfg = fitted(BackboneConfig("timm:mobilenetv3_small_050", 64))
    assert cfg.patches and cfg.any_size
    net = Backbone(cfg).eval()
    out = net.verdict(torch.zeros(2, 3, 64, 64))
    assert out.logit.shape == (2,) and out.patch_logits.shape == (2, 2, 2)  # after five halvings


def test_a_transformer_has_no_patches_and_one_size():
    cfg = fitted(BackboneConfig("timm:vit_tiny_patch16_224", 224))
    assert not cfg.patches and not cfg.any_size


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("squeezenet1_1", {"levels": (1, 6)}, "`levels`: of a probe, `model` levels:NAME, not of squeezenet1_1"),
        ("timm:resnet18", {"correlations": 80}, "`correlations` 80: of a probe"),
        ("hybrid", {"levels": (0, None)}, "`levels`: of a probe"),
        ("hybrid", {"stride1": 1}, "`stride1` 1: of published networks, not of hybrid; leave it out"),
        ("levels:squeezenet1_1", {"stride1": 2}, "`stride1` 2: of published networks"),
        ("pixels", {"size": "base"}, "`size` base: of hybrid, not of pixels"),
        ("capsnet", {"branches": ("spatial",)}, "`branches`: of hybrid"),
        ("custom_cnn", {"residual": "none"}, "`residual` none: of hybrid and pixels"),
        ("hybrid", {"head": "seeds"}, "`head` seeds: of published networks"),
        ("hybrid", {"dropout": 0.5}, "`dropout` 0.5: of custom_cnn and blur_noise_cnn and published networks"),
        ("hybrid", {"reconstruct": True}, "`reconstruct`: of capsnet"),
    ],
)
def test_options_of_other_networks_are_refused(model, options, said):
    with pytest.raises(UserError, match=said):
        new_network(model, 64, options=NetworkOptions(**options))


@pytest.mark.parametrize(
    "name", ["resnet", "timm:", "timm:no_such_net", "timm:hf-hub:someone/model", "timm:../x", "hybrid2", ""]
)
def test_unknown_networks_are_told_in_a_line(name):
    with pytest.raises(UserError, match="`model`") as error:
        new_network(name, 64)
    assert "\n" not in str(error.value)
    with pytest.raises((ValueError, TypeError)):
        build({"model": name, "resolution": 64})
    assert "hybrid" in names()


@pytest.mark.parametrize("model", ["squeezenet1_1", "timm:mobilenetv3_small_050"])
def test_a_backbone_survives_its_file(model, tmp_path):
    torch.manual_seed(1)
    net = Backbone(fitted(BackboneConfig(model, 64)))
    with torch.no_grad():
        net.head.weight.mul_(30)
        net.train().verdict(torch.randn(4, 3, 64, 64))  # batch statistics of its own
    detector = Detector(net, Preprocess(64), calibration(), {"trained_on": "noise"})
    detector.save(tmp_path / "d.safetensors")
    again = Detector.load(tmp_path / "d.safetensors")
    photos = [np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8) for i in range(3)]
    assert again.predict(photos) == detector.predict(photos)
    assert again.net.cfg == net.cfg


def change(path, edit) -> None:
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(json.loads(data[8 : 8 + size])["__metadata__"][HEADER_KEY])
    edit(header)
    path.write_bytes(safetensors.torch.save(safetensors.torch.load(data), {HEADER_KEY: json.dumps(header)}))


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "timm:vit_giant_patch14_dinov2"},  # a billion weights: its shapes are compared first
        {"model": "timm:hf-hub:x/y"},
        {"resolution": 1 << 20},
        {"mean": [1]},
        {"std": [0, 1, 1]},
        {"stride1": 9},
        {"stride1": True},
        {"dropout": 1},
        {"code": "import os"},
        {"img_channels": 1},
        {"model": 7},
    ],
)
def test_hostile_headers_are_refused_quickly(changes, tmp_path):
    path = tmp_path / "d.safetensors"
    Detector(squeezenet(), Preprocess(64), calibration()).save(path)
    change(path, lambda header: header["architecture"].update(changes))
    began = time.process_time()
    with pytest.raises(UserError, match="does not fit") as error:
        Detector.load(path)
    assert "\n" not in str(error.value)
    assert time.process_time() - began < 10


def test_spans_of_levels():
    convert = lambda word: Span().convert(word, None, None)  # noqa: E731
    assert (convert("1-6"), convert("0-")) == ((1, 6), (0, None))
    for word in ("6", "6-1", "-3", "²-", "1-²"):
        with pytest.raises(click.BadParameter, match="give the first and the last level"):
            convert(word)
