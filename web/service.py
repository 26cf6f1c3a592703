"""What the server does with a photo or a video, without a word of HTTP."""

from __future__ import annotations

import base64
import contextlib
import functools
import io
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from common.cli import typed
from common.errors import BadImage, UserError
from discriminator.detector_base import DetectorBase
from discriminator.engine import Engine
from discriminator.explaining.attributions import Attribution
from discriminator.explaining.methods import ALL, METHODS, NAMES, missing
from discriminator.judge import MIN_SIDE, Judge
from discriminator.measured import Rates, rates_of
from discriminator.options import SHIPPED
from discriminator.regions import region_of
from discriminator.results import Result, Totals, rows_of
from discriminator.verdict import Threshold
from discriminator.video import VideoOptions, judge_video
from discriminator.words import told
from faces.decode import Decode, decode_image, open_header
from faces.finding.face_step import FaceStep
from faces.options import FACE_MODES
from faces.video import Limits, is_moving, may_be_moving
from reports.file_story import evidence_of
from reports.handout import Collected
from reports.origin import origin
from reports.verdict_panels import Maps, leans_to_fake
from reports.verdicts import document
from web.batching import BatchingQueue

QUICK = ("patches", "gradcam")  # maps that every face gets
MOST_SLOW = 2  # faces of one photo that all other maps are computed of: some take seconds each
FRAMES = "frames"  # asked for like a map: small pictures of a video's frames
STRIP = 160  # pixels of their longest side
MOST_MAPS = 8  # faces of one photo that are explained, as detect.py draws
MOST_RATES = 64  # thresholds whose rates are kept at hand
LARGE = 12_000_000  # pixels; above, photos are decoded one after the other, for the memory's sake


@dataclass(frozen=True)
class Upload:
    """A photo or video as it came: its encoded bytes, and what its sender calls it."""

    name: str
    data: bytes

    @property
    def may_be_video(self) -> bool:
        """Whether it may take as long as a video does, at a glance."""
        return may_be_moving(self.data, self.name)


@dataclass(frozen=True)
class Ask:
    """How photos are to be judged: whether by their faces (`face`, as it was asked for), by which judge, and which maps
    are wanted. evidence: whether the files' own stories are."""

    face: str
    judge: Judge
    maps: tuple[str, ...] = ()
    evidence: bool = False


@dataclass(frozen=True)
class Answer:
    """A photo's results, and the rows that tell them."""

    results: list[Result]
    rows: list[dict]

    @property
    def failure(self) -> str:
        """Why the photo could not be judged, or ""."""
        return self.results[0].error if self.results and self.results[0].status == "unreadable" else ""


