"""What `prepare_data.py` may be asked: every option with its bounds, default and help, in one place. No numpy here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import click

from common.errors import UserError
from common.options import AS_JSON, FORCE, OUT, SEED, WORKERS, Checked, argument, check, option, refuse
from faces.options import CROP, DATA_ROOT, FACE_MODEL, FOLDS, LABELLED, OFFLINE, RESIZE_FILTER, RESOLUTION, SPLIT

GROUPINGS = ("near-duplicate", "identity", "none")
CLASSES = ("auto", "none", "source", "real-fake")
LEAST = 16  # pixels a side; smaller pictures are no photos


class Span(click.ParamType):
    """A number, or the lowest and the highest with a dash between: (low, high)."""

    name = "span"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        low, dash, high = value.partition("-")
        if not low.strip().isdecimal() or (dash and not high.strip().isdecimal()):
            self.fail(f"{value!r} is neither a number nor two with a dash between, like 75-95", param, ctx)
        return int(low), int(high if dash else low)


@dataclass(frozen=True)
class Fetching:
    """A named set, from Kaggle or from what a person downloaded."""

    name: str = argument("NAME")
    given: str | None = option(
        None, "The archive you downloaded, or where you unpacked it.", metavar="FILE|FOLDER", flags=("--from",)
    )
    partial: bool = option(False, "Accept a set that has not the published number of images.")
    data_root: str | None = DATA_ROOT()


@dataclass(frozen=True)
class SourcePart:
    """A source, or one of its splits."""

    source: str = argument("SOURCE")
    data_root: str | None = DATA_ROOT()
    labels: str | None = LABELLED()
    split: str | None = SPLIT(help="Only one split of the source.", choices=("train", "valid", "test"))


@dataclass(frozen=True)
class Inspection:
    """How `faces.audit.survey` looks at a set, and where the page goes."""

    out: str | None = OUT(
        default=None,
        help="The page; a .json of the same name goes beside it.  [default: inspect-NAME.html in the working folder]",
        metavar="FILE.html",
    )
    limit: int = option(4000, "Images whose pixels are looked at.", low=1, metavar="N")
    as_json: bool = AS_JSON(help="Only the JSON, on stdout; no file is written.")
    force: bool = FORCE(help="Replace a report that is there already.")
    seed: int = SEED(help="Of the draw of images.")
    workers: int | None = WORKERS(help="Readers.  [default: one per core]")

    def __post_init__(self) -> None:
        check(self)
        if self.as_json and (self.out is not None or self.force):
            raise UserError("`as_json` writes no file; leave out `out` and `force`")


@dataclass(frozen=True)
class GateOptions:
    """How the leak gates (`faces.audit.leak_gates`) are run.

    limit: images shown to the classifiers, drawn at random (by `seed`), half of each class where there are enough;
    copies are looked for among all files. The interval is then +- .024, and no set needs better.
    """

    quick: bool = option(False, "Only the gates that need no decoding: header, size, copies.")
    limit: int = option(8000, "Images shown to the classifiers.", low=1, metavar="N")
    seed: int = SEED(help="Of the draw of images and of the shuffled labels.")
    workers: int | None = WORKERS(help="Readers.  [default: one per core]")


@dataclass(frozen=True)
class Auditing(GateOptions):
    against: tuple[str, ...] = option((), "A set that may share no picture with it; repeatable.", metavar="OTHER")
    face_model: str | None = FACE_MODEL()
    offline: bool = OFFLINE(help="Download nothing: without YuNet's file, landmarks are not looked at.")
    strict: bool = option(False, "«unclear» counts as a failure in the exit code.")
    as_json: bool = AS_JSON(help="One JSON document on stdout instead of the table.")


@dataclass(frozen=True)
class Normalisation:
    """What is done to every image (`faces.normalise`)."""

    resolution: int = RESOLUTION(default=256, help="Side of every result, in pixels.", low=8, high=8192)
    align: str = option("none", "ffhq: cut the biggest face out (or all: --faces).", choices=("none", "ffhq"))
    faces: str = option(
        "biggest", "With --align: which faces of a picture are cut out.", choices=("biggest", "all"),
    )  # fmt: skip
    crop: str = CROP(
        help="How an unaligned picture becomes a square: its middle, all of it squeezed, or with grey bars."
    )
    resample: str = RESIZE_FILTER(help="The one resize kernel.")
    through: int = option(
        0,
        "Reduce all pictures to this common size first, smaller ones are skipped; 0: don't.",
        low=0, high=8192, metavar="PX",
    )  # fmt: skip
    min_side: int = option(LEAST, "Skip pictures (with --align: faces) of fewer pixels a side.", low=1, metavar="PX")
    no_face: str = option(
        "skip", "With --align: what to do with a picture in which no face is found.", choices=("skip", "keep")
    )
    format: str = option("jpeg", "The one encoder.", choices=("jpeg", "png"))
    quality: tuple[int, int] = option(
        (75, 95), "JPEG quality, drawn for each image by its content.", parse=Span(), whole=True, metavar="LOW-HIGH"
    )
    chroma: str = option("420", "JPEG's chroma subsampling.", choices=("420", "444"))
    seed: int = option(0, "Of the draw of qualities.")

    def __post_init__(self) -> None:
        check(self)
        low, high = self.quality
        if not 1 <= low <= high <= 100:
            raise UserError(f"`quality` must be two numbers from 1 to 100, the lower first, not {low}-{high}")
        if self.align == "none":
            refuse(self, ("faces", "no_face"), "faces are only looked for with `align` ffhq; give that too")
        if self.format == "png" and (self.quality, self.chroma) != ((75, 95), "420"):
            raise UserError("`quality` and `chroma` are JPEG's; leave them out, or give `format` jpeg")
        if 0 < self.through < 8:
            raise UserError(f"`through` must be between 8 and 8192 pixels, or 0, not {self.through}")

    @property
    def least(self) -> int:
        """Cuts must have as many pixels a side."""
        return max(self.min_side, self.through, 1)

    def quality_of(self, digest: str) -> int:
        """The JPEG quality for the image whose file has this SHA-256 (hex): uniform over the range."""
        low, high = self.quality
        drawn = hashlib.sha256(f"{self.seed}:{digest}".encode()).digest()
        return low + int.from_bytes(drawn[:8], "big") % (high - low + 1)


@dataclass(frozen=True)
class NormaliseRun:
    """Where the results of a `Normalisation` go, and what helps with it."""

    dest: str = argument("DEST")
    face_model: str | None = FACE_MODEL()
    offline: bool = OFFLINE(help="Download nothing: without YuNet's file, OpenCV's Haar cascade.")
    workers: int | None = WORKERS(help="Threads.  [default: one per core]")


@dataclass(frozen=True)
class Framing(Checked):
    """Which frames of which videos become crops (`faces.frames`), and how the videos are dealt out."""

    videos: str = argument("VIDEOS")
    dest: str = argument("DEST")
    labels: str | None = LABELLED()
    every: int = option(10, "Every N-th frame; of long videos fewer, so that --most are spread over all.", low=1)
    most: int = option(32, "Crops of a video, at most.", low=1, metavar="N")
    ratios: str = option(
        "80/10/10", "Shares of train, valid and test, dealt by video; videos with splits keep them.", metavar="A/B/C"
    )
    identity: str | None = option(
        None, "Captures who is seen from the video's path, like '(id[0-9]+)'; one person is in one split.",
        metavar="REGEX",
    )  # fmt: skip
    face_model: str | None = FACE_MODEL()
    offline: bool = OFFLINE(help="Download nothing: without YuNet's file, OpenCV's Haar cascade.")
    workers: int | None = WORKERS(help="Videos at once.  [default: one per core]")


@dataclass(frozen=True)
class Splitting(Checked):
    """How a source is dealt out (`faces.splitting`), and which manifest says so."""

    source: str = argument("SOURCE")
    out: str = OUT(default="manifest.csv", help="The manifest: .csv, or .parquet with pyarrow.")
    ratios: str = option("80/10/10", "Shares of train, valid and test.", metavar="A/B/C")
    folds: int = FOLDS(default=0, help="Also K folds of train and valid.", low=0, high=1000)
    group_by: str = option(
        "near-duplicate",
        "What must stay together. Identity: by the manifest's column «identity», or --identity.",
        choices=GROUPINGS,
    )
    identity: str | None = option(None, "Captures who is seen from the path, like '(id[0-9]+)_'.", metavar="REGEX")
    max_distance: int | None = option(
        None,
        "Near-duplicates: hashes differ in at most so many of 64 bits.  [default: 4; composites by identity 7]",
        low=0, high=12, metavar="BITS",
    )  # fmt: skip
    keep_splits: bool = option(False, "Images that have a split keep it; only the others are dealt out.")
    seed: int = SEED(help="Another number, another split.")
    rescan: bool = option(False, "Look at the files of a manifest again, though it has their hashes.")
    force: bool = FORCE(help="Replace a manifest that is there already.")
    workers: int | None = WORKERS(help="Processes that read.  [default: all cores]")
    data_root: str | None = DATA_ROOT()
    labels: str | None = LABELLED()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.identity is not None and self.group_by != "identity":  # else a person would be in two splits
            raise UserError(
                f"`identity` {self.identity}: people are kept together by `group_by` identity; give that too"
            )
        if self.max_distance is not None and self.group_by == "none":
            raise UserError("`max_distance`: by `group_by` none nothing is compared; leave one of them out")


@dataclass(frozen=True)
class Packing:
    """What goes into an archive (`faces.packing`)."""

    dest: str = argument("DEST.zip")
    resolution: int = RESOLUTION(help="Side of every image, in pixels.", low=LEAST, high=8192)
    crop: str = CROP(help="How a picture becomes a square: its middle, all of it squeezed, or with grey bars.")
    resample: str = RESIZE_FILTER(help="The resize kernel.")
    classes: str = option(
        "auto",
        "In dataset.json: those of the source (auto: if it has a dataset.json), or real 0, fake 1.",
        choices=CLASSES,
    )
    only: str | None = option(None, "Only one label.", choices=("real", "fake"))
    workers: int | None = WORKERS(help="Threads.  [default: one per core]")
