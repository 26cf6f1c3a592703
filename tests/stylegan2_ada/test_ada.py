"""The ADA pipeline against the recorded numbers, closed forms, and the published probabilities."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from stylegan2_ada import ada_warp
from stylegan2_ada.ada import AugmentPipe
from stylegan2_ada.ada_draws import AdaDraws
from stylegan2_ada.ada_filters import SYM2, SYM6, filter_bank, reflect_pad
from stylegan2_ada.ada_pipes import AUGPIPES, TRANSFORMATIONS
from stylegan2_ada.ops import grid_sample as grid_sample_module

PERCENTILES = (0.1, 0.3, 0.5, 0.8, 0.95)


# The transformations of the recorded pipelines, which have other names there.
RECORDED = {
    "xflip": ("mirror",),
    "rotate90": ("quarter_turn",),
    "xint": ("whole_shift",),
    "rotate": ("rotation",),
    "aniso": ("stretch",),
    "xfrac": ("shift",),
    "lumaflip": ("luma_flip",),
    "imgfilter": ("octave_1", "octave_2", "octave_3", "octave_4"),
}


def pipe(*which, p=1.0):
    result = AugmentPipe(which)
    result.p.fill_(p)
    return result


def recorded(multipliers):
    assert set(multipliers.values()) == {1}
    return [name for theirs in multipliers for name in RECORDED.get(theirs, (theirs,))]


def test_golden(golden):
    """Every transformation alone, and bg, bgc, bgcf, at five percentiles of their distributions."""
    groups, arrays = golden("ada")
    x = torch.tensor(arrays["x"])
    assert len(groups) == 17
    for name, multipliers in groups.items():
        for percentile in PERCENTILES:
            y = pipe(*recorded(multipliers))(x, debug_percentile=percentile)
            error = (y - torch.tensor(arrays[f"{name}@{percentile}"])).abs().max()
            assert error < 3e-5, f"{name} at {percentile}: {error}"


def test_golden_at_the_widest_margin(golden, monkeypatch):
    """A margin of one image sees all the fitted one sees; all recorded cases are within it."""
    widest = lambda maps, h, w, taps: (w - 1, w - 1, h - 1, h - 1)  # noqa: E731
    monkeypatch.setattr(ada_warp, "fitted_margin", widest)
    groups, arrays = golden("ada")
    x = torch.tensor(arrays["x"])
    for name in ("only_xflip", "only_rotate90", "only_scale", "only_xfrac", "bg", "bgc", "bgcf"):
        for percentile in PERCENTILES:
            y = pipe(*recorded(groups[name]))(x, debug_percentile=percentile)
            torch.testing.assert_close(y, torch.tensor(arrays[f"{name}@{percentile}"]), rtol=0, atol=5e-5)


def test_golden_filters(golden):
    _, arrays = golden("ada")
    np.testing.assert_allclose(pipe().taps, arrays["Hz_geom"], atol=1e-7)
    np.testing.assert_allclose(filter_bank(), arrays["Hz_fbank"], atol=1e-7)


@pytest.mark.parametrize("taps", [SYM2, SYM6])
def test_wavelets_are_orthonormal_with_vanishing_moments(taps):
    h = np.asarray(taps)
    for shift in range(0, len(h), 2):
        assert np.dot(h[shift:], h[: len(h) - shift]) == pytest.approx(float(shift == 0), abs=1e-9)
    assert h.sum() == pytest.approx(math.sqrt(2))
    high = h * (-1.0) ** np.arange(len(h))
    for moment in range(len(h) // 2):
        assert np.dot(high, (np.arange(len(h)) - 5.5) ** moment) == pytest.approx(0, abs=1e-5)


def test_the_bands_add_up_to_the_image():
    bank = filter_bank()
    impulse = np.zeros(43)
    impulse[21] = 1
    np.testing.assert_allclose(bank.sum(0), impulse, atol=1e-11)
    np.testing.assert_allclose(bank, bank[:, ::-1], atol=1e-15)
    np.testing.assert_allclose(bank.sum(1), [1, 0, 0, 0], atol=1e-11)


@pytest.mark.parametrize("name", AUGPIPES)
def test_nothing_happens_at_p_0(name):
    x = torch.randn(2, 3, 8, 8)
    state = torch.random.get_rng_state()
    assert pipe(*AUGPIPES[name], p=0)(x) is x
    assert torch.equal(torch.random.get_rng_state(), state)


def test_sets():
    """The paper's 18 in six groups; each of its sets adds a group to the one before; `face` leaves out what leaks on
    portraits."""
    assert len(TRANSFORMATIONS) == 18
    for small, large in itertools.pairwise(["blit", "bg", "bgc", "bgcf", "bgcfn", "bgcfnc"]):
        assert set(AUGPIPES[small]) < set(AUGPIPES[large])
    assert set(AUGPIPES["bgc"]) - set(AUGPIPES["face"]) == {"quarter_turn", "luma_flip", "hue"}
    assert AUGPIPES["bgcfnc"] == tuple(TRANSFORMATIONS)


# Probability that an image is left alone when only this one is on; the draw itself may be the identity.
UNTOUCHED = {"mirror": lambda p: 1 - p / 2, "quarter_turn": lambda p: 1 - p * 3 / 4, "luma_flip": lambda p: 1 - p / 2}
WITHOUT_SURE_TRACE = ("whole_shift", "cutout")  # 4 pixels are too few for them


@pytest.mark.parametrize("name", [n for n in TRANSFORMATIONS if n not in WITHOUT_SURE_TRACE])
def test_each_is_applied_with_probability_p_times_its_multiplier(name):
    torch.manual_seed(1)
    n = 2000
    x = torch.rand(n, 3, 4, 4)
    y = pipe(replace(TRANSFORMATIONS[name], multiplier=0.5), p=0.4)(x)
    untouched = (x == y).flatten(1).all(1).double().mean().item()
    expected = UNTOUCHED.get(name, lambda p: 1 - p)(0.4 * 0.5)
    assert abs(untouched - expected) < 4 * math.sqrt(expected * (1 - expected) / n)


def test_images_that_drew_nothing_are_spared():
    torch.manual_seed(0)
    x = torch.randn(64, 3, 9, 8)
    y = pipe(*AUGPIPES["bgc"], p=0.05)(x)
    same = [torch.equal(a, b) for a, b in zip(x, y)]
    assert 10 < sum(same) < 64


def test_sparing_images_changes_nothing_else(monkeypatch):
    """Gather, warp, scatter gives what warping everybody gives."""
    torch.manual_seed(0)
    x = torch.randn(16, 3, 16, 16)
    augment = pipe(*AUGPIPES["bgcf"], p=0.15)
    torch.manual_seed(7)
    some = augment(x)
    monkeypatch.setattr(AugmentPipe, "_on_changed", lambda self, images, changed, f, parameters: f(images, parameters))
    torch.manual_seed(7)
    torch.testing.assert_close(augment(x), some, rtol=0, atol=3e-5)


def test_the_same_amount_of_random_numbers_whatever_p_and_set():
    states = []
    for p, name in ((0.1, "bg"), (0.9, "bg"), (0.5, "bgcf"), (0.5, "cutout")):
        torch.manual_seed(3)
        pipe(*AUGPIPES[name], p=p)(torch.randn(5, 3, 8, 8))
        states.append(torch.random.get_rng_state())
    assert all(torch.equal(s, states[0]) for s in states)


def test_default_generator_decides():
    x = torch.randn(4, 3, 8, 8)
    augment = pipe(*AUGPIPES["bgcfnc"], p=0.7)
    runs = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        runs.append(augment(x))
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def smooth(height, width):
    """An image of low frequencies without symmetry: there sym6, not quite symmetric itself, is a plain resampler."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    waves = [torch.cos(math.pi * y / height) + x / width, torch.cos(math.pi * x / width), y * x / (height * width)]
    return torch.stack(waves)[None].float()


