"""Verdicts of millions of files, in parts: each part a Parquet file that is whole or absent, and all of them one table.

While a part is judged, what is there already lies beside it in a journal: a line of JSON for each file, in order. A
process that is killed leaves at most half a line; the next one goes on behind the last whole one. All of it says what
it is of: the list of files, the detector, the threshold. So no file is lost and none counts twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from common.errors import UserError, one_line
from common.files import disk_errors_of, try_lock, written_whole
from common.reading import json_of
from common.tables import no_formula
from common.words import counted
from discriminator.results import Result
from reports.part_options import Part
from reports.verdicts import CSV_COLUMNS, csv_rows

FORMAT = 1
KEY = b"ganface.part"  # in a Parquet file's metadata: what it is of
KEEP_SECONDS = 5.0  # of work are lost at most when the machine, not the process, goes down
BLOCK = 10_000  # rows of a group
WHOLE = {"face", "faces"}  # columns of whole numbers
NUMBERS = {
    "probability", "threshold", "unsure_low", "false_alarm_rate", "logit", "x0", "y0", "x1", "y1", "face_score",
    "seconds",
}  # of other numbers; all else is text  # fmt: skip
Judge = Callable[[Sequence[str | Result], Callable[[], object]], Iterator[Result]]  # of files and «a file is through»


@dataclass(frozen=True)
class Source:
    """What all parts of one judging have in common. files: in order. settings: of who judges, in plain JSON types."""

    files: Sequence[str | Result]
    settings: dict

    def told(self) -> dict:
        """In plain JSON types, equal for equal sources."""
        digest = hashlib.sha256()
        for file in self.files:
            name = file if isinstance(file, str) else file.file
            digest.update(os.fsencode(name) + b"\0")
        return {"format": FORMAT, "files": len(self.files), "names": digest.hexdigest(), **self.settings}


def part_path(folder: Path, part: Part) -> Path:
    return folder / f"part-{part.number:05d}-of-{part.of:05d}.parquet"


def judge_part(
    source: Source,
    part: Part,
    folder: Path,
    judge: Judge,
    *,
    tell: Callable[[str], object],
    progress: Callable[[int, int], object],
) -> Path:
    """Judge a part of the files into its Parquet file and return that; what is there already is not judged again.

    UserError where the folder holds parts of another source, or another process is at this part."""
    arrow(part_path(folder, part))
    folder.mkdir(parents=True, exist_ok=True)
    head = source.told()
    path, mine = part_path(folder, part), part.files(len(source.files))
    check_folder(folder, head, part.of)
    if path.exists():
        check_same(path, head)
        tell(f"{path} is there already: nothing is left to do")
        return path
    with _Journal(path.with_suffix(".jsonl"), head) as journal:
        done = journal.files
        if done:
            tell(f"{done} of {len(mine)} files were judged already")
        for rows in _by_file(judge, source.files[mine.start + done : mine.stop]):
            journal.add(rows)
            done += 1
            progress(done, len(mine))
        unreadable = _Unreadable()
        _write(path, head | {"part": [part.number, part.of]}, unreadable.counted_in(journal.rows(mine.start)))
        journal.remove()
    if unreadable.count:
        told = f"{counted(unreadable.count, 'file')} of {len(mine)} could not be read"
        tell(f"{told}; the first, {one_line(unreadable.name)}: {one_line(unreadable.why)}")
    return path


@dataclass
class _Unreadable:
    """How many files could not be read, the first one's name, and why."""

    count: int = 0
    name: str = ""
    why: str = ""

    def counted_in(self, rows: Iterable[dict]) -> Iterator[dict]:
        """The rows, as they pass by."""
        for row in rows:
            if row["status"] == "unreadable":
                if not self.count:
                    self.name, self.why = row["file"], row["error"]
                self.count += 1
            yield row


def _by_file(judge: Judge, files: Sequence[str | Result]) -> Iterator[list[dict]]:
    """The rows of each file, in order: one for each face."""
    through = 0

    def on_read() -> None:
        nonlocal through
        through += 1

    photo: list[Result] = []
    given = 0
    for result in judge(files, on_read):
        if through > given:
            yield csv_rows(photo)
            photo, given = [], through
        photo.append(result)
    if through > given:
        yield csv_rows(photo)


