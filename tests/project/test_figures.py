"""Numbers, sample outputs and the screenshot of the documents are those of the detector that ships."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from scipy.stats import binom

ROOT = Path(__file__).resolve().parents[2]
AGAIN = "docs/tools/record.py, then docs/tools/figures.py (CONTRIBUTING.md, Documents)"
ORDER = ["Judge a photo", "The two commands", "Train your own", "What it can't do", "Beside other programs", "Results",
         "Licence", "Where to read on"]  # fmt: skip


def tool(name: str):
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


figures, record = tool("figures"), tool("record")
TEXTS = {path: path.read_text(encoding="utf-8") for path in figures.documents()}
SAMPLES = figures.told_in("samples")["samples"]


def marked() -> list[tuple[Path, str]]:
    return [(path, found[1]) for path, text in TEXTS.items() for found in figures.MARKED.finditer(text)]


@pytest.mark.parametrize("path", sorted({path for path, _ in marked()}), ids=lambda path: path.name)
def test_marked_parts_are_what_the_measurements_say(path):
    _, differ = figures.renewed(TEXTS[path], path.name)
    assert not differ, f"{path.name} drifted in {', '.join(differ)}: python docs/tools/figures.py"


def test_every_mark_is_closed_and_every_part_is_used():
    for path, text in TEXTS.items():
        outside = re.sub(r"`[^`\n]*`", "", text)  # CONTRIBUTING.md tells of the marks
        begun, ended = outside.count("<!-- numbers:"), outside.count("<!-- /numbers")
        assert begun == ended == len(figures.MARKED.findall(text)), path
    assert {name for _, name in marked()} == set(figures.PARTS)


def test_a_changed_number_is_noticed(monkeypatch):
    told = json.loads(figures.MEASURED.read_text(encoding="utf-8"))
    at = f"{figures.calibration()['default_fpr']:g}"
    own = next(row for row in told["sets"] if row["role"] == "own")
    own["called"][at] -= 1
    monkeypatch.setattr(figures, "measured", lambda: told)
    card = ROOT / "MODEL_CARD.md"
    made, differ = figures.renewed(TEXTS[card], card.name)
    assert {"card-results", "card-resaved"} <= set(differ) and figures.renewed(made, card.name) == (made, [])
    assert "results-conditions" in figures.renewed(TEXTS[ROOT / "docs" / "results.md"], "results.md")[1]


@pytest.mark.parametrize(("k", "n"), [(0, 50), (2, 50), (12, 500), (483, 500)])
def test_intervals_are_exact(k, n):
    """Each end is the share at which what was seen, or more of it, has a chance of 2.5 %."""
    low, high = (float(end) / 100 for end in re.search(r"\((\S+) to (\S+)\)", figures.rate(k, n)).groups())
    step = 0.0005 + 1e-9  # they are written with a digit
    assert (k == low == 0) or binom.sf(k - 1, n, low - step) <= 0.025 <= binom.sf(k - 1, n, low + step)
    assert binom.cdf(k, n, min(high + step, 1)) <= 0.025 <= binom.cdf(k, n, high - step)


def test_all_was_measured_with_the_detector_that_ships():
    sha = figures.sha256_of(figures.DETECTOR)
    assert figures.measured()["detector_sha256"] == sha, "python benchmarks/measured.py"
    judged = figures.told_in("judged")
    assert judged["detector_sha256"] == sha, f"another detector ships: make reproduce-detector, {AGAIN}"
    assert judged["threshold"] == pytest.approx(figures.operating_point()["threshold"])
    for name, told in SAMPLES.items():
        assert told["detector_sha256"] == sha, f"sample {name}: {AGAIN}"


def test_both_measurements_counted_the_same():
    """evaluate.py knows no floors of quality, under which measured.py says UNSURE; else they judge the same images."""
    for each in figures.sets():
        judged = figures.told_in("judged")["sources"].get(each["judged"], {}).get("clean", {})
        counted = figures.counts(each)
        for name in ("found", "false_alarms"):
            if name in judged:
                assert counted[name] <= judged[name] <= counted[name] + 2, each["name"]


def test_thresholds_that_are_shown_are_the_shipped_ones():
    points = {round(point["threshold"], 4) for point in figures.calibration()["points"]}
    for path, text in TEXTS.items():
        shown = re.findall(r'"threshold": (0\.\d+)|^threshold (0\.\d+) set for', text, re.MULTILINE)
        for number in (float(one or other) for one, other in shown):
            assert round(number, 4) in points, f"{path.name} shows the threshold {number}; shipped are {points}"


def detect(folder: Path, *words: str) -> str:
    """What detect.py prints of a drawn face."""
    (folder / "drawn.png").write_bytes(record.drawn_photo())
    command = [sys.executable, str(ROOT / "detect.py"), "drawn.png", *words]
    told = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | {"FACES_NEXT": "0"})
    assert told.returncode in (0, 1), told.stderr
    return told.stdout.replace(f"{ROOT}{os.sep}", "")


def test_samples_are_what_detect_prints_today(tmp_path):
    """All but the photos' own lines: the head, what was measured, the threshold, detector and finder."""
    now = [line.rstrip() for line in detect(tmp_path).splitlines()]
    kept = [line for line in now if re.match(r"answer |measured: |threshold |judged by |faces found by ", line)]
    assert len(kept) >= 6
    for name, told in SAMPLES.items():
        assert not set(kept) - set(told["output"]), f"sample {name}: {AGAIN}"


