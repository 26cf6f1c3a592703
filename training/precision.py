"""The number format of a computation: one rule for every command."""

from __future__ import annotations

import torch

from common.errors import UserError

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def resolve_precision(asked: str, device: torch.device) -> str:
    """`auto` becomes bf16 where the hardware computes in it, else fp32: on a CPU with AVX512-BF16, on GPUs from Ampere.

    fp16 is taken only by name (it needs loss scaling or clamps), and never on a CPU. Raises UserError.
    """
    if asked not in PRECISIONS:
        raise UserError(f"`precision` {asked} is unknown; choose one of {', '.join(PRECISIONS)}")
    if asked == "fp16" and device.type == "cpu":
        raise UserError("`precision` fp16 is some 30 times slower than fp32 on a CPU; use `precision` bf16 or fp32")
    return asked if asked != "auto" else "bf16" if computes_bf16(device) else "fp32"


def computes_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return device.type == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