@pytest.mark.parametrize("height, width", [(32, 32), (16, 40)])
def test_whole_pixel_maps_move_pixels(height, width):
    """Directions and centres: flips, quarter turns, shifts to the right and down."""
    x = smooth(height, width)
    y = pipe("mirror")(x, debug_percentile=0.9)
    torch.testing.assert_close(y, x.flip(3), rtol=0, atol=0.03)
    y = pipe("quarter_turn")(x, debug_percentile=0.6)
    torch.testing.assert_close(y, x.rot90(2, (2, 3)), rtol=0, atol=0.03)
    if height == width:
        for percentile, turns in ((0.3, 1), (0.8, -1)):
            y = pipe("quarter_turn")(x, debug_percentile=percentile)
            torch.testing.assert_close(y, x.rot90(turns, (2, 3)), rtol=0, atol=0.03)
    # A shift commutes with the filters, so it is exact for any image; the border is mirrored.
    x = torch.randn(2, 3, height, width)
    y = pipe("whole_shift")(x, debug_percentile=0.99)
    dx, dy = (round(0.49 * 0.25 * size) for size in (width, height))
    assert dx >= 2 and dy >= 2
    expected = reflect_pad(x, dx, 0, dy, 0)[..., :height, :width]
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-4)


def test_colours_in_closed_form():
    x = torch.rand(2, 3, 4, 4) * 2 - 1
    grey = x.mean(1, keepdim=True)
    # percentile 5/6 of (-pi, pi) is a third of a turn about the grey axis: the channels change places
    y = pipe("hue")(x, debug_percentile=5 / 6)
    assert min((y - x.roll(k, 1)).abs().max() for k in (1, 2)) < 1e-5
    torch.testing.assert_close(pipe("luma_flip")(x, debug_percentile=0.9), x - 2 * grey)
    normal = torch.erfinv(torch.tensor(0.6)).item()
    torch.testing.assert_close(pipe("brightness")(x, debug_percentile=0.8), x + 0.2 * normal)
    torch.testing.assert_close(pipe("contrast")(x, debug_percentile=0.8), x * 2 ** (0.5 * normal))
    torch.testing.assert_close(pipe("saturation")(x, debug_percentile=0.8), grey + (x - grey) * 2**normal)


