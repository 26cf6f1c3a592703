"""The images of a study: sources opened, and what the probe is shown of each image.

In training an image is a square of the pixels that the preprocessing makes, cut at a random place and then degraded;
a twin is such a square already. Measured is what `detect.py` would see of a file: the file degraded, then preprocessed,
then its middle.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from common.files import sha256_of
from discriminator.training.twins import save
from evaluation.study_plan import FAKE, Material, Plan
from faces.degrade import Degradation
from faces.layout import Reading
from faces.preprocess import Preprocess
from faces.source import FaceSource, open_source
from faces.twin_bank import MANIFEST, Pair, TwinBank

MIN_SIDE = 16  # pixels, as in discriminator.judge
PLACE = 0x51DE  # sets the places of squares apart from other random numbers


@dataclass(frozen=True)
class Opened:
    """Images of one material. read(i): uint8 [H, W, 3]; raises BadImage. cut: whether they are squares of the probe's
    side as they are, to which nothing is to be done. names: of each; decoder: int [n], the rank of a bank's decoder,
    else 0; stamp: of the content; notes: what is to be said of its files."""

    material: Material
    read: Callable[[int], np.ndarray]
    names: list[str]
    decoder: np.ndarray
    cut: bool
    stamp: str
    notes: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def name(self) -> str:
        return self.material.name


def open_material(material: Material, plan: Plan, data_root: str | None) -> Opened:
    """UserError where it is not there, or holds nothing of the label."""
    if material.bank:
        return _of_bank(material, plan, data_root)
    parts = [_source(material, expanded(spec, data_root), data_root) for spec in material.data]
    places = [(part, i) for part in parts for i in range(len(part))]
    if material.count is not None:
        places = [places[k] for k in _spread(len(places), material.count)]

    def read(k: int) -> np.ndarray:
        part, i = places[k]
        return part.decoded(i, min_side=MIN_SIDE).pixels

    names = [part.locate(i) for part, i in places]
    content = [part.content_stamp() for part in parts]
    stamp = _stamp(content, names, material.save)
    notes = [f"{material.name}: {note}" for part in parts for note in part.notes]
    return Opened(material, read, names, np.zeros(len(names), np.int64), False, stamp, notes)


def _source(material: Material, spec: str, data_root: str | None) -> FaceSource:
    """The images of one label, or all of a source of one label: what they are is said by the plan."""
    label = int(material.label == FAKE)
    source = open_source(
        spec, data_root=data_root, split=material.split, allow_fetch=False, reading=Reading(ask=False, otherwise=label)
    )
    if len(np.unique(source.labels)) == 2:
        source = source.select(label=label)
    if not len(source):
        raise UserError(f"{spec} holds no {material.label} images")
    return source


def _of_bank(material: Material, plan: Plan, data_root: str | None) -> Opened:
    """One half of the pairs of a bank's decoders that passed their gates, as many of each."""
    bank = TwinBank.open(expanded(material.bank, data_root))
    if bank.side != plan.probe.side:
        raise UserError(
            f"{bank.folder}: its twins have {bank.side} px, the study looks at squares of {plan.probe.side}: make a"
            f" bank with --side {plan.probe.side}, or set crop = {bank.side} in [probe]"
        )
    decoders = bank.decoders if material.failed else bank.chosen(None)
    if material.decoders > len(decoders):
        raise UserError(f"{bank.folder}: {len(decoders)} decoders are there, {material.decoders} are asked for")
    decoders = decoders[: material.decoders or None]
    pixels = [bank.pixels(one) for one in decoders]
    each = len(pixels[0]) if material.count is None else material.count // len(decoders)
    if not each:
        raise UserError(
            f"{bank.folder}: count = {material.count} leaves nothing for each of its {len(decoders)} decoders: give at"
            f" least {len(decoders)}, or fewer decoders"
        )
    places = [(rank, k) for rank, part in enumerate(pixels) for k in _spread(len(part), each)]
    twin, saved = material.half == "twin", material.half == "twin" or material.save

    def read(k: int) -> np.ndarray:
        rank, i = places[k]
        image = np.array(pixels[rank][i][int(twin)])
        return as_saved(image, bank.pairs[decoders[rank].number][i], plan.probe.saved) if saved else image

    names = [f"{decoders[rank].name}:{i}" for rank, i in places]
    stamp = _stamp([sha256_of(bank.folder / MANIFEST), *_sizes(bank, decoders)], names, [material.half, saved])
    return Opened(material, read, names, np.array([rank for rank, _ in places], np.int64), True, stamp)


def _sizes(bank: TwinBank, decoders: list) -> list:
    """Of the files of pixels: size and time of the last change."""
    stats = [(bank.folder / f"{one.name}.npy").stat() for one in decoders]
    return [[one.st_size, one.st_mtime_ns] for one in stats]


def as_saved(image: np.ndarray, pair: Pair, otherwise: int) -> np.ndarray:
    """uint8 [H, W, 3] as if cut out of a file saved as the photo of `pair` was, JPEG's blocks lying where they did; of
    a photo that was no JPEG, at quality `otherwise` (0: not at all)."""
    quality = pair.quality or otherwise
    if not quality:
        return image
    return save(image, quality, pair.subsampling, (pair.top, pair.left))


# ---- views ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Views:
    """What the probe is shown. seed: of places and degradations; save: see `Material`."""

    pre: Preprocess
    side: int
    seed: int

    def taught(self, opened: Opened, i: int, draw: int, degradation: Degradation) -> np.ndarray:
        """uint8 [side, side, 3]: image i in training, clean in draw 0, in the others degraded."""
        key = [self.seed, zlib.crc32(opened.name.encode()), i, draw]
        image = opened.read(i)
        if not opened.cut:
            image = self.pre.uint8(image, resampled=opened.material.save)
            room = image.shape[0] - self.side + 1
            rng = np.random.Generator(np.random.PCG64([*key, PLACE]))
            top, left = (int(room * rng.random()) for _ in range(2))
            image = image[top : top + self.side, left : left + self.side]
        if draw:
            rng = np.random.Generator(np.random.PCG64(key))
            image = degradation.apply(np.ascontiguousarray(image), rng)
        return np.ascontiguousarray(image)

    def measured(self, opened: Opened, i: int, condition: Degradation) -> np.ndarray:
        """uint8 [side, side, 3]: of image i under a condition."""
        key = [self.seed, zlib.crc32(condition.name.encode()), zlib.crc32(opened.names[i].encode("utf-8", "replace"))]
        photo = condition.apply(opened.read(i), np.random.Generator(np.random.PCG64(key)))
        if opened.cut:
            return np.ascontiguousarray(photo)
        image = self.pre.uint8(photo)
        at = (image.shape[0] - self.side) // 2
        return np.ascontiguousarray(image[at : at + self.side, at : at + self.side])


def expanded(spec: str, data_root: str | None) -> str:
    """With $NAMES of the environment; $FACES_DATA_ROOT is `data_root` where that is given."""
    known = {**os.environ, **({"FACES_DATA_ROOT": data_root} if data_root else {})}

    def value(match: re.Match) -> str:
        name = match[1] or match[2]
        if name not in known:
            raise UserError(f"{spec}: ${name} is not set in the environment; set it to the folder")
        return known[name]

    return os.path.expanduser(re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, spec))


def _spread(count: int, most: int) -> list[int]:
    most = min(most, count)
    return (np.arange(most, dtype=np.int64) * count // max(most, 1)).tolist()


def _stamp(*what: object) -> str:
    return hashlib.sha256(json.dumps(what).encode("utf-8", "backslashreplace")).hexdigest()
