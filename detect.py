"""Is a face photo real, or made by a generator? Verdicts for files, folders, videos, on a terminal or for programs.

python detect.py photo.jpg more.png folder/
python detect.py photo.jpg --explain out.png
python detect.py folder/ --json > verdicts.json
find . -name '*.jpg' -print0 | python detect.py - --jsonl
python detect.py export --model detector.safetensors --onnx detector.onnx
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import traceback
from pathlib import Path

import click

from common.cli import MODEL_HELP, download_bar, face_file_options, importing, progress, run
from common.device import pick_device
from common.errors import UserError, one_line

HERE = Path(__file__).resolve().parent
SHIPPED = (HERE / "models" / "detector.safetensors", HERE / "models" / "detector.onnx")
PATIENCE = 0.05  # seconds a batch waits for more paths from stdin


class JudgesByDefault(click.Group):
    """A group whose first word is a sub-command's name or else the first thing to judge (`./export` is a file)."""

    allow_interspersed_args = True

    def make_context(self, info_name, args, parent=None, **extra):
        if args and args[0] in self.commands:
            if len(args) == 1 and os.path.lexists(args[0]):
                raise click.UsageError(
                    f"{args[0]} is a command of detect.py; to judge what is called so, say ./{args[0]}"
                )
            return self.commands[args[0]].make_context(f"{info_name} {args[0]}", list(args[1:]), parent, **extra)
        return super().make_context(info_name, args, parent, **extra)

    def parse_args(self, ctx, args):
        return click.Command.parse_args(self, ctx, args)

    def invoke(self, ctx):
        if ctx.command is not self:
            return ctx.command.invoke(ctx)
        return click.Command.invoke(self, ctx)


@click.command(
    cls=JudgesByDefault,
    invoke_without_command=True,
    subcommand_metavar="",
    context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]},
)
@click.argument(
    "inputs", nargs=-1, required=True, metavar="IMAGE|VIDEO|FOLDER|PATTERN|MANIFEST|-...", type=click.Path()
)
@click.option("--model", metavar="FILE|RUN", help=MODEL_HELP)
@click.option(
    "--fpr", type=float, help="Calibrated false-alarm rate that sets the threshold.  [default: the detector's]"
)
@click.option("--threshold", type=float, metavar="P", help="Your own threshold: FAKE from this probability on.")
@click.option(
    "--face",
    type=click.Choice(["auto", "whole", "required"]),
    default="auto",
    show_default=True,
    help="auto: find and judge every face where the detector was trained on aligned faces, else judge photos whole. "
    "whole: never look for faces. required: always look, and a photo without a face fails (exit code 2).",
)
@face_file_options
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout instead of the table.")
@click.option("--jsonl", "as_lines", is_flag=True, help="A line of JSON for each face as soon as it is judged.")
@click.option("--csv", "csv_target", metavar="FILE|-", help="A line for each face in a new CSV, or (-) on stdout.")
@click.option(
    "--explain",
    metavar="PATH",
    help="Draw where it was seen: a picture for one image; for several a folder, or numbered pictures (out-0001.png).",
)
@click.option(
    "--every",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="Time between a video's judged frames; 0: all.  [default: 1]",
)
@click.option("--frames-csv", metavar="FILE", help="A line for each face of each judged frame of videos.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option(
    "--runtime",
    type=click.Choice(["auto", "torch", "onnx"]),
    default="auto",
    show_default=True,
    help="auto: ONNX Runtime where the detector was exported beside its file, else PyTorch.",
)
@click.option("--batch", type=click.IntRange(1), help="Images judged at once.  [default: 32 on a GPU, else 8]")
@click.option("--workers", type=click.IntRange(1), help="Threads that decode ahead.  [default: one per core]")
@click.option("--strict", is_flag=True, help="UNSURE counts like FAKE in the exit code.")
@click.option("--quiet", is_flag=True, help="No table and no summary; the exit code tells.")
@click.pass_context
def main(
    ctx: click.Context,
    inputs: tuple[str, ...],
    model: str | None,
    fpr: float | None,
    threshold: float | None,
    face: str,
    face_model: str | None,
    offline: bool,
    as_json: bool,
    as_lines: bool,
    csv_target: str | None,
    explain: str | None,
    every: float | None,
    frames_csv: str | None,
    device: str,
    runtime: str,
    batch: int | None,
    workers: int | None,
    strict: bool,
    quiet: bool,
) -> None:
    """Say of every face in photos and videos whether it is REAL, FAKE (made by a GAN) or UNSURE.

    FAKE is said at or above the threshold, which accused a stated share of the validation reals (its false-alarm
    rate); REAL below the score under which almost no validation fake lies; UNSURE between the two. NO FACE is said
    where faces are looked for and none is found. A lone - reads paths from stdin, one a line or NUL-separated.

    \b
    Exit code  0  no fake found, every file judged (UNSURE is not an alarm; see --strict)
               1  a fake found, whatever else happened
               2  no fake found, but a file could not be read; or nothing could be done at all
    """
    if as_json + as_lines + (csv_target == "-") > 1:
        raise click.UsageError("--json, --jsonl and --csv - all write to stdout; give one of them")
    # Imports take a moment (PyTorch's seconds); --help and mistyped options should not.
    with importing():
        from discriminator.engine import open_engine
        from discriminator.judge import Totals, expand, judge_files, paths_from
        from discriminator.verdict import Rule, find_detector
        from discriminator.video import FRAME_COLUMNS, VideoOptions
        from reports.verdicts import (
            CSV_COLUMNS,
            HEAD,
            CsvOut,
            csv_row,
            document,
            json_line,
            stdin_reader,
            summary,
            table_line,
        )

    where = find_detector(model, shipped=SHIPPED)
    with importing():
        engine = open_engine(
            where, runtime=runtime, device=device, pick_device=pick_device, gradients=explain is not None
        )
    detector = engine.detector
    rule = Rule.of(detector.calibration, fpr=fpr, threshold=threshold)
    step = _face_step(face, face_model, offline, detector)
    reading = "-" in inputs
    named = expand(paths_from(stdin_reader())) if reading else None
    if named is not None and len(inputs) > 1:
        raise UserError("-: stdin is read for paths, and nothing else can be named beside it")
    entries = named if named is not None and explain is None else list(named or expand(inputs))
    painter = None
    if explain is not None:
        from reports.verdict_panels import Painter

        painter = Painter(explain, [entry for entry in entries if isinstance(entry, str)], engine)

    totals, results = Totals(), []
    show_table = not (as_json or as_lines or csv_target == "-" or quiet)
    count = None if named is not None and explain is None else len(entries)
    bar = _bar(count, show_table)

    def echo(text: str | bytes, err: bool = False) -> None:
        with type(bar).external_write_mode(file=sys.stderr) if bar is not None else contextlib.nullcontext():
            click.echo(text, err=err)

    interrupted = None
    with contextlib.ExitStack() as closing:
        table = CsvOut(csv_target, CSV_COLUMNS, "--csv", echo) if csv_target else None
        frames = CsvOut(frames_csv, FRAME_COLUMNS, "--frames-csv", echo) if frames_csv else None
        for out in (table, frames, bar):
            if out is not None:
                closing.callback(out.close)
        if engine.note:
            echo(f"note: {engine.note}", err=True)
        if show_table and (count is None or count):
            echo(HEAD)
        start = time.perf_counter()
        try:
            for judged in judge_files(
                detector,
                entries,
                batch=batch or _batch(engine),
                rule=rule,
                faces=step,
                workers=workers,
                patience=PATIENCE if reading else None,
                keep_photos=painter is not None,
                video=VideoOptions(every, frames.add if frames else None),
                on_read=bar.update if bar is not None else lambda: None,
            ):
                totals.add(judged)
                if judged.status == "unreadable":
                    echo(f"error: {one_line(judged.file)}: {judged.error}", err=True)
                elif show_table:
                    echo(table_line(judged))
                if as_lines:
                    echo(json_line(judged.to_dict()))
                if as_json:
                    results.append(judged.to_dict())
                if table is not None:
                    table.add(csv_row(judged))
                if painter is not None:
                    painter.add(judged)
        except KeyboardInterrupt as error:
            interrupted = error  # what was judged is told all the same
        seconds = time.perf_counter() - start

    stopped = interrupted is not None
    if not totals.files and not stopped:
        raise UserError("-: no paths came on stdin; nothing was judged")
    code = 130 if stopped else totals.exit_code(strict=strict, required=face == "required")
    if as_json:
        told = document(engine, step, rule, totals, results, seconds=seconds, exit_code=code, interrupted=stopped)
        click.echo(json.dumps(told, indent=2, allow_nan=False))
    elif not quiet:
        for line in summary(totals, seconds, rule, step, engine.file if model is None else None):
            click.echo(line, err=not show_table)
    if stopped:
        raise interrupted
    ctx.exit(code)


