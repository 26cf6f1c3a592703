"""Pictures that show where a verdict was seen: one for each file, its faces one below the other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from common.errors import UserError
from discriminator.boxes import Mark, boxed
from discriminator.engine import Engine
from discriminator.heatmap import explain, overlay, overlay_cam
from discriminator.onnx_detector import OnnxDetector
from discriminator.results import Result
from discriminator.words import worst_first

if TYPE_CHECKING:
    from discriminator.detector_base import DetectorBase
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
        self._paths = dict(enumerate(picture_paths(target, files)))
        self._at = 0
        self._photo: list[Result] = []

    def add(self, result: Result) -> None:
        """A result, in the order of the files."""
        self._photo.append(result)
        if not result.ends_photo:
            return
        path, photo = self._paths.get(self._at), self._photo
        self._at, self._photo = self._at + 1, []
        marks = marks_of(photo)
        order = [photo[i] for i in worst_first([one.verdict for one in photo])]
        panels = [panel for one in order[:MOST_PANELS] if (panel := self._panel(one, marks)) is not None]
        if panels and path is not None:
            Image.fromarray(_stacked(panels)).save(path)
            self.written.append(path)

    def _panel(self, result: Result, marks: Sequence[Mark]) -> np.ndarray | None:
        verdict, photo, detector = result.verdict, result.photo, self.engine.detector
        if verdict is None or photo is None or result.pixels is None:
            return None
        towards_fake = leans_to_fake(verdict)
        cam = detector.gradcam(result.pixels, towards_fake)
        title = result.file
        if len(marks) > 1 and result.face is not None:
            title = f"face {result.face['index']} of {result.face['of']} in {title}"
        view = photo if result.view is None else result.view
        return explain(
            boxed(photo, marks), verdict, crop=detector.preprocess.crop, title=title, view=view, cam=cam,
            towards_fake=towards_fake,
        )  # fmt: skip


def maps_of(result: Result, detector: DetectorBase, *, cams: bool) -> list[tuple[str, np.ndarray]]:
    """What `--explain` draws of one face, each with its caption: uint8 [H, W, 3] over what was judged. cams: with
    Grad-CAM, where the detector can."""
    verdict, crop = result.verdict, detector.preprocess.crop
    view = result.photo if result.view is None else result.view
    if verdict is None or view is None:
        return []
    maps = []
    if verdict.patch_map is not None:
        maps.append(("what each patch looks like by itself", overlay(view, verdict.patch_map, crop=crop)))
    if cams and result.pixels is not None:
        towards_fake = leans_to_fake(verdict)
        if (cam := detector.gradcam(result.pixels, towards_fake)) is not None:
            caption = f"what spoke for {'FAKE' if towards_fake else 'REAL'} (Grad-CAM)"
            maps.append((caption, overlay_cam(view, cam, crop=crop, towards_fake=towards_fake)))
    return maps


def marks_of(photo: Sequence[Result]) -> list[Mark]:
    """The faces of one photo's results, with their numbers where there are several."""
    marks = []
    for one in photo:
        if one.verdict is None or one.face is None or not one.face["box"] or not one.size:
            continue
        height, width = one.size
        x0, y0, x1, y1 = one.face["box"]
        box = x0 / width, y0 / height, x1 / width, y1 / height
        marks.append(Mark(box, one.verdict.label, one.face["index"] if len(photo) > 1 else 0))
    return marks


def leans_to_fake(verdict: Verdict) -> bool:
    """What a Grad-CAM is drawn for: what spoke for FAKE, or (False) for REAL."""
    return verdict.label == "FAKE" or (verdict.label == "UNSURE" and verdict.probability >= 0.5)


def _stacked(panels: list[np.ndarray]) -> np.ndarray:
    width = max(panel.shape[1] for panel in panels)
    return np.concatenate(
        [np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in panels], axis=0
    )


def picture_paths(
    target: str, files: Sequence[str], name: str = "explain", kinds: Sequence[str] = PICTURES
) -> list[Path]:
    """Where each file's picture goes: `target` itself for one file and a name of one of the `kinds`, numbered ones
    beside it for several, else a folder. name: of the parameter. UserError where something is in the way."""
    path = Path(target)
    if path.suffix.lower() in kinds and not path.is_dir():
        if not path.parent.is_dir():
            raise UserError(f"`{name}`: there is no folder {path.parent}; make it or name another")
        if len(files) == 1:
            if path.exists() and os.path.exists(files[0]) and path.samefile(files[0]):
                raise UserError(f"`{name}`: {path} is the photo itself and will not be overwritten; give another name")
            return [path]
        paths = [path.with_name(f"{path.stem}-{i + 1:04d}{path.suffix}") for i in range(len(files))]
    else:
        path.mkdir(parents=True, exist_ok=True)
        paths = [path / f"{i + 1:04d}-{Path(file).stem}.png" for i, file in enumerate(files)]
    for one in paths:
        if one.exists():
            raise UserError(f"`{name}`: {one} exists and will not be overwritten; give another name or move it")
    return paths
