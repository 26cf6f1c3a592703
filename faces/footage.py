"""Videos as material for a set of faces: which there are, what they are, and which must stay together.

A frame is nearly the frame before it, so a detector that has learnt from one frame of a video is not tested by another:
what is dealt to train, valid and test is the video, with those that show the same person where that is known.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from common.words import counted
from faces.field_lists import METADATA, is_list, is_metadata, read_list, videos_of
from faces.label_columns import undecided
from faces.labelling import label_paths
from faces.layout import LabelRule, Reading, label_word, natural_key, parts_of, split_word
from faces.manifest import Manifest, manifest_of, text_column
from faces.prepare_options import Framing
from faces.similar import components, exact_groups, in_order, joined
from faces.splitting import identity_groups, parse_ratios, split
from faces.stores import ManifestStore, firsts, list_folder
from faces.video import is_moving, is_video_name

# FaceForensics++: the video 033_097 is 033 with the face of 097
NUMBER, PAIR = re.compile(r"(?:.*\D)?(\d{3})"), re.compile(r"(?:.*\D)?(\d{3})_(\d{3})")
ANIMATED = (".gif", ".webp", ".png", ".apng", ".avif")  # some of these move


@dataclass
class Footage:
    """Videos: path (to be opened), name (of its folder among the results), label 0 or 1, split, and a group: what must
    not be torn. notes: what was left out, and how labels were found."""

    paths: list[str]
    names: list[str]
    labels: np.ndarray
    splits: list[str]
    groups: np.ndarray
    notes: list[str]

    def __len__(self) -> int:
        return len(self.paths)


def open_footage(asked: Framing, seed: int) -> Footage:
    """The videos of a folder, or of a list with a column `path`, labelled and dealt out.

    Labels: DFDC's metadata.json in any folder, else folders' names (`faces.layout`), else `asked.labels`. Splits: the
    videos' own where there are two or more of them, else by `asked.ratios`. UserError where there is nothing to do."""
    spec = os.path.expanduser(asked.videos)
    listed = os.path.isfile(spec) and is_list(spec) and not is_metadata(spec)
    folder = os.path.dirname(spec) or "." if is_metadata(spec) else spec
    table, notes = _listed(spec, asked) if listed else _in_folder(folder, asked)
    if not len(table):
        raise UserError(f"{spec}: holds no videos that can be used" + "".join(f" ({note})" for note in notes))
    groups = _together(table, asked.identity)
    own = {text for text in table["split"].tolist() if text}
    if len(own) < 2:
        ratios = parse_ratios(asked.ratios)
        parts, _ = split(table, ratios, groups=groups, seed=seed)
    else:
        parts = table["split"]
        notes.append(f"the videos' own splits are kept ({', '.join(sorted(own))})")
        if not all(parts.tolist()):
            parts, _ = split(table, parse_ratios(asked.ratios), groups=groups, seed=seed, keep_splits=True)
    paths = table["path"].tolist()
    where = [os.path.join(table.folder, path) for path in paths]
    return Footage(where, _names(paths), table["label"], parts.tolist(), groups, notes)


def _listed(spec: str, asked: Framing) -> tuple[Manifest, list[str]]:
    """The videos that a list names."""
    rows = read_list(spec, LabelRule.parse(asked.labels))
    asked_columns = rows.doubts
    notes, paths = list(rows.notes), [path.replace("\\", "/") for path in rows["path"].tolist()]
    rows = rows.having(path=text_column(paths))
    if "label" not in rows:
        told = label_paths(paths, spec, reading=Reading(asked.labels, unsplit=True))
        unread = undecided(spec, len(paths), asked_columns) if told.untold else []
        rows, notes = rows.having(label=told.labels), notes + told.notes + unread
    same = ManifestStore(rows.folder).identities(paths)
    kept = [i for i in firsts(same).tolist() if rows["label"][i] >= 0]
    if len(kept) < len(rows):
        notes.append(f"{spec}: {counted(len(rows) - len(kept), 'row')} without a label, or named twice, left out")
    rows = rows.select(kept)
    return _table(rows["path"].tolist(), rows["label"], rows["split"].tolist(), rows, rows.folder), notes


