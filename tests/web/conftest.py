"""What several tests of the page and the API are given."""

from pathlib import Path

import pytest
import torch

from stylegan2_ada.config import GeneratorConfig
from stylegan2_ada.files import save_generator
from stylegan2_ada.generator import Generator


@pytest.fixture(scope="module")
def generator(tmp_path_factory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("generator") / "generator-000000.safetensors"
    save_generator(path, Generator(GeneratorConfig(resolution=16, img_channels=3)).eval())
    return path
