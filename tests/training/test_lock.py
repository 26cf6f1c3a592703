"""One process at a time for each run folder."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from common.errors import UserError
from training.lock import NAME, RunLock, alone_at, alone_in

ROOT = Path(__file__).resolve().parents[2]
HOLD = (
    "import sys, time; from pathlib import Path; from training.lock import RunLock\n"
    "lock = RunLock(); lock.take(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
)


def holder(folder: Path) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_and_told_who_holds_it(tmp_path):
    process = holder(tmp_path)
    try:
        with pytest.raises(UserError, match=f"process {process.pid} is training this run"), RunLock() as lock:
            lock.take(tmp_path)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with RunLock() as lock:  # a killed process holds nothing
        lock.take(tmp_path)
        lock.take(tmp_path)  # its own folder again
    assert not (tmp_path / NAME).exists()


def test_a_file_of_nobody_is_no_lock(tmp_path):
    (tmp_path / NAME).write_text("{")
    with RunLock() as lock:
        lock.take(tmp_path)
        assert str(os.getpid()) in (tmp_path / NAME).read_text()
    assert not (tmp_path / NAME).exists()


def test_of_many_that_ask_again_and_again_never_two_hold_it(tmp_path):
    inside, most, taken = 0, 0, 0
    guard = threading.Lock()
    end = time.monotonic() + 30  # a busy machine needs longer

    def compete():
        nonlocal inside, most, taken
        while time.monotonic() < end and taken < 200:
            try:
                with RunLock() as lock:
                    lock.take(tmp_path)
                    with guard:
                        inside += 1
                        most, taken = max(most, inside), taken + 1
                    time.sleep(0)
                    with guard:
                        inside -= 1
            except UserError:
                continue

    threads = [threading.Thread(target=compete) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1 and taken > 10


def test_a_folder_of_results_is_written_by_one_at_a_time(tmp_path):
    out = tmp_path / "new" / "out"
    with alone_in(out), pytest.raises(UserError, match="is writing into it.* choose another folder"), alone_in(out):
        pass
    assert not out.exists()  # nothing came of it
    with alone_in(out):
        (out / "result").write_text("1")
    with alone_in(out):
        pass
    assert [path.name for path in out.iterdir()] == ["result"]


def test_a_file_is_written_by_one_at_a_time(tmp_path):
    """Under whatever path it is named; names may be as long as the file system allows."""
    out = tmp_path / "new" / "deep" / "out.json"
    other = out.parent / ".." / "deep" / out.name
    with alone_at(out), pytest.raises(UserError, match="is writing it.* choose another name"), alone_at(other):
        pass
    assert not (tmp_path / "new").exists()  # nothing came of it
    longest = tmp_path / ("a" * 250 + ".json")
    with alone_at(out, longest):
        out.write_text("1")
        with alone_at(out.with_name("another.json")):
            pass
    assert [path.name for path in out.parent.iterdir()] == ["out.json"] and not list(tmp_path.glob(".*"))
