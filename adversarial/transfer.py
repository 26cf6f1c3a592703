"""Transfer learning: a new run that starts from the networks of a file instead of from noise.

As published (Karras et al. 2020, section 4.3): generator, its average and discriminator start from the file, the
optimisers from nothing; ADA adapts five times faster and the average has no ramp-up (`config.resolve`). The verdict
head is this project's own, no file of another program has one: it starts fresh.

Or from the game of a run of this project at a lower resolution (`growth`): then all that the game has learned goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adversarial.config import GameConfig
from adversarial.growth import Seedling, grow_generator, grow_trunk, hand_on_game, open_seedling
from common.errors import UserError
from common.words import counted
from stylegan2_ada.config import PRESETS, DiscriminatorConfig, GeneratorConfig, preset
from stylegan2_ada.download import LICENCE, PUBLISHED, cached_path, fetch, is_remote
from stylegan2_ada.generator import Generator
from stylegan2_ada.interop import read_networks
from stylegan2_ada.networks import Networks
from stylegan2_ada.torch_files import read_torch
from training.checkpoint import is_checkpoint_name
from training.processes import Processes

if TYPE_CHECKING:
    from adversarial.game import Game


@dataclass
class Start:
    """What a run starts from: the option's value, and the file's networks, of which G_ema is there as `generator`.

    seedling: the run they are of, where the new one grows from it.
    """

    spec: str
    networks: Networks
    generator: Generator
    seedling: Seedling | None = None

    @property
    def parameter(self) -> str:
        """The option that named it."""
        return "resume" if self.seedling is None else "grow_from"


def is_start(resume: str) -> bool:
    """Whether `resume` names networks to start a new run from, rather than a run to go on with."""
    if is_remote(resume):
        return True
    path = Path(resume)
    if not path.is_file() or is_checkpoint_name(path):
        return False
    return not _is_checkpoint(path)


def _is_checkpoint(path: Path) -> bool:
    """A checkpoint of this project under another name."""
    if path.suffix not in (".pt", ".pth"):
        return False
    try:
        content = read_torch(path, mapped=True)
    except Exception:  # whatever else it is, `read_networks` says so
        return False
    return isinstance(content, dict) and "game" in content


def open_start(
    resume: str, world: Processes, *, allowed: bool = True, progress: Callable[[int, int], None] | None = None
) -> Start | None:
    """Read the networks; a URL is fetched by one process for all. None where the internet would have to be used and is
    not `allowed`.

    Raises UserError or ValueError, one line, where there is nothing to start from.
    """
    if is_remote(resume):
        path = cached_path(resume)
        if not allowed and not path.is_file():
            return None
        if world.is_main:
            fetch(resume, progress)
        world.barrier()
        path = fetch(resume)
    else:
        path = Path(resume)
    networks = read_networks(path)
    if networks.G_ema is None:
        raise UserError(f"`resume` {resume}: a {networks.kind} without a generator; give a snapshot with one")
    return Start(resume, networks, networks.G_ema)


def open_smaller(grow_from: str, outdir: Path) -> Start:
    """Read the run to grow from. Raises UserError, one line, where there is none."""
    old = open_seedling(grow_from, outdir)
    return Start(grow_from, Networks(old.G_ema, old.G, old.D.trunk, kind="run"), old.G_ema, old)


# ---- does it fit? ---------------------------------------------------------------------------------------------------


def check_start(cfg: GameConfig, start: Start) -> None:
    """UserError with the reason and the right `resolution` or `cfg` where the run's networks have other shapes."""
    G, D = start.generator.cfg, start.networks.D.cfg if start.networks.D is not None else None
    where = f"`{start.parameter}` {start.spec}"
    if start.seedling is not None:
        _check_growth(cfg, G.resolution, where)
    elif G.resolution != cfg.resolution:
        raise UserError(
            f"{where}: its networks are for {G.resolution}x{G.resolution} images, this run is for {cfg.resolution}x"
            f"{cfg.resolution}; add `resolution` {G.resolution}, or leave out `resume`"
        )
    theirs, ours = (G.c_dim, G.c_dim if D is None else D.c_dim), cfg.generator.c_dim
    if theirs != (ours, ours):
        known = max(theirs)
        advice = f"give data of {counted(known, 'class', 'classes')} with `cond`" if known else "leave out `cond`"
        raise UserError(f"{where}: its networks know {known or 'no'} classes, this run {ours or 'none'}; {advice}")
    if G.img_channels != cfg.generator.img_channels:
        raise UserError(
            f"{where}: its images have {G.img_channels} channels, this run's {cfg.generator.img_channels}; use"
            f" `channels` {G.img_channels}"
        )
    faults = _generator_faults(G, cfg.generator) + ([] if D is None else _trunk_faults(D, cfg.hybrid.trunk))
    if faults:
        advice = _advice(G, D, cfg.resolution, start.parameter)
        raise UserError(f"{where}: its networks have {faults[0]} with `cfg` {cfg.options.cfg}; {advice}")


