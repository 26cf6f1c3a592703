"""Out-of-fold scores: each image with what the one detector said that was kept away from it, as CSV.

Columns: path, label, source, generator, score (calibrated probability of fake), verdict (at the fold's own
threshold), group, fold, repeat, logit (raw, of the network), threshold (the own one). `evaluate.py detector` reads it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.files import write_bytes
from discriminator.calibration import Calibration
from discriminator.folds.data import Fold, HeldOut
from discriminator.verdict import decide
from metrics.folds import figures

COLUMNS = (
    "path", "label", "source", "generator", "score", "verdict", "group", "fold", "repeat", "logit", "threshold",
)  # fmt: skip


@dataclass
class FoldScores:
    """One fold's scores. rows: of COLUMNS, as text; arrays [n]; threshold: the shipped one of the fold's detector."""

    rows: list[list[str]]
    label: np.ndarray
    score: np.ndarray
    group: np.ndarray
    fold: int
    repeat: int
    threshold: float

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def called(self) -> np.ndarray:
        """bool [n]: FAKE was said."""
        return self.score >= self.threshold

    def figures(self) -> dict:
        """Every figure of `metrics.folds.ALL` on these images."""
        return figures(self.label, self.score, self.called)


def write_fold(path: Path, images: HeldOut, logits: np.ndarray, calibration: Calibration, fold: Fold) -> None:
    """Write what a fold's detector said of `images`."""
    source, _, table, groups = images
    point = calibration.at()
    probabilities = calibration.probability(logits)
    blank = [""] * len(source)
    sources = [str(v) or source.name for v in (table["source"].tolist() if table is not None else blank)]
    generators = [str(v) for v in (table["generator"].tolist() if table is not None else blank)]
    ids = blank if groups is None else [str(g) for g in groups.tolist()]
    items = source.items
    rows = [
        [items[i].path, str(int(items[i].label)), sources[i], generators[i], repr(float(p)), decide(float(p), point),
         ids[i], str(fold.number), str(fold.repeat), repr(float(logits[i])), repr(float(point.threshold))]
        for i, p in enumerate(probabilities)
    ]  # fmt: skip
    _write(path, rows)


def write_table(path: Path, tables: Sequence[FoldScores], order: np.ndarray, repeats: int) -> None:
    """All folds in one table. order [sum of lengths]: the place of each row's image in the data. With several repeats
    an image comes once in each, its source saying in which."""
    rows = [row for table in tables for row in table.rows]
    repeat = [table.repeat for table in tables for _ in table.rows]
    if repeats > 1:
        at = COLUMNS.index("source")
        rows = [[*r[:at], f"{r[at]} (repeat {k + 1})", *r[at + 1 :]] for r, k in zip(rows, repeat, strict=True)]
    _write(path, [rows[i] for i in np.lexsort((order, np.array(repeat)))])


def _write(path: Path, table: Iterable[Sequence[str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *table])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"))


def read_fold(path: Path) -> FoldScores:
    """A table of `write_fold`. UserError where it is none."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            head, *rows = list(csv.reader(file))
        if tuple(head) != COLUMNS or not rows:
            raise UserError("columns")
        columns = dict(zip(COLUMNS, zip(*rows, strict=True), strict=True))
        return FoldScores(
            rows,
            np.array([int(v) for v in columns["label"]], np.int64),
            np.array([float(v) for v in columns["score"]]),
            np.array(columns["group"], dtype=object),
            int(columns["fold"][0]),
            int(columns["repeat"][0]),
            float(columns["threshold"][0]),
        )
    except (ValueError, KeyError):
        raise UserError(f"{path}: not a fold's table of scores; remove it, and `resume` makes it again") from None
