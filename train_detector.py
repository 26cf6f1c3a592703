#!/usr/bin/env python3
"""Train a detector of generated faces by itself, calibrate it, and keep it as one file.

\b
Examples:
  python train_detector.py --data flickr140k --model hybrid --size tiny
  python train_detector.py --data my_faces/ --model squeezenet1_1 --pretrained --frozen-epochs 1 --crop 192
  python train_detector.py --data my_faces/ --model timm:efficientnet_b0 --extra-fakes samples/:0.25
  python train_detector.py --data rvf10k --recipe xception-two-phase
  python train_detector.py --data demo --extra-fakes samples/ --resolution 64
  python train_detector.py --data my_faces/ --model squeezenet1_1 --pretrained --folds 5
  python train_detector.py --resume latest
  torchrun --nproc_per_node=4 train_detector.py --data faces.zip --model timm:resnet50 --pretrained
  python train_detector.py calibrate detector.safetensors --reals my_photos/ --out mine.safetensors

The set's folders called real and fake give the labels; its training split teaches, its validation split chooses and
calibrates, its test split is not looked at.
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from common.cli import download_bar, importing, progress, run
from common.device import pick_device
from common.errors import UserError

SECTIONS = {
    "Data": "data data_root resolution square resize_filter subset valid_images degradation extra_fakes replay"
    " allow_leaks cache face",
    "The network": "recipe model size branches residual stride1 head dropout reconstruct pretrained backbone_weights",
    "Learning": "epochs frozen_epochs batch lr head_lr weight_decay schedule warmup plateau_patience plateau_factor"
    " clip ema crop mirror augment balance seed",
    "What it learns": "patch consistency consistency_kind smoothing",
    "Choosing": "validate_every patience",
    "Cross-validation": "folds repeats",
    "Output and resuming": "out outdir resume checkpoint_minutes report quiet help",
    "Machine": "device precision workers threads",
}
SETTINGS = {"show_default": True, "max_content_width": 110, "help_option_names": ["-h", "--help"]}


class Dosed(click.ParamType):
    """WHERE or WHERE:DOSE, a dose being a share between 0 and 1."""

    name = "where"

    def convert(self, value, param, ctx):
        where, colon, dose = str(value).rpartition(":")
        if not colon or not where:
            return str(value), 0.0
        try:
            share = float(dose)
        except ValueError:  # a colon of the path's own
            return str(value), 0.0
        if not 0 < share <= 1:
            self.fail(f"{value}: the dose is the share of fakes shown that come from there: above 0 and at most 1")
        return where, share


class Branches(click.ParamType):
    """One or both branches of the hybrid."""

    name = "branches"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        parts = tuple(part.strip() for part in str(value).split(","))
        if not set(parts) <= {"spatial", "artefact"} or len(set(parts)) < len(parts):
            self.fail(f"{value!r}: give spatial, artefact, or spatial,artefact")
        return parts


class Augmentations(click.ParamType):
    """Names of steps, each with or without a probability."""

    name = "augmentations"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        return tuple(part.strip() for part in str(value).split(",") if part.strip())


def _take_recipe(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """The recipe's values become the defaults of this call: what is on the command line wins."""
    if value is None or ctx.resilient_parsing:
        return value
    from discriminator.training import recipe_file

    params = {max(p.opts, key=len)[2:]: p for p in ctx.command.params if p.name not in NO_RECIPE}
    found = recipe_file.load(value, params)
    defaults = {}
    for key, given in found.values.items():
        option = params[key]
        listed = isinstance(given, list) and not (option.multiple or key in LISTS)
        if listed or isinstance(given, bool) != bool(option.is_flag):
            what = "true or false" if option.is_flag else "a value of its own"
            raise UserError(f"--recipe {value}: {key} takes {what}, not {given!r}")
        if isinstance(given, list):
            given = given if option.multiple else ",".join(given)
        elif not isinstance(given, bool):
            given = [str(given)] if option.multiple else str(given)
        try:
            option.type_cast_value(ctx, given)
        except click.BadParameter as error:
            raise UserError(f"--recipe {value}: {key}: {error.message}") from None
        defaults[option.name] = given
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
    ctx.obj = found
    return value


