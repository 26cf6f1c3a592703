#!/usr/bin/env python3
"""Get face sets, look at them, find what gives a class away, repair it, split and pack them.

\b
Examples:
  python prepare_data.py fetch yonsei --from ~/Downloads/archive.zip
  python prepare_data.py inspect flickr140k
  python prepare_data.py audit my_faces/
  python prepare_data.py normalise my_faces/ my_faces_even/
  python prepare_data.py split my_faces/ --ratios 80/10/10 --folds 5 --out manifest.csv
  python prepare_data.py pack manifest.csv faces256.zip --resolution 256

SOURCE is a folder, a .zip, a named set (demo, flickr140k, rvf10k, deepfake-and-real, yonsei) or a manifest (.csv, or
.parquet where pyarrow is installed) as `split` writes it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator

import click

from common.cli import importing, progress, run
from common.errors import one_line

SETTINGS = {"show_default": True, "max_content_width": 110, "help_option_names": ["-h", "--help"]}
DATA_ROOT = click.option(
    "--data-root", metavar="DIR", help="Where named sets lie.  [default: $FACES_DATA_ROOT, else ./datasets]"
)
TOLD = 10  # bad files that are named on the screen


@contextlib.contextmanager
def _stages(unit: str) -> Iterator[Callable[[str, int, int], None]]:
    """Progress bars as a function of (stage, done, total), a new one for each stage, at its first call."""
    bars: dict = {}

    def report(stage: str, done: int, total: int) -> None:
        if stage not in bars:
            for bar in bars.values():
                bar.close()
            bars[stage] = progress(total=total, title=stage, unit=unit)
        bars[stage].update(done - bars[stage].n)

    try:
        yield report
    finally:
        for bar in bars.values():
            bar.close()


@contextlib.contextmanager
def _one_stage(title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar as a function of (done, total)."""
    with _stages(unit) as report:
        yield lambda done, total: report(title, done, total)


def _tell_skipped(skipped: Iterable[tuple[str, str]], where: str = "") -> None:
    """Name bad files and why, the first ten of them."""
    skipped = list(skipped)
    for name, reason in skipped[:TOLD]:
        click.echo(one_line(f"skipped {name}: {reason}"), err=True)
    if len(skipped) > TOLD:
        click.echo(f"… and {len(skipped) - TOLD} more{where}", err=True)


def _tell_notes(notes: Iterable[str]) -> None:
    for note in notes:
        click.echo(one_line(f"note: {note}"), err=True)


@click.group(help=__doc__, context_settings=SETTINGS)
def main() -> None:
    pass


# ---- fetch ------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("name", metavar="NAME")
@click.option("--from", "given", metavar="FILE|FOLDER", help="The archive you downloaded, or where you unpacked it.")
@click.option("--partial", is_flag=True, help="Accept a set that has not the published number of images.")
@DATA_ROOT
def fetch(name: str, given: str | None, partial: bool, data_root: str | None) -> None:
    """Bring a named set here and count it: flickr140k, rvf10k, deepfake-and-real or yonsei.

    It is downloaded from Kaggle by kagglehub, which goes on with a broken download. Where that does not work (no
    network, no account), download the archive with a browser and give it with --from: it is checked, then unpacked
    below the data root.
    """
    with importing():
        from faces import fetching

    named = fetching.named_set(name)
    if given is None:
        source, apart = fetching.bring(named, data_root, partial=partial)
    else:
        with _one_stage("unpacking", "img") as report:
            source, apart = fetching.place(named, given, data_root, partial=partial, progress=report)
    click.echo(f"{'split':7}{'real':>9}{'fake':>9}")
    found = fetching.counts(source)
    for split_name in [s for s in ("train", "valid", "test", "") if any(key[0] == s for key in found)]:
        click.echo(f"{split_name or 'all':7}{found.get((split_name, 0), 0):9}{found.get((split_name, 1), 0):9}")
    for line in apart:
        click.echo(f"differs: {one_line(line)}")
    if not apart:
        click.echo("complete: every split and class has the published number of images")
    click.echo(f"{name} is in {one_line(source.store.locate('').rstrip('/:'))}; give it to any command as {name}")


