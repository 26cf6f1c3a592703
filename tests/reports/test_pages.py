"""The report is one file, complete, safe and honest about what it lacks; figures are PNGs in two dresses."""

import io
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from faces.procedural.portrait import render_face
from reports import plots
from reports.gan_run import run_report
from reports.page import Number, Picture, Section, VerdictCard, write_report
from reports.plots import image_png


class Outline(HTMLParser):
    """Checks that tags close in order; collects text and attributes."""

    VOID = {"meta", "img", "source", "br", "hr", "link", "input"}

    def __init__(self, page):
        super().__init__()
        self.open, self.text, self.links, self.headings = [], [], [], []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.links += [value for key, value in attrs if key in ("src", "href", "srcset")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)


def opened(png):
    image = Image.open(io.BytesIO(png))
    image.load()
    return image


def test_run_report_has_every_part_and_nothing_from_elsewhere(run_folder):
    photo = render_face(7, 64)
    card = VerdictCard("a<b>.png", photo, "FAKE", 0.99999, 0.62, 0.0133, photo, "fake")
    out = run_report(run_folder, cards=[card])
    page = out.read_text(encoding="utf-8")
    seen = Outline(page)
    assert seen.headings == [
        "In short", "Verdicts", "The generator over time", "Real beside fake", "Training", "Image quality",
        "The detector", "Configuration", "What this means, and what it does not",
    ]  # fmt: skip
    assert all(link.startswith(("data:image/", "#")) for link in seen.links)
    assert "http" not in page and "<script" not in page and "url(" not in page
    text = " ".join(seen.text)
    for words in ("0.985", "96.0 %", "90.0 %", "a<b>.png", "above 0.999", "drawn by a program", "0.610"):
        assert words in text, words
    assert "a<b>" not in page  # names are escaped
    assert page.count("prefers-color-scheme:dark") + page.count("prefers-color-scheme: dark") >= 6
    assert len(page) < 5_000_000
    assert out == run_folder / "report.html" and not list(run_folder.glob("*.tmp*"))


def test_run_report_of_a_young_run(tmp_path):
    run = tmp_path / "00000-young"
    run.mkdir()
    with pytest.raises(UserError, match="config.json"):
        run_report(run)
    (run / "config.json").write_text("{}")
    page = run_report(run).read_text()
    assert (run / "report.html").exists() and "What this means" in page
    (run / "stats.jsonl").write_text('{"kimg": 0.5, "Loss/G/loss": {"num": 0, "mean": NaN, "std": NaN}}\n{"kimg"')
    (run / "metrics.jsonl").write_text('{"kimg": 0.5, "fid": 3.0}\n')
    Outline(run_report(run).read_text())


def test_sections_render_and_escape(tmp_path):
    sections = [
        Section(
            "A & B", text=["1 < 2"], numbers=[Number("5", "five", "a note")], rows=[("k", "v"), ("x", 1)], head=True
        ),
        Section("Empty"),
        Section("P", pictures=[Picture(plots.image_png(render_face(1)), "cap", alt='say "hi"')]),
    ]
    page = write_report(tmp_path / "r.html", title="T<", sections=sections, subtitle="sub").read_text()
    seen = Outline(page)
    assert seen.headings == ["A & B", "P"]
    assert "A &amp; B" in page and "1 &lt; 2" in page and "T&lt;" in page and "say &quot;hi&quot;" in page
    assert re.search(r'<th scope="col">k</th><th>v</th>', page)


def test_card_from_a_verdict():
    heat = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)

    class Said:
        label, probability, threshold, unsure_low, fpr, note, patch_map = "REAL", 0.1, 0.6, 0.5, 0.01, "", heat

    photo = render_face(2, 64)
    card = VerdictCard.of("x.png", photo, Said(), truth="real")
    assert card.heat.shape == photo.shape and card.label == "REAL" and card.truth == "real" and card.score == "<0.5"
    Said.patch_map = None
    assert VerdictCard.of("x.png", photo, Said()).heat is None


def test_failed_write_leaves_the_old_report(tmp_path, monkeypatch):
    path = tmp_path / "r.html"
    path.write_text("old")
    monkeypatch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError):
        write_report(path, title="t", sections=[Section("s", ["t"])])
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_figures_are_themed_pngs(theme):
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 50)
    scores = np.clip(rng.normal(0.3 + 0.4 * labels, 0.2), 0, 1)
    rows = [{"kimg": k, "Loss/G/loss": {"num": 2, "mean": 1.0 + k}, "fid": 5 / (k + 1)} for k in range(5)]
    figures = [
        plots.verdict_curves(rows, theme=theme),  # these rows have none of its numbers
        plots.fid_curve(rows, theme=theme),
        plots.roc({"all": (labels, scores)}, point=(0.1, 0.8), theme=theme),
        plots.score_histogram(labels, scores, threshold=0.7, unsure=0.4, theme=theme),
        plots.reliability(labels, scores, theme=theme),
        plots.confusion({"real": {"REAL": 9, "FAKE": 1}, "fake": {"REAL": 2, "FAKE": 8}}, theme=theme),
    ]
    for png in figures:
        image = opened(png).convert("RGB")
        assert image.width > 400 and image.height > 300
        corner = "#{:02x}{:02x}{:02x}".format(*image.getpixel((1, 1)))
        assert corner == plots.COLOURS[theme]["paper"]
        assert len(image.getcolors(1 << 24)) > 50  # something is drawn


