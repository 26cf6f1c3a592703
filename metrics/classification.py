"""Judging a detector from labels and scores, with 95 % intervals. numpy only.

Labels are 0 (real) and 1 (fake); a score is P(fake) or anything that grows with it; an image counts as fake when its
score is at or above the threshold. Ties are one step of every curve, as in scikit-learn. What a set cannot tell is NaN,
never an exception and never 0: ROC-AUC without one of the classes, precision when nothing was called fake.

Every metric is computed from image weights, so the bootstrap runs many resamples at once: a resample is a row of counts
saying how often each image was drawn (`metrics.bootstrap`: stratified by class, whole groups, percentile intervals).
Shares of one class (recall, false alarms) have exact intervals instead, which are closed forms of the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from metrics.answers import called_fake, decided_by
from metrics.bootstrap import LEVEL, RESAMPLES, rate, varied
from metrics.bootstrap import resamples as _resamples
from metrics.few import ENOUGH, pair_interval

FPRS = (0.005, 0.01, 0.05)
"""False-alarm rates at which reports give the detection rate."""

BINS = 15  # of the calibration error
SWAPPED = 0.3  # the highest AUC at which labels can look swapped

ORACLES = ("eer", "best_balanced_accuracy", "tpr_at_fpr_")
"""Metrics (or their names' beginnings) that choose a threshold on the very images they judge: upper bounds."""


class Curve(NamedTuple):
    """ROC curve: ``fpr``, ``tpr`` and ``thresholds`` [T], from (0, 0) at threshold infinity to (1, 1)."""

    fpr: np.ndarray
    tpr: np.ndarray
    thresholds: np.ndarray


class PrCurve(NamedTuple):
    """``precision`` and ``recall`` [T] when everything at or above ``thresholds`` [T] (falling) is called fake."""

    precision: np.ndarray
    recall: np.ndarray
    thresholds: np.ndarray


class Confusion(NamedTuple):
    """Counts at a threshold: real kept, real called fake, fake missed, fake found."""

    tn: int
    fp: int
    fn: int
    tp: int


@dataclass(frozen=True)
class ReliabilityBins:
    """Per equal-width bin of P(fake): ``edges`` [bins + 1], ``mean`` predicted, ``observed`` share of fakes, ``count``.

    Empty bins are NaN.
    """

    edges: np.ndarray
    mean: np.ndarray
    observed: np.ndarray
    count: np.ndarray


def roc_curve(labels, scores) -> Curve:
    """The ROC curve with every distinct score as a point; a rate whose class is absent is NaN."""
    ranked = _Ranked(*_check(labels, scores))
    tps, fps = ranked.counts(ranked.ones())
    return Curve(_ratio(fps[0], fps[0, -1]), _ratio(tps[0], tps[0, -1]), ranked.thresholds)


def pr_curve(labels, scores) -> PrCurve:
    """Precision over recall with every distinct score as a point, thresholds falling (recall rising)."""
    ranked = _Ranked(*_check(labels, scores))
    tps, fps = (counts[0, 1:] for counts in ranked.counts(ranked.ones()))
    return PrCurve(_ratio(tps, tps + fps), _ratio(tps, tps[-1]), ranked.thresholds[1:])


def roc_auc(labels, scores) -> float:
    """Area under the ROC curve: the chance that a fake scores above a real, ties counting half."""
    return _one(_Ranked(*_check(labels, scores)), _roc_auc)


def looks_swapped(auc: float, n_real: int, n_fake: int) -> bool:
    """Whether an AUC is so far below .5 that the labels are likelier the wrong way round than the detector: at most
    SWAPPED, and 2.5 standard errors of chance (Mann-Whitney's, sqrt((n + m + 1) / 12 n m)) below .5."""
    if not (n_real and n_fake and np.isfinite(auc)):
        return False
    error = np.sqrt((n_real + n_fake + 1) / (12 * n_real * n_fake))
    return bool(auc <= SWAPPED and auc < 0.5 - 2.5 * error)


def swapped_note(auc: float, n_real: int, n_fake: int, of: str = "") -> str | None:
    """A line about labels that look swapped; None where they don't. of: what was judged."""
    if not looks_swapped(auc, n_real, n_fake):
        return None
    return (
        f"the labels look swapped{of and f' in {of}'}: an AUC of {auc:.3f} is far below .5, so what is called real"
        " scores as fake; check them (`labels` real=A,fake=B says of folders and lists which is which)"
    )


def pr_auc(labels, scores) -> float:
    """Average precision: the sum of precision x recall step (not the trapezium, which flatters)."""
    return _one(_Ranked(*_check(labels, scores)), _pr_auc)


def tpr_at_fpr(labels, scores, fpr: float) -> float:
    """The best detection rate of any threshold with a false-alarm rate of at most ``fpr`` on these very images.

    An oracle: it chooses its threshold on the test set, so it is an upper bound of what a shipped threshold gives.
    """
    return _one(_Ranked(*_check(labels, scores)), lambda tps, fps: _tpr_at_fpr(tps, fps, fpr))


def best_threshold(labels, scores, undecided: np.ndarray | bool = False) -> tuple[float, float]:
    """(balanced accuracy, threshold) of the threshold that suits these very images best: an oracle, an upper bound.

    undecided: as `report` has it. Infinity as threshold calls nothing fake. NaN for both with one class only.
    """
    fake, scores = _check(labels, scores)
    ranked = _Ranked(fake, decided_by(scores, undecided))
    tps, fps = ranked.counts(ranked.ones())
    value = float(_best_balanced(tps, fps)[0])
    if np.isnan(value):
        return value, value
    return value, float(ranked.thresholds[np.argmax(tps[0] / tps[0, -1] - fps[0] / fps[0, -1])])


def confusion(labels, scores, threshold: float = 0.5) -> Confusion:
    """Counts at ``threshold`` (score >= threshold is called fake)."""
    fake, scores = _check(labels, scores)
    called = scores >= threshold
    return Confusion(*(int(np.sum(c)) for c in (~fake & ~called, ~fake & called, fake & ~called, fake & called)))


def ece(labels, probabilities, bins: int = BINS) -> float:
    """Expected calibration error of P(fake): mean |predicted - observed| over equal-width bins, weighted by count."""
    found = reliability_bins(labels, probabilities, bins)
    gap = np.abs(found.mean - found.observed)
    return float(np.nansum(gap * found.count) / found.count.sum())


def reliability_bins(labels, probabilities, bins: int = 15) -> ReliabilityBins:
    """The reliability diagram: bins [k / bins, (k + 1) / bins), the last one closed."""
    fake, p = _check(labels, probabilities, probability=True)
    index = _bin_index(p, bins)
    count = np.bincount(index, minlength=bins)
    mean = _ratio(np.bincount(index, p, minlength=bins), count)
    observed = _ratio(np.bincount(index, fake.astype(np.float64), minlength=bins), count)
    return ReliabilityBins(np.linspace(0, 1, bins + 1), mean, observed, count)


def report(
    labels,
    probabilities,
    *,
    threshold: float = 0.5,
    undecided: np.ndarray | bool = False,
    fprs: tuple[float, ...] = FPRS,
    resamples: int = RESAMPLES,
    seed: int = 0,
    groups=None,
    calibrated: bool = True,
) -> dict:
    """Every metric with its interval, ready for JSON.

    probabilities: [N] of P(fake) in [0, 1]; where not `calibrated` any scores that grow with it, and then Brier score,
    log loss and calibration error are NaN. threshold: the shipped one; all calls are made with it, and only those of
    `ORACLES` choose one on these images. undecided: bool [N], what is not called fake whatever its score, nor at a
    threshold that is chosen here. fprs: for ``tpr_at_fpr_*``. resamples: 0 leaves the intervals out (NaN).
    groups: [N], images with the same value are one observation (near duplicates, one person).

    {"n_real", "n_fake", "groups", "threshold", "level", "resamples", "seed", "confusion": {tn, fp, fn, tp},
    "metrics": {name: {"value", "low", "high"}}}; undefined values are NaN, and so are the bounds of what came out the
    same in every resample; an AUC of 1, and AUC and balanced accuracy of fewer than `metrics.few.ENOUGH` images of a
    class, have those of `metrics.few.pair_interval`. "groups": how many, None without.

    UserError for empty, unequal or NaN input, labels other than 0 and 1, probabilities outside [0, 1].
    """
    fake, p = _check(labels, probabilities, probability=calibrated)
    ranked, called = _Ranked(fake, p), called_fake(p, threshold, undecided)
    chosen = _Ranked(fake, decided_by(p, undecided)) if np.any(undecided) else ranked
    bins, sorted_calls = BINS if calibrated else 0, called[ranked.order]
    values = {name: v[0] for name, v in _everything(ranked, chosen, ranked.ones(), sorted_calls, fprs, bins).items()}
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in values}
    sorted_groups = None if groups is None else np.asarray(groups)[ranked.order]
    for weights in _resamples(ranked.fake, sorted_groups, resamples, seed):
        for name, found in _everything(ranked, chosen, weights, sorted_calls, fprs, bins).items():
            drawn[name].append(found)
    metrics = {}
    for name, value in values.items():
        low, high = varied(np.concatenate(drawn[name]) if drawn[name] else np.empty(0))
        metrics[name] = {"value": float(value), "low": low, "high": high}
    if resamples:
        _exact_intervals(metrics, fake, called, groups)
    return {
        "n_real": int(np.sum(~fake)),
        "n_fake": int(np.sum(fake)),
        "groups": None if groups is None else len(np.unique(np.asarray(groups))),
        "threshold": float(threshold),
        "level": LEVEL,
        "resamples": resamples,
        "seed": seed,
        "confusion": confusion(labels, called)._asdict(),
        "metrics": metrics,
    }


