"""Is a face photo real, or made by a generator? Verdicts for files, folders, videos, on a terminal or for programs.

python detect.py photo.jpg more.png folder/
python detect.py photo.jpg --explain out.png
python detect.py photo.jpg --explain patches,occlusion,lrp --explain-to why.png
python detect.py folder/ --json > verdicts.json
find . -name '*.jpg' -print0 | python detect.py - --jsonl
python detect.py export --model detector.safetensors --onnx detector.onnx
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from common.cli import SETTINGS, download_bar, importing, next_step, run, typed
from common.errors import UserError
from common.options import options
from discriminator.options import SHIPPED, DetectOptions, ExportOptions
from reports.verdict_options import TellOptions

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
    context_settings=SETTINGS,
)
@options(DetectOptions, "asked")
@options(TellOptions, "told")
@click.pass_context
def main(ctx: click.Context, asked: DetectOptions, told: TellOptions) -> None:
    """Say of every face in photos and videos whether it is REAL, FAKE (made by a GAN) or UNSURE.

    FAKE is said at or above the threshold, which accused a stated share of the validation reals (its false-alarm
    rate); REAL below the score under which almost no validation fake lies; UNSURE between the two. NO FACE is said
    where faces are looked for and none is found. A lone - reads paths from stdin, one a line or NUL-separated.

    \b
    Exit code  0  no fake found, every file judged (UNSURE is not an alarm; see --strict)
               1  a fake found, whatever else happened
               2  no fake found, but a file could not be read; or nothing could be done at all
             141  the reader of the output has gone (| head), 130 after Ctrl-C
    """
    drawn = told.explain is not None
    # Imports take a moment (PyTorch's seconds); --help and mistyped options should not.
    with importing():
        from discriminator.engine import open_engine, open_judge
        from discriminator.files import judge_files
        from discriminator.inputs import named
        from discriminator.locate import find_detector
        from discriminator.video import VideoOptions
        from reports.verdicts import Outputs, stdin_reader

        where = find_detector(asked.model, shipped=SHIPPED)
        engine = open_engine(where, runtime=asked.runtime, device=asked.device, gradients=told.gradients)
    with download_bar("YuNet") as report:
        judge = open_judge(engine, asked, batch=asked.batch, keep_photos=drawn, report=report)
    files = named(asked.inputs, stdin_reader)
    if drawn or not asked.streams:
        files = list(files)
    with Outputs(asked, told, engine, judge, files) as out:
        video = VideoOptions(asked.every, out.on_frame)
        patience = PATIENCE if asked.streams else None
        for result in judge_files(
            judge, files, workers=asked.workers, patience=patience, video=video, on_read=out.on_read
        ):
            out.add(result)
    ctx.exit(out.exit_code)


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
    difference = export_detector(path, Detector.load(where))
    click.echo(
        f"{path}: {path.stat().st_size / 1e6:.1f} MB; probabilities differ from PyTorch's by at most {difference:.1g}"
    )
    next_step(f"python detect.py photo.jpg --model {typed(path)}")


if __name__ == "__main__":
    run(main)
