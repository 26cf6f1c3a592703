"""What a person may ask of `synth.py`: every option with its bounds, default and help, once. Light: no numpy."""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.options import BATCH, DEVICE, FORCE, OUT, OUTDIR, SEED, THREADS, WORKERS, Checked, argument, option, refuse
from faces.options import CROP, DATA, DATA_ROOT, LABELLED, SUBSET

MAX_SEED = 2**32 - 1
MOST_SEEDS = 10_000_000  # of one call
MOST_CELLS = 10_000  # images of one sheet
SLOWEST, FASTEST = 0.01, 240  # frames of a video a second; one of a GIF stays for eleven minutes at most
SEEDS = functools.partial(option, metavar="LIST")
CLASS = functools.partial(option, default=None, metavar="K", flags=("--class",))
NOISE = functools.partial(option, default="const", help="Noise inputs.")


def parse_seeds(text: str, parameter: str = "seeds", *, doubles: bool = False) -> list[int]:
    """`'0-99,200'` -> [0, ..., 99, 200], doubles dropped unless they count. UserError, naming `parameter`, for anything
    else."""
    seeds: list[int] = []
    for part in text.split(","):
        strange = "is neither a number nor a range: write it like 0-99,200"
        here = parse_range(part.strip(), f"`{parameter}` {text}", strange)
        if here[-1] > MAX_SEED:
            raise UserError(f"`{parameter}` {text}: seeds are from 0 to {MAX_SEED}")
        if len(seeds) + len(here) > MOST_SEEDS:
            raise UserError(f"`{parameter}` {text}: more than ten million images in one call: ask for them in parts")
        seeds += here
    return seeds if doubles else list(dict.fromkeys(seeds))


def parse_range(word: str, where: str, otherwise: str) -> range:
    """`'7'` or `'3-5'`. UserError for anything else: it begins with `where`, and says `otherwise` of a strange word."""
    match = re.fullmatch(r"(\d{1,99})(?:-(\d{1,99}))?", word)
    if not match:
        raise UserError(f"{where}: «{word}» {otherwise}")
    low, high = int(match[1]), int(match[2] or match[1])
    if high < low:
        raise UserError(f"{where}: the range {low}-{high} runs backwards: write {high}-{low}")
    return range(low, high + 1)


@dataclass(frozen=True)
class FromNetwork:
    """Which generator, and where it computes."""

    network: str | None = option(
        None,
        "Generator file (.safetensors, .pkl, .pt), URL, run folder or latest.  [default: newest run under ./runs]",
        metavar="PATH",
    )
    device: str = DEVICE()


@dataclass(frozen=True)
class Rendering(Checked):
    """How latents become images.

    psi, cutoff: truncation, see `Mapping`: the first `cutoff` style layers (None: all) are drawn to the average; psi 1
        leaves them alone.
    class_index: the class of a generator that has some.
    noise_mode: 'const' (the stored maps), 'none', or 'random' (fresh maps, but always the same for a seed).
    precision: 'fp32', 'bf16' or 'auto', see `synth.render.in_precision`; pixels of the two differ by some grey levels.
    """

    psi: float = option(1.0, "Truncation psi; 1 is none.", flags=("--trunc",), metavar="PSI", low=-2, high=2)
    cutoff: int | None = option(
        None,
        "Truncate only the first N style layers.  [default: all]",
        flags=("--trunc-cutoff",), metavar="N", low=0,
    )  # fmt: skip
    class_index: int | None = CLASS(help="Class, for a generator with classes.", low=0)
    noise_mode: str = NOISE(choices=("const", "random", "none"))
    precision: str = option(
        "fp32",
        "fp32: the same image everywhere, but for a grey level here and there. bf16: faster where the hardware computes"
        " in it, some grey levels off. auto: bf16 there, else fp32.",
        choices=("fp32", "bf16", "auto"),
    )

    def check_truncation(self) -> None:
        """UserError for a cutoff of no truncation. For what is asked for in one piece: a sweep's psi are its own."""
        if self.cutoff is not None and self.psi == 1:
            raise UserError(
                f"`cutoff` {self.cutoff}: a `psi` of 1 truncates no layer: add `psi` 0.7, say, or leave it out"
            )


