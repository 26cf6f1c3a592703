"""The StyleGAN2 discriminator: residual blocks, minibatch statistic, projection (Karras et al. 2020, figure 7)."""

import math

import torch
from torch import nn

from common.errors import UserError

from .config import DiscriminatorConfig, check_resolution
from .layers import Dense, Mapping, is_lowp, to_compute
from .ops.bias_act import bias_act
from .ops.conv2d_resample import conv2d_resample
from .ops.upfirdn2d import fir_taps


class Conv(nn.Module):
    """Convolution with equalised learning rate, optional halving of the resolution, bias and activation."""

    def __init__(self, in_channels, out_channels, kernel, *, down=1, act="lrelu", bias=True, conv_clamp=None):
        super().__init__()
        self.down, self.act, self.conv_clamp = down, act, conv_clamp
        self.weight_gain = (in_channels * kernel * kernel) ** -0.5
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, x, f=None, gain=1.0):
        # gain * lrelu(a) = lrelu(gain * a): the gains go into the weights, which are smaller than the activations.
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        gain = gain * math.sqrt(2) if self.act == "lrelu" else gain
        bias = None if self.bias is None else (self.bias * gain).to(x.dtype)
        x = conv2d_resample(x, self.weight, f, down=self.down, gain=self.weight_gain * gain)
        return bias_act(x, bias, act=self.act, gain=1.0, clamp=clamp)


class DiscriminatorBlock(nn.Module):
    """Two 3x3 convolutions, the second halving the resolution, and beside them ('resnet') a 1x1 skip."""

    def __init__(self, cfg: DiscriminatorConfig, resolution: int):
        super().__init__()
        c_in, c_out, clamp = cfg.channels(resolution), cfg.channels(resolution // 2), cfg.conv_clamp
        self.conv0 = Conv(c_in, c_in, 3, conv_clamp=clamp)
        self.conv1 = Conv(c_in, c_out, 3, down=2, conv_clamp=clamp)
        self.skip = None
        if cfg.architecture == "resnet":
            self.skip = Conv(c_in, c_out, 1, down=2, act="linear", bias=False, conv_clamp=clamp)

    def forward(self, x, f):
        if self.skip is None:
            return self.conv1(self.conv0(x), f)
        gain = math.sqrt(0.5)  # keeps the variance of the sum
        return self.conv1(self.conv0(x), f, gain) + self.skip(x, f, gain)


def minibatch_stddev(x, group_size: int, num_channels: int = 1):
    """Append the standard deviation over groups of images, [N, C, ...] -> [N, C + num_channels, ...] (Progressive GAN,
    section 3).

    Image i belongs to group i mod (N / group_size): a group is made of images N / group_size apart. A batch smaller
    than a group is one group.
    """
    n, c, height, width = x.shape
    group = min(group_size, n)
    if n % group:
        raise UserError(f"a batch of {n} images can't be split into minibatch-std groups of {group}: use a multiple")
    y = x.reshape(group, n // group, num_channels, c // num_channels, height, width)
    y = (y - y.mean(dim=0)).square().mean(dim=0)
    y = (y + 1e-8).sqrt().mean(dim=[2, 3, 4])  # [N / group, num_channels]
    y = y.repeat(group, 1).reshape(n, num_channels, 1, 1).expand(-1, -1, height, width)
    return torch.cat([x, y], dim=1)


class Discriminator(nn.Module):
    """Image -> realness logit.

    `lowp_dtype` (bfloat16; float16 on a GPU) is the type of the `num_lowp_res` highest resolutions.
    With `c_dim` the logit is the projection of the image's features on the mapped label (Miyato and Koyama 2018).
    """

    def __init__(self, cfg: DiscriminatorConfig):
        super().__init__()
        log2 = check_resolution(cfg.resolution)
        self.cfg, self.lowp_dtype = cfg, torch.bfloat16
        c4 = cfg.channels(4)
        self.fromrgb = Conv(cfg.img_channels, cfg.channels(cfg.resolution), 1, conv_clamp=cfg.conv_clamp)
        self.blocks = nn.ModuleList(DiscriminatorBlock(cfg, 2**k) for k in range(log2, 2, -1))
        extra = cfg.mbstd_num_channels if cfg.mbstd_group_size else 0
        self.conv = Conv(c4 + extra, c4, 3, conv_clamp=cfg.conv_clamp)
        self.fc = Dense(c4 * 16, c4, act="lrelu")
        self.out = Dense(c4, c4 if cfg.c_dim else 1)
        self.mapping = Mapping(0, cfg.c_dim, c4, None, cfg.mapping_layers) if cfg.c_dim else None
        self.register_buffer("filter", fir_taps([1, 3, 3, 1]), persistent=False)

    def layers_inwards(self) -> list[nn.Module]:
        """The convolutions before the head, from the image inwards: fromrgb, then conv0, conv1 and skip of each block;
        the order in which Freeze-D (Mo et al. 2020) counts them."""
        return [self.fromrgb, *(layer for block in self.blocks for layer in block.children())]

    def features(self, img, *, force_fp32=False) -> list[torch.Tensor]:
        """Output of every block for images [N, img_channels, resolution, resolution] in [-1, 1], from resolution / 2
        down to 4; the last is [N, C, 4, 4] in the parameters' dtype (at resolution 4, `fromrgb`'s)."""
        cfg = self.cfg
        if img.ndim != 4 or tuple(img.shape[1:]) != (cfg.img_channels, cfg.resolution, cfg.resolution):
            raise UserError(
                f"images must be [N, {cfg.img_channels}, {cfg.resolution}, {cfg.resolution}], got {list(img.shape)}"
            )
        full = self.fromrgb.weight.dtype
        lowp = not force_fp32 and is_lowp(cfg.resolution, cfg)
        x = self.fromrgb(to_compute(img, self.lowp_dtype if lowp else full, lowp))
        outputs = []
        for k, block in enumerate(self.blocks):
            lowp = not force_fp32 and is_lowp(cfg.resolution >> k, cfg)
            x = block(to_compute(x, self.lowp_dtype if lowp else full, lowp), self.filter)
            outputs.append(x)
        return [*outputs[:-1], x.to(full)]

    def head(self, x4, c=None, *, batches=1):
        """Features [N, C, 4, 4] (and labels [N, c_dim]) -> logits [N, 1], in full precision; `batches` as in
        `forward`."""
        cfg = self.cfg
        x = x4.to(self.fc.weight.dtype)
        if cfg.mbstd_group_size:
            size, channels = cfg.mbstd_group_size, cfg.mbstd_num_channels
            parts = [minibatch_stddev(batch, size, channels) for batch in x.chunk(batches)]
            x = torch.cat(parts) if batches > 1 else parts[0]
        x = self.out(self.fc(self.conv(x).flatten(1)))
        if self.mapping is None:
            return x
        return (x * self.mapping(None, c)).sum(dim=1, keepdim=True) * x.shape[1] ** -0.5

    def forward(self, img, c=None, *, force_fp32=False, batches=1):
        """Images [N, img_channels, resolution, resolution] in [-1, 1] (and labels c [N, c_dim]) -> logits [N, 1];
        high is real.

        batches: as many batches of one size lie one behind the other in `img`; the minibatch statistic is of each.
        """
        return self.head(self.features(img, force_fp32=force_fp32)[-1], c, batches=batches)
