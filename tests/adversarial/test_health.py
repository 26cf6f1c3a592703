"""Signs of a training that goes wrong: each is raised by what it is about, and by nothing that is healthy."""

import itertools
import math

import numpy as np
import pytest
import torch

from adversarial.health import REPEAT, Health, diversity


def rows(real=0.5, fake=-0.7, gap=1.5, g=1.0, d=1.0, bad=0, steps=100) -> dict:
    def row(mean, num=steps):
        return {"num": num, "mean": mean, "std": 0.1}

    out = {
        "Loss/signs/real": row(real), "Loss/signs/fake": row(fake), "Loss/scores/real": row(gap),
        "Loss/scores/fake": row(0.0), "Gradients/G": row(g), "Gradients/D": row(d),
    }  # fmt: skip
    return out | ({"Gradients/nonfinite_G": row(3.0, bad), "Gradients/skipped_G": row(1.0, bad)} if bad else {})


def told(health: Health, count: int, *, start=10.0, diverse=None, leak=None, **values) -> list[tuple[int, str]]:
    lines = []
    for i in range(count):
        lines += [(i, line) for line in health.tick(rows(**values), start + i, diverse, leak)[1]]
    return lines


def test_a_healthy_course_gets_no_advice():
    health = Health()
    assert told(health, 60, diverse=0.8) == []
    scalars, _ = health.tick(rows(), 100.0, 0.8, None)
    assert scalars == {
        "Health/score_gap": 1.5, "Health/gradient_G_to_median": 1.0, "Health/gradient_D_to_median": 1.0,
        "Health/skipped_steps": 0.0, "Health/diversity": 0.8,
    }  # fmt: skip


def test_a_discriminator_that_has_won_is_told_after_three_ticks_and_again_much_later():
    lines = told(Health(), 2 + REPEAT + 2, real=0.99, fake=-0.99)
    assert [i for i, _ in lines] == [2, 2 + REPEAT]
    assert "99 % of the fakes" in lines[0][1] or "100 % of the fakes" in lines[0][1]
    assert "`gamma`" in lines[0][1] and "so since 10.0 kimg" in lines[1][1]
    assert told(Health(), 10, real=0.99, fake=-0.99, start=-20.0) == []  # the first kimg is no judge


def test_a_sign_that_goes_away_starts_anew():
    health = Health()
    assert told(health, 2, real=0.99, fake=-0.99) == []
    assert told(health, 1) == []
    assert told(health, 2, real=0.99, fake=-0.99) == [] and len(told(health, 1, real=0.99, fake=-0.99)) == 1


def test_a_blind_discriminator():
    assert [i for i, _ in told(Health(), 8, gap=-0.1)] == [4]


def test_scores_beyond_all_measure():
    lines = told(Health(), 5, gap=3e7, start=0.0)
    assert [i for i, _ in lines] == [0] and "scores are about 3e+07" in lines[0][1]
    assert "goes back to its last healthy checkpoint by itself" in lines[0][1], "as the run does in the next line"


def test_gradients_that_jump():
    health = Health()
    assert told(health, 15) == []
    ((_, line),) = told(health, 1, d=30.0)
    assert line.startswith("the gradients of D are 30 times")
    assert told(health, 1) == []


@pytest.mark.parametrize("bad, lines", [(1, 0), (4, 1)])
def test_skipped_steps(bad, lines):
    found = told(Health(), 1, bad=bad)
    assert len(found) == lines
    if found:
        assert f"{bad} of {200 + bad} steps were skipped" in found[0][1]
        assert "`precision` fp32, or a lower `lr`" in found[0][1] and "bf16" not in found[0][1], "of a run in bf16, too"


def test_samples_that_grow_alike():
    health = Health()
    assert told(health, 1, diverse=0.05, start=0.0) == []  # at the beginning they all are
    assert told(health, 3, diverse=0.9) == []
    ((_, line),) = told(health, 1, diverse=0.4)
    assert "0.40 times" in line and "at best 0.90" in line
    assert told(health, 3) == []  # ticks without a grid say nothing new
    assert len(told(Health(), 1, diverse=0.2, start=300.0)) == 1


def test_fid_that_has_left_its_best_is_told_once_with_the_way_back():
    health, best = Health(), {"fid": 10.0, "nimg": 40000, "metric": "fid1k"}

    def fid(value: float, is_best: bool = False) -> list[str]:
        return health.fid({"fid": value, "metric": "fid1k", "best": is_best}, best, "runs/x/checkpoint-000010.pt")

    assert fid(10.0, True) == fid(12.0) == fid(14.0) == []
    (line,) = fid(15.0)
    assert "10.00 at 40 kimg" in line and "`resume` runs/x/checkpoint-000010.pt" in line
    assert fid(16.0) == [] and fid(11.0) == [] and fid(15.0) == [] and len(fid(15.0)) == 1


def test_the_leak_of_augmentations_is_not_told_every_tick():
    assert [i for i, _ in told(Health(), REPEAT + 1, leak="ADA p = 0.83 …")] == [0, REPEAT]


def test_a_resumed_run_says_the_same(tmp_path):
    courses = [{"diverse": 0.9}] * 12 + [{"real": 0.99, "fake": -0.99}] * 4 + [{"d": 50.0, "diverse": 0.3}] * 2
    straight, resumed, lines = Health(), Health(), [[], []]
    for i, course in enumerate(courses):
        state = resumed.state_dict()
        torch.save(state, tmp_path / "state.pt")
        resumed = Health()
        resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        for health, out in zip((straight, resumed), lines, strict=True):
            diverse = course.get("diverse")
            values = {k: v for k, v in course.items() if k != "diverse"}
            out.append(health.tick(rows(**values), 10.0 + i, diverse, None))
    assert lines[0] == lines[1] and sum(len(advice) for _, advice in lines[0]) >= 3


@pytest.mark.parametrize("side", [8, 16, 64])
def test_diversity_is_the_mean_over_all_pairs(side):
    images = np.random.default_rng(side).integers(0, 256, (5, 3, side, side), dtype=np.uint8)
    k = max(1, side // 16)
    small = [[[[block.mean() / 255 for block in np.split(band, side // k, axis=1)]
               for band in np.split(plane, side // k, axis=0)] for plane in image] for image in images]  # fmt: skip
    small = np.array(small)
    squares = [((a - b) ** 2).mean() for a, b in itertools.combinations(small, 2)]
    assert diversity(images) == pytest.approx(math.sqrt(np.mean(squares)), rel=1e-12)
    assert diversity(np.repeat(images[:1], 4, axis=0)) == 0
