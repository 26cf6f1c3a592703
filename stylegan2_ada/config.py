"""Shapes of generators and discriminators, and training presets (StyleGAN2-ADA, Karras et al. 2020, appendix C)."""

from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

from common.errors import UserError
from common.reading import shown

IMAGE_CHANNELS = (1, 3, 4)
MAX_WIDTH = 1 << 16  # of a layer, and labels
MAX_LAYERS = 64  # of a mapping network
# of the fields that decide how large a network is; a file's header may claim anything
BOUNDS = {
    "z_dim": (0, MAX_WIDTH),
    "c_dim": (0, MAX_WIDTH),
    "w_dim": (1, MAX_WIDTH),
    "mapping_layers": (0, MAX_LAYERS),
    "channel_base": (1, 1 << 24),
    "channel_max": (1, MAX_WIDTH),
    "num_lowp_res": (0, 16),
    "mbstd_group_size": (0, 1 << 20),
    "mbstd_num_channels": (0, MAX_WIDTH),
}


def check_resolution(resolution: int) -> int:
    """log2 of `resolution`; ValueError unless it is a power of two from 4 to 2048."""
    if not isinstance(resolution, int) or not 4 <= resolution <= 2048 or resolution & (resolution - 1):
        raise UserError(
            f"resolution must be a power of two from 4 to 2048, got {shown(resolution)}; 64, 128 and 256 are usual"
        )
    return resolution.bit_length() - 1


