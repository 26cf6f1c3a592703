"""A generator, or generated images, measured against real ones: opens both sides, says how long it takes, measures."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from common.device import pick_device
from common.errors import UserError
from common.words import are, counted
from discriminator.network_features import NetworkFeatures
from evaluation.listener import Listener
from evaluation.options import GeneratorOptions
from evaluation.path_length import mean_path_length, path_distance
from evaluation.sides import (
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
from metrics.collect import Features
from metrics.features import FeatureNetwork
from metrics.fid import (
    AGAINST_REALS,
    KINDS,
    StatedFeatures,
    check_enough,
    check_same_features,
    compare,
    needs_vectors,
    parse_kinds,
)
from metrics.images import SourceImages
from metrics.inception import InceptionFeatures
from metrics.sampling import Sampling
from metrics.stats import GaussianStats, load_stats, save_stats
from metrics.weights import SHA256, find_weights
from synth.perceptual import Perceptual
from training.processes import Processes

WITHOUT_CLASSIFIER = (
    "`metrics` is: the Inception Score needs the classifier of the full network behind its 2048 dimensions, and {why};"
    " leave `is` out, or give pytorch-fid's full weights with `dims` 2048"
)
GREY_APART = 0.5  # shares of grey images on both sides that differ by more make another comparison


@dataclass(frozen=True)
class MetricRow:
    """One number. `digits` after the point; `error` is its standard error or spread, `what` says which and all else a
    reader needs."""

    name: str
    value: float
    digits: int
    what: str = ""
    error: float | None = None


@dataclass
class GeneratorResult:
    """What was measured. `settings` belong to every row."""

    rows: list[MetricRow]
    settings: dict
    notes: list[str] = field(default_factory=list)
    samples: list[np.ndarray] = field(default_factory=list)
    reals: list[np.ndarray] = field(default_factory=list)

    def to_json(self) -> dict:
        return {"metrics": [asdict(row) for row in self.rows], "settings": self.settings, "notes": self.notes}


@dataclass(frozen=True)
class _Job:
    """What is measured, by whom: `listener` is silent on other ranks than 0, `folder` is the cache's, None without;
    `sides` are those that were opened."""

    options: GeneratorOptions
    kinds: list[str]
    device: torch.device
    ranks: Processes
    listener: Listener
    folder: Path | None
    sides: list[Measured] = field(default_factory=list)

    @property
    def compared(self) -> list[str]:
        """The metrics that are of features."""
        return [kind for kind in self.kinds if kind != "ppl"]

    @functools.cached_property
    def inception(self) -> InceptionFeatures:
        """The Inception network, opened at the first use."""
        return _inception(self)

    @functools.cached_property
    def features(self) -> FeatureNetwork:
        """What computes the features, opened at the first use."""
        return self.inception if self.options.features == "inception" else _network(self)


def evaluate_generator(
    options: GeneratorOptions,
    listener: Listener = Listener(),  # noqa: B008 (frozen)
) -> GeneratorResult | None:
    """Measure what `options` ask for; None on other ranks than 0."""
    kinds = _checked(options)
    ranks = Processes.join(pick_device(options.device))
    try:
        with contextlib.ExitStack() as stack:
            job = _Job(
                options, kinds, ranks.device, ranks, listener if ranks.is_main else Listener(),
                features_folder(options),
            )  # fmt: skip
            return _measure(job, stack)
    finally:
        ranks.leave()


def _checked(options: GeneratorOptions) -> list[str]:
    """The metrics asked for; everything that can be refused before anything is opened."""
    kinds = parse_kinds(options.metrics)
    against = [kind for kind in kinds if kind in AGAINST_REALS]
    if against and not (options.data or options.stats):
        raise UserError(f"`metrics` {','.join(against)} compare with real images: give `data` SOURCE")
    for kind in against:
        if options.stats and "vectors" in KINDS[kind]:
            raise UserError(f"`stats`: mean and covariance are enough for fid, not for {kind}: give `data` SOURCE")
    if "is" in kinds and options.features != "inception":
        raise UserError("`metrics` is: the Inception Score is of Inception: leave it out, or leave out `features`")
    if "is" in kinds and options.dims not in (None, 2048):
        raise UserError(WITHOUT_CLASSIFIER.format(why=f"`dims` is {options.dims}"))
    if options.inception_weights is not None:
        find_weights(options.inception_weights)
    return kinds


def _measure(job: _Job, stack: contextlib.ExitStack) -> GeneratorResult | None:
    options, listener = job.options, job.listener
    of_both = [kind for kind in job.compared if kind in AGAINST_REALS]
    # what is wrong with a folder or a number is told before networks are fetched for it
    check_enough(job.compared, options.num, f"`num` {options.num}")
    real, listed, reals = Features(load_stats(options.stats)) if options.stats else None, None, None
    if options.data and (options.save_stats or any(kind in AGAINST_REALS for kind in job.kinds)):
        listed = list_reals(options.data, options)
        check_enough(of_both, len(listed.source), listed.where)
        check_several(listed.where, len(listed.source))
    sampling = Sampling(options.seed, options.trunc, options.noise_mode, device=job.device)
    fake = open_measured(options, sampling, job.device, listener)
    stack.callback(fake.close)
    job.sides.append(fake)
    if not isinstance(fake.content, GaussianStats):
        check_enough(job.compared, len(fake.content), fake.name)
        check_several(fake.name, len(fake.content))
    if listed is not None:
        reals = open_reals(listed, options, fake, listener)
        stack.callback(reals.close)
        job.sides.append(reals)
    features, distance = _networks(job, fake, real)

    notes = fake.notes + (reals.notes if reals is not None else [])
    fake_features, numbers = None, {}
    for side in (reals, fake if job.compared else None):
        if side is not None:
            look_over(side, lambda: job.features, job.folder, job.ranks)
    notes += _colours(fake, reals)
    if reals is not None:
        real = _collected(job, reals, keep=needs_vectors(job.compared) and job.compared != ["is"])
        if options.save_stats and job.ranks.is_main:
            save_stats(options.save_stats, real.stats)
            listener.tell(f"{options.save_stats} written: the statistics of {reals.name}")
    if features is not None and job.compared:
        fake_features = _collected(job, fake, keep=needs_vectors(job.compared))
        if job.ranks.is_main:
            numbers = _numbers(job, fake_features, real, features)
            notes += _copies((fake, fake_features), (reals, real))
            notes += _differences(options, job.kinds, fake_features, real) + _nothing_found(numbers)
    if distance is not None and fake.G is not None:
        numbers["ppl"] = mean_path_length(fake.G, distance, options, sampling, job.ranks, listener)
    if not job.ranks.is_main:
        return None
    rows = _rows(job.kinds, numbers, features, distance, options.num)
    sides = ((fake, fake_features), (reals, real))
    seen = [side.first() if options.report and side is not None else [] for side, _ in sides]
    return GeneratorResult(rows, _settings(options, sampling, features, *sides), notes, *seen)


def _numbers(
    job: _Job, fake: Features, real: Features | None, features: FeatureNetwork | StatedFeatures
) -> dict[str, float | int]:
    """What is compared; the one that takes long with a bar."""
    bar = job.listener.bar(total=None, title="FID's interval", unit="halving") if "ci" in job.kinds else None

    def report(done: int, total: int) -> None:
        if bar is not None:
            bar.total = total
            bar.update(done - bar.n)

    try:
        return compare(job.compared, fake, real, features, seed=job.options.seed, device=job.device, progress=report)
    finally:
        if bar is not None:
            bar.close()


def _networks(
    job: _Job, fake: Measured, real: Features | None
) -> tuple[FeatureNetwork | StatedFeatures | None, Perceptual | None]:
    """(what computed, or will compute, the features, the path length's distance), each where it is needed; what can't
    go together is refused."""
    options = job.options
    if "ppl" in job.kinds and fake.G is None:
        raise UserError(f"`metrics` ppl: the path length needs a network, {options.target} is none: leave it out")
    if needs_vectors(job.compared) and fake.stats is not None:
        raise UserError(f"{fake.name}: mean and covariance are enough for fid only: give the images themselves")
    features: FeatureNetwork | StatedFeatures | None = None
    if real is not None and fake.stats is not None:
        features = StatedFeatures.of(fake.stats, real.stats)
    elif job.compared or options.save_stats:
        features = job.features
    for whose, stats in (("generated images'", fake.stats), ("real", real.stats if real is not None else None)):
        if stats is not None and features is not None:
            check_same_features(stats, features, f"the {whose} statistics")
    return features, path_distance(options.ppl_distance, lambda: job.inception) if "ppl" in job.kinds else None


def _settings(
    options: GeneratorOptions,
    sampling: Sampling,
    features: FeatureNetwork | StatedFeatures | None,
    fake: tuple[Measured, Features | None],
    real: tuple[Measured | None, Features | None],
) -> dict:
    """What every number depends on. fake, real: (side, its features), as far as there are any."""
    reals = real[0]
    return {
        "features": options.features,
        **(features.describe() if features else dict.fromkeys(("dims", "resize", "weights_sha256"))),
        "n_fake": fake[1].n if fake[1] is not None else None,
        "n_real": real[1].n if real[1] is not None else None,
        **(sampling.describe() if fake[0].G is not None else {"seed": options.seed}),
        "class": options.class_index,
        "target": fake[0].name,
        "data": reals.name if reals is not None else options.stats,
        "preprocess": reals.preprocess.to_dict() if reals is not None and reals.preprocess else None,
        "runtime": features.used if features else None,  # None where all was computed before
        "network_sha256": fake[0].sha256,
        "skipped": [list(pair) for _, found in (fake, real) if found is not None for pair in found.skipped],
    }


def _colours(fake: Measured, reals: Measured | None) -> list[str]:
    """A line where one side is grey and the other in colour: their distance is then mostly that."""
    sides = [side.content for side in (fake, reals) if side is not None and isinstance(side.content, SourceImages)]
    if len(sides) < 2:
        return []
    ours, theirs = (side.colourless() for side in sides)
    if not abs(ours - theirs) > GREY_APART:
        return []
    return [
        f"{100 * ours:.0f} % of the generated images are grey, and {100 * theirs:.0f} % of the real ones: the numbers"
        " measure colour more than anything else; compare grey with grey, or colour with colour"
    ]


def _copies(*sides: tuple[Measured | None, Features | None]) -> list[str]:
    """Lines about files that are there more than once: on one side, and on both, which makes every number too good."""
    lines, seen = [], list[tuple[str, SourceImages, dict[bytes, int]]]()
    for side, found in sides:
        if side is None or found is None or not isinstance(side.content, SourceImages):
            continue
        bad, first, again = {i for i, _ in found.left}, dict[bytes, int](), list[tuple[int, int]]()
        for i, digest in enumerate(side.content.digests()):
            if i not in bad and first.setdefault(digest, i) != i:
                again.append((i, first[digest]))
        if again:
            one, other = map(side.content.name, again[0])
            lines.append(
                f"{side.name}: {len(again)} of {counted(found.n or 0, 'image')} {are(len(again))} the same as another,"
                f" to the byte (such as {one} and {other}): each counts"
            )
        seen.append((side.name, side.content, first))
    if len(seen) == 2 and (both := [digest for digest in seen[0][2] if digest in seen[1][2]]):
        here, there = (images.name(first[both[0]]) for _, images, first in seen)
        lines.append(
            f"{counted(len(both), 'image')} of {seen[0][0]} {are(len(both))} in {seen[1][0]}, too, to the byte (such as"
            f" {here} and {there}): all numbers are too good then, and intervals of them mean nothing"
        )
    return lines


def _network(job: _Job) -> NetworkFeatures:
    return NetworkFeatures(job.options.features, str(job.options.weights)).to(job.device)


def _inception(job: _Job) -> InceptionFeatures:
    options, device, tell = job.options, job.device, job.listener.tell
    if options.runtime in ("native", "onnx") and device.type != "cpu":
        raise UserError(
            f"`runtime` {options.runtime} computes on the CPU, not on {device}: add `device` cpu, or `runtime` torch"
        )
    weights = fetched(options.inception_weights, job.sides, job.listener, job.ranks)
    features = InceptionFeatures(weights, options.dims, resize=options.resize, runtime=options.runtime).to(device)
    if "is" in job.kinds and features.classifier is None:
        raise UserError(WITHOUT_CLASSIFIER.format(why=f"{weights} has none"))
    if options.dims is None and features.dims != 2048:
        tell(f"note: {weights} is a trunk: the numbers are of {features.dims} dimensions, not of the usual 2048")
    elif features.dims == 2048 and features.weights_sha256 != SHA256:
        tell(f"note: {weights} is not pytorch-fid's file: its numbers compare only with those of the same weights")
    return features


def _collected(job: _Job, side: Measured, *, keep: bool) -> Features:
    return collected(side, lambda: job.features, job.folder, job.listener, job.ranks, keep=keep)


def _differences(options: GeneratorOptions, kinds: list[str], fake: Features, real: Features | None) -> list[str]:
    """What stands in the way of comparing the numbers: with each other, with others', or with those of files that do
    not say what theirs are of."""
    notes = []
    if real is not None and fake.size and real.size and fake.size != real.size:
        (a, b), (c, d) = fake.size, real.size
        notes.append(
            f"the generated images are {b}x{a}, the real ones {d}x{c}: a difference in sharpness counts as a difference"
            " of the sets; `resolution` N brings both to one size"
        )
    few = min((side.n for side in (fake, real) if side is not None and side.n is not None), default=10000)
    if few < 10000 and "fid" in kinds:
        notes.append(f"FID of few images ({few}) is too high; compare it only with FIDs of as many")
    if "ci" in kinds and few < len(fake.stats.mu):
        notes.append(
            f"the interval of fewer images ({few}) than dimensions ({len(fake.stats.mu)}) may lie too high: not all of"
            " FID's bias is taken off then"
        )
    keys = {"resize": "the resize mode", "weights_sha256": "the weights"}
    for path, side in ((options.target, fake), (options.stats, real)):
        missing = [what for key, what in keys.items() if path and side is not None and key not in side.stats.meta]
        if missing:
            notes.append(
                f"{path} does not say {' and '.join(missing)} of its numbers: they must be those of the others"
            )
    return notes


def _nothing_found(numbers: dict[str, float | int]) -> list[str]:
    """What a precision or recall of 0 means: it is no fault of the measurement, but it says little."""
    k = numbers.get("pr_k")
    told = {
        "precision": f"no generated image is as near to a real one as that one's neighbour {k} among the reals is:"
        " early in a training, or with images of other sharpness, colour or crop, that is usual; FID and KID still"
        " tell better from worse",
        "recall": f"no real image is as near to a generated one as that one's neighbour {k} among the generated is: the"
        " generated images are too much alike, or too far from all reals",
    }
    return [f"{name} 0: {what}" for name, what in told.items() if numbers.get(name) == 0]


def _rows(
    kinds: list[str],
    n: dict[str, float | int],
    features: FeatureNetwork | StatedFeatures | None,
    distance: Perceptual | None,
    num: int,
) -> list[MetricRow]:
    rows = []
    for kind in kinds:
        if kind in _ROWS and features is not None:
            rows += _ROWS[kind](n, _Named(features))
        elif kind == "ppl" and distance is not None:
            what = (
                f"in W, epsilon 1e-4, {counted(num, 'pair')}, distance: {distance.name};"
                " not comparable with LPIPS' numbers"
            )
            rows.append(MetricRow("PPL", n["ppl"], 2, what))
    return rows


class _Named:
    """How numbers of some features are called: `mark` stands behind FID's and KID's names, `whose` says it in words."""

    def __init__(self, features: FeatureNetwork | StatedFeatures) -> None:
        name = features.name if not isinstance(features, StatedFeatures) else features.features
        self.inception, self.dims = name == "inception", features.dims
        self.published = self.inception and self.dims == 2048
        self.mark = "" if self.published else f"-{self.dims}"
        self.frechet = f"FID{self.mark}" if self.inception else "FD"
        self.whose = f"Inception-{self.dims} features" if self.inception else f"features of {name}"

    def unless_inception(self, text: str) -> str:
        return text if self.inception else f"{self.whose}; {text}" if text else self.whose


_Numbers = dict[str, float | int]


def _fid(n: _Numbers, of: _Named) -> list[MetricRow]:
    what = "" if of.published or not of.inception else "no published FID is of these features"
    return [MetricRow(of.frechet, n["fid"], 4, of.unless_inception(what))]


def _ci(n: _Numbers, of: _Named) -> list[MetricRow]:
    interval = (
        f"95 % interval {n['fid_low']:.4f} to {n['fid_high']:.4f}" if "fid_high" in n
        else "no interval: further below 0 than chance brings it, so the sets are not independent (images in both?)"
    )  # fmt: skip
    what = f"{interval}; what any number of images would give, delete-half jackknife, {n['fid_halvings']} halvings"
    return [MetricRow(f"{of.frechet}, unbiased", n["fid_unbiased"], 4, of.unless_inception(what))]


def _kid(n: _Numbers, of: _Named) -> list[MetricRow]:
    what = f"{n['kid_subsets']} subsets of {n['kid_subset_size']}, spread {n['kid_spread']:.6f}"
    error = n["kid_standard_error"] if np.isfinite(n["kid_standard_error"]) else None
    if error is not None:
        what = f"standard error, 95 % interval {n['kid_low']:.6f} to {n['kid_high']:.6f}; {what}"
    name = f"KID{of.mark}" if of.inception else "KD"
    return [MetricRow(name, n["kid"], 6, of.unless_inception(what), error)]


def _mind(n: _Numbers, of: _Named) -> list[MetricRow]:
    what = f"mean of W2 squared over {n['mind_directions']} directions, ± for these; times {of.dims} dims: " + (
        f"{of.dims * n['mind']:.4f}"
    )
    name = f"MIND{of.mark}" if of.inception else "sliced W2 squared"
    error = n["mind_standard_error"] if np.isfinite(n["mind_standard_error"]) else None
    return [MetricRow(name, n["mind"], 6, of.unless_inception(what), error)]


def _pr(n: _Numbers, of: _Named) -> list[MetricRow]:
    vgg = f"{of.whose}, k {n['pr_k']}; the published metric is of VGG16's"
    five = f"{of.whose}, k {n['density_k']}"
    told = {"precision": vgg, "recall": vgg, "density": five, "coverage": five}
    return [MetricRow(name, n[name], 4, what) for name, what in told.items()]


def _is(n: _Numbers, of: _Named) -> list[MetricRow]:
    what = f"spread of {n['inception_score_splits']} parts; of the generated images alone"
    return [MetricRow("Inception Score", n["inception_score"], 4, what, n["inception_score_spread"])]


_ROWS: dict[str, Callable[[_Numbers, _Named], list[MetricRow]]] = {
    "fid": _fid, "ci": _ci, "kid": _kid, "mind": _mind, "pr": _pr, "is": _is,
}  # fmt: skip
