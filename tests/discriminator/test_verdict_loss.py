"""The verdict's loss against closed forms, scikit-learn-like definitions and numerical gradients."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Bernoulli, kl_divergence

from discriminator.hybrid import VerdictOut
from discriminator.verdict_loss import VerdictLossConfig, class_weights, symmetric_kl, verdict_loss

LABELS = torch.tensor([0, 1, 0, 0, 1])


def verdicts(seed: int, n: int = 5) -> VerdictOut:
    g = torch.Generator().manual_seed(seed)
    return VerdictOut(torch.randn(n, generator=g).double(), torch.randn(n, 3, 3, generator=g).double())


def test_undecided_costs_log_two_everywhere():
    out = VerdictOut(torch.zeros(5), torch.zeros(5, 4, 4))
    loss = verdict_loss(out, LABELS, degraded=out)
    torch.testing.assert_close(torch.stack(loss[1:]), torch.tensor([math.log(2), math.log(2), 0.0]))
    torch.testing.assert_close(loss.total, torch.tensor(1.5 * math.log(2)))


def test_unbalanced_loss_is_plain_cross_entropy():
    out = verdicts(0)
    loss = verdict_loss(out, LABELS, cfg=VerdictLossConfig(balance=False))
    y = LABELS.double()
    torch.testing.assert_close(loss.verdict, F.binary_cross_entropy_with_logits(out.logit, y))
    wide = y.view(5, 1, 1).expand(5, 3, 3)
    torch.testing.assert_close(loss.patch, F.binary_cross_entropy_with_logits(out.patch_logits, wide))
    torch.testing.assert_close(loss.total, loss.verdict + 0.5 * loss.patch)


def test_balanced_loss_is_the_mean_of_the_classes_means():
    out = verdicts(0)
    each = F.binary_cross_entropy_with_logits(out.logit, LABELS.double(), reduction="none")
    expected = (each[LABELS == 0].mean() + each[LABELS == 1].mean()) / 2
    torch.testing.assert_close(verdict_loss(out, LABELS).verdict, expected)


def test_two_views_share_the_label_and_are_asked_to_agree():
    clean, degraded = verdicts(0), verdicts(1)
    both = verdict_loss(clean, LABELS, degraded=degraded)
    one, other = verdict_loss(clean, LABELS), verdict_loss(degraded, LABELS)
    torch.testing.assert_close(both.verdict, (one.verdict + other.verdict) / 2)
    torch.testing.assert_close(both.patch, (one.patch + other.patch) / 2)
    p, q = Bernoulli(logits=clean.logit), Bernoulli(logits=degraded.logit)
    kl = (kl_divergence(p, q) + kl_divergence(q, p)) / 2
    torch.testing.assert_close(both.consistency, (class_weights(LABELS.double()) * kl).sum())
    mse = verdict_loss(
        clean, LABELS, degraded=degraded, cfg=VerdictLossConfig(consistency_kind="mse", consistency=2, balance=False)
    )
    torch.testing.assert_close(mse.consistency, F.mse_loss(clean.logit, degraded.logit))
    torch.testing.assert_close(mse.total, mse.verdict + 0.5 * mse.patch + 2 * mse.consistency)


def test_symmetric_kl_is_a_finite_nonnegative_divergence_at_the_ends():
    a = torch.tensor([-1e4, 1e4, 0.0, 80.0], requires_grad=True)
    b = torch.tensor([1e4, 1e4, 0.0, -80.0])
    d = symmetric_kl(a, b)
    torch.testing.assert_close(d.detach(), torch.tensor([1e4, 0.0, 0.0, 80.0]))
    d.sum().backward()
    assert torch.isfinite(a.grad).all()


def test_smoothing_pulls_the_targets_together():
    out = verdicts(0)
    loss = verdict_loss(out, LABELS, cfg=VerdictLossConfig(smoothing=0.2, balance=False))
    expected = F.binary_cross_entropy_with_logits(out.logit, LABELS.double() * 0.8 + 0.1)
    torch.testing.assert_close(loss.verdict, expected)


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1], [0, 1], [0, 1, 1, 1]])
def test_class_weights_sum_to_one(labels):
    y = torch.tensor(labels, dtype=torch.float64)
    w = class_weights(y)
    torch.testing.assert_close(w.sum(), torch.tensor(1.0, dtype=torch.float64))
    if 0 in labels and 1 in labels:
        torch.testing.assert_close(w[y == 1].sum(), w[y == 0].sum())


def test_without_patches_there_is_no_patch_term():
    out = VerdictOut(torch.zeros(2), None)
    loss = verdict_loss(out, torch.tensor([0, 1]))
    assert loss.patch == 0 and torch.equal(loss.total, loss.verdict)


def test_gradients_are_right():
    clean, degraded = verdicts(0), verdicts(1)
    for kind in ("kl", "mse"):
        cfg = VerdictLossConfig(smoothing=0.1, consistency_kind=kind)
        inputs = [t.clone().requires_grad_() for t in (*clean, *degraded)]
        assert torch.autograd.gradcheck(
            lambda a, pa, b, pb, cfg=cfg: (
                verdict_loss(VerdictOut(a, pa), LABELS, degraded=VerdictOut(b, pb), cfg=cfg).total
            ),
            inputs,
        )


@pytest.mark.parametrize(
    "options", [{"patch": -1}, {"consistency": float("nan")}, {"consistency_kind": "cosine"}, {"smoothing": 1.0}]
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError):
        VerdictLossConfig(**options)


def test_wrong_shapes_are_refused():
    out = verdicts(0)
    for labels in (torch.zeros(4), torch.zeros(5, 1), torch.zeros(0)):
        with pytest.raises(ValueError, match="labels"):
            verdict_loss(out, labels)
    with pytest.raises(ValueError, match="labels"):
        verdict_loss(out, LABELS, degraded=verdicts(1, 4))
