"""Stateless randomness: every draw of a training step follows from (seed, step, phase, micro-batch).

A run that is killed and resumed, or spread over another number of processes with the same micro-batch size, therefore
sees the same latents, noise, augmentations and data, without storing any generator state.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache

import numpy as np
import torch

PHASES = ("init", "Gmain", "Greg", "Dmain", "Dreg", "verdict", "replay", "finish", "calibrate", "test")


def derive(seed: int, step: int, phase: str, part: int = 0) -> int:
    """A 63-bit seed for one micro-batch of one phase of one step; distinct tuples give independent streams."""
    words = np.random.SeedSequence([seed, step, PHASES.index(phase), part]).generate_state(2, np.uint64)
    return int(words[0] >> np.uint64(1))


def seed_torch(seed: int, step: int, phase: str, part: int = 0) -> int:
    """Seed torch's default generators (CPU and accelerator) for one micro-batch and return the seed used."""
    value = derive(seed, step, phase, part)
    if _accelerated():
        torch.manual_seed(value)
    else:  # by itself it notes the whole call stack for accelerators that may come, a millisecond's work
        torch.random.default_generator.manual_seed(value)
    return value


@cache
def _accelerated() -> bool:
    return torch.accelerator.is_available()


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's default generators of the CPU and of `device`, of whatever kind, begin at `seed`; afterwards they are as
    they were before. Other devices' are left alone."""
    own = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices=own, device_type=device.type if own else "cuda"):
        torch.random.default_generator.manual_seed(seed)
        with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
            if own:
                getattr(torch, device.type).manual_seed(seed)
        yield
