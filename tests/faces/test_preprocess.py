"""THE preprocessing against its definition in float64."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

import train_detector
from faces.preprocess import Preprocess

RNG = np.random.default_rng(3)

KERNELS = {
    "box": (0.5, lambda x: ((x > -0.5) & (x <= 0.5)).astype(float)),
    "bilinear": (1.0, lambda x: np.clip(1 - np.abs(x), 0, None)),
    "bicubic": (2.0, lambda x: _cubic(np.abs(x))),
    "lanczos": (3.0, lambda x: np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)),
}


def _cubic(x, a=-0.5):
    inner = ((a + 2) * x - (a + 3)) * x * x + 1
    outer = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, inner, np.where(x < 2, outer, 0.0))


def resize_matrix(kernel: str, source: int, target: int) -> np.ndarray:
    """Anti-aliased resampling, target x source: the kernel stretched by the reduction, rows summing to 1."""
    support, function = KERNELS[kernel]
    scale = source / target
    stretch = max(scale, 1.0)
    centres = (np.arange(target) + 0.5) * scale
    weights = function((np.arange(source) + 0.5 - centres[:, None]) / stretch)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("size", [(96, 96, 32), (50, 50, 64), (61, 61, 19)])
def test_resampling_meets_its_definition(kernel, size):
    height, width, side = size
    image = RNG.integers(64, 192, (height, width, 3), dtype=np.uint8)  # no clipping between Pillow's two passes
    rows, columns = resize_matrix(kernel, height, side), resize_matrix(kernel, width, side)
    exact = np.clip(np.einsum("yh,hwc,xw->yxc", rows, image.astype(float), columns), 0, 255)
    got = Preprocess(side, resample=kernel).uint8(image)
    assert np.abs(got - exact).max() < 1.6 and np.abs(got - exact).mean() < 0.5  # Pillow rounds after each pass


@pytest.mark.parametrize("size", [(96, 96, 32), (128, 128, 32), (61, 61, 19), (50, 50, 64)])
def test_points_are_what_lies_about_each_middle(size):
    """Shrinking: the triangle of one old pixel's width, not stretched; enlarging: lanczos."""
    height, width, side = size
    image = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
    got = Preprocess(side, resample="points").uint8(image)
    if side > height:
        assert (got == Preprocess(side).uint8(image)).all()
        return
    middles = (np.arange(side) + 0.5) * height / side - 0.5
    weights = np.clip(1 - np.abs(np.arange(height) - middles[:, None]), 0, None)
    exact = np.einsum("yh,hwc,xw->yxc", weights, image.astype(float), weights)
    assert np.abs(got - exact).max() < 1  # OpenCV counts in fixed point


def test_points_of_a_much_larger_photo_are_those_of_four_times_the_size():
    image = RNG.integers(0, 256, (256, 256, 3), dtype=np.uint8)
    averaged = image.reshape(128, 2, 128, 2, 3).mean((1, 3))
    pairs = averaged.reshape(32, 4, 32, 4, 3)[:, 1:3, :, 1:3].mean((1, 3))
    assert np.abs(Preprocess(32, resample="points").uint8(image) - pairs).max() < 1.1


def test_same_size_is_untouched_and_centre_crop_is_a_slice():
    image = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for kernel in KERNELS:
        np.testing.assert_array_equal(Preprocess(64, resample=kernel).uint8(image), image)
    wide = RNG.integers(0, 256, (64, 91, 3), dtype=np.uint8)
    np.testing.assert_array_equal(Preprocess(64).uint8(wide), wide[:, 13:77])
    np.testing.assert_array_equal(Preprocess(64).uint8(wide.transpose(1, 0, 2)), wide.transpose(1, 0, 2)[13:77])


def test_pad_and_squeeze():
    wide = RNG.integers(0, 256, (32, 64, 3), dtype=np.uint8)
    padded = Preprocess(64, crop="pad").uint8(wide)
    np.testing.assert_array_equal(padded[16:48], wide)
    assert (padded[:16] == 128).all() and (padded[48:] == 128).all()
    whole = Preprocess(32, crop="none", resample="box").uint8(wide)
    np.testing.assert_allclose(whole, wide.reshape(32, 32, 2, 3).mean(2), atol=0.51)