class Service:
    """An engine ready to judge. Usable from several threads.

    finder: the face step's, None where the server was told never to look for faces. face, rule: what a request that
    says nothing gets. limits: what a video may cost, and the pixels of a photo. gradcam: loads the PyTorch detector
    that Grad-CAM is computed with, at its first use; None where there is no Grad-CAM. known_failures: lines of the
    model card. decode: by what photos are decoded; its `close`, where it has one, is called at the end."""

    def __init__(
        self,
        engine: Engine,
        finder: FaceStep,
        *,
        face: str = "auto",
        threshold: Threshold | None = None,
        limits: Limits,
        gradcam: Callable[[], DetectorBase] | None = None,
        known_failures: Sequence[str] = (),
        decode: Decode = decode_image,
    ):
        if not engine.detector.in_threads:
            engine = replace(engine, detector=BatchingQueue(engine.detector))
        self.engine, self.detector = engine, engine.detector
        self.threshold = threshold or Threshold.of(self.detector.calibration)
        self.face, self.limits, self.max_pixels = face, limits, limits.pixels
        self.known_failures, self._decode = tuple(known_failures), decode
        self._finder, self._whole = finder, FaceStep(None, finder.side, finder.resample)
        self._gradcam = None if gradcam is None else functools.cache(gradcam)
        self._rates: dict[Threshold, Rates] = {}
        self._explainer: Callable | None = None
        self._one_cam, self._one_large = threading.Lock(), threading.Lock()
        # a first image: engines take their time for it, and it shows what comes out
        side = self.detector.preprocess.resolution
        blank = self.detector.preprocess(np.zeros((side, side, 3), np.uint8))
        self._has_patches = self.detector.raw(blank[None])[1] is not None

    def close(self) -> None:
        if isinstance(self.detector, BatchingQueue):
            self.detector.close()
        if (close := getattr(self._decode, "close", None)) is not None:
            close()

    def describe(self) -> list[str]:
        """Lines for people: who judges, and by which threshold."""
        by = "ONNX Runtime" if self.engine.runtime == "onnx" else "PyTorch"
        note = [f"note: {self.engine.note}"] if self.engine.note else []
        return [*note, f"{self.engine.file} by {by}; {self.threshold.describe()}"]

    @property
    def maps(self) -> list[str]:
        """Which maps can be had."""
        return [name for name in METHODS if not self._why_not(name)]

    def _why_not(self, name: str) -> str:
        """Why a map can't be had, or ""."""
        if name == "patches":
            return "" if self._has_patches else "this detector gives no patch map"
        if self._gradcam is None:
            return f"{name} needs PyTorch and a .safetensors detector, and this server runs without"
        return missing((name,))

    def ask(
        self,
        face: str | None = None,
        fpr: float | None = None,
        threshold: float | None = None,
        maps: Sequence[str] = (),
        *,
        report: bool = False,
        evidence: bool = False,
        stability: bool = False,
    ) -> Ask:
        """What a request wants; report: results that a report can be made of. UserError where that is not to be had."""
        face = face or self.face
        if face not in FACE_MODES:
            raise UserError(f"face={face}: give one of {', '.join(FACE_MODES)}")
        whole = face == "whole" or (face == "auto" and not self.detector.trained_on_aligned_faces)
        if not whole and self._finder.finder is None:
            if face == "required":
                raise UserError("face=required: this server was started to judge photos whole and looks for no faces")
            face, whole = "whole", True  # as it is done, and told to be done
        maps = [m for name in maps for m in (self.maps if name == ALL else (name,))]
        if unknown := [name for name in maps if name not in (*METHODS, FRAMES)]:
            raise UserError(f"explain={unknown[0]}: give {NAMES}, {ALL} or {FRAMES}, or several with commas")
        for name in maps:
            # that a detector has no patches is no news: what comes back simply has none
            if name not in ("patches", FRAMES) and (why := self._why_not(name)):
                raise UserError(f"explain={name}: {why}; explain=patches may do")
        by = self.threshold
        if fpr is not None or threshold is not None:
            by = Threshold.of(self.detector.calibration, fpr=fpr, threshold=threshold)
        step = self._whole if whole else self._finder
        pixels = bool(set(maps) - {"patches", FRAMES}) or (report and bool(maps))
        judge = Judge(self.detector, by, step, keep_pixels=pixels, keep_photos=report, stability=stability)
        return Ask(face, judge, tuple(dict.fromkeys(maps)), evidence)

    def judge(self, upload: Upload, ask: Ask) -> Answer:
        """One photo's or video's results; what can't be judged says why."""
        if is_moving(upload.data, upload.name):
            how = VideoOptions(limits=self.limits, strip=STRIP if FRAMES in ask.maps else 0)
            return self._told([judge_video(ask.judge, upload.name, how, data=upload.data, workers=1)], ask, upload)
        begin = time.perf_counter()
        try:
            with open_header(upload.data, upload.name, max_pixels=self.max_pixels, min_side=MIN_SIDE) as image:
                large = image.width * image.height > LARGE
        except BadImage as error:
            seconds = {"read": time.perf_counter() - begin}
            return self._told([Result(upload.name, None, error.reason, stages=seconds)], ask, upload)
        with self._one_large if large else contextlib.nullcontext():
            results = ask.judge.encoded(upload.data, upload.name, max_pixels=self.max_pixels, decode=self._decode)
            return self._told(results, ask, upload)

    def _told(self, results: list[Result], ask: Ask, upload: Upload) -> Answer:
        if ask.evidence:
            results[0] = replace(results[0], evidence=evidence_of(upload.data, results[0], self.max_pixels))
        rows = rows_of(results)
        for i, (one, row) in enumerate(zip(results, rows, strict=True)):
            if one.video is not None:
                row["frames"] = [{**frame, "picture": _data_url(frame["picture"])} for frame in one.strip]
            elif ask.maps and one.size is not None and not ask.judge.keep_photos:  # a report draws its own
                row["explain"] = self._explained(one, one.size, _for_face(i, ask.maps))
        return Answer(results, rows)

    def _explained(self, one: Result, size: tuple[int, int], maps: Sequence[str]) -> dict:
        """Where what was judged lies in the upright photo of `size`, and the maps over it, row by row, each from 0 to
        1."""
        height, width = size
        out: dict = {"width": width, "height": height}
        if one.verdict is None:
            return out
        out["region"] = [
            [round(float(x), 2) for x in corner]
            for corner in region_of(one.face, height, width, self.detector.preprocess.crop)
        ]
        if "patches" in maps and one.verdict.patch_map is not None:
            out["patch_map"] = _rows(one.verdict.patch_map)
        others = [name for name in maps if name in METHODS and name != "patches"]
        if others and self._gradcam is not None and one.pixels is not None:
            towards_fake = leans_to_fake(one.verdict)
            with self._one_cam:  # its hooks and gradients are the network's own
                if self._explainer is None:
                    from discriminator.explaining.attribution import Explainer

                    self._explainer = Explainer(self._gradcam(), answers=self.engine.detector)
                found = [self._explainer(one.pixels, name, towards_fake=towards_fake) for name in others]
            out |= _told_maps(found, towards_fake)
        return out

    def document(self, answers: Sequence[Answer], ask: Ask, seconds: float) -> dict:
        """As `detect.py` tells it as JSON."""
        totals = Totals()
        for answer in answers:
            for one in answer.results:
                totals.add(one)
        out = document(
            self.engine,
            ask.judge,
            totals,
            [row for answer in answers for row in answer.rows],
            seconds=seconds,
            exit_code=totals.exit_code(required=ask.face == "required"),
            file=self.engine.file.name,
            rates=self.rates(ask.judge.threshold),
        )
        # the rest of the line is for who can repair it, and names the server's folders
        out["faces"]["fallback"] = out["faces"]["fallback"].partition(";")[0]
        return out

    def rates(self, threshold: Threshold) -> Rates:
        """What was measured at a threshold."""
        if threshold not in self._rates:
            if len(self._rates) > MOST_RATES:
                self._rates.clear()
            self._rates[threshold] = rates_of(self.engine.file, self.detector, threshold)
        return self._rates[threshold]

    def report(self, answers: Sequence[Answer], ask: Ask, seconds: float) -> str:
        """The page to hand on, of answers to an `ask` for a report."""
        methods = tuple(name for name in ask.maps if name in METHODS) or ("patches",)
        gradients = self._gradcam is not None and any(METHODS[name].gradients for name in methods)
        network = self._gradcam() if gradients and self._gradcam is not None else self.detector
        shown = Collected(Maps(network, methods, self.engine.detector))
        for answer in answers:
            shown.add(answer.results, answer.rows)
        files = [answer.results[0].file for answer in answers]
        about = origin(self.engine.runtime, ask.judge.threshold.describe(), self._same_by_command(files, ask, methods))
        with self._one_cam:
            return shown.page(self.document(answers, ask, seconds), about)

    def _same_by_command(self, files: Sequence[str], ask: Ask, methods: Sequence[str]) -> str:
        """The command that judges the same in the same way, and tells as much of it."""
        point = ask.judge.threshold.point
        words = ["python detect.py", *map(typed, files), "--face", ask.face]
        if self.engine.file.resolve() not in [path.resolve() for path in SHIPPED]:  # these judge unasked
            words += ["--model", typed(self.engine.file.name)]
        words += (
            ["--threshold", repr(point.threshold)] if ask.judge.threshold.own else ["--fpr", f"{point.target_fpr:g}"]
        )
        words += ["--stability"] * ask.judge.stability + ["--evidence"] * ask.evidence
        words += ["--explain", ",".join(methods)] if tuple(methods) != QUICK[:1] else []  # a report has that by itself
        return " ".join([*words, "--report", "report.html"])

    def model(self) -> dict:
        """What there is to know about the detector, in plain JSON types."""
        ask = self.ask()
        # faces are told as they can be asked for, whatever a request that says nothing gets
        head = self.document([], replace(ask, judge=replace(ask.judge, faces=self._finder)), 0.0)
        return {
            "detector": head["detector"],
            "runtime": self.engine.runtime,
            "face": self.face,
            "faces": head["faces"],
            "operating_point": self.threshold.to_dict(),
            "in_words": self.threshold.describe(),
            "measured": self.rates(self.threshold).to_dict(),
            "preprocess": self.detector.preprocess.to_dict(),
            "calibration": self.detector.calibration.to_dict(),
            "meta": self.detector.meta,
            "points": self._points(),
            "own_point": self._own_point(),
            "words": told(),
            "maps": self.maps,
            "map_titles": {name: METHODS[name].title for name in self.maps},
            "known_failures": list(self.known_failures),
        }

    def _points(self) -> list[dict]:
        """The thresholds that a page may change to without asking, the usual one first."""
        calibration = self.detector.calibration
        usual = self.threshold.to_dict()["target_fpr"]
        rest = [Threshold.of(calibration, fpr=point.target_fpr) for point in calibration.points]
        by = [self.threshold, *(one for one in rest if one.point.target_fpr != usual)]
        return [
            {
                "target_fpr": one.to_dict()["target_fpr"], "threshold": one.point.threshold,
                "unsure_low": one.point.unsure_low, "fpr": one.fpr, "n_real": one.point.n_real,
                "in_words": one.describe(), "measured": self.rates(one).to_dict(),
            }
            for one in by
        ]  # fmt: skip

    def _own_point(self) -> dict:
        """The same of a threshold of the asker's own: where UNSURE then begins at the latest, and what is measured."""
        calibration = self.detector.calibration
        usual = Threshold.of(calibration, fpr=calibration.at().target_fpr)
        own = Threshold.of(calibration, threshold=usual.point.threshold)
        return {
            "unsure_low": usual.point.unsure_low,
            "n_real": usual.point.n_real,
            "measured": self.rates(own).to_dict(),
        }


def _for_face(number: int, maps: Sequence[str]) -> Sequence[str]:
    """Which maps a photo's face gets, the biggest being number 0."""
    if number >= MOST_MAPS:
        return ()
    return maps if number < MOST_SLOW else [name for name in maps if name in QUICK]


def _told_maps(found: Sequence[Attribution], towards_fake: bool) -> dict:
    """Grad-CAM as it was always told, [h, w] from 0 to 1; all others by name, from -1 (REAL) to 1 (FAKE)."""
    out: dict = {}
    maps: dict = {}
    for one in found:
        shown = one.shown()
        if one.method == "gradcam":
            if shown is not None:
                out |= {"gradcam": _rows(np.abs(shown)), "gradcam_towards": "FAKE" if towards_fake else "REAL"}
            continue
        maps[one.method] = {
            "values": None if shown is None else _rows(shown), "signed": one.signed, "note": one.note,
            "seconds": round(one.seconds, 3),
        }  # fmt: skip
    return out | ({"maps": maps} if maps else {})


def _data_url(picture: np.ndarray | None) -> str | None:
    if picture is None:
        return None
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"


def _rows(values: np.ndarray) -> list[list[float]]:
    return [[round(float(x), 4) for x in row] for row in values]
