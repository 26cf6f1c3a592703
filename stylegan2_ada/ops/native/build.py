"""Compile the sources in csrc/ with ninja into shared libraries, once per machine, kept in a cache folder.

Two libraries are made, each when it is first wanted: "cpu" of the C++ sources (needs g++ or clang++), "cuda" of
`*.cu` and `cuda_*.cpp` (needs nvcc as well). Both use torch's stable ABI only.

A library lies in a folder of its own whose name is a hash of everything it depends on: sources, flags, torch, the
processor, and, after a dash, the compiler. It is built in a scratch folder that is renamed at the end, so a build that
is killed leaves nothing a later one could take for a library; a checksum beside the library tells damage on the disk.
Of several processes one builds and the others wait. Where no compiler is present (any more), a library built for the
same sources, torch and processor is used whoever compiled it.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from common.files import sha256_of

from . import toolchain
from .toolchain import BuildError

SOURCES = Path(__file__).resolve().parent / "csrc"
ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000"  # the stable ABI as of torch 2.10, which later ones keep
_TORCH = Path(torch.__file__).resolve().parent
_LIBRARY = "stylegan2_ada_ops.so"
_HISTORY = "history.json"
_STALE_S = 3600.0  # a scratch folder this old belongs to a build that was killed


@dataclass(frozen=True)
class Library:
    """A built library: where it lies, whether it was built just now, and in how many seconds it once was."""

    path: Path
    built_now: bool
    seconds: float


def sources(part: str) -> list[Path]:
    """The source files of a part, "cpu" or "cuda"."""
    cuda = sorted([*SOURCES.glob("*.cu"), *SOURCES.glob("cuda_*.cpp")])
    return cuda if part == "cuda" else sorted(set(SOURCES.glob("*.cpp")) - set(cuda))


@cache
def cache_folder() -> Path:
    """$STYLEGAN_OPS_CACHE, else TORCH_EXTENSIONS_DIR's or the user's cache folder; a temporary one if not writable."""
    if os.environ.get("STYLEGAN_OPS_CACHE"):
        root = Path(os.environ["STYLEGAN_OPS_CACHE"]).expanduser()
    elif os.environ.get("TORCH_EXTENSIONS_DIR"):
        root = Path(os.environ["TORCH_EXTENSIONS_DIR"]).expanduser() / "stylegan2_ada"
    elif os.environ.get("XDG_CACHE_HOME"):
        root = Path(os.environ["XDG_CACHE_HOME"]) / "stylegan2_ada_ops"
    else:
        caches = "Library/Caches" if sys.platform == "darwin" else ".cache"
        root = Path(os.path.expanduser("~")) / caches / "stylegan2_ada_ops"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            return root
    except OSError:
        # Not shared with anyone: a folder whose name others can guess could hold a library of theirs.
        return Path(tempfile.mkdtemp(prefix="stylegan2_ada_ops-"))


def build(part: str, *, damaged: bool = False) -> Library:
    """The library of a part, "cpu" or "cuda", compiled if there is none yet. Raises BuildError.

    damaged: the one in the cache could not be loaded; compile it anew.
    """
    root, common = cache_folder(), _common_key(part)
    try:
        own = f"{common}-{_compiler_key(part)}"
    except BuildError:
        for folder in () if damaged else sorted(root.glob(f"{common}-*")):
            library = _intact(folder)
            if library:
                return library
        raise
    folder = root / own
    library = None if damaged else _intact(folder)
    if library:
        return library
    with _lock(root / f"{own}.lock"):
        library = None if damaged else _intact(folder)
        return library or _compile(part, folder, reuse=not damaged)


def _common_key(part: str) -> str:
    h = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        if path in sources(part) or path.suffix in (".h", ".cuh"):
            h.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    system = (sys.platform, torch.__version__, ABI, toolchain.cpu_features())
    h.update(repr((part, *system, _architectures() if part == "cuda" else ())).encode())
    return f"{part}-{h.hexdigest()[:16]}"


def _compiler_key(part: str) -> str:
    cxx = toolchain.compiler()
    names = [cxx.flags, cxx.macros]
    if part == "cuda":
        nvcc = toolchain.nvcc()
        names += [nvcc.version, str(nvcc.home)]
    return hashlib.sha256(repr(names).encode()).hexdigest()[:12]


def _architectures() -> tuple[str, ...]:
    """Compute capabilities to compile for, like "9.0": of $TORCH_CUDA_ARCH_LIST, else of the GPUs that are here."""
    named = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(";", " ").split()
    if named:
        return tuple(named)
    found = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
    return tuple(f"{major}.{minor}" for major, minor in sorted(found)) or ("8.0", "9.0+PTX")


def _intact(folder: Path) -> Library | None:
    with suppress(OSError, ValueError, KeyError, TypeError):
        told = json.loads((folder / _HISTORY).read_text())
        library = folder / _LIBRARY
        if sha256_of(library) == told["sha256"]:
            return Library(library, False, float(told["seconds"]))
    return None


def _compile(part: str, folder: Path, *, reuse: bool = True) -> Library:
    root = folder.parent
    _tidy(root)
    scratch = Path(tempfile.mkdtemp(prefix=f"{folder.name}.tmp-", dir=root))
    try:
        (root / "objects").mkdir(exist_ok=True)
        start = time.perf_counter()
        log = _ninja(part, scratch, root / "objects", reuse)
        if log is not None and reuse:  # one of the objects may be damaged
            log = _ninja(part, scratch, root / "objects", reuse=False)
        seconds = time.perf_counter() - start
        if log is not None:
            kept_log = root / f"{folder.name}.log"
            kept_log.write_text(log)
            raise BuildError(f"compiling the {part} ops failed ({_first_error(log)}); all of it is in {kept_log}")
        kept = scratch / "kept"  # the library alone is worth keeping
        kept.mkdir()
        os.replace(scratch / _LIBRARY, kept / _LIBRARY)
        history = {
            "sha256": sha256_of(kept / _LIBRARY),
            "seconds": round(seconds, 2),
            "compiler": toolchain.compiler().version,
        }
        (kept / _HISTORY).write_text(json.dumps(history) + "\n")
        if folder.exists():  # damaged; moved, not deleted, because another process may have it loaded
            os.replace(folder, scratch / "damaged")
        os.replace(kept, folder)
        return Library(folder / _LIBRARY, True, seconds)
    except OSError as error:
        raise BuildError(f"cannot write to {root} ({error}): set STYLEGAN_OPS_CACHE to another folder") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _tidy(root: Path) -> None:
    """Delete what killed builds left, and objects nobody has wanted for long."""
    for pattern, age in (("*.tmp-*", _STALE_S), ("objects/*", 100 * 24 * _STALE_S)):
        for old in root.glob(pattern):
            with suppress(OSError):  # another process was quicker
                if time.time() - old.stat().st_mtime > age:
                    shutil.rmtree(old) if old.is_dir() else old.unlink()


def _ninja(part: str, scratch: Path, objects: Path, reuse: bool) -> str | None:
    """Run ninja; None if that made the library, else what it printed."""
    (scratch / "build.ninja").write_text(_ninja_file(part, objects, reuse))
    jobs = min(len(sources(part)), os.cpu_count() or 1)
    done = subprocess.run(
        [toolchain.ninja(), "-C", str(scratch), "-j", str(jobs)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "LC_ALL": "C", "NINJA_STATUS": ""},
    )
    return None if done.returncode == 0 else done.stdout + done.stderr


def _ninja_file(part: str, objects: Path, reuse: bool) -> str:
    """Objects are kept too, under a hash of what they are made of: a changed file does not recompile the others.

    They are compiled in the scratch folder and moved when done, so none is ever seen half written."""
    cxx = toolchain.compiler()
    flags = [*cxx.flags, ABI, f"-I{_TORCH / 'include'}"]
    link = ["-shared", f"-L{_TORCH / 'lib'}", "-ltorch_cpu"]
    if sys.platform == "darwin":
        link += ["-undefined", "dynamic_lookup"]
    rules = {}
    if part == "cuda":
        nvcc = toolchain.nvcc()
        flags += ["-DUSE_CUDA", f"-I{nvcc.home / 'include'}"]
        targets = [f"-gencode=arch=compute_{n},code={c}_{n}" for n, c in _gencode()]
        host = ["-ccbin", cxx.command[0], "-Xcompiler", "-fPIC,-fvisibility=hidden"]
        rules["nvcc"] = [nvcc.command, "-O3", "-std=c++17", *targets, *host]
        link += ["-ltorch_cuda", f"-L{nvcc.home / 'lib64'}", f"-L{nvcc.home / 'lib'}", "-lcudart"]
    rules["cxx"] = [*cxx.command, *flags]
    compile_ = "-c $in -o $part && mv $part $out"
    lines = [f"rule {name}\n  command = {_shell(command)} {compile_}" for name, command in rules.items()]
    lines.append(f"rule link\n  command = {_shell([*cxx.command, '$in', '-o', '$out', *link])}")
    headers = b"".join(p.read_bytes() for p in sorted(SOURCES.iterdir()) if p.suffix in (".h", ".cuh"))
    outputs = []
    for source in sources(part):
        rule = "nvcc" if source.suffix == ".cu" else "cxx"
        identity = repr((rules[rule], torch.__version__, _compiler_key(part)))
        key = hashlib.sha256(headers + source.read_bytes() + identity.encode()).hexdigest()[:24]
        output = objects / f"{source.stem}-{key}.o"
        outputs.append(_escape(output))
        if not (reuse and output.exists() and output.stat().st_size > 0):  # a crash of the machine can leave it empty
            output.unlink(missing_ok=True)
            lines.append(f"build {outputs[-1]}: {rule} {_escape(source)}\n  part = {output.name}")
    lines.append(f"build {_LIBRARY}: link {' '.join(outputs)}\ndefault {_LIBRARY}")
    return "\n".join(lines) + "\n"


def _gencode() -> list[tuple[str, str]]:
    targets = []
    for name in _architectures():
        number = name.removesuffix("+PTX").replace(".", "")
        targets.append((number, "sm"))
        if name.endswith("+PTX"):
            targets.append((number, "compute"))
    return targets


def _shell(command: list[str]) -> str:
    return " ".join(a if a.startswith("$") else "'" + a.replace("$", "$$").replace("'", "'\\''") + "'" for a in command)


def _escape(path: Path) -> str:
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def _first_error(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if not line.startswith("ninja: Entering")]
    found = next((line for line in lines if re.search(r"\berror\b ?:", line, re.IGNORECASE)), None)
    return (found or (lines[-1] if lines else "no message"))[:300]


@contextmanager
def _lock(path: Path):
    """One process at a time. The system drops the lock of a process that dies; where a file system has no locks,
    two processes may build the same library, which costs time but does no harm."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with path.open("w") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
