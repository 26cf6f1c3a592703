"""Kernels compiled by NVRTC, loaded and launched through the CUDA driver, as implementations of the operators.

The driver is called through ctypes: a launch costs one foreign call with arguments that were packed before. Kernels run
on PyTorch's current stream of the tensors' device.
"""

import ctypes
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from ctypes import Structure
from functools import cache

import torch

from common.errors import UserError

from . import cuda_ops, nvrtc
from .cuda_ops import Gpu
from .cuda_plan import Launch
from .toolchain import BuildError

SOURCES = ("bias_act", "modconv", "upfirdn2d")
_EAGER = (0, 2, 3)  # number types compiled at the start; float64 is for tests
_INVALID_CONTEXT = 201

_U, _P = ctypes.c_uint, ctypes.c_void_p
ARGUMENTS = {  # of the driver's functions
    "cuLaunchKernel": [_P, _U, _U, _U, _U, _U, _U, _U, _P, _P, _P],
    "cuLibraryLoadData": [_P, ctypes.c_char_p, _P, _P, _U, _P, _P, _U],
    "cuLibraryGetKernel": [_P, _P, ctypes.c_char_p],
    "cuKernelGetFunction": [_P, _P],
    "cuDevicePrimaryCtxRetain": [_P, ctypes.c_int],
    "cuCtxSetCurrent": [_P],
    "cuGetErrorString": [ctypes.c_int, _P],
}

_gpus: dict[int, Gpu] = {}  # by device index
_libraries: list[torch.library.Library] = []  # implementations live as long as these


@cache
def _driver() -> ctypes.CDLL:
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError as error:
        raise BuildError(f"the CUDA driver does not load ({error})") from None
    for name, types in ARGUMENTS.items():
        getattr(driver, name).argtypes = types
    return driver


def _explain(result: int) -> str:
    message = ctypes.c_char_p()
    _driver().cuGetErrorString(result, ctypes.byref(message))
    return (message.value or b"unknown error").decode()


def _check(result: int, what: str) -> None:
    if result:
        raise BuildError(f"the CUDA driver could not {what}: {_explain(result)}")


class _Device:
    """The kernels of one GPU, by name."""

    def __init__(self, index: int):
        self.index = index
        self.capability = torch.cuda.get_device_capability(index)
        self.target = nvrtc.target(self.capability)
        self.functions: dict[str, int | None] = {}
        self.loaded: set[tuple[str, int]] = set()

    def load(self, source: str, dtype: int, code: bytes) -> None:
        """All kernels of a source and number type, in the current context, now rather than in a CUDA graph."""
        driver, module = _driver(), ctypes.c_void_p()
        self.make_current()
        _check(driver.cuLibraryLoadData(ctypes.byref(module), code, None, None, 0, None, None, 0), "load kernels")
        for name in cuda_ops.kernel_names(source, dtype):
            kernel, function = ctypes.c_void_p(), ctypes.c_void_p()
            _check(driver.cuLibraryGetKernel(ctypes.byref(kernel), module, name.encode()), f"find the kernel {name}")
            _check(driver.cuKernelGetFunction(ctypes.byref(function), kernel), f"load the kernel {name}")
            self.functions[name] = function.value
        self.loaded.add((source, dtype))

    def make_current(self) -> None:
        """The device's primary context, which PyTorch's tensors live in. A thread that has only been handed memory
        from PyTorch's cache may never have had it."""
        context = ctypes.c_void_p()
        _check(_driver().cuDevicePrimaryCtxRetain(ctypes.byref(context), self.index), "open the device")
        _check(_driver().cuCtxSetCurrent(context), "use the device")

    def launch(self, source: str, dtype: int, what: Launch, args: Structure) -> None:
        function = self.functions.get(what.kernel)
        if function is None:
            self.load(source, dtype, nvrtc.kernels(source, self.target, dtype))
            function = self.functions[what.kernel]
        stream = torch._C._cuda_getCurrentRawStream(self.index)
        parameters = args.__dict__.get("parameters")
        if parameters is None:
            parameters = args.parameters = (ctypes.c_void_p * 1)(ctypes.addressof(args))
        if what.grid > 0x7FFFFFFF:
            raise UserError(f"{what.kernel}: a tensor of this size needs more blocks than a GPU takes")
        x, y, z = what.block
        result = _launch(function, what.grid, 1, 1, x, y, z, 0, stream, parameters, None)
        if result == _INVALID_CONTEXT:
            self.make_current()
            result = _launch(function, what.grid, 1, 1, x, y, z, 0, stream, parameters, None)
        if result:
            raise RuntimeError(f"launching {what.kernel} over {what.grid} blocks failed: {_explain(result)}")


def _launch(*arguments) -> int:
    global _launch
    _launch = _driver().cuLaunchKernel  # from the second call on there is nothing in between
    return _launch(*arguments)


def _gpu(index: int) -> Gpu:
    device = _Device(index)
    with torch.cuda.device(index):
        compile_all(device)
    processors = torch.cuda.get_device_properties(index).multi_processor_count
    gpu = _gpus[index] = Gpu(processors, device.launch)
    return gpu


def compile_all(device: _Device) -> None:
    """Compiles on as many cores as there are, since NVRTC leaves Python alone meanwhile, and loads."""
    parts = [(source, dtype) for dtype in _EAGER for source in SOURCES]
    with ThreadPoolExecutor() as pool:
        codes = list(pool.map(lambda part: nvrtc.kernels(part[0], device.target, part[1]), parts))
    for part, code in zip(parts, codes):
        device.load(*part, code)


def _implementation(operator):
    def run(first, *rest):
        index = first.get_device()
        gpu = _gpus.get(index) or _gpu(index)
        if torch._C._cuda_getDevice() == index:
            return operator(gpu, first, *rest)
        with torch.cuda.device(index):
            return operator(gpu, first, *rest)

    return run


def register() -> str:
    """Compile and load the kernels for the current GPU and make them the operators' CUDA implementations.

    Returns how it was done, for people. Raises BuildError where it cannot be.
    """
    start = time.perf_counter()
    index = torch.cuda.current_device()
    if index not in _gpus:
        _gpu(index)
    if not _libraries:
        implementations = torch.library.Library("stylegan2_ada", "IMPL", "CUDA")
        for operator in cuda_ops.OPERATORS:
            implementations.impl(operator.__name__, _implementation(operator))
        _libraries.append(implementations)
    target = nvrtc.target(torch.cuda.get_device_capability(index))
    seconds = time.perf_counter() - start
    return f"compiled by NVRTC {'.'.join(map(str, nvrtc.version()))} for {target}, ready in {seconds:.1f} s"
