"""`python synth.py` from the outside."""

import csv
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from stylegan2_ada.config import GeneratorConfig
from stylegan2_ada.files import save_generator
from stylegan2_ada.generator import Generator

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def synth(home, monkeypatch, capsys):
    """`synth(*arguments)` runs the command in `home`, in this process (an import of torch takes seconds)."""
    spec = importlib.util.spec_from_file_location("synth_script", ROOT / "synth.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.chdir(home)

    def call(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as leaving:
            script.run(script.main, [str(a) for a in arguments])
        out, err = capsys.readouterr()
        return SimpleNamespace(returncode=leaving.value.code, stdout=out, stderr=err)

    return call


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with runs/00000-old and runs/00001-new, each with a generator of its own."""
    home = tmp_path_factory.mktemp("home")
    for seed, run in enumerate(["00000-old", "00001-new"]):
        torch.manual_seed(seed)
        G = Generator(GeneratorConfig(16, z_dim=16, w_dim=16, mapping_layers=2, channel_base=256, channel_max=32))
        (home / "runs" / run).mkdir(parents=True)
        save_generator(home / "runs" / run / "generator-000001.safetensors", G, {"kimg": 1})
    return home


def test_newest_run_grid_and_resume(home, synth):
    first = synth("--n", 5, "--outdir", "out", "--trunc", 0.7, "--batch", 2, "--grid")
    assert first.returncode == 0, first.stderr
    assert "00001-new" in first.stdout and "5 images in" in first.stdout
    assert first.stdout.splitlines()[-1] == "out"
    out = home / "out"
    assert Image.open(out / "grid.png").size == (3 * 16 + 2 * 2, 2 * 16 + 2)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.glob("seed*.png")}
    assert len(before) == 5

    (out / "seed000002.png").unlink()
    again = synth("--seeds", "2-6,40", "--outdir", "out", "--trunc", 0.7, "--batch", 7)
    assert again.returncode == 0, again.stderr
    assert "3 of" not in again.stdout and "2 of 6 images are there already" in again.stdout
    assert len(list(out.glob("seed*.png"))) == 8
    for name, (data, time) in before.items():
        assert (out / name).read_bytes() == data  # the same bytes in another batch and company
        assert name == "seed000002.png" or (out / name).stat().st_mtime_ns == time  # and not written again
    with open(out / "manifest.csv", newline="", encoding="utf-8") as file:
        assert sorted(int(row["seed"]) for row in csv.DictReader(file)) == [0, 1, 2, 3, 4, 5, 6, 40]


def test_jpeg_default_folder_and_named_network(home, synth):
    done = synth("--network", "runs/00000-old", "--seeds", "7", "--format", "jpg", "--quality", "90")
    assert done.returncode == 0, done.stderr
    folder = home / done.stdout.splitlines()[-1]
    assert folder.parent == home / "samples" and folder.name.startswith("00000-old-")
    assert np.asarray(Image.open(folder / "seed000007.jpg")).shape == (16, 16, 3)


def test_conflicting_manifest_is_refused(synth):
    arguments = ["--n", 1, "--outdir", "conflict"]
    assert synth(*arguments).returncode == 0
    refused = synth(*arguments, "--network", "runs/00000-old")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert refused.stderr.startswith("error: conflict") and "network_sha256" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seeds", "9-1"], "--seeds 9-1"),
        (["--n", "2", "--seeds", "1"], "not both"),
        (["--n", "0"], "--n"),
        (["--network", "nowhere"], "nowhere"),
        (["--network", "runs/00000-old/log.safetensors"], "log.safetensors"),
        (["--class", "1"], "--class 1"),
        (["--device", "toaster"], "toaster"),
        (["--outdir", "file"], "file"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(home, synth, arguments, said):
    (home / "file").write_text("in the way")
    (home / "runs/00000-old/log.safetensors").write_text("not weights")
    done = synth(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and said in done.stderr


def test_as_a_program(home):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "synth.py"), "--seeds", "3", "--outdir", "program"]
    done = subprocess.run(command, cwd=home, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert (home / "program" / "seed000003.png").is_file()


def test_help_names_the_options(synth):
    done = synth("--help")
    assert done.returncode == 0
    options = "--network --n --seeds --trunc --outdir --format --quality --grid --batch --device --noise-mode"
    for option in options.split():
        assert option in done.stdout
