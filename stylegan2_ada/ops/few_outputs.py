"""A 1x1 convolution with each sample's own weights and few outputs, on CPUs: StyleGAN2's ToRGB.

A matrix product of PyTorch's with three columns takes several times as long as reading the image once does.

Schemas; the three are each other's derivatives, with float32 weights m [N, O, C] and results y [N, O, H, W], and images
x [N, C, H, W] of float32 or bfloat16 (`wide`: float32), images and results channels-last, as the product's are: noise
that is drawn like an image would else be another for the same seed.

few_outputs(x, m): y, the sum over c of x[n, c] m[n, o, c].
few_outputs_input(gy, m, wide): x, the sum over o of gy[n, o] m[n, o, c].
few_outputs_weight(x, gy): m, the sum over pixels of x[n, c] gy[n, o].
"""

import torch
from torch import Tensor

from .bilinear import bilinear
from .native import straight, use_native

torch.library.define("stylegan2_ada::few_outputs", "(Tensor x, Tensor m) -> Tensor")
torch.library.define("stylegan2_ada::few_outputs_input", "(Tensor gy, Tensor m, bool wide) -> Tensor")
torch.library.define("stylegan2_ada::few_outputs_weight", "(Tensor x, Tensor gy) -> Tensor")

_op, _input_op, _weight_op = (
    straight(op.default)
    for op in (
        torch.ops.stylegan2_ada.few_outputs,
        torch.ops.stylegan2_ada.few_outputs_input,
        torch.ops.stylegan2_ada.few_outputs_weight,
    )
)
MOST_OUTPUTS = 4


def few_outputs(x: Tensor, m: Tensor) -> Tensor:
    """[N, O, H, W] of x [N, C, H, W] and weights m [N, O, C]; in float32 by native code, else in the dtype of x.
    Differentiable any number of times."""
    if not torch.compiler.is_compiling() and _applies(x, m):
        return _outputs(x, m, None, None)
    # per-sample weights and one batched matrix product save the pass that would scale x
    n, c, height, width = x.shape
    y = x.permute(0, 2, 3, 1).reshape(n, height * width, c) @ m.to(x.dtype).transpose(1, 2)
    return y.reshape(n, height, width, -1).permute(0, 3, 1, 2)


def _applies(x: Tensor, m: Tensor) -> bool:
    fits = m.shape[1] <= MOST_OUTPUTS and x.shape[1] % 16 == 0 and x.numel() > 0
    known = x.dtype in (torch.float32, torch.bfloat16) and m.dtype == torch.float32
    return fits and known and x.is_cpu and m.is_cpu and use_native(x)


@torch.library.register_fake("stylegan2_ada::few_outputs")
def _(x, m):
    shape = (x.shape[0], m.shape[1], *x.shape[2:])
    return torch.empty(shape, device=x.device, memory_format=torch.channels_last)


@torch.library.register_fake("stylegan2_ada::few_outputs_input")
def _(gy, m, wide):
    shape = (gy.shape[0], m.shape[2], *gy.shape[2:])
    dtype = torch.float32 if wide else torch.bfloat16
    return torch.empty(shape, dtype=dtype, device=gy.device, memory_format=torch.channels_last)


@torch.library.register_fake("stylegan2_ada::few_outputs_weight")
def _(x, gy):
    return gy.new_empty((x.shape[0], gy.shape[1], x.shape[1]))


_outputs = bilinear(
    lambda x, m, b, how: _op(x, m),
    lambda gy, m, how, like: _input_op(gy, m, like.dtype == torch.float32),
    lambda x, gy, how, like: _weight_op(x, gy),
)
