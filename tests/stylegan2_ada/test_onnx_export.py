"""Generators as ONNX files give the images that torch gives."""

import numpy as np
import onnxruntime
import pytest
import torch

from stylegan2_ada import onnx_export
from stylegan2_ada.generator import Generator
from tests.stylegan2_ada import snapshots


@pytest.fixture
def exporter():
    for name in onnx_export.NEEDED:
        pytest.importorskip(name)
    return onnx_export.export_onnx


@pytest.fixture(scope="module")
def G():
    """Conditional, with float16 resolutions and a clamp: what an export has to get along with."""
    cfg = snapshots.small_config(resolution=8, c_dim=3, mapping_layers=2, num_lowp_res=1, conv_clamp=256)
    return snapshots.random_state(Generator(cfg), 3)


def images(path, z, psi, c):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {"z": z.numpy(), "psi": np.array([psi], np.float32), "c": c.numpy()}
    return torch.from_numpy(session.run(["image"], feed)[0])


def test_images_are_those_of_torch(exporter, tmp_path, G):
    """With any batch; a fixed batch and no noise are in tests/cli/test_convert.py."""
    path = tmp_path / "G.onnx"
    exporter(path, G)
    assert [p.name for p in tmp_path.iterdir()] == ["G.onnx"]  # one file, no weights beside it
    rng = torch.Generator().manual_seed(0)
    for n, psi in [(1, 0.7), (2, 1.0), (5, 0.0)]:
        z, c = torch.randn(n, 12, generator=rng), torch.eye(3)[torch.arange(n) % 3]
        expected = G(z, c, psi=psi, noise_mode="const", force_fp32=True)
        found = images(path, z, psi, c)
        assert found.shape == expected.shape and (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_what_cannot_be_exported(tmp_path, G, monkeypatch):
    with pytest.raises(ValueError, match="const or none"):
        onnx_export.export_onnx(tmp_path / "G.onnx", G, noise_mode="random")
    monkeypatch.setattr(onnx_export, "NEEDED", ("onnx_that_is_absent",))
    with pytest.raises(ValueError, match="G.onnx: exporting to ONNX needs onnx_that_is_absent, not installed here"):
        onnx_export.export_onnx(tmp_path / "G.onnx", G)
    assert list(tmp_path.iterdir()) == []
