"""Every network by name: as large as published, the library's own numbers, and its whole way from step to verdict."""

from __future__ import annotations

import re

import numpy as np
import pytest
import scipy.ndimage
import timm
import torch
import torchvision

from common.errors import UserError
from discriminator.backbones import Backbone, BackboneConfig, fitted, load_pretrained
from discriminator.custom_cnn import Plain, PlainConfig, gaussian
from discriminator.detector import Detector
from discriminator.export_onnx import TOLERANCE, export_detector
from discriminator.gradcam import gradcam
from discriminator.models import NetworkOptions, build, names, new_network
from discriminator.onnx_detector import OnnxDetector
from discriminator.published import PUBLISHED
from discriminator.training.feed import Batch, ImageGroup, LabelledFeed
from discriminator.training.fit import Fit
from discriminator.training.recipe import Recipe
from discriminator.training.selection import Validation
from faces.degrade import preset
from faces.preprocess import Preprocess
from tests.discriminator.conftest import make_calibration
from tests.discriminator.test_training import Quiet

# Weights with the published head, and the feature map at the published size: torchvision's and timm's tables of their
# weights, and the shapes in the papers (He 2016 table 1, Huang 2017 table 1, Chollet 2017 figure 5, Tan 2019 table 1).
KNOWN = {
    "squeezenet1_1": (1_235_496, 224, (512, 13, 13)),
    "resnet50": (25_557_032, 224, (2048, 7, 7)),
    "vgg16": (138_357_544, 224, (512, 7, 7)),
    "vggface": (145_002_878, 224, (512, 7, 7)),
    "densenet121": (7_978_856, 224, (1024, 7, 7)),
    "xception": (22_855_952, 299, (2048, 10, 10)),
    "efficientnet_b0": (5_288_548, 224, (1280, 7, 7)),
    "efficientnet_b2": (9_109_994, 288, (1408, 9, 9)),
    "efficientnet_b4": (19_341_616, 380, (1792, 12, 12)),
}
OWN = ("custom_cnn", "blur_noise_cnn", "capsnet", "pixels")


def with_classifier(model: str) -> torch.nn.Module:
    """The library's own network, as published; VGG-Face's tells 2622 people apart."""
    if model == "xception":
        return timm.create_model("legacy_xception", pretrained=False)
    classes = 2622 if model == "vggface" else 1000
    return torchvision.models.get_model(model.replace("vggface", "vgg16"), weights=None, num_classes=classes)


@pytest.mark.parametrize("model", KNOWN)
def test_published_sizes_and_shapes(model):
    parameters, side, shape = KNOWN[model]
    with torch.device("meta"):  # shapes without memory
        whole = with_classifier(model)
        net = Backbone(BackboneConfig(model, side)).eval()
        assert sum(p.numel() for p in whole.parameters()) == parameters
        features = net.features(torch.zeros(2, 3, side, side))
        out = net.verdict(torch.zeros(2, 3, side, side))
    assert features.shape[1:] == shape and out.logit.shape == (2,)
    theirs = {key: t.shape for key, t in whole.state_dict().items()}
    prefix = "" if model == "xception" else PUBLISHED[model].prefix
    for key, tensor in net.body.state_dict().items():
        assert theirs[prefix + key.removeprefix("net.")] == tensor.shape


def test_every_name_is_known():
    assert set(KNOWN) == set(PUBLISHED)
    assert {*KNOWN, *OWN, "hybrid", "pixels", "timm:NAME", "levels:NAME"} == set(names())


def theirs(model: str) -> torch.nn.Module:
    torch.manual_seed(0)
    whole = with_classifier(model).eval()
    for layer in whole.modules():  # batch statistics that matter
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.2, 0.2)
            layer.running_var.uniform_(0.5, 1.5)
    return whole