def _check_growth(cfg: GameConfig, old: int, where: str) -> None:
    if cfg.resolution <= old:
        raise UserError(f"{where}: its images are {old}x{old} already; grow to more, with `resolution` {2 * old}, say")
    trunk, new = cfg.hybrid.trunk, cfg.resolution
    if trunk.channels(new) < 2 * trunk.img_channels:
        raise UserError(
            f"{where}: a discriminator of {trunk.channels(new)} channels at {new}x{new} can't hand {trunk.img_channels}"
            f" colours on, which takes {2 * trunk.img_channels}; grow to a lower `resolution`"
        )


def _generator_faults(theirs: GeneratorConfig, ours: GeneratorConfig) -> list[str]:
    faults = []
    for name, words in (("z_dim", "numbers in z"), ("w_dim", "numbers in w"), ("mapping_layers", "mapping layers")):
        if getattr(theirs, name) != getattr(ours, name):
            faults.append(f"{getattr(theirs, name)} {words}, this run {getattr(ours, name)}")
    return faults + _width_faults(theirs, ours, "generator")


def _trunk_faults(theirs: DiscriminatorConfig, ours: DiscriminatorConfig) -> list[str]:
    faults = _width_faults(theirs, ours, "discriminator")
    if theirs.architecture != ours.architecture:
        faults.append(f"a discriminator of architecture '{theirs.architecture}', this run '{ours.architecture}'")
    if theirs.c_dim and theirs.mapping_layers != ours.mapping_layers:
        faults.append(
            f"{theirs.mapping_layers} layers that map the discriminator's labels, this run {ours.mapping_layers}"
        )
    extra = [c.mbstd_num_channels if c.mbstd_group_size else 0 for c in (theirs, ours)]
    if extra[0] != extra[1]:
        faults.append(f"{extra[0]} minibatch-std channels, this run {extra[1]}")
    return faults


def _width_faults(theirs, ours, what: str) -> list[str]:
    for res in (4 << k for k in range(min(theirs.resolution, ours.resolution).bit_length() - 2)):
        if theirs.channels(res) != ours.channels(res):
            return [f"{theirs.channels(res)} {what} channels at {res}x{res}, this run {ours.channels(res)}"]
    return []


def _advice(G: GeneratorConfig, D: DiscriminatorConfig | None, resolution: int, parameter: str) -> str:
    """The presets whose networks at this resolution have the file's shapes."""
    fitting = []
    for name in PRESETS:
        p = preset(name, resolution)
        widths = {"channel_base": p.channel_base, "channel_max": p.channel_max}
        shape = GeneratorConfig(
            resolution, p.z_dim, 0, p.w_dim, p.mapping_layers, img_channels=G.img_channels, **widths
        )
        trunk = DiscriminatorConfig(resolution, architecture=p.d_architecture, **widths)
        if not _generator_faults(G, shape) and not (D is not None and _trunk_faults(D, trunk)):
            fitting.append(name)
    if fitting:
        return f"use `cfg` {' or `cfg` '.join(fitting)}"
    return f"no `cfg` has this shape at {resolution}x{resolution}: start without `{parameter}`"


# ---- start ----------------------------------------------------------------------------------------------------------


def begin(game: Game, start: Start) -> list[str]:
    """Put the networks to start from into a new game; lines for the log that say what came from where."""
    nets, old = start.networks, start.seedling
    grow_generator(game.G_ema, start.generator)
    grow_generator(game.G, nets.G or start.generator)
    if nets.D is not None:
        grow_trunk(game.D.trunk, nets.D)
        if game.D_ema is not None:
            averaged = nets.D if old is None or old.D_ema is None else old.D_ema.trunk
            grow_trunk(game.D_ema.trunk, averaged)
    if old is not None:
        return [*_growth_lines(old), *hand_on_game(game, old)]
    lines = [f"transfer    {start.spec} ({nets.kind}); ADA adapts in {game.cfg.ada_kimg:g} kimg, no EMA ramp-up"]
    if nets.G is None:
        lines.append("transfer    the file has no training generator: it starts from the averaged one")
    if nets.D is None:
        lines.append("transfer    the file has no discriminator: it starts fresh and has to catch up")
    lines.append("transfer    the verdict head starts fresh: files of other programs have none")
    lines += [f"transfer    {note}" for note in nets.notes]
    if start.spec in PUBLISHED or "nvlabs" in start.spec:
        lines.append(f"licence     {LICENCE}")
    return lines


def _growth_lines(old: Seedling) -> list[str]:
    size = f"{old.saved.resolution} x {old.saved.resolution}"
    lines = [f"grown       from {old.checkpoint} ({size}, {old.kimg:.2f} kimg); no EMA ramp-up"]
    lines += [f"grown       {note}" for note in old.notes]
    if old.averaged:
        lines.append("grown       the checkpoint of its game's end is gone: the averaged discriminator plays on")
    return lines
