"""Any number of processes: `auto` fits itself, a preset that can't says with which `batch` it could."""

import re

import pytest
import torch

from adversarial.config import resolve
from adversarial.options import Options
from adversarial.plan import plan
from common.errors import UserError
from common.files import write_json
from stylegan2_ada.config import preset
from tests.photo_folders import write_photos
from training.checkpoint import save
from training.processes import Processes
from training.run_folder import CONFIG


@pytest.mark.parametrize("resolution", [64, 256, 1024, 2048])
def test_auto_splits_into_whole_minibatch_std_groups(resolution):
    for world in range(1, 40):
        p = preset("auto", resolution, world)
        published = max(min(world * min(4096 // resolution, 32), 64), world)
        assert p.batch % world == 0 and p.batch // world % p.mbstd == 0
        assert published - 4 * world < p.batch <= published
        if world & (world - 1) == 0:
            assert p.batch == published


@pytest.mark.parametrize("cfg, world", [("tiny", 3), ("paper256", 3), ("paper256", 7), ("stylegan2", 6), ("cifar", 5)])
def test_the_batch_that_is_proposed_is_one_that_works(cfg, world):
    def resolved(**options):
        options = Options(data="x", cfg=cfg, precision="fp32", **options)
        return resolve(options, resolution=256, world_size=world, device=torch.device("cpu"), facts={})

    with pytest.raises(UserError, match="processes") as refused:
        resolved()
    proposed = int(re.search(r"give `batch` (\d+), say", str(refused.value))[1])
    assert resolved(batch=proposed).batch == proposed


@pytest.mark.parametrize(
    "options, images",
    [
        ({}, 4),
        ({"batch_gpu": 2}, 8),  # four micro-batches of a real and a fake image
        ({"batch": 12, "batch_gpu": 4, "mbstd_group": 1, "verdict_batch": 8}, 6),  # three of two, not of 8 / 3
        ({"verdict_batch": 0}, 0),
    ],
)
def test_the_length_of_the_verdict_phase_counts_the_images_that_are_shown(options, images):
    wanted = Options(data="x", cfg="tiny", verdict_kimg=0.12, **options)
    cfg = resolve(wanted, resolution=64, world_size=1, device=torch.device("cpu"), facts={})
    assert cfg.verdict_images == images == cfg.verdict_part * cfg.micro_batches
    assert cfg.verdict_steps * images == (120 if images else 0)
    (line,) = (line for line in cfg.schedule_lines() if line.startswith("verdict"))
    asked = options.get("verdict_batch")
    told = f"batch {images}" + (f" ({asked} asked for; as" if asked not in (None, images) else ",")
    assert line.startswith(
        f"verdict     {told}" if images else "verdict     the head does not learn (`verdict_batch` 0)"
    )


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """What the plan of a run of `auto` was on one process, and what it would be on so many from its checkpoint on."""
    monkeypatch.setattr(Processes, "smallest", lambda self, x: x)  # nobody is there to be asked
    write_photos(tmp_path / "photos", [(16, 16)] * 12)
    run = tmp_path / "runs" / "00000-photos-16-auto"
    run.mkdir(parents=True)
    options = {"data": str(tmp_path / "photos"), "resolution": 16, "precision": "fp32", "fid_dims": 64}

    def planned(world: int, cfg: str, **given):
        if not (run / CONFIG).exists():
            write_json(run / CONFIG, plan(Options(cfg=cfg, **options), (), None, Processes()).cfg.to_dict())
            save(run, 7, {"game": {"step_index": 7}, "phase": "game"}, "gan")
        return plan(Options(**given), tuple(given), str(run), Processes(0, world))

    return planned


@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_run_keeps_its_batch_on_another_number_of_processes(begun, world):
    p = begun(world, "auto")
    old, new = p.resumed.saved, p.cfg
    assert preset("auto", 16, world).batch == 32 * min(world, 2), "otherwise this test shows nothing"
    assert new.batch == old.batch == 32 and new.batch_gpu * world <= 32
    for name in ("gamma", "ema_kimg", "lr", "verdict_batch", "kimg"):
        assert getattr(new, name) == getattr(old, name), name
    assert p.resumed.steered == []


def test_gamma_steers_a_run_on_another_number_of_processes(begun):
    p = begun(2, "auto", gamma=3.0)
    assert p.cfg.gamma == 3.0 and p.cfg.batch == 32 and len(p.resumed.steered) == 1


def test_a_smaller_minibatch_std_group_is_told(begun):
    p = begun(4, "tiny")
    assert p.cfg.batch == 8 and p.resumed.steered == ["minibatch-std group 4 -> 2"]


def test_a_run_that_goes_on_may_have_what_does_nothing_any_more(begun):
    assert begun(1, "auto", metrics="none").cfg.metrics == "none"
    with pytest.raises(UserError, match="`fid_dims` 64"):
        begun(1, "auto", metrics="none", fid_dims=64)


def test_a_batch_that_so_many_processes_cannot_share_is_refused_with_numbers_that_can(begun):
    with pytest.raises(UserError, match="batch of 8 images.* 3 processes; .*: 1, 2, 4, 8$"):
        begun(3, "tiny")
