"""Published networks whose layers learn by native code: the same network, the same lessons."""

import copy

import pytest
import torch
from torch import nn

from discriminator.backbones import Backbone, BackboneConfig
from discriminator.native_layers import use_native_layers
from stylegan2_ada.ops import conv3x3, convolution, depthwise, norm_act, pointwise

native = pytest.mark.skipif(not norm_act.applies(torch.zeros(1, 1, 1, 1)), reason="needs the native operations")
LITE = "timm:tf_efficientnet_lite0"


def network(model=LITE, **kwargs):
    torch.manual_seed(0)
    return Backbone(BackboneConfig(model=model, resolution=64, dropout=0.0, **kwargs)).train()


def images():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1


def lesson(net, dtype=torch.float32):
    """Feature map, gradients by name, and the running statistics after one step."""
    y = net.features(images().to(dtype))
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
    gradients = torch.autograd.grad((y.double() * weights).sum(), list(net.body.parameters()))
    return (
        y.detach(),
        dict(zip((name for name, _ in net.body.named_parameters()), gradients, strict=True)),
        {name: value for name, value in net.named_buffers() if "running" in name or "tracked" in name},
    )


def calls(monkeypatch):
    """How often native code is asked, counted from here."""
    counted = {"depthwise": 0, "pointwise": 0, "norm_act": 0, "scale_act": 0, "convolve": 0}
    for module, name in (
        (depthwise, "depthwise"), (pointwise, "pointwise"), (norm_act, "norm_act"), (norm_act, "scale_act"),
        (convolution, "convolve"),
    ):  # fmt: skip
        real = getattr(module, name)

        def counting(*args, real=real, name=name, **kwargs):
            counted[name] += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, counting)
    return counted


def without_native_code(monkeypatch):
    monkeypatch.setattr(depthwise, "use_native", lambda x: False)
    monkeypatch.setattr(norm_act, "use_native", lambda x: False)
    monkeypatch.setattr(pointwise, "use_native", lambda x: False)


def close(got, right, tolerance):
    return float((got.double() - right.double()).norm()) <= tolerance * float(right.double().norm() + 1e-12)


@native
@pytest.mark.parametrize("model", [LITE, "efficientnet_b0"])
def test_lessons_are_those_of_the_plain_network(model, monkeypatch):
    net = network(model)
    exact = copy.deepcopy(net).double()  # native code takes no float64
    for layer in (*net.modules(), *exact.modules()):  # both with random depths of layers would differ
        if hasattr(layer, "drop_prob"):
            layer.drop_prob = 0.0
        if type(layer).__name__ == "StochasticDepth":
            layer.p = 0.0
    right = lesson(exact, torch.float64)
    counted = calls(monkeypatch)
    features, gradients, statistics = lesson(net)
    assert counted["depthwise"] > 10 and counted["norm_act"] > 30
    assert close(features, right[0], 1e-4)
    for name, value in statistics.items():  # means behind a normalised layer are zero but for roundings
        assert torch.allclose(value.double(), right[2][name].double(), rtol=1e-3, atol=1e-5)
    whole = [torch.cat([g.double().flatten() for g in of.values()]) for of in (gradients, right[1])]
    # A clamp's derivative jumps where a rounding far ahead may tip it: PyTorch's float32 is off by as much.
    assert close(*whole, 0.05 if model == LITE else 1e-3)


@native
@pytest.mark.skipif(not conv3x3.supports(torch.float32), reason="needs AVX2 or AVX-512")
@pytest.mark.parametrize("model, least", [("vgg16", 9), ("resnet50", 7)])
def test_3x3_convolutions_learn_the_same(model, least, monkeypatch):
    """As near to float64 as PyTorch's are, or three times as far: normalisation of a few pixels enlarges roundings."""
    net = network(model)
    for layer in list(net.modules()):  # a rounding can tip a ReLU's derivative: one of 130,000 moves a gradient by 1 %
        for name, child in layer.named_children():
            if isinstance(child, nn.ReLU):
                setattr(layer, name, nn.SiLU())
    exact, plain = copy.deepcopy(net).double(), copy.deepcopy(net)
    exact, counted = lesson(exact, torch.float64), calls(monkeypatch)
    ours = lesson(net)
    assert counted["convolve"] >= least
    without_native_code(monkeypatch)
    pytorchs = lesson(plain)

    def error(got):
        whole = [torch.cat([g.double().flatten() for g in of[1].values()]) for of in (got, exact)]
        return [float((a - b).norm() / b.norm()) for a, b in ((got[0].double(), exact[0]), whole)]

    for mine, theirs in zip(error(ours), error(pytorchs)):
        assert mine <= 3 * theirs + 1e-6


