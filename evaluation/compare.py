"""Several detectors judged on the same images, with tests for every pair."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from common.device import pick_device
from common.errors import UserError
from common.words import counted
from discriminator.detector import Detector
from evaluation.contestants import OF_REALS, Contestant, measure_speed, open_model
from evaluation.ensemble import detector_file, short_names
from evaluation.ensemble_scores import groups_of_parts, rendered_alike
from evaluation.listener import Listener
from evaluation.options import ComparisonOptions, is_table
from evaluation.scoring import LabelledImages, Scorer, open_labelled, score_all, taught_with
from faces.degrade import PRESETS
from metrics.answers import called_fake
from metrics.classification import FPRS, report, swapped_note
from metrics.scores import CLEAN, Scores, column_of, groups_in_words, read_scores
from metrics.significance import DeLong, McNemar, delong, holm, mcnemar

ENOUGH = 20  # images of a class below which a comparison is refused


@dataclass
class PairTests:
    """Two contestants and the tests of them; p_holm of each test over all pairs."""

    first: str
    second: str
    auc: DeLong
    verdicts: McNemar | None
    auc_holm: float = float("nan")
    verdicts_holm: float = float("nan")

    def to_dict(self) -> dict:
        both = None if self.verdicts is None else {**self.verdicts._asdict(), "p_holm": self.verdicts_holm}
        return {
            "first": self.first,
            "second": self.second,
            "delong": {**self.auc._asdict(), "p_holm": self.auc_holm},
            "mcnemar": both,
        }


@dataclass
class ComparisonResult:
    """All that was found. labels [n]; groups [n] or None: of the images everybody judged; grouped_by: which column."""

    contestants: list[Contestant]
    pairs: list[PairTests]
    labels: np.ndarray
    groups: np.ndarray | None
    images: list[str]
    threads: int
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    grouped_by: str = ""

    @property
    def n_real(self) -> int:
        return int((self.labels == 0).sum())

    @property
    def n_fake(self) -> int:
        return int((self.labels == 1).sum())

    def to_json(self) -> dict:
        return {
            "images": {"sources": self.images, "real": self.n_real, "fake": self.n_fake},
            "contestants": [c.to_dict() for c in self.contestants],
            "pairs": [pair.to_dict() for pair in self.pairs],
            "threads": self.threads,
            "skipped": [list(pair) for pair in self.skipped],
            "notes": self.notes,
        }


def compare(options: ComparisonOptions, listener: Listener = Listener()) -> ComparisonResult:  # noqa: B008 (frozen)
    """Judge all on the same images, and test every pair."""
    contestants = _open(options)
    if options.data:
        result = _on_images(options, contestants, listener)
    else:
        result = _on_tables(contestants, options.group_by)
    if min(result.n_real, result.n_fake) < ENOUGH:
        raise UserError(
            f"{result.n_real} real and {counted(result.n_fake, 'fake image')} are too few to compare detectors:"
            f" {ENOUGH} of each class are the least; give more `data`"
        )
    if together := groups_in_words(result.groups, result.grouped_by):
        result.notes.append(
            f"intervals of the table: {together}; DeLong's and McNemar's tests take the images for independent"
        )
    for one in contestants:
        _measure(one, result, options)
    result.pairs = _pairs(contestants, result.labels)
    targets = sorted({c.target_fpr for c in contestants if c.target_fpr is not None})
    if len(targets) > 1:
        rates = " and ".join(f"{100 * t:g} %" for t in targets)
        result.notes.append(
            f"shipped thresholds were set for different false-alarm rates ({rates}), and figures and McNemar's test at"
            f" them show that, too; `fpr` {targets[-1]:g} compares all at one"
        )
    if options.speed and any(c.detector is not None for c in contestants):
        measure_speed(contestants, listener.bar)
    return result


def _open(options: ComparisonOptions) -> list[Contestant]:
    device = pick_device(options.device)
    seen: dict[str, str] = {}
    contestants = []
    for spec, name in zip(options.models, short_names(options.models)):
        path = Path(spec) if is_table(spec) else detector_file(spec)
        if first := seen.get(str(path.resolve())):
            raise UserError(f"`models` {spec}: is the same file as {first}; leave one out")
        seen[str(path.resolve())] = spec
        one = Contestant(name, spec, path)
        if not is_table(spec):
            detector = Detector.load(path, device)
            open_model(one, detector, options.fpr)
            if first := seen.get(detector.sha256):
                raise UserError(f"`models` {spec}: is the same detector as {first}; leave one out")
            seen[detector.sha256] = spec
        contestants.append(one)
    return contestants


# ---- the same images ----------------------------------------------------------------------------------------------


def _on_images(options: ComparisonOptions, contestants: list[Contestant], listener: Listener) -> ComparisonResult:
    parts = open_labelled(options, group_by=options.group_by)
    for part in parts:
        listener.tell(part.describe())
    labels = np.concatenate([part.labels for part in parts]).astype(int)
    networks = [(c, c.detector) for c in contestants if c.detector is not None]
    parts = rendered_alike(parts, [detector for _, detector in networks])
    skipped: dict[str, str] = {}
    bar = listener.bar(total=len(labels) * len(networks), title="judging", unit="img")
    scorers = [Scorer(detector, options, advance=bar.update) for _, detector in networks]
    judged = [score_all(scorers, part, PRESETS["none"]) for part in parts]
    for (one, _), scorer, told in zip(networks, scorers, zip(*judged)):
        one.scores, one.undecided = (np.concatenate(column) for column in zip(*told))
        assert one.threshold is not None  # a detector has one
        one.called = called_fake(one.scores, one.threshold, one.undecided)
        skipped |= scorer.skipped
    bar.close()
    readable = np.all([np.ones(len(labels), bool), *(np.isfinite(c.scores) for c, _ in networks)], axis=0)
    unreadable = counted(len(labels) - int(readable.sum()), "unreadable image")
    notes = [f"{unreadable}, left out for all"] if skipped else []
    notes += [line for one, detector in networks for line in taught_with(parts, detector.meta, one.name)]
    # a table without detectors beside it can't tell what is unreadable from what is missing
    for one in contestants:
        if one.detector is None:
            notes += _fill(one, parts, labels, readable)
    groups = groups_of_parts(parts)
    for one in contestants:
        one.keep(readable)
    return ComparisonResult(
        contestants, [], labels[readable], None if groups is None else groups[readable],
        [part.describe() for part in parts], torch.get_num_threads(), list(skipped.items()), notes,
        next((part.grouped_by for part in parts if part.group is not None), ""),
    )  # fmt: skip


def _fill(one: Contestant, parts: Sequence[LabelledImages], labels: np.ndarray, readable: np.ndarray) -> list[str]:
    """A table's scores for the images, found by their paths. UserError where it lacks some or calls them otherwise."""
    table, called = _table(one.path)
    located = [part.source.locate(i) for part in parts for i in range(len(part))]
    inside = [part.source.items[i].path for part in parts for i in range(len(part))]
    sources = [name for part in parts for name in part.names]
    rows = _Rows(table, one.spec)
    where = np.array([rows.of(*paths) for paths in zip(sources, located, inside)])
    _check_once(where, located, table, one.spec)
    missing = readable & (where < 0)
    if missing.any():
        example = located[int(np.argmax(missing))]
        raise UserError(
            f"`models` {one.spec}: has no score for {int(missing.sum())} of the {int(readable.sum())} images, like"
            f" {example}; compare on images that all have judged"
        )
    wrong = readable & (where >= 0)
    wrong[wrong] = table.label[where[wrong]] != labels[wrong]
    if wrong.any():
        example = located[int(np.argmax(wrong))]
        raise UserError(f"`models` {one.spec}: calls {example} otherwise than `data` does; correct its label")
    one.scores = np.where(where >= 0, table.score[where], np.nan)
    one.called = None if called is None else called[where]
    unused = len(table) - int((where >= 0).sum())
    return [f"{one.spec}: {unused} rows of other images are not used"] if unused else []


