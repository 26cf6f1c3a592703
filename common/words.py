"""Counts for people."""

from __future__ import annotations


def counted(n: float, one: str, several: str | None = None) -> str:
    """How many of what: `counted(1, "image")` is "1 image", of none or of more "0 images"; several: where it takes more
    than an s."""
    shown = f"{n:g}" if isinstance(n, float) else n
    return f"{shown} {one if n == 1 else several or one + 's'}"


def are(n: int) -> str:
    """What goes with a count: `f"{n} of 12 images {are(n)} grey"`."""
    return "is" if n == 1 else "are"


def none_of(n: int, one: str, does: str, first: str = "", of: str = "") -> str:
    """Why nothing is left: `none_of(3, "image", "can be used", "a.png: broken", "set")` is "none of the 3 images of set
    can be used; the first, a.png: broken"; where there is one, "the only image of set can't be used: a.png: broken"."""
    of = f" of {of}" if of else ""
    if n != 1:
        return f"none of the {counted(n, one)}{of} {does}" + (f"; the first, {first}" if first else "")
    does = f"can't{does[3:]}" if does.startswith("can ") else does.replace(" a ", " no ", 1)
    return f"the only {one}{of} {does}" + (f": {first}" if first else "")
