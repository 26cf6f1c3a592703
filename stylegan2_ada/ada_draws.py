"""The random numbers of one call of the ADA pipeline, drawn together and read by name."""

import torch
from torch import Tensor

from common.errors import UserError

from .ada_pipes import Transformation

# One column each, whether in use or not: a transformation's numbers do not depend on which others are switched on.
# "<name>?" decides whether the transformation is applied. The order stays: a resumed training draws what it would have.
_UNIFORM = (
    *("mirror?", "mirror", "quarter_turn?", "quarter_turn", "whole_shift?", "whole_shift.x", "whole_shift.y"),
    *("scale?", "rotation.before?", "rotation.before", "stretch?", "rotation.behind?", "rotation.behind", "shift?"),
    *("brightness?", "contrast?", "luma_flip?", "luma_flip", "hue?", "hue", "saturation?"),
    *("octave_1?", "octave_2?", "octave_3?", "octave_4?"),
    *("noise?", "cutout?", "cutout.x", "cutout.y"),
)
_NORMAL = (
    *("scale", "stretch", "shift.x", "shift.y", "brightness", "contrast", "saturation"),
    *("octave_1", "octave_2", "octave_3", "octave_4", "noise"),
)
_UNIFORM_COLUMN = {name: i for i, name in enumerate(_UNIFORM)}
_NORMAL_COLUMN = {name: i for i, name in enumerate(_NORMAL)}


class AdaDraws:
    """Numbers for n images, all results [n] float32, from the host's default generator.

    percentile: None draws; a number in (0, 1) puts everything at that percentile of its distribution and chooses every
        transformation, but of the two rotations only the first (the convention of the recorded pipelines).
    """

    def __init__(self, n: int, percentile: float | None = None):
        if percentile is not None and not 0 < percentile < 1:
            raise UserError(f"`debug_percentile` must lie between 0 and 1, not {percentile}")
        self.percentile = percentile
        self.constant = torch.ones(n)
        if percentile is None:
            self._uniform = torch.rand(len(_UNIFORM), n)
            self._normal = torch.randn(len(_NORMAL), n)

    def chosen(self, name: str, probability: float) -> Tensor:
        """Whether a transformation is applied, as a bool [n]."""
        if self.percentile is not None:
            return self.constant > (1 if name == "rotation.behind" else 0)
        return self._uniform[_UNIFORM_COLUMN[name + "?"]] < probability

    def number(self, row: Transformation, part: str = "") -> Tensor:
        """What the transformation's law gives; `part` tells one of its numbers from another, as ".x"."""
        name, spread = row.name + part, row.spread
        match row.law:
            case "choice":
                return self._between(name, 0, spread).floor().clamp(max=spread - 1)
            case "uniform":
                return self._between(name, -spread, spread)
            case "place":
                return self._between(name, 0, 1)
            case "normal":
                return self._around(name, spread)
        return torch.exp2(self._around(name, spread))

    def _between(self, name: str, low: float, high: float) -> Tensor:
        if self.percentile is not None:
            return self.constant * (low + self.percentile * (high - low))
        return self._uniform[_UNIFORM_COLUMN[name]] * (high - low) + low

    def _around(self, name: str, std: float) -> Tensor:
        if self.percentile is not None:
            return torch.erfinv(self.constant * (2 * self.percentile - 1)) * std
        return self._normal[_NORMAL_COLUMN[name]] * std
