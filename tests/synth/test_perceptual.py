"""Perceptual distances: closed forms, torchvision's own networks, and files that are something else."""

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from common.errors import UserError
from faces.procedural.portrait import render_face
from synth.perceptual import BACKBONES, find_backbone, load_backbone, of_features, of_layers, pyramid


def faces(*seeds, resolution=64):
    images = np.stack([render_face(seed, resolution) for seed in seeds])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def far(perceptual, a, b):
    return perceptual.distance(perceptual.features(a), perceptual.features(b))


def test_distance_of_unit_length_features_in_closed_form():
    # features: the image itself, two channels of which differ in direction by a quarter turn and not in length
    a, b = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    a[:, 0], b[:, 1] = 0.3, 0.9
    twice = of_features("pixels", lambda images: [images, images[:, :, :2]])
    assert far(twice, a, b).item() == pytest.approx(2 * 2.0, rel=1e-4)  # |e1 - e2|^2, at two depths
    assert far(twice, a, 3 * a).item() == pytest.approx(0, abs=1e-6)  # only directions count
    half = b.clone()
    half[..., :2] = a[..., :2]
    assert far(twice, a, half)[0].item() == pytest.approx(2 * 1.0, rel=1e-4)  # half of either map


def test_layers_see_the_images_in_their_own_scale_and_size():
    seen = []

    class Look(nn.Conv2d):
        def forward(self, x):
            seen.append(x)
            return super().forward(x)

    imagenet = of_layers("a", [Look(3, 2, 1), nn.ReLU()], [1], imagenet=True)
    plain = of_layers("b", [Look(3, 2, 1)], [0], imagenet=False)
    for side, shown in ((16, 128), (128, 128), (200, 200), (256, 256), (512, 256)):
        image = torch.full((1, 3, side, side), 0.5)
        imagenet.features(image)
        plain.features(image)
        assert seen[-1].shape == seen[-2].shape == (1, 3, shown, shown)
        torch.testing.assert_close(seen[-1], torch.full_like(seen[-1], 0.5))
        expected = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))(seen[-1] / 2 + 0.5)
        torch.testing.assert_close(seen[-2], expected)


def test_grey_images_and_alpha():
    see = pyramid()
    image = faces(1)
    grey = image[:, :1]
    assert far(see, grey, grey.expand(-1, 3, -1, -1)).item() == 0
    assert far(see, torch.cat([image, grey], dim=1), image).item() == 0


def test_pyramid_of_a_constant_difference_and_of_faces():
    a, b, c = faces(1), faces(2), (faces(1) * 0.98)
    assert far(pyramid(), a, a + 0.1).item() == pytest.approx(0.1, rel=1e-4)  # all of it is in the coarsest level
    assert far(pyramid(), a, b) > 5 * far(pyramid(), a, c) > 0


@pytest.fixture
def weight_files(tmp_path):
    """Random weights of the two backbones as torchvision saves them, the VGG without its classifier."""
    torch.manual_seed(0)
    files = {}
    for name in BACKBONES:
        net = getattr(torchvision.models, name)(weights=None) if name == "squeezenet1_1" else None
        state = net.state_dict() if net else _vgg_features()
        files[name] = tmp_path / BACKBONES[name].file
        torch.save(state, files[name])
    return files


def _vgg_features():
    net = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
    return {f"features.{name}": t for name, t in net.state_dict().items()} | {"classifier.0.weight": torch.zeros(1)}


@pytest.mark.parametrize("name", list(BACKBONES))
def test_backbones_compute_what_torchvision_computes(weight_files, name):
    see = load_backbone(weight_files[name])
    assert name in see.name
    state = torch.load(weight_files[name], weights_only=True)
    if name == "vgg16":
        net = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
    else:
        net = torchvision.models.squeezenet1_1(weights=None).features
    net.load_state_dict({k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")})
    image = faces(3, resolution=128)
    got = see.features(image)
    x = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))(image / 2 + 0.5)
    taps = {"vgg16": (3, 8, 15, 22, 29), "squeezenet1_1": (1, 4, 7, 9, 10, 11, 12)}[name]
    with torch.no_grad():
        for i, layer in enumerate(net[: taps[-1] + 1]):
            x = layer(x).clone()
            if i in taps:
                torch.testing.assert_close(got[taps.index(i)], nn.functional.normalize(x, dim=1), rtol=1e-3, atol=1e-4)
    assert not any(f.requires_grad for f in got)


def test_the_distance_has_a_gradient(weight_files):
    see = load_backbone(weight_files["squeezenet1_1"])
    image = faces(1).requires_grad_()
    far(see, image, faces(2)).sum().backward()
    assert image.grad.abs().sum() > 0


def test_a_pretrained_network_tells_faces_from_changes_of_light(shared_dir):
    see = load_backbone(shared_dir / "weights" / "squeezenet1_1_gluon_imagenet.pth")
    a, b = faces(1), faces(2)
    assert far(see, a, b) > 4 * far(see, a, a * 0.9) > 0
    assert far(see, a, a).item() == pytest.approx(0, abs=1e-6)


def test_files_that_are_something_else(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, path)
    with pytest.raises(UserError, match="another network's weights"):
        load_backbone(path)
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="no weights by name"):
        load_backbone(path)
    path.write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(UserError, match="not a PyTorch weight file"):
        load_backbone(path)
    with pytest.raises(UserError, match="can't be read"):
        load_backbone(tmp_path / "none.pth")


def test_where_weights_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    for name in BACKBONES:
        with pytest.raises(UserError, match=f"{name}.*torchvision"):
            find_backbone(name)
    cached = tmp_path / "hub" / "checkpoints" / BACKBONES["vgg16"].file
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert find_backbone("vgg16") == cached