def _exact_intervals(metrics: dict, fake: np.ndarray, called: np.ndarray, groups) -> None:
    """Replace the bootstrap's intervals of one class's shares, and those that came out without any width because
    nothing, or everything, was right."""

    def exact(hits: np.ndarray, among: np.ndarray | slice = slice(None)) -> tuple[float, float]:
        found = rate(hits[among], None if groups is None else np.asarray(groups)[among])
        return found.low, found.high

    kept, found = exact(~called, ~fake), exact(called, fake)
    new = {"recall_real": kept, "recall_fake": found, "false_alarm_rate": exact(called, ~fake)}
    mean = (kept[0] + found[0]) / 2, (kept[1] + found[1]) / 2
    of_all = {
        "accuracy": exact(called == fake),
        "balanced_accuracy": mean,
        "recall_macro": mean,
        "precision_fake": exact(fake, called),
        "precision_real": exact(~fake, ~called),
    }
    new |= {name: both for name, both in of_all.items() if metrics[name]["value"] in (0.0, 1.0)}
    few = min(fake.sum(), (~fake).sum()) < ENOUGH
    of = np.arange(len(fake)) if groups is None else np.asarray(groups)
    counts = [len(np.unique(of[fake == k])) for k in (0, 1)]
    for name in ("roc_auc", "balanced_accuracy", "recall_macro"):  # the last two are one number
        if few or (name == "roc_auc" and metrics[name]["value"] in (0.0, 1.0)):
            new[name] = pair_interval(metrics[name]["value"], *counts)
    for name, (low, high) in new.items():
        metrics[name] |= {"low": low, "high": high}


