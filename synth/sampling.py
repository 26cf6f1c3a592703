"""What the commands of synth.py share: the generator that is meant, samples in a folder, sheets of them."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import torch
from PIL import Image

from common.cli import download_bar, progress
from common.device import pick_device
from common.errors import UserError
from common.files import save_atomically
from stylegan2_ada.generator import Generator
from stylegan2_ada.interop import load_any_generator
from synth.behind import Behind
from synth.grid import contact_sheet, labelled_grid
from synth.network import file_sha256, find_network
from synth.render import in_precision, render_ws, resolve_precision, with_noise
from synth.sample import sample_batches
from synth.saved import load_latents
from synth.writer import SampleSettings, SampleWriter, refuse_existing, save_image

GRID_IMAGES = 100  # at most so many on a contact sheet


class Network(NamedTuple):
    """A generator that was loaded. `label` is a short name for files made with it."""

    G: Generator
    path: Path
    label: str
    sha256: str
    device: torch.device
    precision: str


def load_network(spec: str | None, device: str, precision: str) -> Network:
    """The generator meant by `--network spec` on the device wished for; says which it is."""
    where = pick_device(device)
    precision = resolve_precision(precision, where)
    with download_bar() as report:
        path = find_network(spec, progress=report)
    G, meta = load_any_generator(path, where)
    sha256 = file_sha256(path)
    low = "" if precision == "fp32" else f" in {precision}"
    click.echo(f"{path} ({G.cfg.resolution}x{G.cfg.resolution}, sha256 {sha256[:12]}…) on {where}{low}")
    for note in meta["notes"]:
        click.echo(f"note: {note}")
    # files of a run are all called generator-…, it is the run's name that tells them apart
    name = path.resolve().parent.name if path.name.startswith("generator-") else path.stem
    return Network(G, path, f"{name}-{sha256[:8]}", sha256, where, precision)


def sample_to(folder: Path, net: Network, settings: SampleSettings, seeds: list[int], batch: int) -> SampleWriter:
    """Make what is missing of `seeds` in `folder`; the writer returned is closed and knows where the files lie."""
    s = settings
    options = {"psi": s.psi, "cutoff": s.cutoff, "noise_mode": s.noise_mode, "class_index": s.class_index}
    with SampleWriter(folder, settings) as writer:
        todo = writer.missing(seeds)
        if len(todo) < len(seeds):
            click.echo(f"{len(seeds) - len(todo)} of {len(seeds)} images are there already")
        batches = sample_batches(net.G, todo, **options, batch=batch, device=net.device, precision=s.precision)
        began = time.monotonic()
        with progress(total=len(todo), title="sampling", unit="img") as bar, Behind(writer.write) as later:
            for names, images in batches:
                later(names, images)
                bar.update(len(names))
        seconds = time.monotonic() - began
        if todo:
            click.echo(f"{len(todo)} images in {seconds:.1f} s ({len(todo) / seconds:.1f} images/s)")
    return writer


def write_contact_sheet(writer: SampleWriter, seeds: list[int]) -> Path:
    """grid.png of the first images that lie on disk (so that resumed ones are on it too)."""
    images = np.stack([_pixels(writer.path(seed)) for seed in seeds[:GRID_IMAGES]])
    return save_sheet(writer.folder / "grid.png", contact_sheet(images))


def sample_every_class(
    folder: Path, net: Network, settings: SampleSettings, seeds: list[int], batch: int, *, grid: bool
) -> None:
    """A folder of samples for each class and, with `grid`, one sheet: a row for each seed, a column for each class."""
    classes = net.G.cfg.c_dim
    if classes == 0:
        raise UserError("--class all: this generator knows no classes: leave --class out")
    shown = seeds[: max(1, GRID_IMAGES // classes)]
    columns = []
    for k in range(classes):
        click.echo(f"class {k} of 0 to {classes - 1}")
        writer = sample_to(folder / f"class{k:03d}", net, dataclasses.replace(settings, class_index=k), seeds, batch)
        if grid:
            columns.append([_pixels(writer.path(seed)) for seed in shown])
    if grid:
        rows = [list(row) for row in zip(*columns)]
        sheet = labelled_grid(rows, [str(s) for s in shown], [str(k) for k in range(classes)], corner="class")
        click.echo(save_sheet(folder / "grid.png", sheet))


def render_projected(
    net: Network, file: Path, outdir: str | None, format: str, quality: int, noise_mode: str
) -> list[Path]:
    """Images of the latents saved in `file`, beside it or in `outdir`."""
    ws, noises = load_latents(file, net.G)
    folder = Path(outdir) if outdir else file.parent
    paths = [folder / f"proj{i:02d}.{format}" for i in range(len(ws))]
    refuse_existing(paths, None)
    folder.mkdir(parents=True, exist_ok=True)
    G = with_noise(in_precision(net.G, net.precision), noises)
    images = (image for block in render_ws(G, ws, noise_mode=noise_mode) for image in block)
    for path, image in zip(paths, images, strict=True):
        save_atomically(path, lambda tmp, image=image: save_image(tmp, image, format, quality))
    return paths


def save_sheet(path: Path, sheet: np.ndarray) -> Path:
    """A sheet (uint8 [H, W] or [H, W, C]) as PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_atomically(path, lambda tmp: save_image(tmp, np.atleast_3d(sheet).transpose(2, 0, 1), "png"))
    return path


def _pixels(path: Path) -> np.ndarray:
    """An image file as uint8 [C, H, W]."""
    return np.atleast_3d(np.asarray(Image.open(path))).transpose(2, 0, 1)
