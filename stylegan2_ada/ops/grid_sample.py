"""Bilinear grid sampling that can be differentiated twice with respect to the image, on every supported PyTorch.

R1 regularisation through the augmentation needs the gradient of a gradient. PyTorch's own operator has it since 2.12;
before that this module supplies it. Which one runs is decided by trying, not by a version number.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError


def grid_sample(x: Tensor, grid: Tensor) -> Tensor:
    """Sample images at given positions: bilinear, zeros outside, align_corners=False.

    x: [N, C, H, W] floating.
    grid: [N, h, w, 2] of the same dtype, (x, y) positions with -1 and 1 the outer edges of the image; a constant.

    Returns [N, C, h, w], differentiable any number of times with respect to x. Raises ValueError if `grid` requires a
    gradient (there is none).
    """
    if grid.requires_grad:
        raise UserError("grid_sample differentiates the image only: the grid must not require a gradient")
    if native_double_backward(x.device.type):
        return _native(x, grid)
    return _Sample.apply(x, grid)


def _native(x: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


@cache
def native_double_backward(device_type: str) -> bool:
    """Whether PyTorch's own grid sampling is twice differentiable on this kind of device, found out by trying once."""
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device_type, enabled=False):
        x = torch.ones(1, 1, 2, 2, device=device_type, requires_grad=True)
        seed = torch.ones(1, 1, 1, 1, device=device_type, requires_grad=True)
        y = _native(x, torch.zeros(1, 1, 1, 2, device=device_type))
        try:
            (gx,) = torch.autograd.grad(y, x, seed, create_graph=True)
            (g_seed,) = torch.autograd.grad(gx.sum(), seed)
        except RuntimeError:  # "derivative for aten::grid_sampler_2d_backward is not implemented"
            return False
        return g_seed.item() == 1


class _Sample(torch.autograd.Function):
    """Sampling is linear in the image, so its gradient and the gradient of that are each other's adjoint."""

    @staticmethod
    def forward(ctx, x: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = x.shape
        return _native(x, grid)

    @staticmethod
    def backward(ctx, gy: Tensor):
        (grid,) = ctx.saved_tensors
        return (_Scatter.apply(gy, grid, ctx.shape) if ctx.needs_input_grad[0] else None), None


class _Scatter(torch.autograd.Function):
    """Adjoint of `_Sample`: add every sample of gy to the four pixels it came from."""

    @staticmethod
    def forward(ctx, gy: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        image = gy.new_empty(1).expand(shape)  # only its shape is read when the grid's gradient is masked out
        bilinear, zeros, align_corners = 0, 0, False
        return torch.ops.aten.grid_sampler_2d_backward(gy, image, grid, bilinear, zeros, align_corners, [True, False])[
            0
        ]

    @staticmethod
    def backward(ctx, ggx: Tensor):
        (grid,) = ctx.saved_tensors
        return (_Sample.apply(ggx, grid) if ctx.needs_input_grad[0] else None), None, None
