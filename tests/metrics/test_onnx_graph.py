import numpy as np
import pytest
import torch

from metrics.inception import InceptionFeatures
from metrics.onnx_graph import onnx_model


@pytest.mark.parametrize("dims", [64, 2048])  # those between are the beginning of the last
def test_onnx_runtime_gives_the_same_features(dims, random_inception):
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    a, b = (InceptionFeatures(random_inception.path, dims, runtime=r)(images).numpy() for r in ("torch", "onnx"))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6 * np.abs(a).max())


def test_the_file_is_onnx(random_inception):
    onnx = pytest.importorskip("onnx")
    model = onnx.load_model_from_string(onnx_model(InceptionFeatures(random_inception.path, 768).net))
    onnx.checker.check_model(model, full_check=True)
    assert [i.name for i in model.graph.input] == ["x"] and [o.name for o in model.graph.output] == ["features"]
