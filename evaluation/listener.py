"""Who hears how an evaluation goes: nobody, unless a command says otherwise. No library room prints by itself."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from common.cli import progress


def nobody(*_: Any) -> None:
    """Takes a line, or a result, and does nothing."""


@dataclass(frozen=True)
class Listener:
    """tell(line): what is being done; a parameter is named in backticks, as in errors. warn(line): what went wrong.
    bar(items, total=…, title=…, unit=…): a progress bar like tqdm's. download(title): a context that gives a function
    of (bytes so far, bytes in all), or None."""

    tell: Callable[[str], None] = nobody
    warn: Callable[[str], None] = nobody
    bar: Callable[..., Any] = functools.partial(progress, show=False)
    download: Callable[[str], AbstractContextManager] = lambda title: contextlib.nullcontext()
