"""The two sides of a comparison: what is measured (a network, images or their statistics) and the real images."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from common.clock import clock
from common.errors import UserError
from common.files import cache_folder, sha256_of
from common.options import refuse
from common.words import counted
from evaluation.listener import Listener
from evaluation.options import GeneratorOptions
from faces.layout import Reading
from faces.preprocess import Preprocess
from faces.source import LISTED, FaceSource, open_source
from metrics.collect import Features, collect_cached, is_cached, seconds_for
from metrics.features import FeatureNetwork
from metrics.images import GeneratedImages, Images, SourceImages
from metrics.sampling import Sampling
from metrics.stats import GaussianStats, load_stats
from metrics.weights import find_weights
from stylegan2_ada.download import is_remote
from stylegan2_ada.generator import Generator
from stylegan2_ada.interop import load_any_generator
from synth.latents import check_class
from synth.network import find_network, generator_in, newest_in
from synth.render import in_precision
from training.processes import Processes
from training.run_folder import LATEST

NETWORKS = (".safetensors", ".pkl", ".pt", ".pth")
SHOWN = 64  # images of each side in a report


@dataclass
class Measured:
    """One side: images, or the statistics that stand for them; `G` is the network they come from, `key` what names
    their content in the cache."""

    title: str
    name: str
    content: Images | GaussianStats
    G: Generator | None = None
    sha256: str | None = None
    preprocess: Preprocess | None = None
    key: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def stats(self) -> GaussianStats | None:
        return self.content if isinstance(self.content, GaussianStats) else None

    def first(self) -> list[np.ndarray]:
        """The first images, uint8 [C, H, W], to be looked at."""
        return [] if isinstance(self.content, GaussianStats) else self.content.block(0).images[:SHOWN]

    def close(self) -> None:
        if not isinstance(self.content, GaussianStats):
            self.content.close()


def open_measured(options: GeneratorOptions, sampling: Sampling, device: torch.device, listener: Listener) -> Measured:
    """What the target is: statistics (.npz), a network (a file, a URL, a folder of a run or of runs, latest), or
    images."""
    path = Path(options.target)
    if path.suffix == ".npz":
        _check_drawn(options)
        return Measured("statistics", options.target, load_stats(path))
    if (
        is_remote(options.target)
        or options.target == LATEST
        or path.suffix in NETWORKS
        or (path.is_dir() and (generator_in(path) or newest_in(path)))
    ):
        return _network(options, sampling, device, listener)
    try:
        source = open_source(options.target, data_root=options.data_root, reading=Reading(ask=False))
    except UserError as error:
        networks = "a network: a .safetensors, .pkl or .pt file, the folder of a run, or latest"
        raise UserError(f"{error} (or {networks})") from None
    _check_drawn(options)
    notes = [f"{options.target}: {note}" for note in source.notes if not _is_of_fakes(path, note)]
    if 0 < int(source.labels.sum()) < len(source):
        fakes = int(source.labels.sum())
        notes.append(f"{options.target} holds real and fake images: the {fakes} fake ones are measured")
        source = source.select(label=1)
    num = options.num
    if len(source) > num:
        notes.append(f"{num} of the {len(source)} images of {options.target} are measured, evenly spread (`num`)")
        source = source.select(np.arange(num, dtype=np.int64) * len(source) // num)
    preprocess = Preprocess(options.resolution, options.crop, options.resize_filter) if options.resolution else None
    images = SourceImages(source, preprocess, workers=options.workers, allow_grey=options.allow_grey)
    brought = f" brought to {options.resolution}x{options.resolution}" if preprocess else ""
    listener.tell(f"{options.target}: {counted(len(source), 'image')}{brought}")
    return Measured("generated", options.target, images, preprocess=preprocess, notes=notes)


def _is_of_fakes(folder: Path, note: str) -> bool:
    """Whether a note is of a list that calls all of a folder's images fake, as `synth.py`'s manifest does: they are
    taken for that anyhow."""
    name, _, said = note.partition(" in it ")
    if not said.startswith(LISTED):
        return False
    with contextlib.suppress(UserError):
        return bool((open_source(folder / name, reading=Reading(ask=False)).labels == 1).all())
    return False


def _check_drawn(options: GeneratorOptions) -> None:
    """UserError for how samples are to be drawn, where they are there already."""
    drawn = f"says how a network draws, and {options.target} was drawn already: leave it out"
    refuse(options, ("class_index", "trunc", "noise_mode"), drawn)


def _network(options: GeneratorOptions, sampling: Sampling, device: torch.device, listener: Listener) -> Measured:
    if options.num < 2:
        raise UserError(f"`num` {options.num}: a generator's numbers need two images or more, better thousands")
    try:
        with listener.download("downloading") as report:
            path = find_network(options.target, progress=report)
    except UserError as error:
        raise UserError(str(error).removeprefix("`network` ")) from None
    G, meta = load_any_generator(path, device)
    G = in_precision(G, "fp32")
    size, channels = G.cfg.resolution, G.cfg.img_channels
    if channels not in (1, 3):
        raise UserError(f"{path}: makes images of {channels} channels: the metrics are for colour or grey images")
    if options.resolution not in (None, size):
        raise UserError(
            f"`resolution` {options.resolution}: the network makes {size}x{size}, and reals are brought to that"
        )
    if options.class_index is not None:
        check_class(G, options.class_index)
        row = np.eye(G.cfg.c_dim, dtype=np.float32)[options.class_index]
        sampling = dataclasses.replace(sampling, labels=row[None])
    classes = (
        f", {counted(G.cfg.c_dim, 'class', 'classes')} drawn uniformly"
        if G.cfg.c_dim and options.class_index is None
        else ""
    )
    sha256 = sha256_of(path)
    listener.tell(
        f"{path} ({size}x{size}{classes}, sha256 {sha256[:12]}…) on {device}: {counted(options.num, 'sample')}, psi"
        f" {sampling.psi:g}"
    )
    for note in meta["notes"]:
        listener.tell(f"note: {note}")
    images = GeneratedImages(G, options.num, sampling)
    return Measured("generated", str(path), images, G=G, sha256=sha256)


@dataclass(frozen=True)
class ListedReals:
    """The real images of `data`, listed but not opened. where: what they are called; said: of their number."""

    source: FaceSource
    where: str
    said: str
    notes: list[str]


def list_reals(data: str, options: GeneratorOptions) -> ListedReals:
    """The real images of `data`: of its training split where it has one and no other was asked for. Before a network
    is fetched or opened: a mistyped folder is told at once."""
    split = None if options.split in (None, "all") else options.split
    try:
        source = open_source(data, data_root=options.data_root, split=split, reading=Reading(options.labels))
    except UserError as error:
        raise UserError(f"`data`: {error}") from None
    notes = [f"{data}: {note}" for note in source.notes]
    if options.split is None and "train" in source.splits:
        source, split = source.select(split="train"), "train"
    source, said = _as_many(_only_real(source, data), options.num_real, options.num)
    where = f"{data}{f' ({split} split)' if split else ''}"
    return ListedReals(source, where, said, notes)


def open_reals(listed: ListedReals, options: GeneratorOptions, fake: Measured, listener: Listener) -> Measured:
    """As real images of a comparison, brought to the network's size where a network is measured."""
    size, channels = options.resolution, 3
    if fake.G is not None:
        size, channels = fake.G.cfg.resolution, fake.G.cfg.img_channels
    preprocess = Preprocess(size, options.crop, options.resize_filter, channels) if size else None
    how = f", {options.crop} {options.resize_filter} {size}" if preprocess else ", as they are"
    listener.tell(f"{listed.where}: {counted(len(listed.source), 'real image')}{how}{listed.said}")
    # a network's reals are made as the training made them, and it takes grey photos as colour ones
    grey = options.allow_grey or fake.G is not None
    images = SourceImages(listed.source, preprocess, workers=options.workers, allow_grey=grey)
    return Measured("real", listed.where, images, preprocess=preprocess, notes=listed.notes)


