"""A source as one uncompressed zip of PNG files with a dataset.json: the published layout of StyleGAN2-ADA's data.

    00000/img00000000.png        square, all of one size, RGB, stored without compression: reading is one copy
    dataset.json                 {"labels": null} or {"labels": [["00000/img00000000.png", 3], …]}
    manifest.csv                 where each image came from (for people; no reader needs it)

What is real and what is fake, and what is a class, are two things here, and are kept in two places:

- real and fake, and splits, are the names of folders: `real/00000/img00000000.png`, `train/fake/00000/…`. An archive
  without such folders is one of real images. So an archive that was made for another program, whatever its numbers
  mean, is read as real images.
- the numbers of dataset.json are classes for a conditional generator, read by `faces.classes`.

An archive of one label and one split has the published names without folders before them, unless it is one of fakes:
those must not pass for photos.
"""

from __future__ import annotations

import csv
import io
import json
import os
import struct
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common.errors import BadImage, UserError
from common.files import written_whole
from common.parallel import Progress, in_order, told
from common.words import none_of
from faces.classes import ClassLabels
from faces.layout import FAKE, LABEL_NAMES
from faces.prepare_options import CLASSES, LEAST
from faces.preprocess import Preprocess
from faces.sidecars import FILE, read_sidecars
from faces.source import FaceSource

PER_FOLDER = 1000
EPOCH = (1980, 1, 1, 0, 0, 0)  # the same images make the same archive, byte by byte


@dataclass
class Packed:
    """What was packed. reals, fakes: images of each. skipped: (name, reason). enlarged: how many were smaller than
    the resolution. classes: how many classes dataset.json tells, 0 for null. notes: what is to be said of
    them."""

    dest: str
    reals: int = 0
    fakes: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    enlarged: int = 0
    classes: int = 0
    notes: list[str] = field(default_factory=list)


def pack(
    source: FaceSource,
    dest: str | os.PathLike,
    preprocess: Preprocess,
    *,
    classes: str = "auto",
    workers: int | None = None,
    progress: Progress | None = None,
) -> Packed:
    """Write every usable image of `source`, in its order, into the new zip `dest`, which appears when it is whole.

    classes: "source" writes those of the source (its dataset.json, or its folders' names; real images only), "auto"
    does so where the source has a dataset.json with labels, "real-fake" writes 0 and 1, "none" null. Images are
    `preprocess.uint8` of the decoded ones, always RGB: training at that resolution gets the same pixels from the
    archive as from the source.

    Raises UserError where dest exists, where no image is usable, or the disk is full."""
    if classes not in CLASSES:
        raise UserError(f"`classes` must be one of {', '.join(CLASSES)}, not {classes!r}")
    dest = Path(dest)
    if dest.suffix.lower() != ".zip":
        raise UserError(f"{dest}: the archive's name must end in .zip; choose another")
    if os.path.lexists(dest):
        raise UserError(f"{dest} exists and is not overwritten; choose another name or move it away")
    if not dest.parent.is_dir():
        raise UserError(f"{dest}: there is no folder {dest.parent}; make it, or choose another place")
    if preprocess.resolution < LEAST:
        raise UserError(
            f"`resolution` {preprocess.resolution}: such thumbnails are not read again; give at least {LEAST}"
        )
    if preprocess.channels != 3:
        raise UserError("archives hold RGB images")
    source = source.rendered_at(preprocess.resolution)
    if not len(source):
        raise UserError(f"{source.name or 'the source'} holds no images to pack")
    notes: list[str] = []
    numbers = _classes(source, classes, notes)
    try:
        with written_whole(dest, replace=False, shared=True) as temporary:
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
                packed = _fill(archive, source, preprocess, numbers, workers, progress)
    except FileExistsError:
        raise UserError(f"{dest} exists and is not overwritten; choose another name or move it away") from None
    except OSError as error:
        raise UserError(f"{dest}: the archive can't be written ({error.strerror}); choose another place") from None
    packed.dest, packed.notes = str(dest), notes
    return packed


def stored_png(pixels: np.ndarray) -> bytes:
    """uint8 [H, W, 3] RGB as a PNG that is nearly the pixels themselves: neither compressed nor filtered.

    An archive is read thousands of times. Image libraries filter the rows even where they do not compress; to undo that
    takes five times as long as all the rest of reading (0.89 against 0.17 ms at 256 x 256)."""
    height, width, _ = pixels.shape
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # a row's first byte is its filter, 0: none
    rows[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB, not interlaced
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 0)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def _classes(source: FaceSource, classes: str, notes: list[str]) -> np.ndarray | None:
    """The number of each image, -1 for none; None for no numbers at all. notes: gets what is to be said of them."""
    if classes == "none":
        return None
    if classes == "auto" and not read_sidecars(source.store, [item.path for item in source.items]).told:
        return None
    if classes == "real-fake":
        return source.labels
    found = ClassLabels(source, f"`classes` {classes}", "give `classes` none")
    notes += found.notes
    return found.of(source)


def _fill(
    archive: zipfile.ZipFile,
    source: FaceSource,
    preprocess: Preprocess,
    classes: np.ndarray | None,
    workers: int | None,
    progress: Progress | None,
) -> Packed:
    def one(i: int) -> tuple[bytes, bool] | BadImage:
        try:
            image = source.decoded(i, min_side=LEAST).pixels
        except BadImage as error:
            return error
        return stored_png(preprocess.uint8(image)), min(image.shape[:2]) < preprocess.resolution

    labelled = bool((source.labels == FAKE).any())
    split = len({item.split for item in source.items}) > 1
    packed, labels = Packed(""), []
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(("path", "label", "split", "original"))
    number = 0
    for i, result in enumerate(told(in_order(one, len(source), workers), len(source), progress)):
        item = source.items[i]
        if isinstance(result, BadImage):
            packed.skipped.append((result.name, result.reason))
        elif split and not item.split:
            packed.skipped.append((source.locate(i), "in no split, where others are: no reader would take it"))
        else:
            data, enlarged = result
            name = f"{number // PER_FOLDER:05d}/img{number:08d}.png"
            name = f"{LABEL_NAMES[item.label]}/{name}" if labelled else name
            name = f"{item.split}/{name}" if split and item.split else name
            archive.writestr(zipfile.ZipInfo(name, EPOCH), data)
            if classes is not None and classes[i] >= 0:
                labels.append([name, int(classes[i])])
            rows.writerow((name, item.label, item.split or "", item.path))
            packed.enlarged += enlarged
            packed.fakes += item.label == FAKE
            number += 1
    if not number:
        name, reason = packed.skipped[0]
        raise UserError(none_of(len(source), "image", "can be used", f"{name}: {reason}", source.name))
    packed.reals = number - packed.fakes
    packed.classes = len({number for _, number in labels})
    text = json.dumps({"labels": labels if classes is not None else None})
    archive.writestr(zipfile.ZipInfo(FILE, EPOCH), text)
    archive.writestr(zipfile.ZipInfo("manifest.csv", EPOCH), table.getvalue().encode("utf-8", "surrogateescape"))
    return packed