class _Ranked:
    """Images sorted by falling score; counts above each distinct score for any image weights."""

    def __init__(self, fake: np.ndarray, scores: np.ndarray):
        order = np.argsort(-scores, kind="stable")
        self.order, self.fake, self.scores = order, fake[order], scores[order]
        self.ends = np.r_[np.flatnonzero(self.scores[1:] != self.scores[:-1]), len(scores) - 1]
        self.thresholds = np.r_[np.inf, self.scores[self.ends]]

    def ones(self) -> np.ndarray:
        return np.ones((1, len(self.fake)), np.int32)

    def counts(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weights [B, N] -> fakes and reals at or above each threshold, [B, T] each, beginning with 0."""
        start = np.zeros((len(weights), 1), np.int64)
        tps = np.cumsum(weights * self.fake, axis=1, dtype=np.int64)[:, self.ends]
        both = np.cumsum(weights, axis=1, dtype=np.int64)[:, self.ends]
        return np.concatenate([start, tps], axis=1), np.concatenate([start, both - tps], axis=1)


def _everything(
    ranked: _Ranked, chosen: _Ranked, weights: np.ndarray, called: np.ndarray, fprs, bins: int
) -> dict[str, np.ndarray]:
    """All metrics of a report for weights [B, N]: name -> [B]. chosen: what `ORACLES` choose thresholds by. called:
    bool [N], as the weights in the ranked order. No bins: the scores are no probabilities."""
    tps, fps = ranked.counts(weights)
    tp, fp = (weights[:, called & side].sum(axis=1, dtype=np.int64) for side in (ranked.fake, ~ranked.fake))
    result = _threshold_metrics(fps[:, -1] - fp, fp, tps[:, -1] - tp, tp)
    result |= {"roc_auc": _roc_auc(tps, fps), "pr_auc": _pr_auc(tps, fps)}
    if chosen is not ranked:
        tps, fps = chosen.counts(weights[:, np.argsort(ranked.order)[chosen.order]])
    result |= {"eer": _eer(tps, fps)}
    result |= {f"tpr_at_fpr_{fpr:g}": _tpr_at_fpr(tps, fps, fpr) for fpr in fprs}
    result["best_balanced_accuracy"] = _best_balanced(tps, fps)
    if not bins:
        return result | {name: np.full(len(weights), np.nan) for name in ("brier", "log_loss", "ece")}
    fake, p, total = ranked.fake, ranked.scores, weights.sum(axis=1)
    member = np.zeros((len(p), bins))
    member[np.arange(len(p)), _bin_index(p, bins)] = p - fake
    eps = np.finfo(np.float64).eps
    given = np.clip(np.where(fake, p, 1 - p), eps, 1 - eps)  # to what came true
    return result | {
        "brier": weights @ ((p - fake) ** 2) / total,
        "log_loss": weights @ -np.log(given) / total,
        "ece": np.abs(weights @ member).sum(axis=1) / total,
    }


def _threshold_metrics(tn, fp, fn, tp) -> dict[str, np.ndarray]:
    tn, fp, fn, tp = (np.asarray(v, np.float64) for v in (tn, fp, fn, tp))
    precisions = _ratio(tn, tn + fn), _ratio(tp, tp + fp)
    recalls = _ratio(tn, tn + fp), _ratio(tp, tp + fn)
    f1s = _ratio(2 * tn, 2 * tn + fn + fp), _ratio(2 * tp, 2 * tp + fp + fn)
    result = {
        "accuracy": _ratio(tp + tn, tn + fp + fn + tp),
        "balanced_accuracy": (recalls[0] + recalls[1]) / 2,
        "false_alarm_rate": 1 - recalls[0],
    }
    for name, (real, fake) in (("precision", precisions), ("recall", recalls), ("f1", f1s)):
        result |= {f"{name}_fake": fake, f"{name}_real": real, f"{name}_macro": (real + fake) / 2}
    spread = np.sqrt((tp + fp) * (tn + fn)) * np.sqrt((tp + fn) * (tn + fp))
    both = (tp + fn > 0) & (tn + fp > 0)
    constant = both & (spread == 0)
    result["mcc"] = np.where(constant, 0.0, _ratio(tp * tn - fp * fn, np.where(both, spread, 0)))
    return result


def _roc_auc(tps, fps):
    twice = np.sum((fps[:, 1:] - fps[:, :-1]) * (tps[:, 1:] + tps[:, :-1]), axis=1)
    return _ratio(twice, 2 * tps[:, -1] * fps[:, -1])


def _pr_auc(tps, fps):
    at = _ratio(tps, tps + fps, empty=0.0)[:, 1:]  # points before the first drawn image add no recall
    return _ratio(np.sum(np.diff(tps, axis=1) * at, axis=1), tps[:, -1])


def _eer(tps, fps):
    fpr, fnr = _ratio(fps, fps[:, -1:]), 1 - _ratio(tps, tps[:, -1:])
    gap = fpr - fnr  # rises from -1 to 1
    after = np.argmax(gap >= 0, axis=1)
    row, before = np.arange(len(gap)), np.maximum(after - 1, 0)
    step = gap[row, after] - gap[row, before]
    part = _ratio(-gap[row, before], step)
    return fpr[row, before] + part * (fpr[row, after] - fpr[row, before])


def _tpr_at_fpr(tps, fps, fpr):
    # Both counts only rise along the curve, so the last point that is allowed is the best one.
    allowed = np.sum(fps <= fpr * fps[:, -1:] * (1 + 1e-12), axis=1) - 1
    found = _ratio(tps[np.arange(len(tps)), allowed], tps[:, -1])
    return np.where(fps[:, -1] > 0, found, np.nan)


def _best_balanced(tps, fps):
    return np.max(_ratio(tps, tps[:, -1:]) - _ratio(fps, fps[:, -1:]), axis=1) / 2 + 0.5


def _bin_index(p: np.ndarray, bins: int) -> np.ndarray:
    if bins < 1:
        raise UserError(f"a calibration error over {bins} bins has no meaning; give 1 or more")
    return np.minimum((p * bins).astype(np.int64), bins - 1)


def _ratio(top, bottom, empty: float = np.nan) -> np.ndarray:
    """top / bottom, ``empty`` where the bottom is 0."""
    top, bottom = np.broadcast_arrays(np.asarray(top, np.float64), np.asarray(bottom, np.float64))
    return np.divide(top, bottom, out=np.full(top.shape, empty), where=bottom != 0)


def _one(ranked: _Ranked, metric) -> float:
    return float(metric(*ranked.counts(ranked.ones()))[0])


def _check(labels, scores, *, probability: bool = False) -> tuple[np.ndarray, np.ndarray]:
    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise UserError(f"labels of shape {labels.shape} and scores of shape {scores.shape}; give one score per label")
    if not len(labels):
        raise UserError("there are no labels and scores to judge; give one image or more")
    if not np.isin(labels, (0, 1)).all():
        raise UserError(f"labels are 0 (real) and 1 (fake), got {labels[~np.isin(labels, (0, 1))][0]}")
    if np.isnan(scores).any():
        raise UserError(
            f"the score of image {int(np.argmax(np.isnan(scores)))} is NaN; leave that image out or repair it"
        )
    if probability and (scores.min() < 0 or scores.max() > 1):
        raise UserError(
            f"probabilities lie in [0, 1], got {scores.min():g} to {scores.max():g}; convert the scores first"
        )
    return labels.astype(bool), scores
