"""A detector's training: from a data source to a run folder with a calibrated detector in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch

from common.cli import own_version
from common.clock import clock
from common.errors import UserError
from discriminator.backbones import Borrowing, load_pretrained
from discriminator.detector import round_to_half
from discriminator.levels import Levels
from discriminator.models import build, new_network
from discriminator.network import Network
from discriminator.origins import TAUGHT, Lesson, lessons_of, lessons_told
from discriminator.training.cutting import check_patch_options, opener, share_out_patches
from discriminator.training.data import (
    Decode,
    Gathered,
    decoder,
    decoding_threads,
    load_degradation,
    open_all,
    pass_gates,
    share_out,
)
from discriminator.training.exploration import Exploration, explore, imbalance, say_imbalance
from discriminator.training.feed import LabelledFeed
from discriminator.training.finish import TrainingEnd, calibrated
from discriminator.training.fit import Fit
from discriminator.training.folders import Begun, check_free, check_unchanged, name_of, resumed
from discriminator.training.options import RunPlace, TrainerOptions
from discriminator.training.probe import Probe
from discriminator.training.recipe import Recipe
from discriminator.training.selection import Validation
from discriminator.training.start import Start, network_from
from faces.degrade import Degradation
from faces.source import FaceSource
from metrics.classification import swapped_note
from metrics.few import auc_text, balanced_text, counts_text, share_text
from training.launch import mark, own_checkpoint
from training.lock import RunLock
from training.memory import keep_freed_memory
from training.operations import prepare_operations
from training.processes import LOST_PROCESS, Processes
from training.run_folder import CONFIG, folders_in, new_run, remove_leftovers
from training.stop import StopRequest
from training.telemetry import Telemetry, rewind_jsonl

Decoded = TypeVar("Decoded")
DETECTOR = "detector.safetensors"
SHOWN = 5  # left-out images named


@dataclass(frozen=True)
class SharedImages:
    """A training that is one of several on shared images: its data comes from whoever leads them, gates passed.

    gather() -> what it learns from; decode: finds it decoded; whole: the folder by which all of them are resumed.
    """

    gather: Callable[[], Gathered]
    decode: Decode
    whole: Path


Finish = Callable[[TrainingEnd, int], Path]  # after so many images; writes the page and returns its file
# of run folder, its config.json and the data: begins the training's page
MakeReport = Callable[[Path, dict, Exploration, Telemetry], Finish]


def train(
    options: TrainerOptions,
    recipe: Recipe,
    place: RunPlace,
    *,
    part: SharedImages | None = None,
    report: MakeReport | None = None,
) -> Path:
    """Train (or go on) and return the run's folder, which then holds detector.safetensors. report: makes its page.

    UserError, one line, for what a person can mend; KeyboardInterrupt after a clean stop with its state saved."""
    if options.threads:
        torch.set_num_threads(options.threads)
    world = Processes.join(options.device)
    tel = Telemetry(world.is_main, place.quiet, place.flags)
    try:
        with RunLock() as lock:
            begun = None
            places = [place.out or place.resume] if place.out or place.resume else folders_in(place.outdir)
            if own := world.main_does(lambda: own_checkpoint([p for p in places if p is not None])):
                place = replace(place, resume=own.parent, out=None)
            if place.resume is not None:
                begun = resumed(place.resume, options)
                options, recipe = begun.options, begun.recipe
                if part is None and "fold" in begun.config["data"]:
                    raise UserError(
                        f"`resume` {place.resume}: is one fold of several, which are resumed together; give their"
                        " folder (it holds folds.json)"
                    )
                if world.is_main:
                    lock.take(begun.folder)
                    remove_leftovers(begun.folder)
            else:
                check_free(place.out, place.outdir)
            run = _Training(options, recipe, world, tel, begun, part)
            run.prepare()
            return run.go(begun.folder if begun else run.new_folder(place, lock), report)
    except RuntimeError as error:
        if not world.lost(error):
            raise
        raise UserError(f"{LOST_PROCESS} its folder") from None
    finally:
        tel.close()
        world.leave()


@dataclass
class _Training:
    o: TrainerOptions
    recipe: Recipe
    world: Processes
    tel: Telemetry
    begun: Begun | None
    part: SharedImages | None
    finish_page: Finish | None = None
    operations: str = ""
    earlier: list[Lesson] = field(default_factory=list)  # the sets that taught what it began from

    def __post_init__(self) -> None:
        self.o = replace(self.o, patches=self.recipe.patch > 0)
        self.workers = decoding_threads(self.o)
        if self.begun is None:
            self.degradation = load_degradation(self.o.degradation)
        else:  # as it was then, whatever has become of the file
            self.degradation = Degradation.from_dict(self.begun.config["degradation"])

    # ---- before anything is written ----------------------------------------------------------------------------

    def prepare(self) -> None:
        """Data, gates, network: everything that can be refused."""
        o = self.o
        check_patch_options(o, self.recipe)
        if o.start_from is not None and o.borrows:
            raise UserError(
                "`start_from`: begins from a run, `pretrained` and `backbone_weights` from others' weights; give one"
            )
        import cv2

        cv2.setNumThreads(1)  # the feed's threads are the parallel ones
        self.data = open_all(o, self.recipe.seed) if self.part is None else self.part.gather()
        if self.begun is not None:
            then = self.begun.config["data"]["fingerprint"]
            check_unchanged(self.data.source.fingerprint() == then, o.data)
        self.pre = self.data.pre
        net, self.origin = self._network()
        if o.borrows:
            if not isinstance(net, Borrowing):
                raise UserError(f"`model` {o.model}: has no published weights; leave `pretrained` out")
            if self.begun is None:
                self.origin = load_pretrained(net, o.backbone_weights)
        elif isinstance(net, Levels) and o.start_from is None:
            raise UserError(
                f"`model` {o.model}: stays as it is, so it needs weights: give `backbone_weights`, `pretrained` or"
                " `start_from`"
            )
        self.net = net
        if o.model == "hybrid":  # its trunk is StyleGAN2's
            self.tel.progress("making native operations ready, once for this machine", at_once=True)
            self.operations = prepare_operations(self.world.device)[1]
        if self.begun is not None:
            config = self.begun.config
            self.origin, self.data.facts["gates"] = config["origin"], config["data"].get("gates")
        elif self.world.is_main and self.part is None:
            pass_gates(self.data, o, workers=self.workers, progress=self.tel.progress)
        feed, validation = self._share_out()
        self.facts = self.data.facts
        if self.begun is not None and self.begun.config["data"].get("twins") != self.facts.get("twins"):
            check_unchanged(False, ", ".join(spec for spec, _ in o.twins))
        self.facts["imbalance"] = imbalance(feed, self.recipe.balance)
        self.fit: Fit | Probe
        rest = feed, validation, self.recipe, self.tel
        if isinstance(net, Levels):
            self.fit = Probe(net, *rest, peers=self.world, workers=self.workers)
        else:
            self.fit = Fit(net, *rest, peers=self.world, workers=self.workers)
        self.fit.checkpoint_minutes = o.checkpoint_minutes

    def new_folder(self, place: RunPlace, lock: RunLock) -> Path:
        name = name_of("detector", self.facts["name"], self.pre.resolution, self.o)
        return self.world.main_does(lambda: new_run(place.outdir, name, lock, {CONFIG: self.config()}, out=place.out))

    def _network(self) -> tuple[Network, str]:
        o, side, seed = self.o, self.pre.resolution, self.recipe.seed
        if self.begun is not None:  # its checkpoint has the weights, whatever has become of what it began from
            self.earlier = lessons_of({TAUGHT: self.begun.config.get(TAUGHT)})
            return build(self.begun.config["architecture"]), self.begun.config["origin"]
        if o.start_from is None:
            return new_network(o.model, side, 3, o, seed=seed), "random weights"
        start = Start.open(o.start_from)
        self.earlier = start.lessons
        return network_from(start, o.model, side, o, seed)

    def _share_out(self) -> tuple[LabelledFeed, Validation]:
        given = self.data, self.o, self.recipe, self.degradation
        if self.part is not None:
            return share_out(*given, self.part.decode)
        how = self.o, self.pre, self.workers, self.tel.progress
        if self.o.patch_size is not None:
            return share_out_patches(*given, self._once(opener(*how)))
        return share_out(*given, self._once(decoder(*how)))

    def _once(self, decode: Callable[[FaceSource, str], Decoded]) -> Callable[[FaceSource, str], Decoded]:
        def by_turns(source: FaceSource, what: str) -> Decoded:
            if self.world.is_main:  # the others find the cache filled
                rows = decode(source, what)
            self.world.barrier()
            return rows if self.world.is_main else decode(source, what)

        return by_turns

    # ---- the run -----------------------------------------------------------------------------------------------

    def go(self, folder: Path, report: MakeReport | None) -> Path:
        """Learn, then calibrate and write the detector."""
        if self.world.device.type == "cpu":  # a sixth of the time went into page faults
            keep_freed_memory()
        fit = self.fit
        fit.folder = folder
        if self.begun is not None:
            try:
                fit.load_state_dict(self.begun.state)
            except UserError as error:
                raise UserError(f"{folder}: {error}") from None
        self.world.broadcast([fit.net, fit.ema])
        nimg = fit.step * self.recipe.batch
        if self.begun is not None and self.world.is_main:
            for name in ("stats.jsonl", "metrics.jsonl"):
                rewind_jsonl(folder / name, nimg)
        if self.world.is_main:
            mark(folder, None)
        if self.begun is None and isinstance(fit, Fit) and self.part is None:
            fit.save()  # what there is to go on from until there is a better one
        self.tel.open(folder, nimg + 1 if self.begun is not None else None)
        self._announce(folder, fit)
        if report is not None and self.world.is_main:
            self._look_at_data(folder, report)
        with StopRequest(tell=self.world.is_main) as stop:  # before and after it, Ctrl-C ends the program at once
            fit.stop = lambda: stop.asked
            finished = fit.run()
        if not finished:
            whole = folder if self.part is None else self.part.whole
            self.tel.say(f"stopped at step {fit.step}, saved; go on with `resume` {whole}")
            raise stop.interruption()
        if self.world.is_main:
            self._finish(folder, fit)
        self.world.barrier()
        return folder

    def _announce(self, folder: Path, fit: Fit | Probe) -> None:
        say = self.tel.say
        if self.begun is not None:
            say(f"resuming    {folder} at step {fit.step} of {fit.steps}")
            return
        say(f"run         {folder}")
        weights = sum(p.numel() for p in self.net.parameters())
        say(f"network     {self.o.model}: {weights / 1e6:.2f} million weights; {self.origin}")
        if self.operations:
            say(f"operations  {self.operations}")
        counts = ", ".join(f"{n} {name}" for name, n in self.facts["train"].items())
        say(f"data        {self.facts['name']} at {self.pre.resolution} px: {counts}; validation {self.facts['valid']}")
        shown = ", ".join(f"{100 * s:.3g} % {name}" for name, s in self.facts["shown"].items())
        say(f"shown       {shown}; degraded by {self.degradation.name!r}")
        say(f"balance     {say_imbalance(self.facts['imbalance'])}")
        say(f"schedule    {fit.schedule()}")
        say_left_out(say, self.facts, self.data.notes, CONFIG)

    def _look_at_data(self, folder: Path, make_report: MakeReport) -> None:
        self.tel.progress("drawing what the data look like", at_once=True)
        test = self.data.splits.source.select(split="test")
        counts = {"real": int((test.labels == 0).sum()), "fake": int((test.labels == 1).sum())} if len(test) else None
        found = explore(self.fit.feed, self.fit.validation, self.degradation, self.recipe.seed, counts)
        self.finish_page = make_report(folder, self.config(), found, self.tel)

    def _finish(self, folder: Path, fit: Fit | Probe) -> None:
        meta = {
            "trained_on": self.facts["name"], "fingerprint": self.facts["fingerprint"], "model": self.o.model,
            "weights_from": self.origin, "shown": self.facts["shown"], "train_images": self.facts["train"],
            "recipe": self.recipe.to_dict(), "degradation": fit.feed.degradation.to_dict(),
            "best_step": fit.best_step(), "steps": fit.step,
            "parameters": sum(p.numel() for p in fit.net.parameters()), "version": own_version(),
            "gates": self.facts.get("gates"), "seconds": round(fit.elapsed),
        }  # fmt: skip
        file = self.o.recipe_file and self.o.recipe_file["name"]
        said = {"fold": self.facts.get("fold"), "recipe_file": file, "face": self.o.face}
        if patches := self.facts.get("patches"):
            said |= {"patches": patches["size"], "face": self.o.face or "whole"}
            said |= {"validation_photos": patches["photos"]["valid"], "window": patches["window"]}
        if twins := self.facts.get("twins"):
            said["twins"] = twins
        meta |= {name: value for name, value in said.items() if value}
        if self.earlier:
            meta |= lessons_told([meta, self._taught_before()])
        net = fit.best_network()
        if self.o.half:
            round_to_half(net)
        end = calibrated(
            net, fit.validation, self.pre, meta, workers=self.workers,
            progress=lambda done, total: self.tel.progress(f"calibrating {done}/{total}"),
        )  # fmt: skip
        detector, found = end.detector, end.figures
        path = folder / DETECTOR
        detector.save(path)
        self.tel.metric({"nimg": fit.step * self.recipe.batch, "step": fit.step, "final": True, **found})
        point = detector.calibration.at()
        real, fake = (int((fit.validation.labels == label).sum()) for label in (0, 1))
        auc, few = auc_text(found["auc"], real, fake, 4), counts_text(real, fake)
        self.tel.say(f"best        step {fit.best_step()}: validation AUC {auc}{few}")
        if note := swapped_note(found["auc_clean"], real, fake, "the validation images"):
            self.tel.say(f"labels      {note}")
        self.tel.say(f"calibrated  {point.describe()}")
        for name in ("clean", "degraded"):
            hit, false, both = (found[f"{what}_{name}"] for what in ("found", "false_alarms", "balanced"))
            self.tel.say(
                f"{name:<12}AUC {auc_text(found[f'auc_{name}'], real, fake, 4)}; at the threshold"
                f" {share_text(hit, fake)} of the fakes found, {share_text(false, real)} false alarms,"
                f" balanced accuracy {balanced_text(both, real, fake)}"
            )
        if point.coverage is not None:  # there are fakes
            self.tel.say(f"unsure      {100 * (1 - point.coverage):.1f} % of validation images get no verdict")
        if self.finish_page is not None:
            self.tel.say(f"report      {self.finish_page(end, fit.step * self.recipe.batch)}")
        self.tel.say(f"detector    {path} ({path.stat().st_size / 1e6:.1f} MB) in {clock(fit.elapsed)}")

    def config(self) -> dict:
        """For config.json, from which a run is resumed."""
        return {
            "detector": 1, "options": asdict(self.o), "recipe": self.recipe.to_dict(),
            "architecture": self.net.cfg.to_dict(), "degradation": self.degradation.to_dict(), "origin": self.origin,
            "data": self.facts, "version": own_version(), "torch": torch.__version__,
        } | self._taught_before()  # fmt: skip

    def _taught_before(self) -> dict:
        return {TAUGHT: [lesson._asdict() for lesson in self.earlier]} if self.earlier else {}


def say_left_out(say: Callable[[str], None], facts: dict, notes: list[str], file: str) -> None:
    """Lines about images that can't be used, and the notes. facts: with what `file` names, too."""
    for name, reason in facts["skipped"][:SHOWN]:
        say(f"left out    {name}: {reason}")
    if facts["num_skipped"] > SHOWN:
        say(f"left out    … and {facts['num_skipped'] - SHOWN} more; {file} names up to 100")
    for note in notes:
        say(f"note        {note}")
