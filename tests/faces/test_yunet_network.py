"""YuNet by ONNX Runtime finds what OpenCV's own `FaceDetectorYN` finds with the same file."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from faces.decode import load_image
from faces.finding.align import HINT, FaceFinder
from faces.finding.yunet import BUNDLED
from faces.finding.yunet_network import _OUTPUTS, MOST, NMS, YuNet
from faces.procedural.portrait import render_face

ROOT = Path(__file__).resolve().parents[2]
if not BUNDLED.is_file():
    pytest.skip("YuNet's file does not come with this checkout", allow_module_level=True)


@pytest.fixture(scope="module")
def net() -> YuNet:
    return YuNet(BUNDLED, HINT)


def by_opencv(view: np.ndarray) -> np.ndarray:
    detector = cv2.FaceDetectorYN.create(os.fspath(BUNDLED), "", (view.shape[1], view.shape[0]), HINT, NMS, MOST)
    _, rows = detector.detect(cv2.cvtColor(view, cv2.COLOR_RGB2BGR))
    return np.empty((0, 15), np.float32) if rows is None else rows


def assert_same(net: YuNet, view: np.ndarray) -> int:
    """How many faces both found."""
    rows = net.detect(view)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, by_opencv(view), rtol=1e-5, atol=2e-3)  # pixels; scores are within 1e-5
    np.testing.assert_allclose(rows[:, 14], by_opencv(view)[:, 14], atol=1e-5)
    return len(rows)


def padded(view: np.ndarray) -> np.ndarray:
    """As the network takes it, without the module's own code."""
    height, width = view.shape[:2]
    planes = np.zeros((1, 3, height + -height % 32, width + -width % 32), np.float32)
    planes[0, :, :height, :width] = view.transpose(2, 0, 1)[::-1]
    return planes


@pytest.fixture(scope="module")
def whole():
    """The network as one, by ONNX Runtime: `whole(view)` is all that it tells."""
    onnx = pytest.importorskip("onnx")
    import onnxruntime

    model = onnx.load(BUNDLED)
    for number, name in ((2, "h"), (3, "w")):
        model.graph.input[0].type.tensor_type.shape.dim[number].dim_param = name
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda view: session.run(_OUTPUTS, {"input": padded(view)})


def crowd(height: int, width: int, sides: tuple[int, ...]) -> np.ndarray:
    """Drawn faces side by side on a grey wall, some over the edge."""
    out, x = np.full((height, width, 3), 110, np.uint8), 0
    for i, side in enumerate(sides):
        part = render_face(i, 128)
        part = cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA)[:height, : max(0, width - x)]
        out[: part.shape[0], x : x + part.shape[1]] = part
        x += side
    return out


@pytest.mark.parametrize("shape", [(192, 192), (200, 320), (320, 213), (97, 131), (640, 417)])
def test_boxes_landmarks_and_scores_are_those_of_opencv(net, shape):
    assert assert_same(net, crowd(*shape, sides=(60, 100, 40, 90))) >= 1


@pytest.mark.parametrize("shape", [(33, 8), (32, 32), (128, 32), (8, 70)])
def test_narrow_views_by_the_reference_of_onnx(shape):
    """OpenCV 4.14 reads unwritten memory in views of one cell's width or height: no reference there."""
    evaluator = pytest.importorskip("onnx.reference").ReferenceEvaluator(os.fspath(BUNDLED))
    ours, theirs = YuNet(BUNDLED, 0.01), YuNet(BUNDLED, 0.01)
    theirs._told = lambda view: dict(zip(_OUTPUTS, evaluator.run(_OUTPUTS, {"input": padded(view)}), strict=True))
    view = crowd(*shape, sides=(60, 100, 40, 90))
    rows = ours.detect(view)
    assert len(rows)
    np.testing.assert_allclose(rows, theirs.detect(view), rtol=1e-5, atol=2e-3)


@pytest.fixture
def other(tmp_path):
    """The same network under another hash: as a user's own version of YuNet would be."""
    path = tmp_path / "yunet.onnx"
    path.write_bytes(BUNDLED.read_bytes() + b"\x32\x01x")  # the model's doc_string is now "x"
    return path


