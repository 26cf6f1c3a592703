"""Two commands that would write the same file: the later one is refused at once, and names the other process."""

import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import detect
import evaluate
import prepare_data
import train_detector
from tests.program import Program
from training.lock import alone_at

NEVER_OPENED = "x.safetensors"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for i in range(3):
        Image.fromarray(np.full((32, 32, 3), 9 * i, np.uint8)).save(f"photos/{i}.png")
    Path(NEVER_OPENED).touch()
    return tmp_path


@pytest.mark.parametrize(
    "command, words, out",
    [
        (evaluate, ["ensemble", "a", "b", "--data", "photos", "--out", "o.safetensors"], "o.safetensors"),
        (evaluate, ["ensemble", "a", "b", "--data", "photos", "--out", "p.safetensors", "--json", "o"], "o"),
        (evaluate, ["second-look", "a", "--data", "photos", "--out", "o.safetensors"], "o.safetensors"),
        (evaluate, ["detector", "a", "--data", "photos", "--csv", "o.csv"], "o.csv"),
        (evaluate, ["detector", "a", "--data", "photos", "--report", "o.html", "--force"], "o.html"),
        (evaluate, ["generator", "photos", "--data", "photos", "--json", "o.json"], "o.json"),
        (evaluate, ["nearest", "photos", "--data", "photos", "--out", "o.png"], "o.png"),
        (train_detector, ["join", "a", "b", "--data", "photos", "--out", "o.safetensors"], "o.safetensors"),
        (train_detector, ["calibrate", "a", "--reals", "photos", "--out", "o.safetensors"], "o.safetensors"),
        (prepare_data, ["split", "photos", "--out", "o.csv"], "o.csv"),
        (prepare_data, ["inspect", "photos", "--out", "o.html"], "o.html"),
        (prepare_data, ["pack", "photos", "o.zip", "--resolution", "32"], "o.zip"),
        (detect, ["photos", "--report", "o.html"], "o.html"),
        (detect, ["export", "--model", NEVER_OPENED, "--onnx", "o.onnx"], "o.onnx"),
    ],
)
def test_the_later_one_is_refused_before_its_work(command, words, out, place):
    with alone_at(out):
        done = CliRunner().invoke(Program(command.main), words)
    assert done.exit_code == 2 and done.stderr.startswith("error: "), done.output
    assert f"{out}: process {os.getpid()} is writing it; wait for it" in done.stderr.splitlines()[-1]
    assert not list(place.glob(".*")) and not Path(out).exists()


def test_two_options_that_would_write_one_file_are_refused():
    """The later of them would replace what the other has just written."""
    words = ["ensemble", "a", "b", "--data", "photos", "--out", "o.safetensors", "--json", "photos/../o.safetensors"]
    done = CliRunner().invoke(Program(evaluate.main), words)
    assert done.exit_code == 2 and "--out and --json would both write photos/../o.safetensors" in done.stderr


def test_a_device_is_not_replaced(place):
    os.mkfifo("pipe")
    words = ["generator", "photos", "--data", "photos", "--json", "pipe", "--force"]
    done = CliRunner().invoke(Program(evaluate.main), words)
    assert done.exit_code == 2 and "--json pipe: is no ordinary file" in done.stderr
