"""Which engine serves a detector file: PyTorch, or ONNX Runtime where the same network lies exported beside it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError
from discriminator.verdict import reading

if TYPE_CHECKING:
    from collections.abc import Callable

    from discriminator.verdict import JudgesImages

RUNTIMES = ("auto", "torch", "onnx")


@dataclass(frozen=True)
class Engine:
    """detector: ready to judge. runtime: "torch" or "onnx". file: the detector file as found, onnx: the exported file
    that serves it, None with PyTorch. note: what the user should know about the choice, or ""."""

    detector: JudgesImages
    runtime: str
    file: Path
    onnx: Path | None = None
    note: str = ""


def open_engine(
    file: Path,
    *,
    runtime: str = "auto",
    device: str = "auto",
    pick_device: Callable[[str], object] | None = None,
    gradients: bool = False,
) -> Engine:
    """The detector in `file`, a .safetensors or an .onnx.

    auto: ONNX Runtime where the exported network is there (`file` itself, or `file` with the ending .onnx whose
    metadata names this very file's SHA-256), the device is auto or cpu and no `gradients` are needed; else PyTorch.
    pick_device: the user's word for a device to a torch device. UserError where what was asked for is not to be had.
    """
    if file.suffix.lower() == ".onnx":
        if runtime == "torch":
            raise UserError(f"--runtime torch: {file} is for ONNX Runtime; give the detector.safetensors it came from")
        return Engine(_onnx(file, device), "onnx", file, file)
    note = ""
    beside = file.with_suffix(".onnx")
    if runtime == "onnx" or (runtime == "auto" and device in ("auto", "cpu") and not gradients and beside.is_file()):
        if not beside.is_file():
            raise UserError(
                f"--runtime onnx: there is no {beside}; make it with `python detect.py export --model {file} --onnx"
                f" {beside}`"
            )
        try:
            detector = _onnx(beside, device)
            if detector.source_sha256 == _sha256(file):
                return Engine(detector, "onnx", file, beside)
            note = f"{beside} was exported from another detector than {file} and is not used; export it again"
        except UserError as error:
            if runtime == "onnx":
                raise
            note = f"{error}; PyTorch is used"
        if runtime == "onnx":
            raise UserError(note)
    from discriminator.detector import Detector  # PyTorch takes seconds to import

    chosen = pick_device(device) if pick_device is not None else ("cpu" if device == "auto" else device)
    return Engine(Detector.load(file, chosen), "torch", file, note=note)


def _onnx(path: Path, device: str):
    from discriminator.onnx_detector import OnnxDetector

    return OnnxDetector.load(path, device=device)


def _sha256(path: Path) -> str:
    with reading(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
