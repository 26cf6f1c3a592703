#!/usr/bin/env python3
"""Get face sets, look at them, find what gives a class away, repair it, split and pack them.

\b
Examples:
  python prepare_data.py fetch yonsei --from ~/Downloads/archive.zip
  python prepare_data.py inspect flickr140k
  python prepare_data.py audit my_faces/
  python prepare_data.py normalise my_faces/ my_faces_even/
  python prepare_data.py frames FaceForensics++/ ff_faces/ --every 10
  python prepare_data.py split my_faces/ --ratios 80/10/10 --folds 5 --out manifest.csv
  python prepare_data.py pack manifest.csv faces256.zip --resolution 256

SOURCE is a folder, a .zip, a named set (demo, flickr140k, rvf10k, deepfake-and-real, yonsei) or a manifest (.csv, or
.parquet where pyarrow is installed) as `split` writes it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from common import base  # noqa: F401  # isort: skip
import click

from common.cli import SETTINGS, download_bar, importing, next_step, progress_bar, run, typed
from common.errors import one_line
from common.options import flags_of, in_flags, options, refuse
from common.words import counted
from faces import prepare_options as ask
from faces.layout import LABELS
from training.lock import alone_at

if TYPE_CHECKING:
    from faces.audit.leak_gates import AuditResult

BY_HAND = ("metadata", "size", "one image, both labels")  # gates whose failure stops a training
NAMING = ("labels", "split", "data_root")  # options of a source without which its name is not enough
UNALIGNED = "faces are only looked for with `align` ffhq; give that too"
TOLD = 10  # bad files that are named on the screen


@contextlib.contextmanager
def _stages(unit: str) -> Iterator[Callable[[str, int, int], None]]:
    """Progress bars as a function of (stage, done, total), a new one for each stage, at its first call."""
    bars: dict[str, Callable[..., None]] = {}
    with contextlib.ExitStack() as opened:

        def report(stage: str, done: int, total: int) -> None:
            if stage not in bars:
                bars[stage] = opened.enter_context(progress_bar(stage, unit))
            bars[stage](done, total)

        yield report


def _tell_skipped(skipped: Iterable[tuple[str, str]], where: str = "") -> None:
    """Name bad files and why, the first ten of them."""
    skipped = list(skipped)
    for name, reason in skipped[:TOLD]:
        click.echo(one_line(f"skipped {name}: {reason}"), err=True)
    if len(skipped) > TOLD:
        click.echo(f"… and {len(skipped) - TOLD} more{where}", err=True)


def _tell_notes(notes: Iterable[str]) -> None:
    for note in notes:
        click.echo(one_line(f"note: {_said(note)}"), err=True)


def _alone_at(*files: str | os.PathLike) -> None:
    """No other command writes these files while this one runs."""
    click.get_current_context().with_resource(alone_at(*files))


def _said(text: str) -> str:
    """A library's line for the screen: parameters as the flags of the command that runs."""
    return in_flags(text, flags_of(click.get_current_context().command))


def _opened(part: ask.SourcePart, label: int | None = None, **how: bool):
    """A source; how: of `faces.layout.Reading`."""
    from faces.layout import Reading
    from faces.source import open_source

    reading = Reading(part.labels, **how)
    return open_source(part.source, data_root=part.data_root, split=part.split, label=label, reading=reading)


@click.group(help=__doc__, context_settings=SETTINGS)
def main() -> None:
    pass


# ---- fetch ------------------------------------------------------------------------------------------------------


