import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from faces.layout import Reading
from faces.preprocess import Preprocess
from faces.source import open_source
from metrics.collect import collect, collect_cached, is_cached, seconds_for
from metrics.images import ArrayImages, SourceImages
from tests.gaussian import stats_of


class Pooled(torch.nn.Module):
    """A stand-in for the Inception features: 4x4 block means of each channel, 48 numbers, instantly."""

    dims, resize, weights_sha256, chunk = 48, "none", "0" * 64, 8

    def __init__(self):
        super().__init__()
        self.seen = 0

    def describe(self):
        return {"dims": self.dims, "resize": self.resize, "weights_sha256": self.weights_sha256}

    def forward(self, images):
        self.seen += len(images)
        return torch.nn.functional.adaptive_avg_pool2d(images.float(), 4).flatten(1)


def pixels(n=150, seed=0, side=16):
    return np.random.default_rng(seed).integers(0, 256, (n, 3, side, side), dtype=np.uint8)


def folder(path, images):
    path.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image.transpose(1, 2, 0)).save(path / f"{i:03d}.png")
    return path


def images_of(path, **options):
    return SourceImages(open_source(path), **options)


def test_statistics_and_vectors_are_those_of_all_images(tmp_path):
    images, features, told = pixels(), Pooled(), []
    wanted = features(torch.from_numpy(images)).numpy()
    found = collect(
        images_of(folder(tmp_path / "a", images)), features, keep=True, progress=lambda *done: told.append(done)
    )
    np.testing.assert_array_equal(found.vectors, wanted)
    np.testing.assert_allclose(found.stats.sigma, np.cov(wanted.astype(np.float64), rowvar=False), rtol=1e-10)
    assert found.n == 150 and found.size == (16, 16) and told == [(64, 150), (128, 150), (150, 150)]
    frozen = images.copy()
    frozen.flags.writeable = False  # as a memory-mapped pack is
    chosen = collect(ArrayImages(frozen, np.arange(1, 150, 2)), features)
    np.testing.assert_array_equal(chosen.stats.sigma, stats_of(wanted[1::2]).sigma)
    assert chosen.vectors is None


def test_preprocessing_brings_images_to_one_size(tmp_path):
    mixed = [*pixels(3), *pixels(3, side=20)]
    pre = Preprocess(8)
    found = collect(images_of(folder(tmp_path, mixed), preprocess=pre), Pooled(), keep=True)
    wanted = np.stack([pre.uint8(image.transpose(1, 2, 0)).transpose(2, 0, 1) for image in mixed])
    np.testing.assert_array_equal(found.vectors, Pooled()(torch.from_numpy(wanted)).numpy())


def test_cache_is_by_content_not_by_name(tmp_path):
    images, features, cache = pixels(), Pooled(), tmp_path / "cache"

    def computed(source, **options):
        before = features.seen
        source = images_of(source)
        found = collect_cached(source, features, source.content_key, cache, **options)
        assert is_cached(features, source.content_key(), cache) and found.n == 150
        return features.seen - before, found

    first, stats = computed(folder(tmp_path / "a", images))
    again, cached = computed(folder(tmp_path / "other" / "name", images))  # other name, place and times
    assert first == 150 and again == 0 and cached.cached and np.array_equal(stats.stats.sigma, cached.stats.sigma)
    with zipfile.ZipFile(tmp_path / "same.zip", "w") as archive:
        for file in sorted((tmp_path / "a").iterdir()):
            archive.write(file, file.name)
    assert computed(tmp_path / "same.zip")[0] == 0
    assert computed(tmp_path / "a", keep=True)[0] == 150 and computed(tmp_path / "a", keep=True)[0] == 0
    np.testing.assert_array_equal(computed(tmp_path / "a", keep=True)[1].vectors, features(torch.from_numpy(images)))
    changed = images.copy()
    changed[149, 0, 0, 0] ^= 255
    assert computed(folder(tmp_path / "a", changed))[0] == 150  # the same names
    features.resize = "clean"
    assert computed(tmp_path / "a")[0] == 150
    features.weights_sha256 = "1" * 64
    assert computed(tmp_path / "a")[0] == 150
    for file in cache.iterdir():
        file.write_bytes(file.read_bytes()[:100])
    assert computed(tmp_path / "a")[0] == 150 and computed(tmp_path / "a")[0] == 0  # a damaged file is replaced


def test_an_unwritable_cache_costs_no_result(tmp_path):
    (tmp_path / "file").touch()
    found = collect_cached(ArrayImages(pixels()), Pooled(), "abc", tmp_path / "file")
    assert found.n == 150 and "file" in found.unkept


def test_vectors_that_are_not_those_of_the_statistics_are_made_again(tmp_path):
    images, features = ArrayImages(pixels(70)), Pooled()
    right = collect_cached(images, features, "abc", tmp_path, keep=True).vectors
    (file,) = tmp_path.glob("vectors-*")
    for damage in (np.nan, 1e9):
        wrong = right.copy()
        wrong[3, 4] = damage
        np.save(file, wrong)
        found = collect_cached(images, features, "abc", tmp_path, keep=True)
        assert not found.cached and np.array_equal(found.vectors, right)
    assert collect_cached(images, features, "abc", tmp_path, keep=True).cached


def test_one_bad_file_is_left_out_and_named(tmp_path):
    folder(tmp_path, pixels(9))
    (tmp_path / "004.png").write_bytes(b"no image")
    found = collect(images_of(tmp_path), Pooled())
    assert found.n == 8 and len(found.skipped) == 1 and "004.png" in found.skipped[0][0]


