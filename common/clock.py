"""Durations for people."""

from __future__ import annotations


def clock(seconds: float) -> str:
    """A duration as `1d 02h`, `3h 20m`, `4m 05s` or `12.3s`."""
    s = int(seconds)
    if s >= 86400:
        return f"{s // 86400}d {s // 3600 % 24:02d}h"
    if s >= 3600:
        return f"{s // 3600}h {s // 60 % 60:02d}m"
    if s >= 60:
        return f"{s // 60}m {s % 60:02d}s"
    return f"{seconds:.1f}s"
