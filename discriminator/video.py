"""A video's verdict: frames sampled by time, the biggest face of each judged, and the scores joined robustly.

The joined score is the trimmed mean of the frames' logits: of the sorted logits the lowest and the highest fifth are
left out and the rest are averaged (Tukey 1962), so a few frames of blur, a turned head or a bystander don't decide. It
goes through the photos' calibration and threshold; the false-alarm rate was measured on photos, not on videos, and is
said to be so. With faces in fewer than MIN_FRAMES frames the answer is UNSURE, with none «no face»; and where it would
be REAL, but a face is FAKE by itself in IN_A_ROW frames or more over SCENE seconds, UNSURE, too.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from common.errors import BadImage
from common.words import counted
from discriminator.detector_base import notes_joined
from discriminator.heatmap import fit
from discriminator.judge import MIN_SIDE, Judge, Seen
from discriminator.options import DetectOptions
from discriminator.results import Result
from discriminator.stability import NO_VIDEOS
from discriminator.verdict import Verdict
from discriminator.words import NO_FACE, headline, score
from faces.video import Frame, Limits, Video

MIN_FRAMES = 5
TRIM = 0.2  # of the frames, left out at each end
# Frames in a row, and the seconds from the first to the last, in which a face is FAKE by itself while the whole has no
# trace: a short scene that the mean hides.
IN_A_ROW, SCENE = 3, 1.0
AHEAD = 4  # frames judged at once, and twice as many waiting: of a 4K video each has 25 MB
KEPT = 64  # frames that are kept to be shown
FRAME_COLUMNS = (
    "file", "frame", "seconds", "face", "faces", "used", "verdict", "probability", "logit", "x0", "y0", "x1", "y1",
    "seen_as",
)  # fmt: skip


@dataclass(frozen=True)
class VideoOptions:
    """every: seconds between two frames (None: one, and less in a video of few seconds; 0: every frame). on_frame: is
    called with a dict of FRAME_COLUMNS for each face of each frame. limits: what it may cost. strip: the longest side
    of the small picture that each frame has in `Result.strip`; 0: no pictures, None: no strip."""

    every: float | None = None
    on_frame: Callable[[dict], object] | None = None
    limits: Limits = Limits()
    strip: int | None = None

    @staticmethod
    def of(asked: DetectOptions, on_frame: Callable[[dict], object] | None = None) -> VideoOptions:
        return VideoOptions(asked.every, on_frame, Limits(seconds=asked.decode_seconds, decoding_alone=True))


def trimmed_mean(values: np.ndarray, trim: float = TRIM) -> float:
    """Mean of `values` [n] without the floor(n * trim) smallest and as many of the largest."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    cut = int(len(ordered) * trim + 1e-9)
    return float(ordered[cut : len(ordered) - cut].mean())


