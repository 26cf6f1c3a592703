"""`train_detector.py`: from a data source to a run folder with a calibrated detector in it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from adversarial.checkpoint import find_checkpoint as find_game
from adversarial.checkpoint import load_checkpoint as load_game
from adversarial.checkpoint import remove_leftovers, save_json
from adversarial.config import resolve_precision
from adversarial.data import native_resolution, open_splits
from adversarial.distributed import (
    World,
    barrier,
    broadcast_modules,
    join_world,
    leave_world,
    sum_gradients,
    sum_tensor,
)
from adversarial.lock import RunLock
from adversarial.run import StopRequest
from adversarial.telemetry import Telemetry, rewind_jsonl
from discriminator.backbones import Backbone, load_pretrained
from discriminator.models import new_network
from discriminator.training import state as checkpoints
from discriminator.training.feed import Feed, Group
from discriminator.training.finish import calibrated
from discriminator.training.fit import Fit, clock
from discriminator.training.peers import Alone
from discriminator.training.recipe import Recipe
from discriminator.training.selection import Validation
from faces.audit import cheap_gates
from faces.dataset import PackedFaces
from faces.degrade import Degradation, preset
from faces.errors import UserError
from faces.files import cache_folder
from faces.parallel import cores
from faces.preprocess import Preprocess
from faces.source import FaceSource, open_source

DETECTOR = "detector.safetensors"
SHOWN = 5  # left-out images named
MAX_HELD_OUT = 500


@dataclass
class Options:
    """What a training is asked for. `extra_fakes`, `replay`: (where, dose) pairs, dose a share of the fakes shown."""

    data: str
    model: str = "hybrid"
    size: str = "tiny"
    branches: tuple[str, ...] = ("spatial", "artefact")
    residual: str = "highpass"
    stride1: int = 0
    dropout: float = 0.3
    pretrained: bool = False
    backbone_weights: str | None = None
    data_root: str | None = None
    resolution: int | None = None
    square: str = "center"
    resize_filter: str = "lanczos"
    subset: int | None = None
    valid_images: int = 1000
    degradation: str = "train"
    extra_fakes: tuple[tuple[str, float], ...] = ()
    replay: tuple[tuple[str, float], ...] = ()
    allow_leaks: bool = False
    cache: str | None = None
    face: str = ""
    device: str = "auto"
    precision: str = "auto"
    workers: int | None = None
    threads: int | None = None
    checkpoint_minutes: float = 10.0


class _Peers(Alone):
    """torchrun's processes."""

    def __init__(self, world: World) -> None:
        super().__init__(world.device)
        self.world, self.rank, self.size, self.is_main = world, world.rank, world.size, world.is_main

    def average(self, params) -> None:
        if self.size > 1:
            params = list(params)
            sum_gradients(params, self.world)
            for p in params:
                p.grad /= self.size

    def told(self, value: float) -> float:
        if self.size == 1:
            return value
        return float(sum_tensor(torch.tensor([value if self.is_main else 0.0], device=self.device), self.world))

    def any(self, flag: bool) -> bool:
        return flag if self.size == 1 else bool(sum_tensor(torch.tensor([float(flag)], device=self.device), self.world))


def train(
    options: Options,
    recipe: Recipe,
    *,
    out: Path | None = None,
    resume: Path | None = None,
    outdir: Path = Path("runs"),
    quiet: bool = False,
) -> Path:
    """Train (or go on) and return the run's folder, which then holds detector.safetensors.

    out: the run's folder, which must not hold anything yet; None: a numbered one in `outdir`. resume: a run's folder,
    whose own options and recipe then count (of `options` only the machine's: device, workers, threads).
    UserError, one line, for what a person can mend; KeyboardInterrupt after a clean stop with its state saved."""
    if options.threads:
        torch.set_num_threads(options.threads)
    world = join_world(options.device)
    tel = Telemetry(world.is_main, quiet)
    try:
        with RunLock() as lock, StopRequest(tell=world.is_main) as stop:
            state = None
            if resume is not None:
                folder, state, options, recipe = _resumed(resume, options)
                if world.is_main:
                    lock.take(folder)
                    remove_leftovers(folder)
            else:
                _check_free(out, outdir)
            run = _Run(options, recipe, world, tel, resumed=state is not None)
            run.prepare()
            if resume is None:
                folder = _new_folder(run, out, outdir)
                if world.is_main:
                    lock.take(folder)
            return run.go(folder, state, lambda: stop.asked)
    finally:
        tel.close()
        leave_world()


