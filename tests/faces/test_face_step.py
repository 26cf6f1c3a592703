"""The face step on drawn faces: which photos are cut up, which are left whole, and that none is invented."""

from __future__ import annotations

import numpy as np
import pytest

from faces.decode import load_image
from faces.finding.align import Face, FaceFinder, cut_quad
from faces.finding.face_step import ALIGNED_SIDE, FaceStep, is_aligned_crop
from faces.finding.frame import box_quad, ffhq_quad
from faces.procedural.portrait import render_face
from tests.scenes import scene

SEEN = (2, 3, 5)  # seeds of drawn faces that OpenCV's cascade finds


@pytest.fixture(scope="module")
def haar() -> FaceStep:
    return FaceStep(FaceFinder(None, "it was asked for"), 64)


def test_every_face_is_cut_out_the_biggest_first(haar):
    views = haar(scene((2, 40, 60, 180), (3, 400, 80, 280)))
    assert [view.how for view in views] == ["box", "box"]
    assert [view.pixels.shape for view in views] == [(ALIGNED_SIDE, ALIGNED_SIDE, 3)] * 2
    centres = [(view.face.box[0] + view.face.box[2]) / 2 for view in views]
    assert 400 < centres[0] < 680 and 40 < centres[1] < 220
    told = views[1].to_dict(2, 2, haar.name)
    assert (told["index"], told["of"], told["finder"], told["landmarks"]) == (2, 2, "haar", None)
    assert told["box"] == [pytest.approx(x, abs=0.01) for x in views[1].face.box]


def test_what_is_a_crop_already_is_left_as_it_is(haar):
    photo = render_face(3, 256)
    (view,) = haar(photo)
    assert view.how == "crop" and view.pixels is photo and view.face is not None


def test_where_there_is_no_face_none_is_made_up(haar):
    rng = np.random.default_rng(0)
    for image in (
        np.full((300, 200, 3), 90, np.uint8),
        rng.integers(0, 256, (200, 200, 3), dtype=np.uint8),
        np.zeros((16, 500, 3), np.uint8),
    ):
        assert haar(image) == []


def test_without_a_finder_photos_are_whole():
    image = np.zeros((20, 30, 3), np.uint8)
    (view,) = FaceStep()(image)
    assert view.how == "whole" and view.pixels is image and view.face is None and FaceStep().name == "none"
    assert view.to_dict(1, 1, "none")["box"] is None


def landmarks(degrees: float = 0.0, scale: float = 1.0, shift: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """Eyes and mouth of which the frame is 100 x 100 pixels (0, 0)-(100, 100), turned about its middle and moved."""
    points = np.array([[37.5, 45.0], [62.5, 45.0], [50, 56], [40, 70.0], [60, 70.0]])
    quad = ffhq_quad(points)
    points = (points - quad.mean(0)) / np.hypot(*(quad[3] - quad[0])) * 100
    a = np.radians(degrees)
    return scale * points @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) + 50 + np.array(shift)


@pytest.mark.parametrize(
    "pose, shape, whole",
    [
        ({}, (100, 100), True),
        ({"degrees": 12}, (100, 100), True),
        ({"degrees": 25}, (100, 100), False),
        ({"scale": 1.2}, (100, 100), True),
        ({"scale": 1.45}, (100, 100), False),
        ({"scale": 0.6}, (100, 100), False),
        ({"shift": (5, 4)}, (100, 100), True),
        ({"shift": (12, 0)}, (100, 100), False),
        ({}, (101, 100), True),
        ({}, (130, 100), False),
    ],
)
def test_what_counts_as_a_crop(pose, shape, whole):
    face = Face((20.0, 20.0, 80.0, 90.0), landmarks(**pose).astype(np.float32), 0.9)
    assert is_aligned_crop(shape, face) == whole


def test_boxes_without_landmarks_count_by_their_frame():
    box = (16.0, 22.0, 83.0, 89.0)
    quad = box_quad(box)
    assert np.abs(quad.mean(0) - 50).max() < 3 and is_aligned_crop((100, 100), Face(box, None, 5.0))
    assert not is_aligned_crop((100, 100), Face((40.0, 40.0, 60.0, 60.0), None, 5.0))


def test_landmarks_that_span_nothing_are_no_face():
    class Astray:
        name, fallback = "astray", ""

        def find(self, image):
            return [Face((0.0, 0.0, 50.0, 50.0), np.ones((5, 2), np.float32), 0.9)]

    assert not is_aligned_crop((60, 60), Astray().find(None)[0])
    assert FaceStep(Astray())(np.zeros((60, 60, 3), np.uint8)) == []


def test_real_crops_are_whole_and_real_scenes_are_not(shared_dir):
    """flickr140k's photos are aligned crops; pasted into a larger picture they are cut out."""
    model = shared_dir / "weights" / "face_detection_yunet_2023mar.onnx"
    folder = shared_dir / "data/flickr140k/real_vs_fake/real-vs-fake/valid/real"
    if not model.is_file() or not folder.is_dir():
        pytest.skip("no YuNet or no photos")
    step = FaceStep(FaceFinder.open(model), 256)
    photos = [load_image(path) for path in sorted(folder.iterdir())[:20]]
    hows = [[view.how for view in step(photo)] for photo in photos]
    assert sum(how[:1] == ["crop"] for how in hows) >= 19 and sum(map(len, hows)) <= 23
    wall = np.random.default_rng(0).integers(80, 161, (600, 800, 3), dtype=np.uint8)
    wall[150:406, 300:556] = photos[0]
    (view,) = step(wall)
    assert view.how == "ffhq" and view.pixels.shape == (256, 256, 3)
    again = cut_quad(wall, ffhq_quad(view.face.landmarks), 256)
    assert np.array_equal(view.pixels, again)
    x0, y0, x1, y1 = view.face.box
    assert 300 < x0 < x1 < 556 and 150 < y0 < y1 < 406
