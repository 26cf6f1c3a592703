"""FID of the averaged generator during a run: measured at network snapshots, never at the start, best one kept."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from adversarial.config import GameConfig
from adversarial.data import RunData
from adversarial.distributed import World
from adversarial.telemetry import Telemetry, clock
from faces.dataset import stream
from faces.errors import UserError
from faces.source import FaceSource, open_source
from metrics.fid import dataset_stats, estimate_seconds, fid_of_generator, parse_metric
from metrics.inception import InceptionFeatures
from metrics.stats import GaussianStats
from metrics.weights import find_weights

COMPARED = ("metric", "dims", "reals", "kernel")  # FIDs that differ in one of these are not compared
SHARE = 0.1  # of a run's time that `auto` may spend on FID


def metric_counts(metrics: str) -> list[int]:
    """Images each metric of a list such as `fid1k,fid5k` asks for; UserError for an unknown name."""
    return [parse_metric(name.strip()) for name in metrics.split(",") if name.strip()]


class FidMonitor:
    """FID against the training reals, or those of --metric-data. `auto` measures a cheap one and only where the
    weights are at hand."""

    def __init__(self, cfg: GameConfig, world: World, data: RunData, outdir: Path, tel: Telemetry) -> None:
        self.cfg, self.world, self.data, self.tel = cfg, world, data, tel
        self.cache = outdir / ".cache"
        self.auto = cfg.metrics == "auto"
        self.best: dict | None = None
        self.features: InceptionFeatures | None = None
        self.real = None
        self.skipped: str | None = None
        self.spent, self.began = 0.0, time.monotonic()
        self.counts = self._counts()
        self.other: FaceSource | None = None
        if cfg.options.metric_data and world.is_main:
            self.other = _reals_of(cfg.options.metric_data, cfg.options.data_root)
        if self.counts and world.is_main:
            self.features = self._open_features()

    def _counts(self) -> list[int]:
        if self.cfg.metrics == "none":
            return []
        if self.auto:
            return [5000 if self.world.device.type == "cuda" else 1000]
        return metric_counts(self.cfg.metrics)

    def _open_features(self) -> InceptionFeatures | None:
        o = self.cfg.options

        def fetching(done: int, total: int) -> None:
            if not done or not self.told:
                self.told = True
                self.tel.say(f"fid         fetching the Inception weights once ({total / 1e6:.0f} MB)")
            self.tel.progress(f"fetching the Inception weights {done / 1e6:.0f}/{total / 1e6:.0f} MB")

        self.told = False
        try:
            weights = find_weights(o.inception_weights, download=not self.auto, progress=fetching)
        except UserError as e:
            if not self.auto or o.inception_weights:
                raise
            self.skipped = f"FID is not measured: {e}"
            return None
        if o.fid_dims is not None:
            return InceptionFeatures(weights, o.fid_dims).to(self.world.device)
        try:
            return InceptionFeatures(weights, 2048).to(self.world.device)
        except UserError:
            return InceptionFeatures(weights, 768).to(self.world.device)

    def announce(self) -> list[str]:
        """Lines for the start of a run: what will be measured and what it costs, or why nothing is."""
        if self.skipped:
            return [f"fid         {self.skipped}"]
        if self.features is None:
            return []
        count = max(self.counts)
        seconds = estimate_seconds(None, self.features, count, device=self.world.device, max_images=16)
        reals = len(self.other) if self.other is not None else self.data.facts["counts"]["train"]["real"]
        names = ", ".join(f"fid{n}" if n % 1000 else f"fid{n // 1000}k" for n in self.counts)
        limit = f", at most {SHARE:.0%} of the time" if self.auto else ""
        return [
            f"fid         {names} with {self.features.dims} features against {reals} reals of {self._real_name()} at"
            " snapshots,"
            f" about {clock(seconds)} each and {clock(seconds * reals / count)} once{limit}"
        ]

    def measure(self, G: torch.nn.Module, nimg: int, *, final: bool = False) -> dict | None:
        """FIDs of `G` at `nimg` images; the row of the first metric with `best` telling whether it is the lowest yet.

        None where nothing is measured: no weights, another rank, or (`auto`) the share of time is used up.
        """
        if self.features is None:
            return None
        if self.auto and self.spent > SHARE * (time.monotonic() - self.began) and not final:
            return None
        began = time.monotonic()
        if self.real is None:
            self.real = self._real_stats(self._progress("FID: looking at real images"))
            began = time.monotonic()  # the reals are counted once, not against the share
        rows = []
        for count in self.counts:
            progress = self._progress("FID: looking at samples")
            row = fid_of_generator(
                G, self.features, self.real, count, device=self.world.device, labels=self._labels(), progress=progress
            )
            what = {"reals": self._real_name(), "kernel": self._kernel()}
            rows.append({"nimg": nimg, "kimg": nimg / 1000, **row, **what})
        self.spent += time.monotonic() - began
        first = rows[0]
        same = self.best is not None and all(first[k] == self.best.get(k, first[k]) for k in COMPARED)
        first["best"] = not same or first["fid"] < self.best["fid"]
        for i, row in enumerate(rows[1:], 1):
            first[f"fid_{i + 1}"] = row["fid"]
            first[f"metric_{i + 1}"] = row["metric"]
        if first["best"]:
            self.best = {"fid": first["fid"], "nimg": nimg, **{k: first[k] for k in COMPARED}}
        return first

    def _labels(self) -> np.ndarray | None:
        """One-hot classes of the training reals: samples are of each class as often as these."""
        if self.data.classes is None:
            return None
        of, count = self.data.classes
        return np.eye(count, dtype=np.float32)[of[of >= 0]]

    def _progress(self, what: str):
        return lambda done, total: self.tel.progress(f"{what} {done}" + (f"/{total}" if total else ""))

    def _real_name(self) -> str:
        return self.other.name if self.other is not None else f"{self.data.facts['name']} (training images)"

    def _kernel(self) -> str:
        """How photos became squares: FIDs against other ones are not comparable, not even of the same photos."""
        pre = self.data.facts["preprocess"]
        return f"{pre['crop']} {pre['resample']} {pre['resolution']}"

    def _real_stats(self, progress) -> GaussianStats:
        if self.other is not None:
            pre, workers = self.data.train.preprocess, self.cfg.options.workers
            source = self.other.rendered_at(pre.resolution)
            key = f"{source.content_stamp()}|{pre.to_dict()}|reals {len(source)}"
            images = stream(source, pre, workers=workers)
            return dataset_stats(images, self.features, cache_dir=self.cache, cache_key=key, progress=progress)
        train = self.data.train
        labels = torch.as_tensor(train.labels[: len(train.images)])
        index = torch.nonzero(labels == 0).flatten().numpy()
        facts = self.data.facts
        key = f"{facts['train_stamp']}|{facts['preprocess']}|train reals {len(index)}"
        images = (train.batch(index[i : i + 64]) for i in range(0, len(index), 64))
        return dataset_stats(images, self.features, cache_dir=self.cache, cache_key=key, progress=progress)

    def state_dict(self) -> dict:
        return {"best": self.best}

    def load_state_dict(self, state: dict) -> None:
        self.best = state["best"]


def _reals_of(spec: str, data_root: str | None) -> FaceSource:
    """The real images of --metric-data: of its training split where it has one."""
    try:
        source = open_source(spec, data_root=data_root)
    except UserError as e:
        raise UserError(f"--metric-data {e}") from None
    source = source.select(label=0, split="train" if "train" in source.splits else None)
    if len(source) < 2:
        raise UserError(f"--metric-data {spec}: {len(source)} real image(s); FID needs two or more, better thousands")
    return source
