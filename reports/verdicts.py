"""Verdicts on their way out: a table for people, JSON, JSON lines and CSV for programs, line by line."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from common.cli import next_step, progress, typed
from common.errors import UserError, interrupted_code, one_line
from common.files import disk_errors_of
from common.options import flags_of, in_flags
from common.tables import no_formula
from common.words import counted
from discriminator import words
from discriminator.detector_base import notes_joined
from discriminator.measured import Rates, rates_of
from discriminator.onnx_detector import OnnxDetector
from discriminator.results import Totals, rows_of
from discriminator.video import FRAME_COLUMNS
from reports.file_story import Beside, story_lines
from reports.origin import origin

if TYPE_CHECKING:
    from discriminator.engine import Engine
    from discriminator.judge import Judge
    from discriminator.options import DetectOptions
    from discriminator.results import Result
    from faces.finding.face_step import FaceStep
    from reports.verdict_options import TellOptions

STYLES: dict[str, dict[str, Any]] = {
    "FAKE": {"fg": "red", "bold": True}, "REAL": {"fg": "blue"}, "UNSURE": {"fg": "yellow"},
}  # fmt: skip
WIDE = max(map(len, words.HEADLINES.values())) + 2  # faces stand two blanks in below their photo's answer
HEAD = f"{'answer':{WIDE}} {'score':>5}  {'ms':>6}  file"
FEW = 3  # inputs that are named again in `Next:`
SAME = {
    "model",
    "fpr",
    "threshold",
    "face",
    "face_model",
    "offline",
    "runtime",
    "every",
    "max_pixels",
    "stability",
}  # options of `DetectOptions` without which another verdict might be given
CSV_COLUMNS = (
    "file", "status", "verdict", "probability", "threshold", "unsure_low", "false_alarm_rate", "logit", "face", "faces",
    "x0", "y0", "x1", "y1", "face_score", "seen_as", "seconds", "note", "error", "headline", "reason", "photo",
)  # fmt: skip


def table_lines(photo: Sequence[Result]) -> list[str]:
    """The table's lines for one photo's results; of several faces the photo's answer, then its faces, FAKE first."""
    told = rows_of(photo)[0].get("photo")
    if told is None:
        # errors go to stderr; what is told of such a file below needs its name above
        return [_line(one) for one in photo if one.status != "unreadable" or one.evidence is not None]
    ms = 1000 * sum(one.seconds for one in photo)
    answer = click.style(f"{told['headline']:{WIDE + 6}}", **STYLES[told["verdict"]])
    order = words.worst_first([one.verdict for one in photo])
    return [f"{answer}  {ms:6.0f}  {one_line(photo[0].file)}", *(_line(photo[i], below=True) for i in order)]


def _line(result: Result, *, below: bool = False) -> str:
    """A result's own line; below: under its photo's."""
    name, ms, face = one_line(result.file), f"{1000 * result.seconds:6.0f}", result.face
    told = "  " * below + result.headline
    if result.verdict is None:
        return f"{told:{WIDE}} {'':5}  {ms}  {name}" + (f"  ({result.remark})" if result.remark else "")
    v = result.verdict
    head = f"{click.style(f'{told:{WIDE}}', **STYLES[v.label])} {words.score(v):>5}"
    where = ""
    if face is not None and face["seen_as"] not in ("crop", "whole") and result.video is None:
        x0, y0, x1, y1 = (round(x) for x in face["box"])
        where = f" at {x0},{y0} ({x1 - x0}x{y1 - y0})"
    line = f"{head}  {'':6}  face {face['index']}{where}" if below and face else f"{head}  {ms}  {name}"
    if where and not below:
        line += f"  face{where}"
    # a doubt or contradiction stands in the note already
    why = "" if v.doubt or v.contradiction else words.reason(v)
    note = notes_joined(why, v.note)
    return f"{line}  ({note})" if note else line


def csv_row(result: Result, photo: str = "") -> dict:
    """One result as cells of CSV_COLUMNS. photo: the answer for its photo of several faces."""
    row = {"file": result.file, "status": result.status, "error": result.error, "seconds": f"{result.seconds:.6f}"}
    row |= {"headline": result.headline, "note": result.remark}
    if result.verdict is not None:
        told = result.verdict.to_dict()
        row |= {name: told[name] for name in CSV_COLUMNS if name in told}
        row["reason"] = words.reason(result.verdict)
    row["photo"] = photo
    if (face := result.face) is not None:
        row |= {"face": face["index"], "faces": face["of"], "face_score": face["score"], "seen_as": face["seen_as"]}
        row |= dict(zip(("x0", "y0", "x1", "y1"), face["box"] or ()))
    return row