class _Rows:
    """The rows of a table by their paths, as they are written or from the root."""

    def __init__(self, table: Scores, spec: str):
        self.table, self.spec = table, spec
        self.by_path: dict[str, list[int]] = {}
        self.by_absolute: dict[str, list[int]] = {}
        for k, path in enumerate(table.path):
            self.by_path.setdefault(path, []).append(k)
            self.by_absolute.setdefault(str(Path(path).absolute()), []).append(k)

    def of(self, source: str, located: str, inside: str) -> int:
        """The row of an image, -1 where there is none. Of several with its path, as two sets have a 0001.png, the one
        of its source counts. UserError where that doesn't tell, either."""
        absolute = str(Path(located).absolute())
        found = self.by_path.get(located) or self.by_path.get(inside) or self.by_absolute.get(absolute) or []
        if len(found) < 2:
            return found[0] if found else -1
        own = [k for k in found if self.table.source[k] == source]
        if len(own) != 1:
            theirs = ", ".join(self.table.source[k] for k in found)
            raise UserError(
                f"`models` {self.spec}: has {counted(len(found), 'row')} for {self.table.path[found[0]]}, of the"
                f" sources {theirs},"
                f" and {len(own) or 'none'} of them of {source}: give whole paths, or call the sources as `data` does"
            )
        return own[0]


def _check_once(where: np.ndarray, located: Sequence[str], table: Scores, spec: str) -> None:
    """UserError where one row is the score of two images."""
    first: dict[int, str] = {}
    for k, image in zip(where.tolist(), located):
        if k >= 0 and first.setdefault(k, image) != image:
            raise UserError(
                f"`models` {spec}: its one row {table.path[k]} fits {first[k]} and {image}: give whole paths"
            )


