"""A report on judged photos to hand on: one HTML file that needs nothing else and prints on A4 or Letter.

`Handout` takes the results of photo after photo and keeps of them what the page shows, within bounds; `page` makes the
page of plain data. Beside the page lie the same as JSON and, of many photos, a CSV (`Handout.save`).
"""

from __future__ import annotations

import heapq
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import UserError
from common.files import write_bytes, write_json, write_text
from common.outputs import check_folder
from discriminator.boxes import boxed
from discriminator.detector_base import DetectorBase
from discriminator.heatmap import fit
from discriminator.results import Result
from discriminator.words import worst_first
from reports.handout_page import Face, Shown, page
from reports.verdict_panels import Maps, maps_of, marks_of

DETAILED = 12  # photos that are shown in full; of more, those that look generated go first
FACES = 6  # faces of one photo whose maps are shown
ROWS = 5000  # photos in the table
THUMB, MAP_SIDE = 96, 320  # pixels of the longest side: in the table, of maps
QUICK = ("patches",)  # what comes with every verdict
PICTURES = 12_000_000  # bytes of all photos and maps in full; what comes after is left out, and said


@dataclass(order=True)
class _Row:
    """A photo in the table, the ones to be dropped first being the smallest."""

    rank: tuple[int, float, int]
    shown: Shown = field(compare=False)


class Handout:
    """Collects what is to be handed on. target: a new .html file; the JSON (and of several photos a CSV) get its name
    with their endings. maps: what is drawn of a face (default: the patch map). UserError where one of them is in the
    way or there is no such folder."""

    def __init__(self, target: str, detector: DetectorBase, maps: Maps | None = None):
        self.path = Path(target)
        if self.path.suffix.lower() not in (".html", ".htm"):
            raise UserError(f"`report` {target}: give a name that ends in .html")
        for path in self.files:
            if path.exists():
                raise UserError(f"`report`: {path} exists and will not be overwritten; give another name or move it")
        if not self.path.parent.is_dir():
            raise UserError(f"`report` {target}: there is no folder {self.path.parent}; make it")
        check_folder("`report`", self.path.parent)  # now, not when all has been judged
        self.collected = Collected(maps or Maps(detector, QUICK))

    @property
    def files(self) -> list[Path]:
        return [self.path, self.path.with_suffix(".json"), self.path.with_suffix(".csv")]

    def add(self, photo: Sequence[Result], rows: Sequence[Mapping]) -> None:
        """All results of one photo, and the rows that tell them."""
        self.collected.add(photo, rows)

    def save(self, document: Mapping, about: Mapping, csv: str) -> list[Path]:
        """Write page, JSON twin and, of several photos, `csv`; returns what was written."""
        html, data, table = self.files
        write_text(html, self.collected.page(document, about, table.name, data.name))
        write_json(data, {"report": dict(about), **document})
        if self.collected.count < 2:
            return [html, data]
        write_bytes(table, csv.encode("utf-8", "surrogateescape"))  # names that are not UTF-8 stay as they are
        return [html, data, table]


class Collected:
    """What a page shows of photos. Bounded, however many come: see the constants above."""

    def __init__(self, maps: Maps):
        self.maps = maps
        self.count = 0
        self._rows: list[_Row] = []
        self._full: list[tuple[_Row, Sequence[Result]]] = []

    def add(self, photo: Sequence[Result], rows: Sequence[Mapping]) -> None:
        """All results of one photo, and the rows that tell them (`discriminator.results.rows_of`)."""
        first, labels = photo[0], [one.verdict.label for one in photo if one.verdict is not None]
        told = rows[0].get("photo", rows[0])
        verdict = str(told.get("verdict", "NO FACE" if first.no_face else "UNREADABLE"))
        top = worst_first([one.verdict for one in photo])[0]
        probability = photo[top].verdict.probability if photo[top].verdict is not None else -1.0  # type: ignore
        kinds = ("UNREADABLE", "NO FACE", "REAL", "UNSURE", "FAKE")
        shown = Shown(
            first.file, verdict, str(told["headline"]), number=self.count + 1, rows=tuple(rows), score=probability,
            thumb=None if first.photo is None else jpeg(fit(first.photo, THUMB), 70), faces=len(labels),
        )  # fmt: skip
        row = _Row((kinds.index(verdict), probability, -self.count), shown)
        self.count += 1
        if len(self._rows) < ROWS:
            heapq.heappush(self._rows, row)
        else:
            heapq.heappushpop(self._rows, row)
        self._keep(row, photo)

    def _keep(self, row: _Row, photo: Sequence[Result]) -> None:
        """Among the photos in full, in the place of one that looks less generated where there are enough."""
        if len(self._full) < DETAILED:
            self._full.append((row, photo))
            return
        least = min(range(len(self._full)), key=lambda i: self._full[i][0])
        if self._full[least][0].rank[0] < row.rank[0]:
            self._full[least] = (row, photo)

    def page(self, document: Mapping, about: Mapping, csv: str = "", data: str = "") -> str:
        """The page as text. about: facts by name; csv, data: the files beside it, "" where there are none."""
        full, spent = [], 0
        for row, photo in sorted(self._full, key=lambda pair: pair[0], reverse=True):
            if spent < PICTURES:
                row.shown.picture, row.shown.details = self._drawn(photo, row.shown.rows)
                spent += sum(map(len, row.shown.pictures))
            full.append(row.shown)
        rows = sorted((row.shown for row in self._rows), key=lambda shown: shown.number)
        return page(full, rows, document, about, count=self.count, csv=csv, data=data)

    def _drawn(self, photo: Sequence[Result], rows: Sequence[Mapping]) -> tuple[bytes | None, list[Face]]:
        """The photo with its boxes, and its faces with their maps, FAKE first."""
        marks, picture = marks_of(photo), photo[0].photo
        drawn = None if picture is None else jpeg(boxed(picture, marks), 85)
        faces = []
        for k, i in enumerate(worst_first([one.verdict for one in photo])):
            one, row = photo[i], rows[i]
            maps = maps_of(one, self.maps) if k < FACES else []
            cut_out = one.face is not None and one.face["seen_as"] not in ("crop", "whole")
            view = [("what was judged", one.view)] if maps and cut_out and one.view is not None else []
            faces.append(Face(row, [(caption, jpeg(fit(p, MAP_SIDE), 85)) for caption, p in [*view, *maps]]))
        return drawn, faces


def jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """uint8 [H, W, 3] as the bytes of a JPEG."""
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, "JPEG", quality=quality, optimize=True)
    return out.getvalue()
