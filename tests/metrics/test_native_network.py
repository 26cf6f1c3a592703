import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError
from metrics.inception import DIMS, InceptionFeatures
from metrics.native_network import NativeNetwork, usable
from stylegan2_ada.ops import conv_forward

ROOT = Path(__file__).parents[2]


def images_of(height, width, n=2):
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=g)


@pytest.fixture
def native(random_inception):
    features = InceptionFeatures(random_inception.path, 64)
    if not usable(features.net):
        pytest.skip("no native code for this processor")


@pytest.mark.parametrize("dims", DIMS)
def test_native_network_equals_pytorch_fid(dims, random_inception, pytorch_fid_network, native):
    images = images_of(64, 64, 3)
    with torch.no_grad():
        wanted = pytorch_fid_network(random_inception.state, [DIMS.index(dims)])(images.float() / 255)[0]
    wanted = wanted.mean(dim=(2, 3))
    features = InceptionFeatures(random_inception.path, dims, runtime="native", chunk=2)
    found = features(images)
    assert features.used == "native"
    assert (found - wanted).abs().max() / wanted.abs().max() < 2e-6
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().mean()))


@pytest.mark.parametrize("size", [(75, 75), (75, 140), (101, 83)])
def test_sizes_that_do_not_divide_into_tiles(size, random_inception, native):
    a, b = (InceptionFeatures(random_inception.path, 2048, resize="none", runtime=r) for r in ("torch", "native"))
    images = images_of(*size)
    wanted = a(images)
    np.testing.assert_allclose(b(images), wanted, rtol=1e-4, atol=1e-5 * float(wanted.max()))


def test_it_is_what_auto_takes(random_inception, native):
    features = InceptionFeatures(random_inception.path, 192)
    assert features.runtime == "native" and features.used is None
    first = features(images_of(64, 64))
    assert features.used == "native"
    again = NativeNetwork(features.net)
    assert torch.equal(first, InceptionFeatures(random_inception.path, 192, runtime="native")(images_of(64, 64)))
    assert again(torch.zeros(1, 3, 75, 75)).shape == (1, 192, 7, 7)


def test_without_compiled_code_auto_takes_onnx_runtime(random_inception, monkeypatch):
    monkeypatch.setattr(conv_forward, "use_native", lambda x: False)
    features = InceptionFeatures(random_inception.path, 64)
    assert features.runtime == "onnx"
    with pytest.raises(UserError, match="no compiled code for this machine"):
        InceptionFeatures(random_inception.path, 64, runtime="native")(images_of(64, 64))


def test_without_a_compiler_auto_says_nothing(random_inception, tmp_path):
    """ONNX Runtime stands in, so a word about slower operations would be wrong."""
    code = f"from metrics.inception import InceptionFeatures as F; print(F({str(random_inception.path)!r}, 64).runtime)"
    env = {**os.environ, "CXX": str(tmp_path / "none"), "STYLEGAN_OPS": "", "STYLEGAN_OPS_CACHE": str(tmp_path / "ops")}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "onnx" and "slower" not in done.stderr, done.stderr
