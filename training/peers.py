"""What a training asks of its fellow processes; alone, all of it is free."""

from __future__ import annotations

from collections.abc import Iterable

import torch


class Alone:
    """One process. A subclass for several overrides the three methods."""

    rank, size, is_main = 0, 1, True

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def average(self, params: Iterable[torch.nn.Parameter]) -> None:
        """Make every process's gradients the mean of all."""

    def told(self, value: float) -> float:
        """The main process's value, on all."""
        return value

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        return flag