class _Journal:
    """What has been judged of a part that is not complete. UserError where another process writes it."""

    def __init__(self, path: Path, head: dict) -> None:
        self.path, self.head, self.files = path, head, 0
        self._file: IO[bytes] | None = None
        self._kept = time.monotonic()

    def __enter__(self) -> _Journal:
        file = open(self.path, "a+b")
        try:
            if not try_lock(file.fileno()):
                raise UserError(f"{self.path}: another process is judging this part; let it, or end it first")
            self._file = file
            self._read()
        except BaseException:
            file.close()
            raise
        return self

    def __exit__(self, *_) -> None:
        if self._file is not None:
            with disk_errors_of(self.path):
                self._file.close()

    def _read(self) -> None:
        """Find the end of what is whole, and cut off what is not."""
        assert self._file is not None
        self._file.seek(0)
        first = self._file.readline()
        end = len(first)
        if not first.endswith(b"\n"):
            self._file.truncate(0)
            self._line(self.head)
            return
        if (found := _parsed(first)) != self.head:
            raise _other(self.path, found, self.head)
        for line in self._file:
            if not line.endswith(b"\n") or not isinstance(_parsed(line), list):
                break
            end, self.files = end + len(line), self.files + 1
        self._file.truncate(end)
        self._file.seek(end)

    def add(self, rows: list[dict]) -> None:
        """The rows of the next file."""
        self._line(rows)
        self.files += 1
        if time.monotonic() - self._kept > KEEP_SECONDS:
            assert self._file is not None
            os.fsync(self._file.fileno())
            self._kept = time.monotonic()

    def _line(self, value: object) -> None:
        assert self._file is not None
        with disk_errors_of(self.path):
            self._file.write(json.dumps(value).encode("ascii") + b"\n")
            self._file.flush()

    def rows(self, first: int) -> Iterator[dict]:
        """All rows, each with the number of its file. first: that of the part's first."""
        with open(self.path, "rb") as file:
            next(file)
            for number, line in enumerate(file, start=first):
                for row in _parsed(line):
                    yield {"index": number, **row}

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def _parsed(line: bytes) -> Any:
    try:
        return json_of(line)
    except ValueError:
        return None


ANOTHER = "choose another `out`, or ask for the same; remove it if it is the one that is wrong"
REMOVE = "remove it, and judge that part again as the others were"


def _other(path: Path, found: object, asked: dict, then: str = ANOTHER) -> UserError:
    told = found if isinstance(found, dict) else {}
    differs = ", ".join(name for name in asked if told.get(name) != asked[name])
    return UserError(
        f"{path}: is of other files, another detector or another threshold (what differs: {differs}); {then}"
    )


# ---- Parquet ------------------------------------------------------------------------------------------------------


def arrow(path: Path) -> Any:
    """pyarrow with its Parquet. UserError where it is missing."""
    try:
        importlib.import_module("pyarrow.parquet")
        return importlib.import_module("pyarrow")
    except ImportError:
        raise UserError(f"{path}: Parquet needs the package pyarrow; install it with pip install pyarrow") from None


def _schema(pa: Any, head: dict) -> Any:
    kinds = {
        name: pa.int32() if name in WHOLE else pa.float64() if name in NUMBERS else pa.string() for name in CSV_COLUMNS
    }
    fields = [("index", pa.int64()), *kinds.items()]
    return pa.schema(fields, metadata={KEY: json.dumps(head).encode()})


def _write(path: Path, head: dict, rows: Iterable[dict]) -> None:
    pa = arrow(path)
    schema = _schema(pa, head)
    with written_whole(path, shared=True) as tmp, pa.parquet.ParquetWriter(str(tmp), schema) as writer:
        block: list[dict] = []

        def flush() -> None:
            cells = {name: [_cell(name, row.get(name)) for row in block] for name in schema.names}
            writer.write_table(pa.table(cells, schema=schema))
            block.clear()

        for row in rows:
            block.append(row)
            if len(block) >= BLOCK:
                flush()
        flush()


def _cell(name: str, value: object) -> object:
    """Text without what no file of text may hold; numbers as numbers; None for what is not there."""
    if value is None or value == "":
        return None
    if name in WHOLE or name == "index":
        return int(str(value))
    return float(str(value)) if name in NUMBERS else one_line(value)


def read_head(path: Path) -> dict:
    """What a part is of. UserError where it is none."""
    pa = arrow(path)
    try:
        head = json_of(pa.parquet.read_schema(str(path)).metadata[KEY])
        if head["format"] == FORMAT and len(head["part"]) == 2:
            return head
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        pass
    raise UserError(f"{path}: not a part of `shard`; move it away") from None


