"""Growing: what larger networks do at first, and what of the smaller game goes on in them."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch

from adversarial.feed import Feed
from adversarial.game import Game
from adversarial.growth import grow_generator, grow_trunk, open_seedling, trunk_name
from adversarial.options import Options
from adversarial.plan import grown_options
from adversarial.transfer import begin, check_start, open_smaller
from common.errors import UserError
from common.files import write_json
from faces.dataset import DecodedFaces
from faces.degrade import preset as degradation_preset
from faces.preprocess import Preprocess
from stylegan2_ada.config import DiscriminatorConfig, GeneratorConfig
from stylegan2_ada.discriminator import Discriminator
from stylegan2_ada.generator import Generator
from stylegan2_ada.ops.upfirdn2d import downsample2d, fir_taps, upsample2d
from tests.adversarial.conftest import small_config, small_game
from tests.stylegan2_ada.snapshots import random_state
from training.checkpoint import checkpoint_path, save
from training.processes import Processes

FIR = fir_taps([1, 3, 3, 1])
WIDTHS = {"channel_base": 256, "channel_max": 16}


def at(cfg, resolution: int):
    """The same configuration for larger images."""
    return dataclasses.replace(
        cfg,
        resolution=resolution,
        generator=dataclasses.replace(cfg.generator, resolution=resolution),
        hybrid=dataclasses.replace(cfg.hybrid, trunk=dataclasses.replace(cfg.hybrid.trunk, resolution=resolution)),
    )


def game_at(cfg) -> Game:
    side = cfg.resolution
    images = np.random.default_rng(6).integers(0, 256, (24, 3, side, side), dtype=np.uint8)
    faces = DecodedFaces(images, np.arange(24) % 3 // 2, np.arange(24), Preprocess(side), mirror=True)
    return Game(cfg, Processes(), Feed(faces, degradation_preset(cfg.options.degradation), cfg.options.seed))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A run at 8 pixels after a few steps: its game, and its folder with a checkpoint of the game's end."""
    cfg = small_config()
    game = small_game(cfg)
    for _ in range(6):
        game.step()
    game.ada.p = 0.25
    game.augment.set_p(0.25)
    run = tmp_path_factory.mktemp("runs") / "00000-test-8-tiny"
    run.mkdir()
    write_json(run / "config.json", cfg.to_dict())
    save(run, 6, {"game": game.state_dict(), "phase": "game"}, "gan")
    return game, run


def grown_from(run, lines=None, **changes) -> Game:
    """A game at 16 pixels that grew from `run`; the log's words are added to `lines`."""
    game = game_at(dataclasses.replace(at(small_config(), 16), **changes))
    start = open_smaller(str(run), run.parent)
    check_start(game.cfg, start)
    said = begin(game, start)
    if lines is not None:
        lines += said
    return game


# ---- the first images and verdicts --------------------------------------------------------------------------------


