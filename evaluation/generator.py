"""What `evaluate.py generator` does: opens both sides, says how long it takes, measures, and lays the numbers out."""

from __future__ import annotations

import contextlib
import functools
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
import numpy as np
import torch

from common.cli import download_bar, progress
from common.clock import clock
from common.device import pick_device
from common.errors import UserError
from common.files import cache_folder, save_atomically
from common.outputs import check_output
from evaluation.path_length import mean_path_length, path_distance
from evaluation.sides import Measured, open_measured, open_reals
from metrics.collect import Features, collect_cached, is_cached, seconds_for
from metrics.fid import KINDS, StatedFeatures, check_same_features, compare, needs_vectors, parse_kinds
from metrics.images import SourceImages
from metrics.inception import InceptionFeatures
from metrics.sampling import Sampling
from metrics.stats import load_stats, save_stats
from metrics.weights import SHA256, find_weights
from training.processes import Processes


@dataclass(frozen=True)
class Request:
    """The options of the command, by name."""

    target: str
    data: str | None
    metrics: str = "fid,kid,pr"
    num: int = 50000
    dims: int | None = None
    resize: str = "tf1"
    inception_weights: str | None = None
    runtime: str = "auto"
    seed: int = 0
    trunc: float = 1.0
    noise_mode: str = "random"
    class_index: int | None = None
    split: str | None = None
    data_root: str | None = None
    resolution: int | None = None
    crop: str = "center"
    resize_filter: str = "lanczos"
    allow_grey: bool = False
    stats: str | None = None
    save_stats: str | None = None
    cache: str | None = None
    no_cache: bool = False
    ppl_distance: str = "auto"
    workers: int = 2
    device: str = "auto"
    json: str | None = None
    report: str | None = None
    force: bool = False


@dataclass(frozen=True)
class Row:
    """One number. `digits` after the point; `error` is its standard error or spread, `what` says which and all else a
    reader needs."""

    name: str
    value: float
    digits: int
    what: str = ""
    error: float | None = None


@dataclass
class Evaluation:
    """What was measured. `settings` belong to every row."""

    rows: list[Row]
    settings: dict
    notes: list[str] = field(default_factory=list)
    samples: list[np.ndarray] = field(default_factory=list)
    reals: list[np.ndarray] = field(default_factory=list)

    def to_json(self) -> dict:
        return {"metrics": [asdict(row) for row in self.rows], "settings": self.settings, "notes": self.notes}


def evaluate(request: Request) -> Evaluation | None:
    """Measure what `request` asks for and print it; None on other ranks than 0."""
    kinds = _checked(request)
    device = pick_device(request.device)
    ranks = Processes.join(device)
    try:
        with contextlib.ExitStack() as stack:
            result = _measure(request, kinds, ranks.device, ranks, stack)
        if result is None:
            return None
        _print(result)
        if request.json is not None:
            text = json.dumps(result.to_json(), indent=2, allow_nan=False) + "\n"
            save_atomically(_made(request.json), lambda tmp: tmp.write_text(text, encoding="utf-8") and None)
            click.echo(f"{request.json} written")
        if request.report is not None:
            from reports.generator import write_generator_report

            click.echo(f"{write_generator_report(request.report, result)} written")
        return result
    finally:
        ranks.leave()


def _checked(request: Request) -> list[str]:
    """The metrics asked for; everything that can be refused before anything is opened."""
    kinds = parse_kinds(request.metrics)
    against = _against(kinds)
    if request.stats and request.data:
        raise UserError("--stats takes the place of --data: give one of them")
    if against and not (request.data or request.stats):
        raise UserError(f"--metrics {','.join(against)} compare with real images: give --data SOURCE")
    for kind in against:
        if request.stats and "vectors" in KINDS[kind]:
            raise UserError(f"--stats: mean and covariance are enough for fid, not for {kind}: give --data SOURCE")
    if request.save_stats and not request.data:
        raise UserError("--save-stats keeps the statistics of --data: give --data SOURCE")
    for option in ("json", "report", "save_stats"):
        check_output(f"--{option.replace('_', '-')}", getattr(request, option), force=request.force)
    return kinds


def _against(kinds: list[str]) -> list[str]:
    """Those that compare with real images."""
    return [kind for kind in kinds if kind in ("fid", "kid", "pr")]


