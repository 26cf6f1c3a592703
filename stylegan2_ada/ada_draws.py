"""The random numbers of one call of the ADA pipeline, drawn together and read by name."""

import torch
from torch import Tensor

from common.errors import UserError

# One column each, whether in use or not: a transformation's numbers do not depend on which others are switched on.
# "<name>?" decides whether the transformation is applied.
_UNIFORM = (
    *("xflip?", "xflip", "rotate90?", "rotate90", "xint?", "xint.x", "xint.y"),
    *("scale?", "rotate.before?", "rotate.before", "aniso?", "rotate.after?", "rotate.after", "xfrac?"),
    *("brightness?", "contrast?", "lumaflip?", "lumaflip", "hue?", "hue", "saturation?"),
    *("imgfilter.0?", "imgfilter.1?", "imgfilter.2?", "imgfilter.3?"),
    *("noise?", "cutout?", "cutout.x", "cutout.y"),
)
_NORMAL = (
    *("scale", "aniso", "xfrac.x", "xfrac.y", "brightness", "contrast", "saturation"),
    *("imgfilter.0", "imgfilter.1", "imgfilter.2", "imgfilter.3", "noise"),
)
_UNIFORM_COLUMN = {name: i for i, name in enumerate(_UNIFORM)}
_NORMAL_COLUMN = {name: i for i, name in enumerate(_NORMAL)}


class Draws:
    """Numbers for n images, all results [n] float32.

    device: where they are drawn, from its default generator.
    percentile: None draws; a number in (0, 1) puts everything at that percentile of its distribution and chooses every
        transformation, but of the two rotations only the first (the convention of the recorded pipelines).
    """

    def __init__(self, n: int, device: torch.device, percentile: float | None = None):
        if percentile is not None and not 0 < percentile < 1:
            raise UserError(f"debug_percentile must lie between 0 and 1, not {percentile}")
        self.percentile = percentile
        self.constant = torch.ones(n, device=device)
        if percentile is None:
            self._uniform = torch.rand(len(_UNIFORM), n, device=device)
            self._normal = torch.randn(len(_NORMAL), n, device=device)

    def chosen(self, name: str, probability: float | Tensor) -> Tensor:
        """Whether a transformation is applied, as a bool [n]."""
        if self.percentile is not None:
            return self.constant > (1 if name == "rotate.after" else 0)
        return self._uniform[_UNIFORM_COLUMN[name + "?"]] < probability

    def uniform(self, name: str, low: float, high: float) -> Tensor:
        if self.percentile is not None:
            return self.constant * (low + self.percentile * (high - low))
        return self._uniform[_UNIFORM_COLUMN[name]] * (high - low) + low

    def integer(self, name: str, n: int) -> Tensor:
        """A whole number from 0 to n - 1 (as float32)."""
        return self.uniform(name, 0, n).floor().clamp(max=n - 1)

    def normal(self, name: str, std: float) -> Tensor:
        if self.percentile is not None:
            return torch.erfinv(self.constant * (2 * self.percentile - 1)) * std
        return self._normal[_NORMAL_COLUMN[name]] * std

    def log2_normal(self, name: str, std: float) -> Tensor:
        """2 to a normal: enlarging and shrinking by the same factor are equally likely."""
        return torch.exp2(self.normal(name, std))
