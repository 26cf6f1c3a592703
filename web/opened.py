"""A service from the options of a command line: the detector's file, the face step, the model card."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from common.download import Progress
from common.errors import UserError
from common.extras import is_there, needing
from discriminator.detector_base import DetectorBase
from discriminator.engine import Engine, open_engine, open_face_step
from discriminator.locate import find_detector
from discriminator.verdict import Threshold
from faces.apart import Apart
from faces.video import Limits
from web.api import More
from web.fetching import Fetcher
from web.options import ServeOptions
from web.service import Service


def open_service(
    asked: ServeOptions, shipped: Sequence[Path] = (), *, report: Progress | None = None, parameter: str = "model"
) -> Service:
    """The service that was asked for. report: hears of a download's progress. parameter: which option says the
    detector. UserError where an option can't be."""
    file = find_detector(asked.model, shipped=shipped, parameter=parameter)
    engine = open_engine(file, runtime=asked.runtime, device=asked.device)
    return Service(
        engine,
        open_face_step(engine.detector, asked, always=True, report=report),
        face=asked.face,
        threshold=Threshold.of(engine.detector.calibration, fpr=asked.fpr, threshold=asked.threshold),
        limits=Limits(
            pixels=int(asked.max_pixels * 1e6), frames=asked.video_frames, seconds=asked.video_seconds, threads=1
        ),
        gradcam=_gradcam(engine, asked.runtime),
        known_failures=known_failures(engine.file, shipped),
        decode=Apart(asked.photo_seconds),
    )


def open_more(asked: ServeOptions, shipped: Sequence[Path] = ()) -> More:
    """The second detector, the fetching and the generator that were asked for. UserError where one can't be."""
    other = None
    if asked.compare is not None:
        other = open_service(
            replace(asked, model=asked.compare, fpr=None, threshold=None), shipped, parameter="compare"
        )
    maker = None
    if asked.generator is not None:
        with needing("making faces takes PyTorch", "train"):
            from web.making import Maker  # PyTorch takes seconds, and half a gigabyte

            maker = Maker(asked.generator)
    fetch = Fetcher(int(asked.max_mb * (1 << 20)), asked.url_seconds) if asked.allow_urls else None
    return More(other, fetch, maker)


def _gradcam(engine: Engine, runtime: str) -> Callable[[], DetectorBase] | None:
    """Grad-CAM's detector: the engine's own with PyTorch; else the file's, read when it is first asked for."""
    if engine.runtime == "torch":
        return lambda: engine.detector
    if runtime == "onnx" or engine.file.suffix.lower() == ".onnx" or not is_there("torch"):
        return None

    def load() -> DetectorBase:
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
