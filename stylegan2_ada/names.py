"""Translate between this project's parameter names and those of published StyleGAN2-ADA checkpoints.

Published names repeat the resolution (`synthesis.b64.conv0.weight`, `b64.fromrgb.weight`) and carry a copy of the FIR
filter in every layer; here blocks are numbered in the order they run and the filter is one buffer that is not saved.
"""

import torch

from common.errors import UserError

from .config import DiscriminatorConfig, GeneratorConfig

RESAMPLE_FILTER = "resample_filter"


def _mapping_names(num_layers: int, conditional: bool) -> dict[str, str]:
    layers = {f"mapping.layers.{i}": f"mapping.fc{i}" for i in range(num_layers)}
    return layers | ({"mapping.embed": "mapping.embed"} if conditional else {})


def generator_names(cfg: GeneratorConfig) -> dict[str, str]:
    """Our name -> published name, for everything in a generator's state dict."""
    names = {"synthesis.const": "synthesis.b4.const", "mapping.w_avg": "mapping.w_avg"}
    for k in range(cfg.resolution.bit_length() - 2):
        for layer in ("conv0", "conv1", "torgb"):
            if (k, layer) == (0, "conv0"):
                continue
            ours, theirs = f"synthesis.blocks.{k}.{layer}", f"synthesis.b{4 << k}.{layer}"
            leaves = ["weight", "bias", "affine.weight", "affine.bias"]
            if layer != "torgb":
                leaves += ["noise_strength", "noise_const"]
            names |= {f"{ours}.{leaf}": f"{theirs}.{leaf}" for leaf in leaves}
    for ours, theirs in _mapping_names(cfg.mapping_layers, cfg.c_dim > 0).items():
        names |= {f"{ours}.{leaf}": f"{theirs}.{leaf}" for leaf in ("weight", "bias")}
    return names


def discriminator_names(cfg: DiscriminatorConfig) -> dict[str, str]:
    """Our name -> published name, for everything in a discriminator's state dict."""
    modules = {"fromrgb": f"b{cfg.resolution}.fromrgb", "conv": "b4.conv", "fc": "b4.fc", "out": "b4.out"}
    num_blocks = cfg.resolution.bit_length() - 3
    for k in range(num_blocks):
        modules |= {f"blocks.{k}.{layer}": f"b{cfg.resolution >> k}.{layer}" for layer in ("conv0", "conv1")}
    if cfg.c_dim:
        modules |= _mapping_names(cfg.mapping_layers, True)
    names = {f"{ours}.{leaf}": f"{theirs}.{leaf}" for ours, theirs in modules.items() for leaf in ("weight", "bias")}
    if cfg.architecture == "resnet":
        names |= {f"blocks.{k}.skip.weight": f"b{cfg.resolution >> k}.skip.weight" for k in range(num_blocks)}
    return names


def published_shapes(cfg: GeneratorConfig | DiscriminatorConfig) -> dict[str, tuple[int, ...]]:
    """Published name -> shape, for everything in the network's state dict; nothing is allocated.

    These are the shapes that the configuration means; a file's are compared with them before a network is made.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *weight: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = weight
        if bias:
            shapes[f"{name}.bias"] = weight[:1]

    def mapping(inputs: int, width: int) -> None:
        if cfg.c_dim:
            layer("mapping.embed", width, cfg.c_dim)
            inputs += width
        for i in range(cfg.mapping_layers):
            layer(f"mapping.fc{i}", width, inputs if i == 0 else width)

    res, c4 = cfg.resolution, cfg.channels(4)
    if isinstance(cfg, GeneratorConfig):
        shapes |= {"synthesis.b4.const": (c4, 4, 4), "mapping.w_avg": (cfg.w_dim,)}
        for r in (4 << k for k in range(res.bit_length() - 2)):
            c = cfg.channels(r)
            layers = {"conv1": (c, c, 3, 3), "torgb": (cfg.img_channels, c, 1, 1)}
            for name, weight in (layers if r == 4 else {"conv0": (c, cfg.channels(r // 2), 3, 3)} | layers).items():
                layer(f"synthesis.b{r}.{name}", *weight)
                layer(f"synthesis.b{r}.{name}.affine", weight[1], cfg.w_dim)
                if name != "torgb":
                    shapes |= {
                        f"synthesis.b{r}.{name}.noise_strength": (),
                        f"synthesis.b{r}.{name}.noise_const": (r, r),
                    }
        mapping(cfg.z_dim, cfg.w_dim)
        return shapes
    layer(f"b{res}.fromrgb", cfg.channels(res), cfg.img_channels, 1, 1)
    for r in (res >> k for k in range(res.bit_length() - 3)):
        c, c_out = cfg.channels(r), cfg.channels(r // 2)
        layer(f"b{r}.conv0", c, c, 3, 3)
        layer(f"b{r}.conv1", c_out, c, 3, 3)
        if cfg.architecture == "resnet":
            layer(f"b{r}.skip", c_out, c, 1, 1, bias=False)
    layer("b4.conv", c4, c4 + (cfg.mbstd_num_channels if cfg.mbstd_group_size else 0), 3, 3)
    layer("b4.fc", c4, c4 * 16)
    layer("b4.out", c4 if cfg.c_dim else 1, c4)
    if cfg.c_dim:
        mapping(0, c4)
    return shapes


def to_ours(cfg: GeneratorConfig, published: dict) -> dict:
    """What is known of a generator's tensors by their published names, under this project's."""
    return {ours: published[theirs] for ours, theirs in generator_names(cfg).items()}


def names_of(net) -> dict[str, str]:
    """The table for a `Generator` or a `Discriminator`."""
    return generator_names(net.cfg) if isinstance(net.cfg, GeneratorConfig) else discriminator_names(net.cfg)


def to_published(net) -> dict[str, torch.Tensor]:
    """State dict of a network under published names, without the filter copies."""
    state = net.state_dict()
    return {theirs: state[ours] for ours, theirs in names_of(net).items()}


def load_published(net, tensors: dict, prefix: str = "") -> None:
    """Load published weights (after `prefix`, for example `G.`; names without it are ignored) into a network of the
    matching configuration. UserError for a missing or unknown name, a wrong shape, or a resampling filter other than
    [1, 3, 3, 1].
    """
    given = {name[len(prefix) :]: torch.as_tensor(v) for name, v in tensors.items() if name.startswith(prefix)}
    filters = {name: given.pop(name) for name in list(given) if name.rpartition(".")[2] == RESAMPLE_FILTER}
    expected = net.synthesis.filter if isinstance(net.cfg, GeneratorConfig) else net.filter
    for name, taps in filters.items():
        if taps.shape != expected.shape or not torch.allclose(taps.to(expected), expected, atol=1e-6):
            raise UserError(f"{prefix}{name}: only networks with the [1, 3, 3, 1] resampling filter can be loaded")
    state, names = net.state_dict(), names_of(net)
    missing, unknown = sorted(set(names.values()) - set(given)), sorted(set(given) - set(names.values()))
    if missing or unknown:
        fault = f"lacks {prefix}{missing[0]}" if missing else f"has an unknown {prefix}{unknown[0]}"
        raise UserError(f"the checkpoint {fault} and doesn't fit this configuration ({net.cfg})")
    for ours, theirs in names.items():
        if given[theirs].shape != state[ours].shape:
            shapes = f"{list(given[theirs].shape)} where this configuration has {list(state[ours].shape)}"
            raise UserError(f"{prefix}{theirs} has shape {shapes}; check resolution and channel counts")
    net.load_state_dict({ours: given[theirs] for ours, theirs in names.items()})
