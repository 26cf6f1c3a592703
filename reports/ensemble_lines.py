"""What was made of detectors, for a terminal: how, what its thresholds did, and whether it beats the best of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from discriminator.detector import Detector
from discriminator.ensemble import Majority, Stack, Weighted
from evaluation.ensemble import EnsembleComparison, EnsembleResult, between, head_of, made_in
from evaluation.options import SOUP, WISE_FT
from metrics.few import auc_text, balanced_text, counts_text, share_text


def lines_of(result: EnsembleResult) -> list[str]:
    """All of it."""
    return [*_made(result.detector, result.method, result.names), *_compared(result.comparison)]


def _made(detector: Detector, method: str, names: Sequence[str]) -> list[str]:
    head, out = head_of(detector), []
    if method == WISE_FT:
        line = detector.meta[made_in(method)]
        out.append(
            f"one network, its weights {line['alpha']:g} of {names[0]}'s and {1 - line['alpha']:g} of those in"
            f" {line['pretrained']}"
        )
    elif method == SOUP:
        out.append(f"one network, its weights the mean of the {len(names)} networks'")
    elif isinstance(head, Weighted):
        shares = ", ".join(f"{name} {w:.3f}" for name, w in zip(names, head.weights.tolist()))
        out.append(f"weights: {shares}")
    elif isinstance(head, Stack):
        k, vectors = head.axes.shape[0], len(head.vectors)
        out.append(f"stack: {k} principal components of {len(names)} log-odds, {vectors} support vectors")
    elif isinstance(head, Majority):
        shares = ", ".join(f"{name} {t:.4f}" for name, t in zip(names, head.thresholds.tolist()))
        out.append(f"votes are cast at each member's own threshold: {shares}; ties go by the mean log-odds")
    out += [f"calibrated: {100 * p.target_fpr:g} %: {p.describe()}" for p in detector.calibration.points]
    return out


def _compared(found: EnsembleComparison) -> list[str]:
    width = max(map(len, found.systems))
    key = f"tpr_at_fpr_{found.target:g}"
    few = counts_text(found.n_real, found.n_fake)
    lines = [f"compared on {found.n_real} real and {found.n_fake} fake {found.of}"]
    head = f"TPR at {100 * found.target:g} % FPR (ROC)"
    lines.append(f"{'':{width}}     AUC  {head}   found  false alarms  balanced  (at its own threshold)")
    for name, s in found.systems.items():
        star = " *" if name == found.best else "  "
        if few:
            lines.append(f"{name:{width}}{star} {_of_few(s, key, found)}")
            continue
        lines.append(
            f"{name:{width}}{star} {s['auc']:.4f}  {100 * s[key]:>{len(head) - 2}.1f} %  {100 * s['found']:5.1f} %"
            f"  {100 * s['false_alarms']:10.2f} %  {100 * s['balanced']:6.1f} %"
        )
    lines += [f"intervals{few}"] if few else []
    auc = found.gaps["auc"]
    lines.append(
        f"* {found.best_is}; AUC {auc['value']:+.4f}"
        f" ({between(auc['low'], auc['high'], '{:+.4f}')}; DeLong's p {found.p:.2g})"
    )
    return [*lines, found.words, *(f"note: {note}" for note in found.notes)]


def _of_few(s: Mapping[str, float], key: str, found: EnsembleComparison) -> str:
    """The same figures, each with its interval, where a class has few images."""
    real, fake = found.n_real, found.n_fake
    return (
        f"{auc_text(s['auc'], real, fake, 4)}  {share_text(s[key], fake)}  {share_text(s['found'], fake)}"
        f"  {share_text(s['false_alarms'], real)}  {balanced_text(s['balanced'], real, fake)}"
    )
