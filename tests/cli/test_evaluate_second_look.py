"""`python evaluate.py second-look`, as a user runs it, on a tiny detector and procedural faces."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from sklearn.metrics import roc_auc_score

import detect
from discriminator.calibration import threshold_at_fpr
from discriminator.detector import Detector
from tests.cli.test_evaluate_ensemble import check_counts, here, place, refused, run  # noqa: F401 (fixtures)
from tests.program import Program


def test_a_detector_learns_to_look_twice(tmp_path):
    out = tmp_path / "twice.safetensors"
    said = run("second-look", "a.safetensors", "--data", "data", "--out", out, "--json", tmp_path / "o.json")
    assert "fitted and calibrated on data: 40 real and 40 fake (validation split)" in said
    assert re.search(r"test images: looks twice at [\d.]+ % of the real ones and [\d.]+ % of the fake ones", said)
    assert "one look" in said and "second look" in said and f"Next: python detect.py photo.jpg --model {out}" in said
    plain, twice = Detector.load("a.safetensors"), Detector.load(out)
    look = twice.second_look
    assert look is not None and twice.meta["second_look"]["of"] == plain.sha256 and twice.calibration.n_real == 40
    assert {p.views for p in twice.calibration.points} == {2}
    told = json.loads((tmp_path / "o.json").read_text())
    assert told["second_look"] == look.to_dict()

    photos = sorted(Path("data/test").rglob("*.png"))
    labels = np.array([int("fake" in str(path)) for path in photos])
    pixels = [np.asarray(Image.open(path)) for path in photos]
    first = np.array([v.logit for v in plain.predict(pixels)])
    mirrored = np.array([v.logit for v in plain.predict([np.ascontiguousarray(one[:, ::-1]) for one in pixels])])
    wide = np.maximum(look.low - first, first - look.high)
    wanted = first + np.clip(1 - wide / look.fade, 0, 1) * (mirrored - first) / 2
    verdicts = twice.predict(pixels)
    np.testing.assert_allclose([v.logit for v in verdicts], wanted, atol=2e-2)  # resizing mirrors up to rounding
    figures = told["figures"]["test"]
    assert figures["one look"]["auc"] == pytest.approx(roc_auc_score(labels, first), abs=1e-3)
    assert figures["second look"]["auc"] == pytest.approx(roc_auc_score(labels, wanted), abs=1e-2)
    fake = np.array([v.label == "FAKE" for v in verdicts])
    assert figures["second look"]["found"] == pytest.approx(fake[labels == 1].mean())
    check_counts(twice)
    assert told["looked_at_twice"]["test real"] == pytest.approx((wide < look.fade)[labels == 0].mean(), abs=0.03)
    valid = told["figures"]["validation"]["second look"]
    assert valid["false_alarms"] <= valid["target_fpr"] == 0.05 and threshold_at_fpr(np.arange(80.0), 0.05) > 75

    done = CliRunner().invoke(Program(detect.main), ["--model", str(out), str(photos[0]), "--json", "--face", "whole"])
    assert done.exit_code in (0, 1), done.output
    assert json.loads(done.output)["results"][0]["probability"] == pytest.approx(verdicts[0].probability, abs=1e-6)


def test_of_an_ensemble_and_never_twice(tmp_path):
    both, twice = tmp_path / "both.safetensors", tmp_path / "twice.safetensors"
    run("ensemble", "a.safetensors", "c.safetensors", "--data", "data", "--out", both, "--resamples", 50)
    run("second-look", both, "--data", "data/valid", "--out", twice)
    assert Detector.load(twice).meta["ensemble"]["members"] == ["a", "c"]
    again = refused("second-look", twice, "--data", "data", "--out", tmp_path / "x.safetensors")
    assert "looks twice at some images already" in again
    single = tmp_path / "single.safetensors"
    run("second-look", "a.safetensors", "--data", "data/valid", "--out", single)
    words = ("ensemble", single, "c.safetensors", "--data", "data", "--out", tmp_path / "y.safetensors")
    assert "looks twice at some images already; give the detector that it was made of" in refused(*words)


def test_a_fold_knows_its_validation_images(tmp_path):
    fold = tmp_path / "fold.safetensors"
    plain = Detector.load("a.safetensors")
    Detector(plain.net, plain.preprocess, plain.calibration, plain.meta | {"fold": 0}).save(fold)
    words = ("second-look", fold, "--data", "data", "--out", tmp_path / "x.safetensors")
    assert "is one fold of a cross-validation" in refused(*words)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("nowhere.safetensors", "--data", "data"), "nowhere.safetensors"),
        (("a.safetensors",), "give --data SOURCE"),
        (("a.safetensors", "--data", "data/valid/real", "--label", "real"), "only 0 fake validation images"),
        (("a.safetensors", "--data", "data", "--limit", 9), "9 real validation images can be judged; a second look"),
        (("a.safetensors", "--data", "data", "--out", "a.safetensors", "--force"), "is the detector itself"),
        (("a.safetensors", "--data", "data", "--out", "x.onnx"), "ends in .safetensors"),
    ],
)
def test_what_can_t_look_twice(words, match, tmp_path):
    before = Path("a.safetensors").read_bytes()
    out = () if "--out" in words else ("--out", tmp_path / "o.safetensors")
    assert match in refused("second-look", *words, *out)
    assert Path("a.safetensors").read_bytes() == before and not list(tmp_path.iterdir())


def test_thresholds_for_each_source(tmp_path):
    """Ten faces that look generated, called photos: all together may hide what is said of them."""
    odd = tmp_path / "odd" / "real"
    odd.mkdir(parents=True)
    faces = sorted(Path("data/test/fake").rglob("*.png"))
    verdicts = Detector.load("a.safetensors").predict([np.asarray(Image.open(path)) for path in faces])
    for k in np.argsort([-v.logit for v in verdicts])[:10]:
        (odd / faces[k].name).write_bytes(faces[k].read_bytes())
    pixels = [np.asarray(Image.open(path)) for path in sorted(odd.iterdir())]
    accused = {}
    for name, words in (("all", ()), ("each", ("--each-source",))):
        out = tmp_path / f"{name}.safetensors"
        run("second-look", "a.safetensors", "--data", "data/valid", "--data", tmp_path / "odd", "--out", out, *words)
        point = Detector.load(out).calibration.at()
        accused[name] = sum(v.label == "FAKE" for v in Detector.load(out).predict(pixels))
        assert point.target_fpr == 0.05 and point.false_alarms <= 5  # of 50 photos seen twice
    assert accused["each"] <= 1 < accused["all"]
