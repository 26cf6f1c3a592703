"""Published training snapshots (`network-snapshot-*.pkl` of stylegan2-ada-pytorch) as this project's own networks.

Such a file is a pickle of {G, D, G_ema, augment_pipe, training_set_kwargs}. Its modules are records of a class name,
the class's Python source, the arguments it was made with and its attributes; the published reader runs that source.
Here the source is left unread: the arguments give the configuration, the tensors the weights (`unpickle`, `storages`),
and the networks are built by this project's own classes.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError
from common.reading import shown

from .config import IMAGE_CHANNELS, MAX_LAYERS, MAX_WIDTH, DiscriminatorConfig, GeneratorConfig
from .networks import NETWORKS, Networks, build, configured
from .storages import StoredTensor, load_from_bytes, rebuild_parameter, rebuild_tensor
from .unpickle import Budget, Buildable, Refused, ordered_dict, parse

MAX_DEPTH = 16  # modules within modules
MAX_WALK = 20_000  # modules and tensors of a network, each as often as it is reached
_WHOLE_BATCH = 1 << 20  # a minibatch-std group that no batch reaches; published: None
_SCALARS = {"f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b", "u1": "B", "b1": "?"}


@dataclass(frozen=True, eq=False)
class Module:
    """A recorded module: the name of its class and its attributes."""

    class_name: str
    state: dict


class _Dtype(Buildable):
    """Stands for `numpy.dtype`: the attributes of published modules hold NumPy numbers such as 1 / np.sqrt(512)."""

    def __init__(self, code: object, align: object = False, copy: object = False):
        if not isinstance(code, str) or code not in _SCALARS:
            raise Refused(f"a NumPy number of type {shown(code)}")
        self.form = "<" + _SCALARS[code]

    def build(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", "|"):
            raise Refused("a NumPy number of another byte order")


def _scalar(dtype: object, data: object) -> float | int | bool:
    if not isinstance(dtype, _Dtype) or not isinstance(data, memoryview) or struct.calcsize(dtype.form) != len(data):
        raise Refused("a damaged NumPy number")
    return struct.unpack(dtype.form, data)[0]


def _module(meta: object) -> Module:
    if not isinstance(meta, dict) or meta.get("type") != "class":
        raise Refused("a module in a form that published snapshots never have")
    name, state = meta.get("class_name"), meta.get("state")
    if not isinstance(name, str) or not isinstance(state, dict):
        raise Refused("a module in a form that published snapshots never have")
    return Module(name, state)


def _set(items: object = ()) -> set:
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
        raise Refused("a set of something else than names")
    return set(items)


def _names(budget: Budget) -> dict:
    """The closed list: every name that occurs in published snapshots, of all versions of Python, torch and NumPy."""
    return {
        "torch_utils.persistence._reconstruct_persistent_obj": _module,
        "dnnlib.util.EasyDict": lambda: {},
        "collections.OrderedDict": ordered_dict,
        "builtins.set": _set,
        "__builtin__.set": _set,
        "torch._utils._rebuild_parameter": rebuild_parameter,
        "torch._utils._rebuild_tensor": rebuild_tensor,
        "torch._utils._rebuild_tensor_v2": rebuild_tensor,
        "torch.storage._load_from_bytes": load_from_bytes(budget),
        "numpy.dtype": _Dtype,
        "numpy.core.multiarray.scalar": _scalar,
        "numpy._core.multiarray.scalar": _scalar,
    }


def read_snapshot(path: Path, wanted: Iterable[str] = NETWORKS) -> Networks:
    """The networks of a published snapshot, on the CPU, in evaluation mode and without gradients; nothing in it is
    executed. UserError that names it for anything that isn't such a snapshot or that these networks cannot represent.
    """
    with open(path, "rb") as file:
        try:
            whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise UserError(f"{path}: an empty file") from None
    try:
        budget = Budget()
        root, _ = parse(memoryview(whole), 0, _names(budget), budget)
        return _networks(root, wanted)
    except Refused as e:
        raise UserError(f"{path}: {e}") from None
    except (RecursionError, MemoryError):
        raise UserError(f"{path}: damaged, or too large; give another file") from None


def _networks(root: object, wanted: Iterable[str]) -> Networks:
    if isinstance(root, Module):  # someone saved a single network
        root = {"D" if root.class_name == "Discriminator" else "G_ema": root}
    if not isinstance(root, dict) or not any(isinstance(root.get(name), Module) for name in NETWORKS):
        raise Refused("a pickle, but no StyleGAN2-ADA snapshot: it holds neither G_ema nor G nor D")
    made: dict[str, Any] = {}
    # what this project wrote only because the published reader wants it (`snapshot`)
    untrained = root.get("untrained")
    fresh = untrained if isinstance(untrained, list) else []
    for name in wanted:
        module = root.get(name)
        if module is None or name in fresh:
            continue
        if not isinstance(module, Module):
            raise Refused(f"its {name} is no module")
        tensors = dict(_tensors(module, "", Budget(MAX_WALK)))
        cfg = discriminator_config(module) if name == "D" else generator_config(module)
        made[name] = build(cfg, tensors, name)
    return Networks(**made, meta=_meta(root), kind="stylegan2-ada-pytorch snapshot")


def _tensors(module: Module, prefix: str, walk: Budget, depth: int = 0) -> Iterator[tuple[str, StoredTensor]]:
    """Parameters and buffers under their published names, those of Freeze-D's buffers included. walk: what may still be
    looked at, since modules that share a child are many more when they are walked than in the file."""
    if depth > MAX_DEPTH:
        raise Refused(f"modules more than {MAX_DEPTH} levels deep")
    walk.spend(1 + sum(len(_dict(module.state.get(kind, {}))) for kind in ("_parameters", "_buffers", "_modules")))
    for kind in ("_parameters", "_buffers"):
        for name, value in _dict(module.state.get(kind, {})).items():
            if isinstance(value, StoredTensor):
                yield f"{prefix}{name}", value
            elif value is not None:
                raise Refused(f"{prefix}{name} is no tensor")
    for name, child in _dict(module.state.get("_modules", {})).items():
        if isinstance(child, Module):
            yield from _tensors(child, f"{prefix}{name}.", walk, depth + 1)
        elif child is not None:
            raise Refused(f"{prefix}{name} is no module")


def _dict(value: object) -> dict:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise Refused("a module in a form that published snapshots never have")
    return value


# ---- configuration --------------------------------------------------------------------------------------------------


class _Options:
    """Recorded keyword arguments, taken one by one; what is left over at the end is unknown to this project."""

    def __init__(self, values: object, where: str):
        self.values, self.where = dict(_dict(values)), where

    def whole(self, name: str, default: int | None, low: int, high: int) -> int:
        value = self.values.pop(name, default)
        if type(value) is float and value.is_integer():  # channel_base is fmaps * 32768
            value = int(value)
        if type(value) is not int or not low <= value <= high:
            raise Refused(f"{self.where} has {name} = {shown(value)}, not a whole number from {low} to {high}")
        return value

    def only(self, name: str, *allowed: object) -> None:
        """The option may be absent or have one of these values, the only ones this project has."""
        value = self.values.pop(name, allowed[0])
        if not any(type(value) is type(a) and value == a for a in allowed):
            raise Refused(f"{self.where} has {name} = {shown(value)}; this project's networks have {allowed[0]!r} only")

    def clamp(self, default: object) -> float | None:
        value = self.values.pop("conv_clamp", default)
        if value is not None and (type(value) not in (int, float) or not 0 < value < 1e30):
            raise Refused(f"{self.where} has conv_clamp = {shown(value)}")
        return value

    def inner(self, name: str) -> _Options:
        return _Options(self.values.pop(name, {}), f"{self.where}'s {name}")

    def done(self, *unimportant: str) -> None:
        for name in sorted(set(map(str, self.values)) - set(unimportant)):
            raise Refused(f"{self.where} has an option {name:.40} that this project's networks do not know")


def _arguments(module: Module, positional: tuple[str, ...], where: str) -> _Options:
    """What a network was made with; positional arguments under their names."""
    args, values = module.state.get("_init_args", ()), _dict(module.state.get("_init_kwargs", {}))
    if not isinstance(args, tuple | list) or len(args) > len(positional):
        raise Refused(f"{where} was made with arguments no published network takes")
    return _Options(dict(zip(positional, args)) | values, where)


def _child(module: Module, name: str) -> Module:
    child = _dict(module.state.get("_modules", {})).get(name)
    return child if isinstance(child, Module) else Module("", {})


def _blocks(module: Module) -> list[Module]:
    """The blocks of a network, one per resolution (`b4`, `b8`, …)."""
    children = _dict(module.state.get("_modules", {}))
    return [m for name, m in children.items() if isinstance(m, Module) and name[:1] == "b" and name[1:].isdecimal()]


def _common(o: _Options, layers: _Options, blocks: list[Module], clamp: object) -> dict:
    """What both configurations have; `layers` has what concerns the convolutions. How many resolutions run in float16
    where it isn't among the arguments depends on the version, but every block says it of itself."""
    lowp = sum(m.state.get("use_fp16") is True for m in blocks)
    return {
        "resolution": o.whole("img_resolution", None, 4, 2048),
        "c_dim": o.whole("c_dim", 0, 0, MAX_WIDTH),
        "img_channels": o.whole("img_channels", None, 1, max(IMAGE_CHANNELS)),
        "channel_base": layers.whole("channel_base", 32768, 1, 1 << 24),
        "channel_max": layers.whole("channel_max", 512, 1, MAX_WIDTH),
        "num_lowp_res": layers.whole("num_fp16_res", lowp, 0, 10),
        "conv_clamp": layers.clamp(clamp),
    }


