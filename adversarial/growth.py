"""Growing: a trained run's networks become the inner blocks of larger ones, which at first do what the small ones did.

Generator: the new toRGB layers start at zero, so an image of the grown network is the old one's, up-sampled by the skip
path (Karras et al. 2020, figure 7). Discriminator: the new fromrgb and blocks start as a path that hands the image on
down-sampled: every colour goes as two channels, lrelu(a) and lrelu(-a), whose difference is (1 + slope) a whatever its
sign; the last new block ends in the old fromrgb's weights. So the grown trunk's features and logits are the old ones of
the down-sampled image. Both hold exactly where all is computed in float32. Channels beyond the colours' two are
initialised as always and first reach nothing; the zeros that hold them back are weights like others and learn.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from adversarial.config import GameConfig
from common.errors import UserError
from discriminator.hybrid import HybridDiscriminator
from stylegan2_ada.discriminator import Conv, Discriminator, DiscriminatorBlock
from stylegan2_ada.generator import Generator, SynthesisBlock
from stylegan2_ada.ops.bias_act import DEFAULT_ALPHA
from training.checkpoint import checkpoint_path, find_checkpoint, load
from training.run_folder import CONFIG

if TYPE_CHECKING:
    from adversarial.game import Game

# what a run that grows takes from the smaller one where it isn't told otherwise: the images and the networks' widths
INHERITED = ("data", "data_root", "labels", "cfg", "channels", "cond", "crop", "resize_filter", "mirror", "mirror_y")
VERDICT_PARTS = {"artefact": "artefact branch", "verdict_head": "verdict head"}
Moments = dict[str, dict[str, Tensor]]  # Adam's, by the weight's name


@dataclass
class Seedling:
    """The run to grow from: its configuration and, beside its networks, the state of its game that is handed on."""

    checkpoint: Path
    saved: GameConfig
    G: Generator
    G_ema: Generator
    D: HybridDiscriminator
    D_ema: HybridDiscriminator | None
    ada: dict
    pl_mean: Tensor
    moments: dict[str, Moments]
    kimg: float
    averaged: bool  # D is the average already: the game's own end is gone
    notes: list[str] = field(default_factory=list)  # what a person should know of the networks that become of it

    @property
    def origin(self) -> dict:
        """What config.json says of it."""
        return {"checkpoint": str(self.checkpoint), "resolution": self.saved.resolution, "kimg": self.kimg}


def open_seedling(spec: str, outdir: Path) -> Seedling:
    """Read `latest`, a run folder or a checkpoint; of a run that has ended, the game's end. Raises UserError."""
    checkpoint = find_checkpoint(spec, outdir, "grow_from")
    saved = GameConfig.load(checkpoint.parent / CONFIG)
    state = load(checkpoint, "gan")
    if state["phase"] != "game":  # from then on D is the average, and no more what the generator played against
        end = checkpoint_path(checkpoint.parent, int(state["game"]["step_index"]))
        if end != checkpoint and end.exists() and (other := load(end, "gan"))["phase"] == "game":
            checkpoint, state = end, other
    game = state["game"]
    try:
        with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten at once
            G, G_ema = (_loaded(Generator(saved.generator), game[name]) for name in ("G", "G_ema"))
            D = _loaded(HybridDiscriminator(saved.hybrid), game["D"])
            D_ema = _loaded(HybridDiscriminator(saved.hybrid), game["D_ema"]) if "D_ema" in game else None
        named = {
            "opt_G": [name for name, _ in G.named_parameters()],
            "opt_D": _names(D, D.adversarial_parameters(), D.trunk.layers_inwards()[: saved.options.freezed]),
            "opt_V": _names(D, D.verdict_parameters()),
        }
        moments = {opt: _by_name(game[opt], names) for opt, names in named.items()}
        kimg = int(game["step_index"]) * saved.batch / 1000
        ended = state["phase"] != "game"
        return Seedling(
            checkpoint, saved, G, G_ema, D, D_ema, game["ada"], game["pl_mean"], moments, kimg, averaged=ended
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as e:
        reason = str(e).splitlines()[0].strip()
        raise UserError(
            f"`grow_from` {checkpoint}: not a whole checkpoint of its config.json ({reason}); give another one"
        ) from None


def _loaded(net, state: dict):
    net.load_state_dict(state)
    return net.eval().requires_grad_(False)


def _names(D: HybridDiscriminator, params: Iterable[nn.Parameter], frozen: Iterable[nn.Module] = ()) -> list[str]:
    """The parameters' names, those of `frozen` layers left out: in the order in which an optimiser has them."""
    out = {id(p) for layer in frozen for p in layer.parameters()}
    names = {id(p): name for name, p in D.named_parameters()}
    return [names[id(p)] for p in params if id(p) not in out]


def _by_name(opt: dict, names: list[str]) -> Moments:
    count = len(opt["param_groups"][0]["params"])
    if count != len(names):
        raise UserError(f"an optimiser of {count} weights, not of {len(names)}")
    return {names[i]: moments for i, moments in opt["state"].items()}


# ---- weights --------------------------------------------------------------------------------------------------------


def grow_generator(G: Generator, old: Generator) -> None:
    """The weights of `old` in G, whose blocks at higher resolutions, if any, first add nothing to the image."""
    G.load_state_dict({**G.state_dict(), **old.state_dict()})
    with torch.no_grad():
        for block in list(G.synthesis.blocks)[len(old.synthesis.blocks) :]:
            assert isinstance(block, SynthesisBlock)
            block.torgb.weight.zero_()
            block.torgb.bias.zero_()


def grow_trunk(D: Discriminator, old: Discriminator) -> None:
    """The weights of `old` in D, whose blocks at higher resolutions, if any, first hand the down-sampled image on."""
    new = len(D.blocks) - len(old.blocks)
    renamed = {trunk_name(name, new): value for name, value in old.state_dict().items()}
    D.load_state_dict({**D.state_dict(), **{name: value for name, value in renamed.items() if name is not None}})
    if new:
        _hand_on(D, new, old.fromrgb)


def trunk_name(name: str, new: int) -> str | None:
    """What a weight of a discriminator is called in one with `new` more blocks in front; None: it has no place there.

    A `trunk.` in front stays; names outside the blocks stay as they are.
    """
    if new and re.match(r"(trunk\.)?fromrgb\.", name):
        return None
    return re.sub(r"^((?:trunk\.)?blocks\.)(\d+)", lambda m: f"{m[1]}{int(m[2]) + new}", name)


@torch.no_grad()
def _hand_on(D: Discriminator, new: int, old_fromrgb: Conv) -> None:
    """The path of the module's docstring through the first `new` blocks, in the arithmetic of `Conv`."""
    m = D.cfg.img_channels
    eye = torch.eye(m, device=D.fromrgb.weight.device)
    pair = torch.cat([eye, -eye])  # [2m, m]: a -> a, -a
    joined = pair.T / (math.sqrt(2) * (1 + DEFAULT_ALPHA))  # [m, 2m]: sqrt(2) lrelu of both -> a
    _set_rows(D.fromrgb, pair)
    for k, block in enumerate(list(D.blocks)[:new]):
        assert isinstance(block, DiscriminatorBlock)
        gain = 1.0 if block.skip is None else math.sqrt(0.5)  # the block's own, which its sum has
        _set_rows(block.conv0, pair @ joined)
        if k < new - 1:
            _set_rows(block.conv1, pair @ joined / gain)
        else:
            colours = old_fromrgb.weight.flatten(1).to(eye) * old_fromrgb.weight_gain
            _set_rows(block.conv1, colours @ joined / gain, old_fromrgb.bias.to(eye) / gain)
        if block.skip is not None:
            block.skip.weight[: block.conv1.weight.shape[0] if k == new - 1 else 2 * m].zero_()


def _set_rows(conv: Conv, matrix: Tensor, bias: Tensor | float = 0.0) -> None:
    """The first outputs of `conv` are `matrix` times its first inputs, in the middle of the kernel, and `bias`."""
    rows, columns = matrix.shape
    middle = conv.weight.shape[-1] // 2
    conv.weight[:rows].zero_()
    conv.weight[:rows, :columns, middle, middle] = matrix / conv.weight_gain
    if conv.bias is not None:
        conv.bias[:rows] = bias


def _same_shapes(a: nn.Module | None, b: nn.Module | None) -> bool:
    if a is None or b is None:
        return False
    return {n: t.shape for n, t in a.state_dict().items()} == {n: t.shape for n, t in b.state_dict().items()}


# ---- what else a game hands on --------------------------------------------------------------------------------------


def hand_on_game(game: Game, old: Seedling) -> list[str]:
    """The verdict's parts where shapes agree, Adam's moments of what stays, ADA's state, the path length's mean."""
    kept, fresh = [], []
    for name in VERDICT_PARTS:
        ours, theirs = getattr(game.D, name), getattr(old.D, name)
        if not _same_shapes(ours, theirs):
            fresh.append(name)
            continue
        kept.append(name)
        ours.load_state_dict(theirs.state_dict())
        if game.D_ema is not None:
            getattr(game.D_ema, name).load_state_dict(getattr(old.D_ema or old.D, name).state_dict())
    new = len(game.D.trunk.blocks) - len(old.D.trunk.blocks)
    _take_moments(game.opt_G, [n for n, _ in game.G.named_parameters()], old.moments["opt_G"], lambda n: n)
    names = _names(game.D, game.adversarial_params)
    _take_moments(game.opt_D, names, old.moments["opt_D"], lambda n: trunk_name(n, new))
    of_verdict = {n: m for n, m in old.moments["opt_V"].items() if n.partition(".")[0] in kept}
    _take_moments(game.opt_V, _names(game.D, game.verdict_params), of_verdict, lambda n: n)
    if game.cfg.options.aug == "ada" and old.saved.options.aug == "ada":
        game.ada.load_state_dict(old.ada)
        game.augment.set_p(game.ada.p)
    game.pl_mean.copy_(old.pl_mean)
    p, length = float(game.augment.p), float(game.pl_mean)
    lines = [f"grown       with Adam's moments of what stays, ADA's p {p:.3f}, the path length's mean {length:.3g}"]
    for words, names in (("kept", kept), ("fresh, for their shapes differ", fresh)):
        if names:
            lines.append(f"grown       {words}: {' and '.join(VERDICT_PARTS[name] for name in names)}")
    return lines


def _take_moments(opt: Any, names: Collection[str], old: Moments, renamed: Callable[[str], str | None]) -> None:
    """Adam's moments by the weights' names; a weight without old ones begins without."""
    theirs = {renamed(name): moments for name, moments in old.items()}
    state = {i: theirs[name] for i, name in enumerate(names) if name in theirs}
    opt.load_state_dict({"state": state, "param_groups": opt.state_dict()["param_groups"]})
