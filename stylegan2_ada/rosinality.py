"""Checkpoints in the layout of the widely used PyTorch StyleGAN2 by rosinality, as this project's own networks.

Such a file is a torch file of {"g_ema", "g", "d", "latent_avg", …}, each a state dict. It means the same network
as the published one (Karras et al. 2020) under other names: every weight is stored before the equalised learning rate's
scale, modulated weights have a leading axis of one, the noise maps are all together, and the discriminator's blur is a
layer of its own. Three things differ and make no difference: 3x3 weights are scaled before they are modulated, which
demodulation takes back; the blur of upsampling layers carries their gain of four; and upsampling layers use their
weights in a transposed convolution, that is, for true convolution, as the published checkpoint format does.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from .config import DiscriminatorConfig, GeneratorConfig
from .networks import NETWORKS, Networks, build, channels_of, configured, count
from .unpickle import Refused

KEYS = {"G_ema": "g_ema", "G": "g", "D": "d"}
W_AVG_SAMPLES = 10000  # of StyleGAN2's projection (appendix D)
_TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0])


def is_rosinality(checkpoint: dict) -> bool:
    """Whether a torch file's content is of this layout: networks under its keys, or a bare state dict."""
    return any(isinstance(checkpoint.get(key), dict) for key in KEYS.values()) or _kind(checkpoint) is not None


def _kind(state: dict) -> str | None:
    if "input.input" in state and "style.1.weight" in state:
        return "G_ema"
    return "D" if "final_linear.1.weight" in state and "final_conv.0.weight" in state else None


def from_rosinality(checkpoint: dict, wanted: Iterable[str] = NETWORKS) -> Networks:
    """The networks of such a checkpoint, on the CPU, in evaluation mode and without gradients.

    The running average of w that truncation needs is `latent_avg` where the file has it; training checkpoints of that
    code don't, and then it is the mean over 10 000 latents. Refused where names or shapes are not of this layout.
    """
    bare = _kind(checkpoint)
    states = {bare: checkpoint} if bare else {name: checkpoint.get(key) for name, key in KEYS.items()}
    made, notes = {}, []
    for name in wanted:
        state = states.get(name)
        if state is None:
            continue
        if not isinstance(state, dict) or not all(
            isinstance(k, str) and isinstance(t, torch.Tensor) for k, t in state.items()
        ):
            raise Refused(f"its {KEYS[name]} is no state dict")
        if name == "D":
            made[name] = _discriminator(dict(state))
            continue
        G, average = _generator(dict(state), name), checkpoint.get("latent_avg")
        if isinstance(average, torch.Tensor) and average.numel() == G.cfg.w_dim:
            G.mapping.w_avg.copy_(average.reshape(-1))
        else:
            G.mapping.w_avg.copy_(_mean_w(G))
            notes.append(f"the file has no latent_avg: truncation uses the mean w of {W_AVG_SAMPLES} latents")
        made[name] = G
    return Networks(**made, kind="rosinality checkpoint", notes=list(dict.fromkeys(notes)))


