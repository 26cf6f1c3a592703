"""Which CUDA kernel is launched, with which arguments, over which grid: the Python twin of csrc/cuda_plan.h.

The structures repeat csrc/cuda_args.h. `tests/stylegan2_ada_ops/test_cuda_plan.py` compiles both headers and compares
offsets and plans with what is here.
"""

from ctypes import Structure, c_double, c_int, c_uint, c_void_p
from functools import cache
from typing import NamedTuple

import torch

# The numbers and the suffixes of the number types, as in csrc/device.cuh.
CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
SUFFIXES = ("f32", "f64", "bf16", "f16")
BYTES = (4, 8, 2, 2)


class Divisor(Structure):
    """Division by `d` as a multiplication."""

    _fields_ = [("d", c_uint), ("factor", c_uint), ("shift", c_uint)]


class UpfirdnArgs(Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("x", "f", "y")),
        ("gain", c_double),
        *((name, c_int) for name in ("planes", "c", "h", "w", "oh", "ow")),
        *((name, c_int) for name in ("up_x", "up_y", "down_x", "down_y", "pad_x", "pad_y")),
        *((name, c_int) for name in ("taps_x", "taps_y", "separable", "f_double", "flip")),
        *((name, c_int) for name in ("rows", "groups", "strips", "tiles_x", "chunks")),
    ]


class PointwiseArgs(Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("x", "x2", "ref", "b", "y")),
        *((name, c_double) for name in ("alpha", "gain", "inv_gain", "clamp")),
        ("elements", c_int),
        ("inner", Divisor),
        ("size", Divisor),
        *((name, c_int) for name in ("act", "wide", "mode", "periodic", "aligned")),
    ]


class EpilogueArgs(Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("y", "out", "g", "d", "noise", "b", "result", "dots", "sums", "by_pixel")),
        *((name, c_double) for name in ("alpha", "gain", "inv_gain", "clamp")),
        *((name, c_int) for name in ("act", "n", "c", "pixels", "noise_wide", "b_wide", "noise_each")),
        *((name, c_int) for name in ("lanes", "groups", "pieces")),
    ]


class FinishArgs(Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("dots", "sums", "by_pixel", "d", "gd", "gb", "gn")),
        *((name, c_int) for name in ("divide", "n", "c", "pixels", "groups", "pieces", "noise_each")),
    ]


def inverse(gain: float) -> float:
    """What a result is multiplied by to undo the gain; 0 for a gain of 0, whose result is constant."""
    return 1 / gain if gain else 0.0


class Launch(NamedTuple):
    """A kernel by its name and the grid (one number) and block (x, y, z) it is launched over."""

    kernel: str
    grid: int
    block: tuple[int, int, int]


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


@cache
def largest_divisor(n: int, limit: int) -> int:
    return next(d for d in range(min(n, limit), 0, -1) if n % d == 0)


def make_divisor(d: int) -> Divisor:
    if d <= 1:
        return Divisor(d, 0, 0)
    shift = (d - 1).bit_length() - 1
    return Divisor(d, ceil_div(1 << (32 + shift), d), shift)


_FACTORS = {(1, 1): 0, (2, 1): 1, (1, 2): 2}


