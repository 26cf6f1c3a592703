"""Ensembles: the methods against scikit-learn, scipy and hand computation; files; members that look differently."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from scipy.optimize import minimize
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from common.errors import UserError
from discriminator.calibration import calibrate
from discriminator.detector import HEADER_KEY, Detector
from discriminator.ensemble import Average, Ensemble, EnsembleConfig, Majority, Member, Stack, Weighted
from discriminator.ensemble_fit import cross_fitted, fit_head, fit_stack, fit_weights, joined_scores, log_odds, stack_of
from discriminator.export_onnx import export_detector
from discriminator.gradcam import gradcam
from discriminator.hybrid import HybridConfig, HybridDiscriminator
from discriminator.onnx_detector import OnnxDetector
from discriminator.views import Views, joined, preprocess_from
from faces.preprocess import Preprocess
from faces.procedural.portrait import render_face
from stylegan2_ada.config import DiscriminatorConfig


def some(n=240, seed=0, members=3):
    """Log-odds of members that err differently: [n, members], labels [n]."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    common = rng.normal(size=n)
    z = np.stack([(2 * labels - 1) + common + (0.6 + k) * rng.normal(size=n) for k in range(members)], 1)
    return z, labels


def member(side, seed, crop="center", channels=3):
    torch.manual_seed(seed)
    cfg = DiscriminatorConfig(side, img_channels=channels, channel_base=128, channel_max=8)
    net = HybridDiscriminator(HybridConfig(cfg, artefact_channels=4, verdict_dim=8)).eval()
    with torch.no_grad():
        net.verdict_head.out.weight.mul_(30)
    rng = np.random.default_rng(seed)
    calibration = calibrate(rng.normal(np.repeat([-1, 1], 100)), np.repeat([0, 1], 100), default_fpr=0.05)
    return Detector(net, Preprocess(side, crop, channels=channels), calibration)


def together(members, head, method, sizes=(0, 0)):
    cfg = EnsembleConfig(
        tuple(Member(m.net.cfg.to_dict(), m.preprocess, m.calibration, str(k)) for k, m in enumerate(members)),
        method,
        sizes,
    )
    z, labels = some()
    return Detector(
        Ensemble(cfg, [m.net for m in members], head), joined([m.preprocess for m in members])[0],
        calibrate(joined_scores(head, z[:, : len(members)]), labels),
    )  # fmt: skip


def photos(count=5):
    return [np.asarray(render_face(i, 48))[:, : 48 - 4 * (i % 3)] for i in range(count)]


# ---- the methods ----------------------------------------------------------------------------------------------------


def test_average_and_log_odds():
    p = np.array([[0.2, 0.9], [1.0, 0.0]])
    z = log_odds(p)
    assert z[0] == pytest.approx([np.log(0.25), np.log(9)]) and list(z[1]) == [36, -36]
    assert joined_scores(Average(), z) == pytest.approx([(np.log(0.25) + np.log(9)) / 2, 0])


def test_majority_by_hand():
    head = Majority(thresholds=torch.tensor([0.5, 0.5, 0.9]))
    z = np.array([[1, 1, -9], [1, -9, 1], [-1, -1, 9], [5, 5, 5], [-5, -5, -5], [2, 2, -1]], float)
    assert head.votes(torch.from_numpy(z)).sum(1).tolist() == [2, 1, 1, 3, 0, 2]
    scores = joined_scores(head, z)
    assert list(scores > 0) == [True, False, False, True, False, True]
    mean = z.mean(1)
    expected = np.array([2, 1, 1, 3, 0, 2]) - 1.5 + mean / (2 * (1 + abs(mean)))
    assert scores == pytest.approx(expected)
    # votes first, then the mean; and of two members the mean breaks the tie
    assert list(np.argsort(scores)) == sorted(range(6), key=lambda i: ([2, 1, 1, 3, 0, 2][i], mean[i]))
    two = joined_scores(Majority(thresholds=torch.tensor([0.5, 0.5])), np.array([[3.0, -1], [-3, 1], [1, 1], [-1, -1]]))
    assert list(two > 0) == [True, False, True, False]


