"""Memory: what the machine has left for a process, what a process has taken, and how freed blocks are kept."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path

import torch

from training.processes import Processes


def free_bytes(device: torch.device) -> int | None:
    """Memory free for a new process on `device`; None where it cannot be told."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    with suppress(OSError, ValueError):  # a container's limit, where there is one; "max" is no number
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        free = min(free, limit - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    return free


def own_share(processes: Processes) -> int | None:
    """Memory free for each of the processes, which share that of their machine; None where it cannot be told."""
    free = free_bytes(processes.device)
    if free is not None and processes.device.type != "cuda":
        free //= max(1, int(os.environ.get("LOCAL_WORLD_SIZE", processes.size)))
    return free


def peak_memory_gb(device: torch.device) -> float:
    """Peak memory in GB so far: the GPU's allocations, or this process's resident set; 0 where it cannot be told."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20


def keep_freed_memory() -> None:
    """Ask glibc to keep large freed blocks instead of returning them to the kernel after every tensor.

    On a CPU this saves the page faults of each new activation, some 8 % of a training step; elsewhere it does nothing.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
            libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