def csv_rows(photo: Sequence[Result], rows: Sequence[dict] | None = None) -> list[dict]:
    """One photo's results as cells of CSV_COLUMNS. rows: what `rows_of` says of them, where that is known."""
    rows = rows_of(photo) if rows is None else rows
    return [csv_row(one, row.get("photo", {}).get("headline", "")) for one, row in zip(photo, rows, strict=True)]


def summary(totals: Totals, seconds: float, judge: Judge, rates: Rates, chosen: Path | None) -> list[str]:
    """The last lines for people: counts, what was measured, the threshold, the detector file where the user did not
    name it (`chosen`), and who looked for the faces."""
    looked = judge.faces.finder is not None
    counts = {"FAKE": totals.fake, "UNSURE": totals.unsure, "REAL": totals.real, "UNREADABLE": totals.unreadable}
    if looked:
        counts["NO FACE"] = totals.no_face
    line = ", ".join(words.counted(n, kind) for kind, n in counts.items())
    if totals.judged + totals.unreadable + totals.no_face != totals.files:
        line += f" (each face counted; {counted(totals.files, 'file')})"
    if totals.files > 1 and seconds > 0:
        rate = totals.files / seconds
        line += f", {rate:.{0 if rate >= 10 else 1 if rate >= 1 else 2}f} images/s"
    lines = [line]
    if totals.real + totals.fake + totals.unsure:  # where nothing was judged, rates and threshold say nothing of it
        lines += [*(f"measured: {told}" for told in rates.lines()), judge.threshold.describe()]
    if chosen is not None:
        lines.append(f"judged by {one_line(chosen)}")
    if looked:
        told = describe_faces(judge.faces)
        lines.append(f"faces found by {told['finder']}" + (f" ({told['fallback']})" if told["fallback"] else ""))
    return lines


def next_line(
    asked: DetectOptions, told: TellOptions, judge: Judge, totals: Totals, drawn: Mapping[str, Sequence[Path]]
) -> str:
    """What to do after the verdicts; "" where nothing came of them. drawn: pictures that were written, by where they
    were asked for."""
    if judge.detector.caution and asked.model is not None:
        return "leave out --model: the shipped detector is for photos; evaluate.py detector measures this one"
    if told.report is not None:
        return f"look at {typed(told.report)}"
    if pictures := [_pictures(target, paths) for target, paths in drawn.items() if paths]:
        return f"look at {' and '.join(pictures)}"
    if totals.real + totals.fake + totals.unsure == 0:
        no_face = "python detect.py --help tells of --face whole, for pictures in which no face is found"
        return no_face if totals.no_face else ""
    return f"to see what spoke for the answers: {same_again(asked)} --explain maps/"


def _pictures(target: str, paths: Sequence[Path]) -> str:
    """The picture or the folder that was asked for, or where several were numbered in its place, the first and the
    last of them."""
    first, last = str(paths[0]), str(paths[-1])
    if Path(target).is_dir():
        return typed(target)
    return typed(first) if first == last else f"{typed(first)} to {typed(last)}"


def same_again(asked: DetectOptions) -> str:
    """The command that judges the same in the same way: of many inputs the first."""
    named = [word for word in asked.inputs if word != "-"] or ["PHOTO"]
    words = ["python detect.py", *(typed(word) for word in named[: len(named) if len(named) <= FEW else 1])]
    for field in fields(asked):
        value = getattr(asked, field.name)
        if field.name in SAME and value != field.default:
            words.append(f"--{field.name.replace('_', '-')}" + ("" if value is True else f" {typed(value)}"))
    return " ".join(words)


def describe_faces(step: FaceStep) -> dict:
    """Who looked for the faces, and if it is not YuNet, why, in plain JSON types."""
    return {"finder": step.name, "fallback": _as_typed(step.finder.fallback) if step.finder is not None else ""}


def _as_typed(text: str) -> str:
    """`text` with the parameters that it names as flags of the command that runs, where one does."""
    command = click.get_current_context(silent=True)
    return text if command is None else in_flags(text, flags_of(command.command))


