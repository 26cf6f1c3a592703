"""Files written piece by piece: whole or absent."""

import os

import pytest

from common.files import NAME_BYTES, written_whole


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


def test_a_full_disk_names_the_file(tmp_path):
    with pytest.raises(OSError) as error, written_whole(tmp_path / "a"):
        raise OSError(28, "No space left on device")
    assert error.value.filename == str(tmp_path / "a")
    with pytest.raises(TimeoutError, match="^timed out$"), written_whole(tmp_path / "a"):
        raise TimeoutError("timed out")