def old_densenet(state):
    """torchvision's file has the names of 2017: denselayer1.norm.1.weight."""
    return {
        re.sub(r"(norm|conv)([12])", r"\1.\2", key) if "denselayer" in key else key: value
        for key, value in state.items()
    }


@pytest.mark.parametrize(
    "model",
    ["efficientnet_b0", "densenet121", *(pytest.param(m, marks=pytest.mark.slow) for m in ("xception", "resnet50"))],
)
def test_weights_of_a_file_give_the_librarys_features(model, tmp_path):
    whole = theirs(model)
    state = whole.state_dict()
    torch.save(old_densenet(state) if model == "densenet121" else state, tmp_path / "weights.pth")
    net = Backbone(fitted(BackboneConfig(model, 64))).eval()
    assert load_pretrained(net, tmp_path / "weights.pth") == "weights.pth"
    images = torch.rand(2, 3, 64, 64)
    known = PUBLISHED[model]
    with torch.no_grad():
        x = torchvision.transforms.functional.normalize(images, known.mean, known.std)
        if model == "xception":
            pooled = whole.forward_head(whole.forward_features(x), pre_logits=True)
        else:  # what the library's own classifier is given
            last = whole.fc if model == "resnet50" else whole.classifier
            given = []
            hook = last.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
            whole(x)
            hook.remove()
            pooled = given[0]
        mine = net.features(images * 2 - 1).mean((2, 3))
    torch.testing.assert_close(mine, pooled, atol=1e-4, rtol=1e-3)


def test_vggface_reads_names_by_block(tmp_path):
    layers = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
    blocks = [(b, i) for b, n in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, n + 1)]
    convolutions = [layer for layer in layers if isinstance(layer, torch.nn.Conv2d)]
    state = {}
    for (block, i), layer in zip(blocks, convolutions, strict=True):
        state[f"conv{block}_{i}.weight"], state[f"conv{block}_{i}.bias"] = layer.weight, layer.bias
    torch.save(state | {"fc8.weight": torch.zeros(3, 3)}, tmp_path / "vgg_face.pth")
    net = Backbone(fitted(BackboneConfig("vggface", 32)))
    load_pretrained(net, tmp_path / "vgg_face.pth")
    assert all(torch.equal(a, b) for a, b in zip(net.body.parameters(), layers.parameters(), strict=True))
    # grey levels less the mean face, as Parkhi et al. subtract it
    grey = torch.full((1, 3, 32, 32), 200.0)
    seen = (grey / 127.5 - 1) * net.scale + net.shift
    torch.testing.assert_close(seen[0, :, 0, 0], 200 - torch.tensor([129.1863, 104.7624, 93.5940]), atol=1e-3, rtol=0)
    with pytest.raises(UserError, match="`backbone_weights` FILE"):
        load_pretrained(net, None)
    shapes = {f"features.{key}": tensor for key, tensor in layers.state_dict().items()}
    torch.save(shapes | {"classifier.6.weight": torch.zeros(1000, 4096)}, tmp_path / "vgg16.pth")
    with pytest.raises(UserError, match=r"`backbone_weights` .*vgg16.pth: VGG16's weights for ImageNet"):
        load_pretrained(net, tmp_path / "vgg16.pth")


# ---- the way of a network ------------------------------------------------------------------------------------------


