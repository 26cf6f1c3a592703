"""Learning from patches: where they are cut, what is shown of each source, and what is held out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.errors import UserError
from discriminator.training.feed import ImageGroup, shares
from discriminator.training.patches import Crops, Held, PatchFeed, Stacked, Window, amount, validation_of
from discriminator.training.recipe import Recipe
from faces.degrade import Degradation, Step, preset

NONE = preset("none")


def addressed(number: int, side: int) -> np.ndarray:
    """Images whose pixels say where they are: red the row, green the column, blue the image."""
    images = np.empty((number, 3, side, side), np.uint8)
    images[:, 0], images[:, 1] = np.mgrid[:side, :side]
    images[:, 2] = np.arange(number)[:, None, None]
    return images


def feed(window: Window, chain: Degradation = NONE, sides=(100, 64), **recipe) -> PatchFeed:
    groups = []
    for label, side in enumerate(sides):
        crops = Crops(Stacked(addressed(5, side)), window, 5)
        groups.append(ImageGroup(("real", "fake")[label], crops, np.arange(5), label))
    return PatchFeed(groups, chain, Recipe(batch=10, mirror=False, **recipe), window)


def test_patches_are_sub_arrays_anywhere_and_new_every_time():
    it = feed(Window(32, 32))
    seen: dict[int, set] = {0: set(), 1: set()}
    for step in range(60):
        batch = it.batch(step)
        assert torch.equal(batch.clean, batch.degraded)
        for image, label in zip(batch.clean.numpy(), batch.labels.int().tolist(), strict=True):
            top, left = int(image[0, 0, 0]), int(image[1, 0, 0])
            side = (100, 64)[label]
            assert np.array_equal(image, addressed(5, side)[image[2, 0, 0], :, top : top + 32, left : left + 32])
            seen[label].add((top, left))
    for label, most in enumerate((68, 32)):
        assert len(seen[label]) > 0.8 * 300 * 0.9
        places = np.array(list(seen[label]))
        assert (places.min(0) < 4).all() and (places.max(0) > most - 4).all()


def test_batches_follow_from_the_step_alone():
    it, again = feed(Window(24, 48), preset("pixels-resized")), feed(Window(24, 48), preset("pixels-resized"))
    straight = list(it.run(3, 9, workers=2))
    for step, batch in zip(range(3, 9), straight, strict=True):
        other = again.batch(step)
        assert torch.equal(batch.clean, other.clean) and torch.equal(batch.degraded, other.degraded)
    assert not torch.equal(straight[0].degraded, straight[1].degraded)


def test_an_encoders_grid_lies_anywhere_in_what_is_shown():
    """JPEG at quality 10 leaves steps at the borders of its 8 x 8 blocks: they are found at all eight offsets."""
    rng = np.random.default_rng(0)
    smooth = np.repeat(np.repeat(rng.integers(90, 160, (40, 3, 10, 10), dtype=np.uint8), 8, 2), 8, 3)
    window = Window(48, 64)
    noisy = np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)
    crops = Crops(Stacked(noisy), window, len(noisy))
    chain = Degradation("q", (Step("jpeg", 1.0, {"quality": (10, 10), "subsampling": ("444",)}),))
    groups = [ImageGroup(name, crops, np.arange(40), label) for label, name in enumerate(("real", "fake"))]
    it = PatchFeed(groups, chain, Recipe(batch=32, mirror=False), window)
    found = set()
    for step in range(8):
        steps = np.abs(np.diff(it.batch(step).degraded.numpy().astype(float), axis=3)).mean(axis=(1, 2))
        found |= {int(np.argmax([row[k::8].mean() for k in range(8)])) for row in steps}
    assert found == set(range(8))


@pytest.mark.parametrize(("side", "smallest"), [(64, 1024), (64, 64), (48, 64), (32, 64), (64, 66)])
def test_nothing_mirrored_comes_into_what_is_shown(side, smallest):
    """Shrunk as far as the window allows, what is shown is still inside: a ramp stays a ramp."""
    chain = preset("pixels-resized")
    window = Window.of(side, smallest, chain)
    assert side <= window.width <= smallest and window.width <= 2 * side + 32
    limited = chain.zooming_from(window.least)
    ((low, _),) = limited.zooms()
    assert low >= 0.5 and (smallest < 200 or low == 0.5)
    ramp = np.broadcast_to(np.linspace(0, 255, window.width), (3, window.width, window.width)).astype(np.uint8)
    shrink = Degradation("s", (Step("rescale", 1.0, {"factor": (low, low), "kernel": ("box",)}),))
    shrunk = shrink.apply(np.ascontiguousarray(ramp.transpose(1, 2, 0)), np.random.default_rng(0)).transpose(2, 0, 1)
    for place in ((0.0, 0.0), (0.999, 0.999)):
        shown = window.cut(shrunk, place)
        assert shown.shape == (3, side, side)
        assert (np.diff(shown.astype(int), axis=2) >= 0).all()


def test_offsets_are_all_of_the_grid():
    window = Window(16, 40)
    image = addressed(1, 40)[0]
    tops = {int(window.cut(image, (at, 0.0))[0, 0, 0]) for at in np.linspace(0, 0.999, 100)}
    assert len(tops) == 8 and 8 <= min(tops) and max(tops) + 16 <= 32
    assert {int(Window(16, 18).cut(image[:, :18, :18], (at, 0.0))[0, 0, 0]) for at in (0.0, 0.5, 0.99)} == {0, 1, 2}


def test_shares_of_reals_and_fakes():
    one = np.zeros((4, 3, 8, 8), np.uint8)

    def group(name, label, dose=0.0, patches=None):
        return ImageGroup(name, one, np.arange(4), label, dose, patches)

    groups = [
        group("a", 0, patches=60),
        group("b", 0, 0.3),
        group("c", 1),
        group("d", 1, 0.5),
        group("e", 0, patches=20),
    ]
    assert np.allclose(shares(groups, "sampling"), [0.5 * 0.7 * 0.75, 0.15, 0.25, 0.25, 0.5 * 0.7 * 0.25])
    with pytest.raises(UserError, match="extra reals add up to 1.2"):
        shares([group("a", 0), group("b", 0, 0.6), group("c", 0, 0.6), group("d", 1)], "sampling")
    assert amount(np.array([[1024, 1024], [100, 64], [63, 80]]), 64) == 64 + 1 + 0


def test_validation_is_fixed_and_of_each_source_by_its_share():
    window = Window(16, 24)
    crops = Crops(Stacked(addressed(50, 40)), window, 50)
    held = [
        Held(crops, np.arange(5), 0, 0.75),
        Held(crops, np.arange(10, 40), 0, 0.25),
        Held(crops, np.arange(3), 1, 1.0),
    ]
    found = validation_of(held, 40, window, preset("pixels"))
    assert found.photos == {"real": 15, "fake": 3}
    blue = [int(found.windows[i, 2, 0, 0]) for i in np.flatnonzero(found.labels == 0)]
    assert sorted(set(blue[:30])) == [0, 1, 2, 3, 4] and len(blue) == 40 and len(set(blue[30:])) == 10
    assert (found.labels == 1).sum() == 39  # 13 of each
    again = validation_of(held, 40, window, preset("pixels"))
    for number in (0, 1):
        for i in (0, 35, 60):
            assert np.array_equal(found.view(number, i), again.view(number, i))
            assert found.view(number, i).shape == (3, 16, 16)
    assert np.array_equal(found.images[3], found.windows[3][:, 4:20, 4:20])
