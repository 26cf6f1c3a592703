"""How the face and the pixels of a photo become one answer, in numbers that validation photos gave. No PyTorch here."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields

from common.errors import UserError

JOINS = ("weighted", "either")
LIMIT = 36.0  # log-odds beyond it are 1 in float64 once they are a probability
SHAPE_ALONE = "fewer than {side}x{side} of the photo's own pixels show this face: judged by its shape alone"
PIXELS_ONLY = "the two views contradict each other: its pixels look generated, the face does not"
FACE_ONLY = "the two views contradict each other: the face looks generated, its pixels do not"

Pair = tuple[float, float]


@dataclass(frozen=True)
class Join:
    """Numbers come in pairs: of the face, of the pixels.

    temperatures, biases: of a view's raw logit, z = logit / temperature + bias its calibrated log-odds of «fake».
    method: "weighted", the joint score is weights . z + offset, and z of the face where there are no pixels; "either",
    the larger of z - thresholds. The joint score is calibrated after that like any network's logit.
    apart: how far the face may lie above the pixels, and the pixels above the face, before that is a contradiction.
    sure: joint scores below the first and from the second on stand whatever the views say of each other.
    UserError for numbers that can't be.
    """

    method: str = "weighted"
    temperatures: Pair = (1.0, 1.0)
    biases: Pair = (0.0, 0.0)
    weights: Pair = (1.0, 1.0)
    offset: float = 0.0
    thresholds: Pair = (0.0, 0.0)
    apart: Pair = (1e9, 1e9)
    sure: Pair = (-1e9, 1e9)

    def __post_init__(self) -> None:
        if self.method not in JOINS:
            raise UserError(f"views are joined by one of {', '.join(JOINS)}, not {self.method!r}")
        pairs = {name: value for name, value in vars(self).items() if name not in ("method", "offset")}
        sizes = all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs.values())
        numbers = [self.offset, *(x for pair in pairs.values() for x in pair)] if sizes else []
        if not numbers or not all(isinstance(x, int | float) and math.isfinite(x) for x in numbers):
            raise UserError("the numbers that join the two views are damaged")
        if min(self.temperatures) <= 0 or min(self.weights) < 0 or min(self.apart) < 0:
            raise UserError("temperatures of views are above 0, weights and gaps not below")

    def to_dict(self) -> dict:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: dict) -> Join:
        """The inverse of `to_dict`; all fields are needed."""
        if set(data) != {field.name for field in fields(cls)}:
            raise UserError(f"what joins two views has {', '.join(f.name for f in fields(cls))}")
        values: dict = {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
        return cls(**values)

    def contradiction(self, face: float, pixels: float, score: float) -> str:
        """Why nothing can be said of a photo with these calibrated log-odds and this joint score, or "".

        The views lie on different sides of even odds, further apart than validation photos that were judged rightly
        did, and the joint score is not one that hardly a validation photo of the other class has."""
        if math.isnan(pixels) or score < self.sure[0] or score >= self.sure[1]:
            return ""
        if pixels > 0 > face and pixels - face > self.apart[1]:
            return PIXELS_ONLY
        return FACE_ONLY if face > 0 > pixels and face - pixels > self.apart[0] else ""
