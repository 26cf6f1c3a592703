"""Verdicts on photos of faces from Python: `ganface.judge("photo.jpg")`, as `detect.py` and `ganface detect` give them.

In the installed package all rooms lie inside of this one; in a checkout they lie beside it (docs/install.md).
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

__all__ = ["Answer", "Judgement", "judge"]  # of reports/library.py

_HERE = Path(__file__).resolve().parent
_ROOMS = f"{__name__}." if (_HERE / "common").is_dir() else ""
if not _ROOMS and str(_HERE.parent) not in sys.path:
    sys.path.append(str(_HERE.parent))  # a checkout, used from elsewhere


def __getattr__(name: str) -> Any:
    """`judge` and its answers, imported when they are first asked for: numpy and OpenCV take a moment."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{_ROOMS}reports.library"), name)
