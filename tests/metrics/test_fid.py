from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from faces.source import open_source
from metrics.collect import Features, collect
from metrics.fid import compare, metric_name, parse_kinds, parse_metric
from metrics.frechet import frechet_distance
from metrics.halving import frechet_interval
from metrics.images import GeneratedImages, SourceImages
from metrics.inception import InceptionFeatures
from metrics.inception_score import inception_score
from metrics.kernel import kid
from metrics.manifold import manifold
from metrics.sampling import Sampling
from metrics.sliced import mind
from metrics.stats import GaussianStats
from stylegan2_ada.config import GeneratorConfig
from stylegan2_ada.generator import Generator
from tests.gaussian import stats_of


def test_metric_names():
    asked = {"fid1k": 1000, "fid2k": 2000, "fid50k": 50000, "fid50k_full": 50000, "fid256": 256}
    assert {name: parse_metric(name) for name in asked} == {name: ("fid", n) for name, n in asked.items()}
    assert parse_metric("mind5k") == ("mind", 5000) and parse_metric("ci2k") == ("ci", 2000)
    assert parse_metric("kid5k") == ("kid", 5000) and parse_metric("pr300") == ("pr", 300)
    for name in ("is5k", "fid", "fid1", "fid0k", "fid5K", "none", "fid5k "):
        with pytest.raises(UserError, match=f"metric '{name}' is unknown; give fid1k"):
            parse_metric(name)
    assert metric_name("kid", 5000) == "kid5k" and metric_name("fid", 256) == "fid256"
    assert parse_kinds("fid, kid,fid,ppl") == ["fid", "kid", "ppl"]
    for text in ("fid5k", "", ","):
        with pytest.raises(UserError, match="choose among fid, ci, kid, mind, pr, is, ppl"):
            parse_kinds(text)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    """Two sets of ten images of 64 x 64, of different smoothness."""
    root, rng = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    for name, kernel in (("a", Image.Resampling.BICUBIC), ("b", Image.Resampling.BILINEAR)):
        (root / name).mkdir()
        for i in range(10):
            blocks = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
            blocks.resize((64, 64), kernel).save(root / name / f"{i}.png")
    return [root / "a", root / "b"]


def seen(path: Path, features) -> Features:
    return collect(SourceImages(open_source(path)), features, keep=True)


def test_fid_of_folders_equals_pytorch_fid(folders, random_inception, pytorch_fid_network):
    pytorch_fid = pytest.importorskip("pytorch_fid.fid_score")
    network = pytorch_fid_network(random_inception.state, [1])  # few numbers: their square root takes long
    theirs = [
        pytorch_fid.calculate_activation_statistics(sorted(f.iterdir()), network, 10, 192, "cpu", 0) for f in folders
    ]
    wanted = pytorch_fid.calculate_frechet_distance(*theirs[0], *theirs[1])
    features = InceptionFeatures(random_inception.path, 192)
    a, b = (seen(f, features) for f in folders)
    np.testing.assert_allclose(a.stats.mu, theirs[0][0], rtol=1e-4)
    assert compare(["fid"], a, b, features)["fid"] == pytest.approx(wanted, rel=1e-4)


def test_all_numbers_equal_torch_fidelity(folders, random_inception, torch_fidelity_numbers):
    features = InceptionFeatures(random_inception.path, 2048, resize="original")
    a, b = (seen(f, features) for f in folders)
    wanted = torch_fidelity_numbers
    fid = compare(["fid"], a, b, features)["fid"]
    assert fid == pytest.approx(wanted["frechet_inception_distance"], rel=1e-5)
    one = kid(a.vectors, b.vectors, subsets=1, size=10)
    assert one.mean == pytest.approx(wanted["kernel_inception_distance_mean"], rel=1e-4)
    score = inception_score(a.vectors, features.classifier.numpy(), splits=2, seed=None)
    assert score[0] == pytest.approx(wanted["inception_score_mean"], rel=1e-5)
    assert score[1] == pytest.approx(wanted["inception_score_std"], rel=1e-3)
    found = manifold(b.vectors, a.vectors)
    assert (found.precision, found.recall) == pytest.approx((wanted["precision"], wanted["recall"]))


@pytest.fixture(scope="module")
def torch_fidelity_numbers(folders, random_inception):
    torch_fidelity = pytest.importorskip("torch_fidelity")
    return torch_fidelity.calculate_metrics(
        input1=str(folders[0]), input2=str(folders[1]), cuda=False, fid=True, kid=True, isc=True, prc=True, cache=False,
        feature_extractor="inception-v3-compat", feature_extractor_weights_path=str(random_inception.path),
        feature_layer_prc="2048", kid_subsets=1, kid_subset_size=10, isc_splits=2, samples_shuffle=False,
        verbose=False, batch_size=10, save_cpu_ram=True,
    )  # fmt: skip


def test_a_generator_is_measured_and_still_trains_afterwards(random_inception, folders):
    torch.manual_seed(0)
    cfg = GeneratorConfig(resolution=16, z_dim=16, w_dim=16, mapping_layers=2, channel_base=256, channel_max=16)
    G, features = Generator(cfg), InceptionFeatures(random_inception.path, 64)
    real = seen(folders[0], features)
    a, b = (
        compare(["fid"], collect(GeneratedImages(G, 12, Sampling(1, batch=n)), features), real, features)["fid"]
        for n in (3, 12)
    )
    assert a == b > 0
    G(torch.randn(2, 16)).sum().backward()


def test_all_kinds_are_those_of_their_own_functions():
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((40, 6)).astype(np.float32), rng.standard_normal((50, 6)).astype(np.float32) + 0.5

    class Six:
        dims, name = 6, "six"

        def describe(self):
            return {"dims": 6}

    a, b = Features(stats_of(x), x), Features(stats_of(y), y)
    found = compare(["fid", "ci", "mind", "kid"], a, b, Six(), seed=4)
    ci = frechet_interval(x, y, found["fid"], seed=4)
    assert (found["fid_unbiased"], found["fid_low"], found["fid_high"]) == (ci.value, ci.low, ci.high)
    assert found["mind"] == mind(x, y, seed=4).value and found["kid_low"] < found["kid"] < found["kid_high"]
    with pytest.raises(UserError, match="collect the features themselves"):
        compare(["mind"], Features(a.stats), b, Six())


def test_statistics_and_vectors_give_the_same_fid():
    rng = np.random.default_rng(0)
    few, many = rng.standard_normal((5, 30)).astype(np.float32), rng.standard_normal((400, 30)).astype(np.float32)

    class Wide:
        dims = 30

        def describe(self):
            return {"dims": 30}

    for x, y in ((few, many), (few, few[:4] + 1), (many, many + 1)):
        a, b = Features(stats_of(x), x), Features(stats_of(y), y)
        wanted = frechet_distance(a.stats.mu, a.stats.sigma, b.stats.mu, b.stats.sigma)
        assert compare(["fid"], a, b, Wide())["fid"] == pytest.approx(wanted, rel=1e-7)
    with pytest.raises(UserError, match="2 dimensions, the others 30"):
        compare(["fid"], a, Features(GaussianStats(np.zeros(2), np.eye(2))), Wide())
    with pytest.raises(UserError, match="made with resize tf1, the others with clean"):
        Wide.describe = lambda self: {"dims": 30, "resize": "clean"}
        compare(["fid"], a, Features(GaussianStats(b.stats.mu, b.stats.sigma, 5, {"resize": "tf1"})), Wide())
