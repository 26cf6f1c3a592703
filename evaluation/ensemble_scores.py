"""The scores an ensemble is fitted, calibrated and tested on: each member's log-odds of the same images.

Never of images that a member was taught with: a validation split, the images a training held out for it, out-of-fold
scores, or a set that no member was taught with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from common import reading
from common.errors import UserError
from common.tables import read_rows
from common.words import counted, none_of
from discriminator.detector import Detector
from discriminator.ensemble_fit import exact_log_odds, log_odds
from discriminator.origins import lessons_of_all
from evaluation.listener import Listener
from evaluation.options import EnsembleOptions, ScoringOptions
from evaluation.scoring import Judged, LabelledImages, Scorer, chosen, open_labelled, score_all, spread
from faces.degrade import PRESETS, preset
from faces.layout import Reading
from faces.similar import in_order
from faces.splitting import deal
from metrics.scores import join_groups
from training.data import open_splits

FOLDS = 5
MOST = 2000  # validation images of a class
LEAST = 10  # of a class: two in each fold
TURN = ("train", "web", "hard")  # what an image's degraded view is, in turn, as where members are calibrated


@dataclass
class MemberScores:
    """z float64 [views, n, M]: calibrated log-odds, the first view clean. labels int [n]; groups object [n] or None;
    folds int [n]; paths [n]; said: what they are, in words; undecided bool [views, n, M]: where a member would not
    decide (`evaluation.scoring.Judged`), None for nowhere. sources int [n]: which `data` each is of, or None."""

    z: np.ndarray
    labels: np.ndarray
    groups: np.ndarray | None
    paths: list[str]
    said: str
    folds: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    notes: list[str] = field(default_factory=list)
    out_of_fold: bool = False
    undecided: np.ndarray | None = None
    sources: np.ndarray | None = None

    @property
    def origin(self) -> dict:
        """What a header says of a calibration on these."""
        real = int((self.labels == 0).sum())
        return {"calibrated_on": self.said, "validation_images": {"real": real, "fake": len(self.labels) - real}}


# ---- which images -------------------------------------------------------------------------------------------------


def open_all(options: ScoringOptions) -> list[LabelledImages]:
    """Every `data` with the images of all its splits."""
    return open_labelled(
        ScoringOptions(
            data=options.data, data_root=options.data_root, split="all", label=options.label, labels=options.labels
        )
    )


def fit_parts(
    options: ScoringOptions, members: Sequence[Detector], *, oof_paths: set[str] | None = None
) -> tuple[list[LabelledImages], list[LabelledImages]]:
    """(validation parts, test parts) of every `data`; with `oof_paths` only test parts, without those images."""
    fit: list[LabelledImages] = []
    test: list[LabelledImages] = []
    for part in open_all(options):
        splits = np.array([item.split or "" for item in part.source.items], dtype=object)
        held = splits == "test" if options.split not in ("test", "all") else np.zeros(len(part), bool)
        if oof_paths is not None:
            new = np.array([item.path not in oof_paths for item in part.source.items])
            rows = held if held.any() else new
            if torn := int((rows & ~new).sum()):
                raise UserError(f"`data` {part.spec}: {torn} of its test images are in the `oof` files; give others")
            _add(test, part, rows, options.limit, "test split" if held.any() else "not in the `oof` files")
            continue
        rows, what = _validation(options, part, splits, members)
        _add(fit, part, rows, min(options.limit or MOST, MOST), what)
        _add(test, part, held & ~rows, options.limit, "test split")
    if oof_paths is None and not fit:
        raise UserError(f"`data` {', '.join(options.data)}: has no images to fit and calibrate on; give other images")
    return fit, test


def _validation(
    options: ScoringOptions, part: LabelledImages, splits: np.ndarray, detectors: Sequence[Detector]
) -> tuple[np.ndarray, str]:
    """(bool [n], what these are)"""
    mark = part.source.fingerprint()
    seeds = {lesson.seed for lesson in lessons_of_all(m.meta for m in detectors) if lesson.fingerprint == mark}
    if options.split is not None:
        if options.split in ("train", "all") and seeds:
            raise UserError(
                f"`split` {options.split}: {part.spec} is what {_one_of(detectors)} was taught with, and its scores"
                " there prove nothing; leave it out, and the validation images are used"
            )
        rows = np.ones(len(part), bool) if options.split == "all" else splits == options.split
        if not rows.any():
            raise UserError(f"`split` {options.split}: {part.spec} has no such images")
        return rows, f"{options.split} split" if options.split != "all" else "all of it"
    if (splits == "valid").any():
        return splits == "valid", "validation split"
    if seeds:
        if len(seeds) > 1 or (seed := seeds.pop()) is None:
            why = (
                "the trainings held out different images of it (their seeds differ): there are none that none was"
                " taught with"
                if seeds
                else f"{_one_of(detectors)} was taught with it and does not tell which images were held out"
            )
            raise UserError(
                f"`data` {part.spec}: has no validation split, and {why}; split it with `prepare_data.py split`, or"
                " give other images"
            )
        reading = Reading(options.labels)
        again = open_splits(part.spec, options.data_root, subset=None, seed=seed, reading=reading)
        held = {item.path for item in again.valid.items}
        rows = np.array([item.path in held for item in part.source.items])
        return rows, "what was held out of training"
    if (splits == "train").any():
        raise UserError(
            f"`data` {part.spec}: has training images and no validation split; split it with `prepare_data.py split`,"
            " or say `split` test"
        )
    return np.ones(len(part), bool), "all of it"


def _one_of(detectors: Sequence[Detector]) -> str:
    return "the detector" if len(detectors) == 1 else "one of the detectors"


def _add(parts: list[LabelledImages], part: LabelledImages, rows: np.ndarray, limit: int | None, what: str) -> None:
    kept = [spread(np.flatnonzero(rows & (part.labels == label)), limit or len(part)) for label in (0, 1)]
    index = np.sort(np.concatenate(kept))
    if len(index):
        one = chosen(part, index)
        fewer = (
            [f"{len(index)} of {counted(int(rows.sum()), 'image')}, evenly spread"] if len(index) < rows.sum() else []
        )
        one.notes = [what, *fewer]
        parts.append(one)


# ---- their scores -------------------------------------------------------------------------------------------------


def score_parts(
    members: Sequence[Detector],
    parts: Sequence[LabelledImages],
    options: ScoringOptions,
    listener: Listener,
    *,
    degraded: bool,
    what: str,
) -> MemberScores:
    """Every member's log-odds of every image, clean and, if asked for, once degraded (by TURN, an image's place within
    its class deciding which). Images that can't be read are left out for all."""
    parts = rendered_alike(parts, members)
    total = sum(map(len, parts)) * len(members) * (2 if degraded else 1)
    bar = listener.bar(total=total, title=f"{what} scores", unit="img")
    scorers = [Scorer(member, options, advance=bar.update) for member in members]
    views = [[_together(score_all(scorers, part, PRESETS["none"])) for part in parts]]
    if degraded:
        views.append([_degraded(scorers, part) for part in parts])
    bar.close()
    p = np.stack([np.concatenate([one.score for one in view]) for view in views])
    undecided = np.stack([np.concatenate([one.undecided for one in view]) for view in views])
    skipped = {name: reason for scorer in scorers for name, reason in scorer.skipped.items()}
    labels = np.concatenate([part.labels for part in parts]).astype(int)
    good = np.isfinite(p).all(axis=(0, 2))
    if not good.any():
        name, reason = next(iter(skipped.items()))
        raise UserError(none_of(len(good), f"{what} image", "can be judged", f"{name}: {reason}"))
    groups = groups_of_parts(parts)
    paths = [part.source.locate(i) for part in parts for i in range(len(part))]
    sources = np.repeat(np.arange(len(parts)), [len(part) for part in parts])[good]
    said = "; ".join(f"{part.spec} ({', '.join(part.notes)})" for part in parts)
    if degraded:
        said += ", each image clean and once degraded (the training's usual chain, web, hard in turn)"
    notes = [f"{name} left out: {reason}" for name, reason in list(skipped.items())[:5]]
    if len(skipped) > 5:
        notes.append(f"and {len(skipped) - 5} more images that can't be read are left out")
    kept = [path for path, ok in zip(paths, good) if ok]
    groups = None if groups is None else groups[good]
    z = np.stack([exact_log_odds(p[:, good, k], m.calibration) for k, m in enumerate(members)], axis=2)
    return MemberScores(z, labels[good], groups, kept, said, notes=notes, undecided=undecided[:, good], sources=sources)


