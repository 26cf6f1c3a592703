"""Every architecture a detector file may name: one dict from name to builder.

A builder makes a network with random weights from the architecture's dict in a file's header (`net.cfg.to_dict()`).
A new network needs one line in `ARCHITECTURES`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from common.errors import UserError
from common.options import refuse
from common.shapes import shapes_only
from discriminator.backbones import Backbone, BackboneConfig, fitted
from discriminator.capsnet import CapsNet, CapsNetConfig
from discriminator.custom_cnn import PLAIN, Plain, PlainConfig
from discriminator.hybrid import HybridConfig, HybridDiscriminator
from discriminator.levels import PREFIX, Levels, LevelsConfig, fitted_levels
from discriminator.network import Network, Shape
from discriminator.network_options import HEADS, NetworkOptions
from discriminator.pixels import Pixels, PixelsConfig
from discriminator.published import PUBLISHED
from discriminator.two_views import TwoViews, TwoViewsConfig
from stylegan2_ada.config import DiscriminatorConfig

HYBRID_SIZES = {
    # (channel_base, channel_max, artefact_channels, verdict_dim)
    "tiny": (1024, 64, 8, 64),
    "base": (4096, 128, 16, 128),
}
_TRUNK_LIMITS = {
    "channel_base": 1 << 17,
    "channel_max": 1024,
    "c_dim": 10_000,
    "mapping_layers": 16,
    "mbstd_group_size": 4096,
    "mbstd_num_channels": 64,
}

Check = Callable[[dict[str, torch.Tensor]], None]
Builder = Callable[[dict, Check], Network]


def _hybrid(values: dict, check: Check) -> Network:
    cfg = HybridConfig.from_dict({key: value for key, value in values.items() if key != "model"})
    # A damaged or hostile header must not make us allocate what no detector needs.
    for name, limit in _TRUNK_LIMITS.items():
        if not 0 <= getattr(cfg.trunk, name) <= limit:
            raise UserError(f"{name} {getattr(cfg.trunk, name)} is beyond {limit}")
    with shapes_only():
        check(HybridDiscriminator(cfg).state_dict())
    return HybridDiscriminator(cfg)


def _by_shape(config: type[Shape], network: Callable[..., Network]) -> Builder:
    def build_one(values: dict, check: Check) -> Network:
        cfg = config.from_dict(values)
        with shapes_only():  # a name may stand for gigabytes
            check(network(cfg).state_dict())
        return network(cfg)

    return build_one


def _two_views(values: dict, check: Check) -> Network:
    cfg = TwoViewsConfig.from_dict(values)
    parts = {"face": cfg.face.architecture, "pixels": cfg.pixels.architecture}
    check({f"{name}.{key}": t for name, one in parts.items() for key, t in _tensors_of(one).items()})
    return TwoViews(cfg, **{name: build(one) for name, one in parts.items()})


def _tensors_of(architecture: dict) -> dict[str, torch.Tensor]:
    """The tensors that a network would have, without memory for more than their shapes where that is to be had."""
    found: dict[str, torch.Tensor] = {}

    def keep(state: dict[str, torch.Tensor]) -> None:
        found.update(state)
        raise _Enough

    try:
        build(architecture, keep)
    except _Enough:
        pass
    return found


class _Enough(Exception):
    """Nothing more is to be built."""


_BACKBONE = _by_shape(BackboneConfig, Backbone)


# Name in the header -> builder. "timm" stands for all "timm:NAME", "levels" for all "levels:NAME".
ARCHITECTURES: dict[str, Builder] = {
    "hybrid": _hybrid,
    "timm": _BACKBONE,
    **dict.fromkeys(PUBLISHED, _BACKBONE),
    **dict.fromkeys(PLAIN, _by_shape(PlainConfig, Plain)),
    "capsnet": _by_shape(CapsNetConfig, CapsNet),
    "pixels": _by_shape(PixelsConfig, Pixels),
    "levels": _by_shape(LevelsConfig, Levels),
    "two_views": _two_views,
}


def build(architecture: dict, check: Check = lambda state: None) -> Network:
    """The network of a header's `architecture`; `check(state_dict)` sees its shapes before much memory is spent.

    A dict without "model" is a hybrid's, as files had it at first. ValueError or TypeError where it does not fit."""
    if not isinstance(architecture, dict):
        raise UserError("the architecture must be a dictionary")
    name = architecture.get("model", "hybrid")
    family = next((one for one in ("timm", "levels") if str(name).startswith(f"{one}:")), name)
    if family not in ARCHITECTURES:
        raise UserError(f"unknown network {name!r}; this program knows {', '.join(names())}")
    return ARCHITECTURES[family](architecture, check)


