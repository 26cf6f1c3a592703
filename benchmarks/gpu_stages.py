"""What `benchmarks/gpu_check.py` measures on a GPU: one function a stage, ordered by worth.

A stage yields rows, each a dict with a `key` of its own; a later row of the same key takes the place of an earlier one.
A row with `none` says why there is no number. Rows are kept as they come, so what a stage found before it was stopped
is not lost. `Scale.tiny` is for a dry run on a CPU: the same calls at sizes that take a second.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

Row = dict[str, Any]
SANITIZER_TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
_OUTCOME = re.compile(r"^(\S+?::.+?) (PASSED|FAILED|SKIPPED|ERROR|XFAIL|XPASS)\b")


@dataclass(frozen=True)
class Scale:
    """device: cuda or cpu. tiny: the dry run."""

    device: str = "cuda"
    tiny: bool = False

    def of(self, full: Any, tiny: Any) -> Any:
        return tiny if self.tiny else full


@dataclass(frozen=True)
class Stage:
    """limit: seconds after which its process is ended, in a check of ten minutes."""

    what: str
    run: Callable[[Scale], Iterator[Row]]
    limit: float
    optional: bool = False  # run only where it is named


def doctor(scale: Scale) -> Iterator[Row]:
    """The machine, and whether the native operations are right on it."""
    import torch

    from benchmarks.training import facts
    from stylegan2_ada.ops.__main__ import examine, surroundings

    device = torch.device(scale.device)
    row = {"key": "machine", **facts(scale.device), **surroundings(), "cuda": torch.version.cuda}
    if device.type == "cuda":
        told = torch.cuda.get_device_properties(device)
        row |= {"capability": f"{told.major}.{told.minor}", "gpu_gb": round(told.total_memory / 2**30, 1)}
    row["compute-sanitizer"] = find_sanitizer() or "none"
    yield row
    from stylegan2_ada.ops import native

    began = time.perf_counter()
    found = native.status(device.type)
    seconds = time.perf_counter() - began
    yield {"key": "native", "used": found.native, "why": found.why, "seconds_to_build": seconds}
    rows = [] if scale.tiny else examine(device, timed=False)
    wrong = [f"{row['operation']} {row['dtype']} {row['layout']}" for row in rows if not row["right"]]
    yield {"key": "operations", "checked": len(rows), "wrong": len(wrong), "which": wrong}


def _trained(scale: Scale, cfg: str, resolution: int, precision: str, **more: Any) -> Row:
    import torch

    from benchmarks.training import training_cost

    device = torch.device(scale.device)
    settings = {
        "cfg": cfg, "resolution": scale.of(resolution, 16), "batch": scale.of(None, 8), "precision": precision,
        "channel_base": scale.of(None, 256), "verdict": False, "rounds": scale.of(5, 1), "count": False,
        "without": "nothing", **more,
    }  # fmt: skip
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    found = training_cost(settings, device)
    rate = 1000 * found["seconds"] / found["batch"]
    return {"sec_per_kimg": rate, **{k: found[k] for k in ("seconds", "phases", "peak_gb", "batch", "precision")}}


def _training(cfg: str, resolution: int) -> Callable[[Scale], Iterator[Row]]:
    def run(scale: Scale) -> Iterator[Row]:
        for precision in scale.of(("fp16", "bf16"), ("bf16",)):
            yield {"key": f"train/{cfg}/{resolution}/{precision}", **_trained(scale, cfg, resolution, precision)}
        if cfg == "auto" and resolution == 256:
            row = _trained(scale, cfg, resolution, "bf16", verdict=True)
            yield {"key": f"train/{cfg}/{resolution}/verdict", **row}
        graphs = "the trainer does not use CUDA graphs"
        yield {"key": f"train/{cfg}/{resolution}/graphs", "none": graphs}

    return run


def reference(scale: Scale) -> Iterator[Row]:
    """The same iterations on the definitions, in float32, and on PyTorch's operations."""
    from benchmarks.ops import forced

    for resolution in scale.of((256, 128), (128,)):
        for way, precision in (("reference", "fp32"), ("torch", "bf16")):
            with forced(way, scale.device):
                row = _trained(scale, "auto", resolution, precision, rounds=scale.of(2, 1))
            yield {"key": f"train/auto/{resolution}/{way}", **row}


