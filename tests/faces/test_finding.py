"""All faces of a photo, at every size and every way up; where they lie is known, since they were put there."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from faces.decode import load_image
from faces.finding import align
from faces.finding.align import FaceFinder
from faces.finding.face import Face, found_in_turned, turned, turned_points
from faces.finding.face_step import FaceStep
from faces.finding.frame import ffhq_quad
from faces.finding.looks import covered, merged, overlap, sides, without_parts
from faces.finding.turns import MARGIN, MOST, SURE, best_of_four, in_words
from faces.finding.yunet import BUNDLED


def face(x0: float, y0: float, side: float, score: float = 0.9) -> Face:
    points = np.array([[0.35, 0.4], [0.65, 0.4], [0.5, 0.6], [0.4, 0.75], [0.6, 0.75]], np.float32)
    return Face((x0, y0, x0 + side, y0 + side), points * side + np.float32([x0, y0]), score)


# ---- several sizes ----------------------------------------------------------------------------------------------


def test_more_pixels_are_looked_at_more_often():
    assert [sides(n) for n in (64, 256, 380, 400, 640, 700, 1920, 4000)] == [
        [320], [320], [320], [320, 640], [320, 640], [320, 640], [320, 640, 1280], [320, 640, 1280, 2560],
    ]  # fmt: skip


def test_one_face_of_several_looks_is_one_face():
    coarse, fine, small = face(100, 100, 600, 0.91), face(110, 90, 590, 0.95), face(900, 50, 40, 0.8)
    found = merged([(3.0, [coarse]), (1.0, [fine, small])])
    assert len(found) == 2 and coarse in found and small in found  # 200 px in the coarse look, 590 in the fine one
    tiny, better = face(900, 50, 45, 0.75), face(902, 52, 44, 0.92)
    assert merged([(3.0, [tiny]), (1.0, [better])]) == [better]  # 15 px in the coarse look


def test_a_mouth_is_no_face_and_a_crowd_not_one():
    whole, mouth = face(0, 0, 300, 0.93), face(100, 180, 80, 0.72)
    assert without_parts([mouth, whole]) == [whole]
    crowd, people = face(0, 0, 300, 0.71), [face(10, 10, 60), face(200, 20, 60), face(90, 220, 60)]
    assert sorted(f.box for f in without_parts([crowd, *people])) == sorted(f.box for f in people)
    assert overlap(whole, whole) == 1 and overlap(face(0, 0, 10), face(20, 0, 10)) == 0


def test_what_frames_cover_is_their_area():
    square = np.array([[0, 0], [0, 50], [50, 50], [50, 0]], float)
    assert covered([square], 100, 100) == pytest.approx(0.25, abs=0.01)
    assert covered([square, square + [25, 0]], 100, 100) == pytest.approx(0.375, abs=0.02)
    tilted = np.array([[50, 0], [0, 50], [50, 100], [100, 50]], float)  # on its corner: half of the photo
    assert covered([tilted], 100, 100) == pytest.approx(0.5, abs=0.04) and covered([], 9, 9) == 0


# ---- who is looked at anew --------------------------------------------------------------------------------------


def test_doubtful_faces_are_looked_at_anew_behind_any_number_of_sure_ones(monkeypatch):
    seen = {"doubtful": [], "sure": []}
    for name, list_ in (("best_way_up", seen["doubtful"]), ("levelled", seen["sure"])):
        monkeypatch.setattr(align, name, lambda image, one, look, to=list_: to.append(one) or one)
    sure = [face(40 * k, 0, 30 - 0.1 * k, SURE + 0.01) for k in range(40)]
    doubtful = [face(40 * k, 100, 10, SURE - 0.01) for k in range(3)]
    FaceFinder(BUNDLED)._upright(np.zeros((200, 1700, 3), np.uint8), doubtful + sure)
    assert seen == {"doubtful": doubtful, "sure": sure[:MOST]}


# ---- four ways up -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", range(4))
def test_points_go_where_the_pixels_go(turn):
    image = np.zeros((30, 47), np.uint8)
    image[7, 21] = 255
    (there,) = turned_points(np.array([[21.5, 7.5]]), image.shape, turn)
    y, x = np.argwhere(np.rot90(image, turn))[0]
    assert there.tolist() == [x + 0.5, y + 0.5]
    one = face(3, 5, 20)
    back = found_in_turned(turned(one, image.shape, turn), image.shape, turn)
    assert back.box == one.box and back.turn == 0
    np.testing.assert_allclose(back.landmarks, one.landmarks, atol=1e-5)
    assert turned(one, image.shape, turn).turn == (-turn) % 4


def test_the_better_way_up_is_taken_and_no_difference_is_told():
    image = np.zeros((200, 300, 3), np.uint8)
    scores = {0: 0.88, 2: 0.94}

    def look(part, side, calls=[0]):  # noqa: B006
        turn, calls[0] = calls[0] % 4, calls[0] + 1
        height, width = part.shape[:2]
        inside = face(width / 2 - 30, height / 2 - 30, 60, scores.get(turn, 0))
        return [inside] if turn in scores else []

    best = best_of_four(image, face(120, 70, 60, 0.88), look)
    assert best.turn == 2 and not best.any_way_up and best.score == 0.94
    assert np.abs(np.array(best.box) - [120, 70, 180, 130]).max() <= 2
    scores[2] = 0.88 + MARGIN / 2
    assert best_of_four(image, face(120, 70, 60, 0.88), look).any_way_up
    assert [bool(in_words(turn)) for turn in range(4)] == [False, True, True, True]


# ---- on photos --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finder(shared_dir):
    return FaceFinder.open(shared_dir / "weights/face_detection_yunet_2023mar.onnx")


@pytest.fixture(scope="module")
def photos(shared_dir):
    folder = shared_dir / "data/flickr140k/real_vs_fake/real-vs-fake/valid"
    files = [p for label in ("real", "fake") for p in sorted((folder / label).iterdir())[::100]]
    if not files:
        pytest.skip("no flickr140k")
    return [load_image(path) for path in files]


def test_a_big_face_hides_no_small_one(photos, finder):
    scene = np.full((1080, 1920, 3), 125, np.uint8)
    scene[300:900, 200:800] = cv2.resize(photos[0], (600, 600), interpolation=cv2.INTER_CUBIC)
    places = [(x, y) for y in (40, 160) for x in range(900, 1800, 150)]
    for i, (x, y) in enumerate(places):
        small = cv2.resize(photos[1 + i % 4], (96, 96), interpolation=cv2.INTER_AREA)
        scene[y : y + 96, x : x + 96] = small
    found = finder.find(scene)
    assert len(found) == 13
    middles = np.array([ffhq_quad(f.landmarks).mean(0) for f in found[1:]])
    for x, y in places:
        assert np.abs(middles - [x + 48, y + 48]).max(1).min() < 12


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_turned_crops_are_the_same_pixels(photos, finder, turn):
    step = FaceStep(finder, 256)
    for photo in photos[:5]:
        lying = np.ascontiguousarray(np.rot90(photo, -turn))
        view = step(lying)[0]
        assert view.how == "crop" and view.turn == turn and np.array_equal(view.pixels, photo)
        assert view.to_dict(1, 1, "x")["turned"] == 90 * turn and view.notes()
        assert np.array_equal(view.upright(lying)[0], photo)


def test_a_group_that_lies_is_found_whole(photos, finder):
    scene = np.random.default_rng(0).integers(80, 161, (500, 900, 3), dtype=np.uint8)
    for i, (x, y) in enumerate([(20, 30), (300, 200), (600, 40)]):
        scene[y : y + 256, x : x + 256] = photos[i]
    upright = finder.find(scene)
    lying = np.ascontiguousarray(np.rot90(scene))
    found = finder.find(lying)
    assert len(found) == len(upright) == 3 and {f.turn for f in found} == {3}
    back = sorted(turned(f, lying.shape, 3).box for f in found)
    np.testing.assert_allclose(back, sorted(f.box for f in upright), atol=15)
    views = FaceStep(finder, 256)(lying)
    assert [view.how for view in views] == ["ffhq"] * 3
    image, region = views[0].upright(lying)
    assert image.shape == scene.shape and region[2] - region[0] == pytest.approx(views[0].side, abs=1)


def test_upright_photos_stay_as_they_are(photos, finder):
    for photo in photos:
        first = finder.find(photo)[0]
        assert first.turn == 0 and not first.any_way_up
    assert 0 < SURE < 1


@pytest.mark.parametrize("name, faces", [("group_1920_13faces.jpg", 13), ("square_portrait_plus3.jpg", 4)])
def test_the_reported_photos(shared_dir, finder, name, faces):
    path = shared_dir / "cases/faces" / name
    if not path.is_file():
        pytest.skip("no such case")
    views = FaceStep(finder, 256)(load_image(path))
    assert len(views) == faces
    assert views[0].how == ("crop" if "square" in name else "part")  # the group is put together on a plain page


@pytest.mark.bundled
def test_yunet_comes_with_the_checkout_and_haar_can_be_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("FACES_CACHE", str(tmp_path))
    monkeypatch.delenv("FACES_FACE_MODEL", raising=False)
    assert FaceFinder.open(allow_download=False).name == "yunet-2023mar"
    assert FaceFinder.open("haar").name == "haar"
    monkeypatch.setenv("FACES_FACE_MODEL", "haar")
    assert FaceFinder.open(allow_download=False).name == "haar"
