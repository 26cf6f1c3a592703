"""Transfer learning: which networks fit which run, and what is told where they don't."""

import dataclasses

import pytest

from adversarial.transfer import Start, check_start, is_start, open_start
from common.errors import UserError
from stylegan2_ada.config import PRESETS, DiscriminatorConfig, GeneratorConfig, preset
from stylegan2_ada.networks import Networks
from training.processes import Processes


class Shape:
    """A network of which only the configuration is looked at."""

    def __init__(self, cfg):
        self.cfg = cfg


def start(cfg: str, resolution: int, generator=(), trunk=()) -> Start:
    p = preset(cfg, resolution)
    widths = {"channel_base": p.channel_base, "channel_max": p.channel_max}
    G = GeneratorConfig(resolution, p.z_dim, 0, p.w_dim, p.mapping_layers, **widths)
    D = DiscriminatorConfig(resolution, architecture=p.d_architecture, **widths)
    G, D = dataclasses.replace(G, **dict(generator)), dataclasses.replace(D, **dict(trunk))
    nets = Networks(G_ema=Shape(G), D=Shape(D), kind="snapshot")
    return Start("a.pkl", nets, nets.G_ema)


class Run:
    """What `check_start` reads of a run's configuration."""

    def __init__(self, cfg: str, resolution: int):
        nets = start(cfg, resolution).networks
        self.resolution, self.generator = resolution, nets.G_ema.cfg
        self.hybrid = type("Hybrid", (), {"trunk": nets.D.cfg})
        self.options = type("Options", (), {"cfg": cfg})


@pytest.mark.parametrize("resolution", [32, 256, 1024])
def test_presets_fit_themselves_and_the_advice_of_others_fits(resolution):
    for theirs in PRESETS:
        check_start(Run(theirs, resolution), start(theirs, resolution))
        for ours in PRESETS:
            try:
                check_start(Run(ours, resolution), start(theirs, resolution))
            except UserError as e:
                advised = str(e).partition("; use `cfg` ")[2].split(" or `cfg` ")
                assert theirs in advised and ours not in advised
                for name in advised:
                    check_start(Run(name, resolution), start(theirs, resolution))


def test_the_published_starting_points_and_the_default_cfg():
    """ffhq256 and its likes have 8 mapping layers, `auto` has 2; the published code takes the first two in silence."""
    with pytest.raises(UserError, match="8 mapping layers, this run 2 with `cfg` auto; use `cfg` paper256") as e:
        check_start(Run("auto", 256), start("paper256", 256))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("generator", "trunk", "words"),
    [
        ({"resolution": 64}, {"resolution": 64}, "64x64.*add `resolution` 64"),
        ({"c_dim": 2}, {"c_dim": 2}, "know 2 classes, this run none; give data of 2 classes with `cond`"),
        ({}, {"c_dim": 2}, "know 2 classes, this run none"),
        ({"img_channels": 1}, {}, "`channels` 1"),
        ({"channel_max": 256}, {}, "256 generator channels at 4x4, this run 512.*no `cfg` has this shape"),
        ({}, {"channel_base": 1024}, "discriminator channels.*no `cfg`"),
        ({}, {"mbstd_group_size": 0}, "0 minibatch-std channels, this run 1"),
        ({}, {"architecture": "orig"}, "'orig', this run 'resnet'"),
    ],
)
def test_other_shapes(generator, trunk, words):
    with pytest.raises(UserError, match=words):
        check_start(Run("auto", 32), start("auto", 32, generator, trunk))


def test_classes():
    run = Run("auto", 32)
    run.generator = dataclasses.replace(run.generator, c_dim=3)
    run.hybrid.trunk = dataclasses.replace(run.hybrid.trunk, c_dim=3)
    check_start(run, start("auto", 32, {"c_dim": 3}, {"c_dim": 3}))
    with pytest.raises(UserError, match="2 layers that map the discriminator's labels, this run 8"):
        check_start(run, start("auto", 32, {"c_dim": 3}, {"c_dim": 3, "mapping_layers": 2}))
    with pytest.raises(UserError, match="know no classes, this run 3; leave out `cond`"):
        check_start(run, start("auto", 32))


def test_precision_and_group_size_do_not_matter():
    other = {"num_lowp_res": 4, "conv_clamp": 256}
    check_start(Run("auto", 32), start("auto", 32, other, other | {"mbstd_group_size": 32}))


def test_what_resume_means(tmp_path):
    for name in ("a.pkl", "generator-000001.safetensors", "checkpoint-000012.pt", "other.bin"):
        (tmp_path / name).write_bytes(b"x")
    assert is_start(str(tmp_path / "a.pkl")) and is_start(str(tmp_path / "generator-000001.safetensors"))
    assert is_start(str(tmp_path / "other.bin")) and is_start("ffhq256") and is_start("https://a.b/c")
    for resume in ("latest", str(tmp_path), str(tmp_path / "checkpoint-000012.pt"), str(tmp_path / "absent.pkl")):
        assert not is_start(resume)


def test_a_checkpoint_under_another_name_is_gone_on_with(tmp_path):
    import torch

    torch.save({"format": 1, "game": {}}, tmp_path / "saved.pt")
    torch.save({"g_ema": {}}, tmp_path / "other.pt")
    assert not is_start(str(tmp_path / "saved.pt")) and is_start(str(tmp_path / "other.pt"))


def test_a_network_that_is_not_here_may_stay_away_in_a_dry_run(tmp_path, monkeypatch):
    monkeypatch.setenv("FACES_CACHE", str(tmp_path))
    assert open_start("celebahq256", Processes(), allowed=False) is None
