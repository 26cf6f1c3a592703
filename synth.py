#!/usr/bin/env python3
"""Sample a trained generator: one image per seed, and a manifest that says how each was made.

\b
Examples:
  python synth.py --n 10000
  python synth.py --network runs/00003-demo-64-tiny --seeds 0-99,200 --trunc 0.7 --grid
  python synth.py --network generator-best.safetensors --n 64 --outdir faces --format jpg
  python synth.py --network network-snapshot-025000.pkl --n 64
  python synth.py --seeds 0-15 --class all --grid
  python synth.py mix --rows 1-4 --cols 10-15 --styles coarse
  python synth.py video --seeds 1-8 --loop --grid 3x2
  python synth.py sweep --seeds 1-6
  python synth.py project photo.jpg --save-video --outdir samples/photo
  python synth.py --projected-w samples/photo/projected_w.npz
  python synth.py twins --data my_photos/ --outdir bank/

A seed gives the same image whatever else is asked for. Started again, it makes only what is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from common import base  # noqa: F401  # isort: skip
import click

from common.cli import SETTINGS, download_bar, next_step, progress_bar, run, typed
from common.errors import UserError, one_line
from common.options import flags_of, options
from synth.options import (
    FromNetwork,
    ImageFile,
    MixOptions,
    ProjectionSettings,
    ProjectOptions,
    Rendering,
    SeedOptions,
    StillRendering,
    SweepOptions,
    TwinOptions,
    Walk,
    WalkVideo,
)

MEASURE = "to measure them: python evaluate.py generator {path} --data REAL_PHOTOS"
TRAIN = "train one with `python train_gan.py --data demo --cfg tiny --resolution 64`, or give --network FILE"
IN_THE_FILE = ("n", "seeds", "psi", "cutoff", "class_index", "grid")  # what projected latents have no use for


def watched(
    title: str, unit: str, make: Callable[..., list[Path]], *asked: object, then: str = "look at {path}"
) -> None:
    """Call `make(*asked, watch)` with lines and progress bars for what it does, name the paths that it returns, and say
    what to do next, or where it finds no generator. then: of the last path."""
    from synth.network import NoGenerator, Watch

    try:
        with download_bar() as download, progress_bar(title, unit) as progress:
            paths = make(*asked, Watch(click.echo, progress, download))
    except NoGenerator as error:
        raise UserError(f"{error}: {TRAIN}") from None
    for path in paths:
        click.echo(one_line(path))
    if paths:
        next_step(then.format(path=typed(paths[-1])))


@click.group(help=__doc__, context_settings=SETTINGS, invoke_without_command=True, subcommand_metavar="[COMMAND …]")
@options(FromNetwork, "source")
@options(SeedOptions, "asked")
@options(Rendering, "how", but=("class_index",))
@options(ImageFile, "file")
@click.pass_context
def main(ctx: click.Context, source: FromNetwork, asked: SeedOptions, how: Rendering, file: ImageFile) -> None:
    written = [p for p in ctx.params if ctx.get_parameter_source(p) is click.core.ParameterSource.COMMANDLINE]
    flags = flags_of(main)
    if ctx.invoked_subcommand is not None:
        if written:
            name = flags[written[0]]
            raise click.UsageError(f"{name} stands before {ctx.invoked_subcommand}: options belong after the command")
        return
    if asked.projected_w is not None and (useless := next((p for p in IN_THE_FILE if p in written), None)):
        raise click.UsageError(f"--projected-w and {flags[useless]} don't go together: the latents are in the file")
    from synth.folder import sample_to_folder
    from synth.saved import render_projected

    if asked.projected_w is not None:
        watched("sampling", "img", render_projected, source, Path(asked.projected_w), asked.outdir, file, how)
    else:
        watched("sampling", "img", sample_to_folder, source, asked, file, how, then=MEASURE)


@main.command(context_settings=SETTINGS, short_help="Style mixing: rows' faces with some layers of columns'.")
@options(FromNetwork, "source")
@options(MixOptions, "asked")
@options(StillRendering, "how")
def mix(source: FromNetwork, asked: MixOptions, how: StillRendering) -> None:
    """Style mixing: every row's face with some style layers of every column's.

    \b
    Examples:
      python synth.py mix --rows 1-4 --cols 10-15 --styles coarse
      python synth.py mix --rows 85,100,75 --cols 55,821 --styles 0-3 --trunc 0.7

    Writes grid.png, with names beside the images, every image by itself, and a manifest.csv. Coarse layers carry pose
    and the shape of the head, fine ones colours and skin; which numbers they are depends on the resolution.
    """
    from synth.mixing import mix_to_folder

    watched("mixing", "img", mix_to_folder, source, asked, how)


@main.command(context_settings=SETTINGS, short_help="A walk from seed to seed as .mp4 or .gif.")
@options(FromNetwork, "source")
@options(WalkVideo, "asked")
@options(Walk, "way")
@options(StillRendering, "how")
def video(source: FromNetwork, asked: WalkVideo, way: Walk, how: StillRendering) -> None:
    """A walk through latent space, from seed to seed, as .mp4 or .gif.

    \b
    Examples:
      python synth.py video --seeds 1-8 --loop --grid 3x2 --trunc 0.7
      python synth.py video --seeds 3,14,15 --frames-per-key 30 --out walk.gif
      python synth.py video --seeds 1-4 --space z --method slerp

    An .mp4 is H.264 where the program ffmpeg is on the PATH, else what OpenCV can write (VP9, which browsers play).
    """
    from synth.film import walk_to_video

    watched("rendering", "frame", walk_to_video, source, asked, way, how)


@main.command(context_settings=SETTINGS, short_help="One sheet of seeds under several truncations.")
@options(FromNetwork, "source")
@options(SweepOptions, "asked")
@options(StillRendering, "how", but=("psi",))
def sweep(source: FromNetwork, asked: SweepOptions, how: StillRendering) -> None:
    """One sheet of seeds under several truncations: what psi to sample with.

    \b
    Example:
      python synth.py sweep --seeds 1-6 --truncs 0,0.5,0.7,1
    """
    from synth.sweep import sweep_sheet

    watched("sampling", "psi", sweep_sheet, source, asked, how)


@main.command(context_settings=SETTINGS, short_help="The latents whose image is nearest to a photo.")
@options(FromNetwork, "source")
@options(ProjectOptions, "asked")
@options(ProjectionSettings, "settings")
@options(StillRendering, "how", but=("psi", "cutoff", "noise_mode"))
def project(source: FromNetwork, asked: ProjectOptions, settings: ProjectionSettings, how: StillRendering) -> None:
    """Find the latents whose image is nearest to a photo.

    \b
    Examples:
      python synth.py project photo.jpg --save-video --outdir samples/photo
      python synth.py project photo.jpg --steps 300 --space w+ --perceptual squeezenet1_1.pth
      python synth.py --projected-w samples/photo/projected_w.npz

    The photo should show a face as the training data do: same crop, same place. Writes target.png, projection.png,
    both in side-by-side.png, projected_w.npz (latents and noise maps) and projection.json (settings and losses).
    """
    from synth.photo import project_photo

    watched("projecting", "step", project_photo, source, asked, settings, how)


@main.command(context_settings=SETTINGS, short_help="Photos and what small decoders make of them, for a detector.")
@options(TwinOptions, "asked")
def twins(asked: TwinOptions) -> None:
    """A bank of twins: crops of photos, each beside what a small up-sampling decoder makes of it.

    \b
    Examples:
      python synth.py twins --data my_photos/ --outdir bank/ --decoders 8 --minutes 2.5
      python train_detector.py --model pixels --patches 48 --data my_photos/ --twins bank/:0.5

    A pair shows the same, so only the traces differ. Photos are cut at their own pixels; those that a training on the
    same --data and --seed validates with stay out. Every decoder is measured on photos that it did not learn from; one
    whose twins are known by their sharpness or spectrum alone is named, and a training leaves it out. Killed and called
    again, it makes what is missing.
    """
    from synth.twins import make_bank

    then = "python train_detector.py --model pixels --patches N --data THE_SAME_PHOTOS --twins {path}:0.5"
    watched("twins", "part", make_bank, asked, then=then)


if __name__ == "__main__":
    run(main)
