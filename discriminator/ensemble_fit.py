"""Fitting what joins an ensemble's members: weights, or a stack of principal components and a support vector machine.

Nothing here may see scores of images that a member was taught with: there its log-odds look better than they are, and
the joint answer would trust the member that memorised most. The callers give validation or out-of-fold scores.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from common.errors import UserError
from discriminator.calibration import Calibration, sigmoid
from discriminator.ensemble import LIMIT, Average, Head, Majority, Stack, Weighted

MOST_ROWS = 6000  # of a support vector machine's fit, whose time grows with their square
KEPT_VARIANCE = 0.99


def log_odds(probabilities: np.ndarray) -> np.ndarray:
    """float64 log(p / (1 - p)), kept within ± LIMIT."""
    p = np.asarray(probabilities, np.float64)
    with np.errstate(divide="ignore"):
        return np.clip(np.log(p) - np.log1p(-p), -LIMIT, LIMIT)


def joined_scores(head: Head, z: np.ndarray) -> np.ndarray:
    """The head's scores float64 [n] of log-odds [n, M], unrounded."""
    with torch.no_grad():
        return head(torch.from_numpy(np.ascontiguousarray(z, np.float64))).numpy()


def as_given(logits: np.ndarray) -> np.ndarray:
    """float64 logits of the precision in which networks give them. A threshold lies just above a score: of one that is
    rounded up later it would be the other side."""
    return np.asarray(logits, np.float64).astype(np.float32).astype(np.float64)


def exact_log_odds(probabilities: np.ndarray, calibration: Calibration) -> np.ndarray:
    """`log_odds` of a detector's probabilities, to the bit those of the logits that its network gave."""
    logits = as_given(calibration.logit(log_odds(probabilities)))
    return np.clip(logits / calibration.temperature + calibration.bias, -LIMIT, LIMIT)


def fit_head(method: str, z: np.ndarray, labels: np.ndarray, calibrations: list[Calibration]) -> Head:
    """The head of a method. z: calibrated log-odds [n, M]; labels [n] of 0 and 1; calibrations: the members' own, whose
    default thresholds vote. UserError where a class is missing."""
    if method == "average":
        return Average()
    if method == "majority":
        return Majority(thresholds=[c.at().threshold for c in calibrations])
    if len(np.unique(labels)) < 2:
        raise UserError("fitting an ensemble needs validation images of both classes; give `data` with both")
    if method == "weighted":
        return Weighted(weights=fit_weights(z, labels))
    return fit_stack(z, labels)


def cross_fitted(z: np.ndarray, labels: np.ndarray, folds: np.ndarray, fit: Callable[..., Head]) -> np.ndarray:
    """Scores [n] of each row by a head that was fitted without its fold. folds [n]: numbers; `fit(z, labels)`."""
    scores = np.empty(len(labels))
    for fold in np.unique(folds):
        out = folds == fold
        scores[out] = joined_scores(fit(z[~out], labels[~out]), z[out])
    return scores


def fit_weights(z: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Weights float64 [M] >= 0 of sum 1: the direction in which a logistic regression with non-negative coefficients
    and a free offset has the least loss on these log-odds, each class weighing half.

    The coefficients' sum says how sharp the joint log-odds are, which calibration finds anew. Where the classes don't
    overlap, Platt's (1999) targets keep the optimum finite. If no member says anything, all weigh the same."""
    z, y = np.asarray(z, np.float64), np.asarray(labels, np.float64)
    n1, n0 = y.sum(), (1 - y).sum()
    found = _coefficients(z, y, y)
    joint = z @ found
    if joint[y == 1].min() > joint[y == 0].max():
        found = _coefficients(z, y, np.where(y == 1, (n1 + 1) / (n1 + 2), 1 / (n0 + 2)))
    total = found.sum()
    return found / total if total > 1e-9 else np.full(z.shape[1], 1 / z.shape[1])


def _coefficients(z: np.ndarray, y: np.ndarray, target: np.ndarray) -> np.ndarray:
    """float64 [M] >= 0 (times a common scale) of the logistic regression of `target` on z, classes balanced."""
    from scipy.optimize import minimize

    weight = np.where(y == 1, 0.5 / y.sum(), 0.5 / (1 - y).sum())
    # Scaled alike, so that the steps suit members of any confidence.
    x = np.c_[z / max(float(z.std()), 1e-9), np.ones(len(z))]

    def loss(u: np.ndarray) -> tuple[float, np.ndarray]:
        s = x @ u
        value = float((weight * (np.logaddexp(0, s) - target * s)).sum())
        return value, x.T @ (weight * (sigmoid(s) - target))

    count = z.shape[1]
    # From 0: a member that says nothing has no gradient and stays there.
    bounds = [(0, 1e4)] * count + [(None, None)]
    options = {"maxiter": 2000, "ftol": 1e-15, "gtol": 1e-10}
    return minimize(loss, np.zeros(count + 1), jac=True, method="L-BFGS-B", bounds=bounds, options=options).x[:count]


def fit_stack(z: np.ndarray, labels: np.ndarray, seed: int = 0) -> Stack:
    """scikit-learn's StandardScaler, PCA (whitened, 99 % of the variance) and SVC (Gaussian kernel, gamma "scale", C 1,
    classes balanced), as tensors. Of many rows MOST_ROWS are drawn, each class its share."""
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    z, labels = np.asarray(z, np.float64), np.asarray(labels)
    if len(z) > MOST_ROWS:
        rng = np.random.default_rng(seed)
        rows = np.concatenate([
            rng.permutation(np.flatnonzero(labels == c))[: round(MOST_ROWS * np.mean(labels == c))] for c in (0, 1)
        ])  # fmt: skip
        z, labels = z[np.sort(rows)], labels[np.sort(rows)]
    scaler = StandardScaler().fit(z)
    flat = scaler.transform(z)
    if not flat.any():
        raise UserError("the members say the same of every image, so there is nothing to stack")
    pca = PCA(n_components=KEPT_VARIANCE, whiten=True, svd_solver="full").fit(flat)
    x = pca.transform(flat)
    gamma = 1 / (x.shape[1] * x.var())  # what scikit-learn calls "scale"
    svc = SVC(kernel="rbf", C=1.0, gamma=gamma, class_weight="balanced").fit(x, labels)
    return stack_of(scaler, pca, svc)


def stack_of(scaler, pca, svc) -> Stack:
    """Fitted StandardScaler, whitened PCA and two-class SVC (Gaussian kernel, gamma a number) as a `Stack` with the
    same decision function."""
    axes = pca.components_ / np.sqrt(pca.explained_variance_)[:, None]
    # transform(x) = (x - pca.mean_) axes^T; the mean of what a StandardScaler made is 0 but for rounding
    mean = scaler.mean_ + pca.mean_ * scaler.scale_
    return Stack(
        mean=mean, scale=scaler.scale_, axes=axes, vectors=svc.support_vectors_, dual=svc.dual_coef_[0],
        gamma=[svc.gamma], intercept=svc.intercept_[:1],
    )  # fmt: skip
