"""The one way from a photo to its results: face step, preprocessing, network, threshold.

Commands, web page, API and library all judge by a `Judge`, whatever the network and whoever computes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from common.errors import BadImage
from common.parallel import in_batches
from discriminator.detector_base import DetectorBase, notes_joined
from discriminator.heatmap import fit
from discriminator.results import Result
from discriminator.stability import TOO_MANY, Stability, Variant, variants_of
from discriminator.verdict import Threshold, Verdict
from faces.decode import MAX_PIXELS, Decode, decode_image, profile_note
from faces.finding.face_step import FaceStep, View
from faces.finding.quality import FRAME, has_few, quality, too_small
from faces.pages import pages_note

MIN_SIDE = 16  # pixels; below that there is no face, and nothing to judge
T = TypeVar("T")


@dataclass
class Seen:
    """A photo, or a frame of a video, on its way through a `Judge`. Lists have an entry for each face (or for the photo
    whole); what is there to be shown is reduced, so that what waits for the network does not fill the memory.

    doubts: why there can be no verdict but UNSURE, or "". result: in place of verdicts, why there are none. moment: a
    frame's number in its video, and its second. ways: what is to be said of how each face was found; few: how many
    pixels it has, None where they are enough. variants: other versions of each of the biggest faces, stabilities:
    what became of them."""

    name: str
    result: Result | None = None
    moment: tuple[int, float] = (0, 0.0)
    size: tuple[int, int] = (0, 0)
    photo: np.ndarray | None = None
    faces: list[dict | None] = field(default_factory=list)
    pixels: list[np.ndarray] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    ways: list[list[str]] = field(default_factory=list)
    few: list[float | None] = field(default_factory=list)
    shown: list[np.ndarray | None] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)
    variants: list[list[Variant]] = field(default_factory=list)
    stabilities: list[Stability] = field(default_factory=list)


@dataclass(frozen=True)
class Judge:
    """`judge(photo)` and its kin. Usable from several threads.

    threshold: default: the detector's. faces: the face step (default: photos are judged whole). batch: crops the
    network sees at once, where it gains from it. keep_pixels: results carry what the network saw. keep_photos: that
    too, and the photo reduced for display. stability: each face is judged in other versions of its photo as well; where
    FAKE and REAL change places the answer is UNSURE (`discriminator.stability`).
    """

    detector: DetectorBase
    threshold: Threshold = None  # type: ignore[assignment]  # the detector's own
    faces: FaceStep = field(default_factory=FaceStep)
    batch: int = 8
    keep_pixels: bool = False
    keep_photos: bool = False
    stability: bool = False

    def __post_init__(self) -> None:
        if self.threshold is None:
            object.__setattr__(self, "threshold", Threshold.of(self.detector.calibration))

    def __call__(self, photo: np.ndarray, name: str = "") -> list[Result]:
        """uint8 RGB [H, W, 3] to a result for each face, the biggest first, or one that says that there is none."""
        return self._judged(self.look(name, photo))

    def encoded(
        self, data: bytes, name: str, *, max_pixels: int = MAX_PIXELS, decode: Decode = decode_image
    ) -> list[Result]:
        """As `judge(photo)`, of an image file's bytes; of more than `max_pixels` pixels it is unreadable. decode: by
        what (see `faces.apart`)."""
        return self._judged(self.decoded(name, lambda: opened(data, name, max_pixels, decode)))

    def _judged(self, seen: Seen) -> list[Result]:
        self.score([seen])
        return list(self.results(seen))

    def decoded(self, name: str, load: Callable[[], tuple[np.ndarray, str]]) -> Seen:
        """What is seen of the photo that `load` decodes, with a remark on its file, or ""; where it can't, the result
        says so."""
        begin = time.perf_counter()
        try:
            photo, remark = load()
        except BadImage as error:
            return Seen(name, Result(name, None, error.reason), stages={"read": time.perf_counter() - begin})
        return self.look(name, photo, time.perf_counter() - begin, remark)

    def look(self, name: str, photo: np.ndarray, spent: float = 0.0, remark: str = "") -> Seen:
        """What the network is to see of uint8 RGB [H, W, 3], which took `spent` seconds to read. remark: stands in the
        notes."""
        begin = time.perf_counter()
        views = self.faces(photo)
        found = time.perf_counter()
        seen = Seen(name, size=photo.shape[:2])
        if not views:
            seen.result = Result(name, None, no_face=True, size=seen.size, remark=remark)
        for i, view in enumerate(views):
            seen.pixels.append(self.detector.prepared(view.pixels, *view.upright(photo)))
            seen.doubts.append(doubt_on(view, self.detector))
            notes = note_on(view, self.detector), self.detector.note_on_pixels(seen.pixels[-1]), remark
            seen.notes.append(notes_joined(*notes))
            seen.ways.append(view.notes())
            seen.few.append(few_pixels(view, self.detector))
            seen.faces.append(None if self.faces.finder is None else view.to_dict(i + 1, len(views), self.faces.name))
            seen.shown.append(fit(view.pixels) if self.keep_photos else None)
        if self.keep_photos:
            seen.photo = fit(photo)
        if self.stability:
            seen.variants = variants_of(views, photo, self.faces, self._variant)
        seen.stages = {"read": spent + time.perf_counter() - found, "face": found - begin}
        return seen

    def _variant(self, name: str, view: View, photo: np.ndarray) -> Variant:
        """What the network is to see of a face in another version of its photo."""
        return Variant(name, self.detector.prepared(view.pixels, *view.upright(photo)), doubt_on(view, self.detector))

    def score(self, some: Sequence[Seen]) -> None:
        """The network's part for several at once."""
        pixels = [p for seen in some for p in seen.pixels]
        if not pixels:
            return
        begin = time.perf_counter()
        notes = [note for seen in some for note in seen.notes]
        # an engine that gains nothing from many images at once gets one at a time
        batch = 1 if self.detector.in_threads else self.batch
        verdicts = iter(self.detector.verdicts(pixels, self.threshold, notes, batch))
        share = (time.perf_counter() - begin) / len(pixels)
        for seen in some:
            doubts = seen.doubts or [""] * len(seen.pixels)  # none were looked for
            seen.verdicts = [unsure(next(verdicts), doubt) for doubt in doubts]
            seen.stages["network"] = share * len(seen.pixels)
            if seen.variants:
                self._try(seen)

    def _try(self, seen: Seen) -> None:
        """Scores a photo's other versions; where a verdict flips, it becomes UNSURE."""
        begin = time.perf_counter()
        batch = 1 if self.detector.in_threads else self.batch
        for i, variants in enumerate(seen.variants):
            told = self.detector.verdicts([one.pixels for one in variants], self.threshold, batch=batch)
            told = [unsure(verdict, one.doubt) for verdict, one in zip(told, variants, strict=True)]
            seen.stabilities.append(Stability.of(seen.verdicts[i], variants, told))
            seen.verdicts[i] = unsure(seen.verdicts[i], seen.stabilities[i].flips)
        seen.stages["network"] += time.perf_counter() - begin

    def results(self, seen: Seen) -> Iterator[Result]:
        """What came of one that was scored."""
        if seen.result is not None:
            yield replace(seen.result, stages=seen.stages, photo=seen.photo)
        for i, verdict in enumerate(seen.verdicts):
            yield Result(
                seen.name,
                verdict,
                photo=seen.photo,
                face=seen.faces[i],
                stages={name: spent / len(seen.verdicts) for name, spent in seen.stages.items()},
                view=seen.shown[i],
                pixels=seen.pixels[i] if self.keep_pixels or self.keep_photos else None,
                size=seen.size,
                stability=self._stability(seen, i),
            )

    def _stability(self, seen: Seen, i: int) -> dict | None:
        if not self.stability:
            return None
        return seen.stabilities[i].to_dict() if i < len(seen.stabilities) else dict(TOO_MANY)

    def in_order(
        self,
        look: Callable[[T], Seen],
        items: Iterable[T],
        *,
        batch: int | None = None,
        workers: int | None = None,
        patience: float | None = None,
    ) -> Iterator[Seen]:
        """look(item) of each item in threads, ahead of the network, then scored, in the items' order; workers and
        patience as in `common.parallel.in_batches`."""

        def one(item: T) -> Seen:
            seen = look(item)
            if self.detector.in_threads:
                self.score([seen])
            return seen

        for part in in_batches(one, items, batch or self.batch, workers, patience=patience):
            if not self.detector.in_threads:
                self.score(part)
            yield from part


