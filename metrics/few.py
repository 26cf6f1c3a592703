"""Figures of few images: a number of fewer than ENOUGH of a class is not written without its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Callable

from common.words import counted
from metrics.bootstrap import LEVEL, binomial_interval

ENOUGH = 20  # images of a class from which on a figure stands by itself


def pair_interval(value: float, n_real: int, n_fake: int, level: float = LEVEL) -> tuple[float, float]:
    """An interval of an AUC, or of a balanced accuracy, that holds for any number of independent images.

    Both are means over all pairs of a real and a fake image of something between 0 and 1. Such a mean is one of means
    over m = min(n_real, n_fake) independent pairs, to which Chernoff's bound applies (Hoeffding 1963, section 5 with
    theorem 1): P(mean >= v) <= exp(-m KL(v || truth)). It is wider than need be, but never empty: an AUC of 1 from 3
    pairs says "above 0.29", where DeLong's variance and every bootstrap say that nothing is uncertain. NaN without
    one of the classes.
    """
    m = min(n_real, n_fake)
    if m < 1 or not math.isfinite(value):
        return math.nan, math.nan
    most = math.log(2 / (1 - level)) / m  # how far, in KL, the truth may lie from the value
    return _edge(value, 0.0, most), _edge(value, 1.0, most)


def _edge(value: float, end: float, most: float) -> float:
    """The number between `value` and `end` whose KL divergence from `value` is `most`, by bisection; `end` if none."""
    near, far = value, end
    if _divergence(value, far) <= most:
        return far
    for _ in range(60):
        middle = (near + far) / 2
        near, far = (middle, far) if _divergence(value, middle) <= most else (near, middle)
    return near


def _divergence(p: float, q: float) -> float:
    """KL divergence of a coin of `q` from one of `p`."""
    total = 0.0
    for a, b in ((p, q), (1 - p, 1 - q)):
        if a > 0:
            total += a * math.log(a / b) if b > 0 else math.inf
    return total


def exact_interval(k: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Clopper & Pearson's interval of k of n by their definition, for small n: the shares at which what was seen, or
    more of it, or less, has half of 1 - level. As `metrics.bootstrap.binomial_interval`, without scipy, which a verdict
    does not bring. Within 1e-9; [0, 1] without any image."""

    def at_least(p: float, least: int) -> float:
        return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(least, n + 1))

    def where(least: int, chance: float) -> float:
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if at_least(middle, least) < chance else (low, middle)
        return (low + high) / 2

    tail = (1 - level) / 2
    return 0.0 if k == 0 else where(k, tail), 1.0 if k == n else where(k + 1, 1 - tail)


def auc_text(value: float, n_real: int, n_fake: int, digits: int = 3) -> str:
    """ "0.987", or of few images "1.000 (0.29 to 1.00)"."""
    between = pair_interval(value, n_real, n_fake)
    return _text(value, f"{{:.{digits}f}}".format, between, "{:.2f}".format, min(n_real, n_fake))


def balanced_text(value: float, n_real: int, n_fake: int) -> str:
    """ "93.1 %", or of few images "100.0 % (29 to 100)"."""
    between = pair_interval(value, n_real, n_fake)
    return _text(value, _percent, between, _whole, min(n_real, n_fake))


def share_text(value: float, n: int) -> str:
    """The same of a share of `n` images, with its exact interval."""
    between = binomial_interval(value * n, n) if n else (math.nan, math.nan)
    return _text(value, _percent, between, _whole, n)


def counts_text(n_real: int, n_fake: int) -> str:
    """ " of only 3 real and 20 fake images: 95 % intervals in brackets" where they are few, else ""."""
    if min(n_real, n_fake) >= ENOUGH:
        return ""
    return f" (of only {n_real} real and {counted(n_fake, 'fake image')}; in brackets 95 % intervals)"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _whole(value: float) -> str:
    return f"{100 * value:.0f}"


def _text(
    value: float, form: Callable[[float], str], between: tuple[float, float], ends: Callable[[float], str], n: int
) -> str:
    if not math.isfinite(value):
        return "–"
    return form(value) if n >= ENOUGH else f"{form(value)} ({ends(between[0])} to {ends(between[1])})"
