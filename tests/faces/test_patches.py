"""Patches: sub-arrays of photos, every photo as often, found from (seed, position) alone, whole photos on the disk."""

import pickle
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from PIL import Image

import faces.patches
from adversarial.feed import Feed
from common.errors import TooSmall, UserError
from faces.dataset import DecodedFaces
from faces.degrade import PRESETS, apply_batch, preset
from faces.patches import FIXED, Patches
from faces.preprocess import Preprocess
from faces.source import open_source

SIZES = [(40, 40), (33, 90), (200, 64), (32, 32), (50, 47)]  # height, width


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Photos of noise, so that no two places are alike: one of each of SIZES."""
    monkeypatch.setenv("FACES_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i, (height, width) in enumerate(SIZES):
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    return tmp_path / "photos"


def place(photo: np.ndarray, patch: np.ndarray) -> tuple[int, int] | None:
    """Where `patch` [C, R, R] lies in `photo` [H, W, C], None where it is no sub-array."""
    patch = patch.transpose(1, 2, 0)
    side = len(patch)
    for top, left in np.argwhere((photo == patch[0, 0]).all(axis=2)):
        if np.array_equal(photo[top : top + side, left : left + side], patch):
            return int(top), int(left)
    return None


def test_patches_are_the_bytes_of_the_photo_and_come_from_everywhere_in_it(folder):
    source = open_source(folder)
    patches = Patches.build(source, Preprocess(32))
    assert patches.kept.tolist() == [0, 1, 2, 3, 4] and not patches.skipped
    for i in range(len(SIZES)):
        photo = source.image(i)
        assert np.array_equal(patches.photo(i), photo)
        places = [place(photo, patch) for patch in patches.batch([i] * 100, (7, 0)).numpy()]
        assert None not in places
        height, width = SIZES[i]
        for seen, room in zip(zip(*places, strict=True), (height - 31, width - 31), strict=True):
            assert min(seen) >= 0 and max(seen) < room
            assert len(set(seen)) >= min(room, 20) * 0.9  # all rows and columns, where there are few


def test_upright_as_files_are_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("FACES_CACHE", str(tmp_path))
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    image.save(tmp_path / "photos" / "a.png", exif=exif)
    patches = Patches.build(open_source(tmp_path / "photos"), Preprocess(32))
    assert np.array_equal(patches.photo(0), np.rot90(pixels, -1))


def test_where_depends_on_seed_and_position_alone(folder):
    patches = Patches.build(open_source(folder), Preprocess(32))
    whole = patches.batch([0, 1, 2, 4, 1, 0], (5, 100)).numpy()
    parts = [patches.batch([0, 1], (5, 100)), patches.batch([2], (5, 102)), patches.batch([4, 1, 0], (5, 103))]
    assert np.array_equal(whole, np.concatenate([part.numpy() for part in parts]))
    assert not np.array_equal(whole[0], whole[5]) and not np.array_equal(whole[1], whole[4])
    assert not np.array_equal(whole, patches.batch([0, 1, 2, 4, 1, 0], (6, 100)).numpy())
    with pytest.raises(IndexError):
        patches.batch([5])
    assert patches.batch([]).shape == (0, 3, 32, 32)


def test_mirrors_are_of_patches(folder):
    source = open_source(folder)
    plain = Patches.build(source, Preprocess(32))
    both = Patches.build(source, Preprocess(32), mirror=True, mirror_y=True)
    assert len(both) == 4 * len(plain)
    expected = plain.batch(np.arange(5), (1, 0)).numpy()
    for copy, flipped in enumerate((expected, expected[..., ::-1], expected[..., ::-1, :], expected[..., ::-1, ::-1])):
        assert np.array_equal(both.batch(np.arange(5) + 5 * copy, (1, 0)).numpy(), flipped)


def test_every_photo_comes_up_as_often_whatever_its_size(folder):
    patches = Patches.build(open_source(folder), Preprocess(32), mirror=True)
    feed = Feed(patches, preset("none"), seed=3)
    seen = Counter()
    for position in range(0, 40, 4):
        for patch in feed.reals_at(position, 4).numpy():
            (i,) = [i for i in range(5) if place(patches.photo(i), patch) or place(patches.photo(i)[:, ::-1], patch)]
            seen[i] += 1
    assert seen == dict.fromkeys(range(5), 8)
    # the same images whatever the micro-batch, and again after a pause
    again = np.concatenate([feed.reals_at(p, 1).numpy() for p in range(11, 19)])
    assert np.array_equal(Feed(patches, preset("none"), seed=3).reals_at(11, 8).numpy(), again)


def test_the_verdict_head_sees_patches_of_labelled_fakes_too(folder):
    root = folder.parent / "both"
    (root / "fake").mkdir(parents=True)
    folder.rename(root / "real")
    Image.fromarray(np.full((48, 48, 3), 77, np.uint8)).save(root / "fake" / "f.png")
    patches = Patches.build(open_source(root), Preprocess(32))
    feed = Feed(patches, preset("none"), seed=0)
    current = np.zeros((2, 3, 32, 32), np.uint8)
    clean, _, labels = feed.verdict(0, 0, 8, current, replay=())
    assert labels.tolist() == [0] * 4 + [1] * 4
    reals = [i for i in range(len(patches.labels)) if patches.labels[i] == 0]
    for patch in clean[:4].numpy():
        assert sum(place(patches.photo(i), patch) is not None for i in reals) == 1
    assert (clean[4:6] == 77).all() and (clean[6:] == 0).all()
    assert np.array_equal(clean, Feed(patches, preset("none"), seed=0).verdict(0, 0, 8, current, ())[0])


def test_small_photos_are_left_out_by_name(folder):
    Image.new("RGB", (31, 99)).save(folder / "narrow.png")
    (folder / "broken.png").write_text("hello")
    patches = Patches.build(open_source(folder), Preprocess(32))
    assert patches.count == 5 and patches.small == 1
    (broken, _), (narrow, why) = patches.skipped
    assert broken.endswith("broken.png") and narrow.endswith("narrow.png") and "31x99 pixels: too small" in why
    with pytest.raises(UserError, match=r"none of the 7 photos of photos holds a patch of 256 x 256 pixels"):
        Patches.build(open_source(folder), Preprocess(256))
    error = pickle.loads(pickle.dumps(TooSmall("a", 1, 2, 3)))
    assert str(error) == "a: 1x2 pixels: too small (at least 3 a side)"


def test_memory_is_bounded_and_the_disk_is_left_clean(tmp_path, monkeypatch):
    monkeypatch.setenv("FACES_CACHE", str(tmp_path / "cache"))
    (tmp_path / "photos").mkdir()
    for i in range(40):
        Image.new("RGB", (512, 512), (i, i, i)).save(tmp_path / "photos" / f"{i:02d}.png")
    one = 3 * 512 * 512
    source = open_source(tmp_path / "photos")
    source.image(0)  # Pillow's formats are imported
    tracemalloc.start()
    patches = Patches.build(source, Preprocess(32), workers=2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * one and patches.pixels.nbytes == 40 * one
    assert isinstance(patches.pixels, np.memmap) and (patches.batch([39]) == 39).all()
    assert list((tmp_path / "cache").iterdir()) == []


def test_processes_share_one_file(folder, tmp_path, monkeypatch):
    source = open_source(folder)
    first = Patches.build(source, Preprocess(32), cache_dir=tmp_path / "shared")
    monkeypatch.setattr(faces.patches._Photos, "write", None)  # decoded once
    second = Patches.build(source, Preprocess(32), cache_dir=tmp_path / "shared")
    assert len(list((tmp_path / "shared").iterdir())) == 2
    for a, b in zip(first.batch(np.arange(5), (2, 9)), second.batch(np.arange(5), (2, 9)), strict=True):
        assert np.array_equal(a, b)


def test_a_full_disk_is_told_before_it_is(folder, monkeypatch):
    monkeypatch.setattr(faces.patches.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1}))
    with pytest.raises(UserError, match=r"they take about 0.0 GB, and 0.0 are free.*FACES_CACHE"):
        Patches.build(open_source(folder), Preprocess(32))


def test_fixed_patches_measure_every_photo_alike(folder):
    source = open_source(folder)
    patches = Patches.build(source, Preprocess(32))
    assert patches.fixed(3, 0).photos.tolist() == [0, 1, 2, 3, 4]  # one of each where that is already more
    fixed = patches.fixed(1000, 0)
    assert Counter(fixed.photos.tolist()) == dict.fromkeys(range(5), 1)  # the middling photo holds no second one
    frozen = patches.frozen(1000)
    assert isinstance(frozen, DecodedFaces) and np.array_equal(frozen.images, fixed[np.arange(5)])
    assert np.array_equal(frozen.images, patches.at(range(5), FIXED, range(5)))
    assert np.array_equal(fixed[np.array([3, 1])], frozen.images[[3, 1]])
    large = Patches.build(source.select([2]), Preprocess(32))  # 200 x 64: six by two
    assert len(large.fixed(1000, 0)) == 12 and len(large.fixed(5, 0)) == 5 and len(large.fixed(1000, 1)) == 0


def test_grey_patches(folder):
    source = open_source(folder)
    grey = Patches.build(source, Preprocess(32, channels=1)).batch([1, 2], (0, 0)).numpy()
    colour = Patches.build(source, Preprocess(32)).batch([1, 2], (0, 0)).numpy()
    luma = np.tensordot(colour.astype(float), [0.299, 0.587, 0.114], axes=(1, 0))  # ITU-R BT.601
    assert grey.shape == (2, 1, 32, 32) and np.abs(grey[:, 0] - luma).max() <= 1


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("name", ["train", "pixels"])
def test_degradations_work_on_small_patches(side, name):
    images = np.random.default_rng(1).integers(0, 256, (200, 3, side, side), dtype=np.uint8)
    degraded = apply_batch(preset(name), images, 5)
    assert degraded.shape == images.shape
    changed = (degraded != images).any(axis=(1, 2, 3)).mean()
    assert changed > 0.6


def test_pixels_resamples_nothing_and_saves_as_jpeg():
    steps = {step.name: step for step in PRESETS["pixels"].steps}
    assert not {"resize", "rotate", "shear", "screenshot", "web"} & set(steps)
    assert sum(steps[name].probability for name in ("jpeg", "double_jpeg", "crop_shift")) > 0.6
