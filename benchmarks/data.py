#!/usr/bin/env python3
"""How fast images come: decoded from JPEGs and from a packed archive, and as batches, beside what is usual.

The ways take turns in one process and the best of all turns counts, so that what else the machine does hits all alike.
"plain loop" is one thread of Pillow and numpy; "DataLoader" is torch's with as many worker processes as there are
threads here; both read the same files, cut and resize the same way. Images are real ones (--source) or drawn faces.

    python benchmarks/data.py                                  # drawn faces, 256x256; half a minute
    python benchmarks/data.py --source my_faces/ --json data.json
"""

from __future__ import annotations

import io
import json
import os
import platform
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.cli import run  # noqa: E402
from common.parallel import cores  # noqa: E402
from faces.dataset import DecodedFaces, IndexStream, stream  # noqa: E402
from faces.packing import pack  # noqa: E402
from faces.preprocess import Preprocess  # noqa: E402
from faces.source import FaceSource, open_source  # noqa: E402


class Files(torch.utils.data.Dataset):
    """The usual data set: opens, converts, crops, resizes and returns uint8 [3, R, R]. Reads a folder or a zip."""

    def __init__(self, paths: list[str], resolution: int, archive: str | None = None):
        self.paths, self.resolution, self.archive = paths, resolution, archive
        self.open: zipfile.ZipFile | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> np.ndarray:
        if self.archive is None:
            return usual(Image.open(self.paths[i]), self.resolution)
        if self.open is None:
            self.open = zipfile.ZipFile(self.archive)
        return usual(Image.open(io.BytesIO(self.open.read(self.paths[i]))), self.resolution)

    def __getstate__(self) -> dict:
        return {**vars(self), "open": None}


def usual(image: Image.Image, resolution: int) -> np.ndarray:
    image = image.convert("RGB")
    if image.size != (resolution, resolution):
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
        image = image.resize((resolution, resolution), Image.Resampling.LANCZOS)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def plain(files: Files) -> Iterator[int]:
    for i in range(len(files)):
        yield files[i].shape[0] // 3


def loader(files: Files, workers: int, batch: int) -> Iterator[int]:
    loaded = torch.utils.data.DataLoader(files, batch, num_workers=workers, persistent_workers=True)
    for _ in range(2):  # the first round starts the processes and is not measured
        yield -1
        for images in loaded:
            yield len(images)


def ours(source: FaceSource, preprocess: Preprocess, workers: int) -> Iterator[int]:
    for _ in stream(source, preprocess, workers=workers):
        yield 1


def batches(faces: DecodedFaces, batch: int, count: int) -> Iterator[int]:
    order, done = IndexStream(len(faces), 0), 0
    while done < count:
        yield len(faces.batch(order.at(done, batch)))
        done += batch


def rate(way: Callable[[], Iterator[int]]) -> float:
    """Images per second of one round; a -1 starts the clock anew."""
    begin, done = time.perf_counter(), 0
    for n in way():
        begin, done = (time.perf_counter(), 0) if n < 0 else (begin, done + n)
    return done / (time.perf_counter() - begin)


def drawn(folder: Path, count: int, resolution: int) -> str:
    """`count` JPEG files of quality 90; drawn once in `count` / 8 versions, the others turned and mirrored."""
    from faces.procedural.portrait import render_face

    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        if i % 8 == 0:
            face = render_face(i, resolution).astype(np.float32)
        grain = rng.standard_normal(face.shape, dtype=np.float32) * 6  # photos have it, and it is what decoding costs
        image = np.clip(np.rot90(face, i % 4) + grain, 0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / f"{i}.jpg", quality=90)
    return str(folder)


@click.command(help=__doc__, context_settings={"show_default": True, "max_content_width": 110})
@click.option("--source", help="Folder of images.  [default: drawn faces]")
@click.option("--images", type=click.IntRange(16), default=600, help="How many.")
@click.option("--resolution", type=click.IntRange(16), default=256)
@click.option("--workers", type=click.IntRange(1), default=cores(), help="Threads, and processes of the DataLoader.")
@click.option("--rounds", type=click.IntRange(1), default=5, help="Turns of each way; the best counts.")
@click.option("--batch", type=click.IntRange(1), default=32)
@click.option("--json", "out", type=click.Path(dir_okay=False), help="Write the numbers here, too.")
def main(source, images, resolution, workers, rounds, batch, out) -> None:
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="benchmark-data-"))
    try:
        spec = source or drawn(folder / "faces", images, resolution)
        jpegs = open_source(spec, max_items=images)
        how = Preprocess(resolution)
        archive = folder / "faces.zip"
        pack(jpegs, archive, how)
        zipped = open_source(archive)
        paths = [jpegs.locate(i) for i in range(len(jpegs))]
        members = [item.path for item in zipped.items]
        for ours_one, usual_one in (
            (jpegs, Files(paths, resolution)),
            (zipped, Files(members, resolution, str(archive))),
        ):
            same = how.uint8(ours_one.image(0)).transpose(2, 0, 1)
            assert np.array_equal(same, usual_one[0]), "the ways must give the same pixels"
        memory = DecodedFaces.build(zipped, how)
        mapped = DecodedFaces.build(zipped, how, cache_dir=folder / "cache")
        ways: dict[str, Callable[[], Iterator[int]]] = {
            "JPEG: plain loop": lambda: plain(Files(paths, resolution)),
            "JPEG: DataLoader": lambda: loader(Files(paths, resolution), workers, batch),
            "JPEG: this project": lambda: ours(jpegs, how, workers),
            "archive: plain loop": lambda: plain(Files(members, resolution, str(archive))),
            "archive: DataLoader": lambda: loader(Files(members, resolution, str(archive)), workers, batch),
            "archive: this project": lambda: ours(zipped, how, workers),
            "batches from memory": lambda: batches(memory, batch, 4 * len(memory)),
            "batches from a mapped file": lambda: batches(mapped, batch, 4 * len(mapped)),
        }
        best = dict.fromkeys(ways, 0.0)
        for _ in range(rounds):
            for name, way in ways.items():
                best[name] = max(best[name], rate(way))
    finally:
        shutil.rmtree(folder)
    click.echo(f"{len(jpegs)} images at {resolution} px, {workers} workers, best of {rounds} turns")
    click.echo(f"{'':28}{'images/s':>9}{'x plain loop':>14}{'x DataLoader':>14}")
    for name, speed in best.items():
        kind = name.split(":")[0]
        ratios = [f"{speed / best[f'{kind}: {other}']:.2f}" if f"{kind}: {other}" in best else "" for other in
                  ("plain loop", "DataLoader")]  # fmt: skip
        click.echo(f"{name:28}{speed:9.0f}{ratios[0]:>14}{ratios[1]:>14}")
    if out:
        facts = {"images": len(jpegs), "resolution": resolution, "workers": workers, "rounds": rounds, "batch": batch}
        facts |= {"source": "given" if source else "drawn", "cpu": platform.processor() or platform.machine()}
        facts |= {"cores": os.cpu_count(), "images_per_second": {name: round(speed, 1) for name, speed in best.items()}}
        Path(out).write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    run(main)
