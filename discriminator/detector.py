"""The detector as one file: weights, preprocessing and calibration together.

The file is a safetensors file: a JSON header and raw numbers, nothing that runs.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from common import seal
from common.errors import UserError
from common.files import write_bytes
from common.reading import json_of
from discriminator import ensemble
from discriminator.calibration import Calibration
from discriminator.detector_base import (
    NOT_NUMBERS,
    DetectorBase,
    Raw,
    check_version,
    reason_of,
    second_look_from,
    versioned,
)
from discriminator.gradcam import gradcam
from discriminator.locate import reading
from discriminator.models import build
from discriminator.network import Network
from discriminator.second_look import SecondLook
from discriminator.two_views import TwoViews
from discriminator.views import Preparation, preprocess_from

FORMAT = "ganface-detector"
HEADER_KEY = "detector"
MANY = 1024  # numbers; tensors of fewer are not worth halving
_PICKLES = (b"\x80", b"PK\x03\x04", b"(dp", b"ccopy")


class Detector(DetectorBase):
    """A calibrated network with its preprocessing.

    net: one of `discriminator.models`, or an `Ensemble` of them (whose members may look at a photo in different ways:
    `preprocess` is then `Views`). `meta`: JSON values about where it comes from (training data, project version,
    kimg…); `sha256`: hex digest of the file it was loaded from or last saved to, else "". ValueError if network and
    preprocessing don't fit.
    """

    def __init__(
        self,
        net: Network,
        preprocess: Preparation,
        calibration: Calibration,
        meta: dict | None = None,
        second_look: SecondLook | None = None,
    ):
        cfg = net.cfg
        if (preprocess.resolution, preprocess.channels) != (cfg.resolution, cfg.img_channels):
            raise UserError(
                f"the preprocessing makes {preprocess.channels} channels of {preprocess.resolution} px, "
                f"the network takes {cfg.img_channels} of {cfg.resolution}"
            )
        if isinstance(net, ensemble.Ensemble) and preprocess != net.preprocess:
            raise UserError("an ensemble's preprocessing is its members' own, and the one given is another")
        if isinstance(net, TwoViews):
            self.join = net.cfg.join
            if preprocess != net.preprocess:
                raise UserError("the preprocessing of two views is their network's own, and the one given is another")
        self.net = net.eval().requires_grad_(False)
        self.preprocess, self.calibration, self.meta = preprocess, calibration, dict(meta or {})
        self.second_look = second_look
        self.sha256 = ""

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    @property
    def batch(self) -> int:
        return 8 if self.device.type == "cpu" else 32

    def gradcam(self, pixels: np.ndarray, towards_fake: bool) -> np.ndarray | None:
        return gradcam(self.net, torch.from_numpy(pixels).to(self.device), towards_fake=towards_fake)

    @torch.inference_mode()
    def once(self, pixels: np.ndarray) -> Raw:
        """See `DetectorBase.once`."""
        out, views = self.net.seen(torch.from_numpy(pixels).to(self.device))
        logits = out.logit.double().cpu().numpy()
        if not np.isfinite(logits).all():
            raise UserError(NOT_NUMBERS)
        maps = None if out.patch_logits is None else out.patch_logits.sigmoid().float().cpu().numpy()
        return Raw(logits, maps, None if views is None else views.numpy())

    def recalibrated(self, calibration: Calibration) -> Detector:
        """The same network, preprocessing and second look under another calibration."""
        return Detector(self.net, self.preprocess, calibration, self.meta, self.second_look)

    def save(self, path: str | os.PathLike) -> str:
        """Write the detector file and return its SHA-256. A reader sees the old file or the new one, never a half."""
        header = {
            "format": FORMAT,
            **versioned(self),
            "architecture": self.net.cfg.to_dict(),
            "preprocess": self.preprocess.to_dict(),
            "calibration": self.calibration.to_dict(),
            "meta": self.meta,
        }
        tensors = {name: _stored(tensor) for name, tensor in self.net.state_dict().items()}
        header[seal.KEY] = seal.seal_of(header, _content(safetensors.torch.save(tensors)))
        # One metadata key: the order of several is not fixed by the format, and equal detectors should be equal files.
        data = safetensors.torch.save(tensors, {HEADER_KEY: json.dumps(header, sort_keys=True, allow_nan=False)})
        write_bytes(Path(path), data)
        self.sha256 = hashlib.sha256(data).hexdigest()
        return self.sha256

    @classmethod
    def load(cls, path: str | os.PathLike, device: str | torch.device = "cpu") -> Detector:
        """Read a detector file. UserError if it isn't one, is damaged, of a newer version or of other shapes."""
        data = _read(Path(path))
        digest = hashlib.sha256(data).hexdigest()
        seal.check_listed(path, digest)
        header = _header(data, path)
        try:
            tensors = safetensors.torch.load(data)
        except SafetensorError as error:
            raise UserError(f"{path}: the file is damaged or cut short ({error}); get it again") from None
        try:
            preprocess = preprocess_from(header["preprocess"])
            calibration = Calibration.from_dict(header["calibration"])
            net = _network(header["architecture"], tensors)
            net.load_state_dict(tensors)
            meta = dict(header.get("meta") or {})
            detector = cls(net.to(device), preprocess, calibration, meta, second_look_from(header))
        except (KeyError, TypeError, ValueError, UserError) as error:
            raise UserError(f"{path}: the detector file's header does not fit: {reason_of(error)}") from None
        seal.check_seal(path, header, _content(data))  # last: what else is wrong tells more
        detector.sha256 = digest
        return detector


