"""Checkpoints that the disk does not take."""

import resource

import pytest
import torch

from common.errors import UserError
from training.checkpoint import checkpoints, load, save


def test_a_full_disk_is_told_in_words(tmp_path):
    """torch's own were «[enforce fail at inline_container.cc:671] . unexpected pos 18660544 vs 18660432»."""
    save(tmp_path, 1, {"step": 1}, "detector")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        with pytest.raises(UserError, match=r"not all of it was taken: the disk is full.*earlier checkpoint-000001.pt"):
            save(tmp_path, 2, {"weights": torch.zeros(200_000)}, "detector")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-000001.pt"]
    assert load(tmp_path, "detector")["step"] == 1
