"""How far a detector's own file lets it be trusted: what is said beside each of its verdicts."""

from __future__ import annotations

from collections.abc import Mapping

from discriminator.calibration import Calibration

DRAWN = "demo"  # the set of faces that a program draws
FEW_REALS = 500  # real photos in a training set below which it is called tiny
LEAST_BALANCED = 0.80  # balanced accuracy on validation images, at the default threshold


def caution(meta: Mapping, calibration: Calibration) -> str:
    """What the reader of any verdict of this detector should know, or "".

    meta: `trained_on` the set's name (several with commas), `train_images` {"real": n, ...}; what is missing says
    nothing. The balanced accuracy, (found fakes + kept reals) / 2 at the default threshold, is the file's own; where a
    threshold was set on real photos alone there is none.
    """
    why = []
    if DRAWN in str(meta.get("trained_on") or "").split(", "):
        why.append("it learnt from drawn faces, not from photos")
    shown = meta.get("train_images")
    reals = shown.get("real") if isinstance(shown, Mapping) else None
    if isinstance(reals, int) and reals < FEW_REALS:
        why.append(f"it learnt from only {reals} real photos")
    point = calibration.at()
    if point.tpr is not None and (balanced := (point.tpr + 1 - point.fpr) / 2) < LEAST_BALANCED:
        why.append(
            f"its balanced accuracy on validation images is {100 * balanced:.0f} %, below {100 * LEAST_BALANCED:.0f} %"
        )
    return f"weak detector: {', and '.join(why)}" if why else ""
