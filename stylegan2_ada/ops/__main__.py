"""python -m stylegan2_ada.ops: which implementation of the operations this machine uses and why, checked and timed.

Every operation is compared with its definition in float64 on the same numbers, forward and backward, in both memory
layouts, and timed against the PyTorch form and the definition. Exit code 0: all is right; 1: something is not.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

try:
    import torch
except ModuleNotFoundError as error:
    from common.base import leave_without

    leave_without(error)
import torch.nn.functional as F
from torch import Tensor

from . import conv_forward, conv_taps, native, reference
from .bias_act import bias_act
from .conv3x3 import applies
from .convolution import Geometry, convolve
from .depthwise import depthwise
from .modconv_epilogue import modconv_epilogue
from .upfirdn2d import fir_taps, upfirdn2d

SHAPE = (4, 64, 64, 64)  # of the images the operations are tried on
# Relative error that some roundings to the type may make.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float16: 6e-3}


def cases(shape: tuple[int, ...], device: torch.device) -> dict:
    """name -> (quick(x), definition(x)) for images x [N, C, H, W]."""
    n, c, h, w = shape
    f = fir_taps([1, 3, 3, 1], device=device)
    b = torch.linspace(-1, 1, c, device=device)
    d = torch.linspace(0.5, 2, n * c, device=device).reshape(n, c)
    window = torch.linspace(-1, 1, c * 25, device=device).sin().reshape(c, 1, 5, 5)
    noise = torch.linspace(-1, 1, n * h * w, device=device).reshape(n, 1, h, w)
    like = lambda t, x: t.to(x.dtype) if x.dtype == torch.float64 else t  # noqa: E731

    def resampling(up, down, padding, gain):
        return (
            lambda x: upfirdn2d(x, f, up=up, down=down, padding=padding, gain=gain),
            lambda x: reference.upfirdn2d(x, f.to(x.dtype), (up, up), (down, down), padding, False, gain),
        )

    return {
        "upfirdn2d, blur": resampling(1, 1, (2, 1, 2, 1), 1.0),
        "upfirdn2d, up 2": resampling(2, 1, (2, 1, 2, 1), 4.0),
        "upfirdn2d, down 2": resampling(1, 2, (1, 1, 1, 1), 1.0),
        "bias_act, lrelu": (
            lambda x: bias_act(x, b, act="lrelu"),
            lambda x: reference.bias_act(x, like(b, x), 1, "lrelu", 0.2, 2**0.5, None),
        ),
        "bias_act, swish": (
            lambda x: bias_act(x, b, act="swish"),
            lambda x: reference.bias_act(x, like(b, x), 1, "swish", 0.2, 2**0.5, None),
        ),
        "depthwise convolution": (
            lambda x: depthwise(x, window, stride=2, padding=(2, 2, 2, 2)),
            lambda x: F.conv2d(x, like(window, x).to(x.dtype), stride=2, padding=2, groups=c),
        ),
        "modulated convolution's end": (
            lambda x: modconv_epilogue(x, d, noise, b, act="lrelu"),
            lambda x: reference.modconv_epilogue(x, like(d, x), like(noise, x), like(b, x), "lrelu", 0.2, 2**0.5, None),
        ),
    }


def difference(quick, definition, x: Tensor) -> float:
    """The larger relative error (of norms) of results and input gradients against the definition in float64."""
    worst, results = 0.0, []
    for function, dtype in ((quick, x.dtype), (definition, torch.float64)):
        leaf = x.detach().to(dtype).requires_grad_()
        y = function(leaf)
        weights = torch.linspace(-1, 1, y.numel(), device=x.device).reshape(y.shape).to(x.dtype).to(dtype)
        (gradient,) = torch.autograd.grad(y, leaf, weights)
        results.append((y.detach().double(), gradient.double()))
    for ours, exact in zip(*results):
        # by norms: next to the kink of a leaky ReLU a rounding turns one derivative into the other, rightly
        worst = max(worst, float((ours - exact).norm() / exact.norm()))
    return worst


def milliseconds(function, x: Tensor, repeats: int = 15) -> float:
    """The best of several calls, in inference mode."""
    times = []
    with torch.inference_mode():
        for _ in range(repeats + 2):
            if x.is_cuda:
                torch.cuda.synchronize()
            began = time.perf_counter()
            function(x)
            if x.is_cuda:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
    return 1000 * min(times[2:])


def row(name: str, x: Tensor, error: float, ways: dict[str, Callable] | None) -> dict[str, Any]:
    """What is told of an operation on images x. ways: native, PyTorch's and the definition, to be timed."""
    told: dict[str, Any] = {
        "operation": name,
        "device": x.device.type,
        "dtype": str(x.dtype).removeprefix("torch."),
        "layout": "NCHW" if x.is_contiguous() else "NHWC",
        "error": error,
        "right": error <= TOLERANCE[x.dtype],
    }
    if ways is not None:
        moved = (x.numel() + ways["reference_ms"](x).numel()) * x.element_size()
        told |= {key: milliseconds(way, x) for key, way in ways.items()}
        told["gb_per_s"] = moved / 1e6 / told["ms"]
    return told