def test_weights_are_the_best_there_are():
    z, labels = some()
    w = fit_weights(z, labels)
    assert w.min() >= 0 and w.sum() == pytest.approx(1)
    assert w[0] > w[2]  # less noise, more weight
    # where no bound is in the way: the direction of an unpenalised logistic regression
    free = LogisticRegression(C=np.inf, tol=1e-10, max_iter=5000).fit(z, labels).coef_[0]
    assert free.min() > 0
    assert w == pytest.approx(free / free.sum(), abs=1e-4)

    # a member that says the opposite gets nothing; scipy's general solver agrees
    z = np.c_[z, -z[:, :1] + np.random.default_rng(1).normal(size=(len(z), 1))]
    free = LogisticRegression(C=np.inf, tol=1e-10, max_iter=5000).fit(z, labels).coef_[0]
    y = 2 * labels - 1

    def loss(u):
        return np.logaddexp(0, -y * (z @ u[:4] + u[4])).mean()

    bounds = [(0, None)] * 4 + [(None, None)]
    best = minimize(loss, np.full(5, 0.2), method="SLSQP", bounds=bounds, options={"ftol": 1e-14, "maxiter": 500}).x
    assert fit_weights(z, labels) == pytest.approx(best[:4] / best[:4].sum(), abs=1e-3)
    assert joined_scores(Weighted(weights=torch.from_numpy(w)), z[:, :3]) == pytest.approx(z[:, :3] @ w)


def test_weights_at_their_ends():
    labels = np.arange(40) % 2
    apart = np.c_[labels * 2.0 - 1, np.zeros(40)]
    assert fit_weights(apart, labels) == pytest.approx([1, 0], abs=1e-6)
    assert fit_weights(np.c_[-apart[:, 0], -apart[:, 0]], labels) == pytest.approx([0.5, 0.5])
    with pytest.raises(UserError, match="both classes"):
        fit_head("weighted", apart, np.ones(40), [])


def test_a_stack_is_scikit_learn_s_decision_function():
    z, labels = some(members=4)
    new = some(200, seed=9, members=4)[0] * 3
    scaler = StandardScaler().fit(z)
    pca = PCA(3, whiten=True).fit(scaler.transform(z))
    svc = SVC(C=2.0, gamma=0.37).fit(pca.transform(scaler.transform(z)), labels)
    theirs = svc.decision_function(pca.transform(scaler.transform(new)))
    np.testing.assert_allclose(joined_scores(stack_of(scaler, pca, svc), new), theirs, atol=1e-9)

    # and the whole fit is this pipeline
    pipeline = make_pipeline(
        StandardScaler(), PCA(0.99, whiten=True, svd_solver="full"), SVC(gamma="scale", class_weight="balanced")
    ).fit(z, labels)
    np.testing.assert_allclose(joined_scores(fit_stack(z, labels), new), pipeline.decision_function(new), atol=1e-6)


