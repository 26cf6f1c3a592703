"""What a method says of one image, without PyTorch: for those who draw and send it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from discriminator.detector_base import DetectorBase
from discriminator.explaining.methods import METHODS

NO_PATCHES = "patches: this network gives no patch map"


@dataclass(frozen=True)
class Attribution:
    """values: float32 [h, w] over what was judged, above 0 where it speaks for FAKE, below for REAL (>= 0 where the
    method tells no sides), None where there is no map. note: why there is none, or what it leaves out, or "". seconds:
    what it took."""

    method: str
    values: np.ndarray | None = field(repr=False)
    note: str = ""
    seconds: float = 0.0

    @property
    def signed(self) -> bool:
        return METHODS[self.method].signed

    @property
    def title(self) -> str:
        return METHODS[self.method].title

    def shown(self) -> np.ndarray | None:
        """float32 [h, w] in [-1, 1], for a picture. The patch map, whose scale is its own, stays; others end at the
        99th percentile, or one wild cell would pale all the rest."""
        if self.values is None or self.method == "patches":
            return self.values
        most = float(np.percentile(np.abs(self.values), 99)) or float(np.abs(self.values).max())
        return np.clip(self.values / most, -1, 1).astype(np.float32) if most > 0 else self.values


def why_not(method: str, detector: DetectorBase) -> str:
    """Why a method can't do this detector, as far as that is known beforehand, or ""."""
    if METHODS[method].gradients and getattr(detector, "net", None) is None:
        return f"{method} needs PyTorch and a detector.safetensors; this is an ONNX file"
    if method == "patches" and not detector.has_patches:
        return NO_PATCHES
    return ""