# ---- inspect, audit ---------------------------------------------------------------------------------------------


@main.command()
@click.argument("source", metavar="SOURCE")
@DATA_ROOT
@click.option("--out", metavar="FILE.html", help="The page; a .json of the same name goes beside it.  [default: "
              "inspect-NAME.html in the working folder]")  # fmt: skip
@click.option("--split", type=click.Choice(["train", "valid", "test"]), help="Only one split of the source.")
@click.option("--limit", type=click.IntRange(1), default=4000, metavar="N", help="Images whose pixels are looked at.")
@click.option("--json", "as_json", is_flag=True, help="Only the JSON, on stdout; no file is written.")
@click.option("--force", is_flag=True, help="Replace a report that is there already.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of the draw of images.")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Readers.  [default: one per core]")
def inspect(source, data_root, out, split, limit, as_json, force, seed, workers) -> None:
    """Write one HTML page about a set: counts, formats, sizes, brightness, mean images, spectra, samples, duplicates.

    Works on a folder without labels, too. Pictures are inside the page, so that it can be mailed or kept.
    """
    with importing():
        from pathlib import Path

        from common.errors import UserError
        from faces.audit.survey import survey_source
        from faces.source import open_source
        from reports.data import write_data_report

    opened = open_source(source, data_root=data_root, split=split)
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in opened.name)
    path = Path(out or f"inspect-{name}.html")
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {out}: the page's name must end in .html; choose another")
    if not as_json and path.exists() and not force:  # told before the work, not after it
        raise UserError(f"{path} exists and is not overwritten; give another --out, or --force")
    with _stages("img") as report:
        survey = survey_source(opened, limit=limit, seed=seed, workers=workers, progress=report)
    if as_json:
        click.echo(json.dumps(survey.to_dict(), indent=1, ensure_ascii=True))
        return
    page, numbers = write_data_report(survey, path, force=force)
    _tell_skipped(survey.bad, f": see {numbers}")
    click.echo(one_line(f"{page} and {numbers.name}: {len(survey.facts)} images, {len(survey.bad)} unreadable, "
                        f"{len(survey.exact)} groups of copies, {len(survey.near)} of near duplicates"))  # fmt: skip


@main.command()
@click.argument("source", metavar="SOURCE")
@DATA_ROOT
@click.option("--against", multiple=True, metavar="OTHER", help="A set that may share no picture with it; repeatable.")
@click.option("--split", type=click.Choice(["train", "valid", "test"]), help="Only one split of the source.")
@click.option("--quick", is_flag=True, help="Only the gates that need no decoding: header, size, copies.")
@click.option("--limit", type=click.IntRange(1), default=8000, metavar="N", help="Images shown to the classifiers.")
@click.option("--face-model", metavar="PATH", help="YuNet's ONNX file.  [default: fetched once into a cache]")
@click.option("--offline", is_flag=True, help="Download nothing: without YuNet's file, landmarks are not looked at.")
@click.option("--strict", is_flag=True, help="«unclear» counts as a failure in the exit code.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout instead of the table.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of the draw of images and of the shuffled labels.")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Readers.  [default: one per core]")
def audit(
    source, data_root, against, split, quick, limit, face_model, offline, strict, as_json, seed, workers
) -> int:  # fmt: skip
    """Look for leaks: does anything but the face tell real from fake?

    Classifiers that see only the file's header, only the size, only the 8x8 grid, only the spectrum, only the place of
    the eyes, only the mean colour or only a thumbnail must stay at a cross-validated AUC of .55 or less; no picture may
    be in two splits; shuffled labels must give .5. Every failure is told with what it means and what repairs it.

    \b
    Exit code  0  no gate fails («unclear»: too few images to tell; see --strict)
               1  a gate fails
               2  bad input
    """
    with importing():
        from faces.audit.leak_gates import run_gates
        from faces.source import open_source
        from reports.audit_lines import as_lines

    opened = open_source(source, data_root=data_root, split=split)
    others = [open_source(other, data_root=data_root) for other in against]
    finder, why = (None, "not in --quick") if quick else _finder(face_model, offline)
    with _stages("img") as report:
        result = run_gates(
            opened, spec=source, against=others, cheap_only=quick, limit=limit, finder=finder, no_finder=why,
            workers=workers, seed=seed, progress=report,
        )  # fmt: skip
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=1, ensure_ascii=True))
    else:
        for line in as_lines(result):
            click.echo(line)
    return int(bool(result.failed or (strict and result.unclear)))