@dataclass(frozen=True)
class StillRendering(Rendering):
    """A rendering without fresh noise: in a walk it would flicker, in a mix differ from image to image."""

    noise_mode: str = NOISE(choices=("const", "none"))


@dataclass(frozen=True)
class ImageFile(Checked):
    """How an image is encoded."""

    format: str = option("png", "File format.", choices=("png", "jpg"))
    quality: int = option(95, "JPEG quality.", metavar="N", low=1, high=100)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.format != "jpg":
            refuse(self, ("quality",), "a PNG loses nothing: add `format` jpg, or leave it out")


@dataclass(frozen=True)
class SeedOptions(Checked):
    """Which images, in which folder."""

    n: int | None = option(None, "Seeds 0 to N-1.  [default: 64]", metavar="N", low=1, high=MOST_SEEDS)
    seeds: str | None = SEEDS(default=None, help="Seeds, like 0-99,200; instead of --n.")
    class_index: str | None = CLASS(
        help="Class, for a generator trained with classes; all: every class, each in a folder of its own."
    )
    projected_w: str | None = OUT(default=None, help="Render the latents of a projected_w.npz instead of seeds.")
    outdir: str | None = OUTDIR(
        default=None, help="Where to write.  [default: samples/<run>-<network's hash>-psi<PSI>]"
    )
    grid: bool = option(False, "Also write grid.png with the first 100 images.")
    batch: int = BATCH(default=64, help="Images in flight; no pixel depends on it.")

    def __post_init__(self):
        super().__post_init__()
        if self.n is not None and self.seeds is not None:
            raise UserError("give `n` or `seeds`, not both")
        if self.class_index not in (None, "all") and not self.class_index.isdecimal():
            raise UserError(f"`class_index` {self.class_index} is not a class: give a number from 0 on, or all")
        self.wanted()

    def wanted(self) -> list[int]:
        """The seeds that are meant."""
        return parse_seeds(self.seeds) if self.seeds is not None else list(range(64 if self.n is None else self.n))


@dataclass(frozen=True)
class MixOptions:
    """Whose styles go with whose."""

    rows: str = SEEDS(help="Seeds of the rows, like 1-4,85.")
    cols: str = SEEDS(help="Seeds of the columns.")
    styles: str = option(
        "coarse", "Layers that the columns give: coarse, middle, fine, or numbers like 0-3,6.", metavar="LAYERS"
    )
    outdir: str | None = OUTDIR(
        default=None,
        help="Where to write.  [default: samples/<run>-<network's hash>-mix-<LAYERS>, and -psi<PSI> with --trunc]",
    )
    force: bool = FORCE()

    def __post_init__(self):
        self.seeds()

    def seeds(self) -> tuple[list[int], list[int]]:
        """Of the rows and of the columns. UserError for what is no list, or for more than 10000 mixtures."""
        rows, columns = parse_seeds(self.rows, "rows"), parse_seeds(self.cols, "cols")
        if len(rows) * len(columns) > MOST_CELLS:
            size = f"{len(rows)} x {len(columns)}"
            raise UserError(f"`rows` and `cols`: {size} images are more than {MOST_CELLS}: name fewer")
        return rows, columns


