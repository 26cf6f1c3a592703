"""What is told of one face, photo or video, and the count of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from discriminator import words
from discriminator.verdict import Verdict


@dataclass(frozen=True)
class Result:
    """One entry of the results: a verdict, «no face», or the reason why there is neither.

    file: as it was given. verdict: None where there is none; then `error` says why, or `no_face` is true.
    face: the face in plain JSON types (`faces.finding.face_step.View.to_dict`), None where none was looked for.
    video: what a video's verdict was made of, in plain JSON types. strip: its frames with their verdicts, where they
    were asked for (`discriminator.video`). seconds: what it took, in all threads.
    stages: seconds of it by name ("read", "face", "network").
    photo: uint8 [H, W, 3] reduced for display, view: what was judged of it, pixels: uint8 [R, R, C] as the network saw
    it; these where they were asked for. size: height and width of the photo.
    remark: what is to be said of the file where there is no verdict, whose note would say it.
    stability: whether the verdict would survive (`discriminator.stability.Stability.to_dict`). evidence: what the file
    itself tells (`evidence.line.Line.to_dict` of each line), with a file's first result. Both in plain JSON types, None
    where nobody asked.
    """

    file: str
    verdict: Verdict | None
    error: str = ""
    photo: np.ndarray | None = field(default=None, repr=False)
    no_face: bool = False
    face: dict | None = None
    video: dict | None = None
    stages: dict[str, float] = field(default_factory=dict)
    view: np.ndarray | None = field(default=None, repr=False)
    pixels: np.ndarray | None = field(default=None, repr=False)
    size: tuple[int, int] | None = None
    strip: list[dict] = field(default_factory=list, repr=False)
    remark: str = ""
    stability: dict | None = field(default=None, repr=False)
    evidence: list[dict] | None = field(default=None, repr=False)

    @property
    def status(self) -> str:
        """ "judged", "no face" or "unreadable"."""
        if self.verdict is not None:
            return "judged"
        return "no face" if self.no_face else "unreadable"

    @property
    def seconds(self) -> float:
        return sum(self.stages.values())

    @property
    def headline(self) -> str:
        """What is said of it first, in plain words."""
        return words.headline(self.verdict, no_face=self.no_face)

    @property
    def ends_photo(self) -> bool:
        """Whether no further face of its photo follows."""
        return self.face is None or self.video is not None or self.face["index"] >= self.face["of"]

    def to_dict(self) -> dict:
        """Plain JSON types: one line of detect.py's JSON lines. `headline`, `says` and `reason` are for people."""
        row: dict = {"file": self.file, "status": self.status, "headline": self.headline}
        if self.verdict is not None:
            row["says"] = words.says(self.verdict)
            if why := words.reason(self.verdict):
                row["reason"] = why
            row |= self.verdict.to_dict()
        elif self.error:
            row["error"] = self.error
        elif self.remark:
            row["note"] = self.remark
        if self.face is not None:
            row["face"] = self.face
        if self.video is not None:
            row["video"] = self.video
        if self.stability is not None:
            row["stability"] = self.stability
        if self.evidence is not None:
            row["evidence"] = self.evidence
        return {**row, "seconds": round(self.seconds, 6)}


def rows_of(results: Sequence[Result]) -> list[dict]:
    """The rows of one photo's results (a video's one), in their order; where there are several faces each has the one
    answer for the photo as `photo`."""
    rows = [one.to_dict() for one in results]
    labels = [one.verdict.label for one in results if one.verdict is not None]
    if len(labels) > 1:
        told = words.of_photo(labels).to_dict()
        rows = [row | {"photo": told} for row in rows]
    return rows


@dataclass
class Totals:
    """Counts of results (one for each face); `add` is called once for each."""

    real: int = 0
    fake: int = 0
    unsure: int = 0
    unreadable: int = 0
    no_face: int = 0
    files: int = 0
    stage_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("read", "face", "network"), 0.0))

    def add(self, result: Result) -> None:
        kind = result.verdict.label.lower() if result.verdict is not None else result.status.replace(" ", "_")
        setattr(self, kind, getattr(self, kind) + 1)
        self.files += result.face is None or result.face["index"] <= 1
        for name, seconds in result.stages.items():
            self.stage_seconds[name] = self.stage_seconds.get(name, 0.0) + seconds

    @property
    def judged(self) -> int:
        return self.real + self.fake + self.unsure

    def exit_code(self, *, strict: bool = False, required: bool = False) -> int:
        """1 if a fake was found (or, when strict, anything unsure), else 2 if a file could not be judged, else 0.

        An alarm is never hidden behind a broken file beside it. required: a photo without a face counts as one that
        could not be result.
        """
        if self.fake or (strict and self.unsure):
            return 1
        return 2 if self.unreadable or (required and self.no_face) else 0
