"""What every network of a detector is: a shape that a file's header holds, and a verdict on images."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import nn

from common.errors import UserError


class VerdictOut(NamedTuple):
    """`logit` float32 [N], positive = fake, uncalibrated; `patch_logits` float32 [N, h, w] or None without the
    artefact branch."""

    logit: torch.Tensor
    patch_logits: torch.Tensor | None


class NetworkConfig(Protocol):
    """The shape of a network; `to_dict` gives plain JSON types for a file's header."""

    @property
    def resolution(self) -> int: ...
    @property
    def img_channels(self) -> int: ...
    def to_dict(self) -> dict: ...


@dataclass(frozen=True)
class Shape:
    """A dataclass of numbers, words and tuples of them, to and from a header. UserError on a value out of range: a file
    may be damaged or hostile, and bounds keep it from asking for a terabyte of weights."""

    def to_dict(self) -> dict:
        """Plain JSON types; `from_dict` is its inverse."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: dict) -> Self:
        if unknown := set(data) - {field.name for field in fields(cls)}:
            raise UserError(f"unknown option {', '.join(sorted(unknown))} of {data.get('model', 'a hybrid')}")
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in data.items()})

    def check_whole(self, **limits: tuple[int, int]) -> None:
        """Hold fields to whole numbers from a least to a most."""
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise UserError(f"{name} must be a whole number from {low} to {high}, not {value!r}")


def zero_bias(layer: nn.Linear | nn.Conv2d) -> None:
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def undecided(layer: nn.Linear | nn.Conv2d) -> None:
    """Begin so that an untrained detector says "I don't know", and does not shout."""
    nn.init.normal_(layer.weight, std=0.1 / layer.weight.shape[1] ** 0.5)
    zero_bias(layer)


class Network(nn.Module):
    """Images float [N, C, R, R] in [-1, 1] -> `VerdictOut`.

    any_size: whether it takes images of other sizes, so that it can learn from crops. lowp_dtype (None: float32): what
    its layers compute in, in training; in evaluation too where `lowp_eval` is set, which is for choosing between states
    and never for a verdict.
    """

    cfg: NetworkConfig
    any_size: bool = False
    lowp_dtype: torch.dtype | None = None
    lowp_eval: bool = False

    def verdict(self, img: torch.Tensor) -> VerdictOut:
        raise NotImplementedError

    def seen(self, img: torch.Tensor) -> tuple[VerdictOut, torch.Tensor | None]:
        """The verdict, and of a network that joins two views of a photo their log-odds of «fake», float32 [N, 2]."""
        return self.verdict(img), None

    def forward(self, img: torch.Tensor) -> Any:
        return self.verdict(img)

    def autocast(self, img: torch.Tensor) -> contextlib.AbstractContextManager:
        """Inside, layers compute in what `lowp_dtype` wishes now."""
        low = self.lowp_dtype not in (None, torch.float32) and (self.training or self.lowp_eval)
        return torch.autocast(img.device.type, self.lowp_dtype) if low else contextlib.nullcontext()

    def lesson(self, img: torch.Tensor, targets: torch.Tensor) -> tuple[VerdictOut, torch.Tensor | None]:
        """The verdict in training; and, from targets float [N], a loss [N] of its own in place of the cross-entropy."""
        return self.verdict(img), None

    def penalty(self) -> torch.Tensor | float:
        """What is added to every step's loss, such as L2 of some of its weights."""
        return 0.0

    def taught(self) -> list[nn.Parameter]:
        """What training changes: everything."""
        return list(self.parameters())

    def borrowed(self) -> nn.Module | None:
        """The part that may come with weights of other pictures and be frozen at first, if any."""
        return None
