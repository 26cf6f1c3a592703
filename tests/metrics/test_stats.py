import numpy as np
import pytest

from common.errors import UserError
from metrics.stats import GaussianStats, StreamingStats, load_stats, save_stats
from tests.gaussian import stats_of


def features(n, d=12, seed=0, offset=0.0):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32) * np.arange(1, d + 1) + offset


def fed(x, sizes):
    stats = StreamingStats(x.shape[1])
    start = 0
    while start < len(x):
        for size in sizes:
            stats.update(x[start : start + size])
            start += size
    return stats


@pytest.mark.parametrize("n", [2, 511, 512, 513, 2000])
def test_streaming_equals_numpy(n):
    x = features(n)
    found = fed(x, [7, 100]).finish()
    np.testing.assert_allclose(found.mu, x.mean(axis=0, dtype=np.float64), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.sigma, np.cov(x.astype(np.float64), rowvar=False), rtol=1e-10, atol=1e-10)
    assert found.n == n and found.mu.dtype == found.sigma.dtype == np.float64


def test_a_large_offset_costs_no_digits():
    x = features(3000, offset=1e7).astype(np.float64)
    np.testing.assert_allclose(fed(x, [64]).finish().sigma, np.cov(x, rowvar=False), rtol=1e-8, atol=1e-8)


def test_batch_sizes_do_not_change_a_bit():
    x = features(1500)
    a, b = fed(x, [8]).finish(), fed(x, [1, 700, 33]).finish()
    assert np.array_equal(a.mu, b.mu) and np.array_equal(a.sigma, b.sigma)


def test_files_are_pytorch_fids(tmp_path):
    x = features(50)
    stats = stats_of(x, {"dims": 12, "resize": "pytorch-fid"})
    save_stats(tmp_path / "new" / "s.npz", stats)
    with np.load(tmp_path / "new" / "s.npz") as npz:  # as pytorch-fid reads it
        np.testing.assert_array_equal(npz["mu"][:], stats.mu)
        np.testing.assert_array_equal(npz["sigma"][:], stats.sigma)
    back = load_stats(tmp_path / "new" / "s.npz")
    assert back.n == 50 and back.meta == stats.meta and np.array_equal(back.sigma, stats.sigma)
    np.savez_compressed(tmp_path / "theirs.npz", mu=stats.mu, sigma=stats.sigma)  # as pytorch-fid writes it
    theirs = load_stats(tmp_path / "theirs.npz")
    assert theirs.n is None and theirs.meta == {} and np.array_equal(theirs.mu, stats.mu)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["s.npz"]


def test_one_clear_line_for_bad_input(tmp_path):
    with pytest.raises(UserError, match="two images or more, got 1"):
        stats_of(features(1))
    stats = fed(features(10), [10])
    bad = features(4)
    bad[2, 3] = np.nan
    with pytest.raises(UserError, match=r"image 12: its features hold NaN"):
        stats.update(bad)
    assert stats.n == 10
    with pytest.raises(UserError, match="12 wide"):
        stats.update(np.zeros((3, 5)))
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "other.npz", images=np.zeros(3))
    np.savez(tmp_path / "shapes.npz", mu=np.zeros(3), sigma=np.eye(4))
    np.savez(tmp_path / "nan.npz", mu=np.full(3, np.nan), sigma=np.eye(3))
    np.savez(tmp_path / "complex.npz", mu=np.zeros(3), sigma=np.eye(3) + 1j)
    np.savez(tmp_path / "skewed.npz", mu=np.zeros(3), sigma=np.eye(3) + [[0, 1, 0]])
    np.savez(tmp_path / "negative.npz", mu=np.zeros(3), sigma=-np.eye(3))
    np.savez(tmp_path / "list.npz", mu=np.zeros(3), sigma=np.eye(3), meta="[1]")
    for name, line in (
        ("absent", "cannot be read"),
        ("text", "statistics file|cannot be read"),
        ("other", "no 'mu'"),
        ("shapes", "do not fit"),
        ("nan", "not all finite"),
        ("complex", "not a statistics file"),
        ("skewed", "no covariance"),
        ("negative", "no covariance"),
        ("list", "not a statistics file"),
    ):
        with pytest.raises(UserError, match=line):
            load_stats(tmp_path / f"{name}.npz")
    with pytest.raises(UserError, match="cannot be written"):
        save_stats(tmp_path / "text.npz" / "s.npz", GaussianStats(np.zeros(2), np.eye(2)))
