"""What the folds of a cross-validation say, each for itself and together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from common.outputs import plain
from common.words import counted
from discriminator.folds.scores import FoldScores
from metrics.folds import AT_HALF, HALF, pooled, spreads

NAMES = {
    "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "precision_fake": "precision (fake)",
    "recall_fake": "recall (fake)", "f1_fake": "F1 (fake)", "precision_real": "precision (real)",
    "recall_real": "recall (real)", "f1_real": "F1 (real)", "precision_macro": "precision (macro)",
    "recall_macro": "recall (macro)", "f1_macro": "F1 (macro)", "mcc": "MCC", "false_alarm_rate": "false alarms",
    "roc_auc": "ROC-AUC", "pr_auc": "average precision", "tpr_at_fpr_0.01": "TPR at 1 % FPR",
    "tpr_at_fpr_0.05": "TPR at 5 % FPR", "best_balanced_accuracy": "balanced accuracy, at best", "eer": "equal error",
    "brier": "Brier score", "ece": "calibration error",
}  # fmt: skip
NAMES |= {name: f"{NAMES[name.removesuffix(HALF)]} at 0.5" for name in AT_HALF}
ORACLES = ("tpr_at_fpr_0.01", "tpr_at_fpr_0.05", "best_balanced_accuracy", "eer")
CAUTION = (
    "Folds are not independent: any two of them were taught with mostly the same images, and repeats test the same"
    " images again. The interval is Nadeau and Bengio's corrected one (2003); the plain one, as if they were"
    " independent, is too narrow."
)


@dataclass
class FoldsFound:
    """tables, tests: one per fold, in order, of its held-out images and of the test split (may be none). dealt: how
    many images of which class each fold learnt from and so on."""

    folds: int
    repeats: int
    seed: int
    tested_to_taught: float
    tables: list[FoldScores]
    tests: list[FoldScores]
    dealt: list[dict]

    @cached_property
    def each(self) -> list[dict]:
        """{"fold", "repeat", "threshold", …figures} of every fold."""
        return [_row(table) for table in self.tables]

    @cached_property
    def each_test(self) -> list[dict]:
        return [_row(table) for table in self.tests]

    @cached_property
    def spread(self) -> dict[str, dict]:
        return spreads(self.each, self.tested_to_taught)

    @cached_property
    def spread_test(self) -> dict[str, dict]:
        # the same images for all: their spread is of training alone, and says nothing of other images
        return spreads(self.each_test, 0.0) if self.tests else {}

    @cached_property
    def pooled(self) -> dict:
        """All folds' scores as if of one detector, with intervals."""
        group = np.concatenate([table.group for table in self.tables])
        return pooled(*_joined(self.tables), groups=np.unique(group, return_inverse=True)[1], seed=self.seed)

    @cached_property
    def by_repeat(self) -> list[dict]:
        """The pooled figures of every repeat."""
        out = []
        for k in range(self.repeats):
            one = pooled(*_joined([t for t in self.tables if t.repeat == k]), resamples=0)
            out.append({"repeat": k, **{name: entry["value"] for name, entry in one["metrics"].items()}})
        return out

    def to_json(self) -> dict:
        """Plain JSON types; what is undefined is null."""
        names = ("folds", "repeats", "seed", "tested_to_taught", "each", "spread", "pooled", "by_repeat", "dealt")
        test = {"each": self.each_test, "spread": self.spread_test} if self.tests else None
        return plain({name: getattr(self, name) for name in names} | {"test": test, "caution": CAUTION})

    def scalars(self) -> dict[str, list[float]]:
        """Figures by fold, for TensorBoard."""
        names = ("roc_auc", "balanced_accuracy", "f1_fake", "false_alarm_rate", "recall_fake")
        return {name: [row[name] for row in self.each] for name in names}

    def lines(self) -> list[str]:
        """For the terminal: mean, spread and pooled figures."""
        out = [f"{'':<26}{'mean':>8}{'sd':>8}   {'95 % corrected':<18}{'pooled':>8}"]
        for name in ("accuracy", "balanced_accuracy", "precision_fake", "recall_fake", "f1_fake", "f1_macro",
                     "false_alarm_rate", *AT_HALF, "roc_auc", "tpr_at_fpr_0.01"):  # fmt: skip
            s, p = self.spread[name], self.pooled["metrics"][name]["value"]
            few = f" ({s['n']} of {len(self.each)})" if s["n"] < len(self.each) else ""
            known = [f"{v:.4f}" if math.isfinite(v) else "–" for v in (s["mean"], s["sd"], s["low"], s["high"], p)]
            mean, sd, low, high, pool = known
            out.append(f"{NAMES[name] + few:<26}{mean:>8}{sd:>8}   {low:>7} … {high:<8}{pool:>8}")
        if self.tests:
            s = self.spread_test
            out.append(
                f"test split: AUC {s['roc_auc']['mean']:.4f} (sd {s['roc_auc']['sd']:.4f}), balanced accuracy"
                f" {s['balanced_accuracy']['mean']:.4f} (sd {s['balanced_accuracy']['sd']:.4f}), over"
                f" {counted(len(self.tests), 'detector')} on the same {counted(len(self.tests[0]), 'image')}"
            )
        return [*out, f"note: {CAUTION}"]


def _row(table: FoldScores) -> dict:
    return {"fold": table.fold, "repeat": table.repeat, "threshold": table.threshold, **table.figures()}


def _joined(tables: Sequence[FoldScores]) -> list[np.ndarray]:
    return [np.concatenate([getattr(table, name) for table in tables]) for name in ("label", "score", "called")]
