"""What a generator's samples look like beside the training images nearest to them, and whether it copies."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np

from common.device import pick_device
from common.errors import UserError
from evaluation.listener import Listener
from evaluation.options import GeneratorOptions, NearestOptions
from evaluation.sides import (
    ListedReals,
    Measured,
    check_several,
    collected,
    features_folder,
    fetched,
    list_reals,
    look_over,
    open_measured,
    open_reals,
)
from faces.layout import Reading
from faces.source import open_source
from metrics.collect import Features
from metrics.copying import Neighbours, copying_z, nearest
from metrics.images import BLOCK, Images
from metrics.inception import InceptionFeatures
from metrics.sampling import Sampling
from metrics.stats import GaussianStats
from metrics.weights import find_weights
from training.processes import Processes

COPIES, AWAY = -3.0, 3.0  # Meehan et al.: standard scores that chance does not give
NEARER_THAN = 0.01  # this share of held-out photos is nearer still to the training set


@dataclass
class NearestResult:
    """z: `copying_z` of the samples against held-out photos, None without any. nearer: the share of samples that are
    nearer to a training image than all but a hundredth of the held-out photos are; a hundredth is what chance gives.
    rows: the samples nearest to the training set, each with its neighbours: (its number, image, [(name, distance,
    image)])."""

    settings: dict
    distances: dict[str, dict[str, float]]
    z: float | None = None
    nearer: float | None = None
    copies: int = 0
    notes: list[str] = field(default_factory=list)
    rows: list[tuple[str, np.ndarray, list[tuple[str, float, np.ndarray]]]] = field(default_factory=list)

    @property
    def says(self) -> str:
        """What the score means."""
        if self.z is None:
            return "no held-out photos: whether samples lie too near to the training images was not tested"
        if self.z < COPIES:
            return "the samples lie nearer to the training images than held-out photos do: it copies"
        if self.z > AWAY:
            return "the samples lie further from the training images than held-out photos do: no copying, underfitted"
        return "the samples lie as far from the training images as held-out photos do: no copying"

    def to_json(self) -> dict:
        shown = [
            {"sample": name, "neighbours": [{"image": image, "distance": d} for image, d, _ in near]}
            for name, _, near in self.rows
        ]
        return {
            "settings": self.settings, "distances": self.distances, "z": self.z, "nearer": self.nearer,
            "copies": self.copies, "says": self.says, "nearest": shown, "notes": self.notes,
        }  # fmt: skip


def evaluate_nearest(asked: NearestOptions, listener: Listener = Listener()) -> NearestResult:  # noqa: B008
    """Samples, or images, beside the training images nearest to them. UserError where a side can't be had."""
    options = _as_generator(asked)
    device = pick_device(asked.device)
    sampling = Sampling(asked.seed, asked.trunc, device=device)
    sides: list[Measured] = []
    try:
        if asked.inception_weights is not None:  # what is wrong is told before networks are opened, or fetched
            find_weights(asked.inception_weights)
        trained = list_reals(asked.data, options)
        held, notes = _held_out(asked, options)
        for one in (trained, held):
            if one is not None:
                check_several(one.where, len(one.source))
        fake = open_measured(options, sampling, device, listener)
        sides.append(fake)
        if isinstance(fake.content, GaussianStats):
            raise UserError(f"{asked.target}: statistics have no images to look at; give a network or images")
        check_several(fake.name, len(fake.content))
        sides += [open_reals(one, options, fake, listener) for one in (trained, held) if one is not None]
        folder, ranks = features_folder(options), Processes()
        weights = fetched(asked.inception_weights, sides, listener, ranks)
        inception = InceptionFeatures(weights, asked.dims).to(device)
        for side in sides:
            look_over(side, lambda: inception, folder, ranks)
        found = [collected(side, lambda: inception, folder, listener, ranks, keep=True) for side in sides]
        result = _result(asked, sides, found, inception)
        result.notes += [note for side in sides for note in side.notes] + notes
        return result
    finally:
        for side in sides:
            side.close()


def _as_generator(asked: NearestOptions) -> GeneratorOptions:
    names = {each.name for each in dataclasses.fields(GeneratorOptions)}
    same = {each.name: getattr(asked, each.name) for each in dataclasses.fields(asked) if each.name in names}
    return GeneratorOptions(**{**same, "json": None})


