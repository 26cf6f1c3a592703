"""What `detect.py` says, for Python code: `judge(photo)`.

    from reports.library import judge

    said = judge("photo.jpg")                # or a PIL image, or uint8 RGB [H, W, 3]
    for answer in said.results:              # one for each face, the biggest first
        print(answer.verdict, answer.probability, answer.note)
    said.verdict                             # of the photo: FAKE where a face is; None where there is no face
    said.to_dict()                           # the document of `detect.py --json`

It looks for faces, turns them upright, holds them to the floor of quality and answers at the calibrated threshold, by
the same code as the command. The detector is loaded once and kept.
"""

from __future__ import annotations

import functools
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from PIL import Image

from common.errors import BadImage, UserError
from common.options import of
from discriminator.engine import Engine, open_engine, open_judge
from discriminator.explaining.methods import gradients_for, methods_or_path
from discriminator.files import judge_files
from discriminator.judge import MIN_SIDE, Judge
from discriminator.locate import find_detector
from discriminator.options import SHIPPED, JudgeOptions
from discriminator.results import Result, Totals, rows_of
from faces.decode import check_size, from_pillow
from faces.finding.yunet import ENVIRONMENT
from faces.stores import is_zip
from reports.verdict_panels import Painter
from reports.verdicts import document

KEPT = 4  # detectors that stay loaded
UNNAMED = "photo"  # what has no file's name


class FaceFound(TypedDict):
    """Where a face is, in the upright photo's pixels: box x0, y0, x1, y1; landmarks [5][2] or None; score: the finder's
    confidence in [0, 1]; index of `of`, from 1; turned: degrees counter-clockwise that make it upright."""

    index: int
    of: int
    box: list[float] | None
    landmarks: list[list[float]] | None
    score: float | None
    seen_as: str
    part: list[int] | None
    turned: int
    finder: str


@dataclass(frozen=True)
class Answer:
    """What is said of one face (or photo judged whole, or video): the fields of an entry of `results` in the JSON of
    `detect.py`, None where that has none.

    status: "judged" or "no face". headline, says: the verdict in plain words, reason: why it is UNSURE. photo: of
    several faces the one answer for the photo, in words. verdict: "REAL", "FAKE" or "UNSURE". probability: of «made
    by a generator», in [0, 1], calibrated at equal odds. threshold, unsure_low: FAKE from, REAL below.
    false_alarm_rate: the threshold's share of the `validation_reals` called FAKE; None under a threshold of one's
    own. logit: before calibration. note: what to know about this answer, first of all why it is UNSURE. views: log-
    odds of a detector that joins two. video: what a video's verdict was made of. seconds: of work, in all threads."""

    file: str
    status: str
    headline: str = ""
    says: str = ""
    reason: str = ""
    verdict: str | None = None
    probability: float | None = None
    threshold: float | None = None
    unsure_low: float | None = None
    false_alarm_rate: float | None = None
    validation_reals: int | None = None
    logit: float | None = None
    note: str = ""
    views: dict[str, float | None] | None = None
    face: FaceFound | None = None
    video: dict[str, Any] | None = None
    photo: dict[str, Any] | None = None
    seconds: float = 0.0
    row: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Answer:
        """Of an entry of the JSON."""
        known = {each.name for each in fields(cls)} - {"row"}
        return cls(**{name: value for name, value in row.items() if name in known}, row=row)

    def to_dict(self) -> dict[str, Any]:
        """The entry of the JSON, plain types."""
        return dict(self.row)


