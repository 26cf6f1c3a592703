"""The step: every mechanism acts, resumes exactly, and does not depend on how a batch is shared out."""

import copy
import dataclasses

import pytest
import torch

import adversarial.game
from adversarial import verdict_phase
from common.errors import UserError


def snapshot(game) -> dict[str, torch.Tensor]:
    nets = {n: getattr(game, n) for n in ("G", "D", "G_ema", "D_ema")}
    return {f"{n}.{k}": v.clone() for n, net in nets.items() for k, v in net.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_every_phase_is_reported_and_finite(make_game):
    game = make_game()
    for _ in range(4):
        game.step()
    rows = game.stats.collect()
    for name in ("Loss/G/loss", "Loss/D/loss", "Loss/r1_penalty", "Loss/pl_penalty", "Loss/verdict", "Gradients/G",
                 "Gradients/D", "Gradients/V", "Gradients/Greg", "Gradients/Dreg", "Verdict/accuracy"):  # fmt: skip
        assert rows[name]["num"] > 0 and "nonfinite" not in rows[name], name
    assert rows["Loss/r1_penalty"]["num"] == 2 * 8 and rows["Gradients/Greg"]["num"] == 2
    assert float(game.pl_mean) > 0
    assert game.nimg == 32


def test_the_average_generator_is_the_published_ema(make_game):
    """beta = 0.5 ** (batch / (nimg * rampup)) once images were seen; the first average is a copy."""
    game = make_game()
    game.step()
    weights = {k: p.detach().clone() for k, p in game.G.named_parameters()}
    for k, p in game.G_ema.named_parameters():
        assert torch.equal(p, weights[k])
    before = {k: p.clone() for k, p in game.G_ema.named_parameters()}
    game.step()
    beta = 0.5 ** (8 / min(game.cfg.ema_kimg * 1000, 8 * game.cfg.ema_rampup))
    for k, p in game.G.named_parameters():
        expected = beta * before[k] + (1 - beta) * p.detach()
        assert torch.allclose(dict(game.G_ema.named_parameters())[k], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("at", [1, 3, 4])
def test_resume_is_exact_over_game_and_verdict_head(make_game, at):
    """Killed after `at` steps (and again inside the verdict-only phase) and restored into a fresh process's objects."""
    options = {
        "verdict_kimg": 0.032,
        "generator_verdict_weight": 0.1,
        "trunk_grad_scale": 0.1,
        "aug": "fixed",
        "p": 0.5,
    }
    straight = make_game(**options)
    for _ in range(6):
        straight.step()
    resumed = make_game(**options)
    for _ in range(at):
        resumed.step()
    state = copy.deepcopy(resumed.state_dict())
    resumed = make_game(**options)
    for p in resumed.G.parameters():
        p.data.add_(1.0)  # whatever was there before must not matter
    resumed.load_state_dict(state)
    for _ in range(6 - at):
        resumed.step()
    assert_same(snapshot(straight), snapshot(resumed))
    assert straight.stats.collect() == resumed.stats.collect()

    for game in (straight, resumed):
        verdict_phase.begin_verdict_phase(game)
    verdict_phase.verdict_step(straight, 0)
    verdict_phase.verdict_step(resumed, 0)
    state = copy.deepcopy(resumed.state_dict())
    resumed = make_game(**options)
    resumed.load_state_dict(state)
    resumed.D.trunk.requires_grad_(False)
    for index in (1, 2):
        verdict_phase.verdict_step(straight, index)
        verdict_phase.verdict_step(resumed, index)
    assert_same(snapshot(straight), snapshot(resumed))
    rows = straight.stats.collect()
    assert rows == resumed.stats.collect() and "Loss/verdict" in rows


def test_accumulated_micro_batches_equal_the_mean_gradient(make_game):
    """Two micro-batches give one step with the mean of their gradients: the same as two ranks (test_distributed)."""
    game = make_game(batch_gpu=4)
    assert game.cfg.micro_batches == 2
    game.step()
    assert game.nimg == 8
    rows = game.stats.collect()
    assert rows["Gradients/G"]["num"] == 1 and rows["Loss/scores/real"]["num"] == 8


def test_verdict_training_leaves_the_game_alone_when_detached(make_game):
    """trunk_grad_scale 0: generator and trunk are the same with and without the verdict head."""
    with_head, without = make_game(trunk_grad_scale=0.0), make_game(trunk_grad_scale=0.0, verdict_batch=0)
    for _ in range(3):
        with_head.step()
        without.step()
    for name in ("G", "G_ema"):
        assert_same(getattr(with_head, name).state_dict(), getattr(without, name).state_dict())
    assert_same(with_head.D.trunk.state_dict(), without.D.trunk.state_dict())


def test_a_nonfinite_gradient_skips_the_step_and_is_counted(make_game):
    game = make_game()
    game.step()
    before = snapshot(game)
    game._learn(game.G)
    for p in game.G.parameters():
        p.grad = torch.zeros_like(p)
    next(game.G.parameters()).grad.view(-1)[:3] = float("nan")
    game.update("G", game.opt_G, game.G.parameters())
    assert_same(before, snapshot(game))
    assert game.stats.collect()["Gradients/nonfinite_G"]["mean"] == 3
    with pytest.raises(UserError, match="non-finite"):
        for _ in range(60):
            for p in game.G.parameters():
                p.grad = torch.full_like(p, float("inf"))
            game.update("G", game.opt_G, game.G.parameters())


@pytest.mark.parametrize("lost", [float("inf"), float("nan")])
def test_a_path_length_that_is_no_number_is_forgotten_with_its_step(make_game, monkeypatch, lost):
    game = make_game()
    game.step()
    before, exact = float(game.pl_mean), adversarial.game.path_lengths
    with monkeypatch.context() as patch:
        patch.setattr(adversarial.game, "path_lengths", lambda *args: exact(*args) * lost)
        game._path_length_turn(2)
    assert float(game.pl_mean) == before > 0
    assert game.stats.collect()["Gradients/skipped_G"]["num"] == 1
    game._path_length_turn(4)
    assert "Gradients/skipped_G" not in game.stats.collect() and 0 < float(game.pl_mean) != before
    state = game.state_dict() | {"pl_mean": torch.tensor(lost)}  # of a version that kept it
    game.load_state_dict(state)
    assert float(game.pl_mean) == 0


@pytest.mark.parametrize("scale", [0.0, 0.1])
def test_the_generator_learns_to_fool_the_whole_verdict_head(make_game, monkeypatch, scale):
    """Its gradient is that of its loss, however little of the verdict's enters the trunk."""

    def gradient(scale: float) -> torch.Tensor:
        game = make_game(generator_verdict_weight=1.0, trunk_grad_scale=scale)
        torch.manual_seed(0)
        torch.nn.init.normal_(game.D.verdict_head.out.weight)
        taken = []
        monkeypatch.setattr(game, "update", lambda *_, **__: taken.extend(p.grad for p in game.G.parameters()))
        game._generator_turn(0)
        return torch.cat([g.flatten() for g in taken if g is not None])

    assert torch.equal(gradient(scale), gradient(1.0))


def test_one_network_that_is_lost_ends_the_run_however_well_the_other_does(make_game):
    game = make_game()
    with pytest.raises(UserError, match="last of G"):
        for _ in range(60):
            for net, name, opt in ((game.G, "G", game.opt_G), (game.D, "D", game.opt_D)):
                params = game.adversarial_params if name == "D" else list(net.parameters())
                for p in params:
                    p.grad = torch.full_like(p, float("nan") if name == "G" else 0.0)
                game.update(name, opt, params)
    rows = game.stats.collect()
    assert rows["Gradients/skipped_G"]["num"] == 50 and rows["Gradients/D"]["num"] == 49


def test_an_update_that_is_not_waited_for_does_the_same(make_game):
    """What a GPU does: the optimiser's kernel skips a bad step by itself, and the count is read later."""
    waiting, game = make_game(), make_game()
    game.asynchronous = True
    for i in range(4):
        for one in (waiting, game):
            one._learn(one.G)
            for p in one.G.parameters():
                p.grad = torch.full_like(p, float("nan") if i in (1, 2) else 0.1)
            one.update("G", one.opt_G, one.G.parameters())
    game.settle()
    assert_same(snapshot(waiting), snapshot(game))
    assert game.bad_steps == 0
    assert game.stats.collect()["Gradients/nonfinite_G"]["mean"] == 2
    with pytest.raises(UserError, match="non-finite"):
        for _ in range(60):
            for p in game.G.parameters():
                p.grad = torch.full_like(p, float("inf"))
            game.update("G", game.opt_G, game.G.parameters())
        game.settle()


@pytest.mark.gpu
def test_nothing_waits_for_the_gpu_within_an_interval_of_ada(make_game):
    game = make_game(device="cuda", aug="fixed", p=0.3, verdict_batch=0)
    for _ in range(3):
        game.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):
            game.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_verdict_head_learns_to_tell_the_classes(make_game):
    game = make_game(verdict_batch=16, degradation="none", verdict_lr=5e-3)
    bright = game.feed.faces.labels == 1
    game.feed.faces.images[bright] //= 4  # labelled fakes are dark, and so easy to tell from reals
    for _ in range(40):
        game.step()
    game.stats.collect()
    for _ in range(10):
        game.step()
    assert game.stats.collect()["Verdict/accuracy"]["mean"] > 0.8


def test_ada_raises_p_while_the_discriminator_is_too_sure(make_game):
    game = make_game(target=0.0, p_max=0.3)
    for _ in range(20):
        game.signs += torch.tensor([8.0, 8.0])
        game.step()
    p = float(game.augment.p)
    assert 0 < p <= 0.3 + 1e-6
    other = make_game(target=0.0, p_max=0.3)
    other.load_state_dict(game.state_dict())
    for g in (game, other):
        g.signs += torch.tensor([8.0, 8.0])
        g.step()
        g.step()
    assert float(other.augment.p) == float(game.augment.p) >= p


@pytest.mark.parametrize("interval", [1, 4])
def test_p_moves_by_the_published_rule(make_game, interval):
    """Every `interval` batches, by sign(E[sign D(real)] - target) * images / (1000 ada_kimg); 0 to 1 in ada_kimg."""
    game = make_game(target=0.5, p_max=1.0)
    game.cfg = dataclasses.replace(game.cfg, ada_interval=interval, pl_interval=100, r1_interval=100)
    game.ada.ada_kimg = 1.0
    game._discriminator_turn = lambda it: game.signs.add_(torch.tensor([8.0, 8.0]))
    for step in range(1, 9):
        game.step()
        assert float(game.augment.p) == pytest.approx(8 * (step // interval * interval) / 1000)


def test_a_checkpoint_of_another_architecture_is_refused(make_game):
    state = make_game().state_dict()
    state["G"] = {k: v[:1] if v.ndim else v for k, v in state["G"].items()}
    with pytest.raises(UserError, match="another architecture"):
        make_game().load_state_dict(state)


def test_fakes_and_reals_in_one_pass_are_the_paper_s_two_losses(make_game, monkeypatch):
    """The turn leaves the gradients of softplus(D(fakes)) and softplus(-D(reals)), each judged by itself."""
    game = make_game(aug="fixed", p=0.5, verdict_batch=0)
    seen, gradients = [], {}
    augment = game.augment.forward
    monkeypatch.setattr(game.augment, "forward", lambda images: seen.append(augment(images)) or seen[-1])
    monkeypatch.setattr(
        game, "update", lambda name, opt, params, extra=None: gradients.update({p: p.grad.clone() for p in params})
    )
    game._discriminator_turn(0)
    fakes, reals = seen
    game.D.zero_grad()
    softplus = torch.nn.functional.softplus
    (softplus(game.D.adversarial(fakes)).mean() + softplus(-game.D.adversarial(reals)).mean()).backward()
    assert gradients
    for p, gradient in gradients.items():
        torch.testing.assert_close(gradient, p.grad, rtol=1e-3, atol=1e-6)
