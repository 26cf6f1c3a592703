"""The same bytes have the same score, whoever judges them: training, evaluation, PyTorch, detect.py, ONNX and HTTP.

With the detector that the project ships and with one of two views, on photos of every kind that has a trap of its own,
of file size, and smaller than the crops of a photo's own pixels."""

from __future__ import annotations

import csv
import importlib.util
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
from discriminator.export_onnx import NEEDED, export_detector
from discriminator.join import Join
from discriminator.onnx_detector import OnnxDetector
from discriminator.training.feed import ImageGroup, LabelledFeed
from discriminator.training.recipe import Recipe
from discriminator.training.selection import Validation, scores
from faces.dataset import DecodedFaces, to_float
from faces.decode import load_image
from faces.degrade import Degradation, preset
from faces.procedural.portrait import render_face
from faces.source import open_source
from tests.discriminator.test_two_views import two_views
from tests.program import Program
from web.api import build_app
from web.body import Limits
from web.opened import open_service
from web.options import ServeOptions

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "detector.safetensors"
TORCH, ANY = 1e-6, 1e-4  # in probability
KINDS = (
    "alpha.png cmyk.jpg deep.png gif.gif grey-alpha.png grey.jpg large.jpg palette.png palette-alpha.png plain.jpg"
    " plain.png progressive.jpg rotated.jpg rotated.png small.jpg tiff.tif webp.webp"
).split()


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
    Image.fromarray(render_face(12, 900)[:, 60:]).save(folder / "large.jpg", quality=92)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("kinds")
    make_photos(folder)
    found = sorted(folder.iterdir())
    assert [path.name for path in found] == sorted(KINDS)
    return found


@pytest.fixture(scope="module", params=["shipped", "two views"])
def model(request, tmp_path_factory) -> Path:
    """A detector file; beside it lies its ONNX form, where that can be made here."""
    if request.param == "shipped":
        return MODEL
    path = tmp_path_factory.mktemp("model") / "detector.safetensors"
    detector = two_views(grid=2, side=128, join=Join(weights=(0.6, 0.5), temperatures=(0.7, 0.9), apart=(0.5, 0.5)))
    detector.meta["face"] = "ffhq"  # so that faces are found and cut out
    detector.save(path)
    if all(importlib.util.find_spec(name) for name in NEEDED):
        export_detector(path.with_suffix(".onnx"), detector)
    return path


def needs_onnx(model: Path) -> None:
    if not model.with_suffix(".onnx").is_file():
        pytest.skip(f"needs {' and '.join(NEEDED)}")


@pytest.fixture(scope="module")
def detector(model) -> Detector:
    return Detector.load(model)


@pytest.fixture(scope="module")
def reference(photos, detector) -> np.ndarray:
    """The probabilities by `Detector.load(path).predict(images)`, the way every verdict is defined."""
    return np.array([verdict.probability for verdict in detector.predict(load_image(p) for p in photos)])


def clients(model: Path):
    for runtime in ("onnx", "torch") if model.with_suffix(".onnx").is_file() else ("torch",):
        service = open_service(ServeOptions(model=str(model), runtime=runtime, face="whole"))
        with TestClient(build_app(service, Limits(), threads=2), base_url="http://localhost") as client:
            yield runtime, client
        service.close()


def test_the_photos_differ_and_so_do_their_scores(reference):
    assert np.ptp(np.log(reference / (1 - reference))) > 0.05, "scores that are all alike would agree in any case"
    score = dict(zip(sorted(KINDS), reference))
    assert score["rotated.png"] == pytest.approx(score["plain.png"], abs=TORCH)
    assert score["tiff.tif"] == pytest.approx(score["plain.png"], abs=TORCH)
    assert abs(np.log(score["palette.png"] / score["plain.png"])) > 0.01  # whatever the detector's size of scores


