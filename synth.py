#!/usr/bin/env python3
"""Sample a trained generator: one image per seed, and a manifest that says how each was made.

\b
Examples:
  python synth.py --n 10000
  python synth.py --network runs/00003-demo-64-tiny --seeds 0-99,200 --trunc 0.7 --grid
  python synth.py --network generator-best.safetensors --n 64 --outdir faces --format jpg
  python synth.py --network network-snapshot-025000.pkl --n 64
  python synth.py --seeds 0-15 --class all --grid
  python synth.py --projected-w samples/photo/projected_w.npz
  python synth.py mix --rows 1-4 --cols 10-15 --styles coarse
  python synth.py video --seeds 1-8 --loop --grid 3x2
  python synth.py sweep --seeds 1-6
  python synth.py project photo.jpg --save-video

A seed gives the same image whatever else is asked for. Started again, it makes only what is missing.
"""

from __future__ import annotations

from pathlib import Path

import click

from common.cli import progress, run
from common.errors import UserError

SETTINGS = {"show_default": True, "max_content_width": 110, "help_option_names": ["-h", "--help"]}


class ClassIndex(click.ParamType):
    """A number, or the word `all` where that is allowed."""

    name = "class"

    def __init__(self, *, everything: bool = False):
        self._everything = everything

    def convert(self, value, param, ctx):
        if self._everything and value == "all":
            return value
        if not str(value).isdecimal():
            self.fail(f"{value!r} is not a class: give a number from 0 on{', or all' if self._everything else ''}")
        return int(value)


def _options(*options):
    """Several click options as one decorator, in the order written."""

    def add(command):
        for option in reversed(options):
            command = option(command)
        return command

    return add


NETWORK = click.option(
    "--network",
    metavar="PATH",
    help="Generator file (.safetensors, .pkl, .pt), URL or run folder.  [default: newest run under ./runs]",
)
MACHINE = _options(
    click.option(
        "--precision",
        type=click.Choice(["fp32", "bf16", "auto"]),
        default="fp32",
        help="fp32: the same image everywhere, but for a grey level here and there. bf16: faster where the hardware"
        " computes in it, some grey levels off. auto: bf16 there, else fp32.",
    ),
    click.option("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, …"),
)
TRUNC = _options(
    click.option(
        "--trunc", metavar="PSI", type=click.FloatRange(-2, 2), default=1.0, help="Truncation psi; 1 is none."
    ),
    click.option(
        "--trunc-cutoff",
        metavar="N",
        type=click.IntRange(0),
        help="Truncate only the first N style layers.  [default: all]",
    ),
)
CLASS = click.option(
    "--class", "class_index", metavar="K", type=ClassIndex(), help="Class, for a generator with classes."
)
NOISE = click.option("--noise-mode", type=click.Choice(["const", "none"]), default="const", help="Noise inputs.")
FORCE = click.option("--force", is_flag=True, help="Replace files that are there already.")