@dataclass(frozen=True)
class Walk(Checked):
    """A way through latent space, from seed to seed.

    space: 'z' interpolates what the mapping network gets, 'w' what it gives (truncation comes after either).
    method: see `synth.interpolate.path_through`. 'slerp' is for z, whose density only depends on the direction.
    loop: it goes on from the last seed to the first.
    grid: columns x rows of walks, that begin at different seeds.
    """

    frames_per_key: int = option(60, "Frames from seed to seed.", metavar="N", low=1, high=100_000)
    space: str | None = option(None, "Latents to interpolate.  [default: w; z for slerp]", choices=("w", "z"))
    method: str = option(
        "cubic",
        "Straight lines, arcs on the sphere (in z), or one smooth curve.",
        choices=("linear", "slerp", "cubic"),
    )
    loop: bool = option(False, "Go on from the last seed to the first.")
    grid: str = option("1x1", "Walks side by side, beginning at different seeds.", metavar="WxH")

    def __post_init__(self):
        super().__post_init__()
        self.cells()
        if self.method == "slerp" and self.space == "w":
            raise UserError("`method` slerp: latents w lie on no sphere: use `space` z, or `method` linear or cubic")

    def in_z(self) -> bool:
        return (self.space or ("z" if self.method == "slerp" else "w")) == "z"

    def cells(self) -> tuple[int, int]:
        """Columns and rows of the grid."""
        match = re.fullmatch(r"([1-9]\d?)x([1-9]\d?)", self.grid)
        if not match:
            raise UserError(f"`grid` {self.grid}: write it like 3x2: columns, x, rows, each from 1 to 99")
        return int(match[1]), int(match[2])

    def frames(self, keys: int) -> int:
        """Frames of a walk through so many seeds: one for each step, and without loop the last seed itself."""
        return keys * self.frames_per_key if self.loop else (keys - 1) * self.frames_per_key + 1


@dataclass(frozen=True)
class WalkVideo(Checked):
    """Which seeds a walk goes through, and the video file it becomes."""

    seeds: str = SEEDS(default="1-8", help="Seeds that the walk goes through, in this order.")
    fps: float = option(30.0, "Frames a second.", metavar="X", low=SLOWEST, high=FASTEST)
    scale: int | None = option(
        None,
        "Enlarge by this whole factor.  [default: to 256 pixels a face or more]",
        metavar="N", low=1, high=64,
    )  # fmt: skip
    out: str | None = OUT(default=None, help="An .mp4 or .gif.  [default: samples/<run>-<network's hash>-walk.mp4]")
    force: bool = FORCE()

    def __post_init__(self):
        super().__post_init__()
        self.keys()

    def keys(self) -> list[int]:
        """The seeds from the first to the last, each as often as it is named. UserError for what is no list."""
        return parse_seeds(self.seeds, doubles=True)


@dataclass(frozen=True)
class SweepOptions:
    """Which seeds under which truncations."""

    seeds: str = SEEDS(default="1-6", help="Seeds, one a row.")
    truncs: str = option("-0.7,0,0.3,0.5,0.7,1", "Truncation psi, one a column.", metavar="LIST")
    out: str | None = OUT(default=None, help="A .png.  [default: samples/<run>-<network's hash>-sweep.png]")
    force: bool = FORCE()

    def __post_init__(self):
        self.axes()
        if self.out is not None and Path(self.out).suffix.lower() != ".png":
            raise UserError(f"`out` {self.out}: the sheet is a PNG: call it {Path(self.out).stem}.png")

    def axes(self) -> tuple[list[int], list[float]]:
        """Seeds and psi. UserError for what is no list, for psi beyond 2, or for too many images."""
        seeds = parse_seeds(self.seeds)
        try:
            psis = [float(word) for word in self.truncs.split(",")]
        except ValueError:
            raise UserError(f"`truncs` {self.truncs}: not a list of numbers: write it like 0,0.5,1") from None
        if not all(-2 <= psi <= 2 for psi in psis) or len(psis) * len(seeds) > MOST_CELLS:
            raise UserError(
                f"`truncs` {self.truncs}: psi are from -2 to 2, and the sheet holds at most {MOST_CELLS} images"
            )
        return seeds, psis


