"""The images of a run: which of a source's images train, which calibrate and which test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from common.errors import BadImage, UserError
from common.words import are, counted, none_of
from faces.audit.leak_gates import header_warning
from faces.classes import ClassLabels
from faces.dataset import MIN_SIDE, DecodedFaces
from faces.layout import AS_NAMED, Reading
from faces.patches import Patches
from faces.preprocess import Preprocess
from faces.source import FaceSource, open_source

Decoded = TypeVar("Decoded", DecodedFaces, Patches)

HOLD_OUT = 0.1  # share of a set without splits that is kept for calibration
MAX_HELD_OUT = 1000
FEW = 500  # real training images; the ADA paper trains on 1000 and more
PROBED = 9  # images whose size tells a set's own resolution
# Both trainers began with draws of their own, and a run that goes on must meet the images it began with: each keeps its
# number, and the detector's draws even where nothing is left out.
GAME_DRAW, DETECTOR_DRAW = 0xC0, 0xA1
MEASURED_PATCHES = 5000  # fixed ones of the training photos, for FID; one of each photo where there are more
MAX_VALID = 2000  # images of each class where nobody says; more buys no better threshold for a run's own detector


@dataclass
class RunData:
    """Packed images of a run; `valid` calibrates the verdict and `test` only measures it (None: the set has none)."""

    train: DecodedFaces | Patches
    valid: DecodedFaces
    test: DecodedFaces | None
    facts: dict
    classes: tuple[np.ndarray, int] | None = None  # of each training image, and how many there are


@dataclass
class Splits:
    """Sources before decoding."""

    train: FaceSource
    valid: FaceSource
    test: FaceSource | None
    held_out: bool
    source: FaceSource

    def held(self) -> list[tuple[str, FaceSource]]:
        """The parts that don't train and hold something, with their names."""
        parts = (("valid", self.valid), ("test", self.test))
        return [(part, source) for part, source in parts if source is not None and len(source)]


def open_splits(
    data: str,
    data_root: str | None,
    *,
    subset: int | None,
    seed: int,
    fetch: bool = True,
    reading: Reading = AS_NAMED,
    most_valid: int = MAX_VALID,
) -> Splits:
    """The splits a set defines; a set without any has a tenth of each class (at most 1000) held out for calibration.

    `subset` keeps that many random training images of each class, `most_valid` at most so many validation images; an
    absent named set is downloaded if `fetch`.
    UserError if no real image is left to train on.
    """
    source = open_source(data, data_root=data_root, allow_fetch=fetch, reading=reading)

    def part(name: str) -> FaceSource | None:
        return source.select(split=name) if name in source.splits else None

    train, valid, test = part("train"), part("valid"), part("test")
    if train is None and source.splits:
        raise UserError(
            f"{data}: has no images to train on: all are in {' and '.join(sorted(source.splits))}"
            + "".join(f" ({note})" for note in source.notes if "in no split" in note)
            + "; put those for training into a folder train/, or give that folder alone"
        )
    if train is None:
        train = source
    held_out = valid is None
    if valid is None:
        train, valid = _hold_out(train, seed)
    if subset is not None:
        train = at_most(train, subset, seed)
    valid = at_most(valid, most_valid, seed)
    test = at_most(test, MAX_VALID, seed) if test is not None else None
    reals = int((train.labels == 0).sum())
    if reals == 0 and len(train):
        raise UserError(
            f"{data}: its images count as fakes, for the folder is called so, and there are no real ones to train on;"
            " give the folder above it, or say `labels` real=NAME with the folder's name"
            + "".join(f"; {note}" for note in source.notes if "left out" in note)
        )
    if reals < 2:
        raise UserError(f"{data}: {counted(reals, 'real training image')}; training needs at least 2, better thousands")
    return Splits(train, valid, test, held_out, source)


def _hold_out(source: FaceSource, seed: int) -> tuple[FaceSource, FaceSource]:
    rng = np.random.default_rng([seed, 0x5EED])
    keep: list[int] = []
    out: list[int] = []
    for label in (0, 1):
        index = rng.permutation(np.flatnonzero(source.labels == label))
        n = min(max(1, round(HOLD_OUT * len(index))), MAX_HELD_OUT) if len(index) > 2 else 0
        out += index[:n].tolist()
        keep += index[n:].tolist()
    return source.select(sorted(keep)), source.select(sorted(out))