def test_the_documents_json_has_the_fields_of_today(tmp_path):
    now, told = json.loads(detect(tmp_path, "--json")), SAMPLES["photos"]["json"]
    assert list(now) == list(told), AGAIN
    for part in ("detector", "faces", "operating_point", "measured", "summary"):
        assert list(now[part]) == list(told[part]), f"{part}: {AGAIN}"
    assert set(told["results"][0]) <= set(now["results"][0]), AGAIN  # that of several faces has more


@pytest.mark.bundled
def test_the_screenshot_says_what_the_page_says():
    shot = figures.told_in("samples")["screenshot"]
    again = "docs/images/serving.png: python docs/tools/record.py screenshot"
    assert shot["detector_sha256"] == figures.sha256_of(figures.DETECTOR), again
    assert shot["picture_sha256"] == figures.sha256_of(record.PICTURE), again
    assert shot["says"] == record.shown_words(), again


# ---- tables of other measurements that left their numbers ----------------------------------------------------------


def rows(document: str, before: str) -> list[list[str]]:
    """The cells of the table whose head begins with `before`, without marks of bold text."""
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    body = text[text.index(f"| {before}") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip().replace("*", "") for cell in line.strip("|").split("|")] for line in body]


@pytest.mark.parametrize("size", [64, 128])
def test_the_table_of_an_iteration_is_the_benchmarks(size):
    told = json.loads((ROOT / "benchmarks" / "training-cpu.json").read_text(encoding="utf-8"))["rows"]
    told = [row for row in told if row["resolution"] == size]
    shown = rows("performance.md", f"{size}x{size} |")
    assert len(shown) == len(told) == 4
    first = told[0]
    for cells, row in zip(shown, told, strict=True):
        wanted = [f"{row['seconds']:.2f}", f"{row['cpu_seconds']:.2f}", f"{row['peak_gb']:.2f} GB"]
        assert [cells[1], cells[2], cells[4]] == wanted, row["way"]
        assert float(cells[6]) == pytest.approx(first["seconds"] / row["seconds"], abs=0.0051), row["way"]


def test_the_table_of_features_is_the_benchmarks():
    told = json.loads((ROOT / "benchmarks" / "fid-cpu.json").read_text(encoding="utf-8"))["features"]
    shown = {f"{float(cells[1]):.1f}": float(cells[2]) for cells in rows("metrics.md", "step | images/s")}
    for row in told:
        speed = f"{row['images_per_second']:.1f}"
        assert shown.get(speed) == pytest.approx(row["times_pytorch_fid"], abs=0.0051), row["step"]


def test_the_study_is_the_studys():
    told = json.loads((ROOT / "docs" / "study" / "results.json").read_text(encoding="utf-8"))["endpoint"]
    shown = {cells[0]: cells[1] for cells in rows("study/results.md", " | primary endpoint")}
    assert len(shown) == len(told) > 3
    for name, row in told.items():
        wanted = f"{100 * row['value']:.1f} % ({100 * row['low']:.1f} to {100 * row['high']:.1f})"
        assert shown[name] == wanted, name


def test_the_readme_is_short_and_in_order():
    text = TEXTS[ROOT / "README.md"]
    assert len(text.split()) < 900  # as wc -w counts, tables and commands included
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ORDER
    assert text.index("docs/images/serving.png") < text.index("## " + ORDER[0])