@native
def test_bfloat16_is_as_near_as_pytorch_s(monkeypatch):
    net = network()
    exact = lesson(copy.deepcopy(net).double(), torch.float64)[0]
    plain, quick = copy.deepcopy(net), copy.deepcopy(net)
    plain.lowp_dtype = quick.lowp_dtype = torch.bfloat16
    counted = calls(monkeypatch)
    near = (lesson(quick)[0].double() - exact).norm()
    layer = torch.zeros(1, 2, 1, 1)
    assert (counted["pointwise"] > 30) == pointwise.applies(layer.bfloat16(), layer.expand(2, 2, 1, 1))
    without_native_code(monkeypatch)
    assert near <= 1.5 * (lesson(plain)[0].double() - exact).norm() + 1e-6


@native
def test_frozen_layers(monkeypatch):
    net = network()
    net.body.requires_grad_(False).eval()
    counted = calls(monkeypatch)
    with torch.no_grad():
        expected = net.verdict(images()).logit
    assert not any(counted.values())  # a verdict is PyTorch's
    assert close(net.verdict(images()).logit.detach(), expected, 1e-4)
    assert counted["scale_act"] > 30 and counted["norm_act"] == 0


def test_names_stay_and_copies_are_their_own():
    net = network()
    plain = set(net.state_dict())
    import timm

    assert plain >= {
        f"body.net.{name}" for name in timm.create_model("tf_efficientnet_lite0", num_classes=0).state_dict()
    }
    twin = copy.deepcopy(net)
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    assert lesson(net)[0].abs().sum() > 0
    assert lesson(twin)[0].abs().sum() == 0


@native
def test_layers_that_do_other_things_are_left():
    class Own(nn.Conv2d):
        def forward(self, x):
            return super().forward(x) + 1

    net = nn.Sequential(
        Own(4, 4, 3, groups=4),
        nn.Conv2d(4, 8, 3, groups=4),
        nn.Conv2d(8, 8, 3, groups=8, dilation=2),
        nn.Conv2d(8, 8, 3, groups=8, padding=1, padding_mode="reflect"),
        nn.BatchNorm2d(8, affine=False),
        nn.BatchNorm1d(8),
    )
    kinds = [type(layer) for layer in net]
    assert use_native_layers(net) == 0
    assert [type(layer) for layer in net] == kinds


@native
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 6, 3, groups=6, padding="same"),
        nn.Conv2d(6, 6, 3, groups=6, padding="valid", bias=False),
        nn.Conv2d(6, 6, (5, 3), groups=6, padding=(2, 1), stride=2),
        nn.Conv2d(6, 6, 3, groups=6, stride=(1, 2), padding=1),
        nn.Conv2d(6, 40, 3, padding="same"),
        nn.Conv2d(6, 40, 3, padding=(0, 2), stride=2, bias=False),
    ],
)
def test_every_way_of_padding(layer):
    if layer.groups == 1:  # as many channels as its native form takes
        layer = type(layer)(40, 70, 3, layer.stride, layer.padding, bias=layer.bias is not None)
    x = torch.randn(2, layer.in_channels, 19, 20, generator=torch.Generator().manual_seed(0))
    expected = layer(x)
    assert use_native_layers(nn.Sequential(layer)) == 1
    assert close(layer(x).detach(), expected.detach(), 1e-6)


@native
@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics(momentum):
    quick = nn.BatchNorm2d(5, momentum=momentum)
    plain = copy.deepcopy(quick)
    use_native_layers(nn.Sequential(quick))
    for seed in range(3):
        x = torch.randn(2, 5, 3, 3, generator=torch.Generator().manual_seed(seed))
        quick(x), plain(x)
    for ours, theirs in zip(quick.buffers(), plain.buffers(), strict=True):
        assert close(ours, theirs, 1e-6)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        quick(torch.zeros(1, 5, 1, 1))
