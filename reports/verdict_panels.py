"""Pictures that show where a verdict was seen: one for each file, its faces one below the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from common.errors import UserError
from discriminator.explaining.attributions import Attribution, why_not
from discriminator.explaining.methods import DEFAULT, PICTURES, check_installed, missing
from discriminator.regions import region_of
from discriminator.results import Result

if TYPE_CHECKING:
    from discriminator.engine import Engine
    from discriminator.verdict import Verdict
    from reports.explanation_sheet import Face

MOST_PANELS = 8  # faces of one photo that are drawn
FOLDER = "explained"


def default_methods(engine: Engine) -> tuple[tuple[str, ...], str]:
    """(what is drawn where nobody says, what is told of that): the patch map where there is one, and the method that
    the figures favour (docs/results.md). An .onnx that was named itself is served without PyTorch, which that needs."""
    if not engine.detector.has_patches:
        return (DEFAULT,), ""
    if engine.file.suffix.lower() == ".onnx":
        return (
            "patches",
        ), f"of an .onnx only the patch map is drawn, unless `explain` names a method, such as {DEFAULT}"
    if reason := missing((DEFAULT,)):
        return ("patches",), f"only the patch map is drawn: {reason}"
    return ("patches", DEFAULT), ""


class Painter:
    """Draws and saves as results come. methods: () for `default_methods`. target: a picture for one file; for several a
    folder, or numbered pictures; None: a new folder. tell: hears once of each method that can't be drawn, and why.

    Only a picture named outright may replace an old one (not the photo). UserError where something is in the way, or
    there is nothing to draw."""

    def __init__(
        self,
        methods: tuple[str, ...],
        target: str | None,
        files: list[str],
        engine: Engine,
        tell: Callable[[str], object] = lambda line: None,
    ):
        self.detector = engine.detector
        self._tell, self._told = tell, set[str]()
        self.methods, note = (methods, "") if methods else default_methods(engine)
        if note:
            tell(f"note: {note}")
        check_installed(self.methods)
        if all(why := [self._why_not(method) for method in self.methods]):
            raise UserError(f"`explain`: {why[0]}")
        self.target = _free_folder() if target is None else target
        self._paths = dict(enumerate(_pictures(self.target, files)))
        self._at = 0
        self._panels: list[np.ndarray] = []
        self._explainer: Callable | None = None

    def _why_not(self, method: str) -> str:
        return why_not(method, self.detector)

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
        self._at, self._panels = self._at + 1, []

    def _panel(self, result: Result) -> np.ndarray | None:
        verdict, photo = result.verdict, result.photo
        if verdict is None or photo is None or result.pixels is None:
            return None
        from reports.explanation_sheet import sheet

        maps = [self._map(method, result.pixels, verdict) for method in self.methods]
        for one in maps:
            if one.note and one.note not in self._told:
                self._told.add(one.note)
                self._tell(f"note: {one.note}")
        crop, face = self.detector.preprocess.crop, self._face(result)
        view = result.view if face is not None else None
        return sheet(photo, verdict, maps, title=result.file, crop=crop, view=view, face=face)

    def _face(self, result: Result) -> Face | None:
        from reports.explanation_sheet import Face

        if result.face is None or not result.face["box"] or not result.size:
            return None
        height, width = result.size
        sides = np.array([width, height], float)
        x0, y0, x1, y1 = (np.array(result.face["box"], float).reshape(2, 2) / sides).ravel()
        corners = region_of(result.face, height, width, self.detector.preprocess.crop) / sides
        return Face(result.face["index"], result.face["of"], (x0, y0, x1, y1), corners)

    def _map(self, method: str, seen: np.ndarray, verdict: Verdict) -> Attribution:
        if method == "patches":  # the verdict has brought it
            patches = verdict.patch_map
            values = None if patches is None else (2 * patches - 1).astype(np.float32)
            return Attribution(method, values, "" if values is not None else self._why_not(method))
        if why := self._why_not(method):
            return Attribution(method, None, why)
        if self._explainer is None:
            from discriminator.explaining.attribution import Explainer

            self._explainer = Explainer(self.detector)
        return self._explainer(seen, method, towards_fake=leans_to_fake(verdict))


def leans_to_fake(verdict: Verdict) -> bool:
    """What a Grad-CAM is drawn for: what spoke for FAKE, or (False) for REAL."""
    return verdict.label == "FAKE" or (verdict.label == "UNSURE" and verdict.probability >= 0.5)


def _stacked(panels: list[np.ndarray]) -> np.ndarray:
    width = max(panel.shape[1] for panel in panels)
    return np.concatenate(
        [np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in panels], axis=0
    )


def _free_folder() -> str:
    """explained, or explained-2, … where that is there already."""
    names = (FOLDER if i == 1 else f"{FOLDER}-{i}" for i in range(1, 10_000))
    return next(name for name in names if not Path(name).exists())


def _pictures(explain: str, files: list[str]) -> list[Path]:
    """Where each file's explanation goes."""
    target = Path(explain)
    if target.suffix.lower() in PICTURES and not target.is_dir():
        if not target.parent.is_dir():
            raise UserError(f"`explain`: there is no folder {target.parent}; make it or name another")
        if len(files) == 1:
            if target.exists() and target.samefile(files[0]):
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