def names() -> list[str]:
    """What `model` may be: two_views is made of trained detectors, not by a training."""
    families = ("timm", "levels", "two_views")
    return [*(name for name in ARCHITECTURES if name not in families), "timm:NAME", "levels:NAME"]


def hybrid_config(
    size: str,
    resolution: int,
    channels: int = 3,
    *,
    branches: tuple[str, ...] = ("spatial", "artefact"),
    residual: str = "highpass",
) -> HybridConfig:
    """A hybrid detector that plays no game: the verdict's gradient goes through the whole trunk."""
    if size not in HYBRID_SIZES:
        raise UserError(f"`size` {size}: give one of {', '.join(HYBRID_SIZES)}")
    base, most, width, hidden = HYBRID_SIZES[size]
    trunk = DiscriminatorConfig(
        resolution=resolution, img_channels=channels, channel_base=base, channel_max=most, mbstd_group_size=0,
        num_lowp_res=16,
    )  # fmt: skip
    return HybridConfig(
        trunk,
        artefact_channels=width,
        artefact_blocks=min(2, max(resolution.bit_length() - 3, 0)),
        residual=residual,
        verdict_dim=hidden,
        trunk_grad_scale=1.0,
        branches=branches,
    )


_WORDS = {"published": "published networks", "probe": f"a probe, `model` {PREFIX}NAME"}
_USED_BY = {
    "size": ("hybrid",),
    "branches": ("hybrid",),
    "residual": ("hybrid", "pixels"),
    "stride1": ("published",),
    "head": ("published",),
    "dropout": (*PLAIN, "published"),
    "reconstruct": ("capsnet",),
    "levels": ("probe",),
    "correlations": ("probe",),
}


def _check_used(model: str, o: NetworkOptions) -> None:
    """UserError where an option that is not at its default would change nothing: whoever gave it expects otherwise."""
    kind = "probe" if model.startswith(PREFIX) else "published" if _published(model) else model
    for name, users in _USED_BY.items():
        if kind not in users and (kind in _WORDS or kind in names()):
            whose = " and ".join(_WORDS.get(user, user) for user in users)
            refuse(o, (name,), f"of {whose}, not of {model}; leave it out")


def new_network(
    model: str, resolution: int, channels: int = 3, options: NetworkOptions | None = None, *, seed: int = 0
) -> Network:
    """An untrained network by its name (one of `names`); its weights follow from `seed`. UserError, one line, for names
    and sizes it can't be."""
    o = options or NetworkOptions()
    torch.manual_seed(seed)
    if o.head not in HEADS:
        raise UserError(f"`head` {o.head}: give one of {', '.join(HEADS)}")
    _check_used(model, o)
    try:
        if model == "hybrid":
            return HybridDiscriminator(
                hybrid_config(o.size, resolution, channels, branches=o.branches, residual=o.residual)
            )
        if model in PLAIN:
            both = (o.blur, o.noise) if model == "blur_noise_cnn" else (0.0, 0.0)
            return Plain(PlainConfig(model, resolution, channels, o.dropout, *both))
        if model == "pixels":
            return Pixels(PixelsConfig(resolution=resolution, img_channels=channels, residual=o.residual))
        if model == "capsnet":
            return CapsNet(CapsNetConfig(resolution, channels, reconstruct=o.reconstruct))
        if model.startswith(PREFIX):
            return _levels(model, resolution, channels, o, seed)
        if model == "two_views":
            raise UserError("is made of two trained detectors: `train_detector.py join FACE PIXELS`")
        if not _published(model):
            raise UserError(f"unknown; give one of {', '.join(names())}")
        cfg = BackboneConfig(
            model, resolution, channels, stride1=o.stride1, dropout=o.dropout, patches=o.patches, head=o.head
        )
    except ValueError as error:
        raise UserError(f"`model` {model}: {error}") from None
    cfg = fitted(cfg)
    torch.manual_seed(seed)
    return Backbone(cfg)


def _levels(model: str, resolution: int, channels: int, o: NetworkOptions, seed: int) -> Levels:
    first, last = o.levels or (0, None)
    cfg = LevelsConfig(
        model, resolution, channels, patches=o.patches, first=first, last=last, correlations=o.correlations
    )
    torch.manual_seed(seed)
    return Levels(fitted_levels(cfg))


def _published(model: str) -> bool:
    return model in PUBLISHED or model.startswith("timm:")