def groups_of_parts(parts: Sequence[LabelledImages]) -> np.ndarray | None:
    """object [n] over all parts (see `join_groups`)."""
    return join_groups([part.group for part in parts], [range(len(part)) for part in parts])


def tell_parts(
    listener: Listener,
    fit: Sequence[LabelledImages],
    test: Sequence[LabelledImages],
    done: str = "fitted and calibrated",
) -> None:
    """What is fitted and tested on. done: with the first of these."""
    for what, parts in ((done, fit), ("tested", test)):
        for part in parts:
            listener.tell(f"{what} on {part.describe()}")


def rendered_alike(parts: Sequence[LabelledImages], detectors: Sequence[Detector]) -> list[LabelledImages]:
    """A rendered set drawn once for all, large enough for each; photos are what they are."""
    side = max((d.preprocess.resolution for d in detectors), default=1)
    return [replace(part, source=part.source.rendered_at(side)) for part in parts]


def turns(part: LabelledImages) -> list[tuple[str, np.ndarray]]:
    """(degradation of TURN, rows of the part that it is for): an image's place within its class decides."""
    turn = np.zeros(len(part), int)
    for label in (0, 1):
        turn[part.labels == label] = np.arange((part.labels == label).sum()) % len(TURN)
    found = [(name, np.flatnonzero(turn == k)) for k, name in enumerate(TURN)]
    return [(name, rows) for name, rows in found if len(rows)]


