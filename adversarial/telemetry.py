"""What a run tells people: log lines, stats.jsonl, TensorBoard."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np


def clock(seconds: float) -> str:
    """A duration as `1d 02h`, `3h 20m`, `4m 05s` or `12.3s`."""
    s = int(seconds)
    if s >= 86400:
        return f"{s // 86400}d {s // 3600 % 24:02d}h"
    if s >= 3600:
        return f"{s // 3600}h {s // 60 % 60:02d}m"
    if s >= 60:
        return f"{s // 60}m {s % 60:02d}s"
    return f"{seconds:.1f}s"


def append_jsonl(path: Path, row: dict) -> None:
    with open(path, "a", encoding="utf-8") as f:
        f.write(json.dumps(row) + "\n")


def read_jsonl(path: Path) -> list[dict]:
    """The complete rows of a file; a last line cut off by a crash is left out."""
    rows = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
    return rows


def rewind_jsonl(path: Path, nimg: int) -> None:
    """Drop rows written after the checkpoint at `nimg` images, so that a resumed run leaves no row twice."""
    rows = [row for row in read_jsonl(path) if row.get("nimg", 0) <= nimg]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


class Telemetry:
    """Writes for rank 0; on other ranks every call does nothing."""

    def __init__(self, run: Path, is_main: bool, quiet: bool = False, purge_step: int | None = None) -> None:
        self.run, self.is_main, self.quiet = run, is_main, quiet
        self.board = None
        self.started = self.line_at = time.monotonic()
        self.live = is_main and not quiet and sys.stderr.isatty()
        if is_main:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(run / "tensorboard"), purge_step=purge_step)

    def say(self, text: str) -> None:
        """A line to the terminal and log.txt."""
        if not self.is_main:
            return
        if not self.quiet:
            if self.live:
                sys.stderr.write("\r\033[K")
                sys.stderr.flush()
            print(text, flush=True)
        with open(self.run / "log.txt", "a", encoding="utf-8") as f:
            f.write(text + "\n")

    def progress(self, text: str) -> None:
        """A line that overwrites itself, at most four times a second, on a terminal only."""
        now = time.monotonic()
        if self.live and now - self.line_at > 0.25:
            self.line_at = now
            sys.stderr.write(f"\r\033[K{text[:150]}")
            sys.stderr.flush()

    def scalars(self, values: dict[str, float], nimg: int) -> None:
        """Scalars to TensorBoard, with kimg as the horizontal axis in thousandths (nimg)."""
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, global_step=nimg)

    def image(self, name: str, image: np.ndarray, nimg: int) -> None:
        """uint8 [H, W, C] to TensorBoard."""
        if self.board is not None:
            self.board.add_image(name, image, global_step=nimg, dataformats="HWC")

    def tick(self, row: dict) -> None:
        """One row of stats.jsonl and the same as TensorBoard scalars under the published tags."""
        if not self.is_main:
            return
        append_jsonl(self.run / "stats.jsonl", row)
        nimg = row["nimg"]
        scalars = {name: v["mean"] for name, v in row.items() if isinstance(v, dict) and "mean" in v}
        scalars |= {k: v for k, v in row.items() if "/" in k and isinstance(v, int | float)}
        self.scalars(scalars, nimg)
        self.board.flush()

    def metric(self, row: dict) -> None:
        """One row of metrics.jsonl; its numbers also as TensorBoard scalars under Metrics/."""
        if not self.is_main:
            return
        append_jsonl(self.run / "metrics.jsonl", row)
        self.scalars(
            {f"Metrics/{k}": v for k, v in row.items() if isinstance(v, float) and k not in ("kimg", "seconds")},
            row["nimg"],
        )

    def close(self) -> None:
        if self.board is not None:
            self.board.close()
