#!/usr/bin/env python3
"""What training costs: seconds, CPU seconds, arithmetic and memory of an iteration, and of sampling.

Every measurement runs in a process of its own (peak memory is the process's own), on random images, at a fixed
augmentation probability of 0.2 and without the verdict head unless asked for. An iteration is amortised over
StyleGAN2's lazy schedule: Gmain + Greg/4 + Dmain + Dreg/16 + averages, each the median over the rounds. GFLOP are those
of direct convolutions and matrix products, whatever algorithm does them. Machines are shared: CPU seconds stand beside
seconds, and the rate of a bare convolution measured in the same run beside the rate reached.

    python benchmarks/training.py compare               # against the reference path in float32; four minutes
    python benchmarks/training.py compare --peer FOLDER # and against another checkout's StyleGAN2-ADA
    python benchmarks/training.py choices               # what each choice buys
    python benchmarks/training.py curves --plot c.png   # over resolution, batch and channels
    python benchmarks/training.py grid --cfg tiny       # presets as people train them, verdict head included
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

PHASES = {"Gmain": "_generator_turn", "Greg": "_path_length_turn", "Dmain": "_discriminator_turn", "Dreg": "_r1_turn"}
SHARE = {"Gmain": 1, "Greg": 1 / 4, "Dmain": 1, "Dreg": 1 / 16, "averages": 1}  # of an iteration
WAYS = {  # name -> (STYLEGAN_OPS, precision)
    "reference fp32": ("reference", "fp32"),
    "torch bf16": ("torch", "bf16"),
    "native fp32": ("", "fp32"),
    "native bf16": ("", "bf16"),
}


def make_game(s: dict, device):
    """The game of the benchmark's settings, on random images."""
    import numpy as np

    from adversarial.config import resolve
    from adversarial.feed import Feed
    from adversarial.game import Game
    from adversarial.options import Options
    from faces.dataset import DecodedFaces
    from faces.degrade import preset as degradation_preset
    from faces.preprocess import Preprocess
    from training.processes import Processes

    options = Options(
        data="random",
        cfg=s["cfg"],
        batch=s["batch"],
        precision=s["precision"],
        aug="fixed",
        p=0.2,
        device=str(device),
        verdict_batch=None if s["verdict"] else 0,
    )
    resolution = s["resolution"]
    config = resolve(options, resolution=resolution, world_size=1, device=device, facts={})
    if s["channel_base"]:
        for net in (config.generator, config.hybrid.trunk):
            object.__setattr__(net, "channel_base", s["channel_base"])
    images = np.random.default_rng(0).integers(0, 256, (256, 3, resolution, resolution), dtype=np.uint8)
    faces = DecodedFaces(images, np.arange(256) % 2, np.arange(256), Preprocess(resolution))
    return Game(config, Processes(device=device), Feed(faces, degradation_preset("train"), 0)), config


def training_cost(s: dict, device) -> dict:
    """One setting's iteration, in this process."""
    import torch

    from training.memory import peak_memory_gb

    leave_out(s["without"])
    torch.zeros(1, device=device)
    imports = peak_memory_gb(device)
    game, config = make_game(s, device)

    def sync():
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def phases():
        for name, turn in PHASES.items():
            yield name, getattr(game, turn)
        yield "averages", game._average

    for name, turn in phases():  # allocations, compiled kernels
        turn(*([] if name == "averages" else [0]))
    sync()
    wall, cpu = ({name: [] for name in SHARE} for _ in range(2))
    for i in range(s["rounds"]):
        for name, turn in phases():
            w, c = time.perf_counter(), time.process_time()
            turn(*([] if name == "averages" else [16 * i]))
            sync()
            wall[name].append(time.perf_counter() - w)
            cpu[name].append(time.process_time() - c)
    median = {name: statistics.median(times) for name, times in wall.items()}
    return {
        "seconds": amortised(median),
        "cpu_seconds": amortised({name: statistics.median(times) for name, times in cpu.items()}),
        "phases": median,
        "gflop": gflop_of(game, config) if s["count"] else None,
        "peak_gb": peak_memory_gb(device),
        "imports_gb": imports if device.type == "cpu" else 0.0,
        "batch": config.batch,
        "precision": config.precision,
    }