@click.group(help=__doc__, context_settings=SETTINGS, invoke_without_command=True, subcommand_metavar="[COMMAND …]")
@NETWORK
@click.option("--n", type=click.IntRange(1, 10_000_000), help="Seeds 0 to N-1.  [default: 64]")
@click.option("--seeds", metavar="LIST", help="Seeds, like 0-99,200; instead of --n.")
@TRUNC
@click.option(
    "--class",
    "class_index",
    metavar="K",
    type=ClassIndex(everything=True),
    help="Class, for a generator trained with classes; all: every class, each in a folder of its own.",
)
@click.option("--noise-mode", type=click.Choice(["const", "random", "none"]), default="const", help="Noise inputs.")
@click.option("--projected-w", metavar="FILE", help="Render the latents of a projected_w.npz instead of seeds.")
@click.option("--outdir", metavar="DIR", help="Where to write.  [default: samples/<run>-<network's hash>-psi<PSI>]")
@click.option("--format", "format_", type=click.Choice(["png", "jpg"]), default="png", help="File format.")
@click.option("--quality", type=click.IntRange(1, 100), default=95, help="JPEG quality.")
@click.option("--grid", is_flag=True, help="Also write grid.png with the first 100 images.")
@click.option("--batch", type=click.IntRange(1), default=64, help="Images in flight; no pixel depends on it.")
@MACHINE
@click.pass_context
def main(
    ctx, network, n, seeds, trunc, trunc_cutoff, class_index, noise_mode, projected_w, outdir, format_, quality, grid,
    batch, precision, device,
) -> None:  # fmt: skip
    given = [p for p in ctx.params if ctx.get_parameter_source(p) is click.core.ParameterSource.COMMANDLINE]
    if ctx.invoked_subcommand is not None:
        if given:
            name = next(p.opts[0] for p in main.params if p.name == given[0])
            raise click.UsageError(f"{name} stands before {ctx.invoked_subcommand}: options belong after the command")
        return
    if n is not None and seeds is not None:
        raise click.UsageError("give --n or --seeds, not both")
    if projected_w is not None:
        for name in ("n", "seeds", "trunc", "trunc_cutoff", "class_index", "grid"):
            if name in given:
                option = next(p.opts[0] for p in main.params if p.name == name)
                raise click.UsageError(f"--projected-w and {option} don't go together: the latents are in the file")
    from synth.latents import parse_seeds
    from synth.sampling import load_network, render_projected, sample_every_class, sample_to, write_contact_sheet
    from synth.writer import SampleSettings

    wanted = parse_seeds(seeds) if seeds is not None else list(range(64 if n is None else n))
    net = load_network(network, device, precision)
    if projected_w is not None:
        for path in render_projected(net, Path(projected_w), outdir, format_, quality, noise_mode):
            click.echo(path)
        return
    folder = Path(outdir) if outdir else Path("samples") / f"{net.label}-psi{trunc:g}"
    one = None if class_index == "all" else class_index
    settings = SampleSettings(net.sha256, trunc, format_, quality, noise_mode, one, trunc_cutoff, net.precision)
    if class_index == "all":
        sample_every_class(folder, net, settings, wanted, batch, grid=grid)
    else:
        writer = sample_to(folder, net, settings, wanted, batch)
        if grid:
            click.echo(write_contact_sheet(writer, wanted))
    click.echo(folder)


@main.command(context_settings=SETTINGS, short_help="Style mixing: rows' faces with some layers of columns'.")
@NETWORK
@click.option("--rows", metavar="LIST", required=True, help="Seeds of the rows, like 1-4,85.")
@click.option("--cols", metavar="LIST", required=True, help="Seeds of the columns.")
@click.option(
    "--styles",
    metavar="LAYERS",
    default="coarse",
    help="Layers that the columns give: coarse, middle, fine, or numbers like 0-3,6.",
)
@TRUNC
@CLASS
@NOISE
@click.option("--outdir", metavar="DIR", help="Where to write.  [default: samples/<run>-<network's hash>-mix-<LAYERS>]")
@FORCE
@MACHINE
def mix(
    network, rows, cols, styles, trunc, trunc_cutoff, class_index, noise_mode, outdir, force, precision, device
) -> None:
    """Style mixing: every row's face with some style layers of every column's.

    \b
    Examples:
      python synth.py mix --rows 1-4 --cols 10-15 --styles coarse
      python synth.py mix --rows 85,100,75 --cols 55,821 --styles 0-3 --trunc 0.7

    Writes grid.png, with names beside the images, every image by itself, and a manifest.csv. Coarse layers carry pose
    and the shape of the head, fine ones colours and skin; which numbers they are depends on the resolution.
    """
    from synth.latents import parse_seeds
    from synth.mixing import mix_files, mixtures, parse_styles, save_mix
    from synth.sampling import load_network
    from synth.writer import refuse_existing

    row_seeds, column_seeds = parse_seeds(rows, "--rows"), parse_seeds(cols, "--cols")
    net = load_network(network, device, precision)
    layers = parse_styles(styles, net.G.num_ws)
    folder = (
        Path(outdir) if outdir else Path("samples") / f"{net.label}-mix-{'+'.join(styles.replace(',', ' ').split())}"
    )
    files = mix_files(row_seeds, column_seeds)
    refuse_existing([folder / name for name in ("grid.png", "manifest.csv", *(name for name, *_ in files))], force)

    options = {"psi": trunc, "cutoff": trunc_cutoff, "class_index": class_index, "noise_mode": noise_mode}
    options["precision"] = net.precision
    with progress(total=len(files), title="mixing", unit="img") as bar:
        images = mixtures(net.G, row_seeds, column_seeds, layers, **options, device=net.device, on_images=bar.update)
    facts = {"styles": " ".join(map(str, layers)), "network_sha256": net.sha256, **options}
    grid = save_mix(folder, row_seeds, column_seeds, images, facts)
    click.echo(f"layers {', '.join(map(str, layers))} of {net.G.num_ws} come from the columns")
    click.echo(grid)
    click.echo(folder)


