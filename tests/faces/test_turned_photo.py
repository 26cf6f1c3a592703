"""Photos that lie turned in plain pictures: found where they were put, turned upright, and never made up."""

import cv2
import numpy as np
import pytest

from discriminator.regions import region_of
from faces.finding.align import Face, FaceFinder
from faces.finding.face import taken
from faces.finding.face_step import FaceStep, photo_of, seen_again
from faces.finding.turned_photo import TurnedPhoto, turned_photo_about
from faces.normalise import Normalisation, cut
from tests.faces.test_pasted import BLACK, BLUE, GREY, WHITE, face_of, photo, saved

SIDE = 200


def turned_by(degrees: float, middle: tuple[float, float], scale: float = 1.0) -> np.ndarray:
    """float64 [2, 3]: takes a photo's points, turned counter-clockwise about its middle, to a picture."""
    matrix = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), degrees, scale)
    matrix[:, 2] += np.array(middle) - SIDE / 2
    return matrix


def picture(matrix: np.ndarray, colour=GREY, size: tuple[int, int] = (420, 400), pixels=None) -> np.ndarray:
    there = matrix.copy()
    there[:, 2] += matrix[:, :2] @ [0.5, 0.5] - 0.5  # OpenCV counts from the middle of the first pixel
    return cv2.warpAffine(
        photo(SIDE) if pixels is None else pixels, there, size, flags=cv2.INTER_CUBIC, borderValue=colour
    )


def corners_of(matrix: np.ndarray) -> np.ndarray:
    return np.array([(0, 0), (SIDE, 0), (SIDE, SIDE), (0, SIDE)]) @ matrix[:, :2].T + matrix[:, 2]


class Finder:
    """Sees a face where it lies in the picture, but less turned, as YuNet does; in a photo alone, as it is."""

    name = "told"
    model = None

    def __init__(self, face: Face, shape: tuple[int, ...]):
        self.face, self.shape = face, shape

    def find(self, image: np.ndarray) -> list[Face]:
        return [self.face if image.shape == self.shape else face_of(len(image), 0, 0)]


