"""The hybrid discriminator: one trunk, two heads that don't disturb each other."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from discriminator.hybrid import HybridConfig, HybridDiscriminator, scale_gradient
from discriminator.verdict_loss import verdict_loss
from stylegan2_ada.config import DiscriminatorConfig
from stylegan2_ada.discriminator import Discriminator


def images(n: int = 4, side: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("c_dim", [0, 5])
def test_adversarial_head_is_the_stylegan2_discriminator(hybrid, c_dim):
    net = hybrid(trunk={"c_dim": c_dim, "mapping_layers": 2})
    plain = Discriminator(net.cfg.trunk)
    plain.load_state_dict(net.trunk.state_dict())
    img = images(8)
    c = F.one_hot(torch.arange(8) % c_dim, c_dim).float() if c_dim else None
    assert torch.equal(net.adversarial(img, c), plain(img, c))
    out = net(img, c)
    assert torch.equal(out.adversarial, plain(img, c))
    assert out.adversarial.shape == (8, 1) and out.logit.shape == (8,) and out.patch_logits.shape == (8, 8, 8)


def test_one_pass_gives_the_same_as_the_two_heads_apart(hybrid):
    net = hybrid()
    img = images(4)
    both, verdict = net(img), net.verdict(img)
    torch.testing.assert_close(both.logit, verdict.logit)
    torch.testing.assert_close(both.patch_logits, verdict.patch_logits)


@pytest.mark.parametrize("training", [False, True])
def test_a_verdict_does_not_depend_on_the_other_images(hybrid, training):
    net = hybrid().train(training)
    img = images(8)
    together = net.verdict(img)
    for i in range(8):
        alone = net.verdict(img[i : i + 1])
        torch.testing.assert_close(alone.logit, together.logit[i : i + 1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(alone.patch_logits, together.patch_logits[i : i + 1], atol=1e-5, rtol=1e-5)
    assert together.logit.std() > 1e-3, "the test says nothing if all verdicts are equal"


def test_parameters_are_parted_without_overlap_or_remainder(hybrid):
    net = hybrid()
    game, verdict = ({id(p) for p in ps} for ps in (net.adversarial_parameters(), net.verdict_parameters()))
    assert not game & verdict
    assert game | verdict == {id(p) for p in net.parameters()}
    assert game == {id(p) for p in net.trunk.parameters()}


def test_scale_gradient_keeps_the_value_and_scales_the_gradient():
    x = torch.randn(5, requires_grad=True)
    for scale in (0.1, 0.25, 1.0):
        y = scale_gradient(x, scale)
        assert torch.equal(y, x)
        (grad,) = torch.autograd.grad((y**3).sum(), x)
        torch.testing.assert_close(grad, 3 * x**2 * scale)
    assert not scale_gradient(x, 0).requires_grad


def test_scale_gradient_is_twice_differentiable():
    x = torch.randn(4, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad((scale_gradient(x, 0.5) ** 3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(grad.sum(), x)
    # d/dx of 0.5 * 3 x'^2 with x' = scale(x): the inner gradient passes the scaling once more
    torch.testing.assert_close(second, 0.5 * 0.5 * 6 * x)


def trunk_gradient(net: HybridDiscriminator, img: torch.Tensor) -> torch.Tensor | None:
    net.zero_grad(set_to_none=True)
    net.verdict(img).logit.sum().backward()
    grads = [p.grad.flatten() for p in net.adversarial_parameters() if p.grad is not None]
    return torch.cat(grads) if grads else None


def test_verdict_gradient_into_the_trunk_is_scaled(hybrid):
    img = images()
    full, tenth, none = (trunk_gradient(hybrid(trunk_grad_scale=s), img) for s in (1.0, 0.1, 0.0))
    assert full.norm() > 0
    torch.testing.assert_close(tenth, 0.1 * full, atol=1e-7, rtol=1e-4)
    assert none is None


def test_verdict_never_reaches_the_adversarial_head(hybrid):
    net = hybrid(trunk_grad_scale=1.0)
    trunk_gradient(net, images())
    assert all(p.grad is None for layer in (net.trunk.conv, net.trunk.fc, net.trunk.out) for p in layer.parameters())


def test_images_still_get_a_gradient_when_the_trunk_gets_none(hybrid):
    net = hybrid(trunk_grad_scale=0.0)
    img = images().requires_grad_()
    (grad,) = torch.autograd.grad(net.verdict(img).logit.sum(), img)
    assert grad.norm() > 0


@pytest.mark.parametrize("scale", [0.0, 0.1])
def test_a_caller_may_have_the_whole_gradient_through_the_trunk(hybrid, scale):
    img = images().requires_grad_()
    wanted = torch.autograd.grad(hybrid(trunk_grad_scale=1.0).verdict(img).logit.sum(), img)[0]
    net = hybrid(trunk_grad_scale=scale)
    assert torch.equal(torch.autograd.grad(net.verdict(img, into_trunk=1.0).logit.sum(), img)[0], wanted)
    assert not torch.allclose(torch.autograd.grad(net.verdict(img).logit.sum(), img)[0], wanted)


@pytest.mark.parametrize("branches", [("spatial",), ("artefact",), ("spatial", "artefact")])
def test_branches_can_be_left_out(hybrid, branches):
    net = hybrid(branches=branches)
    out = net(images())
    assert out.logit.shape == (4,)
    assert (out.patch_logits is None) == ("artefact" not in branches)
    # The adversarial head is there in every arm.
    assert out.adversarial.shape == (4, 1)


def test_artefact_only_does_not_read_the_trunk(hybrid):
    net = hybrid(branches=("artefact",))
    net.trunk = torch.nn.Identity()
    assert net.verdict(images()).logit.shape == (4,)


@pytest.mark.parametrize("resolution", [8, 16, 64])
def test_other_resolutions(resolution):
    trunk = DiscriminatorConfig(resolution, channel_base=128, channel_max=8)
    cfg = HybridConfig(trunk, artefact_blocks=1 if resolution == 8 else 2)
    net = HybridDiscriminator(cfg)
    out = net(images(2, resolution))
    assert out.logit.shape == (2,) and out.patch_logits.shape[0] == 2
    assert torch.isfinite(out.logit).all()


def test_bfloat16_blocks_train_but_do_not_judge(hybrid):
    exact = hybrid(trunk={"num_lowp_res": 2}).eval()
    img = images()
    low = exact.verdict(img)
    exact.lowp_dtype = torch.float32
    assert torch.equal(low.logit, exact.verdict(img).logit)
    net = hybrid(trunk={"num_lowp_res": 2}).train()
    assert net.artefact.lowp_dtype == torch.bfloat16
    loss = verdict_loss(net.verdict(img), torch.tensor([0, 1, 0, 1]))
    loss.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in net.verdict_parameters())


def test_half_precision_is_never_used_by_the_artefact_branch(hybrid):
    net = hybrid(trunk={"num_lowp_res": 2})
    net.lowp_dtype = torch.float16
    assert net.trunk.lowp_dtype == torch.float16 and net.artefact.lowp_dtype is None


def test_two_tiny_classes_are_learned(hybrid):
    """Smooth pictures against the same pictures with a faint checkerboard, as a transposed convolution leaves."""
    net = hybrid()
    smooth = F.interpolate(torch.randn(16, 3, 5, 5, generator=torch.Generator().manual_seed(3)), 32, mode="bicubic")
    smooth = smooth.clamp(-1, 1) * 0.8
    board = (torch.arange(32)[:, None] + torch.arange(32)) % 2 * 2 - 1
    img = torch.cat([smooth, smooth + 0.02 * board])
    labels = torch.arange(32) // 16
    opt = torch.optim.Adam(net.verdict_parameters(), lr=5e-3)
    before = verdict_loss(net.verdict(img), labels)
    for _ in range(40):
        loss = verdict_loss(net.verdict(img), labels)
        opt.zero_grad()
        loss.total.backward()
        opt.step()
    after = verdict_loss(net.verdict(img), labels)
    assert after.verdict < 0.1 < before.verdict
    assert after.patch < before.patch
    assert (((net.verdict(img).logit > 0) == (labels == 1)).float().mean()) == 1


def test_config_travels_through_json(hybrid_config):
    cfg = hybrid_config(residual="wavelet", branches=("artefact",), trunk_grad_scale=0.5)
    assert HybridConfig.from_dict(json.loads(json.dumps(cfg.to_dict()))) == cfg


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"artefact_channels": 0}, "artefact_channels"),
        ({"artefact_blocks": 9}, "artefact_blocks"),
        ({"artefact_blocks": 4}, "patch map"),
        ({"verdict_dim": 10**9}, "verdict_dim"),
        ({"trunk_grad_scale": -1}, "trunk_grad_scale"),
        ({"trunk_grad_scale": float("nan")}, "trunk_grad_scale"),
        ({"residual": "nope"}, "nope"),
        ({"branches": ()}, "branches"),
        ({"branches": ("spatial", "spatial")}, "branches"),
        ({"trunk": {"resolution": 4}, "artefact_blocks": 0}, "8 px"),
    ],
)
def test_bad_options_are_named(hybrid_config, changes, word):
    with pytest.raises(ValueError, match=word):
        hybrid_config(**changes)


def test_unknown_option_in_a_header_is_named(hybrid_config):
    with pytest.raises(ValueError, match="quantum"):
        HybridConfig.from_dict({**hybrid_config().to_dict(), "quantum": 1})
