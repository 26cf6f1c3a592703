"""Which generator is meant (a file, a URL, a run folder, or nothing at all), and the way to it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common.device import pick_device
from common.errors import UserError
from common.files import sha256_of
from common.outputs import check_folder
from stylegan2_ada.download import fetch, is_remote
from stylegan2_ada.generator import Generator
from stylegan2_ada.interop import load_any_generator
from synth.options import FromNetwork, Rendering
from training.precision import resolve_precision
from training.run_folder import LATEST, newest_run, snapshots


class NoGenerator(UserError):
    """Nothing has been trained yet where a generator was looked for."""


def _nothing(*_: object) -> None: ...


@dataclass(frozen=True)
class Watch:
    """How a person is kept informed: `tell` gets lines, `progress` (done, in all, a word about it or ""), `download`
    (bytes so far, bytes in all or 0) while a network is fetched."""

    tell: Callable[[str], object] = _nothing
    progress: Callable[..., object] = _nothing
    download: Callable[[int, int], None] = _nothing


SILENT = Watch()


@dataclass(frozen=True)
class OpenedGenerator:
    """A generator that was loaded. `label` is a short name for files made with it."""

    G: Generator
    path: Path
    label: str
    sha256: str

    def place(self, outdir: str | None, ending: str) -> Path:
        """Where files go: `outdir`, else what `ending` adds to a name of their own under samples/."""
        return Path(outdir) if outdir else Path("samples") / f"{self.label}-{ending}"


def open_generator(
    source: FromNetwork, how: Rendering, watch: Watch = SILENT, *, outdir: str | os.PathLike | None = None
) -> tuple[OpenedGenerator, Rendering]:
    """The generator that is meant, on the device wished for, and `how` with the precision that `auto` means there;
    tells which it is. outdir: the folder that was named for what is made, if any. UserError where there is no
    generator, and, before one is fetched, where nothing can be written there."""
    if outdir is not None:
        check_folder("`outdir`", Path(outdir).absolute())
    device = pick_device(source.device)
    how = dataclasses.replace(how, precision=resolve_precision(how.precision, device))
    path = find_network(source.network, progress=watch.download)
    G, meta = load_any_generator(path, device)
    sha256 = sha256_of(path)
    low = "" if how.precision == "fp32" else f" in {how.precision}"
    watch.tell(f"{path} ({G.cfg.resolution}x{G.cfg.resolution}, sha256 {sha256[:12]}…) on {device}{low}")
    for note in meta["notes"]:
        watch.tell(f"note: {note}")
    # files of a run are all called generator-…, it is the run's name that tells them apart
    name = path.resolve().parent.name if path.name.startswith("generator-") else path.stem
    return OpenedGenerator(G, path, f"{name}-{sha256[:8]}", sha256), how


def generator_in(run: Path) -> Path | None:
    """The generator a run folder offers: the best one by FID if there is one, else that of the highest kimg."""
    best = run / "generator-best.safetensors"
    if best.is_file():
        return best
    numbered = snapshots(run, "generator")
    return numbered[-1][1] if numbered else None


def newest_in(folder: Path) -> Path | None:
    """The generator of the newest run in `folder` that has one."""
    run = newest_run(folder, lambda run: generator_in(run) is not None)
    return None if run is None else generator_in(run)


def find_network(
    spec: str | None,
    runs: str | Path = "runs",
    *,
    progress: Callable[[int, int], None] | None = None,
    parameter: str = "network",
) -> Path:
    """The network file for `spec`: a file of any kind that `read_networks` knows, a URL (fetched to the cache folder),
    a run folder, a folder of runs, or None or 'latest' (the newest of `runs`). progress: of a URL's download.
    parameter: that asked for it. NoGenerator where nothing has been trained yet, UserError for a wrong path and where a
    URL can't be fetched."""
    if spec is not None and is_remote(spec):
        return fetch(spec, progress)
    newest = spec is None or spec == LATEST
    path = Path(runs) if spec is None or newest else Path(spec)
    if path.is_dir():
        found = generator_in(path) or newest_in(path)
        if found is None:
            raise NoGenerator(f"{path}: holds no generator-*.safetensors of a run yet")
        return found
    if newest:
        raise NoGenerator(f"there is no folder ./{path} with a trained generator")
    if not path.exists():
        raise UserError(f"`{parameter}` {path}: no such file or folder: check the path")
    return path