def by_pytorch(function: Callable, kind: str) -> Callable:
    """The same, the operations in it done by PyTorch's."""

    def call(x: Tensor) -> Tensor:
        before, native._usable[kind] = native._usable[kind], False
        try:
            return function(x)
        finally:
            native._usable[kind] = before

    return call


def examine(device: torch.device, timed: bool) -> list[dict]:
    """A row for every operation, number type and memory layout."""
    kind = device.type
    half = torch.bfloat16 if kind == "cpu" or torch.cuda.is_bf16_supported() else torch.float16
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(SHAPE, generator=generator).to(device)
    rows = []
    for name, (quick, definition) in cases(SHAPE, device).items():
        for dtype in (torch.float32, half):
            for layout in (torch.channels_last, torch.contiguous_format):
                x = images.to(dtype).contiguous(memory_format=layout)
                ways = {"ms": quick, "torch_ms": by_pytorch(quick, kind), "reference_ms": definition}
                rows.append(row(name, x, difference(quick, definition, x), ways if timed else None))
    return rows + (convolutions(images, timed) + forward_only(images, timed) if kind == "cpu" else [])


CONVOLUTIONS = {
    "3x3 convolution": Geometry(1, (1, 1)),
    "3x3 convolution, halving": Geometry(2, (0, 0)),
    "3x3 convolution, doubling": Geometry(2, (0, 0), transposed=True),
}


def convolutions(images: Tensor, timed: bool) -> list[dict]:
    """The convolutions of networks that learn, where this processor has them."""
    rows, w = [], torch.randn(SHAPE[1], SHAPE[1], 3, 3, generator=torch.Generator().manual_seed(1))
    w /= (9 * SHAPE[1]) ** 0.5
    for name, g in CONVOLUTIONS.items():
        for dtype in (torch.float32, torch.bfloat16):
            x = images.to(dtype, memory_format=torch.channels_last)
            if not conv_taps.applies(x, tuple(w.shape), g.stride) and not (g.stride == 1 and applies(x, w)):
                continue
            ready = w.to(dtype, memory_format=torch.channels_last)

            def plain(x: Tensor, w: Tensor, g: Geometry = g) -> Tensor:
                function = F.conv_transpose2d if g.transposed else F.conv2d
                return function(x, w.transpose(0, 1) if g.transposed else w, stride=g.stride, padding=g.padding)

            ways: dict[str, Callable] = {
                "ms": lambda x, g=g: convolve(x, w, g),
                "torch_ms": lambda x, ready=ready: plain(x, ready),
                "reference_ms": lambda x: plain(x.float(), w),
            }
            error = difference(ways["ms"], lambda x: plain(x, w.to(x.dtype)), x)
            rows.append(row(name, x, error, ways if timed else None))
    return rows