def _measure(
    r: Request, kinds: list[str], device: torch.device, ranks: Processes, stack: contextlib.ExitStack
) -> Evaluation | None:
    say = click.echo if ranks.is_main else lambda *_: None
    sampling = Sampling(r.seed, r.trunc, r.noise_mode, device=device)
    fake = open_measured(r, sampling, device, say)
    stack.callback(fake.close)
    compared = [kind for kind in kinds if kind != "ppl"]
    keep, folder = needs_vectors(compared), _cache(r)
    if "ppl" in kinds and fake.G is None:
        raise UserError(f"--metrics ppl: the path length needs a network, {r.target} is none: leave it out")
    if keep and fake.stats is not None:
        raise UserError(f"{fake.name}: mean and covariance are enough for fid only: give the images themselves")
    real = Features(load_stats(r.stats)) if r.stats else None
    inception = functools.cache(lambda: _features(r, kinds, device, ranks, say))
    features = None
    if real is not None and fake.stats is not None:
        features = StatedFeatures.of(fake.stats, real.stats)
    elif compared or r.save_stats:
        features = inception()
    for whose, stats in (("generated images'", fake.stats), ("real", real and real.stats)):
        if stats is not None and features is not None:
            check_same_features(stats, features, f"the {whose} statistics")
    distance = path_distance(r.ppl_distance, inception) if "ppl" in kinds else None
    reals = open_reals(r, fake, say) if r.data and (_against(kinds) or r.save_stats) else None
    if reals is not None:
        stack.callback(reals.close)

    notes = list(fake.notes) + (list(reals.notes) if reals is not None else [])
    fake_features, numbers = None, {}
    for side in (reals, fake if compared else None):
        if side is not None and side.images is not None:
            _look_over(side, features, folder, ranks)
    if reals is not None:
        real = _collected(reals, features, keep and compared != ["is"], folder, ranks, say)
        if r.save_stats and ranks.is_main:
            save_stats(r.save_stats, real.stats)
            say(f"{r.save_stats} written: the statistics of {reals.name}")
    if compared:
        fake_features = _collected(fake, features, keep, folder, ranks, say)
        if ranks.is_main:
            numbers = compare(compared, fake_features, real, features, seed=r.seed, device=device)
            notes += _differences(kinds, fake_features, real)
            notes += _unsaid(r, fake_features, real)
    length = mean_path_length(fake.G, distance, r, sampling, ranks, say) if distance is not None else None
    if not ranks.is_main:
        return None
    settings = {
        **(features.describe() if features else dict.fromkeys(("dims", "resize", "weights_sha256"))),
        "n_fake": fake_features.n if fake_features is not None else None,
        "n_real": real.n if real is not None else None,
        **(sampling.describe() if fake.G is not None else {"seed": r.seed}),
        "class": r.class_index,
        "target": fake.name,
        "data": reals.name if reals is not None else r.stats,
        "preprocess": reals.preprocess.to_dict() if reals is not None and reals.preprocess else None,
        "runtime": features.used if features else None,  # None where all was computed before
        "network_sha256": fake.sha256,
        "skipped": [list(pair) for f in (fake_features, real) if f is not None for pair in f.skipped],
    }
    rows = _rows(kinds, numbers, features.dims if features else None, length, distance, r.num)
    samples = fake.first() if r.report else []
    return Evaluation(rows, settings, notes, samples, reals.first() if r.report and reals is not None else [])


def _look_over(side: Measured, features: InceptionFeatures, folder: Path | None, ranks: Processes) -> None:
    """Refuse before the work begins what would end it, perhaps hours later; find out whether it was done before."""
    if len(side.images) < 2:
        raise UserError(f"{side.name}: a single image: these metrics need two or more, better thousands")
    if isinstance(side.images, SourceImages):
        side.key = None if folder is None else ranks.main_does(side.images.content_key)
        if not ranks.main_does(lambda: side.key is not None and is_cached(features, side.key, folder)):
            ranks.main_does(side.images.check_alike)


def _features(r: Request, kinds: list[str], device: torch.device, ranks: Processes, say) -> InceptionFeatures:
    with download_bar("fetching the Inception weights") as report:
        weights = ranks.main_does(lambda: find_weights(r.inception_weights, progress=report))
    if r.runtime in ("native", "onnx") and device.type != "cpu":
        raise UserError(
            f"--runtime {r.runtime} computes on the CPU, not on {device}: add --device cpu, or --runtime torch"
        )
    features = InceptionFeatures(weights, r.dims, resize=r.resize, runtime=r.runtime).to(device)
    if "is" in kinds and features.classifier is None:
        why = f"--dims is {r.dims}" if r.dims not in (None, 2048) else f"{weights} has none"
        raise UserError(
            "--metrics is: the Inception Score needs the classifier of the full network behind its 2048 dimensions, and"
            f" {why}; leave `is` out, or give pytorch-fid's full weights with --dims 2048"
        )
    if r.dims is None and features.dims != 2048:
        say(f"note: {weights} is a trunk: the numbers are of {features.dims} dimensions, not of the usual 2048")
    elif features.dims == 2048 and features.weights_sha256 != SHA256:
        say(f"note: {weights} is not pytorch-fid's file: its numbers compare only with those of the same weights")
    return features


def _cache(r: Request) -> Path | None:
    if r.no_cache:
        return None
    return Path(r.cache).expanduser() if r.cache else cache_folder() / "features"


