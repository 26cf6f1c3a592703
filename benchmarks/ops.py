#!/usr/bin/env python3
"""What each operation costs at the layer sizes of a network: native, PyTorch's operations, and the definition.

Every row is one call at one resolution, forward or backward. The three ways and a copy of as many bytes take turns in
one process and the best of all turns counts, so that what else the machine does hits all alike. GB/s are the bytes that
must be read and written divided by the time; "% copy" is the time of copying as many bytes in the same run. For
modulated convolutions GFLOP/s stand there, of the direct convolution.

    python benchmarks/ops.py                              # a 256x256 network; two minutes
    python benchmarks/ops.py --network 1024 --device cuda --dtypes float16,float32
    python benchmarks/ops.py --quick --ops upfirdn2d --json ops.json
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import click
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.training import facts  # noqa: E402
from stylegan2_ada.ada_filters import SYM6  # noqa: E402
from stylegan2_ada.ops import native  # noqa: E402
from stylegan2_ada.ops.bias_act import bias_act  # noqa: E402
from stylegan2_ada.ops.modulated_conv import LayerEnd, modulated_conv2d  # noqa: E402
from stylegan2_ada.ops.upfirdn2d import fir_taps, upfirdn2d  # noqa: E402
from training.memory import keep_freed_memory  # noqa: E402

WAYS = ("native", "torch", "reference")
OPS = ("bias_act", "upfirdn2d", "modulated_conv2d")
BINOMIAL = (1, 3, 3, 1)
CHANNEL_BASE = {"256": 16384, "1024": 32768}  # of the configurations auto and stylegan2


@dataclass
class Case:
    """One call: `make()` returns the tensors that gradients are wanted of, images first, and the call."""

    op: str
    what: str
    resolution: int  # of the result
    channels: int
    dtype: str
    make: Callable[[], tuple[list[Tensor], Callable[[], Tensor]]]
    gflop: float = 0.0  # forward, for convolutions


@dataclass
class Timing:
    """A measured call; `error` is the root-mean-square deviation of native code from the definition in the same dtype,
    relative to the values."""

    op: str
    what: str
    direction: str
    resolution: int
    channels: int
    dtype: str
    ms: dict[str, float]
    gb_s: float
    of_copy: float
    gflop_s: float
    error: float


@contextmanager
def forced(way: str, device: str) -> Iterator[None]:
    """Use one implementation, as if STYLEGAN_OPS named it."""
    with mock.patch.object(native, "_wanted", lambda: way), mock.patch.dict(native._usable, {device: way == "native"}):
        yield


@dataclass(frozen=True)
class Maker:
    """Makes the cases of one batch size, memory layout and device."""

    batch: int
    layout: torch.memory_format
    device: str

    def image(self, c: int, size: int, dtype: str) -> torch.Tensor:
        x = torch.randn(self.batch, c, size, size, device=self.device).to(getattr(torch, dtype))
        return x.contiguous(memory_format=self.layout).requires_grad_()

    def filtering(self, what: str, c: int, size: int, result: int, dtype: str, taps=BINOMIAL, **kwargs) -> Case:
        def make():
            x, f = self.image(c, size, dtype), fir_taps(taps, device=self.device)
            return [x], lambda: upfirdn2d(x, f, **kwargs)

        return Case("upfirdn2d", what, result, c, dtype, make)

    def activation(self, c: int, res: int, dtype: str) -> Case:
        def make():
            x, b = self.image(c, res, dtype), torch.randn(c, device=self.device, requires_grad=True)
            return [x, b], lambda: bias_act(x, b, act="lrelu", clamp=256.0)

        return Case("bias_act", "bias, lrelu, gain, clamp", res, c, dtype, make)

    def convolution(self, i: int, o: int, res: int, up: int, dtype: str) -> Case:
        def make():
            draw = partial(torch.randn, device=self.device)
            x, f = self.image(i, res // up, dtype), fir_taps(BINOMIAL, device=self.device)
            w = draw(o, i, 3, 3).div(3 * i**0.5).requires_grad_()
            s = (draw(self.batch, i) * 0.1 + 1).requires_grad_()
            end = LayerEnd(draw(self.batch, 1, res, res), torch.zeros(o, device=self.device), "lrelu", 2**0.5, 256.0)
            return [x, w, s], lambda: modulated_conv2d(x, w, s, f, up=up, end=end)

        gflop = 2e-9 * self.batch * i * o * 9 * (res // up) ** 2
        return Case("modulated_conv2d", f"3x3{', up' if up > 1 else ''}", res, o, dtype, make, gflop)


def cases(network: str, dtypes: list[str], ops, make: Maker) -> Iterator[Case]:
    """Every resampling, activation and convolution of a generator and a discriminator of this resolution."""
    top, base = int(network), CHANNEL_BASE[network]
    sizes = [2**k for k in range(2, top.bit_length())]

    def channels(res):
        return min(base // res, 512)

    for dtype in dtypes:
        if "bias_act" in ops:
            yield from (make.activation(channels(res), res, dtype) for res in sizes)
        if "upfirdn2d" in ops:
            for res in sizes[1:]:
                c = channels(res)
                yield make.filtering("blur behind up-convolution", c, res + 1, res, dtype, padding=1, gain=4.0)
                yield make.filtering("blur before down-convolution", c, res, res + 1, dtype, padding=2)
                yield make.filtering("halving the skip", c, res, res // 2, dtype, down=2, padding=1)
    if "upfirdn2d" in ops:
        for res in sizes[1:]:
            around = {"up": 2, "padding": (2, 1, 2, 1), "gain": 4.0}
            yield make.filtering("doubling the image", 3, res // 2, res, "float32", **around)
        grown = top + 2 * 15  # what a translation and a rotation by a little add
        yield make.filtering(
            "ADA: up before the warp", 3, grown, 2 * grown, "float32", SYM6, up=2, padding=(6, 5, 6, 5)
        )
        yield make.filtering("ADA: down behind it", 3, 2 * top + 24, top, "float32", SYM6, down=2, padding=-6)
    if "modulated_conv2d" in ops:
        for dtype in dtypes:
            for res in sizes:
                yield make.convolution(channels(res), channels(res), res, 1, dtype)
                if res > 4:
                    yield make.convolution(channels(res // 2), channels(res), res, 2, dtype)


def seconds(run: Callable[[], object], device: str, repeats: int) -> float:
    """One turn: seconds of a call, the mean of `repeats`."""
    if device == "cuda":
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(repeats):
            run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / repeats
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - start) / repeats


def best_of_turns(runs: dict[str, Callable], switches: dict, device: str, budget: float) -> dict[str, float]:
    """The shortest time of each, taken by turns for `budget` seconds, but three turns at least if they are short."""
    repeats, best = {}, {}
    for name, run in runs.items():
        with switches[name]():
            run()
            once = seconds(run, device, 1)
        repeats[name] = max(1, min(50, int(2e-3 / max(once, 1e-6))))
        best[name] = once
    least = 3 if sum(best.values()) < 4 * budget else 1
    turns, start = 0, time.perf_counter()
    while turns < least or time.perf_counter() - start < budget:
        for name, run in runs.items():
            if name == "reference" and turns % 3:  # usually as long as all others together
                continue
            with switches[name]():
                best[name] = min(best[name], seconds(run, device, repeats[name]))
        turns += 1
    return best


def measure(case: Case, device: str, budget: float, ways: list[str]) -> list[Timing]:
    """Forward and backward of one case."""
    leaves, call = case.make()
    switches = {way: lambda way=way: forced(way, device) for way in ways}
    switches["copy"] = nullcontext
    forward, backward, results, gradients = {}, {}, {}, {}
    gy = None
    for way in ways:
        with switches[way]():
            y = results[way] = call()
            gy = torch.randn_like(y) if gy is None else gy
            backward[way] = partial(torch.autograd.grad, y, leaves, gy, retain_graph=True)
            gradients[way] = backward[way]()[0]
        forward[way] = torch.no_grad()(call)
    rows = []
    for direction, runs, got in (("forward", forward, results), ("backward", backward, gradients)):
        tensors = [leaves[0], y]
        if direction == "backward" and case.op == "bias_act":  # besides the gradient, what the slope is read from
            tensors.append(y)
        moved = sum(t.numel() * t.element_size() for t in tensors)
        source = torch.empty(max(1, moved // 2), dtype=torch.uint8, device=device)
        best = best_of_turns({**runs, "copy": source.clone}, switches, device, budget)
        copy, own = best.pop("copy"), best[ways[0]]
        error = 0.0
        if "native" in got and "reference" in got:
            a, b = got["native"].detach().double(), got["reference"].detach().double()
            error = float((a - b).norm() / b.norm().clamp_min(1e-30))
        gflop = case.gflop * (2 if direction == "backward" else 1)  # two convolutions backwards
        rows.append(
            Timing(
                *(case.op, case.what, direction, case.resolution, case.channels, case.dtype),
                ms={way: round(1e3 * s, 4) for way, s in best.items()},
                gb_s=round(moved / own / 1e9, 2),
                of_copy=round(copy / own, 3),
                gflop_s=round(gflop / own, 1),
                error=float(f"{error:.1e}"),
            )
        )
    return rows


def show(row: Timing, ways: list[str]) -> str:
    name = f"{row.what} {row.direction if row.direction == 'backward' else ''}".strip()
    times = "".join(f"{row.ms[way]:10.3f}" for way in ways)
    ratios = "".join(f"{row.ms[way] / row.ms[ways[0]]:8.2f}x" for way in ways[1:])
    rate = f"{row.gflop_s:8.0f} GFLOP/s" if row.gflop_s else f"{row.gb_s:8.1f} GB/s {100 * row.of_copy:4.0f} %"
    kind = row.dtype.replace("float", "f")
    return f"{name:38s}{row.resolution:5d}{row.channels:5d} {kind:5s}{times}{ratios}  {rate}  {row.error:.0e}"


def summary(rows: list[Timing], ways: list[str]) -> list[str]:
    """How many times faster than the others, by operation: least, typical, most."""
    lines = []
    for op in dict.fromkeys(row.op for row in rows):
        for way in ways[1:]:
            ratios = sorted(row.ms[way] / row.ms[ways[0]] for row in rows if row.op == op)
            middle = ratios[len(ratios) // 2]
            lines.append(
                f"{op}: {ways[0]} against {way}: {ratios[0]:.2f} to {ratios[-1]:.1f} times as fast, median {middle:.1f}"
            )
    return lines


@click.command(help=__doc__.split("\n\n")[0], context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--network", type=click.Choice(list(CHANNEL_BASE)), default="256", show_default=True, help="Resolution.")
@click.option("--ops", "ops_", default=",".join(OPS), show_default=True, help="Operations.")
@click.option("--dtypes", help="Of feature maps [default: bfloat16,float32; on a GPU float16,bfloat16,float32].")
@click.option("--ways", default=",".join(WAYS), show_default=True, help="Implementations; ratios are to the first.")
@click.option("--batch", type=click.IntRange(min=1), help="[default: 4, and 1 for 1024 on a CPU]")
@click.option("--nchw", is_flag=True, help="Contiguous tensors instead of channels-last ones.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=os.cpu_count() or 1, show_default=True)
@click.option("--seconds", "budget", type=float, default=0.15, show_default=True, help="Per row, for all ways.")
@click.option("--quick", is_flag=True, help="Every other resolution, a third of the time each.")
@click.option("--json", "out", metavar="FILE", help="Write the results there, too.")
# One argument for each option.
def main(network, ops_, dtypes, ways, batch, nchw, device, threads, budget, quick, out) -> None:
    ops_, ways = ops_.split(","), ways.split(",")
    dtypes = (dtypes or ("bfloat16,float32" if device == "cpu" else "float16,bfloat16,float32")).split(",")
    for given, known in ((ops_, OPS), (ways, WAYS), (dtypes, ("float16", "bfloat16", "float32", "float64"))):
        if not set(given) <= set(known):
            raise click.UsageError(f"{','.join(given)}: choose from {', '.join(known)}")
    if "native" in ways and not native.status(device).native:
        raise click.UsageError(f"no native ops on this {device} ({native.status(device).why}): --ways torch,reference")
    batch = batch or (1 if network == "1024" and device == "cpu" else 4)
    torch.set_num_threads(threads)
    keep_freed_memory()  # as training does
    layout = torch.contiguous_format if nchw else torch.channels_last
    print(f"{'':38s} size    C dtype{''.join(f'{way:>10s}' for way in ways)} ms", flush=True)
    rows = []
    for case in cases(network, dtypes, ops_, Maker(batch, layout, device)):
        if quick and case.resolution.bit_length() % 2 == 0 and case.what[:4] != "ADA:":
            continue
        for row in measure(case, device, budget / 3 if quick else budget, ways):
            rows.append(row)
            print(show(row, ways), flush=True)
    print("\n".join(summary(rows, ways)))
    if out:
        settings = {"network": network, "batch": batch, "layout": "nchw" if nchw else "channels_last", "ways": ways}
        results = {**facts(device), "threads": threads, **settings, "rows": [asdict(row) for row in rows]}
        Path(out).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
