"""What a set of faces looks like in numbers: counts, formats, brightness, mean images, spectra, duplicates.

    survey = survey_source(open_source("my_faces/"))

Facts (`faces.scan`) come from every file; pixels from at most `limit` images, drawn at random. `reports.data` makes
a page of it, `Survey.to_dict` JSON.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import scipy.fft

from common.errors import BadImage, UserError
from common.parallel import Progress, Stages, stage
from common.words import none_of
from faces.audit.leak_features import BANDS, HIGHEST, Traces, look, over_images
from faces.prepare_options import Inspection
from faces.preprocess import Preprocess
from faces.scan import Facts, scan
from faces.similar import exact_groups, members, near_groups
from faces.source import FaceSource

SIDE = 128  # of the mean image and of the picture of the spectrum
LEVELS = 64  # bins of a histogram
SHEET = 32  # samples shown of each class
SHEET_SIDE = 96
PAIRS = 12  # duplicates shown
NAMES = {0: "real", 1: "fake", -1: "unlabelled"}


@dataclass
class ClassSurvey:
    """The images of one class. Histograms count pixels in 64 equal bins of 0..255: `histograms` int64 [3, 64] for R, G,
    B. `mean_image` float64 [128, 128, 3], 0..255; `spectrum_image` float64 [128, 128], mean log power with frequency 0
    in the middle; `spectrum` float64 [n, 64], log power by ring; `brightness`, `contrast`, `sharpness` float64 [n];
    `samples` uint8 [m, 96, 96, 3]."""

    name: str
    count: int = 0
    looked_at: int = 0
    histograms: np.ndarray = field(default_factory=lambda: np.zeros((3, LEVELS), np.int64))
    mean_image: np.ndarray = field(default_factory=lambda: np.zeros((SIDE, SIDE, 3)))
    spectrum_image: np.ndarray = field(default_factory=lambda: np.zeros((SIDE, SIDE)))
    spectrum: np.ndarray = field(default_factory=lambda: np.zeros((0, BANDS)))
    colour: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    brightness: np.ndarray = field(default_factory=lambda: np.zeros(0))
    contrast: np.ndarray = field(default_factory=lambda: np.zeros(0))
    sharpness: np.ndarray = field(default_factory=lambda: np.zeros(0))
    samples: np.ndarray = field(default_factory=lambda: np.zeros((0, SHEET_SIDE, SHEET_SIDE, 3), np.uint8))


@dataclass
class Survey:
    """Everything `inspect` shows. `groups`: one `ClassSurvey` per label that occurs; `bad`: (path, reason) of
    undecodable files; `exact`, `near`: lists of paths that are copies, or nearly, of each other (`near` without the
    copies)."""

    name: str
    facts: list[Facts]
    groups: list[ClassSurvey]
    bad: list[tuple[str, str]]
    exact: list[list[str]]
    near: list[list[str]]
    near_pictures: list[tuple[str, str, np.ndarray, np.ndarray]]
    notes: list[str]

    def table(self, field_name: str) -> dict[str, dict[str, int]]:
        """Counts of a field of Facts by class: {"JPEG": {"real": 3, "fake": 2}, …}, the commonest first."""
        return counted([(_value(f, field_name), _name(f)) for f in self.facts if f.error is None])

    def splits(self) -> dict[str, dict[str, int]]:
        """Counts by split and class, of all files; images of no split are under "all"."""
        return counted([(f.split or "all", _name(f)) for f in self.facts])

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "source": self.name, "images": len(self.facts), "splits": self.splits(),
            "formats": self.table("format"), "sizes": self.table("size"), "qualities": self.table("quality"),
            "tables": self.table("tables"), "subsampling": self.table("subsampling"), "modes": self.table("mode"),
            "classes": {g.name: _numbers(g) for g in self.groups}, "unreadable": [list(pair) for pair in self.bad],
            "copies": self.exact, "near_duplicates": self.near, "notes": self.notes,
        }  # fmt: skip


def _numbers(group: ClassSurvey) -> dict[str, Any]:
    spread = {}
    for name in ("brightness", "contrast", "sharpness"):
        values = getattr(group, name)
        if len(values):
            low, middle, high = (round(float(q), 3) for q in np.quantile(values, (0.05, 0.5, 0.95)))
            spread[name] = {"mean": round(float(values.mean()), 3), "p5": low, "median": middle, "p95": high}
    seen = len(group.spectrum) > 0
    return {
        "count": group.count, "looked_at": group.looked_at, **spread,
        "mean_colour": [round(float(v), 3) for v in group.colour.mean(0)] if seen else None,
        "histograms": group.histograms.tolist(),
        "spectrum": [round(float(v), 4) for v in group.spectrum.mean(0)] if seen else None,
    }  # fmt: skip


def counted(pairs: Sequence[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """[(value, class), …] -> {value: {class: count}}, the commonest value first."""
    total = Counter(value for value, _ in pairs)
    both = Counter(pairs)
    names = sorted({name for _, name in pairs}, key=lambda name: list(NAMES.values()).index(name))
    return {
        value: {name: both[value, name] for name in names}
        for value, _ in sorted(total.items(), key=lambda p: (-p[1], p[0]))
    }


def _name(f: Facts) -> str:
    return NAMES[-1 if f.label is None else f.label]


def _value(f: Facts, name: str) -> str:
    value = f"{f.width}x{f.height}" if name == "size" else getattr(f, name)
    return "none" if value in (None, "") else str(value)


def ring_frequencies() -> np.ndarray:
    """float64 [64]: the middle of each ring of `ClassSurvey.spectrum`, cycles per pixel."""
    return (np.arange(BANDS) + 0.5) / BANDS * HIGHEST


def survey_source(
    source: FaceSource,
    *,
    limit: int = Inspection.limit,
    seed: int = 0,
    workers: int | None = None,
    progress: Stages | None = None,
) -> Survey:
    """Scan all files of `source`, look at the pixels of at most `limit`; progress(stage, done, total)."""
    facts = scan(source, workers=workers, progress=stage(progress, "reading"))
    labels = np.array([-1 if f.label is None else f.label for f in facts], np.int64)
    usable = np.array([f.error is None for f in facts], bool)
    if not usable.any():
        first = f"{facts[0].path}: {facts[0].error}" if facts else ""
        raise UserError(none_of(len(facts), "image", "can be used", first, source.name))
    exact, near = _duplicates(facts, usable)
    chosen = _chosen(labels, usable, limit, seed)
    groups = _look_at(source, chosen, labels, workers, stage(progress, "looking"))
    for group in groups:
        group.count = sum(_name(f) == group.name for f in facts)
    notes = list(source.notes)
    if len(chosen) < usable.sum():
        notes.append(
            f"pixels of {len(chosen)} of {int(usable.sum())} images, drawn at random, were looked at (`limit`)"
        )
    return Survey(
        source.name, facts, groups,
        bad=[(f.path, f.error) for f in facts if f.error is not None],
        exact=[[facts[i].path for i in group] for group in exact],
        near=[[facts[i].path for i in group] for group in near],
        near_pictures=[p for group in (exact[: PAIRS // 2] + near)[:PAIRS] if (p := _picture(source, group))],
        notes=notes,
    )  # fmt: skip


def _duplicates(facts: list[Facts], usable: np.ndarray) -> tuple[list[list[int]], list[list[int]]]:
    """Groups of more than one image: copies; and near duplicates, in which each copy is named once."""
    index = np.flatnonzero(usable)
    copies = exact_groups([facts[i].sha256 for i in index])
    first = np.unique(copies, return_index=True)[1]
    hashes = np.array([facts[i].phash or 0 for i in index], np.uint64)
    both = (copies, index), (near_groups(hashes[first]), index[first])
    exact, near = ([at[run].tolist() for run in members(groups) if len(run) > 1] for groups, at in both)
    return exact, near


def _chosen(labels: np.ndarray, usable: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """At most `limit` usable images, evenly from the classes as far as they have them."""
    rng = np.random.default_rng([seed, 0x5012E])
    shuffled = {label: rng.permutation(np.flatnonzero(usable & (labels == label))) for label in np.unique(labels)}
    left, parts = limit, []
    for turn, label in enumerate(sorted(shuffled, key=lambda label: len(shuffled[label]))):  # the rarest first
        take = shuffled[label][: left // (len(shuffled) - turn)]
        parts.append(take)
        left -= len(take)
    return np.sort(np.concatenate(parts))


def _look_at(
    source: FaceSource, chosen: np.ndarray, labels: np.ndarray, workers: int | None,
    progress: Progress | None,
) -> list[ClassSurvey]:  # fmt: skip
    groups = {int(label): ClassSurvey(NAMES[int(label)]) for label in np.unique(labels)}
    numbers: dict[int, list[Traces]] = {label: [] for label in groups}
    shown = _to_show(chosen, labels)

    def one(at: int, image: np.ndarray) -> tuple[int, Traces, tuple]:
        return chosen[at], look(image), _small(image, chosen[at] in shown)

    for answer in over_images(source.select(chosen), one, workers, progress):
        if answer is None:
            continue
        i, found, (histograms, picture, spectrum, sample) = answer
        group = groups[int(labels[i])]
        group.looked_at += 1
        group.histograms += histograms
        group.mean_image += picture
        group.spectrum_image += spectrum
        if sample is not None:
            group.samples = np.concatenate([group.samples, sample[None]])
        numbers[int(labels[i])].append(found)
    for label, group in groups.items():
        group.mean_image /= max(group.looked_at, 1)
        group.spectrum_image /= max(group.looked_at, 1)
        for name in ("spectrum", "colour", "brightness", "contrast", "sharpness") if numbers[label] else ():
            setattr(group, name, np.array([getattr(each, name) for each in numbers[label]], np.float64))
    return [groups[label] for label in sorted(groups, key=lambda label: label % 3)]  # real, fake, unlabelled


def _to_show(chosen: np.ndarray, labels: np.ndarray) -> set[int]:
    """Evenly spread over the source, so that every folder is seen."""
    shown: set[int] = set()
    for label in np.unique(labels):
        mine = chosen[labels[chosen] == label]
        shown |= set(mine[np.arange(min(SHEET, len(mine))) * len(mine) // max(min(SHEET, len(mine)), 1)].tolist())
    return shown


def _small(image: np.ndarray, shown: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """(histograms, image at 128 x 128, log power 128 x 128, sample at 96 x 96 or None)."""
    histograms = np.stack([cv2.calcHist([image], [c], None, [LEVELS], [0, 256]).ravel() for c in range(3)])
    picture = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float64)
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    sample = Preprocess(resolution=SHEET_SIDE).uint8(image) if shown else None
    return histograms.astype(np.int64), picture, _spectrum_picture(luma), sample


def _spectrum_picture(luma: np.ndarray) -> np.ndarray:
    """Log power of the middle 256 x 256 pixels (smaller images: of all, bordered with nothing), at 128 x 128."""
    height, width = (min(side, 2 * SIDE) for side in luma.shape)
    top, left = (luma.shape[0] - height) // 2, (luma.shape[1] - width) // 2
    tile = luma[top : top + height, left : left + width]
    window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1]).astype(np.float32)
    power = np.abs(scipy.fft.fft2((tile - tile.mean()) * window, s=(2 * SIDE, 2 * SIDE))) ** 2 / (window**2).sum()
    log = np.log(scipy.fft.fftshift(power) + 1e-3)
    return log.reshape(SIDE, 2, SIDE, 2).mean((1, 3), dtype=np.float64)


def _picture(source: FaceSource, group: list[int]) -> tuple[str, str, np.ndarray, np.ndarray] | None:
    """Names and small pictures of the first two of a group."""
    try:
        sides = [Preprocess(resolution=SHEET_SIDE).uint8(source.image(i)) for i in group[:2]]
    except BadImage:
        return None
    return source.items[group[0]].path, source.items[group[1]].path, sides[0], sides[1]
