#!/usr/bin/env python3
"""Sample a trained generator: one image per seed, and a manifest that says how each was made.

\b
Examples:
  python synth.py --n 10000
  python synth.py --network runs/00003-demo-64-tiny --seeds 0-99,200 --trunc 0.7 --grid
  python synth.py --network generator-best.safetensors --n 64 --outdir faces --format jpg
  python synth.py --network network-snapshot-025000.pkl --n 64

A seed gives the same image whatever else is asked for. Started again, it makes only what is missing.
"""

from __future__ import annotations

import time
from pathlib import Path

import click

from app.cli import download_bar, pick_device, progress, run

GRID_IMAGES = 100  # at most so many on a contact sheet
SETTINGS = {"show_default": True, "max_content_width": 110, "help_option_names": ["-h", "--help"]}


@click.command(help=__doc__, context_settings=SETTINGS)
@click.option(
    "--network",
    metavar="PATH",
    help="Generator file (.safetensors, .pkl, .pt), URL or run folder.  [default: newest run under ./runs]",
)
@click.option("--n", type=click.IntRange(1, 10_000_000), help="Seeds 0 to N-1.  [default: 64]")
@click.option("--seeds", metavar="LIST", help="Seeds, like 0-99,200; instead of --n.")
@click.option("--trunc", metavar="PSI", type=click.FloatRange(-2, 2), default=1.0, help="Truncation psi; 1 is none.")
@click.option("--class", "class_index", type=click.IntRange(0), help="Class, for a generator trained with classes.")
@click.option("--noise-mode", type=click.Choice(["const", "random", "none"]), default="const", help="Noise inputs.")
@click.option("--outdir", metavar="DIR", help="Where to write.  [default: samples/<run>-<network's hash>-psi<PSI>]")
@click.option("--format", "format_", type=click.Choice(["png", "jpg"]), default="png", help="File format.")
@click.option("--quality", type=click.IntRange(1, 100), default=95, help="JPEG quality.")
@click.option("--grid", is_flag=True, help=f"Also write grid.png with the first {GRID_IMAGES} images.")
@click.option("--batch", type=click.IntRange(1), default=64, help="Images in flight; no pixel depends on it.")
@click.option("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, …")
def main(network, n, seeds, trunc, class_index, noise_mode, outdir, format_, quality, grid, batch, device) -> None:
    if n is not None and seeds is not None:
        raise click.UsageError("give --n or --seeds, not both")
    from stylegan2_ada.interop import load_any_generator
    from synth.network import file_sha256, find_network
    from synth.sample import parse_seeds, sample_batches
    from synth.writer import SampleSettings, SampleWriter

    wanted = parse_seeds(seeds) if seeds is not None else list(range(64 if n is None else n))
    device = pick_device(device)
    with download_bar() as report:
        path = find_network(network, progress=report)
    G, meta = load_any_generator(path, device)
    sha256 = file_sha256(path)
    click.echo(f"{path} ({G.cfg.resolution}x{G.cfg.resolution}, sha256 {sha256[:12]}…) on {device}")
    for note in meta["notes"]:
        click.echo(f"note: {note}")
    settings = SampleSettings(sha256, trunc, format_, quality, noise_mode, class_index)
    folder = Path(outdir) if outdir else Path("samples") / f"{path.resolve().parent.name}-{sha256[:8]}-psi{trunc:g}"

    with SampleWriter(folder, settings) as writer:
        todo = writer.missing(wanted)
        if len(todo) < len(wanted):
            click.echo(f"{len(wanted) - len(todo)} of {len(wanted)} images are there already")
        began = time.monotonic()
        options = {"psi": trunc, "noise_mode": noise_mode, "class_index": class_index, "batch": batch}
        with progress(total=len(todo), title="sampling", unit="img") as bar:
            for names, images in sample_batches(G, todo, **options, device=device):
                writer.write(names, images)
                bar.update(len(names))
        seconds = time.monotonic() - began
        if todo:
            click.echo(f"{len(todo)} images in {seconds:.1f} s ({len(todo) / seconds:.1f} images/s)")
        if grid:
            click.echo(_write_grid(writer, wanted[:GRID_IMAGES]))
    click.echo(folder)


def _write_grid(writer, seeds: list[int]) -> Path:
    """The contact sheet of images that lie on disk (so that resumed ones are on it too)."""
    import numpy as np
    from PIL import Image

    from synth.grid import contact_sheet
    from synth.writer import save_image

    images = [np.atleast_3d(np.asarray(Image.open(writer.path(seed)))).transpose(2, 0, 1) for seed in seeds]
    sheet = np.atleast_3d(contact_sheet(np.stack(images))).transpose(2, 0, 1)
    path = writer.folder / "grid.png"
    temporary = path.with_name(".grid.png.tmp")
    save_image(temporary, sheet, "png")
    temporary.replace(path)
    return path


if __name__ == "__main__":
    run(main)
