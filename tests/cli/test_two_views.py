"""Two views by command: `train_detector.py join`, and that evaluations count the verdicts that `detect.py` gives."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from sklearn.metrics import roc_auc_score

import detect
import evaluate
import train_detector
from discriminator.detector import Detector
from discriminator.join import Join
from faces.preprocess import Preprocess
from tests.discriminator.conftest import make_calibration, make_net
from tests.discriminator.test_two_views import pixel_net, two_views
from tests.program import Program

COUNT = 24  # of a class


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Detectors of faces, of pixels, and of both views that contradict each other often; photos, and two too small for
    crops."""
    root = tmp_path_factory.mktemp("views")
    rng = np.random.default_rng(5)
    for word in ("real", "fake"):
        (root / "data" / word).mkdir(parents=True)
        for i in range(COUNT):
            side = 33 if i < 2 else 80 + i
            rough = rng.normal(0, 30 if word == "fake" else 8, (side, side, 3))
            flat = np.asarray(Image.fromarray(rng.integers(60, 190, (5, 5, 3), np.uint8)).resize((side, side)))
            Image.fromarray(np.clip(flat + rough, 0, 255).astype(np.uint8)).save(root / "data" / word / f"{i:02d}.png")
    Detector(make_net(), Preprocess(32), make_calibration(), {"trained_on": "x"}).save(root / "face.safetensors")
    Detector(pixel_net(), Preprocess(32), make_calibration(), {"patches": True}).save(root / "pixels.safetensors")
    plain = two_views(Join())
    raw = np.array([v.views for v in plain.predict(photos_of(root)) if v.views[1] is not None], float)
    t = raw.std(0) / 4  # about half of the photos lie on either side of even odds, in each view, and far from it
    b = -np.median(raw, 0) / t
    far = Join(temperatures=(t[0].item(), t[1].item()), biases=(b[0].item(), b[1].item()), weights=(1.0, 0.3))
    two_views(replace(far, apart=(0.0, 0.0))).save(root / "both.safetensors")
    return root


def photos_of(root: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted((root / "data").rglob("*.png"))]


@pytest.fixture(autouse=True)
def here(place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("FACES_CACHE", str(tmp_path / "cache"))


def run(command, *args, code: int = 0) -> str:
    result = CliRunner().invoke(Program(command.main), [str(a) for a in args])
    assert result.exit_code == code, result.output
    return result.output


# ---- join -----------------------------------------------------------------------------------------------------------


def test_join_makes_a_detector_and_says_what_was_fitted(place, tmp_path):
    out = tmp_path / "two.safetensors"
    args = ("join", "face.safetensors", "pixels.safetensors", "--data", "data", "--grid", 2, "--out", out)
    said = run(train_detector, *args)
    assert f"{4 * COUNT - 8} of {4 * COUNT} views of photos have pixels enough" in said
    assert "joined  AUC" in said and "contradiction:" in said and "2 x 2 crops of 32x32" in said
    made = Detector.load(out)
    assert made.preprocess.pixels.grid == 2 and made.join.method == "weighted"
    assert made.meta["validation_images"] == {"real": COUNT, "fake": COUNT}
    for name, part in (("face", made.net.face), ("pixels", made.net.pixels)):
        own = Detector.load(place / f"{name}.safetensors").net.state_dict()
        assert all(torch.equal(tensor, own[key]) for key, tensor in part.state_dict().items())
    again = tmp_path / "again.safetensors"
    run(train_detector, *args[:-1], again)
    assert again.read_bytes() == out.read_bytes()
    told = json.loads(run(detect, "data/real/05.png", "data/real/00.png", "--model", out, "--json", "--face", "whole"))
    large, small = told["results"]
    assert set(large["views"]) == {"face", "pixels"} and isinstance(large["views"]["pixels"], float)
    assert small["views"]["pixels"] is None and "judged by its shape alone" in small["note"]


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["face.safetensors", "pixels.safetensors"], "--data"),
        (["pixels.safetensors", "face.safetensors", "--data", "data"], "name the detector of faces first"),
        (["face.safetensors", "face.safetensors", "--data", "data"], "takes no crops of any size"),
        (["both.safetensors", "pixels.safetensors", "--data", "data"], "is several networks already"),
        (["face.safetensors", "pixels.safetensors", "--data", "data", "--side", "128"], "no real validation photo"),
        (["face.safetensors", "pixels.safetensors", "--data", "data", "--join", "both"], "--join"),
        (["face.safetensors", "nowhere.safetensors", "--data", "data"], "nowhere.safetensors"),
    ],
)
def test_join_refuses_in_one_line(args, why, tmp_path):
    out = tmp_path / "two.safetensors"
    said = run(train_detector, "join", *args, "--out", out, code=2)
    assert why in said and not out.exists()


# ---- evaluations count the verdict that is given --------------------------------------------------------------------


@pytest.fixture
def given(place) -> dict[str, dict]:
    """What detect.py says of each photo."""
    files = sorted(str(path) for path in Path("data").rglob("*.png"))
    told = json.loads(run(detect, *files, "--model", "both.safetensors", "--json", "--face", "whole", code=1))
    return {row["file"]: row for row in told["results"]}


def shares(given: dict[str, dict], verdict: str) -> dict[str, float]:
    counts = Counter(Path(name).parent.name for name, row in given.items() if row["verdict"] == verdict)
    return {word: counts[word] / COUNT for word in ("real", "fake")}


