"""The StyleGAN2 generator: skip architecture, modulated convolutions, noise (Karras et al. 2020, figures 2c and 7)."""

import math

import torch
from torch import nn

from common.errors import UserError

from .config import GeneratorConfig, check_resolution
from .layers import Dense, Mapping, is_lowp, to_compute
from .ops.bias_act import bias_act
from .ops.few_outputs import few_outputs
from .ops.modulated_conv import LayerEnd, modulated_conv2d
from .ops.native import path
from .ops.upfirdn2d import fir_taps, upfirdn2d

NOISE_MODES = ("random", "const", "none")


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution (optionally doubling the resolution), noise, bias, leaky ReLU."""

    def __init__(self, in_channels: int, out_channels: int, w_dim: int, resolution: int, *, up=1, conv_clamp=None):
        super().__init__()
        self.resolution, self.up, self.conv_clamp = resolution, up, conv_clamp
        self.affine = Dense(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))

    def forward(self, x, w, f, noise_mode, fused):
        noise = None
        if noise_mode == "random":
            shape = (x.shape[0], 1, self.resolution, self.resolution)
            noise = torch.randn(shape, device=x.device, dtype=self.weight.dtype) * self.noise_strength
        elif noise_mode == "const":
            noise = self.noise_const * self.noise_strength
        end = LayerEnd(noise, self.bias, "lrelu", math.sqrt(2), self.conv_clamp)
        # The published checkpoint format has weights for true convolution in upsampling layers, else for correlation.
        correlates = self.up == 1
        return modulated_conv2d(
            x, self.weight, self.affine(w), f, up=self.up, flip_weight=correlates, fused=fused, end=end
        )


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to image channels, without demodulation."""

    def __init__(self, in_channels: int, img_channels: int, w_dim: int, *, conv_clamp=None):
        super().__init__()
        self.conv_clamp = conv_clamp
        self.weight_gain = in_channels**-0.5
        self.affine = Dense(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(img_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(img_channels))

    def forward(self, x, w):
        weight = self.weight.flatten(1) * (self.affine(w) * self.weight_gain).unsqueeze(1)  # [N, O, C]
        y = few_outputs(x, weight)
        return bias_act(y, self.bias.to(y.dtype), clamp=self.conv_clamp).to(w.dtype)


class SynthesisBlock(nn.Module):
    """One resolution: an upsampling and a plain layer (the 4x4 block has only the latter) and an image output."""

    def __init__(self, cfg: GeneratorConfig, resolution: int):
        super().__init__()
        self.resolution = resolution
        out, clamp = cfg.channels(resolution), cfg.conv_clamp
        self.conv0 = None
        if resolution > 4:
            self.conv0 = SynthesisLayer(
                cfg.channels(resolution // 2), out, cfg.w_dim, resolution, up=2, conv_clamp=clamp
            )
        self.conv1 = SynthesisLayer(out, out, cfg.w_dim, resolution, conv_clamp=clamp)
        self.torgb = ToRGB(out, cfg.img_channels, cfg.w_dim, conv_clamp=clamp)
        self.num_convs = 1 if resolution == 4 else 2

    def forward(self, x, img, ws, f, noise_mode, fused):
        if self.conv0 is not None:
            x = self.conv0(x, ws[0], f, noise_mode, fused)
        x = self.conv1(x, ws[self.num_convs - 1], f, noise_mode, fused)
        y = self.torgb(x, ws[self.num_convs])
        if img is not None:
            y = y + upfirdn2d(img, f, up=2, padding=(2, 1, 2, 1), gain=4.0)
        return x, y


class Synthesis(nn.Module):
    """ws -> image."""

    def __init__(self, cfg: GeneratorConfig):
        super().__init__()
        log2 = check_resolution(cfg.resolution)
        self.cfg, self.lowp_dtype = cfg, torch.bfloat16
        self.const = nn.Parameter(torch.randn(cfg.channels(4), 4, 4))
        self.blocks = nn.ModuleList(SynthesisBlock(cfg, 2**k) for k in range(2, log2 + 1))
        self.num_ws = 2 * log2 - 2  # one convolution at 4x4 and two at every other resolution; the last ToRGB's
        self.register_buffer("filter", fir_taps([1, 3, 3, 1]), persistent=False)

    def forward(self, ws, *, noise_mode="random", fused_modconv=None, force_fp32=False):
        """ws [N, num_ws, w_dim] -> [N, img_channels, resolution, resolution] in the parameters' dtype, nominally in
        [-1, 1] but not clipped.

        noise_mode: 'random' draws from the default generator, 'const' uses the stored maps, 'none' adds none.
        fused_modconv: modulate weights instead of activations (None: never, the other is faster; on the reference path
        when not training). force_fp32: ignore `num_lowp_res`.
        """
        cfg = self.cfg
        if fused_modconv is None:
            fused_modconv = path() == "reference" and not self.training
        if ws.ndim != 3 or tuple(ws.shape[1:]) != (self.num_ws, cfg.w_dim):
            raise UserError(f"ws must be [N, {self.num_ws}, {cfg.w_dim}], got {list(ws.shape)}")
        if noise_mode not in NOISE_MODES:
            raise UserError(f"noise_mode must be one of {', '.join(NOISE_MODES)}, got {noise_mode!r}")
        full = self.const.dtype
        ws = ws.to(full).unbind(dim=1)
        x, img, i = self.const.expand(ws[0].shape[0], -1, -1, -1), None, 0
        for block in self.blocks:
            lowp = not force_fp32 and is_lowp(block.resolution, cfg)
            x = to_compute(x, self.lowp_dtype if lowp else full, lowp)
            x, img = block(x, img, ws[i : i + block.num_convs + 1], self.filter, noise_mode, fused_modconv)
            i += block.num_convs
        return img


class Generator(nn.Module):
    """Mapping and synthesis network. `lowp_dtype` (bfloat16; float16 on a GPU) is the type of the `num_lowp_res`
    highest resolutions."""

    def __init__(self, cfg: GeneratorConfig):
        super().__init__()
        self.cfg = cfg
        self.synthesis = Synthesis(cfg)
        self.num_ws = self.synthesis.num_ws
        self.mapping = Mapping(cfg.z_dim, cfg.c_dim, cfg.w_dim, self.num_ws, cfg.mapping_layers)

    @property
    def lowp_dtype(self) -> torch.dtype:
        return self.synthesis.lowp_dtype

    @lowp_dtype.setter
    def lowp_dtype(self, dtype: torch.dtype):
        self.synthesis.lowp_dtype = dtype

    def forward(self, z, c=None, *, psi=1.0, cutoff=None, noise_mode="random", fused_modconv=None, force_fp32=False):
        """z [N, z_dim] (and labels c [N, c_dim]) -> images [N, img_channels, resolution, resolution]; see `Mapping`
        and `Synthesis`."""
        ws = self.mapping(z, c, psi=psi, cutoff=cutoff)
        return self.synthesis(ws, noise_mode=noise_mode, fused_modconv=fused_modconv, force_fp32=force_fp32)
