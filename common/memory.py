"""The memory of this process: a bound on it for a while, and what is free in it given back, where the system knows
how."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
from collections.abc import Iterator

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
