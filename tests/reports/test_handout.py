"""A report to hand on: complete, bounded, safe whatever files are called, and saying no more than is known."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from discriminator.detector_base import DetectorBase
from discriminator.results import Result, rows_of
from discriminator.verdict import Verdict
from faces.preprocess import Preprocess
from reports import handout, origin
from reports.handout import QUICK, Collected, Handout
from reports.verdict_panels import Maps
from reports.verdicts import CSV_COLUMNS, csv_row

HOSTILE = [
    "<img src=x onerror=alert(1)>.jpg", '"><script>alert(1)</script>.png', "a\u202egpj.exe", "two\nlines.png",
    "\udcff\udc80.jpg", "`x`&amp;'.webp", "</style></title><b>.png",
]  # fmt: skip
ABOUT = {"date": "2026-01-02 03:04:05 UTC", "tool": "ganface 9", "tool_sha256": "ab" * 32, "command": "python x <y>"}
DOCUMENT = {
    "detector": {"file": "d.safetensors", "sha256": "cd" * 32},
    "faces": {"finder": "yunet"},
    "measured": {"lines": ["fakes of other generators: 40 to 72 % found (A & B: 40 of 100)"], "says": ""},
    "summary": {"interrupted": False},
}
SURVIVAL = {
    "outcome": "weakens", "reason": "stays x", "before": "FAKE", "probability": 0.9, "threshold": 0.75,
    "unsure_low": 0.5, "points": [
        {"version": "JPEG 40", "verdict": "UNSURE", "probability": 0.71234, "logit": 1.0},
        {"version": "half size", "verdict": "REAL", "probability": 0.0001, "logit": -9.2},
        {"version": "screenshot", "verdict": "FAKE", "probability": 0.99999, "logit": 9.2},
    ],
}  # fmt: skip


class Parts(HTMLParser):
    """Elements with attributes, and the text; tags must match."""

    VOID = {"meta", "img", "br"}

    def __init__(self, page: str):
        super().__init__()
        self.elements, self.open, self.words = [], [], []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def text(self):
        return " ".join(self.words)


class Stub(DetectorBase):
    preprocess = Preprocess(32)


def judged(name: str, label: str = "REAL", probability: float = 0.0015, faces: int = 1, **more) -> list[Result]:
    rng = np.random.default_rng(len(name))
    photo = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    heat = np.full((4, 4), 0.8, np.float32)
    verdict = Verdict(label, probability, 0.75, 0.5, 0.01, 500, 0.0, heat, **more)
    return [
        Result(name, verdict, photo=photo, view=photo, size=(60, 80),
               face={"index": i + 1, "of": faces, "box": [10, 10, 40, 50], "score": 0.9,
                     "seen_as": "ffhq"})
        for i in range(faces)
    ]  # fmt: skip


def collected(photos: list[list[Result]]) -> Collected:
    one = Collected(Maps(Stub(), QUICK))
    for photo in photos:
        one.add(photo, rows_of(photo))
    return one


def page_of(photos) -> tuple[str, Parts]:
    page = collected(photos).page(DOCUMENT, ABOUT, "out.csv", "out.json")
    return page, Parts(page)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_files_are_text_and_nothing_else(name):
    for photos in ([judged(name)], [judged(name, "FAKE", 0.9, note=name), [Result(name, None, f"bad {name}")]]):
        page, parts = page_of(photos)
        page.encode("utf-8")
        assert all(set(attrs) <= {"src", "alt", "class"} for attrs in parts.all("img"))
        assert not parts.all("b") and len(parts.all("script")) == (len(photos) > 1) and len(parts.all("title")) == 1
        assert "\u202e" not in page and "\udcff" not in page
        shown = name.replace("\n", "\\n").replace("\u202e", "\\u202e").replace("\udcff\udc80", "\\udcff\\udc80")
        assert shown in parts.text


def test_nothing_comes_from_elsewhere_and_only_its_own_script_runs():
    for photos in ([judged("a.png")], [judged("a.png"), judged("b.png")]):
        page, parts = page_of(photos)
        assert all(attrs["src"].startswith("data:image/jpeg;base64,") for attrs in parts.all("img"))
        assert "http" not in page.replace("http-equiv", "") and "url(" not in page and "@import" not in page
        policy = next(attrs["content"] for attrs in parts.all("meta") if "http-equiv" in attrs)
        scripts = re.findall(r"<script>(.*?)</script>", page, re.S)
        hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
        assert policy.startswith("default-src 'none'") and re.findall(r"'sha256-(.*?)'", policy) == hashes


def test_one_photo_is_shown_whole_with_what_is_known():
    photo = judged("p.jpg", faces=3)
    photo[2] = judged("p.jpg", "FAKE", 0.93, faces=3)[2]
    page, parts = page_of([photo])
    for words in ("1 of 3 faces looks generated", "face 3: ", "patch map: each patch by itself", "40 to 72 %",
                  "A & B", "Do not decide about people", "cd" * 32, "ab" * 32, "python x <y>",
                  "2026-01-02"):  # fmt: skip
        assert words in parts.text, words
    assert parts.text.index("face 3") < parts.text.index("face 1"), "what looks generated comes first"
    assert "table.sort" not in page and not parts.all("script")
    for data in (attrs["src"].split(",")[1] for attrs in parts.all("img")):
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert image.format == "JPEG" and max(image.size) <= 448


def test_a_low_score_is_nowhere_to_be_read_as_certainty():
    page, parts = page_of([judged("a.png", probability=0.0015), judged("b.png", probability=0.0015)])
    text = re.sub(r"data:image/[^\"]*", "", page)
    assert "0.0015" not in text and "0.15 %" not in text and "no trace of a GAN found" in text


@pytest.mark.parametrize("note", ["{}", "{}; weak detector", "2 of 2 frames; {}; weak detector", "2 of 2 frames; {}"])
@pytest.mark.parametrize("several", [False, True])
def test_why_it_can_not_be_told_is_told_once(note, several):
    doubt = "a verdict takes at least 5 frames with a face; too dark to judge"
    one = judged("u.png", "UNSURE", 0.6, doubt=doubt, note=note.format(doubt))
    page, parts = page_of([one, judged("b.png")] if several else [one])
    assert parts.text.count("at least 5 frames") == 1 + several, "in the table, and where it is shown in full"
    assert ("weak detector" in page) == ("weak" in note) and ("2 of 2 frames" in page) == ("2 of" in note)
    assert "; ;" not in page and "Note: ." not in page and "Note: ;" not in page


def test_the_table_sorts_by_a_place_that_follows_verdict_and_score():
    photos = [judged("r.png", probability=0.4), judged("f.png", "FAKE", 0.8), judged("u.png", "UNSURE", 0.6)]
    photos += [judged("g.png", "FAKE", 0.95), [Result("n.png", None, no_face=True)], [Result("x", None, "broken")]]
    page, parts = page_of(photos)
    places = [int(a["data-v"]) for a in parts.all("td") if "class" in a and "data-v" in a]
    assert places == [2, 4, 3, 5, 1, 0]
    assert "2 look generated" in parts.text and "1 unreadable" in parts.text
    assert "1 looks generated" in page_of([judged("a.png", "FAKE", 0.9), judged("b.png")])[1].text


def test_however_many_photos_come_the_page_stays_small(monkeypatch):
    monkeypatch.setattr(handout, "ROWS", 30)
    photos = [judged(f"{i:03}.png", "FAKE" if i in (40, 77) else "REAL", 0.9 if i == 40 else 0.8) for i in range(80)]
    page, parts = page_of(photos)
    assert len(parts.all("article")) == handout.DETAILED
    assert page.count('<td data-v="') == 2 * 30
    assert "The 30 of 80 photos that look most generated are shown; out.csv has all" in parts.text
    assert parts.text.count("040.png") == parts.text.count("077.png") == 2, "in the table and in full"
    assert len(page) < 1_000_000
    monkeypatch.setattr(handout, "PICTURES", 1)
    page, parts = page_of(photos)
    assert parts.text.count("pictures were left out") == handout.DETAILED - 1


def test_evidence_and_stability_are_shown_where_they_are():
    photo = judged("a.png", "FAKE", 0.9)
    rows = rows_of(photo)
    line = {"kind": "C2PA", "found": "absent", "says": "no <i>credentials</i>", "proves": "nothing",
            "cannot_prove": "that it is a photo", "facts": {"raw": "hidden"}}  # fmt: skip
    rows[0] |= {"evidence": [line], "stability": SURVIVAL}
    one = Collected(Maps(Stub(), QUICK))
    one.add(photo, rows)
    parts = Parts(one.page(DOCUMENT, ABOUT))
    told = ("no <i>credentials</i>", "that it is a photo", "what it can't prove", "JPEG 40", "can't tell", "0.71")
    for words in told:
        assert words in parts.text, words
    assert "hidden" not in parts.text and not parts.all("i")


def test_survival_is_told_in_the_verdicts_own_words_and_scores():
    """What the verdict would not say stands nowhere else: no REAL, no probability near 0 or 1, no logit."""
    photo = judged("a.png", "REAL", 0.002, faces=2)
    rows = [row | {"stability": SURVIVAL} for row in rows_of(photo)]
    rows[0]["evidence"] = [{"kind": "C2PA"}]
    one = Collected(Maps(Stub(), QUICK))
    one.add(photo, rows)
    page = one.page(DOCUMENT, ABOUT)
    parts = Parts(page)
    assert "Weakens: stays x." in parts.text and "Would the answer survive (face 2)" in parts.text
    assert "<0.5" in parts.text and ">0.99" in parts.text and "no trace of a GAN found" in parts.text
    told = page[page.index("Would the answer survive") : page.index("What this detector was measured")]
    for word in (">REAL", ">FAKE", ">UNSURE", "0.0001", "0.999", "-9.2", "logit", "unsure low"):
        assert word not in told, word
    assert "<h2>What else the file tells</h2>" in page, "of the file, not of one of its faces"
    assert page.count("<svg") == 2 and "xmlns" not in page


@pytest.mark.parametrize("count", [1, 3])
def test_no_level_of_headings_is_left_out(count):
    """WCAG's technique G141: each heading at most one level below the one before."""
    all_of_them = Collected(Maps(Stub(), QUICK))
    for i in range(count):
        photo = judged(f"{i}.png", "FAKE", 0.9)
        rows = rows_of(photo)
        rows[0] |= {"evidence": [{"kind": "C2PA"}], "stability": SURVIVAL}
        all_of_them.add(photo, rows)
    page = all_of_them.page(DOCUMENT, ABOUT)
    levels = [int(level) for level in re.findall(r"<h([1-6])\b", page)]
    assert levels[0] == 1 and all(below <= above + 1 for above, below in zip(levels, levels[1:]))
    assert len(levels) > 4


