"""Would a verdict survive: the rule, the other versions of a photo, and that the score itself never changes."""

from __future__ import annotations

import re

import numpy as np
import pytest

from discriminator import stability
from discriminator.calibration import calibrate
from discriminator.detector_base import DetectorBase, Raw
from discriminator.judge import Judge
from discriminator.stability import VERSIONS, Stability, Variant, _part, variants_of
from discriminator.verdict import Threshold, Verdict
from faces.filters import jpeg, resize
from faces.finding.align import align_face
from faces.finding.face import Face
from faces.finding.face_step import FaceStep, View, seen_again
from faces.preprocess import Preprocess
from faces.procedural.portrait import render_face
from reports.stability_curve import curve_svg, save_curve


class Sharpness(DetectorBase):
    """Says FAKE of pictures with strong differences between neighbours."""

    def __init__(self, even: float, steep: float = 2.0):
        rng = np.random.default_rng(0)
        logits = np.concatenate([rng.normal(-2, 1, 300), rng.normal(2, 1, 300)])
        self.preprocess, self.calibration = Preprocess(64), calibrate(logits, np.repeat([0, 1], 300))
        self.meta, self.sha256, self.even, self.steep = {}, "0", even, steep

    def raw(self, pixels: np.ndarray) -> Raw:
        strong = 127.5 * np.abs(np.diff(pixels, axis=-1)).mean((1, 2, 3))
        return Raw(np.float64(self.steep * (strong - self.even)), None)


class Finder:
    """Finds the faces that it was told of."""

    name, model, fallback = "told", None, ""

    def __init__(self, *faces: Face):
        self.faces = list(faces)

    def find(self, image: np.ndarray) -> list[Face]:
        return list(self.faces)


def face_at(x: float, y: float, size: float) -> Face:
    """An upright face whose FFHQ frame has the middle (x, y) and the side `size`."""
    points = np.array([[0.37, 0.47], [0.63, 0.47], [0.5, 0.6], [0.4, 0.72], [0.6, 0.72]]) - 0.5
    landmarks = (np.array([x, y]) + size * points).astype(np.float32)
    return Face((x - size / 4, y - size / 4, x + size / 4, y + size / 4), landmarks, 0.99)


