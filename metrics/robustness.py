"""What a detector still says after photos were re-saved, resized or filtered: its rates at one fixed threshold.

Scores of the same images under many conditions go in, curves and the worst condition come out. No images and no network
are known here; the conditions and their names are those of `faces.degrade.grid`. Both classes are always degraded
alike, and both rates are always told: a detector that calls everything fake after JPEG finds all the fakes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from metrics.answers import called_fake
from metrics.bootstrap import LEVEL, RESAMPLES, Rate, Rated, interval, rate, resamples, varied
from metrics.classification import roc_auc
from metrics.few import ENOUGH, pair_interval
from metrics.scores import CLEAN, Scores
from metrics.significance import moved

# Families of the grid that vary one number, what that number is, and where the undegraded image stands on its axis.
FAMILIES = {
    "jpeg": ("JPEG quality", None),
    "webp": ("WebP quality", None),
    "resize": ("resized by", 1.0),
    "blur": ("blur, sigma in pixels", 0.0),
    "noise": ("noise, sigma in grey levels", 0.0),
}
_NAMED = re.compile(rf"({'|'.join(FAMILIES)})-([0-9.]+)(?:-([a-z]+))?")


@dataclass(frozen=True)
class Condition(Rated):
    """One degradation's outcome at the fixed threshold.

    name; family and level for those that vary a number (level NaN otherwise), kernel of a resize.
    tpr: share of fakes called FAKE. fpr: share of reals called FAKE. balanced: mean of tpr and 1 - fpr. change:
    balanced minus the clean images' (the same images, so compared in pairs). auc: NaN without both classes.
    """

    name: str
    family: str
    level: float
    kernel: str
    tpr: Rate
    fpr: Rate
    balanced: Rate
    change: Rate
    auc: float


def split_name(name: str) -> tuple[str, float, str]:
    """(family, level, kernel) of a condition's name: "resize-0.5-box" is ("resize", .5, "box"), "web" ("web", nan, "").

    Names that are not of the grid (another program's) are families of their own.
    """
    match = _NAMED.fullmatch(name)
    if match is None:
        return name, float("nan"), ""
    return match[1], float(match[2]), match[3] or ""


def measure(
    labels,
    scores: Mapping[str, np.ndarray],
    threshold: float,
    *,
    undecided: Mapping[str, np.ndarray] | None = None,
    groups=None,
    level: float = LEVEL,
    count: int = RESAMPLES,
    seed: int = 0,
) -> list[Condition]:
    """Every condition's rates, in the order of `scores`.

    labels: [N] of 0 and 1, of one class or both. scores: condition name -> [N], images in the same order; "clean" must
    be among them. threshold: fixed, chosen elsewhere. undecided: condition name -> bool [N], what is not called FAKE
    whatever its score (default: nothing). groups: [N], see `metrics.bootstrap.resamples`. count: of
    resamples; with 0 what needs them has no interval.
    """
    fake = np.asarray(labels).astype(bool)
    open_ = undecided or {}
    right = {name: called_fake(s, threshold, open_.get(name, False)) == fake for name, s in scores.items()}
    table = np.stack(list(right.values()), axis=1).astype(np.float64)  # [N, conditions]
    none = np.empty((0, table.shape[1]))
    drawn = np.concatenate([none, *(_balanced(w, fake, table) for w in resamples(fake, groups, count, seed))])
    value = _balanced(np.ones((1, len(fake)), np.int32), fake, table)[0]
    clean = list(scores).index(CLEAN)
    parts = {label: None if groups is None else np.asarray(groups)[fake == label] for label in (False, True)}
    first = right[CLEAN]
    alone = np.arange(len(fake)) if groups is None else np.asarray(groups)
    n_real, n_fake = (len(np.unique(alone[fake == k])) for k in (False, True))
    found = []
    for i, (name, hits) in enumerate(right.items()):
        tpr, fpr = rate(hits[fake], parts[True], level=level), rate(~hits[~fake], parts[False], level=level)
        low, high = interval(drawn[:, i], level)
        if min(fpr.n, tpr.n) < ENOUGH:
            low, high = pair_interval(float(value[i]), n_real, n_fake, level)
        elif value[i] in (0.0, 1.0):  # nothing to resample: the bounds of its two parts
            low, high = (tpr.low + 1 - fpr.high) / 2, (tpr.high + 1 - fpr.low) / 2
        balanced = Rate(float(value[i]), low, high, len(fake))
        low, high = varied(drawn[:, i] - drawn[:, clean], level)
        if i == clean and math.isfinite(value[i]):
            low = high = 0.0  # of itself
        elif len(drawn) and math.isnan(low):  # the bounds of its two parts
            parted = [moved(first[fake == k], hits[fake == k], parts[k], level=level) for k in (False, True)]
            low, high = (sum(part[end] for part in parted) / 2 for end in (1, 2))
        change = Rate(float(value[i] - value[clean]), low, high, len(fake))
        found.append(Condition(name, *split_name(name), tpr, fpr, balanced, change, roc_auc(fake, scores[name])))
    return found


def _balanced(weights: np.ndarray, fake: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Balanced accuracy [B, conditions] for image weights [B, N]; NaN without one of the classes."""
    weights = weights.astype(np.float64)  # whole matrices go through BLAS
    with np.errstate(invalid="ignore"):
        parts = [weights[:, c] @ right[c] / weights[:, c].sum(axis=1, keepdims=True) for c in (fake, ~fake)]
    return (parts[0] + parts[1]) / 2


def worst(conditions: Sequence[Condition]) -> Condition | None:
    """The degradation that costs most: the lowest balanced accuracy; with one class only its most wrong answers."""
    rest = [c for c in conditions if c.name != CLEAN]
    return min(rest, key=lambda c: np.nanmean([c.tpr.value, 1 - c.fpr.value]), default=None)


def curves(conditions: Sequence[Condition]) -> dict[str, dict[str, list[Condition]]]:
    """{family: {kernel: conditions by rising level}} of the families that vary a number; kernel "" where there is none.

    Clean images stand in a curve where its axis has a place for them: a resize by 1, a blur of 0.
    """
    found: dict[str, dict[str, list[Condition]]] = {}
    for condition in conditions:
        if condition.family in FAMILIES:
            found.setdefault(condition.family, {}).setdefault(condition.kernel, []).append(condition)
    clean = next((c for c in conditions if c.name == CLEAN), None)
    for family, lines in found.items():
        place = FAMILIES[family][1]
        for kernel, line in lines.items():
            if clean is not None and place is not None:
                line.append(replace(clean, family=family, level=place, kernel=kernel))
            line.sort(key=lambda c: c.level)
    return found


def by_condition(scores: Scores) -> tuple[dict[str, Scores], int]:
    """A table with degradations as ({condition: the images that are seen in every condition}, images left out).

    Rows of one image belong together by source and path. Conditions keep the order in which they appear, clean first.
    """
    names = [CLEAN, *(n for n in dict.fromkeys(scores.degradation) if n != CLEAN)]
    keys = list(zip(scores.source, scores.path))
    of: dict[str, dict[tuple[str, str], int]] = {name: {} for name in names}
    for i, (name, key) in enumerate(zip(scores.degradation, keys)):
        of[name][key] = i
    everywhere = [key for key in of[CLEAN] if all(key in of[name] for name in names)]
    at = {name: np.array([of[name][key] for key in everywhere], dtype=np.int64) for name in names}
    left_out = len(set(keys)) - len(everywhere)
    return {name: scores.select(index) for name, index in at.items()}, left_out
