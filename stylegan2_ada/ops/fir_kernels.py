"""Three ways to compute a two-dimensional resampling filter, and the choice among them.

All compute y[o] = sum_i x[i] * g[i * up - o * down + pad] along both axes, for i in [0, size) and o in [0, out), and
skip the products with the zeros that `up` stands for:

matrix: the axis as a dense banded matrix. Best for small images and for half precision, where a matrix product is fast
    and elementwise passes are not.
shifted: one scaled addition per tap and phase. Best for large images and for few channels.
depthwise: a convolution of every channel with itself. Best with channels_last, and when shrinking.

Which one is quicker was measured on one core with AVX-512 (PyTorch 2.15); all are right everywhere.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Axis(NamedTuple):
    """Geometry of one axis."""

    size: int
    up: int
    down: int
    pad: int
    out: int

    def adjoint(self, taps: int) -> "Axis":
        """The axis of the transposed operator, whose filter is this one turned round."""
        return Axis(self.out, self.down, self.up, taps - 1 - self.pad, self.size)


def resample(x: Tensor, f: Tensor, y_axis: Axis, x_axis: Axis) -> Tensor:
    """Filter [N, C, H, W] with g = f: [fh, fw], or [taps] for both axes, by the quickest kernel. Keeps the dtype."""
    if x.numel() == 0 or y_axis.out == 0 or x_axis.out == 0:
        return x.new_zeros(*x.shape[:2], y_axis.out, x_axis.out)
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return depthwise(x, f, y_axis, x_axis)
    pair = _separate(tuple(f.flatten().tolist()), f.shape[0] if f.ndim == 2 else None)
    if pair is None:
        return depthwise(x, f, y_axis, x_axis)
    size, half = max(x_axis.size, y_axis.size), x.element_size() < 4
    enlarges = x_axis.up > 1 or y_axis.up > 1
    if f.ndim == 2 and x.shape[1] >= 8:
        if _layout(x) == torch.channels_last:
            quick = not (half and enlarges and size <= 64)
        else:
            quick = not enlarges and (x_axis.down > 1 or y_axis.down > 1 or (half and size > 40))
        if quick:
            return depthwise(x, f, y_axis, x_axis)
    if half or size <= max(24, 6 * len(pair[1]) // x_axis.up):
        return matrix(x, *pair, y_axis, x_axis)
    return shifted(x, *pair, y_axis, x_axis)


def _layout(x: Tensor) -> torch.memory_format:
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


@lru_cache(maxsize=256)
def _separate(taps: tuple[float, ...], rows: int | None) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """The filters along y and x whose outer product is the filter; None if there are none."""
    if rows is None:
        return taps, taps
    f = torch.tensor(taps, dtype=torch.float64).reshape(rows, -1)
    i, j = divmod(int(f.abs().argmax()), f.shape[1])
    along_y, along_x = f[:, j], f[i] / f[i, j] if f[i, j] != 0 else f[i]
    # The products of float32 taps are rounded to float32; anything nearer than that is the same filter.
    if (torch.outer(along_y, along_x) - f).abs().max() > 3e-7 * f.abs().max():
        return None
    return tuple(along_y.tolist()), tuple(along_x.tolist())


def matrix(x: Tensor, gy: tuple[float, ...], gx: tuple[float, ...], y_axis: Axis, x_axis: Axis) -> Tensor:
    """[Ho, H] @ x @ [W, Wo], the narrower product first."""
    along_y, along_x = _banded(gy, y_axis, x.dtype), _banded(gx, x_axis, x.dtype)
    n, c, h, w = x.shape
    if _layout(x) == torch.channels_last and c >= 8:
        x = torch.matmul(along_y, x.permute(0, 2, 3, 1).reshape(n, h, w * c)).reshape(n, y_axis.out, w, c)
        return torch.matmul(along_x, x).permute(0, 3, 1, 2)
    if y_axis.out * x_axis.size <= x_axis.out * y_axis.size:
        return torch.matmul(torch.matmul(along_y, x), along_x.t())
    return torch.matmul(along_y, torch.matmul(x, along_x.t()))


@lru_cache(maxsize=256)
def _banded(g: tuple[float, ...], axis: Axis, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # it is kept, and may be wanted for training later
        index = torch.arange(axis.size) * axis.up + axis.pad - torch.arange(axis.out)[:, None] * axis.down
        inside = (index >= 0) & (index < len(g))
        taps = torch.tensor(g, dtype=torch.float64)
        return torch.where(inside, taps[index.clamp(0, len(g) - 1)], 0).to(dtype)


# Samples of the result that `shifted` works on at a time: what it passes over a dozen times should stay in the cache,
# and what it allocates in between should come from the heap and not, page by page, from the system.
_CHUNK = 2**19


def shifted(x: Tensor, gy: tuple[float, ...], gx: tuple[float, ...], y_axis: Axis, x_axis: Axis) -> Tensor:
    """Add up shifted copies of the image; the pass that leaves less to the other one comes first."""
    passes = [(3, _phases(gx, x_axis)), (2, _phases(gy, y_axis))]
    if x_axis.out * y_axis.size > y_axis.out * x_axis.size:
        passes.reverse()
    (n, c), h, w = x.shape[:2], y_axis.out, x_axis.out
    layout = _layout(x)
    y = torch.empty((n, c, h, w), dtype=x.dtype, device=x.device, memory_format=layout)
    target, dim, step = y, 0, _CHUNK // (c * h * w)
    if layout == torch.contiguous_format:  # any two channels may be parted
        x, target, dim, step = x.reshape(1, n * c, *x.shape[2:]), y.view(1, n * c, h, w), 1, _CHUNK // (h * w)
    for parts in zip(x.split(max(1, step), dim), target.split(max(1, step), dim)):
        between = list(parts[0].shape)
        between[passes[0][0]] = parts[1].shape[passes[0][0]]
        half_way = torch.empty(between, dtype=x.dtype, device=x.device, memory_format=layout)
        _shifted(parts[0], half_way, *passes[0])
        _shifted(half_way, parts[1], *passes[1])
    return y


def _shifted(x: Tensor, y: Tensor, dim: int, phases: tuple) -> None:
    """One axis of `shifted`, written to y."""
    before = (slice(None),) * dim
    for phase, stride_out, stride_in, count, terms in phases:
        part = y[(*before, slice(phase, None, stride_out))]
        if not terms:
            part.zero_()
        for i, (tap, to, start, length) in enumerate(terms):
            source = x[(*before, slice(start, start + (length - 1) * stride_in + 1, stride_in))]
            target = part.narrow(dim, to, length)
            if i == 0:
                torch.mul(source, tap, out=target)
                part.narrow(dim, 0, to).zero_()
                part.narrow(dim, to + length, count - to - length).zero_()
            else:
                target.add_(source, alpha=tap)


@lru_cache(maxsize=256)
def _phases(g: tuple[float, ...], axis: Axis) -> tuple:
    """For every output phase: (phase, output stride, input stride, samples, terms).

    Output phase + m * output stride is the sum of tap * x[start + (m - to) * input stride] over the terms
    (tap, to, start, length), each for m in [to, to + length). The longest term comes first.
    """
    common = math.gcd(axis.up, axis.down)
    stride_out, stride_in = axis.up // common, axis.down // common
    phases = []
    for phase in range(min(stride_out, axis.out)):
        count = -(-(axis.out - phase) // stride_out)
        terms = []
        for j, tap in enumerate(g):
            start, rest = divmod(phase * axis.down + j - axis.pad, axis.up)
            first = max(0, -(start // stride_in))
            last = min(count - 1, (axis.size - 1 - start) // stride_in)
            if rest == 0 and first <= last and tap != 0:
                terms.append((tap, first, start + first * stride_in, last - first + 1))
        terms.sort(key=lambda term: -term[3])
        phases.append((phase, stride_out, stride_in, count, tuple(terms)))
    return tuple(phases)


def depthwise(x: Tensor, f: Tensor, y_axis: Axis, x_axis: Axis) -> Tensor:
    """A convolution with as many groups as channels; works for any filter, on any device, inside a compiled graph."""
    if f.ndim == 1:
        still = Axis(y_axis.size, 1, 1, 0, y_axis.size)
        x = depthwise(x, f[None], still, x_axis)
        return depthwise(x, f[:, None], y_axis, Axis(x_axis.out, 1, 1, 0, x_axis.out))
    if x_axis.up == 1 and y_axis.up == 1:
        return _strided(x, f, y_axis, x_axis)
    transposed = _transposed(x, f, y_axis, x_axis)
    return _by_phase(x, f, y_axis, x_axis) if transposed is None else transposed


def _strided(x: Tensor, f: Tensor, y_axis: Axis, x_axis: Axis) -> Tensor:
    axes = (y_axis, x_axis)
    padding = [y_axis.pad, x_axis.pad]
    # A convolution pads both sides alike, which saves a copy where that gives the same number of samples.
    if any(a.pad < 0 or (a.size + 2 * a.pad - k) // a.down + 1 != a.out for a, k in zip(axes, f.shape)):
        x = _window(x, *(((a.out - 1) * a.down + k, a.pad) for a, k in zip(axes, f.shape)))
        padding = [0, 0]
    weight = f.to(x.dtype).expand(x.shape[1], 1, *f.shape)
    return F.conv2d(x, weight, stride=(y_axis.down, x_axis.down), padding=padding, groups=x.shape[1])


def _window(x: Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
    """Cut or extend with zeros to (length, samples before the first one) along each axis; it may miss the image."""
    pads = []
    for dim, (length, before) in ((3, columns), (2, rows)):
        first = min(max(-before, 0), x.shape[dim])
        last = min(max(length - before, first), x.shape[dim])
        x = x.narrow(dim, first, last - first)
        left = min(max(before, 0), length)
        pads += [left, length - left - (last - first)]
    return F.pad(x, pads)


def _transposed(x: Tensor, f: Tensor, y_axis: Axis, x_axis: Axis) -> Tensor | None:
    """Enlarge by a transposed convolution, if there is one of this geometry and it is quick."""
    if x_axis.down > 1 or y_axis.down > 1 or (x.device.type == "cpu" and x.element_size() < 4):
        return None
    padding = [k - 1 - a.pad for a, k in zip((y_axis, x_axis), f.shape)]
    extra = [a.out - ((a.size - 1) * a.up + k - 2 * p) for a, k, p in zip((y_axis, x_axis), f.shape, padding)]
    if min(padding) < 0 or min(extra) < 0 or extra[0] >= y_axis.up or extra[1] >= x_axis.up:
        return None
    weight = f.flip([0, 1]).to(x.dtype).expand(x.shape[1], 1, *f.shape)
    up = (y_axis.up, x_axis.up)
    return F.conv_transpose2d(x, weight, stride=up, padding=padding, output_padding=extra, groups=x.shape[1])


def _by_phase(x: Tensor, f: Tensor, y_axis: Axis, x_axis: Axis) -> Tensor:
    """Enlarge by one small convolution per output phase, the results interleaved."""
    shape = (*x.shape[:2], y_axis.out, x_axis.out)
    y = torch.zeros(shape, dtype=x.dtype, device=x.device).contiguous(memory_format=_layout(x))
    rows, columns = _phase_axes(y_axis, f.shape[0]), _phase_axes(x_axis, f.shape[1])
    if not rows or not columns:
        return y
    # Everything any phase reads, padded once.
    top, left = min(r.start for r in rows), min(c.start for c in columns)
    bottom, right = max(r.start + r.length for r in rows), max(c.start + c.length for c in columns)
    x = _window(x, (bottom - top, -top), (right - left, -left))
    for r in rows:
        for c in columns:
            part = f[r.taps][:, c.taps].to(x.dtype)
            source = x[:, :, r.start - top : r.start - top + r.length, c.start - left : c.start - left + c.length]
            weight, stride = part.expand(x.shape[1], 1, *part.shape), (r.stride_in, c.stride_in)
            y[:, :, r.phase :: r.stride_out, c.phase :: c.stride_out] = F.conv2d(
                source, weight, stride=stride, groups=x.shape[1]
            )
    return y


class _Phase(NamedTuple):
    """The output samples phase, phase + stride_out, ...: `taps` slid over the input from `start`, `length` samples."""

    phase: int
    stride_out: int
    stride_in: int
    taps: slice
    start: int
    length: int


@lru_cache(maxsize=256)
def _phase_axes(axis: Axis, taps: int) -> list[_Phase]:
    """All output phases that any tap meets a sample in."""
    common = math.gcd(axis.up, axis.down)
    stride_out, stride_in = axis.up // common, axis.down // common
    result = []
    for phase in range(min(stride_out, axis.out)):
        first = (axis.pad - phase * axis.down) % axis.up  # the first tap on a sample; every up-th follows
        if first < taps:
            start = (phase * axis.down + first - axis.pad) // axis.up
            count = -(-(axis.out - phase) // stride_out)
            length = (count - 1) * stride_in + -(-(taps - first) // axis.up)
            result.append(_Phase(phase, stride_out, stride_in, slice(first, None, axis.up), start, length))
    return result
