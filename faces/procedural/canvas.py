"""Drawing primitives of the procedural faces: a linear-light canvas, anti-aliased masks, noise and normals.

Only exactly rounded arithmetic (+ - * / sqrt, comparisons, table look-ups) touches the arrays, never exp, sin or a
matrix product, whose last bit depends on the processor. That is what makes a face the same bytes on every machine.
Coordinates: x to the right and y down, both in [-1, 1] whatever the pixel count. Colours: linear light in [0, 1].
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

F32 = np.float32
Window = tuple[slice, slice]  # rows and columns of the canvas
Level = np.ndarray | np.float32 | float


def srgb(red: float, green: float, blue: float) -> np.ndarray:
    """A display colour in [0, 1] as linear light, float32 [3]. Gamma 2 stands in for sRGB: squaring is exact."""
    colour = np.array([red, green, blue], dtype=F32)
    return colour * colour


def unit(t: np.ndarray) -> np.ndarray:
    """Clipped to [0, 1]; twice as fast as `np.clip` on the small arrays here, whose cost is the calls."""
    return np.minimum(np.maximum(t, F32(0)), F32(1))


def smoothstep(t: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, the cubic 3t^2 - 2t^3 between."""
    t = unit(t)
    return t * t * (F32(3) - F32(2) * t)


def bump(r2: np.ndarray) -> np.ndarray:
    """(1 - r2)^3 inside the unit circle (r2 = squared radius), 0 outside: a Gaussian-like hill of finite support."""
    t = np.maximum(F32(1) - r2, F32(0))
    return t * t * t


@lru_cache(maxsize=64)
def _taps(count: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    position = np.clip((np.arange(size) + 0.5) * count / size - 0.5, 0, count - 1)
    low = position.astype(np.int64)
    t = position - low
    return low, np.minimum(low + 1, count - 1), (t * t * (3 - 2 * t)).astype(F32)


def lattice_field(lattice: np.ndarray, size: int) -> np.ndarray:
    """A small square lattice [n, n] stretched smoothly over the whole canvas, float32 [size, size]."""
    if lattice.shape[0] == size:
        return lattice
    low, high, t = _taps(lattice.shape[0], size)
    rows = lattice[low] + (lattice[high] - lattice[low]) * t[:, None]
    left = rows[:, low]
    return left + (rows[:, high] - left) * t


def blend(target: np.ndarray, alpha: np.ndarray, colour: np.ndarray) -> None:
    """Lay `colour` ([3] or [3, h, w]) over `target` [3, h, w] with opacity `alpha` [h, w], in place."""
    target += alpha * ((colour if colour.ndim == 3 else colour[:, None, None]) - target)


def noise_1d(table: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Smooth value noise: `table` (length a power of two) read at real positions `t`, with its ends joined."""
    low = np.floor(t)
    frac = t - low
    frac *= frac * (F32(3) - F32(2) * frac)
    index = low.astype(np.int32)
    index &= len(table) - 1
    step = np.empty_like(table)
    step[:-1] = table[1:] - table[:-1]
    step[-1] = table[0] - table[-1]
    frac *= step.take(index)
    frac += table.take(index)
    return frac


@lru_cache(maxsize=8)
def _axis(size: int) -> np.ndarray:
    axis = ((np.arange(size, dtype=np.float64) + 0.5) * (2.0 / size) - 1.0).astype(F32)
    axis.setflags(write=False)
    return axis


class Canvas:
    """A square picture under the brush: `.image` float32 [3, size, size] in linear light, starting black."""

    def __init__(self, size: int):
        self.size = size
        self.pixel = 2.0 / size
        self.x = _axis(size)[None, :]
        self.y = _axis(size)[:, None]
        self.image = np.zeros((3, size, size), dtype=F32)

    def window(self, x: float, y: float, radius_x: float, radius_y: float) -> Window:
        """The (rows, columns) slices that cover a rectangle around (x, y); empty where it lies off the canvas."""
        half, size = self.size / 2, self.size
        top, bottom = int((y - radius_y + 1) * half) - 1, int((y + radius_y + 1) * half) + 2
        left, right = int((x - radius_x + 1) * half) - 1, int((x + radius_x + 1) * half) + 2
        return (
            slice(min(max(top, 0), size), min(max(bottom, 0), size)),
            slice(min(max(left, 0), size), min(max(right, 0), size)),
        )

    @staticmethod
    def within(part: Window, whole: Window) -> Window:
        """Where the pixels of `part` lie in an array that covers `whole`; what falls outside it is left away."""
        (rows, columns), (own_rows, own_columns) = part, whole
        top, left = max(rows.start, own_rows.start), max(columns.start, own_columns.start)
        bottom, right = max(min(rows.stop, own_rows.stop), top), max(min(columns.stop, own_columns.stop), left)
        y, x = own_rows.start, own_columns.start
        return slice(top - y, bottom - y), slice(left - x, right - x)

    def cover(self, distance: np.ndarray, softness: float = 0.0) -> np.ndarray:
        """Opacity in [0, 1] of a shape from its signed distance (negative inside), one pixel or `softness` wide."""
        width = max(self.pixel, softness)
        alpha = unit(F32(0.5) - distance * F32(1.0 / width))
        return smoothstep(alpha) if softness > 2 * self.pixel else alpha

    def paint(self, alpha: np.ndarray, colour: np.ndarray, window: Window | None = None) -> None:
        """Lay `colour` ([3] or [3, h, w]) over the picture with opacity `alpha` [h, w], inside `window` if given."""
        blend(self.image if window is None else self.image[:, window[0], window[1]], alpha, colour)


def normals(height: np.ndarray, pixel: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit surface normals (nx, ny, nz) of a height field [h, w]; nz points at the viewer."""
    scale = F32(0.5 / pixel)
    slope_x = np.zeros_like(height)
    slope_y = np.zeros_like(height)
    slope_x[:, 1:-1] = (height[:, 2:] - height[:, :-2]) * scale
    slope_y[1:-1] = (height[2:] - height[:-2]) * scale
    nz = F32(1) / np.sqrt(F32(1) + slope_x * slope_x + slope_y * slope_y)
    return -slope_x * nz, -slope_y * nz, nz


def to_bytes(image: np.ndarray, resolution: int) -> np.ndarray:
    """A linear-light picture [3, size, size] as display bytes uint8 [resolution, resolution, 3].

    `size` must be a whole multiple of `resolution`: the pixels are averaged in linear light, block by block.
    """
    step = image.shape[1] // resolution
    if step > 1:
        total = image[:, 0::step].copy()
        for k in range(1, step):
            total += image[:, k::step]
        image = total[:, :, 0::step].copy()
        for k in range(1, step):
            image += total[:, :, k::step]
        image *= F32(1.0 / (step * step))
    display = np.sqrt(unit(image))
    return np.ascontiguousarray((display * F32(255) + F32(0.5)).astype(np.uint8).transpose(1, 2, 0))
