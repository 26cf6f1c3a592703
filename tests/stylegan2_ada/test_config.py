"""Published presets and parameter counts; what a configuration refuses."""

import pytest
import torch

from stylegan2_ada.config import PRESETS, DiscriminatorConfig, GeneratorConfig, preset
from stylegan2_ada.discriminator import Discriminator
from stylegan2_ada.generator import Generator
from stylegan2_ada.layers import Mapping


def parameters(net) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.fixture
def quick_init(monkeypatch):
    """Counting 25 million parameters needs no random ones."""
    monkeypatch.setattr(torch, "randn", lambda *shape, **_: torch.empty(*shape))


@pytest.mark.parametrize(
    "cfg, resolution, generator, discriminator",
    [
        ("auto", 64, 22_243_608, 23_407_361),
        ("auto", 128, 22_949_277, 23_882_369),
        ("auto", 256, 23_191_522, 24_001_089),
        ("paper256", 256, 24_767_458, 24_001_089),
        ("auto", 512, 28_700_647, 28_982_849),
        ("paper512", 512, 30_276_583, 28_982_849),
        ("auto", 1024, 28_794_124, 29_012_513),
        ("stylegan2", 1024, 30_370_060, 29_012_513),
        ("paper1024", 1024, 30_370_060, 29_012_513),
    ],
)
def test_published_parameter_counts(quick_init, cfg, resolution, generator, discriminator):
    p = preset(cfg, resolution)
    widths = {"channel_base": p.channel_base, "channel_max": p.channel_max}
    G = Generator(GeneratorConfig(resolution, z_dim=p.z_dim, w_dim=p.w_dim, mapping_layers=p.mapping_layers, **widths))
    D = Discriminator(
        DiscriminatorConfig(resolution, architecture=p.d_architecture, mbstd_group_size=p.mbstd, **widths)
    )
    assert (parameters(G), parameters(D)) == (generator, discriminator)
    assert G.num_ws == 2 * (resolution.bit_length() - 1) - 2


def test_mapping_parameter_counts(quick_init):
    assert parameters(Mapping(512, 0, 512, 10, 2)) == 525_312
    assert parameters(Mapping(512, 0, 512, 10, 8)) == 2_101_248


@pytest.mark.parametrize(
    "resolution, world, batch, gamma, ema",
    [(64, 1, 32, 0.0256, 10), (128, 1, 32, 0.1024, 10), (256, 1, 16, 0.8192, 5), (256, 8, 64, 0.2048, 20)]
    + [(512, 1, 8, 6.5536, 2.5), (1024, 1, 4, 52.4288, 1.25), (1024, 8, 32, 6.5536, 10)],
)
def test_auto_scales_with_resolution_and_processes(resolution, world, batch, gamma, ema):
    p = preset("auto", resolution, world)
    assert (p.batch, p.ema_kimg, p.mbstd) == (batch, ema, min(batch // world, 4))
    assert p.gamma == pytest.approx(gamma, rel=1e-4)
    assert p.lr == (0.002 if resolution >= 1024 else 0.0025)
    assert (p.ema_rampup, p.mapping_layers, p.pl_weight, p.style_mixing_prob) == (0.05, 2, 2, 0.9)


def test_fixed_presets():
    p = preset("stylegan2", 1024, 8)
    assert (p.kimg, p.batch, p.mbstd, p.lr, p.gamma, p.ema_kimg, p.ema_rampup) == (25000, 32, 4, 0.002, 10, 10, None)
    p = preset("paper512", 512)
    assert (p.batch, p.mbstd, p.lr, p.gamma, p.ema_kimg, p.mapping_layers) == (64, 8, 0.0025, 0.5, 20, 8)
    p = preset("cifar", 32, 2)
    assert (p.kimg, p.batch, p.mbstd, p.gamma, p.ema_kimg, p.ema_rampup) == (100_000, 64, 32, 0.01, 500, 0.05)
    assert (p.pl_weight, p.style_mixing_prob, p.d_architecture, p.mapping_layers) == (0, 0, "orig", 2)
    p = preset("tiny", 64)
    assert (p.batch, p.mbstd, p.channel_base, p.channel_max, p.z_dim, p.lr) == (8, 4, 2048, 256, 128, 0.0025)
    assert p.gamma == 1 and preset("tiny", 32).channel_base == 1024
    assert preset("tiny", 64, 4).mbstd == 2
    assert all(preset(name, 64).batch for name in PRESETS)


@pytest.mark.parametrize("resolution", [0, 2, 3, 48, 100, 4096, 64.0, "64"])
def test_resolution_is_a_power_of_two(resolution):
    for make in (lambda r: preset("auto", r), GeneratorConfig, DiscriminatorConfig):
        with pytest.raises(ValueError, match="power of two from 4 to 2048") as e:
            make(resolution)
        assert "\n" not in str(e.value)


def test_other_refusals():
    with pytest.raises(ValueError, match="unknown preset 'huge'; choose one of auto"):
        preset("huge", 64)
    with pytest.raises(ValueError, match="world_size"):
        preset("auto", 64, 0)
    with pytest.raises(ValueError, match="img_channels must be 1"):
        GeneratorConfig(64, img_channels=2)
    with pytest.raises(ValueError, match="channel_base"):
        GeneratorConfig(64, channel_base=0)
    with pytest.raises(ValueError, match="architecture"):
        DiscriminatorConfig(64, architecture="unet")
    with pytest.raises(ValueError, match="no field 'colour'"):
        GeneratorConfig.from_dict({"resolution": 64, "colour": 1})


def test_configurations_survive_dicts():
    for cfg in (GeneratorConfig(64, c_dim=3, conv_clamp=256), DiscriminatorConfig(32, architecture="orig")):
        assert type(cfg).from_dict(cfg.to_dict()) == cfg
