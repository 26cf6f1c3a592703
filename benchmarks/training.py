#!/usr/bin/env python3
"""What a training step costs: seconds per kimg, peak memory and its parts, by resolution, precision and threads.

Every setting runs in its own process (peak memory is the process's own), on random images, at a fixed augmentation
probability, with all phases of the published lazy schedule and the verdict head. Times are averages over one period of
the schedule (16 steps) after a warm-up; CPU seconds are given beside wall seconds because machines are shared.

    python benchmarks/training.py                              # the default grid, about ten minutes on two cores
    python benchmarks/training.py --resolution 64 --cfg auto --precision bf16 --threads 2
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

PERIOD = 16  # steps after which every phase was due as often as the schedule says


def measure(cfg: str, resolution: int, precision: str, threads: int, batch: int | None, device: str) -> dict:
    """One setting, in this process."""
    import numpy as np
    import torch

    from adversarial.config import Options, resolve
    from adversarial.distributed import World
    from adversarial.feed import Feed
    from adversarial.game import Game
    from adversarial.memory import keep_freed_memory, peak_memory_gb
    from faces.dataset import PackedFaces
    from faces.degrade import preset as degradation_preset
    from faces.preprocess import Preprocess

    torch.set_num_threads(threads)
    keep_freed_memory()
    where = torch.device(device)
    options = Options(data="random", cfg=cfg, batch=batch, precision=precision, aug="fixed", p=0.2, device=device)
    config = resolve(options, resolution=resolution, world_size=1, device=where, facts={})
    images = np.random.default_rng(0).integers(0, 256, (256, 3, resolution, resolution), dtype=np.uint8)
    faces = PackedFaces(images, np.arange(256) % 2, np.arange(256), Preprocess(resolution))
    before = peak_memory_gb(where)
    game = Game(config, World(0, 1, where), Feed(faces, degradation_preset("train"), 0))

    phases: dict[str, list[float]] = {}
    for name in ("_generator_turn", "_path_length_turn", "_discriminator_turn", "_r1_turn", "verdict_backward"):
        setattr(game, name, _timed(getattr(game, name), phases.setdefault(name.lstrip("_"), []), where))
    game.step()  # allocations, kernels and the phases due at step 0
    for times in phases.values():
        times.clear()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(PERIOD):
        game.step()
    if where.type == "cuda":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    kimg = PERIOD * config.batch / 1000
    return {
        "cfg": cfg,
        "resolution": resolution,
        "precision": config.precision,
        "threads": threads,
        "batch": config.batch,
        "verdict_batch": config.verdict_batch,
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu",
        "sec_per_kimg": wall / kimg,
        "cpu_sec_per_kimg": cpu / kimg,
        "peak_memory_gb": peak_memory_gb(where),
        "imports_gb": before if where.type == "cpu" else 0.0,
        "ms_per_call": {name: 1000 * sum(t) / len(t) for name, t in phases.items() if t},
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
    }


def _timed(call, times: list[float], device):
    def run(*args):
        import torch

        began = time.perf_counter()
        result = call(*args)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
        return result

    return run


@click.command(help=__doc__.split("\n\n")[0], context_settings={"show_default": True})
@click.option("--cfg", "cfgs", multiple=True, default=["tiny", "auto"], help="Presets.")
@click.option("--resolution", "resolutions", multiple=True, type=int, default=[32, 64, 128], help="Image sides.")
@click.option("--precision", "precisions", multiple=True, default=["fp32", "bf16"], help="Precisions.")
@click.option("--threads", "threads", multiple=True, type=int, default=[1, 2], help="CPU threads.")
@click.option("--batch", type=int, help="Images a step.  [default: tiny 16, auto 4]")
@click.option("--device", default="cpu", help="cpu or cuda.")
@click.option("--out", default="benchmarks/training.json", metavar="FILE", help="Results as JSON.")
@click.option("--one", is_flag=True, hidden=True)
def main(cfgs, resolutions, precisions, threads, batch, device, out, one) -> None:
    if one:
        print(json.dumps(measure(cfgs[0], resolutions[0], precisions[0], threads[0], batch, device)))
        return
    rows = []
    grid = [(c, r, p, t) for c in cfgs for r in resolutions for p in precisions for t in threads]
    for c, r, p, t in grid:
        size = batch or {"tiny": 16}.get(c, 4)
        command = [sys.executable, __file__, "--one", "--cfg", c, "--resolution", str(r), "--precision", p]
        command += ["--threads", str(t), "--batch", str(size), "--device", device]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            print(f"{c} {r} px {p} {t} thread(s): failed: {reason}", file=sys.stderr)
            continue
        row = json.loads(done.stdout.strip().splitlines()[-1])
        rows.append(row)
        print(
            f"{c:5s} {r:4d} px {p:5s} {t} thread(s) batch {size:3d}: {row['sec_per_kimg']:8.1f} sec/kimg"
            f"  (CPU {row['cpu_sec_per_kimg']:8.1f})  {row['peak_memory_gb']:.2f} GB",
            flush=True,
        )
        Path(out).write_text(json.dumps(rows, indent=1) + "\n")
    if not rows:
        sys.exit(2)


if __name__ == "__main__":
    main()
