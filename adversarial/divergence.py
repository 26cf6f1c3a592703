"""Whether the game still learns anything: signs that no advice mends, upon which a run goes back (`training.rollback`).

`adversarial.health` gives advice far below these thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from adversarial.game import Game
from adversarial.health import BROKEN, Remembered

HOPELESS_SCORE = 1e5  # mean score of the discriminator, at once
BROKEN_TICKS = 3  # ticks in a row beyond `health.BROKEN`
SKIPPED = 0.5  # share of a network's steps without a finite gradient, over at least …
STEPS, LAST_STEPS = 20, 4  # … so many since the last tick without any; in the run's last tick
FLAT = 0.1  # share of the best diversity so far
FLAT_TIMES = 2  # measurements in a row
UNSOUND_SKIPPED = 0.1  # share of skipped steps beyond which no checkpoint counts as healthy
UNSOUND_DIVERSITY = 0.5  # share of the best diversity


class Divergence(Remembered):
    """Takes in each tick; what it remembers is part of a run's state, so a resumed run judges as it would have."""

    def __init__(self) -> None:
        self.skips: dict[str, list[int]] = {}  # network -> steps skipped, steps in all, since a tick without
        self.broken = 0  # ticks in a row
        self.most_diverse = 0.0
        self.diversity: float | None = None  # as last measured
        self.flat = 0  # measurements in a row

    def sign(self, rows: dict, diversity: float | None, *, last: bool = False) -> str:
        """What shows that the training has diverged, or "".

        rows: a tick's {name: {num, mean, std}}. diversity: of the samples, relative to the reals' (None: not measured
        in this tick). last: whether the run would end here.
        """
        found = self._scores(rows, last), self._skipped(rows, last), self._flat(diversity, last)
        return next(filter(None, found), "")

    @property
    def sound(self) -> bool:
        """Whether a checkpoint of now is one to go back to."""
        even = self.diversity is None or self.diversity >= UNSOUND_DIVERSITY * self.most_diverse
        return not self.broken and even and all(bad <= UNSOUND_SKIPPED * n for bad, n in self.skips.values())

    def _scores(self, rows: dict, last: bool) -> str:
        means = [rows[name]["mean"] for name in ("Loss/scores/real", "Loss/scores/fake") if name in rows]
        largest = max((abs(x) for x in means if math.isfinite(x)), default=0.0)
        self.broken = self.broken + 1 if largest > BROKEN else 0
        if largest > HOPELESS_SCORE or self.broken >= (1 if last else BROKEN_TICKS):
            return f"the discriminator's scores are about {largest:.0e}, where less than 100 is healthy"
        return ""

    def _skipped(self, rows: dict, last: bool) -> str:
        for name in "GDV":
            skipped = rows.get(f"Gradients/skipped_{name}")
            bad = round(skipped["mean"] * skipped["num"]) if skipped else 0
            good = sum(rows[n]["num"] for n in (f"Gradients/{name}", f"Gradients/{name}reg") if n in rows)
            if not bad:
                self.skips.pop(name, None)
                continue
            # on a GPU the norm of a step that was skipped is reported, too: as one that is not finite, in no `num`
            kept = self.skips.setdefault(name, [0, 0])
            kept[0], kept[1] = kept[0] + bad, kept[1] + bad + good
            if kept[0] > SKIPPED * kept[1] and kept[1] >= (LAST_STEPS if last else STEPS):
                return f"{kept[0]} of {kept[1]} steps of {name} had no finite gradient"
        return ""

    def _flat(self, diversity: float | None, last: bool) -> str:
        if diversity is None:
            return ""
        self.diversity = diversity
        self.most_diverse = max(self.most_diverse, diversity)
        self.flat = self.flat + 1 if diversity < FLAT * self.most_diverse else 0
        if self.flat >= (1 if last else FLAT_TIMES):
            return (
                f"the samples differ from each other only {diversity:.2f} times as much as the reals do (at best"
                f" {self.most_diverse:.2f}): the generator has collapsed"
            )
        return ""


@torch.no_grad()
def not_finite(game: Game) -> str:
    """Which of a game's networks or averages holds a number that is none, in words; "" where all are numbers."""
    parts = {"generator": game.G, "discriminator": game.D, "generator's average": game.G_ema}
    if game.D_ema is not None:
        parts["discriminator's average"] = game.D_ema
    for name, net in parts.items():
        if not _all_finite(net.state_dict().values()):
            return f"weights of the {name} are not finite"
    for name, opt in (("G", game.opt_G), ("D", game.opt_D), ("V", game.opt_V)):
        if not _all_finite(_moments(opt)):
            return f"the optimiser of {name} has moments that are not finite"
    return ""


def _moments(opt) -> Iterator[Tensor]:
    for state in opt.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))


def _all_finite(tensors) -> bool:
    floats = [t for t in tensors if t.is_floating_point() and t.numel()]
    if not floats:
        return True
    return bool(torch.stack([torch.isfinite(t).all() for t in floats]).all())
