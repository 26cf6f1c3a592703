"""What is said in plain words, and the measured rates beside it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from common.errors import UserError
from common.files import sha256_of
from discriminator import words
from discriminator.boxes import COLOURS, Mark, boxed
from discriminator.calibration import calibrate
from discriminator.detector_base import DetectorBase
from discriminator.measured import ENDING, FORMAT, VERSION, Rates, Share, rates_of, span
from discriminator.options import SHIPPED
from discriminator.results import Result, rows_of
from discriminator.verdict import Threshold, Verdict
from tests.discriminator.conftest import make_calibration


def verdict(label: str, probability: float, **more) -> Verdict:
    return Verdict(label, probability, 0.75, 0.5, 0.01, 500, 0.0, **more)


@pytest.mark.parametrize("probability", [0.0, 1e-9, 0.0015, 0.12, 0.4999])
def test_nothing_found_is_no_certainty(probability):
    """However low the score: no number that reads as one, and never the word real."""
    one = Result("a.jpg", verdict("REAL", probability))
    row = one.to_dict()
    assert row["headline"] == "no trace of a GAN found" and row["verdict"] == "REAL"
    assert words.score(one.verdict) == "<0.5"
    for text in (row["headline"], row["says"], words.score(one.verdict)):
        assert "real" not in text.lower() and "%" not in text and f"{probability:.2g}" not in text.split("<")[0]
    assert row["probability"] == probability, "programs have it as before"


def test_a_score_never_rounds_up_to_certainty():
    assert words.score(verdict("FAKE", 0.99999)) == ">0.99" and words.score(verdict("FAKE", 0.93)) == "0.93"
    # whatever the reason of UNSURE, a low score is only low
    assert words.score(verdict("UNSURE", 0.001, doubt="too dark")) == "<0.5"


def test_unsure_has_a_reason():
    assert words.reason(verdict("UNSURE", 0.74)).startswith("more likely generated than not")
    assert words.reason(verdict("UNSURE", 0.3)) == "some fakes score as low as this, and some photos as high"
    assert words.reason(verdict("UNSURE", 0.74, doubt="too dark to judge")) == "too dark to judge"
    assert words.reason(verdict("UNSURE", 0.74, contradiction="the two views")) == "the two views"
    assert words.reason(verdict("FAKE", 0.9)) == words.reason(verdict("REAL", 0.1)) == ""
    assert words.says(verdict("UNSURE", 0.3)).startswith("Can't tell: some fakes")
    assert "not measured" in words.says(replace(verdict("FAKE", 0.9), fpr=None))


@pytest.mark.parametrize(
    ("labels", "said", "headline"),
    [
        (["REAL"] * 5 + ["FAKE"], "FAKE", "1 of 6 faces looks generated"),
        (["FAKE", "UNSURE", "FAKE"], "FAKE", "2 of 3 faces look generated"),
        (["UNSURE", "REAL"], "UNSURE", "can't tell for 1 of 2 faces, no trace of a GAN found in the other"),
        (["UNSURE", "UNSURE"], "UNSURE", "can't tell for 2 of 2 faces"),
        (["REAL", "REAL"], "REAL", "no trace of a GAN found in 2 faces"),
        (["FAKE"], "FAKE", "the face looks generated"),
    ],
)
def test_one_answer_for_a_photo(labels, said, headline):
    told = words.of_photo(labels)
    assert (told.verdict, told.headline) == (said, headline)
    assert told.fake + told.unsure + told.real == told.faces == len(labels)
    faces = [
        Result("p.jpg", verdict(label, 0.1 * i), face={"index": i + 1, "of": len(labels)})
        for i, label in enumerate(labels)
    ]
    rows = rows_of(faces)
    assert [one.ends_photo for one in faces] == [False] * (len(labels) - 1) + [True]
    assert [row.get("photo") for row in rows] == [told.to_dict() if len(labels) > 1 else None] * len(labels)
    order = [labels[i] for i in words.worst_first([one.verdict for one in faces])]
    assert order == sorted(labels, key=["FAKE", "UNSURE", "REAL"].index)


def test_of_a_kind_the_higher_score_is_read_first():
    some = [verdict("FAKE", 0.8), None, verdict("REAL", 0.4), verdict("FAKE", 0.9)]
    assert words.worst_first(some) == [3, 0, 2, 1]


# ---- rates ---------------------------------------------------------------------------------------------------------


class Fixed(DetectorBase):
    def __init__(self, sha256: str = "ab"):
        self.sha256, self.meta, self.calibration = sha256, {}, make_calibration()


def beside(folder, sha256="ab", **changes):
    rows = [
        {"name": "home", "role": "own", "of": 200, "called": {"0.01": 190, "0.05": 196}},
        {"name": "A", "role": "others", "of": 100, "called": {"0.01": 40, "0.05": 60}},
        {"name": "B", "role": "others", "of": 50, "called": {"0.01": 36}},
        {"name": "home", "role": "photos", "of": 200, "called": {"0.01": 1, "0.05": 11}},
    ]
    told = {"format": FORMAT, "version": VERSION, "detector_sha256": sha256, "sets": rows} | changes
    (folder / f"d{ENDING}").write_text(json.dumps(told))
    return folder / "d.safetensors"


def test_rates_are_those_of_the_threshold_in_force(tmp_path):
    file, detector = beside(tmp_path), Fixed()
    usual = rates_of(file, detector, Threshold.of(detector.calibration, fpr=0.01))
    said = "finds 95 % of its own kind of fakes and 40 to 72 % of other generators' and accuses 0.5 % of photos"
    assert usual.says() == f"This detector {said}."
    assert "fakes of other generators: 40 to 72 % found (A: 40 of 100, B: 36 of 50)" in usual.lines()
    told = usual.to_dict()
    assert told["other_generators_found"]["low"] == 0.4 and told["other_generators_found"]["sets"][1]["called"] == 36
    loose = rates_of(file, detector, Threshold.of(detector.calibration, fpr=0.05))
    assert (loose.own[0].called, [s.name for s in loose.others]) == (196, ["A"])
    own = rates_of(file, detector, Threshold.of(detector.calibration, threshold=0.6))
    assert own.own == own.others == own.photos == () and own.says().startswith(
        "What is found at a threshold of your own"
    )


def test_rates_of_few_images_have_their_interval(tmp_path):
    rows = [{"name": "home", "role": "own", "of": 5, "called": {"0.01": 5}},
            {"name": "A", "role": "others", "of": 19, "called": {"0.01": 9}},
            {"name": "home", "role": "photos", "of": 20, "called": {"0.01": 1}}]  # fmt: skip
    detector = Fixed()
    found = rates_of(beside(tmp_path, sets=rows), detector, Threshold.of(detector.calibration, fpr=0.01))
    own, others, photos = found.lines()
    assert "100 % (95 % interval 48 to 100 %) found (home: 5 of 5)" in own  # .025 ** (1/5) = .478
    assert "47 % (95 % interval 24 to 71 %) found" in others and "interval" not in photos
    assert "finds 100 % (95 % interval 48 to 100 %) of its own kind of fakes" in found.says()


def test_two_views_of_an_image_are_one_image_in_the_interval(tmp_path):
    real, fake = np.array([0.1, 0.1, 0.2, 0.2, 0.3, 0.9]), np.array([0.8, 0.8, 0.9, 0.95])
    scores, labels = np.concatenate([real, fake]), np.repeat([0, 1], [6, 4])
    detector = Fixed()
    detector.calibration = calibrate(np.log(scores / (1 - scores)), labels, fprs=(0.2,), default_fpr=0.2, views=2)
    found = rates_of(tmp_path / "d.safetensors", detector, Threshold.of(detector.calibration))
    own, _, photos = found.lines()
    # one alarm among six views of three photos is at most one photo of three: .025 ** (1/3) = .292
    point = detector.calibration.at()
    assert point.fpr_high == pytest.approx(found.photos[0].interval()[1], abs=1e-9) == pytest.approx(0.906, abs=5e-4)
    assert "(95 % interval 0 to 91 %)" in photos and "1 of 6 views of 3)" in photos
    assert f"{found.own[0].called} of 4 views of 2)" in own
    many = Share("home", 0, 24, views=2)
    assert "interval 0 to 26 %" in span([many]) and "interval" not in span([Share("home", 0, 24)])  # 1 - .025 ** (1/12)


def test_rates_of_another_file_are_not_claimed(tmp_path):
    file, detector = beside(tmp_path, sha256="other"), Fixed()
    by = Threshold.of(detector.calibration, fpr=0.01)
    found = rates_of(file, detector, by)
    assert found.own[0].name.startswith("validation images") and "other generators: not measured" in found.lines()[1]
    detector.source_sha256 = "other"  # an export of that very file
    assert rates_of(file, detector, by).own[0].name == "home"
    assert found.says().endswith("; with other generators it was not measured.")


@pytest.mark.parametrize("text", ["", "[1", "[]", '{"format": "x"}', '{"format": "ganface-measured", "version": 9}'])
def test_a_damaged_file_of_rates_is_named(tmp_path, text):
    file, detector = beside(tmp_path), Fixed()
    (tmp_path / f"d{ENDING}").write_text(text)
    with pytest.raises(UserError, match="d.measured.json"):
        rates_of(file, detector, Threshold.of(detector.calibration))


@pytest.mark.parametrize("rows", [[{}], [{"name": "a", "role": "x", "of": 1, "called": {"0.01": 1}}], 3,
                                  [{"name": "a", "role": "own", "of": 1, "called": {"0.01": 2}}]])  # fmt: skip
def test_damaged_sets_are_named(tmp_path, rows):
    detector = Fixed()
    with pytest.raises(UserError, match="damaged"):
        rates_of(beside(tmp_path, sets=rows), detector, Threshold.of(detector.calibration, fpr=0.01))


def test_a_run_shows_its_own_figures_and_says_what_was_not_measured(tmp_path):
    detector = Fixed()
    by = Threshold.of(detector.calibration)
    held = {"tpr": 0.925, "n_fake": 400, "false_alarm_rate": 0.02, "n_real": 300, "threshold": by.point.threshold}
    (tmp_path / "verdict.json").write_text(json.dumps({"measured_on": "test", "held_out_clean": held}))
    found = rates_of(tmp_path / "detector.safetensors", detector, by)
    assert found.own == (Share("the run's own test images", 370, 400),)
    assert found.photos == (Share("the run's own test images", 6, 300),)
    assert found.lines()[1] == "fakes of other generators: not measured; expect it to miss many"
    held["threshold"] += 0.01  # of a detector that was calibrated again since
    (tmp_path / "verdict.json").write_text(json.dumps({"measured_on": "test", "held_out_clean": held}))
    assert rates_of(tmp_path / "detector.safetensors", detector, by).own[0].name.startswith("validation")


def test_rates_are_never_rounded_to_all_or_none():
    rates = Rates((Share("a", 9999, 10000),), (), (Share("a", 0, 500), Share("b", 1, 9999)))
    assert "above 99 %" in rates.says() and "0 to 0.01 %" in rates.says()


def test_the_shipped_rates_are_of_the_shipped_files_and_in_the_card():
    told = json.loads(SHIPPED[0].with_suffix(ENDING).read_text())
    assert told["detector_sha256"] == sha256_of(SHIPPED[0])
    card = (SHIPPED[0].parents[1] / "MODEL_CARD.md").read_text()
    for row in told["sets"]:
        share = f"{100 * row['called']['0.01'] / row['of']:.1f} %"
        assert share in card, (row["name"], share)


# ---- boxes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", list(COLOURS))
def test_a_box_has_its_verdicts_colour_where_the_face_is(label):
    photo = np.full((300, 400, 3), 128, np.uint8)
    drawn = boxed(photo, [Mark((0.25, 0.25, 0.75, 0.75), label, 3)])
    same = (drawn == COLOURS[label]).all(2)
    rows, columns = np.where(same)
    assert abs(rows.min() - 75) <= 2 and abs(rows.max() - 225) <= 2
    assert abs(columns.min() - 100) <= 2 and abs(columns.max() - 300) <= 2
    assert (drawn[110:220, 140:290] == 128).all(), "the face itself is left alone"
    assert (photo == 128).all() and boxed(photo, []) is photo
    along = same[75:78, 100:300].any(0)
    assert along[60:].mean() > 0.95 if label != "UNSURE" else 0.3 < along[60:].mean() < 0.8, "UNSURE is dashed"


def test_boxes_at_the_edge_and_inside_out_are_drawn():
    photo = np.zeros((40, 40, 3), np.uint8)
    for box in ((-0.5, -0.5, 1.5, 1.5), (0.9, 0.9, 0.1, 0.1), (0.5, 0.5, 0.5, 0.5)):
        for label in COLOURS:
            assert boxed(photo, [Mark(box, label, 12)]).shape == photo.shape
