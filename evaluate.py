#!/usr/bin/env python3
"""How good a generator is (FID and its relatives), and how good a detector is.

\b
Examples:
  python evaluate.py generator runs/00003-faces-256 --data flickr140k --metrics fid,kid,pr
  python evaluate.py generator samples/faces --data my_faces/ --num 5000 --json fid.json
  python evaluate.py detector runs/00003-faces-256 --data flickr140k --data unseen/ --robustness --report out.html
  python evaluate.py detector their_scores.csv --calibrate-on their_valid_scores.csv
  python evaluate.py ensemble runs/a runs/b runs/c --method weighted --data flickr140k --out all.safetensors
  python evaluate.py compare --models runs/a runs/b all.safetensors --data flickr140k --out compared/
"""

from __future__ import annotations

import click

from common.cli import importing, run

SETTINGS = {"show_default": True, "max_content_width": 110, "help_option_names": ["-h", "--help"]}


@click.group(help=__doc__, context_settings=SETTINGS)
def main() -> None:
    pass


# ---- generator --------------------------------------------------------------------------------------------------


@main.command()
@click.argument("target", metavar="NETWORK|FOLDER|ZIP")
@click.option("--data", metavar="SOURCE", help="Real images: folder, zip, manifest, or flickr140k, rvf10k, …")
@click.option("--metrics", default="fid,kid,pr", metavar="NAMES", help="Of fid, kid, pr, is and ppl.")
@click.option("--num", type=click.IntRange(1), default=50000, metavar="N", help="Samples; of a folder at most so many.")
@click.option(
    "--dims",
    type=click.Choice(["64", "192", "768", "2048"]),
    help="Width of the Inception features.  [default: 2048; 768 with a trunk]",
)
@click.option(
    "--resize",
    type=click.Choice(["tf1", "clean", "original", "none"]),
    default="tf1",
    help="To 299 x 299: tf1 as pytorch-fid, clean as clean-fid, original as the graph of 2015 and torch-fidelity.",
)
@click.option("--inception-weights", metavar="FILE", help="InceptionV3 weights.  [default: downloaded once]")
@click.option(
    "--runtime",
    type=click.Choice(["auto", "native", "onnx", "torch"]),
    default="auto",
    help="What computes the features; auto: native on a CPU with AVX2, else onnx. The numbers are the same.",
)
@click.option("--seed", type=click.IntRange(0), default=0, metavar="N", help="Of the samples, and of KID's subsets.")
@click.option("--trunc", type=click.FloatRange(-2, 2), default=1.0, metavar="PSI", help="Truncation; 1 is none.")
@click.option("--noise-mode", type=click.Choice(["random", "const", "none"]), default="random", help="Noise inputs.")
@click.option("--class", "class_index", type=click.IntRange(0), metavar="K", help="Only this class of the network.")
@click.option(
    "--split",
    type=click.Choice(["train", "valid", "test", "all"]),
    help="Of --data.  [default: train where there is one, else all]",
)
@click.option("--data-root", metavar="DIR", help="Where named sets lie.  [default: $FACES_DATA_ROOT, else ./datasets]")
@click.option("--resolution", type=click.IntRange(8, 4096), metavar="N", help="Bring all images to N x N first.")
@click.option("--crop", type=click.Choice(["center", "pad", "none"]), default="center", help="How they become square.")
@click.option(
    "--resize-filter",
    type=click.Choice(["lanczos", "box", "bilinear", "bicubic"]),
    default="lanczos",
    help="How they become N x N, or the network's size.",
)
@click.option("--allow-grey", is_flag=True, help="Grey images among colour ones are no error.")
@click.option("--stats", metavar="FILE.npz", help="Statistics of the reals (pytorch-fid's format), instead of --data.")
@click.option("--save-stats", metavar="FILE.npz", help="Keep those of --data, in pytorch-fid's format.")
@click.option("--cache", metavar="DIR", help="Where features of images are kept.  [default: $FACES_CACHE/features]")
@click.option("--no-cache", is_flag=True, help="Compute everything again, keep nothing.")
@click.option(
    "--ppl-distance",
    default="auto",
    metavar="NAME|FILE",
    help="vgg16, squeezenet, inception, or a weight file; auto: vgg16 where it is here, else inception.",
)
@click.option("--workers", type=click.IntRange(1), default=2, metavar="N", help="Image decoding threads.")
@click.option("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--json", metavar="FILE", help="Write the numbers there, too.")
@click.option("--report", metavar="FILE.html", help="And a page with pictures of both sides.")
@click.option("--force", is_flag=True, help="Replace files that are there already.")
def generator(**options) -> None:
    """FID, KID, precision and recall, Inception Score, path length of a network or of generated images.

    \b
    NETWORK is a .safetensors, .pkl or .pt file, a URL, or a run folder; FOLDER or ZIP holds generated images; an .npz
    of statistics serves for fid. Under torchrun the images are shared among the processes, with the same result.
    """
    with importing():
        from evaluation.generator import Request, evaluate

    options["dims"] = options["dims"] and int(options["dims"])
    evaluate(Request(**options))


