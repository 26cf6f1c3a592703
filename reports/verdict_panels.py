"""Pictures that show where a verdict was seen: one for each file, its faces one below the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from common.errors import UserError
from common.files import NAME_BYTES
from common.outputs import check_folder
from discriminator.boxes import Mark
from discriminator.explaining.attributions import Attribution, why_not
from discriminator.explaining.methods import DEFAULT, PICTURES, check_installed, missing
from discriminator.regions import region_of
from discriminator.results import Result
from discriminator.words import worst_first

if TYPE_CHECKING:
    from discriminator.detector_base import DetectorBase
    from discriminator.engine import Engine
    from discriminator.verdict import Verdict
    from reports.explanation_sheet import Face

MOST_PANELS = 8  # faces of one photo that are drawn
FOLDER = "explained"
# How names of files end: nobody means a folder by one
FILES = (*PICTURES, ".svg", ".gif", ".bmp", ".tif", ".tiff", ".pdf", ".html", ".htm", ".json", ".csv", ".txt")


def default_methods(engine: Engine) -> tuple[tuple[str, ...], str]:
    """(what is drawn where nobody says, what is told of that): the patch map where there is one, and the method that
    the figures favour (docs/results.md). An .onnx that was named itself is served without PyTorch, which that needs."""
    if not engine.detector.has_patches:
        return (DEFAULT,), ""
    if engine.file.suffix.lower() == ".onnx":
        note = f"of an .onnx only the patch map is drawn, unless `explain` names a method, such as {DEFAULT}"
        return ("patches",), note
    if reason := missing((DEFAULT,)):
        return ("patches",), f"only the patch map is drawn: {reason}"
    return ("patches", DEFAULT), ""


class Maps:
    """What the methods say of one result after the other; the last ones are kept, for who asks again.

    detector: with PyTorch's network where a method needs it. hurried: of what was not drawn yet only the patch map."""

    def __init__(self, detector: DetectorBase, methods: tuple[str, ...], answers: DetectorBase | None = None):
        self.detector, self.methods, self.hurried = detector, methods, False
        self._answers = answers
        self._explainer: Callable[..., Attribution] | None = None
        self._kept: list[tuple[Result, list[Attribution]]] = []

    def why_not(self, method: str) -> str:
        return why_not(method, self.detector)

    def __call__(self, result: Result) -> list[Attribution]:
        """In the order of the methods. [] where there is no verdict; where what was judged has not been kept, only the
        patch map."""
        if result.verdict is None:
            return []
        for one, maps in self._kept:
            if one is result:
                return maps
        plain = self.hurried or result.pixels is None
        methods = [method for method in self.methods if method == "patches" or not plain]
        found = [self._map(method, result.pixels, result.verdict) for method in methods]
        self._kept = [*self._kept[1 - MOST_PANELS :], (result, found)]
        return found

    def _map(self, method: str, seen: np.ndarray | None, verdict: Verdict) -> Attribution:
        if method == "patches" or seen is None:  # the verdict has brought it
            patches = verdict.patch_map
            values = None if patches is None else (2 * patches - 1).astype(np.float32)
            return Attribution(method, values, "" if values is not None else self.why_not(method))
        if why := self.why_not(method):
            return Attribution(method, None, why)
        if self._explainer is None:
            from discriminator.explaining.attribution import Explainer

            self._explainer = Explainer(self.detector, answers=self._answers)
        return self._explainer(seen, method, towards_fake=leans_to_fake(verdict))


