"""A training that breaks: the checkpoint it goes back to, how often, and how much slower it learns from there."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from common.errors import UserError

FACTOR = 0.5  # of the learning rates, each time
MOST = 3  # times; a run that breaks once more stops


class Diverged(UserError):
    """What a training learns has come to nothing; the message is what shows it."""


@dataclass
class Course:
    """The health of a run's course, a part of its state.

    healthy: number of the last checkpoint written in health (None: none yet). factor: of every learning rate. signs:
    what was seen each time the run went back. sound: whether the last look at it found nothing.
    """

    healthy: int | None = None
    factor: float = 1.0
    signs: list[str] = field(default_factory=list)
    sound: bool = True

    @property
    def exhausted(self) -> bool:
        """Whether it went back as often as it may."""
        return len(self.signs) >= MOST

    def went_back(self, sign: str) -> None:
        """Count a return to `healthy`, from which on the run learns more slowly."""
        self.signs.append(sign)
        self.factor *= FACTOR
        self.sound = True

    def steered(self) -> None:
        """Somebody changed what it learns with: all its attempts are before it again."""
        self.factor, self.signs = 1.0, []

    def rates(self, rate: float) -> str:
        """The rates that were tried after `rate`, for people."""
        tried = [f"{rate * FACTOR ** (i + 1):.3g}" for i in range(len(self.signs))]
        return " and ".join(filter(None, [", ".join(tried[:-1]), *tried[-1:]]))

    def state_dict(self) -> dict:
        return asdict(self)

    def load_state_dict(self, state: dict) -> None:
        """Take over what `state_dict` gave; nothing of it in older checkpoints."""
        for name in asdict(self):
            if name in state:
                setattr(self, name, state[name])