def tests(scale: Scale) -> Iterator[Row]:
    """All tests marked `gpu`; of a dry run only their list."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-v",
        "-m",
        "gpu and not slow",
        "-p",
        "no:cacheprovider",
        "--timeout=120",
    ]
    if scale.tiny:
        command += ["--collect-only", "-q", "tests/adversarial/test_game.py", "--continue-on-collection-errors"]
    yield from run_pytest(command, "tests")


def run_pytest(command: list[str], key: str) -> Iterator[Row]:
    """A row with the counts so far after every test, the names of those that failed, and the last lines at the end."""
    counts: dict[str, int] = {}
    failed, last = [], []
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        last = [*last[-39:], line.rstrip()]
        print(line, end="", flush=True)
        if match := _OUTCOME.match(line):
            outcome = match[2].lower()
            counts[outcome] = counts.get(outcome, 0) + 1
            failed += [match[1]] if outcome in ("failed", "error") else []
            yield {"key": key, **counts, "which": failed}
    code = process.wait()
    row = {"key": key, **counts, "which": failed, "exit_code": code}
    yield row | ({} if code == 0 else {"last_lines": last})


def operations(scale: Scale) -> Iterator[Row]:
    """Every operation against the definition and against copying as many bytes."""
    import torch

    from benchmarks.ops import OPS, WAYS, Maker, cases, measure
    from stylegan2_ada.ops import native

    ways = [way for way in WAYS if way != "native" or native.status(scale.device).native]
    dtypes = scale.of(["float16", "bfloat16", "float32"], ["float32"])
    make = Maker(scale.of(16, 2), torch.channels_last, scale.device)
    wanted = {64, 256}
    for case in cases("256", dtypes, scale.of(OPS, OPS[:2]), make):
        if case.resolution not in scale.of(wanted, {4}) or "one more" in case.what:
            continue
        for row in measure(case, scale.device, scale.of(0.1, 0.0), ways):
            key = f"ops/{row.op}/{row.what}/{case.resolution}/{row.dtype}/{row.direction}"
            times = row.ms["reference"] / row.ms[ways[0]]
            yield {
                "key": key, "ms": row.ms, "gb_s": row.gb_s, "percent_of_copy": 100 * row.of_copy,
                "gflop_s": row.gflop_s, "times_reference": times, "error": row.error,
            }  # fmt: skip


def sampling(scale: Scale) -> Iterator[Row]:
    """Images a second of a finished generator, as it is and replayed as a CUDA graph."""
    import torch

    from benchmarks.ops import forced
    from stylegan2_ada.config import GeneratorConfig
    from stylegan2_ada.generator import Generator

    device, batch = torch.device(scale.device), scale.of(16, 2)
    for resolution, base in scale.of(((256, 16384), (1024, 32768)), ((16, 256),)):
        size = scale.of(resolution, 256)
        cfg = GeneratorConfig(
            resolution=resolution, mapping_layers=2, channel_base=base, num_lowp_res=4, conv_clamp=256.0
        )
        G = Generator(cfg).to(device).eval()
        z = torch.randn(batch, cfg.z_dim, device=device)
        ways = {"fp16": ("", torch.float16), "bf16": ("", torch.bfloat16), "reference": ("reference", torch.float32)}
        if device.type == "cpu":
            del ways["fp16"]
        for name, (way, dtype) in ways.items():
            G.lowp_dtype = dtype
            with forced(way, scale.device) if way else contextlib.nullcontext(), torch.inference_mode():
                seconds = _median_seconds(lambda G=G, z=z: G(z, noise_mode="const"), device, scale.of(20, 2))
            yield {"key": f"sampling/{size}/{name}", "images_per_second": batch / seconds, "batch": batch}
        G.lowp_dtype = torch.float16
        yield {"key": f"sampling/{size}/graphs", "batch": batch, **_replayed(G, z, device)}
        if device.type == "cuda":
            yield {"key": f"sampling/{size}/memory", "peak_gb": torch.cuda.max_memory_allocated() / 2**30}
            del G
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)


def _median_seconds(call: Callable[[], Any], device, rounds: int) -> float:
    import torch

    times = []
    for _ in range(3 + rounds):
        began = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times[3:])


def _replayed(G, z, device) -> Row:
    """Sampling captured in one CUDA graph; the project's own sampler does not do so."""
    import torch

    if device.type != "cuda":
        return {"none": "CUDA graphs are of GPUs"}
    try:
        with torch.inference_mode():
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    G(z, noise_mode="const")
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                G(z, noise_mode="const")
            seconds = _median_seconds(graph.replay, device, 20)
    except RuntimeError as error:
        return {"none": str(error).splitlines()[0]}
    return {"images_per_second": len(z) / seconds}


def metrics(scale: Scale) -> Iterator[Row]:
    """Inception features (random weights: the speed is the same), and the distances of 5000 vectors."""
    import numpy as np
    import torch

    from metrics.frechet import frechet_from_features
    from metrics.inception import InceptionFeatures
    from metrics.sliced import mind

    n, side = scale.of((512, 256), (2, 32))
    images = torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        dims = scale.of(2048, 64)
        path = Path(folder) / "random.pth"
        torch.save(random_inception(whole=not scale.tiny), path)
        features = InceptionFeatures(path, dims, runtime=scale.of("auto", "torch")).to(scale.device)
    features(images[:64])
    began = time.perf_counter()
    features(images).cpu()
    yield {"key": "fid/features", "images_per_second": n / (time.perf_counter() - began), "dims": dims}
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((scale.of(5000, 40), dims), dtype=np.float32) for _ in range(2))
    for name, call in (
        ("fid/distance", lambda: frechet_from_features(x, y)),
        ("fid/mind", lambda: mind(x, y, directions=scale.of(1000, 10), device=scale.device)),
    ):
        call()
        began = time.perf_counter()
        call()
        yield {"key": name, "seconds": time.perf_counter() - began, "images": len(x)}