def test_narrow_views_by_opencv_are_the_same_each_time(other):
    """Whatever lay in the memory before."""
    rng = np.random.default_rng(0)
    for shape in ((64, 32), (128, 32), (32, 64), (33, 8)):
        view = crowd(*shape, sides=(60, 100, 40, 90))
        seen = set()
        for i in range(30):
            junk = [np.full(rng.integers(1000, 1_000_000), 3e24 if i % 2 else np.nan, np.float32) for _ in range(12)]
            del junk
            seen.add(FaceFinder(other)._rows(view).tobytes())  # a network of its own, as each thread has
        assert len(seen) == 1


def test_noise_and_flat_views_too(net):
    rng = np.random.default_rng(0)
    for shape in ((160, 96), (320, 320)):
        assert_same(net, rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
        assert assert_same(net, np.full((*shape, 3), 128, np.uint8)) == 0


def test_a_large_view_and_then_a_small_one_again(net):
    small = crowd(160, 320, (110, 90))
    before = net.detect(small)
    assert_same(net, crowd(700, 900, (300, 200, 250)))
    np.testing.assert_array_equal(net.detect(small), before)


@pytest.mark.parametrize("shape", [(33, 8), (192, 192), (640, 417), (1000, 700), (60, 2560), (2560, 97), (1280, 1280)])
def test_strip_by_strip_the_numbers_are_those_of_the_whole(net, whole, shape):
    """To the last bit: no face's box may depend on where a strip ends."""
    rng = np.random.default_rng(0)
    view = cv2.resize(rng.integers(0, 256, (shape[0] // 4 + 2, shape[1] // 4 + 2, 3), dtype=np.uint8), shape[::-1])
    some = crowd(*shape, sides=(60, 100, 40, 300))
    view[some != 110] = some[some != 110]
    for name, mine, theirs in zip(_OUTPUTS, net._told(view).values(), whole(view), strict=True):
        np.testing.assert_array_equal(mine, theirs, name)


def test_views_of_a_large_photo_take_little_memory(net):
    """As a whole the largest took 250 MB; each network with an arena of its own that doubles, all of them 144."""
    code = """
import resource, sys
import numpy as np
from pathlib import Path
from faces.finding.yunet_network import YuNet

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6

net = YuNet(Path(sys.argv[1]), 0.15)
net.detect(np.zeros((64, 64, 3), np.uint8))
before = peak()
for times in (1, 2, 4, 8):
    net.detect(np.zeros((240 * times, 320 * times, 3), np.uint8))
print(peak() - before)
"""
    pytest.importorskip("resource")
    out = subprocess.run(
        [sys.executable, "-c", code, os.fspath(BUNDLED)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert float(out.stdout) < 130


def test_threads_share_it(net):
    views = [crowd(160 + 32 * i, 320, (100, 60 + 10 * i)) for i in range(4)]
    alone = [net.detect(view) for view in views]
    with ThreadPoolExecutor(4) as pool:
        for rows, same in zip(pool.map(net.detect, views * 4), alone * 4, strict=True):
            np.testing.assert_array_equal(rows, same)


def test_photos_at_the_sizes_they_are_looked_at(net, shared_dir):
    """Crowds, portraits and photos that lie on their side."""
    files = sorted((shared_dir / "cases" / "faces").rglob("*.jpg"))[::4]
    found = 0
    for path in files:
        photo = load_image(path)
        for side in (128, 320, 500):
            to = [max(33, round(n * side / max(photo.shape[:2]))) for n in photo.shape[1::-1]]
            found += assert_same(net, cv2.resize(photo, to, interpolation=cv2.INTER_AREA))
    assert found > len(files)


def test_another_file_goes_by_opencv(other):
    mine, theirs = FaceFinder(BUNDLED), FaceFinder(other)
    assert mine.name == "yunet-2023mar" and theirs.name.startswith("yunet (sha256")
    view = crowd(320, 480, (200, 150))
    ours, others = mine.find(view), theirs.find(view)
    assert len(ours) == len(others) >= 1
    for a, b in zip(ours, others, strict=True):
        np.testing.assert_allclose(a.box, b.box, atol=2e-3)
        np.testing.assert_allclose(a.landmarks, b.landmarks, atol=0.02)  # differences of scores decide how faces lean
        assert a.score == pytest.approx(b.score, abs=1e-5) and a.turn == b.turn