@dataclass
class _Frames:
    """What has been seen of a video: its frames with a face, and some of them to be shown."""

    seconds: float = 0.0
    every: float = 0.0
    whole: bool = True
    remarks: list[str] = field(default_factory=list)
    count: int = 0
    most_faces: int = 0
    verdicts: list[Verdict] = field(default_factory=list)  # of the biggest face of each frame
    doubts: list[str] = field(default_factory=list)  # why each of them says UNSURE whatever its score, or ""
    ways: Counter[str] = field(default_factory=Counter)  # of how many frames what is to be said of how it was found
    few: list[float] = field(default_factory=list)  # pixels of the faces that have few
    others: list[bool] = field(default_factory=list)  # whether each of the smaller faces is FAKE by itself
    fakes: list[tuple[bool, float]] = field(default_factory=list)  # of every frame: whether a face is FAKE; its second
    kept: list[Seen] = field(default_factory=list)
    strip: list[dict] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("read", "face", "network"), 0.0))

    def add(self, seen: Seen, keep: bool) -> None:
        self.count += 1
        self.fakes.append((any(verdict.label == "FAKE" for verdict in seen.verdicts), seen.moment[1]))
        for name, spent in seen.stages.items():
            self.stages[name] += spent
        if seen.verdicts:
            self.verdicts.append(seen.verdicts[0])
            self.doubts.append(seen.doubts[0])
            self.ways.update(way for ways in seen.ways[:1] for way in ways)
            self.few += [few for few in seen.few[:1] if few is not None]
            self.others += [verdict.label == "FAKE" for verdict in seen.verdicts[1:]]
            self.most_faces = max(self.most_faces, len(seen.verdicts))
            if keep and len(self.kept) < KEPT:
                self.kept.append(seen)

    def notes(self) -> list[str]:
        """What a photo's note says of its face, of all frames; and of the faces that do not count."""
        notes = []
        if self.others:
            faces = f"{counted(len(self.others), 'smaller face')} in these frames"
            notes.append(f"not counted: {faces}, {sum(self.others)} of them FAKE by themselves")
        notes += [f"in {counted(count, 'frame')} {way}" for way, count in self.ways.most_common()]
        if self.few:
            low, high = f"{min(self.few):.0f}", f"{max(self.few):.0f}"
            pixels = low if low == high else f"{low} to {high}"
            notes.append(f"in {counted(len(self.few), 'frame')} the face has only {pixels} pixels")
        return notes

    def scene(self) -> str:
        """In which frames in a row a face is FAKE by itself, the longest such scene; "" without any."""
        best: list[float] = []
        for fake, scene in itertools.groupby(self.fakes, key=lambda frame: frame[0]):
            times = [seconds for _, seconds in scene]
            if fake and len(times) >= max(IN_A_ROW, len(best) + 1) and times[-1] - times[0] >= SCENE:
                best = times
        if not best:
            return ""
        when = f"from {best[0]:.1f} to {best[-1]:.1f} s"
        return f"{when} a face looks generated in each of {len(best)} frames, the whole video does not"

    def facts(self) -> dict:
        """Plain JSON types."""
        return {
            "seconds": round(self.seconds, 3),
            "every": round(self.every, 4),
            "frames": self.count,
            "frames_with_face": len(self.verdicts),
            "fake_frames": sum(verdict.label == "FAKE" for verdict in self.verdicts),
            "most_faces": self.most_faces,
            "whole": self.whole,
            "remarks": self.remarks,
        }


def judge_video(
    judge: Judge,
    path: str,
    options: VideoOptions | None = None,
    *,
    data: bytes | None = None,
    workers: int | None = None,
) -> Result:
    """One result for a video file or an animated picture, or for the bytes of one that is called `path`. A judge that
    keeps photos shows the frame whose score is nearest to the video's (of the first KEPT)."""
    begin, options = time.perf_counter(), options or VideoOptions()
    if judge.stability:  # of a video's frames it would take ten times as long, and say little of the file
        result = judge_video(replace(judge, stability=False), path, options, data=data, workers=workers)
        return replace(result, stability=dict(NO_VIDEOS)) if result.verdict is not None else result
    try:
        limits = replace(options.limits, side=MIN_SIDE)
        frames = _watch(judge, Video(path if data is None else data, path, limits=limits), options, workers)
    except BadImage as error:
        return Result(path, None, error.reason, stages={"read": time.perf_counter() - begin})
    facts = frames.facts()
    if not frames.verdicts:
        looked = f"in {counted(frames.count, 'frame')}"
        remark = notes_joined(looked, *frames.remarks)
        return Result(path, None, no_face=True, video=facts, strip=frames.strip, stages=frames.stages, remark=remark)
    verdict = _verdict(judge, frames, facts)
    result = Result(path, verdict, video=facts, strip=frames.strip, stages=frames.stages)
    if not frames.kept:
        return result
    best = min(frames.kept, key=lambda seen: abs(seen.verdicts[0].logit - verdict.logit))
    return replace(
        result,
        verdict=replace(verdict, patch_map=best.verdicts[0].patch_map),
        photo=best.photo,
        view=best.shown[0],
        pixels=best.pixels[0],
        size=best.size,
        face=best.faces[0],
        video={**facts, "shown": round(best.moment[1], 3)},
    )


def _watch(judge: Judge, opened: Video, options: VideoOptions, workers: int | None) -> _Frames:
    """All sampled frames through the judge; `options.on_frame` hears of each."""
    frames = _Frames()
    with opened as video:
        frames.every = video.interval(options.every)

        def look(frame: Frame) -> Seen:
            one = judge.look(video.path, frame.pixels, frame.spent)
            one.moment = (frame.number, frame.seconds)
            if options.strip and one.photo is None:
                one.photo = fit(frame.pixels, options.strip)
            return one

        batch = min(judge.batch, AHEAD)
        for one in judge.in_order(look, video.frames(frames.every), batch=batch, workers=workers):
            frames.add(one, judge.keep_photos)
            if options.strip is not None:
                frames.strip.append(_told(one, options.strip))
            if options.on_frame is not None:
                for row in _rows(one):
                    options.on_frame(row)
        frames.seconds, frames.whole, frames.remarks = video.seconds, video.whole, video.remarks()
    return frames


