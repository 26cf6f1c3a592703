"""`benchmarks/training.py compare --peer`: a stand-in with the published interface, driven as a training drives it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NETWORKS = """
import torch
class Generator(torch.nn.Module):
    def __init__(self, z_dim, c_dim, w_dim, img_resolution, img_channels, mapping_kwargs, synthesis_kwargs):
        super().__init__()
        assert synthesis_kwargs["channel_base"] == 16384 and mapping_kwargs == {"num_layers": 2}
        self.mapping = torch.nn.Linear(z_dim, w_dim)
        self.synthesis = torch.nn.Linear(w_dim, img_channels * img_resolution**2)
        self.shape = (-1, img_channels, img_resolution, img_resolution)
    def forward(self, z, c, noise_mode="random"):
        return self.synthesis(self.mapping(z)).view(self.shape)
class Discriminator(torch.nn.Module):
    def __init__(self, c_dim, img_resolution, img_channels, channel_base, channel_max, num_fp16_res, conv_clamp,
                 block_kwargs, mapping_kwargs, epilogue_kwargs):
        super().__init__()
        assert epilogue_kwargs == {"mbstd_group_size": 4}
        self.out = torch.nn.Linear(img_channels * img_resolution**2, 1)
    def forward(self, images, c):
        return self.out(images.flatten(1))
"""
AUGMENT = """
import torch
class AugmentPipe(torch.nn.Module):
    def __init__(self, **kinds):
        super().__init__()
        assert len(kinds) == 12 and "cutout" not in kinds
        self.register_buffer("p", torch.ones([]))
    def forward(self, images):
        return images
"""
LOSS = """
import os
class StyleGAN2Loss:
    def __init__(self, device, G_mapping, G_synthesis, D, augment_pipe, style_mixing_prob, r1_gamma, pl_batch_shrink,
                 pl_decay, pl_weight):
        assert abs(float(augment_pipe.p) - 0.2) < 1e-6
        self.G, self.D = (G_mapping, G_synthesis), D
    def accumulate_gradients(self, phase, real_img, real_c, gen_z, gen_c, sync, gain):
        trained = {phase[0]} == {"G"}
        assert all(p.requires_grad == trained for p in self.G[1].parameters())
        assert all(p.requires_grad != trained for p in self.D.parameters())
        with open(os.environ["TOLD"], "a") as file:
            print(phase, gain, file=file)
        images = self.G[1](self.G[0](gen_z)).view(real_img.shape)
        (self.D(images, gen_c).mean() * gain).backward()
"""


def checkout(folder: Path, **sources: str) -> Path:
    folder.joinpath("training").mkdir(parents=True)
    folder.joinpath("training", "__init__.py").touch()
    for name, source in sources.items():
        folder.joinpath("training", f"{name}.py").write_text(source)
    return folder


@pytest.fixture
def peer(tmp_path, monkeypatch):
    monkeypatch.setenv("TOLD", str(tmp_path / "told.txt"))
    return checkout(tmp_path / "peer", networks=NETWORKS, augment=AUGMENT, loss=LOSS)


def test_a_peer_stands_beside_the_ways_in_one_table(peer, tmp_path):
    words = "compare --resolution 8 --batch 4 --rounds 2 --threads 1 --ways".split()
    command = [sys.executable, str(ROOT / "benchmarks" / "training.py"), *words, "reference fp32", "--peer", str(peer)]
    done = subprocess.run([*command, "--out", str(tmp_path / "o.json")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "peer fp32" in done.stdout and f"times as fast as {peer}: reference fp32 " in done.stdout
    mine, theirs = json.loads((tmp_path / "o.json").read_text())["rows"]
    assert theirs["way"] == "peer fp32" and {"seconds", "cpu_seconds", "phases", "sampling_seconds"} <= set(mine) & set(
        theirs
    )
    assert list(theirs["phases"]) == list(mine["phases"]) and 0 < theirs["peak_gb"] < 8
    parts = theirs["phases"]
    whole = parts["Gmain"] + parts["Greg"] / 4 + parts["Dmain"] + parts["Dreg"] / 16 + parts["averages"]
    assert theirs["seconds"] == pytest.approx(whole)
    told = (tmp_path / "told.txt").read_text().splitlines()
    assert told == ["Gmain 1", "Greg 4", "Dmain 1", "Dreg 16"] * 3  # one round for nothing, two that count
    assert sorted(path.name for path in peer.rglob("*")) == [
        "__init__.py",
        "augment.py",
        "loss.py",
        "networks.py",
        "training",
    ]


def test_what_is_no_such_checkout_is_one_line(tmp_path):
    folder = checkout(tmp_path / "other", networks="Generator = None\n")
    settings = json.dumps({"resolution": 8, "batch": 2, "rounds": 1, "threads": 1, "device": "cpu"})
    command = [sys.executable, str(ROOT / "benchmarks" / "peer.py"), str(folder), settings]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode and len(done.stderr.splitlines()) == 1
    assert "No module named 'training.augment'" in done.stderr and "published interface" in done.stderr
