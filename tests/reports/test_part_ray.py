"""All parts by Ray's workers: those that are killed are replaced, and the table is whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import UserError
from reports.part_options import PartOptions
from tests import light

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"engine": "ray"}, "give `out`"),
        ({"engine": "ray", "out": "x", "shard": "0/2"}, "no `shard`"),
        ({"parts": 4, "shard": "0/2", "out": "x"}, "`parts` belongs to `engine` ray"),
        ({"engine": "ray", "out": "x", "parts": 0}, "`parts` 0 is too small"),
        ({"engine": "spark", "out": "x"}, "`engine` spark"),
    ],
)
def test_what_does_not_go_together_is_refused(given, said):
    with pytest.raises(UserError) as refused:
        PartOptions(**given)
    assert said in str(refused.value)


def test_without_ray_the_extra_is_named(tmp_path):
    done = light.run(["detect.py", ROOT / "docs", "--engine", "ray", "--out", tmp_path / "parts"], tmp_path)
    assert done.returncode == 2 and "comes with the extra ray" in done.stderr and not (tmp_path / "parts").exists()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["here", "ray"])
def test_workers_are_killed_and_the_table_is_whole(engine):
    pytest.importorskip("pyarrow")
    if engine == "ray":
        pytest.importorskip("ray.data")
    command = [sys.executable, ROOT / "benchmarks" / "parts.py", "--files", "2000", "--parts", "4", "--kills", "2"]
    done = subprocess.run([*map(str, command), "--every", "8", "--engine", engine], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["wrong"] == "" and told["kills"] >= 1
