"""One sheet of seeds under several truncations: what psi to sample with."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from synth.grid import labelled_grid
from synth.network import SILENT, Watch, open_generator
from synth.options import FromNetwork, Rendering, SweepOptions
from synth.sample import sample
from synth.writer import refuse_existing, save_sheet
from training.lock import alone_at


def sweep_sheet(source: FromNetwork, asked: SweepOptions, how: Rendering, watch: Watch = SILENT) -> list[Path]:
    """Write the sheet, a row for each seed and a column for each psi (instead of that of `how`); returns its path."""
    seeds, psis = asked.axes()
    if asked.out is not None:
        refuse_existing([Path(asked.out)], asked.force)  # before a network is fetched
    net, how = open_generator(source, how, watch)
    path = net.place(asked.out, "sweep.png")
    with alone_at(path):
        refuse_existing([path], asked.force)
        columns = []
        for psi in psis:
            columns.append(sample(net.G, seeds, dataclasses.replace(how, psi=psi)))
            watch.progress(len(columns), len(psis))
        rows = [list(row) for row in zip(*columns)]
        sheet = labelled_grid(rows, [str(seed) for seed in seeds], [f"{psi:g}" for psi in psis], corner="psi")
        return [save_sheet(path, sheet)]
