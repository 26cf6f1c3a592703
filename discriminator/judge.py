"""Files to verdicts: what `detect.py` does, without its printing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from common.errors import BadImage
from common.parallel import in_batches
from discriminator.heatmap import fit
from discriminator.inputs import expand, list_images, paths_from
from discriminator.outcome import Judged, Totals
from discriminator.verdict import JudgesImages, Rule, Verdict
from discriminator.video import VideoOptions, judge_video
from faces.decode import MAX_PIXELS, decode_image, load_image
from faces.finding.face_step import FaceStep, View
from faces.video import is_video_name

__all__ = ["Judged", "Totals", "expand", "judge_bytes", "judge_files", "list_images", "paths_from"]

MIN_SIDE = 16  # pixels; below that there is no face, and nothing to judge


@dataclass
class _Read:
    """One file as the threads leave it: what the network is to see of it, or why there is nothing to see."""

    file: str
    failure: Judged | None = None
    pixels: list[np.ndarray] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    faces: list[dict | None] = field(default_factory=list)
    views: list[np.ndarray | None] = field(default_factory=list)
    photo: np.ndarray | None = None
    size: tuple[int, int] = (0, 0)
    stages: dict[str, float] = field(default_factory=dict)
    is_video: bool = False


def judge_files(
    detector: JudgesImages,
    files: Iterable[str | Judged],
    *,
    batch: int = 32,
    fpr: float | None = None,
    keep_photos: bool = False,
    rule: Rule | None = None,
    faces: FaceStep | None = None,
    workers: int | None = None,
    patience: float | None = None,
    video: VideoOptions | None = None,
    on_read: Callable[[], object] = lambda: None,
) -> Iterator[Judged]:
    """The outcomes of each file, in the order of `files`; a file that can't be decoded never stops the rest.

    A photo has one outcome for each face, the biggest first, or one that says that there is none; a video has one. What
    is in `files` but no path is an outcome already and is handed through in its place.
    batch: crops judged at once (by an engine that gains from it). rule: the threshold (default: `fpr`'s, or the
    detector's). faces: the face step (default: photos are judged whole). workers: threads that decode and look for
    faces, ahead of the network. patience: see `common.parallel.in_batches`. on_read: called when a file is through.
    """
    rule = rule or Rule.of(detector.calibration, fpr=fpr)
    faces = faces or FaceStep()
    video = video or VideoOptions()

    def read(file: str | Judged) -> _Read:
        one = _read(file, detector, faces, keep_photos)
        if detector.in_threads:
            _judge([one], detector, rule, batch)
        return one

    for part in in_batches(read, files, batch, workers, patience=patience):
        if not detector.in_threads:
            _judge(part, detector, rule, batch)
        for one in part:
            if one.is_video:
                yield judge_video(
                    detector, one.file, rule, faces, video, batch=batch, workers=workers, keep_photos=keep_photos
                )
            yield from _outcomes(one, keep_photos)
            on_read()


def judge_bytes(
    detector: JudgesImages,
    data: bytes,
    name: str,
    rule: Rule,
    faces: FaceStep,
    *,
    batch: int = 8,
    max_pixels: int = MAX_PIXELS,
    keep_pixels: bool = False,
) -> list[Judged]:
    """The outcomes of one photo whose encoded bytes are in memory, as `judge_files` gives them for a file; in this
    thread. `name` is only told on; of more than `max_pixels` pixels it is unreadable. keep_pixels: what the network saw
    stays with the outcome."""
    one = _seen(
        name, lambda: decode_image(data, name, max_pixels=max_pixels, min_side=MIN_SIDE), detector, faces, False
    )
    _judge([one], detector, rule, batch)
    return list(_outcomes(one, keep_pixels))


def _outcomes(one: _Read, keep_pixels: bool) -> Iterator[Judged]:
    if one.failure is not None:
        yield replace(one.failure, stages=one.stages)
    for i, verdict in enumerate(one.verdicts):
        yield Judged(
            one.file,
            verdict,
            photo=one.photo,
            face=one.faces[i],
            stages={name: spent / len(one.verdicts) for name, spent in one.stages.items()},
            view=one.views[i],
            pixels=one.pixels[i] if keep_pixels else None,
            size=one.size,
        )


def _judge(part: list[_Read], detector: JudgesImages, rule: Rule, batch: int) -> None:
    """The network's part for some files at once."""
    pixels, notes = [p for one in part for p in one.pixels], [n for one in part for n in one.notes]
    if not pixels:
        return
    begin = time.perf_counter()
    verdicts = iter(detector.judge_some(pixels, rule, notes, batch))
    share = (time.perf_counter() - begin) / len(pixels)
    for one in part:
        one.verdicts = [next(verdicts) for _ in one.pixels]
        one.stages["network"] = share * len(one.pixels)


def _read(file: str | Judged, detector: JudgesImages, faces: FaceStep, keep_photos: bool) -> _Read:
    """Decode a file, look for faces, and preprocess what was found; done by many threads."""
    if isinstance(file, Judged):
        return _Read(file.file, file)
    if is_video_name(file) and not os.path.isdir(file):
        return _Read(file, is_video=True)
    return _seen(file, lambda: load_image(file, min_side=MIN_SIDE), detector, faces, keep_photos)


def _seen(
    file: str, load: Callable[[], np.ndarray], detector: JudgesImages, faces: FaceStep, keep_photos: bool
) -> _Read:
    """What the network is to see of the photo that `load` decodes."""
    out, begin = _Read(file), time.perf_counter()
    try:
        image = load()
    except BadImage as error:
        out.failure = Judged(file, None, error.reason)
        out.stages["read"] = time.perf_counter() - begin
        return out
    read = time.perf_counter()
    views = faces(image)
    found = time.perf_counter()
    out.size = image.shape[:2]
    if not views:
        out.failure = Judged(file, None, no_face=True, size=out.size)
    for i, view in enumerate(views):
        out.pixels.append(detector.preprocess.uint8(view.pixels))
        out.notes.append(note_on(view, detector))
        out.faces.append(None if faces.finder is None else view.to_dict(i + 1, len(views), faces.name))
        out.views.append(fit(view.pixels) if keep_photos else None)
    if keep_photos:
        out.photo = fit(image)
    out.stages = {"read": read - begin + time.perf_counter() - found, "face": found - read}
    return out


def note_on(view: View, detector: JudgesImages) -> str:
    """What the reader of a verdict on this view should know, or ""."""
    if view.face is None or view.how == "crop":
        return detector.note(view.pixels)
    notes = []
    # an aligned frame is about 1.6 box sides: the face had fewer pixels than the network looks at
    if view.face.size * 1.6 < detector.preprocess.resolution:
        notes.append(f"the face has only {view.face.size:.0f} pixels")
    if view.how == "box":
        notes.append("cut out by its box only, not turned upright")
    return "; ".join(notes)
