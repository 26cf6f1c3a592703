"""A bank of twins: photos through many small decoders, one after the other; what is finished is not made again."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from common.clock import clock
from common.device import pick_device
from common.errors import UserError
from common.parallel import cores
from common.words import counted
from discriminator.artefact import ResidualBank
from discriminator.training.twins import Half, Pairs
from faces.audit.crossval import Auc, cross_validated_auc
from faces.audit.leak_features import look
from faces.dataset import to_float
from faces.layout import Reading
from faces.patches import Patches
from faces.preprocess import Preprocess
from faces.scan import scan
from faces.source import FaceSource, open_source
from faces.twin_bank import (
    MANIFEST,
    SHEET,
    DecoderRecord,
    Pair,
    TwinBank,
    decoder_name,
    read_decoder,
    read_facts,
    write_decoder,
    write_facts,
    write_manifest,
)
from synth.grid import labelled_grid
from synth.network import SILENT, Watch
from synth.options import TwinOptions
from synth.twin_decoders import DecoderShape, TwinDecoder
from synth.twin_training import AROUND, SAMPLE, Length, Twins, teach
from synth.writer import own_folder, save_sheet
from training.data import open_splits
from training.lock import NAME as LOCK

ASIDE = 10  # every so many-th photo teaches no decoder: the gates look at crops of these
GATE_PAIRS = 400
WINDOWS = 64  # that are in memory at a time
SHARPNESS = (0.9, 1.1)
TOLD = {"sharpness": 0.60, "spectrum": 0.75, "colour": 0.60}  # AUC up to which a gate passes: see `docs/sampling.md`
SHOWN = 10  # pairs of a decoder on the sheet
UNIT = 100  # parts of a decoder on the progress bar


@dataclass(frozen=True)
class _Photos:
    """Decoded photos, and what of their files a training wants to know. paths, sizes (bytes), quality, subsampling: of
    each."""

    patches: Patches
    paths: list[str]
    sizes: list[int]
    quality: list[int | None]
    subsampling: list[str]
    facts: dict

    def split(self) -> tuple[np.ndarray, np.ndarray]:
        """Which teach, and which the gates look at."""
        order = np.random.default_rng([self.facts["seed"], ASIDE]).permutation(self.patches.count)
        aside = max(1, self.patches.count // ASIDE)
        return np.sort(order[aside:]), np.sort(order[:aside])

    def some(self, photos: np.ndarray, device: torch.device) -> Twins:
        return Twins(self.patches, photos, list(zip(self.quality, self.subsampling, strict=True)), device)

    def pairs(self, places: np.ndarray) -> list[Pair]:
        """What the manifest says of windows at `places`: their middles are kept."""
        return [
            Pair(self.paths[i], self.sizes[i], top + AROUND, left + AROUND, self.quality[i], self.subsampling[i])
            for i, top, left in places.tolist()
        ]


def make_bank(asked: TwinOptions, watch: Watch = SILENT) -> list[Path]:
    """Make what is missing of a bank; returns what is worth a look. UserError where the folder's bank is another."""
    torch.set_num_threads(asked.threads or cores())
    folder, device = Path(asked.outdir).expanduser(), pick_device(asked.device)
    source = _photos_of(asked)
    facts = {
        "side": asked.side, "seed": asked.seed, "per_decoder": asked.per_decoder, "photos": source.name,
        "fingerprint": source.fingerprint(), "validation_free": asked.validation_free,
        "minutes": None if asked.steps else asked.minutes, "steps": asked.steps,
    }  # fmt: skip
    with own_folder(folder):
        return _fill_bank(folder, source, facts, asked, device, watch)


def _fill_bank(
    folder: Path, source: FaceSource, facts: dict, asked: TwinOptions, device: torch.device, watch: Watch
) -> list[Path]:
    begun = _begun(folder, facts)
    photos = _decoded(source, asked, facts, watch)
    if not begun:  # only now: photos without a patch claim no folder
        write_facts(folder, facts)
    began = time.monotonic()
    todo = [k for k in range(asked.decoders) if read_decoder(_record(folder, k)) is None]
    if len(todo) < asked.decoders:
        watch.tell(f"{asked.decoders - len(todo)} of {asked.decoders} decoders are there already")
    for done, k in enumerate(todo):
        record = _decoder(folder, k, photos, asked, device, lambda share, word, done=done: watch.progress(
            int(UNIT * (done + min(share, 0.99))), UNIT * len(todo), word))  # fmt: skip
        watch.progress(UNIT * (done + 1), UNIT * len(todo), record.name)
        left = (time.monotonic() - began) / (done + 1) * (len(todo) - done - 1)
        watch.tell(record.say() + (f"; about {clock(left)} left" if left else ""))
    found = (read_decoder(path) for path in sorted(folder.glob("decoder-*.json")))
    records = [record for record in found if record is not None]
    write_manifest(folder, records, {one.number: photos.pairs(_places(photos, one.number, asked)) for one in records})
    return [_sheet(folder), folder / MANIFEST, folder]