def test_files_beside_the_page_tell_the_same(tmp_path):
    target = tmp_path / "out.html"
    report = Handout(str(target), Stub())
    photos = [judged("a.png"), judged("\udcff.png", "FAKE", 0.9)]
    table = io.StringIO()
    writer = csv.DictWriter(table, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for photo in photos:
        report.add(photo, rows_of(photo))
        writer.writerows(csv_row(one) for one in photo)
    document = {**DOCUMENT, "results": [row for photo in photos for row in rows_of(photo)]}
    written = report.save(document, ABOUT, table.getvalue())
    assert [path.name for path in written] == ["out.html", "out.json", "out.csv"]
    told = json.loads((tmp_path / "out.json").read_text())
    assert told.pop("report") == ABOUT and told == json.loads(json.dumps(document))
    with open(tmp_path / "out.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["a.png", "\udcff.png"] and rows[1]["headline"] == "looks generated"
    with pytest.raises(UserError, match="will not be overwritten"):
        Handout(str(target), Stub())
    for wrong, words in (("out.pdf", "ends in .html"), ("none/out.html", "no folder")):
        with pytest.raises(UserError, match=words):
            Handout(str(tmp_path / wrong), Stub())


def test_the_programs_fingerprint_is_that_of_its_files(tmp_path):
    for room in origin.ROOMS:
        (tmp_path / room).mkdir()
    (tmp_path / "web" / "b.py").write_bytes(b"1\r\n")
    (tmp_path / "common" / "a.py").write_bytes(b"2\n")
    before = origin.tool_sha256(tmp_path)
    lines = [f"{hashlib.sha256(text).hexdigest()}  {name}\n" for name, text in
             (("common/a.py", b"2\n"), ("web/b.py", b"1\n"))]  # fmt: skip
    assert before == hashlib.sha256("".join(lines).encode()).hexdigest()
    (tmp_path / "web" / "b.py").write_bytes(b"3\n")
    assert origin.tool_sha256(tmp_path) != before
    assert re.fullmatch("[0-9a-f]{64}", origin.tool_sha256())


def test_no_pytorch_is_needed():
    code = "import sys, reports.handout, discriminator.words, discriminator.measured; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=origin.ROOT, timeout=60).returncode == 0
