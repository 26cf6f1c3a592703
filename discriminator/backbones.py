"""Published image networks as detectors: torchvision's or timm's layers, our head on them.

The layers come from the libraries, with or without weights learnt on other pictures; nothing of them is written again
here. What is added: the normalisation those weights expect (inside, so that an exported network has it, too), the
option to leave out the first down-samplings, and the two heads: one logit for the photo and one for each cell of the
feature map.

`head="seeds"` is the head of transfer learning as the projects before this one had it: the mean over the feature map, a
dense layer (its weights held small by L2), dropout, batch normalisation, one logit.

Leaving out early down-sampling is what made detectors of generated images most robust in Gragnaniello et al. 2021
("Are GAN generated images easy to detect?", section 4): the traces lie in frequencies that a strided stem discards. It
costs four times the time for each.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from common.errors import UserError
from discriminator import weights
from discriminator.native_layers import use_native_layers
from discriminator.network import Network, Shape, VerdictOut, undecided
from discriminator.network_options import HEADS
from discriminator.published import IMAGENET_MEAN, IMAGENET_STD, PUBLISHED, TimmFeatures, own_name

IMAGENET_CLASSES = 1000
HEAD_WIDTH = 256  # of the seeds' dense layer
HEAD_L2 = 1e-4  # times the sum of its squared weights, as Keras counts L2
MAX_STRIDE1 = 2  # further ones lie on branches that must keep equal shapes
_TIMM_NAME = re.compile(r"[a-z0-9_]{1,80}(\.[a-z0-9_]{1,80})?")  # no "hf-hub:" nor paths: a name never downloads code
_CLASSIFIERS = ("classifier.", "fc.", "head.", "last_linear.", "aux_classifier.", "head_dist.")


@dataclass(frozen=True)
class BackboneConfig(Shape):
    """A published network with our heads.

    model: a name of `PUBLISHED`, or "timm:" and a name of timm's. resolution: side of the images it is made to judge
    (its layers take others as well where `any_size`). stride1: how many of its first down-sampling layers keep the
    resolution instead. dropout: before the verdict. patches: whether there are patch logits, which needs a feature map.
    mean, std: normalisation of RGB in [0, 1]. head: "linear", or "seeds" (see above).
    """

    model: str
    resolution: int
    img_channels: int = 3
    stride1: int = 0
    dropout: float = 0.3
    patches: bool = True
    any_size: bool = True
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    head: str = "linear"

    def __post_init__(self) -> None:
        if not is_published(self.model):
            raise UserError(f"unknown network {self.model!r}: give one of {', '.join(PUBLISHED)} or timm:NAME")
        most = PUBLISHED[self.model].stride1 if self.model in PUBLISHED else MAX_STRIDE1
        self.check_whole(resolution=(32, 2048), stride1=(0, most))
        if self.img_channels != 3:
            raise UserError(f"{self.model} takes colour images (3 channels), not {self.img_channels!r}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must be at least 0 and below 1, not {self.dropout!r}")
        if self.head not in HEADS:
            raise UserError(f"head must be one of {', '.join(HEADS)}, not {self.head!r}")
        for key in ("mean", "std"):
            values = getattr(self, key)
            if len(values) != 3 or not all(math.isfinite(v) for v in values) or (key == "std" and min(values) <= 0):
                raise UserError(f"{key} must be three numbers, not {values!r}")


def is_published(model: object) -> bool:
    """Whether `model` may be the name of a published network: of `PUBLISHED`, or "timm:" and a name."""
    name = model.removeprefix("timm:") if isinstance(model, str) else ""
    return model in PUBLISHED or (model == f"timm:{name}" and _TIMM_NAME.fullmatch(name) is not None)


class Borrowing(Network):
    """A network whose `body` is a published one's layers, from random weights; see `load_pretrained`. published: the
    name of that network."""

    cfg: Any
    body: nn.Module
    scale: torch.Tensor
    shift: torch.Tensor

    @property
    def published(self) -> str:
        return self.cfg.model

    def normalise_by(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Bring RGB to what the weights of the body expect, of images in [0, 1]; kept in the configuration."""
        self.cfg = replace(self.cfg, mean=mean, std=std)
        # (x / 2 + 1 / 2 - mean) / std of images in [-1, 1], as one multiplication and one addition
        scale = 0.5 / torch.tensor(std)
        shift = (0.5 - torch.tensor(mean)) / torch.tensor(std)
        self.register_buffer("scale", scale.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", shift.view(1, 3, 1, 1), persistent=False)

    def prepared(self, img: torch.Tensor) -> torch.Tensor:
        """What the body is given for images in [-1, 1]."""
        return (img * self.scale + self.shift).contiguous(memory_format=torch.channels_last)

    def borrowed(self) -> nn.Module:
        return self.body


class Backbone(Borrowing):
    """Random weights; see `load_pretrained`."""

    cfg: BackboneConfig

    def __init__(self, cfg: BackboneConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.any_size = cfg.any_size
        self.body, width, self.cells = published_body(cfg.model)
        _keep_resolution(self.body, cfg)
        use_native_layers(self.body)
        self.dropout = nn.Dropout(cfg.dropout)
        self.dense: nn.Linear | None = None
        if cfg.head == "seeds":
            self.dense, self.norm = nn.Linear(width, HEAD_WIDTH), nn.BatchNorm1d(HEAD_WIDTH)
            width = HEAD_WIDTH
        self.head = nn.Linear(width, 1)
        self.patch = nn.Conv2d(self.cells, 1, 1) if cfg.patches else None
        for layer in (self.head, self.patch):
            if layer is not None:
                undecided(layer)
        self.normalise_by(cfg.mean, cfg.std)

    def features(self, img: torch.Tensor) -> torch.Tensor:
        """The last feature map [N, width, h, w] (tokens [N, T, width] of a transformer) of images in [-1, 1]."""
        with self.autocast(img):
            return self.body(self.prepared(img))

    def verdict(self, img: torch.Tensor) -> VerdictOut:
        features = self.features(img).float()
        pooled = self.body.pooled(features) if isinstance(self.body, TimmFeatures) else features.mean((2, 3))
        patches = None if self.patch is None else self.patch(features).squeeze(1)
        if self.dense is not None:
            pooled = self.norm(self.dropout(self.dense(pooled).relu()))
            return VerdictOut(self.head(pooled).squeeze(1), patches)
        return VerdictOut(self.head(self.dropout(pooled)).squeeze(1), patches)

    def penalty(self) -> torch.Tensor:
        """What is added to every step's loss: L2 of the seeds' dense layer, else 0."""
        if self.dense is None:
            return self.head.weight.new_zeros(())
        return HEAD_L2 * self.dense.weight.square().sum()


def published_body(model: str) -> tuple[nn.Module, int, int]:
    """Layers from image to feature map [N, cells, h, w], their width once pooled, and cells."""
    if not model.startswith("timm:"):
        known = PUBLISHED[model]
        return known.body(), known.width, known.width
    import timm

    name = model.removeprefix("timm:")
    if name.split(".")[0] not in timm.list_models():
        raise UserError(f"this timm ({timm.__version__}) knows no {name!r}; see timm.list_models()")
    net: Any = timm.create_model(name, pretrained=False, num_classes=0)
    return TimmFeatures(net), getattr(net, "head_hidden_size", None) or net.num_features, net.num_features


def _keep_resolution(body: nn.Module, cfg: BackboneConfig) -> None:
    left = cfg.stride1
    for layer in body.modules():
        if left == 0:
            return
        if isinstance(layer, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)) and layer.stride not in (1, (1, 1)):
            layer.stride = (1, 1) if isinstance(layer, nn.Conv2d) else 1
            left -= 1
    if left:
        raise UserError(f"{cfg.model} has no {cfg.stride1} down-sampling layers to do without")


def fitted(cfg: BackboneConfig) -> BackboneConfig:
    """`cfg` with what only the network itself knows: normalisation, whether it makes a feature map, and whether it
    takes images of any size. UserError for an unknown network or a size it cannot take."""
    try:
        if cfg.model.startswith("timm:"):
            published_body(cfg.model)  # tells an unknown name in words
            import timm

            told = timm.get_pretrained_cfg(cfg.model.removeprefix("timm:"))
            if told is not None and told.mean and told.std:
                cfg = replace(cfg, mean=tuple(told.mean), std=tuple(told.std))
        else:
            cfg = replace(cfg, mean=PUBLISHED[cfg.model].mean, std=PUBLISHED[cfg.model].std)
        net = Backbone(replace(cfg, patches=False)).eval()
    except ValueError as error:
        raise UserError(f"`model` {cfg.model}: {error}") from None
    with torch.inference_mode():
        for side, fixed in ((cfg.resolution, False), (max(32, cfg.resolution // 2 + 16), True)):
            try:
                features = net.features(torch.zeros(1, 3, side, side))
                net.verdict(torch.zeros(1, 3, side, side))
            except (RuntimeError, AssertionError, ValueError) as error:
                if fixed:
                    return replace(cfg, any_size=False)
                reason = str(error).splitlines()[0]
                raise UserError(f"`model` {cfg.model}: it takes no images of {side} px ({reason})") from None
            if not fixed:
                cfg = replace(cfg, patches=cfg.patches and features.ndim == 4 and features.shape[1] == net.cells)
    return cfg


def load_pretrained(net: Borrowing, file: str | os.PathLike | None) -> str:
    """Weights learnt elsewhere into `net.body`: of `file` (see `discriminator.weights.read`), or downloaded by the
    library. Returns where they are from. UserError for a file that does not fit."""
    model, own = net.published, net.body.state_dict()
    if file is None:
        state, origin = _downloaded(model)
    else:
        state, origin = weights.read(file)
    # What stands before the body's names: `features.` in most of torchvision's files, nothing in timm's, whose whole
    # network is our `body.net`.
    prefix = "" if model.startswith("timm:") else PUBLISHED[model].prefix
    within = "net." if isinstance(net.body, TimmFeatures) else ""
    found = {}
    for key, value in state.items():
        key = own_name(model, key)
        if key.startswith(prefix) and not (not within and key.startswith(_CLASSIFIERS)):
            found[within + key.removeprefix(prefix)] = value
    where = "`pretrained`" if file is None else f"`backbone_weights` {file}"
    last = state.get("classifier.6.weight")
    if model == "vggface" and isinstance(last, torch.Tensor) and last.ndim == 2 and len(last) == IMAGENET_CLASSES:
        raise UserError(f"{where}: VGG16's weights for ImageNet, not VGG-Face's; give them to `model` vgg16")
    known = {key: value for key, value in found.items() if key in own}
    if not known and (by_order := weights.in_order(state, own)) is not None:
        known, origin = by_order, f"{origin}, its tensors taken in their order"
        if model.startswith("timm:tf_efficientnet_lite"):
            net.normalise_by(*weights.EFFICIENTNET_LITE)
    missing = [key for key in own if key not in known and not key.endswith("num_batches_tracked")]
    if missing:
        raise UserError(
            f"{where}: not weights of {model}: {len(missing)} of its {len(own)} tensors are missing, like"
            f" {prefix}{missing[0].removeprefix('net.')}; give the file of that network"
        )
    for key, value in known.items():
        name = prefix + key.removeprefix("net.")
        if not isinstance(value, torch.Tensor) or value.shape != own[key].shape:
            raise UserError(f"{where}: {name} has another shape than in {model}; give the file of that network")
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UserError(f"{where}: {name} holds values that are not numbers; get the file again")
    net.body.load_state_dict(known, strict=False)
    return origin


def _downloaded(model: str) -> tuple[dict, str]:
    if model == "vggface":
        raise UserError(
            "`pretrained`: no library gives VGG-Face's weights away; fetch them from their authors and give"
            " `backbone_weights` FILE"
        )
    try:
        if model.startswith("timm:") or model == "xception":
            import timm

            name = "legacy_xception" if model == "xception" else model.removeprefix("timm:")
            return timm.create_model(name, pretrained=True).state_dict(), f"timm's weights of {name}"
        import torchvision

        best = torchvision.models.get_model_weights(model).DEFAULT
        return best.get_state_dict(progress=True, check_hash=True), f"torchvision's {best}"
    except (OSError, RuntimeError, ValueError) as error:  # no network, no such file, a wrong checksum
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"`pretrained`: the weights of {model} could not be fetched ({reason}); give `backbone_weights` FILE"
        ) from None