def test_training(photos, detector, reference):
    """What training packs, shows to the network undegraded, and scores for validation."""
    faces = DecodedFaces.build(open_source(photos[0].parent), detector.preprocess)
    images = np.array(faces.images)
    found = scores(detector.net, Validation(images, np.zeros(len(images), np.int64), (("clean", ()),)))
    np.testing.assert_allclose(detector.calibration.probability(found[0]), reference, rtol=0, atol=TORCH)

    if detector.join is not None:
        return  # two views are joined, not trained together
    half = len(images) // 2
    groups = [ImageGroup("a", images, np.arange(half), 0), ImageGroup("b", images, np.arange(half, len(images)), 1)]
    recipe = Recipe(batch=len(images), random_crop=0, mirror=False, balance="none")
    shown = LabelledFeed(groups, Degradation("none", (), 0.0), recipe).batch(0).degraded
    with torch.inference_mode():
        logits = detector.net.verdict(to_float(shown)).logit.double().numpy()
    found = detector.calibration.probability(logits)
    np.testing.assert_allclose(np.sort(found), np.sort(reference), rtol=0, atol=TORCH)


def test_evaluation(photos, model, reference, tmp_path):
    args = [
        "detector",
        str(model),
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
def test_detect(photos, model, detector, reference, runtime, atol):
    if runtime == "onnx":
        needs_onnx(model)
    args = [*map(str, photos), "--model", str(model), "--json", "--runtime", runtime, "--face", "whole"]
    told = json.loads(CliRunner().invoke(Program(detect.main), args).stdout)
    assert told["runtime"] == runtime and [row["file"] for row in told["results"]] == [str(p) for p in photos]
    np.testing.assert_allclose([row["probability"] for row in told["results"]], reference, rtol=0, atol=atol)
    if detector.join is not None:  # only in the smallest photo the crops have no room, and it says so
        alone = {Path(row["file"]).name: "shape alone" in row["note"] for row in told["results"]}
        assert [name for name, without in alone.items() if without] == ["small.jpg"]
        assert {row["views"]["pixels"] is None for row in told["results"]} == {True, False}


def test_onnx(photos, model, reference):
    needs_onnx(model)
    served = OnnxDetector.load(model.with_suffix(".onnx"))
    found = [verdict.probability for verdict in served.predict(load_image(p) for p in photos)]
    np.testing.assert_allclose(found, reference, rtol=0, atol=ANY)


def test_http(photos, model, reference):
    for runtime, client in clients(model):
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


def test_http_says_what_detect_says(photos, model, tmp_path, monkeypatch):
    """With the face step (the cascade: no file needed), two faces in one photo, a photo without one, a broken file."""
    needs_onnx(model)
    monkeypatch.setenv("FACES_CACHE", str(tmp_path / "empty"))
    monkeypatch.delenv("FACES_FACE_MODEL", raising=False)
    canvas = Image.new("RGB", (900, 420), (90, 120, 110))
    for i, at in enumerate(((20, 40), (500, 60))):
        canvas.paste(Image.fromarray(render_face(20 + i, 340)), at)
    canvas.save(tmp_path / "two.png")
    Image.new("RGB", (300, 200), (10, 90, 160)).save(tmp_path / "wall.png")
    (tmp_path / "broken.jpg").write_bytes(photos[8].read_bytes()[:3000])
    files = [tmp_path / name for name in ("two.png", "wall.png", "broken.jpg")] + photos[:2]
    args = [*map(str, files), "--model", str(model), "--json", "--offline", "--runtime", "onnx", "--fpr", "0.05"]
    ours = json.loads(CliRunner().invoke(Program(detect.main), args).stdout)
    args[args.index("onnx")] = "torch"
    other = json.loads(CliRunner().invoke(Program(detect.main), args).stdout)
    for a, b in zip(ours["results"], other["results"], strict=True):
        assert a["status"] == b["status"]
        if a["status"] == "judged":
            assert a["verdict"] == b["verdict"] and a["probability"] == pytest.approx(b["probability"], abs=ANY)
    service = open_service(ServeOptions(model=str(model), runtime="onnx", offline=True))
    with TestClient(build_app(service, Limits(), threads=2), base_url="http://localhost") as client:
        form = [("file", (p.name, p.read_bytes())) for p in files]
        theirs = client.post("/v1/detect?fpr=0.05", files=form).json()
    assert {row["status"] for row in ours["results"]} == {"judged", "no face", "unreadable"}
    for told in (ours, theirs):
        views = [row["views"]["pixels"] for row in told["results"] if "views" in row]
        assert not views or any(views), "both faces are larger than a crop"
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
    plain, verdict = detector.predict([photo, worse])
    assert plain.probability == pytest.approx(reference[sorted(KINDS).index("plain.png")], abs=ANY)
    assert abs(verdict.logit - plain.logit) > 0.01  # more than ways in may differ by
