"""Which GPU a process of a training takes."""

import pytest
import torch

from common.errors import UserError
from training.processes import Processes


@pytest.fixture(autouse=True)
def gpus(monkeypatch):
    """Four of them, of which the current one is remembered."""
    current = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return current


@pytest.mark.parametrize("asked, taken", [("cuda:2", "cuda:2"), ("cuda:0", "cuda:0"), ("cuda", "cuda:0")])
def test_a_process_on_its_own_takes_the_gpu_that_is_named(gpus, asked, taken):
    assert Processes.join(asked).device == torch.device(taken) == gpus[-1]


def test_several_processes_on_one_gpu_are_refused(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="`device` cuda:3: .*CUDA_VISIBLE_DEVICES"):
        Processes.join("cuda:3")
