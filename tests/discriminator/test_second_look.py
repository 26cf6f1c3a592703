"""Looking twice: the mean of a photo's and its mirror image's logits near the threshold, and nothing anywhere else."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from common.errors import UserError
from discriminator.detector import Detector
from discriminator.ensemble import Average, Ensemble, EnsembleConfig, Member
from discriminator.export_onnx import TOLERANCE, describe, export_detector
from discriminator.onnx_detector import OnnxDetector
from discriminator.second_look import SecondLook
from discriminator.views import FaceAndPixels, Views
from evaluation.looking_twice import fitted
from faces.pixel_crops import PixelCrops
from faces.preprocess import Preprocess
from tests.discriminator.conftest import make_calibration, make_net
from tests.discriminator.test_two_views import two_views


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def images(count: int = 60) -> np.ndarray:
    return np.random.default_rng(4).uniform(-1, 1, (count, 3, 32, 32)).astype(np.float32)


def middling(first: np.ndarray) -> SecondLook:
    """About a third of these looked at twice in full, some in part, some not at all."""
    low, high, far = np.quantile(first, [0.35, 0.65, 0.8])
    return SecondLook(float(low), float(high), float(far - high))


# ---- the mean --------------------------------------------------------------------------------------------------------


def test_the_mean_counts_in_the_middle_and_fades_without_a_jump():
    look = SecondLook(-1.0, 1.0, 0.5)
    first = np.array([-9, -1.5, -1.25, -1.0, 0.0, 1.0, 1.125, 1.5, 9])
    np.testing.assert_allclose(look.weight(first), [0, 0, 0.5, 1, 1, 1, 0.75, 0, 0])
    mirrored = first + 2  # the mean is 1 above the first look
    np.testing.assert_allclose(look.score(first, mirrored) - first, look.weight(first))
    np.testing.assert_array_equal(
        look.score(first, np.where(look.weight(first) > 0, mirrored, np.nan))[[0, -1]], [-9, 9]
    )
    z = np.linspace(-2, 2, 100_001)
    assert np.abs(np.diff(look.score(z, z + 2))).max() < 3.1 * (z[1] - z[0])  # slope at most 1 + 1/fade


@pytest.mark.parametrize("numbers", [(1, 0, 1), (0, 1, 0), (0, 1, -1), (0, np.inf, 1), (np.nan, 1, 1), ("0", 1, 1)])
def test_bounds_that_can_t_be(numbers):
    with pytest.raises(UserError, match="second look"):
        SecondLook(*numbers)


def test_a_detector_gives_the_mean_where_it_looks_twice():
    net, pixels = make_net(), images()
    plain = Detector(net, Preprocess(32), make_calibration(), {})
    look = middling(plain.raw(pixels).logits)
    twice = Detector(net, Preprocess(32), plain.calibration, {}, look)
    with torch.inference_mode():
        a, b = (net.verdict(torch.from_numpy(x)) for x in (pixels, np.flip(pixels, 3).copy()))
    first, second = a.logit.double().numpy(), b.logit.double().numpy()
    outside = (first < look.low - look.fade) | (first > look.high + look.fade)
    inside = (first >= look.low) & (first <= look.high)
    assert outside.any() and inside.any() and not (outside | inside).all()
    out = twice.raw(pixels)
    np.testing.assert_allclose(out.logits[inside], (first + second)[inside] / 2, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(out.logits[outside], plain.raw(pixels).logits[outside])
    maps, mirrored = (x.patch_logits.sigmoid().numpy() for x in (a, b))
    np.testing.assert_allclose(out.maps[inside], (maps + mirrored[..., ::-1])[inside] / 2, atol=1e-5)
    np.testing.assert_allclose(out.maps[outside], maps[outside], atol=1e-6)
    one_by_one = np.concatenate([twice.raw(pixels[i : i + 1]).logits for i in range(len(pixels))])
    np.testing.assert_allclose(out.logits, one_by_one, atol=1e-5)


def test_it_computes_again_only_what_it_looks_at_twice(monkeypatch):
    pixels, asked = images(), []
    plain = Detector(make_net(), Preprocess(32), make_calibration(), {})
    first = plain.raw(pixels).logits
    twice = Detector(plain.net, plain.preprocess, plain.calibration, {}, middling(first))
    once = twice.once
    monkeypatch.setattr(twice, "once", lambda x: (asked.append(len(x)), once(x))[1])
    twice.raw(pixels)
    assert asked == [60, int((middling(first).weight(first) > 0).sum())]
    asked.clear()
    far = first > np.quantile(first, 0.9)
    twice.raw(pixels[far])
    assert asked == [int(far.sum())]


def test_two_views_are_looked_at_twice_as_well():
    plain = two_views()
    rows = np.stack([plain.preprocess(noise(70, 70, seed=i)) for i in range(12)])
    rows = np.concatenate([rows, plain.preprocess(noise(16, 16))[None]])  # without crops
    first, other = plain.raw(rows), plain.raw(plain.preprocess.mirrored(rows))
    twice = Detector(plain.net, plain.preprocess, plain.calibration, {}, SecondLook(-1e6, 1e6, 1.0)).raw(rows)
    np.testing.assert_allclose(twice.logits, (first.logits + other.logits) / 2, rtol=1e-5)
    np.testing.assert_allclose(twice.views, (first.views + other.views) / 2, rtol=1e-4, atol=1e-5)
    assert np.isnan(twice.views[-1, 1])


# ---- mirror images of what is prepared -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(32),
        Preprocess(32, channels=1),
        Views((Preprocess(32), Preprocess(16, "pad"), Preprocess(16, channels=1))),
        FaceAndPixels(Preprocess(64), PixelCrops(16, 3)),
        FaceAndPixels(Preprocess(64), PixelCrops(16, 2, 1)),
    ],
)
def test_prepared_and_mirrored_is_mirrored_and_prepared(preprocess):
    """Of square images at their own size, or half of it, and with crops that lie evenly."""
    photos = [noise(64, 64, seed=i) for i in range(3)]
    rows = np.stack([preprocess(photo) for photo in photos])
    wanted = np.stack([preprocess(photo[:, ::-1].copy()) for photo in photos])
    np.testing.assert_allclose(preprocess.mirrored(rows), wanted, atol=2.1 / 127.5)  # resizing rounds either way
    np.testing.assert_array_equal(preprocess.mirrored(preprocess.mirrored(rows)), rows)


# ---- the files -------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    plain = Detector(make_net(), Preprocess(32), make_calibration(), {"trained_on": "nothing"})
    look = middling(plain.raw(images()).logits)
    twice = Detector(plain.net, plain.preprocess, plain.calibration, plain.meta, look)
    twice.save(tmp_path / "twice.safetensors")
    return tmp_path, plain, twice


def test_it_is_saved_and_loaded_and_keeps_its_calibration_apart(saved):
    folder, plain, twice = saved
    again = Detector.load(folder / "twice.safetensors")
    assert (
        again.second_look == twice.second_look
        and again.recalibrated(make_calibration(50)).second_look == twice.second_look
    )
    np.testing.assert_array_equal(again.raw(images()).logits, twice.raw(images()).logits)
    plain.save(folder / "plain.safetensors")
    assert Detector.load(folder / "plain.safetensors").second_look is None


def rewritten(path, change) -> None:
    """The file with another header."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    outer = json.loads(data[8 : 8 + size])
    header = json.loads(outer["__metadata__"]["detector"])
    change(header)
    outer["__metadata__"]["detector"] = json.dumps(header)
    text = json.dumps(outer).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda h: h.update(version=1),
            "of version 1 has none",
        ),  # a program of version 1 would look once and not say so
        (lambda h: h.pop("second_look"), "version 2 has a second look"),
        (lambda h: h.update(version=3), "detector file version 3, this program reads 1 and 2"),
        (lambda h: h.update(second_look={"low": 0}), "a second look has low, high, fade"),
        (lambda h: h.update(second_look=[1, 2, 3]), "a second look has low, high, fade"),
        (lambda h: h["second_look"].update(fade=0), "its fade is above 0"),
        (lambda h: h["second_look"].update(low="1"), "not numbers"),
    ],
)
def test_headers_that_can_t_be(saved, change, match):
    folder, _, _ = saved
    rewritten(folder / "twice.safetensors", change)
    with pytest.raises(UserError, match=match) as error:
        Detector.load(folder / "twice.safetensors")
    assert "twice.safetensors" in str(error.value) and "\n" not in str(error.value)