def gflop_of(game, config) -> float:
    """Of an iteration, from those of the forward passes g and d: a backward pass costs 1 for the input and 1 for the
    weights, a second derivative with respect to the input all of that and as much again."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    forward = []
    with torch.no_grad():
        images = game.G(torch.randn(config.batch, config.generator.z_dim))
        for call in (
            lambda: game.G(torch.randn(config.batch, config.generator.z_dim)),
            lambda: game.D.adversarial(images),
        ):
            with FlopCounterMode(display=False) as counter:
                call()
            forward.append(counter.get_total_flops() / 1e9)
    g, d = forward
    phases = {"Gmain": 3 * g + 2 * d, "Greg": 6 * g / config.pl_batch_shrink, "Dmain": g + 6 * d, "Dreg": 6 * d}
    return amortised(phases)


def amortised(phases: dict) -> float:
    return sum(SHARE[name] * value for name, value in phases.items())


def sampling_cost(s: dict, device) -> dict:
    """Seconds for `batch` images of an evaluated generator, in this process."""
    import torch

    from stylegan2_ada.config import GeneratorConfig
    from stylegan2_ada.generator import Generator

    base = s["channel_base"] or 16384
    lowp = 4 if s["precision"] == "bf16" else 0
    config = GeneratorConfig(resolution=s["resolution"], mapping_layers=2, channel_base=base, num_lowp_res=lowp)
    G = Generator(config).to(device).eval()
    z = torch.randn(s["batch"], G.cfg.z_dim, device=device)
    times = []
    with torch.inference_mode():
        for i in range(3 + 3 * s["rounds"]):
            began = time.perf_counter()
            G(z, noise_mode="const")
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if i >= 3:
                times.append(time.perf_counter() - began)
    return {"seconds": statistics.median(times)}


def bare_convolution(s: dict, device) -> dict:
    """GFLOP/s of a 3x3 convolution of 256 channels at 64x64 by PyTorch, the best of ten."""
    import torch

    from stylegan2_ada.ops.__main__ import milliseconds

    rates = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        x = torch.randn(4, 256, 64, 64, device=device).to(dtype, memory_format=torch.channels_last)
        w = torch.randn(256, 256, 3, 3, device=device).to(dtype, memory_format=torch.channels_last)
        ms = milliseconds(lambda x, w=w: torch.nn.functional.conv2d(x, w, padding=1), x, repeats=10)
        rates[name] = 2 * 256 * 9 * x.numel() / 1e6 / ms
    return rates


TASKS = {"training": training_cost, "sampling": sampling_cost, "convolution": bare_convolution}


def measure(task: str, way: str, **settings) -> dict:
    """Run a task in a new process; a failure is one line and exit 2."""
    ops, precision = WAYS[way]
    s = {
        "cfg": "auto",
        "resolution": 64,
        "batch": 4,
        "channel_base": None,
        "verdict": False,
        "rounds": 3,
        "count": False,
        "without": "nothing",
        "precision": precision,
        **settings,
    }
    env = {**os.environ, "STYLEGAN_OPS": ops, "OMP_NUM_THREADS": str(s["threads"])}
    if not ops:
        del env["STYLEGAN_OPS"]
    command = [sys.executable, __file__, "one", task, json.dumps(s)]
    return {"way": way, **s, **_answer(command, f"{task}, {way}, {s['resolution']} px", cwd=ROOT, env=env)}


def measure_peer(folder: str, **settings) -> dict:
    """The iteration of another checkout (`benchmarks/peer.py`), with PyTorch's defaults, in a process of its own."""
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "STYLEGAN_OPS")}
    env["OMP_NUM_THREADS"] = str(settings["threads"])
    where = str(Path(folder).resolve())
    command = [sys.executable, str(ROOT / "benchmarks" / "peer.py"), where, json.dumps(settings)]
    return {"way": "peer fp32", **settings, **_answer(command, f"--peer {folder}", cwd=where, env=env)}


