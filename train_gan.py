#!/usr/bin/env python3
"""Train a StyleGAN2-ADA generator against the hybrid discriminator, then calibrate the detector that remains.

\b
Examples:
  python train_gan.py --data demo --cfg tiny --resolution 64 --kimg 20
  python train_gan.py --data flickr140k --resolution 256 --mirror
  python train_gan.py --data my_faces/ --cfg paper256 --aug ada --augpipe bgc
  python train_gan.py --data my_photos/ --patches 64 --cfg tiny --kimg 100 --mirror
  python train_gan.py --resume latest
  python train_gan.py --grow-from runs/00000-faces-64-tiny --resolution 128
  python train_gan.py --data my_faces/ --cfg paper256 --resume network-snapshot-025000.pkl
  torchrun --nproc_per_node=4 train_gan.py --data faces.zip --resolution 256
"""

from __future__ import annotations

import dataclasses
import json
import os

from common import base  # noqa: F401  # isort: skip
import click

from adversarial.options import Options
from common.cli import SETTINGS, download_bar, importing, next_step, run, typed
from common.device import pick_device
from common.options import Word, flags_of, given, options, write_sections
from common.reading import json_file

SECTIONS = {
    "Data": "data data_root labels resolution patches cond crop resize_filter channels mirror mirror_y subset workers",
    "The game": "cfg kimg batch batch_gpu gamma lr mbstd_group aug augpipe p target p_max freezed seed",
    "The verdict head": "verdict_batch verdict_lr verdict_weight verdict_kimg trunk_grad_scale"
    " generator_verdict_weight replay_capacity degradation consistency",
    "Output and resuming": "outdir resume grow_from tick snap image_snap keep checkpoint_minutes metrics fid_dims"
    " fid_features fid_weights"
    " keep_every metric_data inception_weights report quiet dry_run help",
    "Machine": "device precision threads",
}

# options of the published program and its relatives: what does the same here
ELSEWHERE = {
    "--gpus": "start as many processes as GPUs with torchrun --nproc_per_node=N train_gan.py",
    "--fp32": "--precision fp32",
    "--nhwc": "leave it out, the memory format is chosen by itself",
    "--nobench": "leave it out",
    "--allow-tf32": "leave it out, or choose a number format with --precision",
    "--metricdata": "--metric-data SOURCE",
    "--mirrory": "--mirror-y",
    "--subfolders-as-labels": "--cond",
    "--glr": "--lr, for both networks",
    "--dlr": "--lr, for both networks",
    "--lrate": "--lr",
    "--aug-prob": "--aug fixed --p P",
    "--initstrength": "--resume goes on with the run's own p",
    "--nkimg": "--resume goes on with the run's own count",
    "--resume-kimg": "--resume goes on with the run's own count",
    "--force-channels": "--channels",
    "--img-snap": "--image-snap",
    "--desc": "--outdir, for a name of one's own",
}


class Sectioned(click.Command):
    """A command whose --help lists the options under the headings of SECTIONS."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Flags may be written the published way (--mirror=1); an option of another program is told its name here."""
        flags = {opt for p in self.params if getattr(p, "is_flag", False) for opt in p.opts}
        words: list[str] = []
        for word in args:
            name, _, value = word.partition("=")
            yes = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}.get(value.lower())
            if name not in flags or yes is None:
                words.append(word)
            elif yes:
                words.append(name)
        try:
            return super().parse_args(ctx, words)
        except click.NoSuchOption as e:
            if e.option_name in ELSEWHERE:
                instead = ELSEWHERE[e.option_name]
                raise click.UsageError(f"there is no {e.option_name} here; instead: {instead}") from None
            raise

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_sections(self, ctx, formatter, SECTIONS, 26)


@click.command(cls=Sectioned, help=__doc__, context_settings=SETTINGS)
@options(Options, "asked")
@click.option(
    "--resume",
    type=Word(),
    metavar="RUN",
    help="Go on exactly from latest, a run folder or a checkpoint; or start a new run from the networks of a .pkl,"
    " .pt, .safetensors, URL, or ffhq256, ffhq512, ffhq1024, celebahq256, lsundog256 (NVIDIA's, non-commercial).",
)
@click.option("--report/--no-report", default=True, help="RUN/report.html at the end.")
@click.option("-n", "--dry-run", is_flag=True, help="Print the resolved configuration as JSON; write nothing.")
@click.option("--quiet", is_flag=True, help="Nothing on the terminal, only the run's log.txt.")
@click.pass_context
def main(ctx: click.Context, asked: Options, resume: str | None, report: bool, dry_run: bool, quiet: bool) -> None:
    if not asked.data and resume is None and asked.grow_from is None:
        raise click.UsageError("give --data SOURCE (try --data demo), or --resume latest")
    with importing():
        from adversarial.run import describe, train

    asked = dataclasses.replace(asked, device=str(pick_device(asked.device)))
    written = given(ctx, Options)
    if dry_run:
        resolved = json.dumps(describe(asked, given=written, resume=resume), indent=2)
        if os.environ.get("RANK", "0") == "0":  # once, also under torchrun
            click.echo(resolved)
        return
    with download_bar() as downloading:
        shown = None if quiet else downloading
        folder = train(asked, given=written, resume=resume, quiet=quiet, progress=shown, flags=flags_of(ctx.command))
    if os.environ.get("RANK", "0") != "0":
        return
    of_class = " --class 0" if json_file(folder / "config.json")["generator"]["c_dim"] else ""  # it must be named
    then = f"python synth.py --network {typed(folder)} --n 64 --grid{of_class}"
    if report:
        from reports.gan_run import run_report

        then = f"open {typed(run_report(folder))} in a browser; {then}"
    if not quiet:
        next_step(then)


if __name__ == "__main__":
    run(main)
