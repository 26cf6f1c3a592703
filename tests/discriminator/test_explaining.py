"""Every method against values by hand, on networks where the answer is known; captum's own rules; all networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import UserError
from discriminator.detector import Detector
from discriminator.ensemble import Average, Ensemble, EnsembleConfig, Majority, Member, Stack
from discriminator.explaining.attribution import Effort, Explainer
from discriminator.explaining.attributions import why_not
from discriminator.explaining.methods import METHODS, chosen, methods_or_path
from discriminator.explaining.places import Places
from discriminator.explaining.relevance import NoRule, relevance
from discriminator.models import new_network
from discriminator.network import Network, Shape, VerdictOut
from discriminator.network_options import NetworkOptions
from discriminator.second_look import SecondLook
from discriminator.two_views import Part, TwoViews, TwoViewsConfig
from discriminator.views import FaceAndPixels, Views
from faces.pixel_crops import PixelCrops
from faces.preprocess import Preprocess
from tests.discriminator.conftest import make_calibration, make_net

pytest.importorskip("captum")
SIDE = 32
EFFORT = Effort(steps=6, squares=8, coarse=4, samples=64)


class Small(Shape):
    resolution, img_channels = SIDE, 3

    def to_dict(self) -> dict:
        return {"model": "small"}


class Linear(Network):
    """The sum of weights times pixels, plus 2."""

    def __init__(self) -> None:
        super().__init__()
        self.cfg = Small()
        rng = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(3, SIDE, SIDE, generator=rng) / 100)

    def verdict(self, img):
        return VerdictOut((img * self.weight).sum((1, 2, 3)) + 2, None)


class Layers(Network):
    """What captum's rules know: convolutions, ReLU, pooling, linear layers; biases where asked for."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.cfg = Small()
        torch.manual_seed(1)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 5, stride=2, bias=bias), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, bias=bias),
            nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        )  # fmt: skip
        self.out = nn.Linear(32, 1, bias=bias)

    def forward(self, img):
        return self.out(self.layers(img).flatten(1))

    def verdict(self, img):
        return VerdictOut(self(img).squeeze(1), None)


def explained(net: nn.Module, preprocess=None, effort: Effort = EFFORT) -> Explainer:
    return Explainer(Detector(net, preprocess or Preprocess(SIDE), make_calibration()), effort)


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def cells(values: np.ndarray, grid: int) -> np.ndarray:
    """The sum in each of grid x grid squares."""
    side = values.shape[-1] // grid
    return values.reshape(grid, side, grid, side).sum((1, 3))


@pytest.fixture(scope="module")
def linear():
    return explained(Linear())


def by_hand(own: Explainer, grid: int) -> np.ndarray:
    """Weight times (value less what stands for «taken away»), in squares: what all methods must find there."""
    x = own.detector.preprocess.normalise(image())
    filled = own.places.filled(torch.from_numpy(x).reshape(1, -1)).numpy().reshape(x.shape)
    return cells((own.net.weight.detach().numpy() * (x - filled)).sum(0), grid)


@pytest.mark.parametrize(
    ("method", "grid", "near"),
    [("integrated-gradients", 32, 1e-5), ("occlusion", 8, 1e-4), ("kernel-shap", 4, 1e-3), ("lime", 4, 2e-2)],
)
def test_a_linear_network_is_explained_by_its_weights(linear, method, grid, near):
    found = linear(image(), method)
    want = by_hand(linear, grid)
    assert found.values.shape == (grid, grid) and found.seconds > 0 and not found.note
    np.testing.assert_allclose(found.values, want, atol=near * np.abs(want).max())


def test_the_slope_and_the_relevance_of_a_linear_network(linear):
    weight = linear.net.weight.detach().numpy()
    np.testing.assert_allclose(linear(image(), "saliency").values, np.abs(weight).max(0), rtol=1e-5)
    x = linear.detector.preprocess.normalise(image())
    np.testing.assert_allclose(linear(image(), "lrp").values, (weight * x).sum(0), atol=1e-5)


def test_shap_is_the_mean_over_its_references(linear):
    """Of a linear network: between the smallest and the largest of weight times (value - reference), in each square."""
    x = torch.from_numpy(linear.detector.preprocess.normalise(image())).reshape(1, -1)
    places = linear.places
    references = [places.filled(x, 4), places.filled(x, 8), places.filled(x, 16), places.grey(x)]
    weight = linear.net.weight.detach().reshape(1, -1)
    each = np.stack([(weight * (x - r)).reshape(3, SIDE, SIDE).sum(0).numpy() for r in references])
    found = linear(image(), "shap").values
    assert (found >= each.min(0) - 1e-5).all() and (found <= each.max(0) + 1e-5).all()


def test_integrated_gradients_are_complete():
    own = explained(Layers(bias=True), effort=Effort(steps=64))
    row = own.places.row(torch.from_numpy(own.detector.preprocess.normalise(image())[None]))
    whole, empty = own.answer(torch.cat([row, own.places.filled(row)])).tolist()
    assert own(image(), "integrated-gradients").values.sum() == pytest.approx(whole - empty, rel=2e-2)