def at_most(source: FaceSource, count: int, seed: int, draw: int = GAME_DRAW) -> FaceSource:
    """At most `count` random images of each class, in the source's order. draw: tells one subset from another."""
    rng = np.random.default_rng([seed, draw])
    chosen: list[int] = []
    for label in (0, 1):
        index = np.flatnonzero(source.labels == label)
        if len(index) > count or draw == DETECTOR_DRAW:
            index = rng.permutation(index)[:count]
        chosen += index.tolist()
    return source.select(sorted(chosen)) if len(chosen) < len(source) else source


def native_resolution(source: FaceSource) -> int:
    """The largest power of two that fits the shorter side of the middling one of some readable images."""
    sides: list[int] = []
    bad: list[BadImage] = []
    count = len(source)
    for i in range(0, count, max(1, count // PROBED)):
        try:
            sides.append(min(source.decoded(i, min_side=MIN_SIDE).pixels.shape[:2]))
        except BadImage as e:
            bad.append(e)
        if len(sides) >= PROBED:
            break
    if not sides:
        raise UserError(none_of(len(bad), "image", "can be used", str(bad[0]), source.name))
    side = sorted(sides)[len(sides) // 2]
    return max(8, min(2048, 1 << (side.bit_length() - 1)))


@dataclass(frozen=True)
class Decoding:
    """How the images of a run are decoded. mirror, mirror_y: of training images. progress(part, done, total)."""

    mirror: bool = False
    mirror_y: bool = False
    workers: int = 1
    cache_dir: Path | None = None
    progress: Callable[[str, int, int], None] | None = None

    def build(self, kind: type[Decoded], part: str, source: FaceSource, pre: Preprocess) -> Decoded:
        trains = part == "train"
        told = partial(self.progress, part) if self.progress else None
        return kind.build(
            source, pre, mirror=self.mirror and trains, mirror_y=self.mirror_y and trains,
            workers=self.workers, cache_dir=self.cache_dir, progress=told,
        )  # fmt: skip


def decode_all(splits: Splits, pre: Preprocess, how: Decoding, classes: ClassLabels | None = None) -> RunData:
    """Decode every image once, preprocessed by `pre`; unreadable ones are left out, counted and named in the facts."""
    train = how.build(DecodedFaces, "train", splits.train, pre)
    held = {part: how.build(DecodedFaces, part, source, pre) for part, source in splits.held()}
    return _run_data(splits, pre, train, held, classes)


def cut_all(splits: Splits, pre: Preprocess, how: Decoding, classes: ClassLabels | None = None) -> RunData:
    """As `decode_all`, of patches of `pre.resolution` pixels. `train` holds whole photos and cuts them anew each time;
    `valid` and `test` are fixed patches of theirs, equally many of each photo."""
    train = how.build(Patches, "train", splits.train, pre)
    photos, held, smaller = {"train": _count(train)}, {}, train.small
    for part, source in splits.held():
        whole = how.build(Patches, part, source, pre)
        photos[part], held[part] = _count(whole), whole.frozen(MAX_VALID)
        smaller += whole.small
    data = _run_data(splits, pre, train, held, classes)
    data.facts["patches"] = {
        "size": pre.resolution,
        "photos": photos,
        "smaller": smaller,
        "bytes": train.pixels.nbytes,
        "folder": train.folder,
        "measured": len(train.fixed(MEASURED_PATCHES, 0)),
    }
    return data


def _run_data(
    splits: Splits,
    pre: Preprocess,
    train: DecodedFaces | Patches,
    held: Mapping[str, DecodedFaces],
    classes: ClassLabels | None,
) -> RunData:
    """What both ways of decoding have in common: counts, complaints, facts."""
    decoded: dict[str, DecodedFaces | Patches] = {"train": train, **held}
    counts = {part: _count(p) for part, p in decoded.items()}
    if counts.get("valid", {"real": 0})["real"] == 0:
        raise UserError(f"{splits.source.name}: no real image is left for calibration; give at least 3 real images")
    if counts["train"]["real"] < 2:
        raise UserError(f"{splits.source.name}: fewer than 2 readable real training images; give more")
    skipped = [list(map(str, s)) for p in decoded.values() for s in p.skipped]
    converted = sum((Counter(p.converted) for p in decoded.values()), Counter())
    what = "unreadable" if isinstance(train, DecodedFaces) else "too small or unreadable"
    facts = {
        "name": splits.source.name,
        "fingerprint": splits.source.fingerprint(),
        "preprocess": pre.to_dict(),
        "held_out": splits.held_out,
        "counts": counts,
        "skipped": skipped[:100],
        "num_skipped": len(skipped),
        "converted": dict(sorted(converted.items())),
        "enlarged": sum(p.enlarged for p in decoded.values()),
        "not_square": sum(p.not_square for p in decoded.values()),
        "notes": [
            *splits.source.notes,
            *(classes.notes if classes else ()),
            *filter(None, [header_warning(splits.train)]),
        ],
        # what the training images are, to the byte: statistics of them are cached under this name
        "train_stamp": splits.train.rendered_at(pre.resolution).content_stamp(),
        "summary": ", ".join(f"{part} {c['real']} real + {c['fake']} fake" for part, c in counts.items())
        + (f"; {len(skipped)} {what} left out" if skipped else ""),
    }
    data = RunData(train, held["valid"], held.get("test"), facts)
    if classes is not None:
        of = classes.of(splits.train)[data.train.kept]
        facts["classes"] = classes.names
        facts["class_counts"] = np.bincount(of[of >= 0], minlength=len(classes.names)).tolist()
        data.classes = of, len(classes.names)
    return data


def count_notes(facts: dict, mirrored: bool) -> list[str]:
    """A line where there are too few images to learn from. mirrored: whether `mirror` is on already."""
    reals = facts["counts"]["train"]["real"]
    if reals >= FEW or "patches" in facts:
        return []
    return [
        f"few         {reals} training images{' and their mirror images' if mirrored else ''}: the discriminator soon"
        f" knows them by heart, the generator copies them; {'' if mirrored else '`mirror` doubles them, and '}ADA"
        " (`aug` ada) wants a thousand or more"
    ]


def patch_notes(facts: dict) -> list[str]:
    """What a run on patches is made of, in lines; none where it sees whole photos."""
    if (patches := facts.get("patches")) is None:
        return []
    side, photos = patches["size"], {part: sum(c.values()) for part, c in patches["photos"].items()}
    lines = [
        f"patches     {side} x {side} pixels, cut anew at every step from {photos['train']} whole photos, of which each"
        f" counts alike; the photos take {patches['bytes'] / 1e9:.2f} GB in {patches['folder']}",
        "patches     measured on fixed ones: "
        + ", ".join(f"{sum(facts['counts'][p].values())} of {n} {p} photos" for p, n in photos.items() if p != "train"),
    ]
    if n := patches["smaller"]:
        lines.append(f"patches     {counted(n, 'photo')} smaller than {side} pixels, left out")
    return lines


def size_notes(facts: dict, crop: str) -> list[str]:
    """Lines about images that the network's square changes more than by shrinking them."""
    pre, total = facts["preprocess"], sum(sum(c.values()) for c in facts["counts"].values())
    how = {
        "center": "only the middle of their longer side is seen (`crop` pad shows all of it)",
        "pad": "they got bands of grey, which the generator will draw, too (`crop` center cuts them off)",
        "none": "they are squeezed into a square (`crop` center or pad keeps their shape)",
    }
    lines = []
    if n := facts["not_square"]:
        lines.append(f"shape       {n} of {counted(total, 'image')} {are(n)} not square: {how[crop]}")
    if n := facts["enlarged"]:
        lines.append(
            f"size        {n} of {counted(total, 'image')} {are(n)} smaller than {pre['resolution']} pixels and"
            f" {'was' if n == 1 else 'were'} enlarged, which the generator will copy as blur; a lower `resolution`"
            " avoids that"
        )
    return lines


def _count(decoded: DecodedFaces | Patches) -> dict[str, int]:
    labels = np.asarray(decoded.labels[: decoded.count])
    return {"real": int((labels == 0).sum()), "fake": int((labels == 1).sum())}
