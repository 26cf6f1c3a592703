"""Who judges the parts of a source: the one function that a shard, and every worker of Ray, runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from discriminator.engine import Engine, open_engine, open_judge
from discriminator.files import judge_files
from discriminator.judge import Judge
from discriminator.locate import find_detector
from discriminator.options import SHIPPED, DetectOptions
from discriminator.results import Result
from discriminator.video import VideoOptions
from faces.apart import decoder
from reports.part_options import Part
from reports.parts import Source, judge_part


@dataclass(frozen=True)
class PartJudge:
    """A judge, what is asked of it, and the files that are shared out."""

    asked: DetectOptions
    judge: Judge
    source: Source

    @staticmethod
    def of(asked: DetectOptions, engine: Engine, judge: Judge, files: Sequence[str | Result]) -> PartJudge:
        """With the source's settings: everything that a verdict depends on."""
        settings = {
            "detector": engine.detector.sha256, "runtime": engine.runtime, "face": asked.face,
            "finder": judge.faces.name, "threshold": judge.threshold.to_dict(), "every": asked.every,
            "max_pixels": asked.max_pixels, "stability": asked.stability,
        }  # fmt: skip
        return PartJudge(asked, judge, Source(files, settings))

    @staticmethod
    def opened(asked: DetectOptions, files: Sequence[str | Result]) -> PartJudge:
        """The same from nothing but what was asked, in another process. UserError as `find_detector` and its kin."""
        engine = open_engine(find_detector(asked.model, shipped=SHIPPED), runtime=asked.runtime, device=asked.device)
        return PartJudge.of(
            asked, engine, open_judge(engine, asked, batch=asked.batch, stability=asked.stability), files
        )

    def __call__(
        self, part: Part, folder: Path, *, tell: Callable[[str], object], progress: Callable[[int, int], object]
    ) -> Path:
        """Judge a part; as `reports.parts.judge_part`."""
        asked = self.asked
        with decoder(asked.decode_seconds) as decode:
            return judge_part(
                self.source, part, folder,
                lambda some, on_read: judge_files(
                    self.judge, some, workers=asked.workers, video=VideoOptions.of(asked), on_read=on_read,
                    decode=decode, max_pixels=int(asked.max_pixels * 1e6),
                ),
                tell=tell, progress=progress,
            )  # fmt: skip
