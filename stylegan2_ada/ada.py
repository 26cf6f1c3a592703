"""Adaptive discriminator augmentation: the 18 transformations applied to every image the discriminator sees.

Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data", Section 2 and Appendix B. Every
transformation is differentiable, so that the generator and the R1 penalty see through it, and is left out with
probability 1 - p, so that the discriminator can't teach the generator to draw it.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial, reduce

import torch
from torch import Tensor, nn

from common.errors import UserError

from . import ada_warp as geo
from .ada_draws import AdaDraws
from .ada_filters import BAND_POWER, SYM6, filter_bands, filter_bank
from .ada_pipes import TRANSFORMATIONS, Transformation
from .ops.upfirdn2d import fir_taps


class AugmentPipe(nn.Module):
    """Augment images, each transformation with probability p times its multiplier.

    which: names of `TRANSFORMATIONS`, such as a set of `AUGPIPES`, or rows like theirs with other numbers.
    The geometric transformations see as far beyond the image (the borders are mirrored) as this batch's draws reach, at
    most one image. Images whose draws change nothing are left out.

    `p` is a buffer, a scalar in [0, 1], to be written by `set_p` or in place (`pipe.p.fill_(0.3)`); it starts at 1.
    """

    p: Tensor
    taps: Tensor
    bank: Tensor

    def __init__(self, which: Iterable[str | Transformation]):
        super().__init__()
        self.rows: dict[str, Transformation] = {}
        for given in which:
            row = TRANSFORMATIONS.get(given) if isinstance(given, str) else given
            if row is None:
                raise UserError(f"no transformation is called {given!r}: choose from {', '.join(TRANSFORMATIONS)}")
            if row.multiplier > 0:
                self.rows[row.name] = row
        self.groups = {row.group for row in self.rows.values()}
        self.register_buffer("p", torch.ones([]))
        # Constants: no part of the state that a run has to keep.
        self.register_buffer("taps", fir_taps(SYM6), persistent=False)
        self.register_buffer("bank", torch.tensor(filter_bank(), dtype=torch.float32), persistent=False)
        self._known_p: tuple[Tensor, int, float] | None = None

    def forward(self, images: Tensor, *, debug_percentile: float | None = None) -> Tensor:
        """Augment [N, C, H, W] images in [-1, 1] (the result may leave that range).

        debug_percentile: apply every transformation to every image, each random number at this percentile of its
            distribution, 0 < percentile < 1 (for tests).

        Random numbers come from the default generators of the host and, for noise, of the images' device; a call takes
        the same amount of them whatever p > 0 is, and none at p = 0, where the images are returned as they are.
        Raises ValueError for images that are not floating NCHW, or for colour transformations of other than 1 or 3
        channels.
        """
        if images.ndim != 4 or not images.is_floating_point():
            raise UserError(
                f"images must be a floating [N, C, H, W] tensor, not {images.dtype} of shape {list(images.shape)}"
            )
        if "color" in self.groups and images.shape[1] not in (1, 3):
            raise UserError(
                f"colour augmentation needs images of 1 or 3 channels, not {images.shape[1]}: use the set 'bg' instead"
            )
        p = self._p_on_host()
        if images.numel() == 0 or (debug_percentile is None and p == 0):
            return images
        dtype = images.dtype
        if images.element_size() < 4:  # half precision cannot tell neighbouring pixels' positions apart
            images = images.float()
        # Drawn on the host, which then knows what to do without waiting for a GPU; and its few hundred small sums cost
        # less there than launching them on a GPU would.
        draws = AdaDraws(len(images), debug_percentile)

        maps = self._maps(draws, p, *images.shape[2:])
        if maps is not None:
            changed = (maps != torch.eye(3)).flatten(1).any(1)
            images = self._on_changed(images, changed, partial(geo.warp, taps=self.taps), maps)
        if "color" in self.groups:
            matrices = self._colour_matrices(draws, p)
            changed = (matrices != torch.eye(4)).flatten(1).any(1)
            images = self._on_changed(images, changed, _recolour, matrices)
        if "filter" in self.groups:
            gains = self._band_gains(draws, p)
            images = self._on_changed(images, (gains != 1).any(1), partial(filter_bands, bank=self.bank), gains)
        if (deviation := self._number(draws, p, "noise")) is not None:
            sigma = deviation.abs().to(images, non_blocking=True)
            images = images + torch.randn_like(images) * sigma[:, None, None, None]
        if "cutout" in self.groups:
            images = self._cut_out(images, draws, p)
        return images.to(dtype)

    def set_p(self, p: float) -> None:
        """Write the buffer `p` without a later wait for a GPU to read it."""
        self.p.fill_(p)
        self._known_p = (self.p, self.p._version, p)

    def _p_on_host(self) -> float:
        """p as a number. Reading it off a GPU makes that finish its queue: only done if `set_p` didn't write it."""
        if self.p.device.type == "cpu":
            return float(self.p)
        known = self._known_p
        if known is None or known[0] is not self.p or known[1] != self.p._version:
            known = self._known_p = (self.p, self.p._version, float(self.p))
        return known[2]

    def _on_changed(self, images: Tensor, changed: Tensor, transform: Callable, parameters: Tensor) -> Tensor:
        """transform(images, parameters), sparing images that drew no change."""
        if changed.all():
            return transform(images, parameters)
        index = changed.nonzero()[:, 0]
        if len(index) == 0:
            return images
        on_device = index.to(images.device, non_blocking=True)
        return images.index_copy(0, on_device, transform(images.index_select(0, on_device), parameters[index]))

    def _number(self, draws: AdaDraws, p: float, name: str) -> Tensor | None:
        """A transformation's number for each image, [n]: as drawn, or what does nothing. None if it is switched off."""
        return self._part(draws, p, name) if name in self.rows else None

    def _part(self, draws: AdaDraws, p: float, name: str, part: str = "") -> Tensor:
        row = self.rows[name]
        return torch.where(draws.chosen(name, row.multiplier * p), draws.number(row, part), row.identity)

    def _maps(self, draws: AdaDraws, p: float, height: int, width: int) -> Tensor | None:
        """Place in the result to place in the source, [n, 3, 3]; None when no geometric transformation is on.

        The source is transformed by the first transformation first, so its inverse stands leftmost.
        """
        one = draws.constant
        inverses = []
        if (flip := self._number(draws, p, "mirror")) is not None:
            inverses.append(geo.scaling(1 - 2 * flip, one))
        if (turns := self._number(draws, p, "quarter_turn")) is not None:
            inverses.append(geo.rotation(turns * (math.pi / 2)).round())
        if "whole_shift" in self.rows:
            tx, ty = (self._part(draws, p, "whole_shift", axis) for axis in (".x", ".y"))
            inverses.append(geo.translation(-(tx * width).round(), -(ty * height).round()))
        if (s := self._number(draws, p, "scale")) is not None:
            inverses.append(geo.scaling(1 / s, 1 / s))
        if "rotation" in self.rows:
            inverses.append(geo.rotation(self._angle(draws, p, ".before")))
        if (s := self._number(draws, p, "stretch")) is not None:
            inverses.append(geo.scaling(1 / s, s))
        if "rotation" in self.rows:
            inverses.append(geo.rotation(self._angle(draws, p, ".behind")))
        if "shift" in self.rows:
            tx, ty = (self._part(draws, p, "shift", axis) for axis in (".x", ".y"))
            inverses.append(geo.translation(-tx * width, -ty * height))
        return reduce(torch.matmul, inverses) if inverses else None

    def _angle(self, draws: AdaDraws, p: float, when: str) -> Tensor:
        """One of the two rotations. They are independent, and each as likely as leaves an image unrotated by both with
        probability 1 - p (Appendix B)."""
        row = self.rows["rotation"]
        none = 1 - row.multiplier * p
        once = 1 - max(none, 0) ** 0.5
        return torch.where(draws.chosen("rotation" + when, once), draws.number(row, when), row.identity)

    def _colour_matrices(self, draws: AdaDraws, p: float) -> Tensor:
        """Colour to colour, [n, 4, 4] on (red, green, blue, 1). Grey is the axis (1, 1, 1)."""
        one = draws.constant
        eye, grey = torch.eye(4), torch.tensor([1.0, 1, 1, 0]) / 3**0.5
        onto_grey = torch.outer(grey, grey)
        colours = torch.diag(torch.tensor([1.0, 1, 1, 0])) - onto_grey
        result = eye.expand(len(one), 4, 4)
        if (b := self._number(draws, p, "brightness")) is not None:
            result = geo.matrix([[1, 0, 0, b], [0, 1, 0, b], [0, 0, 1, b], [0, 0, 0, 1]], like=one) @ result
        if (c := self._number(draws, p, "contrast")) is not None:
            result = torch.diag_embed(torch.stack([c, c, c, one], dim=-1)) @ result
        if (flip := self._number(draws, p, "luma_flip")) is not None:
            result = (eye - 2 * onto_grey * flip[:, None, None]) @ result  # a Householder reflection along grey
        if (angle := self._number(draws, p, "hue")) is not None:
            # Rodrigues' rotation about the grey axis.
            angle = angle[:, None, None]
            cross = torch.tensor([[0.0, -1, 1, 0], [1, 0, -1, 0], [-1, 1, 0, 0], [0, 0, 0, 0]]) / 3**0.5
            result = (eye - colours + colours * angle.cos() + cross * angle.sin()) @ result
        if (s := self._number(draws, p, "saturation")) is not None:
            result = (eye - colours + colours * s[:, None, None]) @ result
        return result

    def _band_gains(self, draws: AdaDraws, p: float) -> Tensor:
        """Amplification of the four octaves, [n, 4], such that the power of a natural image is kept (Appendix B)."""
        power = torch.tensor(BAND_POWER)
        gains = draws.constant[:, None].repeat(1, len(BAND_POWER))
        for i in range(len(BAND_POWER)):
            t = self._number(draws, p, f"octave_{i + 1}")
            if t is not None:
                one_band = torch.where(torch.arange(len(BAND_POWER)) == i, t[:, None], 1)
                gains = gains * one_band / (one_band.square() * power).sum(1, keepdim=True).sqrt()
        return gains

    def _cut_out(self, images: Tensor, draws: AdaDraws, p: float) -> Tensor:
        """Set a rectangle of each image to zero; its centre is anywhere, so it may be partly outside."""
        h, w = images.shape[2:]
        row = self.rows["cutout"]
        half = row.spread / 2 * draws.chosen("cutout", row.multiplier * p)

        def outside(axis: str, size: int) -> Tensor:
            centres = (torch.arange(size) + 0.5) / size
            return (centres - draws.number(row, axis)[:, None]).abs() >= half[:, None]

        keep = outside(".x", w)[:, None, None, :] | outside(".y", h)[:, None, :, None]
        return images * keep.to(images, non_blocking=True)


def _recolour(images: Tensor, matrices: Tensor) -> Tensor:
    """Apply [n, 4, 4] colour matrices to [n, 3, H, W], or their effect on grey to [n, 1, H, W]."""
    matrices = matrices.to(images, non_blocking=True)
    n, channels = images.shape[:2]
    if channels == 1:
        row = matrices[:, :3].mean(1)  # grey in, mean of the three channels out
        return torch.addcmul(row[:, 3].view(n, 1, 1, 1), images, row[:, :3].sum(1).view(n, 1, 1, 1))
    return torch.baddbmm(matrices[:, :3, 3:], matrices[:, :3, :3], images.flatten(2)).reshape(images.shape)