class _Shape:
    """What the shapes of both networks have in common; each is a dataclass."""

    resolution: int
    img_channels: int
    channel_base: int
    channel_max: int
    num_lowp_res: int
    conv_clamp: float | None
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __post_init__(self) -> None:
        check_resolution(self.resolution)
        for name, (low, high) in BOUNDS.items():
            value = getattr(self, name, low)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise UserError(f"{name} must be a whole number from {low} to {high}, got {shown(value)}")
        clamp = self.conv_clamp
        if clamp is not None and (not isinstance(clamp, int | float) or not 0 < clamp < 1e30):
            raise UserError(f"conv_clamp must be a positive number or None, got {shown(clamp)}")
        if self.img_channels not in IMAGE_CHANNELS:
            raise UserError(f"img_channels must be 1 (grey), 3 (RGB) or 4 (RGBA), got {shown(self.img_channels)}")

    def channels(self, res: int) -> int:
        return max(min(self.channel_base // res, self.channel_max), 1)

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> Self:
        if not isinstance(values, dict):
            raise UserError(f"a {cls.__name__} must be an object, not {shown(values)}")
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise UserError(
                f"{cls.__name__} has no field {shown(unknown[0])}; it was written by another version or is another's"
            )
        return cls(**values)


@dataclass(frozen=True)
class GeneratorConfig(_Shape):
    """Shape of a generator.

    A block at resolution `res` has `min(channel_base / res, channel_max)` channels. The `num_lowp_res` highest
    resolutions run in `lowp_dtype`. `conv_clamp` bounds activations: 256 with float16 (StyleGAN2-ADA, appendix C), None
    for no bound (bfloat16 has the range of float32 and needs none).
    """

    resolution: int
    z_dim: int = 512
    c_dim: int = 0
    w_dim: int = 512
    mapping_layers: int = 8
    img_channels: int = 3
    channel_base: int = 32768
    channel_max: int = 512
    num_lowp_res: int = 0
    conv_clamp: float | None = None


@dataclass(frozen=True)
class DiscriminatorConfig(_Shape):
    """Shape of a discriminator; fields as in `GeneratorConfig`. `architecture` is 'resnet' or 'orig' (no skip
    connections);
    `mbstd_group_size` images share one minibatch standard deviation (0 turns the layer off)."""

    resolution: int
    c_dim: int = 0
    img_channels: int = 3
    channel_base: int = 32768
    channel_max: int = 512
    num_lowp_res: int = 0
    conv_clamp: float | None = None
    architecture: str = "resnet"
    mbstd_group_size: int = 4
    mbstd_num_channels: int = 1
    mapping_layers: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.architecture not in ("resnet", "orig"):
            raise UserError(f"discriminator architecture must be 'resnet' or 'orig', got {shown(self.architecture)}")


@dataclass(frozen=True)
class Preset:
    """One training configuration: the columns of the paper's table.

    `kimg`: thousands of real images shown. `batch`: images a step, all processes. `mbstd`: images a minibatch-std
    group. `gamma`: weight of R1. `ema_kimg`: half-life of the weight average in thousands of images, `ema_rampup`: it
    is at most this share of the images seen (None: no ramp).
    """

    kimg: int
    batch: int
    mbstd: int
    channel_base: int
    channel_max: int
    z_dim: int
    w_dim: int
    mapping_layers: int
    lr: float
    gamma: float
    ema_kimg: float
    ema_rampup: float | None
    pl_weight: float = 2.0
    style_mixing_prob: float = 0.9
    d_architecture: str = "resnet"


# cfg: kimg, batch, mbstd, channel_base, lr, gamma, ema_kimg, ema_rampup, mapping_layers
_FIXED = {
    "stylegan2": (25000, 32, 4, 32768, 0.002, 10.0, 10.0, None, 8),
    "paper256": (25000, 64, 8, 16384, 0.0025, 1.0, 20.0, None, 8),
    "paper512": (25000, 64, 8, 32768, 0.0025, 0.5, 20.0, None, 8),
    "paper1024": (25000, 32, 4, 32768, 0.002, 2.0, 10.0, None, 8),
    "cifar": (100000, 64, 32, 32768, 0.0025, 0.01, 500.0, 0.05, 2),
}
PRESETS = ("auto", *_FIXED, "tiny")


def preset(cfg: str, resolution: int, world_size: int = 1) -> Preset:
    """The training configuration `cfg` at `resolution` pixels for `world_size` processes.

    `auto` scales batch, gamma, channels and averaging with resolution and processes; `tiny` is this project's own
    configuration for a CPU: a narrow network, small batches, a stronger R1 and a length that ends.
    """
    check_resolution(resolution)
    if cfg not in PRESETS:
        raise UserError(f"unknown preset {cfg!r}; choose one of {', '.join(PRESETS)}")
    if world_size < 1:
        raise UserError(f"world_size must be at least 1, got {world_size}")
    if cfg in _FIXED:
        kimg, batch, mbstd, base, lr, gamma, ema_kimg, rampup, layers = _FIXED[cfg]
        rest = (0.0, 0.0, "orig") if cfg == "cifar" else ()
        return Preset(kimg, batch, mbstd, base, 512, 512, 512, layers, lr, gamma, ema_kimg, rampup, *rest)
    if cfg == "tiny":
        # gamma: at these batch sizes the rule of `auto` leaves R1 so weak that the generator hides behind its noise
        # inputs (docs/results.md); 1 was better at 32 and 64 pixels
        mbstd = max(min(8 // world_size, 4), 1)
        return Preset(100, 8, mbstd, min(2048, 32 * resolution), 256, 128, 128, 2, 0.0025, 1.0, 2.5, 0.05)
    share = max(min(world_size * min(4096 // resolution, 32), 64), world_size) // world_size
    batch = world_size * (share - share % min(share, 4))  # whole minibatch-std groups for any number of processes
    return Preset(
        kimg=25000,
        batch=batch,
        mbstd=max(min(batch // world_size, 4), 1),
        channel_base=32768 if resolution >= 512 else 16384,
        channel_max=512,
        z_dim=512,
        w_dim=512,
        mapping_layers=2,
        lr=0.002 if resolution >= 1024 else 0.0025,
        gamma=0.0002 * resolution**2 / batch,
        ema_kimg=batch * 10 / 32,
        ema_rampup=0.05,
    )
