"""How shares and their intervals are written, on the terminal and on pages."""

from __future__ import annotations

import math
from collections.abc import Mapping

from metrics.bootstrap import Rate

RATE = len("100.0 % (100.0 to 100.0)") + 1  # a column of `with_interval`


def percent(value: float, digits: int = 1) -> str:
    """ "93.1 %", or a dash for what can't be told."""
    return f"{100 * value:.{digits}f} %" if math.isfinite(value) else "–"


def with_interval(found: Rate | Mapping) -> str:
    """ "93.1 % (91.2 to 94.8)", of a rate or a metric's {"value", "low", "high"}."""
    value, low, high = found[:3] if isinstance(found, tuple) else (found[k] for k in ("value", "low", "high"))
    if not math.isfinite(value):
        return "–"
    between = f" ({100 * low:.1f} to {100 * high:.1f})" if math.isfinite(low) else ""
    return percent(value) + between


def points(change: Rate) -> str:
    """ "-1.2 points (-2.4 to +0.1)", of a difference of two shares."""
    return points_of(*change[:3])


def points_of(value: float, low: float, high: float) -> str:
    """The same of its three numbers; without an interval where there is none."""
    if not math.isfinite(value):
        return "–"
    return f"{100 * value:+.1f} points" + (f" ({100 * low:+.1f} to {100 * high:+.1f})" if math.isfinite(low) else "")


def counted(found: Rate) -> str:
    """ "5 of 500" """
    return f"{round(found.value * found.n)} of {found.n}"