def test_relevance_is_conserved_without_biases():
    own = explained(Layers(bias=False))
    row = own.places.row(torch.from_numpy(own.detector.preprocess.normalise(image())[None]))
    assert own(image(), "lrp").values.sum() == pytest.approx(own.answer(row).item(), rel=1e-4)


@pytest.mark.parametrize("gamma", [0.0, 0.25])
def test_relevance_is_captums_where_captum_has_rules(gamma):
    """An image of values >= 0, so that our gamma rule, like captum's, goes for every convolution; with it no biases,
    which captum leaves as they are."""
    from captum.attr import LRP
    from captum.attr._utils.lrp_rules import EpsilonRule, GammaRule

    net = Layers(bias=not gamma).eval().requires_grad_(False)
    x = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(4))
    ours = relevance(lambda pixels: net.verdict(pixels).logit, x, gamma)
    for layer in (*net.layers, net.out):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.rule = GammaRule(gamma) if gamma and isinstance(layer, nn.Conv2d) else EpsilonRule(1e-12)
    theirs = LRP(net).attribute(x.clone().requires_grad_()).detach()
    assert theirs.abs().max() > 0
    torch.testing.assert_close(ours, theirs, atol=1e-3 * theirs.abs().max().item(), rtol=1e-3)


def test_relevance_goes_through_sums_gates_products_and_deviations():
    """Each keeps the whole: a residual sum, a gate (a constant), a product of two signals, a pooled deviation."""
    torch.manual_seed(5)
    weight = torch.randn(3, 3)
    x = torch.rand(1, 3, 4, 4, dtype=torch.float64)
    w = weight.double()

    def mixed(pixels: torch.Tensor) -> torch.Tensor:
        y = torch.einsum("nchw,dc->ndhw", pixels, w).relu()
        y = (y + pixels) * torch.sigmoid(y.mean((2, 3), keepdim=True))
        both = (y.flatten(1) * y.flatten(1).flip(1)).sum(1)
        return both + _deviations(y)

    found = relevance(mixed, x)
    assert found.sum().item() == pytest.approx(mixed(x).item(), rel=1e-9)


def _deviations(y: torch.Tensor) -> torch.Tensor:
    var, mean = torch.var_mean(y.flatten(2), dim=2, correction=0)
    return (var.sqrt() + mean).sum(1)


def test_a_function_without_a_rule_is_named():
    with pytest.raises(NoRule, match="erf"):
        relevance(lambda x: torch.erf(x).sum((1, 2, 3)), torch.rand(1, 3, 4, 4))


# ---- preparations ---------------------------------------------------------------------------------------------------


def test_views_of_two_sizes_are_one_picture():
    """Cells lie at the same place in both, and what is summed is the whole."""
    places = Places(Views((Preprocess(16), Preprocess(32))))
    assert places.length == 3 * (16**2 + 32**2) and not places.note
    cell = places.cells(4).numpy()
    assert set(cell) == set(range(16))
    small, large = cell[: 3 * 256].reshape(3, 16, 16), cell[3 * 256 :].reshape(3, 32, 32)
    np.testing.assert_array_equal(small[0].repeat(2, 0).repeat(2, 1), large[2])
    values = torch.rand(places.length)
    assert places.summed(values).shape == (16, 16)
    assert places.summed(values).sum().item() == pytest.approx(values.sum().item(), rel=1e-5)
    assert Places(Views((Preprocess(16), Preprocess(16, crop="none")))).note


def test_the_crops_of_a_second_view_are_held():
    places = Places(FaceAndPixels(Preprocess(16), PixelCrops(8, 2)))
    row = torch.rand(1, places.length)
    assert "held" in places.note and torch.equal(places.filled(row)[:, 768:], row[:, 768:])
    assert (places.cells(4)[768:] == 16).all()


# ---- every network --------------------------------------------------------------------------------------------------

QUICK = Effort(steps=2, squares=2, coarse=2, samples=8)


def networks() -> dict:
    def member(net, name):
        return net, Member(net.cfg.to_dict(), Preprocess(SIDE), make_calibration(), name)

    def ensemble(method, head, *nets):
        found = [member(net, str(i)) for i, net in enumerate(nets)]
        sizes = (1, 2) if method == "stacking" else (0, 0)
        return Ensemble(EnsembleConfig(tuple(m for _, m in found), method, sizes), [n for n, _ in found], head)

    def levels():
        return new_network("levels:timm:tf_efficientnet_lite0", SIDE, options=NetworkOptions())

    squeeze = lambda: new_network("squeezenet1_1", SIDE, options=NetworkOptions())  # noqa: E731
    stack = {"mean": [0, 0], "scale": [1, 1], "axes": [[0.7, 0.7]], "vectors": [[0.1], [-0.1]], "dual": [1, -1],
             "gamma": [0.5], "intercept": [0.1]}  # fmt: skip
    return {
        "hybrid": lambda: make_net(), "hybrid without gradients": lambda: make_net(trunk_grad_scale=0.0),
        "spatial": lambda: make_net(branches=("spatial",)), "capsnet": lambda: new_network("capsnet", SIDE),
        "custom_cnn": lambda: new_network("custom_cnn", SIDE), "squeezenet": squeeze,
        "residual": lambda: new_network("resnet50", SIDE, options=NetworkOptions(head="seeds")),
        "gated": lambda: new_network("timm:mobilenetv3_small_050", SIDE, options=NetworkOptions()),
        "like the shipped": lambda: ensemble("average", Average(), squeeze(), levels()),
        "majority": lambda: ensemble("majority", Majority(thresholds=[0.5, 0.5]), make_net(), make_net()),
        "stacking": lambda: ensemble("stacking", Stack(**stack), make_net(), squeeze()),
        "two views": lambda: two_views(),
    }  # fmt: skip


