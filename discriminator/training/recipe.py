"""Every number of a training in one readable dataclass. Light: `--help` must answer at once."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from common.errors import UserError
from common.options import BATCH, check, option
from discriminator.network_options import CONSISTENCIES, Listed
from faces.options import MIRROR

if TYPE_CHECKING:
    from discriminator.verdict_loss import VerdictLossConfig
    from faces.degrade import Degradation

AUGMENT = 0.5  # probability of each: half of the images keep the traces that resampling wipes away
RENAMED = {"crop": "random_crop"}  # what recipes were saved with once


@dataclass(frozen=True)
class Recipe:
    """How a detector learns. UserError, naming the parameter, on a value out of range.

    lr, head_lr: Adam's. weight_decay: decoupled (AdamW), on matrices only. schedule: "cosine" to zero, or "plateau".
    patch, consistency, consistency_kind, smoothing: see `VerdictLossConfig`. augment: steps of `faces.degrade`, each
    with its own probability ("rotate:0.3") or `AUGMENT`. patience: ends a phase: the frozen one, or the training.
    draws, probe_fit, background_draws, l2: of a probe (`discriminator.training.probe`), which has no epochs, rates or
    phases.
    """

    epochs: float = option(30.0, "Passes over the training images.", metavar="X", low=0, above=True, high=100_000)
    frozen_epochs: float = option(
        0.0,
        "The first of them, in which borrowed layers stay as they came.  [default: 1 with borrowed weights]",
        metavar="X", low=0,
    )  # fmt: skip
    batch: int = BATCH(default=32, help="Images a step, all processes together.", low=2, high=1 << 16)
    lr: float = option(
        1e-3,
        "Learning rate.  [default: the network's own; 5e-4 with weights]",
        metavar="X", low=0, above=True, high=10,
    )  # fmt: skip
    head_lr: float = option(1e-3, "Learning rate of the frozen phase.", metavar="X", low=0, above=True, high=10)
    weight_decay: float = option(0.01, "AdamW's.", metavar="X", low=0, high=10)
    schedule: str = option("cosine", "Course of the learning rate.", choices=("cosine", "plateau"))
    warmup: int = option(200, "Steps over which it rises.", metavar="STEPS", low=0, high=10**7)
    plateau_patience: int = option(3, "Validations without gain before it falls.", metavar="N", low=1, high=10**6)
    plateau_factor: float = option(0.2, "By how much it falls then.", metavar="X", low=0, above=True, high=1)
    clip: float = option(1.0, "Bound of the gradient's norm.", metavar="X", low=0, above=True, high=1e9)
    ema: float = option(
        0.998, "Decay of the averaged weights, which are kept; 0: no averaging.", metavar="X", low=0, high=0.999999
    )
    patch: float = option(0.5, "Weight of the patches' own verdicts.", metavar="X", low=0, high=1e6)
    consistency: float = option(
        0.5,
        "Weight of agreement between an image and its degraded copy; 0: degraded only, half the time.",
        metavar="X", low=0, high=1e6,
    )  # fmt: skip
    consistency_kind: str = option("kl", "Of verdicts, or of logits.", choices=CONSISTENCIES)
    smoothing: float = option(0.0, "Label smoothing.", metavar="X", low=0, high=0.999)
    balance: str = option(
        "sampling",
        "Half of each batch real; as in the data with equal class weights; or as it is.",
        choices=("sampling", "weights", "none"),
    )
    random_crop: int = option(
        0, "Learn from random squares of N pixels; 0: whole images.", metavar="N", low=0, high=4096
    )
    mirror: bool = MIRROR(default=True, help="Flip every second image.")
    augment: tuple[str, ...] = option(
        (),
        "Of both views: clahe,shear,rotate and more, each for half of the images or as in rotate:0.2.",
        metavar="LIST",
        parse=Listed(),
        whole=True,
    )
    validate_every: float = option(1.0, "Between two validations.", metavar="EPOCHS", low=0, above=True, high=100_000)
    patience: int = option(0, "Validations without gain that end a phase; 0: never.", metavar="N", low=0, high=10**6)
    draws: int = option(
        3, "levels:NAME: degraded copies of each image beside the clean one.", metavar="N", low=0, high=1000
    )
    probe_fit: str = option(
        "logistic",
        "levels:NAME: logistic regression, or where fakes lie apart in units of what reals alone vary by.",
        choices=("logistic", "matched-filter"),
    )
    background_draws: int = option(
        0,
        "levels:NAME, matched filter: further copies of the reals alone, framed anew, half of them written upon, for"
        " what reals vary by.",
        metavar="N", low=0, high=1000,
    )  # fmt: skip
    l2: float = option(
        3.0,
        "levels:NAME: half of it times the squared weights is added to the loss (logistic), it to the reals' variances"
        " (matched filter).",
        metavar="X", low=0, above=True, high=1e6,
    )  # fmt: skip
    precision: str = option(
        "fp32", "Number format of learning; verdicts are always fp32.", choices=("auto", "fp32", "bf16")
    )
    seed: int = option(
        0, "Everything random follows from it.  [default: 0; 42 with --folds]", metavar="N", low=0, high=2**31 - 1
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "augment", tuple(self.augment))  # JSON has lists
        check(self)
        if self.frozen_epochs > self.epochs:
            raise UserError(f"`frozen_epochs` {self.frozen_epochs:g}: more than all {self.epochs:g} `epochs`")
        if self.background_draws and self.probe_fit != "matched-filter":
            raise UserError(
                "`background_draws`: only a matched filter goes by what reals alone vary by; give `probe_fit`"
            )
        if self.augment:
            _ = self.augmentation

    @property
    def loss(self) -> VerdictLossConfig:
        from discriminator.verdict_loss import VerdictLossConfig

        return VerdictLossConfig(
            self.patch, self.consistency, self.consistency_kind, self.smoothing, balance=self.balance != "none"
        )

    @property
    def augmentation(self) -> Degradation:
        """What `augment` names, as a chain. UserError for an unknown step or a probability that is none."""
        from faces.degrade import STEPS, Degradation, Step

        known = [name for name in STEPS if name != "hflip"]  # `mirror` does that
        steps = []
        for word in self.augment:
            name, colon, share = word.partition(":")
            try:
                probability = float(share) if colon else AUGMENT
            except ValueError:
                probability = -1.0
            if name not in known:
                raise UserError(f"`augment` {word}: unknown; give some of {', '.join(known)}, with commas between")
            if not 0 < probability <= 1:
                raise UserError(f"`augment` {word}: what follows the colon is a probability above 0 and at most 1")
            steps.append(Step(name, probability))
        return Degradation("augment", tuple(steps))

    def to_dict(self) -> dict:
        """Plain JSON types; `from_dict` is its inverse."""
        return {**asdict(self), "augment": list(self.augment)}

    @classmethod
    def from_dict(cls, data: dict) -> Recipe:
        """UserError for what is no recipe of this version."""
        data = {RENAMED.get(name, name): value for name, value in data.items()}
        if unknown := sorted(set(data) - {f.name for f in fields(cls)}):
            raise UserError(f"unknown option {unknown[0]!r} of a training; it was begun by a newer version")
        return cls(**data)
