"""The operators on CUDA tensors by kernels that NVRTC compiled: checks, memory for the result, and the launch.

Every function takes a `Gpu` first, which launches kernels; the tests hand in one that runs them on the CPU.
csrc/cuda_binding.cpp does the same in C++ where nvcc compiled the kernels.
"""

import threading
from collections.abc import Callable
from ctypes import Structure
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from common.errors import UserError

from . import cuda_plan as plans
from . import sum_dtype
from .cuda_plan import CODES, EpilogueArgs, FinishArgs, Launch, PointwiseArgs, UpfirdnArgs


class Gpu(NamedTuple):
    """What launches kernels: `launch(source, dtype code, what, arguments)`, source being the stem of a .cu file."""

    processors: int
    launch: Callable[[str, int, Launch, Structure], None]


class _Ready(threading.local):
    """Arguments made before, by thread: only the addresses change from call to call."""

    def __init__(self):
        self.plans: dict[tuple, tuple] = {}


_ready = _Ready()
_KEPT = 1024  # plans; more would be many shapes that each are met once


def _remember(key: tuple, plan: tuple) -> tuple:
    if len(_ready.plans) >= _KEPT:
        _ready.plans.clear()
    _ready.plans[key] = plan
    return plan


def _dtype_code(op: str, x: Tensor) -> int:
    code = CODES.get(x.dtype)
    if code is None:
        raise UserError(f"stylegan2_ada::{op} takes float32, float64, bfloat16 or float16, not {x.dtype}")
    return code


class _Activation(NamedTuple):
    """The last four arguments of the operators; see ../bias_act_native.py."""

    act: int
    alpha: float
    gain: float
    clamp: float

    def arguments(self) -> dict:
        """As the kernels' structures take them."""
        if not 0 <= self.act <= 8:
            raise UserError(f"stylegan2_ada: no activation has the number {self.act}")
        return {**self._asdict(), "inv_gain": plans.inverse(self.gain)}


_NONE = _Activation(0, 0.0, 1.0, -1.0)


def is_channels_last(x: Tensor) -> bool:
    """Whether the result for x is channels_last: the rule of all kernels."""
    return x.shape[1] > 1 and x.stride(1) == 1 and not x.is_contiguous()