def check_same(path: Path, head: dict, then: str = ANOTHER) -> None:
    """UserError where a part is of another source than `head`."""
    found = read_head(path)
    del found["part"]
    if found != head:
        raise _other(path, found, head, then)


def check_folder(folder: Path, head: dict, of: int) -> None:
    """UserError where a folder's first part is of another source, or of another number of parts: told before anything
    is judged, not when all of it is done. The others are `merge`'s to look at: each part would look at each."""
    if not (there := _parts_in(folder)):
        return
    path = there[0]
    check_same(path, head)
    if (found := read_head(path)["part"][1]) != of:
        raise UserError(f"{path}: is a part of {found}, and {of} were asked for; {ANOTHER}")


def _parts_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*-of-*.parquet"))


# ---- all parts together -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Merged:
    """Where the table is, of how many files, and how often each verdict or status is in it."""

    path: Path
    files: int
    counts: Counter


def merge(folder: Path, out: Path | None) -> Merged:
    """One table of all parts in a folder, in the files' order, whole or absent. out: a new file; default:
    verdicts.parquet in the folder, in place of an older one.

    UserError where a part is missing, is of another source, or does not hold each of its files."""
    found = _parts_in(folder)
    if not found:
        raise UserError(f"{folder}: holds no part-*.parquet of `shard`; give the folder that was its `out`")
    if out is not None:
        _check_new(out)
    out = folder / "verdicts.parquet" if out is None else out
    pa = arrow(out)
    heads = {path: read_head(path) for path in found}
    first, head = found[0], heads[found[0]]
    of, files = head["part"][1], head["files"]
    paths = [part_path(folder, Part(i, of)) for i in range(of)]
    if missing := [i for i, path in enumerate(paths) if path not in heads]:
        shown = ", ".join(f"{i}/{of}" for i in missing[:5]) + (f" and {len(missing) - 5} more" if missing[5:] else "")
        raise UserError(f"{folder}: {len(missing)} of {of} parts are missing ({shown}); judge them with `shard`")
    if strange := [path for path in heads if path not in paths]:
        raise UserError(f"{strange[0]}: is of another number of parts than {first.name}; move it away")
    common = {name: value for name, value in head.items() if name != "part"}
    for path in paths:
        check_same(path, common, REMOVE)
    counts: Counter = Counter()
    schema = _schema(pa, common)
    with written_whole(out, shared=True) as tmp, _writer(pa, out, tmp, schema) as writer:
        for number, path in enumerate(paths):
            mine = Part(number, of).files(files)
            table = _checked(pa, path, schema, mine, counts)
            if out.suffix.lower() == ".csv":
                names = [no_formula(name) for name in table.column("file").to_pylist()]
                table = table.set_column(
                    table.schema.get_field_index("file"), "file", pa.array(names, schema.field("file").type)
                )
            writer.write_table(table)
    return Merged(out, files, counts)


def _check_new(out: Path) -> None:
    """UserError where a table that was named can't be a new file."""
    if out.suffix.lower() not in (".parquet", ".csv"):
        raise UserError(f"`out` {out}: the table's name must end in .parquet or .csv")
    if not out.parent.is_dir():
        raise UserError(f"`out` {out}: there is no folder {out.parent}; make it, or choose another place")
    if os.path.lexists(out):
        raise UserError(f"`out` {out}: exists and will not be overwritten; choose another name, or remove it")


def _writer(pa: Any, out: Path, tmp: Path, schema: Any) -> contextlib.AbstractContextManager[Any]:
    if out.suffix.lower() == ".csv":
        return importlib.import_module("pyarrow.csv").CSVWriter(str(tmp), schema)
    return pa.parquet.ParquetWriter(str(tmp), schema)


def _checked(pa: Any, path: Path, schema: Any, mine: range, counts: Counter) -> Any:
    """A part's table, its verdicts counted; UserError unless it has each of the files `mine` and no other."""
    table = pa.parquet.read_table(str(path)).select(schema.names).cast(schema)
    index = table.column("index").to_pylist()
    faces = table.column("face").to_pylist()
    numbers = Counter(i for i, face in zip(index, faces, strict=True) if face is None or face <= 1)
    if list(numbers) != list(mine) or set(numbers.values()) - {1} or set(index) != set(mine):
        raise UserError(f"{path}: does not hold each of its files once; remove it and judge that part again")
    statuses = table.column("status").to_pylist()
    verdicts = table.column("verdict").to_pylist()
    counts.update(verdict or status for verdict, status in zip(verdicts, statuses, strict=True))
    return table
