"""A training run from its options to its last file: start or resume, loop, snapshots, clean stop, final detector."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from adversarial import detective
from adversarial.checkpoint import find_checkpoint, load_checkpoint, save_atomically, save_checkpoint
from adversarial.config import GameConfig, Options, check_resolution, resolve
from adversarial.data import RunData, native_resolution, open_splits, pack
from adversarial.distributed import World, barrier, join_world, leave_world, sum_tensor
from adversarial.feed import Feed
from adversarial.game import Game
from adversarial.memory import keep_freed_memory, peak_memory_gb, split_batch
from adversarial.quality import FidMonitor
from adversarial.telemetry import Telemetry, append_jsonl, clock, rewind_jsonl
from faces.degrade import preset as degradation_preset
from faces.errors import UserError
from stylegan2_ada.files import save_generator
from synth.grid import contact_sheet

# what a resumed run may change; everything else is part of its identity
RESUMABLE = {
    "kimg", "snap", "image_snap", "keep", "metrics", "inception_weights", "fid_dims", "workers", "threads", "device",
    "checkpoint_minutes", "data_root", "outdir", "batch_gpu", "precision", "verdict_kimg", "tick",
}  # fmt: skip
VERDICT_TICKS = 20  # progress lines of the verdict-only phase


@dataclass
class Plan:
    """A resolved run before it touches the disk."""

    cfg: GameConfig
    data: RunData | None
    splits: object
    checkpoint: Path | None


def plan(options: Options, given: set[str], resume: str | None, world: World) -> Plan:
    """Resolve the options against the data, or against the run being resumed.

    `given`: names of the options the caller set explicitly; on resume these must not contradict the run's own.
    """
    checkpoint = None
    if resume is not None:
        checkpoint = find_checkpoint(resume, Path(options.outdir))
        saved = GameConfig.load(checkpoint.parent / "config.json")
        options = _resumed_options(options, given, saved, checkpoint, world)
    splits = open_splits(options.data, options.data_root, subset=options.subset, seed=options.seed)
    resolution = options.resolution or native_resolution(splits.train)
    check_resolution(resolution)
    facts = {"name": splits.source.name, "fingerprint": splits.source.fingerprint()}
    if checkpoint is not None and facts["fingerprint"] != saved.data_facts.get("fingerprint"):
        raise UserError(
            f"{options.data}: the images differ from those this run was trained on ({checkpoint.parent}); restore them"
            " or start a new run"
        )
    cfg = resolve(options, resolution=resolution, world_size=world.size, device=world.device, facts=facts)
    if options.batch_gpu is None:
        cfg = split_batch(cfg, world.device)
    return Plan(cfg, None, splits, checkpoint)


def _resumed_options(o: Options, given: set[str], saved: GameConfig, checkpoint: Path, world: World) -> Options:
    changes = {}
    for name in given:
        new, old = getattr(o, name), getattr(saved.options, name)
        if name in RESUMABLE:
            changes[name] = new
        elif new != old and not (name == "resolution" and new == saved.resolution):
            flag = "--" + name.replace("_", "-")
            shown = "the preset's value" if old is None else old
            raise UserError(
                f"{checkpoint}: the run was trained with {flag} {shown}, not {new}; leave {flag} out or start a new run"
            )
    if "batch_gpu" not in given and saved.batch // world.size % saved.batch_gpu == 0:
        changes["batch_gpu"] = saved.batch_gpu  # the same micro-batches, so the same draws
    changes.setdefault("data_root", o.data_root or saved.options.data_root)
    changes.setdefault("outdir", str(checkpoint.parent.parent))
    changes["resolution"] = saved.resolution
    return dataclasses.replace(saved.options, **changes)


class StopRequest:
    """Turns the first Ctrl-C or SIGTERM into a request; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.asked = False
        self.previous = {}

    def __enter__(self) -> StopRequest:
        for sig in (signal.SIGINT, signal.SIGTERM):
            try:
                self.previous[sig] = signal.signal(sig, self._ask)
            except ValueError:  # not the main thread: the caller keeps its own handlers
                pass
        return self

    def _ask(self, sig: int, frame) -> None:
        if self.asked and sig == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *exc) -> None:
        for sig, handler in self.previous.items():
            signal.signal(sig, handler)


