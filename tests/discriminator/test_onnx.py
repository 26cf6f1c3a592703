"""The exported detector: the same scores for the same bytes as training and PyTorch, and no PyTorch to get them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from discriminator.detector import Detector, round_to_half
from discriminator.engine import open_engine
from discriminator.export_onnx import TOLERANCE, _halved, _preprocess_in_words, export_detector
from discriminator.files import judge_files
from discriminator.judge import Judge, Seen
from discriminator.onnx_detector import OnnxDetector
from discriminator.verdict import Threshold
from faces.dataset import DecodedFaces, to_float
from faces.preprocess import Preprocess
from faces.procedural.portrait import render_face
from faces.source import open_source
from tests.discriminator.conftest import make_calibration, make_net

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with detector.safetensors and detector.onnx, and the detector."""
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("exported")
    detector = Detector(make_net(), Preprocess(32), make_calibration(), {"trained_on": "nothing"})
    detector.save(folder / "detector.safetensors")
    assert export_detector(folder / "detector.onnx", detector) <= TOLERANCE
    return folder, detector


def test_half_weights_are_exported_as_such(exported, tmp_path):
    folder, detector = exported
    onnx = pytest.importorskip("onnx")
    net = make_net()
    round_to_half(net)
    rounded = Detector(net, Preprocess(32), detector.calibration, {})
    assert export_detector(tmp_path / "half.onnx", rounded) <= TOLERANCE
    assert (tmp_path / "half.onnx").stat().st_size < (folder / "detector.onnx").stat().st_size
    kinds = {tensor.data_type for tensor in onnx.load(str(tmp_path / "half.onnx")).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds
    pixels = np.random.default_rng(1).uniform(-1, 1, (3, 3, 32, 32)).astype(np.float32)
    seen = OnnxDetector.load(tmp_path / "half.onnx").raw(pixels).logits
    np.testing.assert_allclose(seen, rounded.raw(pixels).logits, atol=1e-4)


def test_a_last_bit_does_not_double_the_file():
    """What a processor's own rounding adds while norms are merged; numbers that are no halves stay as they are."""
    onnx = pytest.importorskip("onnx")
    halves = np.random.default_rng(0).normal(0, 0.05, (64, 64)).astype(np.float16).astype(np.float32)
    nearly, other = np.nextafter(halves, np.float32(1)), halves * np.float32(1 + 1e-5)
    graph = onnx.helper.make_graph([], "g", [], [], [onnx.numpy_helper.from_array(nearly, "nearly"),
                                                     onnx.numpy_helper.from_array(other, "other")])  # fmt: skip
    _halved(onnx, graph)
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    assert stored["nearly.half"].dtype == np.float16 and np.array_equal(stored["nearly.half"], halves)
    assert np.array_equal(stored["other"], other) and len(graph.node) == 1


def fixture_photos(folder: Path) -> list[Path]:
    """A face in every kind of file that has a trap of its own; 96 x 80, and nothing in it is symmetric."""
    folder.mkdir()
    face = Image.fromarray(render_face(5, 96)[:, 4:84])
    face.save(folder / "a.png")
    face.save(folder / "b.jpg", quality=85)
    exif = Image.Exif()
    exif[0x0112] = 6
    face.transpose(Image.Transpose.ROTATE_90).save(folder / "c-rotated.jpg", exif=exif, quality=95)
    alpha = face.copy()
    alpha.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, 80, dtype=np.uint8), (96, 1))))
    alpha.save(folder / "d-alpha.png")
    face.convert("CMYK").save(folder / "e-cmyk.jpg", quality=90)
    face.convert("L").save(folder / "f-grey.jpg", quality=90)
    deep = np.asarray(face.convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(folder / "g-deep.png")
    face.quantize(32).save(folder / "h-palette.png")
    return sorted(folder.iterdir())


def test_one_photo_has_one_score_however_it_is_judged(exported, tmp_path):
    """Training's data path, `Detector`, `judge_files` and ONNX Runtime."""
    folder, detector = exported
    photos = fixture_photos(tmp_path / "photos")
    faces = DecodedFaces.build(open_source(tmp_path / "photos"), detector.preprocess)
    assert len(faces) == len(photos) == 8
    with torch.no_grad():
        logits = detector.net.verdict(to_float(torch.from_numpy(np.array(faces.images)))).logit.numpy()
    training = detector.calibration.probability(logits)
    served = OnnxDetector.load(folder / "detector.onnx")
    for engine in (Detector.load(folder / "detector.safetensors"), served):
        judged = list(judge_files(Judge(engine, batch=3), [str(p) for p in photos], workers=2))
        assert [j.file for j in judged] == [str(p) for p in photos]
        np.testing.assert_allclose([j.verdict.probability for j in judged], training, atol=1e-5)
    assert np.ptp(training) > 1e-3, "scores that are all alike would agree whatever was done to the photos"
    # the rotated photo is the PNG but for its compression, and so is the palette's but for its colours
    assert abs(training[2] - training[0]) < abs(training - training[0]).max()


def test_patch_maps_and_verdicts_agree(exported, photos):
    folder, detector = exported
    served = OnnxDetector.load(folder / "detector.onnx")
    assert served.in_threads and served.has_patches and served.source_sha256 == detector.sha256
    assert (served.preprocess, served.calibration, served.meta) == (
        detector.preprocess,
        detector.calibration,
        detector.meta,
    )
    for ours, theirs in zip(detector.predict(photos), served.predict(photos, batch=3), strict=True):
        assert ours.label == theirs.label and ours.note == theirs.note
        assert ours.probability == pytest.approx(theirs.probability, abs=1e-5)
        np.testing.assert_allclose(ours.patch_map, theirs.patch_map, atol=1e-5)


def test_a_verdict_does_not_depend_on_the_batch_bit_for_bit(exported, photos):
    served = OnnxDetector.load(exported[0] / "detector.onnx")
    threshold = Threshold.of(served.calibration)
    pixels = [served.preprocess.uint8(photo) for photo in photos]
    judge = Judge(served, threshold, batch=32)
    some = [Seen("", pixels=[p]) for p in pixels]
    judge.score(some)
    assert [seen.verdicts for seen in some] == [served.verdicts([p], threshold, ("",), 1) for p in pixels]


def test_the_file_says_what_it_is_and_nothing_of_this_machine(exported):
    data = (exported[0] / "detector.onnx").read_bytes()
    assert str(ROOT).encode() not in data and b"site-packages" not in data
    header = OnnxDetector.load(exported[0] / "detector.onnx").header
    assert header["preprocess"]["resample"] == "lanczos" and header["calibration"]["points"]
    assert "x / 127.5 - 1" in header["in_words"]["input"] and "temperature" in header["in_words"]["output"]


def test_the_exported_network_serves_only_the_file_it_came_from(exported, tmp_path):
    folder, detector = exported
    engine = open_engine(folder / "detector.safetensors")
    assert (engine.runtime, engine.onnx, engine.note) == ("onnx", folder / "detector.onnx", "")
    assert open_engine(folder / "detector.safetensors", gradients=True).runtime == "torch"
    assert open_engine(folder / "detector.safetensors", runtime="torch").runtime == "torch"
    assert open_engine(folder / "detector.onnx").runtime == "onnx"
    with pytest.raises(UserError, match="is for ONNX Runtime"):
        open_engine(folder / "detector.onnx", runtime="torch")

    other = Detector(detector.net, detector.preprocess, detector.calibration, {"calibrated": "again"})
    other.save(tmp_path / "detector.safetensors")
    with pytest.raises(UserError, match="detect.py export"):
        open_engine(tmp_path / "detector.safetensors", runtime="onnx")
    (tmp_path / "detector.onnx").write_bytes((folder / "detector.onnx").read_bytes())
    stale = open_engine(tmp_path / "detector.safetensors")
    assert stale.runtime == "torch" and "exported from another detector" in stale.note
    with pytest.raises(UserError, match="exported from another"):
        open_engine(tmp_path / "detector.safetensors", runtime="onnx")
    (tmp_path / "detector.onnx").write_bytes(b"broken")
    assert "PyTorch is used" in open_engine(tmp_path / "detector.safetensors").note


def test_what_is_no_exported_detector_is_refused_in_one_line(exported, tmp_path):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(exported[0] / "detector.onnx"))
    header = json.loads(model.metadata_props[0].value)

    def refused(word: str, value: str | None) -> None:
        del model.metadata_props[:]
        if value is not None:
            entry = model.metadata_props.add()
            entry.key, entry.value = "detector", value
        onnx.save(model, str(tmp_path / "x.onnx"))
        with pytest.raises(UserError, match=word) as caught:
            OnnxDetector.load(tmp_path / "x.onnx")
        assert "x.onnx" in str(caught.value) and "\n" not in str(caught.value)

    refused("not of a detector", None)
    refused("does not fit", "{")
    refused("version 9", json.dumps({**header, "version": 9}))
    refused("calibration. is missing", json.dumps({k: v for k, v in header.items() if k != "calibration"}))
    refused("3 channels of 64", json.dumps({**header, "preprocess": {"resolution": 64}}))
    for name, data in (
        ("text", b"hello"),
        ("empty", b""),
        ("half", (exported[0] / "detector.onnx").read_bytes()[:9000]),
    ):
        (tmp_path / f"{name}.onnx").write_bytes(data)
        with pytest.raises(UserError, match=name):
            OnnxDetector.load(tmp_path / f"{name}.onnx")
    with pytest.raises(UserError, match="no such file"):
        OnnxDetector.load(tmp_path / "absent.onnx")
    with pytest.raises(UserError, match="cpu or cuda"):
        OnnxDetector.load(exported[0] / "detector.onnx", device="mps")


