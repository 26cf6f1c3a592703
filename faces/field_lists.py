"""Lists and metadata of this field, read as manifests: whatever says which images there are, and what they are.

.csv .tsv .parquet    a table (`faces.manifest`)
.txt .lst .list       a line for each image: path, blank, label; the label may be missing
.json                 DFDC's metadata.json (of videos whose frames lie beside it), DeepfakeBench's lists of frames,
                      a list of records, or {path: label}
    .jsonl                a record a line, as metadata.jsonl of image folders elsewhere
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common import reading
from common.errors import UserError
from common.words import counted
from faces.label_columns import is_missing, label_cell, names_labels
from faces.layout import FAKE, LabelRule, label_word, labels_as, natural_key, parts_of, split_word
from faces.manifest import (
    Manifest,
    has_paths,
    is_manifest,
    manifest_of_texts,
    may_tell_labels,
    read_manifest,
    text_column,
)
from faces.sidecars import FILE
from faces.stores import is_image_name, list_folder

TEXTS = (".txt", ".lst", ".list")
METADATA = "metadata.json"
LISTS = (".csv", ".tsv", ".json", ".jsonl")  # that are looked for beside images
# DeepfakeBench's names of the four methods of FaceForensics++ and its kin, whose words say nothing of fakes.
METHODS = frozenset("ff-df ff-f2f ff-fs ff-nt ff-fh dfd dfdcp uadfv-fake".split())
MAX_CELLS = 50_000_000  # of a table of records
LOOKED = 20  # folders of images in which a list is looked for
BEGINNING = 1 << 16  # bytes of a list's first line
ABOVE = 4  # folders above a list in which its paths may begin


def is_list(spec: str) -> bool:
    """Whether a file's name is that of a manifest or of another list of images."""
    return is_manifest(spec) or spec.lower().endswith((".tsv", ".json", ".jsonl", *TEXTS))


def read_list(path: str | os.PathLike, rule: LabelRule | None = None) -> Manifest:
    """The manifest that a list of any kind amounts to. Raises UserError, with file and line.

    rule: what a person says of the labels in it."""
    path = os.fspath(path)
    if path.lower().endswith(".json"):
        return _read_json(path, rule)
    if path.lower().endswith(".jsonl"):
        return _read_lines(path, rule)
    if path.lower().endswith(TEXTS):
        return _read_text(path, rule)
    return read_manifest(path, rule)


def lists_beside(folder: str, paths: Iterable[str], *, classes: bool = False) -> list[str]:
    """Tables and lists of records with labels, in a folder or beside the images in it: their paths below it. classes:
    instead files that are built as a dataset.json and called otherwise."""
    inside = dict.fromkeys(["", *(os.path.dirname(path) for path in paths)])
    endings, tells = ((".json",), _has_classes) if classes else (LISTS, _tells)
    found = []
    for place in list(inside)[:LOOKED]:
        with contextlib.suppress(OSError):
            names = sorted(os.listdir(os.path.join(folder, place)))
            tables = [n for n in names if n.lower().endswith(endings) and n[0] != "." and n not in (METADATA, FILE)]
            found += [os.path.join(place, name) for name in tables if tells(os.path.join(folder, place, name))]
    return found


def _has_classes(path: str) -> bool:
    try:
        return _is_of_classes(reading.json_file(path))
    except ValueError:
        return False


def _is_of_classes(data: Any) -> bool:
    return isinstance(data, dict) and "labels" in data and isinstance(data["labels"], list | None)


def _tells(path: str) -> bool:
    """Whether a table or list of records has paths and labels, by its beginning."""
    if path.lower().endswith(".json"):
        return _is_of_records(path)
    if not path.lower().endswith(".jsonl"):
        return may_tell_labels(path)
    with open(path, "rb") as file:
        begin = file.readline(BEGINNING)
    try:
        record = reading.json_of(begin.decode("utf-8-sig"))
    except ValueError:
        return False
    return _is_record(record)


def _is_record(record: Any) -> bool:
    return isinstance(record, dict) and has_paths(list(record)) and any(map(names_labels, record))


def _is_of_records(path: str) -> bool:
    """Whether a .json is a list of records of images with labels, or {image: label}."""
    try:
        data = reading.json_file(path)
    except ValueError:
        return False
    if isinstance(data, dict):
        told = any(map(is_image_name, data)) or all(label_word(str(value)) is not None for value in data.values())
        return _is_metadata(data) or (bool(data) and _is_labels(data) and told)
    return isinstance(data, list) and bool(data) and _is_record(data[0])


def _is_labels(data: dict) -> bool:
    return all(isinstance(value, str | int) for value in data.values())


def is_metadata(path: str | os.PathLike) -> bool:
    """Whether a file is DFDC's metadata.json: {"video.mp4": {"label": "FAKE", …}, …}."""
    try:
        data = reading.json_file(path)
    except (OSError, ValueError):
        return False
    return _is_metadata(data)


# ---- text -------------------------------------------------------------------------------------------------------