def _record(folder: Path, number: int) -> Path:
    return folder / f"{decoder_name(number)}.json"


def _photos_of(asked: TwinOptions) -> FaceSource:
    """The photos that a training on the same source would learn from, by the very function that says so there."""
    reading = Reading(asked.labels)
    if asked.validation_free:
        source = open_source(asked.data, data_root=asked.data_root, reading=reading)
    else:
        splits = open_splits(asked.data, asked.data_root, subset=asked.subset, seed=asked.seed, reading=reading)
        source = splits.train
    source = source.select(label=0)
    if len(source) < 2:
        raise UserError(
            f"`data` {asked.data}: {counted(len(source), 'photo')} of the training split; twins need at least 2"
        )
    return source


def _begun(folder: Path, facts: dict) -> bool:
    """Whether the folder is this bank's already. UserError where it is another's."""
    before = read_facts(folder)
    if before is None:
        if any(path.name != LOCK for path in folder.iterdir()):
            raise UserError(f"`outdir` {folder}: holds something else; choose another folder")
        return False
    for name, value in facts.items():
        if before.get(name) != value:
            what = f"has {name} {before.get(name)}, asked is {value}"
            what = "is of other photos" if name == "fingerprint" else what
            raise UserError(f"`outdir` {folder}: this bank {what}; choose another folder, or ask for the same again")
    return True


def _decoded(source: FaceSource, asked: TwinOptions, facts: dict, watch: Watch) -> _Photos:
    width = _width(asked.side)
    watch.tell(f"reading {counted(len(source), 'photo')} of {source.name}")
    patches = Patches.build(source, Preprocess(width), workers=asked.workers)
    for name, reason in patches.skipped:
        watch.tell(f"left out {name}: {reason}")
    if patches.count < 2:
        raise UserError(f"`data` {asked.data}: {patches.count} photo of {width} pixels or more; twins need at least 2")
    kept = source.select(patches.kept)
    headers = scan(kept, workers=asked.workers, pixels=False)
    return _Photos(
        patches, [item.path for item in kept.items], [kept.size(i) for i in range(len(kept))],
        [h.quality for h in headers], [h.subsampling or "" for h in headers], facts,
    )  # fmt: skip