@main.command()
@options(ask.Fetching, "asked")
def fetch(asked: ask.Fetching) -> None:
    """Bring a named set here and count it: flickr140k, rvf10k, deepfake-and-real or yonsei.

    It is downloaded from Kaggle by kagglehub, which goes on with a broken download. Where that does not work (no
    network, no account), download the archive with a browser and give it with --from: it is checked, then unpacked
    below the data root.
    """
    with importing():
        from faces import fetching

    name, root = asked.name, asked.data_root
    named = fetching.named_set(name)
    if asked.given is None:
        source, apart = fetching.bring(named, root, partial=asked.partial)
    else:
        with progress_bar("unpacking", "img") as report:
            source, apart = fetching.place(named, asked.given, root, partial=asked.partial, progress=report)
    click.echo(f"{'split':7}{'real':>9}{'fake':>9}")
    found = fetching.counts(source)
    for split_name in [s for s in ("train", "valid", "test", "") if any(key[0] == s for key in found)]:
        click.echo(f"{split_name or 'all':7}{found.get((split_name, 0), 0):9}{found.get((split_name, 1), 0):9}")
    for line in apart:
        click.echo(f"differs: {one_line(line)}")
    if not apart:
        click.echo("complete: every split and class has the published number of images")
    click.echo(f"{name} is in {one_line(source.store.locate('').rstrip('/:'))}; give it to any command as {name}")
    next_step(f"python prepare_data.py audit {name}")


# ---- inspect, audit ---------------------------------------------------------------------------------------------


@main.command()
@options(ask.SourcePart, "part")
@options(ask.Inspection, "asked")
def inspect(part: ask.SourcePart, asked: ask.Inspection) -> None:
    """Write one HTML page about a set: counts, formats, sizes, brightness, mean images, spectra, samples, duplicates.

    Works on a folder without labels, too. Pictures are inside the page, so that it can be mailed or kept.
    """
    with importing():
        from pathlib import Path

        from faces.audit.survey import survey_source
        from reports.data import check_page, write_data_report

    opened = _opened(part, ask=False)
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in opened.name)
    path = Path(asked.out or f"inspect-{name}.html")
    if not asked.as_json:
        numbers = check_page(path, force=asked.force)  # told before the work, not after it
        _alone_at(path, numbers)
    with _stages("img") as report:
        survey = survey_source(opened, limit=asked.limit, seed=asked.seed, workers=asked.workers, progress=report)
    survey.notes = [_said(note) for note in survey.notes]
    if asked.as_json:
        click.echo(json.dumps(survey.to_dict(), indent=1, ensure_ascii=True))
        return
    page, numbers = write_data_report(survey, path, force=asked.force)
    _tell_skipped(survey.bad, f": see {numbers}")
    _tell_notes(opened.notes)
    copies = f"{counted(len(survey.exact), 'group')} of copies, {len(survey.near)} of near duplicates"
    seen = f"{counted(len(survey.facts), 'image')}, {len(survey.bad)} unreadable"
    click.echo(one_line(f"{page} and {numbers.name}: {seen}, {copies}"))
    then = f"python prepare_data.py audit {_with_names(part.source, part)}"
    next_step(f"open {typed(page)} in a browser, then {then}")


@main.command()
@options(ask.SourcePart, "part")
@options(ask.Auditing, "asked")
def audit(part: ask.SourcePart, asked: ask.Auditing) -> int:
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
        from faces.layout import Reading
        from faces.source import open_source
        from reports.audit_lines import as_lines

    opened = _opened(part)
    others = [open_source(other, data_root=part.data_root, reading=Reading(ask=False)) for other in asked.against]
    finder = _finder(asked, None if not asked.quick else "`quick` looks at no pixels; leave one of them out")
    with _stages("img") as report:
        how = {name: value for name in NAMING if (value := getattr(part, name)) is not None}
        result = run_gates(opened, asked, spec=part.source, call=how, against=others, finder=finder, progress=report)
    if asked.as_json:
        click.echo(_said(json.dumps(result.to_dict(), indent=1, ensure_ascii=True)))
    else:
        for line in as_lines(result):
            click.echo(_said(line))
        next_step(_after_audit(result, part))
    return int(bool(result.failed or (asked.strict and result.unclear)))


def _with_names(source: str, part: ask.SourcePart | ask.Splitting) -> str:
    """A source as it is typed, with the options that say what its labels are and where it lies."""
    more = {name: typed(value) for name in ("labels", "data_root") if (value := getattr(part, name)) is not None}
    return " ".join((typed(source), *(f"--{name.replace('_', '-')} {value}" for name, value in more.items())))


