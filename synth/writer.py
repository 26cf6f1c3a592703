"""Samples on disk: one file per seed and a manifest that says how each was made; safe to kill and to start again.

An image is written under a temporary name and renamed, so a file that has its name is whole. A line enters the
manifest only after its image. Whatever a kill leaves behind (an image without its line, half a last line) is simply
made again by the next call.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import UserError
from common.files import disk_errors_of, write_bytes
from synth.latents import PLAIN
from synth.options import ImageFile, Rendering
from training.lock import RunLock

MANIFEST = "manifest.csv"
PNG = ImageFile()
COLUMNS = (
    "file", "seed", "psi", "network_sha256", "format", "quality", "noise_mode", "class", "trunc_cutoff", "precision"
)  # fmt: skip
# columns that came later, and how what an older manifest lists was made
LATER = {"trunc_cutoff": "", "precision": "fp32"}
PNG_LEVEL = 4  # a third of the time of Pillow's 6 for a 256-pixel face, and 3 % more bytes
# what a complete file ends with: catches files that lost their tail when the machine, not the process, went down
END_MARK = {"png": b"IEND\xaeB`\x82", "jpg": b"\xff\xd9"}

# what a person gave for a column, where that is not the parameter of its name
ASKED_BY = {"class": "`class_index`", "trunc_cutoff": "`cutoff`", "network_sha256": "network_sha256"}


@dataclass(frozen=True)
class SampleSettings:
    """What, beside the seed, decides an image's bytes. One folder holds images of one such setting."""

    network_sha256: str
    how: Rendering = PLAIN
    file: ImageFile = PNG

    def row(self, seed: int) -> dict[str, str]:
        """The manifest's line for `seed`."""
        how, file = self.how, self.file
        return {
            "file": f"seed{seed:06d}.{file.format}",
            "seed": str(seed),
            "psi": repr(float(how.psi)),
            "network_sha256": self.network_sha256,
            "format": file.format,
            "quality": str(file.quality) if file.format == "jpg" else "",
            "noise_mode": how.noise_mode,
            "class": "" if how.class_index is None else str(how.class_index),
            "trunc_cutoff": "" if how.cutoff is None else str(how.cutoff),
            "precision": how.precision,
        }


@contextlib.contextmanager
def own_folder(folder: Path) -> Iterator[Path]:
    """In here no other process writes images into `folder`, which is made where it is missing. UserError where one does
    already; a folder that is still empty at the end is taken away again."""
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with RunLock("is writing into this folder", "choose another `outdir`") as lock:
            lock.take(folder)
            yield folder
    finally:
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()


