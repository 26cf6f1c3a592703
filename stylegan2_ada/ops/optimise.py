"""What an optimiser does with all weights at once, on CPUs, where it takes as long as memory takes.

Schemas:

norm_of_all(tensors): the Euclidean norm of all their numbers, float32 [], the same for any number of threads. PyTorch's
    takes one thread for each of them.
adam_(weights, gradients, squares, steps, rate, beta2, eps): Adam (Kingma & Ba 2015, algorithm 1) with beta1 = 0.
    PyTorch's kernel would write the first moment, a sixth of the traffic, though it is the gradient itself.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .native import below_autograd, use_native

torch.library.define("stylegan2_ada::norm_of_all", "(Tensor[] tensors) -> Tensor")
torch.library.define(
    "stylegan2_ada::adam_",
    "(Tensor(a!)[] weights, Tensor[] gradients, Tensor(b!)[] squares, Tensor(c!)[] steps, float rate, float beta2,"
    " float eps) -> ()",
)

_op = torch.ops.stylegan2_ada


def norm_of_all(tensors: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of all numbers of one or more tensors, as a scalar."""
    if fits(tensors):
        return _op.norm_of_all(tensors)
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors))))


def fits(*lists: Sequence[Tensor]) -> bool:
    """Whether the operators take these lists of tensors."""
    every = [t for tensors in lists for t in tensors]
    return all(t.is_cpu and t.dtype == torch.float32 and t.is_contiguous() for t in every) and use_native(every[0])


@torch.no_grad()
def adam_(
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    squares: Sequence[Tensor],
    steps: Sequence[Tensor],
    rate: float,
    beta2: float,
    eps: float,
) -> None:
    """One step of Adam with beta1 = 0, in place: weights, squares (the second moment) and steps (numbers), which go up
    by one; all of them such that `fits`."""
    with below_autograd():
        _op.adam_(weights, gradients, squares, steps, rate, beta2, eps)
