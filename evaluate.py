#!/usr/bin/env python3
"""How good a generator is (FID and its relatives), and how good a detector is.

\b
Examples:
  python evaluate.py generator runs/00003-faces-256 --data flickr140k --metrics fid,kid,pr
  python evaluate.py generator samples/faces --data my_faces/ --num 5000 --json fid.json
  python evaluate.py nearest runs/00003-faces-256 --data flickr140k --out nearest.png
  python evaluate.py detector runs/00003-faces-256 --data flickr140k --data unseen/ --robustness --report out.html
  python evaluate.py detector models/detector.safetensors --data flickr140k --data foreign/utkface --bias
  python evaluate.py detector their_scores.csv --calibrate-on their_valid_scores.csv
  python evaluate.py ensemble runs/a runs/b runs/c --method weighted --data flickr140k --out all.safetensors
  python evaluate.py second-look all.safetensors --data flickr140k --out twice.safetensors
  python evaluate.py compare --models runs/a runs/b all.safetensors --data flickr140k --out compared/
  python evaluate.py explain models/detector.safetensors --data flickr140k --split valid --out explained/
  python evaluate.py study --plan docs/study/plan.toml --out runs/study
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import base  # noqa: F401  # isort: skip
import click

from common.cli import SETTINGS, download_bar, importing, next_step, progress, run, typed
from common.errors import UserError, one_line
from common.files import write_json
from common.options import flags_of, in_flags, options
from common.outputs import check_folder, check_output, plain
from evaluation.listener import Listener
from evaluation.options import (
    ComparisonOptions,
    DetectorOptions,
    EnsembleOptions,
    ExplainingOptions,
    GeneratorOptions,
    NearestOptions,
    SecondLookOptions,
    StudyOptions,
    is_table,
)
from training.lock import alone_at, alone_in

if TYPE_CHECKING:
    from evaluation.detector_result import DetectorResult

COMPARED = ("compare.html", "compare.md", "compare.csv", "compare.json")


@click.group(help=__doc__, context_settings=SETTINGS)
def main() -> None:
    pass


def _as_flags(text: str) -> str:
    return in_flags(text, flags_of(click.get_current_context().command))


def _tell(*lines: str, err: bool = False) -> None:
    for line in lines:
        click.echo(one_line(_as_flags(line)), err=err)


LISTENER = Listener(tell=_tell, warn=lambda line: _tell(line, err=True), bar=progress, download=download_bar)


def _check_files(asked: Any, *names: str) -> None:
    """What can't be written is refused before the work, not after it; while the command runs, no other writes it."""
    given = {name: path for name in names if (path := getattr(asked, name)) is not None}
    seen: dict[str, str] = {}
    for name, path in given.items():
        check_output(f"`{name}`", path, force=asked.force)
        if seen.setdefault(os.path.realpath(path), name) != name:
            raise UserError(f"`{seen[os.path.realpath(path)]}` and `{name}` would both write {path}; give another name")
    if os.environ.get("RANK", "0") == "0":  # under torchrun it writes for all
        click.get_current_context().with_resource(alone_at(*given.values()))
        for name, path in given.items():  # another may have made it in between
            check_output(f"`{name}`", path, force=asked.force)


def _look_at(page: str | None, otherwise: str) -> str:
    """What to do next: open the page that was written, or have one written."""
    return otherwise if page is None else f"open {typed(page)} in a browser"


def _write_json(path: str | None, document: dict) -> None:
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_json(Path(path), plain(document), indent=2)
        _tell(f"{path} written")


@main.command()
@options(GeneratorOptions, "asked")
def generator(asked: GeneratorOptions) -> None:
    """FID, KID, precision and recall, Inception Score, path length of a network or of generated images.

    \b
    NETWORK is a .safetensors, .pkl or .pt file, a URL, a run folder, or latest; FOLDER or ZIP holds generated images;
    an .npz of statistics serves for fid. Under torchrun the images are shared among the processes, with the same
    result.
    """
    with importing():
        from evaluation.generator import evaluate_generator

    _check_files(asked, "json", "report", "save_stats")
    result = evaluate_generator(asked, LISTENER)
    if result is None:  # another process of torchrun's tells it
        return
    from reports.generator import lines_of, write_generator_report

    result.notes = list(map(_as_flags, result.notes))
    _tell(*lines_of(result))
    _write_json(asked.json, result.to_json())
    if asked.report is not None:
        _tell(f"{write_generator_report(asked.report, result)} written")
    next_step(_look_at(asked.report, "--report page.html writes a page with pictures of both sides"))