def check_several(name: str, count: int) -> None:
    """UserError for a set of one image."""
    if count < 2:
        raise UserError(f"{name}: a single image: these metrics need two or more, better thousands")


def _as_many(source: FaceSource, wanted: int | None, samples: int) -> tuple[FaceSource, str]:
    """As many as are wanted, evenly spread, and what is to be said of their number."""
    there = len(source)
    if wanted is not None and wanted > there:
        raise UserError(f"`num_real` {wanted}: there are only {there} real images: give at most {there}")
    if wanted is not None:
        return source.select(np.arange(wanted, dtype=np.int64) * there // wanted), f" of {there} (`num_real`)"
    more = there > samples
    return source, f" (all of them, `num` counts the generated ones; `num_real` {samples} takes fewer)" if more else ""


def _only_real(source: FaceSource, spec: str) -> FaceSource:
    fakes = int(source.labels.sum())
    if fakes == len(source):
        raise UserError(
            f"`data` {spec}: holds no real images (its folder is called fake): give the real ones, or say"
            " `labels` real=NAME with the folder's name"
        )
    return source.select(label=0) if fakes else source


def features_folder(options: GeneratorOptions) -> Path | None:
    """Where features of images are kept, None for nowhere."""
    if options.no_cache:
        return None
    return Path(options.cache).expanduser() if options.cache else cache_folder() / "features"


def fetched(path: str | None, sides: Iterable[Measured | None], listener: Listener, ranks: Processes) -> Path:
    """The Inception weights' file. They are not fetched for images that can't be compared: those are refused first."""

    def here() -> Path | None:
        with contextlib.suppress(UserError):
            return find_weights(path, download=False)
        return None

    if (found := ranks.main_does(here)) is not None:
        return found
    for side in sides:
        if side is not None and isinstance(side.content, SourceImages):
            ranks.main_does(side.content.check_alike)
    with listener.download("fetching the Inception weights") as report:
        return ranks.main_does(lambda: find_weights(path, progress=report))


def look_over(side: Measured, network: Callable[[], FeatureNetwork], folder: Path | None, ranks: Processes) -> None:
    """Refuse before the work begins what would end it, perhaps hours later; find out whether it was done before.

    network: gives what computes the features, asked only where it is needed. folder: the cache's, None without."""
    images = side.content
    if isinstance(images, GaussianStats):
        return
    if isinstance(images, SourceImages):
        key = side.key = None if folder is None else ranks.main_does(images.content_key)
        if not ranks.main_does(lambda: key is not None and folder is not None and is_cached(network(), key, folder)):
            ranks.main_does(images.check_alike)


def collected(
    side: Measured,
    network: Callable[[], FeatureNetwork],
    folder: Path | None,
    listener: Listener,
    ranks: Processes,
    *,
    keep: bool,
) -> Features:
    """Features of one side that was looked over, after saying how long they will take."""
    images = side.content
    if isinstance(images, GaussianStats):
        return Features(images)
    features, tell, bar = network(), listener.tell, None

    def report(done: int, total: int | None) -> None:
        nonlocal bar
        if bar is None:  # when work begins, so that nothing is measured for what lies in the cache
            bar = listener.bar(total=total, title=side.title, unit="img")
        bar.update(done - bar.n)

    def announce() -> None:
        seconds = seconds_for(images, features) / ranks.size
        tell(f"{side.title}: {counted(len(images), 'image')}, about {clock(seconds)}")

    try:
        result = collect_cached(
            images, features, side.key or "", folder if side.key else None, keep=keep, ranks=ranks,
            progress=report, before=lambda: ranks.main_does(announce),
        )  # fmt: skip
    finally:
        if bar is not None:
            bar.close()
    if result.cached:
        tell(f"{side.title}: {counted(len(images), 'image')}, seen before (the features come from {folder})")
    if result.unkept:
        tell(f"note: the features of {side.name} can't be kept in {folder}: {result.unkept}")
    for name, reason in result.skipped[:5]:
        tell(f"left out: {name}: {reason}")
    if len(result.skipped) > 5:
        tell(f"left out: … and {len(result.skipped) - 5} more; `json` names them all")
    return result
