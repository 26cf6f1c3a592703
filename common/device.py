"""The choice of a device by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import UserError

if TYPE_CHECKING:
    import torch


def pick_device(wish: str = "auto") -> torch.device:
    """The torch device for `auto` (CUDA, else Apple MPS, else CPU), `cpu`, `cuda`, `cuda:N` or `mps`.

    Raises `UserError` where the wish has no such device on this machine.
    """
    import torch

    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = torch.backends.mps.is_available()
    if wish == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    kind, _, index = wish.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not index.isdecimal()):
        raise UserError(f"`device` {wish}: unknown device: give auto, cpu, cuda, cuda:N or mps")
    if kind == "cuda" and not cuda:
        raise UserError(f"`device` {wish}: PyTorch sees no CUDA GPU here: use `device` cpu, or install a CUDA PyTorch")
    if kind == "cuda" and index and int(index) >= cuda:
        raise UserError(f"`device` {wish}: there are only {cuda} CUDA devices, numbered from 0: lower the number")
    if kind == "mps" and not mps:
        raise UserError(f"`device` {wish}: this machine has no Apple GPU that PyTorch can use: use `device` cpu")
    return torch.device(wish)
