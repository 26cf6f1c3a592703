"""Files written piece by piece: whole or absent."""

import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.files import NAME_BYTES, write_bytes, written_whole

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("how", [{}, {"shared": True}, {"ending": ".mp4"}, {"durable": False}])
def test_a_file_appears_when_it_is_whole(tmp_path, how):
    path = tmp_path / "a.mp4"
    path.write_text("old")
    with written_whole(path, **how) as tmp:
        tmp.write_text("new")
        assert path.read_text() == "old" and tmp.suffix == how.get("ending", ".tmp")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["a.mp4"]
    with pytest.raises(KeyboardInterrupt), written_whole(path, **how) as tmp:
        tmp.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["a.mp4"]


def test_what_came_meanwhile_is_not_replaced(tmp_path):
    with pytest.raises(FileExistsError), written_whole(tmp_path / "a", replace=False) as tmp:
        tmp.write_text("mine")
        (tmp_path / "a").write_text("theirs")
    assert (tmp_path / "a").read_text() == "theirs" and os.listdir(tmp_path) == ["a"]


def test_shared_files_have_temporary_names_of_their_own(tmp_path):
    with written_whole(tmp_path / "a", shared=True) as one, written_whole(tmp_path / "a", shared=True) as other:
        assert one != other
        one.write_text("1")
        other.write_text("2")
    assert os.listdir(tmp_path) == ["a"]
    long = "x" * (NAME_BYTES - 2)
    with written_whole(tmp_path / long, shared=True) as tmp:
        tmp.write_text("long")
    assert (tmp_path / long).read_text() == "long"


HOLD = """
import sys, time; from pathlib import Path; from common.files import written_whole
with written_whole(Path(sys.argv[1]), shared=True) as tmp:
    tmp.write_text("half"); print("writing", flush=True); time.sleep(100)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no locks of this kind")
def test_what_a_killed_writer_left_goes_with_the_next_file_and_what_is_being_written_stays(tmp_path):
    def writer(name: str) -> subprocess.Popen:
        call = [sys.executable, "-c", HOLD, str(tmp_path / name)]
        process = subprocess.Popen(call, cwd=ROOT, stdout=-1, text=True)
        assert process.stdout.readline() == "writing\n"
        return process

    killed, alive = writer("a.zip"), writer("b.zip")
    try:
        (tmp_path / ".mine.tmp").write_text("of nobody's pattern")
        killed.kill()
        killed.wait()
        assert len(os.listdir(tmp_path)) == 3
        with written_whole(tmp_path / "c.zip", shared=True) as tmp:
            tmp.write_text("whole")
        left = sorted(os.listdir(tmp_path))
        assert len(left) == 3 and left[0].startswith(".b.zip.") and left[1:] == [".mine.tmp", "c.zip"]
    finally:
        for process in (killed, alive):
            process.kill()
            process.wait()


def test_writers_that_begin_together_do_not_take_each_other_for_killed(tmp_path):
    def write(number):
        for k in range(40):
            with written_whole(tmp_path / f"{number}-{k}", shared=True, durable=False) as tmp:
                tmp.write_bytes(b"whole")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(8)))
    assert len(list(tmp_path.iterdir())) == 8 * 40 and not list(tmp_path.glob(".*"))


def test_a_full_disk_names_the_file(tmp_path):
    with pytest.raises(OSError) as error, written_whole(tmp_path / "a"):
        raise OSError(28, "No space left on device")
    assert error.value.filename == str(tmp_path / "a")
    with pytest.raises(TimeoutError, match="^timed out$"), written_whole(tmp_path / "a"):
        raise TimeoutError("timed out")


def test_a_disks_error_names_the_file_that_was_meant(tmp_path, monkeypatch):
    def refused(self, data):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "write_bytes", refused)
    with pytest.raises(PermissionError) as error:
        write_bytes(tmp_path / "x.html", b"x")
    assert error.value.filename == str(tmp_path / "x.html")
