"""`python evaluate.py detector`, as a user runs it, on a tiny untrained detector and small pictures."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from sklearn import metrics as sk

import evaluate
from common.errors import UserError
from discriminator.calibration import calibrate
from discriminator.detector import Detector
from discriminator.export_onnx import export_detector
from discriminator.hybrid import HybridConfig, HybridDiscriminator
from discriminator.verdict import Threshold
from faces.degrade import grid
from faces.preprocess import Preprocess
from faces.source import open_source
from metrics.few import pair_interval
from stylegan2_ada.config import DiscriminatorConfig
from tests.program import Program


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a detector whose verdicts differ, and three sources: both classes, only reals, only fakes."""
    root = tmp_path_factory.mktemp("judging")
    rng = np.random.default_rng(0)
    for folder, count in (("both/real", 12), ("both/fake", 12), ("reals/real", 6), ("fakes/fake", 6)):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            small = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            sharp = rng.normal(0, 25 if "fake" in folder else 5, (40, 40, 3))
            pixels = np.asarray(Image.fromarray(small).resize((40, 40), Image.Resampling.BICUBIC)) + sharp
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(root / folder / f"{i:02d}.png")
    torch.manual_seed(0)
    cfg = HybridConfig(DiscriminatorConfig(32, channel_base=128, channel_max=8), artefact_channels=4, verdict_dim=8)
    net = HybridDiscriminator(cfg)
    with torch.no_grad():
        net.verdict_head.out.weight.mul_(30)
    photos = [np.asarray(Image.open(p)) for p in sorted((root / "both").rglob("*.png"))]
    labels = np.repeat([1, 0], 12)  # fake before real
    raw = Detector(net, Preprocess(32), calibrate(rng.normal(size=400), np.repeat([0, 1], 200)))
    logits = np.array([v.logit for v in raw.predict(photos)])
    if sk.roc_auc_score(labels, logits) < 0.5:
        with torch.no_grad():
            net.verdict_head.out.weight.neg_()
            net.verdict_head.out.bias.neg_()
        logits = -logits
    calibration = calibrate(np.tile(logits, 20), np.tile(labels, 20), default_fpr=0.05)
    Detector(net, Preprocess(32), calibration, {"trained_on": "nothing"}).save(root / "d.safetensors")
    return root


