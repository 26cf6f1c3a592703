"""A service from the options of a command line: the detector's file, the face step, the model card."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from common.errors import UserError
from discriminator.engine import Engine, open_engine
from discriminator.verdict import JudgesImages, Rule, find_detector
from faces.finding.face_step import FaceStep
from web.service import Service


def open_service(
    model: str | None,
    shipped: Sequence[Path] = (),
    *,
    runtime: str = "auto",
    device: str = "auto",
    pick_device: Callable[[str], object] | None = None,
    face: str = "auto",
    face_model: str | None = None,
    offline: bool = False,
    fpr: float | None = None,
    threshold: float | None = None,
    max_pixels: int = 50_000_000,
    report: contextlib.AbstractContextManager | None = None,
) -> Service:
    """Options as `serve.py --help` tells them; report: gives the function that hears of a download's progress.

    UserError where one of them does not fit."""
    engine = open_engine(find_detector(model, shipped=shipped), runtime=runtime, device=device, pick_device=pick_device)
    detector = engine.detector
    return Service(
        engine,
        _face_step(detector, face, face_model, offline, report),
        face=face,
        rule=Rule.of(detector.calibration, fpr=fpr, threshold=threshold),
        max_pixels=max_pixels,
        gradcam=_gradcam(engine, runtime),
        known_failures=known_failures(engine.file, shipped),
    )


def _face_step(detector: JudgesImages, face: str, face_model: str | None, offline: bool, report) -> FaceStep:
    side = detector.preprocess.resolution
    if face == "whole":
        return FaceStep(None, side)
    import cv2

    from faces.finding.align import FaceFinder

    cv2.setNumThreads(1)  # every photo has a thread; OpenCV's own would only be in their way
    with report or contextlib.nullcontext() as progress:
        return FaceStep(FaceFinder.open(face_model, not offline, progress=progress), side)


def _gradcam(engine: Engine, runtime: str) -> Callable[[], object] | None:
    """Grad-CAM's detector: the engine's own with PyTorch; else the file's, read when it is first asked for."""
    if engine.runtime == "torch":
        return lambda: engine.detector
    if runtime == "onnx" or engine.file.suffix.lower() == ".onnx":
        return None

    def load():
        from discriminator.detector import Detector  # PyTorch takes seconds, and half a gigabyte

        detector = Detector.load(engine.file)
        if detector.sha256 != engine.detector.source_sha256:
            raise UserError("explain=gradcam: the detector's file has changed since this server began; start it again")
        return detector

    return load


def known_failures(file: Path, shipped: Sequence[Path]) -> list[str]:
    """What the model card lists under «Known failures», where `file` is the detector that it is about."""
    card = shipped[0].parent.parent / "MODEL_CARD.md" if shipped else None
    if card is None or not card.is_file() or file.resolve() not in [path.resolve() for path in shipped]:
        return []
    section = re.search(r"^## Known failures\n(.*?)(?=^## |\Z)", card.read_text(encoding="utf-8"), re.M | re.S)
    items = re.findall(r"^- (.*(?:\n  .*)*)", section[1] if section else "", re.M)
    return [re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", " ".join(item.split())) for item in items]
