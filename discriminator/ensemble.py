"""Several detectors as one network: each member's calibrated log-odds of «fake», joined by one of four methods.

Every member keeps its own preprocessing and calibration and judges the same photo; only then are the answers joined:

- average: the mean of the members' log-odds (the mean of logits, as in the winning teams' detectors of the DFDC);
- majority: each member votes at its own threshold; what counts is the number of votes, and among photos with as many
  votes the mean log-odds. The joint score is above 0 exactly where more than half voted FAKE, or half of them did and
  the mean log-odds break the tie towards FAKE;
- weighted: a weighted mean, weights >= 0 with the sum 1 (`discriminator.ensemble_fit`);
- stacking: principal components of the log-odds into a support vector machine (Wolpert 1992, "Stacked generalization";
  Boser, Guyon & Vapnik 1992), stored as plain tensors and computed here: no pickle, no scikit-learn to judge a photo.

The joint score is calibrated afterwards like any network's logit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from common.errors import UserError
from discriminator.calibration import Calibration
from discriminator.network import Network, VerdictOut
from discriminator.views import Views, joined
from faces.preprocess import Preprocess

MOST_MEMBERS = 32
LIMIT = 36.0  # log-odds beyond it are 1 in float64 once they are a probability
MOST_VECTORS = 100_000


@dataclass(frozen=True)
class Member:
    """One member's place in the header: its network's architecture, preprocessing, calibration, name and SHA-256."""

    architecture: dict
    preprocess: Preprocess
    calibration: Calibration
    name: str = ""
    sha256: str = ""

    def to_dict(self) -> dict:
        return {**vars(self), "preprocess": self.preprocess.to_dict(), "calibration": self.calibration.to_dict()}

    @classmethod
    def from_dict(cls, data: dict) -> Member:
        """KeyError, ValueError or TypeError where something is missing or does not fit."""
        return cls(
            data["architecture"],
            Preprocess.from_dict(data["preprocess"]),
            Calibration.from_dict(data["calibration"]),
            str(data.get("name", "")),
            str(data.get("sha256", "")),
        )


@dataclass(frozen=True)
class EnsembleConfig:
    """method: of HEADS; sizes: «components» and «vectors» of a stack, 0 for the others."""

    members: tuple[Member, ...]
    method: str
    sizes: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if self.method not in HEADS:
            raise UserError(f"unknown method {self.method!r} of an ensemble; there are {', '.join(HEADS)}")
        if not 2 <= len(self.members) <= MOST_MEMBERS:
            raise UserError(f"an ensemble has 2 to {MOST_MEMBERS} members, not {len(self.members)}")
        components, vectors = self.sizes
        if not (0 <= components <= len(self.members) and 0 <= vectors <= MOST_VECTORS):
            raise UserError(f"a stack of {components} components and {vectors} vectors does not fit the members")

    @property
    def preprocess(self) -> Preprocess | Views:
        return joined([member.preprocess for member in self.members])[0]

    @property
    def resolution(self) -> int:
        return self.preprocess.resolution

    @property
    def img_channels(self) -> int:
        return self.preprocess.channels

    def to_dict(self) -> dict:
        return {
            "model": "ensemble",
            "method": self.method,
            "sizes": list(self.sizes),
            "members": [member.to_dict() for member in self.members],
        }

    @classmethod
    def from_dict(cls, data: dict) -> EnsembleConfig:
        if unknown := set(data) - {"model", "method", "sizes", "members"}:
            raise UserError(f"unknown option {', '.join(sorted(unknown))} of an ensemble")
        if len(data["members"]) > MOST_MEMBERS:
            raise UserError(f"an ensemble has at most {MOST_MEMBERS} members, not {len(data['members'])}")
        components, vectors = (int(size) for size in data["sizes"])
        return cls(tuple(Member.from_dict(m) for m in data["members"]), str(data["method"]), (components, vectors))


class Head(nn.Module):
    """What joins log-odds float64 [N, M] to a score float64 [N]. Its few numbers are buffers, which stay float64 and on
    the CPU wherever the members are: Apple's GPUs know no float64."""

    def __init__(self, **numbers: object) -> None:
        super().__init__()
        for name, number in numbers.items():
            self.register_buffer(name, torch.as_tensor(number, dtype=torch.float64, device="cpu"))

    def _apply(self, fn, recurse: bool = True):
        return self


class Average(Head):
    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return z.mean(1)


class Majority(Head):
    """thresholds [M]: of P(fake), each member's own. The score is the votes less half of the members, and a part in
    (-.5, .5) that grows with the mean log-odds m: m / (2 (1 + |m|)). Votes count first, and the sign is the vote's."""

    thresholds: torch.Tensor

    def votes(self, z: torch.Tensor) -> torch.Tensor:
        """bool [N, M]: who says FAKE."""
        return z.sigmoid() >= self.thresholds

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        mean = z.mean(1)
        return self.votes(z).double().sum(1) - len(self.thresholds) / 2 + mean / (2 * (1 + mean.abs()))


class Weighted(Head):
    """weights [M] >= 0 of sum 1."""

    weights: torch.Tensor

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return z @ self.weights


