"""`synth.py twins` and `train_detector.py --twins` as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from discriminator.detector import Detector
from faces.twin_bank import Pair
from tests.cli.test_train_detector import command, refused  # noqa: F401
from tests.photo_folders import write_photos
from tests.twin_banks import write_bank
from training.checkpoint import checkpoints, load

HOW = ("--model", "pixels", "--patches", 24, "--degradation", "pixels-soft", "--valid-images", 20)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return write_photos(tmp_path_factory.mktemp("data") / "photos", [(90, 100)] * 20)


@pytest.fixture(scope="module")
def bank(photos) -> Path:
    """Two pairs of each photo through each of two decoders, the second of which failed."""
    rng, crops, pairs = np.random.default_rng(1), [], []
    for path in sorted(photos.iterdir()) * 2:
        top, left = rng.integers(0, 58, 2).tolist()
        crops.append(np.asarray(Image.open(path))[top : top + 32, left : left + 32].transpose(2, 0, 1))
        pairs.append(Pair(path.name, path.stat().st_size, top, left, 92, "4:2:0"))
    twins = np.clip(np.stack(crops).astype(int) + rng.integers(-9, 10, (40, 3, 32, 32)), 0, 255).astype(np.uint8)
    return write_bank(photos.parent / "bank", np.stack(crops), twins, pairs, failed=[1])


def test_training_with_twins(command, photos, bank, tmp_path):  # noqa: F811
    fakes = np.random.default_rng(3).integers(0, 256, (30, 48, 48, 3), dtype=np.uint8)
    (tmp_path / "gan" / "fake").mkdir(parents=True)
    for i, image in enumerate(fakes):
        Image.fromarray(image).save(tmp_path / "gan" / "fake" / f"{i}.png")
    how = ("--data", photos, "--extra-fakes", "gan", "--twins", f"{bank}:0.5", *HOW, "--checkpoint-minutes", 0)
    whole = command(*how, "--out", "a", "--epochs", 0.4)
    assert whole.code == 0, whole.err
    assert (
        "36 pairs of photo and twin from decoders 0 nearest; 4 pairs of photos that this training holds out"
        in whole.out
    )
    assert "failed their gates: decoders 1" in whole.out
    config = json.loads((tmp_path / "a" / "config.json").read_text())["data"]
    assert config["shown"] == {"real": 0.25, "gan": 0.25, "bank photos": 0.25, "bank twins": 0.25}
    assert config["train"]["bank photos"] == config["train"]["bank twins"] == 34  # one photo's twins validate
    assert config["twins"]["banks"][0]["decoders"] == [0] and config["patches"]["window"] == 32
    assert Detector.load(tmp_path / "a" / "detector.safetensors").meta["twins"] == config["twins"]

    found = checkpoints(tmp_path / "a")  # the same from its first half
    assert len(found) == 2
    end = load(tmp_path / "a", "detector")
    found[-1].unlink()
    assert command("--resume", "a", small=False).code == 0
    again = load(tmp_path / "a", "detector")
    assert again["step"] == end["step"] > load(found[0], "detector")["step"]
    assert all(torch.equal(again["net"][name], end["net"][name]) for name in end["net"])


def test_twins_alone(command, photos, bank, tmp_path):  # noqa: F811
    done = command("--data", photos, "--twins", bank, "--twin-decoders", "0-1", *HOW, "--out", "run", "--epochs", 0.1)
    assert done.code == 0, done.err
    assert "twins are the only fakes, so the only photos shown are theirs" in done.out
    config = json.loads((tmp_path / "run" / "config.json").read_text())["data"]
    assert config["shown"] == {"real": 0.0, "bank photos": 0.5, "bank twins": 0.5}
    assert min(config["valid"].values()) >= 8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--twin-decoders", "7"), ("--twin-decoders 7", "no decoder 7", "it has 0, 1")),
        (("--twin-decoders", "x"), ("--twin-decoders x", "0-3,5")),
        (("--twin-mix", 2), ("--twin-mix 2", "at most 1")),
        (("--batch", 7), ("--batch 7", "even")),
        (("--balance", "none"), ("--balance none", "pairs")),
    ],
)
def test_what_is_refused(command, photos, bank, arguments, words):  # noqa: F811
    refused(command("--data", photos, "--twins", bank, *HOW, "--out", "run", *arguments), *words)


def test_no_bank(command, photos, tmp_path):  # noqa: F811
    refused(command("--data", photos, "--twins", photos, *HOW, "--out", "run"), "no bank of twins", "synth.py twins")
    refused(command("--data", photos, "--twins", "b", "--model", "pixels", "--out", "run"), "--twins", "--patches")