def overfit(net: torch.nn.Module, side: int, *, steps: int, lr: float, batch: int = 4) -> list[float]:
    """The losses of some steps on one batch, by the trainer itself."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2 * batch, 3, side, side)).astype(np.uint8)
    images[1::2] = np.repeat(np.repeat(images[1::2, :, ::2, ::2], 2, 2), 2, 3)
    labels = np.arange(len(images)) % 2
    groups = [
        ImageGroup("real", images, np.flatnonzero(labels == 0), 0),
        ImageGroup("fake", images, np.flatnonzero(labels), 1),
    ]
    recipe = Recipe(batch=batch, lr=lr, warmup=0, ema=0.0, consistency=0.0, mirror=False, schedule="plateau")
    feed = LabelledFeed(groups, preset("none"), recipe)
    fit = Fit(net, feed, Validation.of(images, labels, preset("none")), recipe, Quiet(), workers=0)
    one: Batch = feed.batch(0)
    losses = []
    for _ in range(steps):
        before = float(fit.sums[0])
        fit.learn(one)
        losses.append(float(fit.sums[0]) - before)
    return losses


def live(net: torch.nn.Module, side: int, folder, *, steps: int = 6, lr: float = 1e-3) -> None:
    """Two steps and more, a file, the file read, exported and explained."""
    losses = overfit(net, side, steps=steps, lr=lr)
    assert np.isfinite(losses).all() and min(losses[2:]) < losses[0], losses
    detector = Detector(net, Preprocess(side), make_calibration(), {"trained_on": "noise"})
    detector.save(folder / "detector.safetensors")
    loaded = Detector.load(folder / "detector.safetensors")
    assert loaded.net.cfg == net.cfg
    photos = [np.random.default_rng(i).integers(0, 256, (side + i, side, 3), dtype=np.uint8) for i in range(3)]
    verdicts = detector.predict(photos)
    for a, b in zip(loaded.predict(photos), verdicts, strict=True):  # other memory layout, other order of sums
        assert a.probability == pytest.approx(b.probability, abs=1e-5)
    cam = gradcam(loaded.net, torch.rand(1, 3, side, side) * 2 - 1)
    assert cam is not None and cam.ndim == 2 and 0 <= cam.min() <= cam.max() <= 1
    pytest.importorskip("onnxscript")
    assert export_detector(folder / "detector.onnx", loaded) <= TOLERANCE
    exported = OnnxDetector.load(folder / "detector.onnx")
    for a, b in zip(exported.predict(photos), verdicts, strict=True):
        assert a.probability == pytest.approx(b.probability, abs=1e-4)


@pytest.mark.parametrize("model", OWN)
def test_the_way_of_own_networks(model, tmp_path):
    own = {"capsnet": {"reconstruct": True}, "pixels": {}}.get(model, {"dropout": 0.1})
    live(new_network(model, 32, options=NetworkOptions(**own)), 32, tmp_path, lr=3e-4)


def test_dead_capsules_are_numbers_in_an_exported_network_too(tmp_path):
    """A capsule of length 0 (a black picture, a dead unit) is 0 / 0 where the root has no floor."""
    pytest.importorskip("onnxscript")
    net = new_network("capsnet", 32)
    torch.nn.init.zeros_(net.capsules.primary.weight)
    detector = Detector(net, Preprocess(32), make_calibration(), {})
    assert export_detector(tmp_path / "detector.onnx", detector) <= TOLERANCE
    assert OnnxDetector.load(tmp_path / "detector.onnx").predict([np.zeros((32, 32, 3), np.uint8)])[0].logit == 0


# One network of each family; all of them, exported as well, are the slow test's.
FAMILIES = ("resnet50", "vggface", "densenet121", "xception", "efficientnet_b0", "timm:mobilenetv3_small_050")
QUICK = ("resnet50", "efficientnet_b0", "timm:mobilenetv3_small_050")


@pytest.mark.parametrize("model", [pytest.param(m, marks=() if m in QUICK else pytest.mark.slow) for m in FAMILIES])
def test_every_family_learns_survives_its_file_and_explains(model, tmp_path):
    side = 64 if model == "xception" else 32
    net = new_network(model, side, options=NetworkOptions(head="seeds", dropout=0.0))
    # the EfficientNet's batch normalisation needs a few steps more; how many depends on the processor's roundings
    steps = 12 if model == "efficientnet_b0" else 4
    losses = overfit(net, side, steps=steps, lr=1e-4 if model == "vggface" else 5e-4)
    assert np.isfinite(losses).all() and min(losses[1:]) < losses[0], losses
    detector = Detector(net, Preprocess(side), make_calibration(), {})
    detector.save(tmp_path / "detector.safetensors")
    loaded = Detector.load(tmp_path / "detector.safetensors").net
    images = torch.rand(1, 3, side, side) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(loaded.verdict(images).logit, net.verdict(images).logit, atol=1e-4, rtol=1e-4)
    cam = gradcam(loaded, images)
    assert cam is not None and cam.ndim == 2 and 0 <= cam.min() <= cam.max() <= 1


def test_the_way_of_a_small_published_network(tmp_path):
    """To the exported file, in the quick suite as well."""
    live(new_network("squeezenet1_1", 32, options=NetworkOptions(head="seeds", dropout=0.1)), 32, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("model", [*KNOWN, "timm:mobilenetv3_small_050"])
def test_the_way_of_published_networks(model, tmp_path):
    head = "linear" if model in ("squeezenet1_1", "vgg16") else "seeds"
    side = 96 if model in ("xception", "squeezenet1_1") else 64
    live(
        new_network(model, side, options=NetworkOptions(head=head, dropout=0.1)),
        side,
        tmp_path,
        lr=1e-4 if "vgg" in model else 1e-3,
    )


def test_a_backbone_with_the_seeds_head_learns_and_survives_its_file(tmp_path):
    net = new_network("squeezenet1_1", 32, options=NetworkOptions(head="seeds", dropout=0.1))
    losses = overfit(net, 32, steps=6, lr=1e-3)
    assert min(losses[2:]) < losses[0]
    detector = Detector(net, Preprocess(32), make_calibration(), {})
    detector.save(tmp_path / "detector.safetensors")
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    loaded = Detector.load(tmp_path / "detector.safetensors").net
    assert torch.equal(loaded.verdict(images).logit, net.verdict(images).logit) and loaded.cfg.head == "seeds"


# ---- the seeds' head -----------------------------------------------------------------------------------------------


def test_the_seeds_head_is_pooling_dense_dropout_norm_one():
    net = new_network("squeezenet1_1", 64, options=NetworkOptions(head="seeds", patches=False))
    extra = 512 * 256 + 256 + 2 * 256 + 256 + 1
    assert sum(p.numel() for p in net.parameters()) == 1_235_496 - 513_000 + extra
    net.norm.running_mean.uniform_(-1, 1)
    net.norm.running_var.uniform_(0.5, 2)
    net.eval()
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    pooled = net.features(images).mean((2, 3))
    dense = torch.relu(pooled @ net.dense.weight.T + net.dense.bias)
    normed = (dense - net.norm.running_mean) / (net.norm.running_var + net.norm.eps).sqrt()
    expected = (normed * net.norm.weight + net.norm.bias) @ net.head.weight[0] + net.head.bias
    torch.testing.assert_close(net.verdict(images).logit, expected)
    assert net.penalty().item() == pytest.approx(1e-4 * (net.dense.weight.double() ** 2).sum().item(), rel=1e-5)
    assert float(new_network("squeezenet1_1", 64).penalty()) == 0
    assert build(net.cfg.to_dict()).cfg == net.cfg


def test_the_penalty_is_part_of_the_loss():
    net = new_network("squeezenet1_1", 64, options=NetworkOptions(head="seeds", patches=False, dropout=0.0))
    with torch.no_grad():
        net.dense.weight.mul_(30)
        penalty = float(net.penalty())
    loss = overfit(net, 64, steps=1, lr=1e-6)[0]
    assert penalty > 1 and penalty < loss < penalty + 20


# ---- the small networks --------------------------------------------------------------------------------------------


def test_custom_cnn_is_convolutions_pooling_and_dense():
    net = new_network("custom_cnn", 256)
    widths = [3, 32, 64, 128, 128, 128]
    convolutions = sum(9 * a * b + b for a, b in zip(widths, widths[1:]))
    dense = 128 * 8 * 8 * 128 + 128
    assert sum(p.numel() for p in net.parameters()) == convolutions + dense + 128 + 1 == 1_437_249
    assert not net.any_size and net.borrowed() is None


@pytest.mark.parametrize("side", [32, 50, 100, 224, 256])
def test_custom_cnn_takes_many_sizes(side):
    assert new_network("custom_cnn", side).verdict(torch.zeros(1, 3, side, side)).logit.shape == (1,)


def test_the_blur_is_a_gaussian():
    net = Plain(PlainConfig("blur_noise_cnn", 32, blur=1.3, noise=0.2)).eval()
    image = np.random.default_rng(0).uniform(-1, 1, (3, 32, 32))
    got = net.prepared(torch.tensor(image[None], dtype=torch.float32))[0].numpy()
    for channel, expected in zip(got, image, strict=True):
        blurred = scipy.ndimage.gaussian_filter(expected, 1.3, mode="mirror", radius=4)
        np.testing.assert_allclose(channel, blurred, atol=1e-5)
    assert float(gaussian(1.3).sum()) == pytest.approx(1) and len(gaussian(0.0)) == 1


def test_noise_is_there_only_while_it_learns_and_follows_the_seed():
    net = Plain(PlainConfig("blur_noise_cnn", 32, blur=0.0, noise=0.2))
    image = torch.zeros(4, 3, 32, 32)
    torch.manual_seed(7)
    first = net.prepared(image)
    torch.manual_seed(7)
    assert torch.equal(first, net.prepared(image)) and abs(float(first.std()) - 0.2) < 0.01
    assert torch.equal(net.eval().prepared(image), image)
    a, b = net.verdict(torch.rand(1, 3, 32, 32)).logit, net.verdict(torch.rand(1, 3, 32, 32)).logit
    assert not torch.equal(a, b)


def test_the_softmaxs_log_odds_are_the_logit_and_its_cross_entropy_is_ours():
    net = new_network("blur_noise_cnn", 32).eval()
    images, labels = torch.rand(5, 3, 32, 32), torch.tensor([0, 1, 1, 0, 1])
    with torch.no_grad():
        scores, logit = net.scores(images), net.verdict(images).logit
    p = scores.softmax(1)[:, 1]
    torch.testing.assert_close(logit, (p / (1 - p)).log(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        torch.nn.functional.cross_entropy(scores, labels),
        torch.nn.functional.binary_cross_entropy_with_logits(logit, labels.float()),
    )


@pytest.mark.parametrize(
    "options",
    [
        {"model": "custom_cnn", "head": "seeds"},
        {"model": "custom_cnn", "reconstruct": True},
        {"model": "resnet50", "stride1": 3},
        {"model": "xception", "stride1": 2},
        {"model": "custom_cnn", "resolution": 16},
        {"model": "capsnet", "resolution": 16},
        {"model": "capsnet", "head": "other"},
        {"model": "squeezenet1_1", "head": "other"},
    ],
)
def test_what_cannot_be_is_told_in_a_line(options):
    model, resolution = options.pop("model"), options.pop("resolution", 64)
    with pytest.raises(UserError, match="`") as error:
        new_network(model, resolution, options=NetworkOptions(**options))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "header",
    [
        {"model": "custom_cnn", "resolution": 10**6},
        {"model": "custom_cnn", "resolution": 64, "more": 1},
        {"model": "capsnet", "resolution": 64, "conv": 10**9},
        {"model": "capsnet", "resolution": 64, "iterations": 10**9},
        {"model": "capsnet", "resolution": 64, "reconstruct": "yes"},
        {"model": "blur_noise_cnn", "resolution": 64, "blur": 1e9},
        {"model": "blur_noise_cnn", "resolution": 64, "noise": "much"},
        {"model": "resnet50", "resolution": 64, "head": "huge"},
    ],
)
def test_hostile_headers_cost_nothing(header):
    with pytest.raises((ValueError, TypeError)):
        build(header)