def _together(judged: Sequence[Judged]) -> Judged:
    """Those of several detectors: [n, M]."""
    return Judged(np.stack([one.score for one in judged], axis=1), np.stack([one.undecided for one in judged], axis=1))


def _degraded(scorers: Sequence[Scorer], part: LabelledImages) -> Judged:
    shape = len(part), len(scorers)
    found = Judged(np.full(shape, np.nan), np.zeros(shape, bool))
    for name, rows in turns(part):
        said = _together(score_all(scorers, chosen(part, rows), preset(name)))
        found.score[rows], found.undecided[rows] = said
    return found


def check_enough(labels: np.ndarray, told: Callable[[str], str]) -> None:
    """UserError where a class has fewer images than are fitted on. told: the line, of «only 3 real»."""
    for label, name in enumerate(("real", "fake")):
        if (count := int((labels == label).sum())) < LEAST:
            raise UserError(told(f"only {count} {name}"))


def deal_rows(rows: MemberScores, seed: int) -> np.ndarray:
    """int [n]: FOLDS folds of equal make-up, groups whole. UserError for too few images."""
    alone = np.arange(len(rows.labels))
    groups = alone if rows.groups is None else np.unique(rows.groups.astype(str), return_inverse=True)[1]
    once = np.unique(np.stack([groups, rows.labels]), axis=1)[1]  # a group's label
    check_enough(
        once,
        lambda few: (
            f"{few} validation images (groups counted once): fitting and calibrating takes {LEAST} of each class at"
            " least; give `data` with more"
        ),
    )
    shares = np.full(FOLDS, 1 / FOLDS)
    return deal(in_order(groups), rows.labels, shares, np.random.default_rng([seed, 0xE25]))


# ---- out-of-fold scores -------------------------------------------------------------------------------------------


