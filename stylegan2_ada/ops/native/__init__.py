"""Which implementation of the operations is used: plain definitions, fast PyTorch, or native code.

The environment variable STYLEGAN_OPS, read at the first use, forces one:

reference: the readable definitions of `stylegan2_ada.ops.reference`.
torch: PyTorch operations arranged to be fast.
native: C++ on the CPU, CUDA kernels on the GPU; an error where they cannot be had.

Unset, native code is compiled at the first use on a kind of device, and where that fails one warning says why and what
to do, and `torch` is used. CUDA kernels are compiled by nvcc or, where there is none that suits, by NVRTC, a part of
PyTorch's wheels (STYLEGAN_OPS_CUDA=nvcc or nvrtc forces one). `python -m stylegan2_ada.ops` tells what a machine uses,
and checks and times it.
"""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from common.errors import UserError

from .toolchain import BuildError

__all__ = ["BuildError", "Status", "below_autograd", "path", "status", "use_native"]

_PATHS = ("reference", "torch", "native")
_DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})

# Within it an operator's kernel is called without autograd: what remains to be done inside a torch.autograd.Function.
below_autograd = torch._C._AutoDispatchBelowAutograd

_usable: dict[str, bool] = {}  # by device type, filled at the first use


def quick(operator, save: Callable, backward: Callable) -> Callable:
    """An operator by the quickest way: called plainly while a compiler watches; through a `torch.autograd.Function` of
    `save(ctx, inputs, output)` and `backward(ctx, *gradients)` where one of the tensors wants a gradient, which costs a
    quarter of a `torch.library` formula; else straight to the kernel."""

    class Quick(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            with below_autograd():
                output = operator(*inputs)
            save(ctx, inputs, output)
            return output

        @staticmethod
        def backward(ctx, *gradients):
            return backward(ctx, *gradients)

    def call(*inputs):
        if torch.compiler.is_compiling():
            return operator(*inputs)
        if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in inputs):
            return Quick.apply(*inputs)
        with below_autograd():
            return operator(*inputs)

    return call


def plain(function: type[torch.autograd.Function]) -> Callable:
    """`function.apply` of a function with `setup_context`, as torch.func wants it, without what that costs elsewhere:
    PyTorch looks up the signature of its `forward` at every call, a tenth of a millisecond."""

    class Plain(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            output = function.forward(*inputs)
            function.setup_context(ctx, inputs, output)
            return output

        backward = function.backward

    def call(*inputs):
        if torch._C._are_functorch_transforms_active():
            return function.apply(*inputs)
        if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in inputs):
            return Plain.apply(*inputs)
        return function.forward(*inputs)

    return call


def straight(operator) -> Callable:
    """An operator to be called in a function's `forward`: without the detour through its own formula's Python."""

    def call(*inputs):
        if torch._C._are_functorch_transforms_active():
            return operator(*inputs)
        with below_autograd():
            return operator(*inputs)

    return call


def sum_dtype(x: Tensor) -> torch.dtype:
    """What sums over the elements of x are made in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


@dataclass(frozen=True)
class Status:
    """Whether native code is loaded for a device type, and how it was made or why it was not."""

    native: bool
    why: str


def _constant(function):
    """What `torch.compiler.assume_constant_result` does, which imports the compiler: 170 MB and two seconds."""
    function._dynamo_marked_constant = True
    return function


@cache
def _wanted() -> str:
    value = os.environ.get("STYLEGAN_OPS", "").strip().lower()
    if value and value not in _PATHS:
        raise UserError(f"STYLEGAN_OPS={value!r} is none of {', '.join(_PATHS)}; unset it to use what is fastest here")
    return value


@_constant
def path() -> str:
    """ "reference", "torch" or "native": the implementation wanted. Raises ValueError for another STYLEGAN_OPS."""
    return _wanted() or "native"


def use_native(x: Tensor) -> bool:
    """Whether native code is to be used for x: wanted, and loaded for its device and dtype.

    The first call for a kind of device compiles and loads the code. Raises BuildError if STYLEGAN_OPS=native and that
    fails. False while a model is exported to ONNX, whose readers know PyTorch's operations only.
    """
    kind = "cpu" if x.is_cpu else x.device.type
    # While a graph is made, this must be no read of a dictionary that the same call may fill: the graph would be void.
    usable = None if torch.compiler.is_compiling() else _usable.get(kind)
    if usable is None:
        usable = _find_out(kind)
    return usable and x.dtype in _DTYPES and not _exports_onnx()


def _exports_onnx() -> bool:
    # Both exporters trace the model in a way that is cheaper to ask about than about them.
    return (torch.compiler.is_compiling() or torch.jit.is_tracing()) and torch.onnx.is_in_onnx_export()


@_constant
def _find_out(kind: str) -> bool:
    """Fill `_usable` for a device type, with one warning if native code was hoped for in vain."""
    if kind in _usable:
        return _usable[kind]
    if path() != "native" or kind not in ("cpu", "cuda"):
        _usable[kind] = False
        return False
    found = status(kind)
    if not found.native:
        if _wanted() == "native":
            raise BuildError(f"STYLEGAN_OPS=native, but there are no native {kind} ops: {found.why}")
        warnings.warn(
            f"slower PyTorch operations are used on {kind}: {found.why}. STYLEGAN_OPS=torch silences this; "
            "python -m stylegan2_ada.ops tells more.",
            stacklevel=4,
        )
    _usable[kind] = found.native
    return found.native


@cache
def status(kind: str) -> Status:
    """Load the native code of a device type, "cpu" or "cuda", compiling it if need be, and tell how that went."""
    try:
        if kind == "cpu":
            return Status(True, _load("cpu"))
        if not torch.cuda.is_available():
            raise BuildError("no CUDA device is available")
        return Status(True, _load_cuda())
    except BuildError as error:
        return Status(False, str(error))


def _load_cuda() -> str:
    """By nvcc if there is one that suits, else by NVRTC, which PyTorch brings along; $STYLEGAN_OPS_CUDA forces one."""
    from . import cuda_launch

    wanted = os.environ.get("STYLEGAN_OPS_CUDA", "").strip().lower()
    if wanted not in ("", "nvcc", "nvrtc"):
        raise UserError(f"STYLEGAN_OPS_CUDA={wanted!r} is neither nvcc nor nvrtc; unset it to use what is there")
    if wanted == "nvrtc":
        return cuda_launch.register()
    try:
        return _load("cuda")
    except BuildError as no_nvcc:
        if wanted == "nvcc":
            raise
        try:
            return f"{cuda_launch.register()} (not by nvcc: {no_nvcc})"
        except BuildError as error:
            raise BuildError(f"{error}; nor by nvcc: {no_nvcc}") from None


def _load(part: str) -> str:
    from . import build

    if not build.sources(part):
        raise BuildError(f"there are no {part} sources")
    library = build.build(part)
    try:
        torch.ops.load_library(str(library.path))
    except OSError:  # damaged in a way its checksum does not show, or made for another system
        library = build.build(part, damaged=True)
        try:
            torch.ops.load_library(str(library.path))
        except OSError as error:
            raise BuildError(f"the library {library.path} was compiled but does not load ({error})") from None
    when = f"in {library.seconds:.1f} s" if library.built_now else "before"
    return f"compiled {when}, {library.path}"