@main.command()
@options(NearestOptions, "asked")
def nearest(asked: NearestOptions) -> None:
    """A generator's samples beside the training images nearest to them: does it copy?

    \b
    Distances are those of Inception features. The sheet shows the samples that lie nearest to a training image, the
    worst ones, each with its neighbours. The number is Meehan et al.'s (2020): samples against photos that were held
    out, by how near they are to the training images.
    """
    with importing():
        from evaluation.nearest import evaluate_nearest
        from reports.nearest import lines_of, write_sheet

    _check_files(asked, "out", "json")
    result = evaluate_nearest(asked, LISTENER)
    result.notes = list(map(_as_flags, result.notes))
    _tell(*lines_of(result))
    _write_json(asked.json, result.to_json())
    _tell(f"{write_sheet(asked.out, result)} written")
    next_step(f"look at {typed(asked.out)}")


@main.command()
@options(DetectorOptions, "asked")
def detector(asked: DetectorOptions) -> None:
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
        from evaluation.detector_on_images import evaluate_images
        from evaluation.detector_on_table import evaluate_table
        from reports.detector import write_outputs
        from reports.detector_lines import last_lines, lines_of, robustness_line, write_csv

    _check_files(asked, "json", "report", "csv")
    _check_plots(asked)
    result: DetectorResult | None = None

    def found(there: DetectorResult) -> None:
        nonlocal result
        result = there
        result.notes = list(map(_as_flags, result.notes))
        result.rule = dataclasses.replace(result.rule, origin=_as_flags(result.rule.origin))
        _tell(*lines_of(result))

    try:
        if is_table(asked.target):
            found(evaluate_table(asked, LISTENER))
        else:
            evaluate_images(asked, LISTENER, found=found, under=lambda one: _tell(robustness_line(one)))
    finally:  # hours of degradations are not lost to a Ctrl-C
        if result is not None and asked.csv is not None:
            _tell(write_csv(asked.csv, result))
    _tell(*last_lines(result))
    _write_json(asked.json, result.to_json())
    _tell(*write_outputs(asked, result))
    next_step(_look_at(asked.report, "--report page.html writes a page with all figures"))


def _check_plots(asked: DetectorOptions) -> None:
    if asked.plots is None:
        return
    folder = Path(asked.plots)
    if folder.is_dir() and any(folder.glob("*.png")) and not asked.force:
        raise UserError(f"--plots {folder}: holds pictures already: choose another folder, or --force")
    if folder.is_file():
        raise UserError(f"--plots {folder}: is a file: give a folder")
    check_folder("--plots", folder.absolute())
    click.get_current_context().with_resource(alone_in(folder))


