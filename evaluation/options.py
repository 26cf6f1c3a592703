"""What a person may ask of an evaluation: every option with its bounds, default and help. No numpy here."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import click

from common.errors import UserError
from common.options import BATCH, CSV, DEVICE, FORCE, OUT, SEED, THREADS, THRESHOLD, WORKERS, argument, check, option
from common.words import counted
from discriminator.explaining.methods import NAMES
from discriminator.join import JOINS
from faces.options import (
    CROP,
    DATA,
    DATA_ROOT,
    FACE_MODEL,
    LABEL,
    LABELLED,
    LIMIT,
    OFFLINE,
    RESIZE_FILTER,
    RESOLUTION,
    SPLIT,
)

NO_CACHE = functools.partial(option, default=False)
REPORT = functools.partial(option, default=None, metavar="FILE.html")
EACH_SOURCE = functools.partial(
    option,
    default=False,
    help="A threshold accuses at most its share of the photos of each --data, not only of all together.",
)
RESAMPLES = functools.partial(option, default=1000, help="Of the bootstrap.", metavar="N")
FPR = functools.partial(
    option,
    default=None,
    help="The calibrated false-alarm rate whose threshold counts.  [default: shipped]",
    low=0,
)
GROUP_BY = functools.partial(
    option, default=None, help="Images equal there count as one.  [default: group, identity, …]", metavar="COLUMN"
)
DIMS = functools.partial(
    option,
    default=None,
    help="Width of the Inception features.  [default: 2048; 768 with a trunk]",
    choices=(64, 192, 768, 2048),
)
INCEPTION_WEIGHTS = functools.partial(
    option, default=None, help="InceptionV3 weights.  [default: downloaded once]", metavar="FILE"
)
TRUNC = functools.partial(option, default=1.0, help="Truncation; 1 is none.", metavar="PSI", low=-2, high=2)
CACHE = functools.partial(
    option, default=None, help="Where features of images are kept.  [default: $FACES_CACHE/features]", metavar="DIR"
)
JSON = functools.partial(option, default=None, help="Write all numbers.", metavar="FILE")


@dataclass(frozen=True, kw_only=True)
class GeneratorOptions:
    """How good a generator is, or generated images are."""

    target: str = argument("NETWORK|FOLDER|ZIP")
    data: str | None = DATA(default=None, help="Real images: folder, zip, manifest, or flickr140k, rvf10k, …")
    metrics: str = option(
        "fid,kid,pr",
        "Of fid, ci (fid's 95 % interval), kid, mind, pr, is and ppl.",
        metavar="NAMES",
    )
    num: int = option(50000, "Samples; of a folder at most so many.", metavar="N", low=1)
    num_real: int | None = option(
        None, "Real images of --data, evenly spread over them.  [default: all, whatever --num is]", metavar="N", low=2
    )
    features: str = option(
        "inception",
        "Whose features are compared: inception, timm:NAME or torchvision:NAME, with @SIDE for another image size.",
        metavar="NETWORK",
    )
    weights: str | None = option(
        None, "Weights of --features: a file, or pip:PACKAGE of an installed one.", metavar="FILE"
    )
    dims: int | None = DIMS()
    resize: str = option(
        "tf1",
        "To 299 x 299: tf1 as pytorch-fid, clean as clean-fid, original as the graph of 2015 and torch-fidelity.",
        choices=("tf1", "clean", "original", "none"),
    )
    inception_weights: str | None = INCEPTION_WEIGHTS()
    runtime: str = option(
        "auto",
        "What computes the features; auto: native on a CPU with AVX2, else onnx. The numbers are the same.",
        choices=("auto", "native", "onnx", "torch"),
    )
    seed: int = SEED(help="Of the samples, and of KID's subsets.")
    trunc: float = TRUNC()
    noise_mode: str = option("random", "Noise inputs.", choices=("random", "const", "none"))
    class_index: int | None = option(None, "Only this class of the network.", metavar="K", low=0, flags=("--class",))
    split: str | None = SPLIT(help="Of --data.  [default: train where there is one, else all]")
    data_root: str | None = DATA_ROOT()
    labels: str | None = LABELLED()
    resolution: int | None = RESOLUTION(default=None, help="Bring all images to N x N first.", low=8, high=4096)
    crop: str = CROP(help="How they become square.")
    resize_filter: str = RESIZE_FILTER(help="How they become N x N, or the network's size.")
    allow_grey: bool = option(False, "Grey images among colour ones are no error.")
    stats: str | None = option(
        None, "Statistics of the reals (pytorch-fid's format), instead of --data.", metavar="FILE.npz"
    )
    save_stats: str | None = option(None, "Keep those of --data, in pytorch-fid's format.", metavar="FILE.npz")
    cache: str | None = CACHE()
    no_cache: bool = NO_CACHE(help="Compute everything again, keep nothing.")
    ppl_distance: str = option(
        "auto",
        "vgg16, squeezenet, inception, or a weight file; auto: vgg16 where it is here, else inception.",
        metavar="NAME|FILE",
    )
    workers: int = WORKERS(default=2, help="Threads that decode images.")
    device: str = DEVICE()
    json: str | None = JSON(help="Write the numbers there, too.")
    report: str | None = REPORT(help="And a page with pictures of both sides.")
    force: bool = FORCE()

    def __post_init__(self) -> None:
        check(self)
        if self.stats and self.data:
            raise UserError("`stats` takes the place of `data`: give one of them")
        if self.num_real is not None and not self.data:
            raise UserError("`num_real` counts images of `data`: give `data` SOURCE, or leave it out")
        for name in () if self.data else ("split", "labels"):
            if (value := getattr(self, name)) is not None:
                raise UserError(f"`{name}` {value}: is of `data`: give `data` SOURCE, or leave it out")
        if self.save_stats and not self.data:
            raise UserError("`save_stats` keeps the statistics of `data`: give `data` SOURCE")
        if (self.features == "inception") != (self.weights is None):
            raise UserError(
                f"`features` {self.features} takes `weights` FILE"
                if self.weights is None
                else "`weights` are of another network than Inception: name it with `features` (Inception's own:"
                " `inception_weights`)"
            )
        if self.features != "inception" and (self.dims or self.resize != "tf1" or self.runtime != "auto"):
            raise UserError("`dims`, `resize` and `runtime` are Inception's: leave them out with other `features`")


@dataclass(frozen=True, kw_only=True)
class NearestOptions:
    """Whose samples are held beside which training images."""

    target: str = argument("NETWORK|FOLDER|ZIP")
    data: str = DATA(help="What the generator learnt from: folder, zip, manifest, or flickr140k, …")
    held_out: str | None = option(
        None,
        "Photos of the same kind that it never saw.  [default: the set's valid or test split, where it has one]",
        metavar="SOURCE",
    )
    out: str = option("nearest.png", "Where the sheet goes.", metavar="FILE.png")
    num: int = option(2000, "Samples; of a folder at most so many.", metavar="N", low=2)
    num_real: int | None = option(None, "Training images, evenly spread over them.  [default: all]", metavar="N", low=2)
    shown: int = option(10, "Samples on the sheet: the ones nearest to a training image.", metavar="N", low=1, high=64)
    neighbours: int = option(4, "Training images beside each.", metavar="N", low=1, high=16)
    dims: int | None = DIMS()
    inception_weights: str | None = INCEPTION_WEIGHTS()
    seed: int = SEED(help="Of the samples.")
    trunc: float = TRUNC()
    split: str | None = SPLIT(help="Of --data.  [default: train where there is one, else all]")
    data_root: str | None = DATA_ROOT()
    labels: str | None = LABELLED()
    resolution: int | None = RESOLUTION(default=None, help="Bring all images to N x N first.", low=8, high=4096)
    crop: str = CROP(help="How they become square.")
    resize_filter: str = RESIZE_FILTER(help="How they become N x N, or the network's size.")
    cache: str | None = CACHE()
    no_cache: bool = NO_CACHE(help="Compute everything again, keep nothing.")
    workers: int = WORKERS(default=2, help="Threads that decode images.")
    device: str = DEVICE()
    json: str | None = JSON(help="Write the numbers there, too.")
    force: bool = FORCE()

    def __post_init__(self) -> None:
        check(self)
        if Path(self.out).suffix.lower() != ".png":
            raise UserError(f"`out` {self.out}: the sheet is a PNG: give a name that ends in .png")


@dataclass(frozen=True, kw_only=True)
class ScoringOptions:
    """What all evaluations of detectors share: which images get scores, and how."""

    data: tuple[str, ...] = DATA(default=(), help="Images to judge; may be given several times.")
    split: str | None = SPLIT()
    label: str | None = LABEL()
    limit: int | None = LIMIT()
    data_root: str | None = DATA_ROOT()
    labels: str | None = LABELLED()
    resamples: int = RESAMPLES(low=1)
    seed: int = SEED()
    device: str = DEVICE()
    batch: int = BATCH(default=32, help="Images judged at once.")
    workers: int | None = WORKERS()
    no_cache: bool = NO_CACHE(help="Judge everything again, remember nothing.")
    force: bool = FORCE()


@dataclass(frozen=True, kw_only=True)
class DetectorOptions(ScoringOptions):
    """What a detector is worth, by its file or by a table of its scores."""

    target: str = argument("MODEL|SCORES.csv")
    robustness: bool = option(False, "Judge them again re-saved, resized, blurred … (44 degradations).")
    conditions: str | None = option(
        None, "Of the 44 only these, such as web,hard; means --robustness, too.", metavar="LIST"
    )
    bias: bool = option(False, "Audit the detector: one class alone saved again, each real source, each JPEG quality.")
    fpr: float | None = FPR()
    threshold: float | None = THRESHOLD(help="FAKE from this score on, instead of the detector's own threshold.")
    unsure_from: float | None = option(
        None, "UNSURE from this score up to the threshold, at the latest from even odds."
    )
    calibrate_on: str | None = option(
        None, "For SCORES.csv: validation scores that set the threshold.", metavar="VALID.csv"
    )
    reals_from: str | None = option(
        None, "Pair this source's reals with fakes of sources without reals.", metavar="NAME"
    )
    group_by: str | None = GROUP_BY()
    resamples: int = RESAMPLES(low=0)
    csv: str | None = CSV(help="Write every image with its score and verdict; can be judged again.", metavar="FILE")
    json: str | None = JSON()
    report: str | None = REPORT(help="Write one page with all numbers and figures.")
    plots: str | None = option(None, "Write the figures as PNG, light and dark.", metavar="FOLDER")

    @property
    def degraded(self) -> bool:
        """Whether images are judged under degradations."""
        return self.robustness or self.conditions is not None

    def __post_init__(self) -> None:
        check(self)
        if self.threshold is not None and self.fpr is not None:
            raise UserError("`threshold` and `fpr` both set the threshold: give one of them")
        low, high = self.unsure_from, self.threshold
        if low is not None and high is not None and low > high:
            raise UserError(f"`unsure_from` {low:g}: lies above the threshold {high:g}: lower it")
        if not is_table(self.target):
            if not self.data:
                raise UserError("no images to judge: give `data` SOURCE, once or several times")
            if self.calibrate_on is not None:
                raise UserError("`calibrate_on` is for SCORES.csv: a detector has its own calibration; leave it out")
            return
        for name in ("data", "limit", "label", "labels", "split", "conditions", "bias"):
            if getattr(self, name):
                raise UserError(f"`{name}`: {self.target} brings its own images and labels: leave `{name}` out")
        if self.threshold is not None and self.calibrate_on is not None:
            raise UserError("`threshold` and `calibrate_on` both set the threshold: give one of them")
        if self.fpr is not None and self.calibrate_on is None:
            raise UserError(
                f"`fpr` {self.fpr:g}: a rate is met on scores of validation images: give `calibrate_on` VALID.csv, or"
                " leave `fpr` out"
            )
        for name in ("json", "report", "csv"):
            path = getattr(self, name)
            if path is not None and Path(path).resolve() == Path(self.target).resolve():
                raise UserError(f"`{name}` {path}: is the file that is judged: choose another name")


class Weights(click.ParamType):
    """Numbers of at least 0 with commas between, not all 0."""

    name = "weights"

    def convert(self, value, param, ctx):
        if isinstance(value, (tuple, list)):
            return tuple(value)
        try:
            numbers = tuple(float(word) for word in str(value).split(","))
        except ValueError:
            numbers = ()
        if not numbers or not all(0 <= number < 1e9 for number in numbers) or not sum(numbers):
            self.fail(f"{value!r}: give a number of at least 0 for each member, like 2,1,1, and one above 0")
        return numbers


SOUP, WISE_FT = "soup", "wise-ft"  # the methods whose result is a single network


@dataclass(frozen=True, kw_only=True)
class EnsembleOptions(ScoringOptions):
    """Which detectors are joined, how, and on what they are fitted and tested."""

    models: tuple[str, ...] = argument("MODEL MODEL…", ())
    method: str = option(
        "average", "How they become one.",
        choices=("average", "majority", "weighted", "stacking", SOUP, WISE_FT),
    )  # fmt: skip
    alpha: float | None = option(
        None, "Of `wise-ft`: how much of MODEL, from 0 to 1.  [default: 0.8]", metavar="SHARE", low=0, high=1
    )
    backbone_weights: str | None = option(
        None, "Of `wise-ft`: the weights that MODEL's training began with.", metavar="FILE|pip:PACKAGE"
    )
    weights: tuple[float, ...] = option(
        (), "Of `weighted`: one for each member, instead of fitted ones.", metavar="W,W…", parse=Weights(), whole=True
    )
    data: tuple[str, ...] = DATA(default=(), help="Its validation split fits and calibrates, its test split tests.")
    split: str | None = SPLIT(help="What to fit on.  [default: valid, or what was held out of training]")
    each_source: bool = EACH_SOURCE()
    oof: tuple[str, ...] = option((), "Fit on out-of-fold scores instead; one for each member.", metavar="OOF.csv")
    out: str = OUT(help="The new detector's file.", metavar="FILE.safetensors")
    json: str | None = JSON()

    def __post_init__(self) -> None:
        check(self)
        between, mixed = self.method == WISE_FT, self.method == SOUP
        if between and (len(self.models) != 1 or self.backbone_weights is None):
            raise UserError(
                "`method` wise-ft lies between one network and the weights that its training began with: give one MODEL"
                " and `backbone_weights`"
            )
        if not between and (self.alpha, self.backbone_weights) != (None, None):
            raise UserError("`alpha` and `backbone_weights` are of `method` wise-ft; leave them out")
        if len(self.models) < 2 and not between:
            what = "a soup is made of two networks or more" if mixed else "an ensemble has two members or more"
            raise UserError(f"{what}: name at least two detector files or run folders")
        if Path(self.out).suffix != ".safetensors":
            raise UserError(f"`out` {self.out}: a detector file's name ends in .safetensors: choose another")
        if self.weights and (self.method != "weighted" or len(self.weights) != len(self.models)):
            raise UserError(
                f"`weights`: {len(self.weights)} for {counted(len(self.models), 'detector')} and method {self.method}:"
                " give one for each, and `method` weighted"
            )
        if self.oof and (mixed or between):
            raise UserError(
                f"`oof`: these are scores of what was trained, and {self.method} makes another network; give `data`"
                " instead"
            )
        if self.oof and len(self.oof) != len(self.models):
            raise UserError(
                f"`oof` was given {counted(len(self.oof), 'time')} for {len(self.models)} members: give each member's"
                " out-of-fold scores, in the members' order"
            )
        if len({Path(file).resolve() for file in self.oof}) < len(self.oof):
            raise UserError("`oof` names the same file twice: give each member's own out-of-fold scores")
        if not self.data and not self.oof:
            raise UserError(
                "no images to fit and calibrate on: give `data` SOURCE (its validation split is used), or `oof` of each"
            )
        if self.oof and self.split:
            raise UserError("`split`: with `oof` the out-of-fold scores are fitted on, `data` only tests; leave it out")


@dataclass(frozen=True, kw_only=True)
class SecondLookOptions(ScoringOptions):
    """Which detector learns to look twice, and on what its second look is fitted and tested."""

    target: str = argument("MODEL")
    data: tuple[str, ...] = DATA(
        default=(), help="Its validation split fits and calibrates, its test split tests. May be given several times."
    )
    split: str | None = SPLIT(help="What to fit on.  [default: valid, or what the training held out]")
    each_source: bool = EACH_SOURCE()
    out: str = OUT(help="The detector that looks twice.", metavar="FILE.safetensors")
    json: str | None = JSON()

    def __post_init__(self) -> None:
        check(self)
        if Path(self.out).suffix != ".safetensors":
            raise UserError(f"`out` {self.out}: a detector file's name ends in .safetensors: choose another")
        if not self.data:
            raise UserError("no images to fit and calibrate on: give `data` SOURCE, once or several times")


@dataclass(frozen=True, kw_only=True)
class JoinOptions(ScoringOptions):
    """Which two detectors become two views of one, how, and on which validation photos that is fitted."""

    face: str = argument("FACE")
    pixels: str = argument("PIXELS")
    data: tuple[str, ...] = DATA(
        default=(), help="Validation photos: its validation split fits and calibrates. May be given several times."
    )
    degradation: bool = option(
        True, "Each photo once more degraded: the training's usual chain, web, hard in turn.", negative=True
    )
    each_source: bool = EACH_SOURCE()
    join: str = option("weighted", "Weighted log-odds, or what either view says.", choices=JOINS)
    side: int | None = option(
        None, "Of a crop of the photo's own pixels.  [default: PIXELS' own]", metavar="N", low=8, high=1024
    )
    grid: int = option(3, "N x N crops over the face.", metavar="N", low=1, high=16)
    out: Path = OUT(help="The new detector file.")

    def __post_init__(self) -> None:
        check(self)
        if not self.data:
            raise UserError("no photos to fit and calibrate on: give `data` SOURCE, once or several times")


@dataclass(frozen=True, kw_only=True)
class ComparisonOptions(ScoringOptions):
    """Which detectors are compared, and on what."""

    models: tuple[str, ...] = option(help="Detectors, run folders, CSVs of scores.", metavar="MODEL…")
    data: tuple[str, ...] = DATA(
        default=(), help="Images to judge; its test split where there is one.", metavar="SOURCE…"
    )
    out: str = OUT(help="Where the tables, the page and the figures go.", metavar="FOLDER")
    fpr: float | None = FPR()
    group_by: str | None = GROUP_BY()
    speed: bool = option(True, "Measure images a second of the networks, by turns.", negative=True)

    def __post_init__(self) -> None:
        check(self)
        if len(self.models) < 2:
            raise UserError("`models`: a comparison takes two or more: detector files, run folders or CSVs of scores")
        tables = all(map(is_table, self.models))
        if not self.data and not tables:
            raise UserError("no images to compare detectors on: give `data` SOURCE, once or several times")
        if self.fpr is not None and tables:
            raise UserError(f"`fpr` {self.fpr:g}: tables of scores bring their verdicts or none: leave `fpr` out")
        for name in () if self.data else ("split", "label", "limit", "labels"):
            if getattr(self, name):
                raise UserError(f"`{name}`: tables of scores bring their images and labels: leave `{name}` out")


@dataclass(frozen=True, kw_only=True)
class ExplainingOptions(ScoringOptions):
    """Which maps of a detector are measured, on what, and with how much effort."""

    target: str = argument("MODEL")
    data: tuple[str, ...] = DATA(default=(), help="Images to explain; may be given several times.")
    limit: int | None = LIMIT(default=50)
    methods: str = option("all", f"Of {NAMES}.", metavar="METHOD,…")
    out: str = OUT(help="Where explain.json, explain.md, the figure and a sheet go.", metavar="FOLDER")
    points: int = option(8, "Steps of a deletion or insertion curve.", metavar="N", low=2, high=256)
    checked: int = option(10, "Images whose maps are compared with those of shuffled weights.", metavar="N", low=0)
    steps: int = option(16, "Of integrated gradients and SHAP.", metavar="N", low=2, high=512)
    squares: int = option(8, "A side of occlusion's grid.", metavar="N", low=2, high=64)
    coarse: int = option(8, "A side of LIME's and kernel SHAP's grid.", metavar="N", low=2, high=32)
    samples: int = option(256, "Coalitions of squares that LIME and kernel SHAP judge.", metavar="N", low=8)

    def __post_init__(self) -> None:
        check(self)
        if not self.data:
            raise UserError("no images to explain: give `data` SOURCE, once or several times")


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Which plan is carried out, and where."""

    plan: str = option(help="Sources, arms, endpoint and comparisons, as docs/study/plan.toml.", metavar="FILE.toml")
    out: str = OUT(
        help="Features, fits, results.json, results.md and results.html; the same again goes on.", metavar="FOLDER"
    )
    seeds: int | None = option(
        None, "Fits of every arm, instead of the plan's number; the results tell it.", metavar="N", low=1
    )
    features: str | None = option(
        None, "Where features of images are kept, for several studies.  [default: OUT/features]", metavar="FOLDER"
    )
    data_root: str | None = DATA_ROOT()
    device: str = DEVICE()
    workers: int | None = WORKERS()
    threads: int | None = THREADS()
    force: bool = FORCE(help="Open the tests once more and replace the results, which tell it.")

    def __post_init__(self) -> None:
        check(self)


def is_table(spec: str) -> bool:
    """Whether a model is a CSV of its scores."""
    return spec.lower().endswith(".csv")


@dataclass(frozen=True, kw_only=True)
class OwnPhotos:
    """A detector, and the photos of a person on which its thresholds are to be set."""

    model: str = argument("MODEL")
    reals: str = option(
        help="Real photos like those you will have judged; 100 at least for 1 %, better 1000.", metavar="FOLDER"
    )
    fakes: str | None = option(
        None, "Generated ones; with them the probability's scale and the unsure band are set, too.", metavar="FOLDER"
    )
    out: Path = OUT(help="The new detector file; MODEL stays as it is.")
    face: str = option(
        "auto",
        "As in detect.py: look for faces where the detector learnt from aligned ones, or judge photos whole.",
        choices=("auto", "whole"),
    )
    face_model: str | None = FACE_MODEL()
    offline: bool = OFFLINE()
    device: str = DEVICE()
    workers: int | None = WORKERS(help="Threads that decode.  [default: one per core]")

    def __post_init__(self) -> None:
        check(self)
