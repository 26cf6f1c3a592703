"""A folder of samples: seeds to files, one sheet of them, a folder for each class."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import UserError
from common.words import are, counted
from stylegan2_ada.generator import Generator
from synth.behind import Behind
from synth.grid import contact_sheet, labelled_grid
from synth.latents import check_rendering
from synth.network import SILENT, Watch, open_generator
from synth.options import FromNetwork, ImageFile, Rendering, SeedOptions
from synth.sample import sample_batches
from synth.writer import SampleSettings, SampleWriter, own_folder, save_sheet

GRID_IMAGES = 100  # at most so many on a contact sheet


def sample_to_folder(
    source: FromNetwork, asked: SeedOptions, file: ImageFile, how: Rendering, watch: Watch = SILENT
) -> list[Path]:
    """Make what is missing of the seeds' images; returns what is worth naming: the sheet, if wished, and the folder."""
    how.check_truncation()
    seeds = asked.wanted()
    net, how = open_generator(source, how, watch, outdir=asked.outdir)
    folder = net.place(asked.outdir, f"psi{how.psi:g}")
    settings = SampleSettings(net.sha256, how, file)
    if asked.class_index == "all":
        return [*_every_class(folder, net.G, settings, asked, watch), folder]
    if asked.class_index is not None:
        settings = _of_class(settings, int(asked.class_index))
    writer = _fill(folder, net.G, settings, seeds, asked.batch, watch)
    if not asked.grid:
        return [folder]
    # from the files, so that those that were there already are on it too
    images = np.stack([_pixels(writer.path(seed)) for seed in seeds[:GRID_IMAGES]])
    return [save_sheet(folder / "grid.png", contact_sheet(images)), folder]


def _of_class(settings: SampleSettings, class_index: int) -> SampleSettings:
    return dataclasses.replace(settings, how=dataclasses.replace(settings.how, class_index=class_index))


def _fill(
    folder: Path, G: Generator, settings: SampleSettings, seeds: list[int], batch: int, watch: Watch
) -> SampleWriter:
    """Make what is missing of `seeds` in `folder`; the writer returned is closed and knows where the files lie."""
    check_rendering(G, settings.how)  # before there is a folder, and before its images are compared
    with own_folder(folder), SampleWriter(folder, settings) as writer:
        todo, done = writer.missing(seeds), 0
        if len(todo) < len(seeds):
            there = len(seeds) - len(todo)
            watch.tell(f"{there} of {counted(len(seeds), 'image')} {are(there)} there already")
        batches = sample_batches(G, todo, settings.how, batch=batch)
        began = time.monotonic()
        with Behind(writer.write) as later:
            for names, images in batches:
                later(names, images)
                done += len(names)
                watch.progress(done, len(todo))
        seconds = time.monotonic() - began
        if todo:
            watch.tell(f"{counted(len(todo), 'image')} in {seconds:.1f} s ({len(todo) / seconds:.1f} images/s)")
    return writer


def _every_class(folder: Path, G: Generator, settings: SampleSettings, asked: SeedOptions, watch: Watch) -> list[Path]:
    """A folder of samples for each class and, if wished, one sheet: a row for each seed, a column for each class."""
    classes, seeds = G.cfg.c_dim, asked.wanted()
    if classes == 0:
        raise UserError("`class_index` all: this generator knows no classes: leave `class_index` out")
    shown = seeds[: max(1, GRID_IMAGES // classes)]
    columns = []
    for k in range(classes):
        watch.tell(f"class {k} of 0 to {classes - 1}")
        writer = _fill(folder / f"class{k:03d}", G, _of_class(settings, k), seeds, asked.batch, watch)
        if asked.grid:
            columns.append([_pixels(writer.path(seed)) for seed in shown])
    if not asked.grid:
        return []
    rows = [list(row) for row in zip(*columns)]
    sheet = labelled_grid(rows, [str(s) for s in shown], [str(k) for k in range(classes)], corner="class")
    return [save_sheet(folder / "grid.png", sheet)]


def _pixels(path: Path) -> np.ndarray:
    """An image file as uint8 [C, H, W]."""
    return np.atleast_3d(np.asarray(Image.open(path))).transpose(2, 0, 1)
