"""The CUDA kernels run on the CPU: cuda_emulation.h compiled with a C++ compiler, and a `Gpu` that launches by it."""

import ctypes
import hashlib
import os
import subprocess
from functools import cache
from pathlib import Path

import pytest

from stylegan2_ada.ops.native import toolchain
from stylegan2_ada.ops.native.build import SOURCES, cache_folder
from stylegan2_ada.ops.native.cuda_ops import Gpu
from stylegan2_ada.ops.native.cuda_plan import FinishArgs

HERE = Path(__file__).resolve().parent
FLAGS = ["-std=c++17", "-O1", "-g1", "-w", "-fPIC", "-shared", "-fno-strict-aliasing", f"-I{SOURCES}"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
SANITIZED = bool(os.environ.get("STYLEGAN_OPS_TEST_SANITIZE"))
PROCESSORS = 2  # of the GPU that is played; few, so that small tensors meet the ways of large ones


def compile_cpp(source: Path, *flags: str) -> Path:
    """A shared library of a C++ file of this folder, kept in the cache by what it is made of."""
    try:
        compiler = toolchain.compiler().command
    except toolchain.BuildError as error:
        pytest.skip(f"no C++ compiler: {error}")
    inputs = sorted(
        [*HERE.glob("cuda_*.h"), source, *(p for p in SOURCES.iterdir() if p.suffix in (".cu", ".cuh", ".h"))]
    )
    command = [*compiler, *FLAGS, *flags]
    h = hashlib.sha256(repr(command).encode())
    stem = f"test-{source.stem}-{h.hexdigest()[:8]}"
    for path in inputs:
        h.update(path.read_bytes())
    library = cache_folder() / f"{stem}-{h.hexdigest()[:16]}.so"
    if not library.exists():
        for old in set(cache_folder().glob(f"{stem}-*.so")) - {library}:  # another process may just have made that one
            old.unlink(missing_ok=True)
        part = library.with_suffix(f".{os.getpid()}")
        subprocess.run([*command, str(source), "-o", str(part)], check=True)
        os.replace(part, library)
    return library


@cache
def library(*flags: str, load: bool = True) -> ctypes.CDLL | None:
    path = compile_cpp(HERE / "cuda_emulation.cpp", *flags)
    return ctypes.CDLL(str(path)) if load else None


class Emulator:
    """Launches kernels, in ascending and descending order of the threads by turns, and counts them by name."""

    def __init__(self):
        self.launched: dict[str, int] = {}
        self.gpu = Gpu(PROCESSORS, self.launch)
        self._library = library(*(SANITIZERS if SANITIZED else []))

    def launch(self, source, dtype, what, args) -> None:
        name = "modconv_finish" if isinstance(args, FinishArgs) else source
        run = getattr(self._library, f"emulate_{name}")
        run.restype = ctypes.c_char_p
        run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_uint] * 4, ctypes.c_int]
        kernel = ctypes.cast(getattr(self._library, what.kernel), ctypes.c_void_p)
        assert what.kernel.startswith(source) and what.grid >= 1
        self.launched[what.kernel] = self.launched.get(what.kernel, 0) + 1
        descending = sum(self.launched.values()) % 2
        error = run(kernel, ctypes.addressof(args), what.grid, *what.block, descending)
        assert error is None, f"{what}: {error.decode()}"