def test_grey_images_are_recoloured_like_grey_rgb():
    x = torch.rand(6, 1, 4, 4)
    augment = pipe(*AUGPIPES["color"], p=0.8)
    torch.manual_seed(0)
    one = augment(x)
    torch.manual_seed(0)
    three = augment(x.expand(6, 3, 4, 4))
    assert one.shape == x.shape
    torch.testing.assert_close(one, three.mean(1, keepdim=True))


@pytest.mark.parametrize("name", ["bg", "bgcf", "bgcfnc"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels(channels, name):
    x = torch.randn(3, channels, 8, 8)
    if channels == 4 and name != "bg":
        with pytest.raises(ValueError, match="1 or 3 channels, not 4"):
            pipe(*AUGPIPES[name])(x)
    else:
        assert pipe(*AUGPIPES[name], p=0.5)(x).shape == x.shape


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 1, 7), (2, 3, 5, 2), (0, 3, 8, 8), (3, 3, 21, 22)])
def test_odd_and_tiny_images(shape):
    torch.manual_seed(0)
    y = pipe(*AUGPIPES["bgcfnc"], p=0.9)(torch.randn(shape))
    assert y.shape == shape and y.isfinite().all()


def test_mirrored_border_repeats_as_needed():
    x = torch.randn(1, 2, 4, 3)
    expected = np.pad(x.numpy(), [(0, 0), (0, 0), (9, 2), (5, 11)], mode="reflect")
    np.testing.assert_array_equal(reflect_pad(x, 5, 11, 9, 2).numpy(), expected)
    np.testing.assert_array_equal(
        reflect_pad(x, 2, 1, 3, 0).numpy(), np.pad(x.numpy(), [(0, 0)] * 2 + [(3, 0), (2, 1)], mode="reflect")
    )
    assert torch.equal(reflect_pad(x[:, :, :1, :1], 2, 1, 0, 1), x[:, :, :1, :1].expand(1, 2, 2, 4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype):
    x = torch.randn(4, 3, 16, 16)
    augment = pipe(*AUGPIPES["bgcf"], p=0.8)
    torch.manual_seed(0)
    y = augment(x.to(dtype))
    torch.manual_seed(0)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), augment(x.to(dtype).float()), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("path", ["as detected", "fallback"])