def test_cross_fitting_leaves_the_fold_out():
    z, labels = some(100)
    folds = np.arange(100) // 2 % 5
    scores = cross_fitted(z, labels, folds, fit_stack)
    for fold in range(5):
        out = folds == fold
        np.testing.assert_allclose(scores[out], joined_scores(fit_stack(z[~out], labels[~out]), z[out]))
    # scores without any meaning stay so: an in-sample fit would look good
    rng = np.random.default_rng(3)
    noise, labels = rng.normal(size=(400, 3)), np.arange(400) % 2
    from metrics.classification import roc_auc

    assert roc_auc(labels, joined_scores(fit_stack(noise, labels), noise)) > 0.65
    assert 0.4 < roc_auc(labels, cross_fitted(noise, labels, np.arange(400) // 2 % 5, fit_stack)) < 0.6


# ---- as one detector ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sides", [(32, 32), (32, 16, 32)])
@pytest.mark.parametrize("method", ["average", "majority", "weighted", "stacking"])
def test_a_file_says_what_its_members_say(method, sides, tmp_path):
    members = [member(side, k, "pad" if k == 2 else "center") for k, side in enumerate(sides)]
    z, labels = some(members=len(members))
    head = fit_head(method, z, labels, [m.calibration for m in members])
    sizes = (head.axes.shape[0], len(head.vectors)) if isinstance(head, Stack) else (0, 0)
    detector = together(members, head, method, sizes)
    detector.save(tmp_path / "e.safetensors")
    loaded = Detector.load(tmp_path / "e.safetensors")
    assert isinstance(loaded.preprocess, Views if len(set(sides)) > 1 else Preprocess)
    seen = photos()
    each = np.stack([log_odds([v.probability for v in m.predict(seen)]) for m in members], 1)
    logits = [v.logit for v in loaded.predict(seen, batch=3)]
    assert logits == pytest.approx(joined_scores(head, each), abs=1e-5)
    assert [v.label for v in loaded.predict(seen)] == [v.label for v in detector.predict(seen)]
    again = loaded.save(tmp_path / "again.safetensors")
    assert again == Detector.load(tmp_path / "e.safetensors").sha256  # nothing lost on the way
    if isinstance(head, Stack):
        assert torch.equal(loaded.net.head.vectors, head.vectors) and head.vectors.dtype == torch.float64


def test_maps_are_the_mean_of_those_that_lie_alike():
    members = [member(32, 0), member(16, 1), member(32, 2, "pad")]
    detector = together(members, Average(), "average")
    photo = photos(1)[0]
    found = detector.predict([photo])[0].patch_map
    maps = [torch.from_numpy(m.predict([photo])[0].patch_map)[None, None] for m in members[:2]]
    large = torch.nn.functional.interpolate(maps[1], size=maps[0].shape[2:], mode="bilinear")
    np.testing.assert_allclose(found, ((maps[0] + large) / 2)[0, 0].numpy(), atol=1e-5)
    pixels = torch.from_numpy(detector.preprocess(photo)[None])
    cam = gradcam(detector.net, pixels)
    one = gradcam(members[0].net, torch.from_numpy(members[0].preprocess(photo)[None]))
    assert cam.shape == one.shape and cam.max() == pytest.approx(1)


def test_views_are_the_members_own_pixels():
    views = Views((Preprocess(16, channels=1), Preprocess(32, "pad"), Preprocess(8, "none", "box")))
    assert (views.resolution, views.channels, views.crop) == (32, 3, "pad")
    photo = photos(2)[1]
    flat = views.normalise(np.stack([views.uint8(photo)] * 2))
    for part, view in zip(views.split(torch.from_numpy(flat)), views.views):
        np.testing.assert_array_equal(part[1].numpy(), view(photo))
    np.testing.assert_array_equal(views(photo), flat[0])
    assert preprocess_from(json.loads(json.dumps(views.to_dict()))) == views
    with pytest.raises(ValueError, match="two or more"):
        Views((Preprocess(8), Preprocess(8)))


@pytest.mark.slow
def test_onnx_of_members_that_look_differently(tmp_path):
    pytest.importorskip("onnxscript")
    detector = together([member(16, 0), member(32, 1, "pad")], Average(), "average")
    assert export_detector(tmp_path / "o.onnx", detector) < 1e-4
    a, b = detector.predict(photos(3)), OnnxDetector.load(tmp_path / "o.onnx").predict(photos(3))
    assert [v.probability for v in a] == pytest.approx([v.probability for v in b], abs=1e-4)


@pytest.mark.slow
def test_onnx_of_members_that_look_alike(tmp_path):
    pytest.importorskip("onnxscript")
    z, labels = some(members=2)
    head = fit_stack(z, labels)
    sizes = (head.axes.shape[0], len(head.vectors))
    detector = together([member(16, 0), member(16, 1)], head, "stacking", sizes)
    assert export_detector(tmp_path / "e.onnx", detector) < 1e-4
    a, b = detector.predict(photos(3)), OnnxDetector.load(tmp_path / "e.onnx").predict(photos(3))
    assert [v.probability for v in a] == pytest.approx([v.probability for v in b], abs=1e-4)


def test_damaged_and_hostile_files_are_refused(tmp_path):
    head = fit_stack(*some(members=2))
    good = together([member(16, 0), member(16, 1)], head, "stacking", (head.axes.shape[0], len(head.vectors)))
    path = tmp_path / "e.safetensors"
    good.save(path)
    tensors = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, "pt") as file:
        text = file.metadata()[HEADER_KEY]

    def refused(change, match, drop=None):
        header = json.loads(text)
        change(header)
        kept = {k: v for k, v in tensors.items() if k != drop}
        safetensors.torch.save_file(kept, tmp_path / "bad.safetensors", {HEADER_KEY: json.dumps(header)})
        with pytest.raises(UserError, match=match):
            Detector.load(tmp_path / "bad.safetensors")

    def within(header):
        return header["architecture"]

    refused(lambda h: None, "is missing", drop="head.dual")
    refused(lambda h: None, "is missing", drop="members.1.verdict_head.out.weight")
    refused(lambda h: within(h).update(method="oracle"), "unknown method")
    refused(lambda h: within(h).update(sizes=[1, 10**9]), "does not fit")
    refused(lambda h: within(h).update(members=within(h)["members"] * 40), "at most 32")
    refused(lambda h: within(h).update(members=within(h)["members"][:1]), "2 to 32 members")
    refused(lambda h: within(h)["members"][0].update(architecture=json.loads(json.dumps(within(h)))), "single networks")
    refused(lambda h: within(h)["members"][0].update(calibration={}), "a calibration has")
    refused(lambda h: within(h).update(more=1), "unknown option")

    def giant(header):  # all places agree on it, but the networks
        for place in (header, *within(header)["members"]):
            place["preprocess"]["resolution"] = 10**6

    refused(giant, "a member takes 3 channels of 16 px")
    views = [{"resolution": 16}, {"resolution": 16, "crop": "pad"}]
    refused(lambda h: h.update(preprocess={"views": views}), "its members' own")
    refused(lambda h: h["preprocess"].update(crop="pad"), "its members' own")
    refused(lambda h: h.update(preprocess={"views": [{"resolution": 8}]}), "two or more")