@pytest.fixture(autouse=True)
def here(place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("FACES_CACHE", str(tmp_path / "cache"))


def run(*words, code=0):
    done = CliRunner().invoke(Program(evaluate.main), ["detector", *map(str, words)])
    assert done.exit_code == code, done.output + repr(done.exception)
    return done.output


def refused(*words):
    """The one line of an error."""
    done = CliRunner().invoke(Program(evaluate.main), ["detector", *map(str, words)])
    assert done.exit_code == 2, done.output + repr(done.exception)
    line = done.stderr.strip()
    assert line.startswith("error: ") and "\n" not in line, line
    return line


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_numbers_equal_predict_and_scikit_learn(place, tmp_path):
    out = run("d.safetensors", "--data", "both", "--json", tmp_path / "o.json", "--csv", tmp_path / "o.csv")
    found, rows = json.loads((tmp_path / "o.json").read_text()), rows_of(tmp_path / "o.csv")
    detector = Detector.load("d.safetensors")
    verdicts = detector.predict([np.asarray(Image.open(row["path"])) for row in rows])
    assert [float(row["score"]) for row in rows] == pytest.approx([v.probability for v in verdicts], abs=1e-6)
    assert [row["verdict"] for row in rows] == [v.label for v in verdicts]
    assert [row["label"] for row in rows] == ["1" if "/fake/" in row["path"] else "0" for row in rows]
    assert {row["source"] for row in rows} == {"both"} and "degradation" not in rows[0]

    point = detector.calibration.at()
    y, p = np.array([int(r["label"]) for r in rows]), np.array([float(r["score"]) for r in rows])
    assert found["rule"]["threshold"] == point.threshold and found["rule"]["unsure_low"] == point.unsure_low
    assert "shipped" in found["rule"]["origin"]
    values = {name: m["value"] for name, m in found["overall"]["metrics"].items()}
    called = p >= point.threshold
    assert values["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(y, called))
    assert values["mcc"] == pytest.approx(sk.matthews_corrcoef(y, called))
    assert values["roc_auc"] == pytest.approx(sk.roc_auc_score(y, p))
    assert values["pr_auc"] == pytest.approx(sk.average_precision_score(y, p))
    assert values["log_loss"] == pytest.approx(sk.log_loss(y, p)) and values["brier"] == pytest.approx(
        sk.brier_score_loss(y, p)
    )
    table = sk.precision_recall_fscore_support(y, called, zero_division=np.nan)
    for name, pair in zip(("precision", "recall", "f1"), table):
        assert [values[f"{name}_real"], values[f"{name}_fake"]] == pytest.approx(list(pair), nan_ok=True)
    said = {label: {v: sum(r["label"] == label and r["verdict"] == v for r in rows) for v in ("REAL", "UNSURE", "FAKE")}
            for label in "01"}  # fmt: skip
    assert found["answers"] == {"real": said["0"], "fake": said["1"]}
    assert [p["target_fpr"] for p in found["operating_points"]] == [0.005, 0.01, 0.05]
    assert "oracle" in out and f"{100 * values['balanced_accuracy']:.1f} %" in out


def test_one_photo_under_both_labels_is_said(place, tmp_path):
    """Before: the figures were those of wrong labels, without a word."""
    for name, folder in (("real/a.png", "real/00"), ("fake/a.png", "fake/00"), ("fake/b.png", "real/00")):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes((place / f"both/{folder}.png").read_bytes())
    said = " ".join(run("d.safetensors", "--data", tmp_path / "set").split())
    assert "note: an image is there as real and as fake, the same file (like" in said
    assert "set/real/a.png and" in said and "set/fake/b.png)" in said
    told = run("d.safetensors", "--data", "both", "--json", "o\nd.json")
    assert "as real and as fake" not in told and "o\\nd.json written" in told.splitlines()


def test_the_exported_twin_answers_as_in_detect(place, tmp_path):
    """On a CPU the network beside the file judges, quicker, where it is of this very file: the same scores."""
    run("d.safetensors", "--data", "both", "--csv", tmp_path / "torch.csv")
    detector = Detector.load("d.safetensors")
    for name in ("e.safetensors", "e.onnx"):
        (tmp_path / name).unlink(missing_ok=True)
    detector.save(tmp_path / "e.safetensors")
    export_detector(tmp_path / "e.onnx", Detector.load(tmp_path / "e.safetensors"))
    said = run(
        tmp_path / "e.safetensors", "--data", "both", "--csv", tmp_path / "onnx.csv", "--json", tmp_path / "o.json"
    )
    assert "on ONNX Runtime" in said
    assert (
        json.loads((tmp_path / "o.json").read_text())["settings"]["sha256"] == detector.sha256
    )  # the file's, not the twin's
    torch_scores, onnx_scores = (
        [float(row["score"]) for row in rows_of(tmp_path / name)] for name in ("torch.csv", "onnx.csv")
    )
    assert onnx_scores == pytest.approx(torch_scores, abs=1e-5)
    with torch.no_grad():
        detector.net.verdict_head.out.bias.add_(1)
    detector.save(tmp_path / "e.safetensors")
    said = run(tmp_path / "e.safetensors", "--data", "both")
    assert "note: " in said and "was exported from another detector" in said and "on cpu" in said


def test_sources_of_one_class_and_pairs(tmp_path):
    common = ("d.safetensors", "--data", "reals", "--data", "fakes")
    out = run(*common, "--json", tmp_path / "a.json")
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["overall"] is None and found["oracle"] is None and "--reals-from" in out
    reals, fakes = found["sources"]
    assert (reals["tpr"]["value"], reals["auc"]) == (None, None) and reals["name"].endswith("/reals")
    assert (fakes["fpr"]["value"], fakes["auc"]) == (None, None) and fakes["name"].endswith("/fakes")
    run(*common, "--reals-from", "reals", "--json", tmp_path / "b.json")
    found = json.loads((tmp_path / "b.json").read_text())
    assert found["pairs"][0]["auc"]["value"] is not None and found["overall"]["n_real"] == 6
    out = run("d.safetensors", "--data", "both/real", "--data", "both")
    assert re.search(r"^both/real +12 +0 ", out, re.M) and re.search(r"^both +0 +12 ", out, re.M)
    assert "12 images of an earlier --data left out" in out
    assert "belong to an earlier --data" in refused("d.safetensors", "--data", "both", "--data", "both/fake")
    assert "no source of that name" in refused(*common, "--reals-from", "elsewhere")


def test_robustness_streams_keeps_and_draws(tmp_path):
    words = ("d.safetensors", "--data", "both", "--data", "reals", "--robustness", "--limit", 2, "--resamples", 50)
    out = run(
        *words, "--json", tmp_path / "o.json", "--csv", tmp_path / "o.csv", "--plots", tmp_path / "plots",
        "--report", tmp_path / "o.html",
    )  # fmt: skip
    assert "44 degradations of 6 images" in out and "--limit" in out and "worst degradation: " in out
    found, rows = json.loads((tmp_path / "o.json").read_text()), rows_of(tmp_path / "o.csv")
    conditions = found["robustness"]["conditions"]
    assert [c["name"] for c in conditions] == list(grid()) and len(rows) == 45 * 6
    # a row that is shown as soon as it is there, and one of a source, have the interval of the whole
    assert found["robustness_by_source"]["both"] == conditions
    for line in out.splitlines():
        if (one := next((c["balanced"] for c in conditions if line.startswith(f"  {c['name']} ")), None)) is not None:
            assert line.endswith(f"({100 * one['low']:.1f} to {100 * one['high']:.1f})"), line
    by_hand = [r for r in rows if r["degradation"] == "jpeg-30" and r["source"] == "both"]
    threshold = found["rule"]["threshold"]
    jpeg = next(c for c in conditions if c["name"] == "jpeg-30")
    for label, which in (("0", "fpr"), ("1", "tpr")):
        assert jpeg[which]["value"] == np.mean([float(r["score"]) >= threshold for r in by_hand if r["label"] == label])
    # the score of a degraded image is that of degrading it by hand, whatever is judged beside it
    image = np.asarray(Image.open(by_hand[0]["path"]))
    wanted = Detector.load("d.safetensors").predict([grid()["jpeg-30"].apply(image, np.random.default_rng(0))])
    assert float(by_hand[0]["score"]) == pytest.approx(wanted[0].probability, abs=1e-6)

    # a source's intervals are of as many resamples as all others, and a few images' have the bound for any number
    for rows_of_source in found["robustness_by_source"].values():
        for c in (c for c in rows_of_source if c["balanced"]["value"] is not None):
            bound = pair_interval(c["balanced"]["value"], c["fpr"]["n"], c["tpr"]["n"])
            assert (c["balanced"]["low"], c["balanced"]["high"]) == pytest.approx(bound)
            shown = "% ({:.1f} to {:.1f})".format(*(100 * end for end in bound))
            told = [line for line in out.splitlines() if line.startswith(f"  {c['name']} ")]
            assert bool(told) == (c["name"] != "clean") and all(line.endswith(shown) for line in told)
    (both, _), auc = found["sources"], found["overall"]["metrics"]["roc_auc"]
    assert both["auc"] == auc and (auc["low"], auc["high"]) == pytest.approx(pair_interval(auc["value"], 2, 2))
    assert f"{auc['value']:.4f} ({auc['low']:.2f} to {auc['high']:.2f})" in out

    names = {p.name for p in (tmp_path / "plots").iterdir()}
    for name in ("scores", "answers", "roc", "precision-recall", "reliability", "sources", "robustness"):
        assert {f"{name}-light.png", f"{name}-dark.png"} <= names
    page = (tmp_path / "o.html").read_text()
    assert page.count("prefers-color-scheme: dark") >= 8 and "http" not in page and "<script" not in page
    assert "resize-0.25-lanczos" in page and "At most" not in page.split("<body>")[0]

    again = run(*words, "--json", tmp_path / "again.json")
    assert "(44 of them known from an earlier run)" in again
    second = json.loads((tmp_path / "again.json").read_text())
    assert second["robustness"] == found["robustness"] and second["overall"] == found["overall"]
    # its own CSV can be judged again, with the same numbers
    low = found["rule"]["unsure_low"]
    run(tmp_path / "o.csv", "--threshold", repr(threshold), "--unsure-from", repr(low), "--resamples", 50, "--json",
        tmp_path / "csv.json")  # fmt: skip
    third = json.loads((tmp_path / "csv.json").read_text())
    assert third["overall"] == found["overall"] and third["answers"] == found["answers"]
    assert [(c["name"], c["tpr"], c["fpr"]) for c in third["robustness"]["conditions"]] == [
        (c["name"], c["tpr"], c["fpr"]) for c in conditions
    ]


def test_some_conditions_are_the_same_as_in_the_whole_grid(tmp_path):
    words = ("d.safetensors", "--data", "both", "--limit", 2, "--resamples", 50)
    out = run(
        *words, "--conditions", "web, hard", "--json", tmp_path / "o.json", "--report", tmp_path / "o.html"
    )  # fmt: skip
    assert "2 degradations of 4 images" in out and "hard" in (tmp_path / "o.html").read_text()
    run(*words, "--robustness", "--json", tmp_path / "all.json")
    some, whole = (json.loads((tmp_path / f"{n}.json").read_text())["robustness"]["conditions"] for n in ("o", "all"))
    assert [c["name"] for c in some] == ["clean", "web", "hard"]
    assert some == [c for c in whole if c["name"] in ("clean", "web", "hard")]


def test_an_interrupted_run_keeps_what_it_has(tmp_path, monkeypatch):
    from evaluation import scoring

    judge, calls = scoring._computed, []

    def breaking(scorers, part, degradation):
        calls.append(degradation.name)
        if degradation.name == "jpeg-60":
            raise KeyboardInterrupt
        return judge(scorers, part, degradation)

    monkeypatch.setattr(scoring, "_computed", breaking)
    words = ("d.safetensors", "--data", "both", "--robustness", "--limit", 2, "--resamples", 2)
    done = CliRunner().invoke(Program(evaluate.main), ["detector", *map(str, words), "--csv", str(tmp_path / "o.csv")])
    assert done.exit_code == 130 and "stopped after 3 of 44 degradations" in done.stderr
    assert {r["degradation"] for r in rows_of(tmp_path / "o.csv")} == {"clean", "jpeg-95", "jpeg-90", "jpeg-75"}
    monkeypatch.setattr(scoring, "_computed", lambda *a: calls.append(a[2].name) or judge(*a))
    calls.clear()
    assert "(3 of them known from an earlier run)" in run(*words)
    assert calls[0] == "jpeg-60" and len(calls) == 41


def test_the_seed_decides_and_nothing_else(tmp_path):
    words = ("d.safetensors", "--robustness", "--resamples", 2, "--no-cache", "--batch")
    run(*words, 32, "--data", "reals", "--limit", 3, "--csv", tmp_path / "a.csv", "--workers", 1)
    run(*words, 2, "--data", "both", "--data", "reals", "--limit", 2, "--csv", tmp_path / "b.csv", "--workers", 3)
    run(*words, 32, "--data", "reals", "--limit", 2, "--csv", tmp_path / "c.csv", "--seed", 1)
    a, b, c = (
        {(r["path"], r["degradation"]): float(r["score"]) for r in rows_of(tmp_path / f"{n}.csv")} for n in "abc"
    )
    shared = [key for key in a if key in b]
    assert len(shared) >= 45 and [a[k] for k in shared] == pytest.approx([b[k] for k in shared], abs=1e-6)
    noisy = [key for key in a if key in c and key[1] == "noise-10"]
    assert all(a[key] != c[key] for key in noisy) and noisy


def test_broken_images_are_named_and_left_out(place, tmp_path):
    folder = tmp_path / "set" / "real"
    folder.mkdir(parents=True)
    for name in ("01.png", "02.png"):
        (folder / name).write_bytes((place / "both/real" / name).read_bytes())
    (folder / "torn.png").write_bytes((place / "both/real/03.png").read_bytes()[:500])
    (folder / "text.jpg").write_text("no image")
    out = run("d.safetensors", "--data", tmp_path / "set", "--robustness", "--limit", 4, "--json", tmp_path / "o.json")
    assert "torn.png" in out and "text.jpg" in out
    found = json.loads((tmp_path / "o.json").read_text())
    assert len(found["skipped"]) == 2 and found["sources"][0]["n_real"] == 2
    for name in ("01.png", "02.png"):
        (folder / name).unlink()
    assert "none of the 2 images can be judged; the first, " in refused("d.safetensors", "--data", tmp_path / "set")


def test_a_manifest_names_sources_generators_and_groups(place, tmp_path):
    lines = ["path,label,source,generator,identity"]
    for i in range(12):
        lines.append(f"{place}/both/real/{i:02d}.png,real,{'ab'[i % 2]},,p{i // 2}")
        lines.append(f"{place}/both/fake/{i:02d}.png,fake,{'ab'[i % 2]},gan{i % 3},p{i // 2}")
    (tmp_path / "m.csv").write_text("\n".join(lines))
    # a manifest ends in .csv, too, but is a --data
    out = run("d.safetensors", "--data", tmp_path / "m.csv", "--json", tmp_path / "o.json", "--resamples", 50)
    found = json.loads((tmp_path / "o.json").read_text())
    assert [s["name"] for s in found["sources"]] == ["a", "b"]
    assert [(g["name"], g["n_fake"]) for g in found["generators"]] == [("gan0", 4), ("gan1", 4), ("gan2", 4)]
    assert found["overall"]["groups"] == 6 and "24 images are 6 groups by «identity»" in out
    assert "--group-by nobody" in refused("d.safetensors", "--data", tmp_path / "m.csv", "--group-by", "nobody")


def test_near_duplicates_of_a_manifest_are_one_image(place, tmp_path):
    lines = ["path,label,phash,sha256"]
    for i in range(12):
        mark = (i // 3 + 1) * 0x9E3779B97F4A7C15 % 2**64  # three copies of each of four photos
        lines.append(f"{place}/both/real/{i:02d}.png,real,{mark:016x},{i:064x}")
    (tmp_path / "m.csv").write_text("\n".join(lines))
    out = run("d.safetensors", "--data", tmp_path / "m.csv", "--json", tmp_path / "o.json", "--threshold", 1)
    assert "12 images are 4 groups by «near_duplicate»" in out
    found = json.loads((tmp_path / "o.json").read_text())["sources"][0]["fpr"]
    assert (found["value"], found["n"]) == (0, 12) and found["high"] == pytest.approx(1 - 0.025 ** (1 / 4))


def test_folders_of_a_set_are_sources(place, tmp_path):
    for name in ("x/ffhq/real", "x/gan/fake", "y/ffhq/real", "plain"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.png").write_bytes((place / "both/real/01.png").read_bytes())
    out = run("d.safetensors", "--data", tmp_path / "x", "--data", tmp_path / "y/ffhq")
    assert re.search(r"^x/ffhq +1 +0", out, re.M) and re.search(r"^x/gan +0 +1", out, re.M)
    assert "nothing says which images are real" in refused("d.safetensors", "--data", tmp_path / "plain")
    assert re.search(r"^plain +0 +1", run("d.safetensors", "--data", tmp_path / "plain", "--label", "fake"), re.M)
    (tmp_path / "plain" / "labels.csv").write_text("filename,label\na.png,fake\n")
    assert "labels.csv in it seems to say" in refused("d.safetensors", "--data", tmp_path / "plain")


def test_thresholds_are_chosen_and_said(tmp_path):
    point = Detector.load("d.safetensors").calibration.at(0.005)
    out = run("d.safetensors", "--data", "both", "--fpr", 0.005)
    assert f"FAKE from {point.threshold:.4f}" in out and "chosen by --fpr, for 0.5 % false alarms" in out
    out = run("d.safetensors", "--data", "both", "--threshold", 0.4)
    low = Threshold.of(Detector.load("d.safetensors").calibration, threshold=0.4).point.unsure_low
    assert low < 0.4, "a threshold of one's own has the band that detect.py has"
    assert f"FAKE from 0.4000, UNSURE from {low:.4f} (given by --threshold, not the detector's own)" in out
    assert "give one of 0.005, 0.01, 0.05" in refused("d.safetensors", "--data", "both", "--fpr", 0.02)


SCORES = "path,label,score\na,0,-2\nb,0,-1\nc,1,0.5\nd,1,3\ne,0,1\n"


def test_scores_of_another_detector(tmp_path):
    (tmp_path / "s.csv").write_text(SCORES)
    valid = ["path,label,score"] + [f"v{i},{i % 2},{(i % 2) + i / 100}" for i in range(100)]
    (tmp_path / "v.csv").write_text("\n".join(valid))
    out = run(tmp_path / "s.csv", "--threshold", 0.4, "--json", tmp_path / "o.json", "--report", tmp_path / "o.html")
    found = json.loads((tmp_path / "o.json").read_text())
    assert found["overall"]["confusion"] == {"tn": 2, "fp": 1, "fn": 0, "tp": 2}
    assert found["overall"]["metrics"]["ece"]["value"] is None and "not probabilities" in out
    out = run(tmp_path / "s.csv", "--calibrate-on", tmp_path / "v.csv", "--fpr", 0.1, "--json", tmp_path / "p.json")
    found = json.loads((tmp_path / "p.json").read_text())
    # 50 validation reals 0, .02 … .98: five may lie at or above the threshold, so it is just above .88
    assert found["overall"]["confusion"] == {"tn": 2, "fp": 1, "fn": 1, "tp": 1}
    assert found["overall"]["metrics"]["ece"]["value"] is not None  # made probabilities on the validation scores
    assert "set for 10 % false alarms on the 50 reals" in out
    assert "of the images that are judged" in refused(
        tmp_path / "s.csv", "--calibrate-on", tmp_path / "s.csv"
    )  # fmt: skip


def test_that_it_learnt_from_these_very_images_is_said(place, tmp_path):
    detector = Detector.load(place / "d.safetensors", device="cpu")
    said = "both: the detector was taught with this very set"
    assert said not in run("d.safetensors", "--data", "both")
    detector.meta |= {"fingerprint": open_source(str(place / "both")).fingerprint()}
    detector.save(tmp_path / "own.safetensors")
    out = run(tmp_path / "own.safetensors", "--data", "both", "--json", tmp_path / "own.json")
    assert f"note: {said}" in out and said in json.loads((tmp_path / "own.json").read_text())["notes"][0]
    assert said in run(tmp_path / "own.safetensors", "--data", "both", "--limit", 4), "a part of them is no other set"
    assert "taught with" not in run(tmp_path / "own.safetensors", "--data", "reals", "--data", "fakes")
    rows = [
        f"{place}/both/{kind}/{i:02d}.png,{kind},{'test' if i < 4 else 'train'}"
        for kind in ("real", "fake")
        for i in range(12)
    ]
    (tmp_path / "m.csv").write_text("\n".join(["path,label,split", *rows]))
    detector.meta |= {"fingerprint": open_source(str(tmp_path / "m.csv")).fingerprint()}
    detector.save(tmp_path / "split.safetensors")
    assert "taught with" not in run(tmp_path / "split.safetensors", "--data", tmp_path / "m.csv"), "its test split"
    assert "taught with" in run(tmp_path / "split.safetensors", "--data", tmp_path / "m.csv", "--split", "all")


def test_swapped_labels_are_said_and_set_right(place, tmp_path):
    for name in ("both/real", "both/fake"):
        (tmp_path / "set").mkdir(exist_ok=True)
        shutil.copytree(place / name, tmp_path / "set" / ("kitchen" if "fake" in name else "garden"))
    line = refused("d.safetensors", "--data", tmp_path / "set")
    assert "in its folders garden and kitchen; say --labels real=garden,fake=kitchen" in line
    out = run("d.safetensors", "--data", tmp_path / "set", "--labels", "real=kitchen,fake=garden")
    wrong = float(re.search(r"^set .* (0\.\d{4}) ", out, re.MULTILINE)[1])
    out = run("d.safetensors", "--data", tmp_path / "set", "--labels", "real=garden,fake=kitchen")
    right = float(re.search(r"^set .* (0\.\d{4}) ", out, re.MULTILINE)[1])
    assert wrong == pytest.approx(1 - right) and "look swapped" not in out and "12 real and 12 fake" in out
    out = run("d.safetensors", "--data", tmp_path / "set", "--data", "both", "--labels", "real=garden,fake=kitchen")
    assert "--labels names nothing in it; its own names count" in out
    rows = [f"{i},{i % 2},{(1 - i % 2) + i / 100}" for i in range(40)]
    (tmp_path / "s.csv").write_text("\n".join(["path,label,score", *rows]))
    assert "the labels look swapped" in run(tmp_path / "s.csv", "--threshold", 0.7)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["d.safetensors"], "give --data SOURCE"),
        (["d.safetensors", "--data", "nowhere"], "--data nowhere: no such folder"),
        (["nowhere.safetensors", "--data", "both"], "no such detector file"),
        (["nowhere.csv", "--threshold", 1], "no such file"),
        (["{s}"], "scores have no threshold of their own"),
        (["{s}", "--fpr", 0.05], "--fpr 0.05: a rate is met on scores of validation images: give --calibrate-on"),
        (["{own}", "--fpr", 0.05], "give --calibrate-on VALID.csv, or leave --fpr out"),
        (["{s}", "--threshold", "nan"], "not a finite number"),
        (["{s}", "--threshold", 0.1, "--data", "both"], "leave --data out"),
        (["{s}", "--threshold", 0.1, "--robustness"], "no column degradation"),
        (["{s}", "--threshold", 0.1, "--csv", "{s}", "--force"], "is the file that is judged"),
        (["{bad}", "--threshold", 0.1], "line 2: the score is 'nan'"),
        (["d.safetensors", "--data", "both", "--threshold", 0.1, "--fpr", 0.1], "give one of them"),
        (["d.safetensors", "--data", "both", "--unsure-from", 0.9, "--threshold", 0.1], "lies above the threshold"),
        (["d.safetensors", "--data", "both", "--json", "{s}"], "is there already"),
        (["d.safetensors", "--data", "both", "--json", "{s}/o.json"], "s.csv is a file, not a folder"),
        (["d.safetensors", "--data", "both", "--conditions", "web,rain"], "no degradation is called 'rain'"),
        (["d.safetensors", "--data", "both", "--conditions", "clean"], "name at least one"),
        (["{s}", "--threshold", 0.1, "--conditions", "web"], "leave --conditions out"),
        (["d.safetensors", "--data", "both", "--split", "valid"], "has no 'valid' split"),
        (["d.safetensors", "--data", "both", "--calibrate-on", "{s}"], "a detector has its own calibration"),
        (["both", "--data", "both"], "has no detector.safetensors"),
        (["latest", "--data", "both"], "MODEL|SCORES.csv latest: no detector yet: there is no runs/*/detector."),
    ],
)
def test_one_line_for_what_can_not_be_done(words, line, tmp_path):
    (tmp_path / "s.csv").write_text(SCORES)
    (tmp_path / "bad.csv").write_text("path,label,score\na,0,nan\n")
    (tmp_path / "own.csv").write_text("path,label,score,threshold\na,0,0.1,0.6\nb,1,0.9,0.6\n")
    words = [re.sub(r"\{(\w+)\}", rf"{tmp_path}/\1.csv", str(word)) for word in words]
    assert line in refused(*words)
    assert (tmp_path / "s.csv").read_text() == SCORES


def test_a_detector_that_gives_no_numbers(place, tmp_path):
    detector = Detector.load("d.safetensors")
    with torch.no_grad():
        detector.net.verdict_head.out.weight.fill_(3e38)
    detector.save(tmp_path / "nan.safetensors")
    assert "not numbers" in refused(tmp_path / "nan.safetensors", "--data", "both")


def test_help_is_light():
    out = run("--help")
    assert "SCORES.csv" in out and Path(evaluate.__file__).read_text().count("import torch") == 0


def test_the_library_returns_and_prints_nothing(capsys):
    from evaluation.detector_on_images import evaluate_images
    from evaluation.options import DetectorOptions

    seen = []
    options = DetectorOptions(target="d.safetensors", data=("both",), conditions="web", limit=2, resamples=2)
    result = evaluate_images(options, under=seen.append)
    assert capsys.readouterr() == ("", "") and seen[0] is None and seen[1].name == "web"
    assert [c.name for c in result.robustness] == ["clean", "web"] and len(result.tables) == 2
    with pytest.raises(UserError, match="^`threshold` and `fpr` both set the threshold"):
        DetectorOptions(target="d.safetensors", data=("both",), threshold=0.5, fpr=0.01)
