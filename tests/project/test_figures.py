"""Numbers, sample outputs and the screenshot of the documents are those of the detector that ships."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
from scipy.stats import beta

ROOT = Path(__file__).resolve().parents[2]


def tool(name: str):
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


figures = tool("figures")
TEXTS = {path: path.read_text(encoding="utf-8") for path in figures.documents()}


def marked() -> list[tuple[Path, str]]:
    return [(path, found[1]) for path, text in TEXTS.items() for found in figures.MARKED.finditer(text)]


@pytest.mark.parametrize("path", sorted({path for path, _ in marked()}), ids=lambda path: path.name)
def test_marked_parts_are_what_the_measurements_say(path):
    _, differ = figures.renewed(TEXTS[path], path.name)
    assert not differ, f"{path.name} drifted in {', '.join(differ)}: python docs/tools/figures.py"


def test_every_mark_is_closed_and_every_part_is_used():
    for path, text in TEXTS.items():
        outside = re.sub(r"`[^`\n]*`", "", text)  # CONTRIBUTING.md tells of the marks
        assert outside.count("<!-- numbers:") == outside.count("<!-- /numbers") == len(figures.MARKED.findall(text)), path
    assert {name for _, name in marked()} == set(figures.PARTS)


def test_a_changed_number_is_noticed(monkeypatch):
    told = json.loads((ROOT / "docs" / "numbers" / "shipped.json").read_text(encoding="utf-8"))
    told["sets"][0]["conditions"]["clean"]["found"] -= 1
    monkeypatch.setattr(figures, "shipped", lambda: told)
    card = ROOT / "MODEL_CARD.md"
    made, differ = figures.renewed(TEXTS[card], card.name)
    assert "card-results" in differ and figures.renewed(made, card.name) == (made, [])


@pytest.mark.parametrize(("k", "n"), [(0, 50), (2, 50), (12, 500), (483, 500), (500, 500)])
def test_intervals(k, n):
    lower, upper = figures.interval(k, n)
    assert lower == pytest.approx(beta.ppf(0.025, k, n - k + 1) if k else 0, abs=1e-8)
    assert upper == pytest.approx(beta.ppf(0.975, k + 1, n - k) if k < n else 1, abs=1e-8)


def test_all_was_measured_with_the_detector_that_ships():
    sha = figures.sha256(figures.DETECTOR)
    again = "put its counts into docs/numbers/shipped.json, then docs/tools/record.py and docs/tools/figures.py"
    assert figures.shipped()["detector_sha256"] == sha, f"another detector ships: {again}"
    for name, told in figures.samples()["samples"].items():
        assert told["detector_sha256"] == sha, f"sample {name}: python docs/tools/record.py sample ..."
    shot = figures.samples()["screenshot"]
    assert shot["detector_sha256"] == sha, "docs/images/serving.png: python docs/tools/record.py screenshot"
    assert shot["picture_sha256"] == figures.sha256(ROOT / "docs" / "images" / "serving.png")


def test_thresholds_in_samples_are_the_shipped_ones():
    points = {round(point["threshold"], 4) for point in figures.calibration()["points"]}
    for path, text in TEXTS.items():
        shown = re.findall(r'"threshold": (0\.\d+)|^threshold (0\.\d+) set for', text, re.MULTILINE)
        for number in (float(one or other) for one, other in shown):
            assert round(number, 4) in points, f"{path.name} shows the threshold {number}; the shipped ones are {points}"


def test_the_readme_is_short_and_in_order():
    text = TEXTS[ROOT / "README.md"]
    prose = re.sub(r"\]\([^)]*\)|<[^>]*>", "", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))
    assert len(re.findall(r"[^\W\d_][\w'’.-]*", prose)) < 900
    heads = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert heads == [
        "Judge a photo", "The two commands", "Train your own", "What it can't do", "Beside other programs", "Results",
        "Licence", "Where to read on",
    ]  # fmt: skip
    assert text.index("docs/images/serving.png") < text.index("## Judge a photo")
