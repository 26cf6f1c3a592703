"""A video's verdict: frames sampled by time, the biggest face of each judged, and the scores joined robustly.

The joined score is the trimmed mean of the frames' logits: of the sorted logits the lowest and the highest fifth are
left out and the rest are averaged (Tukey 1962), so a few frames of blur, a turned head or a bystander don't decide. It
goes through the photos' calibration and threshold; the false-alarm rate was measured on photos, not on videos, and is
said to be so. With faces in fewer than MIN_FRAMES frames the answer is UNSURE, with none «no face».
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from common.errors import BadImage
from common.parallel import in_batches
from discriminator.heatmap import fit
from discriminator.outcome import Judged
from discriminator.verdict import JudgesImages, Rule, Verdict
from faces.finding.face_step import FaceStep, View
from faces.video import Frame, Video

MIN_FRAMES = 5
TRIM = 0.2  # of the frames, left out at each end
AHEAD = 4  # frames judged at once, and twice as many waiting: of a 4K video each has 25 MB
KEPT = 64  # frames that are kept to be shown
_NOTHING = np.zeros((0, 0, 3), np.uint8)
FRAME_COLUMNS = (
    "file", "frame", "seconds", "face", "faces", "used", "verdict", "probability", "logit", "x0", "y0", "x1", "y1",
    "seen_as",
)  # fmt: skip


@dataclass(frozen=True)
class VideoOptions:
    """every: seconds between two frames (None: one, and less in a video of few seconds; 0: every frame). on_frame: is
    called with a dict of FRAME_COLUMNS for each face of each frame."""

    every: float | None = None
    on_frame: Callable[[dict], object] | None = None


def trimmed_mean(values: np.ndarray, trim: float = TRIM) -> float:
    """Mean of `values` [n] without the floor(n * trim) smallest and as many of the largest."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    cut = int(len(ordered) * trim + 1e-9)
    return float(ordered[cut : len(ordered) - cut].mean())


@dataclass
class _Seen:
    """One frame's faces: what the network is to see of them, and what it said."""

    number: int
    seconds: float
    views: list[View]
    faces: list[dict | None]
    pixels: list[np.ndarray]
    photo: np.ndarray | None
    size: tuple[int, int]
    stages: dict[str, float]
    verdicts: list[Verdict] = field(default_factory=list)


def judge_video(
    detector: JudgesImages,
    path: str,
    rule: Rule,
    faces: FaceStep,
    options: VideoOptions | None = None,
    *,
    batch: int = 32,
    workers: int | None = None,
    keep_photos: bool = False,
) -> Judged:
    """One outcome for a video file. With `keep_photos` it carries the frame whose score is nearest to the video's (of
    the first KEPT)."""
    options = options or VideoOptions()
    stages = dict.fromkeys(("read", "face", "network"), 0.0)
    begin = time.perf_counter()
    shown: list[_Seen] = []  # frames with a face
    kept: list[_Seen] = []
    frames = 0
    try:
        with Video(path) as video:
            every = video.interval(options.every)

            def look(frame: Frame) -> _Seen:
                seen = _look(frame, detector, faces, keep_photos)
                if detector.in_threads:
                    _judge([seen], detector, rule, batch)
                return seen

            for part in in_batches(look, video.frames(every), min(batch, AHEAD), workers):
                if not detector.in_threads:
                    _judge(part, detector, rule, batch)
                for seen in part:
                    frames += 1
                    for name, spent in seen.stages.items():
                        stages[name] += spent
                    if options.on_frame is not None:
                        for row in _rows(path, seen):
                            options.on_frame(row)
                    if seen.views:
                        if keep_photos and len(kept) < KEPT:
                            kept.append(seen)
                        shown.append(replace(seen, views=[], pixels=[], photo=None))
            facts = {
                "seconds": round(video.seconds, 3),
                "every": round(every, 4),
                "frames": frames,
                "frames_with_face": len(shown),
                "fake_frames": sum(seen.verdicts[0].label == "FAKE" for seen in shown),
                "most_faces": max((len(seen.verdicts) for seen in shown), default=0),
                "whole": video.whole,
            }
    except BadImage as error:
        return Judged(path, None, error.reason, stages={"read": time.perf_counter() - begin})
    if not shown:
        return Judged(path, None, no_face=True, video=facts, stages=stages)
    logits = np.array([seen.verdicts[0].logit for seen in shown])
    verdict = _verdict(detector, logits, rule, facts)
    outcome = Judged(path, verdict, video=facts, stages=stages)
    if not kept:
        return outcome
    best = min(kept, key=lambda seen: abs(seen.verdicts[0].logit - verdict.logit))
    return replace(
        outcome,
        verdict=replace(verdict, patch_map=best.verdicts[0].patch_map),
        photo=best.photo,
        view=fit(best.views[0].pixels),
        pixels=best.pixels[0],
        size=best.size,
        face=best.faces[0],
        video={**facts, "shown": round(best.seconds, 3)},
    )


