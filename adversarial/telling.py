"""What a run says of itself in lines of text: at its beginning, at each tick, and where it has diverged."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from adversarial.config import GameConfig
from adversarial.game import Game
from common.clock import clock
from common.words import counted
from stylegan2_ada.config import preset
from training.checkpoint import checkpoint_number, checkpoints
from training.data import count_notes, patch_notes, size_notes
from training.memory import peak_memory_gb
from training.rollback import Course

SHOWN = 5  # left-out images named in the log; config.json has up to 100
CLASSES = 12  # that are named


def data_lines(facts: dict, crop: str, mirrored: bool) -> Iterator[str]:
    """What was found in the data, and what was left out or changed. facts: of `RunData`."""
    if "classes" in facts:
        pairs = [f"{name} ({n})" for name, n in zip(facts["classes"], facts["class_counts"], strict=True)]
        more = f", … and {len(pairs) - CLASSES} more" if len(pairs) > CLASSES else ""
        yield f"classes     {len(pairs)}: {', '.join(pairs[:CLASSES])}{more}"
    for note in facts["notes"]:
        yield f"note        {note}"
    for name, reason in facts["skipped"][:SHOWN]:
        yield f"left out    {name}: {reason}"
    if facts["num_skipped"] > SHOWN:
        yield f"left out    … and {facts['num_skipped'] - SHOWN} more; config.json names up to 100"
    if facts["converted"]:
        yield "converted   " + ", ".join(f"{n} {kind}" for kind, n in facts["converted"].items()) + " to RGB"
    yield from patch_notes(facts) + count_notes(facts, mirrored) + size_notes(facts, crop)
    if facts["held_out"]:
        yield "splits      the set has no validation split: a tenth of its images is held out for calibration"


def tick_line(
    tick: int, kimg: float, rows: dict, augment: float, total: float, sec_per_kimg: float, left: float
) -> str:
    """One line of progress. rows: what the tick's steps counted; total, left: seconds."""

    def mean(name: str) -> str:
        return f"{rows[name]['mean']:.3f}" if name in rows and rows[name]["num"] else "-"

    bad = sum(round(v["mean"] * v["num"]) for n, v in rows.items() if n.startswith("Gradients/nonfinite"))
    return (
        f"tick {tick:<5d} kimg {kimg:<8.2f} time {clock(total):<9s} sec/kimg {sec_per_kimg:<7.2f} augment {augment:.3f}"
        f"  G {mean('Loss/G/loss')} D {mean('Loss/D/loss')} r1 {mean('Loss/r1_penalty')}"
        f" verdict {mean('Loss/verdict')} acc {mean('Verdict/accuracy')}  left {clock(max(left, 0))}"
        + (f"  NON-FINITE {bad}" if bad else "")
    )


def tick_row(game: Game, tick: int, total: float, sec_per_kimg: float, left: float) -> dict:
    """What a tick's row in stats.jsonl begins with. total, left: seconds."""
    kimg = game.nimg / 1000
    return {
        "nimg": game.nimg,
        "kimg": round(kimg, 3),
        "tick": tick,
        "timestamp": time.time(),
        "Progress/kimg": kimg,
        "Progress/tick": tick,
        "Progress/augment": float(game.augment.p),
        "Progress/pl_mean": float(game.pl_mean),
        "Timing/sec_per_kimg": sec_per_kimg,
        "Timing/total_sec": total,
        "Timing/seconds_left": left,
        "Resources/peak_memory_gb": peak_memory_gb(game.world.device),
        "Resources/replay_images": len(game.replay),
    }


def disk_trouble(folder: Path, e: OSError) -> str:
    """The line for an error of the disk in the middle of a run."""
    found = checkpoints(folder)
    advice = f"then go on from {found[-1].name} with `resume` {folder}" if found else "then start again"
    return f"{e.filename or folder}: cannot be written ({e.strerror or e}); free space or mend the folder, {advice}"


def diagnosis(folder: Path, cfg: GameConfig, processes: int, course: Course, sign: str, healthy: Path | None) -> str:
    """Why a run that diverged ends, and what to do. healthy: the last checkpoint that is there and was healthy."""
    usual = preset(cfg.options.cfg, cfg.resolution, processes).lr
    if cfg.lr > usual:
        advice = f"give a lower `lr` (the preset's is {usual:g})"
    elif cfg.precision == "fp16":
        advice = "add `precision` fp32"
    else:
        advice = f"give a larger `gamma` than {cfg.gamma:g}, or a lower `lr` than {cfg.lr:g}"
    tried = ""
    if course.signs:
        tried = (
            f", as {counted(len(course.signs), 'time')} before it, though it had gone back each time and learnt at"
            f" {course.rates(cfg.lr)}"
        )
    if healthy is None or not checkpoint_number(healthy):
        there = "no healthy checkpoint after the start is there; start again, and "
    else:
        there = f"the last healthy checkpoint is {healthy.name}; go on from it with `resume` {folder}, and "
    return f"{folder}: the training has diverged: {sign}{tried} (`lr` {cfg.lr:g}); {there}{advice}"
