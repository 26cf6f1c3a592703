"""What normalising a source came to, class by class, and where the classes still differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from common.words import counted
from faces.layout import LABEL_NAMES

ENLARGED = 0.02  # by how much the classes' shares of enlarged pictures may differ


def common_size(sides: Mapping[int, Sequence[float]], resolution: int) -> tuple[int, dict[int, float]]:
    """A size, in pixels a side, that almost all pictures of each class have, 0 where the classes are of like size; and
    each class's median. sides: before they were resized to `resolution`, by label."""
    if len(sides) < 2:
        return 0, {}
    middle = {label: float(np.median(of)) for label, of in sides.items()}
    enlarged = [float(np.mean(np.asarray(of) < resolution)) for of in sides.values()]
    if not uneven(middle) and max(enlarged) - min(enlarged) <= ENLARGED:
        return 0, middle
    small = min(float(np.quantile(of, 0.05)) for of in sides.values())
    return max(16, int(small) // 8 * 8), middle


def uneven(middle: Mapping[int, float]) -> bool:
    """Whether the classes' median sizes differ by so much that reducing them leaves unlike traces."""
    return max(middle.values()) > 1.25 * min(middle.values())


@dataclass
class Tally:
    """What came of the images of one class. further: cuts of other faces than the biggest, which `written` counts, too.
    sides: pixels a side of every image's first cut, before it was resized. outside: the sum of the shares of these that
    lay beyond the photos' edges."""

    written: int = 0
    further: int = 0
    enlarged: int = 0
    several: int = 0
    whole: int = 0
    skipped: Counter = field(default_factory=Counter)
    sides: list[float] = field(default_factory=list)
    outside: float = 0.0


@dataclass
class NormaliseReport:
    """What a run did. classes: by label. skipped: (name, reason) of every image left out. reused: results that an
    earlier, interrupted run had made. detector: which face detector, "" without alignment. dest: the new folder."""

    dest: str
    resolution: int
    classes: dict[int, Tally]
    skipped: list[tuple[str, str]]
    reused: int
    detector: str
    left_over: int = 0
    all_faces: bool = False

    @property
    def written(self) -> int:
        return sum(tally.written for tally in self.classes.values())

    def count(self, line: dict, label: int) -> None:
        """Take in the journal's line of one image."""
        tally = self.classes.setdefault(label, Tally())
        if line["skipped"]:
            tally.skipped[line["skipped"]] += 1
            self.skipped.append((line["path"], line["reason"]))
            return
        further = len(line.get("more", ()))
        self.all_faces = self.all_faces or "more" in line
        tally.written += 1 + further
        tally.further += further
        tally.sides.append(line["side"])
        tally.outside += line["outside"]
        tally.enlarged += line["side"] < self.resolution
        tally.several += line["faces"] > 1
        tally.whole += bool(self.detector) and line["aligned"] == "none"

    def lines(self) -> list[str]:
        """What was made of each class, and with what."""
        lines = []
        for label, tally in sorted(self.classes.items()):
            which = f"{tally.further} besides the biggest" if self.all_faces else "the biggest was cut out"
            parts = [f"{tally.written} written"]
            parts += [f"{tally.enlarged} enlarged"] if tally.enlarged else []
            parts += [f"{tally.several} with several faces ({which})"] if tally.several else []
            parts += [f"{tally.whole} without a face (kept whole)"] if tally.whole else []
            parts += [f"{count} skipped ({kind})" for kind, count in sorted(tally.skipped.items())]
            lines.append(f"{LABEL_NAMES[label]}: {', '.join(parts)}")
        if self.detector:
            lines.append(f"face detector: {self.detector}")
        if self.reused:
            lines.append(f"{self.reused} were there from an earlier run")
        if self.left_over:
            lines.append(
                f"note: {counted(self.left_over, 'file')} in {self.dest} are of images that the source no longer has"
            )
        return lines

    def warnings(self) -> list[str]:
        """Lines about what may still tell the classes apart; empty where there is one class only."""
        full = {label: t for label, t in self.classes.items() if t.written}
        if len(full) < 2:
            return []

        def apart(share: Callable[[Tally], float], by: float) -> str:
            """Each class's share in words, where they differ by more than `by`."""
            of = {LABEL_NAMES[label]: share(tally) for label, tally in sorted(full.items())}
            differ = max(of.values()) - min(of.values()) > by
            return ", ".join(f"{part:.0%} of the {name}" for name, part in of.items()) if differ else ""

        lines = []
        to, middle = common_size({label: tally.sides for label, tally in full.items()}, self.resolution)
        if told := apart(lambda tally: tally.enlarged / len(tally.sides), ENLARGED):
            lines.append(
                f"{told} images were enlarged to {self.resolution} px, and enlarged pictures are soft: take all "
                f"through one size with `through` {to}, or leave the small ones out with `min_side` {self.resolution}"
            )
        elif uneven(middle):
            told = ", ".join(f"{middle[label]:.0f} px a side ({LABEL_NAMES[label]})" for label in sorted(full))
            lines.append(
                f"the pictures were of different size before: {told}; reducing one class more takes away more of its "
                f"noise and blocks: `through` {to} (or smaller) evens that out in part, sources of like size altogether"
            )
        if told := apart(lambda tally: tally.outside / len(tally.sides), 0.02):
            lines.append(
                f"{told} pictures' area lay beyond the photos' edges and is mirrored: tight crops show so; take photos "
                "with more around the face, or `align` none"
            )
        if told := apart(lambda tally: tally.skipped.total() / (len(tally.sides) + tally.skipped.total()), 0.05):
            lines.append(f"{told} images were skipped: what is left of the classes is a different choice of each")
        return lines
