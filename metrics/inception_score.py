"""Inception Score (Salimans et al. 2016, arXiv:1606.03498, section 4): a number about one set alone."""

from __future__ import annotations

import itertools

import numpy as np

from common.errors import UserError

SPLITS = 10


def inception_score(
    features: np.ndarray, classifier: np.ndarray, *, splits: int = SPLITS, seed: int | None = 0
) -> tuple[float, float]:
    """exp(E KL(p(y|x) || p(y))) as (mean, standard deviation) over `splits` parts of the set.

    features: [n, 2048]. classifier: [1008, 2048]; class scores are features @ classifier.T, without bias, as published
    scores are. seed: shuffles the images first, because files lie in an order; None leaves theirs. UserError for fewer
    than two images a part.
    """
    if len(features) < 2 * splits:
        raise UserError(f"the Inception Score cuts the images into {splits} parts of two or more, got {len(features)}")
    order = np.arange(len(features))
    if seed is not None:
        order = np.random.default_rng([seed, 3]).permutation(order)
    scores = []
    for start, stop in itertools.pairwise(len(order) * i // splits for i in range(splits + 1)):  # as published ones
        part = order[start:stop]
        logits = np.asarray(features[part] @ classifier.T, np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        p = np.exp(log_p)
        log_mean = np.log(np.maximum(p.mean(axis=0), np.finfo(np.float64).tiny))
        scores.append(np.exp((p * (log_p - log_mean)).sum(axis=1).mean()))
    return float(np.mean(scores)), float(np.std(scores))
