"""Tables on the terminal stand apart whatever the numbers; what can't be written is told first."""

import re

import numpy as np
import pytest

from common.errors import UserError
from evaluation.bias import Bias, Tier, move_of
from evaluation.own_photos import check_out
from faces.manifest import check_writable as check_manifest
from faces.manifest import text_column
from metrics.bootstrap import rate
from metrics.breakdown import AnswerRule, Slice
from metrics.scores import Scores
from reports import bias, detector_lines
from reports.data import check_page

ALL, NONE = rate(np.ones(20, bool)), rate(np.zeros(20, bool))


def apart(line: str) -> bool:
    """No cell begins where another ends."""
    return not re.search(r"\)\d|\d%\S|\)[+-]|\)[A-Z]", line)


def test_rates_of_everything_stand_apart():
    """«100.0 % (83.2 to 100.0)100.0 % (83.2 to 100.0)0.6150» was read as one number."""
    row = Slice("set", 20, 20, ALL, ALL, NONE, None, {"value": 1.0, "low": 0.9, "high": 1.0})
    lines = list(detector_lines._rows("source", [row]))
    assert lines[2].count("100.0 % (83.2 to 100.0) ") == 2 and all(map(apart, lines))
    words = [text_column([word] * 20) for word in ("a photo", "set", "", "clean")]
    said = [Scores(words[0], np.ones(20, np.int8), np.full(20, score), *words[1:]) for score in (0.1, 0.9)]
    moves = [move_of("fake", "jpeg-96-420", "set", a, b, AnswerRule(0.5, 0.5, "given")) for a, b in (said, said[::-1])]
    tier = Tier("web", 20, 20, 256, ALL, ALL, rate(np.ones(20, bool)), 0, "FAIL")
    told = list(bias.table_lines(Bias(moves, [row], [tier]), 0.5))
    assert all(map(apart, told)) and any("+100.0 points" in line for line in told)


def test_what_can_not_be_written_is_told_before_the_work(tmp_path, monkeypatch):
    """All photos of a set were looked at first."""
    monkeypatch.setattr("os.access", lambda path, mode: False)  # the superuser may write everywhere
    for check in (check_page, check_manifest, check_out):
        name = tmp_path / {check_page: "a.html", check_manifest: "a.csv", check_out: "a.safetensors"}[check]
        with pytest.raises(UserError, match="nothing can be written in .*: choose another place"):
            check(name)
