"""Random numbers that follow from a seed, on whatever device, and leave the caller's alone."""

import re
from pathlib import Path

import torch

from training.randomness import seeded

ROOT = Path(__file__).resolve().parents[2]


def test_draws_follow_the_seed_and_the_callers_go_on_as_before():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    with seeded(5, torch.device("cpu")):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), inside)


def test_a_device_without_cuda_is_seeded_and_put_back(monkeypatch):
    """Apple's: PyTorch's functions for it, of which none can run here, are called as they are documented."""
    called = []
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda device="mps": f"state of {device}")
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda state, device="mps": called.append(state))
    monkeypatch.setattr(torch.mps, "manual_seed", called.append)
    with seeded(5, torch.device("mps")):
        called.append("inside")
    assert called == [5, "inside", "state of mps"]


def test_no_other_way_of_seeding_a_device_for_a_while_is_taken():
    """`fork_rng` with devices is CUDA's alone unless their kind is said, too; for weights on the CPU it has none."""
    rooms = [path for path in ROOT.glob("[a-z]*/**/*.py") if path.parts[len(ROOT.parts)] not in ("tests", "benchmarks")]
    users = {path.name for path in rooms if re.search(r"fork_rng\(devices=(?!\[\])", path.read_text(encoding="utf-8"))}
    assert users == {"randomness.py"}
