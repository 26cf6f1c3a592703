"""A detector's scores of many images as one table, and as CSV, so that any detector can be judged by its scores.

A file has one image per row: `path,label,score` and, where known, `source,generator,degradation` and a group. What this
project writes (with `verdict` besides) it reads again.
"""

from __future__ import annotations

import csv
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.files import written_whole
from common.tables import read_rows
from common.words import counted
from faces.label_columns import label_cell
from faces.manifest import text_column
from metrics.answers import called_fake

GROUPS = ("group", "identity", "person", "subject", "duplicate_group", "near_duplicate")
CLEAN = "clean"
UNDECIDED = "contradiction"  # the column of a file


@dataclass
class Scores:
    """Images with what a detector said of them, all [N].

    path, source, generator, degradation: object arrays of str. label int8: 0 real, 1 fake. score float64: grows with
    the belief that the image is fake. group: what must be drawn together by a bootstrap (object of str), or None.
    grouped_by: the column that `group` was. undecided bool: whether the detector would not decide whatever the
    threshold, because its two views contradict each other (default: nowhere).
    """

    path: np.ndarray
    label: np.ndarray
    score: np.ndarray
    source: np.ndarray
    generator: np.ndarray
    degradation: np.ndarray
    group: np.ndarray | None = None
    grouped_by: str = field(default="", compare=False)
    undecided: np.ndarray = None  # type: ignore[assignment]  # nowhere

    def __post_init__(self) -> None:
        if self.undecided is None:
            self.undecided = np.zeros(len(self.path), bool)

    def called(self, threshold: float) -> np.ndarray:
        """bool [N]: what is called FAKE at a threshold."""
        return called_fake(self.score, threshold, self.undecided)

    def __len__(self) -> int:
        return len(self.path)

    def select(self, mask: np.ndarray) -> Scores:
        """The rows where `mask` [N] is true, or those at the positions it holds."""
        columns = [f.name for f in fields(self) if f.name not in ("group", "grouped_by")]
        kept: dict[str, Any] = {name: getattr(self, name)[mask] for name in columns}
        return replace(self, **kept, group=None if self.group is None else self.group[mask])

    @classmethod
    def join(cls, parts: Sequence[Scores]) -> Scores:
        """All rows of `parts`. Where only some know groups, an image of the others is a group of its own."""
        columns: dict[str, Any] = {
            f.name: np.concatenate([getattr(part, f.name) for part in parts])
            for f in fields(cls)
            if f.name not in ("group", "grouped_by")
        }
        columns["group"] = join_groups([part.group for part in parts], [part.path for part in parts])
        return cls(**columns, grouped_by=next((part.grouped_by for part in parts if part.group is not None), ""))


def groups_in_words(groups: np.ndarray | None, by: str = "") -> str:
    """What intervals take for one draw, where images belong together ("" where each is alone); by: the column."""
    if groups is None or (count := len(np.unique(groups.astype(str)))) == len(groups):
        return ""
    return f"{len(groups)} images are {counted(count, 'group')}{f' by «{by}»' if by else ''}, each drawn whole"


def join_groups(groups: Sequence[np.ndarray | None], names: Sequence[Iterable]) -> np.ndarray | None:
    """The groups of several sets of images as one column: an image, by its name, of a set without groups is one of its
    own. None where no set has any."""
    if all(group is None for group in groups):
        return None
    sets = enumerate(zip(groups, names))
    return np.concatenate([text_column([f"\0{i}\0{n}" for n in own]) if g is None else g for i, (g, own) in sets])


def groups_from(values: Sequence[str], paths: Sequence[str]) -> np.ndarray | None:
    """A column of group names as `Scores.group`: an empty cell is a group of its own; None if all are empty."""
    if not any(values):
        return None
    return text_column([value or f"\0{path}" for value, path in zip(values, paths)])