def _write_detector(asked: Any, result: Any, lines: list[str]) -> None:
    """The file that was asked for, and what is to be said of it. result: has `detector` and `to_json`."""
    out = Path(asked.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    digest = result.detector.save(out)
    _tell(*lines, f"{out} written ({out.stat().st_size / 1e6:.1f} MB, sha256 {digest[:12]}…)")
    _write_json(asked.json, {"file": str(out), **result.to_json()})
    next_step(f"python detect.py photo.jpg --model {typed(out)}")


@main.command()
@options(EnsembleOptions, "asked")
def ensemble(asked: EnsembleOptions) -> None:
    """Join detectors into one, calibrate it, and say whether it beats the best of them.

    \b
    MODEL is a detector file or a run folder. Methods, the first four of the members' calibrated log-odds:
      average   their mean
      majority  each votes at its own threshold; equal votes are ordered by the mean
      weighted  a weighted mean, fitted on validation images or as --weights says
      stacking  principal components and a support vector machine, fitted on validation images
      soup      one network, its weights the mean of the MODELs': taught alike, from the same beginning
      wise-ft   one network between MODEL and the pretrained weights it began with (--alpha, --backbone-weights):
                often it finds more of what it was not taught on, and a little less of what it was

    What is fitted is cross-fitted for thresholds and figures, and never sees an image that a MODEL was taught with.
    The result is a detector file like any other: detect.py, evaluate.py and `Detector.load` run it.
    """
    with importing():
        from evaluation.ensemble import make_ensemble
        from reports.ensemble_lines import lines_of

    _check_files(asked, "out", "json")
    result = make_ensemble(asked, LISTENER)
    _write_detector(asked, result, lines_of(result))


@main.command()
@options(SecondLookOptions, "asked", but=("resamples",))
def second_look(asked: SecondLookOptions) -> None:
    """Let a detector look again, mirrored, at what its first look leaves near the threshold.

    \b
    There the mean of both answers counts, with less noise than either; elsewhere nothing changes, nor takes longer.
    Where «near» ends and the new thresholds are fitted on the validation images of --data, which the detector was not
    taught with. MODEL is a detector file or a run folder, an ensemble or a single network; OUT is another like it.
    """
    with importing():
        from evaluation.looking_twice import lines_of, look_twice

    _check_files(asked, "out", "json")
    result = look_twice(asked, LISTENER)
    _write_detector(asked, result, lines_of(result))


@main.command()
@options(ExplainingOptions, "asked")
def explain(asked: ExplainingOptions) -> None:
    """How faithful maps of why (detect.py --explain) are to a detector, and what they cost.

    \b
    Deletion: squares are blurred in the order of the map; the score should fall fast (a small area).
    Insertion: they are put back into a blurred photo; it should rise fast (a large area).
    Both against a random order, image by image, with 95 % intervals. And the weights are shuffled, from the last layer
    to all: a map that stays the same tells of the photo and not of the detector (rank correlation).

    OUT gets explain.json, explain.md, explain-light.png and -dark.png, and a sheet of one of the fakes. Stopped and
    started again, it goes on.
    """
    with importing():
        from evaluation.explaining import evaluate_explanations, was_stopped
        from reports.explaining import FILES, lines_of, write_explaining

    out = Path(asked.out)
    check_folder("--out", out.absolute())
    with alone_in(out):
        there = [] if asked.force or was_stopped(out) else [name for name in FILES if (out / name).exists()]
        if there:
            raise UserError(f"--out {out}: holds a {there[0]} already: choose another folder, or --force")
        result = evaluate_explanations(asked, LISTENER)
        _tell(*lines_of(result))
        _tell(f"{out}: {', '.join(write_explaining(out, result))} written")
    if result.favoured:
        next_step(f"python detect.py photo.jpg --model {typed(asked.target)} --explain {result.favoured}")


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
@options(ComparisonOptions, "asked")
def compare(asked: ComparisonOptions) -> None:
    """Several detectors on the same images: one table, figures, and tests of every difference.

    \b
    MODEL is a detector file, a run folder, or a CSV of another program's scores (path,label,score[,verdict]).
    --models A B C and --data X Y take several; without --data all models are CSVs of the same images.

    Images that any of them can't read are left out for all. AUCs are compared by DeLong's test, verdicts at the shipped
    thresholds by McNemar's exact test, both with Holm's correction over all pairs.
    """
    with importing():
        from evaluation.compare import compare as compare_detectors
        from reports.compare import lines_of, write_comparison

    out = Path(asked.out)
    check_folder("--out", out.absolute())
    with alone_in(out):
        if not asked.force and (there := [name for name in COMPARED if (out / name).exists()]):
            raise UserError(f"--out {out}: holds a {there[0]} already: choose another folder, or --force")
        result = compare_detectors(asked, LISTENER)
        result.notes, result.images = (list(map(_as_flags, texts)) for texts in (result.notes, result.images))
        _tell(*lines_of(result))
        write_comparison(out, result)
    _tell(f"{out}: {', '.join(COMPARED)} and plots written")
    next_step(f"open {typed(out / COMPARED[0])} in a browser")


@main.command()
@options(StudyOptions, "asked")
def study(asked: StudyOptions) -> None:
    """Does other training data find more? Arms, endpoint and comparisons by a plan that was written before.

    \b
    The detector is a probe (train_detector.py --model levels:NAME): features of every image are found once and kept,
    and each arm and seed is a logistic regression on some of them. Stopped and started again, it goes on. The plan may
    not change once the fits have begun; the tests are opened when all fits are done, and their scores handed out once,
    in results.json, results.md and results.html: paired bootstrap over images and seeds, Holm's correction.
    """
    with importing():
        from evaluation.study import run_study
        from reports.study import lines_of, write_study

    out = Path(asked.out)
    check_folder("--out", out.absolute())
    with alone_in(out):
        result = run_study(asked, LISTENER)
        result.notes = list(map(_as_flags, result.notes))
        _tell(*lines_of(result))
        written = write_study(out, result)
    _tell(f"{', '.join(map(str, written))} written")


if __name__ == "__main__":
    run(main)
