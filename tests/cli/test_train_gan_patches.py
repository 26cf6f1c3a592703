"""`python train_gan.py --patches N` as a user runs it: what is told, what is refused, kill and resume."""

import dataclasses
import json
import random
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from adversarial.options import Options
from adversarial.plan import describe
from discriminator.detector import Detector
from stylegan2_ada.files import load_generator
from synth.sample import sample
from tests.cli.test_train_gan_resume import assert_same_end, refused
from training.checkpoint import checkpoints, load

RUN = "00000-mixed-patches32-tiny"
PATCHES = ("--patches", 32, "--resolution", 32, "--mirror")  # the tests' own options say --resolution 8
SHORT = ("--kimg", 0.016, "--verdict-kimg", 0.008, "--replay-capacity", 50)


@pytest.fixture(scope="session")
def mixed(tmp_path_factory) -> Path:
    """Photos of several sizes, one of them smaller than a patch, and labelled fakes."""
    folder = tmp_path_factory.mktemp("data") / "mixed"
    rng = np.random.default_rng(0)
    for label, count in (("real", 14), ("fake", 6)):
        (folder / label).mkdir(parents=True)
        for i in range(count):
            size = (40 + 7 * (i % 5), 96 - 9 * (i % 4), 3)
            Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(folder / label / f"{i:02d}.png")
    Image.new("RGB", (30, 80)).save(folder / "real" / "narrow.png")
    return folder


@pytest.mark.timeout(300)
def test_a_run_its_files_and_going_on_after_kills(start, train, mixed, tmp_path):
    (tmp_path / "straight").mkdir()
    done = train("--data", mixed, *PATCHES, *SHORT, cwd=tmp_path / "straight")
    assert done.code == 0, done.err
    assert "patches     32 x 32 pixels, cut anew at every step from" in done.out
    assert "1 photo smaller than 32 pixels, left out" in done.out
    assert "narrow.png: 30x80 pixels: too small (at least 32 a side)" in done.out
    straight = tmp_path / "straight" / "runs" / RUN

    config = json.loads((straight / "config.json").read_text())
    assert config["options"]["patches"] == config["resolution"] == config["data_facts"]["patches"]["size"] == 32
    assert config["data_facts"]["num_skipped"] == 1
    detector = Detector.load(straight / "detector.safetensors")
    assert detector.meta["patches"] == 32 and detector.meta["face"] == "whole"
    assert "knows 32x32 patches" in detector.note(np.zeros((100, 100, 3), np.uint8))
    assert detector.note(np.zeros((32, 32, 3), np.uint8)) == ""
    G, meta = load_generator(straight / "generator-000000.016.safetensors")
    assert meta["patches"] == 32 and sample(G, [1, 2]).shape == (2, 3, 32, 32)
    measured = json.loads((straight / "verdict.json").read_text())["held_out_clean"]
    assert {"auc_data_set", "auc_own_generator"} <= set(measured)

    rng, kills, cache = random.Random(2), 0, tmp_path / "cache"
    run = tmp_path / "runs" / RUN
    job = start("--data", mixed, *PATCHES, *SHORT, "--checkpoint-minutes", 1e-6, FACES_CACHE=str(cache))
    while kills < 3:
        before = {p.name for p in checkpoints(run)}
        while not {p.name for p in checkpoints(run)} - before and not (run / "scores.npz").exists():
            time.sleep(0.002)
        time.sleep(rng.random() * 0.05)
        if not job.kill():
            break
        job.wait()
        kills += 1
        for path in checkpoints(run):
            load(path, "gan")
        job = start("--resume", "latest", small=False, FACES_CACHE=str(cache))
    result = job.wait()
    assert result.code == 0, result.err
    assert kills >= 1
    assert_same_end(straight, run)
    assert not list(cache.glob("photos-*"))  # nothing stays of a killed process either

    refused(train("--resume", run, "--kimg", 0.02, "--patches", 64, small=False), "trained with --patches 32, not 64")
    refused(train("--resume", run, "--kimg", 0.02, "--crop", "center", small=False), "--crop center", "leave it out")


def test_what_says_nothing_with_patches_is_refused(train, mixed, tmp_path):
    for arguments, words in (
        (["--patches", 48], "--patches 48 is unknown; choose one of 32, 64, 128, 256"),
        (["--patches", 64], "--resolution 8: patches of 64 pixels are seen as they are"),
        (["--patches", 32, "--resolution", 32, "--crop", "center"], "--crop center: with --patches no photo is"),
        (["--patches", 32, "--resolution", 32, "--resize-filter", "box"], "--resize-filter box: with --patches"),
        (["--patches", 32, "--resolution", 32, "--metric-data", "demo"], "--metric-data demo: photos made smaller"),
        (["--patches", 256, "--resolution", 256], "photos of mixed holds a patch of 256 x 256 pixels"),
    ):
        refused(train("--data", mixed, *arguments), words)
    assert not (tmp_path / "runs").exists()


def test_patches_set_the_resolution(mixed):
    options = Options(data=str(mixed), patches=64, cfg="tiny", device="cpu")
    assert describe(options, given={"data", "patches"})["resolution"] == 64
    assert describe(dataclasses.replace(options, patches=None), given={"data"})["resolution"] == 32  # the data's


def test_classes_and_fid_of_patches(train, mixed, tmp_path):
    """Classes are of photos; FID compares with fixed patches and says so."""
    photos = sorted((mixed / "real").glob("[0-9]*.png"))
    for i, path in enumerate(photos):
        to = tmp_path / "data" / ("old" if i % 3 else "young")
        to.mkdir(parents=True, exist_ok=True)
        (to / path.name).write_bytes(path.read_bytes())
    g, state = torch.Generator().manual_seed(0), {}
    for name, shape in (("1a_3x3", (32, 3, 3, 3)), ("2a_3x3", (32, 32, 3, 3)), ("2b_3x3", (64, 32, 3, 3))):
        state[f"Conv2d_{name}.conv.weight"] = torch.randn(shape, generator=g) * 0.2
        state[f"Conv2d_{name}.conv.bias"] = torch.randn(shape[0], generator=g) * 0.1
    torch.save(state, tmp_path / "trunk.pth")
    done = train("--data", "data", "--patches", 32, "--resolution", 32, "--cond", "--kimg", 0.004, "--verdict-batch", 0,
                 "--metrics", "fid8", "--inception-weights", "trunk.pth", "--fid-dims", 64)  # fmt: skip
    assert done.code == 0, done.err
    assert "reals of data (training patches)" in done.out
    run = tmp_path / "runs" / "00000-data-patches32-tiny"
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    facts = json.loads((run / "config.json").read_text())["data_facts"]
    assert row["kernel"] == "patches 32" and row["reals"] == "data (training patches)"
    assert row["n_real"] == facts["patches"]["measured"] >= facts["counts"]["train"]["real"]
