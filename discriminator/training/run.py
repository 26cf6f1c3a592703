"""`train_detector.py`: from a data source to a run folder with a calibrated detector in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from common.cli import own_version
from common.clock import clock
from common.errors import UserError
from common.parallel import cores
from discriminator.backbones import Backbone, load_pretrained
from discriminator.models import NetworkOptions, new_network
from discriminator.training.data import Gathered, Options, load_degradation, open_all, pack, pass_gates
from discriminator.training.exploration import explore, imbalance, say_imbalance
from discriminator.training.finish import fitted
from discriminator.training.fit import Fit
from discriminator.training.folders import check_free, name_of, resumed
from discriminator.training.recipe import Recipe
from discriminator.training.selection import scores
from faces.dataset import PackedFaces
from faces.degrade import Degradation
from faces.preprocess import Preprocess
from faces.source import FaceSource
from reports.detector_training import Outcome, TrainingPage
from training.lock import RunLock
from training.memory import keep_freed_memory
from training.operations import prepare_operations
from training.precision import resolve_precision
from training.processes import Processes
from training.run_folder import CONFIG, new_run, remove_leftovers
from training.stop import StopRequest
from training.telemetry import Telemetry, rewind_jsonl

DETECTOR = "detector.safetensors"
SHOWN = 5  # left-out images named


@dataclass(frozen=True)
class Part:
    """A training that is one of several on shared images: its data comes from whoever leads them, gates passed.

    gather() -> what it learns from; packed: in place of decoding; whole: the folder by which all of them are resumed.
    """

    gather: Callable[[], Gathered]
    packed: Callable[[FaceSource, str, Preprocess, Path | None], PackedFaces]
    whole: Path


def train(
    options: Options,
    recipe: Recipe,
    *,
    out: Path | None = None,
    resume: Path | None = None,
    outdir: Path = Path("runs"),
    quiet: bool = False,
    part: Part | None = None,
    report: bool = True,
) -> Path:
    """Train (or go on) and return the run's folder, which then holds detector.safetensors.

    out: the run's folder, which must not hold anything yet; None: a numbered one in `outdir`. resume: a run's folder,
    whose own options and recipe then count (of `options` only the machine's: device, workers, threads).
    UserError, one line, for what a person can mend; KeyboardInterrupt after a clean stop with its state saved."""
    if options.threads:
        torch.set_num_threads(options.threads)
    world = Processes.join(options.device)
    tel = Telemetry(world.is_main, quiet)
    try:
        with RunLock() as lock:
            state = config = None
            if resume is not None:
                folder, state, options, recipe, config = resumed(resume, options)
                if part is None and "fold" in config["data"]:
                    raise UserError(
                        f"--resume {resume}: is one fold of several, which are resumed together; give their folder"
                        " (it holds folds.json)"
                    )
                if world.is_main:
                    lock.take(folder)
                    remove_leftovers(folder)
            else:
                check_free(out, outdir)
            run = _Run(options, recipe, world, tel, config, part)
            run.report = report
            run.prepare()
            if resume is None:
                folder = _new_folder(run, out, outdir, lock)
            return run.go(folder, state)
    finally:
        tel.close()
        world.leave()


class _Run:
    def __init__(
        self, options: Options, recipe: Recipe, world: Processes, tel: Telemetry, begun: dict | None, part: Part | None
    ) -> None:
        """begun: config.json of the run that is resumed."""
        self.o, self.recipe, self.world, self.tel, self.begun, self.part = options, recipe, world, tel, begun, part
        self.report, self.page, self.operations = True, None, None
        self.workers = options.workers if options.workers is not None else min(2, max(1, cores() - 1))
        if begun is None:
            self.degradation = load_degradation(options.degradation)
        else:  # as it was then, whatever has become of the file
            self.degradation = Degradation.from_dict(begun["degradation"])

    # ---- before anything is written ----------------------------------------------------------------------------

    def prepare(self) -> None:
        """Data, gates, network: everything that can be refused."""
        o = self.o
        import cv2

        cv2.setNumThreads(1)  # the feed's threads are the parallel ones
        self.data = open_all(o, self.recipe.seed) if self.part is None else self.part.gather()
        if self.begun is not None and self.data.source.fingerprint() != self.begun["data"]["fingerprint"]:
            raise UserError(
                f"--resume: {o.data} is not what it was when the run began (other files, sizes or labels); bring it"
                " back, or start a new run"
            )
        self.pre = self.data.pre
        shape = NetworkOptions(
            size=o.size, branches=o.branches, residual=o.residual, stride1=o.stride1, dropout=o.dropout, head=o.head,
            patches=self.recipe.patch > 0, reconstruct=o.reconstruct,
        )  # fmt: skip
        net = new_network(o.model, self.pre.resolution, 3, shape, seed=self.recipe.seed)
        self.origin = "random weights"
        if o.pretrained or o.backbone_weights:
            if not isinstance(net, Backbone):
                raise UserError(f"--model {o.model}: has no published weights; leave --pretrained out")
            if self.begun is None:
                self.origin = load_pretrained(net, o.backbone_weights)
        self.net = net
        self.sizes = _count(net)
        if o.model == "hybrid":  # its trunk is StyleGAN2's
            self.tel.progress("making native operations ready, once for this machine", at_once=True)
            self.operations = prepare_operations(self.world.device)[1]
        if self.begun is not None:
            self.origin, self.data.facts["gates"] = self.begun["origin"], self.begun["data"].get("gates")
        elif self.world.is_main and self.part is None:
            pass_gates(self.data, o, workers=self.workers, progress=self.tel.progress)
        packed = self._packed if self.part is None else self.part.packed
        pack(self.data, o, self.recipe, self.degradation, packed)
        self.facts = self.data.facts
        self.facts["imbalance"] = imbalance(self.data.feed, self.recipe.balance)
        self.fit = Fit(
            net,
            self.data.feed,
            self.data.validation,
            self.recipe,
            self.tel,
            peers=self.world,
            workers=self.workers,
            checkpoint_minutes=o.checkpoint_minutes,
        )

    def _packed(self, source: FaceSource, what: str, pre: Preprocess, cache: Path | None) -> PackedFaces:
        def build() -> PackedFaces:
            return PackedFaces.build(
                source, pre, workers=max(1, self.workers), cache_dir=cache,
                progress=lambda done, total: self.tel.progress(f"reading {what} images {done}/{total}"),
            )  # fmt: skip

        if self.world.is_main:  # the others find the cache filled
            packed = build()
        self.world.barrier()
        return packed if self.world.is_main else build()

    # ---- the run -----------------------------------------------------------------------------------------------

    def go(self, folder: Path, state: dict | None) -> Path:
        """Learn, then calibrate and write the detector."""
        if self.world.device.type == "cpu":  # a sixth of the time went into page faults
            keep_freed_memory()
        fit = self.fit
        fit.folder = folder
        if state is not None:
            fit.load_state_dict(state)
        self.world.broadcast([fit.net, fit.ema])
        nimg = fit.step * self.recipe.batch
        if state is not None and self.world.is_main:
            for name in ("stats.jsonl", "metrics.jsonl"):
                rewind_jsonl(folder / name, nimg)
        self.tel.open(folder, nimg + 1 if state is not None else None)
        self._announce(folder, fit)
        if self.report and self.world.is_main:
            self._look_at_data(folder)
        with StopRequest(tell=self.world.is_main) as stop:  # before and after it, Ctrl-C ends the program at once
            fit.stop = lambda: stop.asked
            finished = fit.run()
        if not finished:
            whole = folder if self.part is None else self.part.whole
            self.tel.say(f"stopped at step {fit.step}, saved; go on with --resume {whole}")
            raise KeyboardInterrupt
        if self.world.is_main:
            self._finish(folder, fit)
        self.world.barrier()
        return folder

    def _announce(self, folder: Path, fit: Fit) -> None:
        say, r = self.tel.say, self.recipe
        if self.begun is not None:
            say(f"resuming    {folder} at step {fit.step} of {fit.steps}")
            return
        say(f"run         {folder}")
        say(f"network     {self.o.model}: {self.sizes}; {self.origin}")
        if self.operations:
            say(f"operations  {self.operations}")
        counts = ", ".join(f"{n} {name}" for name, n in self.facts["train"].items())
        say(f"data        {self.facts['name']} at {self.pre.resolution} px: {counts}; validation {self.facts['valid']}")
        shown = ", ".join(f"{100 * s:.3g} % {name}" for name, s in self.facts["shown"].items())
        say(f"shown       {shown}; degraded by {self.degradation.name!r}")
        say(f"balance     {say_imbalance(self.facts['imbalance'])}")
        phases = f"{r.epochs:g} epochs = {fit.steps} steps of {r.batch}"
        if fit.frozen:
            phases += f", the first {fit.frozen} with frozen layers"
        say(f"schedule    {phases}; lr {r.lr:g} {r.schedule}; {r.precision} on {self.world.device}")
        for name, reason in self.facts["skipped"][:SHOWN]:
            say(f"left out    {name}: {reason}")
        if self.facts["num_skipped"] > SHOWN:
            say(f"left out    … and {self.facts['num_skipped'] - SHOWN} more; config.json names up to 100")
        for note in self.data.notes:
            say(f"note        {note}")

    def _look_at_data(self, folder: Path) -> None:
        self.tel.progress("drawing what the data look like", at_once=True)
        test = self.data.splits.source.select(split="test")
        counts = {"real": int((test.labels == 0).sum()), "fake": int((test.labels == 1).sum())} if len(test) else None
        found = explore(self.data.feed, self.data.validation, self.degradation, self.recipe.seed, counts)
        self.page = TrainingPage(folder, self.config(), found, self.tel)
        self.page.begin()

    def _finish(self, folder: Path, fit: Fit) -> None:
        meta = {
            "trained_on": self.facts["name"], "fingerprint": self.facts["fingerprint"], "model": self.o.model,
            "weights_from": self.origin, "shown": self.facts["shown"], "train_images": self.facts["train"],
            "recipe": self.recipe.to_dict(), "degradation": self.degradation.to_dict(), "best_step": fit.best_step(),
            "steps": fit.step, "parameters": sum(p.numel() for p in fit.net.parameters()), "version": own_version(),
            "gates": self.facts.get("gates"), "seconds": round(fit.elapsed),
        }  # fmt: skip
        if "fold" in self.facts:
            meta["fold"] = self.facts["fold"]
        if self.o.recipe_file:
            meta["recipe_file"] = self.o.recipe_file["name"]
        if self.o.face:
            meta["face"] = self.o.face
        net, validation = fit.best_network(), self.data.validation
        logits = scores(
            net, validation, workers=self.workers,
            progress=lambda done, total: self.tel.progress(f"calibrating {done}/{total}"),
        )  # fmt: skip
        detector, found = fitted(net, validation, logits, self.pre, meta)
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
        if self.page is not None:
            views = {name: row for (name, _), row in zip(validation.views, logits, strict=True)}
            outcome = Outcome(validation.labels, views, detector.calibration, fit.best_step(), found)
            self.tel.say(f"report      {self.page.finish(outcome, fit.step * self.recipe.batch)}")
        self.tel.say(f"detector    {path} ({path.stat().st_size / 1e6:.1f} MB) in {clock(fit.elapsed)}")

    def config(self) -> dict:
        """For config.json, from which a run is resumed."""
        return {
            "detector": 1, "options": asdict(self.o), "recipe": self.recipe.to_dict(),
            "architecture": self.net.cfg.to_dict(), "degradation": self.degradation.to_dict(), "origin": self.origin,
            "data": self.facts, "version": own_version(), "torch": torch.__version__,
        }  # fmt: skip


def _new_folder(run: _Run, out: Path | None, outdir: Path, lock: RunLock) -> Path:
    name = name_of("detector", run.facts["name"], run.pre.resolution, run.o)
    return run.world.main_does(lambda: new_run(outdir, name, lock, {CONFIG: run.config()}, out=out))


def _count(net: torch.nn.Module) -> str:
    n = sum(p.numel() for p in net.parameters())
    return f"{n / 1e6:.2f} million weights"


def precision_of(asked: str, device: str) -> str:
    """bf16 where the hardware computes in it, else fp32 (fp16 would need loss scaling)."""
    found = resolve_precision(asked, torch.device(device))
    return "fp32" if found == "fp16" else found


__all__ = ["Options", "load_degradation", "precision_of", "train"]