def read_scores(path: str | os.PathLike, *, group_by: str | None = None) -> Scores:
    """A CSV of scores. The source of a row that names none is the file's name without its ending.

    group_by: the column whose equal values belong together (default: the first of `GROUPS` that is there).
    UserError, with the row, for a missing column, a label or a score that is none, or an image listed twice.
    """
    path = os.fspath(path)
    group_by = group_by and group_by.strip().lower()  # as the header is taken
    header, rows = _rows(path)
    for name in ("path", "label", "score"):
        if name not in header:
            known = ", ".join(header[:8])[:80] or "nothing"
            raise UserError(f"{path}: has no column «{name}» (it has: {known}); scores need path, label and score")
    if not rows:
        raise UserError(f"{path}: holds no rows, only a header; there is nothing to judge")
    if group_by is not None and group_by not in header:
        raise UserError(f"`group_by` {group_by}: {path} has no such column (it has: {', '.join(header)[:80]})")
    columns = {name: [row[i] for _, row in rows] for i, name in enumerate(header)}
    lines = [line for line, _ in rows]
    empty = [""] * len(rows)
    stem = Path(path).stem
    column = group_by or next((name for name in GROUPS if name in columns), "")
    found = Scores(
        path=text_column(columns["path"]),
        label=np.array(_parsed(path, lines, columns["label"], "label", _label), dtype=np.int8),
        score=np.array(_parsed(path, lines, columns["score"], "score", _score), dtype=np.float64),
        source=text_column([value or stem for value in columns.get("source", empty)]),
        generator=text_column(columns.get("generator", empty)),
        degradation=text_column([value.strip() or CLEAN for value in columns.get("degradation", empty)]),
        group=groups_from(columns.get(column, empty), columns["path"]),
        grouped_by=column,
        undecided=np.array(_parsed(path, lines, columns.get(UNDECIDED, ["0"] * len(rows)), UNDECIDED, _yes_no), bool),
    )
    seen: dict[tuple[str, str, str], int] = {}
    for line, key in zip(lines, zip(found.source, found.path, found.degradation)):
        first = seen.setdefault(key, line)
        if first != line:
            raise UserError(
                f"{path}, line {line}: {key[1]} was listed in line {first} already; one row per image (and degradation)"
            )
    return found


def own_thresholds(path: str | os.PathLike) -> np.ndarray | None:
    """float64 [n]: the column `threshold` of a table of scores, in its order, such as of out-of-fold scores whose folds
    have one each; None where it has no such column. UserError, with the row, for a cell that is no number."""
    path = os.fspath(path)
    found = column_of(path, "threshold")
    return None if found is None else np.array(_parsed(path, *found, "threshold", _score), dtype=np.float64)


def column_of(path: str, name: str) -> tuple[list[int], list[str]] | None:
    """(lines of the file, cells) of one column, None where it has no such column."""
    header, rows = _rows(path)
    if name not in header:
        return None
    at = header.index(name)
    return [line for line, _ in rows], [row[at] for _, row in rows]


def _rows(path: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    if not os.path.exists(path):
        raise UserError(f"{path}: there is no such file; give a CSV of scores, or a detector")
    lines = read_rows(path)
    header = [name.strip().lower() for name in next(lines)[1]]
    rows = list(lines)
    if double := next((name for name, times in Counter(header).items() if times > 1), None):
        raise UserError(f"{path}: its header names the column {double!r} twice; rename one")
    return header, rows


def _parsed(path: str, lines: Sequence[int], cells: Sequence[str], name: str, parse) -> list:
    values = [parse(cell.strip()) for cell in cells]
    bad = [i for i, value in enumerate(values) if value is None]
    if bad:
        more = f", and {counted(len(bad) - 1, 'more row')} like it" if len(bad) > 1 else ""
        wanted = {"label": "0, 1, real or fake", UNDECIDED: "0 or 1"}.get(name, "a number")
        raise UserError(
            f"{path}, line {lines[bad[0]]}: the {name} is {cells[bad[0]][:40]!r}, not {wanted}{more}; correct the file"
        )
    return values


def _label(cell: str) -> int | None:
    label = label_cell(cell)
    return label if label is None or label >= 0 else None


def _yes_no(cell: str) -> bool | None:
    return {"0": False, "1": True, "": False}.get(cell)


def _score(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def write_scores(path: str | os.PathLike, scores: Scores, verdicts: Iterable[str]) -> None:
    """Write the table with a `verdict` for each row, whole or not at all; scores keep every digit.

    The column degradation is there if there is more than clean images, the group's under its own name if there is one,
    and «contradiction» (0 or 1) if two views contradict each other somewhere.
    """
    columns: dict[str, Iterable] = {
        "path": scores.path,
        "label": scores.label.tolist(),
        "source": scores.source,
        "generator": scores.generator,
        "score": map(repr, scores.score.tolist()),
        "verdict": verdicts,
    }
    if scores.undecided.any():
        columns[UNDECIDED] = scores.undecided.astype(int).tolist()
    if (scores.degradation != CLEAN).any():
        columns["degradation"] = scores.degradation
    if scores.group is not None:
        columns[scores.grouped_by or "group"] = ["" if name.startswith("\0") else name for name in scores.group]

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        written_whole(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values()))