def _read_text(path: str, rule: LabelRule | None) -> Manifest:
    paths: list[str] = []
    labels: list[int] = []
    numbers = False
    for number, line in enumerate(_lines(path), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, word = _cut(line, rule)
        label = -1 if word is None else label_cell(word, rule)
        if label is None or not name:
            raise UserError(
                f"{path}, line {number}: {line.strip()[:60]!r} is not a path and a label (0, 1, real or fake); say what"
                f" it is with `labels`, or correct the line"
            )
        numbers |= word is not None and word.strip().isdecimal()
        paths.append(name)
        labels.append(label)
    columns = {"path": text_column(paths)}
    if any(label >= 0 for label in labels):
        columns["label"] = np.array(labels, dtype=np.int8)
    notes = [f"{path}: 0 is taken for real and 1 for fake; if it is not so, say `labels` real=1,fake=0"]
    return Manifest(columns, _home(path, paths), tuple(notes) if numbers and rule is None else ())


def _cut(line: str, rule: LabelRule | None) -> tuple[str, str | None]:
    """(path, label or None) of a line: the last word is a label, unless the path ends with it."""
    cells = re.split(r"\t|,", line.strip())
    cells = cells if len(cells) > 1 else line.strip().rsplit(None, 1)
    name, word = ",".join(cells[:-1]).strip(), cells[-1].strip()
    if len(cells) == 1 or "." in word.removesuffix(".0"):  # a path with blanks, whose last word has an ending
        return line.strip(), None
    return name.strip('"'), word.strip('"')


# ---- JSON -------------------------------------------------------------------------------------------------------


def _read_json(path: str, rule: LabelRule | None) -> Manifest:
    try:
        data = reading.json_of(_content(path), once=True)
    except reading.Unreadable as error:
        raise UserError(f"{path}: not JSON ({error}); write it again") from None
    if _is_metadata(data):
        if all(is_image_name(name) for name in data):  # the same form, of images
            return _of_records(path, [{**entry, "path": name} for name, entry in data.items()], rule)
        return _of_videos(path, data, rule)
    if _is_of_classes(data):
        name = "" if os.path.basename(path) == FILE else f"call it {FILE}, and "
        raise UserError(
            f"{path}: its numbers are classes for a conditional generator, not real and fake; {name}give the folder"
            " that it lies in"
        )
    if rows := list(_frames(data)):
        return _of_frames(path, rows, rule)
    if isinstance(data, dict) and data and _is_labels(data):
        data = [{"path": name, "label": label} for name, label in data.items()]
    if isinstance(data, list) and data and all(isinstance(row, dict) for row in data):
        return _of_records(path, data, rule)
    raise UserError(
        f"{path}: none of the lists known here (records with path and label, DFDC's metadata, DeepfakeBench's frames);"
        " write a .csv with the columns path and label"
    )


def _read_lines(path: str, rule: LabelRule | None) -> Manifest:
    records: list[dict] = []
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            records.append(reading.json_of(line, once=True))
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON ({error}); write it again") from None
        if not isinstance(records[-1], dict):
            raise UserError(f'{path}, line {number}: not a record; write {{"path": …, "label": …}}')
    if not records:
        raise UserError(f"{path}: a list without images; give another")
    return _of_records(path, records, rule)


def _of_records(path: str, records: list[dict], rule: LabelRule | None) -> Manifest:
    names = list(dict.fromkeys(str(name) for row in records for name in row))
    if len(names) * len(records) > MAX_CELLS:
        raise UserError(
            f"{path}: {len(records)} records of {len(names)} different keys are no table; give them one set"
        )
    return manifest_of_texts({name: [_text(row.get(name)) for row in records] for name in names}, path, rule)


def _text(value: Any) -> str:
    return "" if value is None else str(int(value)) if isinstance(value, bool) else str(value)


def _is_metadata(data: Any) -> bool:
    return (
        isinstance(data, dict)
        and bool(data)
        and all(isinstance(v, dict) and "label" in v and "frames" not in v for v in data.values())
        and all(re.search(r"\.\w{2,4}$", name) for name in data)
    )


def videos_of(path: str | os.PathLike, rule: LabelRule | None = None) -> dict[str, tuple[int, str, str]]:
    """{video's name: (label, split or "", the original's name or its own)} of DFDC's metadata.json; label -1 for none.

    Raises UserError for a label that can't be understood."""
    data = reading.json_of(_content(os.fspath(path)), once=True)
    found = {}
    for name, entry in data.items():
        label = label_cell(_text(entry["label"]), rule)
        if label is None:
            raise UserError(f"{path}: {name}: label is {entry['label']!r}; say what it is with `labels`")
        original = entry.get("original") or name
        said = _text(entry.get("split"))
        if (split := "" if is_missing(said) else split_word(said)) is None:
            raise UserError(f"{path}: {name}: split is {said[:40]!r}; it must be train, valid, test or nothing")
        found[name] = (label, split, str(original))
    return found


def _of_videos(path: str, data: Mapping[str, Any], rule: LabelRule | None) -> Manifest:
    """The images beside a metadata.json whose names, or folders, begin with a video's."""
    told = {os.path.splitext(name)[0]: what for name, what in videos_of(path, rule).items()}
    folder = os.path.dirname(path) or "."
    entries = sorted((entry.path for entry in list_folder(folder)[0]), key=natural_key)
    pairs = [(image, video) for image in entries if (video := _video_of(image, told)) is not None]
    if not pairs:
        raise UserError(
            f"{path}: lists {len(data)} videos, and no frames of them lie beside it; cut the faces out with"
            f" prepare_data.py frames {folder} DEST"
        )
    notes = []
    if other := len(entries) - len(pairs):
        notes.append(f"{path}: {counted(other, 'image')} beside it of no video that it lists, left out")
    if missing := len(told) - len({video for _, video in pairs}):
        notes.append(f"{path}: {missing} of its {len(told)} videos have no frames beside it")
    columns = {
        "path": text_column([image for image, _ in pairs]),
        "label": np.array([told[video][0] for _, video in pairs], dtype=np.int8),
        "split": text_column([told[video][1] for _, video in pairs]),
        "identity": text_column([os.path.splitext(told[video][2])[0] for _, video in pairs]),
    }
    return Manifest(columns, folder, tuple(notes))


def _video_of(image: str, known: Mapping[str, Any]) -> str | None:
    """The video that an image is of: one of its folders is called so, or its name begins so."""
    *folders, name = parts_of(image)
    for folder in reversed(folders):
        if (stem := folder if folder in known else os.path.splitext(folder)[0]) in known:
            return stem
    stem = os.path.splitext(name)[0]
    while stem and stem not in known:
        stem = re.sub(r"(^|[^a-zA-Z0-9]+)[a-zA-Z0-9]*$", "", stem)
    return stem or None


def _frames(data: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[str, str, str, str]]:
    """(path, label, split, video) of every frame that a tree of dicts lists, as DeepfakeBench writes it:
    {set: {label: {split: {compression: {video: {"label": …, "frames": [path, …]}}}}}}."""
    if not isinstance(data, dict):
        return
    if isinstance(data.get("frames"), list) and "label" in data:
        split = next((word for key in reversed(keys) if (word := split_word(key))), "")
        for frame in data["frames"]:
            yield str(frame).replace("\\", "/"), _text(data["label"]), split, "/".join(keys[-1:])
        return
    for key, value in data.items():
        yield from _frames(value, (*keys, str(key)))


def _of_frames(path: str, rows: list[tuple[str, str, str, str]], rule: LabelRule | None) -> Manifest:
    kinds = {word: _bench_label(word, rule) for word in {row[1] for row in rows}}
    if unknown := sorted(word for word, label in kinds.items() if label is None):
        raise UserError(
            f"{path}: label is {unknown[0]!r}, which says nothing of real and fake; say"
            f" {labels_as(('real', unknown[0]))}, or fake"
        )
    paths = [row[0] for row in rows]
    columns = {
        "path": text_column(paths),
        "label": np.array([kinds[row[1]] for row in rows], dtype=np.int8),
        "generator": text_column([row[1] if kinds[row[1]] == FAKE else "" for row in rows]),
        "split": text_column([row[2] for row in rows]),
        "identity": text_column([row[3] for row in rows]),
    }
    return Manifest(columns, _home(path, paths))


def _bench_label(word: str, rule: LabelRule | None) -> int | None:
    """«CelebDFv1_real», «FF-real», «FF-DF»: the last part tells, where the whole does not."""
    label = label_cell(word, rule)
    if label is None:
        label = label_word(re.split(r"[-_ ]", word)[-1])
    return FAKE if label is None and word.casefold() in METHODS else label


# ---- places -----------------------------------------------------------------------------------------------------


def _home(path: str, paths: list[str]) -> str:
    """The folder that paths are relative to: the list's own, or the nearest above it in which the first is found."""
    folder = os.path.dirname(path) or "."
    first = next((p for p in paths if not os.path.isabs(p)), None)
    for up in range(ABOVE if first is not None else 0):
        here = os.path.normpath(os.path.join(folder, *[".."] * up))
        if any(os.path.lexists(os.path.join(here, p.replace("\\", "/"))) for p in paths[:100]):
            return here
    return folder


def _lines(path: str) -> Iterator[str]:
    """A file's lines, which end at a line feed, a carriage return or both: not at what `str.splitlines` takes for an
    end besides, such as the U+2028 that JSON and names may hold."""
    return iter(io.StringIO(_content(path), newline=None))


def _content(path: str) -> str:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror}); check the path") from None
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        try:
            return data.decode("utf-16", "surrogateescape")
        except UnicodeError as error:  # halves of signs can be escaped in no way
            raise UserError(f"{path}: not readable as UTF-16 ({error}); write it again, as UTF-8") from None
    return data.decode("utf-8-sig", "surrogateescape")