def random_inception(whole: bool) -> dict:
    """Weights of the FID InceptionV3's shapes (torchvision's has the same up to its classes); else the first layers."""
    import torch

    g = torch.Generator().manual_seed(0)
    first = {"Conv2d_1a_3x3": (32, 3, 3, 3), "Conv2d_2a_3x3": (32, 32, 3, 3), "Conv2d_2b_3x3": (64, 32, 3, 3)}
    shapes = first
    if whole:
        from torchvision.models import inception_v3

        with torch.device("meta"):
            layers = inception_v3(weights=None, aux_logits=False, init_weights=False).state_dict()
        ending = ".conv.weight"
        shapes = {k.removesuffix(ending): tuple(t.shape) for k, t in layers.items() if k.endswith(ending)}
    state = {}
    for name, shape in shapes.items():
        fan_in = shape[1] * shape[2] * shape[3]
        state[f"{name}.conv.weight"] = torch.randn(shape, generator=g) * (2 / fan_in) ** 0.5
        state[f"{name}.conv.bias"] = torch.randn(shape[0], generator=g) * 0.1
    return state


def find_sanitizer() -> str | None:
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")


def sanitizer(scale: Scale) -> Iterator[Row]:
    """The CUDA operators' tests under NVIDIA's tools: accesses, races, uninitialised memory, barriers."""
    tool = None if scale.tiny else find_sanitizer()
    if tool is None:
        yield {"key": "sanitizer", "none": "there is no compute-sanitizer here"}
        return
    for name in SANITIZER_TOOLS:
        done = subprocess.run(
            [
                tool, "--tool", name, "--error-exitcode", "1", sys.executable, "-m", "pytest", "-q", "-x",
                "-p", "no:cacheprovider", "-m", "gpu and not slow", "-k", "not graph and not compile",
                "tests/stylegan2_ada_ops/test_cuda_gpu.py",
            ],
            cwd=ROOT, env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        said = done.stdout + done.stderr
        found = re.search(r"ERROR SUMMARY: (\d+)", said)
        row: Row = {"key": f"sanitizer/{name}", "exit_code": done.returncode}
        row |= {"errors": int(found[1])} if found else {"none": "it told no number of errors"}
        yield row | ({} if done.returncode == 0 else {"last_lines": said.splitlines()[-25:]})


def seeds(scale: Scale) -> Iterator[Row]:
    """The seed projects' own settings on the whole set; what is finished is kept in runs/seeds-full."""
    root, out = os.environ.get("FACES_DATA_ROOT", ""), ROOT / "runs" / "seeds-full"
    if scale.tiny or not (root and (Path(root) / "flickr140k").is_dir()):
        yield {"key": "seeds", "none": "needs $FACES_DATA_ROOT with flickr140k, ImageNet's weights, and hours"}
        return
    study = ROOT / "benchmarks" / "studies" / "seeds-full.toml"
    words = [sys.executable, str(ROOT / "benchmarks" / "study.py"), str(study), "--out", str(out), "--keep-going"]
    subprocess.run([*words, "--data-root", root], check=True, cwd=ROOT)
    yield {"key": "seeds", "table": (out / "table.md").read_text(encoding="utf-8")}


STAGES: dict[str, Stage] = {
    "doctor": Stage("the machine; are the native operations right", doctor, 90),
    "train-256": Stage("sec/kimg of auto at 256 px", _training("auto", 256), 80),
    "train-128": Stage("sec/kimg of auto at 128 px", _training("auto", 128), 60),
    "tests": Stage("all tests marked gpu", tests, 150),
    "ops": Stage("operations against the definition and a copy", operations, 75),
    "reference": Stage("the same iterations on the reference path", reference, 80),
    "sampling": Stage("images a second of a finished generator", sampling, 45),
    "metrics": Stage("Inception features, FID and MIND", metrics, 45),
    "paper256": Stage("sec/kimg of paper256 at 256 px", _training("paper256", 256), 75),
    "sanitizer": Stage("compute-sanitizer on the CUDA operators", sanitizer, 120),
    "seeds": Stage("the seed projects' settings on the whole set (--only seeds)", seeds, 14 * 24 * 3600, optional=True),
}
"""In the order in which they are run: of worth to somebody whose ten minutes end early."""
