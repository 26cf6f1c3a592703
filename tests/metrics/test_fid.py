from types import SimpleNamespace

import numpy as np
import pytest
import torch

import metrics.fid
from faces.errors import UserError
from metrics.fid import dataset_stats, estimate_seconds, fid_of_generator, generate, generator_stats, parse_metric
from metrics.frechet import frechet_distance
from metrics.inception import InceptionFeatures
from metrics.stats import GaussianStats, stats_of
from stylegan2_ada.config import GeneratorConfig
from stylegan2_ada.generator import Generator


class Pooled(torch.nn.Module):
    """A stand-in for the Inception features: 4x4 block means of each channel, 48 numbers, instantly."""

    dims, resize, weights_sha256, chunk = 48, "none", "0" * 64, 8

    def __init__(self):
        super().__init__()
        self.calls = 0

    def describe(self):
        return {"dims": self.dims, "resize": self.resize, "weights_sha256": self.weights_sha256}

    def forward(self, images):
        self.calls += 1
        return torch.nn.functional.adaptive_avg_pool2d(images.float(), 4).flatten(1)


class Tiny(torch.nn.Module):
    """A generator with the latents, labels and noise streams of the real one."""

    def __init__(self, c_dim=0):
        super().__init__()
        self.cfg = SimpleNamespace(z_dim=12, c_dim=c_dim)
        self.layer = torch.nn.Linear(12 + c_dim, 3 * 16 * 16)

    def forward(self, z, c=None, *, psi=1.0, noise_mode="random"):
        x = self.layer(psi * (z if c is None else torch.cat([z, c], dim=1))).reshape(-1, 3, 16, 16)
        return x + 0.1 * torch.randn(len(z), 1, 16, 16) if noise_mode == "random" else x


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return Tiny()


def reals(n=100, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 3, 16, 16), dtype=np.uint8)


def test_metric_names():
    asked = {"fid1k": 1000, "fid2k": 2000, "fid5k": 5000, "fid10k": 10000, "fid50k": 50000, "fid50k_full": 50000}
    assert {name: parse_metric(name) for name in asked} == asked
    assert parse_metric("fid256") == 256
    for name in ("kid5k", "fid", "fid1", "fid0k", "fid5K", "none", "fid5k "):
        with pytest.raises(UserError, match=f"metric '{name}' is unknown; give fid1k"):
            parse_metric(name)


def test_fid_says_what_it_is(tiny):
    features = Pooled()
    real = dataset_stats(reals(), features)
    seen = []
    result = fid_of_generator(tiny, features, real, 70, seed=3, progress=lambda done, total: seen.append((done, total)))
    fake = generator_stats(tiny, features, 70, seed=3)
    assert result["fid"] == frechet_distance(fake.mu, fake.sigma, real.mu, real.sigma) > 0
    named = {k: v for k, v in result.items() if k not in ("fid", "seconds")}
    assert named == {
        "metric": "fid70", "dims": 48, "resize": "none", "n_fake": 70, "n_real": 100, "weights_sha256": "0" * 64,
        "seed": 3, "psi": 1.0, "noise_mode": "random",
    }  # fmt: skip
    assert seen[-1] == (70, 70) and [d for d, _ in seen] == sorted({d for d, _ in seen})


@pytest.mark.parametrize("noise_mode", ["random", "const"])
def test_images_depend_on_the_seed_only(tiny, noise_mode):
    def images(n=30, **options):
        return torch.cat(list(generate(tiny, n, noise_mode=noise_mode, **options)))

    first = images(batch=7, seed=5)
    assert first.dtype == torch.uint8 and first.shape == (30, 3, 16, 16)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    for other in (images(batch=64, seed=5), images(19, batch=1, seed=5)):
        off = (first[: len(other)].int() - other.int()).abs()
        # 'const' calls differ in size, so a float on the edge between two grey levels may fall either way.
        assert off.max() <= (0 if noise_mode == "random" else 1) and (off > 0).float().mean() < 1e-3
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first, images(seed=6))
    assert not torch.equal(images(seed=5)[1:], images(seed=6)[:-1])  # seeds are streams, not offsets


def test_conditions_are_drawn_from_the_labels():
    generator = Tiny(c_dim=3)
    seen = []
    generator.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    list(generate(generator, 40))
    assert torch.cat(seen).sum(1).eq(1).all() and torch.cat(seen).sum(0).gt(0).all()
    seen.clear()
    list(generate(generator, 40, labels=np.array([[0, 0, 1], [0, 0, 1]])))
    assert torch.cat(seen)[:, 2].eq(1).all()


