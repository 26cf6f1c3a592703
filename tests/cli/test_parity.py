"""The same bytes have the same score, whoever judges them: training, evaluation, PyTorch, detect.py, ONNX and HTTP.

With the detector that the project ships, on photos of every kind that has a trap of its own."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from fastapi.testclient import TestClient
from PIL import Image

import detect
import evaluate
from discriminator.detector import Detector
from discriminator.onnx_detector import OnnxDetector
from discriminator.training.feed import ImageGroup, LabelledFeed
from discriminator.training.recipe import Recipe
from discriminator.training.selection import Validation, scores
from faces.dataset import DecodedFaces, to_float
from faces.decode import load_image
from faces.degrade import Degradation, preset
from faces.procedural.portrait import render_face
from faces.source import open_source
from tests.program import Program
from web.api import build_app
from web.body import Limits
from web.opened import open_service
from web.options import ServeOptions

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "detector.safetensors"
TORCH, ANY = 1e-6, 1e-4  # in probability
KINDS = "alpha.png cmyk.jpg deep.png gif.gif grey-alpha.png grey.jpg palette.png palette-alpha.png plain.jpg plain.png \
progressive.jpg rotated.jpg rotated.png small.jpg tiff.tif webp.webp".split()


def make_photos(folder: Path) -> None:
    """One face, 300 x 264 pixels and nothing in it symmetric, in every kind of file."""
    face = Image.fromarray(render_face(11, 300)[:, 20:284])
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = face.transpose(Image.Transpose.ROTATE_90)
    ramp = Image.fromarray(np.tile(np.linspace(40, 255, face.width).astype(np.uint8), (face.height, 1)))
    grey = face.convert("L")
    alpha, grey_alpha, hole = face.copy(), grey.copy(), face.quantize(64)
    alpha.putalpha(ramp)
    grey_alpha.putalpha(ramp)
    face.save(folder / "plain.png")
    face.save(folder / "plain.jpg", quality=90)
    face.save(folder / "progressive.jpg", quality=80, progressive=True, subsampling=0)
    turned.save(folder / "rotated.jpg", quality=95, exif=exif)
    turned.save(folder / "rotated.png", exif=exif)
    alpha.save(folder / "alpha.png")
    grey_alpha.save(folder / "grey-alpha.png")
    face.convert("CMYK").save(folder / "cmyk.jpg", quality=90)
    grey.save(folder / "grey.jpg", quality=90)
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(folder / "deep.png")
    face.quantize(64).save(folder / "palette.png")
    hole.save(folder / "palette-alpha.png", transparency=hole.getpixel((130, 150)))
    face.quantize(128).save(folder / "gif.gif")
    face.save(folder / "tiff.tif", compression="tiff_lzw")
    face.save(folder / "webp.webp", quality=80)
    face.resize((132, 150)).save(folder / "small.jpg", quality=90)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("kinds")
    make_photos(folder)
    found = sorted(folder.iterdir())
    assert [path.name for path in found] == sorted(KINDS)
    return found


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.load(MODEL)


@pytest.fixture(scope="module")
def reference(photos, detector) -> np.ndarray:
    """The probabilities by `Detector.load(path).predict(images)`, the way every verdict is defined."""
    return np.array([verdict.probability for verdict in detector.predict(load_image(p) for p in photos)])


def clients():
    for runtime in ("onnx", "torch"):
        service = open_service(ServeOptions(model=str(MODEL), runtime=runtime, face="whole"))
        with TestClient(build_app(service, Limits(), threads=2)) as client:
            yield runtime, client
        service.close()


def test_the_photos_differ_and_so_do_their_scores(reference):
    assert np.ptp(np.log(reference / (1 - reference))) > 0.05, "scores that are all alike would agree in any case"
    score = dict(zip(sorted(KINDS), reference))
    assert score["rotated.png"] == pytest.approx(score["plain.png"], abs=TORCH)
    assert score["tiff.tif"] == pytest.approx(score["plain.png"], abs=TORCH)
    assert abs(score["palette.png"] - score["plain.png"]) > 1e-5


def test_training(photos, detector, reference):
    """What training packs, shows to the network undegraded, and scores for validation."""
    faces = DecodedFaces.build(open_source(photos[0].parent), detector.preprocess)
    images = np.array(faces.images)
    found = scores(detector.net, Validation(images, np.zeros(len(images), np.int64), (("clean", ()),)))
    np.testing.assert_allclose(detector.calibration.probability(found[0]), reference, rtol=0, atol=TORCH)

    half = len(images) // 2
    groups = [ImageGroup("a", images, np.arange(half), 0), ImageGroup("b", images, np.arange(half, len(images)), 1)]
    recipe = Recipe(batch=len(images), random_crop=0, mirror=False, balance="none")
    shown = LabelledFeed(groups, Degradation("none", (), 0.0), recipe).batch(0).degraded
    with torch.inference_mode():
        logits = detector.net.verdict(to_float(shown)).logit.double().numpy()
    found = detector.calibration.probability(logits)
    np.testing.assert_allclose(np.sort(found), np.sort(reference), rtol=0, atol=TORCH)


def test_evaluation(photos, reference, tmp_path):
    args = [
        "detector",
        str(MODEL),
        "--data",
        str(photos[0].parent),
        "--label",
        "real",
        "--no-cache",
        "--resamples",
        "0",
    ]
    result = CliRunner().invoke(Program(evaluate.main), [*args, "--csv", str(tmp_path / "s.csv"), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    with open(tmp_path / "s.csv", encoding="utf-8", newline="") as file:
        rows = {Path(row["path"]).name: float(row["score"]) for row in csv.DictReader(file)}
    np.testing.assert_allclose([rows[p.name] for p in photos], reference, rtol=0, atol=TORCH)


@pytest.mark.parametrize(("runtime", "atol"), [("torch", TORCH), ("onnx", ANY)])
def test_detect(photos, reference, runtime, atol):
    args = [*map(str, photos), "--model", str(MODEL), "--json", "--runtime", runtime, "--face", "whole"]
    told = json.loads(CliRunner().invoke(Program(detect.main), args).stdout)
    assert told["runtime"] == runtime and [row["file"] for row in told["results"]] == [str(p) for p in photos]
    np.testing.assert_allclose([row["probability"] for row in told["results"]], reference, rtol=0, atol=atol)


def test_onnx(photos, reference):
    served = OnnxDetector.load(MODEL.with_suffix(".onnx"))
    found = [verdict.probability for verdict in served.predict(load_image(p) for p in photos)]
    np.testing.assert_allclose(found, reference, rtol=0, atol=ANY)


def test_http(photos, reference):
    for runtime, client in clients():
        form = [("file", (p.name, p.read_bytes())) for p in photos]
        together = client.post("/v1/detect", files=form).json()
        assert together["runtime"] == runtime and [r["file"] for r in together["results"]] == [p.name for p in photos]
        found = [row["probability"] for row in together["results"]]
        np.testing.assert_allclose(found, reference, rtol=0, atol=TORCH if runtime == "torch" else ANY)
        alone = [
            client.post("/v1/detect", content=p.read_bytes(), headers={"content-type": "image/*"}).json()
            for p in photos
        ]
        alone = [told["results"][0]["probability"] for told in alone]
        np.testing.assert_allclose(alone, found, rtol=0, atol=0 if runtime == "onnx" else TORCH)


def test_http_says_what_detect_says(photos, tmp_path, monkeypatch):
    """With the face step (the cascade: no file needed), two faces in one photo, a photo without one, a broken file."""
    monkeypatch.setenv("FACES_CACHE", str(tmp_path / "empty"))
    monkeypatch.delenv("FACES_FACE_MODEL", raising=False)
    canvas = Image.new("RGB", (900, 420), (90, 120, 110))
    for i, at in enumerate(((20, 40), (500, 60))):
        canvas.paste(Image.fromarray(render_face(20 + i, 340)), at)
    canvas.save(tmp_path / "two.png")
    Image.new("RGB", (300, 200), (10, 90, 160)).save(tmp_path / "wall.png")
    (tmp_path / "broken.jpg").write_bytes(photos[8].read_bytes()[:3000])
    files = [tmp_path / name for name in ("two.png", "wall.png", "broken.jpg")] + photos[:2]
    args = [*map(str, files), "--model", str(MODEL), "--json", "--offline", "--runtime", "onnx", "--fpr", "0.05"]
    ours = json.loads(CliRunner().invoke(Program(detect.main), args).stdout)
    service = open_service(ServeOptions(model=str(MODEL), runtime="onnx", offline=True))
    with TestClient(build_app(service, Limits(), threads=2)) as client:
        form = [("file", (p.name, p.read_bytes())) for p in files]
        theirs = client.post("/v1/detect?fpr=0.05", files=form).json()
    assert {row["status"] for row in ours["results"]} == {"judged", "no face", "unreadable"}
    for told in (ours, theirs):
        for row in told["results"]:
            row["file"] = Path(row["file"]).name
            del row["seconds"]
        for key in ("seconds", "stage_seconds"):
            del told["summary"][key]
        told["detector"] = {k: Path(v).name if isinstance(v, str) else v for k, v in told["detector"].items()}
        told["faces"]["fallback"] = told["faces"]["fallback"].split(";")[0]
    assert theirs == ours


def test_a_degraded_copy_is_another_photo(photos, detector, reference):
    """The control: these tests would notice."""
    photo = load_image(next(p for p in photos if p.name == "plain.png"))
    worse = preset("web").apply(photo, np.random.default_rng(0))
    (verdict,) = detector.predict([worse])
    assert abs(verdict.probability - reference[sorted(KINDS).index("plain.png")]) > ANY
