"""`python evaluate.py nearest` from the outside: copies are named and shown first."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import evaluate
from tests.program import Program


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """trunk.pth, train/ and held/ of 40 noises each, fakes/ of 20 new ones and two of train/."""
    root, rng, g, state = (
        tmp_path_factory.mktemp("near"),
        np.random.default_rng(0),
        torch.Generator().manual_seed(0),
        {},
    )
    for name, shape in (("1a_3x3", (32, 3, 3, 3)), ("2a_3x3", (32, 32, 3, 3)), ("2b_3x3", (64, 32, 3, 3))):
        state[f"Conv2d_{name}.conv.weight"] = torch.randn(shape, generator=g) * 0.2
        state[f"Conv2d_{name}.conv.bias"] = torch.randn(shape[0], generator=g) * 0.1
    torch.save(state, root / "trunk.pth")
    for name, count in (("train", 40), ("held", 40), ("fakes", 20)):
        (root / name).mkdir()
        for i in range(count):
            image = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((32, 32))
            image.save(root / name / f"{i:02d}.png")
    for i in (5, 31):
        (root / "fakes" / f"copy{i:02d}.png").write_bytes((root / "train" / f"{i:02d}.png").read_bytes())
    return root


def nearest(place, *words):
    with contextlib.chdir(place):
        more = ["--inception-weights", "trunk.pth", "--dims", "64", "--no-cache", "--device", "cpu"]
        return CliRunner().invoke(Program(evaluate.main), ["nearest", *map(str, words), *more])


def test_copies_come_first_and_are_counted(place):
    done = nearest(place, "fakes", "--data", "train", "--held-out", "held", "--shown", 3, "--neighbours", 2,
                   "--out", "sheet.png", "--json", "said.json")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    said = json.loads((place / "said.json").read_text())
    assert said["copies"] == 2 and "2 of 22 are training images" in done.stdout
    first = {Path(row["sample"]).name: Path(row["neighbours"][0]["image"]).name for row in said["nearest"][:2]}
    assert first == {"copy05.png": "05.png", "copy31.png": "31.png"}
    assert [row["neighbours"][0]["distance"] for row in said["nearest"][:2]] == [0, 0] and abs(said["z"]) < 3
    assert said["nearer"] == pytest.approx(2 / 22) and "Next: look at sheet.png" in done.stderr
    with Image.open(place / "sheet.png") as sheet:
        assert sheet.width >= 3 * 96 and sheet.height >= 3 * 96
    again = nearest(place, "fakes", "--data", "train", "--out", "sheet.png")
    assert again.exit_code == 2 and "sheet.png" in again.stderr


def test_without_held_out_photos_it_says_that_nothing_was_tested(place):
    done = nearest(place, "fakes", "--data", "train", "--out", "plain.png")
    assert done.exit_code == 0 and "no held-out photos" in done.stdout and "copying z" not in done.stdout


def test_a_validation_split_that_cannot_serve_is_told(place):
    """It holds fakes alone: not the same as a set without one."""
    for folder, beside in (("train/real", "train"), ("valid/fake", "held")):
        (place / "split" / folder).mkdir(parents=True)
        for path in (place / beside).iterdir():
            (place / "split" / folder / path.name).write_bytes(path.read_bytes())
    done = nearest(place, "fakes", "--data", "split", "--out", "split.png")
    assert done.exit_code == 0, done.stderr
    assert "note: the valid split can't serve as held-out photos" in done.stdout and "no real images" in done.stdout


def test_what_was_left_out_of_a_folder_is_told(place):
    done = nearest(place, "fakes", "--data", "train", "--num", 10, "--out", "ten.png")
    assert done.exit_code == 0 and "10 of the 22 images of fakes are measured" in done.stdout, done.stderr


def test_weights_are_not_fetched_for_what_is_refused_anyway(place, tmp_path, monkeypatch):
    def fetch(*_, **__):
        raise AssertionError("fetched")

    monkeypatch.setattr("urllib.request.urlopen", fetch)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (place / "single").mkdir()
    (place / "single" / "a.png").write_bytes((place / "train" / "00.png").read_bytes())
    for words in (("single", "--data", "train"), ("fakes", "--data", "single"),
                  ("fakes", "--data", "train", "--held-out", "single")):  # fmt: skip
        with contextlib.chdir(place):
            done = CliRunner().invoke(Program(evaluate.main), ["nearest", *words, "--out", "n.png", "--device", "cpu"])
        assert done.exit_code == 2 and "single: a single image" in done.stderr, done.stderr


def test_what_was_learnt_from_is_not_held_out(place):
    """Of a set without a training split all is taken for learnt from, its validation images too."""
    (place / "no-train" / "valid").mkdir(parents=True)
    (place / "no-train" / "test").mkdir()
    for path in (place / "held").iterdir():
        folder = "valid" if path.stem < "20" else "test"
        (place / "no-train" / folder / path.name).write_bytes(path.read_bytes())
    done = nearest(place, "fakes", "--data", "no-train", "--out", "none.png")
    assert done.exit_code == 0 and "no held-out photos" in done.stdout and "copying z" not in done.stdout, done.stderr


def test_a_folder_copied_whole_is_said_to_copy(place):
    done = nearest(place, "train", "--data", "train", "--held-out", "held", "--out", "all.png", "--json", "all.json")
    assert done.exit_code == 0 and "it copies" in done.stdout
    assert json.loads((place / "all.json").read_text())["z"] < -3


@pytest.mark.parametrize(
    "words, said",
    [
        (("fakes", "--data", "train", "--held-out", "nowhere"), "--held-out"),
        (("fakes", "--data", "train", "--out", "sheet.jpg"), "ends in .png"),
        (("fakes", "--data", "train", "--num-real", "3", "--neighbours", "99"), "--neighbours"),
    ],
)
def test_what_cannot_be_is_one_line(place, words, said):
    done = nearest(place, *words)
    assert done.exit_code == 2 and said in done.stderr and len(done.stderr.strip().splitlines()) == 1
