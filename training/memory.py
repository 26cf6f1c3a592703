"""Memory: what a step needs, what the machine has, and a batch split so that the one fits the other."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import sys
from pathlib import Path

import torch

from adversarial.config import GameConfig
from training.distributed import World

SAFE_SHARE = 0.7  # of the free memory that a step may claim
# Feature maps of one resolution that a training step keeps alive per image, in units of channels x height x width
# elements, at its worst moment (path length: generator forward, backward and its graph); fitted to peak memory
# measured at 32 and 64 pixels in both precisions, and rounded up; so is what libraries allocate at the first step.
MAPS_ALIVE = 28
FIRST_STEP = 300 << 20


def step_bytes(cfg: GameConfig) -> int:
    """Estimated peak bytes of one training step beyond the interpreter: activations of a micro-batch plus the weights,
    gradients, moments and averages of both networks."""
    g, d = cfg.generator, cfg.hybrid.trunk
    width = 4 if cfg.precision == "fp32" else 3
    maps = weights = 0
    res = cfg.resolution
    while res >= 4:
        c = g.channels(res)
        maps += c * res * res
        weights += 2 * 2 * 9 * c * c
        res //= 2
    weights += g.mapping_layers * g.w_dim**2 + d.channels(4) ** 2 * 16
    return int(FIRST_STEP + maps * MAPS_ALIVE * width * cfg.batch_gpu + weights * 4 * 6)


def free_bytes(device: torch.device) -> int | None:
    """Memory free for a new process on `device`; None where it cannot be told."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    try:  # a container's limit, where there is one
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        free = min(free, int(limit) - used) if limit != "max" else free
    except (OSError, ValueError):
        pass
    return free


def split_batch(cfg: GameConfig, world: World) -> GameConfig:
    """`cfg` with the largest micro-batch that should fit (gradients are then accumulated over several).

    The minibatch-std group stays whole, so a split changes no statistics; with as little as one group nothing is left
    to split and the configuration is returned as it is.
    """
    free = _own_share(world)
    if free is None:
        return cfg
    group = cfg.hybrid.trunk.mbstd_group_size
    size = cfg.batch_gpu
    while step_bytes(dataclasses.replace(cfg, batch_gpu=size)) > SAFE_SHARE * free:
        smaller = [n for n in range(1, size) if size % n == 0 and n % max(group, 1) == 0]
        if not smaller:
            break
        size = smaller[-1]
    return dataclasses.replace(cfg, batch_gpu=size)


def _own_share(world: World) -> int | None:
    free = free_bytes(world.device)
    if free is not None and world.device.type != "cuda":  # the processes of one machine share its memory
        free //= max(1, int(os.environ.get("LOCAL_WORLD_SIZE", world.size)))
    return free


def memory_note(cfg: GameConfig, world: World) -> str | None:
    """A line where a step is expected to need more memory than there is; the system would end the run without one."""
    free, needed = _own_share(world), step_bytes(cfg)
    if free is None or needed <= free:
        return None
    return (
        f"memory      a step needs about {needed / 2**30:.1f} GB and {free / 2**30:.1f} GB are free: if the run is"
        " killed, lower --resolution, or --batch-gpu together with --mbstd-group, or choose a smaller --cfg"
    )


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
    if sys.platform != "linux":
        return
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
    except (OSError, AttributeError):
        return
