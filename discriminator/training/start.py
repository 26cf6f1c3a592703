"""Beginning from what another training has learnt: a run of the game, a run of a detector, or a detector file."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from common import reading
from common.errors import UserError
from common.shapes import shapes_only
from discriminator.artefact import RESIDUALS
from discriminator.backbones import Borrowing
from discriminator.detector import Detector
from discriminator.locate import FILE
from discriminator.models import HYBRID_SIZES, new_network
from discriminator.network import Network
from discriminator.network_options import NetworkOptions
from discriminator.origins import Lesson, lessons_of, lessons_of_run
from discriminator.pixels import Pixels
from discriminator.weights import bare_norms
from stylegan2_ada.torch_files import read_torch
from training.checkpoint import FORMATS, find_checkpoint
from training.run_folder import CONFIG

BRANCH, HEAD = "artefact", "verdict_head"


@dataclass(frozen=True)
class Start:
    """The weights another training has learnt. file: where they lie; normalisation: (means, deviations) of RGB that
    they expect, where it is known; lessons: the sets that taught them, as far as the file or the run says."""

    spec: str
    file: Path
    state: dict[str, torch.Tensor]
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    lessons: list[Lesson] = field(default_factory=list)

    @classmethod
    def open(cls, spec: str) -> Start:
        """The detector of a run, or of its newest checkpoint where it has written none yet; or of a file. UserError
        where there is none."""
        path = Path(spec)
        file = path / FILE if (path / FILE).is_file() else path
        if file.suffix == ".safetensors":
            detector = Detector.load(file)
            net, state = detector.net, dict(detector.net.state_dict())
            if not bare_norms(state):
                expected = (net.cfg.mean, net.cfg.std) if isinstance(net, Borrowing) else None
                return cls(spec, file, state, expected, lessons_of(detector.meta))
            if file == path or not list(path.glob("checkpoint-*.pt")):
                raise UserError(
                    f"`start_from` {spec}: {file.name} holds no statistics of its batch norms (an earlier --half left"
                    " them out), nothing can learn on from it; give a run that still has its checkpoints"
                )
        path = find_checkpoint(spec, parameter="start_from")
        config = _config_beside(path)
        return cls(spec, path, _of_checkpoint(path, spec), _normalisation(config), lessons_of_run(config))


def _config_beside(checkpoint: Path) -> object:
    try:
        return reading.json_file(checkpoint.parent / CONFIG)
    except (OSError, ValueError, UserError):
        return None


def _normalisation(config: Any) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    try:
        found = config["architecture"]
        return tuple(map(float, found["mean"])), tuple(map(float, found["std"]))
    except (ValueError, KeyError, TypeError):
        return None


def _of_checkpoint(path: Path, spec: str) -> dict[str, torch.Tensor]:
    try:
        content = read_torch(path)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UserError(
            f"`start_from` {spec}: {path.name} can't be read ({reason}); give a run or a detector file"
        ) from None
    kind = content.get("format") if isinstance(content, dict) else None
    if kind in FORMATS["gan"] and isinstance(content.get("game"), dict):
        if (state := content["game"].get("D_ema")) is None:
            raise UserError(f"`start_from` {spec}: this game has no verdict head (`verdict_batch` 0); give another run")
        return state
    if kind in FORMATS["detector"]:
        best = content.get("best")
        return best["state"] if best else content["ema"]
    raise UserError(f"`start_from` {spec}: {path.name} is no checkpoint of this version; give a run or a detector file")


def network_from(start: Start, model: str, resolution: int, options: NetworkOptions, seed: int) -> tuple[Network, str]:
    """A network that begins with all of `start` that fits, part by part, and a line about what that is.

    A pixel view takes the artefact branch as it is, whatever its width, depth and residual. UserError where nothing
    fits."""
    net = new_network(model, resolution, 3, options, seed=seed)
    if isinstance(net, Pixels):
        net = _pixels_like(net, start, seed)
    own = net.state_dict()
    taken = _fitting(start, own)
    if not taken:
        size = f" `size` {options.size}" if model == "hybrid" else ""
        raise UserError(
            f"`start_from` {start.spec}: none of its parts ({', '.join(sorted(_parts(start.state)))}) fits"
            f" `model` {model}{size}; {_what_fits(start, model, resolution, options)}"
        )
    for part in taken:
        own.update((name, theirs.to(own[name].dtype)) for name, theirs in _part(start.state, part).items())
    net.load_state_dict(own)
    if isinstance(net, Borrowing) and "body" in taken and start.normalisation is not None:
        net.normalise_by(*start.normalisation)
    fresh = [part for part in _parts(own) if part not in taken]
    new = f"; {', '.join(fresh)} from random weights" if fresh else ""
    return net, f"{', '.join(taken)} of {start.file}{new}"


def _pixels_like(net: Pixels, start: Start, seed: int) -> Pixels:
    """A pixel view whose branch, and whose head where it sees the branch alone, are of the shape of `start`'s."""
    stem = start.state.get(f"{BRANCH}.stem.weight")
    if stem is None:
        raise UserError(
            f"`start_from` {start.spec}: holds no artefact branch ({', '.join(_parts(start.state))}); give a run of"
            " train_gan.py, or of a hybrid or pixels detector"
        )
    channels, seen = net.cfg.img_channels, stem.shape[1]
    residual = next((name for name, bank in RESIDUALS.items() if len(bank) * channels == seen), None)
    if residual is None:
        raise UserError(f"`start_from` {start.spec}: its artefact branch does not see {channels} channels")
    blocks = len({name.split(".")[2] for name in start.state if name.startswith(f"{BRANCH}.before_pool.")})
    cfg = replace(net.cfg, channels=len(stem), blocks=blocks, residual=residual)
    hidden = start.state.get(f"{HEAD}.hidden.weight")
    torch.manual_seed(seed)
    made = Pixels(cfg)
    if hidden is not None and hidden.shape[1] == made.artefact.pooled_dim:
        torch.manual_seed(seed)
        made = Pixels(replace(cfg, hidden=len(hidden)))
    return made


def _fitting(start: Start, own: dict[str, torch.Tensor]) -> list[str]:
    """The parts of `own` that `start` has in the same shape."""
    shapes = {name: tensor.shape for name, tensor in start.state.items()}
    return [
        part for part in _parts(own)
        if {name: tensor.shape for name, tensor in _part(own, part).items()} == _part(shapes, part)
    ]  # fmt: skip


def _what_fits(start: Start, model: str, resolution: int, options: NetworkOptions) -> str:
    """What to do where nothing fits: a hybrid of another size, a pixel view of any artefact branch."""
    ways = []
    for size in HYBRID_SIZES if model == "hybrid" else ():
        with shapes_only():
            other = new_network(model, resolution, 3, replace(options, size=size)).state_dict()
        if parts := _fitting(start, other):
            ways.append(f"`size` {size} takes its {' and '.join(parts)}")
    if f"{BRANCH}.stem.weight" in start.state:
        ways.append("`model` pixels takes its artefact branch, whatever the size")
    return ", ".join(ways) or "give a run of the same network, or leave it out"


def _part(state: dict[str, Any], part: str) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name.partition(".")[0] == part}


def _parts(state: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(name.partition(".")[0] for name in state))