def check_order(options: EnsembleOptions, members: Sequence[Detector]) -> None:
    """UserError where the run that wrote out-of-fold scores says that they are of another network than the member in
    their place."""
    for spec, member, file in zip(options.models, members, options.oof):
        try:
            plan = reading.json_file(Path(file).parent / "folds.json")
            model = plan["options"]["model"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # the table has left its run, which nothing says of it
        if member.meta.get("model") not in (None, model):
            raise UserError(
                f"`oof` {file}: is of a {model}, and {spec}, the member in its place, a {member.meta['model']}; give"
                " them in the members' order"
            )


def read_oof(files: Sequence[str]) -> MemberScores:
    """Out-of-fold scores of several members, the images that all of them have, in the first file's order.

    Columns path, label, fold, score (the fold's detector's calibrated probability); of several repeats the first
    counts. UserError where images, labels or folds differ."""
    tables = [_oof(file) for file in files]
    first = tables[0]
    for file, table in zip(files[1:], tables[1:]):
        if set(table) != set(first):
            odd = sorted(set(table) ^ set(first))
            raise UserError(
                f"`oof` {file}: holds other images than {files[0]} ({len(odd)} are in one of them only, like {odd[0]});"
                " all members must be cross-validated on the same set"
            )
        for path, row in table.items():
            if row[0] != first[path][0]:
                raise UserError(f"`oof` {file}: calls {path} {'fake' if row[0] else 'real'}, {files[0]} does not")
    paths = list(first)
    p = np.array([[table[path][2] for table in tables] for path in paths])
    labels = np.array([first[path][0] for path in paths])
    # an image's fold is what a stack must not be fitted with: of members with different folds, the pair
    folds = np.unique([[table[path][1] for table in tables] for path in paths], axis=0, return_inverse=True)[1].ravel()
    notes = []
    if len(np.unique(folds)) > 2 * FOLDS:
        folds = np.array([first[path][1] for path in paths])
        notes.append("the members have different folds: the ensemble is cross-fitted over the first one's")
    groups = None
    if all(first[path][3] for path in paths):
        groups = np.array([first[path][3] for path in paths], dtype=object)
    said = f"out-of-fold scores of {', '.join(files)}"
    return MemberScores(log_odds(p)[None], labels, groups, paths, said, folds, notes, out_of_fold=True)


def _oof(file: str) -> dict[str, tuple[int, int, float, str]]:
    """{path: (label, fold, score, group)}"""
    try:
        (_, header), *lines = read_rows(file)
    except UserError as error:
        raise UserError(f"`oof` {error}") from None
    for name in ("path", "label", "fold", "score"):
        if not lines or name not in header:
            raise UserError(f"`oof` {file}: has no column «{name}»; give the oof.csv of a cross-validation")
    found: dict[str, tuple[int, int, float, str]] = {}
    seen: dict[tuple[str, str], int] = {}
    rows = [(line, dict(zip(header, cells))) for line, cells in lines]
    for line, row in sorted(rows, key=lambda pair: pair[1].get("repeat", "").zfill(9)):
        try:
            label, fold, score = int(row["label"]), int(row["fold"]), float(row["score"])
        except ValueError:
            label = -1
        if label not in (0, 1) or not (math.isfinite(score) and 0 <= score <= 1):
            raise UserError(f"`oof` {file}, line {line}: label 0 or 1, a fold and a score from 0 to 1 are needed there")
        once = (row["path"], row.get("repeat", ""))
        if seen.setdefault(once, line) != line:
            raise UserError(f"`oof` {file}, line {line}: {row['path']} is in line {seen[once]} already; leave one out")
        found.setdefault(row["path"], (label, fold, score, row.get("group", "")))
    _check_folds(file, found)
    return found


def _check_folds(file: str, table: dict[str, tuple[int, int, float, str]]) -> None:
    """UserError unless there are images enough, and both classes outside every fold."""
    labels, folds = (np.array([row[k] for row in table.values()]) for k in (0, 1))
    if len(np.unique(folds)) < 2:
        raise UserError(f"`oof` {file}: has one fold only; give the oof.csv of a cross-validation")
    check_enough(
        labels,
        lambda few: (
            f"`oof` {file}: {few} images: fitting and calibrating an ensemble takes {LEAST} of each class at least;"
            " cross-validate on more"
        ),
    )
    for label, name in ((0, "real"), (1, "fake")):
        for fold in np.unique(folds):
            if not (labels[folds != fold] == label).any():
                raise UserError(
                    f"`oof` {file}: all {name} images are in fold {fold}; deal the folds so that each class"
                    " is in several"
                )