def forward_only(images: Tensor, timed: bool) -> list[dict]:
    """The float32 convolutions of finished networks, where this processor has them."""
    x = images.contiguous(memory_format=torch.channels_last)
    if not conv_forward.applies(x):
        return []
    rows, g = [], torch.Generator().manual_seed(1)
    for taps, padding in (((1, 1), (0, 0)), ((3, 3), (1, 1)), ((1, 7), (0, 3)), ((5, 5), (2, 2))):
        w, b = torch.randn(SHAPE[1], SHAPE[1], *taps, generator=g), torch.randn(SHAPE[1], generator=g)
        conv, y = conv_forward.prepare(w, b, padding), torch.empty_like(x)
        quick = lambda x, conv=conv, y=y: conv_forward.convolve(x, [conv], [True], [y])  # noqa: E731
        plain = lambda x, w=w, b=b, p=padding: F.conv2d(x, w.to(x), b.to(x), padding=p).relu_()  # noqa: E731
        quick(x)
        exact = plain(x.double())
        error = float((y - exact).norm() / exact.norm())
        ways: dict[str, Callable] = {"ms": quick, "torch_ms": plain, "reference_ms": plain}
        rows.append(row(f"{taps[0]}x{taps[1]} convolution, forward", x, error, ways if timed else None))
    return rows


def surroundings() -> dict:
    """What the machine has to build with."""
    from .native import build, toolchain

    def of(ask) -> str:
        try:
            return str(ask())
        except native.BuildError as error:
            return f"none: {error}"

    return {
        "PyTorch": torch.__version__,
        "STYLEGAN_OPS": os.environ.get("STYLEGAN_OPS") or "not set: native where possible",
        "processor": of(lambda: next((f for f in LEVELS if f in toolchain.cpu_features()), "no AVX")),
        "threads": str(torch.get_num_threads()),
        "compiler": of(lambda: toolchain.compiler().version),
        "ninja": of(toolchain.ninja),
        "nvcc": of(lambda: toolchain.nvcc().version),
        "cache": of(build.cache_folder),
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }


LEVELS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "asimd")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m stylegan2_ada.ops", description=__doc__.partition(": ")[2], add_help=True
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--no-times", action="store_true", help="check only")
    options = parser.parse_args()
    try:
        path = native.path()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    facts, rows, used = surroundings(), [], {}
    devices = [torch.device("cpu")] + ([torch.device("cuda")] if torch.cuda.is_available() else [])
    for device in devices:
        if path == "native":
            found = native.status(device.type)
            used[device.type] = ("native" if found.native else "torch") + f": {found.why}"
            native._usable[device.type] = found.native  # told here; no warning besides
        else:
            used[device.type] = f"{path}, as STYLEGAN_OPS asks"
        rows += examine(device, not options.no_times)
    if options.json:
        print(json.dumps({"surroundings": facts, "used": used, "operations": rows}, indent=1))
    else:
        show(facts, used, rows)
    return 0 if all(row["right"] for row in rows) else 1


def show(facts: dict, used: dict, rows: list[dict]) -> None:
    for name, value in {**facts, **{f"{kind} operations": why for kind, why in used.items()}}.items():
        print(f"{name:16s} {value}")
    timed = "ms" in rows[0]
    print(
        f"\nimages {list(SHAPE)}; error: relative, against the definition in float64, of the result or its gradient\n"
    )
    head = f"{'operation':28s} {'device':6s} {'type':9s} {'layout':6s} {'error':>8s}      "
    print(head + ("      ms   PyTorch  definition    GB/s" if timed else ""))
    for row in rows:
        line = f"{row['operation']:28s} {row['device']:6s} {row['dtype']:9s} {row['layout']:6s} {row['error']:8.1e}"
        line += "  ok  " if row["right"] else "  FAIL"
        if timed:
            line += f"{row['ms']:8.3f} {row['torch_ms']:9.3f} {row['reference_ms']:11.3f} {row['gb_per_s']:7.1f}"
        print(line)
    wrong = sum(not row["right"] for row in rows)
    print(f"\n{wrong} of {len(rows)} are wrong: use STYLEGAN_OPS=torch and report it" if wrong else "\nall right")


if __name__ == "__main__":
    sys.exit(main())
