"""Every number of a training in one readable dataclass."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields

from common.errors import UserError
from discriminator.verdict_loss import CONSISTENCIES, VerdictLossConfig
from faces.degrade import STEPS, Degradation, Step

SCHEDULES = ("cosine", "plateau")
BALANCES = ("sampling", "weights", "none")
PRECISIONS = ("fp32", "bf16")
AUGMENTATIONS = tuple(name for name in STEPS if name != "hflip")  # `mirror` does that
AUGMENT = 0.5  # probability of each: half of the images keep the traces that resampling wipes away


@dataclass(frozen=True)
class Recipe:
    """How a detective learns. UserError, naming the option, on a value out of range.

    epochs: passes over the training set, of which `frozen_epochs` leave borrowed layers as they came.
    batch: photos a step. With `consistency` above 0 each is seen twice, clean and degraded; else degraded only.
    lr, head_lr: Adam's rate afterwards, and in the frozen phase. weight_decay: decoupled (AdamW), on matrices only.
    schedule: "cosine" to zero, or "plateau": times `plateau_factor` after `plateau_patience` validations without gain.
    warmup: steps over which the rate rises at the beginning of each phase. clip: bound of the gradient's norm.
    ema: decay of the averaged weights, which are what is validated and kept; 0: the weights themselves.
    patch, consistency, consistency_kind, smoothing: see `VerdictLossConfig`.
    balance: "sampling": half of every batch is real; "weights": images as frequent as in the data, each class weighing
    half; "none": as frequent as in the data, each image weighing the same.
    crop: side of the random squares that are learnt from, 0 for whole images. mirror: flip every second image.
    augment: what else befalls an image before both views are made of it, steps of `faces.degrade` such as "clahe",
    "shear" or "rotate", each with its own probability ("rotate:0.3") or `AUGMENT`.
    validate_every: epochs between two validations. patience: how many without gain end a phase: the frozen one, or
    the training; 0 for never.
    """

    epochs: float = 30.0
    frozen_epochs: float = 0.0
    batch: int = 32
    lr: float = 1e-3
    head_lr: float = 1e-3
    weight_decay: float = 0.01
    schedule: str = "cosine"
    warmup: int = 200
    plateau_patience: int = 3
    plateau_factor: float = 0.2
    clip: float = 1.0
    ema: float = 0.998
    patch: float = 0.5
    consistency: float = 0.5
    consistency_kind: str = "kl"
    smoothing: float = 0.0
    balance: str = "sampling"
    crop: int = 0
    mirror: bool = True
    augment: tuple[str, ...] = ()
    validate_every: float = 1.0
    patience: int = 0
    precision: str = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "augment", tuple(self.augment))  # JSON has lists
        _ = self.augmentation
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"--{f.name.replace('_', '-')} {value}: not a finite number")
        bounds = {
            "epochs": (0, 100_000, True), "frozen_epochs": (0, self.epochs, False), "batch": (2, 1 << 16, False),
            "lr": (0, 10, True), "head_lr": (0, 10, True), "weight_decay": (0, 10, False), "warmup": (0, 10**7, False),
            "plateau_patience": (1, 10**6, False), "plateau_factor": (0, 1, True), "clip": (0, 1e9, True),
            "ema": (0, 0.999999, False), "crop": (0, 4096, False), "validate_every": (0, 100_000, True),
            "patience": (0, 10**6, False), "seed": (0, 2**31 - 1, False), "patch": (0, 1e6, False),
            "consistency": (0, 1e6, False), "smoothing": (0, 0.999, False),
        }  # fmt: skip
        for name, (low, high, beyond) in bounds.items():
            value = getattr(self, name)
            if not low <= value <= high or (beyond and value == low):
                words = f"above {low:g}" if beyond else f"at least {low:g}"
                raise UserError(f"--{name.replace('_', '-')} {value:g}: give a number {words} and at most {high:g}")
        choices = {
            "schedule": SCHEDULES, "balance": BALANCES, "precision": PRECISIONS, "consistency_kind": CONSISTENCIES,
        }  # fmt: skip
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: give one of {', '.join(known)}")

    @property
    def loss(self) -> VerdictLossConfig:
        return VerdictLossConfig(
            self.patch, self.consistency, self.consistency_kind, self.smoothing, balance=self.balance != "none"
        )

    @property
    def augmentation(self) -> Degradation:
        """What `augment` names, as a chain. UserError for an unknown step or a probability that is none."""
        steps = []
        for word in self.augment:
            name, colon, share = word.partition(":")
            try:
                probability = float(share) if colon else AUGMENT
            except ValueError:
                probability = -1.0
            if name not in AUGMENTATIONS:
                raise UserError(
                    f"--augment {word}: unknown; give some of {', '.join(AUGMENTATIONS)}, with commas between"
                )
            if not 0 < probability <= 1:
                raise UserError(f"--augment {word}: what follows the colon is a probability above 0 and at most 1")
            steps.append(Step(name, probability))
        return Degradation("augment", tuple(steps))

    def to_dict(self) -> dict:
        """Plain JSON types; `from_dict` is its inverse."""
        return {**asdict(self), "augment": list(self.augment)}

    @classmethod
    def from_dict(cls, data: dict) -> Recipe:
        """UserError for what is no recipe of this version."""
        if unknown := sorted(set(data) - {f.name for f in fields(cls)}):
            raise UserError(f"unknown option {unknown[0]!r} of a training; it was begun by a newer version")
        return cls(**data)
