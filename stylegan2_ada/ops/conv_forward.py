"""Float32 convolutions for networks that only run forward: bias and ReLU included, read from and written to slices of
channels, and with fewer multiplications than a direct convolution where the window is larger than one pixel.

Minimal filtering (Lavin & Gray 2015, arXiv 1509.09308; points as in Barabasz et al. 2020, arXiv 1803.10986): F(m, r)
computes m results of an r-tap filter with m + r - 1 multiplications instead of m r. What is used, and its rounding
error for normal data behind a ReLU and 128 channels (relative RMS; in brackets that of oneDNN's direct convolution):

| window | filter | multiplications | error |
|---|---|---|---|
| 3x3 | F(4x4, 3x3) | 36 for 144 | 7e-7 (4e-7) |
| 5x5 | F(4x4, 5x5) | 64 for 400 | 3e-6 (7e-7) |
| 1x7, 7x1 | F(4, 7) | 10 for 28 | 1.4e-6 (4e-7) |
| 1x3, 3x1 | F(4, 3) | 6 for 12 | 3e-7 (2e-7) |

Other windows, and strides, are computed directly, as a product of matrices. Weights are transformed once, in float64,
by `prepare`. The kernels are in native/csrc/conv_forward*; they need AVX2 or AVX-512. Without them the same functions
call PyTorch's convolution. There are no derivatives.

Schemas (`out` is written, images are [N, C, H, W] float32 whose channels are neighbours in memory):

conv_forward(x, u, bias, relu, tile, window, out): several convolutions of the same x and window; u and bias from
    `prepare`, relu a flag for each, tile the results (y, x) of a filter, window (taps y, x, padding y, x, stride).
pool_forward(x, mean, window, relu, out): maximum or mean of the pixels of a window that are not padding.
conv_forward_matrix(out, taps): G of F(out, taps), float64 [out + taps - 1, taps]; u is G g for taps g.
conv_forward_lanes(): values in a vector, which rules the layout of u; 0 where there are no kernels for this processor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError

from .native import use_native

torch.library.define(
    "stylegan2_ada::conv_forward",
    "(Tensor x, Tensor[] u, Tensor[] bias, int[] relu, int[] tile, int[] window, Tensor(a!)[] out) -> ()",
)
torch.library.define(
    "stylegan2_ada::pool_forward", "(Tensor x, bool mean, int[] window, bool relu, Tensor(a!) out) -> ()"
)
torch.library.define("stylegan2_ada::conv_forward_matrix", "(int out, int taps) -> Tensor")
torch.library.define("stylegan2_ada::conv_forward_lanes", "() -> int")

_op = torch.ops.stylegan2_ada

_WINDOWS = [(1, 1), (3, 3), (5, 5), (1, 7), (7, 1), (1, 3), (3, 1)]
_TILES = {(y, x): (4 if y > 1 else 1, 4 if x > 1 else 1) for y, x in _WINDOWS}  # results of a filter


@dataclass(frozen=True)
class Prepared:
    """A convolution ready to be used: `u` and `padded_bias` are for the kernels, None where there are none."""

    weight: Tensor
    bias: Tensor
    padding: tuple[int, int]
    stride: int
    tile: tuple[int, int]
    u: Tensor | None
    padded_bias: Tensor | None

    @property
    def window(self) -> list[int]:
        return [*self.weight.shape[2:], *self.padding, self.stride]

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the result for an input of this height and width."""
        sizes = zip((height, width), self.weight.shape[2:], self.padding, strict=True)
        y, x = ((size + 2 * pad - taps) // self.stride + 1 for size, taps, pad in sizes)
        return y, x


def applies(weight: Tensor) -> bool:
    """Whether there are native kernels for convolutions with these weights here."""
    return weight.dtype == torch.float32 and weight.device.type == "cpu" and use_native(weight) and _lanes() > 0


@cache
def _lanes() -> int:
    return _op.conv_forward_lanes()


def prepare(weight: Tensor, bias: Tensor, padding: tuple[int, int] = (0, 0), stride: int = 1) -> Prepared:
    """A convolution with weights [O, I, height, width] float32 and bias [O], zero padding (y, x)."""
    taps = weight.shape[2], weight.shape[3]
    tile = _TILES.get(taps, (1, 1)) if stride == 1 else (1, 1)
    weight, bias = weight.detach(), bias.detach()
    if not applies(weight):
        return Prepared(weight, bias, padding, stride, tile, None, None)
    lanes, outputs = _lanes(), len(weight)
    w = weight.double()
    if stride == 1 and taps in _TILES:
        u = torch.einsum("yk,oikl,xl->yxio", _matrix(tile[0], taps[0]), w, _matrix(tile[1], taps[1])).flatten(0, 1)
    else:
        u = w.permute(2, 3, 1, 0).reshape(1, -1, outputs)
    u = F.pad(u, (0, -outputs % lanes, 0, -u.shape[1] % lanes)).float()  # [points, inputs, outputs]
    panels = [panel.flatten(1) for panel in u.split(2 * lanes, dim=2)]
    padded = F.pad(bias, (0, -outputs % lanes)).contiguous()
    return Prepared(weight, bias, padding, stride, tile, torch.cat(panels, dim=1).flatten(), padded)


def _matrix(out: int, taps: int) -> Tensor:
    return torch.ones(1, 1, dtype=torch.float64) if taps == 1 else _op.conv_forward_matrix(out, taps)


def convolve(x: Tensor, convs: Sequence[Prepared], relu: Sequence[bool], out: Sequence[Tensor]) -> None:
    """Convolutions of one input, each into its own `out`, with ReLU where `relu` says so.

    x: [N, I, H, W] float32, channels-last or a slice of the channels of such a tensor. convs: of one window, padding
    and stride. out: [N, O, H', W'], channels-last or slices, too; what lies beside a slice remains as it is.
    """
    for conv in convs:
        if conv.weight.shape[1] != x.shape[1] or conv.window != convs[0].window:
            raise UserError(
                f"weights {list(conv.weight.shape)}, window {conv.window} do not go with {x.shape[1]} channels and the "
                f"first window, {convs[0].window}"
            )
    if all(conv.u is not None for conv in convs):
        us, biases = [conv.u for conv in convs], [conv.padded_bias for conv in convs]
        _op.conv_forward(x, us, biases, [int(r) for r in relu], convs[0].tile, convs[0].window, list(out))
        return
    for conv, rectified, target in zip(convs, relu, out, strict=True):
        y = F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding)
        target.copy_(y.relu_() if rectified else y)


def pool(
    x: Tensor, out: Tensor, *, mean: bool, size: int = 3, stride: int = 1, padding: int = 0, relu: bool = False
) -> None:
    """Maximum or mean over size x size windows, padding left out of the mean. Tensors as in `convolve`."""
    if applies(x):
        _op.pool_forward(x, mean, [size, size, padding, padding, stride], relu, out)
        return
    if mean:
        y = F.avg_pool2d(x, size, stride, padding, count_include_pad=False)
    else:
        y = F.max_pool2d(x, size, stride, padding)
    out.copy_(y.relu_() if relu else y)


@torch.library.register_fake("stylegan2_ada::conv_forward")
def _(x, u, bias, relu, tile, window, out):
    return None


@torch.library.register_fake("stylegan2_ada::pool_forward")
def _(x, mean, window, relu, out):
    return None
