"""A sampled frame, what reading may cost, and when a frame's turn is: the same for videos and animations."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

MAX_PIXELS = 64 << 20  # of a frame


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One sampled frame: its number in the video (from 0), its time in seconds from the first one's, uint8 RGB
    [H, W, 3] as a player shows it. spent: seconds it took to get there from the sample before."""

    number: int
    seconds: float
    pixels: np.ndarray
    spent: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a video may cost. pixels: of a frame; side: the least that its sides may have; frames: how many are sampled
    at most; seconds: of work on it, or of decoding_alone, without what is done with its frames; threads: that decode.
    None: no bound (of threads: FFmpeg's choice)."""

    pixels: int = MAX_PIXELS
    side: int = 1
    frames: int | None = None
    seconds: float | None = None
    decoding_alone: bool = False
    threads: int | None = None

    @property
    def too_slow(self) -> str:
        return f"no frame could be decoded within {self.seconds:g} s, refused"


@dataclass
class Clock:
    """How long reading may go on."""

    seconds: float | None
    begin: float = field(default_factory=lambda: time.monotonic())

    @property
    def over(self) -> bool:
        return self.seconds is not None and time.monotonic() - self.begin > self.seconds

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """What is done meanwhile does not count."""
        begin = time.monotonic()
        yield
        self.begin += time.monotonic() - begin


class Reader(Protocol):
    """What reads one kind of file. `seconds`, `count` and `fps` are counted, not taken from a header.

    After `frames` is through: `broken`: frames that were left out; `early`: whether the file was cut short; `torn`:
    whether reading broke off; `holes`: bytes at which something is missing, behind which it went on; `stopped`: the
    seconds of video that were looked at before its time was over, None where it wasn't; `notes`: what else the reader
    of a verdict should know."""

    seconds: float
    count: int
    fps: float
    broken: int
    early: bool
    torn: bool
    holes: list[int]
    stopped: float | None
    notes: list[str]
    clock: Clock

    def frames(self, every: float) -> Iterator[Frame]: ...
    def close(self) -> None: ...


class Due:
    """When a frame is taken: the first, and then the first at or after each multiple of `every` seconds (0: all)."""

    def __init__(self, every: float):
        self.every, self._next = every, 0.0

    def now(self, seconds: float) -> bool:
        if seconds + 1e-6 < self._next:
            return False
        if self.every > 0:
            self._next = (np.floor((seconds + 1e-6) / self.every) + 1) * self.every
        return True