def test_float_form_and_grey():
    image = RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    one = Preprocess(20)
    values = one(image)
    assert values.dtype == np.float32 and values.shape == (3, 20, 20)
    np.testing.assert_allclose(values, one.uint8(image).transpose(2, 0, 1) / 127.5 - 1, atol=1e-7)
    extremes = Preprocess(2)(np.array([[[0] * 3, [255] * 3]] * 2, np.uint8))
    assert extremes.min() == -1 and extremes.max() == 1
    luma = Preprocess(40, channels=1)
    assert luma(image).shape == (1, 40, 40)
    np.testing.assert_allclose(luma.uint8(image)[..., 0], image @ [0.299, 0.587, 0.114], atol=1)
    grey = image[..., 0]
    np.testing.assert_array_equal(Preprocess(40).uint8(grey), np.stack([grey] * 3, -1))
    np.testing.assert_array_equal(Preprocess(40).uint8(grey[..., None]), np.stack([grey] * 3, -1))


def test_accepts_any_strides_and_read_only_arrays():
    image = RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    expected = Preprocess(16).uint8(np.ascontiguousarray(image[::-1, ::-1, ::-1]))
    np.testing.assert_array_equal(Preprocess(16).uint8(image[::-1, ::-1, ::-1]), expected)
    frozen = np.asarray(Image.fromarray(image))
    Preprocess(16)(frozen)


def test_round_trip_and_refusals():
    one = Preprocess(96, crop="pad", resample="box", channels=1)
    assert Preprocess.from_dict(one.to_dict()) == one and hash(one) == hash(Preprocess.from_dict(one.to_dict()))
    for wrong in (
        {"resolution": 0},
        {"resolution": 64.0},
        {"resolution": True},
        {"resolution": 64, "crop": "middle"},
        {"resolution": 64, "resample": "nearest"},
        {"resolution": 64, "channels": 4},
        {"resolution": 64, "colour": 3},
        {},
    ):
        with pytest.raises(ValueError):
            Preprocess.from_dict(wrong)
    for shape, kind in (((4, 4, 4), np.uint8), ((4, 4, 3), np.float32), ((0, 4, 3), np.uint8), ((4,), np.uint8)):
        with pytest.raises(ValueError):
            Preprocess(8).uint8(np.zeros(shape, kind))


def test_what_is_resampled_is_saved_once_and_nothing_else():
    rng = np.random.default_rng(5)
    photo = rng.integers(0, 256, (96, 96, 3), np.uint8)
    plain, saved = Preprocess(32), Preprocess(32, saved=75)
    small = plain.uint8(photo)
    buffer = io.BytesIO()
    Image.fromarray(small).save(buffer, "JPEG", quality=75, subsampling="4:2:0")
    by_pillow = np.asarray(Image.open(buffer).convert("RGB")).astype(int)
    # two builds of one encoder: a grey level here and there
    assert np.abs(saved.uint8(photo).astype(int) - by_pillow).mean() < 0.5
    assert np.abs(small.astype(int) - by_pillow).mean() > 5
    assert (saved.uint8(small) == small).all()  # a file of that size is looked at as it is
    assert (saved.uint8(small, resampled=True) == saved.uint8(photo)).all()
    assert Preprocess.from_dict(saved.to_dict()) == saved and "saved" not in plain.to_dict()
    twice = Preprocess(32, saved=(95, 75))
    first = Preprocess(32, saved=95).uint8(photo)
    assert (twice.uint8(photo) == saved.uint8(first, resampled=True)).all()  # one after the other
    assert twice.to_dict()["saved"] == [95, 75] and Preprocess.from_dict(twice.to_dict()) == twice
    assert saved.to_dict()["saved"] == 75 and Preprocess(32, saved=(75,)) == saved and Preprocess(32, saved=0) == plain
    for wrong in (-1, 101, True, False, 7.5, "75", (75, 0), (75,) * 5, [[75]], {75: 1}):
        with pytest.raises(ValueError, match="saved must be a JPEG quality"):
            Preprocess(32, saved=wrong)


@pytest.mark.parametrize(("typed", "meant"), [("95,75", (95, 75)), ("75", (75,)), ("0", ())])
def test_qualities_as_they_are_typed(typed, meant):
    context = train_detector.main.make_context("train_detector", ["--data", "x", "--saved-as", typed])
    assert context.params["saved_as"] == meant
