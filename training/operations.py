"""Which implementation of the networks' operations a run uses, found out before anything is written."""

from __future__ import annotations

import warnings

import torch

from common.errors import UserError
from stylegan2_ada.ops.native import BuildError, path, status, use_native


def prepare_operations(device: torch.device) -> tuple[bool, str]:
    """Compile and load native code for `device` if it is wanted and can be had; (whether it is used, a line about it).

    Raises UserError where STYLEGAN_OPS asks for what can't be had. The warning about slower operations is told by the
    line, once, instead of by Python's machinery in the middle of a step.
    """
    wanted = path()
    if wanted != "native":
        return False, f"{wanted} (STYLEGAN_OPS)"
    if device.type not in ("cpu", "cuda"):
        return False, f"torch: there is no native code for {device.type}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            native = use_native(torch.empty(1, device=device))
    except BuildError as e:
        raise UserError(f"{e}; unset STYLEGAN_OPS to train without") from None
    if native:
        return True, f"native ({status(device.type).why})"
    return False, f"torch, slower than native: {status(device.type).why}"
