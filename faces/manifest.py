"""A manifest: one table of images with label, origin, split and what was measured, as CSV or Parquet.

It is plain text that a spreadsheet opens: a header, a line per image, paths relative to the manifest's own folder so
that both can be moved together. An image inside an archive is `faces.zip/inner/name.png`. Only the column `path` is
needed; columns that are not known here are kept as text. A CSV is UTF-8; bytes of a file name that are not UTF-8 stay
as they are, and names with commas, quotes or line breaks are quoted (RFC 4180).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from common.errors import UserError
from common.extras import lacking
from common.files import save_atomically
from common.outputs import check_folder
from common.reading import shown
from common.tables import read_rows
from faces.label_columns import Doubt, doubts, find_labels, is_missing, label_cell, names_labels
from faces.layout import FAKE, LabelRule, labels_as, split_word, words_of

ENDINGS = (".csv", ".parquet")
COLUMNS = (
    "path", "label", "source", "generator", "split", "fold", "sha256", "phash", "size", "quality", "width", "height",
    "format",
)  # fmt: skip
# Columns of whole numbers: type, the number that stands for an empty cell, and the largest that may be written.
NUMBERS = {
    "label": (np.int8, -1, 1),
    "fold": (np.int32, -1, 2**31 - 1),
    "phash": (np.uint64, 0, 2**64 - 1),
    "size": (np.int64, -1, 2**63 - 1),
    "quality": (np.int16, -1, 100),
    "width": (np.int64, 0, 2**31 - 1),
    "height": (np.int64, 0, 2**31 - 1),
}
# Names of others for the columns known here, where those are not there.
PATHS = frozenset("file filename file_name filepath file_path image image_path image_name img img_path".split())
SPLIT_NAMES = frozenset("set subset partition usage phase fold_name".split())
SAMPLES = {"seed", "network_sha256"}  # columns by which the manifest of `synth.py` is known
MAX_COLUMNS = 50_000
ROWS = 20_000  # rows that are text at the same time
Rows = Iterator[tuple[int, Sequence[str], Sequence[Sequence[str]]]]  # as the readers below give them
_SPECIAL = re.compile('[",\r\n]')


@dataclass
class Manifest:
    """Columns of equal length: `columns["path"]` and so on.

    Text columns are object arrays of str ("" where empty). label int8: 0 real, 1 fake, -1 unknown. fold int32, size
    int64 (bytes), quality int16 (JPEG, 1 to 100): -1 unknown. phash uint64, width, height int64 (pixels): 0 unknown.
    split is "train", "valid", "test" or "". `folder` is what relative paths are relative to."""

    columns: dict[str, np.ndarray]
    folder: str = "."
    notes: tuple[str, ...] = ()  # of the reader: how the file was understood
    doubts: tuple[Doubt, ...] = ()  # of the reader, of a table without labels

    def __post_init__(self) -> None:
        if "path" not in self.columns:
            raise UserError("a manifest needs the column path")
        lengths = {name: len(values) for name, values in self.columns.items()}
        if len(set(lengths.values())) > 1:
            raise UserError(f"the columns of a manifest must be equally long, not {lengths}")

    def __len__(self) -> int:
        return len(self.columns["path"])

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def __getitem__(self, name: str) -> np.ndarray:
        """A column; one of the known names that is absent comes back empty (-1, 0 or "")."""
        if name in self.columns:
            return self.columns[name]
        if name not in COLUMNS:
            raise KeyError(name)
        if name in NUMBERS:
            kind, unknown, _ = NUMBERS[name]
            return np.full(len(self), unknown, dtype=kind)
        return np.full(len(self), "", dtype=object)

    def select(self, mask: np.ndarray | Sequence[int]) -> Manifest:
        """The rows where a boolean mask [n] is true, or those at the given positions."""
        mask = np.asarray(mask)
        if mask.dtype != bool:
            mask = mask.astype(np.int64)
        return Manifest({name: values[mask] for name, values in self.columns.items()}, self.folder)

    def having(self, **columns: np.ndarray) -> Manifest:
        """A copy with some columns replaced or added."""
        return Manifest({**self.columns, **columns}, self.folder)

    def located(self, i: int) -> str:
        """Where image `i` lies: absolute, or relative to the working folder."""
        return os.path.join(self.folder, self.columns["path"][i])


def is_manifest(spec: str) -> bool:
    """Whether a name is that of a manifest."""
    return spec.lower().endswith(ENDINGS)


def text_column(values: Sequence[str] | np.ndarray) -> np.ndarray:
    """object [n] of str."""
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def manifest_of(values: Mapping[str, Sequence], known: Manifest | None, folder: str = ".") -> Manifest:
    """A manifest of plain values, None where one is unknown. What people wrote in `known`, a manifest of the same
    images, stays; what was measured just now holds."""
    columns = {}
    for name in (*COLUMNS, *(name for name in values if name not in COLUMNS)):
        kind, unknown, _ = NUMBERS.get(name, (object, "", 0))
        cells: list[Any] = [unknown if value is None else value for value in values[name]]
        columns[name] = text_column(cells) if kind is object else np.array(cells, dtype=kind)
    if known is not None:
        columns |= {name: known[name] for name in ("source", "generator", "fold") if name in known}
        columns |= {name: cells for name, cells in known.columns.items() if name not in columns}
    return Manifest(columns, folder)


def read_manifest(path: str | os.PathLike, rule: LabelRule | None = None, *, labels: bool = True) -> Manifest:
    """The manifest in a .csv or .parquet file. Raises UserError, with file and line, for what can't be understood.

    A CSV may be separated by commas, semicolons or tabs, in UTF-8 or marked UTF-16; known columns may be written in
    upper case; a label may be 0, 1, real or fake or what means one of these, and `rule` goes first. Where there is no
    column `label` (`path`, `split`), one that tells the same under another name takes its place and a note says so;
    two that contradict each other are refused (`faces.label_columns`). labels: whether they are asked for; without, the
    column is left out and whatever is in it is no matter. The manifest that `synth.py` leaves beside its
    samples is read as well: its images are fakes."""
    path = os.fspath(path)
    rows = _read_parquet(path) if path.lower().endswith(".parquet") else _read_csv(path)
    return _manifest(rows, path, rule, labels)


def manifest_of_texts(columns: Mapping[str, Sequence[str]], path: str, rule: LabelRule | None = None) -> Manifest:
    """As `read_manifest`, of columns of text that stood in the file `path`."""
    header = _as_known(list(columns))
    _check_header(header, path)
    return _manifest(iter([(1, header, list(columns.values()))]), path, rule)


def _manifest(rows: Rows, path: str, rule: LabelRule | None, labels: bool = True) -> Manifest:
    parts: dict[str, list[np.ndarray]] = {}
    raw: list[str] = []  # the column of labels as it stands there
    for row, header, texts in rows:
        for name, column in zip(header, texts):
            if name == "label" and not labels:
                continue
            parts.setdefault(name, []).append(_parsed(name, column, path, row, rule))
            if name == "label":
                raw += column
    columns = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    if SAMPLES <= columns.keys() and "label" not in columns:
        columns["label"] = np.full(len(columns["path"]), FAKE, dtype=np.int8)
        columns["generator"] = text_column([sha[:12] for sha in columns["network_sha256"].tolist()])
    folder = os.path.dirname(path) or "."
    padded = _without_padding(columns, folder, path)
    notes, asked = _understood(columns, raw, path, rule) if labels else ([], [])
    notes += padded
    ordered = [name for name in COLUMNS if name in columns] + [name for name in columns if name not in COLUMNS]
    return Manifest({name: columns[name] for name in ordered}, folder, tuple(notes), tuple(asked))


def _without_padding(columns: dict[str, np.ndarray], folder: str, path: str) -> list[str]:
    """Leave out blanks around the paths of a list written as `fake, a.jpg`; a note that says so. Names of files may
    begin or end with one: they are left where the first such file is there by that name, or by neither."""
    texts = columns["path"].tolist()
    padded = [text for text in texts if text != text.strip()]
    if not padded:
        return []
    as_is, without = (os.path.join(folder, text) for text in (padded[0], padded[0].strip()))
    if os.path.lexists(as_is) or not os.path.isfile(without):  # of blanks alone nothing but the folder is left
        return []
    columns["path"] = text_column([text.strip() for text in texts])
    return [f"{path}: the blanks around its paths are left out"]


def _understood(
    columns: dict[str, np.ndarray], raw: list[str], path: str, rule: LabelRule | None
) -> tuple[list[str], list[Doubt]]:
    """Fill `label` and `split` in `columns` from others that tell the same, where they are missing; notes about it, and
    what may tell labels where nothing does."""
    own = columns.get("label")
    texts = {name: values.tolist() for name, values in columns.items() if values.dtype == object}
    if raw:
        texts["label"] = raw
    labels, notes = find_labels(texts, own, path, rule, COLUMNS)
    if labels is not None:
        columns["label"] = labels
    if "split" not in columns:
        for name, cells in texts.items():
            if "_".join(words_of(name)) in SPLIT_NAMES and name not in COLUMNS:
                kinds = {text: _split(text) for text in set(cells)}
                if None not in kinds.values() and any(kinds.values()):
                    columns["split"] = text_column([kinds[text] or "" for text in cells])
                    notes.append(f"{path}: splits are those of its column «{name}»")
                    break
                if unknown := sorted(text for text, kind in kinds.items() if kind is None):
                    notes.append(f"{path}: its column «{name}» is not read as splits ({', '.join(unknown[:3])})")
    return notes, [] if labels is not None else doubts(texts, COLUMNS)


def may_tell_labels(path: str) -> bool:
    """Whether a table's header is that of a list of images with labels."""
    try:
        header = _as_known([name.strip() for name in next(read_rows(path))[1]])
    except UserError:
        return False
    return "path" in header and any(names_labels(name) for name in header)