@torch.no_grad()
def _mean_w(G) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(G.cfg.w_dim, dtype=torch.float64)
    for _ in range(10):
        z = torch.randn(W_AVG_SAMPLES // 10, G.cfg.z_dim, generator=generator)
        total += G.mapping(z)[:, 0].double().sum(dim=0)
    return (total / W_AVG_SAMPLES).float()


def _take(state: dict, name: str, what: str) -> torch.Tensor:
    if name not in state:
        raise Refused(f"its {what} lacks {name}; is it another network, or of a changed layout?")
    return state.pop(name)


def _drop_kernels(state: dict, what: str) -> None:
    """The FIR filters are the same in every published network; another one is another network."""
    expected = torch.outer(_TAPS, _TAPS) / 64
    for name in [name for name in state if name.rpartition(".")[2] == "kernel"]:
        kernel = state.pop(name).float()
        if kernel.shape != expected.shape or not torch.allclose(kernel / kernel.sum(), expected, atol=1e-6):
            raise Refused(f"its {what} has a blur {name} other than [1, 3, 3, 1]")


def _nothing_left(state: dict, what: str) -> None:
    if state:
        raise Refused(f"its {what} has an unknown {min(state)}")


def _generator(state: dict, what: str):
    _drop_kernels(state, what)
    resolution = 4 << count(state, "to_rgbs.{}.bias")
    layers = count(state, "style.{}.weight", 1)
    published: dict[str, torch.Tensor] = {}

    def take(name: str) -> torch.Tensor:
        return _take(state, name, what)

    def modulated(theirs: str, ours: str) -> None:
        weight = take(f"{theirs}.conv.weight")
        if weight.ndim != 5 or weight.shape[0] != 1:
            raise Refused(f"its {what} has {theirs}.conv.weight of shape {list(weight.shape)}, not [1, O, I, k, k]")
        published[f"{ours}.weight"] = weight[0]
        for leaf in ("weight", "bias"):
            published[f"{ours}.affine.{leaf}"] = take(f"{theirs}.conv.modulation.{leaf}")

    def styled(theirs: str, ours: str, noise: int) -> None:
        modulated(theirs, ours)
        published[f"{ours}.bias"] = take(f"{theirs}.activate.bias")
        published[f"{ours}.noise_strength"] = take(f"{theirs}.noise.weight").reshape(())
        constant = take(f"noises.noise_{noise}")
        published[f"{ours}.noise_const"] = constant.reshape(constant.shape[-2:])

    def to_rgb(theirs: str, ours: str) -> None:
        modulated(theirs, ours)
        published[f"{ours}.bias"] = take(f"{theirs}.bias").flatten()

    published["synthesis.b4.const"] = take("input.input")[0]
    for i in range(layers):
        for leaf in ("weight", "bias"):
            published[f"mapping.fc{i}.{leaf}"] = take(f"style.{i + 1}.{leaf}")
    styled("conv1", "synthesis.b4.conv1", 0)
    to_rgb("to_rgb1", "synthesis.b4.torgb")
    for k in range(resolution.bit_length() - 3):
        block = f"synthesis.b{8 << k}"
        styled(f"convs.{2 * k}", f"{block}.conv0", 2 * k + 1)
        styled(f"convs.{2 * k + 1}", f"{block}.conv1", 2 * k + 2)
        to_rgb(f"to_rgbs.{k}", f"{block}.torgb")
    _nothing_left(state, what)
    if layers == 0:
        raise Refused(f"its {what} has no mapping layers style.1, style.2, …")
    w_dim, z_dim = published["mapping.fc0.weight"].shape
    published["mapping.w_avg"] = torch.zeros(w_dim)
    widths = {
        r: len(published[f"synthesis.b{r}.conv1.bias"]) for r in (4 << k for k in range(resolution.bit_length() - 2))
    }
    base, most = channels_of(widths)
    channels = len(published["synthesis.b4.torgb.bias"])
    return build(
        configured(
            GeneratorConfig, resolution=resolution, z_dim=z_dim, w_dim=w_dim, mapping_layers=layers,
            img_channels=channels, channel_base=base, channel_max=most,
        ),
        published,
        what,
    )  # fmt: skip


def _discriminator(state: dict):
    what = "d"
    _drop_kernels(state, what)
    blocks = count(state, "convs.{}.conv1.0.weight", 1)
    resolution = 4 << blocks
    table = {"convs.0.0.weight": f"b{resolution}.fromrgb.weight", "convs.0.1.bias": f"b{resolution}.fromrgb.bias"}
    for k in range(blocks):
        theirs, ours = f"convs.{k + 1}", f"b{resolution >> k}"
        table |= {
            f"{theirs}.conv1.0.weight": f"{ours}.conv0.weight",
            f"{theirs}.conv1.1.bias": f"{ours}.conv0.bias",
            f"{theirs}.conv2.1.weight": f"{ours}.conv1.weight",
            f"{theirs}.conv2.2.bias": f"{ours}.conv1.bias",
            f"{theirs}.skip.1.weight": f"{ours}.skip.weight",
        }
    table |= {"final_conv.0.weight": "b4.conv.weight", "final_conv.1.bias": "b4.conv.bias"}
    for leaf in ("weight", "bias"):
        table |= {f"final_linear.0.{leaf}": f"b4.fc.{leaf}", f"final_linear.1.{leaf}": f"b4.out.{leaf}"}
    published = {ours: _take(state, theirs, what) for theirs, ours in table.items()}
    _nothing_left(state, what)
    widths = {resolution >> k: len(published[f"b{resolution >> k}.conv0.bias"]) for k in range(blocks)}
    widths[4] = len(published["b4.conv.bias"])
    base, most = channels_of(widths)
    channels = published[f"b{resolution}.fromrgb.weight"].shape[1]
    cfg = configured(
        DiscriminatorConfig, resolution=resolution, img_channels=channels, channel_base=base, channel_max=most
    )
    return build(cfg, published, what)