def scene(side: int = 400, seed: int = 1) -> np.ndarray:
    """A drawn face in noise of its own."""
    rng = np.random.default_rng(seed)
    photo = resize(rng.integers(60, 200, (side // 9, side // 9, 3), dtype=np.uint8), side, side, "bicubic").copy()
    photo[100:300, 120:320] = render_face(seed, 200)
    return np.clip(photo + rng.normal(0, 5, photo.shape), 0, 255).astype(np.uint8)


def verdict(label: str, probability: float = 0.5) -> Verdict:
    return Verdict(label, probability, 0.8, 0.3, 0.01, 100, 0.0)


@pytest.mark.parametrize(
    ("itself", "others", "outcome"),
    [
        ("FAKE", ["FAKE", "FAKE", "FAKE"], "holds"),
        ("REAL", ["REAL", "REAL", "REAL"], "holds"),
        ("FAKE", ["FAKE", "UNSURE", "UNSURE"], "weakens"),
        ("FAKE", ["FAKE", "UNSURE", "REAL"], "flips"),
        ("REAL", ["FAKE", "REAL", "REAL"], "flips"),
        ("UNSURE", ["FAKE", "REAL", "UNSURE"], "unsure"),
    ],
)
def test_the_rule(itself, others, outcome):
    variants = [Variant(name, np.zeros(1)) for name in ("JPEG 60", "JPEG 50", "half size")]
    told = Stability.of(verdict(itself), variants, [verdict(label) for label in others])
    assert told.outcome == outcome == told.to_dict()["outcome"]
    assert bool(told.flips) == (outcome == "flips")
    if itself == "FAKE" and outcome == "flips":
        assert told.flips == "flips from «looks generated» to «no trace of a GAN found» after half size"


def test_movement_within_a_verdict_is_no_flip():
    variants = [Variant("JPEG 60", np.zeros(1))]
    assert Stability.of(verdict("FAKE", 0.99), variants, [verdict("FAKE", 0.81)]).outcome == "holds"
    assert Stability.of(verdict("FAKE", 0.81), variants, [verdict("UNSURE", 0.79)]).outcome == "weakens"


def test_of_jpegs_the_best_quality_is_named():
    names = ("JPEG 70", "JPEG 60", "JPEG 50", "screenshot")
    told = Stability.of(
        verdict("REAL"), [Variant(n, np.zeros(1)) for n in names], [verdict("REAL")] + 3 * [verdict("FAKE")]
    )
    assert told.flips == "flips from «no trace of a GAN found» to «looks generated» after JPEG 60 and screenshot"


def test_a_part_of_the_photo_gives_what_the_whole_photo_gives():
    photo, face = scene(1200), face_at(520, 610, 180)
    view = View(*align_face(photo, face, 256), face)
    part, (x, y) = _part(view, photo)
    assert part.size < photo.size / 2 and x % 16 == y % 16 == 0 and x > 0
    again = seen_again(view, part, FaceStep(), scale=1, shift=(x, y))
    np.testing.assert_array_equal(again.pixels, view.pixels)
    seen = {}
    note = lambda name, one, changed: seen.setdefault(name, one) and Variant(name, one.pixels)  # noqa: E731
    variants_of([view], photo, FaceStep(), note)
    whole, _ = align_face(jpeg(photo, 60), face, 256)
    np.testing.assert_array_equal(seen["JPEG 60"].pixels, whole)
    twice, _ = align_face(resize(photo, 2400, 2400, "bicubic"), face_at(1040, 1220, 360), 256)
    assert np.abs(seen["double size"].pixels.astype(int) - twice).max() <= 1
    assert [version.name for version in VERSIONS] == list(seen)
    for name, one in seen.items():  # it is the same face in the same place
        assert np.abs(one.pixels.astype(int) - view.pixels).mean() < 12, name


@pytest.mark.parametrize("kernel", ["points", "box"])  # the first is the shipped detector's
def test_versions_are_cut_out_by_the_kernel_of_the_photo_itself(kernel, monkeypatch):
    monkeypatch.setattr(stability, "VERSIONS", VERSIONS[:1])
    photo, face = scene(400), face_at(200, 200, 150)
    step = FaceStep(Finder(face), 256, kernel)
    seen = {}
    variants_of(step(photo), photo, step, lambda name, one, _: seen.setdefault(name, one) and Variant(name, one.pixels))
    whole, _ = align_face(jpeg(photo, 95), face, 256, kernel)
    np.testing.assert_array_equal(seen["JPEG 95"].pixels, whole)
    assert not np.array_equal(align_face(jpeg(photo, 95), face, 256)[0], whole)


def test_a_face_at_the_photos_edge():
    photo, face = scene(400), face_at(20, 390, 200)
    view = View(*align_face(photo, face, 256), face)
    part, corner = _part(view, photo)
    np.testing.assert_array_equal(seen_again(view, part, FaceStep(), scale=1, shift=corner).pixels, view.pixels)


@pytest.mark.parametrize("even", [0.0, 5.0])
def test_the_score_is_the_same_with_and_without(even):
    photo, detector = scene(), Sharpness(even)
    step = FaceStep(Finder(face_at(220, 200, 200), face_at(60, 60, 90)), 256)
    without = Judge(detector, faces=step)(photo, "a")
    tried = Judge(detector, faces=step, stability=True)(photo, "a")
    for one, other in zip(without, tried, strict=True):
        assert one.verdict.probability == other.verdict.probability and one.verdict.logit == other.verdict.logit
        assert other.stability["before"] == one.verdict.label and one.stability is None
        flips = other.stability["outcome"] == "flips"
        assert other.verdict.label == ("UNSURE" if flips else one.verdict.label)
        assert flips == ("flips from" in other.verdict.note)
        assert other.to_dict()["stability"] == other.stability and "stability" not in one.to_dict()


def test_a_verdict_that_hangs_on_the_file_is_unsure():
    photo = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    detector = Sharpness(31.0)
    one = Judge(detector, stability=True)(photo)[0]
    assert one.stability["before"] == "FAKE" and one.verdict.label == "UNSURE"
    assert one.verdict.note.startswith("flips from «looks generated» to «no trace of a GAN found» after")
    told = {point["version"]: point["verdict"] for point in one.stability["points"]}
    assert told["JPEG 95"] == "REAL" and told["half size"] == "FAKE"
    assert curve_svg(one.stability).count("<polygon") + curve_svg(one.stability).count("<circle") == 1 + len(VERSIONS)


def test_curves_are_pictures(tmp_path):
    photo = scene()
    told = Judge(Sharpness(5.0), stability=True)(photo)[0].stability
    for name in ("a.svg", "a.png"):
        save_curve(tmp_path / name, told)
    assert (tmp_path / "a.svg").read_text().startswith("<svg")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_of_many_faces_the_biggest_are_tried(monkeypatch):
    monkeypatch.setattr(stability, "MOST_FACES", 1)
    faces = [face_at(200, 200, 150 - i) for i in range(3)]
    told = Judge(Sharpness(5.0), faces=FaceStep(Finder(*faces), 256), stability=True)(scene())
    outcomes = [one.stability["outcome"] for one in told]
    assert outcomes[1:] == ["not tried", "not tried"] and outcomes[0] != "not tried"


def test_a_threshold_of_ones_own_is_the_threshold():
    photo, detector = scene(), Sharpness(5.0)
    own = Threshold.of(detector.calibration, threshold=0.0)
    assert Judge(detector, own, stability=True)(photo)[0].stability["outcome"] == "holds"


def test_the_outcome_is_said_in_the_words_of_the_verdict():
    variants = [Variant(name, np.zeros(1)) for name in ("JPEG 60", "half size")]
    for label in ("FAKE", "UNSURE", "REAL"):
        for others in (["FAKE", "FAKE"], ["UNSURE", "REAL"], ["REAL", "REAL"], ["UNSURE", "UNSURE"]):
            told = Stability.of(verdict(label), variants, [verdict(one) for one in others])
            assert not {"FAKE", "REAL", "UNSURE"} & set(told.reason.replace("«", " ").replace("»", " ").split())
            assert "«" in told.reason
    weak = Stability.of(verdict("REAL"), variants, [verdict("REAL"), verdict("UNSURE")])
    assert weak.reason == "stays «no trace of a GAN found», but for «can't tell» after half size"


def test_the_curve_shows_no_differences_below_the_limit():
    """Scores below it are all told alike; the curve had them at their own heights."""

    def dots(probability: float) -> list[str]:
        points = [{"version": "JPEG 60", "verdict": "REAL", "probability": probability, "logit": 0.0}]
        told = {"reason": "x", "before": "REAL", "probability": 0.29, "threshold": 0.8, "unsure_low": 0.3}
        return re.findall(r'cy="([0-9.]+)"', curve_svg(told | {"points": points}))

    assert dots(0.0001) == dots(0.2) and len(set(dots(0.0001))) == 1
    assert dots(0.31) != dots(0.2)


def test_one_line_gives_one_number_for_a_faces_pixels():
    """The doubt and the note measured the face in two ways: «the face has 28 pixels …; the face has only 27 pixels»."""
    photo = scene()
    detector = Sharpness(5.0)
    detector.preprocess, detector.meta = Preprocess(256), {"face": "ffhq"}
    for side in (40, 60, 80, 110, 200):
        step = FaceStep(Finder(face_at(220, 200, side)), 256)
        (one,) = Judge(detector, faces=step)(photo, "a")
        told = re.findall(r"the face has (?:only )?(\d+) pixels", one.verdict.note)
        assert len(told) == 1 and abs(int(told[0]) - side / 1.6) <= 0.06 * side, one.verdict.note
        assert ("too small to judge" in one.verdict.note) == (side < 0.28 * 256)
