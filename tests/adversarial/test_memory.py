"""A batch is cut into micro-batches that should fit, in whole minibatch-std groups; what can't fit is told."""

import dataclasses

import pytest
import torch

from adversarial import memory
from adversarial.config import resolve
from adversarial.options import Options
from training.processes import Processes

ALONE = Processes()


def config(**options):
    options = Options("x", cfg="paper256", precision="fp32", **options)
    return resolve(options, resolution=256, world_size=1, device=torch.device("cpu"), facts={})


@pytest.mark.parametrize("fitting", [64, 32, 16, 8])
def test_the_largest_micro_batch_that_fits(monkeypatch, fitting):
    cfg = config()
    assert (cfg.batch, cfg.hybrid.trunk.mbstd_group_size) == (64, 8)
    needed = memory.step_bytes(dataclasses.replace(cfg, batch_gpu=fitting))
    monkeypatch.setattr("training.memory.free_bytes", lambda device: int(needed / memory.SAFE_SHARE) + 1)
    cut = memory.split_batch(cfg, ALONE)
    assert cut == dataclasses.replace(cfg, batch_gpu=fitting)
    assert memory.memory_note(cut, ALONE) is None


def test_a_minibatch_std_group_is_never_cut_but_told(monkeypatch):
    cfg = config()
    monkeypatch.setattr("training.memory.free_bytes", lambda device: 1 << 30)
    cut = memory.split_batch(cfg, ALONE)
    assert cut.batch_gpu == cut.hybrid.trunk.mbstd_group_size == 8
    note = memory.memory_note(cut, ALONE)
    assert "1.0 GB are free" in note and "`batch_gpu`" in note


def test_processes_of_one_machine_share_its_memory(monkeypatch):
    cfg = config()
    needed = memory.step_bytes(dataclasses.replace(cfg, batch_gpu=32))
    monkeypatch.setattr("training.memory.free_bytes", lambda device: 2 * (int(needed / memory.SAFE_SHARE) + 1))
    assert memory.split_batch(cfg, dataclasses.replace(ALONE, size=2)).batch_gpu == 32
    monkeypatch.setattr("training.memory.free_bytes", lambda device: None)  # a system that doesn't tell
    assert memory.split_batch(cfg, ALONE) is cfg and memory.memory_note(cfg, ALONE) is None


def test_a_verdict_batch_that_is_too_large_is_what_is_named(monkeypatch):
    """A step with 65536 of its images was not thought to need more; `batch_gpu` was to be lowered."""
    monkeypatch.setattr("training.memory.free_bytes", lambda device: 1 << 37)
    cfg = config(verdict_batch=65536)
    assert memory.memory_note(config(), ALONE) is None
    assert memory.memory_note(cfg, ALONE).endswith("if the run is killed, lower `verdict_batch`")
    assert "for 65536 images of the verdict head; lower `verdict_batch`" in str(memory.too_small(cfg, "the GPU"))
    plain = str(memory.too_small(config(batch_gpu=8), "the GPU"))
    assert "for micro-batches of 8; add `batch_gpu` 4 `mbstd_group` 4 or lower `resolution`" in plain