def _filter_and_activation(options: _Options) -> None:
    options.only("activation", "lrelu")
    options.only("resample_filter", [1, 3, 3, 1], (1, 3, 3, 1))


def _mapping_options(options: _Options, width: int) -> None:
    for name in ("embed_features", "layer_features"):
        options.only(name, None, width)
    options.only("activation", "lrelu")
    options.only("lr_multiplier", 0.01)
    options.done("w_avg_beta")


def generator_config(module: Module) -> GeneratorConfig:
    """The configuration a recorded generator was made with. Refused where this project has no such network."""
    synthesis, where = _child(module, "synthesis"), "the generator"
    if "input" in _dict(synthesis.state.get("_modules", {})):
        raise Refused(
            "a StyleGAN3 generator (alias-free layers); this project reads StyleGAN2 and StyleGAN2-ADA: give a snapshot"
            " of stylegan2-ada-pytorch, or of stylegan3 in its configuration stylegan2"
        )
    if module.class_name != "Generator" or not synthesis.state:
        raise Refused(f"a network of class {shown(module.class_name)}, not a StyleGAN2 Generator")
    o = _arguments(module, ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels"), where)
    mapping, layers = o.inner("mapping_kwargs"), o.inner("synthesis_kwargs")
    blocks = _blocks(synthesis)
    clamp = _child(blocks[-1], "conv1").state.get("conv_clamp") if blocks else None
    w_dim = o.whole("w_dim", None, 1, MAX_WIDTH)
    cfg = _common(o, layers, blocks, clamp) | {
        "z_dim": o.whole("z_dim", None, 0, MAX_WIDTH),
        "w_dim": w_dim,
        "mapping_layers": mapping.whole("num_layers", 8, 1, MAX_LAYERS),
    }
    _mapping_options(mapping, w_dim)
    layers.only("architecture", "skip")
    layers.only("kernel_size", 3)
    layers.only("use_noise", True)
    _filter_and_activation(layers)
    layers.done("fp16_channels_last", "channels_last", "fused_modconv_default")
    o.done()
    return configured(GeneratorConfig, **cfg)


def discriminator_config(module: Module) -> DiscriminatorConfig:
    """The configuration a recorded discriminator was made with. Refused where this project has no such network."""
    if module.class_name != "Discriminator":
        raise Refused(f"a network of class {shown(module.class_name)}, not a StyleGAN2 Discriminator")
    o = _arguments(module, ("c_dim", "img_resolution", "img_channels"), "the discriminator")
    block, mapping, epilogue = o.inner("block_kwargs"), o.inner("mapping_kwargs"), o.inner("epilogue_kwargs")
    blocks = _blocks(module)
    clamp = _child(blocks[0], "conv0").state.get("conv_clamp") if blocks else None
    cfg = _common(o, o, blocks, clamp) | {
        "architecture": o.values.pop("architecture", "resnet"),
        "mbstd_group_size": _WHOLE_BATCH,
        "mbstd_num_channels": epilogue.whole("mbstd_num_channels", 1, 0, MAX_WIDTH),
    }
    if epilogue.values.get("mbstd_group_size", 4) is not None:
        cfg["mbstd_group_size"] = epilogue.whole("mbstd_group_size", 4, 1, _WHOLE_BATCH)
    if cfg["mbstd_num_channels"] == 0:
        cfg |= {"mbstd_group_size": 0, "mbstd_num_channels": 1}
    width = max(min(cfg["channel_base"] // 4, cfg["channel_max"]), 1)
    if cfg["c_dim"]:  # without labels there is no mapping network, and converted snapshots say strange things about it
        cfg["mapping_layers"] = mapping.whole("num_layers", 8, 1, MAX_LAYERS)
        o.only("cmap_dim", None, width)
        _mapping_options(mapping, width)
    epilogue.only("activation", "lrelu")
    epilogue.done("mbstd_group_size")
    _filter_and_activation(block)
    block.done("fp16_channels_last", "freeze_layers")
    o.done("cmap_dim")
    return configured(DiscriminatorConfig, **cfg)


# ---- what else the file says ----------------------------------------------------------------------------------------


def _meta(root: dict) -> dict:
    """The data set's and the augmentation's settings, plain numbers and text only."""
    meta: dict = {}
    data = root.get("training_set_kwargs")
    if isinstance(data, dict):
        meta["training_set"] = _plain(data)
    pipe = root.get("augment_pipe")
    if isinstance(pipe, Module):
        meta["augment"] = _plain(_dict(pipe.state.get("_init_kwargs", {})))
        p = _dict(pipe.state.get("_buffers", {})).get("p")
        if isinstance(p, StoredTensor) and p.shape == () and p.dtype.is_floating_point:
            meta["augment_p"] = float(p.load().to(torch.float64))
    return meta


def _plain(values: dict) -> dict:
    kinds = (str, int, float, bool, type(None))
    return {str(k): v for k, v in values.items() if type(v) in kinds and len(str(v)) <= 1000}
