"""`python evaluate.py ensemble`, as a user runs it, on tiny detectors and procedural faces."""

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

import detect
from discriminator.detector import Detector
from evaluation.ensemble_scores import fit_parts, turns
from evaluation.options import ScoringOptions
from evaluation.scoring import Scorer, chosen
from faces.degrade import PRESETS, preset
from faces.source import open_source
from tests.discriminator.test_wise_ft import taught
from tests.program import Program
from tests.tiny_detectors import make_place, refused, run

WISE_FT = ("--method", "wise-ft", "--backbone-weights", "w.pth")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("joining"))


@pytest.fixture(autouse=True)
def here(place, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("FACES_CACHE", str(place / "cache"))


MEMBERS = ("a.safetensors", "run", "c.safetensors")


@pytest.mark.parametrize("method", ["average", "majority", "weighted", "stacking"])
def test_an_ensemble_is_a_detector(method, tmp_path):
    out = tmp_path / "e.safetensors"
    said = run("ensemble", *MEMBERS, "--method", method, "--data", "data", "--out", out, "--json", tmp_path / "o.json",
               "--resamples", 100)  # fmt: skip
    assert "data: 40 real and 40 fake (validation split)" in said and "40 real and 40 fake test images" in said
    assert re.search(r"the ensemble (beats|does NOT beat|is WORSE than) its best member", said)
    detector = Detector.load(out)
    assert detector.meta["ensemble"]["members"] == ["a", "run", "c"] and detector.calibration.n_real == 40
    assert detector.meta["ensemble"]["cross_fitted_folds"] == (5 if method in ("weighted", "stacking") else 0)
    assert {p.views for p in detector.calibration.points} == {2}  # clean and degraded

    found = json.loads((tmp_path / "o.json").read_text())["comparison"]
    photos = sorted(Path("data/test").rglob("*.png"))
    labels = [int("fake" in str(path)) for path in photos]
    verdicts = detector.predict([np.asarray(Image.open(path)) for path in photos])
    auc = sk.roc_auc_score(labels, [v.probability for v in verdicts])
    assert found["systems"]["the ensemble"]["auc"] == pytest.approx(auc, abs=1e-3)
    fake = np.array([v.label == "FAKE" for v in verdicts])
    assert found["systems"]["the ensemble"]["found"] == pytest.approx(fake[np.array(labels) == 1].mean())

    done = CliRunner().invoke(Program(detect.main), ["--model", str(out), str(photos[0]), "--json", "--face", "whole"])
    assert done.exit_code in (0, 1), done.output
    said = json.loads(done.output)["results"][0]
    assert said["probability"] == pytest.approx(verdicts[0].probability, abs=1e-6)


def test_weights_that_are_given_are_taken(tmp_path):
    out = tmp_path / "w.safetensors"
    said = run("ensemble", *MEMBERS, "--method", "weighted", "--weights", "2,1,1", "--data", "data", "--out", out,
               "--resamples", 50)  # fmt: skip
    assert "weights: a 0.500, run 0.250, c 0.250" in said
    made = Detector.load(out)
    assert made.net.head.weights.tolist() == [0.5, 0.25, 0.25] and made.meta["ensemble"]["cross_fitted_folds"] == 0
    photo = np.asarray(Image.open(next(iter(sorted(Path("data/test").rglob("*.png"))))))
    odds = [Detector.load(f"{name}.safetensors").predict([photo])[0].probability for name in "abc"]
    joint = np.dot([0.5, 0.25, 0.25], np.log(odds) - np.log1p(-np.array(odds)))
    assert made.predict([photo])[0].logit == pytest.approx(joint, abs=1e-4)


def test_a_soup_is_one_network_with_mean_weights(tmp_path):
    out = tmp_path / "s.safetensors"
    said = run("ensemble", "a.safetensors", "run", "--method", "soup", "--data", "data", "--out", out,
               "--json", tmp_path / "o.json", "--resamples", 50)  # fmt: skip
    assert "one network, its weights the mean of the 2 networks'" in said and "needs one network" not in said
    assert not re.search("ensemble|member|vote|fitted", said.replace(str(tmp_path), ""))
    assert re.search(r"^the soup (beats|does NOT beat|is WORSE than) the best network it was made of", said, re.M)
    members, made = [Detector.load(f"{name}.safetensors") for name in "ab"], Detector.load(out)
    a, b, both = (d.net.state_dict() for d in (*members, made))
    for name, tensor in both.items():
        assert torch.allclose(tensor, (a[name] + b[name]) / 2, rtol=1e-6, atol=1e-8), name
    assert type(made.net) is type(members[0].net) and "ensemble" not in made.meta
    assert made.meta["soup"] == {"of": [m.sha256 for m in members], "names": ["a", "run"], "notes": []}
    assert made.calibration.n_real == 40 and {p.views for p in made.calibration.points} == {2}
    photos = sorted(Path("data/test").rglob("*.png"))
    labels = [int("fake" in str(path)) for path in photos]
    verdicts = made.predict([np.asarray(Image.open(path)) for path in photos])
    found = json.loads((tmp_path / "o.json").read_text())["comparison"]["systems"]["the soup"]
    assert found["auc"] == pytest.approx(sk.roc_auc_score(labels, [v.probability for v in verdicts]), abs=1e-3)
    fake = np.array([v.label == "FAKE" for v in verdicts])
    assert found["found"] == pytest.approx(fake[np.array(labels) == 1].mean())
    joined = tmp_path / "j.safetensors"  # and it may be a member in its turn
    run("ensemble", out, "c.safetensors", "--data", "data", "--out", joined, "--resamples", 50)
    assert Detector.load(joined).meta["ensemble"]["members"] == ["s", "c"]


def test_a_wise_ft_network_is_one_network(place, tmp_path):
    """And what is made of it is said to be what it is itself, not what went before."""
    shutil.copytree("data", tmp_path / "data")
    shutil.copytree(tmp_path / "data" / "valid", tmp_path / "data" / "train")
    for name, seed in (("a", 1), ("b", 2)):
        detector, _, weights = taught("squeezenet1_1", tmp_path, seed)
        detector.save(tmp_path / f"{name}.safetensors")
    data, more = ("--data", tmp_path / "data"), ("--json", tmp_path / "o.json", "--resamples", 20, "--force")
    line = ("--method", "wise-ft", "--backbone-weights", weights)
    said = run("ensemble", tmp_path / "b.safetensors", *line, *data, "--out", tmp_path / "w.safetensors", *more)
    assert "one network, its weights 0.8 of b's and 0.2 of those in pretrained.pth" in said
    assert "here, beside b: " in said and not re.search("ensemble|member|vote|fitted", said.replace(str(tmp_path), ""))
    assert set(json.loads((tmp_path / "o.json").read_text())["comparison"]["systems"]) == {"the wise-ft network", "b"}
    meta = Detector.load(tmp_path / "w.safetensors").meta
    assert meta["wise_ft"]["names"] == ["b"] and "ensemble" not in meta

    two = tmp_path / "w.safetensors", tmp_path / "a.safetensors"
    said = run("ensemble", *two, "--method", "soup", *data, "--out", tmp_path / "s.safetensors", *more)
    assert "the mean of the 2 networks'" in said and "0.8 of" not in said
    assert "wise_ft" not in Detector.load(tmp_path / "s.safetensors").meta
    said = run("ensemble", tmp_path / "s.safetensors", *line, *data, "--out", tmp_path / "x.safetensors", *more)
    assert "its weights 0.8 of s's" in said and "soup" not in Detector.load(tmp_path / "x.safetensors").meta


def test_a_member_that_is_called_like_the_ensemble(tmp_path):
    """Its row took the place of the ensemble's."""
    shutil.copy("a.safetensors", tmp_path / "the ensemble.safetensors")
    run("ensemble", tmp_path / "the ensemble.safetensors", "run", "--data", "data", "--out", tmp_path / "e.safetensors",
        "--json", tmp_path / "o.json", "--resamples", 5)  # fmt: skip
    found = json.loads((tmp_path / "o.json").read_text())["comparison"]
    assert list(found["systems"]) == ["the ensemble (new)", "the ensemble", "run"] and found["name"] not in MEMBERS


def test_a_soup_says_of_its_training_what_all_of_its_networks_say(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        d = Detector.load(f"{name}.safetensors")
        d.meta |= {"fingerprint": "set", "recipe": {"batch": 8, "seed": seed}, "seconds": 60 + seed, "best_step": seed}
        d.save(tmp_path / f"{name}.safetensors")
    two = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    run("ensemble", *two, "--method", "soup", "--data", "data", "--out", tmp_path / "s.safetensors", "--resamples", 5)
    meta = Detector.load(tmp_path / "s.safetensors").meta
    assert meta["steps"] == 10 and not {"recipe", "seconds", "best_step"} & set(meta)
    assert meta["taught"] == [{"fingerprint": "set", "seed": 0}, {"fingerprint": "set", "seed": 1}]


def test_another_soup_of_the_same_images_has_its_own_scores(tmp_path):
    """Scores are kept by the detector that gave them: a second soup must not find those of the first."""
    members = {name: Detector.load(f"{name}.safetensors") for name in "ab"}
    with torch.no_grad():
        for tensor in members["b"].net.verdict_head.parameters():
            tensor.mul_(-3)
    members["b"].save(tmp_path / "b.safetensors")
    made = []
    for second, more in (("run", ()), (tmp_path / "b.safetensors", ()), (tmp_path / "b.safetensors", ("--no-cache",))):
        out = tmp_path / f"{len(made)}.safetensors"
        run("ensemble", "a.safetensors", second, "--method", "soup", "--data", "data", "--out", out, "--resamples", 5,
            *more)  # fmt: skip
        made.append(Detector.load(out).calibration)
    assert made[1] == made[2] and made[0] != made[1]


@pytest.mark.parametrize("weights", ["1,1,1", "2,1,1", "1,3,1", "1,2,3"])
def test_the_file_calls_what_its_calibration_counted(weights, tmp_path):
    """The thresholds lie just above a photo's score as the file gives it, rounding included."""
    out = tmp_path / "e.safetensors"
    run("ensemble", *MEMBERS, "--method", "weighted", "--weights", weights, "--data", "data", "--out", out,
        "--resamples", 5)  # fmt: skip
    check_counts(Detector.load(out))


def check_counts(detector):
    """The detector on its validation images, clean and degraded, against the counts in its calibration."""
    options = ScoringOptions(data=("data",), no_cache=True)
    (part,), _ = fit_parts(options, [detector])
    scorer, p = Scorer(detector, options), np.empty((2, len(part)))
    p[0] = scorer.score(part, PRESETS["none"]).score
    for name, at in turns(part):
        p[1, at] = scorer.score(chosen(part, at), preset(name)).score
    real, fake = p[:, part.labels == 0], p[:, part.labels == 1]
    for point in detector.calibration.points:
        assert (real >= point.threshold).sum() == point.false_alarms
        assert (fake >= point.threshold).mean() == point.tpr
        assert (fake < point.unsure_low).mean() == point.miss


def test_without_a_test_split_all_is_cross_fitted(tmp_path):
    out = tmp_path / "e.safetensors"
    said = run("ensemble", *MEMBERS, "--method", "stacking", "--data", "data/valid", "--out", out, "--resamples", 50)
    assert "cross-fitted: each judged by what was fitted and set without its fold" in said
    assert "the members chose their best state by validation images" in said


def oof(path, seed=0, shift=0.0, folds=4):
    rng = np.random.default_rng(seed)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "fold", "score", "group"])
        for i in range(120):
            z = (2 * (i % 2) - 1) * (1 + shift) + rng.normal()
            writer.writerow([f"x/{i}.png", i % 2, i // 2 % folds, 1 / (1 + np.exp(-z)), i // 2])


def test_a_stack_of_out_of_fold_scores(tmp_path):
    for k in range(3):
        oof(tmp_path / f"{k}.csv", k, k)
    out = tmp_path / "e.safetensors"
    words = [w for k in range(3) for w in ("--oof", tmp_path / f"{k}.csv")]
    said = run("ensemble", *MEMBERS, "--method", "stacking", *words, "--out", out, "--resamples", 50)
    assert "out-of-fold scores of 120 images in 4 folds" in said
    detector = Detector.load(out)
    assert detector.meta["ensemble"]["cross_fitted_folds"] == 4 and detector.calibration.n_real == 60
    said = run("ensemble", *MEMBERS, *words, "--data", "data", "--out", out, "--force", "--resamples", 50)
    assert "40 real and 40 fake test images" in said

    for k in range(3):
        oof(tmp_path / f"one{k}.csv", folds=1)
    words = [w for k in range(3) for w in ("--oof", tmp_path / f"one{k}.csv")]
    assert "one fold only" in refused("ensemble", *MEMBERS, *words, "--out", tmp_path / "n.safetensors")
    text = (tmp_path / "0.csv").read_text()
    (tmp_path / "less.csv").write_text(text.rsplit("x/119", 1)[0])
    (tmp_path / "swapped.csv").write_text(text.replace("x/7.png,1", "x/7.png,0"))
    (tmp_path / "bad.csv").write_text(text.replace("x/7.png,1,3,", "x/7.png,1,3,9"))
    rows = text.splitlines(keepends=True)
    (tmp_path / "twice.csv").write_text(text + rows[1])
    (tmp_path / "few.csv").write_text("".join(rows[:20]))
    (tmp_path / "torn.csv").write_text(rows[0] + "".join(f"x/{i}.png,{i % 2},{i % 2},.5,\n" for i in range(40)))
    for name, match in (
        ("less", "other images"), ("swapped", "calls x/7.png real"), ("bad", "line 9"), ("none", "can't be read"),
        ("twice", "x/0.png is in line 2 already"), ("few", "takes 10 of each class"), ("torn", "are in fold 0"),
    ):  # fmt: skip
        files = [*(tmp_path / f"{k}.csv" for k in (0, 1)), tmp_path / f"{name}.csv"]
        words = [w for file in files for w in ("--oof", file)]
        assert match in refused("ensemble", *MEMBERS, *words, "--out", tmp_path / "n.safetensors")


def test_out_of_fold_scores_of_another_member_are_refused(tmp_path):
    words = []
    for k, model in enumerate(("hybrid", "xception")):
        d = Detector.load("abc"[k] + ".safetensors")
        Detector(d.net, d.preprocess, d.calibration, {"model": model}).save(tmp_path / f"{model}.safetensors")
        (tmp_path / str(k)).mkdir()
        oof(tmp_path / str(k) / "oof.csv", k)
        (tmp_path / str(k) / "folds.json").write_text(json.dumps({"options": {"model": model}}))
        words = [*words, "--oof", tmp_path / str(k) / "oof.csv"]
    members = [tmp_path / "hybrid.safetensors", tmp_path / "xception.safetensors"]
    run("ensemble", *members, *words, "--out", tmp_path / "e.safetensors", "--resamples", 20)
    line = refused("ensemble", *reversed(members), *words, "--out", tmp_path / "f.safetensors")
    assert "in the members' order" in line and "xception" in line


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["a.safetensors", "--data", "data"], "two members or more"),
        (["a.safetensors", "a.safetensors", "--data", "data"], "the same detector as a.safetensors"),
        (["b.safetensors", "run", "--data", "data"], "the same detector"),
        (["a.safetensors", "data", "--data", "data"], "has no detector.safetensors"),
        (["a.safetensors", "run/stats.jsonl", "--data", "data"], "not a detector file"),
        (["a.safetensors", "run"], "no images to fit"),
        (["a.safetensors", "b.onnx", "--data", "data"], "exported for ONNX Runtime"),
        (["a.safetensors", "run", "--data", "data", "--split", "train"], "has no such images"),
        (["a.safetensors", "run", "--data", "data/valid/real"], "takes 10 of each class"),
        (["a.safetensors", "run", "--data", "data", "--limit", 5], "takes 10 of each class"),
        (["a.safetensors", "run", "--data", "data", "--oof", "x.csv"], "1 time for 2 members"),
        (["a.safetensors", "run", "--oof", "x.csv", "--oof", "./x.csv"], "same file twice"),
        (["a.safetensors", "run", "--data", "data", "--weights", "2,1"], "give one for each, and --method"),
        (["a.safetensors", "run", "--data", "data", "--method", "weighted", "--weights", "1"], "1 for 2 detectors"),
        (["a.safetensors", "run", "--data", "data", "--method", "weighted", "--weights", "1,-1"], "at least 0"),
        (["a.safetensors", "c.safetensors", "--data", "data", "--method", "soup"], "is another network than a"),
        (["a.safetensors", "run", "--oof", "x.csv", "--oof", "y.csv", "--method", "soup"], "give --data instead"),
        (["a.safetensors", "--data", "data", "--method", "wise-ft"], "give one MODEL and --backbone-weights"),
        (["a.safetensors", "run", "--data", "data", *WISE_FT], "one MODEL"),
        (["a.safetensors", "run", "--data", "data", "--alpha", 0.5], "are of --method wise-ft"),
        (["a.safetensors", "--data", "data", *WISE_FT], "has no training split"),
        (["a.safetensors", "run", "--data", "data", "--out", "e.onnx"], "ends in .safetensors"),
        (["a.safetensors", "run", "--data", "data", "--out", "a.safetensors"], "is there already"),
        (
            ["a.safetensors", "run", "--data", "data", "--out", "a.safetensors", "--force"],
            "is what the new one is made of",
        ),
    ],
)
def test_what_can_t_be_joined(words, match, tmp_path):
    out = [] if "--out" in words else ["--out", tmp_path / "e.safetensors"]
    assert match in refused("ensemble", *words, *out)
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("method", ["average", "soup"])
def test_what_is_made_of_detectors_knows_what_they_were_taught_with(method, tmp_path):
    """It was judged, and calibrated anew, on its members' training images without a word."""
    mark = open_source("data/test").fingerprint()
    for name in "ab":
        d = Detector.load(f"{name}.safetensors")
        d.meta |= {"fingerprint": mark, "recipe": {"seed": 3}}
        d.save(tmp_path / f"{name}.safetensors")
    two, out = (tmp_path / "a.safetensors", tmp_path / "b.safetensors"), tmp_path / "e.safetensors"
    run("ensemble", *two, "--method", method, "--data", "data/valid", "--out", out, "--resamples", 5)
    again = ("--data", "data/test", "--out", tmp_path / "t.safetensors")
    assert "the detector was taught with this very set" in run("detector", out, "--data", "data/test", "--resamples", 5)
    assert "only 4 real" in refused("second-look", out, *again)  # a tenth was held out
    assert "what the detector was taught with" in refused("second-look", out, *again, "--split", "all")
    if method == "average":
        assert Detector.load(out).meta["train_images"] == {"real": 20}
        assert "it learnt from only 20 real photos" in Detector.load(out).caution


def test_taught_images_are_no_validation_images(tmp_path):
    mark = open_source("data/test").fingerprint()
    for name, seed in (("a", 0), ("b", 1)):
        d = Detector.load(f"{name}.safetensors")
        d.meta |= {"fingerprint": mark, "recipe": {"seed": seed}}
        d.save(tmp_path / f"{name}.safetensors")
    two = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    out = ("--out", tmp_path / "e.safetensors")
    assert "held out different images" in refused("ensemble", *two, "--data", "data/test", *out)
    assert "prove nothing" in refused("ensemble", *two, "--data", "data/test", "--split", "all", *out)
    d.meta |= {"recipe": {"seed": 0}}
    d.save(two[1])  # the same tenth was held out: four images of each class, too few
    assert "only 4 real" in refused("ensemble", *two, "--data", "data/test", *out)
    d.meta |= {"fold": 0}
    d.save(two[1])
    assert "one fold of a cross-validation" in refused("ensemble", *two, "--data", "data", *out)
    run("ensemble", "a.safetensors", "run", "--data", "data", *out, "--resamples", 20)
    assert "ensemble itself" in refused(
        "ensemble", "a.safetensors", out[1], "--data", "data", "--out", tmp_path / "f.safetensors"
    )
