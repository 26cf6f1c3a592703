"""Features of any of timm's or torchvision's networks, for metrics: what the last layer before the classes is given.

FID's Inception has seen ImageNet's thousand classes and little else; Stein et al. 2023 ("Exposing flaws of generative
model evaluation metrics", arXiv:2306.04675) find that the Fréchet distance of a self-supervised network's features
(DINOv2) goes with what people see. Here any network does whose weights lie in a file: nothing is downloaded.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from common.errors import UserError
from common.files import sha256_of
from discriminator import weights as files
from discriminator.published import IMAGENET_MEAN, IMAGENET_STD

_NAME = re.compile(r"(timm|torchvision):([a-z0-9_]{1,80}(?:\.[a-z0-9_]{1,80})?)(?:@(\d{2,4}))?")
_CHUNK = {"cpu": 16, "cuda": 64}


@dataclass(frozen=True)
class _Look:
    """How a network wants its images: side, kernel, mean and deviation of RGB in [0, 1]."""

    side: int
    kernel: str
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


class NetworkFeatures(nn.Module):
    """uint8 images [N, 3, H, W] (a grey channel is repeated) -> float32 [N, dims]; a `metrics.features.FeatureNetwork`.

    name: "timm:NAME" or "torchvision:NAME", with "@SIDE" behind it for another size than the network's usual one (of a
    vision transformer the position embeddings are resampled). weights: a .pth of tensors, a .safetensors file, or
    "pip:PACKAGE"; a classifier in it is left out. Images are resized whole, with anti-aliasing, by the network's own
    kernel, and normalised as its library says; numbers are float32.

    UserError for an unknown name, a missing file or one that is of another network.
    """

    classifier: torch.Tensor | None = None
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, name: str, weights: str | Path) -> None:
        super().__init__()
        match = _NAME.fullmatch(name)
        if match is None:
            raise UserError(
                f"`features` {name}: give inception, timm:NAME or torchvision:NAME, with @SIDE for another size"
            )
        self.name: str = name
        self.used: str | None = None
        library, model, side = match[1], match[2], int(match[3]) if match[3] else None
        path = files.locate(weights, "weights")
        self.weights_sha256: str = sha256_of(path)
        state = files.read(weights, "weights")[0]
        try:
            self.net, look = (_timm if library == "timm" else _torchvision)(model, side)
        except UserError as error:
            raise UserError(f"`features` {name}: {error}") from None
        look = _load(self.net, state, look, f"`weights` {weights}", name)
        self.side, self.kernel = side or look.side, look.kernel
        self.register_buffer("mean", torch.tensor(look.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(look.std).view(1, 3, 1, 1), persistent=False)
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.dims: int = self._width()

    def _width(self) -> int:
        try:
            return self._pooled(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)).shape[1]
        except (RuntimeError, AssertionError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"`features` {self.name}: it takes no images of {self.side} px ({reason}); add @SIDE with another size"
            ) from None

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    @property
    def chunk(self) -> int:
        """Images per pass."""
        return _CHUNK.get(self.device.type, 64)

    def describe(self) -> dict:
        """What identifies these features, ready for a result or a cache key."""
        told = {"features": self.name, "dims": self.dims, "resize": f"{self.kernel} {self.side}"}
        return {**told, "weights_sha256": self.weights_sha256}

    @torch.inference_mode()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features of uint8 images [N, 3 or 1, H, W], on the device of this module."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise UserError(f"{self.name} needs uint8 images [N, 3, H, W], got {images.dtype} {list(images.shape)}")
        out = torch.empty(len(images), self.dims, device=self.device)
        self.used = "torch"
        with (
            torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
            torch.autocast(self.device.type, enabled=False),
        ):
            for start in range(0, len(images), self.chunk):
                part = images[start : start + self.chunk].to(self.device)
                out[start : start + self.chunk] = self._pooled(part)
        return out

    def prepared(self, images: torch.Tensor) -> torch.Tensor:
        """What the network is given for uint8 images [N, 3 or 1, H, W]."""
        x = images.expand(-1, 3, -1, -1).float() / 255
        if x.shape[2:] != (self.side, self.side):
            x = F.interpolate(x, (self.side, self.side), mode=self.kernel, antialias=True).clamp_(0, 1)
        return ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def _pooled(self, images: torch.Tensor) -> torch.Tensor:
        found = self.net(self.prepared(images))
        return found.mean((2, 3)) if found.ndim == 4 else found


def _timm(model: str, side: int | None) -> tuple[nn.Module, _Look]:
    """timm's network without its classes, and how it wants to be shown images."""
    import timm
    from timm.data import resolve_model_data_config

    if not timm.is_model(model.split(".")[0]):
        raise UserError(f"this timm ({timm.__version__}) knows no such network; see timm.list_models()")
    try:
        sized: dict[str, Any] = {"img_size": side} if side else {}
        net = timm.create_model(model, pretrained=False, num_classes=0, **sized)
    except TypeError:  # networks that take any size have no such argument
        net = timm.create_model(model, pretrained=False, num_classes=0)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(str(error).splitlines()[0]) from None
    told = resolve_model_data_config(net)
    kernel = told["interpolation"] if told["interpolation"] in ("bilinear", "bicubic") else "bicubic"
    return net, _Look(told["input_size"][1], kernel, tuple(told["mean"]), tuple(told["std"]))


