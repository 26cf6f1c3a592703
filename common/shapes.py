"""Networks whose tensors have shapes and no memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch.overrides import TorchFunctionMode

_RANDOM = {torch.rand, torch.randn}
_FIRST_VALUES = {"normal_", "uniform_", "erfinv_", "add_", "mul_", "div_", "clamp_"}  # and what torch.nn.init calls so
_SCALED = {"mul", "div", "__mul__", "__rmul__", "__truediv__"}


class _NoInitialValues(TorchFunctionMode):
    """First values are left out: tensors of the device "meta" have none. At the first random number or product there
    PyTorch imports its compiler, which takes seconds."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        first = args[0] if args else kwargs.get("tensor")  # so torch.nn.init calls it
        if func in _RANDOM:
            func = torch.empty
        elif isinstance(first, torch.Tensor) and first.is_meta and _keeps_shape(func.__name__, args[1:]):
            return first
        return func(*args, **kwargs)


def _keeps_shape(name: str, others: tuple) -> bool:
    """Whether this function sets the tensor's values, or multiplies it by a number."""
    return name in _FIRST_VALUES or (name in _SCALED and all(isinstance(other, int | float) for other in others))


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """Networks built inside have the shapes of their parameters and buffers, at no cost: no memory, no first values."""
    with torch.device("meta"), _NoInitialValues():
        yield
