"""The published image networks that go by a short name: which library makes each, and what is known of it.

The layers are torchvision's and timm's. Here stand only the facts that a detector needs: where a network's feature map
ends, how wide it is, what its weights expect of an image, and how many weights it was published with.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from discriminator.network import zero_bias

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALVES = (0.5, 0.5, 0.5)
# The mean of VGG-Face's training faces, in grey levels of R, G and B (Parkhi et al. 2015; as its files state it).
VGGFACE_MEAN = tuple(grey / 255 for grey in (129.1863, 104.7624, 93.5940))
VGGFACE_PEOPLE = 2622


@dataclass(frozen=True)
class Published:
    """whole: the network with its own classifier, as published. body: its layers up to the feature map
    [N, width, h, w], random weights. parameters: of `whole`, as published. side: of the images it was made for.
    mean, std: normalisation of RGB in [0, 1] that its weights expect. stride1: how many of its first down-samplings
    can be left out. prefix: what stands before the body's names in a file of weights."""

    whole: Callable[[], nn.Module]
    body: Callable[[], nn.Module]
    parameters: int
    side: int
    width: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    stride1: int = 2
    prefix: str = "features."


def _torchvision(name: str, **options: int) -> Any:
    import torchvision

    return torchvision.models.get_model(name, weights=None, **options)


def _vgg_layers() -> nn.Module:
    """VGG16's convolutions alone: its three dense layers would be 124 million weights made for nothing."""
    from torchvision.models.vgg import cfgs, make_layers

    layers = make_layers(cfgs["D"])
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            zero_bias(layer)
    return layers


def _resnet_layers() -> nn.Module:
    children = _torchvision("resnet50").named_children()
    return nn.Sequential(OrderedDict((name, layer) for name, layer in children if name not in ("avgpool", "fc")))


def _densenet_layers() -> nn.Module:
    features = _torchvision("densenet121").features
    return nn.Sequential(OrderedDict([*features.named_children(), ("relu", nn.ReLU(inplace=True))]))


class TimmFeatures(nn.Module):
    """timm's network up to its feature map (or tokens), without its classifier."""

    net: Any

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net.forward_features(x)

    def pooled(self, features: torch.Tensor) -> torch.Tensor:
        """[N, num_features] as the network itself pools them."""
        return self.net.forward_head(features, pre_logits=True)


def _xception(**options: Any) -> nn.Module:
    import timm

    return timm.create_model("legacy_xception", pretrained=False, **options)


def _with_features(name: str, parameters: int, side: int, width: int) -> Published:
    """One of torchvision's whose layers up to the feature map are its `features`."""
    return Published(lambda: _torchvision(name), lambda: _torchvision(name).features, parameters, side, width)


PUBLISHED: dict[str, Published] = {
    "squeezenet1_1": _with_features("squeezenet1_1", 1_235_496, 224, 512),
    "resnet50": Published(lambda: _torchvision("resnet50"), _resnet_layers, 25_557_032, 224, 2048, prefix=""),
    "vgg16": Published(lambda: _torchvision("vgg16"), _vgg_layers, 138_357_544, 224, 512),
    # Parkhi, Vedaldi, Zisserman 2015, "Deep face recognition": VGG16's layers (their configuration D), 2622 people.
    "vggface": Published(
        lambda: _torchvision("vgg16", num_classes=VGGFACE_PEOPLE), _vgg_layers, 145_002_878, 224, 512,
        VGGFACE_MEAN, (1 / 255,) * 3,
    ),
    "densenet121": Published(lambda: _torchvision("densenet121"), _densenet_layers, 7_978_856, 224, 1024),
    # Its second down-sampling lies on two branches of a block, which must keep equal shapes.
    "xception": Published(
        _xception, lambda: TimmFeatures(_xception(num_classes=0)), 22_855_952, 299, 2048, HALVES, HALVES, 1, ""
    ),
    "efficientnet_b0": _with_features("efficientnet_b0", 5_288_548, 224, 1280),
    "efficientnet_b2": _with_features("efficientnet_b2", 9_109_994, 288, 1408),
    "efficientnet_b4": _with_features("efficientnet_b4", 19_341_616, 380, 1792),
}  # fmt: skip

# ---- names in files of weights -------------------------------------------------------------------------------------

_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")
_VGG_CONV = re.compile(r"(?:features\.)?conv(\d)_(\d)\.(weight|bias)")
_VGG_PLACES = {(block, i): place for place, (block, i) in zip(
    (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    ((1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3), (4, 1), (4, 2), (4, 3), (5, 1), (5, 2), (5, 3)),
)}  # fmt: skip


def own_name(model: str, key: str) -> str:
    """The library's present name of a tensor that older or other files call `key`.

    torchvision's file of DenseNet has names from before its layers were renamed; files of VGG-Face number the
    convolutions by block, `conv1_1` to `conv5_3`, as the paper does."""
    if model == "densenet121":
        return _OLD_DENSENET.sub(r"\1\2.", key)
    if model == "vggface" and (match := _VGG_CONV.fullmatch(key)):
        place = _VGG_PLACES.get((int(match[1]), int(match[2])))
        return key if place is None else f"features.{place}.{match[3]}"
    return key