def _verdict(detector: JudgesImages, logits: np.ndarray, rule: Rule, facts: dict) -> Verdict:
    """The joined verdict of frames' logits [n], and what must be said about it."""
    logit = trimmed_mean(logits)
    low, high = np.quantile(logits, [0.25, 0.75])
    facts |= {"logit_quartiles": [float(low), float(high)]}
    verdict = detector.verdict(logit, float(detector.calibration.probability(np.array([logit]))[0]), rule)
    notes = [f"{len(logits)} of {facts['frames']} frames, {facts['fake_frames']} of them FAKE by themselves"]
    if rule.fpr is not None:
        notes.append("false alarms measured on photos")
    if len(logits) < MIN_FRAMES:
        verdict = replace(verdict, label="UNSURE")
        notes.append(f"a verdict takes at least {MIN_FRAMES} frames with a face")
    if not facts["whole"]:
        notes.append("the file ends early")
    return replace(verdict, note="; ".join(notes))


def _look(frame: Frame, detector: JudgesImages, faces: FaceStep, keep_photos: bool) -> _Seen:
    begin = time.perf_counter()
    views = faces(frame.pixels)
    found = time.perf_counter()
    told = [None if faces.finder is None else v.to_dict(i + 1, len(views), faces.name) for i, v in enumerate(views)]
    pixels = [detector.preprocess.uint8(view.pixels) for view in views]
    photo = fit(frame.pixels) if keep_photos else None
    if not keep_photos:  # frames that wait for the network would fill the memory
        views = [replace(view, pixels=_NOTHING) for view in views]
    stages = {"read": frame.spent + time.perf_counter() - found, "face": found - begin}
    return _Seen(frame.number, frame.seconds, views, told, pixels, photo, frame.pixels.shape[:2], stages)


def _judge(part: list[_Seen], detector: JudgesImages, rule: Rule, batch: int) -> None:
    pixels = [p for seen in part for p in seen.pixels]
    if not pixels:
        return
    begin = time.perf_counter()
    verdicts = iter(detector.judge_some(pixels, rule, (), batch))
    share = (time.perf_counter() - begin) / len(pixels)
    for seen in part:
        seen.verdicts = [next(verdicts) for _ in seen.pixels]
        seen.stages["network"] = share * len(seen.pixels)


def _rows(path: str, seen: _Seen) -> Iterator[dict]:
    """A row of FRAME_COLUMNS for each face; one without a verdict where there is none."""
    base = {"file": path, "frame": seen.number, "seconds": round(seen.seconds, 4), "faces": len(seen.verdicts)}
    if not seen.verdicts:
        yield {**base, "verdict": "NO FACE", "used": 0}
    for i, (verdict, view) in enumerate(zip(seen.verdicts, seen.views, strict=True)):
        box = dict(zip(("x0", "y0", "x1", "y1"), (round(x, 2) for x in view.face.box))) if view.face else {}
        yield {
            **base,
            "face": i + 1,
            "used": int(i == 0),
            "verdict": verdict.label,
            "probability": verdict.probability,
            "logit": verdict.logit,
            **box,
            "seen_as": view.how,
        }
