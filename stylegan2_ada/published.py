"""State dicts under the published parameter names: written for other programs, read back, and read where someone saved
the state of `G_ema` of another program."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from common.errors import UserError
from common.files import save_atomically, write_bytes

from .config import DiscriminatorConfig, GeneratorConfig
from .files import halved
from .names import RESAMPLE_FILTER, published_shapes, to_published
from .networks import NETWORKS, Networks, build, channels_of, count
from .unpickle import Refused

FORMAT = "stylegan2-ada-published-names"
_RECOGNISED = {"mapping.w_avg": "G_ema", "synthesis.b4.const": "G_ema", "b4.fc.weight": "D"}


def with_filters(net) -> dict[str, torch.Tensor]:
    """A network's state dict exactly as the published classes have it, so that they load it strictly: under published
    names, with the copy of the FIR filter that every block and every 3x3 or resampling layer keeps."""
    tensors = to_published(net)
    taps = (net.synthesis.filter if isinstance(net.cfg, GeneratorConfig) else net.filter).detach()
    owners = set()
    for name in published_shapes(net.cfg):
        layer = name.rpartition(".")[0]
        block, _, part = layer.rpartition(".")
        if part in ("conv0", "conv1", "skip", "fromrgb") or layer == "b4.conv":
            owners.add(layer)
        if part in ("conv0", "conv1"):
            owners.add(block)
    return tensors | {f"{owner}.{RESAMPLE_FILTER}": taps.clone() for owner in sorted(owners)}


def save_published(path: str | os.PathLike, networks: Networks, *, half: bool = False) -> None:
    """Write every network of `networks` as one flat state dict, names prefixed `G_ema.`, `G.` and `D.`.

    path: `*.safetensors`, with the configurations in its header, or `*.pt`, for torch.load(weights_only=True). half:
    weights as float16. UserError for another ending, or for weights that float16 cannot hold.
    """
    path = Path(path)
    state: dict[str, torch.Tensor] = {}
    configs = {}
    for name in NETWORKS:
        if (net := getattr(networks, name)) is not None:
            configs[name] = net.cfg.to_dict()
            state |= {f"{name}.{key}": t.detach().cpu().contiguous().clone() for key, t in with_filters(net).items()}
    state = halved(state, half)
    if path.suffix == ".safetensors":
        header = {"format": FORMAT, "config": json.dumps(configs), "meta": json.dumps(networks.meta)}
        data = safetensors.torch.save(state, metadata=header)
        write_bytes(path, data)
    elif path.suffix in (".pt", ".pth"):
        save_atomically(path, lambda tmp: torch.save(state, tmp))
    else:
        raise UserError(f"{path}: published names are written to a .safetensors or a .pt file; change the ending")


def is_published(state: dict) -> bool:
    """Whether a state dict has published names, with or without a prefix, flat or one dict per network."""
    return bool(_split(state))


def _split(state: dict) -> dict[str, dict[str, torch.Tensor]]:
    nested = {name: state[name] for name in NETWORKS if isinstance(state.get(name), dict)}
    if nested:
        return {name: part for name, part in nested.items() if any(key in part for key in _RECOGNISED)}
    for name in NETWORKS:
        part = {k[len(name) + 1 :]: t for k, t in state.items() if isinstance(k, str) and k.startswith(f"{name}.")}
        if part:
            nested[name] = part
    if not nested:
        nested = {name: state for key, name in _RECOGNISED.items() if key in state}
    return {name: part for name, part in nested.items() if any(key in part for key in _RECOGNISED)}


def from_published(state: dict, wanted: Iterable[str] = NETWORKS, configs: dict | None = None) -> Networks:
    """The networks of such a state dict, on the CPU, in evaluation mode and without gradients; Refused where there are
    none.

    configs: name -> configuration as a dict; None reads it off the shapes. What shapes don't tell (number of float16
    resolutions, clamp, minibatch-std group) is then the default.
    """
    made: dict[str, Any] = {}
    for name, part in _split(state).items():
        if name not in wanted:
            continue
        if not all(isinstance(k, str) and isinstance(t, torch.Tensor) for k, t in part.items()):
            raise Refused(f"its {name} is no state dict")
        cls, guess = (DiscriminatorConfig, _guess_d) if name == "D" else (GeneratorConfig, _guess_g)
        try:
            cfg = cls.from_dict(configs[name]) if configs and name in configs else cls(**guess(part))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as e:
            raise Refused(f"its {name} has no shape this project knows ({' '.join(str(e).split())[:120]})") from None
        made[name] = build(cfg, part, name)
    return Networks(**made, kind="state dict under published names")


def _guess_g(state: dict) -> dict:
    common = _common(state, {r: len(t) for r, t in _by_resolution(state, "synthesis.b", ".conv1.bias")})
    w_dim, inputs = state["mapping.fc0.weight"].shape
    return common | {
        "z_dim": inputs - (w_dim if common["c_dim"] else 0),
        "w_dim": w_dim,
        "mapping_layers": count(state, "mapping.fc{}.weight"),
        "img_channels": len(state["synthesis.b4.torgb.bias"]),
    }


def _by_resolution(state: dict, before: str, behind: str) -> list[tuple[int, torch.Tensor]]:
    """The tensors whose names are a resolution between these words."""
    names = [name for name in state if name.startswith(before) and name.endswith(behind)]
    return [(int(name.removeprefix(before).removesuffix(behind)), state[name]) for name in names]


def _common(state: dict, widths: dict[int, int]) -> dict:
    """What both networks' shapes tell alike. widths: channels by resolution."""
    base, most = channels_of(dict(sorted(widths.items())))
    c_dim = state["mapping.embed.weight"].shape[1] if "mapping.embed.weight" in state else 0
    return {"resolution": max(widths), "c_dim": c_dim, "channel_base": base, "channel_max": most}


def _guess_d(state: dict) -> dict:
    widths = {r: len(t) for r, t in _by_resolution(state, "b", ".conv0.bias")} | {4: len(state["b4.conv.bias"])}
    common = _common(state, widths)
    extra = state["b4.conv.weight"].shape[1] - widths[4]
    return common | {
        "img_channels": state[f"b{common['resolution']}.fromrgb.weight"].shape[1],
        "architecture": "resnet" if any(name.endswith(".skip.weight") for name in state) else "orig",
        "mbstd_group_size": 4 if extra else 0,
        "mbstd_num_channels": extra or 1,
        "mapping_layers": count(state, "mapping.fc{}.weight") or 8,
    }
