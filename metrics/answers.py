"""What is answered at a threshold: the one rule of every verdict and of every figure about verdicts. numpy only.

FAKE is said of scores >= threshold. REAL is said of scores below `unsure_low` that are also below even odds: of what is
more likely generated than not nobody says that nothing was found, however high the threshold lies. UNSURE is the rest.
"""

from __future__ import annotations

import numpy as np

EVEN = 0.5  # of calibrated probabilities; scores that are none have no even odds


def called_fake(scores: np.ndarray | float, threshold: float, undecided: np.ndarray | bool = False) -> np.ndarray:
    """bool [N]: FAKE is said of scores >= threshold, but not where a detector would not decide (its two views of the
    photo contradict each other)."""
    return (np.asarray(scores) >= threshold) & ~np.asarray(undecided, bool)


def decided_by(scores: np.ndarray, undecided: np.ndarray | bool = False) -> np.ndarray:
    """The scores that a threshold is chosen on: -inf, which none reaches, where a detector would not decide."""
    return np.where(undecided, -np.inf, scores)


def real_below(threshold: float, unsure_low: float, even: float = EVEN) -> float:
    """The score below which REAL is said. even: infinite for scores that are ranks, not probabilities."""
    return min(threshold, unsure_low, even)


def answers(
    scores: np.ndarray | float,
    threshold: float,
    unsure_low: float,
    undecided: np.ndarray | bool = False,
    even: float = EVEN,
) -> np.ndarray:
    """str [N]: "FAKE" as `called_fake` has it, "REAL" of scores below `real_below` that are decided on, "UNSURE"
    else."""
    scores, open_ = np.asarray(scores), np.asarray(undecided, bool)
    low = real_below(threshold, unsure_low, even)
    return np.select([called_fake(scores, threshold, open_), (scores < low) & ~open_], ["FAKE", "REAL"], "UNSURE")
