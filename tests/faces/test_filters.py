"""Every augmentation that is promised, against an implementation by somebody else or a form in closed terms."""

from __future__ import annotations

import colorsys
import inspect
import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter
from scipy import ndimage, stats

from faces import filters
from faces.degrade import STEPS, Degradation, Step, apply_batch
from faces.procedural.portrait import render_face

PROMISED = (
    "hflip rotate shear brightness contrast saturation hue clahe blur noise jpeg webp resize cutout double_jpeg"
    " screenshot"
).split()


@pytest.fixture(scope="module")
def photo():
    """A face with grain, 72 x 96: smooth pictures would hide wrong kernels."""
    grain = np.random.default_rng(5).normal(0, 8, (96, 96, 3))
    return np.clip(render_face(7, 96) + grain, 0, 255).astype(np.uint8)[:72]


def rng(seed=0):
    return np.random.default_rng(seed)


def apart(a, b) -> float:
    """Mean distance in grey levels."""
    return float(np.abs(np.asarray(a).astype(float) - np.asarray(b).astype(float)).mean())


def test_all_that_is_promised_is_there():
    assert set(PROMISED) <= set(STEPS)
    assert filters.KERNELS == ("nearest", "bilinear", "bicubic", "box", "lanczos")


@pytest.mark.parametrize("name", STEPS)
def test_a_seed_decides_everything(name, photo):
    step = Step(name)
    first = [step(photo, rng(seed)) for seed in range(6)]
    for seed, image in enumerate(first):
        np.testing.assert_array_equal(step(photo, rng(seed)), image)
    different = {image.tobytes() for image in first}
    constant = name in ("hflip", "web")  # they draw nothing
    assert len(different) == 1 if constant else len(different) >= 4
    batch = np.repeat(photo.transpose(2, 0, 1)[None], 3, 0)
    chain = Degradation("one", (step,))
    alone = [chain.apply(photo, np.random.Generator(np.random.PCG64([11, i]))).transpose(2, 0, 1) for i in range(3)]
    np.testing.assert_array_equal(apply_batch(chain, batch, 11), alone)


@pytest.mark.parametrize("turn", range(-1, 5))
def test_quarter_turns_are_numpys(photo, turn):
    for image in (photo, photo[3:90, 10:50], photo[..., ::-1]):
        turned = filters.quarter_turned(image, turn)
        np.testing.assert_array_equal(turned, np.rot90(image, turn))
        assert turned.flags.c_contiguous


def test_no_filter_has_a_random_state_of_its_own():
    source = inspect.getsource(filters)
    assert "np.random" not in source.replace("np.random.Generator", "") and "import random" not in source


@pytest.mark.parametrize("degrees", [-30.0, -7.5, 3.0, 45.0])
def test_rotate_is_pillows(photo, degrees):
    ours = filters.rotate(photo, degrees)
    theirs = np.asarray(Image.fromarray(photo).rotate(degrees, Image.Resampling.BILINEAR))
    # Pillow leaves black what comes from outside
    inside = np.asarray(Image.new("L", (96, 72), 255).rotate(degrees, Image.Resampling.BILINEAR)) == 255
    inside = ndimage.binary_erosion(inside, iterations=2)
    # OpenCV places samples in 32nds of a pixel
    assert inside.sum() > 2000 and apart(ours[inside], theirs[inside]) < 1.0
    assert apart(ours[inside], np.asarray(Image.fromarray(photo).rotate(-degrees))[inside]) > 5


@pytest.mark.parametrize("x, y", [(0.1, 0.0), (0.0, -0.15), (0.08, 0.05)])
def test_shear_is_scipys(photo, x, y):
    cy, cx = (photo.shape[0] - 1) / 2, (photo.shape[1] - 1) / 2
    forward = np.array([[1, y], [x, 1]])  # rows, columns
    back = np.linalg.inv(forward)
    offset = np.array([cy, cx]) - back @ [cy, cx]
    planes = [
        ndimage.affine_transform(photo[..., c].astype(float), back, offset, order=1, mode="reflect") for c in range(3)
    ]
    assert apart(filters.shear(photo, x, y), np.stack(planes, -1)) < 1.0


