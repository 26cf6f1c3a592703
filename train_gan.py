#!/usr/bin/env python3
"""Train a StyleGAN2-ADA generator against the hybrid discriminator, then calibrate the detector that remains.

\b
Examples:
  python train_gan.py --data demo --cfg tiny --resolution 64 --kimg 20
  python train_gan.py --data flickr140k --resolution 256 --mirror
  python train_gan.py --data my_faces/ --cfg paper256 --aug ada --augpipe bgc
  python train_gan.py --resume latest
  torchrun --nproc_per_node=4 train_gan.py --data faces.zip --resolution 256
"""

from __future__ import annotations

import dataclasses
import json

import click

from app.cli import pick_device, run

CFGS = ["auto", "stylegan2", "paper256", "paper512", "paper1024", "cifar", "tiny"]
AUGPIPES = ["blit", "geom", "color", "filter", "noise", "cutout", "bg", "bgc", "bgcf", "bgcfn", "bgcfnc", "face"]


@click.command(help=__doc__, context_settings={"show_default": True, "max_content_width": 110})
@click.option("--data", metavar="SOURCE", help="Folder, zip, or demo|flickr140k|rvf10k|deepfake-and-real|yonsei.")
@click.option("--data-root", metavar="DIR", help="Where named sets lie.  [default: $FACES_DATA_ROOT, else ./datasets]")
@click.option("--outdir", metavar="DIR", default="runs", help="Runs are made as numbered folders in here.")
@click.option("--resolution", type=int, help="Side of the square images, a power of two.  [default: from the data]")
@click.option("--cfg", type=click.Choice(CFGS), default="auto", help="Preset; «tiny» trains on a CPU.")
@click.option("--batch", type=int, help="Images a step, all processes together.  [default: preset]")
@click.option("--batch-gpu", type=int, help="Images in memory at once, per process.  [default: what fits]")
@click.option("--mbstd-group", type=int, help="Minibatch-std group size.  [default: preset]")
@click.option("--gamma", type=float, help="R1 weight.  [default: preset]")
@click.option("--lr", type=float, help="Adam learning rate of both networks.  [default: preset]")
@click.option("--mirror/--no-mirror", default=False, help="Add every image's mirror image.")
@click.option("--aug", type=click.Choice(["ada", "fixed", "noaug"]), default="ada", help="Augmentation strength.")
@click.option("--augpipe", type=click.Choice(AUGPIPES), default="bgc", help="Which transformations.")
@click.option("--p", type=float, help="Probability for --aug fixed.")
@click.option("--target", type=float, default=0.6, help="ADA target of E[sign(D(real))].")
@click.option("--p-max", type=float, default=0.85, help="ADA never raises p beyond this.")
@click.option("--subset", type=int, metavar="N", help="Train on N random images of each class.")
@click.option("--kimg", type=float, help="Thousands of real images to show.  [default: preset]")
@click.option("--tick", type=float, metavar="KIMG", help="Progress interval.  [default: 4; a CPU: kimg/50]")
@click.option("--snap", type=click.IntRange(1), default=50, help="Network snapshot interval, in ticks.")
@click.option("--image-snap", type=click.IntRange(1), help="Sample grid interval, in ticks.  [default: snap/5]")
@click.option("--keep", type=click.IntRange(1), default=3, help="Generator snapshots kept beside the best.")
@click.option("--metrics", default="auto", metavar="NAMES", help="fid1k, fid5k, fid50k_full, …, none or auto.")
@click.option("--fid-dims", type=click.Choice(["64", "192", "768", "2048"]), help="Inception features for FID.")
@click.option("--inception-weights", metavar="FILE", help="InceptionV3 weights for FID.  [default: downloaded]")
@click.option("--resume", metavar="RUN", help="«latest», a run folder or a checkpoint: go on exactly.")
@click.option("--seed", type=int, default=0)
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), default="auto")
@click.option("--workers", type=click.IntRange(0), default=2, help="Image decoding threads.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads for computing.  [default: all cores]")
@click.option("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, …")
@click.option("--checkpoint-minutes", type=float, default=10.0, help="Save the state at least this often.")
@click.option("--trunk-grad-scale", type=float, help="Verdict gradient into the trunk.  [default: 0.1; tiny: 0]")
@click.option("--verdict-batch", type=click.IntRange(0), help="Images a step for the verdict head; 0: none.")
@click.option("--verdict-lr", type=float, default=2e-3, help="Adam learning rate of the verdict head.")
@click.option("--verdict-weight", type=float, default=1.0, help="Weight of the verdict's losses.")
@click.option("--verdict-kimg", type=float, help="Verdict head alone at the end.  [default: kimg/4, at most 100]")
@click.option(
    "--generator-verdict-weight", type=float, default=0.0, help="Let the generator fool the verdict head too."
)
@click.option("--replay-capacity", type=click.IntRange(1), default=4000, help="Older fakes remembered.")
@click.option("--degradation", default="train", metavar="NAME", help="Degradation of both classes for the verdict.")
@click.option("--consistency", type=float, default=0.5, help="Weight of clean/degraded agreement; 0: one view only.")
@click.option("-n", "--dry-run", is_flag=True, help="Print the resolved configuration as JSON and stop.")
@click.option("--quiet", is_flag=True, help="Only log.txt, nothing on the terminal.")
@click.pass_context
def main(ctx: click.Context, resume: str | None, dry_run: bool, quiet: bool, **options) -> None:
    if options["data"] is None and resume is None:
        raise click.UsageError("give --data SOURCE (try --data demo), or --resume latest")
    from adversarial.config import Options
    from adversarial.run import describe, train

    if options["fid_dims"] is not None:
        options["fid_dims"] = int(options["fid_dims"])
    options["data"] = options["data"] or ""
    options["device"] = str(pick_device(options["device"]))
    asked = Options(**{f.name: options[f.name] for f in dataclasses.fields(Options)})
    given = {name for name in options if ctx.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE} & {
        f.name for f in dataclasses.fields(Options)
    }
    if dry_run:
        click.echo(json.dumps(describe(asked, given=given, resume=resume), indent=2))
        return
    train(asked, given=given, resume=resume, quiet=quiet)


if __name__ == "__main__":
    run(main)
