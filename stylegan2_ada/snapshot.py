"""Networks written as published training snapshots (`.pkl` of stylegan2-ada-pytorch), for those who use that program.

The modules, their attributes and arguments are those of the recorded snapshots (docs/interop.md). What such a file
carries of source code is here one import: the classes are those of the program that reads it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError
from common.files import write_bytes

from .config import DiscriminatorConfig, GeneratorConfig
from .discriminator import Discriminator
from .generator import Generator
from .layers import is_lowp
from .networks import Networks
from .pickling import Call, dumps, ordered_dict, parameter
from .published import with_filters

UNTRAINED = "untrained"  # key of the networks that were made only because the published reader wants them
WHOLE_BATCH = 1 << 20  # a minibatch-std group that no batch reaches; published: None
SQRT_2 = 2**0.5
SOURCE = """\
# Written by another program: the classes are those of stylegan2-ada-pytorch, from whose folder this is to be read.
try:
    from training.networks import *
    from training.networks import (
        Conv2dLayer, Discriminator, DiscriminatorBlock, DiscriminatorEpilogue, FullyConnectedLayer, Generator,
        MappingNetwork, MinibatchStdLayer, SynthesisBlock, SynthesisLayer, SynthesisNetwork, ToRGBLayer)
except ImportError as error:
    raise ImportError("this network needs the classes of stylegan2-ada-pytorch: read it from that folder") from error
"""
_ORDERED = (
    "_backward_hooks _forward_hooks _forward_hooks_with_kwargs _forward_hooks_always_called _forward_pre_hooks"
    " _forward_pre_hooks_with_kwargs _state_dict_hooks _state_dict_pre_hooks _load_state_dict_pre_hooks"
    " _load_state_dict_post_hooks"
).split()


def save_snapshot(path: str | os.PathLike, networks: Networks) -> list[str]:
    """Write `networks` as a published snapshot, whole or not at all; returns what a user should know, a line each.

    Such a file has always G, D and G_ema: of G and G_ema one stands for the other where it is missing, and a missing D
    is made new and marked as such, so that this project's own reader leaves it out. UserError where there is neither
    generator, or one of 4x4 pixels, which the published program has not.
    """
    G, average = networks.G or networks.G_ema, networks.G_ema or networks.G
    if G is None or average is None:
        raise UserError(f"{path}: a snapshot needs a generator, and there is none: give a file that has one")
    if average.cfg.resolution < 8:
        raise UserError(f"{path}: the published program has no networks of 4x4 pixels; write another kind of file")
    notes = [
        "whoever reads a .pkl runs what is in it: give it, and take it, only where you would run a program",
        "it is read from the folder of stylegan2-ada-pytorch, whose classes it names",
    ]
    content: dict[str, Any] = {"training_set_kwargs": networks.meta.get("training_set")}
    content["G"] = _generator(G)
    D = networks.D
    if D is None:
        D = _new_discriminator(average.cfg)
        content[UNTRAINED] = ["D"]
        notes.append("there was no discriminator: D is a new, untrained one")
    if any(net.cfg.num_lowp_res and net.cfg.conv_clamp is None for net in (G, D, average)):
        notes.append("without a clamp, which float16 needs, all resolutions are marked to run in float32")
    content["D"] = _discriminator(D)
    content["G_ema"] = content["G"] if average is G else _generator(average)
    content["augment_pipe"] = None
    write_bytes(Path(path), dumps(content))
    return notes


def _new_discriminator(cfg: GeneratorConfig) -> Discriminator:
    shape = {
        name: getattr(cfg, name) for name in ("resolution", "c_dim", "img_channels", "channel_base", "channel_max")
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Discriminator(DiscriminatorConfig(**shape)).eval().requires_grad_(False)


class _Tensors:
    """A network's tensors under published names, below a prefix."""

    def __init__(self, net: Generator | Discriminator):
        self.all = {name: t.detach().float().cpu() for name, t in with_filters(net).items()}

    def parameters(self, prefix: str, *names: str) -> dict[str, Call]:
        return {name: parameter(self.all[f"{prefix}.{name}"]) for name in names}

    def buffers(self, prefix: str, *names: str) -> dict[str, torch.Tensor]:
        return {name: self.all[f"{prefix}.{name}"] for name in names}

    def inputs(self, layer: str) -> int:
        """Of a dense layer."""
        return self.all[f"{layer}.weight"].shape[1]