def document(
    engine: Engine,
    judge: Judge,
    totals: Totals,
    results: list[dict],
    *,
    seconds: float,
    exit_code: int,
    interrupted: bool = False,
    file: str | None = None,
    rates: Rates | None = None,
) -> dict:
    """The one document of `detect.py` and of the HTTP API. file: what the detector's file is called (default: its
    path). rates: what was measured at the threshold in force."""
    detector, onnx = engine.detector, engine.onnx
    sha256 = detector.sha256
    if isinstance(detector, OnnxDetector) and onnx != engine.file:  # the file that it was made from was asked for
        sha256 = detector.source_sha256
    head = {
        "file": str(engine.file) if file is None else file,
        "sha256": sha256,
        "resolution": detector.preprocess.resolution,
    }
    if onnx is not None:
        head |= {"onnx": str(onnx) if file is None else onnx.name, "onnx_sha256": detector.sha256}
    if detector.caution:
        head["caution"] = detector.caution
    return {
        "detector": head,
        "runtime": engine.runtime,
        "faces": describe_faces(judge.faces),
        "operating_point": judge.threshold.to_dict(),
        "measured": (rates or rates_of(engine.file, detector, judge.threshold)).to_dict(),
        "results": results,
        "summary": {**totals.__dict__, "seconds": seconds, "exit_code": exit_code, "interrupted": interrupted},
    }


class Outputs(contextlib.AbstractContextManager):
    """All ways out of `detect.py` together: a context in which results are added, and whose end tells the rest.

    At its end, and after Ctrl-C with what there is, `exit_code` is known. UserError where a target is in the way, or
    where nothing came to be judged."""

    def __init__(
        self, asked: DetectOptions, told: TellOptions, engine: Engine, judge: Judge, files: Iterable, command: str = ""
    ):
        """files: what is judged; a list where all of it is known. command: as it was typed, for a report."""
        self.command = command
        count = len(files) if isinstance(files, list) else None
        self.asked, self.told, self.engine, self.judge = asked, told, engine, judge
        self.totals, self.exit_code = Totals(), 0
        self.rates = rates_of(engine.file, engine.detector, judge.threshold)
        self.rows: list[dict] = []
        self._photo: list[Result] = []
        self.bar: Any = None
        self.painter = None
        if told.explain is not None:
            from reports.verdict_panels import Painter

            self.painter = Painter(
                told.methods, told.drawn_to, list(files), engine, tell=lambda line: self.echo(_as_typed(line), err=True)
            )
        self.handout, self._report_rows = None, io.StringIO()
        if told.report is not None:
            from reports.handout import Handout

            maps = self.painter.maps if self.painter is not None else None
            self.handout = Handout(told.report, engine.detector, maps)
            self._table = csv.DictWriter(self._report_rows, CSV_COLUMNS, restval="", lineterminator="\n")
            self._table.writeheader()
        self._closing = contextlib.ExitStack()
        self.beside = self._closing.enter_context(
            contextlib.closing(Beside(told, list(files) if count else [], int(asked.max_pixels * 1e6)))
        )
        if sys.stderr.isatty() and not (told.table and sys.stdout.isatty()) and (count is None or count >= 2):
            self.bar = self._closing.enter_context(progress(total=count, title="judging", unit="file"))
        with contextlib.ExitStack() as opened:
            self._csv = self._open(told.csv, "csv", CSV_COLUMNS, opened)
            try:
                self._frames = self._open(told.frames_csv, "frames_csv", FRAME_COLUMNS, opened)
            except UserError:
                if self._csv is not None:
                    self._csv.remove()  # or it would be in the way of the next attempt
                raise
            self._closing.push(opened.pop_all())
        if engine.note:
            self.echo(f"note: {_as_typed(engine.note)}", err=True)
        if told.table and count != 0:
            self.echo(HEAD)
        self._start = time.perf_counter()

    def _open(self, target: str | None, name: str, columns: tuple[str, ...], opened: contextlib.ExitStack):
        return opened.enter_context(contextlib.closing(CsvOut(target, columns, name, self.echo))) if target else None

    @property
    def on_frame(self) -> Callable[[dict], object] | None:
        """What is to hear of each face of each frame."""
        return self._frames.add if self._frames else None

    def on_read(self) -> None:
        """A file is through."""
        if self.bar is not None:
            self.bar.update()

    def echo(self, text: str | bytes, err: bool = False) -> None:
        """A line beside the progress bar."""
        with type(self.bar).external_write_mode(file=sys.stderr) if self.bar is not None else contextlib.nullcontext():
            click.echo(text, err=err)

    def add(self, result: Result) -> None:
        """Tell one result in every way that was asked for, as soon as its photo is complete."""
        result = self.beside.told(result)
        self._photo.append(result)
        if result.ends_photo:
            self._tell()

    def _tell(self) -> None:
        photo, self._photo = self._photo, []
        if not photo:
            return
        # Answers first, pictures after them: drawing takes seconds, and who stops it then has been told the answer.
        for one in photo:
            self.totals.add(one)
            if one.status == "unreadable":
                self.echo(f"error: {one_line(one.file)}: {one.error}", err=True)
        if self.told.table:
            for line in (*table_lines(photo), *story_lines(photo)):
                self.echo(line)
        rows = rows_of(photo)
        if self.told.jsonl:
            for row in rows:
                self.echo(json.dumps(row, allow_nan=False))
        if self.told.json or self.handout is not None:
            self.rows += rows
        cells = csv_rows(photo, rows)
        if self._csv is not None:
            for cell in cells:
                self._csv.add(cell)
        if self.handout is not None:
            self.handout.add(photo, rows)
            self._table.writerows(cell | {"file": no_formula(cell["file"])} for cell in cells)
        if self.painter is not None:
            for one in photo:
                self.painter.add(one)

    def __exit__(self, kind, error, trace) -> None:
        seconds = time.perf_counter() - self._start
        stopped = kind is not None and issubclass(kind, KeyboardInterrupt)
        if kind is None or stopped:
            self._tell()  # of a photo in whose middle it was stopped, what there is
        self._closing.close()
        if kind is not None and not stopped:
            return
        if not self.totals.files and not stopped:
            raise UserError("-: no paths came on stdin; nothing was judged")
        required = self.asked.face == "required"
        self.exit_code = (
            interrupted_code(error) if stopped else self.totals.exit_code(strict=self.told.strict, required=required)
        )
        told = document(
            self.engine, self.judge, self.totals, self.rows, seconds=seconds, exit_code=self.exit_code,
            interrupted=stopped, rates=self.rates,
        )  # fmt: skip
        if self.handout is not None and self.totals.files:
            about = origin(self.engine.runtime, self.judge.threshold.describe(), self.command)
            self.handout.collected.maps.hurried = stopped
            self.handout.save(told, about, self._report_rows.getvalue())
        if self.told.json:
            click.echo(json.dumps(told, indent=2, allow_nan=False))
        elif not self.told.quiet:
            for line in summary(
                self.totals, seconds, self.judge, self.rates, self.engine.file if self.asked.model is None else None
            ):
                click.echo(line, err=not self.told.table)
        if self.told.table and not stopped:
            drawn = {} if self.painter is None else {self.painter.target: self.painter.written}
            if then := next_line(self.asked, self.told, self.judge, self.totals, drawn | self.beside.written):
                next_step(then)


