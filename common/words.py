"""Counts for people."""

from __future__ import annotations


def counted(n: float, one: str, several: str | None = None) -> str:
    """How many of what: `counted(1, "image")` is "1 image", of none or of more "0 images"; several: where it takes more
    than an s."""
    shown = f"{n:g}" if isinstance(n, float) else n
    return f"{shown} {one if n == 1 else several or one + 's'}"
