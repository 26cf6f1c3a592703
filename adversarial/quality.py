"""FID of the averaged generator during a run: measured at network snapshots, never at the start, best one kept."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from adversarial.config import GameConfig
from adversarial.options import Options
from common.clock import clock
from common.errors import UserError
from common.words import counted
from discriminator.network_features import NetworkFeatures
from discriminator.weights import locate
from faces.patches import Patches
from faces.source import FaceSource, open_source
from metrics.collect import Features, collect, collect_cached, is_cached, seconds_for
from metrics.features import FeatureNetwork
from metrics.fid import check_enough, compare, metric_name, needs_vectors, parse_metric
from metrics.images import ArrayImages, GeneratedImages, Images, SourceImages
from metrics.inception import InceptionFeatures
from metrics.sampling import Sampling
from metrics.weights import find_weights
from stylegan2_ada.generator import Generator
from training.data import MEASURED_PATCHES, RunData
from training.processes import Processes
from training.telemetry import Telemetry

COMPARED = ("metric", "features", "dims", "reals", "kernel")  # FIDs that differ in one of these are not compared
SHARE = 0.1  # of a run's time that `auto` may spend on FID
NUMBERS = (
    "fid", "fid_unbiased", "fid_low", "fid_high", "kid", "kid_low", "kid_high", "kid_standard_error", "mind",
    "precision", "recall", "density", "coverage",
)  # fmt: skip


def metric_counts(metrics: str) -> dict[int, set[str]]:
    """What a list such as `fid1k,kid1k,fid5k` asks for: {1000: {fid, kid}, 5000: {fid}}, in its order. The FID comes
    with every count: it says which snapshot is the best. UserError for an unknown name."""
    counts: dict[int, set[str]] = {}
    for name in metrics.split(","):
        if name.strip():
            kind, count = parse_metric(name.strip())
            counts.setdefault(count, {"fid"}).add(kind)
    return counts


def beside_fid(row: dict) -> str:
    """The numbers of a row that were asked for besides its FID, for a line of the log; empty without any."""
    parts = [f"{name} {row[name]:.4g}" for name in ("kid", "mind", "precision", "recall") if name in row]
    if "fid_unbiased" in row:
        between = f" ({row['fid_low']:.2f} to {row['fid_high']:.2f})" if "fid_low" in row else ""
        parts.insert(0, f"without bias {row['fid_unbiased']:.2f}{between}")
    parts += [f"{row[name]} {row[f'fid_{name[7:]}']:.2f}" for name in row if name.startswith("metric_")]
    return "".join(f", {part}" for part in parts)


class FidMonitor:
    """FID (and KID, precision and recall where asked for) against the training reals, or those of `metric_data`. `auto`
    measures a cheap FID and only where the weights are at hand, for at most a tenth of the run's time. The processes of
    a run share the images."""

    def __init__(self, cfg: GameConfig, world: Processes, data: RunData, outdir: Path, tel: Telemetry) -> None:
        self.cfg, self.world, self.data, self.tel = cfg, world, data, tel
        self.cache = outdir / ".cache"
        self.pre: dict = data.facts["preprocess"]
        self.auto = cfg.metrics == "auto"
        self.best: dict | None = None
        self.real: Features | None = None
        self.skipped: str | None = None
        self.spent, self.began = 0.0, time.monotonic()
        self.cost = 0.0  # seconds that the next measurement of samples will take
        asked = cfg.metrics if not self.auto else "fid5k" if world.device.type == "cuda" else "fid1k"
        self.counts = {} if asked == "none" else metric_counts(asked)
        self.other: FaceSource | None = None
        self.real_name: str = f"{data.facts['name']} (training images)"
        self.real_count: int = data.facts["counts"]["train"]["real"]
        self.patches: dict = data.facts.get("patches", {})
        if self.patches:
            self.real_name, self.real_count = f"{data.facts['name']} (training patches)", self.patches["measured"]
        if cfg.options.metric_data:
            self.other = _reals_of(cfg.options.metric_data, cfg.options.data_root)
            data.facts["notes"] += [f"{cfg.options.metric_data}: {note}" for note in self.other.notes]
            self.real_name, self.real_count = self.other.name, len(self.other)
        for kinds in self.counts.values():
            check_enough(sorted(kinds), self.real_count, self.real_name)
        self.features = self._open_features() if self.counts else None

    def _open_features(self) -> FeatureNetwork | None:
        o, told = self.cfg.options, False
        if o.fid_features != "inception":
            return NetworkFeatures(o.fid_features, str(o.fid_weights)).to(self.world.device)

        def fetching(done: int, total: int) -> None:
            nonlocal told
            if not done or not told:
                told = True
                self.tel.say(f"fid         fetching the Inception weights once ({total / 1e6:.0f} MB)")
            self.tel.progress(f"fetching the Inception weights {done / 1e6:.0f}/{total / 1e6:.0f} MB")

        try:
            weights = self.world.main_does(
                lambda: find_weights(o.inception_weights, download=not self.auto, progress=fetching)
            )
        except UserError as e:
            if not self.auto or o.inception_weights:
                raise
            self.skipped = f"FID is not measured: {e}"
            return None
        return InceptionFeatures(weights, o.fid_dims).to(self.world.device)

    def announce(self) -> list[str]:
        """Lines for the start of a run: what will be measured and what it costs, or why nothing is."""
        if self.skipped:
            return [f"fid         {self.skipped}"]
        if self.features is None:
            return []
        one = self._seconds_for_one(self.features)
        self.cost = one * sum(self.counts)
        whose = "" if self.features.name == "inception" else f" of {self.features.name}"
        names = ", ".join(metric_name(kind, n) for n, kinds in self.counts.items() for kind in sorted(kinds))
        limit = f", at most {SHARE:.0%} of the time" if self.auto else ""
        return [
            f"fid         {names} with {self.features.dims} features{whose} against {counted(self.real_count, 'real')}"
            " of"
            f" {self.real_name} at snapshots, about {clock(self.cost)} each and {clock(one * self.real_count)}"
            f" once{limit}"
        ]

    def _seconds_for_one(self, features: FeatureNetwork) -> float:
        """Of an image, shared by all processes."""
        side = self.pre["resolution"]
        probe = ArrayImages(np.zeros((16, 3, side, side), np.uint8))
        return seconds_for(probe, features) / len(probe) / self.world.size

    def measure(self, G: Generator, nimg: int, *, final: bool = False) -> dict | None:
        """The numbers of `G` at `nimg` images: a row of the first count's, with `best` telling whether its FID is the
        lowest yet. Called on every process; rank 0 gets the row.

        None where nothing is measured: no weights, another rank, or the share of time that `auto` has is used up.
        """
        features = self.features
        if features is None or (self.auto and not self.world.main_does(lambda: self._affordable(features, final))):
            return None
        began = time.monotonic()
        if self.real is None:
            self.real = self._real_features(features)
            if self.real.unkept:
                self.tel.say(f"fid         the features of the reals can't be kept: {self.real.unkept}")
        sampled = time.monotonic()
        head = {"nimg": nimg, "kimg": nimg / 1000}
        # how photos became squares: FIDs against other ones are not comparable, not even of the same photos
        how = "patches" if self.patches else f"{self.pre['crop']} {self.pre['resample']}"
        kernel = f"{how} {self.pre['resolution']}"
        against = {"reals": self.real_name, "kernel": kernel}
        rows = [head | self._row(G, features, self.real, n, kinds) | against for n, kinds in self.counts.items()]
        now = time.monotonic()
        self.spent, self.cost = self.spent + now - began, now - sampled
        if not self.world.is_main:
            return None
        first, best = rows[0], self.best
        same = best is not None and all(first[k] == best.get(k, first[k]) for k in COMPARED)
        first["best"] = best is None or not same or first["fid"] < best["fid"]
        for i, row in enumerate(rows[1:], 2):
            first |= {f"{k}_{i}": v for k, v in row.items() if k == "metric" or (k in NUMBERS and v is not None)}
        if first["best"]:
            self.best = {"fid": first["fid"], "nimg": nimg, **{k: first[k] for k in COMPARED}}
        return first

    def _affordable(self, features: FeatureNetwork, final: bool) -> bool:
        """Whether the next FID stays within the share of the time until now, that of the reals (once) included."""
        if not self.cost:  # a run that goes on announces nothing
            self.cost = self._seconds_for_one(features) * sum(self.counts)
        cost = self.cost
        if self.real is None and not is_cached(features, self._real_key(), self.cache):
            cost += self.cost * self.real_count / sum(self.counts)
        elapsed = time.monotonic() - self.began
        affordable = self.spent + cost <= SHARE * elapsed
        if final and not affordable:
            self.tel.say(
                f"FID of the last snapshot is not measured: {clock(cost)} are more than {SHARE:.0%} of the run's"
                f" {clock(elapsed)} (`metrics` fid1k measures it always; evaluate.py generator does so afterwards)"
            )
        return affordable

    def _row(self, G: Generator, features: FeatureNetwork, real: Features, count: int, kinds: set[str]) -> dict:
        """The numbers of one count, and all that they depend on; empty on other ranks than 0."""
        began = time.perf_counter()
        sampling = Sampling(device=self.world.device, labels=self._labels())
        images = GeneratedImages(G, count, sampling)
        progress = self._progress("FID: looking at samples")
        fake = collect(images, features, keep=needs_vectors(kinds), ranks=self.world, progress=progress)
        if not self.world.is_main:
            return {}
        found = compare(kinds, fake, real, features, device=self.world.device)
        return {
            "metric": metric_name("fid", count),
            "features": features.name,
            **{k: v for k, v in found.items() if k in NUMBERS and np.isfinite(v)},
            **features.describe(),
            "n_fake": fake.n,
            "n_real": real.n,
            **sampling.describe(),
            "seconds": time.perf_counter() - began,
        }

    def _labels(self) -> np.ndarray | None:
        """One-hot classes of the training reals: samples are of each class as often as these."""
        if self.data.classes is None:
            return None
        of, count = self.data.classes
        return np.eye(count, dtype=np.float32)[of[of >= 0]]

    def _progress(self, what: str):
        return lambda done, total: self.tel.progress(f"{what} {done}" + (f"/{total}" if total else ""))

    def _real_key(self) -> str:
        """What names the content of the reals, in the cache."""
        if self.other is None:
            what = "patches of train" if self.patches else "train"
            return f"{self.data.facts['train_stamp']}|{self.pre}|{what} reals {self.real_count}"
        stamp = self.other.rendered_at(self.pre["resolution"]).content_stamp()
        return f"{stamp}|{self.pre}|reals {self.real_count}"

    def _real_images(self) -> Images:
        if self.other is not None:
            pre, workers = self.data.train.preprocess, self.cfg.options.workers
            return SourceImages(self.other, pre, workers=workers, allow_grey=True)
        train = self.data.train
        if isinstance(train, Patches):
            return ArrayImages(train.fixed(MEASURED_PATCHES, 0))
        index = np.flatnonzero(np.asarray(train.labels[: len(train.images)]) == 0)
        return ArrayImages(train.images, index)

    def _real_features(self, features: FeatureNetwork) -> Features:
        keep = any(needs_vectors(kinds) for kinds in self.counts.values())
        progress = self._progress("FID: looking at real images")
        images = self._real_images()
        try:
            return collect_cached(
                images, features, self._real_key(), self.cache, keep=keep, ranks=self.world, progress=progress
            )
        finally:
            images.close()

    def state_dict(self) -> dict:
        return {"best": self.best}

    def load_state_dict(self, state: dict) -> None:
        self.best = state["best"]


def check_asked(options: Options) -> None:
    """UserError for what is named for the metrics and is not there, or can't serve: before all images are decoded."""
    if options.metric_data:
        _reals_of(options.metric_data, options.data_root)
    if options.inception_weights is not None:
        find_weights(options.inception_weights)
    if options.fid_weights is not None:
        locate(options.fid_weights, "fid_weights")


def _reals_of(spec: str, data_root: str | None) -> FaceSource:
    """The real images of `metric_data`: of its training split where it has one."""
    try:
        source = open_source(spec, data_root=data_root)
    except UserError as e:
        raise UserError(f"`metric_data` {e}") from None
    source = source.select(label=0, split="train" if "train" in source.splits else None)
    if len(source) < 2:
        said = counted(len(source), "real image")
        raise UserError(f"`metric_data` {spec}: {said}; FID needs two or more, better thousands")
    return source
