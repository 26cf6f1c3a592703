"""What several folds say together: each fold's figures, their mean and spread, and the figures of all images pooled.

Folds of one data set are no independent experiments: any two of them were taught with mostly the same images. There is
no unbiased estimate of the variance (Bengio & Grandvalet 2004, "No unbiased estimator of the variance of k-fold
cross-validation"), and the plain t interval over folds is too narrow. `spread` gives it, because others print it, and
beside it the corrected one of Nadeau & Bengio 2003, "Inference for the generalization error" (for repeated folds
Bouckaert & Frank 2004): the variance s^2 / k becomes s^2 (1 / k + tested / taught).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from metrics.bootstrap import LEVEL, RESAMPLES
from metrics.classification import report

AT_THRESHOLD = (
    "accuracy", "balanced_accuracy", "false_alarm_rate", "precision_fake", "recall_fake", "f1_fake", "precision_real",
    "recall_real", "f1_real", "precision_macro", "recall_macro", "f1_macro", "mcc",
)  # fmt: skip
BY_RANK = ("roc_auc", "pr_auc", "eer", "tpr_at_fpr_0.01", "tpr_at_fpr_0.05", "best_balanced_accuracy", "brier", "ece")
HALF = "_at_half"  # at probability 0.5 instead of the shipped threshold, which is stricter: what most tables print
AT_HALF = tuple(
    f"{name}{HALF}"
    for name in ("accuracy", "balanced_accuracy", "precision_fake", "recall_fake", "f1_fake", "f1_macro")
)
ALL = (*AT_THRESHOLD, *AT_HALF, *BY_RANK)


def figures(labels, probabilities, called) -> dict:
    """{"n_real", "n_fake", "confusion": {tn, fp, fn, tp}, and every name of ALL: value}; NaN where undefined.

    labels [N] 0 real, 1 fake; probabilities [N] of fake; called [N] bool: FAKE was said, at whatever threshold."""
    found = pooled(labels, probabilities, called, resamples=0)
    values = {name: entry["value"] for name, entry in found["metrics"].items()}
    return {"n_real": found["n_real"], "n_fake": found["n_fake"], "confusion": found["confusion"], **values}


def pooled(labels, probabilities, called, *, groups=None, resamples: int = RESAMPLES, seed: int = 0) -> dict:
    """The same with 95 % intervals: {"n_real", "n_fake", "confusion", "metrics": {name: {"value", "low", "high"}}}.

    Calls may have been made at different thresholds (each fold's own), so the figures of AT_THRESHOLD rest on `called`
    and those of BY_RANK on the probabilities. groups [N]: drawn together by the bootstrap (near-duplicates; all scores
    of one image that several repeats tested)."""
    options = {"groups": groups, "resamples": resamples, "seed": seed}
    said = report(labels, np.asarray(called, np.float64), threshold=0.5, calibrated=False, **options)
    ranked = report(labels, probabilities, threshold=0.5, **options)
    metrics = {name: said["metrics"][name] for name in AT_THRESHOLD}
    metrics |= {name: ranked["metrics"][name.removesuffix(HALF)] for name in (*AT_HALF, *BY_RANK)}
    return {key: said[key] for key in ("n_real", "n_fake", "groups", "confusion")} | {"metrics": metrics}


def spread(
    values: Sequence[float], tested_to_taught: float, *, level: float = LEVEL, within: tuple[float, float] = (0.0, 1.0)
) -> dict:
    """Mean, standard deviation (n - 1) and intervals of one figure over folds, or over repeats x folds.

    {"mean", "sd", "n": how many were defined, "low", "high": the corrected t interval, "plain_low", "plain_high": the
    one as if folds were independent}. tested_to_taught: images held out for each one that taught or validated. within:
    what the figure can be; intervals end there. NaN where there are fewer than two values (mean: none)."""
    from scipy.special import stdtrit

    known = np.asarray([v for v in values if math.isfinite(v)], np.float64)
    n, nan = len(known), float("nan")
    if n < 2:
        mean = float(known[0]) if n else nan
        return {"mean": mean, "sd": nan, "n": n, **dict.fromkeys(("low", "high", "plain_low", "plain_high"), nan)}
    mean, sd = float(known.mean()), float(known.std(ddof=1))
    t = float(stdtrit(n - 1, (1 + level) / 2))
    wide, plain = t * sd * math.sqrt(1 / n + tested_to_taught), t * sd / math.sqrt(n)
    low, high = within
    return {
        "mean": mean, "sd": sd, "n": n, "low": max(low, mean - wide), "high": min(high, mean + wide),
        "plain_low": max(low, mean - plain), "plain_high": min(high, mean + plain),
    }  # fmt: skip


def spreads(rows: Sequence[dict], tested_to_taught: float) -> dict[str, dict]:
    """`spread` of every figure of ALL over the `figures` of the folds."""
    return {
        name: spread([row[name] for row in rows], tested_to_taught, within=(-1.0 if name == "mcc" else 0.0, 1.0))
        for name in ALL
    }