def _face_step(face: str, face_model: str | None, offline: bool, detector):
    """The face step that was asked for; no finder where photos are judged whole."""
    from faces.finding.face_step import FaceStep

    side = detector.preprocess.resolution
    if face == "whole" or (face == "auto" and not detector.trained_on_aligned_faces):
        return FaceStep(None, side)
    with importing():
        import cv2

        from faces.finding.align import FaceFinder
    cv2.setNumThreads(1)  # every photo has a thread; OpenCV's own would only be in their way
    with download_bar("YuNet") as report:
        return FaceStep(FaceFinder.open(face_model, not offline, progress=report), side)


def _batch(engine) -> int:
    """On a CPU the network gains nothing from many images at once, and they take memory."""
    return 32 if engine.runtime == "torch" and engine.detector.device.type != "cpu" else 8


def _bar(count: int | None, show_table: bool):
    """A progress bar on stderr, where that is a terminal and the table itself does not show how it goes on."""
    if not sys.stderr.isatty() or (show_table and sys.stdout.isatty()) or (count is not None and count < 2):
        return None
    return progress(total=count, title="judging", unit="file")


@main.command(context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]})
@click.option("--model", metavar="FILE|RUN", help=MODEL_HELP)
@click.option("--onnx", "target", metavar="FILE", help="A new .onnx file.  [default: beside the detector file]")
def export(model: str | None, target: str | None) -> None:
    """Write the detector as an ONNX file (float32, any batch size) that detect.py serves without PyTorch.

    Preprocessing, calibration and thresholds go into its metadata, so the file is complete by itself. Beside the
    detector file, under the same name, it is found and used without being named.
    """
    with importing():
        from discriminator.detector import Detector
        from discriminator.export_onnx import export_detector
        from discriminator.verdict import find_detector

    where = find_detector(model, shipped=SHIPPED[:1])
    if where.suffix.lower() == ".onnx":
        raise UserError(f"--model {where}: this is an ONNX file already; give the detector.safetensors")
    path = Path(target) if target else where.with_suffix(".onnx")
    difference = export_detector(path, Detector.load(where))
    click.echo(
        f"{path}: {path.stat().st_size / 1e6:.1f} MB; probabilities differ from PyTorch's by at most {difference:.1g}"
    )


if __name__ == "__main__":
    try:
        run(main)
    except Exception:  # a bug keeps its traceback, but Python's exit code for it would read «a fake found»
        traceback.print_exc()
        sys.exit(2)
