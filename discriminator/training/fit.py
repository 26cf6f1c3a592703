"""The loop: a network learns the verdict, its averaged weights are validated, the best state is kept.

Two phases where layers came with weights learnt on other pictures: first only the new heads learn (the borrowed layers
stay frozen, their batch normalisation in evaluation mode), then everything. Where `patience` runs out in the first, the
second begins early and keeps its length. Every random draw follows from (seed,
step), so a run that is stopped and resumed on the same machine ends with the same bits.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from common.clock import clock
from common.errors import UserError
from common.words import counted
from discriminator.network import Network, VerdictOut
from discriminator.training.feed import Batch, LabelledFeed
from discriminator.training.recipe import Recipe
from discriminator.training.selection import Validation, figures, scores
from discriminator.verdict_loss import smoothed, verdict_loss
from faces.dataset import to_float
from training import checkpoint
from training.processes import Processes
from training.rollback import MOST, Course, Diverged
from training.telemetry import Telemetry, rewind_jsonl

TICKS = 10  # log rows in an epoch
SHORTEST_TICK = 20  # steps
HOPELESS = 20  # steps in a row without a finite gradient
MISSED = 0.5  # share of a tick's steps without one
STATEFUL = ("net", "ema", "optimiser")
COUNTED = ("step", "elapsed", "best", "idle", "waited", "factor", "skipped", "sums", "over")  # of a checkpoint


class Fit:
    """One training. `run()` returns when it is over or `stop()` became true; `best_network()` is its result.

    net: of `discriminator.models`. folder: for checkpoints (None: none are written). Attributes to be set: `stop`,
    asked after every step, and `checkpoint_minutes`, in which a state is saved at least.
    """

    def __init__(
        self,
        net: Network,
        feed: LabelledFeed,
        validation: Validation,
        recipe: Recipe,
        report: Telemetry,
        *,
        folder: Path | None = None,
        peers: Processes | None = None,
        workers: int = 1,
    ) -> None:
        self.peers = peers or Processes()
        self.net = net.to(self.peers.device).to(memory_format=torch.channels_last)
        if recipe.random_crop and recipe.random_crop != net.cfg.resolution and not net.any_size:
            raise UserError(
                f"`random_crop` {recipe.random_crop}: this network takes whole images of {net.cfg.resolution} px only;"
                " leave it out"
            )
        self.feed, self.validation, self.recipe, self.report = feed, validation, recipe, report
        self.folder, self.workers = folder, workers
        self.stop: Callable[[], bool] = lambda: False
        self.checkpoint_minutes = 10.0
        self.net.lowp_dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
        self.params = net.taught()
        self.ema = copy.deepcopy(self.net).eval().requires_grad_(False)
        self.optimiser = self._adam()
        self.steps = max(1, round(recipe.epochs * feed.len_epoch))
        self.frozen = round(recipe.frozen_epochs * feed.len_epoch) if net.borrowed() is not None else 0
        self.spared = 0  # steps of the frozen phase that patience did without
        self.every = max(1, round(recipe.validate_every * feed.len_epoch))
        self.tick_every = max(min(SHORTEST_TICK, feed.len_epoch), feed.len_epoch // TICKS)
        self.step = 0
        self.elapsed = 0.0
        self.best: dict | None = None  # {"auc", "step", "state"}
        self.idle = 0  # validations since the best
        self.waited, self.factor = 0, 1.0  # of the plateau schedule
        self.skipped = self.missed = 0  # steps without a finite gradient: in a row; since the last tick
        self.course = Course()
        self.sums = torch.zeros(6, dtype=torch.float64)
        self.over = False

    def _adam(self) -> torch.optim.AdamW:
        groups: list[dict] = [
            {"params": [p for p in self.params if p.ndim > 1], "weight_decay": self.recipe.weight_decay},
            {"params": [p for p in self.params if p.ndim <= 1], "weight_decay": 0.0},
        ]
        fused = self.peers.device.type in ("cpu", "cuda")
        return torch.optim.AdamW([g for g in groups if g["params"]], lr=self.recipe.lr, fused=fused)

    def schedule(self) -> str:
        """What it will do, for people."""
        r = self.recipe
        frozen = f", the first {self.frozen} with frozen layers" if self.frozen else ""
        return (
            f"{counted(r.epochs, 'epoch')} = {counted(self.steps, 'step')} of {r.batch}{frozen}; lr {r.lr:g}"
            f" {r.schedule}; {r.precision} on"
            f" {self.peers.device}"
        )

    # ---- the state ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict:
        """All that the next step depends on."""
        parts = {name: getattr(self, name).state_dict() for name in STATEFUL}
        counted = {name: getattr(self, name) for name in (*COUNTED, "spared", "missed")}
        return parts | counted | {"course": self.course.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """UserError where it is of another network."""
        try:
            for name in STATEFUL:
                getattr(self, name).load_state_dict(state[name])
            for name in COUNTED:
                setattr(self, name, state[name])
            self._spare(int(state.get("spared", 0)) - self.spared)
            self.missed = int(state.get("missed", 0))
            self.course.load_state_dict(state.get("course", {"healthy": self.step}))
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise UserError(checkpoint.misfit(error)) from None

    def save(self) -> None:
        """A checkpoint now, if there is a folder."""
        if not self.skipped and self.missed <= MISSED * self._since_tick:
            self.course.healthy = self.step
        if self.folder is not None and self.peers.is_main:
            kept = [] if self.course.healthy is None else [checkpoint.checkpoint_path(self.folder, self.course.healthy)]
            checkpoint.save(self.folder, self.step, self.state_dict(), "detector", spare=kept)

    @property
    def _since_tick(self) -> int:
        return (self.step - 1) % self.tick_every + 1 if self.step else 0

    def _spare(self, steps: int) -> None:
        """Do without the last `steps` of the frozen phase."""
        self.spared += steps
        self.frozen, self.steps = self.frozen - steps, self.steps - steps

    # ---- a step ------------------------------------------------------------------------------------------------

    def rate(self) -> float:
        """The learning rate of the coming step."""
        r = self.recipe
        if self.step < self.frozen:
            return (
                self.course.factor
                * r.head_lr
                * self.factor
                * min(1.0, (self.step + 1) / max(1, min(r.warmup, self.frozen // 4)))
            )
        t, total = self.step - self.frozen, max(1, self.steps - self.frozen)
        warm = min(1.0, (t + 1) / max(1, min(r.warmup, total // 4)))
        if r.schedule == "plateau":
            return self.course.factor * r.lr * warm * self.factor
        return self.course.factor * r.lr * warm * 0.5 * (1 + math.cos(math.pi * t / total))

    def _set_mode(self) -> None:
        """Training mode; the borrowed layers frozen in the first phase."""
        self.net.train()
        borrowed = self.net.borrowed()
        if borrowed is not None:
            frozen = self.step < self.frozen
            borrowed.requires_grad_(not frozen)
            if frozen:
                borrowed.eval()

    def learn(self, batch: Batch) -> None:
        """One step on a batch."""
        r, device = self.recipe, self.peers.device
        self._set_mode()
        lr = self.rate()
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        torch.manual_seed((r.seed * 1_000_003 + self.step) * 64 + self.peers.rank)  # dropout
        labels = batch.labels.to(device)
        views = [v for v in (batch.clean, batch.degraded) if v is not None]
        images = to_float(torch.cat(views).to(device, non_blocking=True))
        out, each = self.net.lesson(images, smoothed(labels, r.loss).repeat(len(views)))
        own = None if each is None else each.chunk(len(views))
        parts = _split(out, len(views))
        loss = verdict_loss(parts[0], labels, degraded=parts[1] if len(views) == 2 else None, cfg=r.loss, own=own)
        total = loss.total + self.net.penalty()
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        learning = [p for p in self.params if p.requires_grad]
        self.peers.average_gradients(learning)
        norm = nn.utils.clip_grad_norm_(learning, r.clip)
        if torch.isfinite(norm):
            self.optimiser.step()
            self.skipped = 0
        else:
            self.skipped, self.missed = self.skipped + 1, self.missed + 1
            if self.skipped >= HOPELESS:
                raise Diverged(f"{HOPELESS} steps in a row had no finite gradient (step {self.step})")
        self.step += 1
        self._average()
        with torch.no_grad():
            right = ((parts[-1].logit > 0) == (labels > 0.5)).double().mean()
            row = [total, loss.verdict, loss.patch, loss.consistency, right, norm]
            self.sums += torch.stack([v.detach().double().cpu() for v in row])

    @torch.no_grad()
    def _average(self) -> None:
        # A fresh average would remember the random start for 1 / (1 - ema) steps: it begins short.
        decay = min(self.recipe.ema, self.step / (self.step + 20))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.net.parameters()), 1 - decay)
        for mine, now in zip(self.ema.buffers(), self.net.buffers(), strict=True):
            mine.copy_(now)

    # ---- the loop ----------------------------------------------------------------------------------------------

    def run(self) -> bool:
        """Learn to the end (True), or until `stop` (False). Checkpoints on the way, at the end and when stopped.

        A training that diverges goes back to its last healthy checkpoint and learns at half the rate, three times at
        most; then UserError."""
        while True:
            try:
                return self._run()
            except Diverged as trouble:
                self._go_back(str(trouble))

    def _go_back(self, sign: str) -> None:
        course, elapsed, number = self.course, self.elapsed, self.course.healthy
        path = None if self.folder is None or number is None else checkpoint.checkpoint_path(self.folder, number)
        there = path is not None and self.peers.told(path.exists())
        if course.exhausted or not there or path is None:
            raise UserError(self._diagnosis(sign, there))
        self.load_state_dict(checkpoint.load(path, "detector"))
        self.course.signs, self.course.factor, self.elapsed = course.signs, course.factor, elapsed
        self.course.went_back(sign)
        if self.peers.is_main:
            nimg = self.step * self.recipe.batch
            self.report.say(
                f"diverged    {sign}: back to step {self.step}, with learning rates x {self.course.factor:g}"
                f" ({len(self.course.signs)} of at most {MOST} times)"
            )
            for name in ("stats.jsonl", "metrics.jsonl"):
                rewind_jsonl(path.parent / name, nimg)
            self.report.reopen(nimg + 1)
        self.save()

    def _diagnosis(self, sign: str, there: bool) -> str:
        r, tried = self.recipe, ""
        if self.course.signs:
            tried = (
                f", {counted(len(self.course.signs), 'time')} before it at other rates ({self.course.rates(r.lr)}), too"
            )
        advice = f"give a lower `lr` than {r.lr:g}" + ("" if r.precision == "fp32" else " or `precision` fp32")
        kept = f"; the checkpoint of step {self.course.healthy} is whole" if there and self.course.healthy else ""
        return f"the training has diverged: {sign}{tried}{kept}; start again and {advice}"

    def _run(self) -> bool:
        began, saved = time.monotonic() - self.elapsed, time.monotonic()
        mark, mark_step = time.monotonic(), self.step
        batches = self.feed.run(
            self.step, 0 if self.over else self.steps, workers=self.workers, rank=self.peers.rank, size=self.peers.size
        )
        with contextlib.closing(batches):
            for batch in batches:
                self.learn(batch)
                if self.step == self.frozen:
                    self._everything_learns()
                now = time.monotonic()
                self.elapsed = now - began
                pace = (now - mark) / (self.step - mark_step)
                self._show(pace)
                if self.step % self.tick_every == 0 or self.step == self.steps:
                    self._tick(pace)
                    mark, mark_step = time.monotonic(), self.step
                if self.step % self.every == 0 or self.step == self.steps:
                    self._validate()
                    mark, mark_step = time.monotonic(), self.step
                    if self.over or self.step >= self.steps:
                        break
                if self.peers.any(self.stop()):
                    self.save()
                    return False
                if self.peers.any(self.peers.is_main and now - saved > 60 * self.checkpoint_minutes):
                    self.save()
                    saved = time.monotonic()
        self.over = True
        self.save()
        return True

    def _show(self, pace: float) -> None:
        left = (self.steps - self.step) * pace
        self.report.progress(
            f"epoch {self.step / self.feed.len_epoch:.2f}/{self.recipe.epochs:g}  step {self.step}/{self.steps}"
            f"  {self.recipe.batch / max(pace, 1e-9):.1f} images/s  {clock(left)} left"
        )

    def _tick(self, pace: float) -> None:
        since = (self.step - 1) % self.tick_every + 1
        total, verdict, patch, consistency, right, norm = (self.sums / since).tolist()
        self.sums.zero_()
        missed, self.missed = self.missed, 0
        if missed > MISSED * since:
            raise Diverged(f"{missed} of {since} steps had no finite gradient (step {self.step})")
        epoch = self.step / self.feed.len_epoch
        self.report.tick(
            {
                "nimg": self.step * self.recipe.batch, "step": self.step, "epoch": round(epoch, 4),
                "timestamp": time.time(), "Loss/total": total, "Loss/verdict": verdict, "Loss/patch": patch,
                "Loss/consistency": consistency, "Train/accuracy": right, "Gradients/norm": norm,
                "Progress/lr": self.rate(), "Progress/epoch": epoch,
                "Health/skipped_steps": missed / since, "Health/rollbacks": float(len(self.course.signs)),
                "Timing/images_per_sec": self.recipe.batch / max(pace, 1e-9), "Timing/total_sec": self.elapsed,
            }
        )  # fmt: skip
        left = (self.steps - self.step) * pace
        self.report.say(
            f"epoch {epoch:<7.2f} step {self.step:<7d} loss {total:.4f}  verdict {verdict:.4f}  accuracy {right:.3f}"
            f"  lr {self.rate():.1e}  {self.recipe.batch / max(pace, 1e-9):.1f} images/s  time {clock(self.elapsed)}"
            f"  left {clock(left)}"
        )

    def _validate(self) -> None:
        """Judge the averaged weights; keep them if they are the best; tell the schedule and the patience."""
        began = time.monotonic()
        value, row, finite = math.nan, {}, True
        if self.peers.is_main:
            told = lambda done, total: self.report.progress(f"validating {done}/{total}")  # noqa: E731
            self.ema.lowp_eval = self.recipe.precision == "bf16"
            logits = scores(self.ema, self.validation, workers=self.workers, progress=told)
            self.ema.lowp_eval = False
            finite = bool(np.isfinite(logits).all())
            row = figures(self.validation, logits) if finite else {"auc": math.nan}
            value = row["auc"]
        value, finite = self.peers.told((value, finite))
        if not finite:
            raise Diverged(f"its scores of the validation images are not numbers (step {self.step})")
        better = math.isfinite(value) and (self.best is None or value > self.best["auc"])
        if better:
            kept = {name: t.detach().cpu().clone() for name, t in self.ema.state_dict().items()}
            self.best = {"auc": value, "step": self.step, "state": kept}
            self.idle = self.waited = 0
        else:
            self.idle, self.waited = self.idle + 1, self.waited + 1
        if self.recipe.schedule == "plateau" and self.waited >= self.recipe.plateau_patience:
            self.factor, self.waited = self.factor * self.recipe.plateau_factor, 0
        thawed, idle = False, self.idle
        if self.recipe.patience and idle >= self.recipe.patience:
            if self.step < self.frozen:
                self._spare(self.frozen - self.step)
                thawed = True
                self._everything_learns()
            elif self.step > self.frozen:
                self.over = True
        if self.peers.is_main:
            seconds = time.monotonic() - began
            shown = "  ".join(f"{name.replace('_', ' ')} {v:.4f}" for name, v in row.items())
            self.report.say(f"validation  {shown}  ({clock(seconds)}){'  best so far' if better else ''}")
            self.report.metric(
                {"nimg": self.step * self.recipe.batch, "step": self.step, "seconds": seconds, "best": better}
                | {k: (v if math.isfinite(v) else None) for k, v in row.items()}
            )
            if thawed:
                self.report.say(f"thawed      {idle} validations without gain: the frozen layers learn from here on")
            if self.over:
                self.report.say(f"early stop  {self.idle} validations without gain; best was step {self.best_step()}")

    def _everything_learns(self) -> None:
        """The second phase has its own patience and its own rate."""
        self.idle = self.waited = 0
        self.factor = 1.0

    def best_step(self) -> int:
        """The step whose averaged weights validated best (the last where none did)."""
        return self.step if self.best is None else int(self.best["step"])

    def best_network(self) -> Network:
        """The averaged weights of the best validation, in evaluation mode. UserError where no state gave numbers."""
        if self.best is None:
            raise UserError("no state of this training gave finite scores; lower `lr` and start again")
        self.ema.load_state_dict(self.best["state"])
        return self.ema


def _split(out: VerdictOut, views: int) -> list[VerdictOut]:
    patches = [None] * views if out.patch_logits is None else out.patch_logits.chunk(views)
    return [VerdictOut(*both) for both in zip(out.logit.chunk(views), patches, strict=True)]
