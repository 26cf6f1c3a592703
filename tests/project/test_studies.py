"""The files of benchmarks/studies: every variant's words are options that train_detector.py knows."""

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

import train_detector
from benchmarks.study import Study
from tests.program import Program

STUDIES = sorted((Path(__file__).parents[2] / "benchmarks" / "studies").glob("*.toml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_words_are_options(path, tmp_path):
    study = Study.read(path)
    assert len({variant.folder for variant in study.variant}) == len(study.variant) > 1
    for variant in study.variant:
        words = [word for word in shlex.split(f"{study.common} {variant.words}") if word != "{weights}"]
        words = [word for word in words if word != "--backbone-weights" and not word.startswith("pip:")]
        words += ["--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run")]
        done = CliRunner().invoke(Program(train_detector.main), words)
        assert done.exit_code == 2 and "nowhere" in done.stderr, (variant.name, done.output)
