"""What `evaluate.py generator` does: opens both sides, says how long it takes, measures, and lays the numbers out."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
import numpy as np
import torch

from adversarial.distributed import join_world, leave_world
from adversarial.telemetry import clock
from app.cli import download_bar, pick_device, progress
from app.measured import Measured, open_measured, open_reals
from app.path_length import mean_path_length, path_distance
from faces.errors import UserError
from faces.files import save_atomically
from metrics.collect import Features, collect, collect_cached, seconds_for
from metrics.fid import KINDS, compare, needs_vectors, parse_kinds
from metrics.images import SourceImages
from metrics.inception import InceptionFeatures
from metrics.ranks import Ranks
from metrics.sampling import Sampling
from metrics.stats import load_stats, save_stats
from metrics.weights import find_weights
from stylegan2_ada.download import cache_folder


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
    world = join_world(str(device))
    try:
        ranks = Ranks.join()
        with contextlib.ExitStack() as stack:
            result = _measure(request, kinds, world.device, ranks, stack)
        if result is None:
            return None
        _print(result)
        if request.json is not None:
            text = json.dumps(result.to_json(), indent=2) + "\n"
            save_atomically(_made(request.json), lambda tmp: tmp.write_text(text, encoding="utf-8") and None)
            click.echo(f"{request.json} written")
        if request.report is not None:
            from app.generator_report import write_generator_report

            click.echo(f"{write_generator_report(request.report, result)} written")
        return result
    finally:
        leave_world()


def _checked(request: Request) -> list[str]:
    """The metrics asked for; everything that can be refused before anything is opened."""
    kinds = parse_kinds(request.metrics)
    against = [kind for kind in kinds if kind in ("fid", "kid", "pr")]
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
        path = getattr(request, option)
        if path is not None and Path(path).exists() and not request.force:
            raise UserError(f"--{option.replace('_', '-')} {path}: is there already: choose another name, or --force")
    return kinds


def _measure(
    r: Request, kinds: list[str], device: torch.device, ranks: Ranks, stack: contextlib.ExitStack
) -> Evaluation | None:
    say = click.echo if ranks.is_main else lambda *_: None
    sampling = Sampling(r.seed, r.trunc, r.noise_mode, device=device)
    fake = open_measured(r, sampling, device, say)
    stack.callback(fake.close)
    features = _features(r, kinds, device, ranks, say)
    if "ppl" in kinds and fake.G is None:
        raise UserError(f"--metrics ppl: the path length needs a network, {r.target} holds images: leave it out")
    reals = open_reals(r, fake, say) if r.data else None
    if reals is not None:
        stack.callback(reals.close)
    distance = path_distance(r.ppl_distance, features) if "ppl" in kinds else None
    compared = [kind for kind in kinds if kind != "ppl"]
    keep, folder = needs_vectors(compared), _cache(r)

    notes = list(fake.notes) + (list(reals.notes) if reals is not None else [])
    real = load_stats(r.stats) if r.stats else None
    real = None if real is None else Features(real)
    fake_features, numbers = None, {}
    if compared:
        if reals is not None:
            real = _collected(reals, features, keep and compared != ["is"], folder, ranks, say)
        fake_features = _collected(fake, features, keep, folder if fake.G is None else None, ranks, say)
        if r.save_stats and ranks.is_main:
            save_stats(r.save_stats, real.stats)
            say(f"{r.save_stats} written: the statistics of {reals.name}")
        if ranks.is_main:
            numbers = compare(compared, fake_features, real, features, seed=r.seed, device=device)
            notes += _differences(fake_features, real)
    length = mean_path_length(fake.G, distance, r, sampling, ranks, say) if distance is not None else None
    if not ranks.is_main:
        return None
    settings = {
        **features.describe(),
        "n_fake": fake_features.n if fake_features is not None else None,
        "n_real": real.n if real is not None else None,
        **(sampling.describe() if fake.G is not None else {"seed": r.seed}),
        "class": r.class_index,
        "target": fake.name,
        "data": reals.name if reals is not None else r.stats,
        "preprocess": reals.preprocess.to_dict() if reals is not None and reals.preprocess else None,
        "runtime": features.runtime,
        "network_sha256": fake.sha256,
        "skipped": [list(pair) for f in (fake_features, real) if f is not None for pair in f.skipped],
    }
    rows = _rows(kinds, numbers, features, length, distance, r.num)
    samples = fake.first() if r.report else []
    return Evaluation(rows, settings, notes, samples, reals.first() if r.report and reals is not None else [])


def _features(r: Request, kinds: list[str], device: torch.device, ranks: Ranks, say) -> InceptionFeatures:
    with download_bar("fetching the Inception weights") as report:
        weights = ranks.main_does(lambda: find_weights(r.inception_weights, progress=report))
    runtime = r.runtime
    if runtime == "auto":
        runtime = "onnx" if device.type == "cpu" else "torch"
    elif runtime == "onnx" and device.type != "cpu":
        raise UserError(f"--runtime onnx computes on the CPU, not on {device}: add --device cpu, or --runtime torch")
    chunk = (16 if runtime == "onnx" else 8) if device.type == "cpu" else 64
    features = InceptionFeatures(weights, r.dims, resize=r.resize, chunk=chunk, runtime=runtime).to(device)
    if "is" in kinds and features.classifier is None:
        why = f"--dims is {r.dims}" if r.dims not in (None, 2048) else f"{weights} has none"
        raise UserError(
            "--metrics is: the Inception Score needs the classifier of the full network behind its 2048 dimensions, and"
            f" {why}; leave `is` out, or give pytorch-fid's full weights with --dims 2048"
        )
    if r.dims is None and features.dims != 2048:
        say(f"note: {weights} is a trunk: the numbers are of {features.dims} dimensions, not of the usual 2048")
    return features


def _cache(r: Request) -> Path | None:
    if r.no_cache:
        return None
    return Path(r.cache).expanduser() if r.cache else cache_folder() / "features"


def _collected(side: Measured, features, keep: bool, folder: Path | None, ranks: Ranks, say) -> Features:
    """Features of one side, after saying how long they will take."""
    if side.stats is not None:
        if keep:
            raise UserError(f"{side.name}: mean and covariance are enough for fid only: give the images themselves")
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
        if folder is None or not isinstance(side.images, SourceImages):
            _on_main(ranks, announce)
            result = collect(side.images, features, keep=keep, ranks=ranks, progress=report)
        else:
            key = side.images.content_key
            result = collect_cached(
                side.images, features, key, folder, keep=keep, ranks=ranks, progress=report,
                before=lambda: _on_main(ranks, announce),
            )  # fmt: skip
    finally:
        if bar is not None:
            bar.close()
    if result.cached:
        say(f"{side.title}: {len(side.images)} images, seen before (the features come from {folder})")
    for name, reason in result.skipped[:5]:
        say(f"left out: {name}: {reason}")
    if len(result.skipped) > 5:
        say(f"left out: … and {len(result.skipped) - 5} more; --json names them all")
    return result


def _on_main(ranks: Ranks, work: Callable[[], None]) -> None:
    """`work` on rank 0; an error there is one on all ranks."""
    ranks.main_does(work)


def _differences(fake: Features, real: Features | None) -> list[str]:
    notes = []
    if real is not None and fake.size and real.size and fake.size != real.size:
        (a, b), (c, d) = fake.size, real.size
        notes.append(
            f"the generated images are {b}x{a}, the real ones {d}x{c}: a difference in sharpness counts as a difference"
            " of the sets; --resolution N brings both to one size"
        )
    few = min(n for n in (fake.n, real.n if real is not None else fake.n) if n is not None)
    if few < 10000:
        notes.append(f"FID of few images ({few}) is too high; compare it only with FIDs of as many")
    return notes


def _rows(kinds, numbers: dict, features: InceptionFeatures, length, distance, num: int) -> list[Row]:
    dims, n = features.dims, numbers
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
    counts = " vs ".join(f"{s[k]} {what}" for k, what in (("n_fake", "generated"), ("n_real", "real")) if s[k])
    of = [f"{s['dims']} dims", f"resize {s['resize']}", counts or None, f"seed {s['seed']}"]
    tail = ", ".join(part for part in of if part)
    for note in result.notes:
        click.echo(f"note: {note}")
    for row in result.rows:
        value = f"{row.value:.{row.digits}f}" + (f" ± {row.error:.{row.digits}f}" if row.error is not None else "")
        click.echo(f"{row.name:<16}{value:<24}{tail}" + (f" ({row.what})" if row.what else ""))


def _made(path: str) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
