"""Degradations against PIL, scipy and closed forms; determinism, sizes, descriptions."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from common.errors import UserError
from faces import filters
from faces.degrade import PRESETS, STEPS, Degradation, Step, apply_batch, grid, preset, resaves
from faces.filters import KERNELS
from faces.procedural.portrait import render_face


@pytest.fixture(scope="module")
def face():
    return render_face(3, 96)


def rng(seed=0):
    return np.random.default_rng(seed)


def psnr(a, b):
    return 10 * np.log10(255**2 / max(np.mean((a.astype(float) - b.astype(float)) ** 2), 1e-9))


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("size", [(64, 64), (37, 51), (1, 1), (1, 9), (8, 3)])
def test_every_step_keeps_size_dtype_and_input(name, size):
    image = rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    before = image.copy()
    for seed in range(3):
        out = Step(name)(image, rng(seed))
        assert out.shape == image.shape and out.dtype == np.uint8
    assert np.array_equal(image, before)


@pytest.mark.parametrize("name", [*PRESETS, *list(grid())])
def test_same_rng_same_result(name, face):
    chain = {**grid(), **PRESETS}[name]
    assert np.array_equal(chain.apply(face, rng(5)), chain.apply(face, rng(5)))


@pytest.mark.parametrize("quality", [95, 75, 30])
def test_jpeg_loses_what_pillow_loses(face, quality):
    buffer = io.BytesIO()
    Image.fromarray(face).save(buffer, "JPEG", quality=quality, subsampling=2)
    pillow = np.asarray(Image.open(buffer).convert("RGB"))
    ours = filters.jpeg(face, quality)
    # two builds of libjpeg may round differently, but they agree far better with each other than with the original
    assert psnr(ours, pillow) > max(psnr(ours, face) + 6, 40)


def test_jpeg_and_webp_quality_order(face):
    for codec in (filters.jpeg, filters.webp):
        errors = [psnr(codec(face, q), face) for q in (20, 50, 80, 95)]
        assert errors == sorted(errors) and errors[-1] > 30
    assert psnr(filters.jpeg(face, 90, "444"), face) > psnr(filters.jpeg(face, 90, "420"), face)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.3])
def test_blur_is_scipys(face, sigma):
    want = np.stack(
        [ndimage.gaussian_filter(face[..., c].astype(float), sigma, mode="reflect", truncate=4.0) for c in range(3)], -1
    )
    assert np.abs(filters.blur(face, sigma) - want).max() < 0.51
    assert filters.blur(face, 0) is face


def test_noise_has_its_sigma():
    grey = np.full((128, 128, 3), 128, np.uint8)
    for sigma in (2.0, 6.0):
        difference = filters.noise(grey, sigma, rng(2)).astype(float) - 128
        assert abs(difference.std() - np.sqrt(sigma**2 + 1 / 12)) < 0.05 * sigma  # 1/12: rounding to whole levels
        assert abs(difference.mean()) < 0.1


def test_flip_and_identities(face):
    assert np.array_equal(filters.hflip(face), face[:, ::-1])
    assert np.array_equal(filters.hflip(filters.hflip(face)), face)
    for same in (
        filters.rotate(face, 0),
        filters.shear(face, 0, 0),
        filters.brightness(face, 1),
        filters.contrast(face, 1),
        filters.saturation(face, 1),
        filters.cutout(face, 0, 0.5, 0.5),
        filters.scale(face, 1.0, "lanczos"),
    ):
        assert np.array_equal(same, face)


def test_quarter_turn_is_exact(face):
    assert np.array_equal(filters.rotate(face, 90), np.rot90(face))


def test_shear_moves_rows_by_whole_pixels():
    image = rng(4).integers(0, 256, (9, 30, 3), dtype=np.uint8)
    out = filters.shear(image, 1.0, 0.0)
    for row in range(9):
        shift = row - 4
        columns = np.arange(10, 20)
        assert np.array_equal(out[row, columns], image[row, columns + shift]) or np.array_equal(
            out[row, columns], image[row, columns - shift]
        )


def test_colour_operations_do_what_they_say(face):
    values = face.astype(float)
    assert np.abs(filters.brightness(face, 0.5) - values * 0.5).max() <= 0.5
    grey = filters.saturation(face, 0.0)
    assert np.ptp(grey.astype(int), axis=2).max() == 0
    assert filters.contrast(face, 0.0).std() < 0.5
    red = np.full((4, 4, 3), (200, 0, 0), np.uint8)
    turned = filters.hue(red, 120)
    assert turned[0, 0, 1] > 190 and turned[0, 0, 0] < 12 and turned[0, 0, 2] < 12
    assert np.abs(filters.hue(red, 360).astype(int) - red).max() <= 1
    flat = (face // 4 + 96).astype(np.uint8)
    assert filters.clahe(flat, 3.0).std() > flat.std()


def test_cutout_covers_the_stated_area():
    image = np.zeros((40, 60, 3), np.uint8)
    out = filters.cutout(image, 0.25, 0.5, 0.5)
    assert (out[..., 0] == 128).sum() == 10 * 15
    assert out[20, 30, 0] == 128 and out[0, 0, 0] == 0


@pytest.mark.parametrize("kernel", KERNELS)
def test_resize_kernels_are_pillows(face, kernel):
    method = getattr(Image.Resampling, kernel.upper())
    want = np.asarray(Image.fromarray(face).resize((50, 41), method))
    assert np.array_equal(filters.resize(face, 41, 50, kernel), want)


def test_crop_shift_leaves_the_grid():
    image = render_face(8, 64)
    out = filters.crop_shift(image, 3, 5, 95)
    assert psnr(out[3:, 5:], image[3:, 5:]) > 30  # the content stays where it was
    assert np.array_equal(out[3:, 5:], filters.jpeg(np.ascontiguousarray(image[3:, 5:]), 95))


def test_web_limits_the_longest_side():
    image = render_face(1, 200)
    assert filters.fit_longest(image, 50).shape == (50, 50, 3)
    assert filters.fit_longest(image[:100], 50).shape == (25, 50, 3)
    assert filters.fit_longest(image, 500) is image
    assert psnr(filters.web(image, 768, 60), filters.jpeg(image, 60)) > 90
    assert psnr(filters.web(image, 50, 60), image) < psnr(filters.web(image, 768, 60), image)


def test_batch_is_stateless_per_image(face):
    images = np.stack([render_face(i) for i in range(6)]).transpose(0, 3, 1, 2)
    train = preset("train")
    whole = apply_batch(train, images, 7)
    assert whole.shape == images.shape and whole.dtype == np.uint8
    assert np.array_equal(whole, apply_batch(train, images, 7))
    assert not np.array_equal(whole, apply_batch(train, images, 8))
    assert np.array_equal(whole[:4], apply_batch(train, images[:4], 7))
    others = np.concatenate([images[:0:-1], images[5:]])
    assert np.array_equal(whole[5], apply_batch(train, others, 7)[5])
    assert np.array_equal(whole, apply_batch(train, images, [7] * 6))
    grey = apply_batch(train, images[:, :1], 7)
    assert grey.shape == (6, 1, 64, 64)
    with pytest.raises(ValueError, match="uint8"):
        apply_batch(train, images.astype(np.float32), 7)
    with pytest.raises(ValueError, match="seeds"):
        apply_batch(train, images, [1, 2])


def test_train_touches_most_images_but_not_all(face):
    images = np.repeat(face[None], 400, 0)[:, :64, :64].transpose(0, 3, 1, 2)
    out = apply_batch(preset("train"), images, 1)
    flipped = images[:, :, :, ::-1]
    changed = np.mean(
        [not (np.array_equal(o, i) or np.array_equal(o, f)) for o, i, f in zip(out, images, flipped, strict=True)]
    )
    assert 0.5 < changed < 0.8
    likeness = [max(psnr(o, i), psnr(o, f)) for o, i, f in zip(out, images, flipped, strict=True)]
    assert np.mean(np.array(likeness) < 12) < 0.05  # degraded, but still the face


def test_groups_exclude_each_other(face):
    calls = []
    chain = Degradation("x", (Step("jpeg", 0.3, {}, "codec"), Step("webp", 0.5, {}, "codec")))
    original = dict(STEPS)
    try:
        for name in ("jpeg", "webp"):
            STEPS[name] = (lambda im, r, p, name=name: (calls.append(name), im)[1], original[name][1])
        generator = rng(3)
        counts = {"jpeg": 0, "webp": 0, "none": 0}
        for _ in range(2000):
            calls.clear()
            chain.apply(face, generator)
            assert len(calls) <= 1
            counts[calls[0] if calls else "none"] += 1
    finally:
        STEPS.update(original)
    for name, share in (("jpeg", 0.3), ("webp", 0.5), ("none", 0.2)):
        assert abs(counts[name] / 2000 - share) < 0.05


@pytest.mark.parametrize("name", [*PRESETS, "resize-0.5-lanczos"])
def test_dict_roundtrip_through_json(name, face):
    chain = {**grid(), **PRESETS}[name]
    again = Degradation.from_dict(json.loads(json.dumps(chain.to_dict())))
    assert again == chain
    assert np.array_equal(again.apply(face, rng(9)), chain.apply(face, rng(9)))


def test_presets_and_grid():
    assert set(PRESETS) >= {"none", "light", "train", "web", "hard"}
    names = list(grid())
    assert names[0] == "clean" and {"jpeg-95", "jpeg-30", "webp-80", "webp-50", "double-jpeg", "screenshot"} <= set(
        names
    )
    assert sum(name.startswith("resize-") for name in names) == 25
    image = render_face(0)
    assert preset("none").apply(image, rng()) is image


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: preset("medium"), "light"),
        (lambda: Step("sepia"), "unknown"),
        (lambda: Step("jpeg", 1.5), "probability"),
        (lambda: Step("jpeg", ranges={"speed": (1, 2)}), "quality"),
        (lambda: Step("jpeg", ranges={"quality": (0, 120)}), "not within 1 to 100"),
        (lambda: Step("jpeg", ranges={"quality": (80, 20)}), "low <= high"),
        (lambda: Step("jpeg", ranges={"quality": 80}), "pair"),
        (lambda: Step("resize", ranges={"kernel": ("cubic",)}), "bicubic"),
        (lambda: Degradation.from_dict({"steps": ["jpeg"]}), "name"),
        (lambda: Degradation.from_dict({"steps": [{"name": "sepia"}]}), "sepia"),
    ],
)
def test_wrong_descriptions_are_named(make, words):
    with pytest.raises(UserError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_what_should_change_nobodys_mind_is_what_its_names_say(face):
    chains = resaves()
    for chroma in ("420", "444"):
        saved = chains.pop(f"jpeg-96-{chroma}").apply(face, rng())
        assert np.array_equal(saved, filters.jpeg(face, 96, chroma))
    assert list(chains) == [f"resize-0.9-{kernel}" for kernel in KERNELS]
    for kernel in KERNELS:
        small = Image.fromarray(face).resize((86, 86), Image.Resampling[kernel.upper()])  # 0.9 of 96
        back = np.asarray(small.resize((96, 96), Image.Resampling.BICUBIC))
        assert np.array_equal(chains[f"resize-0.9-{kernel}"].apply(face, rng()), back)