class SampleWriter(contextlib.AbstractContextManager):
    """Writes samples into `folder` (which is its process's own: `own_folder`) and skips those that are there already.

    Raises `UserError` where the folder's manifest is of other settings, is not one of ours, or is missing although
    images of ours lie there; `OSError` where the folder can't be written.
    """

    def __init__(self, folder: str | Path, settings: SampleSettings):
        self.folder, self.settings = Path(folder), settings
        self.manifest = self.folder / MANIFEST
        self.folder.mkdir(parents=True, exist_ok=True)
        self._listed = self._read() if self.manifest.exists() else self._begin()
        self._pool = ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1))

    def _begin(self) -> set[int]:
        other = next(self.folder.glob("seed[0-9]*"), None)
        if other is not None:
            raise UserError(f"{other}: lies there without a {MANIFEST}: choose another `outdir`, or move it away")
        write_table(self.manifest, [], COLUMNS)
        return set()

    def _read(self) -> set[int]:
        """Seeds of the manifest's whole lines; a torn last line is cut off."""
        text = self.manifest.read_text(encoding="utf-8", errors="replace")
        whole, newline, torn = text.rpartition("\n")
        rows = list(csv.DictReader(io.StringIO(whole + newline)))
        first = text.partition("\n")[0]
        names = tuple(first.split(","))
        older = COLUMNS[len(names) :]
        if names + older != COLUMNS or not set(older) <= set(LATER) or not newline:
            raise UserError(f"{self.manifest}: not a manifest of samples: choose another `outdir`")
        rows = [row | {name: LATER[name] for name in older} for row in rows]
        seeds = set()
        for number, row in enumerate(rows, start=2):
            if not (row["seed"] or "").isdecimal():
                raise UserError(f"{self.manifest}: line {number} is damaged: choose another `outdir` or repair it")
            wanted = self.settings.row(int(row["seed"]))
            for column in (*COLUMNS[1:], COLUMNS[0]):  # the file's name last: another format or class tells more
                if row[column] != wanted[column]:
                    named = ASKED_BY.get(column, f"`{column}`")
                    raise UserError(
                        f"{self.manifest}: its images have {named} {_short(row[column])}, asked for is"
                        f" {_short(wanted[column])}: choose another `outdir`"
                    )
            seeds.add(int(row["seed"]))
        if torn or older:
            write_table(self.manifest, rows, COLUMNS)
        return seeds

    def path(self, seed: int) -> Path:
        """Where the image of `seed` lies or will lie."""
        return self.folder / self.settings.row(seed)["file"]

    def done(self, seed: int) -> bool:
        """Is the image of `seed` listed and whole?"""
        return seed in self._listed and self._whole(self.path(seed))

    def _whole(self, path: Path) -> bool:
        mark = END_MARK[self.settings.file.format]
        try:
            with path.open("rb") as file:
                file.seek(-len(mark), os.SEEK_END)
                return file.read() == mark
        except OSError:  # missing, or shorter than the mark
            return False

    def missing(self, seeds: Iterable[int]) -> list[int]:
        """Those of `seeds`, in order and without doubles, that have to be made."""
        return [seed for seed in dict.fromkeys(seeds) if not self.done(seed)]

    def write(self, seeds: Sequence[int], images: np.ndarray) -> None:
        """Write uint8 `images` [N, C, H, W] of `seeds` and then list them."""
        save = functools.partial(save_image, file=self.settings.file, durable=False)
        list(self._pool.map(save, map(self.path, seeds), images))
        new = [seed for seed in seeds if seed not in self._listed]
        if new:
            with disk_errors_of(self.manifest), self.manifest.open("ab") as file:
                file.write(_csv([self.settings.row(seed) for seed in new], COLUMNS, header=False))
                file.flush()
                os.fsync(file.fileno())
            self._listed.update(new)

    def __exit__(self, *_) -> None:
        self._pool.shutdown()


def save_image(path: Path, image: np.ndarray, file: ImageFile = PNG, *, durable: bool = True) -> None:
    """One uint8 image [C, H, W] (C of 1, 3, 4), whole or not at all (a jpg has no alpha: UserError for C = 4)."""
    if file.format == "jpg" and image.shape[0] == 4:
        raise UserError("`format` jpg: this generator's images have an alpha channel: use `format` png")
    picture = Image.fromarray(np.ascontiguousarray(image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)))
    data = io.BytesIO()
    if file.format == "jpg":
        picture.save(data, format="JPEG", quality=file.quality)
    else:
        picture.save(data, format="PNG", compress_level=PNG_LEVEL)
    write_bytes(path, data.getvalue(), durable=durable)


def save_sheet(path: Path, sheet: np.ndarray) -> Path:
    """A sheet (uint8 [H, W] or [H, W, C]) as PNG, in a folder that is made where it is missing; returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(path, np.atleast_3d(sheet).transpose(2, 0, 1))
    return path


def refuse_existing(paths: Iterable[Path], force: bool | None) -> None:
    """UserError naming the first of `paths` that is there already, unless `force` (None: there is no such option)."""
    for path in paths:
        if path.exists() and (path.is_dir() or not force):
            more = "" if force is None else ", or add `force` to replace it"
            raise UserError(f"{path}: is there already: choose another place{more}")


def write_table(path: Path, rows: Sequence[dict], columns: Sequence[str]) -> None:
    """Rows as CSV, whole or not at all; None becomes an empty field."""
    write_bytes(path, _csv(rows, columns))


def _csv(rows: Sequence[dict], columns: Sequence[str], *, header: bool = True) -> bytes:
    text = io.StringIO()
    lines = csv.DictWriter(text, columns, lineterminator="\n")
    if header:
        lines.writeheader()
    lines.writerows(rows)
    return text.getvalue().encode()


def _short(value: str | None) -> str:
    """A manifest value as a message shows it: hashes by their first digits."""
    if not value:
        return "none"
    return value[:12] + "…" if len(value) == 64 else value