def test_reframe_moves_by_pixels_and_mirrors():
    image = np.random.default_rng(2).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    moved = filters.reframe(image, 1, 0, 0.1, -0.05)  # six pixels to the right, two up
    assert np.array_equal(moved, np.pad(image, ((0, 2), (6, 0), (0, 0)), "symmetric")[2:, :60])
    square = image[:, :40]
    assert np.array_equal(filters.reframe(square, 1, 90, 0, 0), np.rot90(square))


@pytest.mark.parametrize("zoom", [0.8, 1.3])
def test_reframe_draws_what_scipy_does(photo, zoom):
    ours = filters.reframe(photo, zoom, 11, 0.04, -0.03)
    height, width = photo.shape[:2]
    turn = np.deg2rad(11)
    back = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) / zoom  # of (y, x), to the photo
    middle = np.array([(height - 1) / 2, (width - 1) / 2])
    offset = middle - back @ (middle + [-0.03 * height, 0.04 * width])
    theirs = np.stack(
        [
            ndimage.affine_transform(photo[..., c].astype(float), back, offset, order=3, mode="reflect")
            for c in range(3)
        ],
        -1,
    )
    assert apart(ours, np.clip(theirs, 0, 255)) < 1.5
    other = np.stack([ndimage.affine_transform(photo[..., c].astype(float), back.T, offset) for c in range(3)], -1)
    assert apart(ours, other) > 5


def test_brightness_is_pillows(photo):
    for factor in (0.3, 0.8, 1.4):
        theirs = ImageEnhance.Brightness(Image.fromarray(photo)).enhance(factor)
        assert np.abs(filters.brightness(photo, factor).astype(int) - np.asarray(theirs)).max() <= 1


def test_contrast_and_saturation_are_pillows(photo):
    for factor in (0.0, 0.5, 1.5):
        theirs = ImageEnhance.Contrast(Image.fromarray(photo)).enhance(factor)
        assert np.abs(filters.contrast(photo, factor).astype(int) - np.asarray(theirs)).max() <= 1
        theirs = ImageEnhance.Color(Image.fromarray(photo)).enhance(factor)
        assert np.abs(filters.saturation(photo, factor).astype(int) - np.asarray(theirs)).max() <= 2


@pytest.mark.parametrize("degrees", [-60.0, -12.0, 30.0, 120.0])
def test_hue_is_colorsyss(photo, degrees):
    pixels = photo[::6, ::6].reshape(-1, 3)
    want = []
    for r, g, b in pixels / 255.0:
        h, s, v = colorsys.rgb_to_hsv(r, g, b)
        want.append(colorsys.hsv_to_rgb((h + degrees / 360) % 1, s, v))
    got = filters.hue(photo, degrees)[::6, ::6].reshape(-1, 3)
    # eight bits of hue and of saturation between
    assert apart(got, np.array(want) * 255) < 2.0 and np.abs(got - np.array(want) * 255).max() < 12


def test_clahe_equalises_lightness_only(photo):
    flat = (photo // 3 + 80).astype(np.uint8)
    out = filters.clahe(flat, 2.0, 4)
    lab = cv2.cvtColor(flat, cv2.COLOR_RGB2LAB)
    planes = [cv2.createCLAHE(clipLimit=2.0, tileGridSize=(4, 4)).apply(lab[..., 0].copy()), lab[..., 1], lab[..., 2]]
    np.testing.assert_array_equal(out, cv2.cvtColor(np.dstack(planes), cv2.COLOR_LAB2RGB))
    # one tile and no limit is plain histogram equalisation
    grey = np.repeat(rng(1).integers(90, 140, (64, 64, 1), dtype=np.uint8), 3, 2)
    light = cv2.cvtColor(filters.clahe(grey, 1000.0, 1), cv2.COLOR_RGB2LAB)[..., 0].ravel()
    ranks = stats.rankdata(grey[..., 0], method="max") / grey[..., 0].size * 255
    assert np.abs(light - ranks).max() < 8


def test_blur_is_pillows_and_keeps_the_mean(photo):
    wide = filters.blur(photo, 3.0)
    theirs = np.asarray(Image.fromarray(photo).filter(ImageFilter.GaussianBlur(3.0)))
    assert apart(wide[12:-12, 12:-12], theirs[12:-12, 12:-12]) < 1.5  # Pillow's is three boxes
    assert abs(wide.mean() - photo.mean()) < 0.3


def test_noise_is_gaussian():
    grey = np.full((200, 200, 3), 128, np.uint8)
    drawn = (filters.noise(grey, 20.0, rng(4)).astype(float) - 128).ravel()[::7]
    assert stats.kstest(drawn + rng(5).uniform(-0.5, 0.5, drawn.size), "norm", args=(0, 20.0)).pvalue > 0.001
    channels = filters.noise(grey, 20.0, rng(4)).reshape(-1, 3).astype(float)
    assert np.abs(np.corrcoef(channels.T) - np.eye(3)).max() < 0.02  # not the same grain in all channels


@pytest.mark.parametrize("quality", [40, 75, 95])
def test_jpeg_and_webp_are_the_codecs(photo, quality):
    for chroma, number in (("420", 2), ("444", 0)):
        buffer = io.BytesIO()
        Image.fromarray(photo).save(buffer, "JPEG", quality=quality, subsampling=number)
        theirs = np.asarray(Image.open(buffer))
        assert apart(filters.jpeg(photo, quality, chroma), theirs) < 0.3 * apart(photo, theirs)
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "WEBP", quality=quality, method=0)
    theirs = cv2.cvtColor(cv2.imdecode(np.frombuffer(buffer.getvalue(), np.uint8), 1), cv2.COLOR_BGR2RGB)
    assert apart(filters.webp(photo, quality), theirs) < 1.0


