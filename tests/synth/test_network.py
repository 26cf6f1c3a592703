"""Which generator file a command means."""

import pytest

from common.errors import UserError
from synth.network import NoGenerator, find_network


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def test_best_before_highest_kimg_before_others(tmp_path):
    make(tmp_path, "00001-a/generator-000999.safetensors", "00001-a/generator-001000.safetensors")
    make(tmp_path, "00001-a/generator-ema.safetensors", "00001-a/detector.safetensors")
    assert find_network(str(tmp_path / "00001-a")).name == "generator-001000.safetensors"
    make(tmp_path, "00001-a/generator-best.safetensors")
    assert find_network(str(tmp_path / "00001-a")).name == "generator-best.safetensors"


def test_newest_run_with_a_generator(tmp_path):
    make(tmp_path, "00002-b/generator-000004.safetensors", "00010-a/generator-000001.safetensors")
    make(tmp_path, "00011-c/log.txt", "99999", "notes/generator-best.safetensors")
    newest = tmp_path / "00010-a/generator-000001.safetensors"
    assert find_network(None, tmp_path) == newest == find_network(str(tmp_path)) == find_network("latest", tmp_path)
    file = tmp_path / "00002-b/generator-000004.safetensors"
    assert find_network(str(file)) == file


def test_groups_of_runs_count_where_there_is_no_run(tmp_path):
    make(tmp_path, "demo/00000-demo/generator-000001.safetensors")
    assert find_network(None, tmp_path) == tmp_path / "demo/00000-demo/generator-000001.safetensors"
    make(tmp_path, "00000-a/generator-000001.safetensors")
    assert find_network(None, tmp_path) == tmp_path / "00000-a/generator-000001.safetensors"


def test_nothing_to_find(tmp_path):
    with pytest.raises(NoGenerator, match=r"no folder"):
        find_network(None, tmp_path / "runs")
    with pytest.raises(NoGenerator, match="holds no generator"):
        find_network(None, tmp_path)
    with pytest.raises(UserError, match="no such file"):
        find_network(str(tmp_path / "missing.safetensors"))
