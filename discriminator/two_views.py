"""Two views of a photo, one verdict: the face at a network's resolution, and crops of the photo's own pixels.

The face's network sees shape and texture as an aligned square shows them; the pixels' network (`discriminator.pixels`)
sees what up-sampling leaves in a file, which bringing a face to that square wipes out. Both are networks that were
trained by themselves; what joins them (`discriminator.join`) is fitted on validation photos (`two_views_fit`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from common.errors import UserError
from discriminator.join import LIMIT, Join
from discriminator.network import Network, VerdictOut
from discriminator.views import FaceAndPixels, preprocess_from

_FIELDS = {"model", "face", "pixels", "preprocess", "join"}
_NO_PART = ("ensemble", "two_views")


@dataclass(frozen=True)
class Part:
    """A view's place in the header: its network's architecture, the name and SHA-256 of the detector it comes from."""

    architecture: dict
    name: str = ""
    sha256: str = ""

    @classmethod
    def from_dict(cls, data: dict) -> Part:
        if not isinstance(data["architecture"], dict) or data["architecture"].get("model") in _NO_PART:
            raise UserError("a view's network is a single one")
        return cls(data["architecture"], str(data.get("name", "")), str(data.get("sha256", "")))


@dataclass(frozen=True)
class TwoViewsConfig:
    face: Part
    pixels: Part
    preprocess: FaceAndPixels
    join: Join = Join()

    @property
    def resolution(self) -> int:
        return self.preprocess.resolution

    @property
    def img_channels(self) -> int:
        return self.preprocess.channels

    def to_dict(self) -> dict:
        return {
            "model": "two_views", "face": vars(self.face), "pixels": vars(self.pixels),
            "preprocess": self.preprocess.to_dict(), "join": self.join.to_dict(),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: dict) -> TwoViewsConfig:
        """KeyError, ValueError or TypeError where something is missing or does not fit."""
        if unknown := set(data) - _FIELDS:
            raise UserError(f"unknown option {', '.join(sorted(unknown))} of two views")
        preprocess = preprocess_from(data["preprocess"])
        if not isinstance(preprocess, FaceAndPixels):
            raise UserError("two views need a preprocessing of face and pixels")
        return cls(
            Part.from_dict(data["face"]), Part.from_dict(data["pixels"]), preprocess, Join.from_dict(data["join"])
        )


class ViewLogits(NamedTuple):
    """face, pixels: raw logits float [N], the pixels' the mean over a photo's crops; crops [N, count]: of each; there
    bool [N]: whether a photo has crops."""

    face: VerdictOut
    pixels: torch.Tensor
    crops: torch.Tensor
    there: torch.Tensor


class TwoViews(Network):
    """Rows float [N, L] as `FaceAndPixels` makes them -> `VerdictOut`.

    The patch map is the face network's. Where that has none, it is the crops' own logits at their places in the grid
    [N, grid, grid], which lies over the face as far as the crops do; 0 without crops."""

    cfg: TwoViewsConfig

    def __init__(self, cfg: TwoViewsConfig, face: Network, pixels: Network) -> None:
        super().__init__()
        self.cfg, self.preprocess = cfg, cfg.preprocess
        self.face, self.pixels = face, pixels
        made, taken = (cfg.resolution, cfg.img_channels), (face.cfg.resolution, face.cfg.img_channels)
        if made != taken:
            raise UserError(
                f"the face's network takes {taken[1]} channels of {taken[0]} px, not {made[1]} of {made[0]}"
            )
        crops, own = cfg.preprocess.pixels, pixels.cfg
        if crops.channels != own.img_channels or (crops.side != own.resolution and not pixels.any_size):
            raise UserError(
                f"the pixels' network takes {own.img_channels} channels of {own.resolution} px, the crops have"
                f" {crops.channels} of {crops.side}"
            )

    def view_logits(self, img: torch.Tensor) -> ViewLogits:
        """What each network says by itself."""
        faces, crops, there = self.preprocess.split(img)
        logits = self.pixels.verdict(crops).logit.reshape(-1, self.preprocess.pixels.count)
        return ViewLogits(self.face.verdict(faces), logits.mean(1), logits, there)

    def seen(self, img: torch.Tensor) -> tuple[VerdictOut, torch.Tensor]:
        """The verdict, and the views' calibrated log-odds float32 [N, 2], NaN for pixels that are not there."""
        out = self.view_logits(img)
        z, score = joined(self.cfg.join, out.face.logit, out.pixels, out.there)
        patches = out.face.patch_logits
        if patches is None:
            grid = self.preprocess.pixels.grid
            patches = (out.crops * out.there[:, None]).reshape(-1, grid, grid)
        return VerdictOut(score.float(), patches), z.float()

    def verdict(self, img: torch.Tensor) -> VerdictOut:
        return self.seen(img)[0]


def joined(
    join: Join, face: torch.Tensor, pixels: torch.Tensor, there: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Raw logits [N] of both views, and bool [N] whether there are pixels -> (calibrated log-odds float64 [N, 2], NaN
    where there are none; joint scores float64 [N])."""
    # float64 on the CPU wherever the networks are: Apple's GPUs know none
    views = (face.cpu().double(), pixels.cpu().double())
    z_face, z_pixels = (
        (logit / t + b).clamp(-LIMIT, LIMIT) for logit, t, b in zip(views, join.temperatures, join.biases, strict=True)
    )
    there = there.cpu()
    if join.method == "either":
        alone = z_face - join.thresholds[0]
        both = torch.maximum(alone, z_pixels - join.thresholds[1])
    else:
        alone, both = z_face, join.weights[0] * z_face + join.weights[1] * z_pixels + join.offset
    absent = torch.full_like(z_pixels, float("nan"))
    return torch.stack([z_face, torch.where(there, z_pixels, absent)], 1), torch.where(there, both, alone)
