"""FID at snapshots: what is measured, what it may cost, and which snapshot is the best."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import adversarial.quality
from adversarial.quality import FidMonitor, beside_fid, metric_counts
from common.errors import UserError
from faces.preprocess import Preprocess
from stylegan2_ada.config import GeneratorConfig
from stylegan2_ada.generator import Generator
from training.processes import Processes


class Told:
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)

    def progress(self, *_, **__):
        pass


@pytest.fixture
def weights(tmp_path):
    """A trunk of the first 64 channels."""
    g, state = torch.Generator().manual_seed(0), {}
    for name, shape in (("1a_3x3", (32, 3, 3, 3)), ("2a_3x3", (32, 32, 3, 3)), ("2b_3x3", (64, 32, 3, 3))):
        state[f"Conv2d_{name}.conv.weight"] = torch.randn(shape, generator=g) * 0.2
        state[f"Conv2d_{name}.conv.bias"] = torch.randn(shape[0], generator=g) * 0.1
    torch.save(state, tmp_path / "trunk.pth")
    return str(tmp_path / "trunk.pth")


@pytest.fixture
def monitor(weights, tmp_path):
    def make(metrics, features="inception", fid_weights=None):
        options = SimpleNamespace(
            metric_data=None, data_root=None, inception_weights=weights, fid_dims=64, workers=1,
            fid_features=features, fid_weights=fid_weights,
        )  # fmt: skip
        pre = Preprocess(16)
        images = np.random.default_rng(0).integers(0, 256, (20, 3, 16, 16), dtype=np.uint8)
        train = SimpleNamespace(images=images, labels=np.array([0, 1] * 10), preprocess=pre)
        facts = {"counts": {"train": {"real": 10}}, "preprocess": pre.to_dict(), "train_stamp": "abc", "name": "set"}
        data = SimpleNamespace(train=train, facts=facts, classes=None)
        told = Told()
        cfg = SimpleNamespace(metrics=metrics, options=options)
        return FidMonitor(cfg, Processes(), data, tmp_path, told), told

    return make


@pytest.fixture
def G():
    torch.manual_seed(0)
    cfg = GeneratorConfig(resolution=16, z_dim=16, w_dim=16, mapping_layers=2, channel_base=256, channel_max=16)
    return Generator(cfg)


def test_counts_and_kinds():
    assert metric_counts("fid1k, kid1k,pr5k") == {1000: {"fid", "kid"}, 5000: {"fid", "pr"}}
    with pytest.raises(UserError, match="metric 'is5k' is unknown"):
        metric_counts("fid1k,is5k")


def test_all_kinds_and_the_best_snapshot(monitor, G):
    fid, _ = monitor("kid8,pr12")
    (line,) = fid.announce()
    assert "fid8, kid8, fid12, pr12 with 64 features against 10 reals of set (training images)" in line
    first = fid.measure(G, 1000)
    assert first["best"] and first["metric"] == "fid8" and first["metric_2"] == "fid12" and first["n_real"] == 10
    assert {"kid", "kid_standard_error", "precision_2", "recall_2", "coverage_2"} <= set(first)
    with torch.no_grad():
        for p in G.synthesis.parameters():
            p.mul_(3)
    second = fid.measure(G, 2000)
    assert second["fid"] > first["fid"] and not second["best"] and fid.best["nimg"] == 1000
    assert fid.measure(G, 3000)["fid"] == second["fid"]


def test_another_network_s_features_the_sliced_distance_and_an_interval(monitor, G, tmp_path):
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model("mobilenetv3_small_050").state_dict(), tmp_path / "mobile.pth")
    fid, _ = monitor("mind8,ci8", "timm:mobilenetv3_small_050@32", tmp_path / "mobile.pth")
    (line,) = fid.announce()
    assert "ci8, fid8, mind8 with 1024 features of timm:mobilenetv3_small_050@32 against 10 reals" in line
    row = fid.measure(G, 1000)
    assert row["features"] == "timm:mobilenetv3_small_050@32" == fid.best["features"] and row["mind"] > 0
    assert row["fid_low"] <= row["fid_unbiased"] <= row["fid_high"]
    assert f"mind {row['mind']:.4g}" in beside_fid(row) and f"({row['fid_low']:.2f} to " in beside_fid(row)
    fid.best["features"] = "inception"  # what was best by other features is no measure
    assert fid.measure(G, 2000)["best"]


def test_auto_stays_within_a_tenth_of_the_time(monitor, G, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(adversarial.quality.time, "monotonic", lambda: clock.now)
    fid, told = monitor("auto")
    fid.counts = {10: {"fid"}}
    assert fid.announce()[0].endswith("at most 10% of the time")
    fid.cost = 6.0  # for ten samples; the ten reals cost the same, once
    clock.now = 119.0
    assert fid.measure(G, 1000) is None and told.lines == []
    assert fid.measure(G, 1000, final=True) is None and "more than 10% of the run's" in told.lines[0]
    clock.now = 120.0
    assert fid.measure(G, 1000)["fid"] > 0
    fid.spent, fid.cost = 12.0, 6.0
    clock.now = 179.0
    assert fid.measure(G, 2000) is None
    clock.now = 180.0
    assert fid.measure(G, 2000) is not None


def test_auto_knows_what_the_first_measurement_of_a_run_that_goes_on_costs(monitor, G, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(adversarial.quality.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(adversarial.quality, "seconds_for", lambda images, features: 0.6 * len(images))
    fid, _ = monitor("auto")
    fid.counts = {10: {"fid"}}
    clock.now = 119.0  # ten samples and ten reals take 12 seconds
    assert fid.measure(G, 1000) is None
    clock.now = 120.0
    assert fid.measure(G, 1000)["fid"] > 0


def test_the_log_shows_what_was_asked_for_besides_the_fid():
    row = {"metric": "fid1k", "fid": 2.0, "kid": 0.00321, "kid_standard_error": 0.1, "metric_2": "fid5k", "fid_2": 1.5}
    assert beside_fid(row) == ", kid 0.00321, fid5k 1.50"
    assert beside_fid({"metric": "fid1k", "fid": 2.0}) == ""