def train(options: Options, *, given: set[str] = frozenset(), resume: str | None = None, quiet: bool = False) -> Path:
    """Run (or continue) a training and return its folder. Raises UserError, one line, for what a user can mend.

    KeyboardInterrupt is raised after a clean stop: the state is saved by then.
    """
    world = join_world(options.device)
    try:
        if options.threads:
            torch.set_num_threads(options.threads)
        keep_freed_memory()
        plan_ = plan(options, set(given), resume, world)
        folder = _run_folder(plan_, world)
        return _Run(plan_, folder, world, quiet).go()
    finally:
        leave_world()


def describe(options: Options, *, given: set[str] = frozenset(), resume: str | None = None) -> dict:
    """The resolved configuration of what `train` would do, as plain JSON types; nothing is written."""
    world = join_world(options.device)
    try:
        p = plan(options, set(given), resume, world)
        splits = {name: getattr(p.splits, name) for name in ("train", "valid", "test")}
        counts = {name: len(s) for name, s in splits.items() if s is not None}
        return {**p.cfg.to_dict(), "images": counts, "resume": str(p.checkpoint) if p.checkpoint else None}
    finally:
        leave_world()


def _run_folder(p: Plan, world: World) -> Path:
    """The folder of a resumed run, or a new `<outdir>/<number>-<name>`; every rank gets the same."""
    if p.checkpoint is not None:
        return p.checkpoint.parent
    out = Path(p.cfg.options.outdir)
    box: list = [None]
    if world.is_main:
        try:
            out.mkdir(parents=True, exist_ok=True)
            numbers = [int(m.group()) for d in out.iterdir() if (m := re.match(r"\d+", d.name))]
            name = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(p.cfg.options.data).name or "data").strip("-")
            folder = out / f"{max(numbers, default=-1) + 1:05d}-{name}-{p.cfg.resolution}-{p.cfg.options.cfg}"
            folder.mkdir()
            (folder / "config.json").write_text(json.dumps(p.cfg.to_dict(), indent=1))
            box[0] = str(folder)
        except OSError as e:
            raise UserError(
                f"--outdir {out}: cannot be written ({e.strerror or e}); choose a folder with space and write permission"
            ) from None
    if world.size > 1:
        torch.distributed.broadcast_object_list(box, src=0, device=world.device)
    return Path(box[0])


