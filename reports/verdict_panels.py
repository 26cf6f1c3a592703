"""Pictures that show where a verdict was seen: one for each file, its faces one below the other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from common.errors import UserError
from discriminator.engine import Engine
from discriminator.heatmap import explain
from discriminator.results import Result

if TYPE_CHECKING:
    from discriminator.verdict import Verdict

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
MOST_PANELS = 8  # faces of one photo that are drawn


class Painter:
    """Draws and saves as results come. target: a picture for one file; for several a folder, or numbered pictures.

    Only a picture named outright may replace an old one (not the photo). UserError where something is in the way, or
    the detector has nothing to draw."""

    def __init__(self, target: str, files: list[str], engine: Engine):
        self.engine = engine
        if engine.runtime == "onnx" and not engine.detector.has_patches:
            raise UserError(
                f"`explain`: {engine.file} has no patch map, and Grad-CAM needs PyTorch: give detector.safetensors"
            )
        self._paths = dict(enumerate(_pictures(target, files)))
        self._at, self._panels = 0, []

    def add(self, result: Result) -> None:
        """A result, in the order of the files."""
        if result.verdict is not None and result.pixels is not None and len(self._panels) < MOST_PANELS:
            self._panels.append(self._panel(result))
        face = result.face
        if face is not None and result.video is None and face["index"] < face["of"]:
            return
        path = self._paths.get(self._at)
        if self._panels and path is not None:
            Image.fromarray(_stacked(self._panels)).save(path)
        self._at, self._panels = self._at + 1, []

    def _panel(self, result: Result) -> np.ndarray:
        verdict = result.verdict
        towards_fake = leans_to_fake(verdict)
        cam = self.engine.detector.gradcam(result.pixels, towards_fake)
        box = None
        if result.face is not None and result.face["box"] and result.size:
            height, width = result.size
            box = tuple(x / side for x, side in zip(result.face["box"], (width, height, width, height)))
        return explain(
            result.photo,
            verdict,
            crop=self.engine.detector.preprocess.crop,
            title=result.file,
            view=result.view,
            cam=cam,
            towards_fake=towards_fake,
            box=box,
        )


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
    picture = target.suffix.lower() in PICTURES
    if picture and len(files) == 1 and not target.is_dir():
        _check_folder(target.parent)
        if target.exists() and target.samefile(files[0]):
            raise UserError(f"`explain`: {target} is the photo itself and will not be overwritten; give another name")
        return [target]
    if picture and not target.is_dir():
        _check_folder(target.parent)
        paths = [target.with_name(f"{target.stem}-{i + 1:04d}{target.suffix}") for i in range(len(files))]
    else:
        target.mkdir(parents=True, exist_ok=True)
        paths = [target / f"{i + 1:04d}-{Path(file).stem}.png" for i, file in enumerate(files)]
    for path in paths:
        if path.exists():
            raise UserError(f"`explain`: {path} exists and will not be overwritten; give another name or move it")
    return paths


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"`explain`: there is no folder {folder}; make it or name another")