def is_of_samples(path: str) -> bool:
    """Whether a table is the manifest that `synth.py` leaves beside its samples."""
    try:
        return path.lower().endswith(".csv") and set(next(read_rows(path))[1]) >= SAMPLES
    except UserError:
        return False


def has_paths(names: Sequence[str]) -> bool:
    """Whether columns of these names, as another program wrote them, hold one of paths."""
    return "path" in _as_known(list(names))


def write_manifest(path: str | os.PathLike, manifest: Manifest, *, replace: bool = False) -> None:
    """Write a .csv or .parquet file, whole or not at all; an existing one only with `replace`.

    The paths are written as they are: see `relative_to` for a manifest that goes into another folder."""
    check_writable(path, replace=replace)
    path = Path(path)
    parquet = path.suffix.lower() == ".parquet"
    save_atomically(path, _parquet_writer(str(path), manifest) if parquet else _csv_writer(manifest))


def check_writable(path: str | os.PathLike, *, replace: bool = False) -> None:
    """Raises UserError where `write_manifest` would: to be asked before hours of scanning."""
    path = Path(path)
    if not is_manifest(path.name):
        raise UserError(f"{path}: a manifest's name must end in {' or '.join(ENDINGS)}; choose another")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}; make it, or choose another place")
    if path.is_dir():
        raise UserError(f"{path} is a folder; choose another name")
    if os.path.lexists(path) and not replace:
        raise UserError(f"{path} exists and is not overwritten; choose another name, or say `force`")
    check_folder(str(path), path.absolute().parent)
    if path.suffix.lower() == ".parquet":
        _arrow(str(path))


