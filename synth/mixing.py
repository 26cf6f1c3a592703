"""Style mixing: coarse traits of one face with fine ones of another (StyleGAN, Karras et al. 2019, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from common.errors import UserError
from stylegan2_ada.generator import Generator
from synth.grid import labelled_grid
from synth.latents import PLAIN, ws_from_seeds
from synth.network import SILENT, Watch, open_generator
from synth.options import FromNetwork, MixOptions, Rendering, parse_range
from synth.render import in_precision, render_ws
from synth.writer import own_folder, refuse_existing, save_image, save_sheet, write_table


def named_layers(num_ws: int) -> dict[str, list[int]]:
    """The style layers called 'coarse', 'middle' and 'fine' in a generator with `num_ws` of them.

    Each name is a range of resolutions: at 64 pixels and above coarse is 4 and 8, middle 16 and 32, fine all the rest
    (in a 1024-pixel network the ranges of the paper). Networks with fewer resolutions share them out evenly; one of
    8 pixels has no fine layers, one of 4 only coarse ones.
    """
    # num_ws = 2 * (number of resolutions): the 4-pixel block has one layer, the others two, and the last toRGB its own
    blocks = num_ws // 2
    coarse = min(2, -(-blocks // 3))
    middle = min(2, -(-(blocks - coarse) // 2))
    # block b (0 is 4 px) begins with layer 2b - 1
    first_middle = min(2 * coarse - 1, num_ws) if blocks > 1 else num_ws
    first_fine = 2 * (coarse + middle) - 1 if coarse + middle < blocks else num_ws
    return {
        "coarse": list(range(first_middle)),
        "middle": list(range(first_middle, first_fine)),
        "fine": list(range(first_fine, num_ws)),
    }


def parse_styles(text: str, num_ws: int) -> list[int]:
    """`'0-3'`, `'0,2,5-6'`, `'coarse'`, `'middle,fine'` -> sorted layer numbers. UserError for anything else."""
    names = named_layers(num_ws)
    layers: set[int] = set()
    for part in text.split(","):
        part = part.strip()
        if part in names:
            if not names[part]:
                raise UserError(
                    f"`styles` {part}: a generator of {num_ws} style layers has none so called: use numbers"
                )
            layers.update(names[part])
            continue
        strange = "is no layer: write 0-3, or 0,2,5, or coarse, middle or fine"
        here = parse_range(part, f"`styles` {text}", strange)
        if here[-1] >= num_ws:
            raise UserError(f"`styles` {text}: this generator has the style layers 0 to {num_ws - 1}, not {here[-1]}")
        layers.update(here)
    return sorted(layers)


def mixed_ws(rows: torch.Tensor, columns: torch.Tensor, layers: list[int]) -> torch.Tensor:
    """ws [R, num_ws, w_dim] and [C, num_ws, w_dim] -> [R, C, num_ws, w_dim]: row r with the `layers` of column c."""
    mixed = rows.unsqueeze(1).repeat(1, len(columns), 1, 1)
    mixed[:, :, layers] = columns[:, layers]
    return mixed


class Mix(NamedTuple):
    """Images of the rows uint8 [R, C, H, W], of the columns, and of every mixture [R, columns, C, H, W]."""

    rows: np.ndarray
    columns: np.ndarray
    both: np.ndarray


def mixtures(
    G: Generator,
    row_seeds: list[int],
    column_seeds: list[int],
    layers: list[int],
    how: Rendering = PLAIN,
    *,
    on_images: Callable[[int], object] = lambda _: None,
) -> Mix:
    """Render rows, columns and their mixtures: the latents of the row, but in `layers` those of the column. `on_images`
    is called with the number of images so far. UserError for a seed, class or cutoff out of range."""
    rows, columns = (ws_from_seeds(G, seeds, how) for seeds in (row_seeds, column_seeds))
    latents = torch.cat([rows, columns, mixed_ws(rows, columns, layers).flatten(0, 1)])
    blocks, done = [], 0
    for block in render_ws(in_precision(G, how.precision), latents, noise_mode=how.noise_mode):
        blocks.append(block)
        done += len(block)
        on_images(done)
    images = np.concatenate(blocks)
    of_rows, of_columns, of_both = np.split(images, [len(rows), len(rows) + len(columns)])
    return Mix(of_rows, of_columns, of_both.reshape(len(rows), len(columns), *images.shape[1:]))


def mix_files(row_seeds: list[int], column_seeds: list[int]) -> list[tuple[str, int | None, int | None]]:
    """(file name, row seed, column seed) of every image of a mix, in the order rows, columns, mixtures row by row."""
    rows = [(f"row{r:06d}.png", r, None) for r in row_seeds]
    columns = [(f"col{c:06d}.png", None, c) for c in column_seeds]
    return [*rows, *columns, *((f"row{r:06d}-col{c:06d}.png", r, c) for r in row_seeds for c in column_seeds)]


def save_mix(folder: Path, row_seeds: list[int], column_seeds: list[int], images: Mix, facts: dict) -> Path:
    """Write every image by itself, a manifest.csv that repeats `facts` in each line, and the labelled grid.png, whose
    path is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    every = [*images.rows, *images.columns, *images.both.reshape(-1, *images.both.shape[2:])]
    for (name, row, column), image in zip(mix_files(row_seeds, column_seeds), every, strict=True):
        save_image(folder / name, image)
        entries.append({"file": name, "row_seed": row, "col_seed": column, **facts})
    write_table(folder / "manifest.csv", entries, list(entries[0]))
    cells = [[None, *images.columns], *([row, *line] for row, line in zip(images.rows, images.both))]
    sheet = labelled_grid(cells, ["", *map(str, row_seeds)], ["", *map(str, column_seeds)], corner="seed")
    return save_sheet(folder / "grid.png", sheet)


def mix_to_folder(source: FromNetwork, asked: MixOptions, how: Rendering, watch: Watch = SILENT) -> list[Path]:
    """Mixtures of seeds as files; returns the sheet and the folder around it. UserError for what can't be, or where
    files would be replaced without leave."""
    how.check_truncation()
    row_seeds, column_seeds = asked.seeds()
    net, how = open_generator(source, how, watch, outdir=asked.outdir)
    layers = parse_styles(asked.styles, net.G.num_ws)
    name = "mix-" + "+".join(asked.styles.replace(",", " ").split())
    folder = net.place(asked.outdir, name if how.psi == 1 else f"{name}-psi{how.psi:g}")
    files = mix_files(row_seeds, column_seeds)
    with own_folder(folder):
        refuse_existing((folder / name for name in ("grid.png", "manifest.csv", *(f[0] for f in files))), asked.force)
        images = mixtures(
            net.G, row_seeds, column_seeds, layers, how, on_images=lambda done: watch.progress(done, len(files))
        )
        facts = {"styles": " ".join(map(str, layers)), "network_sha256": net.sha256, **asdict(how)}
        grid = save_mix(folder, row_seeds, column_seeds, images, facts)
    watch.tell(f"layers {', '.join(map(str, layers))} of {net.G.num_ws} come from the columns")
    return [grid, folder]
