"""The artefact branch: what its filters let through, what a patch sees, and what it costs to look."""

from __future__ import annotations

import pytest
import torch

from discriminator.artefact import RESIDUALS, SCALE, ArtefactBranch, ResidualBank


@pytest.mark.parametrize("residual", [name for name in RESIDUALS if name != "pixels"])
def test_banks_are_blind_to_flat_colour_and_unit_norm(residual):
    bank = RESIDUALS[residual].double()
    torch.testing.assert_close(bank.sum((1, 2)), torch.zeros(len(bank), dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(bank.norm(dim=(1, 2)), torch.ones(len(bank), dtype=torch.float64), atol=1e-6, rtol=0)
    flat = torch.tensor([0.9, -0.2, 0.4]).view(1, 3, 1, 1).expand(2, 3, 16, 16)
    assert ResidualBank(residual, 3)(flat).abs().max() < 1e-4


def test_second_order_filters_are_blind_to_ramps():
    ramp = torch.linspace(-0.5, 0.5, 24).expand(1, 3, 24, 24)
    out = ResidualBank("highpass", 3)(ramp).view(3, 8, 24, 24)[:, :, 4:-4, 4:-4]
    assert out[:, 4:].abs().max() < 1e-4
    assert out[:, 0].abs().min() > 0.1  # the first difference along x does see it


def test_residual_is_the_difference_of_neighbours_truncated():
    torch.manual_seed(0)
    img = torch.rand(2, 3, 12, 12) * 2 - 1
    out = ResidualBank("neighbour", 3)(img).view(2, 3, 4, 12, 12)
    left = (img[..., 1:] - img[..., :-1]) / 2**0.5 * SCALE
    torch.testing.assert_close(out[:, :, 0, :, 1:], left.clamp(-3, 3), atol=1e-4, rtol=1e-5)
    assert out.abs().max() <= 3


def test_grey_and_rgba_images_have_their_own_residuals():
    for channels in (1, 3, 4):
        branch = ArtefactBranch(img_channels=channels, channels=4)
        out = branch(torch.zeros(2, channels, 32, 32))
        assert out.patch_logits.shape == (2, 8, 8)
        assert out.pooled.shape == (2, branch.pooled_dim)


@pytest.mark.parametrize(("blocks", "size"), [(0, 7), (1, 14), (2, 28), (3, 56)])
def test_a_patch_sees_a_square_and_nothing_beyond(blocks, size):
    """Perturb every pixel along a line: the patch logit moves for those inside its receptive field and no others."""
    stride = 2**blocks
    torch.manual_seed(0)
    branch = ArtefactBranch(channels=4, blocks=blocks).double().eval()
    branch.forward = _in_double(branch)
    side = 128
    img = (torch.rand(1, 3, side, side, dtype=torch.float64) * 0.02).requires_grad_()
    patch = branch.forward(img)
    assert patch.shape[-1] == side // stride
    row, col = patch.shape[1] // 2, patch.shape[2] // 2
    (grad,) = torch.autograd.grad(patch[0, row, col], img)
    touched = grad.abs().sum((0, 1)) > 0
    for axis in (0, 1):
        seen = touched.any(axis).nonzero()
        assert int(seen.max() - seen.min()) + 1 == size
    if blocks == 2:
        assert (size, stride) == (28, 4) and size <= 35


def _in_double(branch):
    """The branch's layers in float64 (its own forward works in float32)."""

    def forward(img):
        x = branch.residual(img)
        x = torch.nn.functional.leaky_relu(branch.stem(x), 0.2)
        for before, after in zip(branch.before_pool, branch.after_pool, strict=True):
            x = torch.nn.functional.leaky_relu(before(x), 0.2)
            x = torch.nn.functional.leaky_relu(after(torch.nn.functional.avg_pool2d(x, 2)), 0.2)
        return branch.patch(x).squeeze(1)

    return forward


def test_patch_logits_agree_with_the_plain_layers_in_float64():
    torch.manual_seed(0)
    branch = ArtefactBranch(channels=8)
    img = torch.rand(2, 3, 32, 32) * 2 - 1
    found = branch(img).patch_logits.double()
    double = branch.double()
    torch.testing.assert_close(found, _in_double(double)(img.double()), atol=1e-4, rtol=1e-4)


def test_pooled_statistics_are_mean_deviation_and_soft_maximum():
    torch.manual_seed(0)
    branch = ArtefactBranch(channels=4)
    out = branch(torch.rand(3, 3, 32, 32) * 2 - 1)
    flat = out.patch_logits.flatten(1)
    mean, std, soft = out.pooled[:, -3:].unbind(1)
    torch.testing.assert_close(mean, flat.mean(1))
    torch.testing.assert_close(std, flat.var(1, correction=0).add(1e-6).sqrt())
    torch.testing.assert_close(soft, flat.exp().mean(1).log(), atol=1e-5, rtol=1e-5)


def test_low_precision_is_for_training_only():
    torch.manual_seed(0)
    branch = ArtefactBranch(channels=8)
    img = torch.rand(2, 3, 32, 32) * 2 - 1
    exact = branch.eval()(img).patch_logits
    branch.lowp_dtype = torch.bfloat16
    assert torch.equal(branch.eval()(img).patch_logits, exact)
    rough = branch.train()(img).patch_logits
    assert rough.dtype == torch.float32 and not torch.equal(rough, exact)
    torch.testing.assert_close(rough, exact, atol=0.05, rtol=0.05)


def test_a_constant_image_has_finite_gradients():
    branch = ArtefactBranch(channels=4)
    branch(torch.zeros(2, 3, 16, 16)).pooled.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in branch.parameters())


def test_unknown_residual_is_named():
    with pytest.raises(ValueError, match="'dct'"):
        ResidualBank("dct", 3)


def test_the_local_spectrum_is_scipys_cosine_transform():
    from scipy.fft import dctn

    img = torch.rand(1, 1, 16, 16) * 0.1
    found = ResidualBank("spectrum", 1)(img)[0]
    # a 4x4 kernel lies at rows and columns 0 to 3 of its 5x5 window, so output (6, 7) sees rows 4 to 7, columns 5 to 8
    expected = dctn(img[0, 0, 4:8, 5:9].double().numpy(), norm="ortho").ravel()[1:] * SCALE
    torch.testing.assert_close(found[:, 6, 7].double(), torch.from_numpy(expected).clamp(-3, 3), atol=1e-5, rtol=0)
