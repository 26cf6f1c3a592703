"""`python evaluate.py study` as a user runs it, on made-up pictures and a network of random weights."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import evaluate
import evaluation.study as study
from faces.twin_bank import Pair
from tests.program import Program
from tests.twin_banks import write_bank

SIDE = 32

PLAN = """
title = "Made-up pictures"
notes = ["a test"]
[probe]
model = "levels:timm:mobilenetv3_small_050"
levels = "0-3"
correlations = 16
weights = "random"
resolution = 32
saved = 75
draws = 1
degradation = "light"
l2 = 0.05
[fit]
seeds = 2
reals = 80
fakes = 80
[endpoint]
fpr = 0.05
thresholds = ["valid"]
tests = ["columns"]
conditions = ["clean", "web"]
resamples = 1000
[source.photos]
data = "$STUDY/photos"
label = "real"
[source.rows]
data = "$STUDY/rows"
label = "fake"
[source.own]
data = ["$STUDY/own"]
label = "fake"
[source.twins]
bank = "$STUDY/bank"
label = "fake"
[source.resaved]
bank = "$STUDY/bank"
half = "photo"
save = true
label = "real"
[source.nowhere]
data = "$STUDY/nowhere"
label = "fake"
[source.valid]
data = "$STUDY/valid"
label = "real"
[test.columns]
data = "$STUDY/columns"
label = "fake"
[test.foreign]
data = "$STUDY/foreign"
label = "real"
[test.missing]
data = "$UNKNOWN_VARIABLE/x"
label = "real"
[[arm]]
name = "rows"
reals = { photos = 1 }
fakes = { rows = 1 }
[[arm]]
name = "rows and own"
reals = { photos = 1 }
fakes = { rows = 0.5, own = 0.5 }
[[arm]]
name = "resaved"
reals = { photos = 0.75, resaved = 0.25 }
fakes = { rows = 0.75, "twins:1" = 0.25 }
[[arm]]
name = "absent"
reals = { photos = 1 }
fakes = { nowhere = 1 }
[[comparison]]
first = "rows and own"
second = "rows"
asks = "is the planted effect found"
[[comparison]]
first = "absent"
second = "rows"
[[curve]]
title = "two points"
x = [1, 2]
arms = ["rows", "rows and own"]
"""


def picture(rng, kind: str) -> np.ndarray:
    """Soft noise; a fake has faint lines along one axis."""
    small = rng.integers(60, 196, (SIDE // 4 + 1, SIDE // 4 + 1, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC)).astype(int)
    image = image + rng.integers(-6, 7, image.shape)
    lines = (np.arange(SIDE) // 2 % 2) * 24 - 12
    if kind == "rows":
        image = image + lines[:, None, None]
    if kind == "columns":
        image = image + lines[None, :, None]
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("STUDY", str(tmp_path))
    monkeypatch.setenv("FACES_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("UNKNOWN_VARIABLE", raising=False)
    kinds = {
        "photos": "photo",
        "valid": "photo",
        "foreign": "photo",
        "rows": "rows",
        "own": "columns",
        "columns": "columns",
    }
    for number, (folder, kind) in enumerate(kinds.items()):
        (tmp_path / folder).mkdir()
        rng = np.random.default_rng(number)
        for i in range({"photos": 110, "valid": 100, "foreign": 20, "columns": 60}.get(folder, 100)):
            ending = "png" if folder == "own" else "jpg"
            Image.fromarray(picture(rng, kind)).save(tmp_path / folder / f"{i:03d}.{ending}", quality=90)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    rng = np.random.default_rng(9)
    photos = np.stack([picture(rng, "photo").transpose(2, 0, 1) for _ in range(30)])
    twins = np.stack([picture(rng, "rows").transpose(2, 0, 1) for _ in range(30)])
    write_bank(tmp_path / "bank", photos, twins, [Pair(f"{i}.jpg", 9, i, 2 * i, 75, "4:2:0") for i in range(30)])
    (tmp_path / "plan.toml").write_text(PLAN)
    return tmp_path


def run(home, *more):
    words = ["study", "--plan", str(home / "plan.toml"), "--out", str(home / "out"), "--workers", "1", "--threads", "1"]
    return CliRunner().invoke(Program(evaluate.main), [*words, *more])


def test_a_study_from_plan_to_page(home, monkeypatch):
    opened, fitted = [], []
    openit, keep = study.open_material, study.save_fit
    monkeypatch.setattr(study, "open_material", lambda m, *a: (opened.append((m.name, len(fitted))), openit(m, *a))[1])
    monkeypatch.setattr(study, "save_fit", lambda *a: (fitted.append(a), keep(*a)))
    first = run(home)
    assert first.exit_code == 0, first.output
    tests = {name: after for name, after in opened if name in ("columns", "foreign", "missing")}
    assert set(tests.values()) == {6} and len(fitted) == 6  # three arms, two seeds: all fits before any test is opened
    found = json.loads((home / "out" / "results.json").read_text())
    planted = found["comparisons"][0]
    assert planted["low"] > 0.1 and planted["holm"] < 0.05 and len(found["comparisons"]) == 1
    assert found["images"]["photos"] == 110 and any("photos: 1 image of no use" in note for note in found["notes"])
    left_out = {(kind, name): why for kind, name, why in found["skipped"]}
    assert "nowhere" in left_out["arm", "absent"] and "UNKNOWN_VARIABLE is not set" in left_out["test", "missing"]
    assert ("comparison", "absent - rows") in left_out and ("source", "nowhere") in left_out
    for fits in found["arms"].values():
        for fit in fits:
            assert [sum(n for _, label, n in fit["shown"] if label == one) for one in (0, 1)] == [80, 80]
    assert len(found["test_scores_handed_out"]) == 1 and len(found["plan"]["sha256"]) == 64
    with np.load(home / "out" / "scores.npz") as scores:
        assert scores["rows/columns/web"].shape == (2, 60) and scores["rows/valid/clean"].shape == (2, 100)
    page = (home / "out" / "results.html").read_text()
    assert "rows and own − rows" in page and "data:image/png" in page and "finds more" in page
    assert "| rows and own − rows |" in (home / "out" / "results.md").read_text()

    second = run(home)
    assert second.exit_code == 2 and "handed out once" in second.output
    again = run(home, "--force")
    assert again.exit_code == 0 and len(fitted) == 6  # nothing is fitted anew
    repeated = json.loads((home / "out" / "results.json").read_text())
    assert repeated["comparisons"] == found["comparisons"] and len(repeated["test_scores_handed_out"]) == 2
    assert any("handed out 2 times" in note for note in repeated["notes"])


def test_a_killed_study_goes_on_and_a_changed_plan_is_refused(home, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "save_fit", killed)
    assert run(home, "--seeds", "1").exit_code != 0
    monkeypatch.undo()
    monkeypatch.setenv("STUDY", str(home))
    assert not (home / "out" / "results.json").exists() and not list((home / "out").glob("**/columns-*"))
    made = {path: path.stat().st_mtime_ns for path in (home / "out" / "features").glob("*/part-*")}
    assert made
    (home / "plan.toml").write_text(PLAN.replace("l2 = 0.05", "l2 = 0.5"))
    changed = run(home, "--seeds", "1")
    assert changed.exit_code == 2 and "--plan: has changed since this study's fits began" in changed.output
    (home / "plan.toml").write_text(PLAN)
    gone_on = run(home, "--seeds", "1")
    assert gone_on.exit_code == 0, gone_on.output
    assert all(path.stat().st_mtime_ns == when for path, when in made.items())
    found = json.loads((home / "out" / "results.json").read_text())
    assert found["seeds"] == 1 and any("asks for 2 seeds, 1 were fitted" in note for note in found["notes"])


@pytest.mark.parametrize("lost", ["gone", "of a version that kept names"])
def test_which_images_are_of_no_use_is_kept_by_number_and_not_lost(home, lost):
    """By their numbers: names would be those of the place where they were seen first."""
    assert run(home, "--seeds", "1").exit_code == 0
    for part in (home / "out" / "features").glob("photos-taught*/part-00000.safetensors.json"):
        [[number, reason]] = json.loads(part.read_text())
        assert number == 110 and "broken" in reason  # the last by its name
        part.unlink() if lost == "gone" else part.write_text('[["/elsewhere/broken.jpg", "gone"]]')
    again = run(home, "--seeds", "1", "--force")
    assert again.exit_code == 0 and "photos/broken.jpg: broken" in again.output and "elsewhere" not in again.output
    found = json.loads((home / "out" / "results.json").read_text())
    assert any("photos: 1 image of no use" in note for note in found["notes"])


def test_a_test_of_the_endpoint_must_be_there(home):
    (home / "plan.toml").write_text(PLAN.replace('"$STUDY/columns"', '"$STUDY/elsewhere"'))
    found = run(home, "--seeds", "1")
    assert found.exit_code == 2 and "test 'columns', of the primary endpoint" in found.output
