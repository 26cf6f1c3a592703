"""Which column of a table of images says what is real and what is fake, and whether two of them contradict.

The column `label` holds 0, 1, real, fake, or another word of these meanings (docs/data.md); here 1 is fake. In others'
tables 1 may be real, or the label lies in a column of another name: then words, which mean one thing, decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from faces.layout import FAKE, LABEL_NAMES, REAL, LabelRule, label_word, words_of

UNKNOWN = -1
MOST = 64  # different words of a column of labels, at most
# A column of such a name tells labels where none is called `label`; its numbers are taken as those of `label`.
NAMES = frozenset(
    "labels label_str label_name label_text class class_name class_str classname target targets category ground_truth"
    " gt truth y verdict kind type".split()
)
YES = {
    **dict.fromkeys(("is_fake", "isfake", "fake", "is_deepfake", "is_generated", "deepfake"), FAKE),
    **dict.fromkeys(("is_real", "isreal", "real"), REAL),
}
TRUTH = {"1": 1, "1.0": 1, "true": 1, "yes": 1, "0": 0, "0.0": 0, "false": 0, "no": 0}
_PLAIN = {"": UNKNOWN, "-1": UNKNOWN, "0": REAL, "1": FAKE, "0.0": REAL, "1.0": FAKE}


def label_cell(text: str, rule: LabelRule | None = None) -> int | None:
    """0 (real), 1 (fake), -1 for nothing, None for what can't be understood. rule: goes first; numbers then mean what
    it says and nothing else."""
    text = text.strip()
    if rule is not None and (found := rule.cell(text)) is not None:
        return found
    number = _PLAIN.get(text.lower())
    if number is not None and (rule is None or number == UNKNOWN or not _numbered(rule)):
        return number
    return label_word(text, alone=True) if number is None else None


def _numbered(rule: LabelRule) -> bool:
    return any(word.isdecimal() for key in rule.words for word in key)


@dataclass(frozen=True)
class Column:
    """A column that tells labels: its name, int8 [n], and whether it says so in words, not in numbers."""

    name: str
    labels: np.ndarray
    words: bool


def find_labels(
    table: dict[str, Sequence[str]], label: np.ndarray | None, where: str, rule: LabelRule | None, known: Sequence[str]
) -> tuple[np.ndarray | None, list[str]]:
    """(labels int8 [n] or None, notes) of a table of texts. label: what its column `label` says; known: the columns
    with a meaning of their own. Raises UserError where two columns contradict each other."""
    others = [
        column for name, cells in table.items() if name not in known and (column := _column(name, cells, rule, where))
    ]
    notes: list[str] = []
    if rule is not None and (others or label is not None):
        _check_rule(rule, {name: table[name] for name in ("label", *(c.name for c in others)) if name in table}, where)
    if label is None:
        others.sort(key=lambda column: not column.words)
        if not others or not (others[0].labels >= 0).any():
            return None, notes
        name, label = others[0].name, others[0].labels
        counts = ", ".join(f"{int((label == k).sum())} {LABEL_NAMES[k]}" for k in (REAL, FAKE))
        notes.append(f"{where}: labels are those of its column «{name}» ({counts})")
    else:
        name = "label"
    for column in others:
        _compare(label, name, column, table, where)
    return label, notes


def _check_rule(rule: LabelRule, columns: dict[str, Sequence[str]], where: str) -> None:
    """UserError where nothing in the columns of labels is what a person named."""
    cells = {name: set(values) for name, values in columns.items()}
    if not any(rule.cell(text) is not None for texts in cells.values() for text in texts):
        held = "; ".join(f"{name}: {', '.join(sorted(texts)[:4])}" for name, texts in cells.items())
        raise UserError(f"`labels` {rule.text}: {where} holds nothing of that name in its labels ({held}); correct it")


def _column(name: str, cells: Sequence[str], rule: LabelRule | None, where: str) -> Column | None:
    """What a column says of labels; None where it says nothing of them."""
    different = set(cells)
    if len(different) > MOST or not different - {""}:
        return None
    low = "_".join(words_of(name))
    if low in YES and all(text.strip().lower() in TRUTH or not text.strip() for text in different):
        kinds = {t: UNKNOWN if not t.strip() else (YES[low] if TRUTH[t.strip().lower()] else 1 - YES[low])
                 for t in different}  # fmt: skip
        return Column(name, _array(cells, kinds), True)
    found = {text: label_cell(text, rule) for text in different}
    if low in NAMES and low != "type":
        if all(value is not None for value in found.values()):
            return Column(name, _array(cells, found), any(label_word(text) is not None for text in different))
        return None
    sure = {text: UNKNOWN if not text.strip() else label_word(text) for text in different}
    if None in sure.values():
        return None
    return Column(name, _array(cells, sure), True)


def _array(cells: Sequence[str], kinds: dict) -> np.ndarray:
    return np.array([kinds[text] for text in cells], dtype=np.int8)


def _compare(label: np.ndarray, name: str, other: Column, table: dict[str, Sequence[str]], where: str) -> None:
    both = (label >= 0) & (other.labels >= 0)
    against = np.flatnonzero(both & (label != other.labels))
    if not len(against) or not other.words:
        return
    at = int(against[0])
    said = f"{name} is {table[name][at]!r} ({LABEL_NAMES[label[at]]} here)"
    whole = len(against) == int(both.sum())
    swapped = "`labels` real=1,fake=0 where 1 is real, else " if whole else ""
    raise UserError(
        f"{where}, row {at + 1}: {said} and «{other.name}» is {table[other.name][at]!r}, like {len(against) - 1} more"
        f" rows; give {swapped}mend or delete one of the two columns"
    )
