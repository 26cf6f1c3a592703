"""`train_detector.py --patches N` and `--from RUN` as a user runs them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from discriminator.detector import Detector
from discriminator.models import NetworkOptions, new_network
from tests.cli.test_train_detector import command, refused, write  # noqa: F401
from tests.photo_folders import write_photos
from training.checkpoint import checkpoints, load, save

PATCHES = ("--model", "pixels", "--patches", 24, "--degradation", "pixels-resized", "--valid-images", 40)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """20 photos of several sizes and one that is too small."""
    sizes = [(90 + 7 * (i % 5), 120 - 9 * (i % 4)) for i in range(20)]
    folder = write_photos(tmp_path_factory.mktemp("data") / "photos", sizes)
    Image.new("RGB", (20, 80)).save(folder / "narrow.png")
    return folder


def test_patches_of_several_sources(command, photos, tmp_path):  # noqa: F811
    write(tmp_path / "gan", 40, seed=2, side=32, only="fake")
    write(tmp_path / "set", 40, seed=3, side=48)
    sources = ("--data", photos, "--extra-fakes", "gan:0.75", "--extra-fakes", "set", "--extra-reals", "set:0.25")
    result = command(*sources, *PATCHES, "--out", "run", "--epochs", 0.5)
    assert result.code == 0, result.err
    assert "narrow.png: 20x80 pixels: too small (at least 24 a side)" in result.out
    assert "patches of 24 x 24 pixels out of windows of 32" in result.out and "not made smaller than 1.00" in result.out
    config = json.loads((tmp_path / "run" / "config.json").read_text())["data"]
    assert config["shown"] == {"real": 0.375, "set": 0.125, "gan": 0.375, "set (fake)": 0.125}
    assert config["train"] == {"real": 18, "set": 18, "gan": 36, "set (fake)": 18}
    assert config["patches"]["photos"]["valid"] == {"real": 4, "fake": 6}
    detector = Detector.load(tmp_path / "run" / "detector.safetensors")
    assert detector.meta["patches"] == detector.preprocess.resolution == 24 and detector.meta["face"] == "whole"
    assert detector.meta["validation_photos"] == {"real": 4, "fake": 6} and detector.meta["window"] == 32

    # the same from its first half
    whole = command(*sources, *PATCHES, "--out", "a", "--epochs", 0.3, "--checkpoint-minutes", 0)
    assert whole.code == 0, whole.err
    found = checkpoints(tmp_path / "a")
    assert len(found) == 2
    end = load(tmp_path / "a", "detector")
    found[-1].unlink()
    assert command("--resume", "a", small=False).code == 0
    again = load(tmp_path / "a", "detector")
    assert again["step"] == end["step"] > load(found[0], "detector")["step"]
    assert all(torch.equal(again["net"][name], end["net"][name]) for name in end["net"])


def test_from_a_run_of_the_game(command, photos, tmp_path):  # noqa: F811
    write(tmp_path / "gan", 12, seed=2, side=32, only="fake")
    game = tmp_path / "game"
    game.mkdir()
    theirs = new_network("hybrid", 32, options=NetworkOptions(residual="wavelet"), seed=7)
    images = torch.randint(0, 256, (10, 3, 32, 32), dtype=torch.uint8)
    save(game, 1, {"game": {"D_ema": theirs.state_dict(), "replay": {"images": images}}}, "gan")
    shutil.copytree(game, tmp_path / "start")
    how = (
        "--data",
        photos,
        "--extra-fakes",
        "gan",
        "--replay",
        "game:0.3",
        *PATCHES,
        "--from",
        "start",
        "--out",
        "run",
    )
    result = command(*how, "--epochs", 0.01, "--lr", 1e-9)
    assert result.code == 0, result.err
    assert "; artefact of start/checkpoint-000001.pt; verdict_head from random weights\n" in result.out
    net = Detector.load(tmp_path / "run" / "detector.safetensors").net
    assert net.cfg.residual == "wavelet" and net.cfg.channels == 8
    assert torch.allclose(net.artefact.stem.weight, theirs.artefact.stem.weight, atol=1e-6)
    shutil.rmtree(tmp_path / "start")
    assert command("--resume", "run", small=False).code == 0  # what it began from may be gone


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--resolution", 32), ("--resolution 32", "--patches 24")),
        (("--random-crop", 16), ("--random-crop 16", "--patches")),
        (("--square", "pad"), ("--square pad", "--patches")),
        (("--folds", 3), ("--patches", "--folds")),
        (("--patches", 8), ("--patches", "at least 16")),
        (("--patches", 400), ("none of the", "400 x 400")),
        (("--from", "nowhere"), ("--from nowhere",)),
        (("--from", "game", "--pretrained"), ("--from", "--pretrained")),
        (("--extra-fakes", "photos:2"), ("share",)),
    ],
)
def test_what_is_refused_in_one_line(command, photos, tmp_path, arguments, words):  # noqa: F811
    write(tmp_path / "gan", 12, seed=2, side=32, only="fake")
    result = command("--data", photos, "--extra-fakes", "gan", *PATCHES, *arguments)
    refused(result, *words)
