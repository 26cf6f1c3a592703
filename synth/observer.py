"""Which network looks at the images when a photo is projected: the best that is at hand without a download."""

from __future__ import annotations

import os
from pathlib import Path

from common.errors import UserError
from discriminator.detector import Detector
from metrics.inception import InceptionFeatures
from metrics.weights import find_weights
from stylegan2_ada.config import GeneratorConfig
from synth.perceptual import BACKBONES, Perceptual, find_backbone, load_backbone, of_features, of_layers, pyramid

ENVIRONMENT = "FACES_PERCEPTUAL_WEIGHTS"
OBSERVERS = ("auto", "vgg16", "squeezenet", "inception", "discriminator", "pyramid")


def choose_observer(wish: str, cfg: GeneratorConfig, run: Path) -> Perceptual:
    """The perceptual distance called `wish`: a name of `OBSERVERS`, or a file: torchvision's ImageNet weights of VGG16
    or SqueezeNet 1.1, or a detector. UserError where it is not here.

    'auto' takes the file that $FACES_PERCEPTUAL_WEIGHTS names, else the first of the names whose weights are here; the
    last needs none. run: the generator's folder, where 'discriminator' looks for detector.safetensors."""
    if wish != "auto":
        return _observer(wish, cfg, run)
    if given := os.environ.get(ENVIRONMENT):
        return _observer(given, cfg, run)
    for name in OBSERVERS[1:-1]:
        try:
            return _observer(name, cfg, run)
        except UserError:
            continue
    return pyramid()


def _observer(name: str, cfg: GeneratorConfig, run: Path) -> Perceptual:
    if name == "pyramid":
        return pyramid()
    if name in ("vgg16", "squeezenet"):
        return _backbone("squeezenet1_1" if name == "squeezenet" else name)
    if name == "inception":
        net = InceptionFeatures(find_weights(download=False), 768).net
        return of_layers("FID InceptionV3 features", list(net), range(len(net)), imagenet=False)
    if name == "discriminator":
        return _of_detector(run / "detector.safetensors", cfg)
    if not Path(name).exists():
        raise UserError(f"`perceptual` {name}: neither one of {', '.join(OBSERVERS)} nor a file: check the spelling")
    return _of_detector(Path(name), cfg) if name.endswith(".safetensors") else _backbone(name)


def _backbone(name: str) -> Perceptual:
    """An ImageNet network by its name, or by its weight file."""
    try:
        return load_backbone(find_backbone(name) if name in BACKBONES else name)
    except UserError as error:
        raise UserError(f"`perceptual` {error}") from None


def _of_detector(path: Path, cfg: GeneratorConfig) -> Perceptual:
    """The trunk of a detector, which was the generator's opponent: it knows the data set's faces, and little else."""
    if not path.is_file():
        raise UserError(f"`perceptual` discriminator: there is no {path}: give a detector file, or use pyramid")
    trunk = getattr(Detector.load(path).net, "trunk", None)
    if trunk is None:
        raise UserError(f"`perceptual` {path}: no generator's opponent is in this detector: give a hybrid one")
    found, needed = (trunk.cfg.resolution, trunk.cfg.img_channels), (cfg.resolution, min(cfg.img_channels, 3))
    if found != needed:
        raise UserError(
            f"`perceptual` {path}: this detector takes {found[1]} channels of {found[0]} px, the generator makes"
            f" {needed[1]} of {needed[0]}: give the detector of the same run, or use pyramid"
        )

    def features(images):
        trunk.to(images.device)
        return trunk.features(images[:, : trunk.cfg.img_channels], force_fp32=True)

    return of_features("features of the run's own discriminator", features)
