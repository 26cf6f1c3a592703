"""A named set, complete and in its place: from Kaggle, or from an archive or folder that a person downloaded."""

from __future__ import annotations

import os
import shutil
from collections import Counter

from common.errors import BadImage, UserError
from common.parallel import Progress, told
from faces.layout import FAKE, REAL, parts_of
from faces.named_sets import NAMED_SETS, NamedSet, by_hand_steps, root_folder
from faces.source import FaceSource, open_source

WORDS = {REAL: "real", FAKE: "fake"}


def named_set(name: str) -> NamedSet:
    """The set of that name. Raises UserError with the names there are."""
    if name == "demo":
        raise UserError("demo is drawn when it is used; there is nothing to fetch: just give it as SOURCE")
    if name not in NAMED_SETS:
        raise UserError(f"{name}: there is no set of that name; the sets are {', '.join(NAMED_SETS)}")
    return NAMED_SETS[name]


def counts(source: FaceSource) -> dict[tuple[str, int], int]:
    """Images of each (split, label); the split is "" where the source defines none."""
    return dict(Counter((item.split or "", item.label) for item in source.items))


def differences(named: NamedSet, source: FaceSource) -> list[str]:
    """What is not as published, a phrase each like «train real 49 998 instead of 50 000»; none where all is there."""
    if named.counts is None:
        return []
    expected = {(split, label): pair[label] for split, pair in named.counts.items() for label in (REAL, FAKE)}
    found = counts(source)
    order = [*expected, *sorted(set(found) - set(expected))]
    return [
        f"{split} {WORDS[label]}".strip()
        + f" {found.get((split, label), 0)} instead of {expected.get((split, label), 0)}"
        for split, label in order
        if found.get((split, label), 0) != expected.get((split, label), 0)
    ]


def bring(named: NamedSet, root: str | None, *, partial: bool = False) -> tuple[FaceSource, list[str]]:
    """(the set, how it differs from what was published), found under the data root or downloaded from Kaggle.

    kagglehub shows the progress, goes on with a broken download, and keeps the set in its own cache. Raises UserError
    where it can't be had (with the steps by hand), or differs and that is not allowed by `partial`."""
    root = root_folder(root)
    source = open_source(named.name, data_root=root)
    return source, _checked(named, source, source.store.locate("").rstrip(":/\\"), partial)


def place(
    named: NamedSet, given: str, root: str | None, *, partial: bool = False, progress: Progress | None = None
) -> tuple[FaceSource, list[str]]:
    """Put what a person downloaded (the archive, or a folder it was unpacked to) under the data root.

    It is checked before anything is written: both classes, and the published counts unless `partial`. Images are
    written below <root>/<name> only, whatever an archive's names say; nothing that is there is replaced; started again,
    it goes on where it was interrupted. The given file or folder stays. progress(done, total) counts images.
    Returns (the set, how it differs). Raises UserError."""
    given, root = os.path.expanduser(given), root_folder(root)
    target = os.path.join(root, named.name)
    if given in NAMED_SETS or not os.path.exists(given):
        raise UserError(f"`given` {given}: no such file or folder; give the archive or the folder you downloaded")
    source = open_source(given)
    if {item.label for item in source.items} != {REAL, FAKE}:
        raise UserError(f"`given` {given}: this is not {named.name}: it needs its label folders ({named.example}, …)")
    apart = _checked(named, source, f"`given` {given}", partial)
    if os.path.lexists(target) and not (os.path.isdir(target) and not os.listdir(target)):
        there = open_source(named.name, data_root=root, allow_fetch=False)
        _checked(named, there, target, partial)
        if counts(there) != counts(source):
            raise UserError(f"{target} exists, with other images; move it away, then fetch again")
        return there, apart
    if os.path.realpath(given) == os.path.realpath(target):
        return source, apart

    unfinished = os.path.join(root, f".{named.name}.unfinished")
    os.makedirs(unfinished, exist_ok=True)
    needed, free = sum(source.size(i) for i in range(len(source))), shutil.disk_usage(unfinished).free
    if needed > free:
        raise UserError(
            f"{unfinished}: {needed >> 20} MiB are needed and {free >> 20} MiB are free; make room, or give another"
            " `data_root`"
        )
    broken = _copy(source, unfinished, progress)
    if broken and not partial:
        raise UserError(
            f"`given` {given}: {len(broken)} of {len(source)} images can't be read ({broken[0]}); download it again"
            " (what was good is kept), or say `partial`"
        )
    _check_nothing_else(source, unfinished)
    os.rename(unfinished, target)
    return open_source(named.name, data_root=root, allow_fetch=False), apart + broken


def _checked(named: NamedSet, source: FaceSource, where: str, partial: bool) -> list[str]:
    apart = differences(named, source)
    if apart and not partial:
        raise UserError(
            f"{where}: not all of {named.name} as it was published: {'; '.join(apart)}; download it again"
            f" ({by_hand_steps(named)}), or accept it as it is with `partial`"
        )
    return apart


def _copy(source: FaceSource, folder: str, progress: Progress | None) -> list[str]:
    """Write every image below `folder`; returns what could not be had, a line each."""
    broken = []
    for i, item in enumerate(told(source.items, len(source), progress)):
        try:
            path = inside(folder, item.path)
            there = os.path.isfile(path) and not os.path.islink(path)
            if not there or os.path.getsize(path) != source.size(i):
                data = source.read(i)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "wb") as file:  # half a file is found by its size, the folder gets its name at the end
                    file.write(data)
        except BadImage as error:
            broken.append(str(error))
    return broken


def _check_nothing_else(source: FaceSource, folder: str) -> None:
    """An earlier, broken-off unpacking of another archive must not be mixed in."""
    wanted = {"/".join(parts_of(item.path)) for item in source.items}
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.relpath(os.path.join(place, name), folder).replace(os.sep, "/")
            if path not in wanted:
                raise UserError(
                    f"{folder} holds files of another archive (like {path}); delete that folder, then again"
                )


def inside(folder: str, path: str) -> str:
    """The path of an image below `folder`. Raises BadImage where its name leads outside, or is no name of a file."""
    parts = parts_of(path)
    odd = path.startswith(("/", "\\")) or any(part in (".", "..") or "\0" in part or ":" in part[:2] for part in parts)
    if odd or not parts:
        raise BadImage(path, "its name leads outside of the folder, refused")
    return os.path.join(folder, *parts)