class _Run:
    def __init__(self, options: Options, recipe: Recipe, world: World, tel: Telemetry, *, resumed: bool) -> None:
        self.o, self.recipe, self.world, self.tel, self.resumed = options, recipe, world, tel, resumed
        self.workers = options.workers if options.workers is not None else min(2, max(1, cores() - 1))
        self.degradation = load_degradation(options.degradation)
        self.facts: dict = {}

    # ---- before anything is written ----------------------------------------------------------------------------

    def prepare(self) -> None:
        """Data, gates, network: everything that can be refused."""
        o = self.o
        import cv2

        cv2.setNumThreads(1)  # the feed's threads are the parallel ones
        splits = open_splits(o.data, o.data_root, subset=o.subset, seed=self.recipe.seed)
        self.source = splits.source
        extra = [(_fakes_of(spec, o.data_root), spec, dose) for spec, dose in o.extra_fakes]
        if not (self.source.labels == 1).any() and not extra and not o.replay:
            raise UserError(
                f"{o.data}: has no fakes to learn from (folders called real and fake give the labels); add some with"
                " --extra-fakes FOLDER"
            )
        self.resolution = o.resolution or native_resolution(splits.train)
        self.pre = Preprocess(self.resolution, o.square, o.resize_filter)
        net = new_network(
            o.model, self.resolution, 3, size=o.size, branches=o.branches, residual=o.residual, stride1=o.stride1,
            dropout=o.dropout, seed=self.recipe.seed,
        )  # fmt: skip
        self.origin = "random weights"
        if o.pretrained or o.backbone_weights:
            if not isinstance(net, Backbone):
                raise UserError(f"--model {o.model}: has no published weights; leave --pretrained out")
            if not self.resumed:
                self.origin = load_pretrained(net, o.backbone_weights)
        self.net = net
        self.sizes = _count(net)
        self.notes = [*self.source.notes]
        if not self.resumed:
            self._gates()
        self._pack(splits, extra)
        self.fit = Fit(
            net,
            self.feed,
            self.validation,
            self.recipe,
            self.tel,
            peers=_Peers(self.world),
            workers=self.workers,
            checkpoint_minutes=o.checkpoint_minutes,
        )

    def _gates(self) -> None:
        """What tells the classes apart without looking at a face is refused, unless the person insists."""
        if not self.world.is_main:
            return
        if len(np.unique(self.source.labels)) < 2:
            self.facts["gates"] = "one class only: nothing to tell apart"
            return
        result = cheap_gates(
            self.source, spec=self.o.data, workers=self.workers,
            progress=lambda stage, done, total: self.tel.progress(f"leak gates: {stage} {done}/{total}"),
        )  # fmt: skip
        if result.failed and not self.o.allow_leaks:
            raise UserError(f"{result.complaint()}; or train all the same with --allow-leaks")
        if result.failed:
            self.notes.append(f"--allow-leaks: {result.complaint()}")
        passed = [f"{g.name} {g.verdict}" for g in result.gates]
        self.facts["gates"] = {"failed": [g.name for g in result.failed], "all": passed}
        self.notes += [note for note in result.notes if note not in self.notes]

    def _pack(self, splits, extra: list[tuple[FaceSource, str, float]]) -> None:
        o, seed = self.o, self.recipe.seed
        cache = {None: cache_folder() / "packed", "none": None}.get(o.cache, Path(o.cache or ""))
        train = self._packed(splits.train, "training", cache)
        valid = self._packed(_at_most(splits.valid, o.valid_images, seed), "validation", cache)
        labels = np.asarray(train.labels)
        groups = [
            Group("real", train.images, np.flatnonzero(labels == 0), 0),
            Group("set's fakes", train.images, np.flatnonzero(labels == 1), 1),
        ]
        judged, judged_labels = [valid.images], [np.asarray(valid.labels)]
        own_fakes = bool((np.asarray(valid.labels) == 1).any())
        added = [(self._packed(source, Path(spec).name, cache), spec, dose) for source, spec, dose in extra]
        for packed, spec, _ in added:
            if packed.enlarged and not train.enlarged and not o.allow_leaks:
                raise UserError(
                    f"--extra-fakes {spec}: {packed.enlarged} of its images are smaller than the {self.resolution} px"
                    " of the real ones: enlarged, they would give themselves away; give larger ones, a lower"
                    " --resolution, or --allow-leaks"
                )
        many = [(p.images, spec, dose) for p, spec, dose in added]
        many += [(_replayed(run, self.resolution), run, dose) for run, dose in o.replay]
        for k, (images, spec, dose) in enumerate(many):
            where = np.arange(len(images))
            if not own_fakes:  # the set cannot say what a fake is: some of these must
                where = np.random.default_rng([seed, 0xFA4E, k]).permutation(where)
                out, where = np.split(where, [min(max(1, len(where) // 10), MAX_HELD_OUT)])
                judged.append(images[np.sort(out)])
                judged_labels.append(np.ones(len(out), np.int64))
                where = np.sort(where)
            groups.append(Group(Path(spec).name or spec, images, where, 1, dose))
        self.feed = Feed(groups, self.degradation, self.recipe)
        images = judged[0] if len(judged) == 1 else np.concatenate(judged)
        self.validation = Validation.of(images, np.concatenate(judged_labels), self.degradation)
        if len(np.unique(self.validation.labels)) < 2:
            raise UserError(f"{o.data}: validation needs images of both classes; give more images")
        skipped = [s for p in (train, valid, *(p for p, _, _ in added)) for s in p.skipped]
        self.facts |= {
            "name": self.source.name, "fingerprint": self.source.fingerprint(), "preprocess": self.pre.to_dict(),
            "train": {g.name: len(g) for g in groups if len(g)},
            "shown": {g.name: round(s, 4) for g, s in zip(self.feed.groups, self.feed.shares, strict=True)},
            "valid": {"real": int((self.validation.labels == 0).sum()), "fake": int(self.validation.labels.sum())},
            "held_out": splits.held_out, "num_skipped": len(skipped),
            "skipped": [[str(a), str(b)] for a, b in skipped[:100]], "notes": self.notes,
        }  # fmt: skip

    def _packed(self, source: FaceSource, what: str, cache: Path | None) -> PackedFaces:
        def build() -> PackedFaces:
            return PackedFaces.build(
                source, self.pre, workers=max(1, self.workers), cache_dir=cache,
                progress=lambda done, total: self.tel.progress(f"reading {what} images {done}/{total}"),
            )  # fmt: skip

        if self.world.is_main:  # the others find the cache filled
            packed = build()
        barrier(self.world)
        return packed if self.world.is_main else build()

    # ---- the run -----------------------------------------------------------------------------------------------

    def go(self, folder: Path, state: dict | None, stop: Callable[[], bool]) -> Path:
        """Learn, then calibrate and write the detector."""
        fit = self.fit
        fit.folder, fit.stop = folder, stop
        if state is not None:
            fit.load_state_dict(state)
        broadcast_modules([fit.net, fit.ema], self.world)
        nimg = fit.step * self.recipe.batch
        if state is not None and self.world.is_main:
            for name in ("stats.jsonl", "metrics.jsonl"):
                rewind_jsonl(folder / name, nimg)
        self.tel.open(folder, nimg + 1 if state is not None else None)
        self._announce(folder, fit)
        if not fit.run():
            self.tel.say(f"stopped at step {fit.step}, saved; go on with --resume {folder}")
            raise KeyboardInterrupt
        if self.world.is_main:
            self._finish(folder, fit)
        barrier(self.world)
        return folder

    def _announce(self, folder: Path, fit: Fit) -> None:
        say, r = self.tel.say, self.recipe
        if self.resumed:
            say(f"resuming    {folder} at step {fit.step} of {fit.steps}")
            return
        say(f"run         {folder}")
        say(f"network     {self.o.model}: {self.sizes}; {self.origin}")
        counts = ", ".join(f"{n} {name}" for name, n in self.facts["train"].items())
        say(f"data        {self.facts['name']} at {self.resolution} px: {counts}; validation {self.facts['valid']}")
        shown = ", ".join(f"{100 * s:.3g} % {name}" for name, s in self.facts["shown"].items())
        how = {
            "sampling": "half of each batch is real", "weights": "as frequent as in the data, each class weighs half",
            "none": "as frequent as in the data, each image weighs the same",
        }[r.balance]  # fmt: skip
        say(f"shown       {shown} ({how}); degraded by {self.degradation.name!r}")
        phases = f"{r.epochs:g} epochs = {fit.steps} steps of {r.batch}"
        if fit.frozen:
            phases += f", the first {fit.frozen} with frozen layers"
        say(f"schedule    {phases}; lr {r.lr:g} {r.schedule}; {r.precision} on {self.world.device}")
        for name, reason in self.facts["skipped"][:SHOWN]:
            say(f"left out    {name}: {reason}")
        if self.facts["num_skipped"] > SHOWN:
            say(f"left out    … and {self.facts['num_skipped'] - SHOWN} more; config.json names up to 100")
        for note in self.notes:
            say(f"note        {note}")

    def _finish(self, folder: Path, fit: Fit) -> None:
        meta = {
            "trained_on": self.facts["name"], "fingerprint": self.facts["fingerprint"], "model": self.o.model,
            "weights_from": self.origin_told(folder), "shown": self.facts["shown"], "train_images": self.facts["train"],
            "recipe": self.recipe.to_dict(), "degradation": self.degradation.to_dict(), "best_step": fit.best_step(),
            "steps": fit.step, "parameters": sum(p.numel() for p in fit.net.parameters()), "version": _version(),
            "gates": self.facts.get("gates"),
        }  # fmt: skip
        if self.o.face:
            meta["face"] = self.o.face
        detector, found = calibrated(
            fit.best_network(), self.validation, self.pre, meta, workers=self.workers,
            progress=lambda done, total: self.tel.progress(f"calibrating {done}/{total}"),
        )  # fmt: skip
        path = folder / DETECTOR
        detector.save(path)
        self.tel.metric({"nimg": fit.step * self.recipe.batch, "step": fit.step, "final": True, **found})
        point = detector.calibration.at()
        self.tel.say(f"best        step {fit.best_step()}: validation AUC {found['auc']:.4f}")
        self.tel.say(f"calibrated  {point.describe()}")
        for name in ("clean", "degraded"):
            hit, false, both = (100 * found[f"{what}_{name}"] for what in ("found", "false_alarms", "balanced"))
            self.tel.say(
                f"{name:<12}AUC {found[f'auc_{name}']:.4f}; at the threshold {hit:.1f} % of the fakes found,"
                f" {false:.1f} % false alarms, balanced accuracy {both:.1f} %"
            )
        self.tel.say(f"unsure      {100 * (1 - point.coverage):.1f} % of validation images get no verdict")
        self.tel.say(f"detector    {path} ({path.stat().st_size / 1e6:.1f} MB) in {clock(fit.elapsed)}")

    def origin_told(self, folder: Path) -> str:
        """Where the first weights came from, also after a resume."""
        try:
            return str(json.loads((folder / "config.json").read_text(encoding="utf-8"))["origin"])
        except (OSError, ValueError, KeyError):
            return self.origin

    def config(self) -> dict:
        """For config.json, from which a run is resumed."""
        return {
            "detective": 1, "options": asdict(self.o), "recipe": self.recipe.to_dict(),
            "architecture": self.net.cfg.to_dict(), "degradation": self.degradation.to_dict(), "origin": self.origin,
            "data": self.facts, "version": _version(), "torch": torch.__version__,
        }  # fmt: skip


# ---- folders ------------------------------------------------------------------------------------------------------


def _check_free(out: Path | None, outdir: Path) -> None:
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: already holds something; give another folder, or go on with --resume {out}")
    parent = out if out is not None else outdir
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"{parent}: can't be written; give another folder with --out")


def _new_folder(run: _Run, out: Path | None, outdir: Path) -> Path:
    box: list = [None]
    if run.world.is_main:
        folder = out
        if folder is None:
            words = f"{run.facts['name']}-{run.resolution}-{run.o.model}"
            if run.o.model == "hybrid":
                words += f"-{run.o.size}"
            outdir.mkdir(parents=True, exist_ok=True)
            numbers = [int(m.group()) for d in outdir.iterdir() if (m := re.match(r"\d+", d.name))]
            words = re.sub(r"[^A-Za-z0-9_.-]+", "-", words)
            folder = outdir / f"{max(numbers, default=-1) + 1:05d}-detector-{words}"
        folder.mkdir(parents=True, exist_ok=True)
        save_json(folder / "config.json", run.config())
        box[0] = str(folder)
    if run.world.size > 1:
        torch.distributed.broadcast_object_list(box, src=0, device=run.world.device)
    return Path(box[0])


def _resumed(resume: Path, now: Options) -> tuple[Path, dict, Options, Recipe]:
    """The run's folder, state, options and recipe, with the machine's options as asked for now."""
    folder = resume.parent if resume.is_file() else resume
    if not folder.is_dir():
        raise UserError(f"--resume {resume}: no such run folder")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        saved, recipe = config["options"], config["recipe"]
        if config.get("detective") != 1:
            raise KeyError("detective")
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"--resume {resume}: holds no config.json of train_detector.py; give a run of it") from None
    known = {f.name for f in fields(Options)}
    values = {key: value for key, value in saved.items() if key in known}
    values["branches"] = tuple(values["branches"])
    for name in ("extra_fakes", "replay"):
        values[name] = tuple((spec, dose) for spec, dose in values[name])
    for name in ("device", "workers", "threads", "checkpoint_minutes", "cache"):
        values[name] = getattr(now, name)
    _, state = checkpoints.load(folder)
    return folder, state, Options(**values), Recipe.from_dict(recipe)


def newest_run(outdir: Path) -> Path:
    """The run of this command with the newest checkpoint below `outdir`. UserError where there is none."""
    runs = []
    for config in outdir.glob("*/config.json"):
        found = checkpoints.checkpoints(config.parent)
        if found and '"detective"' in config.read_text(encoding="utf-8", errors="replace")[:200]:
            runs.append((found[-1].stat().st_mtime_ns, config.parent))
    if not runs:
        raise UserError(f"{outdir}: no training of a detector to go on with; start one without --resume")
    return max(runs)[1]


# ---- data ---------------------------------------------------------------------------------------------------------


def load_degradation(spec: str) -> Degradation:
    """A preset's name, or a JSON file in the form of `Degradation.to_dict`. UserError for neither."""
    if not spec.endswith(".json"):
        return preset(spec)
    try:
        data = json.loads(Path(spec).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--degradation {spec}: can't be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"--degradation {spec}: is not JSON ({error})") from None
    try:
        return Degradation.from_dict(data)
    except (TypeError, ValueError) as error:
        raise UserError(f"--degradation {spec}: {error}") from None


def _fakes_of(spec: str, root: str | None) -> FaceSource:
    """The fakes of a source; all images of one that has no label folders."""
    source = open_source(spec, data_root=root)
    if len(np.unique(source.labels)) == 2:
        return source.select(label=1)
    items = [item._replace(label=1) for item in source.items]
    return FaceSource(source.name, source.store, items, source._entries, source.notes, source.manifest)


def _replayed(run: str, resolution: int) -> np.ndarray:
    """The fakes of older generators that a run of `train_gan.py` remembers, uint8 [N, 3, R, R]."""
    path = find_game(run, Path("runs"))
    try:
        images = load_game(path)["game"]["replay"]["images"].numpy()
    except (KeyError, AttributeError, TypeError):
        raise UserError(f"--replay {run}: {path.name} holds no older fakes; give a run with a verdict head") from None
    if images.ndim != 4 or images.shape[1] != 3 or not len(images):
        raise UserError(f"--replay {run}: {path.name} remembers no colour images; give another run")
    if images.shape[-1] != resolution:
        raise UserError(
            f"--replay {run}: its generator draws {images.shape[-1]} px, the detector looks at {resolution}: scaling"
            f" one class only would give it away; use --resolution {images.shape[-1]}"
        )
    return images


def _at_most(source: FaceSource, count: int, seed: int) -> FaceSource:
    """At most `count` random images of each class, in order."""
    rng = np.random.default_rng([seed, 0xA1])
    chosen = [rng.permutation(np.flatnonzero(source.labels == label))[:count] for label in (0, 1)]
    return source.select(np.sort(np.concatenate(chosen)))


def _count(net: torch.nn.Module) -> str:
    n = sum(p.numel() for p in net.parameters())
    return f"{n / 1e6:.2f} million weights"


def _version() -> str:
    try:
        return version("ganface")
    except PackageNotFoundError:
        return "source"


def precision_of(asked: str, device: str) -> str:
    """bf16 where the hardware computes in it, else fp32 (fp16 would need loss scaling)."""
    found = resolve_precision(asked, torch.device(device))
    return "fp32" if found == "fp16" else found


__all__ = ["Options", "load_degradation", "newest_run", "precision_of", "train"]