def _module(
    name: str, args: tuple, kwargs: dict, attributes: dict, parameters=None, buffers=None, modules=None
) -> Call:
    """A recorded module: its class, what it was made with, and the attributes of `torch.nn.Module` and its own."""
    state: dict[str, Any] = {
        "training": False,
        "_parameters": parameters or {},
        "_buffers": buffers or {},
        "_non_persistent_buffers_set": set(),
        "_backward_pre_hooks": ordered_dict(),
        _ORDERED[0]: ordered_dict(),
        "_is_full_backward_hook": None,
    }
    state |= {hooks: ordered_dict() for hooks in _ORDERED[1:]}
    state |= {"_modules": modules or {}} | attributes | {"_init_args": args, "_init_kwargs": kwargs}
    meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": name, "state": state}
    return Call("torch_utils.persistence", "_reconstruct_persistent_obj", (meta,))


def _dense(tensors: _Tensors, name: str, **kwargs: Any) -> Call:
    outputs, inputs = tensors.all[f"{name}.weight"].shape
    rate = kwargs.get("lr_multiplier", 1)
    gains = {"weight_gain": rate / inputs**0.5, "bias_gain": rate}
    own = {"activation": kwargs.get("activation", "linear")} | gains
    args = (inputs, outputs)
    return _module("FullyConnectedLayer", args, kwargs, own, tensors.parameters(name, "weight", "bias"))


def _mapping(tensors: _Tensors, cfg, z_dim: int, w_dim: int, num_ws: int | None, kwargs: dict) -> Call:
    modules = {"embed": _dense(tensors, "mapping.embed")} if cfg.c_dim else {}
    for i in range(cfg.mapping_layers):
        modules[f"fc{i}"] = _dense(tensors, f"mapping.fc{i}", activation="lrelu", lr_multiplier=0.01)
    beta = None if num_ws is None else 0.995
    shape = {"z_dim": z_dim, "c_dim": cfg.c_dim, "w_dim": w_dim, "num_ws": num_ws}
    own = shape | {"num_layers": cfg.mapping_layers, "w_avg_beta": beta}
    buffers = {} if num_ws is None else tensors.buffers("mapping", "w_avg")
    return _module("MappingNetwork", (), shape | kwargs, own, None, buffers, modules)


def _half(cfg: GeneratorConfig | DiscriminatorConfig) -> int:
    """The resolutions that may run in float16."""
    return cfg.num_lowp_res if cfg.conv_clamp is not None else 0


# ---- generator ------------------------------------------------------------------------------------------------------


def _generator(net: Generator) -> Call:
    cfg, tensors = net.cfg, _Tensors(net)
    image = {"img_resolution": cfg.resolution, "img_channels": cfg.img_channels}
    how = {
        "channel_base": cfg.channel_base,
        "channel_max": cfg.channel_max,
        "num_fp16_res": _half(cfg),
        "conv_clamp": cfg.conv_clamp,
    }
    steps = [4 << k for k in range(cfg.resolution.bit_length() - 2)]
    own = {
        "w_dim": cfg.w_dim,
        "img_resolution": cfg.resolution,
        "img_resolution_log2": cfg.resolution.bit_length() - 1,
        "img_channels": cfg.img_channels,
        "block_resolutions": steps,
        "num_ws": net.num_ws,
    }
    blocks = {f"b{res}": _synthesis_block(tensors, cfg, res) for res in steps}
    synthesis = _module("SynthesisNetwork", (), {"w_dim": cfg.w_dim} | image | how, own, modules=blocks)
    layers = {"num_layers": cfg.mapping_layers}
    mapping = _mapping(tensors, cfg, cfg.z_dim, cfg.w_dim, net.num_ws, layers)
    made = {"z_dim": cfg.z_dim, "w_dim": cfg.w_dim, "mapping_kwargs": layers, "synthesis_kwargs": how}
    shown = {"z_dim": cfg.z_dim, "c_dim": cfg.c_dim, "w_dim": cfg.w_dim} | image | {"num_ws": net.num_ws}
    children = {"synthesis": synthesis, "mapping": mapping}
    return _module("Generator", (), made | {"c_dim": cfg.c_dim} | image, shown, modules=children)


