"""Adam as StyleGAN2 uses it: with beta1 = 0, and corrected for lazy regularisation."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from stylegan2_ada.ops.native import path


class MemorylessAdam(torch.optim.Adam):
    """Adam with beta1 = 0, whose first moment is the gradient itself: no memory is spent on it.

    PyTorch's kernels keep the first moment in a tensor of its own, a quarter of all that training a network needs to
    remember. Here the kernel is given the gradient in that place; element by element it reads both before it writes.
    """

    def __init__(self, params: Iterable[nn.Parameter], **options) -> None:
        super().__init__(params, **options)
        # At once and not at the first step: what stays must not lie between activations that go, and keep their room.
        for group in self.param_groups:
            for p in group["params"]:
                device = p.device if group["fused"] else None  # the fused kernels want the count beside the weights
                self.state[p] = {
                    "step": torch.zeros((), dtype=torch.float32, device=device),
                    "exp_avg": p.new_empty(0),
                    "exp_avg_sq": torch.zeros_like(p, memory_format=torch.preserve_format),
                }

    @torch.no_grad()
    def step(self, closure=None):
        with_grad = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        for p in with_grad:
            self.state[p]["exp_avg"] = p.grad
        result = super().step(closure)
        for p in with_grad:
            self.state[p]["exp_avg"] = p.new_empty(0)
        return result


def lazy_adam(params: Iterable[nn.Parameter], lr: float, interval: int | None) -> torch.optim.Adam:
    """Adam(0, 0.99) for a network that is regularised every `interval` steps (None: in every step or never).

    One optimiser does the steps of the loss and those of the regulariser, which are `interval + 1` where there were
    `interval`; with c = interval / (interval + 1), lr * c and 0.99 ** c do the same per image (StyleGAN2, Karras et al.
    2020, appendix B).
    """
    params = list(params)
    ratio = interval / (interval + 1) if interval else 1.0
    return MemorylessAdam(params, lr=lr * ratio, betas=(0.0, 0.99**ratio), eps=1e-8, fused=fused(params[0].device))


def fused(device: torch.device) -> bool | None:
    """Whether Adam runs as one kernel; on the reference path PyTorch decides."""
    return None if path() == "reference" else device.type in ("cpu", "cuda")
