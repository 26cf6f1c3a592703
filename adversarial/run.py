"""A training run from its options to its last file: start or resume, loop, clean stop, final detector."""

from __future__ import annotations

import dataclasses
import errno
import functools
import os
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch

from adversarial import verdict_phase
from adversarial.divergence import Divergence, not_finite
from adversarial.feed import Feed
from adversarial.game import Game
from adversarial.health import Health
from adversarial.memory import memory_note, too_small
from adversarial.options import Options
from adversarial.plan import Plan, check_space, describe, folder_name, plan
from adversarial.quality import FidMonitor, check_asked
from adversarial.snapshots import Diverse, Snapshots
from adversarial.telling import data_lines, diagnosis, disk_trouble, tick_line, tick_row
from adversarial.transfer import begin, is_start
from common.clock import clock
from common.errors import MENDABLE, UserError
from common.files import write_json
from common.words import counted
from faces.degrade import preset as degradation_preset
from faces.preprocess import Preprocess
from training.checkpoint import checkpoint_number, checkpoint_path, load, save
from training.data import Decoding, RunData, cut_all, decode_all
from training.launch import mark, own_checkpoint
from training.lock import RunLock
from training.memory import keep_freed_memory
from training.operations import prepare_operations
from training.processes import LOST_PROCESS, Processes
from training.rollback import MOST, Course, Diverged
from training.run_folder import CONFIG, check_writable, folders_in, new_run, remove_leftovers
from training.stop import StopRequest
from training.telemetry import Telemetry, read_jsonl, rewind_jsonl

VERDICT_TICKS = 20  # progress lines of the verdict-only phase
CPU_HINT = (
    "hint        `cfg` tiny `resolution` 64 `kimg` 40 trains in about an hour on a CPU; published presets need a GPU"
)

__all__ = ["describe", "train"]


def train(
    options: Options,
    *,
    given: Collection[str] = (),
    resume: str | None = None,
    quiet: bool = False,
    progress: Callable[[int, int], None] | None = None,
    flags: Mapping[str, str] | None = None,
) -> Path:
    """Run (or continue) a training and return its folder. Raises UserError, one line, for what a user can mend.

    flags: how the command calls its options, for lines of the log that name one.

    Nothing is written before the options, images, weights and the checkpoint have proved usable. KeyboardInterrupt is
    raised after a clean stop: the state is saved by then.
    """
    with Processes.join(options.device) as world, RunLock() as lock:
        if options.threads:
            torch.set_num_threads(options.threads)
        keep_freed_memory()
        if (own := _own_run(options, resume, world)) is not None:
            checkpoint, phase = own
            if phase == "done":
                return checkpoint.parent
            options, given, resume = dataclasses.replace(options, grow_from=None), (), str(checkpoint)
        if resume is None or is_start(resume):
            check_writable(Path(options.outdir), "outdir")
        p = plan(options, given, resume, world, progress=progress)
        if p.resumed is not None:
            folder = p.resumed.checkpoint.parent
            check_writable(folder, "resume")
            if world.is_main:
                lock.take(folder)
        return _run(_Run(p, world, Telemetry(world.is_main, quiet, flags)), lock)


def _own_run(options: Options, resume: str | None, world: Processes) -> tuple[Path, str] | None:
    """Where torchrun started a launch anew: the checkpoint that it goes on from, and its phase."""

    def find() -> tuple[Path, str] | None:
        places = folders_in(Path(options.outdir))
        if resume is not None and os.path.exists(resume):
            places += [Path(resume), Path(resume).parent]
        path = own_checkpoint(places)
        return None if path is None else (path, load(path, "gan")["phase"])

    return world.main_does(find)


def _run(run: _Run, lock: RunLock) -> Path:
    try:
        run.open(lock)
        return run.go()
    except OSError as e:
        if e.errno not in {*MENDABLE, errno.EIO}:
            raise
        raise UserError(disk_trouble(run.folder, e)) from None
    except RuntimeError as e:
        if run.world.device.type == "cpu" and "allocate memory" in str(e):
            raise too_small(run.cfg, "the machine") from None
        if run.world.lost(e):
            raise UserError(f"{run.folder}: {LOST_PROCESS} {run.folder}") from None
        raise
    finally:
        run.tel.close()


