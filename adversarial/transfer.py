"""Transfer learning: a new run that starts from the networks of a file instead of from noise.

As published (Karras et al. 2020, section 4.3): generator, its average and discriminator start from the file, the
optimisers from nothing; ADA adapts five times faster and the average has no ramp-up (`config.resolve`). The verdict
head is this project's own, no file of another program has one: it starts fresh.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from adversarial.config import GameConfig
from common.errors import UserError
from stylegan2_ada.config import PRESETS, DiscriminatorConfig, GeneratorConfig, preset
from stylegan2_ada.download import LICENCE, PUBLISHED, cached_path, fetch, is_remote
from stylegan2_ada.generator import Generator
from stylegan2_ada.interop import read_networks
from stylegan2_ada.networks import Networks
from training.checkpoint import is_checkpoint_name
from training.processes import Processes

if TYPE_CHECKING:
    from adversarial.game import Game


@dataclass
class Start:
    """What a run starts from: the option's value, and the file's networks, of which G_ema is there as `generator`."""

    spec: str
    networks: Networks
    generator: Generator


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
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
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


# ---- does it fit? ---------------------------------------------------------------------------------------------------


def check_start(cfg: GameConfig, start: Start) -> None:
    """UserError with the reason and the right `resolution` or `cfg` where the run's networks have other shapes."""
    G, D = start.generator.cfg, start.networks.D.cfg if start.networks.D is not None else None
    where = f"`resume` {start.spec}"
    if G.resolution != cfg.resolution:
        raise UserError(
            f"{where}: its networks are for {G.resolution}x{G.resolution} images, this run is for {cfg.resolution}x"
            f"{cfg.resolution}; add `resolution` {G.resolution}, or leave out `resume`"
        )
    theirs, ours = (G.c_dim, G.c_dim if D is None else D.c_dim), cfg.generator.c_dim
    if theirs != (ours, ours):
        known = max(theirs)
        advice = f"give data of {known} classes with `cond`" if known else "leave out `cond`"
        raise UserError(f"{where}: its networks know {known or 'no'} classes, this run {ours or 'none'}; {advice}")
    if G.img_channels != cfg.generator.img_channels:
        raise UserError(
            f"{where}: its images have {G.img_channels} channels, this run's {cfg.generator.img_channels}; use"
            f" `channels` {G.img_channels}"
        )
    faults = _generator_faults(G, cfg.generator) + ([] if D is None else _trunk_faults(D, cfg.hybrid.trunk))
    if faults:
        raise UserError(f"{where}: its networks have {faults[0]} with `cfg` {cfg.options.cfg}; {_advice(G, D)}")


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
    for res in (4 << k for k in range(ours.resolution.bit_length() - 2)):
        if theirs.channels(res) != ours.channels(res):
            return [f"{theirs.channels(res)} {what} channels at {res}x{res}, this run {ours.channels(res)}"]
    return []


def _advice(G: GeneratorConfig, D: DiscriminatorConfig | None) -> str:
    """The presets whose networks have the file's shapes."""
    fitting = []
    for name in PRESETS:
        p = preset(name, G.resolution)
        widths = {"channel_base": p.channel_base, "channel_max": p.channel_max}
        shape = GeneratorConfig(
            G.resolution, p.z_dim, 0, p.w_dim, p.mapping_layers, img_channels=G.img_channels, **widths
        )
        trunk = DiscriminatorConfig(G.resolution, architecture=p.d_architecture, **widths)
        if not _generator_faults(G, shape) and not (D is not None and _trunk_faults(D, trunk)):
            fitting.append(name)
    if fitting:
        return f"use `cfg` {' or `cfg` '.join(fitting)}"
    return f"no `cfg` has this shape at {G.resolution}x{G.resolution}: start without `resume`"


# ---- start ----------------------------------------------------------------------------------------------------------


def begin(game: Game, start: Start) -> list[str]:
    """Put the file's weights into the networks of a new game; lines for the log that say what came from where."""
    nets = start.networks
    lines = [f"transfer    {start.spec} ({nets.kind}); ADA adapts in {game.cfg.ada_kimg:g} kimg, no EMA ramp-up"]
    game.G_ema.load_state_dict(start.generator.state_dict())
    game.G.load_state_dict((nets.G or start.generator).state_dict())
    if nets.G is None:
        lines.append("transfer    the file has no training generator: it starts from the averaged one")
    if nets.D is None:
        lines.append("transfer    the file has no discriminator: it starts fresh and has to catch up")
    else:
        for D in filter(None, (game.D, game.D_ema)):
            D.trunk.load_state_dict(nets.D.state_dict())
    lines.append("transfer    the verdict head starts fresh: files of other programs have none")
    lines += [f"transfer    {note}" for note in nets.notes]
    if start.spec in PUBLISHED or "nvlabs" in start.spec:
        lines.append(f"licence     {LICENCE}")
    return lines