def relative_to(folder: str | os.PathLike, manifest: Manifest) -> Manifest:
    """The same manifest with paths relative to another folder, as it must be before it is written there.

    Absolute paths stay absolute, unless they lie below that folder."""
    new, old = os.path.abspath(folder), os.path.abspath(manifest.folder)
    if new == old:
        return Manifest(manifest.columns, os.fspath(folder))
    up = os.path.relpath(old, new) if os.path.splitdrive(old)[0] == os.path.splitdrive(new)[0] else old
    below = os.path.join(new, "")

    def moved(path: str) -> str:
        if os.path.isabs(path):
            return path[len(below) :].replace(os.sep, "/") if path.startswith(below) else path
        # what comes after an archive's name is a member's name, and must stay letter by letter
        archive = re.match(r".*?\.(?:zip|tar)/", path, re.IGNORECASE | re.DOTALL)
        outside, inner = (archive[0][:-1], path[archive.end() - 1 :]) if archive else (path, "")
        return os.path.normpath(os.path.join(up, outside)).replace(os.sep, "/") + inner

    paths = text_column([moved(path) for path in manifest["path"]])
    return Manifest({**manifest.columns, "path": paths}, os.fspath(folder))


# ---- cells ------------------------------------------------------------------------------------------------------


def _parsed(name: str, column: Sequence[str], path: str, row: int, rule: LabelRule | None = None) -> np.ndarray:
    """The array of one column, whose first cell is in that row of the file."""
    if name == "path" and ("" in column or any("\0" in text for text in column)):
        at = next(i for i, text in enumerate(column) if not text or "\0" in text)
        raise UserError(f"{path}, row {row + at}: no path in this row; write one, or delete the row")
    if name not in NUMBERS and name != "split":
        return text_column(column)
    if name not in WORDS:
        kind, unknown, largest = NUMBERS[name]
        # an empty cell is the commonest exception, hence the fast way for a column without one
        with contextlib.suppress(ValueError):
            numbers = [int(text, 16 if name == "phash" else 10) if text else unknown for text in column]
            if not numbers or (min(numbers) >= min(unknown, 0) and max(numbers) <= largest):
                return np.array(numbers, dtype=kind)
    parse, wanted = WORDS.get(name, (functools.partial(_number, name), "a whole number or nothing"))
    if name == "label":
        parse = functools.partial(label_cell, rule=rule)
    kinds: dict[str, Any] = {text: parse(text) for text in set(column)}  # None where a text can't be understood
    if None in kinds.values():
        at = next(i for i, text in enumerate(column) if kinds[text] is None)
        wanted = "16 hexadecimal digits or nothing" if name == "phash" else wanted
        if name == "label":
            unknown_words = sorted(text for text in kinds if kinds[text] is None)
            wanted += _ask_for_labels(unknown_words)
        raise UserError(f"{path}, row {row + at}: {name} is {column[at][:40]!r}; it must be {wanted}")
    values = [kinds[text] for text in column]
    return text_column(values) if name == "split" else np.array(values, dtype=NUMBERS[name][0])