def _held_out(asked: NearestOptions, options: GeneratorOptions) -> tuple[ListedReals | None, list[str]]:
    """The photos that the generator never saw: as named, or the set's validation or test split; and notes of splits
    that are there and can't serve."""
    if asked.held_out is not None:
        other = dataclasses.replace(options, data=asked.held_out, split="all", num_real=None)
        try:
            return list_reals(asked.held_out, other), []
        except UserError as error:
            raise UserError(str(error).replace("`data`", "`held_out`", 1)) from None
    notes: list[str] = []
    if asked.split not in (None, "train"):
        return None, notes
    there = open_source(asked.data, data_root=options.data_root, reading=Reading(options.labels)).splits
    # without a training split all of the set counts as what was learnt from
    for split in (name for name in ("valid", "test") if name in there and "train" in there):
        try:
            return list_reals(asked.data, dataclasses.replace(options, split=split, num_real=None)), notes
        except UserError as error:
            notes.append(f"the {split} split can't serve as held-out photos: {error}")
    return None, notes


def _result(
    asked: NearestOptions, sides: list[Measured], found: list[Features], inception: InceptionFeatures
) -> NearestResult:
    fakes, trained = found[0].kept(), found[1].kept()
    near = nearest(fakes, trained, min(asked.neighbours, len(trained)))
    first = near.distance[:, 0]
    distances = {"samples": _quantiles(first)}
    result = NearestResult(_settings(asked, sides, found, inception), distances, copies=int((first == 0).sum()))
    if len(found) > 2:
        held = nearest(found[2].kept(), trained).distance[:, 0]
        distances["held-out photos"] = _quantiles(held)
        result.z = copying_z(first, held)
        result.nearer = float((first < np.quantile(held, NEARER_THAN)).mean())
        if same := int((held == 0).sum()):
            result.notes.append(f"{same} held-out photos are training images, too: the test is then too lenient")
    result.rows = _shown(asked, sides, found, near)
    return result


def _quantiles(distance: np.ndarray) -> dict[str, float]:
    shares = {"least": 0.0, "1 %": 0.01, "10 %": 0.1, "median": 0.5, "90 %": 0.9}
    return {name: float(np.quantile(distance, share)) for name, share in shares.items()}


def _settings(
    asked: NearestOptions, sides: list[Measured], found: list[Features], inception: InceptionFeatures
) -> dict:
    counts = {name: one.n for name, one in zip(("n_samples", "n_training", "n_held_out"), found)}
    held = sides[2].name if len(sides) > 2 else None
    return {
        "target": sides[0].name, "network_sha256": sides[0].sha256, "data": sides[1].name, "held_out": held, **counts,
        "psi": asked.trunc, "seed": asked.seed, **inception.describe(),
        "skipped": [list(pair) for one in found for pair in one.skipped],
    }  # fmt: skip


def _shown(
    asked: NearestOptions, sides: list[Measured], found: list[Features], near: Neighbours
) -> list[tuple[str, np.ndarray, list[tuple[str, float, np.ndarray]]]]:
    """The samples nearest to the training set, the nearest first, with what they are near to."""
    order = np.argsort(near.distance[:, 0], kind="stable")[: asked.shown]
    fakes = _pictures(sides[0], found[0], set(order.tolist()))
    trained = _pictures(sides[1], found[1], set(near.index[order].ravel().tolist()))
    rows = []
    for i in order.tolist():
        neighbours = [(*trained[j], d) for j, d in zip(near.index[i].tolist(), near.distance[i].tolist())]
        rows.append((fakes[i][0], fakes[i][1], [(name, d, image) for name, image, d in neighbours]))
    return rows


def _pictures(side: Measured, features: Features, wanted: set[int]) -> dict[int, tuple[str, np.ndarray]]:
    """(name, uint8 [C, H, W]) of the images whose vectors have these numbers: what was left out has none."""
    images: Images | GaussianStats = side.content
    assert not isinstance(images, GaussianStats)
    out: dict[int, tuple[str, np.ndarray]] = {}
    numbered = 0
    for number in range(-(-len(images) // BLOCK)):
        last = numbered + min(BLOCK, len(images) - number * BLOCK)
        if not features.skipped and not any(numbered <= i < last for i in wanted):
            numbered = last  # nothing of this block is wanted
            continue
        block = images.block(number)
        for name, image in zip(block.names, block.images, strict=True):
            if numbered in wanted:
                out[numbered] = name, image
            numbered += 1
    return out
