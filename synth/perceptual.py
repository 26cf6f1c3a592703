"""How far two images are apart for an observer: distances of deep features, and one that needs no weights.

The distance of features is that of Zhang et al. 2018 («The Unreasonable Effectiveness of Deep Features as a Perceptual
Metric», equation 1) without the channel weights learned there: at several depths of a network, features are scaled to
unit length over the channels, their squared differences averaged over the image, and the depths added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from common.errors import UserError
from discriminator.published import HALVES, IMAGENET_MEAN, IMAGENET_STD
from stylegan2_ada.torch_files import read_torch

SMALLEST, LARGEST = 128, 256  # pixels that networks are shown; the upper bound is that of StyleGAN2's projection


@dataclass(frozen=True)
class _Backbone:
    """A torchvision network: the file name under which torch hub caches it, and after which layers features are taken
    (those of Zhang et al.)."""

    file: str
    taps: tuple[int, ...]


BACKBONES = {
    "vgg16": _Backbone("vgg16-397923af.pth", (3, 8, 15, 22, 29)),
    "squeezenet1_1": _Backbone("squeezenet1_1-b8a52dc0.pth", (1, 4, 7, 9, 10, 11, 12)),
}

Features = list[torch.Tensor]
Extract = Callable[[torch.Tensor], Features]
Compare = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Perceptual:
    """A distance of images. `name` says in words which.

    The target's features are computed once: `distance(features(a), features(b))` with a, b float [N, 1|3|4, R, R] in
    [-1, 1] gives [N], zero where a equals b.
    """

    def __init__(self, name: str, extract: Extract, compare: Compare):
        self.name, self._extract, self._compare = name, extract, compare

    def features(self, images: torch.Tensor) -> Features:
        return self._extract(_rgb(images))

    def distance(self, a: Features, b: Features) -> torch.Tensor:
        return sum((self._compare(x, y) for x, y in zip(a, b, strict=True)), torch.zeros(()))


def of_features(name: str, extract: Extract) -> Perceptual:
    """The distance of unit-length features that `extract` takes from RGB images in [-1, 1]: a list of [N, C, h, w]."""

    def unit_length(images: torch.Tensor) -> Features:
        return [f * (f.float().square().sum(dim=1, keepdim=True) + 1e-10).rsqrt() for f in extract(images)]

    return Perceptual(name, unit_length, lambda x, y: (x - y).square().sum(dim=1).mean(dim=(1, 2)))


def of_layers(name: str, layers: Sequence[nn.Module], taps: Sequence[int], *, imagenet: bool) -> Perceptual:
    """The distance of features after the `taps` of a chain of `layers`.

    Images below 128 pixels are enlarged to 128 (bilinear: of smaller ones the deeper layers see next to nothing), those
    above 256 are reduced to 256 (area). imagenet: the network wants channels of mean 0 and deviation 1 over ImageNet,
    else [-1, 1].
    """
    chain = nn.ModuleList(layers).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    mean = torch.tensor(IMAGENET_MEAN if imagenet else HALVES)[:, None, None]
    std = torch.tensor(IMAGENET_STD if imagenet else HALVES)[:, None, None]

    def extract(images: torch.Tensor) -> Features:
        x, found = _sized(images).contiguous(memory_format=torch.channels_last), []
        if next(chain.parameters()).device != x.device:
            chain.to(x.device)
        x = ((x + 1) / 2 - mean.to(x)) / std.to(x)
        for i, layer in enumerate(chain[: taps[-1] + 1]):
            x = layer(x)
            if i in taps:
                found.append(x)
        return found

    return of_features(name, extract)


def pyramid() -> Perceptual:
    """A distance that needs no weights: mean absolute differences of the Laplacian pyramid down to 4 pixels (Bojanowski
    et al. 2018, «Optimizing the Latent Space of Generative Networks», section 3.2) and of the horizontal and vertical
    gradients at each level. Every level counts the same, so that large shapes, of which there are few pixels, do."""

    def extract(images: torch.Tensor) -> Features:
        found = []
        while images.shape[2] > 4:
            small = F.avg_pool2d(images, 2)
            found.append(images - F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False))
            found += [images.diff(dim=2), images.diff(dim=3)]
            images = small
        return [*found, images]

    return Perceptual("multi-scale pyramid (no network)", extract, lambda x, y: (x - y).abs().mean(dim=(1, 2, 3)))


def _rgb(images: torch.Tensor) -> torch.Tensor:
    """Grey in three channels, without alpha."""
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images[:, :3]


def _sized(images: torch.Tensor) -> torch.Tensor:
    side = images.shape[2]
    if side > LARGEST:
        return F.interpolate(images, size=(LARGEST, LARGEST), mode="area")
    if side < SMALLEST:
        return F.interpolate(images, size=(SMALLEST, SMALLEST), mode="bilinear", align_corners=False)
    return images


def find_backbone(name: str) -> Path:
    """The weight file of a torchvision network (a key of `BACKBONES`) in torch hub's cache. UserError, with what to do,
    where there is none."""
    cached = Path(torch.hub.get_dir()) / "checkpoints" / BACKBONES[name].file
    if cached.is_file():
        return cached
    fetch = f"python -c \"import torchvision; torchvision.models.{name}(weights='DEFAULT')\""
    raise UserError(f"{name}: its weights are not here: fetch them with {fetch}, or give their file instead")


def load_backbone(path: str | Path) -> Perceptual:
    """The distance for a weight file in torchvision's names, of VGG16 or SqueezeNet 1.1; no code in it is run.
    UserError for a file that is neither."""
    import torchvision

    path = Path(path)
    wanted = "give torchvision's ImageNet weights of vgg16 or squeezenet1_1"
    try:
        state = read_torch(path)
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror}); {wanted}") from None
    except Exception:  # a damaged file fails in any of a dozen ways
        raise UserError(f"{path}: not a PyTorch weight file, or damaged; {wanted}") from None
    if not isinstance(state, dict):
        raise UserError(f"{path}: holds no weights by name; {wanted}")
    name = "squeezenet1_1" if "features.3.squeeze.weight" in state else "vgg16"
    backbone = BACKBONES[name]
    with torch.device("meta"):  # no memory and no time for initial weights
        layers = getattr(torchvision.models, name)(weights=None).features[: backbone.taps[-1] + 1]
    shapes = {k: t.shape for k, t in layers.state_dict().items()}
    given = ((k, state.get(f"features.{k}")) for k in shapes)
    found = {k: t for k, t in given if isinstance(t, torch.Tensor) and t.shape == shapes[k]}
    if len(found) < len(shapes):
        raise UserError(f"{path}: holds another network's weights; {wanted}")
    layers.load_state_dict({k: t.float() for k, t in found.items()}, assign=True)
    for layer in layers:
        if isinstance(layer, nn.ReLU):
            layer.inplace = False  # the layer before may be one whose output is kept
    return of_layers(f"{name} features", layers, backbone.taps, imagenet=True)
