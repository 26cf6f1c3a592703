"""The quality floor: what can't be judged is UNSURE and says why, in photos and videos, whatever the score."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from discriminator.judge import Judge, Seen, doubt_on, unsure
from discriminator.onnx_detector import OnnxDetector
from discriminator.options import SHIPPED
from discriminator.video import _Frames, _verdict
from faces.decode import load_image
from faces.finding.align import FaceFinder
from faces.finding.face_step import FaceStep, View
from faces.finding.quality import LEAST_DETAIL, LEAST_LIGHT, LEAST_SIDE, MOST_BURNT, quality
from faces.procedural.portrait import render_face


@pytest.fixture
def aligned(detector):
    """A detector that knows aligned faces."""
    detector.meta["face"] = "ffhq"
    return detector


@pytest.mark.parametrize("side", [256, 251, 100])
def test_light_and_detail_are_numpys_quantile_and_deviations(side):
    photo = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY).astype(np.float64)
    middle = np.s_[side // 5 : side - side // 6, side // 5 : side - side // 5]
    fine = (grey - cv2.GaussianBlur(grey, (0, 0), 1.0))[middle]
    told = quality(photo, side, side)
    assert told.light == pytest.approx(np.quantile(grey[middle], 0.95), abs=1e-9)
    assert told.detail == pytest.approx(fine.std() / grey[middle].std(), rel=1e-5)
    assert told.burnt == pytest.approx((grey[middle] >= 250).mean())


def test_light_and_sharpness_are_what_they_are_called():
    photo = render_face(3, 256)
    usual = quality(photo, 256, 256)
    assert usual.side == 256 and usual.doubts(256) == []
    dark = quality((photo * 0.15).astype(np.uint8), 256, 256)
    assert dark.light == pytest.approx(0.15 * usual.light, abs=1.5)
    assert dark.detail == pytest.approx(usual.detail, rel=0.2)  # darkness is no blur
    soft = [quality(cv2.GaussianBlur(photo, (0, 0), sigma), 256, 256).detail for sigma in (0.6, 1, 2, 4, 8)]
    assert sorted(soft, reverse=True) == soft and soft[-1] < LEAST_DETAIL < usual.detail
    white = photo.copy()
    white[40:220, 40:220] = 255
    assert quality(white, 256, 256).burnt > MOST_BURNT
    # by hand: a checkerboard's grey levels are 0 and 200, and a blur of it is nearly flat
    board = (np.indices((64, 64)).sum(0) % 2 * 200).astype(np.uint8)[..., None].repeat(3, 2)
    fine = quality(board, 64, 64)
    assert fine.light == 200 and fine.detail == pytest.approx(1, abs=0.02)


def test_the_floor_goes_with_the_network(aligned):
    photo = render_face(3, 48)
    assert any("too small" in why for why in quality(photo, 48, 256).doubts(256))
    assert 48 > LEAST_SIDE * 32 and doubt_on(View(photo, "whole"), aligned) == ""
    assert "too small" in doubt_on(View(photo, "whole"), replace_resolution(aligned, 256))


def replace_resolution(detector, resolution):
    detector.preprocess = replace(detector.preprocess, resolution=resolution)
    return detector


def test_a_doubt_is_unsure_with_the_reason_first(aligned):
    dark = (render_face(3, 96) * 0.1).astype(np.uint8)
    (result,) = Judge(aligned)(dark, "dark")
    assert result.verdict.label == "UNSURE" and result.verdict.note.startswith("too dark to judge")
    light = Judge(aligned)(render_face(3, 96))[0].verdict
    assert "to judge" not in light.note
    aligned.meta["face"] = "whole"  # of detectors of other pictures nothing was measured
    assert "too dark" not in Judge(aligned)(dark)[0].verdict.note
    assert unsure(light, "") is light and unsure(light, "why").probability == light.probability


def test_frames_that_cannot_be_judged_do_not_vote(aligned):
    judge, frames = Judge(aligned), _Frames()
    for logit, doubt in [(4.0, "")] * 6 + [(-9.0, "too dark to judge")] * 20:
        verdict = aligned.verdict(logit, judge.threshold)
        frames.add(Seen("v", verdicts=[unsure(verdict, doubt)], doubts=[doubt], faces=[None]), False)
    facts = frames.facts()
    verdict = _verdict(judge, frames, facts)
    assert verdict.logit == 4.0 and "in 20 frames the face can't be judged (too dark to judge)" in verdict.note
    assert facts["frames_too_poor"] == 20 and verdict.label != "UNSURE"
    few = _Frames(verdicts=frames.verdicts[3:], doubts=frames.doubts[3:], count=23)
    verdict = _verdict(judge, few, few.facts())
    assert verdict.label == "UNSURE" and "at least 5 frames with a face that can be judged" in verdict.note


def test_the_shipped_detector_and_bad_photos(shared_dir):
    """Bright, sharp and large enough as they are, nobody doubts; dark, small and soft nothing is said but UNSURE."""
    folder = shared_dir / "data/flickr140k/real_vs_fake/real-vs-fake/valid"
    weights = shared_dir / "weights/face_detection_yunet_2023mar.onnx"
    if not SHIPPED[1].is_file() or not folder.is_dir() or not weights.is_file():
        pytest.skip("no shipped detector, photos or YuNet")
    judge = Judge(OnnxDetector.load(SHIPPED[1]), faces=FaceStep(FaceFinder.open(weights), 256))
    photos = [load_image(p) for label in ("real", "fake") for p in sorted((folder / label).iterdir())[5:500:120]]
    for photo in photos:
        assert "to judge" not in judge(photo)[0].verdict.note
        ruined = {
            "too dark": (photo * 0.08).astype(np.uint8),
            "too small": cv2.resize(photo, (48, 48), interpolation=cv2.INTER_AREA),
            "too blurred": cv2.GaussianBlur(photo, (0, 0), 5),
            "too bright": np.clip(photo.astype(np.float32) * 8, 0, 255).astype(np.uint8),
        }
        for why, picture in ruined.items():
            result = judge(picture)[0]
            assert result.no_face or (result.verdict.label == "UNSURE" and why in result.verdict.note), why
    assert LEAST_LIGHT < 111