def _answer(command: list[str], what: str, **how) -> dict:
    """The JSON on the last line of what it prints; a failure is one line and exit 2."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **how)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        print(f"error: {what}: {reason}", file=sys.stderr)
        sys.exit(2)
    return json.loads(done.stdout.strip().splitlines()[-1])


def facts(device: str) -> dict:
    """What the numbers were measured on."""
    import torch

    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
    return {"torch": torch.__version__, "python": platform.python_version(), "processor": processor, "gpu": gpu}


def common(command):
    """Gives a command its `machine` (threads, device, rounds), and writes what it returns beside the facts of that."""

    @functools.wraps(command)
    def bundled(threads, device, rounds, out, **own) -> None:
        found = command(machine={"threads": threads, "device": device, "rounds": rounds}, **own)
        if out:
            Path(out).write_text(json.dumps({"machine": facts(device), **found}, indent=1) + "\n")

    for option in (
        click.option("--threads", default=os.cpu_count() or 1, show_default=True, help="CPU threads."),
        click.option("--device", default="cpu", show_default=True, help="cpu or cuda."),
        click.option("--rounds", default=3, show_default=True, help="Rounds of all phases to take medians over."),
        click.option("--out", metavar="FILE", help="Write the results as JSON."),
    ):
        bundled = option(bundled)
    return bundled


@click.group(help=__doc__.split("\n\n")[0], context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None: ...


@main.command(help="The project's own fast path against its reference path in float32, alternately, in one run.")
@click.option("--resolution", "resolutions", multiple=True, type=int, default=[64, 128], show_default=True)
@click.option("--batch", default=4, show_default=True)
@click.option("--repeats", default=1, show_default=True, help="How often the whole comparison is repeated.")
@click.option(
    "--ways",
    multiple=True,
    type=click.Choice(list(WAYS)),
    default=list(WAYS),
    help="Only these; the reference path comes with them.",
)
@click.option(
    "--peer",
    metavar="FOLDER",
    type=click.Path(exists=True, file_okay=False),
    help="Measure this checkout's StyleGAN2-ADA beside them, in float32, if it has the published interface.",
)
@common
def compare(resolutions, batch, repeats, ways, peer, machine) -> dict:
    rows, rates = [], []
    ways = [way for way in WAYS if way in ways or way == "reference fp32"]  # in a processor without bfloat16 it is slow
    for resolution in resolutions:
        here = {**machine, "batch": batch, "resolution": resolution}
        for _ in range(repeats):
            rates.append(measure("convolution", "native bf16", **here))
            for way in ways:
                rows.append(measure("training", way, **here, count=way == "reference fp32"))
                sampled = measure("sampling", way, **here)
                rows[-1]["sampling_seconds"] = sampled["seconds"]
            if peer:
                rows.append(measure_peer(peer, **here))
        mine = [row for row in rows if row["resolution"] == resolution]
        gflop = next(row["gflop"] for row in mine if row["gflop"])
        bare = {name: max(rate[name] for rate in rates) for name in ("fp32", "bf16")}
        print(
            f"\n{resolution}x{resolution}, batch {batch}, {machine['threads']} thread(s), {gflop:.0f} GFLOP an"
            f" iteration; a bare 3x3 convolution reaches"
            f" {bare['fp32']:.0f} (fp32) and {bare['bf16']:.0f} (bf16) GFLOP/s\n"
        )
        print("way              s/iteration  CPU-s  GFLOP/s   GB  (beyond imports)   ratio  memory  4 samples   ratio")
        keys = ("seconds", "cpu_seconds", "peak_gb", "imports_gb", "sampling_seconds")
        table = {
            way: {key: statistics.median(row[key] for row in mine if row["way"] == way) for key in keys}
            for way in [*ways, *["peer fp32"] * bool(peer)]
        }
        first = table["reference fp32"]
        for way, row in table.items():
            print(
                f"{way:16s} {row['seconds']:10.2f} {row['cpu_seconds']:7.2f} {gflop / row['seconds']:8.0f}"
                f" {row['peak_gb']:6.2f} {row['peak_gb'] - row['imports_gb']:12.2f}"
                f" {first['seconds'] / row['seconds']:12.2f}x {100 * row['peak_gb'] / first['peak_gb']:5.0f} %"
                f" {row['sampling_seconds']:8.3f} s {first['sampling_seconds'] / row['sampling_seconds']:6.2f}x",
                flush=True,
            )
        if peer:
            theirs = table.pop("peer fp32")
            told = ", ".join(f"{way} {theirs['seconds'] / row['seconds']:.2f}x" for way, row in table.items())
            print(f"times as fast as {peer}: {told}", flush=True)
    return {"convolution": rates, "rows": rows}


CHOICES = {
    "nothing": "everything as it is",
    "winograd": "3x3 convolutions by oneDNN instead of by Winograd's method or tiles",
    "bf16": "float32 everywhere",
    "native": "PyTorch's operations instead of native ones",
    "channels-last": "contiguous activations",
    "no-weight-gradients": "weight gradients in the first half of R1 and path length",
    "no-graph-for-fakes": "a graph through the generator in the discriminator's turn",
    "ada-skips": "the warp and the colour matrix applied to every image",
    "own-adam": "PyTorch's Adam: several passes, a first moment, the compiler in memory",
    "kept-memory": "memory returned to the system after every tensor",
}


def leave_out(choice: str) -> None:
    """Undo one choice, in this process, before the game is made."""
    import torch

    import adversarial.game as game
    import adversarial.losses as losses
    import adversarial.optimiser as optimiser
    import stylegan2_ada.ada as ada
    import stylegan2_ada.discriminator as discriminator
    import stylegan2_ada.generator as generator
    from stylegan2_ada.ops import conv3x3, conv_taps, convolution

    if choice == "winograd":
        conv3x3.applies = conv_taps.applies = lambda *operands, **how: False
    elif choice == "channels-last":
        contiguous = lambda x, dtype, lowp: x.to(dtype=dtype, memory_format=torch.contiguous_format)  # noqa: E731
        generator.to_compute = discriminator.to_compute = contiguous
        conv3x3.applies = conv_taps.applies = lambda *operands, **how: False
        convolution._layout = lambda x: torch.contiguous_format
    elif choice == "no-weight-gradients":
        losses.input_gradients_only = contextlib.nullcontext
    elif choice == "no-graph-for-fakes":
        game.torch.no_grad = torch.enable_grad
    elif choice == "ada-skips":
        ada.AugmentPipe._on_changed = lambda self, images, changed, transform, parameters: transform(images, parameters)
    elif choice == "own-adam":
        optimiser.FusedAdam = torch.optim.Adam


@main.command(help="What each choice buys: an iteration with everything, and without one thing at a time.")
@click.option("--resolution", default=64, show_default=True)
@click.option("--batch", default=4, show_default=True)
@click.option("--choice", "choices_", multiple=True, type=click.Choice(list(CHOICES)), help="Only these.")
@common
def choices(resolution, batch, choices_, machine) -> dict:
    here = {**machine, "batch": batch, "resolution": resolution}
    rows = []
    for choice in choices_ or CHOICES:
        way = {"native": "torch bf16", "bf16": "native fp32"}.get(choice, "native bf16")
        # the whole is measured again beside each part of it, as machines change their speed
        base = measure("training", "native bf16", **here)
        row = base if choice == "nothing" else measure("training", way, **here, without=choice)
        rows.append({"without": choice, "with_seconds": base["seconds"], "with_gb": base["peak_gb"], **row})
        print(
            f"{CHOICES[choice]:70s} {row['seconds']:6.2f} s {row['seconds'] / base['seconds']:6.3f}x"
            f" {row['peak_gb']:6.2f} GB {row['peak_gb'] - base['peak_gb']:+6.2f}",
            flush=True,
        )
    return {"rows": rows}


@main.command(help="Cost against resolution, batch and channels, for both paths.")
@click.option("--plot", metavar="FILE", help="Draw the curves as a PNG.")
@click.option("--ways", multiple=True, type=click.Choice(list(WAYS)), default=["reference fp32", "native bf16"])
@common
def curves(plot, ways, machine) -> dict:
    axes = {
        "resolution": [32, 64, 128, 256],
        "batch": [4, 8, 16],
        "channel_base": [4096, 8192, 16384, 32768],
    }
    rows = []
    for axis, values in axes.items():
        for value in values:
            for way in ways:
                settings = {"batch": 4, "channel_base": 16384, "resolution": 64, axis: value}
                row = measure("training", way, **machine, **settings)
                rows.append({"axis": axis, "value": value, **row})
                print(f"{axis} {value}: {way}: {row['seconds']:.2f} s, {row['peak_gb']:.2f} GB", flush=True)
    if plot:
        draw(rows, axes, ways, plot)
    return {"rows": rows}


def draw(rows: list[dict], axes: dict, ways, plot: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    labels = {"resolution": "resolution", "batch": "batch (64 px)", "channel_base": "channel base (64 px)"}
    figure, grid = plt.subplots(2, 3, figsize=(11, 6), sharex="col", constrained_layout=True)
    for column, (axis, values) in enumerate(axes.items()):
        for way in ways:
            mine = [row for row in rows if row["axis"] == axis and row["way"] == way]
            x = [row["value"] for row in mine]
            grid[0, column].plot(x, [row["seconds"] for row in mine], "o-", label=way)
            grid[1, column].plot(x, [row["peak_gb"] for row in mine], "o-", label=way)
        for row in grid[:, column]:
            row.set_xscale("log", base=2)
            row.set_xticks(values, [str(v) for v in values])
            row.minorticks_off()
            row.grid(alpha=0.3)
        grid[0, column].set_yscale("log", base=2)
        grid[0, column].yaxis.set_major_formatter("{x:g}")
        grid[1, column].set_ylim(bottom=0)
        grid[1, column].set_xlabel(labels[axis])
    grid[0, 0].set_ylabel("seconds an iteration")
    grid[1, 0].set_ylabel("peak memory, GB")
    grid[0, 0].legend(frameon=False)
    figure.savefig(plot, dpi=110)


@main.command(help="Seconds per thousand images for presets as people train them, verdict head included.")
@click.option("--cfg", "cfgs", multiple=True, default=["tiny", "auto"], show_default=True)
@click.option("--resolution", "resolutions", multiple=True, type=int, default=[32, 64, 128], show_default=True)
@click.option("--precision", "precisions", multiple=True, default=["bf16"], show_default=True)
@click.option("--batch", type=int, help="Images a step.  [default: tiny 8, auto 4]")
@common
def grid(cfgs, resolutions, precisions, batch, machine) -> dict:
    rows = []
    for cfg, resolution, precision in itertools.product(cfgs, resolutions, precisions):
        size = batch or (8 if cfg == "tiny" else 4)
        settings = {"cfg": cfg, "resolution": resolution, "precision": precision, "batch": size}
        row = measure("training", "native bf16", **settings, verdict=True, **machine)
        row["sec_per_kimg"] = row["seconds"] * 1000 / row["batch"]
        rows.append(row)
        print(
            f"{cfg:9s} {resolution:5d} px {precision} batch {row['batch']:3d}: {row['sec_per_kimg']:8.1f}"
            f" sec/kimg, {row['peak_gb']:.2f} GB",
            flush=True,
        )
    return {"rows": rows}


@main.command(hidden=True)
@click.argument("task")
@click.argument("settings")
def one(task, settings) -> None:
    import torch

    from training.memory import keep_freed_memory

    s = json.loads(settings)
    torch.set_num_threads(s["threads"])
    defaults = os.environ.get("STYLEGAN_OPS") == "reference" or s["without"] == "kept-memory" or task == "convolution"
    if not defaults:  # PyTorch's, of memory
        keep_freed_memory()
    print(json.dumps(TASKS[task](s, torch.device(s["device"]))))


if __name__ == "__main__":
    main()
