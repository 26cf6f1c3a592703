"""The fits of a study: which images an arm shows in a seed, and the logistic regression on their features."""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from common import reading
from common.errors import UserError
from common.files import write_bytes
from common.words import counted
from discriminator.training.linear import Part, fit_logistic
from evaluation.study_features import Table
from evaluation.study_plan import Arm, Plan, Share

CHUNK = 512  # rows that are made one piece of a fit


@dataclass(frozen=True)
class Taught:
    """What a source offers. views: one table for each view, of the same images; decoder: int [n], of each image."""

    views: list[Table]
    decoder: np.ndarray

    @property
    def kept(self) -> np.ndarray:
        return self.views[0].kept


@dataclass(frozen=True)
class Chosen:
    """Images of one source under one label. positions: int64 [n], in the source."""

    source: str
    label: int
    positions: np.ndarray


@dataclass(frozen=True)
class Probe:
    """A fit. centre, gain, weight float64 [F]; facts: iterations, loss, counts."""

    centre: torch.Tensor
    gain: torch.Tensor
    weight: torch.Tensor
    bias: float
    facts: dict

    def logits(self, table: Table) -> np.ndarray:
        """float64 [n] of every image of a table."""
        slope = self.gain * self.weight
        at = self.bias - float(self.centre @ slope)
        found = [
            part.values.double() @ (part.unit.double() * slope) + float(part.zero.double() @ slope)
            for part in table.parts
        ]
        return (torch.cat(found) + at).numpy()


def choose(arm: Arm, plan: Plan, seed: int, offered: Mapping[str, Taught]) -> list[Chosen]:
    """The images of an arm in a seed, as many of each source as its shares ask for; arms that share a source show the
    same images of it as far as both go. UserError where a source holds too few."""
    used: dict[str, int] = {}
    found = []
    for label, parts, number in ((1, arm.fakes, arm.number or plan.fakes), (0, arm.reals, plan.reals)):
        ends = [0, *(math.floor(number * end + 0.5) for end in np.cumsum([one.share for one in parts]).tolist())]
        for one, count in zip(parts, np.diff(ends).tolist()):
            there = int(offered[one.source].decoder.max(initial=0)) + 1
            if one.decoders > there:
                raise UserError(f"{one.source} has {there} decoders that passed their gates, {one.decoders} are needed")
            order = ordered(one, offered[one.source], seed)
            first = used.get(one.source, 0)
            if first + count > len(order):
                of = f" of its first {counted(one.decoders, 'decoder')}" if one.decoders else ""
                raise UserError(
                    f"{one.source} holds {counted(len(order), 'image')} that can be used"
                    f"{of}, {first + count} are needed"
                )
            used[one.source] = first + count
            found.append(Chosen(one.source, label, order[first : first + count]))
    return found


def ordered(share: Share, offered: Taught, seed: int) -> np.ndarray:
    """The positions of a source in the order of a seed; of a bank, decoder by decoder in turn."""
    rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(share.source.encode())]))
    positions = rng.permutation(offered.kept)
    decoder = offered.decoder[positions]
    if share.decoders:
        positions, decoder = positions[decoder < share.decoders], decoder[decoder < share.decoders]
    turn = np.empty(len(positions), np.int64)
    for one in np.unique(decoder):
        mine = np.flatnonzero(decoder == one)
        turn[mine] = np.arange(len(mine))
    return positions[np.lexsort((decoder, turn))]


def fit_arm(chosen: Sequence[Chosen], offered: Mapping[str, Taught], l2: float) -> Probe:
    """Half of the weight is the reals', half the fakes'; every view of a label counts alike."""
    parts, labels = [], []
    for one in chosen:
        for view in offered[one.source].views:
            for first in range(0, len(one.positions), CHUNK):
                rows = view.rows(one.positions[first : first + CHUNK])
                nothing, same = torch.zeros(rows.shape[1]), torch.ones(rows.shape[1])
                parts.append(Part(rows, same, nothing))
                labels.append(torch.full((len(rows),), float(one.label), dtype=torch.float64))
    label = torch.cat(labels)
    fakes = label.sum()
    weights = torch.where(label > 0, 0.5 / fakes, 0.5 / (len(label) - fakes))
    found = fit_logistic(parts, label, weights, l2)
    facts = {
        "loss": found.loss, "iterations": found.iterations, "converged": found.converged,
        "views": len(offered[chosen[0].source].views), "rows": len(label),
        "shown": [[one.source, one.label, len(one.positions)] for one in chosen],
    }  # fmt: skip
    return Probe(found.centre, found.gain, found.weight, found.bias, facts)


# ---- files


def fit_key(chosen: Sequence[Chosen], stamps: Mapping[str, str], features: str, l2: float) -> str:
    """Of all that a fit depends on."""
    what = [features, l2, [[one.source, stamps[one.source], one.label, one.positions.tolist()] for one in chosen]]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


def save_fit(path: Path, key: str, probe: Probe) -> None:
    tensors = {
        "centre": probe.centre,
        "gain": probe.gain,
        "weight": probe.weight,
        "bias": torch.tensor([probe.bias], dtype=torch.float64),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"key": key, "facts": json.dumps(probe.facts)}
    write_bytes(path, safetensors.torch.save({k: v.double() for k, v in tensors.items()}, header))


def load_fit(path: Path, key: str) -> Probe | None:
    """None where there is none, or it is another's."""
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, "pt") as file:
            header = file.metadata()
            found = {name: file.get_tensor(name) for name in ("centre", "gain", "weight", "bias")}
        if header["key"] != key:
            return None
        return Probe(
            found["centre"], found["gain"], found["weight"], float(found["bias"][0]), reading.json_of(header["facts"])
        )
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UserError(f"{path}: can't be read ({reason}); remove it, and it is made again") from None