def test_series_smooth_and_sheets():
    rows = [{"kimg": 1, "a": {"mean": 2.0}}, {"kimg": 2}, {"kimg": 3, "a": float("nan")}, {"kimg": 4, "a": 5}]
    x, y = plots.series(rows, "a")
    assert x.tolist() == [1, 4] and y.tolist() == [2, 5]
    assert plots.smooth(np.array([1.0, 2.0, 3.0, 10.0]), 3).tolist() == [1.5, 2.0, 5.0, 6.5]
    faces = np.stack([render_face(i, 16) for i in range(6)])
    image = np.asarray(opened(plots.contact_sheet(faces, 3)))
    assert np.array_equal(image[:16, :16], faces[0]) and np.array_equal(image[-16:, -16:], faces[5])


def changed(run_folder, tmp_path, verdict):
    """A copy of the run with other figures on clean images, and a warning among its ticks."""
    run = shutil.copytree(run_folder, tmp_path / "run")
    told = json.loads((run / "verdict.json").read_text())
    told["held_out_clean"] |= verdict
    (run / "verdict.json").write_text(json.dumps(told))
    rows = (run / "stats.jsonl").read_text().splitlines()
    rows[30] = json.dumps(json.loads(rows[30]) | {"advice": ["the generator collapses; raise --gamma"]})
    (run / "stats.jsonl").write_text("\n".join(rows))
    return run_report(run).read_text(encoding="utf-8")


def test_what_the_run_warned_of_and_what_it_was_shown_stand_above_the_numbers(run_folder, tmp_path):
    page = changed(run_folder, tmp_path, {})
    first_number = page.index('class="numbers"')
    assert page.index("These are drawings") < first_number
    assert page.index("Warned of at 6.0 kimg: the generator collapses; raise --gamma.") < first_number
    assert "after re-saving: 1.3 % as JPEG 60, 1.3 % as JPEG 40" in page


def test_figures_of_few_images_have_intervals(run_folder, tmp_path):
    """One real and three fake: the AUC of 1 says next to nothing, and the page shows how little."""
    page = changed(run_folder, tmp_path, {"n_real": 1, "n_fake": 3, "auc": 1.0, "balanced_accuracy_at_half": 1.0,
                                          "tpr": 1.0, "false_alarm_rate": 0.0})  # fmt: skip
    start = page.index("In short</h2>")
    text = re.sub(r"<[^>]+>", "|", page[start : page.index("</section>", start)])
    assert "1.000 (0.03 to 1.00)" in text and "100.0 % (3 to 100)" in text and "0.0 % (0 to 98)" in text
    assert "|1.000|" not in text and "|100.0 %|" not in text


def test_backticks_do_not_reach_the_reader(tmp_path):
    """They are code in the text, nothing in a title or an attribute, and never a way in for tags."""
    told = "`evaluate.py` takes `num`; `<b>` is no tag, a lone ` stays"
    picture = Picture(image_png(np.zeros((2, 2, 3), np.uint8)), "the `grid`")
    sections = [Section("a", text=[told], rows=[("x", "`y`")], pictures=[picture], notes=["`z`"])]
    page = write_report(tmp_path / "p.html", title="of `t`", sections=sections).read_text(encoding="utf-8")
    outline = Outline(page)
    assert page.count("`") == 1 and "a lone ` stays" in page and 'alt="the grid"' in page and "<title>of t<" in page
    assert "<code>num</code>" in page and "<code>&lt;b&gt;</code>" in page and "<b>" not in page
    assert "num" in outline.text


def test_detectors_are_called_by_their_runs(tmp_path, monkeypatch):
    from discriminator.options import MODELS, SHIPPED
    from evaluation.ensemble import short_names

    monkeypatch.chdir(tmp_path)
    (tmp_path / "00004-faces").mkdir()
    assert short_names([str(SHIPPED[0]), "runs/a", "all.safetensors"]) == ["shipped", "a", "all"]
    assert short_names([str(MODELS), "runs/a/models/detector.safetensors"]) == ["shipped", "a"]
    assert short_names(["x/a/detector.safetensors", "y/a"]) == ["x/a", "y/a"]
    monkeypatch.chdir("00004-faces")
    assert short_names([".", "detector.safetensors"]) != ["", ""]
    assert short_names(["detector.safetensors", "other.csv"]) == ["00004-faces", "other"]