class _Run:
    """The loop around `Game`: everything that happens between steps."""

    def __init__(self, p: Plan, folder: Path, world: World, quiet: bool) -> None:
        self.folder, self.world, self.cfg = folder, world, p.cfg
        self.resumed = p.checkpoint
        state = load_checkpoint(p.checkpoint) if p.checkpoint else None
        nimg = int(state["game"]["step_index"]) * p.cfg.batch if state else 0
        if world.is_main and state:
            for name in ("stats.jsonl", "metrics.jsonl"):
                rewind_jsonl(folder / name, nimg)
        self.tel = Telemetry(folder, world.is_main, quiet, purge_step=nimg + 1 if state else None)
        self.data = self._pack(p)
        self.cfg = dataclasses.replace(p.cfg, data_facts=self.data.facts)
        if world.is_main:
            save_atomically(
                folder / "config.json", lambda tmp: tmp.write_text(json.dumps(self.cfg.to_dict(), indent=1))
            )
        feed = Feed(self.data.train, degradation_preset(self.cfg.options.degradation), self.cfg.options.seed)
        self.game = Game(self.cfg, world, feed)
        self.fid = FidMonitor(self.cfg, world, self.data, folder, self.tel.say)
        self.phase, self.verdict_index, self.elapsed = "game", 0, 0.0
        if state:
            self.game.load_state_dict(state["game"])
            self.phase, self.verdict_index = state["phase"], int(state["verdict_index"])
            self.elapsed = float(state["elapsed"])
            self.fid.load_state_dict(state["fid"])
            if self.phase == "verdict":
                self.game.D.trunk.requires_grad_(False)
        self.started = self.saved_at = self.tick_at = time.monotonic()
        self.tick_nimg = self.game.nimg

    def _pack(self, p: Plan) -> RunData:
        def progress(part: str, done: int, total: int) -> None:
            self.tel.progress(f"reading {part} images {done}/{total}")

        cache = self.folder.parent / ".cache" if self.world.size > 1 else None
        o = p.cfg.options
        args = {"mirror": o.mirror, "workers": o.workers, "cache_dir": cache, "progress": progress}
        if self.world.is_main:
            data = pack(p.splits, p.cfg.resolution, **args)
        barrier(self.world)
        if not self.world.is_main:
            data = pack(p.splits, p.cfg.resolution, **args)
        return data

    # ---- the loop ---------------------------------------------------------------------------------------------

    def go(self) -> Path:
        cfg, game = self.cfg, self.game
        self._announce()
        steps_per_tick = max(1, round(cfg.tick_kimg * 1000 / cfg.batch))
        last = -(-int(cfg.kimg * 1000) // cfg.batch)
        with StopRequest() as stop:
            try:
                while self.phase == "game" and game.step_index < last:
                    self._step_with_memory_care()
                    self._show_progress(game.step_index, last)
                    done = game.step_index >= last
                    if game.step_index % steps_per_tick == 0 or done:
                        self._tick(game.step_index // steps_per_tick + (game.step_index % steps_per_tick > 0), done)
                    self._pause(stop)
                self._verdict_phase(stop)
            finally:
                self.tel.close()
        return self.folder

    def _announce(self) -> None:
        cfg, say = self.cfg, self.tel.say
        if self.resumed:
            say(f"resuming {self.resumed} at {self.game.nimg / 1000:.2f} kimg")
            return
        say(f"run         {self.folder}")
        for line in cfg.schedule_lines():
            say(line)
        for name, reason in self.data.facts["skipped"][:10]:
            say(f"left out    {name}: {reason}")
        if self.data.facts["held_out"]:
            say("splits      the set has no validation split: a tenth of its images is held out for calibration")
        for line in self.fid.announce():
            say(line)
        if self.world.is_main:
            self._grid(self._real_grid(), "reals")
            self._grid(self._fake_grid(), f"fakes-{0:06d}")

    def _step_with_memory_care(self) -> None:
        """The first step on a GPU tells whether the micro-batch fits; if not it is halved and the run starts over."""
        try:
            self.game.step()
        except torch.cuda.OutOfMemoryError:
            cfg = self.cfg
            half, group = cfg.batch_gpu // 2, cfg.hybrid.trunk.mbstd_group_size
            if self.game.step_index or self.resumed or self.world.size > 1 or half < 1 or half % group:
                raise UserError(
                    f"the GPU's memory is too small for micro-batches of {cfg.batch_gpu}; add --batch-gpu {max(half, 1)}"
                    f" --mbstd-group {min(group, max(half, 1))} or lower --resolution"
                ) from None
            self.tel.say(f"memory      too short for micro-batches of {cfg.batch_gpu}; going on with {half}")
            self.cfg = dataclasses.replace(cfg, batch_gpu=half)
            feed = self.game.feed
            del self.game
            torch.cuda.empty_cache()
            (self.folder / "config.json").write_text(json.dumps(self.cfg.to_dict(), indent=1))
            self.game = Game(self.cfg, self.world, feed)

    def _pause(self, stop: StopRequest) -> None:
        """Between steps: a checkpoint when it is time, a clean stop when asked; all ranks decide alike."""
        due = time.monotonic() - self.saved_at > self.cfg.options.checkpoint_minutes * 60
        wants = torch.tensor([float(stop.asked), float(due and self.world.is_main)], device=self.world.device)
        if self.world.size > 1:
            sum_tensor(wants, self.world)
        if wants[0]:
            path = self._checkpoint()
            self.tel.say(
                f"stopped at {self.game.nimg / 1000:.2f} kimg, saved {path}; go on with --resume {self.folder}"
            )
            raise KeyboardInterrupt
        if wants[1]:
            self._checkpoint()

    def _checkpoint(self) -> Path:
        self.saved_at = time.monotonic()
        path = self.folder / "checkpoint"
        if self.world.is_main:
            state = {
                "game": self.game.state_dict(),
                "phase": self.phase,
                "verdict_index": self.verdict_index,
                "elapsed": self.elapsed + time.monotonic() - self.started,
                "fid": self.fid.state_dict(),
            }
            path = save_checkpoint(self.folder, self.game.step_index + self.verdict_index, state)
        barrier(self.world)
        return path

    # ---- ticks and snapshots ----------------------------------------------------------------------------------

    def _show_progress(self, step: int, last: int) -> None:
        if not self.tel.live:
            return
        rate = (time.monotonic() - self.tick_at) / max((self.game.nimg - self.tick_nimg) / 1000, 1e-9)
        left = (last - step) * self.cfg.batch / 1000 * rate
        self.tel.progress(
            f"kimg {self.game.nimg / 1000:.2f}/{self.cfg.kimg:g}  {rate:.1f} sec/kimg  p {float(self.game.augment.p):.3f}"
            f"  {clock(left)} left"
        )

    def _tick(self, tick: int, done: bool) -> None:
        game, cfg = self.game, self.cfg
        now = time.monotonic()
        rows = game.stats.collect(lambda t: sum_tensor(t, self.world))
        kimg = game.nimg / 1000
        sec_per_kimg = (now - self.tick_at) / max((game.nimg - self.tick_nimg) / 1000, 1e-9)
        total = self.elapsed + now - self.started
        left = (cfg.kimg - kimg) * sec_per_kimg
        p = float(game.augment.p)
        row = {
            "nimg": game.nimg,
            "kimg": round(kimg, 3),
            "tick": tick,
            "timestamp": time.time(),
            "Progress/kimg": kimg,
            "Progress/tick": tick,
            "Progress/augment": p,
            "Progress/pl_mean": float(game.pl_mean),
            "Timing/sec_per_kimg": sec_per_kimg,
            "Timing/total_sec": total,
            "Timing/seconds_left": left,
            "Resources/peak_memory_gb": peak_memory_gb(self.world.device),
            "Resources/replay_images": len(game.replay),
            **rows,
        }
        self.tel.tick(row)

        def mean(name: str) -> str:
            return f"{rows[name]['mean']:.3f}" if name in rows and rows[name]["num"] else "-"

        bad = sum(int(v["mean"] * v["num"]) for n, v in rows.items() if n.startswith("Gradients/nonfinite"))
        self.tel.say(
            f"tick {tick:<5d} kimg {kimg:<8.2f} time {clock(total):<9s} sec/kimg {sec_per_kimg:<7.2f} augment {p:.3f}"
            f"  G {mean('Loss/G/loss')} D {mean('Loss/D/loss')} r1 {mean('Loss/r1_penalty')}"
            f" verdict {mean('Loss/verdict')} acc {mean('Verdict/accuracy')}  left {clock(max(left, 0))}"
            + (f"  NON-FINITE {bad}" if bad else "")
        )
        warning = game.ada.leak_warning() if cfg.options.aug == "ada" else None
        if warning:
            self.tel.say(f"warning: {warning}")
        if self.world.is_main and (tick % cfg.image_snap == 0 or done):
            self._grid(self._fake_grid(), f"fakes-{int(kimg):06d}")
        if tick % cfg.options.snap == 0 or done:
            self._snapshot(done)
            self._checkpoint()
        self.tick_at, self.tick_nimg = time.monotonic(), game.nimg

    def _snapshot(self, final: bool) -> None:
        """The generator as a file, its FID, and the detective as it would judge today."""
        game = self.game
        kimg = game.nimg / 1000
        path = self.folder / f"generator-{int(kimg):06d}.safetensors"
        if self.world.is_main:
            meta = {
                "kimg": kimg,
                "data": self.cfg.data_facts["name"],
                "fingerprint": self.cfg.data_facts["fingerprint"],
            }
            save_generator(path, game.G_ema, meta)
        row = self.fid.measure(game.G_ema, game.nimg, final=final)
        if not self.world.is_main:
            return
        if row:
            self.tel.metric(row)
            self.tel.say(
                f"{row['metric']} {row['fid']:.2f} at {kimg:.2f} kimg ({row['dims']} dimensions,"
                f" {clock(row['seconds'])})" + ("  best so far" if row["best"] else "")
            )
            if row["best"]:
                save_atomically(
                    self.folder / "generator-best.safetensors", lambda tmp: shutil.copyfile(path, tmp) and None
                )
        for old in sorted(self.folder.glob("generator-[0-9]*.safetensors"))[: -self.cfg.options.keep]:
            old.unlink(missing_ok=True)
        if self.cfg.verdict_batch and self.phase == "game":
            self._save_detector()

    def _save_detector(self) -> dict:
        detector, values = detective.calibrated_detector(self.game, self.data)
        detector.save(self.folder / "detector.safetensors")
        nimg = self.game.nimg
        append_jsonl(self.folder / "metrics.jsonl", {"nimg": nimg, "kimg": nimg / 1000, "metric": "verdict", **values})
        self.tel.scalars({f"Metrics/verdict_{k}": v for k, v in values.items() if isinstance(v, float)}, nimg)
        self.tel.say(
            f"verdict on validation images: AUC {values['valid_auc']:.3f}, balanced accuracy"
            f" {100 * values['valid_balanced_accuracy_at_half']:.1f} %"
        )
        return values

    def _real_grid(self) -> np.ndarray:
        n = _grid_cells(self.cfg.resolution)
        index = np.linspace(0, len(self.game.feed.reals) - 1, n).astype(int)
        return self.data.train.batch(self.game.feed.reals[index]).numpy()

    @torch.no_grad()
    def _fake_grid(self) -> np.ndarray:
        from synth.sample import sample

        n = _grid_cells(self.cfg.resolution)
        return sample(self.game.G_ema, range(n), psi=1.0, batch=16, device=self.world.device)

    def _grid(self, images: np.ndarray, name: str) -> None:
        sheet = contact_sheet(images)
        from PIL import Image

        save_atomically(self.folder / f"{name}.png", lambda tmp: Image.fromarray(sheet).save(tmp, format="PNG"))
        self.tel.image("Images/reals" if name == "reals" else "Images/fakes", sheet, self.game.nimg)

    # ---- the detective alone ----------------------------------------------------------------------------------

    def _verdict_phase(self, stop: StopRequest) -> None:
        game = self.game
        if not self.cfg.verdict_batch or self.phase == "done":
            return
        total = detective.verdict_steps(game)
        if self.phase == "game":
            detective.begin_verdict_phase(game)
            self.phase = "verdict"
            if total:
                self.tel.say(f"verdict head alone: {total} steps of {self.cfg.verdict_batch} images")
        every = max(1, total // VERDICT_TICKS)
        began, first = time.monotonic(), self.verdict_index
        while self.verdict_index < total:
            detective.verdict_step(game, self.verdict_index)
            self.verdict_index += 1
            done = self.verdict_index - first
            left = (total - self.verdict_index) * (time.monotonic() - began) / done
            self.tel.progress(f"verdict step {self.verdict_index}/{total}  {clock(left)} left")
            if self.verdict_index % every == 0 or self.verdict_index == total:
                rows = game.stats.collect(lambda t: sum_tensor(t, self.world))
                row = {"nimg": game.nimg, "kimg": game.nimg / 1000, "verdict_step": self.verdict_index, **rows}
                if self.world.is_main:
                    append_jsonl(self.folder / "stats.jsonl", row)
                    scalars = {f"VerdictPhase/{n}": v["mean"] for n, v in rows.items()}
                    self.tel.scalars(scalars, game.nimg + self.verdict_index)
                    self.tel.say(
                        f"verdict {self.verdict_index}/{total}  loss {rows['Loss/verdict']['mean']:.3f}"
                        f"  accuracy {rows['Verdict/accuracy']['mean']:.3f}  left {clock(left)}"
                    )
            self._pause(stop)
        self._final()
        self.phase = "done"
        self._checkpoint()

    def _final(self) -> None:
        """The shipped detector of the run and what it does on images nothing was chosen on."""
        if not self.world.is_main:
            return
        values = self._save_detector()
        game, data = self.game, self.data
        from discriminator.detector import Detector

        calibration = Detector.load(self.folder / "detector.safetensors").calibration
        result = {"kimg": game.nimg / 1000, "validation": values, "detector": "detector.safetensors"}
        held = data.test if data.test is not None else data.valid
        result["measured_on"] = "test" if data.test is not None else "validation"
        judged = {}
        for name in ("none", "web", "hard"):
            judged[name] = detective.judge(game, held, degradation_preset(name), "test")
            result[f"held_out_{'clean' if name == 'none' else name}"] = detective.figures(judged[name], calibration)
        result["adversarial_logit_auc"] = detective.negative_control(game, judged["none"])
        clean = judged["none"]
        np.savez_compressed(
            self.folder / "scores.npz",
            score=calibration.probability(clean.logits),
            label=clean.labels,
            origin=clean.origin,
        )
        save_atomically(self.folder / "verdict.json", lambda tmp: tmp.write_text(json.dumps(result, indent=1)))
        f = result["held_out_clean"]
        self.tel.say(
            f"{result['measured_on']} images: AUC {f['auc']:.3f}, balanced accuracy"
            f" {100 * f['balanced_accuracy_at_half']:.1f} %, false alarms {100 * f['false_alarm_rate']:.1f} % of"
            f" {f['n_real']} at the shipped threshold, which finds {100 * f['tpr']:.1f} % of the fakes"
        )
        self.tel.say(f"detector    {self.folder / 'detector.safetensors'}")


def _grid_cells(resolution: int) -> int:
    return 64 if resolution <= 64 else 35 if resolution <= 128 else 24