# ---- detector ---------------------------------------------------------------------------------------------------


@main.command()
@click.argument("target", metavar="MODEL|SCORES.csv")
@click.option("--data", multiple=True, metavar="SOURCE", help="Images to judge; may be given several times.")
@click.option("--robustness", is_flag=True, help="Judge them again re-saved, resized, blurred … (44 degradations).")
@click.option("--conditions", metavar="LIST", help="Of the 44 only these, such as web,hard; means --robustness, too.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="A quick look: at most N of a class of each --data.")
@click.option("--fpr", type=float, help="The calibrated false-alarm rate whose threshold counts.  [default: shipped]")
@click.option("--threshold", type=float, help="FAKE from this score on, instead of the detector's own threshold.")
@click.option("--unsure-from", type=float, help="UNSURE from this score up to the threshold.")
@click.option("--calibrate-on", metavar="VALID.csv", help="For SCORES.csv: validation scores that set the threshold.")
@click.option("--reals-from", metavar="NAME", help="Pair this source's reals with fakes of sources without reals.")
@click.option("--group-by", metavar="COLUMN", help="Images equal there count as one.  [default: group, identity, …]")
@click.option("--label", type=click.Choice(["real", "fake"]), help="What images are whose source doesn't say it.")
@click.option(
    "--split", type=click.Choice(["train", "valid", "test", "all"]), help="[default: test where there is one, else all]"
)
@click.option("--data-root", metavar="DIR", help="Where named sets lie.  [default: $FACES_DATA_ROOT, else ./datasets]")
@click.option("--resamples", type=click.IntRange(0), default=1000, metavar="N", help="Of the bootstrap.")
@click.option("--seed", type=click.IntRange(0), default=0, metavar="N", help="Of bootstrap and degradations.")
@click.option("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--batch", type=click.IntRange(1), default=32, metavar="N", help="Images judged at once.")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Image decoding threads.  [default: one a core]")
@click.option("--no-cache", is_flag=True, help="Judge everything again, remember nothing.")
@click.option("--csv", metavar="FILE", help="Write every image with its score and verdict; can be judged again.")
@click.option("--json", metavar="FILE", help="Write all numbers.")
@click.option("--report", metavar="FILE.html", help="Write one page with all numbers and figures.")
@click.option("--plots", metavar="FOLDER", help="Write the figures as PNG, light and dark.")
@click.option("--force", is_flag=True, help="Replace files that are there already.")
def detector(**options) -> None:
    """Accuracy, false alarms, calibration and robustness of a detector, with 95 % intervals.

    \b
    MODEL is a detector file or a run folder. Everything is measured at its shipped threshold; what chooses a threshold
    on the test images is labelled an oracle. SCORES.csv holds scores of any other detector, in columns
    path,label,score[,source,generator,degradation,threshold]; without a column threshold (out-of-fold scores of
    train_detector.py --folds have one) it needs --threshold or --calibrate-on.

    A --data and each of its folders is a source; a manifest may name source and generator. A source with only reals
    gives a false-alarm rate, one with only fakes a detection rate, and neither an AUC.
    """
    with importing():
        from evaluation.detector import Request, evaluate

    options["robustness"] |= options["conditions"] is not None

    evaluate(Request(**options))


# ---- ensemble ---------------------------------------------------------------------------------------------------


@main.command()
@click.argument("models", metavar="MODEL MODEL…", nargs=-1)
@click.option(
    "--method",
    type=click.Choice(["average", "majority", "weighted", "stacking"]),
    default="average",
    help="How the members' answers are joined.",
)
@click.option(
    "--data", multiple=True, metavar="SOURCE", help="Its validation split fits and calibrates, its test split tests."
)
@click.option("--oof", multiple=True, metavar="OOF.csv", help="Fit on out-of-fold scores instead; one for each member.")
@click.option("--out", required=True, metavar="FILE.safetensors", help="The ensemble, one detector file.")
@click.option(
    "--split",
    type=click.Choice(["train", "valid", "test", "all"]),
    help="What to fit on.  [default: valid, or what the members' trainings held out]",
)
@click.option("--label", type=click.Choice(["real", "fake"]), help="What images are whose source doesn't say it.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most N images of a class of each --data.")
@click.option("--data-root", metavar="DIR", help="Where named sets lie.  [default: $FACES_DATA_ROOT, else ./datasets]")
@click.option("--resamples", type=click.IntRange(1), default=1000, metavar="N", help="Of the bootstrap.")
@click.option("--seed", type=click.IntRange(0), default=0, metavar="N", help="Of folds, bootstrap and degradations.")
@click.option("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--batch", type=click.IntRange(1), default=32, metavar="N", help="Images judged at once.")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Image decoding threads.  [default: one a core]")
@click.option("--no-cache", is_flag=True, help="Judge everything again, remember nothing.")
@click.option("--json", metavar="FILE", help="Write all numbers.")
@click.option("--force", is_flag=True, help="Replace files that are there already.")
def ensemble(**options) -> None:
    """Join detectors into one, calibrate it, and say whether it beats its best member.

    \b
    MODEL is a detector file or a run folder. Methods, all of the members' calibrated log-odds:
      average   their mean
      majority  each votes at its own threshold; equal votes are ordered by the mean
      weighted  a weighted mean, fitted on validation images
      stacking  principal components and a support vector machine, fitted on validation images

    What is fitted is cross-fitted for thresholds and figures, and never sees an image that a member was taught with.
    The result is a detector file like any other: detect.py, evaluate.py and `Detector.load` run it.
    """
    with importing():
        from evaluation.ensemble import Request, make_ensemble

    make_ensemble(Request(**options))


# ---- compare ----------------------------------------------------------------------------------------------------


class _Lists(click.Command):
    """Takes `--models A B C` as well as `--models A --models B --models C`, and --data alike."""

    def parse_args(self, ctx, args):
        spread, current = [], None
        for word in args:
            if word.startswith("-") and word != "-":
                name, _, value = word.partition("=")
                current = name if name in ("--models", "--data") else None
                if current is None or value:
                    spread.append(word)
            elif current is not None:
                spread += [current, word]
            else:
                spread.append(word)
        return super().parse_args(ctx, spread)


@main.command(cls=_Lists)
@click.option(
    "--models", multiple=True, required=True, metavar="MODEL…", help="Detectors, run folders, CSVs of scores."
)
@click.option("--data", multiple=True, metavar="SOURCE…", help="Images to judge; its test split where there is one.")
@click.option("--out", required=True, metavar="FOLDER", help="Where the tables, the page and the figures go.")
@click.option("--fpr", type=float, help="The calibrated false-alarm rate whose threshold counts.  [default: shipped]")
@click.option(
    "--split", type=click.Choice(["train", "valid", "test", "all"]), help="[default: test where there is one, else all]"
)
@click.option("--label", type=click.Choice(["real", "fake"]), help="What images are whose source doesn't say it.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most N images of a class of each --data.")
@click.option("--group-by", metavar="COLUMN", help="Images equal there count as one.  [default: group, identity, …]")
@click.option("--data-root", metavar="DIR", help="Where named sets lie.  [default: $FACES_DATA_ROOT, else ./datasets]")
@click.option("--resamples", type=click.IntRange(1), default=1000, metavar="N", help="Of the bootstrap.")
@click.option("--seed", type=click.IntRange(0), default=0, metavar="N", help="Of the bootstrap.")
@click.option("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--batch", type=click.IntRange(1), default=32, metavar="N", help="Images judged at once.")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Image decoding threads.  [default: one a core]")
@click.option("--speed/--no-speed", default=True, help="Measure images a second of the networks, by turns.")
@click.option("--no-cache", is_flag=True, help="Judge everything again, remember nothing.")
@click.option("--force", is_flag=True, help="Replace files that are there already.")
def compare(**options) -> None:
    """Several detectors on the same images: one table, figures, and tests of every difference.

    \b
    MODEL is a detector file, a run folder, or a CSV of another program's scores (path,label,score[,verdict]).
    --models A B C and --data X Y take several; without --data all models are CSVs of the same images.

    Images that any of them can't read are left out for all. AUCs are compared by DeLong's test, verdicts at the shipped
    thresholds by McNemar's exact test, both with Holm's correction over all pairs.
    """
    with importing():
        from evaluation.compare import Request, compare

    compare(Request(**options))


if __name__ == "__main__":
    run(main)