def _synthesis_block(tensors: _Tensors, cfg: GeneratorConfig, res: int) -> Call:
    name, out = f"synthesis.b{res}", cfg.channels(res)
    below = cfg.channels(res // 2) if res > 4 else 0
    half, last = _half(cfg) > 0 and is_lowp(res, cfg), res == cfg.resolution
    modules = {}
    if res > 4:
        modules["conv0"] = _synthesis_layer(tensors, cfg, f"{name}.conv0", res, below, up=2)
    modules["conv1"] = _synthesis_layer(tensors, cfg, f"{name}.conv1", res, out)
    modules["torgb"] = _to_rgb(tensors, cfg, f"{name}.torgb")
    shape = {"w_dim": cfg.w_dim, "resolution": res, "img_channels": cfg.img_channels, "is_last": last}
    own: dict[str, Any] = (
        {"in_channels": below} | shape | {"architecture": "skip", "use_fp16": half, "channels_last": False}
    )
    own |= {"num_conv": 1 if res == 4 else 2, "num_torgb": 1}
    kwargs = shape | {"use_fp16": half, "conv_clamp": cfg.conv_clamp}
    const = tensors.parameters(name, "const") if res == 4 else None
    return _module(
        "SynthesisBlock", (below, out), kwargs, own, const, tensors.buffers(name, "resample_filter"), modules
    )


def _synthesis_layer(tensors: _Tensors, cfg: GeneratorConfig, name: str, res: int, inputs: int, up: int = 1) -> Call:
    args = (inputs, cfg.channels(res))
    own = {"resolution": res, "up": up, "use_noise": True, "activation": "lrelu", "conv_clamp": cfg.conv_clamp}
    kwargs: dict[str, Any] = {"w_dim": cfg.w_dim, "resolution": res}
    if up > 1:
        kwargs |= {"up": up, "resample_filter": [1, 3, 3, 1]}
    kwargs |= {"conv_clamp": cfg.conv_clamp, "channels_last": False}
    parameters = tensors.parameters(name, "weight", "noise_strength", "bias")
    buffers = tensors.buffers(name, "resample_filter", "noise_const")
    modules = {"affine": _dense(tensors, f"{name}.affine", bias_init=1)}
    own |= {"padding": 1, "act_gain": SQRT_2}
    return _module("SynthesisLayer", args, kwargs, own, parameters, buffers, modules)


def _to_rgb(tensors: _Tensors, cfg: GeneratorConfig, name: str) -> Call:
    inputs = tensors.inputs(name)
    own = {"conv_clamp": cfg.conv_clamp, "weight_gain": 1 / inputs**0.5}
    kwargs = {"w_dim": cfg.w_dim, "conv_clamp": cfg.conv_clamp, "channels_last": False}
    modules = {"affine": _dense(tensors, f"{name}.affine", bias_init=1)}
    parameters = tensors.parameters(name, "weight", "bias")
    return _module("ToRGBLayer", (inputs, cfg.img_channels), kwargs, own, parameters, None, modules)


# ---- discriminator --------------------------------------------------------------------------------------------------


def _discriminator(net: Discriminator) -> Call:
    cfg, tensors = net.cfg, _Tensors(net)
    steps = [cfg.resolution >> k for k in range(cfg.resolution.bit_length() - 3)]
    modules, layer = {}, 0
    for res in steps:
        modules[f"b{res}"], count = _discriminator_block(tensors, cfg, res, layer)
        layer += count
    shape = {"c_dim": cfg.c_dim, "img_resolution": cfg.resolution, "img_channels": cfg.img_channels}
    kwargs: dict[str, Any] = {} if cfg.architecture == "resnet" else {"architecture": cfg.architecture}
    kwargs |= {"channel_base": cfg.channel_base, "channel_max": cfg.channel_max, "num_fp16_res": _half(cfg)}
    labels = {} if cfg.mapping_layers == 8 or not cfg.c_dim else {"num_layers": cfg.mapping_layers}
    kwargs |= {"conv_clamp": cfg.conv_clamp, "block_kwargs": {"freeze_layers": 0}, "mapping_kwargs": labels}
    kwargs |= {"epilogue_kwargs": _groups(cfg)} | shape
    if cfg.c_dim:
        width = cfg.channels(4)
        modules["mapping"] = _mapping(tensors, cfg, 0, width, None, {"w_avg_beta": None} | labels)
    modules["b4"] = _epilogue(tensors, cfg)
    own = {
        "c_dim": cfg.c_dim,
        "img_resolution": cfg.resolution,
        "img_resolution_log2": cfg.resolution.bit_length() - 1,
        "img_channels": cfg.img_channels,
        "block_resolutions": steps,
    }
    return _module("Discriminator", (), kwargs, own, modules=modules)


def _discriminator_block(tensors: _Tensors, cfg: DiscriminatorConfig, res: int, first: int) -> tuple[Call, int]:
    """The block, and its number of layers; first: how many there are before it."""
    name, width, out = f"b{res}", cfg.channels(res), cfg.channels(res // 2)
    inputs, half = (0 if res == cfg.resolution else width), _half(cfg) > 0 and is_lowp(res, cfg)
    modules = {}
    if not inputs:
        modules["fromrgb"] = _conv(tensors, cfg, f"{name}.fromrgb")
    modules["conv0"] = _conv(tensors, cfg, f"{name}.conv0")
    modules["conv1"] = _conv(tensors, cfg, f"{name}.conv1", down=2)
    if cfg.architecture == "resnet":
        modules["skip"] = _skip(tensors, f"{name}.skip")
    shape = {"resolution": res, "img_channels": cfg.img_channels, "first_layer_idx": first}
    own = {"in_channels": inputs} | shape | {"architecture": cfg.architecture, "use_fp16": half, "channels_last": False}
    own["num_layers"] = len(modules)
    kwargs: dict[str, Any] = {"resolution": res, "first_layer_idx": first, "use_fp16": half, "freeze_layers": 0}
    kwargs |= {"img_channels": cfg.img_channels, "architecture": cfg.architecture, "conv_clamp": cfg.conv_clamp}
    buffers = tensors.buffers(name, "resample_filter")
    return _module("DiscriminatorBlock", (inputs, width, out), kwargs, own, None, buffers, modules), len(modules)


def _conv(tensors: _Tensors, cfg: DiscriminatorConfig, name: str, down: int = 1, in_block: bool = True) -> Call:
    out, inputs, size, _ = tensors.all[f"{name}.weight"].shape
    own = {"activation": "lrelu", "up": 1, "down": down, "conv_clamp": cfg.conv_clamp, "padding": size // 2}
    own |= {"weight_gain": 1 / (inputs * size**2) ** 0.5, "act_gain": SQRT_2}
    kwargs: dict[str, Any] = {"kernel_size": size, "activation": "lrelu"}
    if in_block:
        kwargs |= (
            {"down": down, "trainable": True, "resample_filter": [1, 3, 3, 1]} if down > 1 else {"trainable": True}
        )
        kwargs |= {"conv_clamp": cfg.conv_clamp, "channels_last": False}
    else:
        kwargs |= {"conv_clamp": cfg.conv_clamp}
    parameters, buffers = tensors.parameters(name, "weight", "bias"), tensors.buffers(name, "resample_filter")
    return _module("Conv2dLayer", (inputs, out), kwargs, own, parameters, buffers)


def _skip(tensors: _Tensors, name: str) -> Call:
    out, inputs = tensors.all[f"{name}.weight"].shape[:2]
    own = {"activation": "linear", "up": 1, "down": 2, "conv_clamp": None, "padding": 0}
    own |= {"weight_gain": 1 / inputs**0.5, "act_gain": 1, "bias": None}
    kwargs = {"kernel_size": 1, "bias": False, "down": 2, "trainable": True, "resample_filter": [1, 3, 3, 1]}
    kwargs["channels_last"] = False
    parameters, buffers = tensors.parameters(name, "weight"), tensors.buffers(name, "resample_filter")
    return _module("Conv2dLayer", (inputs, out), kwargs, own, parameters, buffers)


def _groups(cfg: DiscriminatorConfig) -> dict[str, int | None]:
    """What the minibatch standard deviation is made with."""
    if not cfg.mbstd_group_size:
        return {"mbstd_num_channels": 0}
    size = None if cfg.mbstd_group_size >= WHOLE_BATCH else cfg.mbstd_group_size
    more = {} if cfg.mbstd_num_channels == 1 else {"mbstd_num_channels": cfg.mbstd_num_channels}
    return {"mbstd_group_size": size} | more


def _epilogue(tensors: _Tensors, cfg: DiscriminatorConfig) -> Call:
    width, groups = cfg.channels(4), _groups(cfg)
    cmap = width if cfg.c_dim else 0
    own: dict[str, Any] = {"in_channels": width, "cmap_dim": cmap, "resolution": 4, "img_channels": cfg.img_channels}
    own["architecture"] = cfg.architecture
    modules = {}
    if cfg.mbstd_group_size:
        made = {"group_size": groups["mbstd_group_size"], "num_channels": cfg.mbstd_num_channels}
        modules["mbstd"] = _module("MinibatchStdLayer", (), made, dict(made))
    else:
        own["mbstd"] = None
    modules["conv"] = _conv(tensors, cfg, "b4.conv", in_block=False)
    modules["fc"] = _dense(tensors, "b4.fc", activation="lrelu")
    modules["out"] = _dense(tensors, "b4.out")
    kwargs: dict[str, Any] = {"cmap_dim": cmap, "resolution": 4} | groups
    kwargs |= {"img_channels": cfg.img_channels, "architecture": cfg.architecture, "conv_clamp": cfg.conv_clamp}
    return _module("DiscriminatorEpilogue", (width,), kwargs, own, modules=modules)
