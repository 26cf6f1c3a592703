"""How verdicts are told, declared once (see `common.options`). No numpy here."""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import UserError
from common.options import CSV, QUIET, option


@dataclass(frozen=True, kw_only=True)
class TellOptions:
    """Where verdicts go, and what the exit code means."""

    json: bool = option(False, "One JSON document on stdout instead of the table.")
    jsonl: bool = option(False, "A line of JSON for each face as soon as it is judged.")
    csv: str | None = CSV(help="A line for each face in a new CSV, or (-) on stdout.", metavar="FILE|-")
    explain: str | None = option(
        None,
        "Draw where it was seen: a picture for one image; for several a folder, or numbered pictures (out-0001.png).",
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

    @property
    def table(self) -> bool:
        """Whether people read on stdout."""
        return not (self.json or self.jsonl or self.csv == "-" or self.quiet)
