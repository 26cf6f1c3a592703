"""Whole networks: the recorded published numbers, and the properties that don't depend on them."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stylegan2_ada.config import DiscriminatorConfig, GeneratorConfig
from stylegan2_ada.discriminator import Discriminator, minibatch_stddev
from stylegan2_ada.generator import Generator
from stylegan2_ada.layers import Dense, Mapping
from stylegan2_ada.names import load_published, to_published

ROOT = Path(__file__).resolve().parents[2]

# The recorded numbers are float32: their own rounding is what float64 differs by.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 2e-6}


class Recorded:
    """A recorded pair of networks with its inputs and outputs in one dtype."""

    def __init__(self, golden, name, dtype):
        cfg, _ = golden(name)
        self.weights = golden(f"{name}_weights")[1]
        self.io = {k: torch.from_numpy(v).to(dtype) for k, v in golden(f"{name}_io")[1].items()}
        group = cfg.pop("mbstd_group_size")
        self.G = Generator(GeneratorConfig(**cfg)).to(dtype)
        kept = ("resolution", "c_dim", "img_channels", "channel_base", "channel_max")
        self.D = Discriminator(DiscriminatorConfig(**{k: cfg[k] for k in kept}, mbstd_group_size=group)).to(dtype)
        load_published(self.G, self.weights, "G.")
        load_published(self.D, self.weights, "D.")
        self.tolerance = TOLERANCE[dtype]

    def check(self, value, name, tolerance=None):
        expected = self.io[name]
        error = (value.detach() - expected).abs().max() / expected.abs().max()
        assert error < (tolerance or self.tolerance), f"{name}: relative error {error:.2g}"


@pytest.fixture(params=["uncond32", "cond64"])
def name(request):
    return request.param


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def recorded(request, golden, name):
    return Recorded(golden, name, request.param)


def test_recorded_mapping(recorded):
    z, c = recorded.io["z"], recorded.io["c"]
    recorded.check(recorded.G.mapping(z, c), "w")
    recorded.check(recorded.G.mapping(z, c, psi=0.7), "w_psi0.7")
    recorded.check(recorded.G.mapping(z, c, psi=0.5, cutoff=4), "w_psi0.5_cutoff4")


def test_recorded_images(recorded):
    G, z, c = recorded.G, recorded.io["z"], recorded.io["c"]
    with torch.no_grad():
        recorded.check(G(z, c, noise_mode="const"), "img_const")
        recorded.check(G(z, c, noise_mode="const", fused_modconv=True), "img_const")
        recorded.check(G(z, c, noise_mode="none"), "img_none")
        recorded.check(G(z, c, psi=0.7, noise_mode="const"), "img_psi0.7_const")


def test_recorded_path_lengths(recorded):
    """Path length regularisation, StyleGAN2 equation 4, for the recorded image noise."""
    ws = recorded.G.mapping(recorded.io["z"], recorded.io["c"])
    image = recorded.G.synthesis(ws, noise_mode="const")
    (gradient,) = torch.autograd.grad((image * recorded.io["pl_noise"]).sum(), ws)
    recorded.check(gradient.square().sum(dim=2).mean(dim=1).sqrt(), "pl_lengths")


def test_recorded_discriminator(recorded):
    image = recorded.io["D_img"].requires_grad_()
    logits = recorded.D(image, recorded.io["D_c"])
    recorded.check(logits, "D_logits")
    (gradient,) = torch.autograd.grad(logits.sum(), image)
    # One activation of one recorded image lies so near 0 that float32 rounding chose its side of the leaky ReLU: 6e-5.
    recorded.check(gradient.square().sum(dim=[1, 2, 3]), "D_r1_penalty_per_image", 2e-5)


def test_published_names_both_ways(golden, name):
    recorded = Recorded(golden, name, torch.float32)
    for net, prefix in ((recorded.G, "G."), (recorded.D, "D.")):
        published = {prefix + k: v for k, v in to_published(net).items()}
        expected = {k for k in recorded.weights if k.startswith(prefix) and not k.endswith("resample_filter")}
        assert set(published) == expected
        assert all((published[k].numpy() == recorded.weights[k]).all() for k in expected)


def test_published_weights_that_do_not_fit(golden):
    recorded = Recorded(golden, "uncond32", torch.float32)
    weights = {k[2:]: v for k, v in recorded.weights.items() if k.startswith("G.")}
    lacking = {k: v for k, v in weights.items() if k != "synthesis.b8.conv1.noise_const"}
    with pytest.raises(ValueError, match="lacks synthesis.b8.conv1.noise_const"):
        load_published(recorded.G, lacking)
    with pytest.raises(ValueError, match="unknown surprise"):
        load_published(recorded.G, weights | {"surprise": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"synthesis.b4.const has shape \[1\] where"):
        load_published(recorded.G, weights | {"synthesis.b4.const": torch.zeros(1)})
    with pytest.raises(ValueError, match="resampling filter"):
        load_published(recorded.G, weights | {"synthesis.b4.resample_filter": torch.ones(4, 4)})


SMALL = {"channel_base": 256, "channel_max": 16}


def small_pair(resolution=16, *, c_dim=0, img_channels=3, seed=0, num_lowp_res=0, conv_clamp=None, **discriminator):
    torch.manual_seed(seed)
    shape = {"c_dim": c_dim, "img_channels": img_channels, "num_lowp_res": num_lowp_res, "conv_clamp": conv_clamp}
    G = Generator(GeneratorConfig(resolution, z_dim=8, w_dim=8, mapping_layers=2, **shape, **SMALL))
    D = Discriminator(DiscriminatorConfig(resolution, mapping_layers=2, **shape, **SMALL, **discriminator))
    for layer in G.modules():  # so that the noise shows
        if hasattr(layer, "noise_strength"):
            torch.nn.init.constant_(layer.noise_strength, 0.3)
    return G, D


@pytest.mark.parametrize("resolution, img_channels, c_dim", [(4, 3, 0), (8, 1, 2), (16, 4, 0), (32, 3, 0)])
@pytest.mark.parametrize("architecture", ["resnet", "orig"])
def test_shapes(resolution, img_channels, c_dim, architecture):
    G, D = small_pair(resolution, c_dim=c_dim, img_channels=img_channels, architecture=architecture)
    z, c = torch.randn(4, 8), torch.randn(4, c_dim)
    image = G(z, c)
    assert image.shape == (4, img_channels, resolution, resolution) and image.dtype == torch.float32
    assert G.mapping(z, c).shape == (4, G.num_ws, 8)
    features = D.features(image)
    assert D(image, c).shape == (4, 1)
    torch.testing.assert_close(D.head(features[-1], c), D(image, c))
    assert [f.shape[2] for f in features] == [resolution >> k for k in range(1, len(features) + 1)] or resolution == 4
    assert features[-1].shape[2:] == (4, 4)
    (G(z, c).mean() + D(image, c).mean()).backward()
    assert all(p.grad is not None for net in (G, D) for p in net.parameters())


def test_generated_images_do_not_depend_on_their_neighbours():
    G, _ = small_pair()
    G.double()
    z = torch.randn(3, 8, dtype=torch.float64)
    whole = G(z, noise_mode="const")
    for i in range(3):
        torch.testing.assert_close(G(z[i : i + 1], noise_mode="const"), whole[i : i + 1], rtol=1e-10, atol=1e-10)


def test_discriminator_without_minibatch_statistic_is_per_image():
    _, D = small_pair(mbstd_group_size=0)
    D.double()
    image = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(torch.cat([D(image[i : i + 1]) for i in range(3)]), D(image), rtol=1e-10, atol=1e-10)


def test_noise_modes():
    G, _ = small_pair()
    z = torch.randn(2, 8)
    draw = lambda mode: G(z, noise_mode=mode)  # noqa: E731
    assert torch.equal(draw("const"), draw("const"))
    assert torch.equal(draw("none"), draw("none"))
    assert not torch.equal(draw("random"), draw("random"))
    assert not torch.equal(draw("const"), draw("none"))
    torch.manual_seed(5)
    first = draw("random")
    torch.manual_seed(5)
    assert torch.equal(draw("random"), first)
    with pytest.raises(ValueError, match="noise_mode"):
        draw("loud")


def test_truncation():
    torch.manual_seed(0)
    mapping = Mapping(8, 0, 8, 6, 2)
    mapping.w_avg.normal_()
    z = torch.randn(3, 8)
    w, average = mapping(z), mapping.w_avg
    torch.testing.assert_close(mapping(z, psi=0.25), average + 0.25 * (w - average))
    torch.testing.assert_close(mapping(z, psi=0), average.expand(3, 6, 8))
    part = mapping(z, psi=0.25, cutoff=2)
    torch.testing.assert_close(part[:, :2], average + 0.25 * (w[:, :2] - average))
    assert torch.equal(part[:, 2:], w[:, 2:])


def test_mapping_ignores_the_scale_of_z():
    """Latents are normalised, so 10 z is z."""
    mapping = Mapping(8, 0, 8, 6, 2).double()
    z = torch.randn(3, 8, dtype=torch.float64)
    torch.testing.assert_close(mapping(10 * z), mapping(z), rtol=1e-6, atol=1e-6)


def test_equalised_learning_rate():
    """Outputs have unit variance at the start whatever the width and the rate multiplier."""
    torch.manual_seed(0)
    x = torch.randn(4096, 300)
    for multiplier in (1.0, 0.01):
        layer = Dense(300, 200, lr_multiplier=multiplier)
        assert layer(x).std().item() == pytest.approx(1, abs=0.02)
        assert layer.weight.std().item() == pytest.approx(1 / multiplier, rel=0.02)
        layer.bias.data.fill_(1)
        assert (layer(x).mean(dim=0) - layer(-x).mean(dim=0)).abs().max() < 0.3
        assert layer(x * 0).mean().item() == pytest.approx(multiplier)


def test_minibatch_stddev_by_hand():
    x = torch.randn(6, 5, 4, 4, dtype=torch.float64)
    y = minibatch_stddev(x, 3)
    assert y.shape == (6, 6, 4, 4) and torch.equal(y[:, :5], x)
    for i in range(6):
        group = x[i % 2 :: 2]  # images i, i + 2, i + 4
        expected = (group.var(dim=0, unbiased=False) + 1e-8).sqrt().mean()
        torch.testing.assert_close(y[i, 5], expected.expand(4, 4))
    with pytest.raises(ValueError, match="batch of 6 images can't be split"):
        minibatch_stddev(x, 4)
    assert minibatch_stddev(x[:2], 4).shape == (2, 6, 4, 4)  # fewer images than a group make one group


def test_batches_in_one_pass_keep_their_own_minibatch_statistic():
    """Fakes and reals go through the discriminator together and are judged as if they had gone one after the other."""
    _, D = small_pair(c_dim=2, mbstd_group_size=2)
    D, c = D.double(), torch.randn(8, 2, dtype=torch.float64)
    images = torch.randn(8, 3, 16, 16, dtype=torch.float64) * torch.tensor([1.0] * 4 + [5.0] * 4).view(8, 1, 1, 1)
    apart = torch.cat([D(images[:4], c[:4]), D(images[4:], c[4:])])
    torch.testing.assert_close(D(images, c, batches=2), apart)
    assert not torch.allclose(D(images, c), apart, rtol=1e-3)  # as one batch, groups mix the two


def test_wrong_inputs():
    G, D = small_pair(c_dim=2)
    z, c = torch.randn(2, 8), torch.randn(2, 2)
    with pytest.raises(ValueError, match=r"z must be \[N, 8\]"):
        G(torch.randn(2, 9), c)
    with pytest.raises(ValueError, match=r"c must be \[N, 2\]"):
        G(z)
    with pytest.raises(ValueError, match=r"ws must be \[N, 6, 8\]"):
        G.synthesis(torch.randn(2, 5, 8))
    with pytest.raises(ValueError, match=r"images must be \[N, 3, 16, 16\]"):
        D(torch.randn(2, 3, 32, 32), c)
    with pytest.raises(ValueError, match=r"c must be \[N, 2\]"):
        D(torch.randn(2, 3, 16, 16))


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_low_precision_is_close_to_full(dtype, tolerance):
    G, D = small_pair(32, num_lowp_res=2, conv_clamp=256)
    G.lowp_dtype = D.lowp_dtype = dtype
    z = torch.randn(4, 8)
    full, low = (G(z, noise_mode="const", force_fp32=fp32) for fp32 in (True, False))
    assert low.dtype == torch.float32 and not torch.equal(full, low)
    assert (full - low).abs().max() < tolerance * full.abs().max()
    logits, low_logits = D(full, force_fp32=True), D(full)
    assert low_logits.dtype == torch.float32
    assert (logits - low_logits).abs().max() < tolerance * max(logits.abs().max(), 1)
    gradients = []
    for fp32 in (True, False):
        x = full.detach().requires_grad_()
        gradients.append(torch.autograd.grad(D(x, force_fp32=fp32).sum(), x)[0])
    assert torch.nn.functional.cosine_similarity(*(g.flatten() for g in gradients), dim=0) > 0.995


def test_which_blocks_run_in_low_precision():
    _, D = small_pair(32, num_lowp_res=2)
    assert [f.dtype for f in D.features(torch.randn(2, 3, 32, 32))] == [torch.bfloat16, torch.bfloat16, torch.float32]
    _, D = small_pair(16, num_lowp_res=9)  # 4x4 and the head never do
    x = D.features(torch.randn(2, 3, 16, 16))
    assert [f.dtype for f in x] == [torch.bfloat16, torch.float32]


def test_clamp_bounds_activations():
    _, D = small_pair(conv_clamp=0.5, architecture="orig")
    assert max(f.abs().max() for f in D.features(100 * torch.randn(2, 3, 16, 16))) == 0.5


@pytest.mark.gpu
@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_low_precision_on_a_gpu(dtype, tolerance):
    G, D = (net.cuda() for net in small_pair(64, num_lowp_res=4, conv_clamp=256))
    G.lowp_dtype = D.lowp_dtype = dtype
    z = torch.randn(4, 8, device="cuda")
    full, low = (G(z, noise_mode="const", force_fp32=fp32) for fp32 in (True, False))
    assert (full - low).abs().max() < tolerance * full.abs().max()
    on_cpu = G.cpu()(z.cpu(), noise_mode="const", force_fp32=True)
    torch.testing.assert_close(full.cpu(), on_cpu, rtol=1e-2, atol=1e-2)  # TF32 may be on
    x = full.detach().requires_grad_()
    logits = D(x)
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in D.parameters() if p.grad is not None)


@pytest.mark.slow
def test_networks_become_one_graph_each_and_can_be_exported():
    torch.manual_seed(0)
    small = {"resolution": 16, "channel_base": 256, "channel_max": 32}
    G = Generator(GeneratorConfig(**small, z_dim=16, w_dim=16, mapping_layers=2)).eval()
    D = Discriminator(DiscriminatorConfig(**small))
    z = torch.randn(2, 16)
    images = G(z, noise_mode="const")
    compiled = torch.compile(G, backend="aot_eager", fullgraph=True)(z, noise_mode="const")
    torch.testing.assert_close(compiled, images)
    judged = torch.compile(D, backend="aot_eager", fullgraph=True)(compiled)
    torch.testing.assert_close(judged, D(images))
    ours, theirs = (
        torch.autograd.grad(y.sum(), [*G.synthesis.parameters(), *D.parameters()]) for y in (judged, D(images))
    )
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    exported = torch.export.export(G, (z,), {"noise_mode": "const"}).module()
    torch.testing.assert_close(exported(z, noise_mode="const"), images)


def test_the_compiler_is_not_imported_by_the_networks():
    """It takes 170 MB and seconds, and few need it."""
    code = "import sys, stylegan2_ada.generator, stylegan2_ada.discriminator; print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "False", done.stderr