def test_the_real_generator_and_the_real_features(random_inception):
    torch.manual_seed(0)
    cfg = GeneratorConfig(resolution=16, z_dim=16, w_dim=16, mapping_layers=2, channel_base=256, channel_max=16)
    generator, features = Generator(cfg), InceptionFeatures(random_inception.path, 64)
    real = dataset_stats(reals(20), features)
    a = fid_of_generator(generator, features, real, 12, seed=1, batch=3)
    b = fid_of_generator(generator, features, real, 12, seed=1, batch=12)
    assert a["fid"] == b["fid"] > 0 and a["dims"] == 64 and a["weights_sha256"] == features.weights_sha256
    # What the metric left behind must not break training.
    generator(torch.randn(2, 16)).sum().backward()


def test_truncation_narrows_the_features(tiny):
    features = Pooled()
    wide, narrow = (generator_stats(tiny, features, 64, psi=psi, noise_mode="const") for psi in (1.0, 0.3))
    assert np.trace(narrow.sigma) < 0.2 * np.trace(wide.sigma)


def test_statistics_of_arrays_iterables_and_tensors_agree():
    images, features = reals(), Pooled()
    wanted = stats_of(features(torch.from_numpy(images)).numpy())
    frozen = images.copy()
    frozen.flags.writeable = False  # as a memory-mapped pack is
    for source in (frozen, torch.from_numpy(images), iter(images), (images[i : i + 9] for i in range(0, 100, 9))):
        found = dataset_stats(source, features)
        assert found.n == 100
        np.testing.assert_allclose(found.sigma, wanted.sigma, rtol=1e-6, atol=1e-6)
    mixed = [*images[:3], np.zeros((3, 20, 24), np.uint8), *images[3:6]]
    assert dataset_stats(iter(mixed), features).n == 7


def test_cache_is_by_content_and_features(tmp_path):
    images, features = reals(), Pooled()

    def calls(source, **options):
        before = features.calls
        stats = dataset_stats(source, features, cache_dir=tmp_path / "cache", **options)
        return features.calls - before, stats

    first, stats = calls(images)
    again, cached = calls(images.copy())
    assert first > 0 and again == 0 and np.array_equal(stats.sigma, cached.sigma) and cached.n == 100
    changed = images.copy()
    changed[50, 0, 0, 0] ^= 255
    assert calls(changed)[0] > 0
    assert calls(iter(images))[0] > 0 and calls(iter(images))[0] > 0  # an iterable without a key is not cached
    assert calls(iter(images), cache_key="abc")[0] > 0 and calls(iter(images), cache_key="abc")[0] == 0
    features.weights_sha256 = "1" * 64
    assert calls(images)[0] > 0
    for file in (tmp_path / "cache").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    assert calls(images)[0] > 0 and calls(images)[0] == 0  # a damaged file is replaced


def test_an_unwritable_cache_costs_no_result(tmp_path):
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="statistics are not cached"):
        assert dataset_stats(reals(), Pooled(), cache_dir=tmp_path / "file").n == 100


def test_time_is_estimated_on_a_few_images(tiny, monkeypatch):
    features, clock, forward = Pooled(), [0.0], Pooled.forward

    def slow(self, images):
        clock[0] += 0.5 * len(images)
        return forward(self, images)

    monkeypatch.setattr(Pooled, "forward", slow)
    monkeypatch.setattr(metrics.fid.time, "perf_counter", lambda: clock[0])
    assert estimate_seconds(tiny, features, 5000) == pytest.approx(2500)
    assert estimate_seconds(None, features, 5000) == pytest.approx(2500)
    assert clock[0] == pytest.approx(2 * 0.5 * (8 + 32))


def test_one_clear_line_for_what_cannot_be(tiny):
    features = Pooled()
    real = dataset_stats(reals(), features)
    for source in (reals(1), iter(reals(1)), iter([])):
        with pytest.raises(UserError, match="two images or more"):
            dataset_stats(source, features)
    with pytest.raises(UserError, match="two images or more, got 1"):
        fid_of_generator(tiny, features, real, 1)
    with pytest.raises(UserError, match="2 dimensions, these features 48"):
        fid_of_generator(tiny, features, GaussianStats(np.zeros(2), np.eye(2)), 10)
    with pytest.raises(UserError, match="made with resize tf1, these features with none"):
        fid_of_generator(tiny, features, GaussianStats(real.mu, real.sigma, 100, {"resize": "tf1"}), 10)
    with torch.no_grad():
        tiny.layer.bias[7] = torch.nan
    with pytest.raises(UserError, match="NaN or infinite pixels"):
        fid_of_generator(tiny, features, real, 10)
    features.forward = lambda images: torch.full((len(images), 48), torch.nan)
    with pytest.raises(UserError, match="image 0: its features hold NaN"):
        dataset_stats(reals(), features)