def _network(architecture: dict, tensors: dict[str, torch.Tensor]) -> Network:
    """The network of a header, unfilled; ValueError where these are not its tensors."""

    def single(values: dict, own: dict[str, torch.Tensor]) -> Network:
        return build(values, lambda expected: _check_tensors(expected, own))

    if not isinstance(architecture, dict) or architecture.get("model") != "ensemble":
        return single(architecture, tensors)

    def member(k: int, values: dict) -> Network:
        prefix = f"members.{k}."
        own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        return single(values, own)

    net = ensemble.built(architecture, member)
    _check_tensors(net.state_dict(), tensors)
    return net


@torch.no_grad()
def round_to_half(net: Network) -> None:
    """Round what is large of a network's numbers to float16, so that its file is half as long (see `fits_half`). Not
    where a number would not be finite then."""
    merge_norms(net)
    for tensor in net.state_dict().values():
        half = tensor.half()
        if _large(tensor) and torch.isfinite(half).all():
            tensor.copy_(half)


@torch.no_grad()
def merge_norms(net: Network) -> list[str]:
    """Let every convolution take over the scale of the batch norm that follows it, and give those norms' names.

    The network's map in evaluation mode stays the same. Exporters merge the two, and what they write then is what was
    rounded here. The norms keep the statistics, of what the convolutions give now, so that the network can learn on.
    No norm where that is not the same map (norms that don't follow the convolution they stand behind)."""
    net.eval()
    shape = (2, net.cfg.img_channels, net.cfg.resolution, net.cfg.resolution)
    image = 2 * torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(next(net.parameters()).device) - 1
    kept, logit = {name: tensor.clone() for name, tensor in net.state_dict().items()}, net.verdict(image).logit
    merged = []
    for path, part in net.named_modules():
        for (_, layer), (name, norm) in itertools.pairwise(part.named_children()):
            if (
                isinstance(layer, nn.Conv2d) and layer.bias is None
                and isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None
                and layer.out_channels == norm.num_features
            ):  # fmt: skip
                _take_over(layer, norm)
                merged.append(f"{path}.{name}" if path else name)
    if not torch.allclose(net.verdict(image).logit, logit, rtol=1e-3, atol=1e-3):  # not one after the other, after all
        net.load_state_dict(kept)
        return []
    return merged