def _ask_for_labels(unknown: list[str]) -> str:
    """How `labels` says what unknown words mean."""
    if len(unknown) == 2:
        return f" (say {labels_as(('real', unknown[0][:40]), ('fake', unknown[1][:40]))}, or the other way round)"
    return f" (or say what it is: {labels_as(('real', unknown[0][:40]))}, or fake)"


def _split(text: str) -> str | None:
    return "" if is_missing(text) else split_word(text)


WORDS: dict[str, tuple[Callable[[str], Any], str]] = {
    "split": (_split, "train, valid, test or nothing"),
    "label": (label_cell, "0, 1, real, fake or nothing"),
}


def _number(name: str, text: str) -> int | None:
    """A cell as a number, kindly: spreadsheets write 90.0, and nan for nothing."""
    kind, unknown, largest = NUMBERS[name]
    text = text.strip().lower()
    if text in ("", "nan", "none", "null"):
        return unknown
    try:
        value = int(text, 16) if name == "phash" else float(text)
    except ValueError:
        return None
    if not math.isfinite(value) or value != int(value) or not min(unknown, 0) <= value <= largest:
        return None
    return int(value)


def _texts(name: str, values: np.ndarray) -> list[str]:
    if name not in NUMBERS:
        return values.tolist()
    unknown = NUMBERS[name][1]
    write: Callable[[int], str] = "{:016x}".format if name == "phash" else str
    return ["" if value == unknown else write(value) for value in values.tolist()]


# ---- CSV --------------------------------------------------------------------------------------------------------


