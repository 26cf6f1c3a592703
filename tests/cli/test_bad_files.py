"""Every command, given files as strangers send them: one line that names the file, exit code 2, and nothing run.

The table is `bad_files.txt`; each row runs with at most a gigabyte of memory beyond what the process has, and within
seconds. A new kind of bad file is a row there.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

import detect
import evaluate
import prepare_data
import serve
import train_detector
import train_gan
from common.memory import at_most
from stylegan2_ada import convert
from tests import bad_files
from tests.program import Program

ROOT = Path(__file__).resolve().parents[2]
GIGABYTE = 10**9
SECONDS = 30.0  # of computing, for one row
TEXT = (Path(__file__).parent / "bad_files.txt").read_text(encoding="utf-8")
ROWS = re.findall(r"^([a-z]\S* .*)\n    (.+)$", TEXT, re.M)
CLASSES = sorted({Path(name).parent.name for name in bad_files.FILES if name.endswith("/dataset.json")})


def _synth():
    """The script; `synth` alone is the room of that name."""
    spec = importlib.util.spec_from_file_location("synth_script", ROOT / "synth.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script.main


COMMANDS = {
    "detect": detect.main, "evaluate": evaluate.main, "prepare_data": prepare_data.main, "serve": serve.main,
    "synth": _synth(), "train_detector": train_detector.main, "train_gan": train_gan.main,
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder of all bad files, and of small good sets."""
    home = tmp_path_factory.mktemp("home")
    for name in bad_files.FILES:
        bad_files.write(home, name)
    for folder in CLASSES:
        for i, name in enumerate(("a.png", "b.png")):
            (home / folder / name).write_bytes(bad_files.encoded(bad_files.photo(16, i), "PNG"))
    for label in ("real", "fake"):
        (home / "faces" / label).mkdir(parents=True)
        for i in range(3):
            data = bad_files.encoded(bad_files.photo(32, i + 9 * (label == "fake")), "PNG")
            (home / "faces" / label / f"{i}.png").write_bytes(data)
    return home


def called(command: str, words: list[str]) -> tuple[int, str]:
    """(exit code, stderr) of a command, in this process; a traceback is a failure."""
    if command == "convert":
        err = io.StringIO()
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
            return convert.main(words), err.getvalue()
    result = CliRunner().invoke(Program(COMMANDS[command]), words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stderr


def test_there_are_many():
    assert len(ROWS) >= 150 and len({row for row, _ in ROWS}) == len(ROWS) == TEXT.count("\n    ")


@pytest.mark.parametrize(("row", "line"), ROWS, ids=[row.replace(" ", "_")[:80] for row, _ in ROWS])
def test_one_line_and_exit_code_2(row, line, home, monkeypatch):
    monkeypatch.chdir(home)
    monkeypatch.setenv("FACES_NEXT", "0")
    command, *words = row.split()
    before, began = set(os.listdir(home)), time.process_time()
    with at_most(GIGABYTE):
        code, err = called(command, words)
    assert time.process_time() - began < SECONDS
    said = [one.removeprefix("error: ") for one in err.splitlines() if one.startswith("error: ")]
    assert code == 2 and len(said) == 1, err
    told = said[0].replace(str(home), "HOME")
    assert told.startswith(line[:-1]) if line.endswith("…") else told == line
    assert len(told) < 2500 and "Traceback" not in err
    assert not (home / "sentinel").exists() and not {name for name in set(os.listdir(home)) - before if "." in name}