@pytest.mark.parametrize("kernel", filters.KERNELS)
@pytest.mark.parametrize("factor", [0.25, 0.6, 1.7])
def test_down_up_is_pillows(photo, kernel, factor):
    method = getattr(Image.Resampling, kernel.upper())
    size = (round(96 * factor), round(72 * factor))
    theirs = Image.fromarray(photo).resize(size, method).resize((96, 72), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(filters.scale(photo, factor, kernel), np.asarray(theirs))
    if factor < 1 and kernel != "nearest":  # anti-aliased: fine stripes become grey, not broad stripes
        stripes = np.repeat(np.tile(np.uint8([0, 255]), 48)[None, :, None], 72, 0).repeat(3, 2)
        assert filters.resize(stripes, 18, 24, kernel)[:, 2:-2].std() < 12


def test_cutout_covers_the_stated_share():
    image = np.full((60, 80, 3), 7, np.uint8)
    draws = [Step("cutout", ranges={"side": (0.5, 0.5)})(image, rng(seed)) for seed in range(300)]
    covered = np.array([(draw[..., 0] == 128).mean() for draw in draws])
    # half the image long, its centre uniform: half of the time all of it is inside, else three quarters on average
    assert abs(covered.mean() - (0.5 * 0.5 + 0.5 * 0.375) ** 2) < 0.01 and covered.max() <= 0.26
    assert all(set(np.unique(draw)) <= {7, 128} for draw in draws)


def test_double_compression_leaves_two_tables():
    """Coefficients of an image saved at 60, then at 90, lie on the first table's lattice; those saved once do not."""
    grey = np.repeat(np.clip(rng(3).normal(128, 40, (256, 256, 1)), 0, 255).astype(np.uint8), 3, 2)
    once = filters.jpeg(grey, 90, "444")
    twice = Step("double_jpeg", ranges={"first": (60, 60), "second": (90, 90)})(grey, rng())
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "JPEG", quality=60)
    table = Image.open(buffer).quantization[0]
    step = table[2]

    def off_lattice(image):
        blocks = (image[..., 0].astype(np.float32) - 128).reshape(32, 8, 32, 8).transpose(0, 2, 1, 3).reshape(-1, 8, 8)
        values = np.array([cv2.dct(np.ascontiguousarray(block))[0, 2] for block in blocks]) / step
        return np.abs(values - np.rint(values)).mean()

    assert abs(off_lattice(once) - 0.25) < 0.06  # a quarter: uniform between two points
    assert off_lattice(twice) < 0.8 * off_lattice(once)


def test_screenshot_is_its_chain(photo):
    zoom, quality = 1.25, 90
    shown = Image.fromarray(photo).resize((120, 90), Image.Resampling.BILINEAR)
    levels = [round(255 * round((v / 255) ** (1 / 1.1) * 250) / 250) for v in range(256)]
    buffer = io.BytesIO()
    shown.point(levels * 3).save(buffer, "JPEG", quality=quality, subsampling=0)
    theirs = np.asarray(Image.open(buffer).resize((96, 72), Image.Resampling.BICUBIC))
    assert apart(filters.screenshot(photo, zoom, quality), theirs) < 0.7
    assert apart(photo, theirs) > 2
