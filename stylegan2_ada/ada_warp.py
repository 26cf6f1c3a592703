"""The geometric half of the ADA pipeline: one affine map per image, resampled with little aliasing.

Karras et al. 2020, "Training GANs with Limited Data", Appendix B: mirror the borders, enlarge twice with the wavelet
sym6, sample bilinearly through the inverse map, shrink twice with the same filter.

Maps are 3x3 matrices on (x, y, 1), x to the right and y down, in pixels from the centre of the image; they take a place
in the *result* to the place in the *source* its value comes from.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .ada_filters import reflect_pad
from .ops.grid_sample import grid_sample
from .ops.upfirdn2d import downsample2d, upsample2d


def matrix(rows: list[list[Tensor | float]], like: Tensor) -> Tensor:
    """Stack scalars and [N] tensors into [N, rows, columns], in the dtype, device and N of `like` [N]."""
    columns = [e if isinstance(e, Tensor) else torch.full_like(like, e) for row in rows for e in row]
    return torch.stack(columns, dim=-1).reshape(-1, len(rows), len(rows[0]))


def translation(tx: Tensor, ty: Tensor) -> Tensor:
    return matrix([[1, 0, tx], [0, 1, ty], [0, 0, 1]], like=tx)


def scaling(sx: Tensor, sy: Tensor) -> Tensor:
    return matrix([[sx, 0, 0], [0, sy, 0], [0, 0, 1]], like=sx)


def rotation(angle: Tensor) -> Tensor:
    c, s = angle.cos(), angle.sin()
    return matrix([[c, -s, 0], [s, c, 0], [0, 0, 1]], like=angle)


def fitted_margin(maps: Tensor, height: int, width: int, taps: int) -> tuple[int, int, int, int]:
    """How many mirrored pixels the maps [N, 3, 3] reach beyond the image at most: (left, right, top, bottom).

    At most the size less one on each side, one mirror image; the bilinear tap and the filter's reach are included.
    """
    cx, cy = (width - 1) / 2, (height - 1) / 2
    corners = maps.new_tensor([[-cx, cx, cx, -cx], [-cy, -cy, cy, cy], [1, 1, 1, 1]])
    places = (maps @ corners)[:, :2]  # [N, 2, 4]
    most, least = places.amax(dim=(0, 2)).tolist(), places.amin(dim=(0, 2)).tolist()
    reach = taps // 4 * 2
    margins = (-least[0] - cx, most[0] - cx, -least[1] - cy, most[1] - cy)
    limits = (width - 1, width - 1, height - 1, height - 1)
    return tuple(math.ceil(min(max(m + reach, 0), limit)) for m, limit in zip(margins, limits))


def warp(images: Tensor, maps: Tensor, taps: Tensor) -> Tensor:
    """Resample images through their maps.

    images: [N, C, H, W] float32 or float64. maps: [N, 3, 3], result place to source place, on any device. taps:
    even-length low-pass filter of unit gain.

    Returns [N, C, H, W], twice differentiable with respect to the images.
    """
    n, c, h, w = images.shape
    left, right, top, bottom = fitted_margin(maps, h, w, len(taps))
    maps = maps.to(images.dtype)
    source = upsample2d(reflect_pad(images, left, right, top, bottom), taps)
    # The canvas has room for the shrinking filter to reach over the border of the result, at twice the resolution.
    room = len(taps) // 4
    canvas_h, canvas_w = 2 * (h + 2 * room), 2 * (w + 2 * room)

    # canvas coordinates in [-1, 1] -> pixels from the result's centre -> source -> padded, enlarged source in [-1, 1].
    # Centring an even filter leaves the enlarged image half a sample late, so half a sample goes in and comes out.
    half = 0.25
    before = maps.new_tensor([[canvas_w / 4, 0, half], [0, canvas_h / 4, half], [0, 0, 1]])
    source_h, source_w = source.shape[2:]
    after = maps.new_tensor(
        [
            [4 / source_w, 0, ((left - right) / 2 - half) * 4 / source_w],
            [0, 4 / source_h, ((top - bottom) / 2 - half) * 4 / source_h],
        ]
    )
    theta = (after @ maps @ before).to(images, non_blocking=True)
    grid = F.affine_grid(theta, [n, c, canvas_h, canvas_w], align_corners=False)
    return downsample2d(grid_sample(source, grid), taps, crop=2 * room, flip_filter=True)