def judged(tmp_path, *args) -> dict:
    common = ("detector", "both.safetensors", "--data", "data", "--resamples", 20, "--json", tmp_path / "o.json")
    run(evaluate, *common, "--csv", tmp_path / "s.csv", "--force", *args)
    return json.loads((tmp_path / "o.json").read_text())


def test_a_contradiction_is_neither_found_nor_an_alarm(given, tmp_path):
    unsure = [row for row in given.values() if "contradict" in row["note"]]
    assert {row["verdict"] for row in unsure} == {"UNSURE"} and len(unsure) > 5
    assert any(row["probability"] >= row["threshold"] for row in unsure), "or this test shows nothing"
    assert any(row["probability"] < row["unsure_low"] for row in unsure)
    found = judged(tmp_path, "--bias")
    with open(tmp_path / "s.csv", newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    assert {Path(p).name + row["verdict"] for p, row in rows.items()} == {
        Path(p).name + row["verdict"] for p, row in given.items()
    }
    fake, unsure_share = shares(given, "FAKE"), shares(given, "UNSURE")
    (source,) = found["sources"]
    assert source["tpr"]["value"] == pytest.approx(fake["fake"])
    assert source["fpr"]["value"] == pytest.approx(fake["real"])
    assert source["unsure"]["value"] == pytest.approx(sum(unsure_share.values()) / 2)
    assert found["overall"]["metrics"]["recall_fake"]["value"] == pytest.approx(fake["fake"])
    labels = [int(Path(name).parent.name == "fake") for name in given]
    auc = roc_auc_score(labels, [row["probability"] for row in given.values()])
    assert found["overall"]["metrics"]["roc_auc"]["value"] == pytest.approx(auc)
    moves = {move["saved"]: move for move in found["bias"]["moves"]}
    for word in ("real", "fake"):
        assert moves[word]["before"]["value"] == pytest.approx(fake[word])
        assert moves[word]["unsure_before"]["value"] == pytest.approx(unsure_share[word])
    # from the cache, and from the table of scores, the same
    assert judged(tmp_path)["sources"] == found["sources"]
    edge, low = found["rule"]["threshold"], found["rule"]["unsure_low"]
    table = ("detector", tmp_path / "s.csv", "--threshold", repr(edge), "--unsure-from", repr(low), "--resamples", 20)
    run(evaluate, *table, "--json", tmp_path / "t.json")
    again = json.loads((tmp_path / "t.json").read_text())
    assert again["answers"] == found["answers"]


def test_a_second_look_counts_the_verdicts_that_are_given(tmp_path):
    """A contradiction is neither found nor an alarm, with one look and with two."""
    for word in ("real", "fake"):
        for i, path in enumerate(sorted(Path("data", word).glob("*.png"))):
            (tmp_path / "set" / ("test", "valid")[i % 2] / word).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / "set" / ("test", "valid")[i % 2] / word)
    twice = tmp_path / "twice.safetensors"
    run(evaluate, "second-look", "both.safetensors", "--data", tmp_path / "set", "--out", twice,
        "--json", tmp_path / "o.json")  # fmt: skip
    told = json.loads((tmp_path / "o.json").read_text())["figures"]["test"]
    files = sorted(str(path) for path in (tmp_path / "set" / "test").rglob("*.png"))
    for model, which in (("both.safetensors", "one look"), (twice, "second look")):
        done = CliRunner().invoke(Program(detect.main), [*files, "--model", str(model), "--json", "--face", "whole"])
        rows = json.loads(done.output)["results"]
        high = [row for row in rows if row["probability"] >= row["threshold"]]
        assert "UNSURE" in {row["verdict"] for row in high}, "or this test shows nothing"
        for word, name in (("fake", "found"), ("real", "false_alarms")):
            own = [row["verdict"] == "FAKE" for row in rows if Path(row["file"]).parent.name == word]
            assert told[which][name] == pytest.approx(np.mean(own)), (which, name)


def test_under_degradations_too(given, tmp_path):
    found = judged(tmp_path, "--conditions", "web")
    clean, web = found["robustness"]["conditions"]
    fake = shares(given, "FAKE")
    assert clean["tpr"]["value"] == pytest.approx(fake["fake"]) and clean["fpr"]["value"] == pytest.approx(fake["real"])
    with open(tmp_path / "s.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["degradation"] == "web"]
    called = [row["verdict"] == "FAKE" for row in rows if row["label"] == "1"]
    assert web["tpr"]["value"] == pytest.approx(np.mean(called))
    assert any(row["contradiction"] == "1" and float(row["score"]) >= found["rule"]["threshold"] for row in rows)


def test_compare_too(given, tmp_path):
    args = (
        "compare",
        "--models",
        "both.safetensors",
        "face.safetensors",
        "--data",
        "data",
        "--no-speed",
        "--resamples",
        20,
    )
    run(evaluate, *args, "--out", tmp_path / "c")
    both = json.loads((tmp_path / "c" / "compare.json").read_text())["contestants"][0]["metrics"]
    fake = shares(given, "FAKE")
    assert both["recall_fake"]["value"] == pytest.approx(fake["fake"])
    assert both["false_alarm_rate"]["value"] == pytest.approx(fake["real"])
