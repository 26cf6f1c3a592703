"""How verdicts are told, declared once (see `common.options`). No numpy here."""

from __future__ import annotations

import os
from dataclasses import dataclass

from common.errors import UserError
from common.options import CSV, QUIET, option
from discriminator.explaining.methods import NAMES, gradients_for, methods_or_path


@dataclass(frozen=True, kw_only=True)
class TellOptions:
    """Where verdicts go, and what the exit code means."""

    json: bool = option(False, "One JSON document on stdout instead of the table.")
    jsonl: bool = option(False, "A line of JSON for each face as soon as it is judged.")
    csv: str | None = CSV(help="A line for each face in a new CSV, or (-) on stdout.", metavar="FILE|-")
    explain: str | None = option(
        None,
        f"Draw why: {NAMES}, or all; or only where to, and the usual maps are drawn.",
        metavar="METHOD,…|PATH",
    )
    explain_to: str | None = option(
        None,
        "Where they are drawn: a picture for one image; for several a folder, or numbered pictures (out-0001.png)."
        "  [default: a new folder explained]",
        metavar="PATH",
    )
    report: str | None = option(
        None,
        "A report to hand on: a new .html file that needs nothing else, the same as .json beside it, of several photos"
        " a .csv too.",
        metavar="FILE.html",
    )
    frames_csv: str | None = option(None, "A line for each face of each judged frame of videos.", metavar="FILE")
    evidence: bool = option(
        False,
        "What each file itself tells: content credentials, generator and camera tags, JPEG tables, double compression,"
        " the eyes' place, SHA-256; with what that can and can't prove. Never part of the score.",
    )
    ela: str | None = option(
        None, "Draw error levels, what one more JPEG changes: a .png for one image, else a folder.", metavar="PATH"
    )
    curve: str | None = option(
        None, "Draw what --stability found: a .png or .svg for one image; for several a folder.", metavar="PATH"
    )
    strict: bool = option(False, "UNSURE counts like FAKE in the exit code.")
    quiet: bool = QUIET(help="No table and no summary; the exit code tells.")

    def __post_init__(self) -> None:
        if self.json + self.jsonl + (self.csv == "-") > 1:
            raise UserError("`json`, `jsonl` and `csv` - all write to stdout; give one of them")
        if self.explain is None and self.explain_to is not None:
            object.__setattr__(self, "explain", self.explain_to)
        if self.explain is not None and self.explain_to is not None and methods_or_path(self.explain)[1] is not None:
            if self.explain != self.explain_to:
                raise UserError("`explain` names a path, and so does `explain_to`; give methods and one path")
        if self.explain is not None:
            methods_or_path(self.explain)  # a mistyped method is told at once
        self._check_targets()

    def _check_targets(self) -> None:
        """UserError where two of them would write the same file or into the same folder: one would replace the other.
        A report's CSV and `csv` are the same table."""
        report = [] if self.report is None else [os.path.splitext(self.report)[0] + end for end in (".json", ".csv")]
        targets = [
            ("csv", None if self.csv == "-" else self.csv), ("frames_csv", self.frames_csv), ("report", self.report),
            *(("report", path) for path in report if path != self.csv), ("explain_to", self.drawn_to),
            ("ela", self.ela), ("curve", self.curve),
        ]  # fmt: skip
        seen: dict[str, str] = {}
        for name, path in targets:
            if path is not None and seen.setdefault(where := os.path.realpath(path), name) != name:
                raise UserError(f"`{seen[where]}` and `{name}` would both write {path}; give another name")

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods to draw; () for the usual ones."""
        return () if self.explain is None else methods_or_path(self.explain)[0]

    @property
    def drawn_to(self) -> str | None:
        """Where pictures go, None for a folder that is free."""
        return self.explain_to or (None if self.explain is None else methods_or_path(self.explain)[1])

    @property
    def gradients(self) -> bool:
        """Whether what is drawn needs PyTorch's network."""
        return self.explain is not None and gradients_for(self.methods)

    @property
    def table(self) -> bool:
        """Whether people read on stdout."""
        return not (self.json or self.jsonl or self.csv == "-" or self.quiet)