class Painter:
    """Draws and saves as results come. methods: () for `default_methods`. target: a picture for one file; for several a
    folder, or numbered pictures; None: a new folder. files: as `discriminator.files.judge_files` takes them. tell:
    hears once of each method that can't be drawn, and why.

    anew: a picture named outright replaces an old one (not the photo); in a program's line nobody takes it for one more
    photo. UserError where something is in the way, or there is nothing to draw. written: what was saved so far."""

    def __init__(
        self,
        methods: tuple[str, ...],
        target: str | None,
        files: Sequence[str | Result],
        engine: Engine,
        tell: Callable[[str], object] = lambda line: None,
        anew: bool = False,
    ):
        self._tell, self._told = tell, set[str]()
        self.written: list[Path] = []
        chosen, note = (methods, "") if methods else default_methods(engine)
        if note:
            tell(f"note: {note}")
        check_installed(chosen)
        self.maps = Maps(engine.detector, chosen)
        if all(why := [self.maps.why_not(method) for method in chosen]):
            raise UserError(f"`explain`: {why[0]}")
        self.target = _free_folder() if target is None else target
        self._paths = paths_by_place(self.target, files, anew=anew)
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
        verdict, photo = result.verdict, result.photo
        if verdict is None or photo is None:
            return None
        from reports.explanation_sheet import sheet

        maps = self.maps(result)
        for one in maps:
            if one.note and one.note not in self._told:
                self._told.add(one.note)
                self._tell(f"note: {one.note}")
        crop, face = self.maps.detector.preprocess.crop, self._face(result)
        view = result.view if face is not None else None
        return sheet(photo, verdict, maps, title=result.file, crop=crop, view=view, face=face, marks=marks)

    def _face(self, result: Result) -> Face | None:
        from reports.explanation_sheet import Face

        if result.face is None or not result.face["box"] or not result.size:
            return None
        height, width = result.size
        sides = np.array([width, height], float)
        corners = region_of(result.face, height, width, self.maps.detector.preprocess.crop) / sides
        return Face(result.face["index"], result.face["of"], corners)


def maps_of(result: Result, maps: Maps) -> list[tuple[str, np.ndarray]]:
    """What `--explain` draws of one face, each with its caption: uint8 [H, W, 3] over what was judged."""
    from reports.explanation_sheet import over

    view = result.photo if result.view is None else result.view
    if view is None:
        return []
    crop = maps.detector.preprocess.crop
    return [(one.title, over(view, one, crop)) for one in maps(result) if one.values is not None]


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


def _short(stem: str) -> str:
    """A name's beginning, which leaves room for what comes before and behind it (0001-, -face12.png)."""
    while len(os.fsencode(stem)) > NAME_BYTES - 24:
        stem = stem[:-1]
    return stem


def _free_folder() -> str:
    """explained, or explained-2, … where that is there already."""
    names = (FOLDER if i == 1 else f"{FOLDER}-{i}" for i in range(1, 10_000))
    return next(name for name in names if not Path(name).exists())


def paths_by_place(
    target: str, files: Sequence[str | Result], name: str = "explain", kinds: Sequence[str] = PICTURES, **how: bool
) -> dict[int, Path]:
    """`picture_paths` by place in `files`, which has results already, too, of what has no picture."""
    places = [i for i, file in enumerate(files) if isinstance(file, str)]
    return dict(zip(places, picture_paths(target, [str(files[i]) for i in places], name, kinds, **how), strict=True))


def picture_paths(
    target: str, files: Sequence[str], name: str = "explain", kinds: Sequence[str] = PICTURES, *, anew: bool = False
) -> list[Path]:
    """Where each file's picture goes: `target` itself for one file and a name of one of the `kinds`, numbered ones
    beside it for several, else a folder. name: of the parameter. anew: the one for one
    file may replace an old one. UserError where something is in the way."""
    path = Path(target)
    check_folder(f"`{name}`", path if path.is_dir() else path.parent)
    if path.suffix.lower() in kinds and not path.is_dir():
        if not path.parent.is_dir():
            raise UserError(f"`{name}`: there is no folder {path.parent}; make it or name another")
        if len(files) == 1:
            if path.exists() and os.path.exists(files[0]) and path.samefile(files[0]):
                raise UserError(f"`{name}`: {path} is the photo itself and will not be overwritten; give another name")
            if anew:
                return [path]
            paths = [path]
        else:
            paths = [path.with_name(f"{path.stem}-{i + 1:04d}{path.suffix}") for i in range(len(files))]
    else:
        if path.suffix.lower() in FILES and not path.is_dir() and not target.endswith(("/", os.sep)):
            raise UserError(f"`{name}` {target}: give a name that ends in {' or '.join(kinds)}, or a folder's")
        path.mkdir(parents=True, exist_ok=True)
        paths = [path / f"{i + 1:04d}-{_short(Path(file).stem)}.png" for i, file in enumerate(files)]
    for one in paths:
        if one.exists():
            raise UserError(f"`{name}`: {one} exists and will not be overwritten; give another name or move it")
    return paths