def _after_audit(result: AuditResult, part: ask.SourcePart) -> str:
    """What to do next: one command where one repairs something."""
    source = _with_names(part.source, part)
    if result.repairs:
        return result.repairs[0]
    if {gate.name for gate in result.failed} & set(BY_HAND):
        return f"mend by hand what is told above, then python prepare_data.py audit {source}"
    if not result.real:
        return "add photos: a folder called real beside that of the fakes"
    if not result.fake:
        return f"python train_gan.py --data {source}; for train_detector.py add fakes, in a folder called fake"
    train = f"python train_detector.py --data {source}"
    if result.failed:
        return f"no command repairs what is left: {train}, compare it with these AUCs, and judge it by other sets"
    return train


def _finder(asked: ask.Auditing | ask.NormaliseRun | ask.Framing, idle: str | None):
    """idle: why no faces are looked for."""
    if idle is not None:
        refuse(asked, ("face_model",), idle)
        return None
    from faces.finding.align import FaceFinder

    with download_bar("YuNet") as report:
        return FaceFinder.open(asked.face_model, not asked.offline, progress=report)


def _call(part: ask.SourcePart) -> dict[str, str | None]:
    """How a source was named, to be found from any folder."""
    given = os.path.expanduser(part.source)
    source = os.path.abspath(given) if os.path.exists(given) else part.source
    return {"source": source, "labels": part.labels, "split": part.split, "data_root": part.data_root}


# ---- normalise --------------------------------------------------------------------------------------------------


@main.command()
@options(ask.SourcePart, "part")
@options(ask.NormaliseRun, "asked")
@options(ask.Normalisation, "recipe", quality="75-95")
def normalise(part: ask.SourcePart, asked: ask.NormaliseRun, recipe: ask.Normalisation) -> None:
    """Write both classes anew into folder DEST: one decoder, alignment, kernel and encoder for all.

    The originals are only read. Started again after an interruption, it makes what is missing. DEST/manifest.csv tells
    the origin of every file.
    """
    with importing():
        from faces.normalise import JOURNAL
        from faces.normalise import normalise as run_it

    opened = _opened(part)
    finder = _finder(asked, UNALIGNED if recipe.align == "none" else None)
    if finder is not None and finder.fallback:
        why = _said(finder.fallback)
        click.echo(f"faces are looked for with OpenCV's Haar cascade, which finds fewer: {why}", err=True)
    with progress_bar("normalising", "img") as step:
        report = run_it(opened, asked.dest, recipe, finder, call=_call(part), workers=asked.workers, progress=step)
    _tell_skipped(report.skipped, f": see {report.dest}/{JOURNAL}")
    _tell_notes(opened.notes)
    for line in report.lines():
        click.echo(line)
    for line in report.warnings():
        click.echo(_said(f"warning: {line}"), err=True)
    click.echo(f"{one_line(report.dest)}: {counted(report.written, 'image')}")
    next_step(f"python prepare_data.py audit {typed(asked.dest)}")


# ---- frames -----------------------------------------------------------------------------------------------------


@main.command()
@options(ask.Framing, "asked")
@options(ask.Normalisation, "recipe", quality="75-95", align="ffhq")
def frames(asked: ask.Framing, recipe: ask.Normalisation) -> None:
    """Cut the faces out of VIDEOS, every N-th frame, as a training set in folder DEST.

    VIDEOS is a folder (labels from its folders' names, or DFDC's metadata.json), or a list of videos with a column
    path. No video is in two splits, nor a swap without its original: train, valid and test are dealt by video. Faces
    are cut and saved as normalise does it. Started again after an interruption, it makes what is missing.
    """
    with importing():
        from faces.frames import make_frames

    finder = _finder(asked, UNALIGNED if recipe.align == "none" else None)
    if finder is not None and finder.fallback:
        click.echo(
            f"faces are looked for with OpenCV's Haar cascade, which finds fewer: {_said(finder.fallback)}", err=True
        )
    with progress_bar("cutting", "video") as step:
        framed = make_frames(asked, recipe, finder, progress=step)
    _tell_skipped(framed.skipped)
    _tell_notes([*framed.notes, *(f"{name}: {why}" for name, why in framed.short[:TOLD])])
    for line in framed.lines():
        click.echo(line)
    click.echo(
        f"{one_line(framed.dest)}: {counted(sum(framed.crops.values()), 'crop')} of"
        f" {counted(sum(framed.videos.values()), 'video')}"
    )
    next_step(f"python train_detector.py --data {typed(asked.dest)}")


