"""`synth.py --network` and `train_gan.py --resume` with the network files of other programs."""

import csv
import importlib.util
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from stylegan2_ada.config import DiscriminatorConfig, GeneratorConfig
from stylegan2_ada.discriminator import Discriminator
from stylegan2_ada.files import load_generator, save_generator
from stylegan2_ada.generator import Generator
from stylegan2_ada.networks import Networks
from stylegan2_ada.published import save_published
from tests.stylegan2_ada import snapshots
from training.checkpoint import checkpoints, load

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def synth(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("synth_script", ROOT / "synth.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACES_CACHE", str(tmp_path / "cache"))

    def call(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as leaving:
            script.run(script.main, [str(a) for a in arguments])
        out, err = capsys.readouterr()
        return SimpleNamespace(code=leaving.value.code, out=out, err=err)

    return call


def one_line(result, *words):
    assert result.code == 2 and result.err.startswith("error: ") and result.err.count("\n") == 1, result.err
    assert all(word in result.err for word in words), result.err


# ---- synth.py -------------------------------------------------------------------------------------------------------


def test_synth_gives_the_recorded_network_s_images(synth, shared_dir, tmp_path):
    """The recorded snapshot, its URL, and our own file made from it: the same pixels."""
    path = shared_dir / "golden" / "uncond32_official_format.pkl"
    from stylegan2_ada.interop import load_any_generator

    save_generator(tmp_path / "own.safetensors", load_any_generator(path)[0])
    for network, folder in ((path, "a"), (path.as_uri(), "b"), ("own.safetensors", "c")):
        done = synth("--network", network, "--n", 3, "--outdir", folder)
        assert done.code == 0, done.err
    for seed in range(3):
        name = f"seed{seed:06d}.png"
        assert len({(tmp_path / folder / name).read_bytes() for folder in "abc"}) == 1
    assert np.asarray(Image.open(tmp_path / "a" / name)).std() > 5
    with open(tmp_path / "a" / "manifest.csv", newline="", encoding="utf-8") as file:
        assert len({row["network_sha256"] for row in csv.DictReader(file)}) == 1
    conditional = shared_dir / "golden" / "cond64_official_format.pkl"
    one_line(synth("--network", conditional, "--n", 1, "--outdir", "d"), "--class", "0 to 2")
    assert synth("--network", conditional, "--n", 1, "--class", 2, "--outdir", "d").code == 0


def test_synth_tells_what_is_wrong_with_a_network_file(synth, tmp_path):
    (tmp_path / "bad.pkl").write_bytes(b"\x80\x04cos\nsystem\nX\x04\x00\x00\x00true\x85R.")
    one_line(synth("--network", "bad.pkl"), "bad.pkl", "os.system", "nothing in the file was run")
    (tmp_path / "tf.pkl").write_bytes(b"\x80\x03cdnnlib.tflib.network\nNetwork\n.")
    one_line(synth("--network", "tf.pkl"), "tf.pkl", "TensorFlow", "legacy.py")
    torch.save({"model": torch.ones(2)}, tmp_path / "other.pt")
    one_line(synth("--network", "other.pt"), "other.pt", "no StyleGAN2 network")
    one_line(synth("--network", "http://127.0.0.1:9/a.pkl"), "http://127.0.0.1:9/a.pkl", "tampered")
    pinned = "http://127.0.0.1:9/a.pkl#sha256=" + "0" * 64
    one_line(synth("--network", pinned), "http://127.0.0.1:9/a.pkl", "could not be fetched", "connection")
    one_line(synth("--network", "file:///absent/a.pkl"), "file:///absent/a.pkl", "no such file")
    one_line(synth("--network", "absent.pkl"), "absent.pkl")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.pkl", "other.pt", "tf.pkl"]


def test_synth_prints_what_a_file_leaves_open(synth, tmp_path):
    G = snapshots.random_state(Generator(snapshots.small_config()))
    (tmp_path / "a.pkl").write_bytes(snapshots.dumps({"G": snapshots.generator(G)}))
    done = synth("--network", "a.pkl", "--n", 1, "--outdir", "a")
    assert done.code == 0 and "note: the file has no averaged generator" in done.out


# ---- train_gan.py ---------------------------------------------------------------------------------------------------

STILL = ("--lr", 1e-30, "--kimg", 0.004, "--verdict-kimg", 0)  # one step that changes nothing


@pytest.fixture(scope="module")
def networks():
    """A generator, its average and a discriminator as the presets of `training_server`, weights all of their own."""
    widths = {"channel_base": 128, "channel_max": 16}
    cfg = GeneratorConfig(8, z_dim=16, w_dim=16, mapping_layers=2, **widths)
    D = Discriminator(DiscriminatorConfig(8, **widths))
    nets = [snapshots.random_state(net, seed) for seed, net in enumerate([Generator(cfg), Generator(cfg), D])]
    return Networks(*nets)


@pytest.fixture(scope="module")
def pkl(networks, tmp_path_factory):
    path = tmp_path_factory.mktemp("pkl") / "network-snapshot-025000.pkl"
    content = {"G": snapshots.generator(networks.G), "D": snapshots.discriminator(networks.D)}
    path.write_bytes(snapshots.dumps(content | {"G_ema": snapshots.generator(networks.G_ema)}))
    return path


def state_after(run: Path, step: int = 1) -> dict:
    found = {path.name: path for path in checkpoints(run)}
    return load(found[f"checkpoint-{step:06d}.pt"], "gan")["game"]


def equal(state: dict, net, *, but=()):
    for name, value in net.state_dict().items():
        assert name in but or torch.allclose(state[name], value, rtol=1e-6), name


def test_a_run_starts_from_the_networks_of_a_snapshot(train, photos, pkl, networks, tmp_path):
    done = train("--data", photos, "--resume", pkl, *STILL)
    assert done.code == 0, done.err
    run = tmp_path / "runs" / "00000-photos-8-tiny"
    assert f"transfer    {pkl} (stylegan2-ada-pytorch snapshot); ADA adapts in 100 kimg, no EMA ramp-up" in done.out
    assert "the verdict head starts fresh" in done.out and "NVIDIA" not in done.out
    game = state_after(run)
    equal(game["G"], networks.G, but=("mapping.w_avg",))
    trunk = {name.removeprefix("trunk."): t for name, t in game["D"].items() if name.startswith("trunk.")}
    equal(trunk, networks.D)
    # the average moved towards G by one step's share of a half-life that is not ramped up
    config = json.loads((run / "config.json").read_text())
    assert config["ada_kimg"] == 100 and config["ema_rampup"] is None and config["options"]["start"] == str(pkl)
    share = 1 - 0.5 ** (4 / (config["ema_kimg"] * 1000))
    assert 0 < share < 0.01
    for name, p in networks.G_ema.named_parameters():
        expected = p.lerp(networks.G.state_dict()[name], share)
        torch.testing.assert_close(game["G_ema"][name], expected, rtol=1e-5, atol=1e-6)
    # and the run goes on exactly, with the same settings, without the file
    again = train("--resume", run, "--kimg", 0.008, small=False)
    assert again.code == 0, again.err
    assert json.loads((run / "config.json").read_text())["ada_kimg"] == 100


def test_a_run_starts_from_a_generator_alone(train, photos, networks, tmp_path):
    save_generator(tmp_path / "generator-000100.safetensors", networks.G_ema)
    done = train("--data", photos, "--resume", "generator-000100.safetensors", *STILL)
    assert done.code == 0, done.err
    assert "no discriminator: it starts fresh" in done.out and "starts from the averaged one" in done.out
    run = tmp_path / "runs" / "00000-photos-8-tiny"
    equal(state_after(run)["G"], networks.G_ema, but=("mapping.w_avg",))
    found, _ = (
        load_generator(run / "generator-best.safetensors")
        if (run / "generator-best.safetensors").exists()
        else (load_generator(next(run.glob("generator-*.safetensors"))))
    )
    equal(found.state_dict(), networks.G_ema, but=("mapping.w_avg",))


def test_freeze_d(train, photos, pkl, networks, tmp_path):
    done = train("--data", photos, "--resume", pkl, "--freezed", 3, "--kimg", 0.004, "--verdict-kimg", 0)
    assert done.code == 0, done.err
    game = state_after(tmp_path / "runs" / "00000-photos-8-tiny")
    frozen = ("fromrgb.", "blocks.0.conv0.", "blocks.0.conv1.")
    for name, value in networks.D.state_dict().items():
        assert torch.equal(game["D"][f"trunk.{name}"], value) == name.startswith(frozen), name
    one_line(train("--data", photos, "--freezed", 5), "--freezed 5", "4 layers")
    one_line(train("--data", photos, "--freezed", -1), "--freezed -1", "at least 0")


def other(path, networks, **changes):
    """A published state dict of other shapes."""
    cfg = GeneratorConfig.from_dict(networks.G.cfg.to_dict() | changes)
    save_published(path, Networks(G_ema=Generator(cfg)))
    return path.name


def test_networks_that_do_not_fit_are_refused_with_the_reason(train, photos, networks, tmp_path, shared_dir):
    def refused(*arguments, words):
        one_line(train("--data", photos, *arguments), "--resume", *words)

    name = other(tmp_path / "larger.pt", networks, resolution=16)
    refused("--resume", name, words=[name, "16x16", "8x8", "add --resolution 16"])
    name = other(tmp_path / "deep.pt", networks, mapping_layers=8)
    refused("--resume", name, words=["8 mapping layers, this run 2", "--cfg tiny", "no --cfg has this shape"])
    conditional = shared_dir / "golden" / "cond64_official_format.pkl"
    refused("--resume", conditional, "--resolution", 64, words=["know 3 classes, this run none"])
    (tmp_path / "bad.pkl").write_bytes(b"\x80\x04cbuiltins\neval\n.")
    one_line(train("--data", photos, "--resume", "bad.pkl"), "bad.pkl", "builtins.eval")
    one_line(train("--data", photos, "--resume", "https://127.0.0.1:9/a.pkl"), "127.0.0.1:9", "could not be fetched")
    one_line(train("--data", photos, "--resume", "absent.pkl"), "absent.pkl", "no such")
    one_line(train("--resume", "deep.pt", small=False), "deep.pt", "--data")
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_fetches_nothing(train, photos, tmp_path):
    done = train("--data", photos, "--resume", "ffhq256", "-n", "--cfg", "stylegan2", "--resolution", 256,
                 FACES_CACHE=str(tmp_path / "cache"))  # fmt: skip
    assert done.code == 0, done.err
    resolved = json.loads(done.out)
    assert resolved["resume"] == "ffhq256" and resolved["ada_kimg"] == 100 and resolved["ema_rampup"] is None
    assert not (tmp_path / "cache").exists() and not os.path.exists(tmp_path / "runs")