class Stack(Head):
    """Principal components, then the decision function of a support vector machine with a Gaussian kernel.

    x = ((z - mean) / scale) axes^T, with mean, scale [M] and axes [k, M] (whitening included);
    score = sum_i dual_i exp(-gamma |x - vectors_i|^2) + intercept, with vectors [V, k] and dual [V]."""

    mean: torch.Tensor
    scale: torch.Tensor
    axes: torch.Tensor
    vectors: torch.Tensor
    dual: torch.Tensor
    gamma: torch.Tensor
    intercept: torch.Tensor

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        x = ((z - self.mean) / self.scale) @ self.axes.T
        # |a|^2 - 2ab + |b|^2 would be quicker and lose digits where the two are close
        distance = (x[:, None, :] - self.vectors[None]).square().sum(2)
        return torch.exp(-self.gamma * distance) @ self.dual + self.intercept


HEADS: dict[str, type[Head]] = {"average": Average, "majority": Majority, "weighted": Weighted, "stacking": Stack}


class Ensemble(Network):
    """Members and what joins them. Photos as the ensemble's preprocessing makes them, float [N, C, R, R] in [-1, 1], or
    [N, L] where members look in different ways (`Views`) -> `VerdictOut`; the patch map is the mean of the members'
    maps as probabilities, of those whose map lies where the reported one does (the same crop)."""

    cfg: EnsembleConfig

    def __init__(self, cfg: EnsembleConfig, members: Sequence[Network], head: Head) -> None:
        super().__init__()
        self.cfg = cfg
        self.members, self.networks = nn.ModuleList(members), tuple(members)
        self.head = head
        self.preprocess, self.view_of = joined([member.preprocess for member in cfg.members])

    def inputs(self, img: torch.Tensor) -> list[torch.Tensor]:
        """What each member sees of the prepared photos."""
        views = self.preprocess.split(img) if isinstance(self.preprocess, Views) else [img]
        return [views[k] for k in self.view_of]

    def log_odds(self, logits: list[torch.Tensor]) -> torch.Tensor:
        """The members' raw logits [N] each as calibrated log-odds float64 [N, M]."""
        z = [
            logit.cpu().double() / member.calibration.temperature + member.calibration.bias
            for logit, member in zip(logits, self.cfg.members, strict=True)
        ]
        return torch.stack(z, 1).clamp(-LIMIT, LIMIT)

    def verdict(self, img: torch.Tensor) -> VerdictOut:
        outs = [net.verdict(x) for net, x in zip(self.networks, self.inputs(img), strict=True)]
        score = self.head(self.log_odds([out.logit for out in outs])).float()
        return VerdictOut(score, self._map(outs))

    def _map(self, outs: list[VerdictOut]) -> torch.Tensor | None:
        maps = [
            out.patch_logits.float().sigmoid()
            for out, member in zip(outs, self.cfg.members, strict=True)
            if out.patch_logits is not None and member.preprocess.crop == self.preprocess.crop
        ]
        if not maps:
            return None
        mean = mean_map(maps).clamp(1e-6, 1 - 1e-6)
        return torch.log(mean / (1 - mean))  # exported, torch.logit would take the name of the network's output


def mean_map(maps: list[torch.Tensor]) -> torch.Tensor:
    """The mean of maps [N, h, w] at the size of the largest."""
    size = max((m.shape[1:] for m in maps), key=lambda shape: shape[0] * shape[1])
    same = [
        m if m.shape[1:] == size else nn.functional.interpolate(m[:, None], size=tuple(size), mode="bilinear")[:, 0]
        for m in maps
    ]
    return torch.stack(same).mean(0)


def blank_head(cfg: EnsembleConfig) -> Head:
    """A head of the right shapes, to load tensors into."""
    count, (components, vectors) = len(cfg.members), cfg.sizes
    shapes: dict[str, dict[str, tuple[int, ...]]] = {
        "average": {}, "majority": {"thresholds": (count,)}, "weighted": {"weights": (count,)},
        "stacking": {
            "mean": (count,), "scale": (count,), "axes": (components, count), "vectors": (vectors, components),
            "dual": (vectors,), "gamma": (1,), "intercept": (1,),
        },
    }  # fmt: skip
    return HEADS[cfg.method](**{name: np.zeros(shape) for name, shape in shapes[cfg.method].items()})


def built(values: dict, member: Callable[[int, dict], Network]) -> Ensemble:
    """The ensemble of a header's `architecture`; `member(k, architecture)` makes its k-th network."""
    cfg = EnsembleConfig.from_dict(values)
    if any(not isinstance(m.architecture, dict) or m.architecture.get("model") == "ensemble" for m in cfg.members):
        raise UserError("an ensemble's members are single networks")
    nets = [member(k, m.architecture) for k, m in enumerate(cfg.members)]
    for m, net in zip(cfg.members, nets, strict=True):  # or a photo would be blown up to whatever a header says
        made, taken = (m.preprocess.resolution, m.preprocess.channels), (net.cfg.resolution, net.cfg.img_channels)
        if made != taken:
            raise UserError(f"a member takes {taken[1]} channels of {taken[0]} px and is given {made[1]} of {made[0]}")
    return Ensemble(cfg, nets, blank_head(cfg))
