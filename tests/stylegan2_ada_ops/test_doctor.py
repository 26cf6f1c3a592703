"""`python -m stylegan2_ada.ops`: what it says, and that it notices when something is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stylegan2_ada.ops import __main__ as doctor

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments, **env):
    command = [sys.executable, "-m", "stylegan2_ada.ops", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **env})


@pytest.mark.parametrize("path", ["", *(pytest.param(p, marks=pytest.mark.slow) for p in ("torch", "reference"))])
def test_every_path_is_told_and_right(path):
    done = run("--json", "--no-times", STYLEGAN_OPS=path)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["used"]["cpu"].startswith(path or ("native", "torch"))
    assert len(told["operations"]) >= 24 and all(row["right"] for row in told["operations"])
    assert told["surroundings"]["PyTorch"] == torch.__version__


def test_a_wrong_switch_is_one_line():
    done = run(STYLEGAN_OPS="fast")
    assert done.returncode == 2 and done.stderr.startswith("error: STYLEGAN_OPS='fast'")
    assert done.stderr.count("\n") == 1


def test_without_a_compiler_it_says_what_to_install(tmp_path):
    done = run("--no-times", CXX="no-such-compiler", STYLEGAN_OPS_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "torch: CXX=no-such-compiler is not a program" in done.stdout and "install g++" in done.stdout


def test_a_wrong_result_is_noticed():
    x = torch.randn(2, 3, 4, 4)
    assert doctor.difference(lambda x: 2 * x, lambda x: 2 * x, x) < 1e-6
    assert doctor.difference(lambda x: 2.01 * x, lambda x: 2 * x, x) > 1e-3
    assert doctor.difference(lambda x: 2 * x.detach() + 0 * x, lambda x: 2 * x, x) > 0.5  # the gradient alone
