"""Finding, fetching and reading the FID InceptionV3 weight file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch

from common.download import FetchedOnce
from common.errors import UserError
from stylegan2_ada.torch_files import read_torch

FILE_NAME = "pt_inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{FILE_NAME}"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
ENVIRONMENT = "FACES_INCEPTION_WEIGHTS"
MAX_BYTES = 256 << 20  # the file has 96 MB

_BN_EPS = 1e-3  # of the 2015-12-05 graph


def cache_path() -> Path:
    """Where torch hub, and so pytorch-fid, keeps the file."""
    return Path(torch.hub.get_dir()) / "checkpoints" / FILE_NAME


def find_weights(
    path: str | Path | None = None,
    *,
    download: bool = True,
    timeout: float = 10.0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """The weight file to use: ``path`` (and nothing else) where the user gave one, else the environment variable, else
    torch hub's cache, else, if it may, a download into that cache.

    progress(bytes so far, bytes in all or 0): called while downloading. UserError when there is no file and it cannot
    be fetched; the line says what to download and where to put it.
    """
    file = FetchedOnce(
        "the Inception weights for FID", "are", f"the FID InceptionV3 weights ({FILE_NAME})", URL, SHA256, MAX_BYTES,
        "inception_weights", ENVIRONMENT, cache_path(), trusted=True,
    )  # fmt: skip
    return file.find(path, allow_download=download, timeout=timeout, progress=progress)


def load_folded(path: str | Path) -> tuple[dict[str, tuple[torch.Tensor, torch.Tensor]], str]:
    """Reads a weight file into {layer: (kernel [out, in, h, w], bias [out])}, batch norm folded, and its SHA-256.

    Accepts pytorch-fid's layout (``<layer>.conv.weight`` with ``<layer>.bn.*``) and the folded one
    (``<layer>.conv.weight`` with ``<layer>.conv.bias``). Where the file has the classifier, it comes as layer ``fc``
    (weight [1008, 2048], bias [1008]). Runs no code from the file. UserError if it is neither.
    """
    path = Path(path)
    wanted = f"give the FID InceptionV3 weights ({FILE_NAME})"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {wanted}") from error
    digest = hashlib.sha256(data).hexdigest()
    try:
        state = read_torch(path)
    except Exception as error:  # a damaged file fails in any of a dozen ways
        raise UserError(f"{path}: not a PyTorch weight file, or damaged; {wanted}") from error
    known = isinstance(state, dict) and all(isinstance(k, str) for k in state)
    layers = [k.removesuffix(".conv.weight") for k in state if k.endswith(".conv.weight")] if known else []
    if "Conv2d_1a_3x3" not in layers:
        raise UserError(f"{path}: holds other weights than the FID InceptionV3; {wanted}")
    try:
        folded = {layer: _fold(state, layer) for layer in layers}
        if "fc.weight" in state:
            weight, bias = state["fc.weight"].float(), state["fc.bias"].float()
            if len(weight) == 1000:
                raise UserError(
                    f"{path}: torchvision's InceptionV3 of 1000 classes, which is another network; {wanted}"
                )
            if weight.shape != (1008, 2048) or bias.shape != (1008,):
                raise KeyError(f"fc: weight {list(weight.shape)}, bias {list(bias.shape)}")
            folded["fc"] = (weight, bias)
        for layer, tensors in folded.items():
            if not all(torch.isfinite(tensor).all() for tensor in tensors):
                raise UserError(f"{path}: layer {layer} holds NaN or infinite weights, the file is damaged; {wanted}")
        return folded, digest
    except (KeyError, RuntimeError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: the layers do not fit together ({reason}); {wanted}") from error


def _fold(state: dict[str, torch.Tensor], layer: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Convolution and inference-mode batch norm as one convolution, computed in float64."""
    kernel = state[f"{layer}.conv.weight"].double()
    if f"{layer}.bn.running_var" in state:
        bn = {k: state[f"{layer}.bn.{k}"].double() for k in ("weight", "bias", "running_mean", "running_var")}
        scale = bn["weight"] / torch.sqrt(bn["running_var"] + _BN_EPS)
        kernel = kernel * scale[:, None, None, None]
        bias = bn["bias"] - bn["running_mean"] * scale
    else:
        bias = state[f"{layer}.conv.bias"].double()
    if bias.shape != kernel.shape[:1] or kernel.ndim != 4:
        raise KeyError(f"{layer}: kernel {list(kernel.shape)}, bias {list(bias.shape)}")
    return kernel.float(), bias.float()