def _in_folder(folder: str, asked: Framing) -> tuple[Manifest, list[str]]:
    notes: list[str] = []
    if os.path.isfile(folder) and is_video_name(folder):
        paths, notes, folder = [os.path.basename(folder)], [], os.path.dirname(folder) or "."
    elif os.path.isdir(folder):
        entries, notes = list_folder(folder, lambda name: is_video_name(name) or name.lower().endswith(ANIMATED))
        moving = (e.path for e in entries if is_video_name(e.path) or is_moving(os.path.join(folder, e.path)))
        paths = sorted(moving, key=natural_key)
    else:
        raise UserError(f"{folder}: no such folder, video or list of videos; give one")
    notes = [note for note in notes if "HEIC" not in note]  # photos beside videos are no matter here
    if not paths:
        raise UserError(f"{folder}: no videos in it; give a folder of videos")
    told = _by_metadata(folder, paths, asked)
    if told is None:
        found = label_paths(paths, folder, os.path.basename(os.path.abspath(folder)), Reading(asked.labels))
        labels, splits, originals = found.labels, [s or "" for s in found.splits], list(paths)
        notes += found.notes
    else:
        labels, splits, originals, more = told
        notes += more
    kept = np.flatnonzero(labels >= 0)
    table = _table(paths, labels, splits, None, folder).having(original=text_column(originals))
    return table.select(kept), notes


def _by_metadata(
    folder: str, paths: Sequence[str], asked: Framing
) -> tuple[np.ndarray, list[str], list[str], list[str]] | None:
    """(labels, -1 for a video that none names; splits; originals; notes) by metadata.json in the videos' folders."""
    rule, known = LabelRule.parse(asked.labels), {}
    for inside in {os.path.dirname(path) for path in paths}:
        file = os.path.join(folder, inside, METADATA)
        if os.path.isfile(file) and is_metadata(file):
            for name, told in videos_of(file, rule).items():
                known[os.path.join(inside, name) if inside else name] = told
    if not known:
        return None
    labels = np.array([known[path][0] if path in known else -1 for path in paths], dtype=np.int8)
    splits = [known[path][1] if path in known else "" for path in paths]
    originals = [os.path.basename(known[path][2]) if path in known else path for path in paths]
    strangers = [path for path in paths if path not in known]
    count = len(strangers)
    what = f"{counted(count, 'video')} that no {METADATA} names, left out"
    notes = [f"{what}, like {strangers[0]}"] if strangers else []
    return labels, splits, originals, notes


def _table(paths: list[str], labels: np.ndarray, splits: list[str], rows: Manifest | None, folder: str) -> Manifest:
    count = len(paths)
    own: dict[str, list] = {name: [None] * count for name in
                            ("fold", "sha256", "phash", "size", "quality", "width", "height", "format")}  # fmt: skip
    own |= {"path": paths, "label": labels.tolist(), "split": splits, "source": [""] * count, "generator": [""] * count}
    return manifest_of(own, rows, folder)


def _together(table: Manifest, pattern: str | None) -> np.ndarray:
    """int64 [n]: videos with one number must stay together: one original, one person, one pair of FaceForensics++."""
    stems = [os.path.splitext(parts_of(path)[-1])[0] for path in table["path"].tolist()]
    pairs = [PAIR.fullmatch(stem) for stem in stems]
    single = [NUMBER.fullmatch(stem) if any(pairs) else None for stem in stems]
    groupings = [
        _linked([set(match.groups()) if (match := pair or one) else set() for pair, one in zip(pairs, single)])
    ]
    if "original" in table:
        groupings.append(exact_groups([os.path.splitext(text)[0] for text in table["original"].tolist()]))
    if pattern is not None or "identity" in table:
        people = identity_groups(table, pattern)
        groupings += [people] if people is not None else []
    return in_order(joined(*groupings))


def _linked(people: Sequence[set[str]]) -> np.ndarray:
    """int64 [n]: groups of videos that share a person, directly or through others."""
    numbers: dict[str, int] = {}
    edges = [(i, len(people) + numbers.setdefault(who, len(numbers))) for i, some in enumerate(people) for who in some]
    links = np.array(edges, dtype=np.int64).reshape(-1, 2)
    return in_order(components(len(people) + len(numbers), links)[: len(people)])


def _names(paths: Sequence[str]) -> list[str]:
    """A name for the folder of each video: its own, with the folders before it that tell no label or split; unique, and
    such that nobody reads a label or split in it."""
    taken: set[str] = set()
    names = []
    for path in paths:
        *folders, file = parts_of(path)
        kept = [f for f in folders if label_word(f) is None and split_word(f) is None and f not in (".", "..")]
        name = "-".join([*kept, os.path.splitext(file)[0]]).lstrip(".") or "video"
        if label_word(name, alone=True) is not None or split_word(name) is not None:
            name = f"clip-{name}"  # a word that no folder's name knows
        unique, number = name, 1
        while unique.casefold() in taken:
            number += 1
            unique = f"{name}-clip{number}"
        taken.add(unique.casefold())
        names.append(unique)
    return names
