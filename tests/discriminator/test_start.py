"""Beginning from another training's weights: what is taken, and that it computes what it computed there."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from common.errors import UserError
from discriminator.calibration import calibrate
from discriminator.detector import Detector
from discriminator.hybrid import HybridConfig, HybridDiscriminator
from discriminator.models import NetworkOptions, new_network
from discriminator.training.start import Start, network_from
from faces.preprocess import Preprocess
from stylegan2_ada.config import DiscriminatorConfig
from training.checkpoint import save

O = NetworkOptions()


def hybrid(**how) -> HybridDiscriminator:
    torch.manual_seed(5)
    trunk = DiscriminatorConfig(resolution=32, channel_base=256, channel_max=16)
    return HybridDiscriminator(HybridConfig(trunk, artefact_channels=6, verdict_dim=20, **how)).eval()


@pytest.fixture
def game(tmp_path):
    """A run of the game that has written a checkpoint alone."""
    folder, net = tmp_path / "game", hybrid(residual="neighbour")
    folder.mkdir()
    save(folder, 3, {"game": {"D_ema": net.state_dict()}}, "gan")
    return folder, net


def test_a_pixel_view_takes_a_games_branch_whatever_its_shape(game):
    folder, theirs = game
    net, said = network_from(Start.open(str(folder)), "pixels", 48, O, 0)
    assert (net.cfg.resolution, net.cfg.channels, net.cfg.residual) == (48, 6, "neighbour")
    x = torch.rand(2, 3, 40, 40) * 2 - 1
    assert torch.equal(net.verdict(x).patch_logits, theirs.artefact(x).patch_logits)
    assert said.startswith("artefact of") and "checkpoint-000003.pt" in said and "verdict_head from random" in said


def test_the_head_goes_along_where_it_sees_the_branch_alone(tmp_path):
    theirs = hybrid(branches=("artefact",))
    save(tmp_path, 1, {"game": {"D_ema": theirs.state_dict()}}, "gan")
    net, said = network_from(Start.open(str(tmp_path)), "pixels", 32, O, 0)
    x = torch.rand(3, 3, 32, 32) * 2 - 1
    assert torch.equal(net.verdict(x).logit, theirs.verdict(x).logit) and "random" not in said


def test_a_detector_file_and_a_training_of_one(tmp_path):
    theirs = new_network("custom_cnn", 32, options=O, seed=9)
    calibration = calibrate(torch.linspace(-1, 1, 40).numpy(), (torch.arange(40) % 2).numpy())
    Detector(theirs, Preprocess(32), calibration).save(tmp_path / "detector.safetensors")
    for spec in (tmp_path, tmp_path / "detector.safetensors"):
        net, _ = network_from(Start.open(str(spec)), "custom_cnn", 32, O, 0)
        assert all(
            torch.equal(a, b) for a, b in zip(net.state_dict().values(), theirs.state_dict().values(), strict=True)
        )
    (tmp_path / "run").mkdir()
    best = {"auc": 1.0, "step": 2, "state": theirs.state_dict()}
    save(tmp_path / "run", 2, {"best": best, "ema": {}}, "detector")
    net, said = network_from(Start.open(str(tmp_path / "run")), "custom_cnn", 32, O, 0)
    assert torch.equal(next(net.parameters()), next(theirs.parameters())) and "checkpoint-000002.pt" in said


def test_a_file_without_the_statistics_of_its_norms_is_refused(tmp_path):
    """An earlier --half wrote mean 0 and variance 1 - eps; in training mode such a network knows nothing any more."""
    pytest.importorskip("timm")
    name = "timm:tf_efficientnet_lite0"
    theirs = new_network(name, 32, options=O, seed=9)
    fresh, _ = network_from_file(theirs, tmp_path / "fresh.safetensors", name)
    assert torch.equal(next(fresh.parameters()), next(theirs.parameters()))  # untaught norms are no such case
    norm = next(part for part in theirs.modules() if isinstance(part, torch.nn.BatchNorm2d))
    norm.running_var.fill_(1 - norm.eps)
    with pytest.raises(UserError, match="x.safetensors holds no statistics of its batch norms"):
        network_from_file(theirs, tmp_path / "x.safetensors", name)
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(UserError, match="statistics"):
        network_from_file(theirs, run / "detector.safetensors", name, run)
    save(run, 2, {"best": {"auc": 1.0, "step": 2, "state": theirs.state_dict()}, "ema": {}}, "detector")
    _, said = network_from_file(theirs, run / "detector.safetensors", name, run)
    assert "checkpoint-000002.pt" in said


def test_the_normalisation_goes_along_with_the_weights_that_expect_it(tmp_path):
    pytest.importorskip("timm")
    name, run = "timm:tf_efficientnet_lite0", tmp_path / "run"
    theirs = new_network(name, 32, options=O, seed=9)
    with torch.no_grad():
        theirs.head.weight.normal_()  # a new one knows nothing
    theirs.normalise_by((0.3, 0.4, 0.5), (0.2, 0.2, 0.3))
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    net, _ = network_from_file(theirs, tmp_path / "x.safetensors", name)
    run.mkdir()
    save(run, 2, {"best": {"auc": 1.0, "step": 2, "state": theirs.state_dict()}, "ema": {}}, "detector")
    (run / "config.json").write_text(json.dumps({"architecture": theirs.cfg.to_dict()}))
    for begun in (net, network_from(Start.open(str(run)), name, 32, O, 0)[0]):
        assert torch.equal(begun.eval().verdict(x).logit, theirs.eval().verdict(x).logit)
        assert begun.cfg.mean == (0.3, 0.4, 0.5)


def network_from_file(theirs, file, name, spec=None):
    calibration = calibrate(torch.linspace(-1, 1, 40).numpy(), (torch.arange(40) % 2).numpy())
    Detector(theirs, Preprocess(32), calibration).save(file)
    return network_from(Start.open(str(spec or file)), name, 32, O, 0)


def test_a_hybrid_takes_the_parts_that_fit(game):
    folder, _ = game
    save(folder, 4, {"game": {"D_ema": new_network("hybrid", 64, options=O, seed=3).state_dict()}}, "gan")
    _, said = network_from(Start.open(str(folder)), "hybrid", 32, O, 0)
    assert said.startswith("artefact") and "trunk" in said.partition(";")[2]


def test_where_nothing_fits_it_is_said_what_would(tmp_path):
    """A game's discriminator is wider than the smallest hybrid: another size takes its branch, a pixel view any."""
    torch.manual_seed(5)
    trunk = DiscriminatorConfig(resolution=32, channel_base=1024, channel_max=256)
    save(tmp_path, 1, {"game": {"D_ema": HybridDiscriminator(HybridConfig(trunk)).state_dict()}}, "gan")
    start = Start.open(str(tmp_path))
    pixels = "`model` pixels takes its artefact branch"
    with pytest.raises(UserError, match=f"fits `model` hybrid `size` tiny; `size` base takes its artefact, {pixels}"):
        network_from(start, "hybrid", 32, O, 0)
    with pytest.raises(UserError, match=f"fits `model` capsnet; {pixels}"):
        network_from(start, "capsnet", 32, O, 0)
    assert network_from(start, "hybrid", 32, replace(O, size="base"), 0)[1].startswith("artefact of")
    save(tmp_path, 2, {"best": {"state": new_network("custom_cnn", 32, options=O).state_dict()}}, "detector")
    with pytest.raises(UserError, match="give a run of the same network, or leave it out"):
        network_from(Start.open(str(tmp_path)), "hybrid", 32, O, 0)


def test_what_can_not_be_begun_from_is_said(game, tmp_path):
    folder, _ = game
    with pytest.raises(UserError, match="`start_from`.*artefact, trunk.*fits `model` custom_cnn"):
        network_from(Start.open(str(folder)), "custom_cnn", 32, O, 0)
    save(folder, 4, {"game": {"G": {}}}, "gan")
    with pytest.raises(UserError, match="`start_from`.*no verdict head"):
        Start.open(str(folder))
    with pytest.raises(UserError, match="`start_from` .*nowhere"):
        Start.open(str(tmp_path / "nowhere"))
    (tmp_path / "checkpoint-000001.pt").write_bytes(b"no")
    with pytest.raises(UserError, match="`start_from`.*can't be read"):
        Start.open(str(tmp_path / "checkpoint-000001.pt"))
    save(tmp_path, 2, {"best": {"state": new_network("custom_cnn", 32, options=O).state_dict()}}, "detector")
    with pytest.raises(UserError, match="holds no artefact branch"):
        network_from(Start.open(str(tmp_path)), "pixels", 32, O, 0)