def drawn(matrix: np.ndarray, view) -> np.ndarray:
    """float64: what the photo that `matrix` put into a picture has where a view of it lies."""
    (first, second, _, last), (height, width) = view.part.corners, view.pixels.shape[:2]
    u, v = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    places = first + u[..., None] * (second - first) + v[..., None] * (last - first)
    x, y = ((places - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T - 0.5).astype(np.float32).transpose(2, 0, 1)
    return cv2.remap(photo(SIDE), x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE).astype(float)


def scene(degrees: float, colour=GREY, middle=(190.0, 215.0)):
    matrix = turned_by(degrees, middle)
    image = picture(matrix, colour)
    seen = taken(face_of(SIDE, 0, 0), turned_by(0.4 * degrees, middle))
    return matrix, image, seen, FaceStep(Finder(seen, image.shape))


def same_corners(found: np.ndarray, expected: np.ndarray) -> float:
    """By how far a photo's corners are missed, whichever of them comes first."""
    return min(float(np.abs(np.roll(found, k, 0) - expected).max()) for k in range(4))


@pytest.mark.parametrize("colour", [WHITE, BLACK, GREY, BLUE])
@pytest.mark.parametrize("degrees", [-40, -25, -8, 2, 5, 15, 25, 33, 45])
def test_a_turned_photo_on_a_page_is_found(degrees, colour):
    matrix, image, seen, _ = scene(degrees, colour)
    found = turned_photo_about(image, seen)
    assert same_corners(found.corners, corners_of(matrix)) <= 5


@pytest.mark.parametrize("quality", [95, 90, 70, 50])
def test_it_is_found_in_jpeg(quality):
    matrix, image, seen, _ = scene(25, WHITE)
    assert same_corners(turned_photo_about(saved(image, quality), seen).corners, corners_of(matrix)) <= 6


@pytest.mark.parametrize("degrees", [-25, 10, 25])
def test_a_photo_turned_in_place_is_found_by_its_plain_corners(degrees):
    matrix = turned_by(degrees, (SIDE / 2, SIDE / 2))
    image = picture(matrix, BLACK, (SIDE, SIDE))
    found = turned_photo_about(image, taken(face_of(SIDE, 0, 0), turned_by(degrees / 2, (SIDE / 2, SIDE / 2))))
    assert same_corners(found.corners, corners_of(matrix)) <= 5


def test_a_large_photo_is_looked_at_reduced():
    big, scale = cv2.resize(photo(SIDE), (1600, 1600), interpolation=cv2.INTER_CUBIC), 8
    matrix = cv2.getRotationMatrix2D((800, 800), 20, 1)
    matrix[:, 2] += 500
    image = cv2.warpAffine(big, matrix, (2600, 2600), flags=cv2.INTER_CUBIC, borderValue=WHITE)
    expected = np.array([(0, 0), (1600, 0), (1600, 1600), (0, 1600)]) @ matrix[:, :2].T + matrix[:, 2]
    found = turned_photo_about(image, taken(face_of(1600, 0, 0), matrix))
    assert same_corners(found.corners, expected) <= 3 * scale


def test_what_else_is_on_the_page_does_not_hide_it():
    matrix, image, seen, _ = scene(20, WHITE, (170, 180))
    for line in range(6):
        cv2.putText(image, "a caption below the photo", (10, 330 + 14 * line), 0, 0.5, BLACK, 1)
    assert same_corners(turned_photo_about(image, seen).corners, corners_of(matrix)) <= 5


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_it_is_judged_upright_and_alone(turn):
    """As it was before it was turned, but for what two interpolations take."""
    matrix, image, seen, step = scene(25, BLACK)
    (view,) = step(image)
    assert view.how == "part" and isinstance(view.part, TurnedPhoto)
    assert "it lies turned in a larger picture, the rest of which was left out" in view.notes()
    assert np.abs(view.pixels - drawn(matrix, view))[2:-2, 2:-2].mean() < 5  # of 43 between neighbours' blocks
    moved = view.part.turned(image.shape, turn)
    np.testing.assert_allclose(
        moved.upright(np.ascontiguousarray(np.rot90(image, turn)))[0].astype(int), view.pixels, atol=2
    )


@pytest.mark.parametrize("prepared", [False, True])
def test_its_pixels_are_drawn_once(prepared, monkeypatch):
    """Finding the face upright draws the photo; what is judged or written is that drawing."""
    _, image, seen, step = scene(25, WHITE)
    drawn, upright = [], TurnedPhoto.upright
    monkeypatch.setattr(TurnedPhoto, "upright", lambda self, picture: drawn.append(1) or upright(self, picture))
    if prepared:
        cut(image, Normalisation(resolution=64), step.finder)
    else:
        step(image)
    assert len(drawn) == 1


def test_where_it_lies_is_told_for_maps():
    matrix, image, _, step = scene(-20, WHITE)
    told = step(image)[0].to_dict(1, 1, "told")
    assert told["seen_as"] == "part" and same_corners(np.array(told["part"]), corners_of(matrix)) <= 5
    np.testing.assert_allclose(region_of(told, *image.shape[:2], "center"), told["part"], atol=2)


def test_the_face_is_where_it_is():
    matrix, image, _, step = scene(25)
    np.testing.assert_allclose(step(image)[0].face.landmarks, taken(face_of(SIDE, 0, 0), matrix).landmarks, atol=3)


def test_it_is_seen_the_same_way_again():
    _, image, _, step = scene(25, GREY)
    (view,) = step(image)
    half = cv2.resize(image[16:, 8:], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    again = seen_again(view, half, step, scale=0.5, shift=(8, 16))
    small = cv2.resize(view.pixels, again.pixels.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert again.how == "part" and abs(len(again.pixels) - len(view.pixels) / 2) <= 1
    assert np.abs(again.pixels.astype(float) - small)[4:-4, 4:-4].mean() < 10  # a pixel less at the edges; of 43


def test_prepared_photos_are_turned_upright():
    _, image, seen, step = scene(25, WHITE)
    recipe, (view,) = Normalisation(resolution=64), step(image)
    alone, told = cut(view.pixels, recipe, Finder(face_of(len(view.pixels), 0, 0), view.pixels.shape))
    cut_out, facts = cut(image, recipe, Finder(seen, image.shape))
    np.testing.assert_allclose(cut_out.astype(int), alone, atol=1)
    assert facts == told


def test_an_aligned_photo_that_ended_keeps_its_corners():
    """As sets are aligned whose photos end near the face: turned so that the face is upright, black beyond."""
    image = picture(turned_by(12, (140, 140)), BLACK, (280, 280))
    upright = face_of(280, 0, 0)
    found = turned_photo_about(image, upright)
    leaning = taken(upright, found.upright(image)[1])  # what is found once the photo is turned back

    class Both(Finder):
        def find(self, image: np.ndarray) -> list[Face]:
            return [self.face if image.shape == self.shape else leaning]

    own = photo_of(image, upright, Both(upright, image.shape))
    assert own.face is own.there is upright and own.part is None and own.pixels is image


def test_a_face_that_is_none_once_the_photo_is_upright_is_left_as_it_was():
    _, image, seen, step = scene(25)
    nothing = Face(face_of(SIDE, 0, 0).box, np.full((5, 2), 100, np.float32), 0.9)
    for again in ([], [nothing]):

        class Other(Finder):
            def find(self, image: np.ndarray, again=again) -> list[Face]:
                return [self.face] if image.shape == self.shape else again

        own = photo_of(image, seen, Other(seen, image.shape))
        assert own.face is own.there is seen and own.part is None and own.pixels is image


def test_what_is_no_turned_photo_is_left():
    face = face_of(SIDE, 100, 100)
    studio = np.full((400, 400, 3), 255, np.uint8)  # a head before a white wall
    cv2.ellipse(studio, (200, 220), (75, 105), 20, 0, 360, (150, 110, 90), -1)
    triangle = np.full((400, 400, 3), 128, np.uint8)
    cv2.fillPoly(triangle, [np.array([[40, 380], [200, 20], [360, 380]])], (20, 90, 160))
    for image in (studio, triangle, photo(400), np.zeros((400, 400, 3), np.uint8)):
        assert turned_photo_about(image, face) is None
    assert turned_photo_about(studio, Face((10, 10, 60, 60), None, 0.9)) is None, "no landmarks"
    assert turned_photo_about(studio, Face((10, 10, 60, 60), np.full((5, 2), 20, np.float32), 0.9)) is None
    assert turned_photo_about(np.zeros((8, 8, 3), np.uint8), face_of(8, 0, 0)) is None


def test_real_faces_turned_on_pages(shared_dir):
    """Photos of flickr140k, found by YuNet; by themselves none of them is taken for a turned photo."""
    model = shared_dir / "weights" / "face_detection_yunet_2023mar.onnx"
    folder = shared_dir / "data/flickr140k/real_vs_fake/real-vs-fake/valid"
    if not model.is_file() or not folder.is_dir():
        pytest.skip("no YuNet or no photos")
    from faces.decode import load_image

    step, missed = FaceStep(FaceFinder.open(model), 256), 0
    files = [path for label in ("real", "fake") for path in sorted((folder / label).iterdir())[:12]]
    for path in files:
        pixels = cv2.resize(load_image(path), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        assert step(pixels)[0].part is None
        image = saved(picture(turned_by(25, (190, 215)), (200, 190, 170), pixels=pixels), 90)
        view = step(image)[0]
        missed += view.part is None or same_corners(view.part.corners, corners_of(turned_by(25, (190, 215)))) > 6
    assert missed <= 1
