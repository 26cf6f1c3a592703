"""One line of a file's own story: what was found, what it says, what that proves and what it cannot prove."""

from __future__ import annotations

from dataclasses import dataclass, field

from common.errors import one_line

PRESENT, ABSENT, UNKNOWN, BROKEN = "present", "absent", "unknown", "broken"
SHOWN = 200  # characters of a text that stood in the file


@dataclass(frozen=True)
class Line:
    """kind: which question it answers. found: "present", "absent", "unknown" (nothing to be found out) or "broken"
    (there, but it can't be read). says: what was found, in words. proves, cannot_prove: what follows from it and what
    does not. facts: the same for programs, in plain JSON types."""

    kind: str
    found: str
    says: str
    proves: str
    cannot_prove: str
    facts: dict = field(default_factory=dict)

    def to_dict(self) -> dict:
        """Plain JSON types."""
        row = {
            "kind": self.kind,
            "found": self.found,
            "says": self.says,
            "proves": self.proves,
            "cannot_prove": self.cannot_prove,
        }
        return row | ({"facts": self.facts} if self.facts else {})


def shown(text: str, most: int = SHOWN) -> str:
    """A text from a file, as one printable line of at most `most` characters."""
    line = one_line(" ".join(text[: 4 * most].split()))
    return line if len(line) <= most and len(text) <= 4 * most else line[: most - 1] + "…"