def test_onnx_runtime_looks_twice_as_well(saved):
    pytest.importorskip("onnxscript")
    folder, _, twice = saved
    assert export_detector(folder / "twice.onnx", twice) <= TOLERANCE
    served = OnnxDetector.load(folder / "twice.onnx")
    assert served.second_look == twice.second_look and served.header["version"] == 2
    assert "mirrored" in describe(twice)["in_words"]["second_look"]
    ours, theirs = twice.raw(images()), served.raw(images())
    np.testing.assert_allclose(theirs.logits, ours.logits, atol=1e-4)
    np.testing.assert_allclose(theirs.maps, ours.maps, atol=1e-4)


def test_an_ensemble_looks_twice_as_one(saved):
    _, plain, _ = saved
    of = [(plain.net, Preprocess(32)), (make_net(), Preprocess(32, "pad"))]
    members = [Member(net.cfg.to_dict(), look, plain.calibration, look.crop) for net, look in of]
    net = Ensemble(EnsembleConfig(tuple(members), "average"), [net for net, _ in of], Average())
    rows = np.stack([net.preprocess(noise(40, 30, seed=i)) for i in range(8)])
    first = Detector(net, net.preprocess, plain.calibration, {})
    twice = Detector(net, net.preprocess, plain.calibration, {}, SecondLook(-1e6, 1e6, 1.0))
    both = [first.raw(x).logits for x in (rows, net.preprocess.mirrored(rows))]
    np.testing.assert_allclose(twice.raw(rows).logits, np.mean(both, axis=0), atol=1e-5)
    assert np.abs(both[0] - both[1]).max() > 0.01