@pytest.mark.parametrize("larger", [16, 32])
def test_the_grown_generator_draws_the_old_image_up_sampled(larger):
    """The old weights stand for any trained ones: all are drawn anew, noise strengths and w_avg too."""
    shape = {"z_dim": 16, "w_dim": 16, "mapping_layers": 2, **WIDTHS}
    old = random_state(Generator(GeneratorConfig(8, **shape)), 1).eval()
    G = Generator(GeneratorConfig(larger, **shape)).eval()
    grow_generator(G, old)
    z = torch.randn(4, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = old(z, psi=0.7, noise_mode="const")
        while expected.shape[-1] < larger:
            expected = upsample2d(expected, FIR)
        found = G(z, psi=0.7, noise_mode="const")
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("larger", [16, 32])
@pytest.mark.parametrize("architecture", ["resnet", "orig"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_grown_discriminator_sees_the_image_down_sampled(larger, architecture, channels):
    """Every feature and the logit; pixels beyond [-1, 1] too, as augmentations make them."""
    shape = {"architecture": architecture, "img_channels": channels, **WIDTHS}
    old = random_state(Discriminator(DiscriminatorConfig(8, **shape)), 3)
    D = Discriminator(DiscriminatorConfig(larger, **shape))
    grow_trunk(D, old)
    x = 3 * torch.randn(4, channels, larger, larger, generator=torch.Generator().manual_seed(4))
    small = x
    while small.shape[-1] > 8:
        small = downsample2d(small, FIR)
    with torch.no_grad():
        theirs = [old.fromrgb(small), *old.features(small)]
        for found, expected in zip(D.features(x)[-len(theirs) :], theirs, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(D(x), old(small), rtol=1e-4, atol=1e-5)


def test_what_is_new_learns():
    """None of the weights that hand the image on, nor of those beside them, stays where it began."""
    torch.manual_seed(0)
    old, D = (Discriminator(DiscriminatorConfig(n, **WIDTHS)) for n in (8, 16))
    grow_trunk(D, old)
    new = {n: p.detach().clone() for n, p in D.named_parameters() if n.startswith(("fromrgb.", "blocks.0."))}
    opt = torch.optim.Adam(D.parameters(), 0.002, (0.0, 0.99))
    x = torch.randn(8, 3, 16, 16)
    for _ in range(3):
        opt.zero_grad()
        torch.nn.functional.softplus(-D(x)).mean().backward()
        opt.step()
    moved = {n: float((p.detach() - new[n]).abs().max()) for n, p in D.named_parameters() if n in new}
    assert min(moved.values()) > 1e-3, moved


# ---- the game --------------------------------------------------------------------------------------------------------


def test_weights_moments_and_ada_go_on(small):
    old, run = small
    lines: list[str] = []
    game = grown_from(run, lines)
    assert game.step_index == game.nimg == 0 and len(game.replay) == 0
    torch.testing.assert_close(game.pl_mean, old.pl_mean)
    assert game.ada.p == float(game.augment.p) == 0.25 and game.ada.r_t == old.ada.r_t is not None
    for name in ("G", "G_ema"):
        theirs = getattr(old, name).state_dict()
        assert all(torch.equal(t, theirs[n]) for n, t in getattr(game, name).state_dict().items() if n in theirs)
    for name in ("D", "D_ema"):
        ours = getattr(game, name).state_dict()
        for n, t in getattr(old, name).state_dict().items():
            new = trunk_name(n, 1)
            if new and not n.startswith("verdict_head."):  # which reads 8x8 features from 16 pixels on
                assert torch.equal(ours[new], t), n
    assert not torch.equal(game.G.mapping.w_avg, torch.zeros(16))
    assert any("kept: artefact branch" in line for line in lines)
    assert any("fresh, for their shapes differ: verdict head" in line for line in lines)


def test_adam_remembers_what_stays_and_nothing_else(small):
    old, run = small
    game = grown_from(run)
    for opt, net in (("opt_G", "G"), ("opt_D", "D"), ("opt_V", "D")):
        theirs, ours = (
            {
                name: getattr(g, opt).state_dict()["state"][i]
                for i, name in enumerate(
                    {id(p): n for n, p in getattr(g, net).named_parameters()}[id(p)]
                    for p in getattr(g, opt).param_groups[0]["params"]
                )
            }
            for g in (old, game)
        )
        fresh = set(ours)
        for name, moments in theirs.items():
            new = name if net == "G" else trunk_name(name, 1)
            if new is None or name.startswith("verdict_head."):
                continue
            fresh.remove(new)
            assert torch.equal(ours[new]["exp_avg_sq"], moments["exp_avg_sq"]) and moments["step"] > 0
            assert ours[new]["step"] == moments["step"]
        allowed = ("synthesis.blocks.2.", "trunk.fromrgb.", "trunk.blocks.0.", "verdict_head.")
        assert fresh and all(name.startswith(allowed) for name in fresh), fresh
        assert all(not ours[name]["step"] and not ours[name]["exp_avg_sq"].any() for name in fresh)


def test_the_grown_game_plays_on_and_its_average_keeps_the_old_one(small):
    old, run = small
    game = grown_from(run, ema_rampup=None)
    before = game.G_ema.synthesis.blocks[0].conv1.weight.clone()
    game.step()
    assert game.bad_steps == 0 and game.nimg == 8
    share = 1 - 0.5 ** (8 / (1000 * game.cfg.ema_kimg))
    expected = before.lerp(game.G.synthesis.blocks[0].conv1.weight, share)
    torch.testing.assert_close(game.G_ema.synthesis.blocks[0].conv1.weight, expected)


def test_without_a_verdict_head_there_and_with_one_here(small, tmp_path):
    """The small run keeps no averaged discriminator: the new run's average begins with the discriminator itself."""
    cfg = small_config(verdict_batch=0)
    old = small_game(cfg)
    old.step()
    write_json(tmp_path / "config.json", cfg.to_dict())
    save(tmp_path, 1, {"game": old.state_dict(), "phase": "game"}, "gan")
    game = grown_from(tmp_path)
    for n, t in game.D_ema.state_dict().items():
        assert torch.equal(t, game.D.state_dict()[n]), n


def test_an_ended_run_gives_its_game_s_end(small, tmp_path):
    """Then on the discriminator is the averaged one, which never played."""
    old, run = small
    write_json(tmp_path / "config.json", old.cfg.to_dict())
    game = old.state_dict()
    save(tmp_path, 6, {"game": game, "phase": "game"}, "gan")
    save(tmp_path, 9, {"game": {**game, "D": game["D_ema"]}, "phase": "done"}, "gan")
    seedling = open_seedling(str(tmp_path), tmp_path)
    assert seedling.checkpoint == checkpoint_path(tmp_path, 6) and not seedling.averaged
    assert seedling.origin == {"checkpoint": str(seedling.checkpoint), "resolution": 8, "kimg": 0.048}
    checkpoint_path(tmp_path, 6).unlink()
    seedling = open_seedling(str(tmp_path), tmp_path)
    assert seedling.averaged and seedling.checkpoint == checkpoint_path(tmp_path, 9)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda cfg: at(cfg, 8), "8x8 already.*`resolution` 16"),
        (lambda cfg: at(cfg, 32), "4 channels at 32x32 can't hand 3 colours on, which takes 6"),
        (
            lambda cfg: dataclasses.replace(cfg, generator=dataclasses.replace(cfg.generator, channel_base=64)),
            "16 generator channels at 8x8, this run 8.*no `cfg` has this shape at 16x16: start without `grow_from`",
        ),
    ],
)
def test_what_does_not_fit(small, change, words):
    with pytest.raises(UserError, match=words) as e:
        check_start(change(at(small_config(), 16)), open_smaller(str(small[1]), small[1].parent))
    assert str(e.value).startswith(f"`grow_from` {small[1]}: ") and "\n" not in str(e.value)


def test_options_not_given_are_the_smaller_run_s_where_images_and_widths_are_concerned(small, tmp_path):
    theirs = Options(data="faces", cfg="tiny", patches=32, mirror=True, seed=7, kimg=5, gamma=3)
    write_json(tmp_path / "config.json", dataclasses.replace(small_config(), options=theirs).to_dict())
    shutil.copy(checkpoint_path(small[1], 6), tmp_path)
    start = open_smaller(str(tmp_path), tmp_path)
    asked = Options(grow_from="latest", resolution=64)
    o = grown_options(asked, {"grow_from", "resolution"}, start)
    assert o == Options(
        data="faces", cfg="tiny", patches=64, mirror=True, resolution=64, grow_from=str(checkpoint_path(tmp_path, 6))
    )
    o = grown_options(dataclasses.replace(asked, data="more", cfg="auto"), {"data", "cfg"}, start)
    assert (o.data, o.cfg, o.mirror) == ("more", "auto", True)
