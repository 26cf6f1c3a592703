"""Any number of processes: `auto` fits itself, a preset that can't says with which `batch` it could."""

import re

import pytest
import torch

from adversarial.config import resolve
from adversarial.options import Options
from common.errors import UserError
from stylegan2_ada.config import preset


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