def _verdict(judge: Judge, frames: _Frames, facts: dict) -> Verdict:
    """The joined verdict of the frames that can be judged, and what must be said about it; UNSURE where they are too
    few, of all frames."""
    usable = [verdict for verdict, doubt in zip(frames.verdicts, frames.doubts, strict=True) if not doubt]
    few = len(usable) < min(MIN_FRAMES, len(frames.verdicts))
    taken = frames.verdicts if few else usable
    logits = np.array([verdict.logit for verdict in taken])
    low, high = np.quantile(logits, [0.25, 0.75])
    facts |= {"logit_quartiles": [float(low), float(high)], "frames_too_poor": len(frames.verdicts) - len(usable)}
    verdict = judge.detector.verdict(trimmed_mean(logits), judge.threshold, views=_views(taken))
    notes = [f"{len(logits)} of {counted(facts['frames'], 'frame')}, {facts['fake_frames']} of them FAKE by themselves"]
    if poor := [doubt for doubt in frames.doubts if doubt]:
        notes.append(
            f"in {counted(len(poor), 'frame')} the face can't be judged ({Counter(poor).most_common(1)[0][0]})"
        )
    if judge.threshold.fpr is not None:
        notes.append("false alarms measured on photos")
    notes += frames.notes()
    if few or len(logits) < MIN_FRAMES:
        doubt = f"a verdict takes at least {MIN_FRAMES} frames with a face" + " that can be judged" * few
        verdict = replace(verdict, label="UNSURE", doubt=doubt)
        notes.append(doubt)
    elif verdict.label == "REAL" and (doubt := frames.scene()):
        verdict = replace(verdict, label="UNSURE", doubt=doubt)
        notes.append(doubt)
    return replace(verdict, note=notes_joined(*notes, *facts["remarks"], verdict.note))


def _views(verdicts: list[Verdict]) -> np.ndarray | None:
    """What the views of a detector that joins two say of these frames, joined as their scores are, float64 [2]; nan for
    the pixels where most frames have too few of their own. None of another detector."""
    views = [verdict.views for verdict in verdicts if verdict.views is not None]
    if not views:
        return None
    pixels = [pixels for _, pixels in views if pixels is not None]
    shown = 2 * len(pixels) > len(views)
    return np.array(
        [trimmed_mean(np.array([face for face, _ in views])), trimmed_mean(np.array(pixels)) if shown else np.nan]
    )


def _told(seen: Seen, side: int) -> dict:
    """A frame for the strip: plain JSON types, the face's box from 0 to 1, and its `picture` (uint8 [h, w, 3], its
    longest side `side`; None where that is 0)."""
    number, seconds = seen.moment
    row: dict = {"frame": number, "seconds": round(seconds, 3), "faces": len(seen.verdicts), "verdict": "NO FACE"}
    row["headline"] = NO_FACE
    if seen.verdicts:
        verdict = seen.verdicts[0]
        row |= {"verdict": verdict.label, "probability": verdict.probability, "logit": verdict.logit}
        row |= {"headline": headline(verdict), "score": score(verdict)}
        if face := seen.faces[0]:
            height, width = seen.size
            row["box"] = [round(x / size, 4) for x, size in zip(face["box"] or (), (width, height, width, height))]
    return {**row, "picture": fit(seen.photo, side) if side and seen.photo is not None else None}


def _rows(seen: Seen) -> Iterator[dict]:
    """A row of FRAME_COLUMNS for each face; one without a verdict where there is none."""
    number, seconds = seen.moment
    base = {"file": seen.name, "frame": number, "seconds": round(seconds, 4), "faces": len(seen.verdicts)}
    if not seen.verdicts:
        yield {**base, "verdict": "NO FACE", "used": 0}
    for i, (verdict, face) in enumerate(zip(seen.verdicts, seen.faces, strict=True)):
        yield {
            **base,
            "face": i + 1,
            "used": int(i == 0),
            "verdict": verdict.label,
            "probability": verdict.probability,
            "logit": verdict.logit,
            **dict(zip(("x0", "y0", "x1", "y1"), (face and face["box"]) or ())),
            "seen_as": face["seen_as"] if face else "whole",
        }