@dataclass(frozen=True)
class ProjectionSettings(Checked):
    """The published settings of a search (StyleGAN2, appendix D).

    space: 'w' seeks one latent for all layers, 'w+' one for each (nearer to the photo, farther from a face).
    w_samples: latents that give the starting point (their mean) and the scale of the latent noise.
    lr: highest rate of Adam (betas 0.9, 0.999); it rises over the first `lr_rise` of the steps and falls as a cosine
        over the last `lr_fall`.
    jitter: standard deviation of the noise on w, as a share of that of the latents; it falls to zero, quadratically,
        until `jitter_until` of the steps are done.
    noise_weight: of the penalty that keeps the noise maps noise (see `synth.projection.noise_penalty`).
    """

    steps: int = option(1000, "Steps of the search.", metavar="N", low=1, high=1_000_000)
    space: str = option(
        "w",
        "w: one latent for all layers. w+: one for each; nearer to the photo, farther from a face.",
        choices=("w", "w+"),
    )
    seed: int = SEED(help="Of the search's noise.", high=MAX_SEED)
    w_samples: int = 10_000
    lr: float = 0.1
    lr_rise: float = 0.05
    lr_fall: float = 0.25
    jitter: float = 0.05
    jitter_until: float = 0.75
    noise_weight: float = 1e5

    def rate(self, step: int) -> float:
        """The learning rate of a step, 0 to steps - 1."""
        t = step / self.steps
        fall = min(1.0, (1 - t) / self.lr_fall)
        return self.lr * (0.5 - 0.5 * math.cos(math.pi * fall)) * min(1.0, t / self.lr_rise)

    def jitter_at(self, step: int) -> float:
        """The noise on w at a step, as a share of the latents' deviation."""
        return self.jitter * max(0.0, 1 - step / self.steps / self.jitter_until) ** 2


@dataclass(frozen=True)
class ProjectOptions(Checked):
    """Which photo is sought, what looks at it, and where the findings go."""

    photo: str = argument("PHOTO")
    perceptual: str = option(
        "auto",
        "What looks at the images: vgg16, squeezenet, inception, discriminator (of the run), pyramid (needs no"
        " weights), or a weight file of the first two or a detector. auto: the first of these that is here.",
        metavar="NAME|FILE",
    )
    crop: str = CROP(help="How a photo becomes square.")
    save_video: bool = option(False, "Also write projection.mp4: the photo and the search beside it.")
    outdir: str | None = OUTDIR(
        default=None, help="Where to write.  [default: samples/<run>-<network's hash>-<photo's name>]"
    )
    force: bool = FORCE()


@dataclass(frozen=True)
class TwinOptions(Checked):
    """Whose photos become twins, through how many decoders.

    minutes: of learning, for each decoder; steps: instead of them, which makes the same bank on any day.
    validation_free: all photos, instead of those that a training on `data` with this `seed` learns from.
    """

    data: str = DATA(help="Photos in files of their own size: folder, zip, manifest or named set.")
    outdir: str = OUTDIR(help="The bank's folder; called again with it, what is missing is made.")
    data_root: str | None = DATA_ROOT()
    labels: str | None = LABELLED()
    decoders: int = option(8, "Decoders, each of its own kind and width.", metavar="N", low=1, high=999)
    minutes: float = option(
        2.5, "Each decoder learns so many minutes of processor time.", metavar="X", low=0, above=True, high=10_000
    )
    steps: int | None = option(
        None, "Each decoder learns so many steps, instead of minutes.", metavar="N", low=1, high=10**7
    )
    side: int = option(64, "Pixels of a side of a crop.", metavar="N", low=32, high=512)
    per_decoder: int = option(1500, "Pairs of photo and twin from each decoder.", metavar="N", low=1, high=1_000_000)
    subset: int | None = SUBSET(help="The training's own --subset.")
    validation_free: bool = option(
        False, "Take all photos: none is held back for the validation of a training (whose --seed is this one's)."
    )
    seed: int = SEED(help="Everything random follows from it; which photos are held back, too.", high=2**31 - 1)
    device: str = DEVICE()
    workers: int | None = WORKERS()
    threads: int | None = THREADS()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.validation_free and self.subset is not None:
            raise UserError("`validation_free` takes all photos, `subset` some of a training's; leave one of them out")