class Trainer(click.Group):
    """Without a sub-command it trains; its --help lists the options under the headings of SECTIONS."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        params = {max(p.opts, key=len)[2:].replace("-", "_"): p for p in self.get_params(ctx)}
        for title, names in SECTIONS.items():
            with formatter.section(title):
                records = [params[name].get_help_record(ctx) for name in names.split()]
                formatter.write_dl([record for record in records if record is not None], col_max=28)
        self.format_commands(ctx, formatter)


@click.group(cls=Trainer, invoke_without_command=True, help=__doc__, context_settings=SETTINGS)
@click.option(
    "--data", metavar="SOURCE", help="Folder, zip, manifest, or flickr140k, rvf10k, deepfake-and-real, yonsei."
)
@click.option("--data-root", metavar="DIR", help="Where named sets lie.  [default: $FACES_DATA_ROOT, else ./datasets]")
@click.option(
    "--resolution", type=click.IntRange(16, 2048), metavar="N", help="Side of the images.  [default: the data's]"
)
@click.option(
    "--square", type=click.Choice(["center", "pad", "none"]), default="center", help="Images that are not square."
)
@click.option(
    "--resize-filter", type=click.Choice(["lanczos", "box", "bilinear", "bicubic"]), default="lanczos", help="Kernel."
)
@click.option("--subset", type=click.IntRange(2), metavar="N", help="Train on N random images of each class.")
@click.option(
    "--valid-images",
    type=click.IntRange(2),
    metavar="N",
    default=1000,
    help="Validation images of each class, at most.",
)
@click.option(
    "--degradation",
    metavar="NAME|FILE",
    default="train",
    help="What both classes go through: none, light, train, web, hard, or a .json.",
)
@click.option(
    "--extra-fakes",
    type=Dosed(),
    multiple=True,
    metavar="SOURCE[:DOSE]",
    help="More fakes, such as synth.py's; DOSE is their share of the fakes shown.  [default: by number]",
)
@click.option(
    "--replay",
    type=Dosed(),
    multiple=True,
    metavar="RUN[:DOSE]",
    help="Fakes of older generators that a run of train_gan.py remembers.  [default dose: 0.2]",
)
@click.option("--allow-leaks", is_flag=True, help="Train although the files give the classes away.")
@click.option(
    "--cache",
    metavar="DIR",
    help="Where decoded images are kept; none: nowhere.  [default: $FACES_CACHE, else the user's cache folder]",
)
@click.option(
    "--face",
    type=click.Choice(["ffhq", "whole"]),
    help="What the images are, for detect.py: faces cut out as in FFHQ, or whole pictures.",
)
@click.option(
    "--recipe",
    metavar="NAME|FILE",
    is_eager=True,
    callback=_take_recipe,
    help="Options from a file, such as xception-two-phase (discriminator/recipes); those given here win.",
)
@click.option(
    "--model",
    metavar="NAME",
    default="hybrid",
    help="hybrid, custom_cnn, blur_noise_cnn, capsnet; resnet50, vgg16, vggface, densenet121, xception,"
    " efficientnet_b0|b2|b4, squeezenet1_1; or timm:NAME.",
)
@click.option("--size", type=click.Choice(["tiny", "base"]), default="tiny", help="Size of the hybrid.")
@click.option(
    "--branches", type=Branches(), default="spatial,artefact", metavar="LIST", help="What the hybrid looks through."
)
@click.option(
    "--residual",
    type=click.Choice(["highpass", "neighbour", "wavelet", "spectrum", "pixels"]),
    default="highpass",
    help="What the hybrid's artefact branch sees.",
)
@click.option(
    "--stride1",
    type=click.IntRange(0, 2),
    metavar="N",
    default=0,
    help="Leave out a backbone's first N down-samplings: finer traces, 4 times the time each.",
)
@click.option(
    "--head",
    type=click.Choice(["linear", "seeds"]),
    default="linear",
    help="A backbone's: one layer; or pooling, dense with L2, dropout, batch norm, one layer.",
)
@click.option("--dropout", type=click.FloatRange(0, 0.95), metavar="P", default=0.3, help="Before the verdict.")
@click.option("--reconstruct", is_flag=True, help="capsnet: with the decoder that redraws the image.")
@click.option("--pretrained/--no-pretrained", help="Begin from the library's weights, downloaded.")
@click.option("--backbone-weights", metavar="FILE", help="Begin from these weights (.pth, .safetensors) instead.")
@click.option("--epochs", type=float, metavar="X", default=30.0, help="Passes over the training images.")
@click.option(
    "--frozen-epochs",
    type=float,
    metavar="X",
    help="The first of them, in which borrowed layers stay as they came.  [default: 1 with borrowed weights]",
)
@click.option("--batch", type=int, metavar="N", default=32, help="Images a step, all processes together.")
@click.option("--lr", type=float, metavar="X", help="Learning rate.  [default: the network's own; 5e-4 with weights]")
@click.option("--head-lr", type=float, metavar="X", default=1e-3, help="Learning rate of the frozen phase.")
@click.option("--weight-decay", type=float, metavar="X", default=0.01, help="AdamW's.")
@click.option(
    "--schedule", type=click.Choice(["cosine", "plateau"]), default="cosine", help="Course of the learning rate."
)
@click.option("--warmup", type=int, metavar="STEPS", default=200, help="Steps over which it rises.")
@click.option("--plateau-patience", type=int, metavar="N", default=3, help="Validations without gain before it falls.")
@click.option("--plateau-factor", type=float, metavar="X", default=0.2, help="By how much it falls then.")
@click.option("--clip", type=float, metavar="X", default=1.0, help="Bound of the gradient's norm.")
@click.option(
    "--ema",
    type=float,
    metavar="X",
    default=0.998,
    help="Decay of the averaged weights, which are kept; 0: no averaging.",
)
@click.option(
    "--crop", type=int, metavar="N", default=0, help="Learn from random squares of N pixels; 0: whole images."
)
@click.option("--mirror/--no-mirror", default=True, help="Flip every second image.")
@click.option(
    "--augment",
    type=Augmentations(),
    default="",
    metavar="LIST",
    help="Of both views: clahe,shear,rotate and more, each for half of the images or as in rotate:0.2.",
)
@click.option(
    "--balance",
    type=click.Choice(["sampling", "weights", "none"]),
    default="sampling",
    help="Half of each batch real; as in the data with equal class weights; or as it is.",
)
@click.option("--seed", type=int, metavar="N", help="Everything random follows from it.  [default: 0; 42 with --folds]")
@click.option("--patch", type=float, metavar="X", default=0.5, help="Weight of the patches' own verdicts.")
@click.option(
    "--consistency",
    type=float,
    metavar="X",
    default=0.5,
    help="Weight of agreement between an image and its degraded copy; 0: degraded only, half the time.",
)
@click.option("--consistency-kind", type=click.Choice(["kl", "mse"]), default="kl", help="Of verdicts, or of logits.")
@click.option("--smoothing", type=float, metavar="X", default=0.0, help="Label smoothing.")
@click.option("--validate-every", type=float, metavar="EPOCHS", default=1.0, help="Between two validations.")
@click.option(
    "--patience", type=int, metavar="N", default=0, help="Validations without gain that end a phase; 0: never."
)
@click.option(
    "--folds",
    type=click.IntRange(2, 100),
    metavar="K",
    help="A detector for each of K folds of all labelled images but the test split, judged on the fold it never saw.",
)
@click.option("--repeats", type=click.IntRange(1, 1000), metavar="N", default=1, help="Deal the folds N times anew.")
@click.option("--out", metavar="RUN", help="The run's folder.  [default: a numbered one in --outdir]")
@click.option("--outdir", metavar="DIR", default="runs", help="Where numbered runs go.")
@click.option("--resume", metavar="RUN", help="Go on exactly from a run's last checkpoint, or «latest».")
@click.option("--checkpoint-minutes", type=float, metavar="X", default=10.0, help="Save the state at least this often.")
@click.option("--report/--no-report", default=True, help="RUN/report.html and pictures in TensorBoard.")
@click.option("--quiet", is_flag=True, help="Nothing on the terminal, only the run's log.txt.")
@click.option("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default="auto",
    help="Number format of learning; verdicts are always fp32.",
)
@click.option(
    "--workers", type=click.IntRange(0), metavar="N", help="Threads that prepare images.  [default: 1 on two cores]"
)
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads for computing.  [default: all cores]")
@click.pass_context
def main(ctx: click.Context, **options) -> None:
    if ctx.invoked_subcommand is not None:
        return
    if options["repeats"] > 1 and options["folds"] is None and options["resume"] is None:
        raise click.UsageError("--repeats: how often folds are dealt; give --folds K, too")
    if options["data"] is None and options["resume"] is None:
        raise click.UsageError("give --data SOURCE, or --resume RUN; --help tells more")
    with importing():
        from dataclasses import fields

        from discriminator.folds.run import Asked, cross_validate, holds_folds
        from discriminator.training.folders import newest_run
        from discriminator.training.recipe import Recipe
        from discriminator.training.run import Options, precision_of, train

    if options["seed"] is None:
        options["seed"] = 0 if options["folds"] is None else 42
    borrowed = options["pretrained"] or options["backbone_weights"] is not None
    options["recipe_file"] = None
    if ctx.obj is not None:
        options["recipe_file"] = {"name": ctx.obj.name, "about": ctx.obj.about, "options": ctx.obj.values}
        _fit_the_frozen_phase(ctx, options, borrowed)
    rate = RATES.get(options["model"], 2e-3)
    defaults = {"lr": min(rate, 5e-4) if borrowed else rate, "frozen_epochs": 1.0 if borrowed else 0.0}
    if defaults["frozen_epochs"] >= options["epochs"]:
        defaults["frozen_epochs"] = 0.0
    for name, value in defaults.items():
        if options[name] is None:
            options[name] = value
    options["replay"] = tuple((where, dose or 0.2) for where, dose in options["replay"])
    options["face"] = options["face"] or ""
    options["device"] = str(pick_device(options["device"]))
    options["precision"] = precision_of(options["precision"], options["device"])
    resume = None
    if options["resume"] is not None:
        _only_the_machines(ctx)
        resume = newest_run(Path(options["outdir"])) if options["resume"] == "latest" else Path(options["resume"])
        options["data"] = ""
    asked = Options(**{f.name: options[f.name] for f in fields(Options)})
    try:
        recipe = Recipe(**{f.name: options[f.name] for f in fields(Recipe)})
    except UserError as error:
        told = "" if ctx.obj is None else f" (options not given here are those of --recipe {options['recipe']})"
        raise UserError(f"{error}{told}") from None
    out, outdir = None if options["out"] is None else Path(options["out"]), Path(options["outdir"])
    if options["folds"] is not None or (resume is not None and holds_folds(resume)):
        folds = Asked(options["folds"] or 0, options["repeats"])
        cross_validate(
            asked,
            recipe,
            folds,
            out=out,
            resume=resume,
            outdir=outdir,
            quiet=options["quiet"],
            report=options["report"],
        )
        return
    train(asked, recipe, out=out, resume=resume, outdir=outdir, quiet=options["quiet"], report=options["report"])


@main.command(context_settings=SETTINGS)
@click.argument("model", metavar="MODEL")
@click.option(
    "--reals",
    required=True,
    metavar="FOLDER",
    help="Real photos like those you will have judged; 100 at least for 1 %, better 1000.",
)
@click.option(
    "--fakes",
    metavar="FOLDER",
    help="Generated ones; with them the probability's scale and the unsure band are set, too.",
)
@click.option("--out", required=True, metavar="FILE", help="The new detector file; MODEL stays as it is.")
@click.option(
    "--face",
    type=click.Choice(["auto", "whole"]),
    default="auto",
    help="As in detect.py: look for faces where the detector learnt from aligned ones, or judge photos whole.",
)
@click.option("--face-model", metavar="FILE", help="YuNet's .onnx.  [default: downloaded once]")
@click.option("--offline", is_flag=True, help="Download nothing.")
@click.option("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Threads that decode.  [default: one per core]")
def calibrate(
    model: str,
    reals: str,
    fakes: str | None,
    out: str,
    face: str,
    face_model: str | None,
    offline: bool,
    device: str,
    workers: int | None,
) -> None:
    """Set a detector's thresholds on your own photos.

    A threshold holds for photos like those it was set on. MODEL, a detector file or run folder, judges all of FOLDER
    the way detect.py does, one score for each photo (of its biggest face), and the copy in FILE gets the thresholds
    that accuse at most 0.5, 1 and 5 % of them.
    """
    with importing():
        from discriminator.detector import Detector
        from discriminator.locate import find_detector
        from evaluation.own_photos import calibrate_on, check_out, lines, score
        from faces.finding.align import FaceFinder
        from faces.finding.face_step import FaceStep

    check_out(Path(out))
    detector = Detector.load(find_detector(model), pick_device(device))
    finder = None
    if face == "auto" and detector.trained_on_aligned_faces:
        with download_bar("YuNet") as report:
            finder = FaceFinder.open(face_model, not offline, progress=report)
    step = FaceStep(finder, detector.preprocess.resolution)
    scored = {}
    for option, folder in (("--reals", reals), ("--fakes", fakes)):
        if folder is None:
            continue
        with progress(title=f"judging {Path(folder).name}", unit="photo") as bar:
            found = scored[option] = score(detector, folder, option, step, workers=workers, on_read=bar.update)
        left = [f"{found.no_face} without a face"] * bool(found.no_face)
        left += [f"{len(found.unreadable)} unreadable"] * bool(found.unreadable)
        words = f" ({', '.join(left)} left out)" if left else ""
        click.echo(f"{option[2:]:<6} {len(found.logits)} of {found.files} photos judged{words}")
        for file, reason in found.unreadable[:5]:
            click.echo(f"  left out {file}: {reason}")
    names = {"reals": reals, "fakes": fakes}
    new = calibrate_on(detector, scored["--reals"], scored.get("--fakes"), names)
    for line in lines(detector.calibration, new.calibration):
        click.echo(line)
    new.save(Path(out))
    click.echo(f"wrote {out}; use it with detect.py --model {out}")


# Learning rates of networks that have no batch normalisation, or would saturate: others take 2e-3.
RATES = {"custom_cnn": 1e-3, "blur_noise_cnn": 1e-3, "capsnet": 3e-4, "vgg16": 1e-4, "vggface": 1e-4}
NO_RECIPE = {"recipe", "resume", "out", "help"}
LISTS = {"augment", "branches"}  # in a recipe a list of texts as well


def _fit_the_frozen_phase(ctx: click.Context, options: dict, borrowed: bool) -> None:
    """A recipe's frozen phase keeps its share of fewer epochs. It is for layers that come with weights: without any,
    all learn at its rate at once."""

    def recipes(name: str) -> bool:
        return ctx.get_parameter_source(name) == click.core.ParameterSource.DEFAULT_MAP

    if not recipes("frozen_epochs") or not options["frozen_epochs"]:
        return
    if borrowed:
        if not recipes("epochs"):
            options["frozen_epochs"] *= min(1.0, options["epochs"] / float(ctx.obj.values.get("epochs", 30)))
        return
    options["frozen_epochs"] = 0.0
    if recipes("lr"):
        options["lr"] = min(options["head_lr"], RATES.get(options["model"], 2e-3))
    rate = "" if options["lr"] is None else f" at {options['lr']:g}"
    if os.environ.get("RANK", "0") == "0" and not options["quiet"]:
        click.echo(f"note        no weights to begin from: no frozen phase, everything learns{rate}", err=True)


MACHINE = {"resume", "outdir", "device", "workers", "threads", "checkpoint_minutes", "quiet", "report", "cache"}


def _only_the_machines(ctx: click.Context) -> None:
    """A run goes on exactly as it began: other options with --resume would not count, so they are refused."""
    for name in ctx.params:
        if name not in MACHINE and ctx.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE:
            flag = "--" + name.replace("_", "-")
            raise click.UsageError(f"{flag} with --resume: a run goes on with its own options; leave it out")


if __name__ == "__main__":
    run(main)
