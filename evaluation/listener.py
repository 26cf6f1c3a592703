"""Who hears how an evaluation goes: nobody, unless a command says otherwise. No library room prints by itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any


class SilentBar:
    """Stands where nobody watches a progress bar (tqdm's methods, as far as evaluations call them)."""

    n = 0

    def __init__(self, items: Iterable = (), **_: Any) -> None:
        self.items = items

    def __iter__(self) -> Iterator:
        return iter(self.items)

    def __enter__(self) -> SilentBar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, count: float) -> None:
        self.n += count

    def clear(self) -> None:
        pass

    close = clear


def nobody(*_: Any) -> None:
    """Takes a line, or a result, and does nothing."""


@dataclass(frozen=True)
class Listener:
    """tell(line): what is being done; a parameter is named in backticks, as in errors. warn(line): what went wrong.
    bar(items, total=…, title=…, unit=…): a progress bar like tqdm's. download(title): a context that gives a function
    of (bytes so far, bytes in all), or None."""

    tell: Callable[[str], None] = nobody
    warn: Callable[[str], None] = nobody
    bar: Callable[..., Any] = SilentBar
    download: Callable[[str], AbstractContextManager] = lambda title: contextlib.nullcontext()
