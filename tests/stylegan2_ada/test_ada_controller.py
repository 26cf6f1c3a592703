"""The ADA controller against the closed form of its rule."""

import json

import pytest
import torch

from stylegan2_ada.ada_controller import AdaController


def test_published_rule():
    """Every 4 batches p moves by sign(r_t - 0.6) * images / (ada_kimg * 1000)."""
    c = AdaController()
    for i in range(1, 9):
        assert c.update(sign_sum=32, count=32, batch=32) == pytest.approx(i // 4 * 4 * 32 / 500_000)
    assert c.r_t == 1
    before = c.p
    for _ in range(4):
        c.update(sign_sum=0.0, count=32, batch=32)
    assert c.r_t == 0 and c.p == pytest.approx(before - 4 * 32 / 500_000)


def test_p_goes_from_0_to_1_in_ada_kimg():
    c = AdaController(ada_kimg=10, interval=2, p_max=1)
    steps = 0
    while c.p < 1:
        c.update(1, 1, 50)
        steps += 1
    assert steps == 10_000 / 50


def test_p_stays_within_its_bounds():
    c = AdaController(ada_kimg=1, interval=1, p_max=0.85)
    for _ in range(100):
        c.update(8, 8, 64)
    assert c.p == 0.85
    for _ in range(100):
        c.update(-8, 8, 64)
    assert c.p == 0


def test_on_target_p_stays():
    c = AdaController(target=0.5, interval=1, ada_kimg=1, p=0.3)
    assert c.update(16, 32, 32) == 0.3


def test_the_mean_is_over_the_whole_window():
    c = AdaController(interval=2, p=0.5)
    c.update(10, 10, 10)
    c.update(-30, 30, 30)
    assert c.r_t == pytest.approx(-0.5)
    assert c.p == pytest.approx(0.5 - 40 / 500_000)


def test_tensors_are_taken_as_they_are():
    c = AdaController(interval=2)
    total = torch.tensor(3.0, requires_grad=True) * 2
    c.update(total, torch.tensor(8), 8)
    assert c.update(total, torch.tensor(8), 8) == pytest.approx(16 / 500_000)
    assert total.item() == 6 and c.r_t == 0.75


@pytest.mark.parametrize("sign_sum, count", [(0, 0), (float("nan"), 8)])
def test_a_window_without_information_leaves_p(sign_sum, count):
    c = AdaController(interval=1, p=0.4)
    assert c.update(sign_sum, count, 8) == 0.4


def test_resume_in_the_middle_of_a_window():
    torch.manual_seed(0)
    signs = torch.randn(30, 16).sign().sum(1) + 6
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
    with pytest.raises(ValueError, match="sign_sum"):
        c.load_state_dict({"p": 0.1, "r_t": None, "count": 0, "images": 0, "batches": 0})


def test_leak_warning():
    assert AdaController(p=0.8).leak_warning() is None
    line = AdaController(p=0.84).leak_warning()
    assert "0.84" in line and "\n" not in line


@pytest.mark.parametrize(
    "kwargs", [{"target": 2}, {"interval": 0}, {"ada_kimg": 0}, {"p_max": 1.5}, {"p": -0.1}, {"p": 0.9, "p_max": 0.8}]
)
def test_bad_options(kwargs):
    with pytest.raises(ValueError):
        AdaController(**kwargs)
