"""The transformations of adaptive discriminator augmentation and the sets of them that go by a name.

Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data", Section 2.2 and Appendix B. Nothing
here needs PyTorch: command lines list the names.
"""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Transformation:
    """One row of the pipeline.

    law: what its number is drawn from, and so what `spread` is.
        choice: a whole number, `spread` of them from 0 on; 0 does nothing.
        uniform: from -spread to spread; 0 does nothing.
        normal: of mean 0 and standard deviation `spread`; 0 does nothing.
        log2 normal: 2 to the power of that, so that enlarging and shrinking are equally likely; 1 does nothing.
        place: uniform over the image, the centre of a rectangle whose sides are `spread` of the image's.
    multiplier: the transformation is applied with this times the pipeline's probability p.
    does: what is done with the number.
    """

    name: str
    group: str
    law: Literal["choice", "uniform", "normal", "log2 normal", "place"]
    spread: float
    does: str
    multiplier: float = 1.0

    @property
    def identity(self) -> float:
        """The number that does nothing."""
        return 1.0 if self.law == "log2 normal" else 0.0


# In the order in which they are applied; `rotation` comes once before and once behind `stretch`.
TRANSFORMATIONS = {
    row.name: row
    for row in (
        Transformation("mirror", "blit", "choice", 2, "left and right change places"),
        Transformation("quarter_turn", "blit", "choice", 4, "turn by so many quarters"),
        Transformation("whole_shift", "blit", "uniform", 0.125, "shift by whole pixels, a share of width and height"),
        Transformation("scale", "geom", "log2 normal", 0.2, "enlarge by the factor"),
        Transformation("rotation", "geom", "uniform", math.pi, "turn by the angle"),
        Transformation("stretch", "geom", "log2 normal", 0.2, "widen by the factor and flatten by it"),
        Transformation("shift", "geom", "normal", 0.125, "shift by a share of width and height"),
        Transformation("brightness", "color", "normal", 0.2, "add to all channels"),
        Transformation("contrast", "color", "log2 normal", 0.5, "multiply all channels"),
        Transformation("luma_flip", "color", "choice", 2, "reflect the lightness: a negative with its hues"),
        Transformation("hue", "color", "uniform", math.pi, "turn colours about the grey axis"),
        Transformation("saturation", "color", "log2 normal", 1.0, "multiply the distance from grey"),
        *(
            Transformation(f"octave_{i}", "filter", "log2 normal", 1.0, f"amplify the band {i} of the spectrum of four")
            for i in (1, 2, 3, 4)
        ),
        Transformation("noise", "noise", "normal", 0.1, "add noise; the size of the number is its standard deviation"),
        Transformation("cutout", "cutout", "place", 0.5, "set a rectangle to zero, that is to grey"),
    )
}


def _groups(*groups: str) -> tuple[str, ...]:
    return tuple(name for name, row in TRANSFORMATIONS.items() if row.group in groups)


# Sets of transformations by name: the six groups, and those that the paper adds up (Section 4 and Appendix B).
AUGPIPES: dict[str, tuple[str, ...]] = {
    **{group: _groups(group) for group in ("blit", "geom", "color", "filter", "noise", "cutout")},
    "bg": _groups("blit", "geom"),
    "bgc": _groups("blit", "geom", "color"),
    "bgcf": _groups("blit", "geom", "color", "filter"),
    "bgcfn": _groups("blit", "geom", "color", "filter", "noise"),
    "bgcfnc": tuple(TRANSFORMATIONS),
    # Augmentations leak into the generator once p is high, and on a face three of them are seen at once: quarter turns
    # (lossless, so nothing gives them away), negatives, and green or purple skin. Portraits need none of them.
    "face": tuple(n for n in _groups("blit", "geom", "color") if n not in ("quarter_turn", "luma_flip", "hue")),
}
