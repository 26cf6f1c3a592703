"""Small runs that an older version of the project began: each goes on, and ends with the weights that it gave then.

They lie in tests/old_runs with the images `faces` that they learn from.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from discriminator.detector import Detector
from stylegan2_ada.files import load_generator
from training.checkpoint import checkpoints, load
from training.run_folder import newest_run

ROOT = Path(__file__).resolve().parents[2]
# sum of |x| and of x cos(0, 1, 2, ...) over all tensors, as the version of that time ended
SUMS = {
    "gan/00000-faces-8-tiny/detector.safetensors": (10822.188957434442, -38.02474893752067),
    "gan/00000-faces-8-tiny/generator-000000.024.safetensors": (47665.85038255589, 1746.2237859176093),
    "detector/detector.safetensors": (207601.7144368128, 554.4341246284696),
    "folds/fold-2/detector.safetensors": (208119.85445516906, -173.83740312786395),
}


@pytest.fixture
def place(tmp_path):
    """A working folder with the old runs in it."""
    shutil.copytree(ROOT / "tests" / "old_runs", tmp_path, dirs_exist_ok=True)
    return tmp_path


def check(place: Path, name: str) -> None:
    tensors = load_file(place / name).values()
    size = sum(float(x.double().abs().sum()) for x in tensors)
    waves = sum(float((x.double() * torch.arange(x.numel()).reshape(x.shape).cos()).sum()) for x in tensors)
    assert size == pytest.approx(SUMS[name][0], rel=1e-6)
    assert waves == pytest.approx(SUMS[name][1], abs=1e-5 * size)


def test_a_run_of_the_game(place, start):
    run = "gan/00000-faces-8-tiny"
    assert load(place / run, "gan")["game"]["step_index"] == 3
    done = start("--resume", run, "--outdir", "gan", small=False).wait()
    assert done.code == 0, done.err
    assert "kimg" in load_generator(place / run / "generator-000000.024.safetensors")[1]
    assert Detector.load(place / run / "detector.safetensors").preprocess.resolution == 8
    for name in ("detector", "generator-000000.024"):
        check(place, f"{run}/{name}.safetensors")


@pytest.mark.parametrize(
    "run, last", [("detector", "detector"), pytest.param("folds", "folds/fold-2", marks=pytest.mark.slow)]
)
def test_a_training_of_a_detector(place, run, last):
    if run == "detector":
        assert load(place / run, "detector")["step"] == 2
    argv = [sys.executable, str(ROOT / "train_detector.py"), "--resume", run, *"--device cpu --threads 1".split()]
    done = subprocess.run([*argv, "--workers", "1", "--no-report"], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Detector.load(place / last / "detector.safetensors").preprocess.resolution == 16
    check(place, f"{last}/detector.safetensors")


def test_the_key_of_a_detectors_run_may_have_its_old_name(place):
    from discriminator.training.folders import newest_run as newest_of_detectors

    assert json.loads((place / "detector" / "config.json").read_text())["detective"] == 1
    shutil.rmtree(place / "folds")
    assert newest_of_detectors(place) == place / "detector"
    assert newest_run(place, lambda run: bool(checkpoints(run))) == place / "detector"
