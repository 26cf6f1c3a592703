"""Adaptive discriminator augmentation: the 18 transformations applied to every image the discriminator sees.

Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data", Section 2 and Appendix B. Every
transformation is differentiable, so that the generator and the R1 penalty see through it, and is left out with
probability 1 - p, so that the discriminator can't teach the generator to draw it.
"""

import math
from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor, nn

from common.errors import UserError

from . import ada_warp as geo
from .ada_draws import Draws
from .ada_filters import BAND_POWER, SYM6, filter_bands, filter_bank
from .ada_pipes import AUGPIPES as AUGPIPES
from .ops.upfirdn2d import setup_filter


class AugmentPipe(nn.Module):
    """Augment images, each transformation with probability p times its multiplier.

    Arguments, all as published (Appendix B). Multipliers, 0 = off:
        blit:   xflip; rotate90 (quarter turns); xint (shift by whole pixels, up to `xint_max` of the size)
        geom:   scale and aniso (2 to a normal of `scale_std`, `aniso_std`); rotate (up to `rotate_max` half turns);
                xfrac (shift by a normal of `xfrac_std` of the size)
        color:  brightness (normal of `brightness_std`); contrast and saturation (2 to a normal of their `_std`);
                lumaflip (negative brightness, every other time); hue (up to `hue_max` half turns)
        filter: imgfilter (each of four octaves amplified by 2 to a normal of `imgfilter_std`, with probability
                `imgfilter_bands[octave]`)
        noise (normal, its standard deviation the absolute value of a normal of `noise_std`); cutout (zero, that
                is grey, in a rectangle of `cutout_size` of the width and height)
    margin: how far the geometric transformations see beyond the image (the borders are mirrored). None, as published,
        is as far as this batch's draws reach, at most one image; it leaves out images whose draws change nothing, and
        on a GPU it waits for the draws once a call. A number from 0 to 1, as a share of the image size, fixes it: no
        wait, constant shapes, more memory (1 makes the padded image nine times as large); draws that reach further
        see zeros there.

    `p` is a buffer, a scalar in [0, 1], to be written by `set_p` or in place (`pipe.p.fill_(0.3)`); it starts at 1.
    """

    def __init__(
        self,
        *,
        xflip: float = 0,
        rotate90: float = 0,
        xint: float = 0,
        xint_max: float = 0.125,
        scale: float = 0,
        rotate: float = 0,
        aniso: float = 0,
        xfrac: float = 0,
        scale_std: float = 0.2,
        rotate_max: float = 1,
        aniso_std: float = 0.2,
        xfrac_std: float = 0.125,
        brightness: float = 0,
        contrast: float = 0,
        lumaflip: float = 0,
        hue: float = 0,
        saturation: float = 0,
        brightness_std: float = 0.2,
        contrast_std: float = 0.5,
        hue_max: float = 1,
        saturation_std: float = 1,
        imgfilter: float = 0,
        imgfilter_bands: tuple[float, float, float, float] = (1, 1, 1, 1),
        imgfilter_std: float = 1,
        noise: float = 0,
        cutout: float = 0,
        noise_std: float = 0.1,
        cutout_size: float = 0.5,
        margin: float | None = None,
    ):
        super().__init__()
        if margin is not None and not 0 <= margin <= 1:
            raise UserError(f"margin must be None or a share of the image size from 0 to 1, not {margin}")
        self.xflip, self.rotate90, self.xint, self.xint_max = xflip, rotate90, xint, xint_max
        self.scale, self.rotate, self.aniso, self.xfrac = scale, rotate, aniso, xfrac
        self.scale_std, self.rotate_max, self.aniso_std, self.xfrac_std = scale_std, rotate_max, aniso_std, xfrac_std
        self.brightness, self.contrast, self.lumaflip = brightness, contrast, lumaflip
        self.hue, self.saturation = hue, saturation
        self.brightness_std, self.contrast_std = brightness_std, contrast_std
        self.hue_max, self.saturation_std = hue_max, saturation_std
        self.imgfilter, self.imgfilter_bands, self.imgfilter_std = imgfilter, tuple(imgfilter_bands), imgfilter_std
        self.noise, self.cutout, self.noise_std, self.cutout_size = noise, cutout, noise_std, cutout_size
        self.margin = margin
        self.register_buffer("p", torch.ones([]))
        # Constants of the published pipeline: no part of the state a run has to keep.
        self.register_buffer("taps", setup_filter(SYM6), persistent=False)
        self.register_buffer("bank", torch.tensor(filter_bank(), dtype=torch.float32), persistent=False)
        self._known_p: tuple[Tensor, int, float] | None = None

    def forward(self, images: Tensor, *, debug_percentile: float | None = None) -> Tensor:
        """Augment [N, C, H, W] images in [-1, 1] (the result may leave that range).

        debug_percentile: apply every transformation to every image, each random number at this percentile of its
            distribution, 0 < percentile < 1 (for tests).

        Random numbers come from the default generators of the host (with a fixed margin: of the images' device) and,
        for noise, of the images' device; a call takes the same amount of them
        whatever p > 0 is, and none at p = 0, where the images are returned as they are.
        Raises ValueError for images that are not floating NCHW, or for colour transformations of other than 1 or 3
        channels.
        """
        if images.ndim != 4 or not images.is_floating_point():
            raise UserError(
                f"images must be a floating [N, C, H, W] tensor, not {images.dtype} of shape {list(images.shape)}"
            )
        colours = max(self.brightness, self.contrast, self.lumaflip, self.hue, self.saturation) > 0
        if colours and images.shape[1] not in (1, 3):
            raise UserError(
                f"colour augmentation needs images of 1 or 3 channels, not {images.shape[1]}: use the set 'bg' instead"
            )
        if images.numel() == 0 or (debug_percentile is None and self._p_on_host() == 0):
            return images
        dtype = images.dtype
        if images.element_size() < 4:  # half precision cannot tell neighbouring pixels' positions apart
            images = images.float()
        # With a fixed margin nothing depends on the numbers drawn, and they are drawn where the images are. Otherwise
        # they are drawn on the host, which then knows what to do without waiting for a GPU; and its few hundred small
        # sums cost less there than launching them on a GPU would.
        device = torch.device("cpu") if self.margin is None else images.device
        p = self._p_on_host() if self.margin is None else self.p
        draws = Draws(len(images), device, debug_percentile)

        maps = self._maps(draws, p, *images.shape[2:])
        if maps is not None:
            changed = (maps != torch.eye(3, device=maps.device)).flatten(1).any(1)
            images = self._on_changed(images, changed, self._warp, maps)
        if colours:
            matrices = self._colour_matrices(draws, p)
            changed = (matrices != torch.eye(4, device=matrices.device)).flatten(1).any(1)
            images = self._on_changed(images, changed, _recolour, matrices)
        if self.imgfilter > 0:
            gains = self._band_gains(draws, p)
            images = self._on_changed(images, (gains != 1).any(1), self._filter, gains)
        if self.noise > 0:
            strength = self.noise * p
            sigma = draws.normal("noise", self.noise_std).abs() * draws.chosen("noise", strength)
            images = images + torch.randn_like(images) * sigma.to(images, non_blocking=True)[:, None, None, None]
        if self.cutout > 0:
            images = self._cut_out(images, draws, self.cutout * p)
        return images.to(dtype)

    def set_p(self, p: float) -> None:
        """Write the buffer `p` without a later wait for a GPU to read it."""
        self.p.fill_(p)
        self._known_p = (self.p, self.p._version, p)

    def _p_on_host(self) -> float:
        """p as a number. Reading it off a GPU makes that finish its queue: only done if `set_p` didn't write it."""
        if self.p.device.type == "cpu":
            return float(self.p)
        if self._known_p is None or self._known_p[0] is not self.p or self._known_p[1] != self.p._version:
            self._known_p = (self.p, self.p._version, float(self.p))
        return self._known_p[2]

    def _on_changed(self, images: Tensor, changed: Tensor, transform: Callable, parameters: Tensor) -> Tensor:
        """transform(images, parameters), sparing images that drew no change (none are spared when shapes are fixed)."""
        if self.margin is not None or changed.all():
            return transform(images, parameters)
        index = changed.nonzero()[:, 0]
        if len(index) == 0:
            return images
        on_device = index.to(images.device, non_blocking=True)
        return images.index_copy(0, on_device, transform(images.index_select(0, on_device), parameters[index]))

    def _maps(self, draws: Draws, p: float | Tensor, height: int, width: int) -> Tensor | None:
        """Place in the result to place in the source, [n, 3, 3]; None when no geometric transformation is on.

        The source is transformed by the first transformation first, so its inverse stands leftmost.
        """
        one = draws.constant
        inverses = []

        def chosen(name: str, strength: float | Tensor, value: Tensor, identity: float) -> Tensor:
            return torch.where(draws.chosen(name, strength), value, identity)

        if self.xflip > 0:
            flip = chosen("xflip", self.xflip * p, draws.integer("xflip", 2), 0)
            inverses.append(geo.scaling(1 - 2 * flip, one))
        if self.rotate90 > 0:
            turns = chosen("rotate90", self.rotate90 * p, draws.integer("rotate90", 4), 0)
            inverses.append(geo.rotation(turns * (math.pi / 2)).round())
        if self.xint > 0:
            on = draws.chosen("xint", self.xint * p)
            tx = (draws.uniform("xint.x", -self.xint_max, self.xint_max) * width).round()
            ty = (draws.uniform("xint.y", -self.xint_max, self.xint_max) * height).round()
            inverses.append(geo.translation(-tx * on, -ty * on))
        if self.scale > 0:
            s = chosen("scale", self.scale * p, draws.log2_normal("scale", self.scale_std), 1)
            inverses.append(geo.scaling(1 / s, 1 / s))
        # Two independent rotations, each this likely, leave an image unrotated with probability 1 - p (Appendix B).
        strength = self.rotate * p
        p_rotate = (
            1 - (1 - strength).clamp(0, 1).sqrt() if isinstance(strength, Tensor) else 1 - max(1 - strength, 0) ** 0.5
        )
        half_turns = self.rotate_max * math.pi
        if self.rotate > 0:
            angle = chosen("rotate.before", p_rotate, draws.uniform("rotate.before", -half_turns, half_turns), 0)
            inverses.append(geo.rotation(angle))
        if self.aniso > 0:
            s = chosen("aniso", self.aniso * p, draws.log2_normal("aniso", self.aniso_std), 1)
            inverses.append(geo.scaling(1 / s, s))
        if self.rotate > 0:
            angle = chosen("rotate.after", p_rotate, draws.uniform("rotate.after", -half_turns, half_turns), 0)
            inverses.append(geo.rotation(angle))
        if self.xfrac > 0:
            on = draws.chosen("xfrac", self.xfrac * p)
            tx = draws.normal("xfrac.x", self.xfrac_std) * width
            ty = draws.normal("xfrac.y", self.xfrac_std) * height
            inverses.append(geo.translation(-tx * on, -ty * on))
        return reduce(torch.matmul, inverses) if inverses else None

    def _warp(self, images: Tensor, maps: Tensor) -> Tensor:
        h, w = images.shape[2:]
        if self.margin is None:
            margin = geo.fitted_margin(maps, h, w, len(self.taps))
        else:
            mx, my = (min(math.ceil(self.margin * size), size - 1) for size in (w, h))
            margin = (mx, mx, my, my)
        return geo.warp(images, maps, self.taps, margin)

    def _colour_matrices(self, draws: Draws, p: float | Tensor) -> Tensor:
        """Colour to colour, [n, 4, 4] on (red, green, blue, 1). Grey is the axis (1, 1, 1)."""
        one, zero = draws.constant, draws.constant * 0
        eye, grey = torch.eye(4, device=one.device), torch.tensor([1.0, 1, 1, 0], device=one.device) / 3**0.5
        onto_grey = torch.outer(grey, grey)
        result = eye.expand(len(one), 4, 4)
        if self.brightness > 0:
            b = draws.normal("brightness", self.brightness_std) * draws.chosen("brightness", self.brightness * p)
            result = geo.matrix([[1, 0, 0, b], [0, 1, 0, b], [0, 0, 1, b], [0, 0, 0, 1]], like=one) @ result
        if self.contrast > 0:
            c = draws.log2_normal("contrast", self.contrast_std)
            c = torch.where(draws.chosen("contrast", self.contrast * p), c, 1)
            result = torch.diag_embed(torch.stack([c, c, c, one], dim=-1)) @ result
        if self.lumaflip > 0:
            i = draws.integer("lumaflip", 2) * draws.chosen("lumaflip", self.lumaflip * p)
            result = (eye - 2 * onto_grey * i[:, None, None]) @ result  # a Householder reflection along grey
        if self.hue > 0:
            angle = draws.uniform("hue", -math.pi, math.pi) * self.hue_max
            angle = torch.where(draws.chosen("hue", self.hue * p), angle, zero)[:, None, None]
            # Rodrigues' rotation about the grey axis.
            cross = (
                torch.tensor([[0.0, -1, 1, 0], [1, 0, -1, 0], [-1, 1, 0, 0], [0, 0, 0, 0]], device=one.device) / 3**0.5
            )
            colours = torch.diag(torch.tensor([1.0, 1, 1, 0], device=one.device)) - onto_grey
            result = (eye - colours + colours * angle.cos() + cross * angle.sin()) @ result
        if self.saturation > 0:
            s = draws.log2_normal("saturation", self.saturation_std)
            s = torch.where(draws.chosen("saturation", self.saturation * p), s, 1)[:, None, None]
            colours = torch.diag(torch.tensor([1.0, 1, 1, 0], device=one.device)) - onto_grey
            result = (eye - colours + colours * s) @ result
        return result

    def _band_gains(self, draws: Draws, p: float | Tensor) -> Tensor:
        """Amplification of the four octaves, [n, 4], such that the power of a natural image is kept (Appendix B)."""
        power = torch.tensor(BAND_POWER, device=draws.constant.device)
        gains = draws.constant[:, None].repeat(1, len(BAND_POWER))
        for i, multiplier in enumerate(self.imgfilter_bands):
            name = f"imgfilter.{i}"
            t = draws.log2_normal(name, self.imgfilter_std)
            t = torch.where(draws.chosen(name, self.imgfilter * p * multiplier), t, 1)
            one_band = torch.where(torch.arange(len(BAND_POWER), device=t.device) == i, t[:, None], 1)
            gains = gains * one_band / (one_band.square() * power).sum(1, keepdim=True).sqrt()
        return gains

    def _filter(self, images: Tensor, gains: Tensor) -> Tensor:
        return filter_bands(images, gains.to(images, non_blocking=True), self.bank)

    def _cut_out(self, images: Tensor, draws: Draws, strength: float | Tensor) -> Tensor:
        """Set a rectangle of each image to zero; its centre is anywhere, so it may be partly outside."""
        h, w = images.shape[2:]
        half = self.cutout_size / 2 * draws.chosen("cutout", strength)

        def outside(name: str, size: int) -> Tensor:
            centres = (torch.arange(size, device=half.device) + 0.5) / size
            return (centres - draws.uniform(name, 0, 1)[:, None]).abs() >= half[:, None]

        keep = outside("cutout.x", w)[:, None, None, :] | outside("cutout.y", h)[:, None, :, None]
        return images * keep.to(images, non_blocking=True)


def _recolour(images: Tensor, matrices: Tensor) -> Tensor:
    """Apply [n, 4, 4] colour matrices to [n, 3, H, W], or their effect on grey to [n, 1, H, W]."""
    matrices = matrices.to(images, non_blocking=True)
    n, channels = images.shape[:2]
    if channels == 1:
        row = matrices[:, :3].mean(1)  # grey in, mean of the three channels out
        return torch.addcmul(row[:, 3].view(n, 1, 1, 1), images, row[:, :3].sum(1).view(n, 1, 1, 1))
    return torch.baddbmm(matrices[:, :3, 3:], matrices[:, :3, :3], images.flatten(2)).reshape(images.shape)
