"""What is said beside the verdicts of a detector that is not to be relied on."""

import numpy as np
import pytest

from discriminator.calibration import calibrate
from discriminator.detector_base import DetectorBase, Raw
from discriminator.judge import few_pixels
from discriminator.quality import FEW_REALS, LEAST_BALANCED, caution
from faces.finding.face import Face
from faces.finding.face_step import View
from faces.finding.frame import box_quad
from faces.preprocess import Preprocess

PHOTOS = {"trained_on": "my_faces", "train_images": {"real": FEW_REALS, "fake": 3}}


def calibration_of(found: float):
    """1000 reals at logit -1 (and none higher), and a share of `found` of 1000 fakes above them."""
    hits = round(1000 * found)
    logits = np.concatenate([np.linspace(-2, -1, 1000), np.linspace(2, 3, hits), np.linspace(-1.9, -1.1, 1000 - hits)])
    return calibrate(logits, np.repeat([0, 1], 1000))


class Known(DetectorBase):
    """A detector whose network always says 3."""

    def __init__(self, meta: dict, found: float = 0.99, side: int = 16):
        self.preprocess, self.meta, self.calibration = Preprocess(side), meta, calibration_of(found)

    def raw(self, pixels: np.ndarray) -> Raw:
        return Raw(np.full(len(pixels), 3.0), None)


def test_a_good_detector_says_nothing():
    assert caution(PHOTOS, calibration_of(0.99)) == ""
    assert caution({}, calibration_of(0.99)) == ""  # an old file that does not tell


@pytest.mark.parametrize(
    ("meta", "found", "words"),
    [
        ({"trained_on": "demo"}, 0.99, "drawn faces"),
        ({"trained_on": "flickr140k, demo"}, 0.99, "drawn faces"),
        ({"train_images": {"real": FEW_REALS - 1, "fake": 10_000}}, 0.99, f"only {FEW_REALS - 1} real photos"),
        (PHOTOS, 0.4, "balanced accuracy"),
    ],
)
def test_what_makes_a_detector_weak_is_named(meta, found, words):
    assert words in caution(meta, calibration_of(found))


def test_the_quality_is_the_calibrations_own():
    """(found + kept) / 2 on both sides of the bound, counted by hand: of 1000 reals 10 are accused at 1 %."""
    calibration = calibration_of(2 * LEAST_BALANCED - 0.95)
    point = calibration.at()
    assert point.fpr <= 0.01 and (point.tpr + 1 - point.fpr) / 2 > LEAST_BALANCED
    assert caution(PHOTOS, calibration) == ""
    assert f"below {100 * LEAST_BALANCED:.0f} %" in caution(PHOTOS, calibration_of(2 * LEAST_BALANCED - 1.05))


def test_every_verdict_carries_it():
    detector = Known({"trained_on": "demo"})
    small, right = np.zeros((8, 8, 3), np.uint8), np.zeros((16, 16, 3), np.uint8)
    notes = [verdict.note for verdict in detector.predict([small, right])]
    assert all("drawn faces" in note for note in notes)
    assert notes[0].startswith("only 8x8 pixels")  # what is said of the photo comes first and stays
    assert detector.predict([right])[0].to_dict()["note"] == notes[1]


@pytest.mark.parametrize(("meta", "size", "words"), [
    (PHOTOS, (253, 252), ""),  # a photo of 256 pixels that lay turned, by its edges
    (PHOTOS, (231, 300), ""),
    (PHOTOS, (230, 300), "only 300x230 pixels, enlarged to the 256x256 this detector looks at"),
    (PHOTOS | {"patches": 256}, (253, 252), "only 252x253 pixels, enlarged to the 256x256 this detector looks at"),
])  # fmt: skip
def test_that_a_photo_was_enlarged_is_told_where_it_matters(meta, size, words):
    """From nine tenths of the network's side on verdicts are the same; a detector of patches wants its own size."""
    assert Known(meta, side=256).note(np.zeros((*size, 3), np.uint8)) == words


@pytest.mark.parametrize(("side", "told"), [(257, False), (253, False), (231, False), (230, True), (100, True)])
def test_that_a_face_has_few_pixels_is_told_where_it_matters(side, told):
    """side: of the frame about the face, which is what the network sees."""
    unit = box_quad((0.0, 0.0, 1.0, 1.0))
    width = side / float(unit[3, 0] - unit[0, 0])
    view = View(np.zeros((256, 256, 3), np.uint8), "box", Face((0.0, 0.0, width, width), None, 1.0))
    few = few_pixels(view, Known(PHOTOS | {"face": "ffhq"}, side=256))
    assert (few is not None) == told and (few is None or few == pytest.approx(side / 1.6))
