"""Pictures that show where a verdict was seen: one for each file, its faces one below the other."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from common.errors import UserError
from discriminator.engine import Engine
from discriminator.heatmap import explain
from discriminator.onnx_detector import OnnxDetector
from discriminator.results import Result

if TYPE_CHECKING:
    from discriminator.verdict import Verdict

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
MOST_PANELS = 8  # faces of one photo that are drawn


class Painter:
    """Draws and saves as results come. target: a picture for one file; for several a folder, or numbered pictures.

    Only a picture named outright may replace an old one (not the photo). UserError where something is in the way, or
    the detector has nothing to draw. written: what was saved so far."""

    def __init__(self, target: str, files: list[str], engine: Engine):
        self.engine = engine
        self.written: list[Path] = []
        if isinstance(engine.detector, OnnxDetector) and not engine.detector.has_patches:
            raise UserError(
                f"`explain`: {engine.file} has no patch map, and Grad-CAM needs PyTorch: give detector.safetensors"
            )
        self._paths = dict(enumerate(_pictures(target, files)))
        self._at = 0
        self._panels: list[np.ndarray] = []

    def add(self, result: Result) -> None:
        """A result, in the order of the files."""
        if len(self._panels) < MOST_PANELS and (panel := self._panel(result)) is not None:
            self._panels.append(panel)
        face = result.face
        if face is not None and result.video is None and face["index"] < face["of"]:
            return
        path = self._paths.get(self._at)
        if self._panels and path is not None:
            Image.fromarray(_stacked(self._panels)).save(path)
            self.written.append(path)
        self._at, self._panels = self._at + 1, []

    def _panel(self, result: Result) -> np.ndarray | None:
        verdict, photo, detector = result.verdict, result.photo, self.engine.detector
        if verdict is None or photo is None or result.pixels is None:
            return None
        towards_fake = leans_to_fake(verdict)
        cam = detector.gradcam(result.pixels, towards_fake)
        box = None
        if result.face is not None and result.face["box"] and result.size:
            height, width = result.size
            x0, y0, x1, y1 = result.face["box"]
            box = x0 / width, y0 / height, x1 / width, y1 / height
        return explain(
            photo, verdict, crop=detector.preprocess.crop, title=result.file, view=result.view, cam=cam,
            towards_fake=towards_fake, box=box,
        )  # fmt: skip


def leans_to_fake(verdict: Verdict) -> bool:
    """What a Grad-CAM is drawn for: what spoke for FAKE, or (False) for REAL."""
    return verdict.label == "FAKE" or (verdict.label == "UNSURE" and verdict.probability >= 0.5)


def _stacked(panels: list[np.ndarray]) -> np.ndarray:
    width = max(panel.shape[1] for panel in panels)
    return np.concatenate(
        [np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in panels], axis=0
    )


def _pictures(explain: str, files: list[str]) -> list[Path]:
    """Where each file's explanation goes."""
    target = Path(explain)
    if target.suffix.lower() in PICTURES and not target.is_dir():
        if not target.parent.is_dir():
            raise UserError(f"`explain`: there is no folder {target.parent}; make it or name another")
        if len(files) == 1:
            if target.exists() and os.path.exists(files[0]) and target.samefile(files[0]):
                raise UserError(
                    f"`explain`: {target} is the photo itself and will not be overwritten; give another name"
                )
            return [target]
        paths = [target.with_name(f"{target.stem}-{i + 1:04d}{target.suffix}") for i in range(len(files))]
    else:
        target.mkdir(parents=True, exist_ok=True)
        paths = [target / f"{i + 1:04d}-{Path(file).stem}.png" for i, file in enumerate(files)]
    for path in paths:
        if path.exists():
            raise UserError(f"`explain`: {path} exists and will not be overwritten; give another name or move it")
    return paths