def two_views() -> TwoViews:
    face, pixels = make_net(), new_network("pixels", 16)
    preprocess = FaceAndPixels(Preprocess(SIDE), PixelCrops(16, 2))
    return TwoViews(TwoViewsConfig(Part(face.cfg.to_dict()), Part(pixels.cfg.to_dict()), preprocess), face, pixels)


def test_the_same_again_is_the_same_map(linear):
    for method in ("lime", "kernel-shap", "shap"):
        torch.rand(3)
        np.testing.assert_array_equal(linear(image(), method).values, linear(image(), method).values)


@pytest.mark.parametrize("name", networks())
def test_every_network_is_explained_or_says_why_not(name):
    torch.manual_seed(0)
    net = networks()[name]().eval()
    preprocess = getattr(net, "preprocess", Preprocess(SIDE))
    own = explained(net, preprocess, QUICK)
    seen = own.detector.prepared(np.tile(image(), (2, 2, 1)))
    why = {}
    for method in METHODS:
        found = own(seen, method)
        if found.values is None:
            assert found.note.startswith(method) and "\n" not in found.note
            why[method] = found.note
        else:
            assert found.values.dtype == np.float32 and found.values.ndim == 2 and np.isfinite(found.values).all()
            assert (found.values < 0).sum() == 0 or found.signed
            assert np.abs(found.shown()).max() <= 1
    assert set(why) <= {"patches"}, why


def test_an_answer_is_enough_where_no_gradients_are_needed(linear):
    class Answers(type(linear.detector).__mro__[1]):
        preprocess, calibration, meta, has_patches = linear.detector.preprocess, make_calibration(), {}, False

        def raw(self, pixels):
            return linear.detector.raw(pixels)

    own = Explainer(Answers(), EFFORT)
    for method in ("occlusion", "lime", "kernel-shap"):
        np.testing.assert_allclose(own(image(), method).values, linear(image(), method).values, atol=1e-5)
    for method in ("gradcam", "saliency", "integrated-gradients", "lrp", "shap", "patches"):
        found = own(image(), method)
        assert found.values is None and found.note == why_not(method, own.detector) != ""


def test_names_of_methods():
    assert chosen("lime, patches,lime") == ("lime", "patches") and chosen("all") == tuple(METHODS)
    with pytest.raises(UserError, match=r"`explain` lmie: no method .*did you mean lime"):
        chosen("patches,lmie")
    assert methods_or_path("lrp,shap") == (("lrp", "shap"), None)
    for path in ("out.png", "why/", "why", "./lime", "a/b,c.png"):
        assert methods_or_path(path) == ((), path)
    for mistyped in ("gradcamm", "oclusion", "patches,why"):
        with pytest.raises(UserError, match="no method"):
            methods_or_path(mistyped)


# ---- two looks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].gradients])
def test_both_looks_are_explained_where_both_count(method):
    """Maps were of the first look alone. Of two looks an image and its mirror image have one score, so the map of one
    is the other's, mirrored; at half the weight it is the mean of the first look's and of that."""
    net = Layers(bias=True)
    first = Detector(net, Preprocess(SIDE), make_calibration())
    logit = float(first.raw(first.preprocess.normalise(image())[None]).logits[0])

    def mapped(look, seen):
        twice = Detector(net, Preprocess(SIDE), make_calibration(), {}, look)
        return Explainer(twice, EFFORT)(seen, method).values

    plain, always = mapped(None, image()), SecondLook(-1e6, 1e6, 1.0)
    mirror = np.ascontiguousarray(image()[:, ::-1])
    both = mapped(always, image())
    np.testing.assert_allclose(mapped(always, mirror)[:, ::-1], both, atol=1e-5 * np.abs(both).max())
    assert np.abs(both - plain).max() > 0.05 * np.abs(plain).max()
    np.testing.assert_array_equal(mapped(SecondLook(logit + 2, logit + 3, 1.0), image()), plain)
    half = mapped(SecondLook(logit + 1, logit + 2, 2.0), image())
    other = mapped(None, mirror)[:, ::-1]
    wanted = 0.75 * plain + 0.25 * other
    wanted = wanted / wanted.max() if method == "gradcam" else wanted
    np.testing.assert_allclose(half, wanted, atol=1e-4 * np.abs(wanted).max())
    if method == "integrated-gradients":
        np.testing.assert_allclose(both, (plain + other) / 2, atol=1e-5 * np.abs(both).max())
