"""What a run says about its operations; native code is forced and withheld in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = (
    "import sys, torch; sys.path.insert(0, sys.argv[1]); from training.operations import prepare_operations\n"
    "from common.errors import UserError\n"
    "try:\n    print(*prepare_operations(torch.device(sys.argv[2])))\n"
    "except UserError as e:\n    print('refused', e)\n"
)


@pytest.mark.parametrize(
    "ops, device, said",
    [
        ("reference", "cpu", "False reference (STYLEGAN_OPS)"),
        ("", "mps", "False torch: there is no native code for mps"),
        ("", "cpu", "False torch, slower than native: no C++ compiler"),
        ("native", "cpu", "refused STYLEGAN_OPS=native, but there are no native cpu ops: no C++ compiler"),
    ],
)
def test_what_is_used_is_told_in_one_line(tmp_path, ops, device, said):
    """Without a compiler on the PATH, and with a cache that holds nothing."""
    env = {**os.environ, "STYLEGAN_OPS": ops, "STYLEGAN_OPS_CACHE": str(tmp_path), "PATH": str(tmp_path)}
    env.pop("CXX", None)
    done = subprocess.run([sys.executable, "-c", CODE, str(ROOT), device], env=env, capture_output=True, text=True)
    assert done.stdout.startswith(said) and done.stdout.count("\n") == 1 and done.stderr == "", done.stderr