class _Run:
    """The loop around `Game`: everything that happens between steps.

    Made without writing anything; `open` gives it its folder.
    """

    def __init__(self, p: Plan, world: Processes, tel: Telemetry) -> None:
        self.world, self.cfg, self.tel = world, p.cfg, tel
        self.resumed = p.resumed
        self.outdir = self.folder = Path(p.cfg.options.outdir)
        self.tight = memory_note(p.cfg, world)
        self.tel.progress("making native operations ready, once for this machine", at_once=True)
        self.native, self.ops = prepare_operations(world.device)
        if world.device.type == "cpu" and p.cfg.options.cfg != "tiny" and self.resumed is None:
            self.tel.say(CPU_HINT)
        check_asked(p.cfg.options)
        self.data = self._pack(p)
        self.cfg = dataclasses.replace(p.cfg, data_facts=self.data.facts)
        degradation = degradation_preset(self.cfg.options.degradation)
        feed = Feed(
            self.data.train, degradation, self.cfg.options.seed, self.data.classes, odd_by_chance=self.cfg.odd_by_chance
        )
        self.game = Game(self.cfg, world, feed)
        self.fid = FidMonitor(self.cfg, world, self.data, self.outdir, self.tel)
        self.health, self.divergence, self.course = Health(), Divergence(), Course()
        self.phase, self.verdict_index, self.elapsed = "game", 0, 0.0
        if p.resumed is not None:
            self._load(p.resumed.checkpoint, p.resumed.state)
            p.resumed.state = {}  # its memory is needed no more
            if p.resumed.steered or p.resumed.saved.precision != self.cfg.precision:
                self.course.steered()
                self.game.set_rates(1.0)
        self.start = p.start
        self.origin = begin(self.game, p.start) if p.start else []
        self.started = self.saved_at = self.tick_at = time.monotonic()
        self.tick_nimg = self.game.nimg

    def _load(self, checkpoint: Path, state: dict) -> None:
        try:
            self.game.load_state_dict(state["game"])
            self.phase, self.verdict_index = state["phase"], int(state["verdict_index"])
            self.elapsed = float(state["elapsed"])
            self.fid.load_state_dict(state["fid"])
            for part in ("health", "divergence", "course"):
                getattr(self, part).load_state_dict(state.get(part, {}))
        except UserError as e:
            raise UserError(f"{checkpoint}: {e}") from None
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            reason = f"{type(e).__name__} {e}"
            raise UserError(f"{checkpoint}: not a whole checkpoint ({reason}); give another one") from None
        if self.course.healthy is None:  # of a version that kept no count
            self.course.healthy = checkpoint_number(checkpoint)
        self.game.set_rates(self.course.factor)
        if self.phase == "verdict":
            self.game.D.trunk.requires_grad_(False)

    def _pack(self, p: Plan) -> RunData:
        def progress(part: str, done: int, total: int) -> None:
            self.tel.progress(f"reading {part} images {done}/{total}")

        cache = self.outdir / ".cache" if self.world.size > 1 else None
        o = p.cfg.options
        pre = Preprocess(p.cfg.resolution, o.crop, o.resize_filter, o.channels)
        how = Decoding(o.mirror, o.mirror_y, o.workers, cache, progress)
        decode = functools.partial(cut_all if o.patches else decode_all, p.splits, pre, how, p.classes)
        first = decode() if self.world.is_main else None
        self.world.barrier()
        return first or decode()

    def open(self, lock: RunLock) -> None:
        """Take the run's folder: a new one, or the resumed one put back to the moment of its checkpoint."""
        if self.world.is_main:
            check_space(self.outdir, self.game, self.cfg.options.keep, new=self.resumed is None)
        purge = None
        if self.resumed:
            self.folder = self.resumed.checkpoint.parent
            if self.world.is_main:
                remove_leftovers(self.folder)
                for name in ("stats.jsonl", "metrics.jsonl"):
                    rewind_jsonl(self.folder / name, self.game.nimg, self.verdict_index)
                write_json(self.folder / CONFIG, self.cfg.to_dict())
            purge = self._next_row
        else:
            self.folder = self.world.main_does(
                lambda: new_run(self.outdir, folder_name(self.cfg), lock, {CONFIG: self.cfg.to_dict()})
            )
        if self.world.is_main:
            mark(self.folder, self.resumed.checkpoint if self.resumed else None)
        self.tel.open(self.folder, purge)
        self.snapshots = Snapshots(self.folder, self.cfg, self.game, self.data, self.fid, self.tel)

    # ---- the loop ---------------------------------------------------------------------------------------------

    def go(self) -> Path:
        if self.resumed is None:
            self._checkpoint(judged=True)  # what there is to go on from, or back to, until there is a better one
        self._announce()
        with StopRequest(tell=self.world.is_main) as stop:
            while self.phase != "done":
                try:
                    self._play(stop)
                except Diverged as trouble:
                    self._go_back(str(trouble))
        return self.folder

    def _play(self, stop: StopRequest) -> None:
        """From here to the end."""
        cfg = self.cfg
        steps_per_tick = max(1, round(cfg.tick_kimg * 1000 / cfg.batch))
        last = cfg.last_step
        while self.phase == "game" and self.game.step_index < last:
            self._step_with_memory_care()
            step = self.game.step_index
            self._show_progress(step, last)
            if step % steps_per_tick == 0 or step >= last:
                self._tick(step // steps_per_tick + (step % steps_per_tick > 0), step >= last)
            self._pause(stop)
        self._end_of_game()
        if cfg.verdict_batch:
            self._verdict_phase(stop)
        self.phase = "done"
        self._checkpoint()

    # ---- going back --------------------------------------------------------------------------------------------

    @property
    def _next_row(self) -> int:
        """Where TensorBoard goes on."""
        return self.game.nimg + self.verdict_index + 1

    def _go_back(self, sign: str) -> None:
        """To the last healthy checkpoint, with lower rates; UserError with a diagnosis where that was no help."""
        at = self.game.nimg / 1000
        number = self.world.told(self.course.healthy)
        path = checkpoint_path(self.folder, number if number is not None else 0)
        there = self.world.told(path.exists())
        if self.world.told(self.course.exhausted) or not there:
            healthy = path if there else None
            line = self.world.told(diagnosis(self.folder, self.cfg, self.world.size, self.course, sign, healthy))
            self.tel.keep(line, self.game.nimg)
            raise UserError(line)
        course, elapsed = self.course, self.elapsed
        self._load(path, load(path, "gan"))
        self.course.healthy, self.course.signs, self.course.factor = number, course.signs, course.factor
        self.course.went_back(f"{sign} at {at:.2f} kimg")
        self.elapsed = elapsed
        self.game.set_rates(self.course.factor)
        if self.world.is_main:
            kimg = self.game.nimg / 1000
            self.tel.say(
                f"diverged    {sign} at {at:.2f} kimg: back to {path.name} at {kimg:.2f} kimg, with learning rates x"
                f" {self.course.factor:g} ({len(self.course.signs)} of at most {MOST} times)"
            )
            self._forget_what_came_after()
        self.tick_at, self.tick_nimg = time.monotonic(), self.game.nimg
        self._checkpoint(judged=True)  # the same state, which now learns more slowly, however this process ends

    def _forget_what_came_after(self) -> None:
        """Rows, generators and the detector of the course that is left."""
        nimg = self.game.nimg
        judged = [r for r in read_jsonl(self.folder / "metrics.jsonl") if r.get("metric") == "verdict"]
        if any(row.get("nimg", 0) > nimg for row in judged):
            (self.folder / "detector.safetensors").unlink(missing_ok=True)
        for name in ("stats.jsonl", "metrics.jsonl"):
            rewind_jsonl(self.folder / name, nimg, self.verdict_index)
        self.snapshots.forget_after(nimg)
        self.tel.reopen(self._next_row)

    # ---- beginning ---------------------------------------------------------------------------------------------

    def _announce(self) -> None:
        cfg, say = self.cfg, self.tel.say
        if self.resumed:
            step = f", verdict step {self.verdict_index}" if self.phase == "verdict" else ""
            say(f"resuming {self.resumed.checkpoint} at {self.game.nimg / 1000:.2f} kimg{step}")
            if self.resumed.steered:
                say(f"changed     {', '.join(self.resumed.steered)}: from here on the run's course is another")
            if not self.native:
                say(f"ops         {self.ops}")
            return
        say(f"run         {self.folder}")
        for line in [*cfg.schedule_lines(), f"ops         {self.ops}", *filter(None, [self.tight]), *self.origin]:
            say(line)
        for line in data_lines(self.data.facts, cfg.options.crop, cfg.options.mirror):
            say(line)
        for line in self.fid.announce():
            say(line)
        if self.world.is_main:
            self.snapshots.reals()
            self.snapshots.fakes()

    def _step_with_memory_care(self) -> None:
        """The first step on a GPU tells whether the micro-batch fits; if not it is halved and the run starts over."""
        try:
            self.game.step()
            self.start = None  # its memory is needed no more
        except torch.cuda.OutOfMemoryError:
            cfg = self.cfg
            half, group = cfg.batch_gpu // 2, cfg.hybrid.trunk.mbstd_group_size
            if self.game.step_index or self.resumed or self.world.size > 1 or half < 1 or half % group:
                raise too_small(cfg, "the GPU") from None
            self.tel.say(f"memory      too short for micro-batches of {cfg.batch_gpu}; going on with {half}")
            self.cfg = dataclasses.replace(cfg, batch_gpu=half)
            feed = self.game.feed
            del self.game, self.snapshots.game
            torch.cuda.empty_cache()
            write_json(self.folder / CONFIG, self.cfg.to_dict())
            self.game = self.snapshots.game = Game(self.cfg, self.world, feed)
            if self.start is not None:
                begin(self.game, self.start)
            self.snapshots.cfg = self.cfg

    def _pause(self, stop: StopRequest) -> None:
        """Between steps: a checkpoint when it is time, a clean stop when asked; all ranks decide alike."""
        due = time.monotonic() - self.saved_at > self.cfg.options.checkpoint_minutes * 60
        if self.world.any(stop.asked):
            path = self._checkpoint()
            kimg = self.game.nimg / 1000
            self.tel.say(f"stopped at {kimg:.2f} kimg, saved {path.name}; go on with `resume` {self.folder}")
            raise stop.interruption()
        if self.world.any(due and self.world.is_main):
            self._checkpoint()

    def _checkpoint(self, *, judged: bool = False) -> Path:
        """judged: whether the state has just been found healthy; else the next tick tells."""
        self.saved_at = time.monotonic()
        # one more for «done», so that it never takes the name of the end of the game, from which a run may go on
        number = self.game.step_index + self.verdict_index + (self.phase == "done")
        self.game.settle()
        counts = list(self.world.share(self.world.size, lambda _: self.game.own_counts()))
        if self.world.is_main:
            if self.divergence.sound and not self.game.bad_steps:
                self.course.saved(number, judged)
            state = {
                "game": self.game.state_dict(counts),
                "phase": self.phase,
                "verdict_index": self.verdict_index,
                "elapsed": self.elapsed + time.monotonic() - self.started,
                "fid": self.fid.state_dict(),
                **{part: getattr(self, part).state_dict() for part in ("health", "divergence", "course")},
            }
            stay = [self._at(nimg) for nimg in (self.game.nimg, *([self.fid.best["nimg"]] if self.fid.best else []))]
            stay += [checkpoint_path(self.folder, kept) for kept in self.course.kept]
            save(self.folder, number, state, "gan", spare=stay)
        self.world.barrier()
        return checkpoint_path(self.folder, number)

    def _at(self, nimg: int) -> Path:
        """The checkpoint at `nimg` images."""
        return checkpoint_path(self.folder, nimg // self.cfg.batch)

    # ---- ticks -----------------------------------------------------------------------------------------------

    def _show_progress(self, step: int, last: int) -> None:
        if not self.tel.live:
            return
        rate = (time.monotonic() - self.tick_at) / max((self.game.nimg - self.tick_nimg) / 1000, 1e-9)
        left = (last - step) * self.cfg.batch / 1000 * rate
        self.tel.progress(
            f"kimg {self.game.nimg / 1000:.2f}/{self.cfg.kimg:g}  {rate:.1f} sec/kimg"
            f"  p {float(self.game.augment.p):.3f}  {clock(left)} left"
        )

    def _tick(self, tick: int, done: bool) -> None:
        game, cfg = self.game, self.cfg
        now = time.monotonic()
        game.settle()
        rows = game.stats.collect(self.world.sum)
        kimg = game.nimg / 1000
        sec_per_kimg = (now - self.tick_at) / max((game.nimg - self.tick_nimg) / 1000, 1e-9)
        total = self.elapsed + now - self.started
        left = (cfg.kimg - kimg) * sec_per_kimg
        diverse: Diverse | None = None
        lost = not_finite(game)
        if self.world.is_main and not lost and (tick % cfg.image_snap == 0 or done):
            diverse = self.snapshots.fakes()
        health, advice = self._advice(rows, diverse)
        row = tick_row(game, tick, total, sec_per_kimg, left) | health | rows
        if advice:
            row["advice"] = [self.tel.in_words(line) for line in advice]
        self.tel.tick(row)
        self.tel.say(tick_line(tick, kimg, rows, float(game.augment.p), total, sec_per_kimg, left))
        for line in advice:
            self.tel.advise(line, game.nimg)
        self._look_for_divergence(lost, rows, diverse, done)
        if tick % cfg.options.snap == 0 or done:
            self._snapshot(done)
        self.tick_at, self.tick_nimg = time.monotonic(), game.nimg

    def _advice(self, rows: dict, diverse: Diverse | None) -> tuple[dict, list[str]]:
        """A tick's numbers of health, and lines of advice that are due."""
        game, adaptive = self.game, self.cfg.options.aug == "ada"
        leak = game.ada.leak_warning() if adaptive else None
        pinned = game.ada.pinned() if adaptive else None
        pixels = None if diverse is None else diverse.pixels
        health, advice = self.health.tick(rows, game.nimg / 1000, pixels, leak, pinned=pinned)
        if diverse is not None:
            health["Health/feature_diversity"] = diverse.features
        if adaptive:
            health["Health/ada_pinned"] = float(pinned is not None)
        health |= {"Health/rollbacks": float(len(self.course.signs)), "Health/rate_factor": self.course.factor}
        return health, advice

    def _look_for_divergence(self, lost: str, rows: dict, diverse: Diverse | None, last: bool) -> None:
        """Raises Diverged, on all processes, where a tick shows it. lost: what is not a number."""
        pixels = None if diverse is None else diverse.pixels
        sign = self.world.told(lost or self.divergence.sign(rows, pixels, last=last))
        if sign:
            raise Diverged(sign)
        if self.divergence.sound:
            self.course.judged_sound()

    def _snapshot(self, done: bool) -> None:
        fid = self.snapshots.take(final=done, detector=bool(self.cfg.verdict_batch))
        self._checkpoint(judged=True)
        best = self.fid.best
        for line in self.health.fid(fid, best, str(self._at(best["nimg"]))) if fid and best else []:
            self.tel.advise(line, self.game.nimg)

    # ---- the verdict head alone --------------------------------------------------------------------------------

    def _end_of_game(self) -> None:
        """A run whose `kimg` was shortened on resume ends between two snapshots: take the one that is missing."""
        if self.phase == "game" and not checkpoint_path(self.folder, self.game.step_index).exists():
            self.game.stats.collect()  # of a tick that is not to be; they would count towards the verdict's rows
            self.snapshots.take(final=True, detector=False)
            self._checkpoint()

    def _verdict_phase(self, stop: StopRequest) -> None:
        game = self.game
        total = self.cfg.verdict_steps
        if self.phase == "game":
            verdict_phase.begin_verdict_phase(game)
            self.phase = "verdict"
            if total:
                self.tel.say(
                    f"verdict head alone: {counted(total, 'step')} of {counted(self.cfg.verdict_images, 'image')}"
                )
        every = max(1, total // VERDICT_TICKS)
        began, first = time.monotonic(), self.verdict_index
        while self.verdict_index < total:
            verdict_phase.verdict_step(game, self.verdict_index)
            self.verdict_index += 1
            done = self.verdict_index - first
            left = (total - self.verdict_index) * (time.monotonic() - began) / done
            self.tel.progress(f"verdict step {self.verdict_index}/{total}  {clock(left)} left")
            if self.verdict_index % every == 0 or self.verdict_index == total:
                game.settle()
                rows = game.stats.collect(self.world.sum)
                row = {"nimg": game.nimg, "kimg": game.nimg / 1000, "verdict_step": self.verdict_index, **rows}
                scalars = {f"VerdictPhase/{n}": v["mean"] for n, v in rows.items()}
                self.tel.record("stats.jsonl", row, scalars, game.nimg + self.verdict_index)
                self.tel.say(
                    f"verdict {self.verdict_index}/{total}  loss {rows['Loss/verdict']['mean']:.3f}"
                    f"  accuracy {rows['Verdict/accuracy']['mean']:.3f}  left {clock(left)}"
                )
                self._look_for_divergence(not_finite(game), rows, None, self.verdict_index == total)
            self._pause(stop)
        if self.world.is_main:
            self.snapshots.final(list(self.health.told.values()))