def test_one_clear_line_for_what_cannot_be(tmp_path):
    for n in (0, 1):
        with pytest.raises(UserError, match=f"two images or more, got {n}"):
            collect(ArrayImages(pixels(n)), Pooled())
    folder(tmp_path / "broken", pixels(2))
    (tmp_path / "broken" / "001.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"two images or more, got 1 \(1 can't be used, such as .*001.png"):
        collect(images_of(tmp_path / "broken"), Pooled())

    folder(tmp_path / "mixed", [*pixels(70), pixels(1, side=20)[0]])
    with pytest.raises(UserError, match=r"mixed sizes: .*000.png is 16x16, .*070.png is 20x20; give `resolution`"):
        collect(images_of(tmp_path / "mixed"), Pooled())

    folder(tmp_path / "grey", pixels(70))
    Image.new("L", (16, 16), 99).save(tmp_path / "grey" / "066.png")
    with pytest.raises(UserError, match=r"066.png: a grey image among colour ones .*`allow_grey`"):
        collect(images_of(tmp_path / "grey"), Pooled())
    assert collect(images_of(tmp_path / "grey", allow_grey=True), Pooled()).n == 70
    for i in range(3):
        folder(tmp_path / "all", [])
        Image.new("L", (16, 16), 9 * i).save(tmp_path / "all" / f"{i}.png")
    assert collect(images_of(tmp_path / "all"), Pooled()).n == 3  # a grey set is a set

    features = Pooled()
    features.forward = lambda images: torch.full((len(images), 48), torch.nan)
    with pytest.raises(UserError, match=r"image 0: its features hold NaN or infinite values \(64 such images"):
        collect(ArrayImages(pixels()), features)


def test_time_is_estimated_on_a_few_images(monkeypatch):
    import metrics.collect

    features, clock, forward = Pooled(), [0.0], Pooled.forward

    def slow(self, images):
        clock[0] += 0.5 * len(images)
        return forward(self, images)

    monkeypatch.setattr(Pooled, "forward", slow)
    monkeypatch.setattr(metrics.collect.time, "perf_counter", lambda: clock[0])
    assert seconds_for(ArrayImages(np.zeros((5000, 3, 4, 4), np.uint8)), features) == pytest.approx(2500)
    assert clock[0] == pytest.approx(0.5 * 3 * 8)


def test_unlike_images_are_found_by_their_headers_before_anything_is_computed(tmp_path):
    colour = pixels(3)
    images_of(folder(tmp_path / "alike", colour)).check_alike()
    mixed = images_of(folder(tmp_path / "mixed", [*colour, *pixels(1, side=20)]))
    (tmp_path / "mixed" / "000.png").write_bytes(b"no image")  # is left to `collect`, which counts and names it
    with pytest.raises(UserError, match=r"mixed sizes: .*001.png is 16x16, .*003.png is 20x20"):
        mixed.check_alike()
    images_of(tmp_path / "mixed", preprocess=Preprocess(8)).check_alike()
    turned = Image.fromarray(np.zeros((16, 20, 3), np.uint8))
    exif = turned.getexif()
    exif[0x0112] = 6  # a quarter turn
    (tmp_path / "turned").mkdir()
    turned.save(tmp_path / "turned" / "a.jpg", exif=exif)
    Image.new("RGB", (16, 20)).save(tmp_path / "turned" / "b.png")
    images_of(tmp_path / "turned").check_alike()
    Image.new("L", (16, 20)).save(tmp_path / "turned" / "c.png")
    with pytest.raises(UserError, match=r"c.png: a grey image among colour ones \(such as .*a.jpg"):
        images_of(tmp_path / "turned").check_alike()
    images_of(tmp_path / "turned", allow_grey=True).check_alike()
    # whoever allowed it once has not allowed it for ever
    keys = {images_of(tmp_path / "turned", allow_grey=allowed).content_key() for allowed in (True, False)}
    assert len(keys) == 2


def test_grey_is_seen_whatever_the_file(tmp_path):
    """Grey files, grey photos saved as colour and re-saved as JPEG are grey; a faint tint is colour."""
    rng = np.random.default_rng(1)
    ramp = np.repeat(rng.integers(0, 256, (32, 32, 1), dtype=np.uint8), 3, axis=2)
    smooth = np.clip(np.add.outer(np.arange(32), np.arange(32)) * 4, 0, 255).astype(np.uint8)
    tinted = np.stack([smooth, smooth // 2 + 60, 255 - smooth], axis=2)
    grey, colour = tmp_path / "grey", tmp_path / "colour"
    grey.mkdir(), colour.mkdir()
    Image.fromarray(smooth).save(grey / "l.png")
    Image.fromarray(ramp).save(grey / "rgb.png")
    Image.fromarray(np.repeat(smooth[..., None], 3, axis=2)).save(grey / "rgb.jpg", quality=80)
    Image.fromarray(tinted).save(colour / "a.png")
    Image.fromarray(tinted).save(colour / "b.jpg", quality=80)
    assert SourceImages(open_source(grey)).colourless() == 1.0
    assert SourceImages(open_source(colour)).colourless() == 0.0
    both = SourceImages(open_source(tmp_path, reading=Reading(ask=False)))
    assert both.colourless() == pytest.approx(3 / 5)


def test_what_was_left_out_is_named_where_it_lies_now(tmp_path):
    """A cached set that had been moved was told of by the paths of the place where it was seen first."""
    features, cache = Pooled(), tmp_path / "cache"
    folder(tmp_path / "here", pixels(9))
    (tmp_path / "here" / "004.png").write_bytes(b"no image")
    for name in ("here", "there"):
        if name == "there":
            (tmp_path / "here").rename(tmp_path / name)
        images = images_of(tmp_path / name)
        found = collect_cached(images, features, images.content_key, cache)
        assert found.skipped == [(str(tmp_path / name / "004.png"), "not an image")]
    assert found.cached and features.seen == 8
