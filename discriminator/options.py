"""What commands ask of whoever judges photos, declared once (see `common.options`). No numpy here."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.options import BATCH, DAY, DEVICE, THRESHOLD, WORKERS, Checked, argument, option
from faces.options import FACE, FACE_MODEL, OFFLINE

MODELS = Path(__file__).resolve().parents[1] / "models"
SHIPPED = (MODELS / "detector.safetensors", MODELS / "detector.onnx")
RUNTIMES = ("auto", "torch", "onnx")

MODEL = functools.partial(
    option,
    default=None,
    help="Detector file or run folder; latest: the newest run in ./runs.  [default: the shipped detector]",
    metavar="FILE|RUN",
)


@dataclass(frozen=True, kw_only=True)
class JudgeOptions(Checked):
    """Who judges, by which threshold, and what of a photo."""

    model: str | None = MODEL()
    fpr: float | None = option(None, "Calibrated false-alarm rate that sets the threshold.  [default: the detector's]")
    threshold: float | None = THRESHOLD(help="Your own threshold: FAKE from this probability on.")
    face: str = FACE()
    face_model: str | None = FACE_MODEL()
    offline: bool = OFFLINE()
    device: str = DEVICE()
    runtime: str = option(
        "auto",
        "auto: ONNX Runtime where the detector was exported beside its file, else PyTorch.",
        choices=RUNTIMES,
    )


@dataclass(frozen=True, kw_only=True)
class DetectOptions(JudgeOptions):
    """What `detect.py` is to judge, and how."""

    inputs: tuple[str, ...] = argument("IMAGE|VIDEO|FOLDER|PATTERN|MANIFEST|-...")
    every: float | None = option(
        None, "Time between a video's judged frames; 0: all.  [default: 1]", metavar="SECONDS", low=0
    )
    max_pixels: float = option(
        120.0, "Of a photo; larger ones are refused.", metavar="MILLIONS", low=0, above=True, high=1073
    )
    decode_seconds: float | None = option(
        None,
        "Give a photo up that takes longer to decode, in a process of its own; stop a video or an animation there, and"
        " judge what was seen.  [default: no limit]",
        metavar="SECONDS", low=0, above=True, high=DAY,
    )  # fmt: skip
    stability: bool = option(
        False,
        "Judge each photo again as JPEG 95 to 40, at half and double size, cut off its grid and as a screenshot; where"
        " FAKE and REAL change places, say UNSURE. Takes about ten times as long.",
    )
    batch: int | None = BATCH(default=None, help="Images judged at once.  [default: 32 on a GPU, else 8]")
    workers: int | None = WORKERS(help="Threads that decode ahead.  [default: one per core]")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.streams and len(self.inputs) > 1:
            raise UserError("-: stdin is read for paths, and nothing else can be named beside it")

    @property
    def streams(self) -> bool:
        """Whether paths come on stdin."""
        return "-" in self.inputs


@dataclass(frozen=True)
class ExportOptions:
    """Which detector becomes which ONNX file."""

    model: str | None = MODEL()
    onnx: str | None = option(None, "A new .onnx file.  [default: beside the detector file]", metavar="FILE")