def _collected(side: Measured, features, keep: bool, folder: Path | None, ranks: Processes, say) -> Features:
    """Features of one side, after saying how long they will take."""
    if side.stats is not None:
        return Features(side.stats)
    bar = None

    def report(done: int, total: int | None) -> None:
        nonlocal bar
        if bar is None:
            if ranks.is_main:
                # measured when work begins, so that nothing is measured for what lies in the cache
                bar = progress(total=total, title=side.title, unit="img")
            else:
                return
        bar.update(done - bar.n)

    def announce() -> None:
        seconds = seconds_for(side.images, features) / ranks.size
        say(f"{side.title}: {len(side.images)} images, about {clock(seconds)}")

    try:
        result = collect_cached(
            side.images, features, side.key, folder if side.key else None, keep=keep, ranks=ranks, progress=report,
            before=lambda: ranks.main_does(announce),
        )  # fmt: skip
    finally:
        if bar is not None:
            bar.close()
    if result.cached:
        say(f"{side.title}: {len(side.images)} images, seen before (the features come from {folder})")
    if result.unkept:
        say(f"note: the features of {side.name} can't be kept in {folder}: {result.unkept}")
    for name, reason in result.skipped[:5]:
        say(f"left out: {name}: {reason}")
    if len(result.skipped) > 5:
        say(f"left out: … and {len(result.skipped) - 5} more; --json names them all")
    return result


def _differences(kinds: list[str], fake: Features, real: Features | None) -> list[str]:
    notes = []
    if real is not None and fake.size and real.size and fake.size != real.size:
        (a, b), (c, d) = fake.size, real.size
        notes.append(
            f"the generated images are {b}x{a}, the real ones {d}x{c}: a difference in sharpness counts as a difference"
            " of the sets; --resolution N brings both to one size"
        )
    few = min((side.n for side in (fake, real) if side is not None and side.n is not None), default=10000)
    if few < 10000 and "fid" in kinds:
        notes.append(f"FID of few images ({few}) is too high; compare it only with FIDs of as many")
    return notes


def _unsaid(r: Request, fake: Features, real: Features | None) -> list[str]:
    """A note for each file of statistics that does not say what its numbers are of."""
    sides = ((r.target, fake), (r.stats, real))
    keys = {"resize": "the resize mode", "weights_sha256": "the Inception weights"}
    notes = []
    for path, side in sides:
        missing = [what for key, what in keys.items() if path and side is not None and key not in side.stats.meta]
        if missing:
            notes.append(
                f"{path} does not say {' and '.join(missing)} of its numbers: they must be those of the others"
            )
    return notes


def _rows(kinds, numbers: dict, dims: int | None, length, distance, num: int) -> list[Row]:
    n = numbers
    mark = "" if dims == 2048 else f"-{dims}"
    inception = f"Inception-{dims} features"
    rows = []
    for kind in kinds:
        if kind == "fid":
            rows.append(Row(f"FID{mark}", n["fid"], 4, "" if dims == 2048 else "no published FID is of these features"))
        elif kind == "kid":
            what = f"standard error; {n['kid_subsets']} subsets of {n['kid_subset_size']}, spread {n['kid_spread']:.6f}"
            error = n["kid_standard_error"] if np.isfinite(n["kid_standard_error"]) else None
            rows.append(Row(f"KID{mark}", n["kid"], 6, what if error is not None else what[16:], error))
        elif kind == "pr":
            vgg = f"{inception}, k {n['pr_k']}; the published metric is of VGG16's"
            rows += [Row("precision", n["precision"], 4, vgg), Row("recall", n["recall"], 4, vgg)]
            five = f"{inception}, k {n['density_k']}"
            rows += [Row("density", n["density"], 4, five), Row("coverage", n["coverage"], 4, five)]
        elif kind == "is":
            what = f"spread of {n['inception_score_splits']} parts; of the generated images alone"
            rows.append(Row("Inception Score", n["inception_score"], 4, what, n["inception_score_spread"]))
        elif kind == "ppl":
            what = f"in W, epsilon 1e-4, {num} pairs, distance: {distance.name}; not comparable with LPIPS' numbers"
            rows.append(Row("PPL", length, 2, what))
    return rows


def _print(result: Evaluation) -> None:
    s = result.settings
    sides = [("n_fake", "generated"), ("n_real", "real")][: 2 if s["data"] else 1]
    counts = " vs ".join(f"{s[key] or 'unknown number of'} {what}" for key, what in sides)
    tail = f"{s['dims']} dims, resize {s['resize'] or 'unknown'}, {counts}, seed {s['seed']}"
    for note in result.notes:
        click.echo(f"note: {note}")
    for row in result.rows:
        value = f"{row.value:.{row.digits}f}" + (f" ± {row.error:.{row.digits}f}" if row.error is not None else "")
        of = f"seed {s['seed']}" if row.name == "PPL" else tail  # which is of other features, perhaps
        click.echo(f"{row.name:<16}{value:<24}{of}" + (f" ({row.what})" if row.what else ""))


def _made(path: str) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
