"""No figure of fewer than 20 images of a class stands on a page or the terminal without its interval."""

import math
import re
from types import SimpleNamespace

import numpy as np
from scipy.stats import beta

from evaluation.ensemble import EnsembleComparison, between
from evaluation.study_compare import Scored
from evaluation.study_compare import compare as study_compare
from metrics.bootstrap import Rate
from metrics.folds import ALL
from reports import ensemble_lines, folds
from reports.rates import points
from reports.study import _share

SHARES = {"auc": 0.9, "tpr_at_fpr_0.01": 0.5, "found": 0.8, "false_alarms": 0.1, "balanced": 0.85}


def fold(number: int, n: int) -> dict:
    return {"fold": number, "repeat": 0, "threshold": 0.5, "n_real": n, "n_fake": n, **dict.fromkeys(ALL, 0.9)}


def cells(*each: dict) -> tuple[dict[str, str], list[str]]:
    pooled = {"n_real": 60, "n_fake": 60, "metrics": {name: {"value": 0.9} for name in ALL}}
    found = SimpleNamespace(each=each, pooled=pooled, repeats=1, folds=len(each))
    section = folds._each(found)
    row = dict(zip(folds.COLUMNS, section.rows[1][4:], strict=True))
    return row, list(section.notes)


def test_a_fold_of_ten_has_intervals_or_dashes():
    row, notes = cells(fold(0, 10))
    for name, shown in row.items():
        assert shown == "–" or re.fullmatch(r"0\.900 \(0\.\d\d to [01]\.\d\d\)", shown), name
    low, high = beta.ppf(0.025, 9, 2), beta.ppf(0.975, 10, 1)
    assert row["recall_fake"] == row["recall_real"] == f"0.900 ({low:.2f} to {high:.2f})"
    assert row["roc_auc"] != "–" and any("fewer than 20" in note for note in notes)


def test_a_fold_of_twenty_stands_by_itself():
    row, notes = cells(fold(0, 20))
    assert set(row.values()) == {"0.900"} and not notes


def test_an_ensemble_on_ten_images_is_told_with_intervals():
    def told(n: int) -> str:
        gaps = {"auc": {"value": 0.1, "low": -0.1, "high": 0.2}}
        systems = {"ensemble": SHARES, "a": SHARES}
        found = EnsembleComparison("test images", n, n, "a", 0.01, systems, gaps, 0.5, "no difference shown")
        return "\n".join(ensemble_lines._compared(found))

    few, enough = told(10), told(20)
    assert "(of only 10 real and 10 fake images" in few and "only" not in enough
    for line in re.findall(r"^(?:ensemble|a) .*$", few, re.MULTILINE):
        assert len(re.findall(r"\d \(\d|% \(\d", line)) == len(SHARES), line


def test_what_no_resample_changed_is_told_without_an_interval_of_resamples():
    """A bootstrap of 0 false alarms has no width, which is no certainty: a share has its exact interval (of 4 photos
    1 - 0.025^(1/4)), a mean of shares and a difference have none."""
    scores = {"clean": np.array([[0.0, 0.1, 0.2, 0.3]])}
    arm = Scored(scores, {"fakes": scores, "photos": {"clean": scores["clean"] - 1}})
    found = study_compare({"a": arm, "b": arm}, [("a", "b")], ["photos"], 0.0, resamples=20)
    assert _share(found.rates["photos"]["clean"]["a"]) == f"0.0 % (0.0 to {100 * (1 - 0.025**0.25):.1f})"
    assert _share(found.endpoint["a"]) == "0.0 %" and np.isnan(found.differences[0].low)
    assert points(Rate(0.0, math.nan, math.nan, 4)) == "+0.0 points"
    assert between(math.nan, math.nan, "{:+.1f}") == "the same in every resample, which has no interval"
    assert between(-1, 2, "{:+.1f}") == "95 % interval -1.0 to +2.0"
