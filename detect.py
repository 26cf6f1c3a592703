"""Is a face photo real, or made by a generator? Verdicts for files, folders, videos, on a terminal or for programs.

python detect.py photo.jpg more.png folder/
python detect.py photo.jpg --explain out.png --report out.html
python detect.py photo.jpg --explain patches,occlusion,lrp --explain-to why.png
python detect.py folder/ --json > verdicts.json
find . -name '*.jpg' -print0 | python detect.py - --jsonl
python detect.py photos.tar --shard 0/8 --out parts/ ; python detect.py merge parts/
python detect.py photos.tar --engine ray --out parts/
python detect.py export --model detector.safetensors --onnx detector.onnx
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from common import base  # noqa: F401  # isort: skip
import click

from common.cli import SETTINGS, download_bar, importing, next_step, progress_bar, run, typed
from common.errors import UserError, one_line
from common.options import options
from common.words import counted
from discriminator.options import SHIPPED, DetectOptions, ExportOptions
from reports.part_options import PARTS, MergeOptions, PartOptions
from reports.verdict_options import TellOptions
from training.lock import alone_at

if TYPE_CHECKING:
    from reports.part_judge import PartJudge

PATIENCE = 0.05  # seconds a batch waits for more paths from stdin
TYPED = "detect.typed"


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
        ctx.meta[TYPED] = tuple(args)
        return click.Command.parse_args(self, ctx, args)

    def invoke(self, ctx):
        if ctx.command is not self:
            return ctx.command.invoke(ctx)
        return click.Command.invoke(self, ctx)


def as_typed(ctx: click.Context) -> str:
    """The command that runs, as it can be typed again."""
    return f"python detect.py {shlex.join(ctx.meta[TYPED])}"


@click.command(
    cls=JudgesByDefault,
    invoke_without_command=True,
    subcommand_metavar="",
    context_settings=SETTINGS,
)
@options(DetectOptions, "asked")
@options(TellOptions, "told")
@options(PartOptions, "parts")
@click.pass_context
def main(ctx: click.Context, asked: DetectOptions, told: TellOptions, parts: PartOptions) -> None:
    """Say of every face in photos and videos whether it looks generated (FAKE), no trace of a GAN was found (REAL) or
    it can't be told (UNSURE).

    FAKE is said at or above the threshold, which accused a stated share of the validation reals (its false-alarm
    rate); REAL below even odds and below the score under which almost no validation fake lies; UNSURE between. That
    no face was found is said where faces are looked for. A lone - reads paths from stdin, one a line or NUL-separated.

    \b
    Exit code  0  no fake found, every file judged (UNSURE is not an alarm; see --strict)
               1  a fake found, whatever else happened
               2  no fake found, but a file could not be read; or nothing could be done at all
             141  the reader of the output has gone (| head), 130 after Ctrl-C
    """
    if parts.asked and (told != TellOptions() or asked.streams):
        raise UserError(
            f"{_flag(parts)}: a part goes into its Parquet file alone; leave out -, --json, --csv and the like"
        )
    if told.curve is not None and not asked.stability:
        raise UserError("`curve` draws what `stability` finds; give both")
    drawn, shown = told.explain is not None, told.explain is not None or told.report is not None
    if told.report is not None:
        _alone_at(ctx, Path(told.report))
    # Imports take a moment (PyTorch's seconds); --help and mistyped options should not.
    with importing():
        from discriminator.engine import open_engine, open_judge
        from discriminator.files import judge_files
        from discriminator.inputs import named
        from discriminator.locate import find_detector
        from discriminator.video import VideoOptions
        from faces.apart import decoder
        from reports.part_judge import PartJudge
        from reports.verdicts import Outputs, stdin_reader

        where = find_detector(asked.model, shipped=SHIPPED)
        engine = open_engine(where, runtime=asked.runtime, device=asked.device, gradients=told.gradients)
    with download_bar("YuNet") as report:
        judge = open_judge(
            engine, asked, batch=asked.batch, keep_photos=shown, stability=asked.stability, report=report
        )
    files, notes = named(asked.inputs, stdin_reader)
    for note in notes:
        click.echo(f"note: {note}", err=True)
    if parts.asked:
        _judge_parts(asked, parts, PartJudge.of(asked, engine, judge, list(files)))
        return
    if drawn or told.ela or told.curve or not asked.streams:
        files = list(files)
    with Outputs(asked, told, engine, judge, files, as_typed(ctx)) as out, decoder(asked.decode_seconds) as decode:
        video = VideoOptions.of(asked, out.on_frame)
        patience = PATIENCE if asked.streams else None
        for result in judge_files(
            judge,
            files,
            workers=asked.workers,
            patience=patience,
            video=video,
            on_read=out.on_read,
            decode=decode,
            max_pixels=int(asked.max_pixels * 1e6),
        ):
            out.add(result)
    ctx.exit(out.exit_code)


def _alone_at(ctx: click.Context, file: Path) -> None:
    """No other command writes it while this one runs. Whether there is a folder for it is told elsewhere."""
    if file.parent.is_dir() and os.access(file.parent, os.W_OK):
        ctx.with_resource(alone_at(file))


def _flag(parts: PartOptions) -> str:
    return "--shard" if parts.engine == "here" else "--engine ray"


def _say(line: str) -> None:
    click.echo(line, err=True)


def _judge_parts(asked: DetectOptions, parts: PartOptions, judge: PartJudge) -> None:
    """One part in this process, or all of them by Ray's workers."""
    assert parts.out is not None
    folder = Path(parts.out)
    if parts.engine == "ray":
        with importing():
            from reports.part_ray import judge_by_ray
        with progress_bar("judging", "part") as bar:
            judge_by_ray(asked, judge.source, parts.parts or PARTS, folder, tell=_say, progress=bar)
        click.echo(folder)
        next_step(f"python detect.py merge {typed(parts.out)}")
        return
    with progress_bar("judging", "file") as bar:
        click.echo(judge(parts.part, folder, tell=_say, progress=bar))
    when = f"when all {parts.part.of} parts are there: " if parts.part.of > 1 else ""
    next_step(f"{when}python detect.py merge {typed(parts.out)}")


