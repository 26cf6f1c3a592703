"""A detector file with a changed bit is refused: by the digest in its header, or by the list of digests beside it."""

import hashlib
import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch

from common.errors import UserError
from common.seal import LIST
from discriminator.detector import Detector
from discriminator.onnx_detector import OnnxDetector
from tests.bad_files.detectors import detector, detector_file

MODELS = Path(__file__).resolve().parents[2] / "models"


def flipped(data: bytes, at: int, bit: int = 0) -> bytes:
    out = bytearray(data)
    out[at] ^= 1 << bit
    return bytes(out)


def test_a_changed_weight_is_refused(tmp_path):
    """Of each tensor one bit of the least digit: the network still works, its scores are others."""
    path = tmp_path / "d.safetensors"
    detector().save(path)
    data = path.read_bytes()
    Detector.load(path)
    start = 8 + int.from_bytes(data[:8], "little")
    for at in range(start, len(data) - 4, (len(data) - start) // 20 // 4 * 4):
        path.write_bytes(flipped(data, at))
        with pytest.raises(UserError, match=r"d.safetensors: the file is damaged \(its checksum is another\)"):
            Detector.load(path)


def test_a_changed_threshold_is_refused(tmp_path):
    path = tmp_path / "d.safetensors"
    detector().save(path)
    data = path.read_bytes()
    at = data.index(b"threshold") + len(b'threshold\\": 0.')
    assert chr(data[at]).isdigit()
    path.write_bytes(data[:at] + (b"4" if data[at : at + 1] != b"4" else b"5") + data[at + 1 :])
    with pytest.raises(UserError, match="checksum"):
        Detector.load(path)


def test_equal_detectors_are_equal_files_and_older_files_are_read(tmp_path):
    one, other = (detector().save(tmp_path / name) for name in ("a.safetensors", "b.safetensors"))
    assert one == other == hashlib.sha256((tmp_path / "a.safetensors").read_bytes()).hexdigest()
    (tmp_path / "old.safetensors").write_bytes(detector_file())  # without a digest
    old, new = (Detector.load(tmp_path / name) for name in ("old.safetensors", "a.safetensors"))
    photo = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert old.predict([photo])[0].logit == new.predict([photo])[0].logit
    assert Detector.load(tmp_path / "a.safetensors").save(tmp_path / "c.safetensors") == one
    tensors = safetensors.torch.load((tmp_path / "a.safetensors").read_bytes())
    assert all((tensors[name] == tensor).all() for name, tensor in new.net.state_dict().items())


@pytest.mark.parametrize("name", ["detector.safetensors", "detector.onnx"])
def test_the_shipped_files_are_those_of_their_list(name, tmp_path):
    listed = dict(line.split("  ")[::-1] for line in (MODELS / LIST).read_text().splitlines())
    data = (MODELS / name).read_bytes()
    assert listed[name] == hashlib.sha256(data).hexdigest(), f"run `sha256sum detector.* > {LIST}` in models/"
    shutil.copy(MODELS / LIST, tmp_path)
    (tmp_path / name).write_bytes(flipped(data, len(data) // 2))
    load = OnnxDetector.load if name.endswith(".onnx") else Detector.load
    with pytest.raises(UserError, match=f"{name}: is not the file that .*{LIST} tells of: damaged"):
        load(tmp_path / name)
    (tmp_path / LIST).write_text("\n")  # as its owner may decide
    load(tmp_path / name)


@pytest.mark.skipif(importlib.util.find_spec("onnxscript") is None, reason="exporting needs the extra onnx")
def test_a_changed_bit_of_an_export_is_refused(tmp_path):
    from discriminator.export_onnx import export_detector

    path = tmp_path / "d.onnx"
    made = detector()
    made.save(tmp_path / "d.safetensors")
    export_detector(path, made)
    data = path.read_bytes()
    OnnxDetector.load(path)
    weights = max(made.net.state_dict().values(), key=lambda t: t.numel()).contiguous().numpy()
    at = data.find(weights.tobytes()[:64])
    assert at > 0
    path.write_bytes(flipped(data, at))
    with pytest.raises(UserError, match=r"d.onnx: the file is damaged \(its checksum is another\)"):
        OnnxDetector.load(path)