def test_export_overwrites_nothing_and_checks_before_it_writes(exported, tmp_path, monkeypatch):
    folder, detector = exported
    with pytest.raises(UserError, match="exists"):
        export_detector(folder / "detector.onnx", detector)
    with pytest.raises(UserError, match="end in .onnx"):
        export_detector(folder / "detector.bin", detector)
    with pytest.raises(UserError, match="no folder"):
        export_detector(folder / "no" / "d.onnx", detector)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="onnx and onnxscript, not installed here.*pip install"):
        export_detector(folder / "d.onnx", detector)


PROGRAM = """
import io, sys
from contextlib import redirect_stdout
from click.testing import CliRunner
from tests.program import Program
import detect
result = CliRunner().invoke(Program(detect.main), sys.argv[1:])
assert result.exit_code in (0, 1) and "answer" in result.output, (result.output, result.exception)
print(sorted({"torch", "torchvision", "scipy", "matplotlib", "onnx"} & set(sys.modules)))
"""


def test_onnx_serves_without_pytorch(exported, tmp_path):
    """A whole run with face step, CSV and explanation: `sys.modules` afterwards."""
    (photo,) = [p for p in fixture_photos(tmp_path / "photos") if p.name == "a.png"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "FACES_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    env["FACES_FACE_MODEL"] = "haar"
    args = ["--model", "detector.onnx", "--face", "required", "--offline", "--explain", str(tmp_path / "out.png")]
    for model in ("detector.onnx", "detector.safetensors"):
        args[1] = model
        some = args if model.endswith("onnx") else args[:-2]
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(photo), *some],
            cwd=exported[0],
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip().splitlines()[-1] == "[]"
    with Image.open(io.BytesIO((tmp_path / "out.png").read_bytes())) as panel:
        assert panel.width > panel.height


def test_the_kernel_in_words_is_the_kernel():
    """What a file says to those who serve it by other programs, done by OpenCV itself."""
    photo = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    preprocess = Preprocess(32, resample="points")
    said = _preprocess_in_words(preprocess)
    assert "INTER_LINEAR (of more than four times 32 pixels first INTER_AREA to that;" in said
    four_times = cv2.resize(photo, (128, 128), interpolation=cv2.INTER_AREA)
    by_words = cv2.resize(four_times, (32, 32), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(preprocess.uint8(photo), by_words)
    assert not np.array_equal(by_words, cv2.resize(photo, (32, 32), interpolation=cv2.INTER_LINEAR))