def _torchvision(model: str, side: int | None) -> tuple[nn.Module, _Look]:
    """torchvision's network up to the input of its last dense layer (of one without, its feature map)."""
    import torchvision

    if model not in torchvision.models.list_models(module=torchvision.models):
        raise UserError(
            f"this torchvision ({torchvision.__version__}) knows no such network; see torchvision.models.list_models()"
        )
    size = {"image_size": side} if side and model.startswith("vit_") else {}
    net: Any = torchvision.models.get_model(model, weights=None, **size)
    look = torchvision.models.get_model_weights(model).DEFAULT.transforms()
    dense = [name for name, layer in net.named_modules() if isinstance(layer, nn.Linear)]
    if dense:
        parent, _, last = dense[-1].rpartition(".")
        setattr(net.get_submodule(parent), last, nn.Identity())
    else:
        net = nn.Sequential()
        net.add_module("features", torchvision.models.get_model(model, weights=None).features)
    return net, _Look(look.crop_size[0], look.interpolation.value, tuple(look.mean), tuple(look.std))


def _load(net: nn.Module, state: dict[str, Any], look: _Look, where: str, name: str) -> _Look:
    """`state` into `net`; UserError where it does not fit. The look, which one kind of files changes."""
    own = net.state_dict()
    known = {key: value for key, value in _as_the_library_calls_it(net, state, name).items() if key in own}
    if not known and (by_order := files.in_order(state, own)) is not None:
        known = by_order
        if name.startswith("timm:tf_efficientnet_lite"):
            look = _Look(look.side, look.kernel, *files.EFFICIENTNET_LITE)
    missing = [key for key in own if key not in known and not key.endswith("num_batches_tracked")]
    if missing:
        raise UserError(
            f"{where}: not weights of {name}: {len(missing)} of its {len(own)} tensors are missing, like {missing[0]};"
            " give the file of that network"
        )
    for key, value in known.items():
        if not isinstance(value, torch.Tensor) or value.shape != own[key].shape:
            raise UserError(f"{where}: {key} has another shape than in {name}; give the file of that network")
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UserError(f"{where}: {key} holds values that are not numbers; get the file again")
    net.load_state_dict(known, strict=False)
    return look


def _as_the_library_calls_it(net: nn.Module, state: dict[str, Any], name: str) -> dict[str, Any]:
    """timm's own translation of files by a network's authors (DINOv2's, say), which also resamples the position
    embeddings of another size; what it can't translate is taken as it is."""
    translate = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    if not name.startswith("timm:") or translate is None:
        return state
    try:
        return dict(translate(dict(state), net))
    except Exception:  # of another network's file, whose names are then told missing
        return state
