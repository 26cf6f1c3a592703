"""What a network file of any kind is read into, and how networks are made from published names and tensors."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar, overload

import torch

from .config import DiscriminatorConfig, GeneratorConfig
from .discriminator import Discriminator
from .generator import Generator
from .names import RESAMPLE_FILTER, load_published, published_shapes
from .storages import StoredTensor
from .unpickle import Refused

NETWORKS = ("G_ema", "G", "D")
Tensors = Mapping[str, StoredTensor | torch.Tensor]
C = TypeVar("C", GeneratorConfig, DiscriminatorConfig)


@dataclass
class Networks:
    """The networks of a file; those it doesn't have, or that weren't asked for, are None.

    G_ema: the averaged generator, which makes the best images. G, D: the two of the training.
    meta: what else the file says, plain JSON types. kind: the format, in words. notes: what a user should know, a line
    each.
    """

    G_ema: Generator | None = None
    G: Generator | None = None
    D: Discriminator | None = None
    meta: dict = field(default_factory=dict)
    kind: str = ""
    notes: list[str] = field(default_factory=list)


def configured(cls: type[C], **values) -> C:
    """A configuration with these values. Refused where there is no such network."""
    try:
        return cls(**values)
    except ValueError as e:
        raise Refused(str(e)) from None


@overload
def build(cfg: GeneratorConfig, tensors: Tensors, what: str) -> Generator: ...
@overload
def build(cfg: DiscriminatorConfig, tensors: Tensors, what: str) -> Discriminator: ...
def build(cfg: GeneratorConfig | DiscriminatorConfig, tensors: Tensors, what: str) -> Generator | Discriminator:
    """A network of this configuration with these tensors (published names), in evaluation mode without gradients.

    Shapes are compared before anything is allocated, so a configuration that claims a terabyte costs nothing. Weights
    of any floating type become float32. Refused where names, shapes or types don't fit the configuration.
    """
    shapes = published_shapes(cfg)
    for name, needed in shapes.items():
        if name not in tensors:
            raise Refused(f"its {what} lacks {name}, which {_short(cfg)} has")
        found = tuple(tensors[name].shape)
        if found != needed:
            raise Refused(f"its {what} has {name} of shape {list(found)} where {_short(cfg)} has {list(needed)}")
    loaded = {}
    for name, tensor in tensors.items():
        if name not in shapes and not (name.endswith(RESAMPLE_FILTER) and tuple(tensor.shape) in ((4,), (4, 4))):
            raise Refused(f"its {what} has an unknown {name}")
        if not tensor.dtype.is_floating_point:
            raise Refused(f"its {what} has {name} in {str(tensor.dtype).removeprefix('torch.')}, not in real numbers")
        loaded[name] = tensor.load() if isinstance(tensor, StoredTensor) else tensor
        if not torch.isfinite(loaded[name]).all():
            raise Refused(f"its {what} has {name} with values that are not numbers: the file is damaged; give another")
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten at once
        net = Generator(cfg) if isinstance(cfg, GeneratorConfig) else Discriminator(cfg)
    try:
        load_published(net, loaded)
    except ValueError as e:
        raise Refused(f"its {what} does not fit: {e}") from None
    return net.eval().requires_grad_(False)


def count(state: Mapping, form: str, first: int = 0) -> int:
    """How many names of this form a state dict has, numbered from `first` on without a gap."""
    return next(n for n in itertools.count() if form.format(first + n) not in state)


def channels_of(widths: dict[int, int]) -> tuple[int, int]:
    """(channel_base, channel_max) that give these channel counts, resolution -> channels; Refused where they follow
    another rule than min(base / resolution, max)."""
    most = max(widths.values())
    # the least: one channel may be less than one
    base = max((c * res for res, c in widths.items() if c > 1), default=1)
    if any(max(min(base // res, most), 1) != c for res, c in widths.items()):
        raise Refused(f"its channel counts {list(widths.values())} are no min(base / resolution, max)")
    return base, most


def _short(cfg: GeneratorConfig | DiscriminatorConfig) -> str:
    kind = "generator" if isinstance(cfg, GeneratorConfig) else "discriminator"
    labels = f", {cfg.c_dim} labels" if cfg.c_dim else ""
    return f"a {cfg.resolution}x{cfg.resolution} {kind} of {cfg.channel_base}/{cfg.channel_max} channels{labels}"
