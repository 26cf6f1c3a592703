"""New run folders: numbered, each process its own, locked before they hold anything; the newest by one rule."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import UserError
from training.lock import NAME as LOCK
from training.lock import RunLock
from training.run_folder import check_writable, new_run, newest_run, remove_leftovers
from training.telemetry import Telemetry

ROOT = Path(__file__).resolve().parents[2]
START = (
    "import sys; from pathlib import Path; from training.lock import RunLock; from training.run_folder import new_run\n"
    "print('ready', flush=True); input()\n"
    "for i in range(8):\n"
    "    with RunLock() as lock: print(new_run(Path('runs'), sys.argv[1], lock, {'config.json': i}), flush=True)\n"
)


@pytest.mark.parametrize("names", [["a", "a", "a"], ["a", "b", "c"]])
def test_of_simultaneous_starts_each_gets_a_number_of_its_own(tmp_path, names):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    jobs = [
        subprocess.Popen([sys.executable, "-c", START, name], cwd=tmp_path, env=env, stdin=-1, stdout=-1, text=True)
        for name in names
    ]
    for job in jobs:
        assert job.stdout.readline() == "ready\n"
    for job in jobs:
        job.stdin.write("\n")
        job.stdin.flush()
    told = [line for job in jobs for line in job.communicate(timeout=60)[0].split()]
    assert len(told) == 24 and all(job.returncode == 0 for job in jobs)
    assert sorted(told) == sorted(str(p.relative_to(tmp_path)) for p in (tmp_path / "runs").iterdir())
    assert len({Path(path).name.partition("-")[0] for path in told}) == 24


def test_the_lock_is_held_before_anything_is_written(tmp_path, monkeypatch):
    seen = []
    take = RunLock.take

    def watched(lock, folder):
        seen.append(os.listdir(folder))
        take(lock, folder)

    monkeypatch.setattr(RunLock, "take", watched)
    with RunLock() as lock:
        run = new_run(tmp_path / "runs", "my faces!/8", lock, {"config.json": {"a": 1}})
        assert run == tmp_path / "runs" / "00000-my-faces-8" and seen == [[]]
        assert sorted(os.listdir(run)) == [LOCK, "config.json"]
        assert json.loads((run / "config.json").read_text()) == {"a": 1}
        with pytest.raises(UserError, match="is training this run"), RunLock() as other:
            new_run(tmp_path, "", other, {"config.json": 2}, out=run)
    with pytest.raises(UserError, match="`out` .* already holds something"), RunLock() as lock:
        new_run(tmp_path, "", lock, {"config.json": 2}, out=run)
    assert json.loads((run / "config.json").read_text()) == {"a": 1}


@pytest.mark.parametrize("out", [None, "mine/run"])
def test_what_was_made_is_removed_where_it_cannot_be_filled(tmp_path, monkeypatch, out):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("training.run_folder.write_json", full)
    with pytest.raises(UserError, match="cannot be written .No space left on device"), RunLock() as lock:
        new_run(tmp_path / "a" / "b", "x", lock, {"config.json": 1}, out=out and tmp_path / out)
    assert os.listdir(tmp_path) == []


def test_the_newest_run_has_the_highest_number_else_the_latest_time(tmp_path):
    def make(name: str, when: int) -> Path:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").touch()
        os.utime(tmp_path / name, (when, when))
        return tmp_path / name

    def newest() -> Path | None:
        return newest_run(tmp_path, lambda run: (run / "file").is_file())

    assert newest() is None and newest_run(tmp_path / "absent", bool) is None
    group = make("demo/00007-a", 5)
    make(".cache/00009-a", 5)
    assert newest() == group
    named = make("mine", 9), make("own", 10)
    assert newest() == named[1]  # a group counts only where no run lies in the folder itself
    make("00002-z", 12)
    numbered = make("00010-b", 1)
    make("00010-a", 0)
    assert newest() == numbered
    (tmp_path / "00011-nothing").mkdir()
    assert newest() == numbered


def test_a_folder_that_takes_nothing_is_named_with_its_parameter(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="`outdir` .*file is a file"):
        check_writable(tmp_path / "file" / "runs", "outdir")
    check_writable(tmp_path / "not" / "yet", "outdir")
    assert not (tmp_path / "not").exists()


def test_temporary_files_of_a_killed_process_are_removed(tmp_path):
    for name in (".checkpoint-000001.pt.tmp", "a.tmp", ".lock"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".lock", "a.tmp"]


def test_a_folder_that_tensorboard_can_not_name_is_refused(tmp_path):
    """It ended with a traceback when the run had begun."""
    with pytest.raises(UserError, match=r"`outdir` .*bad\\udcff/runs: its name is no UTF-8.*choose another folder"):
        check_writable(tmp_path / os.fsdecode(b"bad\xff") / "runs", "outdir")
    check_writable(tmp_path / "gut \U0001f600\n", "outdir")


def test_a_line_of_the_log_is_a_line(tmp_path, capsys):
    """Whatever the files in it are called: a newline or a terminal's escape in a name is shown as such."""
    telemetry = Telemetry(True)
    telemetry.run = tmp_path
    telemetry.say("left out    a\n\x1b[31mb\udcff.png: empty")
    told = "left out    a\\n\\x1b[31mb\\udcff.png: empty\n"
    assert capsys.readouterr().out == told == (tmp_path / "log.txt").read_text()