def _finder(face_model: str | None, offline: bool):
    """(YuNet, "") or (None, why there is none)."""
    from common.cli import download_bar
    from faces.finding.align import FaceFinder

    with download_bar("YuNet") as report:
        finder = FaceFinder.open(face_model, not offline, progress=report)
    return (finder, "") if finder.model is not None else (None, f"no landmarks without YuNet: {finder.fallback}")


# ---- normalise --------------------------------------------------------------------------------------------------


def _two(text: str, option: str) -> tuple[int, int]:
    low, dash, high = text.partition("-")
    if not low.strip().isdecimal() or (dash and not high.strip().isdecimal()):
        raise click.BadParameter(
            f"{text!r} is neither a number nor two with a dash between, like 75-95", param_hint=option
        )
    return int(low), int(high if dash else low)


@main.command()
@click.argument("source", metavar="SOURCE")
@click.argument("dest", metavar="DEST", type=click.Path(file_okay=False))
@DATA_ROOT
@click.option("--resolution", type=click.IntRange(8, 8192), default=256, help="Side of every result, in pixels.")
@click.option("--align", type=click.Choice(["none", "ffhq"]), default="none", help="ffhq: cut the biggest face out.")
@click.option("--crop", type=click.Choice(["center", "none", "pad"]), default="center", help="How an unaligned picture"
              " becomes a square: its middle, all of it squeezed, or with grey bars.")  # fmt: skip
@click.option("--resample", type=click.Choice(["lanczos", "box", "bilinear", "bicubic"]), default="lanczos",
              help="The one resize kernel.")  # fmt: skip
@click.option("--through", type=click.IntRange(0, 8192), default=0, metavar="PX", help="Reduce all pictures to this"
              " common size first, smaller ones are skipped; 0: don't.")  # fmt: skip
@click.option("--min-side", type=click.IntRange(1), default=16, metavar="PX", help="Skip pictures (with --align: faces)"
              " of fewer pixels a side.")  # fmt: skip
@click.option("--no-face", type=click.Choice(["skip", "keep"]), default="skip", help="With --align: what to do with a"
              " picture in which no face is found.")  # fmt: skip
