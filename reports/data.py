"""The page that `prepare_data.py inspect` writes about a set of faces, and the JSON beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from common.errors import UserError, one_line
from common.files import write_text
from common.outputs import check_folder
from common.words import counted
from faces.audit.survey import Survey
from reports import data_plots as plots
from reports.page import Number, Picture, Section, themed, write_report
from reports.plots import both, sheet_of_photos

LISTED = 60  # names on the page; the JSON has all
FIELDS = (
    ("format", "Format"), ("size", "Size"), ("quality", "JPEG quality"), ("tables", "JPEG tables"),
    ("subsampling", "Chroma subsampling"), ("mode", "Colour mode"),
)  # fmt: skip


def write_data_report(survey: Survey, path: Path, *, force: bool = False) -> tuple[Path, Path]:
    """Write the page to `path` (.html) and the numbers beside it (.json); returns both.

    Raises UserError where one of them is there already, unless `force`."""
    numbers = check_page(path, force=force)
    write_text(numbers, json.dumps(survey.to_dict(), indent=1, ensure_ascii=True))
    subtitle = f"{counted(len(survey.facts), 'image')}: {', '.join(f'{g.count} {g.name}' for g in survey.groups)}"
    title = f"Data: {one_line(survey.name)}"
    return write_report(path, title=title, sections=sections(survey), subtitle=subtitle), numbers


def check_page(path: Path, *, force: bool = False) -> Path:
    """Where the page's numbers go. Raises UserError where `write_data_report` would not write: before the work."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"`out` {path}: the page's name must end in .html; choose another")
    numbers = path.with_suffix(".json")
    for file in (path, numbers):
        if file.exists() and not force:
            raise UserError(f"{file} exists and is not overwritten; give another `out`, or `force`")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}; make it, or choose another `out`")
    check_folder(f"`out` {path}", path.absolute().parent)
    return numbers


def sections(survey: Survey) -> list[Section]:
    """The page's parts."""
    parts = (_overview, _files, _light, _means, _spectra, _samples, _duplicates, _unreadable)
    return [part(survey) for part in parts]


def _overview(survey: Survey) -> Section:
    names = [g.name for g in survey.groups]
    rows: list[list[object]] = [["split", *names]]
    rows += [[split, *(row.get(name, 0) for name in names)] for split, row in survey.splits().items()]
    one_class = len(survey.groups) == 1
    numbers = [
        *(Number(f"{g.count}", f"{g.name} images", f"pixels of {g.looked_at} looked at") for g in survey.groups),
        Number(str(len(survey.bad)), "unreadable files", "left out of everything below"),
        Number(str(sum(len(group) - 1 for group in survey.exact)), "exact copies", "beyond the first of each"),
        Number(str(len(survey.near)), "groups of near duplicates", "by perceptual hash, mirrored ones too"),
    ]
    notes = [one_line(note) for note in survey.notes]
    if one_class:
        notes.append("There is one class only, so nothing is compared. Labels come from folders called real and fake.")
    text = ["What is in the set, and where its classes differ. Whether a difference gives the class away is what "
            "`prepare_data.py audit` measures."]  # fmt: skip
    return Section("Overview", text, numbers, rows, head=True, notes=notes)


def _files(survey: Survey) -> Section:
    tables = {title: survey.table(name) for name, title in FIELDS}
    plain = {title: table for title, table in tables.items() if len(table) <= 1}
    rows = [[title, next(iter(table), "none")] for title, table in plain.items()]
    pictures = []
    for title, table in tables.items():
        if len(table) > 1:
            pictures.append(themed(both(plots.counts, table, title), alt=f"{title} by class: {_words(table)}"))
    text = ["What is the same for all images stands in the table."] if rows else []
    return Section("Files", text, rows=rows, pictures=pictures, columns=2)


def _words(table: Mapping[str, Mapping[str, int]]) -> str:
    parts = (f"{value}: {', '.join(f'{n} {name}' for name, n in row.items())}" for value, row in table.items())
    return "; ".join([*parts][:12])


def _light(survey: Survey) -> Section:
    spreads, channels = (both(draw, survey.groups) for draw in (plots.spreads, plots.channel_histograms))
    pictures = [
        themed(spreads, alt="Histograms of brightness, contrast and sharpness by class"),
        themed(channels, alt="Histograms of red, green and blue levels by class"),
    ]
    return Section("Light, colour and sharpness", pictures=pictures)


def _means(survey: Survey) -> Section:
    mean = themed(both(plots.mean_images, survey.groups), alt="Mean image of each class")
    text = ["Faces that were aligned alike leave a sharp mean face; a class whose mean is sharper was aligned more "
            "strictly, or is less varied."]  # fmt: skip
    return Section("Mean image", text, pictures=[mean])


def _spectra(survey: Survey) -> Section:
    captions = (
        (plots.radial_spectra, "Lines: mean; bands: the middle half of the images; at the difference: 95 % interval."),
        (plots.spectrum_pictures, "Bright dots away from the middle are periodic patterns: a generator's upsampling, or"
                                  " the 8 x 8 grid of JPEG."),
    )  # fmt: skip
    pictures = [themed(both(draw, survey.groups), said, "Average spectrum of each class") for draw, said in captions]
    text = ["How much detail of which fineness there is. Classes that were scaled by different kernels, or compressed "
            "differently, part at the right end."]  # fmt: skip
    return Section("Spectrum", text, pictures=pictures)


def _samples(survey: Survey) -> Section:
    pictures = [
        Picture(sheet_of_photos(g.samples, 8), f"{g.name}, spread evenly over the set", alt=f"samples: {g.name}")
        for g in survey.groups
        if len(g.samples)
    ]
    return Section("Samples", pictures=pictures, columns=len(pictures) or 1)


def _duplicates(survey: Survey) -> Section:
    pictures = [
        Picture(plots.side_by_side(a, b), f"{one_line(first)}  |  {one_line(second)}", alt="a pair of duplicates")
        for first, second, a, b in survey.near_pictures
    ]
    listed = [("copy", group) for group in survey.exact] + [("near", group) for group in survey.near]
    rows = [["kind", "images"], *([kind, ", ".join(map(one_line, group[:6]))] for kind, group in listed[:LISTED])]
    text = ["Copies have the same bytes; near duplicates almost the same perceptual hash, or that of the mirror image."]
    if not listed:
        return Section("Duplicates", ["No copies and no near duplicates."])
    more = [f"{len(listed) - LISTED} more groups are in the JSON file."] if len(listed) > LISTED else []
    return Section("Duplicates", text, rows=rows, head=True, pictures=pictures, columns=3, notes=more)


def _unreadable(survey: Survey) -> Section:
    if not survey.bad:
        return Section("Unreadable files", ["None."])
    rows = [["file", "why"], *([one_line(name), reason] for name, reason in survey.bad[:LISTED])]
    more = [f"{len(survey.bad) - LISTED} more are in the JSON file."] if len(survey.bad) > LISTED else []
    return Section("Unreadable files", rows=rows, head=True, notes=more)
