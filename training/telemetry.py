"""What a run tells people: log lines, stats.jsonl, TensorBoard."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common import reading
from common.errors import one_line
from common.files import write_text
from common.options import in_flags

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def append_jsonl(path: Path, row: dict) -> None:
    with open(path, "a", encoding="utf-8") as f:
        f.write(json.dumps(row) + "\n")


def read_jsonl(path: Path) -> list[dict]:
    """The complete rows of a file, none where it is not there; a last line cut off by a crash is left out."""
    rows = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = reading.json_of(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                rows.append(row)
    return rows


def rewind_jsonl(path: Path, nimg: int, verdict_step: int = 0) -> None:
    """Drop rows written after the checkpoint at `nimg` images, so that a resumed run leaves no row twice.

    Rows of the verdict-only phase all have the nimg at which the game ended; they stay up to `verdict_step`. The rows
    marked `final` come after its last step.
    """
    if not path.exists():
        return
    rows = [
        row
        for row in read_jsonl(path)
        if row.get("nimg", 0) <= nimg and row.get("verdict_step", 0) <= verdict_step and not row.get("final")
    ]
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


class Telemetry:
    """Writes for rank 0; on other ranks every call does nothing. Before `open` only the terminal hears."""

    def __init__(self, is_main: bool, quiet: bool = False, flags: Mapping[str, str] | None = None) -> None:
        """flags: how the command that trains calls its parameters, for lines that name one (`common.options`)."""
        self.run: Path | None = None
        self.flags = flags or {}
        self.is_main, self.quiet = is_main, quiet
        self.board: SummaryWriter | None = None
        self.line_at = time.monotonic()
        self.live = is_main and not quiet and sys.stderr.isatty()

    def open(self, run: Path, purge_step: int | None = None) -> None:
        """Write to the folder `run` from now on; TensorBoard forgets an earlier process's rows from `purge_step`."""
        if self.is_main:
            self.run = run
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(run / "tensorboard"), purge_step=purge_step)

    def reopen(self, purge_step: int) -> None:
        """TensorBoard forgets what was written from `purge_step` on: the run goes back there."""
        if self.run is not None:
            if self.board is not None:
                self.board.close()
            self.open(self.run, purge_step)

    def say(self, text: str) -> None:
        """A line to the terminal and log.txt."""
        if not self.is_main:
            return
        text = self.in_words(text)
        if not self.quiet:
            self._to_terminal("", text)
        if self.run is not None:
            with open(self.run / "log.txt", "a", encoding="utf-8") as f:
                f.write(text + "\n")

    def keep(self, text: str, nimg: int) -> None:
        """A line to log.txt and TensorBoard's texts, of what the terminal is told in another way."""
        if self.run is not None:
            with open(self.run / "log.txt", "a", encoding="utf-8") as f:
                f.write(self.in_words(text) + "\n")
        if self.board is not None:
            self.board.add_text("Advice", self.in_words(text), global_step=nimg)

    def _to_terminal(self, live: str, line: str | None = None) -> None:
        """Replace the live line, and print `line` above it. A terminal that has gone does not end a training."""
        try:
            if self.live:
                sys.stderr.write(f"\r\033[K{live}")
                sys.stderr.flush()
            if line is not None:
                print(line, flush=True)
        except (OSError, ValueError):
            self.quiet, self.live = True, False
            sys.stdout = open(os.devnull, "w")  # python would fail to flush the old one at exit

    def progress(self, text: str, *, at_once: bool = False) -> None:
        """A line that overwrites itself, on a terminal only, at most four times a second unless `at_once`."""
        now = time.monotonic()
        if self.live and (at_once or now - self.line_at > 0.25):
            self.line_at = now
            self._to_terminal(text[: shutil.get_terminal_size().columns - 1])

    def advise(self, text: str, nimg: int) -> None:
        """A line of advice to the terminal, log.txt and TensorBoard's texts."""
        self.say(f"warning: {text}")
        if self.board is not None:
            self.board.add_text("Advice", self.in_words(text), global_step=nimg)

    def in_words(self, text: str) -> str:
        """`text` as one line, whatever files are called, with the parameters that it names as the command's flags."""
        return one_line(in_flags(text, self.flags))

    def scalars(self, values: dict[str, float], nimg: int) -> None:
        """Scalars to TensorBoard, with kimg as the horizontal axis in thousandths (nimg)."""
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, global_step=nimg)

    def image(self, name: str, image: np.ndarray, nimg: int) -> None:
        """uint8 [H, W, C], or [H, W] for grey, to TensorBoard."""
        if self.board is not None:
            self.board.add_image(name, image, global_step=nimg, dataformats="HW" if image.ndim == 2 else "HWC")

    def tick(self, row: dict) -> None:
        """One row of stats.jsonl and the same as TensorBoard scalars under the published tags."""
        scalars = {name: v["mean"] for name, v in row.items() if isinstance(v, dict) and "mean" in v}
        scalars |= {k: v for k, v in row.items() if "/" in k and isinstance(v, int | float)}
        self.record("stats.jsonl", row, scalars, row["nimg"])

    def metric(self, row: dict) -> None:
        """One row of metrics.jsonl; its numbers also as TensorBoard scalars under Metrics/."""
        numbers = {k: v for k, v in row.items() if isinstance(v, float) and k not in ("kimg", "seconds")}
        self.record("metrics.jsonl", row, {f"Metrics/{k}": v for k, v in numbers.items()}, row["nimg"])

    def record(self, file: str, row: dict, scalars: dict[str, float], at: int) -> None:
        """One row of a .jsonl file in the run's folder, and scalars at `at` of TensorBoard."""
        if self.run is not None:
            append_jsonl(self.run / file, row)
        self.scalars(scalars, at)
        if self.board is not None:
            self.board.flush()

    def close(self) -> None:
        """Let go of the live line and of TensorBoard's file; what cannot be written any more has been told already."""
        if self.live:
            self._to_terminal("")
        if self.board is not None:
            with suppress(OSError):
                self.board.close()
