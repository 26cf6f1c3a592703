"""What is told beside a verdict: the file's own story, whether the verdict would survive, and their pictures.

All of it is added after the verdict, from the file as it lies there: no score knows of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import BadImage
from common.files import sha256_of
from discriminator import words
from evidence.ela import save_error_levels
from evidence.story import file_story, video_story
from faces.decode import MAX_PIXELS, decode_image, read_file
from faces.stores import ManifestStore
from reports.stability_curve import save_curve
from reports.verdict_panels import paths_by_place

if TYPE_CHECKING:
    from discriminator.results import Result
    from reports.verdict_options import TellOptions

CURVES = (".png", ".svg")


class Beside:
    """`told(result)`: the result with what was asked for beside it; pictures are drawn on the way.

    files: what is judged, in its order, where pictures are wanted; max_pixels: of a photo. UserError where one's name
    is taken. written: pictures that were drawn so far, by where they were asked for."""

    def __init__(self, told: TellOptions, files: Sequence[str | Result], max_pixels: int = MAX_PIXELS):
        self.evidence, self.max_pixels = told.evidence, max_pixels
        self._store = ManifestStore("")
        self._ela, self._curves = (
            paths_by_place(target, files, name, kinds) if target else {}
            for target, name, kinds in ((told.ela, "ela", (".png",)), (told.curve, "curve", CURVES))
        )
        self._at = -1
        self.written: dict[str, list[Path]] = {target: [] for target in (told.ela, told.curve) if target}
        self._told = told

    def told(self, result: Result) -> Result:
        """A result, in the order of the files."""
        first = result.video is not None or result.face is None or result.face["index"] <= 1
        self._at += first
        if result.stability and result.stability["points"] and self._at in self._curves:
            path, number = self._curves[self._at], 1 if first or result.face is None else result.face["index"]
            path = path if first else path.with_name(f"{path.stem}-face{number}{path.suffix}")
            save_curve(path, result.stability)
            self.written[str(self._told.curve)].append(path)
        if not first or not (self.evidence or self._at in self._ela):
            return result
        if result.video is not None:
            return replace(result, evidence=_of_video(result.file, self._store)) if self.evidence else result
        try:
            data = self._store.read(result.file) if self._store.is_inside(result.file) else read_file(result.file)
        except BadImage:
            return result  # it is unreadable, and has been told so
        if self._at in self._ela and result.error == "":
            save_error_levels(self._ela[self._at], decode_image(data, result.file, max_pixels=self.max_pixels))
            self.written[str(self._told.ela)].append(self._ela[self._at])
        return replace(result, evidence=evidence_of(data, result, self.max_pixels)) if self.evidence else result

    def close(self) -> None:
        self._store.close()


def evidence_of(data: bytes, result: Result, max_pixels: int = MAX_PIXELS) -> list[dict]:
    """The lines on a photo's or video's bytes in plain JSON types. result: the first of it."""
    if result.video is not None:
        return [line.to_dict() for line in video_story(hashlib.sha256(data).hexdigest())]
    face = result.face or {}
    landmarks = np.array(face["landmarks"]) if face.get("landmarks") else None
    lines = file_story(data, result.file, landmarks=landmarks, size=result.size, max_pixels=max_pixels)
    return [line.to_dict() for line in lines]


def _of_video(file: str, store: ManifestStore) -> list[dict] | None:
    try:
        digest = hashlib.sha256(store.read(file)).hexdigest() if store.is_inside(file) else sha256_of(Path(file))
    except (BadImage, OSError):
        return None
    return [line.to_dict() for line in video_story(digest)]


def story_lines(photo: Sequence[Result]) -> list[str]:
    """What the terminal shows below the lines of one photo's results: of each face, FAKE first, whether its answer
    would survive, then what the file tells."""
    lines = []
    for one in (photo[i] for i in words.worst_first([one.verdict for one in photo])):
        which = f" (face {one.face['index']})" if one.face is not None and len(photo) > 1 else ""
        lines += _stability_lines(one.stability, which)
    return lines + [line for one in photo for line in _evidence_lines(one.evidence)]


def _stability_lines(stability: dict | None, which: str) -> list[str]:
    if stability is None:
        return []
    head = f"    would it survive{which}: {stability['outcome']}: {stability['reason']}"
    if not (points := stability["points"]):
        return [head]
    told = [f"{p['version']} {words.score_of(p['probability'], stability['unsure_low'])}" for p in points]
    for i, p in enumerate(points):  # the answer, where it is another one
        told[i] += f" ({words.HEADLINES[p['verdict']]})" if p["verdict"] != stability["before"] else ""
    return [head, "      " + "; ".join(told)]


def _evidence_lines(evidence: list[dict] | None) -> list[str]:
    lines = []
    for line in evidence or ():
        lines.append(f"    {line['kind']}: {line['found']}: {line['says']}")
        lines.append(f"      proves {line['proves']}; cannot prove {line['cannot_prove']}")
    return lines