@main.command(context_settings=SETTINGS)
@options(MergeOptions, "asked")
def merge(asked: MergeOptions) -> None:
    """One table of all parts that `detect.py --shard I/N --out DIR` has judged.

    A missing part, one of other files or of another detector is refused by name; exit code 0 otherwise, whatever the
    verdicts are.
    """
    with importing():
        from reports.parts import merge as merged

    found = merged(Path(asked.parts), None if asked.out is None else Path(asked.out))
    counts = ", ".join(f"{count} {name}" for name, count in sorted(found.counts.items()))
    click.echo(f"{one_line(found.path)}: {counted(found.files, 'file')}: {counts}")
    next_step(f"read {typed(found.path)} with pandas, DuckDB or Polars")


@main.command(context_settings=SETTINGS)
@options(ExportOptions, "asked")
def export(asked: ExportOptions) -> None:
    """Write the detector as an ONNX file (float32, any batch size) that detect.py serves without PyTorch.

    Preprocessing, calibration and thresholds go into its metadata, so the file is complete by itself. Beside the
    detector file, under the same name, it is found and used without being named.
    """
    with importing():
        from discriminator.detector import Detector
        from discriminator.export_onnx import export_detector
        from discriminator.locate import find_detector

    where = find_detector(asked.model, shipped=SHIPPED[:1])
    if where.suffix.lower() == ".onnx":
        raise UserError(f"--model {where}: this is an ONNX file already; give the detector.safetensors")
    path = Path(asked.onnx) if asked.onnx else where.with_suffix(".onnx")
    _alone_at(click.get_current_context(), path)
    difference = export_detector(path, Detector.load(where))
    click.echo(
        f"{one_line(path)}: {path.stat().st_size / 1e6:.1f} MB; probabilities differ from PyTorch's by at most"
        f" {difference:.1g}"
    )
    next_step(f"python detect.py photo.jpg --model {typed(path)}")


if __name__ == "__main__":
    run(main)
