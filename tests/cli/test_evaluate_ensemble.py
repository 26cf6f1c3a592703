"""`python evaluate.py ensemble` and `compare`, as a user runs them, on tiny detectors and procedural faces."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image, ImageFilter
from scipy.stats import binomtest
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.utils.flop_counter import FlopCounterMode

import detect
import evaluate
from discriminator.calibration import calibrate
from discriminator.detector import Detector
from discriminator.hybrid import HybridConfig, HybridDiscriminator
from evaluation.ensemble_scores import fit_parts, turns
from evaluation.options import ScoringOptions
from evaluation.scoring import Scorer, chosen
from faces.degrade import PRESETS, preset
from faces.preprocess import Preprocess
from faces.procedural.portrait import render_face
from stylegan2_ada.config import DiscriminatorConfig
from tests.program import Program

WISE_FT = ("--method", "wise-ft", "--backbone-weights", "w.pth")
NAMES = {"a": (32, 0, "center"), "b": (32, 1, "center"), "c": (16, 2, "pad")}


def detector_of(side, seed, crop, photos, labels, meta):
    """A random network whose last layer was fitted: it knows something, not everything."""
    torch.manual_seed(seed)
    cfg = HybridConfig(DiscriminatorConfig(side, channel_base=128, channel_max=8), artefact_channels=4, verdict_dim=8)
    net, kept = HybridDiscriminator(cfg).eval(), []
    hook = net.verdict_head.out.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0]))
    pre = Preprocess(side, crop)
    with torch.no_grad():
        net.verdict(torch.from_numpy(np.stack([pre(photo) for photo in photos])))
    hook.remove()
    known = torch.cat(kept).numpy()
    scaler = StandardScaler().fit(known)
    found = LogisticRegression(max_iter=1000).fit(scaler.transform(known), labels)
    with torch.no_grad():
        net.verdict_head.out.weight.copy_(torch.from_numpy(found.coef_ / scaler.scale_))
        net.verdict_head.out.bias.zero_()
    plain = Detector(net, pre, calibrate(np.arange(40.0), np.arange(40) % 2))
    logits = np.array([v.logit for v in plain.predict(photos)])
    return Detector(net, pre, calibrate(logits, labels, default_fpr=0.05), meta)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """data/{valid,test}/{real,fake} and three detectors, one of which looks at photos in its own way."""
    root = tmp_path_factory.mktemp("joining")
    rng, number = np.random.default_rng(0), 0
    for split in ("valid", "test"):
        for label in ("real", "fake"):
            (root / "data" / split / label).mkdir(parents=True)
            for i in range(40):
                face = Image.fromarray(render_face(number, 48)).crop((0, 0, 48 - i % 5, 48))
                if label == "fake":
                    face = face.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 1.2)))
                pixels = np.asarray(face) + rng.normal(0, 1, (48, 48 - i % 5, 3))
                Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(
                    root / "data" / split / label / f"{i:02d}.png"
                )
                number += 1
    paths = sorted((root / "data" / "valid").rglob("*.png"))
    photos = [np.asarray(Image.open(path)) for path in paths]
    labels = np.array([int("fake" in str(path)) for path in paths])
    for name, (side, seed, crop) in NAMES.items():
        meta = {"trained_on": "nothing", "steps": 10, "recipe": {"batch": 8, "seed": 0}, "train_images": {"real": 20}}
        detector_of(side, seed, crop, photos, labels, meta).save(root / f"{name}.safetensors")
    (root / "run").mkdir()
    shutil.copy(root / "b.safetensors", root / "run" / "detector.safetensors")
    rows = [{"Timing/total_sec": 90.0, "Progress/epoch": 2.5}, {"Timing/total_sec": 180.0, "Progress/epoch": 5}]
    (root / "run" / "stats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.fixture(autouse=True)
def here(place, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("FACES_CACHE", str(place / "cache"))


def run(*words, code=0):
    done = CliRunner().invoke(Program(evaluate.main), [str(word) for word in words])
    assert done.exit_code == code, done.output + repr(done.exception)
    return done.output if code == 0 else done.stderr


def refused(*words):
    line = run(*words, code=2).strip()
    assert line.startswith("error: ") and "\n" not in line, line
    return line


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
    assert "one network whose weights are the mean of the 2 members'" in said and "needs one network" not in said
    members, made = [Detector.load(f"{name}.safetensors") for name in "ab"], Detector.load(out)
    a, b, both = (d.net.state_dict() for d in (*members, made))
    for name, tensor in both.items():
        assert torch.allclose(tensor, (a[name] + b[name]) / 2, rtol=1e-6, atol=1e-8), name
    assert type(made.net) is type(members[0].net) and made.meta["ensemble"]["method"] == "soup"
    assert made.calibration.n_real == 40 and {p.views for p in made.calibration.points} == {2}
    photos = sorted(Path("data/test").rglob("*.png"))
    labels = [int("fake" in str(path)) for path in photos]
    verdicts = made.predict([np.asarray(Image.open(path)) for path in photos])
    found = json.loads((tmp_path / "o.json").read_text())["comparison"]["systems"]["the ensemble"]
    assert found["auc"] == pytest.approx(sk.roc_auc_score(labels, [v.probability for v in verdicts]), abs=1e-3)
    fake = np.array([v.label == "FAKE" for v in verdicts])
    assert found["found"] == pytest.approx(fake[np.array(labels) == 1].mean())
    joined = tmp_path / "j.safetensors"  # and it may be a member in its turn
    run("ensemble", out, "c.safetensors", "--data", "data", "--out", joined, "--resamples", 50)
    assert Detector.load(joined).meta["ensemble"]["members"] == ["s", "c"]


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
        (["a.safetensors", "run", "--data", "data", "--weights", "2,1"], "give one for each member, and --method"),
        (["a.safetensors", "run", "--data", "data", "--method", "weighted", "--weights", "1"], "1 for 2 members"),
        (["a.safetensors", "run", "--data", "data", "--method", "weighted", "--weights", "1,-1"], "at least 0"),
        (["a.safetensors", "c.safetensors", "--data", "data", "--method", "soup"], "is another network than a"),
        (["a.safetensors", "run", "--oof", "x.csv", "--oof", "y.csv", "--method", "soup"], "give --data instead"),
        (["a.safetensors", "--data", "data", "--method", "wise-ft"], "give one MODEL and --backbone-weights"),
        (["a.safetensors", "run", "--data", "data", *WISE_FT], "one MODEL"),
        (["a.safetensors", "run", "--data", "data", "--alpha", 0.5], "are of --method wise-ft"),
        (["a.safetensors", "--data", "data", *WISE_FT], "has no training split"),
        (["a.safetensors", "run", "--data", "data", "--out", "e.onnx"], "ends in .safetensors"),
        (["a.safetensors", "run", "--data", "data", "--out", "a.safetensors"], "is there already"),
        (["a.safetensors", "run", "--data", "data", "--out", "a.safetensors", "--force"], "is one of the members"),
    ],
)
def test_what_can_t_be_joined(words, match, tmp_path):
    out = [] if "--out" in words else ["--out", tmp_path / "e.safetensors"]
    assert match in refused("ensemble", *words, *out)
    assert not list(tmp_path.glob("*.safetensors"))


def test_taught_images_are_no_validation_images(tmp_path):
    from faces.source import open_source

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


# ---- compare --------------------------------------------------------------------------------------------------------


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