def _on_tables(contestants: list[Contestant], group_by: str | None) -> ComparisonResult:
    # the first one's groups count
    tables = [_table(one.path, group_by if i == 0 else None) for i, one in enumerate(contestants)]
    first = tables[0][0]
    order = {(source, path): k for k, (source, path) in enumerate(zip(_sources(first), first.path))}
    for one, (table, called) in zip(contestants, tables):
        keys = list(zip(_sources(table), table.path))
        if set(keys) != set(order):
            odd = sorted(set(keys) ^ set(order))
            raise UserError(
                f"`models` {one.spec}: holds other images than {contestants[0].spec} ({len(odd)} are in one of them"
                f" only, like {odd[0][1]}); compare on images that all have judged"
            )
        place = np.array([order[key] for key in keys])
        back = np.argsort(place)
        if (table.label[back] != first.label).any():
            example = first.path[int(np.argmax(table.label[back] != first.label))]
            raise UserError(f"`models` {one.spec}: calls {example} otherwise than {contestants[0].spec}; correct one")
        one.scores, one.called = table.score[back], None if called is None else called[back]
    said = [f"the {counted(len(first), 'image')} of {contestants[0].spec}"]
    return ComparisonResult(
        contestants, [], first.label.astype(int), first.group, said, torch.get_num_threads(),
        grouped_by=first.grouped_by,
    )  # fmt: skip


def _sources(table: Scores) -> list[str]:
    """Sources where a file names several; the file's own name is no source."""
    return list(table.source) if len(set(table.source)) > 1 else [""] * len(table)


def _table(path: Path, group_by: str | None = None) -> tuple[Scores, np.ndarray | None]:
    """(scores of the clean images, bool [n] what was called FAKE, or None without a column verdict)"""
    table, called = read_scores(path, group_by=group_by), None
    if (verdicts := column_of(str(path), "verdict")) is not None:
        said = [cell.strip().upper() for cell in verdicts[1]]
        if bad := next((word for word in said if word not in ("FAKE", "REAL", "UNSURE")), None):
            raise UserError(f"{path}: the verdict {bad[:40]!r} is none of FAKE, REAL and UNSURE; correct the file")
        called = np.array([word == "FAKE" for word in said])
    clean = table.degradation == CLEAN
    if not clean.any():
        raise UserError(f"{path}: every row has a degradation; add the rows of the clean images")
    return table.select(clean), None if called is None else called[clean]


# ---- figures ------------------------------------------------------------------------------------------------------


def _measure(one: Contestant, result: ComparisonResult, options: ComparisonOptions) -> None:
    judged = functools.partial(
        report, result.labels, groups=result.groups, resamples=options.resamples, seed=options.seed, calibrated=False
    )
    open_ = one.undecided if len(one.undecided) else False  # of a table of scores nothing is known
    ranked = judged(one.scores, threshold=np.inf, undecided=open_)["metrics"]
    value, counts = ranked["roc_auc"]["value"], np.bincount(result.labels, minlength=2)
    if note := swapped_note(value, int(counts[0]), int(counts[1]), f"what {one.name} judged"):
        result.notes.append(note)
    one.metrics = {name: ranked[name] for name in ("roc_auc", *(f"tpr_at_fpr_{f:g}" for f in FPRS))}
    if one.called is not None:
        said = judged(one.called.astype(float))["metrics"]
        names = ("accuracy", "balanced_accuracy", "precision_fake", "recall_fake", "f1_fake", "false_alarm_rate")
        one.metrics |= {name: said[name] for name in (*names, *OF_REALS)}
    if one.at_one_percent is not None:
        at = judged(called_fake(one.scores, one.at_one_percent, one.undecided).astype(float))["metrics"]
        one.metrics |= {"tpr_at_shipped_0.01": at["recall_fake"], "fpr_at_shipped_0.01": at["false_alarm_rate"]}


def _pairs(contestants: Sequence[Contestant], labels: np.ndarray) -> list[PairTests]:
    fake = labels == 1
    pairs = []
    for a, b in itertools.combinations(contestants, 2):
        both = None
        if a.called is not None and b.called is not None:
            both = mcnemar(a.called == fake, b.called == fake)
        pairs.append(PairTests(a.name, b.name, delong(labels, a.scores, b.scores), both))
    for pair, p in zip(pairs, holm([pair.auc.p for pair in pairs])):
        pair.auc_holm = float(p)
    tested = [(pair, pair.verdicts.p) for pair in pairs if pair.verdicts is not None]
    for (pair, _), p in zip(tested, holm([p for _, p in tested])):
        pair.verdicts_holm = float(p)
    return pairs
