"""Verdicts on their way out: a table for people, JSON, JSON lines and CSV for programs, line by line."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from common.errors import UserError, one_line

if TYPE_CHECKING:
    from discriminator.engine import Engine
    from discriminator.outcome import Judged, Totals
    from discriminator.verdict import Rule
    from faces.finding.face_step import FaceStep

STYLES = {"FAKE": {"fg": "red", "bold": True}, "REAL": {"fg": "green"}, "UNSURE": {"fg": "yellow"}}
HEAD = f"{'verdict':8} {'P(fake)':>7}  {'FAKE from':>9}  {'false alarms':>12}  {'ms':>6}  file"
CSV_COLUMNS = (
    "file", "status", "verdict", "probability", "threshold", "unsure_low", "false_alarm_rate", "logit", "face", "faces",
    "x0", "y0", "x1", "y1", "face_score", "seen_as", "seconds", "note", "error",
)  # fmt: skip


def table_line(judged: Judged) -> str:
    """The table's line for an outcome that has a verdict, or is «no face»."""
    name, ms = one_line(judged.file), 1000 * judged.seconds
    if judged.verdict is None:
        return f"{'NO FACE':8} {'':7}  {'':9}  {'':12}  {ms:6.0f}  {name}"
    v = judged.verdict
    label = click.style(f"{v.label:8}", **STYLES[v.label])
    alarms = "not measured" if v.fpr is None else f"{100 * v.fpr:.2g} % of {v.n_real}"
    line = f"{label} {v.probability:7.4f}  {v.threshold:9.4f}  {alarms:>12}  {ms:6.0f}  {name}"
    if (face := judged.face) is not None and face["seen_as"] not in ("crop", "whole") and judged.video is None:
        x0, y0, x1, y1 = (round(x) for x in face["box"])
        line += f"  face {face['index']} of {face['of']} at {x0},{y0} ({x1 - x0}x{y1 - y0})"
    return f"{line}  ({v.note})" if v.note else line


def json_line(row: dict) -> str:
    return json.dumps(row, allow_nan=False)


def csv_row(judged: Judged) -> dict:
    """One outcome as cells of CSV_COLUMNS."""
    row = {"file": judged.file, "status": judged.status, "error": judged.error, "seconds": f"{judged.seconds:.6f}"}
    if judged.verdict is not None:
        told = judged.verdict.to_dict()
        row |= {name: told[name] for name in CSV_COLUMNS if name in told}
    if (face := judged.face) is not None:
        row |= {"face": face["index"], "faces": face["of"], "face_score": face["score"], "seen_as": face["seen_as"]}
        row |= dict(zip(("x0", "y0", "x1", "y1"), face["box"] or ()))
    return row


def summary(totals: Totals, seconds: float, rule: Rule, step: FaceStep, chosen: Path | None) -> list[str]:
    """The last lines for people: counts, the threshold, the detector file where the user did not name it (`chosen`),
    and who looked for the faces."""
    line = f"{totals.real} real, {totals.fake} fake, {totals.unsure} unsure, {totals.unreadable} unreadable"
    if step.finder is not None:
        line += f", {totals.no_face} without a face"
    if totals.files > 1 and seconds > 0:
        rate = totals.files / seconds
        line += f", {rate:.{0 if rate >= 10 else 1 if rate >= 1 else 2}f} images/s"
    lines = [line, rule.describe()]
    if chosen is not None:
        lines.append(f"judged by {one_line(chosen)}")
    if step.finder is not None:
        told = describe_faces(step)
        lines.append(f"faces found by {told['finder']}" + (f" ({told['fallback']})" if told["fallback"] else ""))
    return lines


def describe_faces(step: FaceStep) -> dict:
    """Who looked for the faces, and if it is not YuNet, why, in plain JSON types."""
    return {"finder": step.name, "fallback": step.finder.fallback if step.finder is not None else ""}


def document(
    engine: Engine,
    step: FaceStep,
    rule: Rule,
    totals: Totals,
    results: list[dict],
    *,
    seconds: float,
    exit_code: int,
    interrupted: bool = False,
    file: str | None = None,
) -> dict:
    """The one document of --json and of the HTTP API. file: what the detector's file is called (default: its path)."""
    detector, served = engine.detector, engine.runtime == "onnx"
    head = {
        "file": str(engine.file) if file is None else file,
        "sha256": detector.source_sha256 if served and engine.onnx != engine.file else detector.sha256,
        "resolution": detector.preprocess.resolution,
    }
    if served:
        onnx = engine.onnx if file is None else engine.onnx.name
        head |= {"onnx": str(onnx), "onnx_sha256": detector.sha256}
    return {
        "detector": head,
        "runtime": engine.runtime,
        "faces": describe_faces(step),
        "operating_point": rule.to_dict(),
        "results": results,
        "summary": {**totals.__dict__, "seconds": seconds, "exit_code": exit_code, "interrupted": interrupted},
    }


class CsvOut:
    """A CSV that grows line by line, so that what was judged stays when the program is stopped.

    target: a new file (UserError where it exists: nothing is overwritten), or "-" for stdout."""

    def __init__(self, target: str, columns: tuple[str, ...], option: str, echo: Callable[[bytes], None]):
        self._file: IO[str] | None = None
        if target == "-":
            self._write = csv.DictWriter(_Lines(echo), columns, restval="", lineterminator="\n")
        else:
            try:
                self._file = open(target, "x", encoding="utf-8", errors="surrogateescape", newline="")
            except FileExistsError:
                raise UserError(
                    f"{option}: {target} exists and will not be overwritten; give another name or move it"
                ) from None
            except OSError as error:
                raise UserError(f"{option}: {target} can't be written ({error.strerror}); give another name") from None
            self._write = csv.DictWriter(self._file, columns, restval="", lineterminator="\n")
        self._write.writeheader()

    def add(self, row: dict) -> None:
        self._write.writerow(row)
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


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