class CsvOut:
    """A CSV that grows line by line, so that what was judged stays when the program is stopped.

    target: a new file (UserError where it exists: nothing is overwritten), or "-" for stdout. name: the
    parameter's."""

    def __init__(self, target: str, columns: tuple[str, ...], name: str, echo: Callable[[bytes], None]):
        self._file: IO[str] | None = None
        if target == "-":
            self._write = csv.DictWriter(_Lines(echo), columns, restval="", lineterminator="\n")
        else:
            try:
                self._file = open(target, "x", encoding="utf-8", errors="surrogateescape", newline="")
            except FileExistsError:
                raise UserError(
                    f"`{name}`: {target} exists and will not be overwritten; give another name or move it"
                ) from None
            except OSError as error:
                raise UserError(f"`{name}`: {target} can't be written ({error.strerror}); give another name") from None
            self._write = csv.DictWriter(self._file, columns, restval="", lineterminator="\n")
        self._write.writeheader()

    def add(self, row: dict) -> None:
        self._write.writerow(row | {"file": no_formula(row["file"])})
        if self._file is not None:
            with disk_errors_of(self._file.name):
                self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            with disk_errors_of(self._file.name):
                self._file.close()

    def remove(self) -> None:
        """Takes the file away, which has nothing but its header yet."""
        if self._file is not None:
            self._file.close()
            os.unlink(self._file.name)


class _Lines:
    """What csv writes, by way of `echo`."""

    def __init__(self, echo: Callable[[bytes], None]):
        self._echo = echo

    def write(self, text: str) -> None:
        # bytes of names that are not UTF-8 go out as they came in
        self._echo(text.removesuffix("\n").encode("utf-8", "surrogateescape"))


def stdin_reader() -> Callable[[int], bytes]:
    """A function that returns what there is on stdin, at most n bytes, without waiting for n.

    Not by way of Python's buffer where that can be helped: its lock is held while a thread waits for more, and would
    not let the program end."""
    try:
        number = sys.stdin.fileno()
    except (AttributeError, OSError, ValueError):  # a test's stand-in
        return sys.stdin.buffer.read
    return lambda n: os.read(number, n)
