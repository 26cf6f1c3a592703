"""Fitting what joins the two views of a photo, on scores of validation photos that neither network was taught with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from common.errors import UserError
from discriminator.calibration import fit_temperature, threshold_at_fpr
from discriminator.ensemble_fit import as_given, fit_weights
from discriminator.join import JOINS, Join
from discriminator.two_views import joined

FPR = 0.01  # at which «either» compares the views
APART = 0.995  # of the rightly judged validation photos lie closer in each direction
SURE = 0.001  # of a class at most reaches a score at which the other class's answer stands
MOST_REPEATS = 20


def joint(join: Join, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(log-odds float64 [n, 2], joint scores [n]) of raw logits [n, 2], NaN where there are no pixels; rounded as the
    network gives them, for a bound lies at one of them."""
    face, pixels = torch.from_numpy(np.array(logits, np.float64)).unbind(1)
    z, score = joined(join, face, pixels.nan_to_num(), ~pixels.isnan())
    return as_given(z.numpy()), as_given(score.numpy())


def fit_join(method: str, logits: np.ndarray, labels: np.ndarray, sets: np.ndarray | None = None) -> Join:
    """The join of raw logits float64 [n, 2] of face and pixels (NaN: the photo has too few) with labels [n] of 0 and 1.

    Each view is calibrated by itself (Platt's method, classes weighing the same); "weighted" is the logistic regression
    with weights >= 0 on the photos that have pixels; "either" compares the views from the log-odds on that FPR of the
    reals reach. sets [n]: from which set a photo comes; in the fits each set weighs about the same, or a few files as
    cameras and generators write them would be lost among thousands of small ones. UserError where a class is missing.
    """
    if method not in JOINS:
        raise UserError(f"`join` {method}: give one of {', '.join(JOINS)}")
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    there = np.isfinite(logits[:, 1])
    for label, name in ((0, "real"), (1, "fake")):
        if not (labels[there] == label).any():
            raise UserError(
                f"no {name} validation photo is large enough for a crop of its own pixels; give `data` with"
            )
    rows = _balanced(np.arange(len(labels)) if sets is None else np.asarray(sets), there)
    own, y = logits[rows], labels[rows]
    some = there[rows]
    face = fit_temperature(own[:, 0], y, balanced=True)
    pixels = fit_temperature(own[some, 1], y[some], balanced=True)
    join = Join(method, (face[0], pixels[0]), (face[1], pixels[1]))
    if method == "weighted":
        z = joint(join, own[some])[0]
        weights = fit_weights(z, y[some])
        temperature, offset = fit_temperature(z @ weights, y[some], balanced=True)
        w = weights / temperature
        join = replace(join, weights=(float(w[0]), float(w[1])), offset=offset)
    else:
        z = joint(join, logits)[0]
        reals = labels == 0
        at = [threshold_at_fpr(z[reals & np.isfinite(z[:, k]), k], FPR) for k in (0, 1)]
        join = replace(join, thresholds=(at[0], at[1]))
    return _with_bounds(join, logits, labels)


def _balanced(sets: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Rows, those of small sets several times, so that every set that has pixels weighs about the same."""
    names, inverse, counts = np.unique(sets, return_inverse=True, return_counts=True)
    if len(names) == len(sets):  # no sets were given
        return np.arange(len(sets))
    repeats = np.clip(np.rint(counts.max() / counts), 1, MOST_REPEATS).astype(int)
    return np.repeat(np.arange(len(sets)), repeats[inverse])


def _with_bounds(join: Join, logits: np.ndarray, labels: np.ndarray) -> Join:
    """The join with what counts as a contradiction: APART of the photos judged rightly at equal odds lie closer, and of
    all photos no more than the rest of that lie further apart."""
    z, score = joint(join, logits)
    there = np.isfinite(z[:, 1])
    reals, fakes = score[labels == 0], score[labels == 1]
    sure = (-threshold_at_fpr(-fakes, SURE), threshold_at_fpr(reals, SURE))
    temperature, bias = fit_temperature(score, labels, balanced=True)
    right = ((score / temperature + bias >= 0) == (labels == 1))[there]
    gap = (z[:, 0] - z[:, 1])[there]
    apart = [max(_quantile(side[right]), _quantile(side), 0.0) for side in (gap, -gap)]
    return replace(join, apart=(apart[0], apart[1]), sure=(float(sure[0]), float(sure[1])))


def _quantile(values: np.ndarray) -> float:
    return float(np.quantile(values, APART, method="higher")) if len(values) else 0.0


def contradictions(join: Join, logits: np.ndarray) -> np.ndarray:
    """bool [n]: which photos the join would not decide on."""
    z, score = joint(join, logits)
    return np.array([bool(join.contradiction(float(f), float(p), float(s))) for (f, p), s in zip(z, score)])
