"""The Gaussian fitted to feature vectors, for tests that compare with it."""

from __future__ import annotations

import numpy as np

from metrics.stats import GaussianStats, StreamingStats


def stats_of(features: np.ndarray, meta: dict | None = None) -> GaussianStats:
    """Of an array [n, d]."""
    stats = StreamingStats(features.shape[1])
    stats.update(features)
    return stats.finish(meta)
