"""When a training is given up as lost, and what of its state says so."""

import copy

import pytest
import torch

from adversarial.divergence import Divergence, not_finite
from training.rollback import MOST, Course


def rows(score=1.0, skipped=0, steps=10, of="G") -> dict:
    def row(mean, num):
        return {"num": num, "mean": mean, "std": 0.0}

    out = {"Loss/scores/real": row(score, steps), "Loss/scores/fake": row(-score, steps)}
    if steps > skipped:
        out[f"Gradients/{of}"] = row(1.0, steps - skipped)
    return out | ({f"Gradients/skipped_{of}": row(1.0, skipped)} if skipped else {})


def ticks(*signs_of, last=False):
    course = Divergence()
    return [course.sign(given, None, last=last) for given in signs_of]


def test_a_healthy_course_is_never_given_up():
    course = Divergence()
    for i in range(50):
        assert course.sign(rows(score=80.0, skipped=int(i % 10 == 0)), 0.2 + 0.01 * i, last=i == 49) == ""
        assert course.sound


@pytest.mark.parametrize("score, when", [(2e5, 0), (5000.0, 2), (900.0, None)])
def test_scores_beyond_all_measure(score, when):
    found = ticks(*[rows(score=score)] * 3)
    assert [i for i, sign in enumerate(found) if sign][:1] == ([] if when is None else [when])
    assert bool(ticks(rows(score=score), last=True)[0]) == (when is not None)


@pytest.mark.parametrize("network", "GDV")
def test_a_network_whose_steps_are_skipped(network):
    mostly = rows(skipped=9, of=network)
    first, second = ticks(mostly, mostly)
    assert first == "" and f"18 of 20 steps of {network}" in second
    assert ticks(mostly, rows(of=network), mostly) == ["", "", ""], "a tick without any begins anew"
    assert ticks(mostly, last=True)[0], "a run that would end so has learnt nothing"
    assert ticks(*[rows(skipped=4, of=network)] * 9) == [""] * 9


def test_steps_that_a_gpu_skipped_are_counted_alike():
    on_gpu = rows(skipped=9) | {"Gradients/skipped_G": {"num": 1, "mean": 9.0, "std": 0.0}}
    assert "18 of 20" in ticks(on_gpu, on_gpu)[1]


def test_a_generator_that_draws_one_image():
    course = Divergence()
    assert [bool(course.sign(rows(), d)) for d in (0.05, 0.9, 0.05, None, 0.8, 0.05, 0.04)] == [False] * 6 + [True]
    assert not course.sound


def test_what_is_half_lost_is_nothing_to_go_back_to():
    course = Divergence()
    assert course.sign(rows(), 0.9) == "" and course.sound
    assert course.sign(rows(), 0.4) == "" and not course.sound
    assert course.sign(rows(), None) == "" and not course.sound, "not measured: what was true stays true"
    assert course.sign(rows(), 0.7) == "" and course.sound


def test_a_resumed_run_is_given_up_at_the_same_tick(tmp_path):
    straight, resumed = Divergence(), Divergence()
    for given in [rows()] * 2 + [rows(skipped=8)] * 5:
        torch.save(resumed.state_dict(), tmp_path / "state.pt")
        resumed = Divergence()
        resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        assert straight.sign(given, 0.5) == resumed.sign(given, 0.5)
    assert straight.skips == resumed.skips and straight.skips["G"][0] > 10


def test_skips_in_a_row_are_counted_for_each_network_through_a_checkpoint(make_game):
    game = make_game()
    for net, name, opt in ((game.G, "G", game.opt_G), (game.D, "D", game.opt_D)):
        for _ in range(3 if name == "G" else 1):
            for p in net.parameters():
                p.grad = torch.full_like(p, float("nan"))
            game.update(name, opt, net.parameters())
    again = make_game()
    again.load_state_dict(copy.deepcopy(game.state_dict()))
    assert again._in_a_row == {"G": 3, "D": 1, "V": 0} and again.bad_steps == 3
    again.asynchronous = True
    again.load_state_dict(game.state_dict())
    again.settle()
    assert again.bad_steps == 3


def test_numbers_that_are_none_are_found_wherever_they_are(make_game):
    game = make_game()
    game.step()
    assert not_finite(game) == ""
    moments = game.opt_D.state[next(p for p in game.adversarial_params)]["exp_avg_sq"]
    moments.view(-1)[0] = float("inf")
    assert "optimiser of D" in not_finite(game)
    next(game.G_ema.parameters()).view(-1)[0] = float("nan")
    assert "generator's average" in not_finite(game)


def test_rates_fall_and_rise_with_the_course(make_game):
    game, course = make_game(), Course()
    before = [group["lr"] for opt in game._optimisers() for group in opt.param_groups]
    for i in range(MOST):
        assert not course.exhausted
        course.went_back(f"sign {i}")
    assert course.exhausted and course.rates(8.0) == "4, 2 and 1"
    game.set_rates(course.factor)
    game.load_state_dict(game.state_dict())
    game.set_rates(course.factor)
    assert [group["lr"] for opt in game._optimisers() for group in opt.param_groups] == [lr / 8 for lr in before]
    course.steered()
    assert course.factor == 1 and not course.exhausted


def test_a_checkpoint_between_two_looks_is_healthy_when_the_next_one_finds_nothing():
    course = Course()
    course.saved(0, True)
    course.saved(5, False)
    assert course.healthy == 0 and course.kept == [0, 5]
    course.judged_sound()
    assert course.healthy == 5 and course.kept == [5]
    course.saved(7, False)
    course.went_back("lost")
    assert course.healthy == 5 and course.kept == [5], "what was saved on the way into it is nothing to go back to"
