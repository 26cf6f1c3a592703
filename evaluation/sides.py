"""The two sides of a comparison: what is measured (a network, images or their statistics) and the real images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from common.cli import download_bar
from common.errors import UserError
from faces.preprocess import Preprocess
from faces.source import FaceSource, open_source
from metrics.images import GeneratedImages, Images, SourceImages
from metrics.sampling import Sampling
from metrics.stats import GaussianStats, load_stats
from stylegan2_ada.download import is_remote
from stylegan2_ada.interop import load_any_generator
from synth.latents import check_class
from synth.network import file_sha256, find_network, generator_in, newest_in
from synth.render import in_precision

if TYPE_CHECKING:
    from evaluation.generator import Request

NETWORKS = (".safetensors", ".pkl", ".pt", ".pth")
SHOWN = 64  # images of each side in a report

Say = Callable[[str], None]


@dataclass
class Measured:
    """One side. `images` are measured, or `stats` stand for them; `G` is the network they come from, `key` what names
    their content in the cache."""

    title: str
    name: str
    images: Images | None = None
    stats: GaussianStats | None = None
    G: torch.nn.Module | None = None
    sha256: str | None = None
    preprocess: Preprocess | None = None
    key: str | None = None
    notes: list[str] = field(default_factory=list)

    def first(self) -> list[np.ndarray]:
        """The first images, uint8 [C, H, W], to be looked at."""
        return self.images.block(0).images[:SHOWN] if self.images is not None else []

    def close(self) -> None:
        if self.images is not None:
            self.images.close()


def open_measured(r: Request, sampling: Sampling, device: torch.device, say: Say) -> Measured:
    """What `r.target` names: statistics (.npz), a network (a file, a URL, a folder of a run or of runs), or images."""
    path = Path(r.target)
    if path.suffix == ".npz":
        return Measured("statistics", r.target, stats=load_stats(path))
    if is_remote(r.target) or path.suffix in NETWORKS or (path.is_dir() and _holds_a_generator(path)):
        return _network(r, sampling, device, say)
    try:
        source = open_source(r.target, data_root=r.data_root)
    except UserError as error:
        raise UserError(f"{error} (or a network: a .safetensors, .pkl or .pt file, or the folder of a run)") from None
    notes = [f"{r.target}: {note}" for note in source.notes]
    if 0 < int(source.labels.sum()) < len(source):
        notes.append(f"{r.target} holds real and fake images: the {int(source.labels.sum())} fake ones are measured")
        source = source.select(label=1)
    if len(source) > r.num:
        notes.append(f"{r.num} of the {len(source)} images of {r.target} are measured, evenly spread (--num)")
        source = source.select(np.arange(r.num, dtype=np.int64) * len(source) // r.num)
    preprocess = Preprocess(r.resolution, r.crop, r.resize_filter) if r.resolution else None
    images = SourceImages(source, preprocess, workers=r.workers, allow_grey=r.allow_grey)
    brought = f" brought to {r.resolution}x{r.resolution}" if preprocess else ""
    say(f"{r.target}: {len(source)} image{'s' * (len(source) > 1)}{brought}")
    return Measured("generated", r.target, images, preprocess=preprocess, notes=notes)


def _holds_a_generator(folder: Path) -> bool:
    return generator_in(folder) is not None or newest_in(folder) is not None


def _network(r: Request, sampling: Sampling, device: torch.device, say: Say) -> Measured:
    if r.num < 2:
        raise UserError(f"--num {r.num}: a generator's numbers need two images or more, better thousands")
    try:
        with download_bar() as report:
            path = find_network(r.target, progress=report)
    except UserError as error:
        raise UserError(str(error).removeprefix("`network` ")) from None
    G, meta = load_any_generator(path, device)
    G = in_precision(G, "fp32")
    size, channels = G.cfg.resolution, G.cfg.img_channels
    if channels not in (1, 3):
        raise UserError(f"{path}: makes images of {channels} channels: the metrics are for colour or grey images")
    if r.resolution not in (None, size):
        raise UserError(f"--resolution {r.resolution}: the network makes {size}x{size}, and reals are brought to that")
    if r.class_index is not None:
        check_class(G, r.class_index)
        row = np.eye(G.cfg.c_dim, dtype=np.float32)[r.class_index]
        sampling = dataclasses.replace(sampling, labels=row[None])
    classes = f", {G.cfg.c_dim} classes drawn uniformly" if G.cfg.c_dim and r.class_index is None else ""
    sha256 = file_sha256(path)
    say(f"{path} ({size}x{size}{classes}, sha256 {sha256[:12]}…) on {device}: {r.num} samples, psi {sampling.psi:g}")
    for note in meta["notes"]:
        say(f"note: {note}")
    images = GeneratedImages(G, r.num, sampling)
    return Measured("generated", str(path), images, G=G, sha256=sha256)


def open_reals(r: Request, fake: Measured, say: Say) -> Measured:
    """The real images of `--data`: of its training split where it has one and no other was asked for; brought to the
    network's size where a network is measured."""
    split = None if r.split in (None, "all") else r.split
    try:
        source = open_source(r.data, data_root=r.data_root, split=split)
    except UserError as error:
        raise UserError(f"--data: {error}") from None
    notes = [f"{r.data}: {note}" for note in source.notes]
    if r.split is None and "train" in source.splits:
        source, split = source.select(split="train"), "train"
    source = _only_real(source, r.data)
    size = fake.G.cfg.resolution if fake.G is not None else r.resolution
    channels = fake.G.cfg.img_channels if fake.G is not None else 3
    preprocess = Preprocess(size, r.crop, r.resize_filter, channels) if size else None
    where = f"{r.data}{f' ({split} split)' if split else ''}"
    how = f", {r.crop} {r.resize_filter} {size}" if preprocess else ", as they are"
    say(f"{where}: {len(source)} real images{how}")
    # a network's reals are made as the training made them, and it takes grey photos as colour ones
    grey = r.allow_grey or fake.G is not None
    images = SourceImages(source, preprocess, workers=r.workers, allow_grey=grey)
    return Measured("real", where, images, preprocess=preprocess, notes=notes)


def _only_real(source: FaceSource, spec: str) -> FaceSource:
    fakes = int(source.labels.sum())
    if fakes == len(source):
        raise UserError(f"--data {spec}: holds no real images (its folder is called fake): give the real ones")
    return source.select(label=0) if fakes else source
