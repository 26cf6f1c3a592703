"""The memory of this process: a bound on it for a while, what is free in it given back, where the system knows how, and
one arena for all networks of ONNX Runtime."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxruntime import SessionOptions

_one = threading.RLock()  # a block may stand inside of another, which then is the tighter one


@contextlib.contextmanager
def at_most(more: int) -> Iterator[None]:
    """Inside, the process gets `more` bytes of address space beyond what it has, and whoever asks for more is refused
    (MemoryError, or what a library makes of it). It holds for all threads. Outside Linux it does nothing."""
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError, ValueError, IndexError):
        yield
        return
    with _one:
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = now + more if soft == resource.RLIM_INFINITY else min(soft, now + more)
        try:
            resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
        except (OSError, ValueError):
            wanted = soft
        try:
            yield
        finally:
            if wanted != soft:
                resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def give_back() -> None:
    """Give to the system what was freed and is kept by the C library for later: after large things that will not come
    again. Does nothing where that library is not glibc."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@functools.cache
def _arena() -> None:
    """Registers the memory that ONNX Runtime's sessions of this process share, once."""
    import onnxruntime

    where = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    as_asked = 1  # as much as is asked for; its own way is to ask for twice as much each time
    onnxruntime.create_and_register_allocator(where, onnxruntime.OrtArenaCfg(0, as_asked, -1, -1))


def share_arena(options: SessionOptions) -> None:
    """Has the ONNX Runtime session of these options take its memory from an arena that all such sessions share: what
    one network does not need any more serves the next."""
    _arena()
    options.add_session_config_entry("session.use_env_allocators", "1")