def _width(side: int) -> int:
    """Of the windows that go through a decoder: room on all sides, and a multiple of 8."""
    return -(-(side + 2 * AROUND) // 8) * 8


def _places(photos: _Photos, number: int, asked: TwinOptions) -> np.ndarray:
    everything = photos.some(np.arange(photos.patches.count), torch.device("cpu"))
    return everything.places((asked.seed, number, SAMPLE), asked.per_decoder, _width(asked.side))


def _decoder(
    folder: Path, number: int, photos: _Photos, asked: TwinOptions, device: torch.device, told
) -> DecoderRecord:
    """Teach one, measure it, make its pairs and write them."""
    teaching, aside = photos.split()
    shape = DecoderShape.drawn(asked.seed, number)
    length = Length(asked.minutes, asked.steps)
    taught = teach(shape, photos.some(teaching, device), (asked.seed, number), length, told)
    through = _Through(taught.decoder, asked.side, asked.seed, number)
    unseen = photos.some(aside, device)
    looked_at = min(GATE_PAIRS, asked.per_decoder)
    places = unseen.places((asked.seed, number, ASIDE), looked_at, through.width)
    shown = as_shown(*through.pairs(unseen, places), photos.pairs(places))
    measured, gates = measure(*shown, places[:, 0])
    measured["l1"] = round(taught.l1, 5)
    places = _places(photos, number, asked)
    made = through.pairs(unseen, places)
    record = DecoderRecord(
        number, shape.to_dict(), taught.steps, measured, gates, complaints(measured, gates), len(places)
    )
    write_decoder(folder, record, *made)
    return record


@dataclass(frozen=True)
class _Through:
    """The way of windows through a finished decoder."""

    decoder: TwinDecoder
    side: int
    seed: int
    number: int

    @property
    def width(self) -> int:
        return _width(self.side)

    def pairs(self, twins: Twins, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [n, 3, side, side] twice: photos and their twins."""
        photos, made = [], []
        for first in range(0, len(places), WINDOWS):
            windows = twins.cut(places[first : first + WINDOWS], self.width)
            seed = int(np.random.SeedSequence([self.seed, self.number, SAMPLE, first]).generate_state(1)[0])
            through = twins.of(self.decoder, windows, AROUND, seed)
            made.append(through[:, :, : self.side, : self.side])
            inner = windows[:, :, AROUND:-AROUND, AROUND:-AROUND]
            photos.append(inner[:, :, : self.side, : self.side])
        return np.concatenate(photos), np.concatenate(made)


# ---- gates ---------------------------------------------------------------------------------------------------------


def as_shown(photos: np.ndarray, twins: np.ndarray, places: list[Pair]) -> tuple[np.ndarray, np.ndarray]:
    """Both as a training meets them: twins saved as their photos' files were. uint8 [n, 3, s, s], like the result."""
    both = np.stack([photos, twins], axis=1).transpose(0, 1, 3, 4, 2)
    pairs = Pairs([both], np.array([len(both)]), places, 0.0)
    halves = (np.stack([Half(pairs, twin).photo(i) for i in range(len(both))]) for twin in (False, True))
    photos, twins = (np.ascontiguousarray(half.transpose(0, 3, 1, 2)) for half in halves)
    return photos, twins


def measure(photos: np.ndarray, twins: np.ndarray, groups: np.ndarray) -> tuple[dict, dict]:
    """(measured without l1, gates) of `DecoderRecord`, of uint8 [n, 3, s, s]; groups: the photo of each pair."""
    bank = ResidualBank("highpass", 3)

    def energy(images: np.ndarray) -> float:
        parts = np.array_split(images, max(1, len(images) // WINDOWS))
        return float(np.mean([bank(to_float(torch.from_numpy(part))).abs().mean().item() for part in parts]))

    apart = np.abs(photos.astype(np.int16) - twins).mean(axis=(0, 1))
    inside = apart[AROUND // 2 : -AROUND // 2, AROUND // 2 : -AROUND // 2]
    edge = np.concatenate([apart[:2].ravel(), apart[-2:].ravel(), apart[:, :2].ravel(), apart[:, -2:].ravel()])
    measured = {
        "sharpness": round(energy(twins) / max(energy(photos), 1e-6), 4),
        "border": round(float(edge.mean() / max(inside.mean(), 1e-6)), 4),
    }
    seen = [look(np.ascontiguousarray(image.transpose(1, 2, 0))) for image in (*photos, *twins)]
    labels, both = np.repeat([0, 1], len(photos)), np.tile(groups, 2)
    features = {
        "sharpness": np.log1p([[t.sharpness, t.contrast] for t in seen]),
        "spectrum": np.stack([t.spectrum for t in seen]),
        "colour": np.stack([[*t.colour, np.ptp(t.colour)] for t in seen]),
    }
    return measured, {name: _gate(cross_validated_auc(f, labels, both)) for name, f in features.items()}


def _gate(found: Auc) -> dict:
    numbers = {"auc": found.auc, "low": found.low, "high": found.high}
    return {name: round(value, 4) if np.isfinite(value) else 0.5 for name, value in numbers.items()} | {"by": found.by}


def complaints(measured: dict, gates: dict) -> list[str]:
    """What keeps a decoder out of a training, in words."""
    low, high = SHARPNESS
    found = []
    if not low <= measured["sharpness"] <= high:
        found.append(f"its twins have {measured['sharpness']:.2f} of the photos' high frequencies ({low} to {high})")
    found += [
        f"{name} alone tells them from photos (AUC {gate['auc']:.2f}, at most {TOLD[name]})"
        for name, gate in gates.items()
        if gate["auc"] > TOLD[name]
    ]
    return found


def _sheet(folder: Path) -> Path:
    """Some photos of every decoder above their twins."""
    bank = TwinBank.open(folder)
    rows, names = [], []
    for one in bank.decoders:
        pixels = bank.pixels(one)
        some = np.linspace(0, len(pixels) - 1, min(SHOWN, len(pixels))).astype(int)
        for k, what in enumerate(("photo", "twin")):
            cells = [pixels[i, k].transpose(2, 0, 1) for i in some]
            rows.append(cells + [None] * (SHOWN - len(cells)))
            names.append(f"{one.number} {what}" + (f" ({one.shape['kind']}, {one.verdict})" if k else ""))
    return save_sheet(folder / SHEET, labelled_grid(rows, names, [""] * SHOWN))
