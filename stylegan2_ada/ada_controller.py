"""The adaptive part of ADA: how often to augment, steered by how overconfident the discriminator is.

Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data", Section 3.1 and Equation 1.
"""

import math

from common.errors import UserError

LEAK_P = 0.8  # above this, the paper's Figure 3 and many users saw augmentations in the generator's images


class AdaController:
    """Moves p so that r_t = E[sign D(real)] stays at `target`.

    target: r_t in [-1, 1] to aim at; higher means less augmentation. ada_kimg: thousands of images for p to go from 0
    to 1. p_max: p is kept in [0, p_max]. The paper's rule has no upper bound: runs that collapse drive p to 6 and more,
    with every augmentation in every generated image.

    p: the current probability. r_t: the last measured value, None before the first adjustment.
    """

    def __init__(self, target: float = 0.6, ada_kimg: float = 500, p_max: float = 0.85, *, p: float = 0.0):
        if not -1 <= target <= 1:
            raise UserError(f"ADA target must lie between -1 and 1, not {target}")
        if ada_kimg <= 0:
            raise UserError(f"ADA needs a positive ada_kimg, not {ada_kimg}")
        if not 0 <= p <= p_max <= 1:
            raise UserError(f"ADA needs 0 <= p <= p_max <= 1, not p = {p} and p_max = {p_max}")
        self.target, self.ada_kimg, self.p_max = target, ada_kimg, p_max
        self.p = float(p)
        self.r_t: float | None = None

    def update(self, sign_sum: float, count: float, images: int) -> float:
        """Adjust p by what the batches since the last time gave, and return it.

        sign_sum: sum of sign(D(real)) over them and all processes. count: how many it sums. images: by how many they
        advanced the training. Where nothing was counted, or the sum is NaN, p is left alone.
        """
        if count > 0 and math.isfinite(sign_sum):
            self.r_t = sign_sum / count
            direction = (self.r_t > self.target) - (self.r_t < self.target)
            self.p = min(max(self.p + direction * images / (self.ada_kimg * 1000), 0.0), self.p_max)
        return self.p

    def leak_warning(self) -> str | None:
        """One line to show while p is so high that augmentations leak into the generated images; else None."""
        if self.p <= LEAK_P:
            return None
        return (
            f"ADA p = {self.p:.2f} is above {LEAK_P}: the generator may start to draw the augmentations (turned, "
            "recoloured or inverted images). The data set is probably too small or the discriminator overfits: "
            "stop and keep the best snapshot, add data or `mirror`, raise `gamma`, or use `augpipe` face."
        )

    def pinned(self) -> str | None:
        """One line to show while p stands at its upper bound, so that ADA no longer steers; else None."""
        if self.p < self.p_max:
            return None
        return (
            f"ADA p stands at its upper bound {self.p_max:g}: the discriminator overfits and ADA can do no more; add"
            " data or `mirror`, or raise `gamma` (or `p_max`, if the samples show no augmentations)"
        )

    def state_dict(self) -> dict[str, float | None]:
        """Everything `update` depends on, as plain numbers."""
        return {"p": self.p, "r_t": self.r_t}

    def load_state_dict(self, state: dict) -> None:
        """Restore `state_dict` (older checkpoints hold more); p is brought within this controller's p_max.

        Raises ValueError when a value is missing.
        """
        missing = self.state_dict().keys() - state.keys()
        if missing:
            raise UserError(f"ADA state lacks {', '.join(sorted(missing))}: it was not saved by this project")
        self.p = min(max(float(state["p"]), 0.0), self.p_max)
        self.r_t = None if state["r_t"] is None else float(state["r_t"])
