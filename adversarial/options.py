"""What a person may ask of a training run of the game: every option with its bounds, default and help, in one place."""

from __future__ import annotations

from dataclasses import dataclass

from common.options import BATCH, CHECKPOINT_MINUTES, DEVICE, OUTDIR, SEED, THREADS, WORKERS, option
from faces.options import (
    CROP,
    DATA,
    DATA_ROOT,
    DEGRADATION,
    LABELLED,
    MIRROR,
    PATCH_SIZES,
    RESIZE_FILTER,
    RESOLUTION,
    SUBSET,
)
from stylegan2_ada.ada_pipes import AUGPIPES
from stylegan2_ada.config import PRESETS

MAX_BATCH = 65536  # more is a slip of the finger
MAX_KIMG = 1e9  # likewise: a million million images


@dataclass(frozen=True)
class Options:
    """A training run as asked for; `None` means «as the preset says».

    Names and defaults are the published ones; the hybrid's own begin with `verdict_`, `replay_` or `trunk_`. Rates are
    Adam's, lengths thousands of images (kimg), batches images.
    """

    data: str = DATA(default="", help="Folder, zip, or demo, flickr140k, rvf10k, deepfake-and-real, yonsei.")
    data_root: str | None = DATA_ROOT()
    labels: str | None = LABELLED()
    outdir: str = OUTDIR(default="runs", help="Each run gets a numbered folder in here.")
    resolution: int | None = RESOLUTION(default=None, help="Side of the images, a power of 2.  [default: the data's]")
    patches: int | None = option(
        None,
        f"Train on random crops of N pixels ({', '.join(map(str, PATCH_SIZES))}) of the photos as the files have"
        " them, not on whole photos made smaller.",
        choices=PATCH_SIZES, metavar="N",
    )  # fmt: skip
    cfg: str = option(
        "auto", f"Preset, one of {', '.join(PRESETS)}; tiny suits a CPU.", choices=PRESETS, metavar="NAME"
    )
    batch: int | None = BATCH(
        default=None, help="Images a step, all processes together.  [default: preset]", high=MAX_BATCH
    )
    batch_gpu: int | None = option(
        None, "Images in memory at once, per process.  [default: what fits]", metavar="N", low=1, high=MAX_BATCH
    )
    mbstd_group: int | None = option(None, "Images compared by minibatch-std.  [default: preset]", metavar="N", low=1)
    gamma: float | None = option(None, "Weight of the R1 penalty.  [default: preset]", metavar="X", low=0)
    lr: float | None = option(
        None, "Learning rate of both networks.  [default: preset]", metavar="X", low=0, above=True
    )
    mirror: bool = MIRROR(default=False, help="Add every image's mirror image.")
    mirror_y: bool = option(False, "Add every image upside down.")
    crop: str = CROP(metavar="HOW", help="Images that are not square: center, pad or none.")
    resize_filter: str = RESIZE_FILTER(
        metavar="NAME", help="Kernel: lanczos, box (FFHQ-256), bilinear, bicubic or points."
    )
    channels: int = option(3, "3: colour, 1: grey.", metavar="N")
    cond: bool = option(False, "Train with classes: from dataset.json, or sub-folders.")
    aug: str = option("ada", "Augmentation: adaptive, at a fixed --p, or none.", choices=("ada", "fixed", "noaug"))
    augpipe: str = option(
        "bgc", f"Which transformations: {', '.join(AUGPIPES)}.", choices=tuple(AUGPIPES), metavar="NAME"
    )
    p: float | None = option(None, "Probability of each transformation for --aug fixed.", metavar="P", low=0, high=1)
    target: float = option(0.6, "What ADA keeps the mean of sign(D(real)) at.", metavar="X", low=0, high=1)
    p_max: float = option(0.85, "ADA never raises its probability beyond this.", metavar="P", low=0, high=1)
    subset: int | None = SUBSET(low=1)
    kimg: float | None = option(
        None, "Length: thousands of real images shown.  [default: preset]", metavar="X", low=0.001, high=MAX_KIMG
    )
    tick: float | None = option(
        None,
        "Progress interval.  [default: 4; on a CPU kimg/50, from 0.2 to 4]",
        metavar="KIMG",
        low=0,
        above=True,
        high=MAX_KIMG,
    )
    snap: int = option(50, "Ticks between generator snapshots.", metavar="N", low=1)
    image_snap: int | None = option(None, "Ticks between sample grids.  [default: snap/5]", metavar="N", low=1)
    keep: int = option(3, "Snapshots kept beside the best.", metavar="N", low=1)
    keep_every: float | None = option(
        None, "Besides, keep one snapshot of every so many kimg.", metavar="KIMG", low=0, above=True, high=MAX_KIMG
    )
    metrics: str = option(
        "auto",
        "fid1k,fid5k,…, with kid5k, mind5k, pr5k or ci5k; none; or auto: a cheap one where weights are at hand.",
        metavar="NAMES",
    )
    metric_data: str | None = option(
        None, "Measure FID against these reals.  [default: the training images]", metavar="SOURCE"
    )
    fid_dims: int | None = option(
        None, "Width of the FID features.  [default: 2048, else 768]", choices=(64, 192, 768, 2048)
    )
    fid_features: str = option(
        "inception", "Another network's features for FID: timm:NAME or torchvision:NAME.", metavar="NETWORK"
    )
    fid_weights: str | None = option(None, "Weights of --fid-features.", metavar="FILE")
    inception_weights: str | None = option(
        None, "InceptionV3 weights for FID.  [default: downloaded once]", metavar="FILE"
    )
    seed: int = SEED()
    precision: str = option(
        "auto", "Number format of the four highest resolutions.", choices=("auto", "fp32", "bf16", "fp16")
    )
    workers: int = WORKERS(default=2, help="Image decoding threads.", low=0)
    threads: int | None = THREADS()
    device: str = DEVICE()
    checkpoint_minutes: float = CHECKPOINT_MINUTES()
    trunk_grad_scale: float | None = option(
        None, "How much the verdict shapes the shared trunk.  [default: 0.1; tiny: 0]", metavar="X", low=0, high=1
    )
    verdict_batch: int | None = option(
        None,
        "Its images a step, two or more a micro-batch; 0: it does not learn.  [default: --batch; tiny: half]",
        metavar="N", low=0, high=MAX_BATCH,
    )  # fmt: skip
    verdict_lr: float = option(2e-3, "Its learning rate.", metavar="X", low=0, above=True)
    verdict_weight: float = option(1.0, "Weight of its losses.", metavar="X", low=0)
    verdict_kimg: float | None = option(
        None,
        "Thousands of images it learns alone at the end.  [default: kimg/4, at most 100]",
        metavar="X", low=0, high=MAX_KIMG,
    )  # fmt: skip
    generator_verdict_weight: float = option(0.0, "Above 0 the generator learns to fool it too.", metavar="X", low=0)
    replay_capacity: int = option(
        4000, "Fakes of older generators it is reminded of, as many as 64 MB hold.", metavar="N", low=1
    )
    degradation: str = DEGRADATION(
        help="How real and fake images are degraded for it: none, light, train, pixels, web, hard."
    )
    consistency: float = option(
        0.5,
        "Weight of agreement between an image and its degraded copy; 0: degraded only.",
        metavar="X", low=0,
    )  # fmt: skip
    freezed: int = option(0, "Freeze-D: the discriminator's N outermost layers.", metavar="N", low=0)
    grow_from: str | None = option(
        None,
        "Start at a higher --resolution from this run's networks: a run folder, a checkpoint or latest; its data and"
        " --cfg unless others are given.",
        metavar="RUN",
    )
    start: str | None = None  # what --resume named, where that was a network file: transfer learning
