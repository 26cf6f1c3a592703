"""What a person may ask of a detector's training beside its recipe: every option with its bounds, default and help.

Light: `--help` must answer at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from common.errors import UserError
from common.options import CHECKPOINT_MINUTES, DEVICE, OUT, OUTDIR, QUIET, THREADS, WORKERS, Checked, option
from discriminator.network_options import NetworkOptions
from faces.options import (
    CROPS,
    DATA,
    DATA_ROOT,
    DEGRADATION,
    FOLDS,
    LABELLED,
    MOST_SAVES,
    RESIZE_FILTER,
    RESOLUTION,
    SUBSET,
)

# of the machine, not of the training: a run that goes on takes them from the call
MACHINE = ("device", "workers", "threads", "checkpoint_minutes", "cache")


class Dosed(click.ParamType):
    """WHERE or WHERE:DOSE, a dose being a share between 0 and 1."""

    name = "where"

    def __init__(self, otherwise: float = 0.0) -> None:
        self.otherwise = otherwise  # the dose where none is given

    def convert(self, value, param, ctx):
        where, colon, dose = str(value).rpartition(":")
        if not colon or not where:
            return str(value), self.otherwise
        try:
            share = float(dose)
        except ValueError:  # a colon of the path's own
            return str(value), self.otherwise
        if not 0 < share <= 1:
            self.fail(f"{value}: the dose is the share of what is shown that comes from there: above 0 and at most 1")
        return where, share


class Qualities(click.ParamType):
    """JPEG qualities from 1 to 100 with commas between; 0 alone: none."""

    name = "qualities"

    def convert(self, value, param, ctx):
        if isinstance(value, (tuple, list)):
            return tuple(value)
        words = [] if str(value).strip() == "0" else str(value).split(",")
        if not all(word.strip().isdecimal() and 1 <= int(word) <= 100 for word in words) or len(words) > MOST_SAVES:
            few = f"up to {MOST_SAVES} with commas between, like 95,75"
            self.fail(f"{value!r}: give a JPEG quality from 1 to 100, or {few}")
        return tuple(int(word) for word in words)


@dataclass(frozen=True, kw_only=True)
class TrainerOptions(NetworkOptions, Checked):
    """What a detector is taught with, which network it is, and the machine. `extra_reals`, `extra_fakes`, `replay`:
    (where, dose) pairs, dose a share of the reals or fakes shown. `patch_size`: None where whole images are seen.
    `recipe_file`: name, about and options of the file that the options came from, for the record."""

    data: str = DATA(default="", help="Folder, zip, manifest, or flickr140k, rvf10k, deepfake-and-real, yonsei.")
    data_root: str | None = DATA_ROOT()
    labels: str | None = LABELLED()
    resolution: int | None = RESOLUTION(
        default=None, help="Side of the images.  [default: the data's]", low=16, high=2048
    )
    patch_size: int | None = option(
        None,
        "Learn from patches of N x N pixels, cut anew every time out of whole images at their own pixels.",
        metavar="N", low=16, high=1024, flags=("--patches",),
    )  # fmt: skip
    square: str = option("center", "Images that are not square.", choices=CROPS)
    resize_filter: str = RESIZE_FILTER(help="Kernel.")
    saved_as: tuple[int, ...] = option(
        (),
        "What had to be resampled, here and in photos to be judged, is saved as JPEG Q, then as the next Q: as the"
        " set's own files were.  [default: not]",
        metavar="Q[,Q…]", parse=Qualities(), whole=True,
    )  # fmt: skip
    subset: int | None = SUBSET()
    valid_images: int = option(1000, "Validation images of each class, at most.", metavar="N", low=2)
    degradation: str = DEGRADATION(
        help="What both classes go through: none, light, train, pixels, pixels-resized, pixels-soft, web, hard, or a"
        " .json.",
        metavar="NAME|FILE",
    )
    extra_reals: tuple[tuple[str, float], ...] = option(
        (),
        "More real photos; DOSE is their share of the reals shown.  [default: by number]",
        metavar="SOURCE[:DOSE]",
        parse=Dosed(),
    )
    extra_fakes: tuple[tuple[str, float], ...] = option(
        (),
        "More fakes, such as synth.py's; DOSE is their share of the fakes shown.  [default: by number]",
        metavar="SOURCE[:DOSE]",
        parse=Dosed(),
    )
    twins: tuple[tuple[str, float], ...] = option(
        (),
        "Photos and their twins from a bank of synth.py twins, each pair in one batch (with --patches); DOSE is the"
        " twins' share of the fakes shown, and their photos' of the reals.  [default dose: 0.5]",
        metavar="BANK[:DOSE]",
        parse=Dosed(0.5),
    )
    twin_decoders: str | None = option(
        None,
        "Which decoders of a bank, like 0-3,5.  [default: those that passed their gates]",
        metavar="LIST",
    )
    twin_mix: float = option(0.2, "Share of the twins that keep a part of their photo.", metavar="P", low=0, high=1)
    replay: tuple[tuple[str, float], ...] = option(
        (),
        "Fakes of older generators that a run of train_gan.py remembers.  [default dose: 0.2]",
        metavar="RUN[:DOSE]",
        parse=Dosed(0.2),
    )
    allow_leaks: bool = option(False, "Train although the files give the classes away.")
    cache: str | None = option(
        None,
        "Where decoded images are kept; none: nowhere.  [default: $FACES_CACHE, else the user's cache folder]",
        metavar="DIR",
    )
    face: str | None = option(
        None,
        "What the images are, for detect.py: faces cut out as in FFHQ, or whole pictures.",
        choices=("ffhq", "whole"),
    )
    model: str = option(
        "hybrid",
        "hybrid, pixels, custom_cnn, blur_noise_cnn, capsnet; resnet50, vgg16, vggface, densenet121, xception,"
        " efficientnet_b0|b2|b4, squeezenet1_1; or timm:NAME. levels:NAME: a linear probe of one of these as it is.",
        metavar="NAME",
    )
    pretrained: bool = option(False, "Begin from the library's weights, downloaded.", negative=True)
    backbone_weights: str | None = option(
        None, "Begin from these weights (.pth, .safetensors) instead.", metavar="FILE|pip:PACKAGE"
    )
    start_from: str | None = option(
        None,
        "Begin from the weights of a run (of train_gan.py: its artefact branch) or detector file.",
        metavar="RUN|FILE", flags=("--from",),
    )  # fmt: skip
    half: bool = option(False, "Round the finished weights to float16: a file half as long.")
    checkpoint_minutes: float = CHECKPOINT_MINUTES()
    device: str = DEVICE()
    workers: int | None = WORKERS(help="Threads that prepare images.  [default: 1 on two cores]", low=0)
    threads: int | None = THREADS()
    recipe_file: dict | None = None

    @property
    def borrows(self) -> bool:
        """Whether the network begins from weights learnt on other pictures."""
        return self.pretrained or self.backbone_weights is not None


@dataclass(frozen=True)
class CrossValidation(Checked):
    """How many folds, how often. None: no folds, one training."""

    folds: int | None = FOLDS(
        default=None,
        help="A detector for each of K folds of all labelled images but the test split, judged on the fold it never"
        " saw.",
        low=2,
        high=100,
    )
    repeats: int = option(1, "Deal the folds N times anew.", metavar="N", low=1, high=1000)

    @property
    def number(self) -> int:
        if self.folds is None:
            raise UserError("`folds`: give how many")
        return self.folds


@dataclass(frozen=True)
class RunPlace:
    """Where a run lies, and what of it shows. resume: its folder, where it goes on; its own options and recipe then
    count, and of the options given only the machine's."""

    out: Path | None = OUT(default=None, help="The run's folder.  [default: a numbered one in --outdir]", metavar="RUN")
    outdir: Path = OUTDIR(default=Path("runs"), help="Where numbered runs go.")
    resume: Path | None = option(
        None, "Go on exactly from a run's last checkpoint, a checkpoint file, or latest.", metavar="RUN"
    )
    quiet: bool = QUIET(help="Nothing on the terminal, only the run's log.txt.")
    flags: Mapping[str, str] | None = None  # how a command calls its options, for lines of the log that name one