@main.command(context_settings=SETTINGS, short_help="A walk from seed to seed as .mp4 or .gif.")
@NETWORK
@click.option("--seeds", metavar="LIST", default="1-8", help="Seeds that the walk goes through, in this order.")
@click.option("--frames-per-key", type=click.IntRange(1, 100_000), default=60, help="Frames from seed to seed.")
@click.option("--fps", type=float, default=30.0, help="Frames a second.")
@click.option("--space", type=click.Choice(["w", "z"]), help="Latents to interpolate.  [default: w; z for slerp]")
@click.option(
    "--method",
    type=click.Choice(["linear", "slerp", "cubic"]),
    default="cubic",
    help="Straight lines, arcs on the sphere (in z), or one smooth curve.",
)
@click.option("--loop", is_flag=True, help="Go on from the last seed to the first.")
@click.option("--grid", metavar="WxH", default="1x1", help="Walks side by side, beginning at different seeds.")
@TRUNC
@CLASS
@NOISE
@click.option(
    "--scale", type=click.IntRange(1, 64), help="Enlarge by this whole factor.  [default: to 256 pixels a face or more]"
)
@click.option("--out", metavar="FILE", help="An .mp4 or .gif.  [default: samples/<run>-<network's hash>-walk.mp4]")
@FORCE
@MACHINE
def video(
    network, seeds, frames_per_key, fps, space, method, loop, grid, trunc, trunc_cutoff, class_index, noise_mode, scale,
    out, force, precision, device,
) -> None:  # fmt: skip
    """A walk through latent space, from seed to seed, as .mp4 or .gif.

    \b
    Examples:
      python synth.py video --seeds 1-8 --loop --grid 3x2 --trunc 0.7
      python synth.py video --seeds 3,14,15 --frames-per-key 30 --out walk.gif
      python synth.py video --seeds 1-4 --space z --method slerp

    An .mp4 is H.264 where the program ffmpeg is on the PATH, else what OpenCV can write (VP9, which browsers play).
    """
    import re

    from synth.behind import Behind
    from synth.interpolate import frame_count, walk
    from synth.latents import parse_seeds
    from synth.sampling import load_network
    from synth.video import VideoWriter, check_video

    match = re.fullmatch(r"([1-9]\d?)x([1-9]\d?)", grid)
    if not match:
        raise UserError(f"--grid {grid}: write it like 3x2: columns, x, rows, each from 1 to 99")
    columns, rows = int(match[1]), int(match[2])
    space = space or ("z" if method == "slerp" else "w")
    keys = parse_seeds(seeds)
    if out is not None:
        check_video(out, fps, force=force)
    net = load_network(network, device, precision)
    path = check_video(out or Path("samples") / f"{net.label}-walk.mp4", fps, force=force)
    options = {"frames_per_key": frames_per_key, "space": space, "method": method, "loop": loop, "columns": columns}
    options |= {"psi": trunc, "cutoff": trunc_cutoff, "class_index": class_index, "noise_mode": noise_mode}
    frames = walk(net.G, keys, rows=rows, **options, device=net.device, precision=net.precision)
    total = frame_count(len(keys), frames_per_key, loop)
    scale = scale or max(1, 256 // net.G.cfg.resolution)
    with (
        progress(total=total, title="rendering", unit="frame") as bar,
        VideoWriter(path, fps, scale=scale, force=force) as film,
        Behind(film.write) as later,
    ):
        for frame in frames:
            later(frame)
            bar.update()
    click.echo(f"{film.frames} frames, {film.frames / fps:.1f} s at {fps:g} a second, {film.codec}")
    click.echo(path)


@main.command(context_settings=SETTINGS, short_help="One sheet of seeds under several truncations.")
@NETWORK
@click.option("--seeds", metavar="LIST", default="1-6", help="Seeds, one a row.")
@click.option("--truncs", metavar="LIST", default="-0.7,0,0.3,0.5,0.7,1", help="Truncation psi, one a column.")
@click.option("--trunc-cutoff", metavar="N", type=click.IntRange(0), help="Truncate only the first N style layers.")
@CLASS
@NOISE
@click.option("--out", metavar="FILE", help="A .png.  [default: samples/<run>-<network's hash>-sweep.png]")
@FORCE
@MACHINE
def sweep(network, seeds, truncs, trunc_cutoff, class_index, noise_mode, out, force, precision, device) -> None:
    """One sheet of seeds under several truncations: what psi to sample with.

    \b
    Example:
      python synth.py sweep --seeds 1-6 --truncs 0,0.5,0.7,1
    """
    from synth.grid import labelled_grid
    from synth.latents import parse_seeds
    from synth.sample import sample
    from synth.sampling import load_network, save_sheet
    from synth.writer import refuse_existing

    keys = parse_seeds(seeds)
    try:
        psis = [float(word) for word in truncs.split(",")]
    except ValueError:
        raise UserError(f"--truncs {truncs}: not a list of numbers: write it like 0,0.5,1") from None
    if not all(-2 <= psi <= 2 for psi in psis) or len(psis) * len(keys) > 10_000:
        raise UserError(f"--truncs {truncs}: psi are from -2 to 2, and the sheet holds at most 10000 images")
    net = load_network(network, device, precision)
    path = Path(out) if out else Path("samples") / f"{net.label}-sweep.png"
    if path.suffix.lower() != ".png":
        raise UserError(f"--out {path}: the sheet is a PNG: call it {path.stem}.png")
    refuse_existing([path], force)
    options = {"cutoff": trunc_cutoff, "class_index": class_index, "noise_mode": noise_mode}
    with progress(psis, title="sampling", unit="psi") as bar:
        columns = [sample(net.G, keys, psi, device=net.device, **options, precision=net.precision) for psi in bar]
    rows = [list(row) for row in zip(*columns)]
    sheet = labelled_grid(rows, [str(seed) for seed in keys], [f"{psi:g}" for psi in psis], corner="psi")
    click.echo(save_sheet(path, sheet))


@main.command(context_settings=SETTINGS, short_help="The latents whose image is nearest to a photo.")
@click.argument("photo", type=click.Path())
@NETWORK
@click.option("--steps", type=click.IntRange(1, 1_000_000), default=1000, help="Steps of the search.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="Of the search's noise.")
@click.option(
    "--space",
    type=click.Choice(["w", "w+"]),
    default="w",
    help="w: one latent for all layers. w+: one for each; nearer to the photo, farther from a face.",
)
@click.option(
    "--perceptual",
    metavar="NAME|FILE",
    default="auto",
    help="What looks at the images: vgg16, squeezenet, inception, discriminator (of the run), pyramid (needs no"
    " weights), or a weight file of the first two or a detector. auto: the first of these that is here.",
)
@CLASS
@click.option(
    "--crop", type=click.Choice(["center", "none", "pad"]), default="center", help="How a photo becomes square."
)
@click.option("--save-video", is_flag=True, help="Also write projection.mp4: the photo and the search beside it.")
@click.option(
    "--outdir", metavar="DIR", help="Where to write.  [default: samples/<run>-<network's hash>-<photo's name>]"
)
@FORCE
@MACHINE
def project(
    photo, network, steps, seed, space, perceptual, class_index, crop, save_video, outdir, force, precision, device
) -> None:
    """Find the latents whose image is nearest to a photo.

    \b
    Examples:
      python synth.py project photo.jpg --save-video
      python synth.py project photo.jpg --steps 300 --space w+ --perceptual squeezenet1_1.pth
      python synth.py --projected-w samples/<run>-<hash>-photo/projected_w.npz

    The photo should show a face as the training data do: same crop, same place. Writes target.png, projection.png,
    both in side-by-side.png, projected_w.npz (latents and noise maps) and projection.json (settings and losses).
    """
    import contextlib

    import numpy as np
    import torch

    from faces.dataset import to_uint8
    from faces.decode import load_image
    from faces.preprocess import Preprocess
    from synth.behind import Behind
    from synth.latents import check_class
    from synth.observer import choose_observer
    from synth.projection import ProjectionSettings
    from synth.projection import project as search
    from synth.render import in_precision, render_ws, with_noise
    from synth.sampling import load_network
    from synth.saved import PROJECTION_FILES, save_projection
    from synth.video import VideoWriter
    from synth.writer import refuse_existing

    pixels = load_image(photo)
    net = load_network(network, device, precision)
    G = net.G
    check_class(G, class_index)
    settings = ProjectionSettings(steps, space, seed)
    observer = choose_observer(perceptual, G.cfg, net.path.parent)
    folder = Path(outdir) if outdir else Path("samples") / f"{net.label}-{Path(photo).stem}"
    film_path = folder / "projection.mp4"
    refuse_existing([*(folder / name for name in PROJECTION_FILES), *([film_path] if save_video else [])], force)
    click.echo(f"looking with {observer.name}")

    channels = G.cfg.img_channels
    target = Preprocess(G.cfg.resolution, crop, channels=min(channels, 3)).uint8(pixels).transpose(2, 0, 1)
    if channels == 4:
        target = np.concatenate([target, np.full_like(target[:1], 255)])
    goal = torch.tensor(target, device=net.device).float() / 127.5 - 1
    folder.mkdir(parents=True, exist_ok=True)
    every = max(1, steps // 300)  # ten seconds of film
    with contextlib.ExitStack() as stack:
        later = None
        if save_video:
            scale = max(1, 256 // G.cfg.resolution)
            film = stack.enter_context(VideoWriter(film_path, 30, scale=scale, force=force))
            later = stack.enter_context(Behind(film.write))
        bar = stack.enter_context(progress(total=steps, title="projecting", unit="step"))

        def on_step(step, image, distance):
            bar.update()
            if step % 10 == 0:
                bar.set_postfix_str(f"distance {distance:.3f}", refresh=False)
            if later is not None and step % every == 0:
                seen = to_uint8(image).cpu().numpy()
                later(np.concatenate([target, seen], axis=2).transpose(1, 2, 0))

        result = search(G, goal, observer, settings, class_index=class_index, precision=net.precision, on_step=on_step)
    found = next(render_ws(with_noise(in_precision(G, "fp32"), result.noises), [result.ws]))[0]
    facts = {"photo": str(photo), "crop": crop, "network": str(net.path), "class": class_index}
    facts |= {"perceptual": observer.name, "precision": net.precision, "network_sha256": net.sha256}
    likeness = save_projection(folder, target, found, result, settings, facts)
    first, last = result.history[0][1], result.history[-1][1]
    click.echo(f"{steps} steps, {result.speed:.1f} a second")
    click.echo(f"distance {first:.3f} -> {last:.3f}, PSNR {likeness:.1f} dB")
    click.echo(folder)


if __name__ == "__main__":
    run(main)
