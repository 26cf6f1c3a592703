"""Which engine serves a detector file: PyTorch, or ONNX Runtime where the same network lies exported beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from common.device import pick_device
from common.errors import UserError
from common.extras import needing
from common.files import sha256_of
from common.options import refuse
from discriminator.detector_base import notes_joined
from discriminator.judge import Judge
from discriminator.locate import reading
from discriminator.verdict import Threshold
from faces.finding.face_step import FaceStep

if TYPE_CHECKING:
    from common.download import Progress
    from discriminator.detector_base import DetectorBase
    from discriminator.onnx_detector import OnnxDetector
    from discriminator.options import JudgeOptions


class FaceAsked(Protocol):
    """Options about the face step, as in `discriminator.options.JudgeOptions`."""

    @property
    def face(self) -> str: ...
    @property
    def face_model(self) -> str | None: ...
    @property
    def offline(self) -> bool: ...


@dataclass(frozen=True)
class Engine:
    """detector: ready to judge. runtime: "torch" or "onnx". file: the detector file as found, onnx: the exported file
    that serves it, None with PyTorch. note: what the user should know about the choice, or ""."""

    detector: DetectorBase
    runtime: str
    file: Path
    onnx: Path | None = None
    note: str = ""


def open_judge(
    engine: Engine,
    asked: JudgeOptions,
    *,
    batch: int | None = None,
    keep_photos: bool = False,
    stability: bool = False,
    report: Progress | None = None,
) -> Judge:
    """The judge that was asked for, with its face step. report: hears of a download's progress. stability: see
    `Judge`."""
    threshold = Threshold.of(engine.detector.calibration, fpr=asked.fpr, threshold=asked.threshold)
    faces = open_face_step(engine.detector, asked, report=report)
    batch = batch or engine.detector.batch
    return Judge(engine.detector, threshold, faces, batch, keep_photos=keep_photos, stability=stability)


def open_face_step(
    detector: DetectorBase, asked: FaceAsked, *, always: bool = False, report: Progress | None = None
) -> FaceStep:
    """The face step that was asked for; no finder where photos are judged whole (unless it may be asked for later:
    `always`)."""
    side, kernel = detector.preprocess.resolution, detector.preprocess.resample
    if asked.face == "whole" or (asked.face == "auto" and not always and not detector.trained_on_aligned_faces):
        refuse(asked, ("face_model",), f"by `face` {asked.face} this detector judges photos whole; leave it out")
        return FaceStep(None, side, kernel)
    import cv2

    from faces.finding.align import FaceFinder

    cv2.setNumThreads(1)  # every photo has a thread; OpenCV's own would only be in their way
    return FaceStep(FaceFinder.open(asked.face_model, not asked.offline, progress=report), side, kernel)


def open_engine(file: Path, *, runtime: str = "auto", device: str = "auto", gradients: bool = False) -> Engine:
    """The detector in `file`, a .safetensors or an .onnx.

    auto: ONNX Runtime where the exported network is there (`file` itself, or `file` with the ending .onnx whose
    metadata names this very file's SHA-256), the device is auto or cpu and no `gradients` are needed; else PyTorch.
    UserError where what was asked for is not to be had.
    """
    if file.suffix.lower() == ".onnx":
        if runtime == "torch":
            raise UserError(f"`runtime` torch: {file} is for ONNX Runtime; give the detector.safetensors it came from")
        return Engine(_onnx(file, device), "onnx", file, file)
    note = ""
    beside = file.with_suffix(".onnx")
    if runtime == "onnx" or (runtime == "auto" and device in ("auto", "cpu") and not gradients and beside.is_file()):
        if not beside.is_file():
            raise UserError(f"`runtime` onnx: there is no {beside}; make it of {file} with `python detect.py export`")
        try:
            detector = _onnx(beside, device)
            with reading(file):
                same = detector.source_sha256 == sha256_of(file)
            if same:
                return Engine(detector, "onnx", file, beside)
            note = f"{beside} was exported from another detector than {file} and is not used; export it again"
        except UserError as error:
            if runtime == "onnx":
                raise
            note = f"{error}; PyTorch is used"
        if runtime == "onnx":
            raise UserError(note)
    needs = "a map by gradients needs PyTorch" if gradients else f"{file} is for PyTorch"
    with needing(notes_joined(note, needs), "explain" if gradients else "train"):
        from discriminator.detector import Detector  # PyTorch takes seconds to import

    return Engine(Detector.load(file, pick_device(device)), "torch", file, note=note)


def _onnx(path: Path, device: str) -> OnnxDetector:
    from discriminator.onnx_detector import OnnxDetector

    return OnnxDetector.load(path, device=device)
