"""What is in the files of a source: hash, format, size, JPEG tables and a perceptual hash of every image, in one pass.

A file is read once. JPEGs are decoded at an eighth of their size (only the mean of each 8 x 8 block is computed), which
is all that the perceptual hash needs and still notices a truncated file; other formats are decoded whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import queue
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, JpegImagePlugin

from common.errors import BadImage
from common.parallel import Progress, cores, in_order
from faces.decode import TRANSPOSE, decode, mode_name, open_header, orientation_of, upright_size
from faces.similar import SIDE, hashes_of, mirrored, thumbnail
from faces.source import FaceSource

CHUNK = 32
PROCESSES_FROM = 3000  # images: to start processes takes half a second
# The luminance table of ITU-T T.81, table K.1, row by row: what almost every encoder scales to make its own.
K1 = np.array(
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62 18 22 37 56 68 "
    "109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99".split(),
    dtype=np.int64,
)
_QUALITY = np.arange(1, 101)[:, None]
_SCALE = np.where(_QUALITY < 50, 5000 // _QUALITY, 200 - 2 * _QUALITY)
_SCALED = np.clip((K1 * _SCALE + 50) // 100, 1, 255)


@dataclass(frozen=True, slots=True)
class Facts:
    """What one file is. Where `error` says why it can't be used, the fields that could not be had are empty.

    path, label (0 real, 1 fake), split: as the source lists it. bytes: size of the file. sha256: hex, of the file.
    format: JPEG, PNG, … width, height: pixels, upright. mode: see `faces.decode.Decoded`. quality: 1 to 100, JPEG only,
    the scale of the standard luminance table that comes nearest. tables: 16 hex digits that stand for the quantisation
    tables. subsampling: grey, 4:4:4, 4:2:2, 4:2:0 or the factors of another, JPEG only. phash: 64 bits, None where
    nothing was decoded or the image is flat; mirrored: that of the mirror image."""

    path: str
    label: int | None
    split: str | None
    bytes: int
    sha256: str = ""
    format: str = ""
    width: int = 0
    height: int = 0
    mode: str = ""
    quality: int | None = None
    tables: str = ""
    subsampling: str | None = None
    phash: int | None = None
    mirrored: int | None = None
    error: str | None = None


def scan(
    source: FaceSource, *, workers: int | None = None, pixels: bool = True, progress: Progress | None = None
) -> list[Facts]:
    """The facts of every image of `source`, in its order, by `workers` (default: one per core).

    The workers are processes where there is much to do, because half of the time is spent in Python code, which runs
    in one thread at a time; else threads. pixels=False looks at headers only: faster, but there is no perceptual hash
    and a file broken further on passes. progress(done, total) is called from this thread. A bad file is told by its
    `error`, nothing is raised for it."""
    count, workers = len(source), workers or cores()
    chunks = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    workers = min(workers, len(chunks)) or 1
    facts: list[Facts] = []
    crew = Crew(source, pixels, workers) if workers > 1 and count >= PROCESSES_FROM else None
    job = crew or (lambda chunk: _scan_chunk(source, chunk, pixels))
    try:
        for part in in_order(lambda k: job(chunks[k]), len(chunks), workers, chunk=1):
            facts += part
            if progress is not None:
                progress(len(facts), count)
    finally:
        if crew is not None:
            crew.close()
    return facts


def header_facts(source: FaceSource, i: int, data: bytes) -> Facts:
    """What `scan` says of image `i` without pixels, by its bytes that were read already."""
    return Facts(**_one(source, i, False, data)[0])


class Crew:
    """Worker processes that scan; called from several threads, each call keeps one of them busy.

    They are started as fresh interpreters: a fork of a process with threads may hang, and multiprocessing's fresh
    processes run the caller's script a second time. One that dies is not replaced, its chunk is done here."""

    def __init__(self, source: FaceSource, pixels: bool, workers: int) -> None:
        self.source, self.pixels = source, pixels
        self.idle: queue.SimpleQueue[_Worker | None] = queue.SimpleQueue()
        self.all = [_Worker() for _ in range(workers)]
        for worker in self.all:
            self.idle.put(worker)
            with contextlib.suppress(OSError):
                pickle.dump((source.name, source.store, pixels), worker.inp)

    def __call__(self, chunk: range) -> list[Facts]:
        worker = self.idle.get()
        try:
            if worker is None:
                return _scan_chunk(self.source, chunk, self.pixels)
            part = self.source.select(chunk)
            pickle.dump((part.items, part._entries), worker.inp)
            worker.inp.flush()
            return pickle.load(worker.out)
        except (OSError, EOFError, pickle.UnpicklingError):
            worker = None
            return _scan_chunk(self.source, chunk, self.pixels)
        finally:
            self.idle.put(worker)

    def close(self) -> None:
        """End the workers; what they were doing is lost."""
        for worker in self.all:
            with contextlib.suppress(OSError):
                worker.inp.close()
            worker.out.close()
            worker.terminate()
            worker.wait()


