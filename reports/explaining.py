"""How faithful maps are: lines of a terminal, a table in Markdown, a figure, a sheet.

`python -m reports.explaining FILE.json` prints the table of a file that `evaluate.py explain` wrote. docs/results.md
holds that of docs/explain.json, and a test holds the two together.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from common.files import write_bytes, write_json, write_text
from common.outputs import plain
from common.reading import json_file
from evaluation.explaining import RANDOM, RESULT, STAGES, ExplainingResult
from metrics.few import ENOUGH
from reports.plots import _sheet, both, write_pngs

FILES = (RESULT, "explain.md")
SHEET = "sheet.png"


def lines_of(result: ExplainingResult) -> Iterator[str]:
    """The table, and which method the figures favour."""
    yield from filter(None, table(plain(result.to_json())))
    for note in result.notes:
        yield f"note: {note}"
    if result.favoured:
        yield f"favoured: {result.favoured} (the quickest of those that no other surely beats)"
    elif len(result.images) >= ENOUGH:
        yield "favoured: none (no map beats a random order and changes with the weights)"


def table(told: dict) -> Iterator[str]:
    """Markdown, of what `ExplainingResult.to_json` gives; the best first."""
    stages = list(STAGES)
    head = ["method", "deletion ↓", "insertion ↑", "better than random", *(f"like: {s}" for s in stages), "CPU s"]
    yield f"| {' | '.join(head)} |"
    yield "|---" * (5 + len(stages)) + "|"
    rows = sorted(told["methods"], key=lambda row: -_number(row["better"]["value"], -9.0))
    for row in sorted(rows, key=lambda row: row["method"] == RANDOM):
        if not row["deletion"]["n"]:
            yield f"| {row['method']} | – | – | – | {' | '.join('–' for _ in stages)} | – |"
            continue
        like = [_told(row["like"].get(stage)) for stage in stages]
        better = "" if row["method"] == RANDOM else _with_interval(row["better"])
        seconds = _number(row["seconds"]["value"])
        cost = "" if math.isnan(seconds) else f"{seconds:.1f}"
        said = [_told(row[name]) for name in ("deletion", "insertion")]
        yield f"| {row['method']} | {' | '.join(said)} | {better} | {' | '.join(like)} | {cost} |"
    for row in told["methods"]:
        if row["note"]:
            yield ""  # a paragraph of its own
            yield f"{row['method']}: {row['note'].removeprefix(row['method'] + ': ')}"


def _number(value: float | None, otherwise: float = math.nan) -> float:
    return otherwise if value is None or math.isnan(value) else value


def _told(mean: dict | None) -> str:
    value = _number(mean["value"]) if mean else math.nan
    return "–" if math.isnan(value) else f"{value:.3f}"


def _with_interval(mean: dict) -> str:
    low, high = _number(mean["low"]), _number(mean["high"])
    return f"{mean['value']:+.3f}" + ("" if math.isnan(low) else f" [{low:+.3f}, {high:+.3f}]")


def figure(result: ExplainingResult, *, theme: str = "light") -> bytes:
    """How much better than a random order each method is, with its interval; beside it what it costs."""
    rows = [row for row in result.rows if row.method != RANDOM and row.deletion.n]
    rows.sort(key=lambda row: row.better.value)
    with _sheet(theme, 2, 1, width=4.6, height=3.8) as page:
        c, at = page.colours, np.arange(len(rows))
        left, right = page.axes
        value = np.array([row.better.value for row in rows])
        reach = np.nan_to_num(np.abs(np.array([[row.better.low, row.better.high] for row in rows]).T - value))
        left.barh(at, value, xerr=reach, color=c["real"], ecolor=c["ink"], height=0.6)
        left.axvline(0, color=c["faint"])
        left.set(
            yticks=at, yticklabels=[row.method for row in rows], xlabel="insertion less deletion, less a random order's"
        )
        right.barh(at, [row.seconds.value for row in rows], color=c["fake"], height=0.6)
        right.set(yticks=at, yticklabels=[], xlabel="CPU seconds an image")
    return page.png


def write_explaining(out: Path, result: ExplainingResult) -> list[str]:
    """Into a folder; the names of what was written."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / FILES[0], plain(result.to_json()))
    write_text(out / FILES[1], "\n".join(table(plain(result.to_json()))) + "\n")
    write_pngs(out, {"explain": both(figure, result)})
    names = [*FILES, "explain-light.png", "explain-dark.png"]
    if result.shown is not None:
        write_bytes(out / SHEET, _png(_drawn(result)))
        names.append(SHEET)
    return names


def _drawn(result: ExplainingResult) -> np.ndarray:
    from reports.explanation_sheet import sheet

    assert result.shown is not None
    seen, verdict, crop, maps = result.shown
    return sheet(seen, verdict, maps, title="one of the fakes", crop=crop)


def _png(picture: np.ndarray) -> bytes:
    import io

    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG")
    return out.getvalue()


if __name__ == "__main__":
    print("\n".join(table(json_file(sys.argv[1]))))
