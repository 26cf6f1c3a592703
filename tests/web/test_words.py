"""The page says at another threshold what the server would: Node runs its script, against discriminator/words.py."""

from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import pytest

from discriminator import words
from discriminator.calibration import OperatingPoint
from discriminator.verdict import Threshold, Verdict, decide
from web.page import HERE

node = shutil.which("node")
pytestmark = pytest.mark.skipif(node is None, reason="needs Node to run the page's script")
PROBABILITIES = [
    0.0,
    1e-5,
    0.0049,
    0.013,
    0.17,
    0.2699,
    0.27,
    0.3141,
    0.4999,
    0.5,
    0.613,
    0.8,
    0.92,
    0.9241,
    0.9899,
    0.999,
    1.0,
]
POINTS = [
    (0.9241, 0.2698, 0.01),
    (0.66, 0.66, 0.005),
    (0.3, 0.2, 0.05),
    (0.999, 0.7, None),
    (0.0, 0.0, None),
    (1.0, 0.5, None),
]


def run(script: str) -> object:
    text = (HERE / "parts" / "words.js").read_text(encoding="utf-8")
    done = subprocess.run(
        [node, "-e", f"{text}\nconsole.log(JSON.stringify({script}))"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def at(threshold: float, low: float, fpr: float | None) -> Threshold:
    fields = dict.fromkeys(OperatingPoint.__dataclass_fields__)
    given = {"threshold": threshold, "unsure_low": low, "fpr": fpr, "target_fpr": fpr, "n_real": 500}
    return Threshold(OperatingPoint(**(fields | given)), own=fpr is None)


def row(probability: float, by: Threshold, doubt: str = "") -> dict:
    label = "UNSURE" if doubt else decide(probability, by.point)
    point = by.point
    one = Verdict(label, probability, point.threshold, point.unsure_low, by.fpr, 500, 0.0, doubt=doubt)
    out = {"headline": words.headline(one), "says": words.says(one), **one.to_dict(), "score": words.score(one)}
    return out | ({"reason": words.reason(one)} if words.reason(one) else {})


def test_every_answer_is_the_servers():
    cases, expected = [], []
    usual = at(*POINTS[0])
    for numbers in POINTS:
        by = at(*numbers)
        point = {"threshold": by.point.threshold, "unsure_low": by.point.unsure_low, "fpr": by.fpr, "n_real": 500}
        for p in PROBABILITIES:
            for doubt in ("", "the face is too small"):
                cases.append([row(p, usual, doubt), point])
                expected.append(row(p, by, doubt))
    each = "([r, p]) => ({...rowAt(r, p, W), score: scoreAt(r.probability, p, W)})"
    script = f"((W, cases) => cases.map({each}))({json.dumps(words.told())}, {json.dumps(cases)})"
    assert run(script) == expected


def test_a_photos_one_answer_is_the_servers():
    rng = np.random.default_rng(0)
    groups = [list(rng.choice(["FAKE", "UNSURE", "REAL"], size=n)) for n in (2, 2, 3, 4, 6) for _ in range(12)]
    groups += [["REAL", "REAL"], ["UNSURE", "UNSURE"]]
    rows = [[{"verdict": str(label), "headline": ""} for label in group] for group in groups]
    expected = [words.of_photo(group).to_dict() for group in groups]
    assert (
        run(f"((W, all) => all.map((rows) => photoAt(rows, W)))({json.dumps(words.told())}, {json.dumps(rows)})")
        == expected
    )


def test_the_note_does_not_tell_the_reason_again():
    rows = [("$& few; dark", "$& few; dark"), ("$& few; dark; weak", "$& few; dark"), ("2 frames; dark; weak", "dark")]
    rows += [("weak", "dark"), ("weak", None), (None, "dark")]
    given = json.dumps([{"note": note, "reason": reason} for note, reason in rows])
    assert run(f"{given}.map(beyond)") == ["", "weak", "2 frames; weak", "weak", "weak", None]
