"""CUDA kernels without a CUDA toolkit: the text of csrc/*.cu compiled by NVRTC, which comes with PyTorch.

NVRTC is the compiler library of CUDA. PyTorch's CUDA wheels bring it along for their own use, so a machine that runs
PyTorch on a GPU can compile these kernels with no nvcc, no C++ compiler and no headers. It is called through its C
interface, which has been the same for all versions.

What is compiled, a cubin, is kept in the cache folder under a hash of everything it was made of.
"""

import ctypes
import hashlib
import os
import re
import sys
import sysconfig
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from common.files import written_whole

from .build import SOURCES, cache_folder
from .toolchain import BuildError

OPTIONS = ("--std=c++17",)
_INCLUDE = re.compile(r'^#include "([^"]+)"', re.MULTILINE)
_SUCCESS, _COMPILATION = 0, 6  # of nvrtcResult


def _candidates() -> list[str]:
    """Where NVRTC may be: what is loaded, PyTorch's wheels in their several layouts, a toolkit."""
    major = (torch.version.cuda or "").partition(".")[0]
    if sys.platform == "win32":
        folders = [Path(torch.__file__).parent / "lib", *_wheel_folders("bin"), *_toolkit_folders("bin")]
        return [str(p) for folder in folders for p in sorted(folder.glob("nvrtc64_*.dll"), reverse=True)]
    folders = [*_wheel_folders("lib"), Path(torch.__file__).parent / "lib", *_toolkit_folders("lib64", "lib")]
    found = [str(p) for folder in folders for p in sorted(folder.glob(f"libnvrtc*.so.{major}*"))]
    return [p for p in found if "builtins" not in p and ".alt" not in p] + [f"libnvrtc.so.{major}", "libnvrtc.so"]


def _wheel_folders(name: str) -> list[Path]:
    """nvidia/cu13/lib, nvidia/cuda_nvrtc/lib and the like, in all places that packages are installed in."""
    sites = {Path(torch.__file__).resolve().parents[1], Path(sysconfig.get_path("purelib"))}
    return [folder for site in sorted(sites) for folder in sorted(site.glob(f"nvidia/*/{name}"))]


def _toolkit_folders(*names: str) -> list[Path]:
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    return [Path(home) / name for home in homes if home for name in names]


@cache
def library() -> ctypes.CDLL:
    """NVRTC. Raises BuildError where there is none."""
    for path in _candidates():
        try:
            if os.path.isabs(path):
                for builtins in Path(path).parent.glob("*nvrtc-builtins[._]*[0-9]*"):
                    if ".alt" not in builtins.name:
                        ctypes.CDLL(str(builtins))  # NVRTC 13.0 does not find the one beside it by itself
            found = ctypes.CDLL(path)
            found.nvrtcGetErrorString.restype = ctypes.c_char_p
            return found
        except (OSError, AttributeError):
            continue
    raise BuildError(
        "NVRTC was not found: it belongs to PyTorch's CUDA wheels (package nvidia-cuda-nvrtc); install PyTorch with pip"
    )


def _check(result: int, what: str) -> None:
    if result != _SUCCESS:
        raise BuildError(f"NVRTC could not {what}: {library().nvrtcGetErrorString(result).decode()}")


@cache
def version() -> tuple[int, int]:
    """Of NVRTC, like (13, 2)."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), "tell its version")
    return major.value, minor.value


@cache
def architectures() -> tuple[int, ...]:
    """Those NVRTC compiles for, ascending; 90 is compute capability 9.0."""
    count = ctypes.c_int()
    _check(library().nvrtcGetNumSupportedArchs(ctypes.byref(count)), "list architectures")
    found = (ctypes.c_int * count.value)()
    _check(library().nvrtcGetSupportedArchs(found), "list architectures")
    return tuple(sorted(found))


def target(capability: tuple[int, int]) -> str:
    """What to compile for a GPU: its own machine code, or PTX for a GPU that is newer than NVRTC.

    Raises BuildError for a GPU that this NVRTC has no code for.
    """
    number = capability[0] * 10 + capability[1]
    known = architectures()
    if number in known:
        return f"sm_{number}"
    older = [a for a in known if a < number]
    if older:
        return f"compute_{older[-1]}"
    raise BuildError(
        f"NVRTC {'.'.join(map(str, version()))} has no code for GPUs of compute capability "
        f"{capability[0]}.{capability[1]}, only from "
        f"{known[0] // 10}.{known[0] % 10} on: install PyTorch for an older CUDA"
    )


@cache
def text(name: str) -> dict[str, str]:
    """A source file of csrc/ and the headers it includes, by name."""
    found: dict[str, str] = {}
    waiting = [name]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found[file] = (SOURCES / file).read_text(encoding="utf-8")
            waiting += _INCLUDE.findall(found[file])
    return found


class Compiled(NamedTuple):
    """Machine code (a cubin), or PTX for a compute_ target, and what the compiler said."""

    code: bytes
    log: str


def compile_text(name: str, target: str, dtype: int, options: tuple[str, ...] = OPTIONS) -> Compiled:
    """The kernels of csrc/<name>.cu for one number type (see csrc/device.cuh).

    Raises BuildError with the compiler's first complaint.
    """
    nvrtc, files = library(), dict(text(f"{name}.cu"))
    source = files.pop(f"{name}.cu")
    arguments = [f"--gpu-architecture={target}", f"-DSG_DTYPE={dtype}", *options]
    program = ctypes.c_void_p()
    headers = _strings(files.values()), _strings(files)
    _check(
        nvrtc.nvrtcCreateProgram(
            ctypes.byref(program), source.encode(), f"{name}.cu".encode(), len(files), *headers
        ),
        "take the source",
    )  # fmt: skip
    try:
        result = nvrtc.nvrtcCompileProgram(program, len(arguments), _strings(arguments))
        log = _read(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program).decode(errors="replace")
        if result == _COMPILATION:
            first = next((line for line in log.splitlines() if "error" in line), log.strip()[:300])
            raise BuildError(f"NVRTC does not compile {name}.cu for {target}: {first}")
        _check(result, f"compile {name}.cu for {target}")
        if target.startswith("compute"):
            return Compiled(_read(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, program), log)
        return Compiled(_read(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program), log)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _strings(values) -> ctypes.Array:
    encoded = [value.encode() for value in values]
    return (ctypes.c_char_p * len(encoded))(*encoded)


def _read(size, content, program) -> bytes:
    length = ctypes.c_size_t()
    _check(size(program, ctypes.byref(length)), "give its result")
    buffer = ctypes.create_string_buffer(length.value)
    _check(content(program, buffer), "give its result")
    return buffer.raw


def kernels(name: str, target: str, dtype: int) -> bytes:
    """`compile_text` through the cache on disk."""
    made_of = (sorted(text(f"{name}.cu").items()), target, dtype, OPTIONS, version())
    key = hashlib.sha256(repr(made_of).encode()).hexdigest()[:24]
    path = cache_folder() / f"nvrtc-{name}-{target}-{dtype}-{key}.bin"
    with suppress(OSError):
        content = path.read_bytes()
        if hashlib.sha256(content[32:]).digest() == content[:32]:
            return content[32:]
    code = compile_text(name, target, dtype).code
    with suppress(OSError), written_whole(path, durable=False, shared=True) as part:
        part.write_bytes(hashlib.sha256(code).digest() + code)  # a full disk costs a second at the next start, no more
    return code
