"""Find the compilers of this machine, and say in one line what is missing where one is not there."""

import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path


class BuildError(RuntimeError):
    """Why a native library cannot be had, in one line that also says what to do."""


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler: its command, the flags it is used with, its version, and what identifies its output."""

    command: tuple[str, ...]
    flags: tuple[str, ...]
    version: str
    macros: str

    @property
    def instruction_sets(self) -> list[str]:
        """Vector extensions the code is compiled for, by the macros compilers define for them."""
        names = re.findall(
            r"#define __(AVX\w*?|SSE4_2|F16C|FMA|AMX\w*?|ARM_NEON|ARM_FEATURE_\w*?)(?:__)? 1\n", self.macros
        )
        return sorted(name.lower() for name in names)


# Comparisons that trap, the errno of math functions and, in gcc, jumps threaded through one another keep selects from
# becoming vector code, or make it poor.
_FLAGS = ("-O3", "-std=c++20", "-fPIC", "-fvisibility=hidden", "-w", "-fno-trapping-math", "-fno-math-errno")
_OPTIONAL = [
    [*select, *native] for native in (["-march=native"], ["-mcpu=native"], []) for select in (["-fno-thread-jumps"], [])
]


@cache
def compiler() -> Compiler:
    """The C++ compiler: $CXX, else c++, g++ or clang++. Raises BuildError where none works."""
    if sys.platform == "win32":
        raise BuildError("native CPU ops need g++ or clang++ on Linux or macOS; Windows uses the PyTorch ones")
    named = os.environ.get("CXX", "").split()
    candidates = [named] if named else [["c++"], ["g++"], ["clang++"]]
    failure = f"CXX={named[0]} is not a program" if named else "no C++ compiler (c++, g++, clang++) is on PATH"
    for command in candidates:
        if not shutil.which(command[0]):
            continue
        for optional in _OPTIONAL:  # the first that this compiler knows
            flags = (*_FLAGS, *optional)
            result = _run([*command, *flags, "-dM", "-E", "-x", "c++", os.devnull])
            if result is not None and result.returncode == 0:
                version = re.search(r'#define __VERSION__ "(.*)"', result.stdout)
                return Compiler(tuple(command), flags, version[1] if version else "unknown version", result.stdout)
        failure = f"{command[0]} does not compile C++20"
    raise BuildError(
        f"{failure}: install g++ 10 or newer, or clang++ 11 (Debian: apt install g++; macOS: xcode-select --install)"
    )


@cache
def ninja() -> str:
    """The ninja program: on PATH, else the one of the `ninja` package. Raises BuildError where there is none."""
    found = shutil.which("ninja")
    if found:
        return found
    try:
        import ninja as package
    except ImportError:
        raise BuildError("ninja is missing: pip install ninja") from None
    return str(Path(package.BIN_DIR) / "ninja")


@dataclass(frozen=True)
class Nvcc:
    """A CUDA compiler: its command, the toolkit's folder and version."""

    command: str
    home: Path
    version: str


@cache
def nvcc() -> Nvcc:
    """The CUDA compiler: of $CUDA_HOME or $CUDA_PATH, else on PATH, else in the usual folder.

    An `nvcc` on PATH may be a wrapper script, so the toolkit's folder is asked of the compiler itself, which prints it
    as TOP in a dry run. Raises BuildError where there is none, or none of the CUDA version of this torch.
    """
    import torch

    if torch.version.cuda is None:
        raise BuildError("this torch was built without CUDA: install a CUDA build of torch")
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    paths = [shutil.which(str(Path(home) / "bin" / "nvcc")) for home in homes]
    if not homes:
        paths += [shutil.which("nvcc"), shutil.which("/usr/local/cuda/bin/nvcc")]
    reason = f"no nvcc in {homes[0]}/bin" if homes else "no nvcc on PATH"
    for path in filter(None, paths):
        told = _run([path, "--version"])
        release = re.search(r"release (\d+)\.(\d+)", told.stdout if told else "")
        if not release:
            reason = f"{path} does not run"
            continue
        version = f"{release[1]}.{release[2]}"
        if release[1] != torch.version.cuda.split(".")[0]:
            reason = f"{path} is of CUDA {version} and torch of CUDA {torch.version.cuda}: the first number must agree"
            continue
        dry = _run([path, "--dryrun", "-x", "cu", "-c", os.devnull, "-o", os.devnull])
        top = re.search(r"^#\$ TOP=(.*)$", dry.stderr if dry else "", re.MULTILINE)
        home = Path(top[1].strip()) if top else Path(path).resolve().parent.parent
        if not (home / "include").is_dir():
            home = Path(path).resolve().parent.parent
        return Nvcc(path, home.resolve(), version)
    raise BuildError(f"{reason}; set CUDA_HOME to a toolkit of CUDA {torch.version.cuda.split('.')[0]}")


@cache
def cpu_features() -> str:
    """What tells this processor's instruction sets from another's, without a compiler."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        if sys.platform == "darwin":
            told = _run(["sysctl", "-n", "machdep.cpu.brand_string"])
            return f"{platform.machine()} {told.stdout.strip() if told else ''}"
        return f"{platform.machine()} {platform.processor()}"
    lines = re.findall(r"^(?:flags|Features|cpu family|model|CPU part|isa)\s*:.*$", text, re.MULTILINE)
    return "\n".join([platform.machine(), *sorted(set(lines))])


def _run(command: list[str]) -> subprocess.CompletedProcess | None:
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