def _take_over(layer: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Together they stay the same map (in evaluation mode); the norm neither widens nor narrows any more."""
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None and var is not None
    scale = norm.weight / (var + norm.eps).sqrt()
    layer.weight.mul_(scale[:, None, None, None])
    mean.mul_(scale)
    var.mul_(scale.square())
    no_scale(norm)


@torch.no_grad()
def no_scale(norm: nn.Module) -> None:
    """Set a batch norm's weight to what it divides by, to the bit: it only adds then."""
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None
    norm.weight.copy_((norm.running_var + norm.eps).sqrt())


def fits_half(tensor: torch.Tensor) -> bool:
    """Whether it is large, and float16 holds it without loss."""
    return _large(tensor) and bool((tensor.half().float() == tensor).all())


def _large(tensor: torch.Tensor) -> bool:
    return tensor.dtype == torch.float32 and tensor.ndim > 1 and tensor.numel() >= MANY


def _stored(tensor: torch.Tensor) -> torch.Tensor:
    """As it lies in the file: float32, or float16 where that loses nothing; but the few numbers an ensemble joins its
    members with keep their float64."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.float64:
        return tensor
    tensor = tensor.float()
    return tensor.half() if fits_half(tensor) else tensor


def _check_tensors(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> None:
    for name, tensor in expected.items():
        if name not in found:
            raise UserError(f"the tensor {name} is missing")
        wanted = torch.float64 if tensor.dtype == torch.float64 else torch.float32
        half = found[name].dtype == torch.float16 and tensor.ndim > 1 and tensor.numel() >= MANY
        if found[name].shape != tensor.shape or not (half or found[name].dtype == wanted):
            what = f"{found[name].dtype} {tuple(found[name].shape)}"
            kind = str(wanted).removeprefix("torch.")
            raise UserError(f"the tensor {name} is {what}, not {kind} {tuple(tensor.shape)}")
        if not torch.isfinite(found[name]).all():
            raise UserError(f"the tensor {name} holds values that are not numbers")
    extra = sorted(set(found) - set(expected))
    if extra:
        raise UserError(f"the tensor {extra[0]} does not belong to this architecture")


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise UserError(f"{path}: is a folder, not a detector file (a run's file is called detector.safetensors)")
    with reading(path):
        return path.read_bytes()


def _content(data: bytes) -> tuple[bytes, memoryview]:
    """Of a safetensors file's bytes: which tensors there are, and their numbers."""
    size = int.from_bytes(data[:8], "little")
    table = {name: value for name, value in json_of(data[8 : 8 + size]).items() if name != "__metadata__"}
    return json.dumps(table, sort_keys=True).encode(), memoryview(data)[8 + size :]


def _header(data: bytes, path: str | os.PathLike) -> dict:
    """The JSON this project put in a safetensors file's header. UserError where there is none."""
    if data.startswith(_PICKLES) and data[8:9] != b"{":  # the length of a header may begin like a pickle
        raise UserError(f"{path}: a pickle or PyTorch checkpoint, which could run code; give a .safetensors detector")
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > len(data) - 8:
        raise UserError(f"{path}: not a detector file, or cut short; get it again")
    try:
        outer = json_of(data[8 : 8 + size])
        metadata = outer.get("__metadata__") or {}
        text = metadata.get(HEADER_KEY)
        header = json_of(text) if text is not None else None
    except (ValueError, AttributeError, TypeError):
        raise UserError(f"{path}: not a detector file (its header is not JSON)") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        kind = metadata.get("format")
        what = f"a {kind} file" if kind not in (None, "pt") else "a safetensors file without a detector's header"
        raise UserError(f"{path}: {what}, not a detector; give the detector.safetensors of a run")
    check_version(path, header)
    return header
