"""Training with classes: an image keeps its class on every way through a step."""

import dataclasses

import numpy as np
import pytest
import torch

from adversarial.config import resolve
from adversarial.feed import Feed
from adversarial.options import Options
from faces.dataset import DecodedFaces
from faces.degrade import preset
from faces.preprocess import Preprocess

COUNT = 3


def class_feed() -> Feed:
    """Class k is painted in grey level 40 k; every third image is a fake and has none."""
    labels = (np.arange(24) % 3 == 2).astype(np.int64)
    classes = np.where(labels == 1, -1, np.arange(24) % COUNT * (np.arange(24) % 2))
    images = np.broadcast_to((40 * classes)[:, None, None, None], (24, 3, 8, 8)).astype(np.uint8).copy()
    faces = DecodedFaces(images, labels, np.arange(24), Preprocess(8), mirror=True, mirror_y=True)
    return Feed(faces, preset("none"), 0, (classes, COUNT))


def test_classes_go_with_their_images():
    feed = class_feed()
    for position in (0, 50, 61):
        images, classes = feed.reals_at(position, 8), feed.classes_at(position, 8)
        assert classes.shape == (8, COUNT) and torch.equal(classes.sum(dim=1), torch.ones(8))
        assert torch.equal(images[:, 0, 0, 0].long(), 40 * classes.argmax(dim=1))


def test_random_classes_are_as_frequent_as_in_the_data():
    feed = class_feed()
    torch.manual_seed(0)
    drawn = feed.random_classes(20000).mean(dim=0)
    true = torch.bincount(feed.classes, minlength=COUNT) / len(feed.reals)
    assert torch.allclose(drawn, true, atol=4 * 0.5 / 20000**0.5)


def test_without_classes_nothing_is_drawn():
    feed = class_feed()
    feed = Feed(feed.faces, preset("none"), 0)
    torch.manual_seed(1)
    assert feed.random_classes(4) is None and feed.classes_at(0, 4) is None
    after = torch.rand(())
    torch.manual_seed(1)
    assert torch.rand(()) == after


@pytest.fixture
def game(make_game):
    """The small game, conditional; its verdict head sees no class."""
    plain = make_game()
    cfg = plain.cfg
    cfg = dataclasses.replace(
        cfg,
        generator=dataclasses.replace(cfg.generator, c_dim=COUNT),
        hybrid=dataclasses.replace(cfg.hybrid, trunk=dataclasses.replace(cfg.hybrid.trunk, c_dim=COUNT)),
    )
    return type(plain)(cfg, plain.world, class_feed())


def test_every_turn_gives_both_networks_classes(game):
    seen = []
    critic, mapping = game.D.adversarial, game.G.mapping.forward

    def judge(images, c=None, batches=1):
        seen.append(("D", len(images), c))
        return critic(images, c, batches=batches)

    def mapped(z, c=None, **options):
        seen.append(("G", len(z), c))
        return mapping(z, c, **options)

    game.D.adversarial, game.G.mapping.forward = judge, mapped
    for _ in range(2):
        game.step()
    assert {name for name, _, _ in seen} == {"D", "G"} and len(seen) > 8
    assert all(c is not None and c.shape == (n, COUNT) and bool((c.sum(dim=1) == 1).all()) for _, n, c in seen)
    assert all(torch.isfinite(p).all() for p in game.G.parameters())
    assert game.G.mapping.embed.weight.grad is None or torch.isfinite(game.G.mapping.embed.weight.grad).all()
    assert game.sample_ema(5, "replay", 1).shape == (5, 3, 8, 8)


def test_the_class_reaches_the_image(game):
    z = torch.randn(1, game.cfg.generator.z_dim)
    one, other = (game.G.mapping(z, torch.eye(COUNT)[k : k + 1]) for k in (0, 1))
    assert not torch.allclose(one, other)
    images = torch.rand(4, 3, 8, 8)
    logits = [game.D.adversarial(images, torch.eye(COUNT)[[k] * 4]) for k in (0, 1)]
    assert not torch.allclose(*logits)


def test_the_number_of_classes_is_the_datas():
    facts = {"classes": ["a", "b"]}
    cfg = resolve(
        Options("x", cfg="tiny", cond=True), resolution=8, world_size=1, device=torch.device("cpu"), facts=facts
    )
    assert cfg.generator.c_dim == cfg.hybrid.trunk.c_dim == 2
    assert type(cfg).from_dict(cfg.to_dict()).generator.c_dim == 2
