"""What the images of a source are, real or fake and of which split, by the folders they lie in: nothing by default.

An image is real because something says so: a folder's name, a person (`LabelRule`), or that no folder of the source
says anything of labels and none can hide them. What is left out is counted and named.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from common.errors import UserError
from common.words import counted
from faces.layout import (
    AS_NAMED,
    FAKE,
    LABEL_NAMES,
    REAL,
    FolderNames,
    LabelRule,
    Reading,
    label_of,
    label_word,
    labels_as,
    parts_of,
    sounds_fake,
)

LEFT_OUT = -1
NAMED = 6  # folders that a line names
BEGINNING = re.compile(r"(reals?|(?:deep)?fakes?)(?=[\W_\d])", re.IGNORECASE)


@dataclass
class Labelled:
    """labels int8 [n]: 0 real, 1 fake, -1 left out. splits [n]. names: which folders tell what. notes: lines for the
    person. untold: nothing told a label, and all of it counts as real. strangers: its folders of unknown names."""

    labels: np.ndarray
    splits: list[str | None]
    names: FolderNames
    notes: list[str] = field(default_factory=list)
    untold: bool = False
    strangers: list[str] = field(default_factory=list)


def label_paths(
    paths: Sequence[str],
    where: str,
    root: str = "",
    reading: Reading = AS_NAMED,
    *,
    classed: Callable[[], bool] = lambda: False,
) -> Labelled:
    """Labels and splits of images by their paths below a source.

    where: the source, for messages. root: its own name, that tells a label where nothing below does. classed: whether a
    dataset.json says what unknown folders are. Raises UserError for two folders of unknown names where no name tells a
    label, and where `reading.labels` fits nothing."""
    rule = LabelRule.parse(reading.labels)
    each = [parts_of(path)[:-1] for path in paths]
    counts = Counter(each)
    names = FolderNames.read(counts, rule, numbers=not reading.classes)
    of = {folders: names.label(folders) for folders in counts}
    done = Labelled(np.zeros(0), [], names)
    if rule is not None:
        otherwise = _ruled(rule, of, counts, where, root, done)
    elif any(label is not None for label in of.values()):
        otherwise = LEFT_OUT
        done.notes += _guessed(names)
    elif label_word(root) is None and (_by_file(paths) == FAKE).any():
        otherwise, done.names = REAL, dataclasses.replace(names, by_file=True)
    else:
        otherwise = _untold(counts, where, root, reading, classed, done)
    told = {folders: otherwise if label is None else label for folders, label in of.items()}
    done.labels = np.array([told[folders] for folders in each], dtype=np.int8)
    done.notes += _left_out(
        {f: n for f, n in counts.items() if told[f] == LEFT_OUT}, counts, done.names,
        "outside the real and fake folders",
    )  # fmt: skip
    if done.names.by_file:
        done.labels = _by_file(paths)
        done.notes.append(_said_by_file(done.labels, paths))
    splits = {folders: names.split(folders) for folders in counts}
    if not reading.unsplit and any(splits[f] is not None for f in counts if told[f] != LEFT_OUT):
        outside = {f: n for f, n in counts.items() if splits[f] is None and told[f] != LEFT_OUT}
        why = f"in no split, where others are ({_known(splits.values())})"
        done.notes += _left_out(outside, counts, names, why)
        done.labels[np.array([folders in outside for folders in each], dtype=bool)] = LEFT_OUT
    if rule is None:
        done.notes += _two_in_one_path(Counter(f for f, label in zip(each, done.labels) if label >= 0))
    done.splits = [splits[folders] for folders in each]
    return done


def _by_file(paths: Sequence[str]) -> np.ndarray:
    """int8 [n]: labels by the beginnings of file names, `real_0001.jpg` and `fake12.png`; -1 where these tell none."""
    found = (BEGINNING.match(path.replace("\\", "/").rsplit("/", 1)[-1]) for path in paths)
    return np.array([LEFT_OUT if match is None else label_word(match[1]) for match in found], dtype=np.int8)


def _said_by_file(labels: np.ndarray, paths: Sequence[str]) -> str:
    real, fake, other = (int((labels == label).sum()) for label in (REAL, FAKE, LEFT_OUT))
    line = f"labels are by the beginnings of file names, real or fake: {real} real, {fake} fake"
    rest = [path for path, label in zip(paths, labels) if label == LEFT_OUT]
    return line + (f"; {other} of other names left out ({_few(rest)})" if other else "")


def _ruled(rule: LabelRule, of: dict, counts: Counter, where: str, root: str, done: Labelled) -> int:
    """The label of images in none of the folders that the person named."""
    met = {key for key in rule.words if any(_within(key, folders) for folders in counts)}
    absent = [rule.name(key) for key in rule.words if key not in met]
    if not met:
        own = rule.cell(root)
        if own is not None:
            return own
        there = Counter(name for folders in counts for name in folders)
        raise UserError(
            f"`labels` {rule.text}: no folder of {where} is called {' or '.join(absent)};"
            + (f" there are {_few(list(there))}" if there else " it has no folders")
            + _of_several(absent)
        )
    if absent:
        done.notes.append(f"{where}: no folder is called {', '.join(absent)}, as `labels` says{_of_several(absent)}")
    return LEFT_OUT


def _of_several(absent: Sequence[str]) -> str:
    """What helps those who wrote real=A,B."""
    return "; of several folders say real=A,real=B" if any("," in name for name in absent) else ""


def _within(key: tuple[str, ...], folders: tuple[str, ...]) -> bool:
    low = tuple(name.casefold() for name in folders)
    return any(low[i : i + len(key)] == key for i in range(len(low) - len(key) + 1))


def _guessed(names: FolderNames) -> list[str]:
    """A line where labels follow from names of many meanings."""
    if not names.unsure:
        return []
    said = ", ".join(f"{name} is {LABEL_NAMES[label]}" for name, label in sorted(names.unsure.items()))
    turned = labels_as(("real", "A"), ("fake", "B"))
    if set(names.unsure.values()) == {REAL, FAKE}:
        turned = labels_as(*((LABEL_NAMES[1 - label], name) for name, label in sorted(names.unsure.items())))
    return [f"taken by the folders' names: {said}; if it is not so, say {turned}"]


def _untold(
    counts: Counter, where: str, root: str, reading: Reading, classed: Callable[[], bool], done: Labelled
) -> int:
    """The label of all images where no folder tells one."""
    if (own := label_word(root)) is not None:
        return own  # a folder called "fake" given directly must not pass for real photos
    done.untold = True
    if reading.otherwise is not None:
        return reading.otherwise
    strangers = done.names.strangers(counts)
    named = [name for name in strangers if name]
    total = sum(counts.values())
    if not named or reading.classes or (len(strangers) > 1 and classed()):
        pieces = [] if reading.classes else done.names.pieces(counts)
        done.notes += _in_doubt(counts, root, total, [] if pieces and classed() else pieces)
        return REAL
    done.strangers = named
    if len(strangers) == len(named) == 2 and reading.ask:
        a, b = named
        raise UserError(
            f"{where}: nothing says which images are real and which are fake, in its folders {a} and {b}; say"
            f" {labels_as(('real', a), ('fake', b))} or the other way round, or"
            f" {labels_as(('real', a), ('real', b))} if all are real"
        )
    found = _few(named)
    done.notes.append(
        f"no folder is called real or fake, so all {total} images count as real (in {found}); if they are not, say"
        " `labels` real=A,fake=B"
    )
    return REAL


def _in_doubt(counts: Counter, root: str, total: int, pieces: Sequence[str]) -> list[str]:
    """A line where all images count as real, but a name sounds otherwise, or folders that may be classes differ in a
    number alone."""
    count = f"all {total} images count" if total > 1 else "its one image counts"
    doubtful = next((name for name in (root, *(f for path in counts for f in path)) if sounds_fake(name)), None)
    if doubtful is not None:
        word = labels_as(("fake", doubtful))
        return [
            f"no folder is called real or fake, so {count} as real; «{doubtful}» sounds of fakes: if they are, say"
            f" {word}"
        ]
    if pieces:
        which = f"{_few(pieces)} are taken for pieces of one folder"
        return [f"{which}, so {count} as real; if they are not, say `labels` real=A,fake=B"]
    return []


def _left_out(
    folders: dict[tuple[str, ...], int], every: Iterable[tuple[str, ...]], names: FolderNames, why: str
) -> list[str]:
    """folders: what is left out, of `every` folder there is, with the number of images."""
    if not folders:
        return []
    inside = {path[:i] for path in every if path not in folders for i in range(len(path) + 1)}
    places: Counter[str] = Counter()
    for path, count in folders.items():
        own = [f for i, f in enumerate(path) if path[: i + 1] not in inside]  # without those that hold what is kept
        places[next((f for f in own if not names.tells(f)), path[-1] if path else "")] += count
    total = sum(places.values())
    loose = places.pop("", 0)
    said = [*([_few(list(places))] if places else []), *([f"{loose} in no folder"] if loose else [])]
    return [f"{counted(total, 'image')} {why}, left out ({' and '.join(said)})"]


def _two_in_one_path(counts: Counter) -> list[str]:
    """A line where a folder called fake holds nothing but reals in folders of their own, or the other way round."""
    inside: dict[tuple[str, ...], set[int | None]] = {}
    for path in counts:
        label = label_of(path)
        for i in range(len(path)):
            inside.setdefault(path[: i + 1], set()).add(label)
    odd = sorted(
        path
        for path in counts
        for i, name in enumerate(path)
        if (label := label_word(name)) is not None and inside[path[: i + 1]] == {1 - label}
    )
    if not odd:
        return []
    total, last = sum(counts[path] for path in set(odd)), odd[0]
    return [
        f"{counted(total, 'image')} in folders whose names contradict each other, like {'/'.join(last)}: the"
        f" nearest one counts ({LABEL_NAMES[label_of(last) or REAL]})"
    ]


def _known(splits) -> str:
    found = set(splits)
    return ", ".join(name for name in ("train", "valid", "test") if name in found)


def _few(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def contradictions(where: str, paths: Sequence[str], labels: np.ndarray, numbers: bool) -> list[str]:
    """A note where a list's labels and the folders' names disagree; UserError where they always do: for some, 1 is
    real. numbers: whether the labels are the list's own, not a person's word."""
    said = np.array([-1 if (label := label_of(parts_of(path)[:-1])) is None else label for path in paths])
    known = (said >= 0) & (labels >= 0)
    against = np.flatnonzero(known & (said != labels))
    if not len(against):
        return []
    like = f"like {paths[against[0]]}"
    if numbers and len(against) == known.sum() >= MANY:
        raise UserError(
            f"{where}: every label is the opposite of the folder's name ({like}: label {labels[against[0]]}); here 0 is"
            " real and 1 is fake: say `labels` real=1,fake=0, or delete the column, then folders count"
        )
    count = len(against)
    return [f"{where}: {counted(count, 'image')} with another label than the folder's name says, {like}"]


MANY = 10  # images whose labels all contradict their folders: no accident
