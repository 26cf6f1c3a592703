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

    healthy: number of the last checkpoint written in health (None: none yet). pending: of a later one, of which the
    next look will tell. factor: of every learning rate. signs: what was seen each time the run went back.
    """

    healthy: int | None = None
    pending: int | None = None
    factor: float = 1.0
    signs: list[str] = field(default_factory=list)

    @property
    def kept(self) -> list[int]:
        """Checkpoints that must not be removed."""
        return [number for number in (self.healthy, self.pending) if number is not None]

    def saved(self, number: int, judged: bool) -> None:
        """A checkpoint is written in what looks like health. judged: whether that has just been looked for."""
        if judged:
            self.healthy = number
        self.pending = None if judged else number

    def judged_sound(self) -> None:
        """A look found nothing: what was saved before it is healthy, too."""
        if self.pending is not None:
            self.healthy, self.pending = self.pending, None

    @property
    def exhausted(self) -> bool:
        """Whether it went back as often as it may."""
        return len(self.signs) >= MOST

    def went_back(self, sign: str) -> None:
        """Count a return to `healthy`, from which on the run learns more slowly."""
        self.signs.append(sign)
        self.factor *= FACTOR
        self.pending = None

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