def upfirdn2d(  # so many arguments: the operator's
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
        raise UserError("stylegan2_ada::upfirdn2d takes [N, C, H, W] and a float32 or float64 filter on one device")
    if min(up_x, up_y, down_x, down_y) < 1:
        raise UserError("stylegan2_ada::upfirdn2d takes factors of at least 1")
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


def _is_dense(x: Tensor) -> bool:
    """Whether the elements fill one block of memory, in whatever order of the dimensions."""
    if x.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted((t, s) for t, s in zip(x.stride(), x.shape) if s > 1):
        if stride != expected:
            return False
        expected *= size
    return True


def _dense(x: Tensor) -> Tensor:
    return x if _is_dense(x) else torch.empty_like(x).copy_(x)


def _laid_out(x: Tensor, like: Tensor) -> Tensor:
    """x in the very memory order of `like`, which is dense."""
    if x.shape != like.shape or x.dtype != like.dtype or x.device != like.device:
        raise UserError(
            f"stylegan2_ada: {x.dtype} of shape {list(x.shape)} on {x.device} does not go with {like.dtype} of shape "
            f"{list(like.shape)} on {like.device}"
        )
    if all(s < 2 or a == b for s, a, b in zip(x.shape, x.stride(), like.stride())):
        return x
    return torch.empty_like(like).copy_(x)


def _along(x: Tensor, dim: int) -> tuple[int, int]:
    """A dense tensor seen along one dimension: its size, and how many elements lie between its neighbours."""
    size, stride = x.shape[dim], x.stride(dim)
    if size == 1:
        return 1, x.numel()
    inner = 1
    for k, (s, t) in enumerate(zip(x.shape, x.stride())):
        if k != dim % x.ndim and s > 1 and t < stride:
            inner *= s
    return size, inner


def _operand(t: Tensor | None, x: Tensor, wide: bool = False) -> tuple[Tensor | None, int, bool]:
    """A bias, factor or noise as kernels take it, its address, and whether it is wider than x. Absent: 0.

    It is kept by the caller until the kernel is launched; after that the stream's order protects it.
    """
    if t is None:
        return None, 0, False
    if t.device != x.device:
        raise UserError(f"stylegan2_ada: operands are on {t.device} and {x.device}")
    wide = x.element_size() == 2 and (wide or t.dtype != x.dtype)
    t = t.to(torch.float32 if wide else x.dtype).contiguous()
    if t.data_ptr() % 16:
        t = t.clone()
    return t, t.data_ptr(), wide


def _pointwise(gpu: Gpu, order: int, x: Tensor, x2, ref, b, dim: int, activation: _Activation) -> Tensor:
    dtype = _dtype_code(plans.BIAS_ACT[order], x)
    y = torch.empty_like(x)
    total = x.numel()
    if total == 0:
        return y
    size, inner = (1, total) if b is None else _along(x, dim)
    b, b_at, wide = _operand(b, x)
    arrays = [0 if t is None else t.data_ptr() for t in (x, x2, ref, y)]
    if total > plans.LIMIT:
        _pointwise_pieces(gpu, order, dtype, arrays, b, (total, size, inner), activation)
        return y
    aligned = all(at % 16 == 0 for at in arrays)
    key = (order, dtype, total, size, inner, b is None, wide, activation, aligned)
    ready = _ready.plans.get(key)
    if ready is None:
        a = PointwiseArgs(b=b_at, wide=wide, aligned=aligned, **activation.arguments())
        ready = _remember(key, (plans.plan_bias_act(a, order, dtype, total, size, inner), a))
    what, a = ready
    a.x, a.x2, a.ref, a.y = arrays
    a.b = b_at
    gpu.launch("bias_act", dtype, what, a)
    return y


def _pointwise_pieces(gpu: Gpu, order, dtype, arrays, b, sizes, activation: _Activation, limit=plans.LIMIT) -> None:
    """Indices in the kernels have 32 bits: a large tensor is done piece by piece. sizes: total, size, inner."""
    total, size, inner = sizes
    wide = b is not None and b.element_size() != plans.BYTES[dtype]
    start = 0
    while start < total:
        piece = plans.next_piece(start, total, size, inner, limit)
        at = [p + piece.start * plans.BYTES[dtype] if p else 0 for p in arrays]
        channel_at = 0 if b is None else b.data_ptr() + piece.channel * b.element_size()
        aligned = all(p % 16 == 0 for p in (*at, channel_at))
        a = PointwiseArgs(*at[:3], channel_at, at[3], wide=wide, aligned=aligned, **activation.arguments())
        what = plans.plan_bias_act(a, order, dtype, piece.elements, piece.size, piece.inner)
        gpu.launch("bias_act", dtype, what, a)
        start += piece.elements


def bias_act(gpu: Gpu, x: Tensor, b: Tensor | None, dim: int, *activation) -> Tensor:
    """stylegan2_ada::bias_act; see ../bias_act_native.py for this one and its derivatives."""
    return _pointwise(gpu, 0, _dense(x), None, None, b, dim, _Activation(*activation))


def bias_act_grad(gpu: Gpu, gy: Tensor, ref: Tensor, *activation) -> Tensor:
    """stylegan2_ada::bias_act_grad."""
    ref = _dense(ref)
    return _pointwise(gpu, 1, _laid_out(gy, ref), None, ref, None, 0, _Activation(*activation))


def bias_act_grad2(gpu: Gpu, ggx: Tensor, gy: Tensor, ref: Tensor, *activation) -> Tensor:
    """stylegan2_ada::bias_act_grad2."""
    ref = _dense(ref)
    gy, ggx = _laid_out(gy, ref), _laid_out(ggx, ref)
    return _pointwise(gpu, 2, gy, ggx, ref, None, 0, _Activation(*activation))


def _is_straight(act: int, alpha: float) -> bool:
    return act < 2 or (act == 2 and alpha >= 0)


def bias_act_grad_bias(gpu: Gpu, gy: Tensor, ref: Tensor, dim: int, *activation) -> tuple[Tensor, Tensor]:
    """stylegan2_ada::bias_act_grad_bias."""
    ref, activation = _dense(ref), _Activation(*activation)
    dim %= ref.ndim
    if not _is_straight(activation.act, activation.alpha):
        gx = bias_act_grad(gpu, gy, ref, *activation)
        return gx, gx.movedim(dim, 0).reshape(gx.shape[dim], -1).sum(1, dtype=sum_dtype(ref))
    gy, gx = _laid_out(gy, ref), torch.empty_like(ref)
    gb = torch.empty(ref.shape[dim], dtype=sum_dtype(ref), device=ref.device)
    if ref.numel() == 0:
        return gx, gb.zero_()
    size, inner = _along(ref, dim)
    outer = ref.numel() // (size * inner)
    shape = (1, size, outer, True) if inner == 1 else (outer, size, inner, False)
    _epilogue_grad(gpu, shape, gy, ref, _Operands(ref), (gx, None, gb, None), activation)
    return gx, gb


def _is_layout(x: Tensor, order: tuple[int, ...]) -> bool:
    expected = 1
    for k in order:
        if x.shape[k] > 1 and x.stride(k) != expected:
            return False
        expected *= x.shape[k]
    return True


def _regular(x: Tensor) -> tuple[Tensor, bool]:
    """[N, C, H, W] in one of its two layouts, and whether it is channels_last."""
    if x.is_contiguous() or x.numel() == 0:
        return x, False
    if _is_layout(x, (1, 3, 2, 0)):
        return x, True
    return x.contiguous(), False


class _Operands:
    """Factors, noise and bias as the kernels of `modconv` take them beside `like`, and y where it was kept."""

    def __init__(self, like: Tensor, d=None, noise=None, b=None, y: Tensor | None = None):
        self.y = y
        self.d, self.d_at, _ = _operand(d, like, wide=True)
        self.noise, self.noise_at, self.noise_wide = _operand(noise, like)
        self.b, self.b_at, self.b_wide = _operand(b, like)
        self.each = noise is not None and noise.shape[0] > 1
        # What a plan depends on.
        self.key = (self.d_at == 0, self.noise_at == 0, self.b_at == 0, self.noise_wide, self.b_wide, self.each)

    def arguments(self, n: int, c: int, pixels: int, activation: _Activation) -> EpilogueArgs:
        wide = {"noise_wide": self.noise_wide, "b_wide": self.b_wide, "noise_each": self.each}
        return EpilogueArgs(n=n, c=c, pixels=pixels, **wide, **activation.arguments())

    def place(self, a: EpilogueArgs) -> None:
        a.d, a.noise, a.b = self.d_at, self.noise_at, self.b_at


def modconv_epilogue(
    gpu: Gpu, y: Tensor, d: Tensor | None, noise: Tensor | None, b: Tensor | None, *activation
) -> Tensor:
    """stylegan2_ada::modconv_epilogue; see ../modconv_epilogue.py."""
    dtype = _dtype_code("modconv_epilogue", y)
    y, last = _regular(y)
    out = torch.empty_like(y)
    if y.numel() == 0:
        return out
    n, c, h, w = y.shape
    operands, activation = _Operands(y, d, noise, b), _Activation(*activation)
    at, to = y.data_ptr(), out.data_ptr()
    aligned = at % 16 == 0 and to % 16 == 0
    key = ("epilogue", dtype, y.shape, last, operands.key, aligned, activation, gpu.processors)
    ready = _ready.plans.get(key)
    if ready is None:
        a = operands.arguments(n, c, h * w, activation)
        ready = _remember(key, (plans.plan_epilogue(a, False, last, dtype, aligned, gpu.processors), a))
    what, a = ready
    a.y, a.result = at, to
    operands.place(a)
    gpu.launch("modconv", dtype, what, a)
    return out


def modconv_epilogue_grad(
    gpu: Gpu,
    g: Tensor,
    out: Tensor,
    y: Tensor | None,
    d: Tensor | None,
    noise: Tensor | None,
    b: Tensor | None,
    *activation,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """stylegan2_ada::modconv_epilogue_grad."""
    out, last = _regular(out)
    activation = _Activation(*activation)
    if not _is_straight(activation.act, activation.alpha):
        g = bias_act_grad(gpu, g, out, *activation)
        activation = _NONE
    g = _laid_out(g, out)
    y = None if y is None else _laid_out(y, out)
    n, c, h, w = out.shape
    wide = partial(torch.empty, dtype=sum_dtype(out), device=out.device)
    gy = torch.empty_like(out)
    gd = wide((0 if d is None else n, c))
    gn = wide((0 if noise is None else noise.shape[0], 1, h, w))
    gb = wide(0 if b is None else c)
    if out.numel() == 0:
        return gy, gd.zero_(), gn.zero_(), gb.zero_()
    results = (gy, gd if d is not None else None, gb if b is not None else None, gn if noise is not None else None)
    _epilogue_grad(gpu, (n, c, h * w, last), g, out, _Operands(out, d, noise, b, y), results, activation)
    return gy, gd, gn, gb


def _epilogue_grad(gpu: Gpu, shape, g, out, operands: _Operands, results, activation: _Activation) -> None:
    """Fills gy and those of gd, gb, gn that are not None. shape: samples, channels, pixels, channels are last."""
    dtype = _dtype_code("modconv_epilogue_grad", out)
    n, c, pixels, last = shape
    gy, *sums = results
    arrays = [0 if t is None else t.data_ptr() for t in (operands.y, out, g, gy)]
    aligned = all(at % 16 == 0 for at in arrays)
    given = operands.y is not None
    wanted = tuple(t is not None for t in sums)
    key = ("epilogue_grad", dtype, shape, given, operands.key, wanted, aligned, activation, gpu.processors)
    ready = _ready.plans.get(key)
    if ready is None:
        a = operands.arguments(n, c, pixels, activation)
        what = plans.plan_epilogue(a, True, last, dtype, aligned, gpu.processors)
        finish = FinishArgs(
            gn=int(wanted[2]), divide=operands.d is not None and not given, n=n, c=c, pixels=pixels, groups=a.groups,
            pieces=a.pieces, noise_each=operands.each,
        )  # fmt: skip
        ready = _remember(key, (what, a, plans.plan_finish(finish, dtype), finish))
    what, a, then, finish = ready
    a.y, a.out, a.g, a.result = arrays
    operands.place(a)
    by_channel, by_pixel = n * c * a.pieces, n * a.groups * pixels
    amounts = (by_channel * wanted[0], by_channel * wanted[1], by_pixel * wanted[2])
    scratch = torch.empty(sum(amounts), dtype=sum_dtype(out), device=out.device)
    at = scratch.data_ptr()
    size = scratch.element_size()
    a.dots = at if wanted[0] else 0
    a.sums = at + amounts[0] * size if wanted[1] else 0
    a.by_pixel = at + (amounts[0] + amounts[1]) * size if wanted[2] else 0
    gpu.launch("modconv", dtype, what, a)
    if not any(wanted):
        return
    finish.dots, finish.sums, finish.by_pixel, finish.d = a.dots, a.sums, a.by_pixel, operands.d_at
    finish.gd, finish.gb, finish.gn = (0 if t is None else t.data_ptr() for t in sums)
    gpu.launch("modconv", dtype, then, finish)


OPERATORS = (
    upfirdn2d,
    bias_act,
    bias_act_grad,
    bias_act_grad2,
    bias_act_grad_bias,
    modconv_epilogue,
    modconv_epilogue_grad,
)


def kernel_names(source: str, dtype: int) -> list[str]:
    """The kernels of csrc/<source>.cu for one number type."""
    suffix, double = plans.SUFFIXES[dtype], dtype == 1
    if source == "bias_act":
        names = list(plans.BIAS_ACT)
    elif source == "modconv":
        ways = ("one",) if double else ("vec", "one")
        names = [f"modconv_{g}{t}_{way}" for g in ("", "grad_") for t in ("planes", "pixels") for way in ways]
        names.append("modconv_finish")
    else:
        four = [f"upfirdn2d_t4_{f}_{way}" for f in ("u1d1", "u2d1", "u1d2") for way in ("vec", "one", "plane")]
        twelve = [f"upfirdn2d_t12_{f}_one" for f in ("u2d1", "u1d2")]
        names = ["upfirdn2d_any", *([] if double else four + twelve)]
    return [f"{name}_{suffix}" for name in names]