class _Worker(subprocess.Popen):
    """A fresh interpreter at `work`, and the ends of its pipes."""

    def __init__(self) -> None:
        root = str(Path(__file__).resolve().parents[__name__.count(".")])
        code = f"import sys; sys.path.insert(0, {root!r}); from faces.scan import work; work()"
        super().__init__([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self.stdin is None or self.stdout is None:
            raise OSError("a process that was asked for pipes has none")
        self.inp, self.out = self.stdin, self.stdout


def work() -> None:
    """The life of a worker process: chunks come in on stdin, facts go out on stdout, until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    inp, out = sys.stdin.buffer, sys.stdout.buffer
    with contextlib.suppress(EOFError, BrokenPipeError):
        name, store, pixels = pickle.load(inp)
        while True:
            items, entries = pickle.load(inp)
            pickle.dump(_scan_chunk(FaceSource(name, store, items, entries), range(len(items)), pixels), out)
            out.flush()


def jpeg_quality(table: Sequence[int]) -> int:
    """The quality (1 to 100) at which the usual scaling of K1 comes nearest to a luminance table of 64 numbers.

    Exact for libjpeg and what is made like it; for encoders with tables of their own the nearest equivalent."""
    return int(np.abs(_SCALED - np.asarray(table)).sum(axis=1).argmin()) + 1


def _scan_chunk(source: FaceSource, chunk: range, pixels: bool) -> list[Facts]:
    raw = [_one(source, i, pixels) for i in chunk]
    seen = [(fields, small) for fields, small in raw if small is not None]
    for (fields, _), code in zip(seen, hashes_of(np.stack([small for _, small in seen])).tolist() if seen else ()):
        if code:
            fields |= {"phash": code, "mirrored": mirrored(code)}
    return [Facts(**fields) for fields, _ in raw]


def _one(source: FaceSource, i: int, pixels: bool, data: bytes | None = None) -> tuple[dict, np.ndarray | None]:
    """Fields of Facts, and the thumbnail to be hashed."""
    item = source.items[i]
    fields = {"path": item.path, "label": item.label, "split": item.split, "bytes": source.size(i)}
    name = source.locate(i)
    try:
        data = source.read(i) if data is None else data
        fields |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        with open_header(data, name) as image:
            orientation = orientation_of(image)
            _describe(image, fields)
            small = _thumbnail(image, orientation, data, name) if pixels else None
        return fields, small
    except BadImage as error:
        return {**fields, "error": error.reason}, None
    except MemoryError:
        return {**fields, "error": "too large for the memory of this machine"}, None


def _describe(image: Image.Image, fields: dict) -> None:
    """Fill in what the header says."""
    form = "JPEG" if image.format == "MPO" else image.format or "?"
    width, height = upright_size(image)
    fields |= {"format": form, "width": width, "height": height, "mode": mode_name(image)}
    if isinstance(image, JpegImagePlugin.JpegImageFile) and image.quantization:
        quality, mark = _of_tables(tuple((number, *table) for number, table in sorted(image.quantization.items())))
        fields |= {"quality": quality, "tables": mark, "subsampling": _subsampling(image)}


@lru_cache(maxsize=256)
def _of_tables(tables: tuple[tuple[int, ...], ...]) -> tuple[int, str]:
    """Quality by the first table, which is luminance's, and what stands for all of them (each with its number)."""
    return jpeg_quality(tables[0][1:]), hashlib.sha256(repr(tables).encode()).hexdigest()[:16]


def _subsampling(image: JpegImagePlugin.JpegImageFile) -> str:
    if len(image.layer) == 1:
        return "grey"
    named = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}.get(JpegImagePlugin.get_sampling(image))
    return named or " ".join(f"{layer[1]}x{layer[2]}" for layer in image.layer)


def _thumbnail(image: Image.Image, orientation: int, data: bytes, name: str) -> np.ndarray:
    """Luma thumbnail of the upright image. Raises BadImage where it can't be decoded."""
    if image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB", "YCbCr"):
        with contextlib.suppress(Exception):  # decode() finds the words for what is wrong
            image.draft("L", (SIDE, SIDE))
            small = thumbnail(image)
            return small if orientation == 1 else np.asarray(Image.fromarray(small).transpose(TRANSPOSE[orientation]))
    return thumbnail(Image.fromarray(decode(data, name).pixels))
