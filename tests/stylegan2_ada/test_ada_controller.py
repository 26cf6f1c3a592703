"""The ADA controller against the closed form of its rule."""

import json

import numpy as np
import pytest

from stylegan2_ada.ada_controller import AdaController


def test_published_rule():
    """Every 4 batches p moves by sign(r_t - 0.6) * images / (ada_kimg * 1000)."""
    c = AdaController()
    for i in range(1, 3):
        assert c.update(sign_sum=128, count=128, images=4 * 32) == pytest.approx(i * 4 * 32 / 500_000)
    assert c.r_t == 1
    before = c.p
    c.update(sign_sum=-64, count=128, images=4 * 32)
    assert c.r_t == -0.5 and c.p == pytest.approx(before - 4 * 32 / 500_000)


def test_p_goes_from_0_to_1_in_ada_kimg():
    c = AdaController(ada_kimg=10, p_max=1)
    steps = 0
    while c.p < 1:
        c.update(1, 1, 50)
        steps += 1
    assert steps == 10_000 / 50


def test_p_stays_within_its_bounds():
    c = AdaController(ada_kimg=1, p_max=0.85)
    for _ in range(100):
        c.update(8, 8, 64)
    assert c.p == 0.85
    for _ in range(100):
        c.update(-8, 8, 64)
    assert c.p == 0


def test_on_target_p_stays():
    c = AdaController(target=0.5, ada_kimg=1, p=0.3)
    assert c.update(16, 32, 32) == 0.3


@pytest.mark.parametrize("sign_sum, count", [(0, 0), (float("nan"), 8)])
def test_batches_without_information_leaves_p(sign_sum, count):
    c = AdaController(p=0.4)
    assert c.update(sign_sum, count, 8) == 0.4


def test_resume():
    signs = (np.sign(np.random.default_rng(0).normal(size=(30, 16))).sum(1) + 6).tolist()
    whole, first, second = (AdaController(ada_kimg=5) for _ in range(3))
    expected = [whole.update(s, 16, 16) for s in signs]
    got = [first.update(s, 16, 16) for s in signs[:14]]
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    got += [second.update(s, 16, 16) for s in signs[14:]]
    assert got == expected and second.state_dict() == whole.state_dict()


def test_loading_respects_p_max_and_names_what_is_missing():
    c = AdaController(p_max=0.5)
    c.load_state_dict(AdaController(p_max=1, p=0.9).state_dict())
    assert c.p == 0.5
    c.load_state_dict({"p": 0.25, "r_t": None, "sign_sum": 0.0, "count": 0.0, "images": 0, "batches": 0})  # as of old
    assert c.p == 0.25
    with pytest.raises(ValueError, match="r_t"):
        c.load_state_dict({"p": 0.1})


def test_leak_warning():
    assert AdaController(p=0.8).leak_warning() is None
    line = AdaController(p=0.84).leak_warning()
    assert "0.84" in line and "\n" not in line


@pytest.mark.parametrize(
    "kwargs", [{"target": 2}, {"ada_kimg": 0}, {"p_max": 1.5}, {"p": -0.1}, {"p": 0.9, "p_max": 0.8}]
)
def test_bad_options(kwargs):
    with pytest.raises(ValueError):
        AdaController(**kwargs)
