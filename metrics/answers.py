"""What is answered at a threshold: the one rule of every verdict and of every figure about verdicts. numpy only."""

from __future__ import annotations

import numpy as np


def called_fake(scores: np.ndarray | float, threshold: float, undecided: np.ndarray | bool = False) -> np.ndarray:
    """bool [N]: FAKE is said of scores >= threshold, but not where a detector would not decide (its two views of the
    photo contradict each other)."""
    return (np.asarray(scores) >= threshold) & ~np.asarray(undecided, bool)


def answers(
    scores: np.ndarray | float, threshold: float, unsure_low: float, undecided: np.ndarray | bool = False
) -> np.ndarray:
    """str [N]: "FAKE" as `called_fake` has it, "REAL" of scores < unsure_low that are decided on, "UNSURE" else."""
    scores, open_ = np.asarray(scores), np.asarray(undecided, bool)
    return np.select(
        [called_fake(scores, threshold, open_), (scores < unsure_low) & ~open_], ["FAKE", "REAL"], "UNSURE"
    )
