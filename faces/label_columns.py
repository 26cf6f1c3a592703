"""Which column of a table of images says what is real and what is fake, and whether two of them contradict.

The column `label` holds 0, 1, real, fake, or another word of these meanings (docs/data.md); here 1 is fake. In others'
tables 1 may be real, or the label lies in a column of another name: then words, which mean one thing, decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from faces.layout import FAKE, LABEL_NAMES, REAL, LabelRule, label_word, labels_as, words_of

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
MISSING = frozenset(("", "nan", "none", "null", "na", "n/a", "<na>", "?", "unknown"))  # as tables say nothing
_PLAIN = {"-1": UNKNOWN, "0": REAL, "1": FAKE, "0.0": REAL, "1.0": FAKE}


def label_cell(text: str, rule: LabelRule | None = None) -> int | None:
    """0 (real), 1 (fake), -1 for nothing, None for what can't be understood. rule: goes first; numbers then mean what
    it says and nothing else."""
    text = text.strip()
    if rule is not None and (found := rule.cell(text)) is not None:
        return found
    number = UNKNOWN if is_missing(text) else _PLAIN.get(text.lower())
    if number is not None and (rule is None or number == UNKNOWN or not _numbered(rule)):
        return number
    return label_word(text, alone=True) if number is None else None


def is_missing(text: str) -> bool:
    """Whether a cell says nothing."""
    return text.strip().lower() in MISSING


def _numbered(rule: LabelRule) -> bool:
    return any(word.isdecimal() for key in rule.words for word in key)


@dataclass(frozen=True)
class Column:
    """A column that tells labels: its name, int8 [n], and whether it says so in words, not in numbers."""

    name: str
    labels: np.ndarray
    words: bool


@dataclass(frozen=True)
class Doubt:
    """A column that may tell labels, and was not understood: its name, what it holds, and whether its name says so."""

    name: str
    held: tuple[str, ...]
    named: bool


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
        if column.name != name:
            notes += _compare(label, name, column, table, where)
    return label, notes


def doubts(table: dict[str, Sequence[str]], known: Sequence[str]) -> list[Doubt]:
    """The columns of a table without labels that may tell them: by their names, or because they hold two things."""
    found = []
    for name, cells in table.items():
        held = {text.strip() for text in cells if not is_missing(text)} if name not in known else set()
        named = names_labels(name)
        if len(held) == 2 or (named and 1 < len(held) <= MOST):
            found.append(Doubt(name, tuple(sorted(held)), named))
    return sorted(found, key=lambda doubt: not doubt.named)


def names_labels(name: str) -> bool:
    """Whether a column is called as one of labels is."""
    low = "_".join(words_of(name))
    return low == "label" or low in NAMES or _tells_truth(low) is not None


def undecided(where: str, images: int, asked: Sequence[Doubt]) -> list[str]:
    """A line about a list of which nothing told labels, so that all its images count as real. Raises UserError where a
    column's name and cells say that it tells them."""
    for doubt in asked:
        known = [text for text in doubt.held if label_word(text) is not None]
        column = f"{where}: its column «{doubt.name}» holds"
        if doubt.named and known:
            other = next(text for text in (*doubt.held, known[0]) if text not in known or len(known) == len(doubt.held))
            raise UserError(
                f"{column} {known[0]!r} and {other!r}; say what that is: {labels_as(('fake', other))}, or real"
            )
        if doubt.named and len(doubt.held) == 2:
            a, b = doubt.held
            raise UserError(
                f"{column} {a!r} and {b!r}, and nothing else says which images are real and which are fake; say"
                f" {labels_as(('real', a), ('fake', b))} or the other way round, or"
                f" {labels_as(('real', a), ('real', b))} if all are real"
            )
    if not asked:
        return []
    some = "; ".join(f"{doubt.name}: {', '.join(doubt.held[:3])}" for doubt in asked[:3])
    count = f"all {images} images count" if images > 1 else "its one image counts"
    return [
        f"{where}: no column is known to tell real from fake ({some}), so {count} as real; if one does, call it label"
    ]


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
    yes = _tells_truth(low)
    if yes is not None and all(text.strip().lower() in TRUTH or is_missing(text) for text in different):
        kinds = {t: UNKNOWN if is_missing(t) else (yes if TRUTH[t.strip().lower()] else 1 - yes) for t in different}
        return Column(name, _array(cells, kinds), low in YES)
    words = {text: UNKNOWN if is_missing(text) else label_word(text, alone=True) for text in different}
    if yes is not None and None not in words.values() and not any(text.strip().isdecimal() for text in different):
        return Column(name, _array(cells, words), True)
    found = {text: label_cell(text, rule) for text in different}
    if (low in NAMES and low != "type") or (yes is not None and rule is not None):
        if all(value is not None for value in found.values()):
            return Column(name, _array(cells, found), any(label_word(text) is not None for text in different))
        return None
    sure = {text: UNKNOWN if is_missing(text) else label_word(text) for text in different}
    if None in sure.values() or set(sure.values()) == {UNKNOWN}:
        return None
    return Column(name, _array(cells, sure), True)


def _tells_truth(name: str) -> int | None:
    """What an image is of which a column called `is_fake`, `ai_generated` or `real` says yes; None for other names."""
    return YES[name] if name in YES else label_word(name.removeprefix("is_"), alone=True)


def _array(cells: Sequence[str], kinds: dict) -> np.ndarray:
    return np.array([kinds[text] for text in cells], dtype=np.int8)


def _compare(label: np.ndarray, name: str, other: Column, table: dict[str, Sequence[str]], where: str) -> list[str]:
    """UserError where a column of words contradicts the labels, a line where one of numbers does."""
    both = (label >= 0) & (other.labels >= 0)
    against = np.flatnonzero(both & (label != other.labels))
    if not len(against):
        return []
    at = int(against[0])
    said = f"{name} is {table[name][at]!r} ({LABEL_NAMES[label[at]]} here)"
    if not other.words:
        also = f", like {len(against) - 1} more rows" if len(against) > 1 else ""
        return [f"{where}, row {at + 1}: {said}, and «{other.name}» {table[other.name][at]!r}{also}; «{name}» counts"]
    whole = len(against) == int(both.sum())
    swapped = "give `labels` real=1,fake=0 where 1 is real, else " if whole else ""
    raise UserError(
        f"{where}, row {at + 1}: {said} and «{other.name}» is {table[other.name][at]!r}, like {len(against) - 1} more"
        f" rows; {swapped}mend or delete one of the two columns"
    )