# ---- where it looks --------------------------------------------------------------------------------------------------


def looks(n: int, apart: float, own: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits [1, n, 2] of both looks, a class's mean ± apart, spread 1, each look's own noise, and labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    true = np.where(labels == 1, apart, -apart) + rng.normal(0, 1, n)
    return (true[:, None] + rng.normal(0, own, (n, 2)))[None], labels


def test_the_band_is_where_a_second_look_can_change_the_answer():
    logits, labels = looks(20_000, 2.0, 0.6)
    look, calibration = fitted(logits, labels)
    point = calibration.at()
    first, mirrored = logits[0].T
    # the mean lies N(0, own² / 2) from the first look
    reach = norm.ppf(0.995) * 0.6 / np.sqrt(2)
    assert look.fade == pytest.approx(reach, rel=0.05)
    odds = lambda p: (np.log(p / (1 - p)) - calibration.bias) * calibration.temperature  # noqa: E731
    assert look.high == pytest.approx(odds(point.threshold) + reach, abs=0.15)
    assert look.low == pytest.approx(odds(point.unsure_low) - reach, abs=0.15)
    said = calibration.probability(look.score(first, mirrored)) >= point.threshold
    full = calibration.probability((first + mirrored) / 2) >= point.threshold
    assert (said != full).mean() < 0.001  # as good as looking twice at everything
    assert 0.1 < (look.weight(first) > 0).mean() < 0.7
    assert said[labels == 0].mean() <= 0.01
    theory = norm.cdf(2 * 2.0 / np.sqrt(1 + 0.6**2 / 2) - norm.ppf(0.99))  # two normals, threshold at 1 % of the reals
    assert said[labels == 1].mean() == pytest.approx(theory, abs=0.02)
    once = norm.cdf(2 * 2.0 / np.sqrt(1 + 0.6**2) - norm.ppf(0.99))
    assert theory > once + 0.03 and roc_auc_score(labels, look.score(first, mirrored)) > roc_auc_score(labels, first)


def test_looks_that_say_the_same_change_nothing():
    logits, labels = looks(2000, 2.0, 0.0)
    look, calibration = fitted(logits, labels)
    np.testing.assert_allclose(look.score(*logits[0].T), logits[0, :, 0], atol=1e-12)
    assert look.fade > 0 and calibration.at().n_real == 1000


def test_two_views_of_a_photo_are_one_photo():
    logits, labels = looks(800, 2.0, 0.5)
    _, calibration = fitted(np.concatenate([logits, logits - 0.2]), labels)
    assert calibration.at().n_real == 400 and calibration.at().views == 2