# ---- split ------------------------------------------------------------------------------------------------------


@main.command()
@options(ask.Splitting, "asked")
def split(asked: ask.Splitting) -> None:
    """Deal images out to train, valid, test and folds; write a manifest.

    Every class (and source, and generator) comes in the same proportion everywhere, and images that belong together
    (copies, re-saved or mirrored ones) land on one side. Every other command takes the manifest as SOURCE. Folds leave
    the test split alone. A manifest that has hashes already is dealt out again without a look at the files.
    """
    with importing():
        from faces.manifest import check_writable
        from faces.tabulate import deal_out

    check_writable(asked.out, replace=asked.force)
    _alone_at(asked.out)
    with progress_bar("scanning", "file") as report:
        dealt = deal_out(asked, progress=report)
    _tell_skipped((fact.path, fact.error or "") for fact in dealt.bad)
    _tell_notes(dealt.notes)
    for line in dealt.lines:
        click.echo(_said(line))
    click.echo(f"wrote {one_line(asked.out)}")
    next_step(f"python prepare_data.py audit {typed(asked.out)}")


# ---- pack -------------------------------------------------------------------------------------------------------


@main.command()
@options(ask.SourcePart, "part")
@options(ask.Packing, "asked")
def pack(part: ask.SourcePart, asked: ask.Packing) -> None:
    """Write SOURCE as one uncompressed archive for fast training: train_gan.py --data DEST.zip.

    The layout is StyleGAN2-ADA's: square PNG files of one size and a dataset.json. Folders named real and fake, train,
    valid and test carry labels and splits; the numbers in dataset.json are classes for --cond.
    """
    with importing():
        from faces.packing import pack as run_it
        from faces.preprocess import Preprocess

    opened = _opened(part, label=LABELS[asked.only] if asked.only else None, classes=asked.classes == "source")
    how = Preprocess(asked.resolution, asked.crop, asked.resample)
    if os.access(os.path.dirname(asked.dest) or ".", os.W_OK):  # else `pack` says what is wrong
        _alone_at(asked.dest)
    with progress_bar("packing", "img") as step:
        packed = run_it(opened, asked.dest, how, classes=asked.classes, workers=asked.workers, progress=step)
    _tell_skipped(packed.skipped)
    _tell_notes([*opened.notes, *packed.notes])
    classes = counted(packed.classes, "class", "classes") if packed.classes else "no classes"
    parts = [f"{packed.reals} real", f"{packed.fakes} fake", classes]
    parts += [f"{packed.enlarged} enlarged"] if packed.enlarged else []
    parts += [f"{len(packed.skipped)} skipped"] if packed.skipped else []
    click.echo(f"{one_line(packed.dest)}: {', '.join(parts)} at {asked.resolution} px")
    if asked.resolution & (asked.resolution - 1):
        click.echo(f"note: networks of StyleGAN2 want a power of two, which {asked.resolution} is not", err=True)
        fits = 1 << (asked.resolution.bit_length() - 1)  # the power of two below
        next_step(f"pack once more with --resolution {fits}, or train a detector, which takes any size")
    else:
        next_step(f"python train_gan.py --data {typed(packed.dest)} --resolution {asked.resolution}")


if __name__ == "__main__":
    run(main)
