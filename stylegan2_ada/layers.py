"""Layers shared by the generator and the discriminator: equalised-rate dense layer and the latent mapping network."""

import torch
from torch import nn

from common.errors import UserError

from .config import DiscriminatorConfig, GeneratorConfig
from .ops.bias_act import bias_act
from .ops.dense import dense
from .ops.native import path


def unit_rms(latents: torch.Tensor) -> torch.Tensor:
    """[N, C], each row divided by its root mean square: z on its way into the mapping network (StyleGAN, Karras et al.
    2019, section 2, with the pixel norm of Progressive GAN, Karras et al. 2018, section 4.2)."""
    power = latents.square().mean(dim=1, keepdim=True)
    return latents * torch.rsqrt(power + 1e-8)


def is_lowp(resolution: int, cfg: GeneratorConfig | DiscriminatorConfig) -> bool:
    """Whether the block at `resolution` is one of the `num_lowp_res` highest; 4x4 never is."""
    return resolution >= 8 and resolution > cfg.resolution >> cfg.num_lowp_res


def to_compute(x, dtype, lowp: bool):
    """Cast to the dtype of a block, channels-last on a CPU and in low precision: their convolutions are faster so."""
    if (lowp or x.device.type == "cpu") and path() != "reference":
        return x.to(dtype=dtype, memory_format=torch.channels_last)
    return x.to(dtype=dtype, memory_format=torch.contiguous_format)


class Dense(nn.Module):
    """Fully connected layer with equalised learning rate (Progressive GAN, section 4.1), [N, in] -> [N, out].

    The stored weights have standard deviation `1 / lr_multiplier`; `lr_multiplier / sqrt(in)` scales them at run time.
    """

    def __init__(self, in_features: int, out_features: int, *, act="linear", lr_multiplier=1.0, bias_init=0.0):
        super().__init__()
        self.act, self.lr_multiplier = act, lr_multiplier
        self.weight_gain = lr_multiplier / in_features**0.5
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full([out_features], float(bias_init)))

    def forward(self, x):
        y = dense(x, self.weight, self.bias, gain=self.weight_gain, bias_gain=self.lr_multiplier)
        return y if self.act == "linear" else bias_act(y, act=self.act)


class Mapping(nn.Module):
    """z (and label) -> w (StyleGAN, Karras et al. 2019, section 2; W average and truncation: appendix B).

    `num_ws` copies of w are returned, one for each synthesis layer, and the buffer `w_avg` is the mean w, which the
    trainer keeps up; None returns the bare [N, w_dim] and has no average, which is how the projection discriminator
    embeds its label (with `z_dim=0`). The layers learn at 1/100 of the rate.
    """

    w_avg: torch.Tensor

    def __init__(self, z_dim: int, c_dim: int, w_dim: int, num_ws: int | None, num_layers: int):
        super().__init__()
        if z_dim == 0 and c_dim == 0:
            raise UserError("a mapping network needs z_dim or c_dim above 0")
        if num_layers < 1:
            raise UserError(f"mapping_layers must be at least 1, got {num_layers}")
        self.z_dim, self.c_dim, self.w_dim, self.num_ws = z_dim, c_dim, w_dim, num_ws
        self.embed = Dense(c_dim, w_dim) if c_dim else None
        widths = [z_dim + (w_dim if c_dim else 0)] + [w_dim] * num_layers
        self.layers = nn.ModuleList(
            Dense(i, o, act="lrelu", lr_multiplier=0.01) for i, o in zip(widths[:-1], widths[1:], strict=True)
        )
        if num_ws is not None:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z, c=None, *, psi=1.0, cutoff=None):
        """z [N, z_dim], normal (None where `z_dim` is 0), and labels c [N, c_dim] -> [N, num_ws, w_dim], or [N, w_dim]
        without `num_ws`.

        c: one-hot or any vector; ignored where `c_dim` is 0. psi: truncation, `w_avg + psi * (w - w_avg)`; 1 is none.
        cutoff: truncate only the first `cutoff` of the `num_ws` layers; None is all.
        """
        inputs = []
        if self.z_dim:
            if z is None or z.ndim != 2 or z.shape[1] != self.z_dim:
                raise UserError(f"z must be [N, {self.z_dim}], got {None if z is None else list(z.shape)}")
            inputs.append(unit_rms(z.to(self.layers[0].weight.dtype)))
        if self.c_dim:
            if c is None or c.ndim != 2 or c.shape[1] != self.c_dim:
                got = None if c is None else list(c.shape)
                raise UserError(f"this network is conditional: c must be [N, {self.c_dim}], got {got}")
            inputs.append(unit_rms(self.embed(c.to(self.embed.weight.dtype))))
        x = torch.cat(inputs, dim=1) if len(inputs) > 1 else inputs[0]
        for layer in self.layers:
            x = layer(x)
        return x if self.num_ws is None else self.spread(x, psi, cutoff)

    def spread(self, w, psi=1.0, cutoff=None):
        """w [N, w_dim] -> ws [N, num_ws, w_dim], truncated as in `forward`."""
        ws = w.unsqueeze(1).repeat(1, self.num_ws, 1)  # a copy: style mixing may write into it
        if psi == 1:
            return ws
        cutoff = self.num_ws if cutoff is None else cutoff
        return torch.cat([self.w_avg.lerp(ws[:, :cutoff], psi), ws[:, cutoff:]], dim=1)
