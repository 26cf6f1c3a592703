"""How well a few numbers tell real from fake: cross-validated AUC with an interval, by two classifiers.

One is linear (logistic regression), one bends (boosted trees of depth 3), because a leak may be neither monotone nor
smooth: «fakes are exactly 255 pixels wide» among photos of all widths. Images of one group (near duplicates) are never
on both sides of a fold, and count as one observation for the interval.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

FOLDS = 5
Z = 2.5758293035489004  # 99 % of a normal distribution lie within so many standard deviations
SHARED = 2.0**0.5  # of the standard error: see `cross_validated_auc`
SEED = 20


@dataclass(frozen=True)
class Auc:
    """Cross-validated AUC (fake above real), its 99 % interval, and what it rests on.

    `by` is the classifier that did better, "linear" or "trees"; `constant` says that the numbers were the same for all
    images, so nothing can be told from them; `beats_chance`: whether it is above .5 by more than chance explains (both
    by its own standard error and by the one it would have without any difference, at the 99 % interval's level).
    `auc` is NaN where a class has too few groups to be cross-validated."""

    auc: float
    low: float
    high: float
    real: int
    fake: int
    by: str = ""
    constant: bool = False
    beats_chance: bool = False

    @property
    def known(self) -> bool:
        return bool(np.isfinite(self.auc))


def cross_validated_auc(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None, *, seed: int = SEED
) -> Auc:
    """The better classifier's AUC on images that it was not fitted to.

    features [N, F] float, NaN where a number is missing; labels [N] 0 or 1; groups [N] of any integers, images of one
    group share a fold. The AUC is the mean over five folds (fewer where a class has fewer groups), weighted by pairs;
    averaging over folds, instead of pooling scores, keeps the fits' different offsets out of it.

    Folds are not independent: where nothing is to be learnt, fold A agrees with B as much as B with A, so each chance
    agreement counts twice and the variance is twice what the images alone would give (no unbiased estimate exists,
    Bengio & Grandvalet 2004). The interval is widened by sqrt(2), which is right without a leak and cautious with
    one."""
    features, labels = np.asarray(features, np.float64), np.asarray(labels, np.int64)
    groups = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    real, fake = int((labels == 0).sum()), int((labels == 1).sum())
    nothing = np.nan
    fewest = min((len(np.unique(groups[labels == label])) for label in (0, 1)), default=0)
    if fewest < 2:
        return Auc(nothing, nothing, nothing, real, fake)
    features = _informative(features)
    if not features.shape[1]:
        return Auc(0.5, 0.5, 0.5, real, fake, constant=True)
    folds = grouped_folds(labels, groups, min(FOLDS, fewest), seed)
    both = {name: _scores(name, features, labels, folds, seed) for name in ("linear", "trees")}
    found = {name: clustered_auc(labels, scores, folds, groups) for name, scores in both.items()}
    by = max(found, key=lambda name: np.nan_to_num(found[name][0]))
    auc, error = found[by][0], SHARED * found[by][1]
    of_chance = SHARED * np.sqrt((real + fake + 1) / (12 * real * fake))  # Mann & Whitney 1947, variance of U, no ties
    if fewest < 2 * FOLDS:  # a class with one group in a fold shows no spread there, and the interval would be a point
        error = max(error, of_chance)
    if not np.isfinite(auc):
        return Auc(nothing, nothing, nothing, real, fake)
    low, high = max(0.0, auc - Z * error), min(1.0, auc + Z * error)
    return Auc(float(auc), float(low), float(high), real, fake, by, False, bool(auc - 0.5 > Z * max(error, of_chance)))


def _informative(features: np.ndarray) -> np.ndarray:
    """Without missing numbers (they become the column's mean, and a column that says where they were) and without the
    columns that are the same for all images."""
    missing = np.isnan(features)
    filled = features.copy()
    for column, gaps in zip(filled.T, missing.T):
        if gaps.any():
            column[gaps] = column[~gaps].mean() if not gaps.all() else 0.0
    everything = np.concatenate([filled, missing.astype(np.float64)], axis=1)
    return everything[:, (everything != everything[0]).any(axis=0)]


def grouped_folds(labels: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Fold number of each image: groups whole, classes in even shares, as far as the groups allow."""
    labels, groups = np.asarray(labels), np.unique(groups, return_inverse=True)[1]
    rng = np.random.default_rng([seed, folds])
    count = int(groups.max()) + 1
    of_class = np.stack([np.bincount(groups[labels == label], minlength=count) for label in (0, 1)], 1)
    fold_of = np.full(count, -1)
    load = np.zeros((folds, 2))
    order = rng.permutation(count)
    sizes = of_class.sum(1)
    alone = sizes == 1
    for group in sorted(order[~alone[order]], key=lambda group: -sizes[group]):
        # where what it brings is scarcest; classes are weighed by their sizes, so that a rare one is spread as evenly
        fold = int(np.argmin(load @ (of_class[group] / of_class.sum(0).clip(1))))
        fold_of[group] = fold
        load[fold] += of_class[group]
    for label in (0, 1):  # images without relatives fill every fold to the same level
        mine = order[alone[order] & (of_class[order, label] == 1)]
        fold_of[mine] = _level(load[:, label], len(mine))
    return fold_of[groups]


def _level(load: np.ndarray, count: int) -> np.ndarray:
    """Fold numbers for `count` single images, always to the fold with the least so far."""
    slots = np.concatenate([np.stack([load[f] + np.arange(count), np.full(count, f)], 1) for f in range(len(load))])
    return slots[np.lexsort((slots[:, 1], slots[:, 0]))[:count], 1].astype(np.int64)


def _scores(name: str, features: np.ndarray, labels: np.ndarray, folds: np.ndarray, seed: int) -> np.ndarray:
    """Out-of-fold decision values [N]."""
    scores = np.zeros(len(labels))
    for fold in np.unique(folds):
        train, test = folds != fold, folds == fold
        if len(np.unique(labels[train])) < 2:
            continue  # all scores 0: no opinion
        model = _model(name, int(train.sum()), seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # columns constant in this fold; a fit stopped after its last step
            scores[test] = model.fit(features[train], labels[train]).decision_function(features[test])
    return scores


def _model(name: str, images: int, seed: int):
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if name == "linear":
        return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
    return HistGradientBoostingClassifier(
        max_iter=60, max_depth=3, learning_rate=0.1, min_samples_leaf=int(np.clip(images // 50, 3, 20)),
        early_stopping=False, random_state=seed,  # no class weights: they make it 30 times slower
    )  # fmt: skip


def clustered_auc(labels: np.ndarray, scores: np.ndarray, folds: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """Mean AUC over the folds, weighted by their pairs, and its standard error.

    DeLong, DeLong & Clarke-Pearson 1988 by placements, with the placements of a group's images summed first
    (Obuchowski 1997, clustered ROC data); for groups of one it is DeLong's. NaN without a pair in any fold."""
    total = weight = variance = 0.0
    for fold in np.unique(folds):
        inside = folds == fold
        fake = labels[inside] == 1
        value, group = scores[inside], groups[inside]
        n_fake, n_real = int(fake.sum()), int((~fake).sum())
        if not n_fake or not n_real:
            continue
        above = _share_below(value[fake], value[~fake])  # of each fake: reals below it
        under = 1 - _share_below(value[~fake], value[fake])  # of each real: fakes above it
        auc = above.mean()
        apart = np.zeros(len(value))
        apart[fake], apart[~fake] = (above - auc) / n_fake, (under - auc) / n_real
        by_group = np.bincount(np.unique(group, return_inverse=True)[1], apart)
        # n / (n - 1) of each class's variance; groups may mix classes, so one factor stands for both
        unbias = min(n_fake, n_real) / max(min(n_fake, n_real) - 1, 1)
        pairs = n_fake * n_real
        total, weight = total + pairs * auc, weight + pairs
        variance += pairs**2 * (by_group**2).sum() * unbias
    if not weight:
        return float("nan"), float("nan")
    return total / weight, float(np.sqrt(variance)) / weight


def _share_below(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Of each value: the share of `others` below it, equal ones counting half."""
    others = np.sort(others)
    left, right = np.searchsorted(others, values, "left"), np.searchsorted(others, values, "right")
    return (left + right) / (2 * len(others))
