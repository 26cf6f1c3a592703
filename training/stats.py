"""Running statistics of a tick: count, mean and spread of every reported quantity."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Stats:
    """Adds up reported values on their device; nothing is copied to the host before `collect`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.dtype = torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no float64
        self.moments: dict[str, Tensor] = {}

    def report(self, name: str, value: Tensor | float) -> None:
        """Count every element of `value` towards `name`; non-finite ones are counted apart, never averaged."""
        if not isinstance(value, Tensor):
            value = torch.full((), value, device=self.device)  # unlike torch.tensor, waits for no GPU
        x = value.detach().to(dtype=torch.float32, device=self.device).reshape(-1)
        ok = torch.isfinite(x)
        x = torch.where(ok, x, 0.0).to(self.dtype)
        new = torch.stack([ok.sum().to(self.dtype), x.sum(), x.square().sum(), (~ok).sum().to(self.dtype)])
        old = self.moments.get(name)
        self.moments[name] = new if old is None else old + new

    def collect(self, reduce=None) -> dict[str, dict]:
        """name -> {num, mean, std[, nonfinite]} since the last call; `reduce` sums a tensor over ranks in place."""
        if not self.moments:
            return {}
        names = sorted(self.moments)
        table = torch.stack([self.moments[n] for n in names])
        if reduce is not None:
            table = reduce(table)
        self.moments = {}
        rows = {}
        for name, (num, total, square, bad) in zip(names, table.cpu().tolist(), strict=True):
            mean = total / num if num else math.nan
            std = math.sqrt(max(square / num - mean * mean, 0.0)) if num else math.nan
            rows[name] = {"num": int(num), "mean": mean, "std": std}
            if bad:
                rows[name]["nonfinite"] = int(bad)
        return rows

    def state_dict(self) -> dict[str, Tensor]:
        return {name: m.cpu() for name, m in self.moments.items()}

    def add_state_dict(self, state: dict[str, Tensor]) -> None:
        """Count what `state_dict` of another process gave, too."""
        for name, moments in state.items():
            more = moments.to(dtype=self.dtype).to(self.device)
            self.moments[name] = self.moments[name] + more if name in self.moments else more

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.moments = {name: m.to(dtype=self.dtype).to(self.device) for name, m in state.items()}