def test_first_and_second_derivative(path, monkeypatch):
    """Through gather, warp, colour, filter, noise, cutout and scatter; also with the supplied grid_sample gradient."""
    if path == "fallback":
        monkeypatch.setattr(grid_sample_module, "native_double_backward", lambda device_type: False)
    augment = pipe(*AUGPIPES["bgcfnc"], p=0.4)
    x = torch.randn(4, 3, 3, 4, dtype=torch.float64, requires_grad=True)

    def f(x):
        torch.manual_seed(11)
        return augment(x)

    assert torch.autograd.gradcheck(f, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(f, x, fast_mode=True)


@pytest.mark.parametrize("path", ["as detected", "fallback"])
def test_r1_penalty_through_the_pipeline(path, monkeypatch):
    """The gradient with respect to weights behind the augmentation, against finite differences."""
    if path == "fallback":
        monkeypatch.setattr(grid_sample_module, "native_double_backward", lambda device_type: False)
    torch.manual_seed(0)
    x, w = torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.randn(2, 3, 3, 3, dtype=torch.float64)
    augment = pipe(*AUGPIPES["bgc"], p=0.6)

    def r1(w):
        torch.manual_seed(2)
        image = x.clone().requires_grad_()
        logits = torch.nn.functional.conv2d(augment(image), w).tanh().sum()
        (g,) = torch.autograd.grad(logits, image, create_graph=True)
        return g.square().sum()

    w.requires_grad_()
    (g,) = torch.autograd.grad(r1(w), w)
    step = torch.randn_like(w)
    numeric = (r1(w + 1e-5 * step) - r1(w - 1e-5 * step)) / 2e-5
    torch.testing.assert_close((g * step).sum(), numeric.detach(), rtol=1e-5, atol=1e-6)


def test_noise_and_cutout_in_closed_form():
    x = torch.zeros(400, 3, 16, 16)
    torch.manual_seed(0)
    sigma = pipe("noise")(x).flatten(1).std(1)
    # |N(0, 0.1)| has mean 0.1 * sqrt(2 / pi)
    assert sigma.mean() == pytest.approx(0.1 * math.sqrt(2 / math.pi), rel=0.15)
    y = pipe("cutout")(x + 1, debug_percentile=0.5)
    assert (y[:, :, 4:12, 4:12] == 0).all() and y.sum() == 400 * 3 * (256 - 64)
    y = pipe("cutout")(x + 1)
    assert ((y == 0) | (y == 1)).all()
    # a quarter of the image where it fits; the centre is uniform, so (1 - 1/8)^2 of that on average
    assert (y == 0).double().mean().item() == pytest.approx(0.25 * (1 - 1 / 8) ** 2, rel=0.1)


def test_the_power_of_a_natural_image_is_kept():
    gains = pipe(*AUGPIPES["filter"])._band_gains(AdaDraws(50), 1.0)
    assert gains.shape == (50, 4) and (gains > 0).all()
    single = pipe("octave_2")._band_gains(AdaDraws(50), 1.0)
    power = torch.tensor([10, 1, 1, 1]) / 13
    torch.testing.assert_close((single.square() * power).sum(1), torch.ones(50))


def test_fitted_margin():
    identity = torch.eye(3)[None]
    assert ada_warp.fitted_margin(identity, 32, 32, 12) == (6, 6, 6, 6)
    shifted = ada_warp.translation(torch.tensor([4.5]), torch.tensor([0.0]))
    assert ada_warp.fitted_margin(shifted, 32, 32, 12) == (2, 11, 6, 6)
    assert ada_warp.fitted_margin(ada_warp.scaling(torch.tensor([9.0]), torch.tensor([9.0])), 32, 16, 12) == (
        15,
        15,
        31,
        31,
    )


def test_p_is_the_only_state():
    augment = pipe(*AUGPIPES["bgcfnc"], p=0.25)
    assert list(augment.state_dict()) == ["p"]
    other = pipe(*AUGPIPES["bgcfnc"], p=1)
    other.load_state_dict(augment.state_dict())
    assert other.p.item() == 0.25


@pytest.mark.parametrize(
    "call",
    [
        lambda: AugmentPipe("bgc"),
        lambda: pipe("mirror")(torch.zeros(3, 8, 8)),
        lambda: pipe("mirror")(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)),
        lambda: pipe("mirror")(torch.zeros(1, 3, 8, 8), debug_percentile=1),
    ],
)
def test_bad_arguments_are_one_line_errors(call):
    with pytest.raises(ValueError) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.gpu
def test_gpu_agrees_with_cpu():
    x = torch.randn(4, 3, 32, 32)
    for name in ("bg", "bgc", "bgcf", "cutout"):
        for percentile in PERCENTILES:
            augment = pipe(*AUGPIPES[name], p=1)
            y = augment(x, debug_percentile=percentile)
            on_gpu = augment.cuda()(x.cuda(), debug_percentile=percentile).cpu()
            torch.testing.assert_close(on_gpu, y, rtol=1e-3, atol=1e-3)