@click.option("--format", "form", type=click.Choice(["jpeg", "png"]), default="jpeg", help="The one encoder.")
@click.option(
    "--quality", default="75-95", metavar="LOW-HIGH", help="JPEG quality, drawn for each image by its content."
)
@click.option("--chroma", type=click.Choice(["420", "444"]), default="420", help="JPEG's chroma subsampling.")
@click.option("--seed", type=int, default=0, help="Of the draw of qualities.")
@click.option("--split", type=click.Choice(["train", "valid", "test"]), help="Only one split of the source.")
@click.option("--face-model", metavar="PATH", help="YuNet's ONNX file.  [default: fetched once into a cache]")
@click.option("--offline", is_flag=True, help="Download nothing: without YuNet's file, OpenCV's Haar cascade.")
@click.option("--workers", type=click.IntRange(1), help="Threads.  [default: one per core]")
def normalise(
    source, dest, data_root, resolution, align, crop, resample, through, min_side, no_face, form, quality, chroma, seed,
    split, face_model, offline, workers,
) -> None:  # fmt: skip
    """Write both classes anew into folder DEST: one decoder, alignment, kernel and encoder for all.

    The originals are only read. Started again after an interruption, it makes what is missing. DEST/manifest.csv tells
    the origin of every file.
    """
    with importing():
        from common.cli import download_bar
        from faces.finding.align import FaceFinder
        from faces.naming import LABEL_NAMES
        from faces.normalise import JOURNAL, Recipe
        from faces.normalise import normalise as run_it
        from faces.source import open_source

    recipe = Recipe(
        resolution, align, crop, resample, through, min_side, no_face, form, _two(quality, "--quality"), chroma, seed
    )
    opened = open_source(source, data_root=data_root, split=split)
    finder = None
    if align != "none":
        with download_bar("YuNet") as report:
            finder = FaceFinder.open(face_model, not offline, progress=report)
        if finder.fallback:
            click.echo(
                f"faces are looked for with OpenCV's Haar cascade, which finds fewer: {finder.fallback}", err=True
            )
    with _one_stage("normalising", "img") as step:
        report = run_it(opened, dest, recipe, finder, workers=workers, progress=step)
    _tell_skipped(report.skipped, f": see {report.dest}/{JOURNAL}")
    _tell_notes(opened.notes)
    for label, tally in sorted(report.classes.items()):
        parts = [f"{tally.written} written"]
        parts += [f"{tally.enlarged} enlarged"] if tally.enlarged else []
        parts += [f"{tally.several} with several faces (the biggest was cut out)"] if tally.several else []
        parts += [f"{tally.whole} without a face (kept whole)"] if tally.whole else []
        parts += [f"{count} skipped ({kind})" for kind, count in sorted(tally.skipped.items())]
        click.echo(f"{LABEL_NAMES[label]}: {', '.join(parts)}")
    if report.detector:
        click.echo(f"face detector: {report.detector}")
    if report.reused:
        click.echo(f"{report.reused} were there from an earlier run")
    if report.left_over:
        click.echo(f"note: {report.left_over} files in {report.dest} are of images that the source no longer has")
    for line in report.warnings():
        click.echo(f"warning: {line}", err=True)
    click.echo(f"{report.dest}: {report.written} images; next: python prepare_data.py audit {dest}")


# ---- split ------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("source", metavar="SOURCE")
@click.option("--out", metavar="FILE", default="manifest.csv", help="The manifest: .csv, or .parquet with pyarrow.")
@click.option("--ratios", metavar="A/B/C", default="80/10/10", help="Shares of train, valid and test.")
@click.option("--folds", metavar="K", type=click.IntRange(0, 1000), default=0, help="Also K folds of train and valid.")
@click.option(
    "--group-by",
    type=click.Choice(["near-duplicate", "identity", "none"]),
    default="near-duplicate",
    help="What must stay together. Identity: by the manifest's column «identity», or --identity.",
)
@click.option("--identity", metavar="REGEX", help="Captures who is seen from the path, like '(id[0-9]+)_'.")
@click.option(
    "--max-distance",
    metavar="BITS",
    type=click.IntRange(0, 12),
    help="Near-duplicates: hashes differ in at most so many of 64 bits.  [default: 4; composites by identity 7]",
)
@click.option("--keep-splits", is_flag=True, help="Images that have a split keep it; only the others are dealt out.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Another number, another split.")
@click.option("--rescan", is_flag=True, help="Look at the files of a manifest again, though it has their hashes.")
@click.option("--force", is_flag=True, help="Replace a manifest that is there already.")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Processes that read.  [default: all cores]")
@DATA_ROOT
def split(
    source, out, ratios, folds, group_by, identity, max_distance, keep_splits, seed, rescan, force, workers, data_root
) -> None:  # fmt: skip
    """Deal images out to train, valid, test and folds; write a manifest.

    Every class (and source, and generator) comes in the same proportion everywhere, and images that belong together
    (copies, re-saved or mirrored ones) land on one side. Every other command takes the manifest as SOURCE. Folds leave
    the test split alone. A manifest that has hashes already is dealt out again without a look at the files.
    """
    with importing():
        from faces import splitting
        from faces.manifest import check_writable, relative_to, write_manifest
        from faces.tabulate import table_for

    check_writable(out, replace=force)
    shares = splitting.parse_ratios(ratios)
    with _one_stage("scanning", "file") as report:
        table, bad, notes = table_for(source, data_root=data_root, rescan=rescan, workers=workers, progress=report)
    _tell_skipped((fact.path, fact.error) for fact in bad)
    _tell_notes(notes)
    groups = splitting.groups_of(table, group_by, identity=identity, max_distance=max_distance)
    before = table["split"]
    parts, fold = splitting.split(table, shares, folds, groups=groups, seed=seed, keep_splits=keep_splits)
    table = table.having(split=parts, fold=fold)
    write_manifest(out, relative_to(os.path.dirname(out) or ".", table), replace=force)
    for line in splitting.describe(table, groups, group_by, before=before, kept=keep_splits, ratios=shares):
        click.echo(line)
    click.echo(f"wrote {one_line(out)}")


