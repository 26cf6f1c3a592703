"""Writes files in the published snapshot format from this project's networks, for tests of its variants.

The real thing is in the recorded snapshots; here are the protocols, older names and options they don't show. Stand-ins
for the published modules exist only while a file is written.
"""

import contextlib
import pickle
import sys
import types

import numpy as np
import torch

from stylegan2_ada.config import GeneratorConfig
from stylegan2_ada.published import with_filters


class EasyDict(dict):
    """As the published code's: attributes are keys, so that pickle sees no instance dictionary of its own."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


EasyDict.__module__, EasyDict.__qualname__ = "dnnlib.util", "EasyDict"


def _reconstruct_persistent_obj(meta):
    raise AssertionError("something of the file was run")


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


class Recorded:
    def __init__(self, class_name, **state):
        self.class_name, self.state = class_name, state

    def __reduce__(self):
        meta = {"type": "class", "version": 6, "module_src": "raise SystemExit", "class_name": self.class_name}
        return _reconstruct_persistent_obj, (meta | {"state": self.state},)


@contextlib.contextmanager
def published_modules():
    """While it lasts pickle finds the names that published files mention."""
    made = {
        name: types.ModuleType(name) for name in ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util")
    }
    made["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct_persistent_obj
    made["dnnlib.util"].EasyDict = EasyDict
    before = {name: sys.modules.get(name) for name in made}
    sys.modules.update(made)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def dumps(value, protocol=3):
    with published_modules():
        return pickle.dumps(value, protocol=protocol)


def module(class_name, tensors, init, buffers=("noise_const", "w_avg", "resample_filter"), **state):
    """A recorded module tree from flat names; every sub-module is of class `Layer` unless it is `synthesis`."""
    own = {name: t for name, t in tensors.items() if "." not in name}
    children = {}
    for name, t in tensors.items():
        first, dot, rest = name.partition(".")
        if dot:
            children.setdefault(first, {})[rest] = t
    parameters = {n: torch.nn.Parameter(t) for n, t in own.items() if n not in buffers}
    return Recorded(
        class_name,
        training=False,
        _parameters=parameters | {"absent": None},
        _buffers={n: t for n, t in own.items() if n in buffers},
        _non_persistent_buffers_set=set(),
        _modules={n: module("Layer", part, {}, buffers, **state.get("deeper", {})) for n, part in children.items()},
        _init_args=(),
        _init_kwargs=init,
        weight_gain=1 / np.sqrt(512),
        **{k: v for k, v in state.items() if k != "deeper"},
    )


def generator(G, **options):
    """A recorded generator; `options` go over its arguments (`synthesis_kwargs` and `mapping_kwargs` are merged)."""
    cfg = G.cfg
    init = EasyDict(z_dim=cfg.z_dim, c_dim=cfg.c_dim, w_dim=cfg.w_dim, img_resolution=cfg.resolution)
    init["img_channels"] = cfg.img_channels
    init["mapping_kwargs"] = EasyDict(num_layers=cfg.mapping_layers) | options.pop("mapping_kwargs", {})
    synthesis = EasyDict(channel_base=cfg.channel_base, channel_max=cfg.channel_max, num_fp16_res=cfg.num_lowp_res)
    init["synthesis_kwargs"] = synthesis | {"conv_clamp": cfg.conv_clamp} | options.pop("synthesis_kwargs", {})
    return module("Generator", published(G), init | options)


def discriminator(D, **options):
    cfg = D.cfg
    init = EasyDict(c_dim=cfg.c_dim, img_resolution=cfg.resolution, img_channels=cfg.img_channels)
    init |= {"channel_base": cfg.channel_base, "channel_max": cfg.channel_max, "architecture": cfg.architecture}
    init |= {"num_fp16_res": cfg.num_lowp_res, "conv_clamp": cfg.conv_clamp, "mapping_kwargs": EasyDict()}
    init["block_kwargs"] = EasyDict(freeze_layers=0)
    init["epilogue_kwargs"] = EasyDict(
        mbstd_group_size=cfg.mbstd_group_size or None, mbstd_num_channels=cfg.mbstd_num_channels
    )
    return module("Discriminator", published(D), init | options)


def published(net):
    """A network's tensors under published names, copies that share no storage."""
    return {name: t.detach().clone() for name, t in with_filters(net).items()}


def random_state(net, seed=0):
    """Give every parameter and buffer values of its own, of a sensible size."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, t in net.state_dict().items():
            noise = torch.randn(t.shape, generator=rng, dtype=t.dtype)
            t.add_(noise, alpha=0.1 if name.endswith(("bias", "noise_strength")) else 0.5)
    return net.eval().requires_grad_(False)


def small_config(**changes):
    return GeneratorConfig(
        **{"resolution": 16, "z_dim": 12, "w_dim": 10, "mapping_layers": 3, "channel_base": 128, "channel_max": 16}
        | changes
    )
