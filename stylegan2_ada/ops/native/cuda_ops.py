"""The operators on CUDA tensors by kernels that NVRTC compiled: checks, memory for the result, and the launch.

Every function takes a `Gpu` first, which launches kernels; the tests hand in one that runs them on the CPU.
csrc/cuda_binding.cpp does the same in C++ where nvcc compiled the kernels.
"""

import threading
from collections.abc import Callable
from ctypes import Structure
from typing import NamedTuple

import torch
from torch import Tensor

from . import cuda_plan as plans
from .cuda_plan import CODES, Launch, UpfirdnArgs


class Gpu(NamedTuple):
    """What launches kernels: `launch(source, dtype code, what, arguments)`, source being the stem of a .cu file."""

    processors: int
    launch: Callable[[str, int, Launch, Structure], None]


class _Ready(threading.local):
    """Arguments made before, by thread: only the addresses change from call to call."""

    def __init__(self):
        self.plans: dict[tuple, tuple[Launch, Structure]] = {}


_ready = _Ready()
_KEPT = 1024  # plans; more would be many shapes that each are met once


def _remember(key: tuple, plan: tuple[Launch, Structure]) -> tuple[Launch, Structure]:
    if len(_ready.plans) >= _KEPT:
        _ready.plans.clear()
    _ready.plans[key] = plan
    return plan


def _dtype_code(op: str, x: Tensor) -> int:
    code = CODES.get(x.dtype)
    if code is None:
        raise ValueError(f"stylegan2_ada::{op} takes float32, float64, bfloat16 or float16, not {x.dtype}")
    return code


def is_channels_last(x: Tensor) -> bool:
    """Whether the result for x is channels_last: the rule of all kernels."""
    return x.shape[1] > 1 and x.stride(1) == 1 and not x.is_contiguous()


def upfirdn2d(
    gpu: Gpu,
    x: Tensor,
    f: Tensor,
    up_x: int,
    up_y: int,
    down_x: int,
    down_y: int,
    pad_x: int,
    pad_y: int,
    out_h: int,
    out_w: int,
    flip: bool,
    gain: float,
) -> Tensor:
    """stylegan2_ada::upfirdn2d; see ../upfirdn2d.py."""
    dtype = _dtype_code("upfirdn2d", x)
    if x.ndim != 4 or f.ndim not in (1, 2) or f.dtype not in (torch.float32, torch.float64) or f.device != x.device:
        raise ValueError("stylegan2_ada::upfirdn2d takes [N, C, H, W] and a float32 or float64 filter on one device")
    if min(up_x, up_y, down_x, down_y) < 1:
        raise ValueError("stylegan2_ada::upfirdn2d takes factors of at least 1")
    layout = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    x = x.contiguous(memory_format=layout)
    f = f.contiguous()
    y = torch.empty((*x.shape[:2], out_h, out_w), dtype=x.dtype, device=x.device, memory_format=layout)
    if y.numel() == 0:
        return y
    at = x.data_ptr()
    options = (up_x, up_y, down_x, down_y, pad_x, pad_y, out_h, out_w, flip, gain)
    key = ("upfirdn2d", x.shape, layout, dtype, f.shape, f.dtype, options, at % 16 == 0, gpu.processors)
    ready = _ready.plans.get(key)
    if ready is None:
        n, c, h, w = x.shape
        planes, c = (n, c) if layout == torch.channels_last else (n * c, 1)
        a = UpfirdnArgs(
            0, 0, 0, gain, planes, c, h, w, out_h, out_w, up_x, up_y, down_x, down_y, pad_x, pad_y,
            f.shape[-1], f.shape[0], f.ndim == 1, f.dtype == torch.float64, flip,
        )  # fmt: skip
        ready = _remember(key, (plans.plan_upfirdn2d(a, dtype, at % 16 == 0, gpu.processors), a))
    what, a = ready
    a.x, a.f, a.y = at, f.data_ptr(), y.data_ptr()
    gpu.launch("upfirdn2d", dtype, what, a)
    return y