# ---- pack -------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("source", metavar="SOURCE")
@click.argument("dest", metavar="DEST.zip", type=click.Path(dir_okay=False))
@DATA_ROOT
@click.option("--resolution", type=click.IntRange(16, 8192), required=True, help="Side of every image, in pixels.")
@click.option("--crop", type=click.Choice(["center", "none", "pad"]), default="center", help="How a picture becomes a"
              " square: its middle, all of it squeezed, or with grey bars.")  # fmt: skip
@click.option("--resample", type=click.Choice(["lanczos", "box", "bilinear", "bicubic"]), default="lanczos",
              help="The resize kernel.")  # fmt: skip
@click.option("--labels", type=click.Choice(["auto", "none", "classes", "real-fake"]), default="auto",
              help="In dataset.json: classes (auto: if the source has a dataset.json), or real 0, fake 1.")  # fmt: skip
@click.option("--split", type=click.Choice(["train", "valid", "test"]), help="Only one split of the source.")
@click.option("--only", type=click.Choice(["real", "fake"]), help="Only one label.")
@click.option("--workers", type=click.IntRange(1), help="Threads.  [default: one per core]")
def pack(source, dest, data_root, resolution, crop, resample, labels, split, only, workers) -> None:
    """Write SOURCE as one uncompressed archive for fast training: train_gan.py --data DEST.zip.

    The layout is StyleGAN2-ADA's: square PNG files of one size and a dataset.json. Folders named real and fake, train,
    valid and test carry labels and splits; the numbers in dataset.json are classes for --cond.
    """
    with importing():
        from faces.packing import pack as run_it
        from faces.preprocess import Preprocess
        from faces.source import open_source

    opened = open_source(source, data_root=data_root, split=split, label={"real": 0, "fake": 1}.get(only))
    with _one_stage("packing", "img") as step:
        packed = run_it(
            opened, dest, Preprocess(resolution, crop, resample), labels=labels, workers=workers, progress=step
        )
    _tell_skipped(packed.skipped)
    _tell_notes(opened.notes)
    parts = [f"{packed.reals} real", f"{packed.fakes} fake", f"{packed.classes or 'no'} classes"]
    parts += [f"{packed.enlarged} enlarged"] if packed.enlarged else []
    parts += [f"{len(packed.skipped)} skipped"] if packed.skipped else []
    click.echo(f"{packed.dest}: {', '.join(parts)} at {resolution} px")
    if resolution & (resolution - 1):
        click.echo(f"note: networks of StyleGAN2 want a power of two, which {resolution} is not", err=True)


if __name__ == "__main__":
    # like Ctrl-C, an order to end lets half-written files be taken away and worker processes end
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    run(main)