@dataclass(frozen=True)
class Judgement:
    """What is said of one photo: the fields of the document of `detect.py --json`.

    results: an answer for each face, the biggest first, or one whose status is "no face". detector: file, sha256,
    resolution. runtime: "onnx" or "torch". faces: who looked for them. operating_point: the threshold in force.
    measured: what was measured at it. summary: counts, seconds. drawn: the files that `explain` made."""

    results: tuple[Answer, ...]
    detector: dict[str, Any]
    runtime: str
    faces: dict[str, Any]
    operating_point: dict[str, Any]
    summary: dict[str, Any]
    measured: dict[str, Any] = field(default_factory=dict)
    drawn: tuple[Path, ...] = ()
    rest: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, told: Mapping[str, Any], drawn: tuple[Path, ...] = ()) -> Judgement:
        """Of a document."""
        known = {each.name for each in fields(cls)} - {"results", "drawn", "rest"}
        parts = {name: value for name, value in told.items() if name in known}
        rest = {name: value for name, value in told.items() if name not in known | {"results"}}
        return cls(tuple(map(Answer.of, told["results"])), **parts, drawn=drawn, rest=rest)

    @property
    def verdict(self) -> str | None:
        """The photo's: "FAKE" where a face is, else "UNSURE" where one is, else "REAL"; None where none was found."""
        said = {answer.verdict for answer in self.results}
        return next((label for label in ("FAKE", "UNSURE", "REAL") if label in said), None)

    def __iter__(self) -> Iterator[Answer]:
        return iter(self.results)

    def to_dict(self) -> dict[str, Any]:
        """The document, plain types, for JSON."""
        parts = {each.name: getattr(self, each.name) for each in fields(self)}
        told = {name: value for name, value in parts.items() if name not in ("drawn", "rest")}
        return {**told, **self.rest, "results": [answer.to_dict() for answer in self.results]}


def judge(
    photo: str | os.PathLike[str] | Image.Image | np.ndarray,
    *,
    explain: str | os.PathLike[str] | None = None,
    name: str | None = None,
    **options: Any,
) -> Judgement:
    """What `detect.py` says of one photo.

    photo: the path of a photo or video; a PIL image; or uint8 RGB [H, W, 3], 0 to 255 (of OpenCV's BGR give
    `photo[..., ::-1]`). A path is best: the file is read as it is.
    explain: draw what spoke for the answers, as `detect.py --explain`: where to (a picture's name, or a folder), or by
    which methods ("occlusion,lrp", or "all": into a new folder).
    name: what the photo is called in the answers; default: its path, or what Pillow knows.
    options: of `discriminator.options.JudgeOptions`, as the flags of `detect.py`: model, fpr, threshold, face,
    face_model, offline, device, runtime. Without `model` the shipped detector judges.

    The first call loads the detector (a second or so), later ones with the same options use it again, from any thread.
    UserError: one line that says what is wrong with an option; `BadImage`, a UserError, what is wrong with the photo.
    """
    asked = _options(options)
    source, load = _source(photo, name)
    methods, target = ((), None) if explain is None else methods_or_path(os.fspath(explain))
    begin = time.perf_counter()
    engine, judging = _opened(asked, explain is not None, explain is not None and gradients_for(methods))
    painter = None if explain is None else Painter(methods, target, [source], engine, tell=warnings.warn, anew=True)
    if load is None:
        found = list(judge_files(judging, [source], workers=1))
    else:
        pixels = load
        seen = judging.decoded(source, lambda: (pixels(), ""))
        judging.score([seen])
        found = list(judging.results(seen))
    totals, told_of = Totals(), list[Result]()
    for result in found:
        if result.status == "unreadable":
            raise BadImage(source, result.error)
        result = replace(result, file=source if name is None else name)
        totals.add(result)
        told_of.append(result)
        if painter is not None:
            painter.add(result)
    code = totals.exit_code(required=asked.face == "required")
    told = document(engine, judging, totals, rows_of(told_of), seconds=time.perf_counter() - begin, exit_code=code)
    return Judgement.of(told, () if painter is None else tuple(painter.written))


# ---- what is asked ---------------------------------------------------------------------------------------------------


def _options(given: dict[str, Any]) -> JudgeOptions:
    for name in given:
        if name not in of(JudgeOptions):
            raise UserError(f"`{name}`: judge() has no such option; it takes {', '.join(of(JudgeOptions))}")
    paths = {name: os.fspath(given[name]) for name in ("model", "face_model") if given.get(name) is not None}
    return JudgeOptions(**{**given, **paths})


