"""`python evaluate.py compare`, as a user runs it, on tiny detectors, procedural faces and tables of scores."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest
from sklearn import metrics as sk
from torch.utils.flop_counter import FlopCounterMode

from discriminator.detector import Detector
from tests.tiny_detectors import make_place, refused, run
from training.lock import alone_in


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("comparing"))


@pytest.fixture(autouse=True)
def here(place, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("FACES_CACHE", str(place / "cache"))


def test_a_table_of_the_same_images(tmp_path):
    folder = tmp_path / "compared"
    run("detector", "c.safetensors", "--data", "data", "--csv", tmp_path / "theirs.csv", "--resamples", 10)
    theirs = tmp_path / "theirs.csv"
    said = run("compare", "--models", "a.safetensors", "run", theirs, "--data", "data", "--out", folder,
               "--resamples", 200)  # fmt: skip
    assert "the same 40 real and 40 fake images for all" in said
    found = json.loads((folder / "compare.json").read_text())
    a, b, c = found["contestants"]
    assert [x["name"] for x in (a, b, c)] == ["a", "run", "theirs"]
    rows = list(csv.DictReader(open(tmp_path / "theirs.csv", newline="")))
    labels = np.array([int(row["label"]) for row in rows])
    photos = [np.asarray(Image.open(row["path"])) for row in rows]
    called = {}
    for entry, file in ((a, "a.safetensors"), (b, "b.safetensors"), (c, "c.safetensors")):
        detector = Detector.load(file)
        p = np.array([v.probability for v in detector.predict(photos)])
        fake = called[entry["name"]] = p >= detector.calibration.at().threshold
        m = {name: value["value"] for name, value in entry["metrics"].items()}
        assert m["roc_auc"] == pytest.approx(sk.roc_auc_score(labels, p), abs=2e-3)
        assert m["accuracy"] == pytest.approx(sk.accuracy_score(labels, fake))
        assert m["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(labels, fake))
        assert m["precision_fake"] == pytest.approx(sk.precision_score(labels, fake))
        assert m["f1_real"] == pytest.approx(sk.f1_score(labels, fake, pos_label=0))
        assert m["recall_fake"] == pytest.approx(sk.recall_score(labels, fake))
        assert m["f1_fake"] == pytest.approx(sk.f1_score(labels, fake))
        assert m["false_alarm_rate"] == pytest.approx(fake[labels == 0].mean())
        assert entry["metrics"]["roc_auc"]["low"] < m["roc_auc"] < entry["metrics"]["roc_auc"]["high"]
        if entry is c:
            assert "tpr_at_shipped_0.01" not in m and c["parameters"] is None and c["images_per_second"] is None
            continue
        at = p >= detector.calibration.at(0.01).threshold
        assert m["tpr_at_shipped_0.01"] == pytest.approx(at[labels == 1].mean())
        assert m["fpr_at_shipped_0.01"] == pytest.approx(at[labels == 0].mean())
        assert entry["parameters"] == sum(p.numel() for p in detector.net.parameters())
        with FlopCounterMode(display=False) as counter:
            detector.net.verdict(torch.zeros(1, 3, 32, 32))
        assert entry["flops"] == counter.get_total_flops() > 0
        assert entry["images_per_second"] > 0
    assert (b["training_seconds"], b["epochs"]) == (180, 5) and (a["training_seconds"], a["epochs"]) == (None, 4)

    assert [(p["first"], p["second"]) for p in found["pairs"]] == [("a", "run"), ("a", "theirs"), ("run", "theirs")]
    for pair in found["pairs"]:
        one, two = (called[pair[k]] == (labels == 1) for k in ("first", "second"))
        test = pair["mcnemar"]
        assert (test["only_first"], test["only_second"]) == ((one & ~two).sum(), (two & ~one).sum())
        n = test["only_first"] + test["only_second"]
        assert test["p"] == pytest.approx(binomtest(test["only_first"], n).pvalue if n else 1)
        assert test["p"] <= test["p_holm"] <= 1 and pair["delong"]["p"] <= pair["delong"]["p_holm"] <= 1

    text = (folder / "compare.md").read_text()
    assert "| a |" in text and "multiply-add counted as two" in text and "Holm" in text
    table = list(csv.DictReader(open(folder / "compare.csv", newline="")))
    assert float(table[0]["roc_auc"]) == a["metrics"]["roc_auc"]["value"] and table[2]["parameters"] == ""
    html = (folder / "compare.html").read_text()
    assert html.count("<img") >= 3 and "http" not in html.replace("http-equiv", "")
    for name in ("roc", "bars", "speed"):
        for theme in ("light", "dark"):
            with Image.open(folder / f"{name}-{theme}.png") as picture:
                assert min(picture.size) > 200
    assert "holds a compare.html already" in refused(
        "compare", "--models", "a.safetensors", "run", "--data", "data", "--out", folder
    )


def test_unreadable_images_are_left_out_for_all_and_tables_stand_alone(tmp_path):
    shutil.copytree("data/test", tmp_path / "t")
    (tmp_path / "t" / "real" / "05.png").write_bytes(b"no picture")
    words = ("--models", "a.safetensors", "--models=c.safetensors", "--data", tmp_path / "t", "--no-speed")
    out = run("compare", *words, "--out", tmp_path / "o", "--resamples", 20)
    assert "1 unreadable image, left out for all" in out and "39 real and 40 fake" in out
    for name in "ac":
        run("detector", f"{name}.safetensors", "--data", tmp_path / "t", "--csv", tmp_path / f"{name}.csv")
    tables = ("compare", "--models", tmp_path / "a.csv", tmp_path / "c.csv")
    run(*tables, "--out", tmp_path / "p", "--resamples", 20)
    one, two = (json.loads((tmp_path / k / "compare.json").read_text())["pairs"] for k in "op")
    assert one[0]["mcnemar"] == two[0]["mcnemar"] and one[0]["delong"]["p"] == pytest.approx(two[0]["delong"]["p"])

    lines = (tmp_path / "c.csv").read_text().splitlines()
    (tmp_path / "less.csv").write_text("\n".join(lines[:-1]))
    (tmp_path / "other.csv").write_text("\n".join(lines).replace("real/06.png,0", "real/06.png,1"))
    (tmp_path / "odd.csv").write_text("\n".join(lines).replace(",FAKE", ",PERHAPS"))
    common = ("--out", tmp_path / "q")
    for name, match in (("less", "other images"), ("other", "otherwise"), ("odd", "none of FAKE, REAL")):
        assert match in refused("compare", "--models", tmp_path / "a.csv", tmp_path / f"{name}.csv", *common)
    pictures = ("--data", tmp_path / "t")
    for name, match in (("less", "has no score for 1 of the 79"), ("other", "otherwise than --data")):
        assert match in refused("compare", "--models", "a.safetensors", tmp_path / f"{name}.csv", *pictures, *common)


def test_a_table_of_two_sets_with_equal_paths_has_each_images_own_score(tmp_path):
    """Paths inside the sets, as other programs write them: 0001.png is in both."""
    lines = ["path,label,score,source"]
    for number, name in enumerate(("one", "two")):
        for label, kind in enumerate(("real", "fake")):
            (tmp_path / name / kind).mkdir(parents=True)
            for i in range(20):
                image = tmp_path / name / kind / f"{i:02d}.png"
                image.write_bytes(Path(f"data/test/{kind}/{i + 20 * number:02d}.png").read_bytes())
                # the first set is told perfectly, the second the wrong way round
                lines.append(f"{kind}/{i:02d}.png,{label},{(label if number == 0 else 1 - label) + i / 100},{name}")
    table = tmp_path / "theirs.csv"
    table.write_text("\n".join(lines))
    sets = ("--data", tmp_path / "one", tmp_path / "two")
    words = ("compare", "--models", "a.safetensors", table, *sets, "--no-speed", "--resamples", 20)
    run(*words, "--out", tmp_path / "o")
    found = json.loads((tmp_path / "o" / "compare.json").read_text())["contestants"][1]
    rows = [line.split(",") for line in lines[1:]]
    expected = sk.roc_auc_score([int(row[1]) for row in rows], [float(row[2]) for row in rows])
    assert found["metrics"]["roc_auc"]["value"] == pytest.approx(expected) and expected == pytest.approx(0.5, abs=0.01)

    table.write_text("\n".join(lines).replace(",one", ",first").replace(",two", ",second"))
    line = refused(*words, "--out", tmp_path / "p")
    assert "/00.png, of the sources first, second, and none of them of one" in line
    table.write_text("\n".join(line for line in lines if not line.endswith(",two")))
    line = refused(*words, "--out", tmp_path / "p")
    assert "its one row fake/00.png fits" in line and "give whole paths" in line


def test_groups_of_tables_are_those_that_were_asked_for(tmp_path):
    """Whole groups are drawn: of two scenes of a class hardly anything is known."""
    for name in "ab":
        rows = [f"{i},{i % 2},{(i % 2 + (i * 7 % 11) / 8) / 3:.4f},{i % 4}" for i in range(80)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["path,label,score,scene", *rows]))
    words = ("compare", "--models", tmp_path / "a.csv", tmp_path / "b.csv", "--resamples", 200)
    width = []
    for more in ((), ("--group-by", "scene")):
        run(*words, *more, "--out", tmp_path / f"o{len(more)}")
        auc = json.loads((tmp_path / f"o{len(more)}" / "compare.json").read_text())["contestants"][0]["metrics"][
            "roc_auc"
        ]
        width.append(auc["high"] - auc["low"])
        said = (tmp_path / f"o{len(more)}" / "compare.md").read_text()
        assert ("80 images are 4 groups by «scene», each drawn whole" in said) == bool(more)
    assert width[0] > 0 and width[1] != pytest.approx(width[0])
    assert "--group-by nobody" in refused(*words, "--group-by", "nobody", "--out", tmp_path / "p")


@pytest.mark.parametrize("words", [("--fpr", 0.01), ("--limit", 5), ("--split", "test"), ("--label", "fake")])
def test_options_of_images_are_refused_where_all_are_tables(words, tmp_path):
    line = refused("compare", "--models", "x.csv", "y.csv", "--out", tmp_path / "o", *words)
    assert line.startswith(f"error: {words[0]}") and f"leave {words[0]} out" in line


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["a.safetensors", "--data", "data"], "takes two or more"),
        (["a.safetensors", "a.safetensors", "--data", "data"], "the same file"),
        (["b.safetensors", "run", "--data", "data"], "the same detector"),
        (["a.safetensors", "run"], "no images to compare"),
        (["a.safetensors", "b.onnx", "--data", "data"], "exported for ONNX Runtime"),
        (["a.safetensors", "nowhere.csv", "--data", "data"], "no such file"),
        (["a.safetensors", "nowhere.safetensors", "--data", "data"], "no such detector"),
        (["a.safetensors", "run", "--data", "data", "--fpr", 0.2], "no threshold was calibrated"),
        (["a.safetensors", "run", "--data", "data/test/real"], "too few to compare"),
        (["a.safetensors", "run", "--data", "data", "--limit", 3], "too few to compare"),
        (["a.safetensors", "run", "--data", "data", "--out", "a.safetensors"], "is a file"),
    ],
)
def test_what_can_t_be_compared(words, match, tmp_path):
    out = [] if "--out" in words else ["--out", tmp_path / "o"]
    assert match in refused("compare", "--models", *words, *out)


@pytest.mark.parametrize("words", [
    ("compare", "--models", "a.safetensors", "run", "--data", "data"),
    ("explain", "a.safetensors", "--data", "data"),
    ("study", "--plan", "plan.toml"),
])  # fmt: skip
def test_two_commands_at_once_do_not_share_a_folder(words, tmp_path):
    """The later one took the place of what the other had written, test scores of a study included."""
    with alone_in(tmp_path / "o"):
        assert f"process {os.getpid()} is writing into it" in refused(*words, "--out", tmp_path / "o")
    assert not (tmp_path / "o").exists()
