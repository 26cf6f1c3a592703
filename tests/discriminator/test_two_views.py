"""Two views, one verdict: the same rows everywhere, the join against scikit-learn, contradictions, small faces."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.linear_model import LogisticRegression

from common.errors import UserError
from discriminator.artefact import ResidualBank
from discriminator.calibration import calibrate
from discriminator.detector import Detector
from discriminator.detector_base import notes_joined
from discriminator.export_onnx import describe, export_detector
from discriminator.gradcam import gradcam
from discriminator.join import FACE_ONLY, PIXELS_ONLY, Join
from discriminator.judge import Judge
from discriminator.models import build, new_network
from discriminator.onnx_detector import OnnxDetector
from discriminator.pixels import Pixels, PixelsConfig
from discriminator.two_views import Part, TwoViews, TwoViewsConfig
from discriminator.two_views_fit import contradictions, fit_join, joint
from discriminator.verdict import Threshold
from discriminator.views import FaceAndPixels, preprocess_from
from faces.dataset import DecodedFaces, to_float
from faces.finding.align import Face
from faces.finding.face_step import FaceStep
from faces.pixel_crops import PixelCrops
from faces.preprocess import Preprocess
from faces.source import open_source
from tests.discriminator.conftest import make_calibration, make_net

SIDE = 32
JOIN = Join(temperatures=(2.0, 0.5), biases=(0.1, -0.2), weights=(0.7, 0.4), offset=-0.3)


def pixel_net(resolution: int = SIDE, **changes) -> Pixels:
    torch.manual_seed(3)
    net = Pixels(PixelsConfig(**{"resolution": resolution, "channels": 4, "hidden": 8, **changes}))
    with torch.no_grad():
        net.verdict_head.out.weight.mul_(30)
    return net.eval()


def two_views(join: Join = JOIN, grid: int = 2, side: int = SIDE, **changes) -> Detector:
    face, pixels = make_net(**changes), pixel_net()
    preprocess = FaceAndPixels(Preprocess(32), PixelCrops(side, grid))
    cfg = TwoViewsConfig(Part(face.cfg.to_dict(), "f"), Part(pixels.cfg.to_dict(), "p"), preprocess, join)
    return Detector(TwoViews(cfg, face, pixels), preprocess, make_calibration(), {"model": "two_views"})


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def by_hand(detector: Detector, photo: np.ndarray) -> tuple[float, float]:
    """Raw logits of the two networks by themselves."""
    net = detector.net
    assert isinstance(net, TwoViews)
    crops = net.preprocess.pixels.cut(photo)
    with torch.inference_mode():
        face = net.face.verdict(torch.from_numpy(net.preprocess.face(photo)[None])).logit
        own = net.pixels.verdict(torch.from_numpy(Preprocess.normalise(crops))).logit
    return float(face[0]), float(own.mean())


# ---- the row --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_rows_hold_the_face_and_slices_of_the_photo(channels):
    p = FaceAndPixels(Preprocess(16, "pad", channels=channels), PixelCrops(32, 2, channels))
    photo = noise(90, 70)
    region = (5.0, 10.0, 65.0, 70.0)
    row = p.uint8(photo[10:70, 5:65], photo, region)
    assert row.shape == p.shape and p.has_crops(row)
    np.testing.assert_array_equal(row[: 256 * channels], p.face.uint8(photo[10:70, 5:65]).ravel())
    np.testing.assert_array_equal(row[256 * channels + 1 :], p.pixels.cut(photo, region).ravel())
    face, crops, there = p.split(torch.from_numpy(p.normalise(np.stack([row, row]))))
    np.testing.assert_array_equal(face[1].numpy(), p.face(photo[10:70, 5:65]))
    np.testing.assert_array_equal(crops[4:].numpy(), Preprocess.normalise(p.pixels.cut(photo, region)))
    assert there.tolist() == [True, True] and crops.shape == (8, channels, 32, 32)
    flat = to_float(torch.from_numpy(p.planes(photo))).numpy()  # training's way
    np.testing.assert_allclose(flat, p.normalise(p.uint8(photo)), atol=1e-6)
    assert not p.has_crops(p.uint8(photo[:30])) and not p.uint8(photo[:30])[256 * channels :].any()
    assert preprocess_from(json.loads(json.dumps(p.to_dict()))) == p


def test_an_image_is_its_own_photo_where_the_face_looks():
    photo = noise(64, 120)
    assert FaceAndPixels(Preprocess(16), PixelCrops(32, 2)).pixels.places(photo.shape, (28, 0, 92, 64))
    row = FaceAndPixels(Preprocess(16), PixelCrops(32, 2)).uint8(photo)
    np.testing.assert_array_equal(row[769:].reshape(4, 32, 32, 3)[0], photo[4:36, 32:64])
    whole = FaceAndPixels(Preprocess(16, "none"), PixelCrops(32, 2)).uint8(photo)
    np.testing.assert_array_equal(whole[769:].reshape(4, 32, 32, 3)[0], photo[4:36, 6:38])


# ---- the network ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["weighted", "either"])
def test_the_joint_logit_by_hand(method):
    join = replace(JOIN, method=method, thresholds=(0.4, 1.5))
    detector, photo = two_views(join), noise(100, 100)
    f, x = by_hand(detector, photo)
    zf, zx = f / 2.0 + 0.1, x / 0.5 - 0.2
    (verdict,) = detector.predict([photo])
    assert verdict.views == pytest.approx((zf, zx), abs=1e-4)
    want = 0.7 * zf + 0.4 * zx - 0.3 if method == "weighted" else max(zf - 0.4, zx - 1.5)
    assert verdict.logit == pytest.approx(want, abs=1e-4)
    (small,) = detector.predict([noise(33, 34)])
    assert small.views is not None and small.views[1] is None
    assert small.logit == pytest.approx(small.views[0] - (0.4 if method == "either" else 0), abs=1e-5)
    assert json.loads(json.dumps(small.to_dict()))["views"]["pixels"] is None


def test_own_pixels_count_where_the_aligned_view_is_the_same():
    """Two photos of one face view that differ in their pixels: the score differs, and by the pixel view alone."""
    detector = two_views()
    smooth = np.repeat(np.repeat(noise(32, 32), 8, 0), 8, 1)
    rough = smooth.copy()
    rough[::2, ::2] ^= 1
    face = detector.preprocess.face.uint8(smooth)
    rows = [detector.prepared(face, photo, (0.0, 0.0, 256.0, 256.0)) for photo in (smooth, rough)]
    a, b = detector.verdicts(rows, Threshold.of(detector.calibration))
    assert a.views[0] == pytest.approx(b.views[0], abs=1e-5)  # rows of one batch differ in the last bits
    assert abs(a.views[1] - b.views[1]) > 1e-3
    assert a.probability != b.probability


def test_maps_are_the_faces_or_the_crops():
    detector = two_views()
    (verdict,) = detector.predict([noise(100, 100)])
    alone = Detector(detector.net.face, Preprocess(32), detector.calibration).predict([noise(100, 100)])[0]
    np.testing.assert_allclose(verdict.patch_map, alone.patch_map, atol=1e-6)
    blind = two_views(grid=3, branches=("spatial",))
    (verdict,) = blind.predict([noise(100, 100)])
    assert verdict.patch_map.shape == (3, 3) and np.ptp(verdict.patch_map) > 0
    np.testing.assert_array_equal(blind.predict([noise(33, 33)])[0].patch_map, 0.5)
    row = torch.from_numpy(detector.preprocess(noise(100, 100))[None])
    own = gradcam(detector.net.face, detector.preprocess.split(row)[0])
    np.testing.assert_array_equal(gradcam(detector.net, row), own)
    seen = detector.preprocess.normalise(detector.preprocess.uint8(noise(100, 100)))[None]
    assert detector.gradcam(seen, True).shape == own.shape


def test_saved_and_loaded_alike_and_damaged_headers_refused(tmp_path):
    detector = two_views()
    detector.save(tmp_path / "d.safetensors")
    again = Detector.load(tmp_path / "d.safetensors")
    assert again.join == JOIN and again.preprocess == detector.preprocess
    assert again.predict([noise(100, 90)])[0] == detector.predict([noise(100, 90)])[0]
    header = detector.net.cfg.to_dict()

    def refused(change, match):
        bad = json.loads(json.dumps(header))
        change(bad)
        with pytest.raises((UserError, KeyError, ValueError, TypeError), match=match):
            build(bad)

    refused(lambda h: h["join"].update(temperatures=[0.0, 1.0]), "above 0")
    refused(lambda h: h["join"].update(weights=[1.0]), "damaged")
    refused(lambda h: h["join"].update(apart=["x", 1]), "damaged")
    refused(lambda h: h["join"].pop("sure"), "what joins")
    refused(lambda h: h.update(face={"architecture": header}), "single")
    refused(lambda h: h["preprocess"]["pixels"].update(channels=1), "crops have 1")
    refused(lambda h: h["preprocess"]["face"].update(resolution=64), "not 3 of 64")
    refused(lambda h: h["preprocess"]["pixels"].update(side=10**6), "whole number")
    refused(lambda h: h.update(preprocess=header["preprocess"]["face"]), "face and pixels")
    refused(lambda h: h.update(more=1), "unknown option")
    with pytest.raises(UserError, match="join FACE PIXELS"):
        new_network("two_views", 32)
    with pytest.raises(UserError, match="their network's own"):
        Detector(detector.net, Preprocess(32), detector.calibration)


# ---- the fit --------------------------------------------------------------------------------------------------------


def some(n: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    y = 2.0 * labels - 1
    return np.stack([3 * y + 4 * rng.normal(size=n) + 1, y + 0.8 * rng.normal(size=n) - 2], 1), labels


def test_weighted_is_the_logistic_regression_of_both_logits():
    logits, labels = some()
    join = fit_join("weighted", logits, labels)
    free = LogisticRegression(C=np.inf, tol=1e-10, max_iter=5000).fit(logits, labels)
    want = logits @ free.coef_[0] + free.intercept_[0]
    z, score = joint(join, logits)
    np.testing.assert_allclose(score, want, atol=2e-3 * np.abs(want).max())
    alone = LogisticRegression(C=np.inf, tol=1e-10, max_iter=5000).fit(logits[:, :1], labels)
    np.testing.assert_allclose(z[:, 0], logits[:, 0] * alone.coef_[0, 0] + alone.intercept_[0], atol=1e-3)
    logits[::3, 1] = np.nan  # the face alone stands for these
    join = fit_join("weighted", logits, labels)
    z, score = joint(join, logits)
    np.testing.assert_array_equal(score[::3], z[::3, 0])
    assert np.isnan(z[::3, 1]).all() and np.isfinite(score).all()


def test_either_takes_the_view_that_is_further_over_its_threshold():
    logits, labels = some()
    join = fit_join("either", logits, labels)
    z, score = joint(join, logits)
    np.testing.assert_allclose(score, np.max(z - np.array(join.thresholds), 1), atol=1e-5)  # of float32 numbers
    for k in (0, 1):  # 3 of 300 reals reach it
        assert (z[labels == 0, k] >= join.thresholds[k]).sum() == 3


def test_small_sets_are_not_lost_among_large_ones():
    """In the large set the pixels say nothing, in the small one everything."""
    large, labels = some(1000)
    large[:, 1] = np.random.default_rng(5).normal(size=1000)
    small, few = some(60, seed=9)
    small[:, 0], small[:, 1] = 0.1 * small[:, 0], 4 * (2 * few - 1) + np.random.default_rng(6).normal(size=60)
    logits, y = np.concatenate([large, small]), np.concatenate([labels, few])
    sets = np.repeat([0, 1], [1000, 60])
    lost, kept = fit_join("weighted", logits, y), fit_join("weighted", logits, y, sets)
    ratio = [j.weights[1] / j.temperatures[1] / (j.weights[0] / j.temperatures[0]) for j in (lost, kept)]
    assert ratio[1] > 2 * ratio[0]


@pytest.mark.parametrize("method", ["weighted", "either"])
def test_contradictions_are_rare_on_validation_photos_and_never_where_the_join_is_sure(method):
    logits, labels = some(4000)
    join = fit_join(method, logits, labels)
    assert contradictions(join, logits).mean() <= 0.01
    low, high = join.sure
    score = joint(join, logits)[1]
    assert (score[labels == 0] >= high).mean() <= 0.001 and (score[labels == 1] < low).mean() <= 0.001
    middle = (low + high) / 2
    assert join.contradiction(-30.0, 30.0, middle) == PIXELS_ONLY
    assert join.contradiction(30.0, -30.0, middle) == FACE_ONLY
    assert join.contradiction(-30.0, 30.0, high) == join.contradiction(-30.0, 30.0, np.nextafter(low, -99)) == ""
    assert join.contradiction(0.5, 35.0, middle) == ""  # both say fake
    assert join.contradiction(-30.0, float("nan"), middle) == ""


def test_a_fit_needs_both_classes_with_pixels():
    logits, labels = some(40)
    logits[labels == 1, 1] = np.nan
    with pytest.raises(UserError, match="no fake validation photo is large enough"):
        fit_join("weighted", logits, labels)
    with pytest.raises(UserError, match="`join` both"):
        fit_join("both", logits, labels)


# ---- the verdict ----------------------------------------------------------------------------------------------------


def test_a_contradiction_is_unsure_with_its_reason():
    detector, photo = two_views(), noise(100, 100)
    f, x = by_hand(detector, photo)
    for face, pixels, why in ((8.0, -8.0, FACE_ONLY), (-8.0, 8.0, PIXELS_ONLY), (8.0, 7.0, "")):
        join = replace(JOIN, temperatures=(1.0, 1.0), biases=(face - f, pixels - x), apart=(5.0, 5.0))
        (verdict,) = two_views(join).predict([photo])
        assert verdict.note == notes_joined(why, detector.caution)
        assert (verdict.label == "UNSURE") == bool(why)
        (verdict,) = two_views(replace(join, sure=(-1e-6, 0.0))).predict([photo])  # a sure score stands
        assert verdict.note == detector.caution and verdict.label != "UNSURE"


class OneFace:
    """A finder that sees one face, its box and the landmarks that go with it."""

    name = "stub"

    def __init__(self, middle: float, eyes: float):
        turned = eyes * np.array([[-0.5, 0], [0.5, 0], [0, 0.5], [-0.4, 1], [0.4, 1]]) + middle
        box = (middle - eyes, middle - eyes, middle + eyes, middle + 1.5 * eyes)
        self.face = Face(box, turned.astype(np.float32), 0.9)

    def find(self, image):
        return [self.face]


def test_a_face_in_a_photo_is_judged_by_the_photos_pixels_and_a_small_one_says_so():
    detector, photo = two_views(), noise(400, 600, seed=4)
    large, small = (Judge(detector, faces=FaceStep(OneFace(200, eyes))) for eyes in (50, 8))
    seen = large.look("x", photo)
    # Karras et al.'s frame: 4 eye distances about a middle 0.1 eyes-to-mouth below the eyes
    region = (100.0, 105.0, 300.0, 305.0)
    crops = detector.preprocess.pixels.cut(photo, region)
    np.testing.assert_array_equal(seen.pixels[0][32 * 32 * 3 + 1 :], crops.ravel())
    (result,) = large(photo)
    assert result.verdict.views[1] is not None and "own pixels" not in result.verdict.note
    (result,) = small(photo)  # a frame of 32 px, 28 without its border
    assert result.verdict.views[1] is None
    assert "fewer than 32x32 of the photo's own pixels show this face" in result.verdict.note
    assert "by its shape alone" in detector.predict([noise(33, 33)])[0].note


def test_decoded_faces_keep_rows(tmp_path):
    from PIL import Image

    (tmp_path / "real").mkdir()
    photos = [noise(100, 90 + i, seed=i) for i in range(3)]
    for i, photo in enumerate(photos):
        Image.fromarray(photo).save(tmp_path / "real" / f"{i}.png")
    detector = two_views()
    faces = DecodedFaces.build(open_source(tmp_path), detector.preprocess)
    with torch.inference_mode():
        logits = detector.net.verdict(to_float(torch.from_numpy(np.array(faces.images)))).logit.numpy()
    want = [verdict.logit for verdict in detector.predict(photos)]
    np.testing.assert_allclose(logits, want, atol=1e-5)
    assert faces.enlarged == 0 and faces.not_square == 3


@pytest.mark.parametrize("branches", [{}, pytest.param({"branches": ("spatial",)}, marks=pytest.mark.slow)], ids=len)
def test_onnx_says_the_same(tmp_path, branches):
    pytest.importorskip("onnxscript")
    bound = replace(JOIN, apart=(0.0, 0.0))
    path, detector = tmp_path / "detector.onnx", two_views(bound, **branches)
    assert export_detector(path, detector) <= 1e-4
    served = OnnxDetector.load(path)
    assert served.join == bound and served.preprocess == detector.preprocess
    photos = [noise(100 + 7 * i, 90, seed=i) for i in range(6)] + [noise(33, 40)]
    ours, theirs = detector.predict(photos), served.predict(photos)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.label, a.note) == (b.label, b.note)
        assert b.probability == pytest.approx(a.probability, abs=1e-4)
        assert (a.views[1] is None) == (b.views[1] is None)
        np.testing.assert_allclose(a.patch_map, b.patch_map, atol=1e-4)
    assert ours[-1].views[1] is None
    said = describe(detector)["in_words"]
    assert "4 crops of 3x32x32" in said["input"] and "5 % at each edge" in said["preprocess"]


def test_calibration_of_a_joint_score_is_a_logits():
    logits, labels = some()
    join = fit_join("weighted", logits, labels)
    found = calibrate(joint(join, logits)[1], labels)
    assert (found.temperature, found.bias) == pytest.approx((1, 0), abs=0.05)  # log-odds already


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("residual", ["highpass", "pixels"])
def test_the_bank_as_one_ordinary_convolution_is_the_same_bank(channels, residual):
    """What is exported, against scipy in float64, filter by filter and colour by colour."""
    bank = ResidualBank(residual, channels)
    img = torch.rand(2, channels, 20, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1
    grouped = bank(img)
    bank.dense = True
    found = bank(img)
    np.testing.assert_allclose(found, grouped, atol=1e-5)
    each = bank.out_channels // channels
    for k in range(bank.out_channels):
        kernel, plane = bank.kernels[k, 0].double().numpy(), img[1, k // each].double().numpy()
        want = ndimage.correlate(plane, kernel, mode="mirror").clip(-3, 3)
        np.testing.assert_allclose(found[1, k], want, atol=1e-5)


def test_an_exported_bank_is_ungrouped_and_the_network_is_left_as_it_was(tmp_path):
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx")
    detector = Detector(pixel_net(), Preprocess(SIDE), make_calibration())
    export_detector(tmp_path / "a.onnx", detector)
    nodes = [n for n in onnx.load(tmp_path / "a.onnx").graph.node if n.op_type == "Conv"]
    groups = {a.i for node in nodes for a in node.attribute if a.name == "group"}
    assert groups <= {1} and len(nodes) > 4
    assert not any(part.dense for part in detector.net.modules() if isinstance(part, ResidualBank))