def _source(photo: object, name: str | None) -> tuple[str, Callable[[], np.ndarray] | None]:
    """What the photo is called (for a file: its path), and what decodes it where it is no file."""
    if isinstance(photo, (str, os.PathLike)):
        path = os.fspath(photo)
        if not isinstance(path, str):
            path = os.fsdecode(path)
        if os.path.isdir(path) or is_zip(path):
            what = "a folder" if os.path.isdir(path) else "an archive"
            raise UserError(f"{path}: is {what}, and judge() takes one photo: call it for each, or use detect.py")
        return path, None
    if isinstance(photo, Image.Image):
        called = name or os.fsdecode(getattr(photo, "filename", "") or UNNAMED)
        return called, lambda: from_pillow(photo, called, min_side=MIN_SIDE)
    if isinstance(photo, np.ndarray):
        pixels, called = _checked(photo), name or UNNAMED
        height, width = pixels.shape[:2]
        check_size(called, width, height, min_side=MIN_SIDE)
        return called, lambda: pixels
    raise UserError(
        f"`photo`: a {type(photo).__name__} is no photo; give a path, a PIL image or a numpy array, uint8 RGB [H, W, 3]"
    )


def _checked(photo: np.ndarray) -> np.ndarray:
    """The array itself, where it is uint8 RGB [H, W, 3]; else a UserError that says how to make it so."""
    wrong = f"`photo`: an array of {photo.dtype} {list(photo.shape)}; give uint8 RGB [H, W, 3], 0 to 255"
    if photo.ndim == 3 and photo.shape[2] == 3 and photo.dtype == np.uint8:
        return np.ascontiguousarray(photo)
    if photo.ndim == 4:
        raise UserError(f"{wrong}: one photo at a time, `photo[0]`")
    if photo.ndim == 3 and photo.shape[0] in (1, 3, 4) and photo.shape[2] not in (1, 3, 4):
        raise UserError(f"{wrong}: channels come last, `photo.transpose(1, 2, 0)`")
    if photo.dtype != np.uint8 and np.issubdtype(photo.dtype, np.floating):
        raise UserError(f"{wrong}: of values from 0 to 1, `(255 * photo).round().astype('uint8')`")
    if photo.dtype == np.uint8 and (photo.ndim == 2 or (photo.ndim == 3 and photo.shape[2] in (1, 4))):
        raise UserError(f"{wrong}: of grey or transparent pixels, `PIL.Image.fromarray(photo)`")
    raise UserError(wrong)


# ---- who judges ------------------------------------------------------------------------------------------------------


def _opened(asked: JudgeOptions, drawn: bool, gradients: bool) -> tuple[Engine, Judge]:
    """The engine and judge for these options; the ones of an earlier call while the files are as they were."""
    where = find_detector(asked.model, shipped=SHIPPED)
    finder = asked.face_model or os.environ.get(ENVIRONMENT)
    files = (where, where.with_suffix(".onnx"), *((Path(finder),) if finder else ()))
    with _LOADING:
        return _load(asked, where, drawn, gradients, tuple(map(_state, files)))


_LOADING = threading.Lock()


def _state(file: Path) -> tuple[str, int, int] | None:
    """What changes when a file does."""
    try:
        now = file.stat()
    except OSError:
        return None
    return str(file.absolute()), now.st_mtime_ns, now.st_size


@functools.lru_cache(maxsize=KEPT)
def _load(asked: JudgeOptions, where: Path, drawn: bool, gradients: bool, state: tuple) -> tuple[Engine, Judge]:
    engine = open_engine(where, runtime=asked.runtime, device=asked.device, gradients=gradients)
    if engine.note:
        warnings.warn(engine.note, stacklevel=4)
    return engine, open_judge(engine, asked, keep_photos=drawn)