def opened(data: bytes, name: str, max_pixels: int, decode: Decode) -> tuple[np.ndarray, str]:
    """The photo in an image file's bytes, and what is to be said of the file, or "": what `Judge.decoded` loads."""
    pixels = decode(data, name, max_pixels=max_pixels, min_side=MIN_SIDE)
    return pixels, notes_joined(pages_note(data), profile_note(data, name, max_pixels))


def note_on(view: View, detector: DetectorBase) -> str:
    """What the reader of a verdict on this view should know, or ""."""
    if view.face is None or view.whole:
        return notes_joined(*view.notes(), detector.note(view.pixels))
    few = few_pixels(view, detector)
    return notes_joined(f"the face has only {few:.0f} pixels" if few is not None else "", *view.notes())


def few_pixels(view: View, detector: DetectorBase) -> float | None:
    """How many pixels a face has that was cut out with notably fewer than the network looks at; None where they are
    enough, or too few for a verdict, of which the doubt tells."""
    side = detector.preprocess.resolution
    if view.face is None or view.whole or not has_few(view.side, side):
        return None
    return None if detector.trained_on_aligned_faces and too_small(view.side, side) else view.side / FRAME


def doubt_on(view: View, detector: DetectorBase) -> str:
    """Why a view can't be judged, or "": a face too small, too dark, too blurred, or of which nobody knows the way up.

    The floor was measured on aligned faces; of detectors of other pictures nothing is known."""
    if not detector.trained_on_aligned_faces:
        return view.doubt
    side = detector.preprocess.resolution
    return notes_joined(view.doubt, *quality(view.pixels, view.side, side).doubts(side))


def unsure(verdict: Verdict, doubt: str) -> Verdict:
    """The verdict, or where there is a `doubt`, UNSURE with it before the note."""
    note = notes_joined(doubt, verdict.note)
    return replace(verdict, label="UNSURE", note=note, doubt=doubt) if doubt else verdict
