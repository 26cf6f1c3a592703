"""The published image networks that go by a short name: which library makes each, and what is known of it.

The layers are torchvision's and timm's. Here stand only the facts that a detector needs: where a network's feature map
ends, how wide it is, and what its weights expect of an image.
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


@dataclass(frozen=True)
class Published:
    """body: a network's layers up to the feature map [N, width, h, w], random weights. mean, std: normalisation of RGB
    in [0, 1] that its weights expect. stride1: how many of its first down-samplings can be left out. prefix: what
    stands before the body's names in a file of weights."""

    body: Callable[[], nn.Module]
    width: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    stride1: int = 2
    prefix: str = "features."


def _torchvision(name: str) -> Any:
    import torchvision

    return torchvision.models.get_model(name, weights=None)


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


def _xception() -> nn.Module:
    import timm

    return TimmFeatures(timm.create_model("legacy_xception", pretrained=False, num_classes=0))


PUBLISHED: dict[str, Published] = {
    "squeezenet1_1": Published(lambda: _torchvision("squeezenet1_1").features, 512),
    "resnet50": Published(_resnet_layers, 2048, prefix=""),
    "vgg16": Published(_vgg_layers, 512),
    # Parkhi, Vedaldi, Zisserman 2015, "Deep face recognition": VGG16's layers (their configuration D).
    "vggface": Published(_vgg_layers, 512, VGGFACE_MEAN, (1 / 255,) * 3),
    "densenet121": Published(_densenet_layers, 1024),
    # Its second down-sampling lies on two branches of a block, which must keep equal shapes.
    "xception": Published(_xception, 2048, HALVES, HALVES, 1, ""),
    "efficientnet_b0": Published(lambda: _torchvision("efficientnet_b0").features, 1280),
    "efficientnet_b2": Published(lambda: _torchvision("efficientnet_b2").features, 1408),
    "efficientnet_b4": Published(lambda: _torchvision("efficientnet_b4").features, 1792),
}

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
