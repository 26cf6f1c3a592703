#!/usr/bin/env python3
"""Train a StyleGAN2-ADA generator against the hybrid discriminator, then calibrate the detector that remains.

\b
Examples:
  python train_gan.py --data demo --cfg tiny --resolution 64 --kimg 20
  python train_gan.py --data flickr140k --resolution 256 --mirror
  python train_gan.py --data my_faces/ --cfg paper256 --aug ada --augpipe bgc
  python train_gan.py --resume latest
  python train_gan.py --data my_faces/ --cfg paper256 --resume network-snapshot-025000.pkl
  torchrun --nproc_per_node=4 train_gan.py --data faces.zip --resolution 256
"""

from __future__ import annotations

import dataclasses
import json
import os

import click

from common.cli import download_bar, importing, pick_device, run

CFGS = ["auto", "stylegan2", "paper256", "paper512", "paper1024", "cifar", "tiny"]
AUGPIPES = ["blit", "geom", "color", "filter", "noise", "cutout", "bg", "bgc", "bgcf", "bgcfn", "bgcfnc", "face"]
SECTIONS = {
    "Data": "data data_root resolution cond crop resize_filter channels mirror mirror_y subset workers",
    "The game": "cfg kimg batch batch_gpu gamma lr mbstd_group aug augpipe p target p_max freezed seed",
    "The verdict head": "verdict_batch verdict_lr verdict_weight verdict_kimg trunk_grad_scale"
    " generator_verdict_weight replay_capacity degradation consistency",
    "Output and resuming": "outdir resume tick snap image_snap keep checkpoint_minutes metrics fid_dims"
    " keep_every metric_data inception_weights quiet dry_run help",
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
SETTINGS = {"show_default": True, "max_content_width": 110, "help_option_names": ["-h", "--help"]}


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
        params = {max(p.opts, key=len)[2:].replace("-", "_"): p for p in self.get_params(ctx)}
        for title, names in SECTIONS.items():
            with formatter.section(title):
                records = [params[name].get_help_record(ctx) for name in names.split()]
                formatter.write_dl([record for record in records if record is not None], col_max=26)


@click.command(cls=Sectioned, help=__doc__, context_settings=SETTINGS)
@click.option("--data", metavar="SOURCE", help="Folder, zip, or demo, flickr140k, rvf10k, deepfake-and-real, yonsei.")
@click.option("--data-root", metavar="DIR", help="Where named sets lie.  [default: $FACES_DATA_ROOT, else ./datasets]")
@click.option("--outdir", metavar="DIR", default="runs", help="Each run gets a numbered folder in here.")
@click.option("--resolution", type=int, metavar="N", help="Side of the images, a power of 2.  [default: the data's]")
@click.option(
    "--cfg",
    type=click.Choice(CFGS),
    default="auto",
    metavar="NAME",
    help=f"Preset, one of {', '.join(CFGS)}; tiny suits a CPU.",
)
@click.option("--batch", type=int, metavar="N", help="Images a step, all processes together.  [default: preset]")
@click.option("--batch-gpu", type=int, metavar="N", help="Images in memory at once, per process.  [default: what fits]")
@click.option("--mbstd-group", type=int, metavar="N", help="Images compared by minibatch-std.  [default: preset]")
@click.option("--gamma", type=float, metavar="X", help="Weight of the R1 penalty.  [default: preset]")
@click.option("--lr", type=float, metavar="X", help="Learning rate of both networks.  [default: preset]")
@click.option("--mirror/--no-mirror", default=False, help="Add every image's mirror image.")
@click.option("--mirror-y", is_flag=True, help="Add every image upside down.")
@click.option("--cond", is_flag=True, help="Train with classes: from dataset.json, or sub-folders.")
@click.option("--crop", metavar="HOW", default="center", help="Images that are not square: center, pad or none.")
@click.option(
    "--resize-filter", metavar="NAME", default="lanczos", help="Kernel: lanczos, box (FFHQ-256), bilinear or bicubic."
)
@click.option("--channels", type=int, metavar="N", default=3, help="3: colour, 1: grey.")
@click.option(
    "--aug",
    type=click.Choice(["ada", "fixed", "noaug"]),
    default="ada",
    help="Augmentation: adaptive, at a fixed --p, or none.",
)
@click.option(
    "--augpipe",
    type=click.Choice(AUGPIPES),
    default="bgc",
    metavar="NAME",
    help=f"Which transformations: {', '.join(AUGPIPES)}.",
)
@click.option("--p", type=float, metavar="P", help="Probability of each transformation for --aug fixed.")
@click.option("--target", type=float, metavar="X", default=0.6, help="What ADA keeps the mean of sign(D(real)) at.")
@click.option("--p-max", type=float, metavar="P", default=0.85, help="ADA never raises its probability beyond this.")
@click.option("--subset", type=int, metavar="N", help="Train on N random images of each class.")
@click.option("--kimg", type=float, metavar="X", help="Length: thousands of real images shown.  [default: preset]")
@click.option("--tick", type=float, metavar="KIMG", help="Progress interval.  [default: 4; on a CPU kimg/50]")
@click.option("--snap", type=click.IntRange(1), metavar="N", default=50, help="Ticks between generator snapshots.")
@click.option(
    "--image-snap", type=click.IntRange(1), metavar="N", help="Ticks between sample grids.  [default: snap/5]"
)
@click.option("--keep", type=click.IntRange(1), metavar="N", default=3, help="Snapshots kept beside the best.")
@click.option("--keep-every", type=float, metavar="KIMG", help="Besides, keep one snapshot of every so many kimg.")
@click.option(
    "--metrics",
    default="auto",
    metavar="NAMES",
    help="fid1k,fid5k,…, none, or auto: a cheap one where weights are at hand.",
)
@click.option(
    "--metric-data", metavar="SOURCE", help="Measure FID against these reals.  [default: the training images]"
)
@click.option(
    "--fid-dims",
    type=click.Choice(["64", "192", "768", "2048"]),
    help="Width of the FID features.  [default: 2048, else 768]",
)
@click.option("--inception-weights", metavar="FILE", help="InceptionV3 weights for FID.  [default: downloaded once]")
@click.option(
    "--resume",
    metavar="RUN",
    help="Go on exactly from «latest», a run folder or a checkpoint; or start a new run from the networks of a .pkl,"
    " .pt, .safetensors, URL, or ffhq256, ffhq512, ffhq1024, celebahq256, lsundog256 (NVIDIA's, non-commercial).",
)
@click.option("--freezed", type=int, metavar="N", default=0, help="Freeze-D: the discriminator's N outermost layers.")
@click.option("--seed", type=int, metavar="N", default=0, help="Everything random follows from it.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    default="auto",
    help="Number format of the four highest resolutions.",
)
@click.option("--workers", type=click.IntRange(0), metavar="N", default=2, help="Image decoding threads.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads for computing.  [default: all cores]")
@click.option("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--checkpoint-minutes", type=float, metavar="X", default=10.0, help="Save the state at least this often.")
@click.option(
    "--trunk-grad-scale",
    type=float,
    metavar="X",
    help="How much the verdict shapes the shared trunk.  [default: 0.1; tiny: 0]",
)
@click.option(
    "--verdict-batch",
    type=click.IntRange(0),
    metavar="N",
    help="Its images a step; 0: it does not learn.  [default: --batch; tiny: half]",
)
@click.option("--verdict-lr", type=float, metavar="X", default=2e-3, help="Its learning rate.")
@click.option("--verdict-weight", type=float, metavar="X", default=1.0, help="Weight of its losses.")
@click.option(
    "--verdict-kimg",
    type=float,
    metavar="X",
    help="Thousands of images it learns alone at the end.  [default: kimg/4, at most 100]",
)
@click.option(
    "--generator-verdict-weight",
    type=float,
    metavar="X",
    default=0.0,
    help="Above 0 the generator learns to fool it too.",
)
@click.option(
    "--replay-capacity",
    type=click.IntRange(1),
    metavar="N",
    default=4000,
    help="Fakes of older generators it is reminded of.",
)
@click.option(
    "--degradation",
    default="train",
    metavar="NAME",
    help="How real and fake images are degraded for it: none, light, train, web, hard.",
)
@click.option(
    "--consistency",
    type=float,
    metavar="X",
    default=0.5,
    help="Weight of agreement between an image and its degraded copy; 0: degraded only.",
)
@click.option("-n", "--dry-run", is_flag=True, help="Print the resolved configuration as JSON; write nothing.")
@click.option("--quiet", is_flag=True, help="Nothing on the terminal, only the run's log.txt.")
@click.pass_context
def main(ctx: click.Context, resume: str | None, dry_run: bool, quiet: bool, **options) -> None:
    if options["data"] is None and resume is None:
        raise click.UsageError("give --data SOURCE (try --data demo), or --resume latest")
    with importing():
        from adversarial.config import Options
        from adversarial.run import describe, train

    if options["fid_dims"] is not None:
        options["fid_dims"] = int(options["fid_dims"])
    options["data"] = options["data"] or ""
    options["start"] = None
    options["device"] = str(pick_device(options["device"]))
    asked = Options(**{f.name: options[f.name] for f in dataclasses.fields(Options)})
    given = {name for name in options if ctx.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE} & {
        f.name for f in dataclasses.fields(Options)
    }
    if dry_run:
        resolved = json.dumps(describe(asked, given=given, resume=resume), indent=2)
        if os.environ.get("RANK", "0") == "0":  # once, also under torchrun
            click.echo(resolved)
        return
    with download_bar() as report:
        train(asked, given=given, resume=resume, quiet=quiet, progress=None if quiet else report)


if __name__ == "__main__":
    run(main)
