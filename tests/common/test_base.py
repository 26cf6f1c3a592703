"""A Python without the project's packages: one line, and what to do."""

import os
import subprocess
import sys

import pytest
from packaging.requirements import Requirement

from common import base, cli
from tests import light
from tests.project.declared import PROJECT, ROOT

SCRIPTS = ("detect", "serve", "train_gan", "train_detector", "synth", "evaluate", "prepare_data", "demo")


def started(*words: str) -> subprocess.CompletedProcess:
    """By this Python without its site-packages."""
    command = [sys.executable, "-S", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "words", [*([f"{name}.py", "x"] for name in SCRIPTS), ["-m", "stylegan2_ada.convert"], ["-m", "stylegan2_ada.ops"]]
)
def test_without_packages(words):
    done = started(*words)
    assert done.returncode == 2 and done.stdout == "", done.stdout
    assert (
        done.stderr.startswith(f"error: this Python ({sys.executable}) has no click, cv2")
        and "\n" not in done.stderr[:-1]
    )


def test_ops_without_torch(tmp_path):
    done = light.run(["-m", "stylegan2_ada.ops"], tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: this needs torch, not installed here"), done.stderr


def test_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert base.lacking(["click"], tmp_path).endswith("a small one for verdicts")
    script = tmp_path / ".venv-light" / "bin" / "activate"
    script.parent.mkdir(parents=True)
    script.touch()
    assert base.lacking(["click"], tmp_path).endswith(
        " has no click: first activate the environment that is here: source .venv-light/bin/activate"
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert base.lacking(["click"], tmp_path).endswith(f"source {script}")


def test_all_dependencies_are_looked_for():
    names = {"cv2": "opencv-python-headless", "PIL": "pillow"}
    assert {names.get(name, name) for name in base.TAKEN} == {Requirement(s).name for s in PROJECT["dependencies"]}


def test_next_names_the_python_that_runs(tmp_path, monkeypatch, capsys):
    text = "open a/python page.html, then python detect.py photo.jpg"
    cli.next_step(text)
    assert capsys.readouterr().err == f"Next: {text}\n"
    own = tmp_path / ".venv" / "bin" / "python"
    own.parent.mkdir(parents=True)
    os.symlink(sys.executable, own)
    monkeypatch.setattr(sys, "executable", str(own))
    cli.next_step(text)
    assert capsys.readouterr().err == f"Next: open a/python page.html, then {own} detect.py photo.jpg\n"
    monkeypatch.chdir(tmp_path)
    cli.next_step("python -m stylegan2_ada.convert a b")
    assert capsys.readouterr().err == "Next: .venv/bin/python -m stylegan2_ada.convert a b\n"
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a folder" / "detect.py").touch()
    monkeypatch.setattr(sys, "argv", ["a folder/synth.py"])  # as it was started from another folder
    cli.next_step("python detect.py photo.jpg")
    assert capsys.readouterr().err == "Next: .venv/bin/python 'a folder/detect.py' photo.jpg\n"
    monkeypatch.chdir(tmp_path / "a folder")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "a folder" / "synth.py")])
    cli.next_step("python detect.py photo.jpg")
    assert capsys.readouterr().err == f"Next: {own} detect.py photo.jpg\n"
    monkeypatch.setenv("PATH", str(own.parent))
    cli.next_step(text)
    assert capsys.readouterr().err == f"Next: {text}\n"