def _read_csv(path: str) -> Rows:
    """(number of the first row, header, columns of text) of at most ROWS rows at a time."""
    lines = read_rows(path)
    header = _as_known([name.strip() for name in next(lines)[1]])
    _check_header(header, path)
    number, rows = 1, []
    yield number, header, [[] for _ in header]  # so that a manifest without rows has its columns
    for _, row in lines:
        rows.append(row)
        if len(rows) == ROWS:
            yield number, header, list(zip(*rows))
            number, rows = number + ROWS, []
    if rows:
        yield number, header, list(zip(*rows))


def _as_known(header: list[str]) -> list[str]:
    """Other programs' «Path» and «Label», and «filename» or «image», are the columns known here, where those are not
    there as well."""
    lower = [name.lower() for name in header]
    times = Counter(lower)
    header = [low if low in COLUMNS and times[low] == 1 else name for name, low in zip(header, lower)]
    paths = [i for i, low in enumerate(lower) if "_".join(words_of(low)) in PATHS]
    if "path" not in header and len(paths) == 1:
        header[paths[0]] = "path"
    return header


def _check_header(header: Sequence[str], path: str) -> None:
    if "path" not in header:
        seen = ", ".join(header[:8])[:80] or "nothing"
        way = "write it again as UTF-8" if "\0" in seen else "name one so"
        raise UserError(f"{path}: not a manifest: its header has no column «path» (it has: {seen}); {way}")
    if double := next((name for name, times in Counter(header).items() if times > 1), None):
        raise UserError(f"{path}: its header names the column {shown(double)} twice; rename one")
    if len(header) > MAX_COLUMNS:
        raise UserError(f"{path}: has {len(header)} columns; at most {MAX_COLUMNS} are read: leave some out")


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if _SPECIAL.search(text) else text


def _csv_writer(manifest: Manifest) -> Callable[[Path], None]:
    names = list(manifest.columns)

    def write(path: Path) -> None:
        with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(",".join(map(_quoted, names)) + "\n")
            for start in range(0, len(manifest), ROWS):
                texts = [_texts(name, values[start : start + ROWS]) for name, values in manifest.columns.items()]
                texts = [
                    column if name in NUMBERS else list(map(_quoted, column)) for name, column in zip(names, texts)
                ]
                if len(names) == 1:
                    texts = [['""' if not text else text for text in texts[0]]]
                file.writelines(map("{}\n".format, map(",".join, zip(*texts))))

    return write


# ---- Parquet ----------------------------------------------------------------------------------------------------


def _arrow(path: str) -> ModuleType:
    try:  # by name: the package is an extra that only those need who write .parquet
        importlib.import_module("pyarrow.parquet")
        return importlib.import_module("pyarrow")
    except ImportError:
        raise UserError(f"{path}: {lacking('Parquet needs pyarrow', 'parquet')}; or use .csv") from None


def _read_parquet(path: str) -> Rows:
    arrow = _arrow(path)
    try:
        table = arrow.parquet.read_table(path)
    except (OSError, arrow.ArrowException) as error:
        raise UserError(f"{path}: not a readable Parquet file ({error}); write it again") from None
    header = _as_known(list(table.column_names))
    _check_header(header, path)
    texts = []
    for name, column in zip(header, table.columns):
        if name == "phash" and arrow.types.is_integer(column.type):
            values = ["" if not value else f"{value % 2**64:016x}" for value in column.to_pylist()]
        elif arrow.types.is_binary(column.type) or arrow.types.is_large_binary(column.type):
            values = [os.fsdecode(value) if value is not None else "" for value in column.to_pylist()]
        else:
            values = ["" if value is None else str(value) for value in column.to_pylist()]
        texts.append(values)
    yield 1, header, texts


def _parquet_writer(path: str, manifest: Manifest) -> Callable[[Path], None]:
    arrow = _arrow(path)

    def write(target: Path) -> None:
        arrays = {}
        for name, values in manifest.columns.items():
            if name in NUMBERS:
                arrays[name] = arrow.array(values, mask=values == NUMBERS[name][1])
            else:
                try:
                    arrays[name] = arrow.array(values.tolist(), arrow.string())
                except UnicodeEncodeError:  # bytes that are not UTF-8
                    arrays[name] = arrow.array([os.fsencode(text) for text in values], arrow.binary())
        arrow.parquet.write_table(arrow.table(arrays), target)

    return write