def plan_upfirdn2d(a: UpfirdnArgs, dtype: int, aligned: bool, processors: int) -> Launch:
    """Fills in the last five arguments.

    aligned: x begins at a multiple of 16 bytes (y always does). processors: multiprocessors of the GPU.
    """
    width = 16 // BYTES[dtype]
    up, down = a.up_x, a.down_x
    factors = _FACTORS.get((up, down), -1)
    if a.up_y != up or a.down_y != down or a.taps_x != a.taps_y or dtype == 1:
        factors = -1
    four = factors >= 0 and a.taps_x == 4
    twelve = factors > 0 and a.taps_x == 12 and a.separable
    a.rows = a.groups = a.strips = a.tiles_x = a.chunks = 1
    suffix = SUFFIXES[dtype]
    if not four and not twelve:
        return Launch(f"upfirdn2d_any_{suffix}", ceil_div(a.planes * a.oh * a.ow * a.c, 256), (256, 1, 1))
    way = "one"
    if four and aligned and a.c == 1 and a.ow % width == 0 and a.planes * a.h * a.w % width == 0:
        way = "plane"
    elif four and aligned and a.c % width == 0:
        way = "vec"
    odd_x, odd_y = (a.pad_x & 1, a.pad_y & 1) if up == 2 else (0, 0)
    a.strips = a.ow // width if way == "plane" else ceil_div(a.ow + odd_x, 2)
    lanes = a.c // width if way == "vec" else a.c  # across the channels
    x = largest_divisor(lanes, 8 if way == "vec" else 32)
    a.chunks = lanes // x
    rows = 16
    while rows > 4 and a.planes * lanes * a.strips * ceil_div(a.oh + odd_y, rows) < processors * 1024:
        rows //= 2  # there are not threads enough to fill the GPU
    a.rows = rows
    a.groups = ceil_div(a.oh + odd_y, rows)
    y = min(a.strips, 64, max(1, 128 // x))
    a.tiles_x = ceil_div(a.strips, y)
    groups = a.planes * a.groups
    z = min(groups, 64, max(1, 256 // (x * y)))
    kernel = f"upfirdn2d_t{a.taps_x}_u{up}d{down}_{way}_{suffix}"
    return Launch(kernel, a.chunks * a.tiles_x * ceil_div(groups, z), (x, y, z))


BIAS_ACT = ("bias_act", "bias_act_grad", "bias_act_grad2")
LIMIT = 2**30  # elements that a kernel of bias_act takes at a time


def plan_bias_act(a: PointwiseArgs, order: int, dtype: int, elements: int, size: int, inner: int) -> Launch:
    """Fills in elements, inner, size, mode and periodic, for a piece of at most LIMIT elements of [outer, size, inner].

    order: 0 bias_act, 1 and 2 its first and second derivative.
    """
    width, vectors = 16 // BYTES[dtype], 4 if order == 0 else 2
    a.elements, a.inner, a.size = elements, make_divisor(inner), make_divisor(size)
    if not a.b:
        a.mode = 0
    elif inner % width == 0:
        a.mode = 1
    else:
        a.mode = 2 if inner == 1 and size % width == 0 else 3
    a.periodic = 256 * width % size == 0
    return Launch(f"{BIAS_ACT[order]}_{SUFFIXES[dtype]}", ceil_div(elements, 256 * vectors * width), (256, 1, 1))


class Piece(NamedTuple):
    """A piece of [outer, size, inner]: elements from `start` on, with the biases from `channel` on."""

    start: int
    elements: int
    channel: int
    size: int
    inner: int


def next_piece(start: int, total: int, size: int, inner: int, limit: int = LIMIT) -> Piece:
    """The next piece after `start` elements, of at most `limit` ones.

    Pieces begin at multiples of 16 bytes where that is possible without dividing a channel.
    """
    period = size * inner
    if period * 8 <= limit:
        return Piece(start, min(limit // (period * 8) * (period * 8), total - start), 0, size, inner)
    row = start % period // inner
    if inner * 8 <= limit:
        rows = min(limit // (inner * 8) * 8, size - row)
        return Piece(start, rows * inner, row, rows, inner)
    return Piece(start, min(limit, inner - start % inner), row, 1, inner)


def power_of_two_at_least(n: int, limit: int) -> int:
    return min(1 << (n - 1).bit_length(), limit)


def plan_epilogue(a: EpilogueArgs, gradient: bool, last: bool, dtype: int, aligned: bool, processors: int) -> Launch:
    """Fills in lanes, groups and pieces. last: the channels are the fastest dimension."""
    full = 16 // BYTES[dtype]
    vector = aligned and dtype != 1 and (a.c if last else a.pixels) % full == 0
    width = full if vector else 1
    threads = processors * 2048  # to aim at
    if last:
        vectors = a.c // width
        a.lanes = power_of_two_at_least(vectors, 32)
        a.groups = ceil_div(vectors, a.lanes)
        wanted = ceil_div(threads, 256 * a.n * a.groups)
        a.pieces = min(wanted, ceil_div(a.pixels, 4 * (256 // a.lanes)))
        grid = a.n * a.pieces * a.groups
    else:
        vectors = a.pixels // width
        a.lanes = power_of_two_at_least(vectors, 32)
        a.pieces = ceil_div(vectors, a.lanes)
        teams = a.n * a.pieces
        a.groups = min(ceil_div(threads, teams * a.lanes), ceil_div(a.c, 4))
        grid = ceil_div(teams * a.groups * a.lanes, 256)
    name = f"modconv_{'grad_' * gradient}{'pixels' if last else 'planes'}_{'vec' if vector else 'one'}"
    return Launch(f"{name}_{SUFFIXES[dtype]}", grid, (256, 1, 1))


def plan_finish(a: FinishArgs, dtype: int) -> Launch:
    pixels = (a.n if a.noise_each else 1) * a.pixels if a.gn else 0
    return Launch(f"modconv_finish_{SUFFIXES[dtype]}", a.c + ceil_div(pixels, 256), (256, 1, 1))
