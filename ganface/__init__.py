"""Verdicts on photos of faces from Python: `ganface.judge("photo.jpg")`, as `detect.py` and `ganface detect` give them.

In the installed package all rooms lie inside of this one; in a checkout they lie beside it (docs/install.md).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reports.library import Answer, Judgement, judge

__all__ = ["Answer", "Judgement", "judge"]

_BESIDE = Path(__file__).resolve().parents[1]
if not Path(__file__).with_name("common").is_dir() and str(_BESIDE) not in sys.path:
    sys.path.append(str(_BESIDE))  # a checkout, used from elsewhere


def __getattr__(name: str) -> Any:
    """`judge` and its answers, imported when they are first asked for: numpy and OpenCV take a moment."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from reports import library

    return getattr(library, name)
