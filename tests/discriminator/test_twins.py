"""Photos and their twins in a training: together, through the same draws, saved as the photo was, mixed."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from discriminator.training.feed import ImageGroup, shares
from discriminator.training.options import TrainerOptions
from discriminator.training.patches import Crops, PatchFeed, Stacked, Window
from discriminator.training.recipe import Recipe
from discriminator.training.twins import Half, Pairs, check_twin_options, mixed_blocks, mixed_pixels, open_bank, save
from faces.degrade import preset
from faces.twin_bank import Pair
from tests.twin_banks import marked_pairs, write_bank


def pairs_of(photos, twins, places, mix=0.0) -> Pairs:
    both = np.stack([photos, twins], axis=1).transpose(0, 1, 3, 4, 2)
    return Pairs([both[:3], both[3:]], np.array([3, len(both)]), places, mix)


def feed(pairs: Pairs, chain="none", dose=0.5, others=True, batch=12, side=32, **recipe) -> PatchFeed:
    window, n = Window(side, pairs.side), len(pairs)
    groups = []
    if others:
        rng = np.random.default_rng(9)
        for label in (0, 1):
            images = rng.integers(0, 256, (6, 3, pairs.side, pairs.side), dtype=np.uint8)
            groups.append(ImageGroup(f"other{label}", Crops(Stacked(images), window, 6), np.arange(6), label))
    for label in (0, 1):
        crops = Crops(Half(pairs, bool(label)), window, n)
        groups.append(ImageGroup(f"pairs{label}", crops, np.arange(n), label, dose, pair=0))
    return PatchFeed(groups, preset(chain), Recipe(batch=batch, **recipe), window)


def test_photo_and_twin_enter_one_batch_and_go_through_the_same_draws():
    """Twins that equal their photos (and are saved alike) come out as the very same pixels, whatever was drawn."""
    photos, _, places = marked_pairs(7, 48, quality=None)
    it = feed(pairs_of(photos, photos, places, mix=0.5), "pixels-resized")
    seen = set()
    for step in range(9):
        batch = it.batch(step)
        counts = it.composition(step)
        assert [count for _, count in counts] == [3, 3, 3, 3] and counts[2] == counts[3]
        for views in (batch.clean.numpy(), batch.degraded.numpy()):
            assert np.array_equal(views[6:9], views[9:12])
            seen.add(views[6].tobytes())
        assert batch.labels.tolist() == [0] * 3 + [1] * 3 + [0] * 3 + [1] * 3
    assert len(seen) == 18
    again = feed(pairs_of(photos, photos, places, mix=0.5), "pixels-resized").batch(8)
    assert torch.equal(again.degraded, it.batch(8).degraded)


@pytest.mark.parametrize(("dose", "batch"), [(0.3, 14), (0.05, 8), (0.99, 32), (0.5, 6)])
def test_pairs_are_whole_in_every_step_and_doses_hold(dose, batch):
    photos, twins, places = marked_pairs(5, 32)
    it = feed(pairs_of(photos, twins, places), dose=dose, batch=batch)
    total = np.zeros(4)
    for step in range(200):
        counts = [count for _, count in it.composition(step)]
        assert counts[2] == counts[3] and sum(counts) == batch and min(counts) >= 0
        assert [first for first, _ in it.composition(step)] == total.astype(int).tolist()
        total += counts
    half = 100 * batch
    assert np.allclose(total, [half * (1 - dose), half * (1 - dose), half * dose, half * dose], atol=2)


def test_shares_where_twins_are_the_only_fakes():
    one = np.zeros((4, 3, 8, 8), np.uint8)
    groups = [ImageGroup("real", one, np.arange(4), 0)]
    groups += [ImageGroup("p", one, np.arange(4), label, 0.5, pair=0) for label in (0, 1)]
    assert shares(groups, "sampling") == [0.0, 0.5, 0.5]
    with_dosed = [*groups, ImageGroup("gan", one, np.arange(4), 1, 0.25)]
    assert np.allclose(shares(with_dosed, "sampling"), [0.5 / 3, 1 / 3, 1 / 3, 0.5 / 3])


def test_a_twin_is_saved_as_its_photos_file_was():
    """Cut out of a file that Pillow wrote with the same tables: the same grid, the same coefficients."""
    rng = np.random.default_rng(1)
    whole = np.kron(rng.integers(40, 216, (12, 12, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    whole = np.clip(whole + rng.normal(0, 6, whole.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(whole).save(file, "JPEG", quality=60, subsampling=0)
    decoded = np.asarray(Image.open(file))
    for top, left in ((13, 22), (16, 32), (7, 1)):
        window = np.s_[top : top + 64, left : left + 64]
        mine = save(np.ascontiguousarray(whole[window]), 60, "4:4:4", (top, left))
        inner = np.s_[16:48, 16:48]
        assert np.abs(mine[inner].astype(int) - decoded[window][inner]).max() <= 2
        other = save(np.ascontiguousarray(whole[window]), 60, "4:4:4", (top + 3, left + 3))
        assert np.abs(other[inner].astype(int) - decoded[window][inner]).mean() > 0.5


def test_photos_of_known_quality_stay_as_they_are_and_others_share_their_twins_file():
    photos, twins, places = marked_pairs(4, 32, quality=50)
    pairs = pairs_of(photos, twins, places)
    rng = lambda: np.random.Generator(np.random.PCG64(3))  # noqa: E731
    assert np.array_equal(Half(pairs, False).drawn(1, rng()), photos[1].transpose(1, 2, 0))
    saved = Half(pairs, True).drawn(3, rng())
    place = places[3]
    assert np.array_equal(saved, save(twins[3].transpose(1, 2, 0), 50, "4:4:4", (place.top, place.left)))
    photos, twins, places = marked_pairs(4, 32, quality=None)
    pairs = pairs_of(photos, photos, places)
    a, b = (Half(pairs, twin).drawn(2, rng()) for twin in (False, True))
    assert np.array_equal(a, b) and not np.array_equal(a, photos[2].transpose(1, 2, 0))


def test_mixing_by_pixels_and_by_coefficients():
    photos, twins, _ = marked_pairs(1, 40)
    photo, twin = photos[0].transpose(1, 2, 0), twins[0].transpose(1, 2, 0)
    assert np.array_equal(mixed_pixels(photo, twin, 0.0), twin)
    assert np.abs(mixed_pixels(photo, twin, 0.5) - (photo.astype(float) + twin) / 2).max() <= 0.5
    nothing, everything = np.zeros((8, 8), bool), np.ones((8, 8), bool)
    assert np.array_equal(mixed_blocks(photo, twin, nothing), twin)
    assert np.array_equal(mixed_blocks(photo, twin, everything), photo)
    mean = nothing.copy()
    mean[0, 0] = True
    mixed = mixed_blocks(photo, twin, mean).astype(float)
    blocks = lambda im: im.astype(float).reshape(5, 8, 5, 8, 3).mean((1, 3))  # noqa: E731
    assert np.abs(blocks(mixed) - blocks(photo)).max() < 0.5  # the photo's means and the twin's details
    details = lambda im: im.astype(float) - np.kron(blocks(im), np.ones((8, 8, 1)))  # noqa: E731
    assert np.abs(details(mixed) - details(twin)).max() < 1.5


def test_some_twins_are_mixed():
    photos, twins, _ = marked_pairs(1, 32, quality=100)
    places = [Pair("a.jpg", 1, 0, 0, 100, "4:4:4")] * 4
    pairs = pairs_of(np.repeat(photos, 4, 0), np.repeat(twins, 4, 0), places, mix=0.2)
    plain = save(twins[0].transpose(1, 2, 0), 100, "4:4:4", (0, 0))
    half = Half(pairs, True)
    drawn = [half.drawn(0, np.random.Generator(np.random.PCG64(k))) for k in range(400)]
    mixed = sum(not np.array_equal(one, plain) for one in drawn)
    assert 50 <= mixed <= 110
    assert np.array_equal(half.photo(0), plain)  # what is measured is not mixed


def test_pairs_of_photos_held_out_are_not_shown(tmp_path):
    photos, twins, places = marked_pairs(6, 32)
    bank = write_bank(tmp_path / "bank", photos, twins, places, failed=[1], decoders=3)
    options = TrainerOptions(data="x", patch_size=32, twins=((str(bank), 0.5),))
    held = {places[2].mark, places[4].mark, ("001.jpg", 5)}  # another file of that name holds nothing out
    opened = open_bank(str(bank), 0.5, options, held)
    assert opened.facts["decoders"] == [0, 2] and opened.facts["failed"] == [1]
    assert opened.facts["left_out"] == 4 and "4 pairs of photos that this training holds out" in opened.say()
    assert "failed their gates: decoders 1" in opened.say()
    assert opened.where.tolist() == [0, 1, 3, 5, 6, 7, 9, 11]
    assert opened.photos[opened.where[0]] == opened.photos[opened.where[4]]
    photo, twin = opened.pairs.both(11)
    assert np.array_equal(photo, photos[5].transpose(1, 2, 0)) and np.array_equal(twin, twins[5].transpose(1, 2, 0))
    asked = TrainerOptions(data="x", patch_size=32, twins=options.twins, twin_decoders="1")
    assert open_bank(str(bank), 0.5, asked, set()).facts["decoders"] == [1]
    with pytest.raises(UserError, match="all of its photos are held out"):
        open_bank(str(bank), 0.5, options, {place.mark for place in places})


@pytest.mark.parametrize(
    ("options", "balance", "batch", "words"),
    [
        ({"twins": (("b", 0.5),)}, "sampling", 8, "`twins`: are patches"),
        ({"twins": (("b", 0.5),), "patch_size": 32}, "none", 8, "`balance` none"),
        ({"twins": (("b", 0.5),), "patch_size": 32}, "sampling", 9, "`batch` 9"),
        ({"twin_decoders": "0"}, "sampling", 8, "`twin_decoders` 0"),
        ({"twin_mix": 0.1}, "sampling", 8, "`twin_mix` 0.1"),
    ],
)
def test_what_does_not_go_with_twins(options, balance, batch, words):
    with pytest.raises(UserError, match=words):
        check_twin_options(TrainerOptions(data="x", **options), balance, batch)
