"""Photos cut out as circles, or with rounded corners: found where they were cut, judged whole, and never made up."""

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from discriminator.regions import region_of
from faces.finding.face import turned
from faces.finding.face_step import FaceStep, photo_of, seen_again
from faces.finding.page import page_about
from faces.finding.pasted import Part
from faces.finding.rounded import RoundedPhoto, circle_about, rounded_about
from faces.normalise import Normalisation, cut
from tests.faces.test_pasted import BLACK, BLUE, GREY, WHITE, Finder, face_of, page, photo, real_photos, saved

SIDE = 200
SIZE = (420, 500)
SMOOTHLY = 4  # times the size at which outlines are drawn


def mask(radius: float, side: int = SIDE) -> Image.Image:
    """Of rounded corners, as Pillow draws them; of half of the side a circle."""
    large = Image.new("L", (SMOOTHLY * side, SMOOTHLY * side), 0)
    box, edge = (0, 0, SMOOTHLY * side - 1, SMOOTHLY * side - 1), SMOOTHLY * radius
    ImageDraw.Draw(large).rounded_rectangle(box, edge, fill=255)
    return large.resize((side, side), Image.Resampling.BOX)


def cut_out(radius: float, x: int, y: int, colour, size: tuple[int, int] = SIZE, pixels=None) -> np.ndarray:
    pixels = photo(SIDE) if pixels is None else pixels
    out = Image.fromarray(page(pixels, x, y, colour, size))
    plain = Image.new("RGB", (len(pixels), len(pixels)), colour)
    plain.paste(Image.fromarray(pixels), (0, 0), mask(radius, len(pixels)))
    out.paste(plain, (x, y))
    return np.asarray(out)


def circle(image: np.ndarray, x: float, y: float, side: float = SIDE) -> RoundedPhoto | None:
    return circle_about(image, page_about(image, face_of(side, x, y)))


def off(found: RoundedPhoto | None, x: float, y: float, side: float = SIDE) -> float:
    assert found is not None
    return float(np.abs(np.subtract((*found.low, *found.high), (x, y, x + side, y + side))).max())


@pytest.mark.parametrize("colour", [WHITE, BLACK, GREY, BLUE])
@pytest.mark.parametrize("x, y", [(103, 77), (0, 0), (300, 220), (0, 110)])
def test_a_circle_on_a_page_is_found(x, y, colour):
    found = circle(cut_out(SIDE / 2, x, y, colour), x, y)
    assert off(found, x, y) <= 1 and found.is_circle and found.radius == pytest.approx(SIDE / 2, abs=1)


@pytest.mark.parametrize("quality", [95, 75, 50])
def test_in_jpeg(quality):
    assert off(circle(saved(cut_out(SIDE / 2, 103, 77, WHITE), quality), 103, 77), 103, 77) <= 2
    alone = saved(cut_out(SIDE / 2, 0, 0, BLACK, (SIDE, SIDE)), quality)
    own = photo_of(alone, face_of(SIDE, 0, 0), None)
    assert isinstance(own.part, RoundedPhoto) and off(own.part, 0, 0) <= 2


def test_in_large_and_reduced_pictures():
    large = cut_out(450, 500, 300, WHITE, (2400, 1800), photo(900))
    assert off(circle(large, 500, 300, 900), 500, 300, 900) <= 2
    half = cv2.resize(large, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    assert off(circle(half, 125, 75, 225), 125, 75, 225) <= 1


def test_among_text_and_other_pictures():
    image = Image.fromarray(cut_out(SIDE / 2, 150, 120, WHITE))
    draw = ImageDraw.Draw(image)
    for line in range(5):
        draw.text((30, 340 + 14 * line), "what a page says of who is shown above, in some lines", fill=0)
    image.paste(Image.fromarray(photo(96, 3)), (380, 30))
    assert off(circle(np.asarray(image), 150, 120), 150, 120) <= 1


@pytest.mark.parametrize("ring, gap", [(6, 0), (4, 5), (3, 0)])
def test_a_drawn_ring_is_no_part_of_the_photo(ring, gap):
    image = Image.fromarray(cut_out(SIDE / 2, 110, 90, WHITE))
    most = ring + gap
    box = (110 - most, 90 - most, 110 + SIDE - 1 + most, 90 + SIDE - 1 + most)
    ImageDraw.Draw(image).ellipse(box, outline=(200, 40, 90), width=ring + 1)
    found = circle(np.asarray(image), 110, 90)
    assert off(found, 110, 90) <= 6 and found.low[0] >= 110 and found.high[1] <= 90 + SIDE


def test_what_fades_into_the_page_is_left_out():
    shape = Image.new("L", (SIDE, SIDE), 0)
    ImageDraw.Draw(shape).ellipse((10, 10, SIDE - 11, SIDE - 11), fill=255)
    image = Image.new("RGB", (SIDE, SIDE), BLUE)
    image.paste(Image.fromarray(photo(SIDE)), (0, 0), shape.filter(ImageFilter.GaussianBlur(5)))
    found = circle(np.asarray(image), 0, 0)
    assert found is not None and 75 <= found.radius <= 90 - 2


@pytest.mark.parametrize("colour", [WHITE, BLACK, GREY, BLUE])
@pytest.mark.parametrize("radius", [12, 24, 48, 70, 100])
@pytest.mark.parametrize("x, y, size", [(0, 0, (SIDE, SIDE)), (103, 77, SIZE)])
def test_rounded_corners_are_found(radius, colour, x, y, size):
    image = cut_out(radius, x, y, colour, size)
    found = rounded_about(image, Part(x, y, x + SIDE, y + SIDE))
    assert off(found, x, y) == 0 and found.radius == pytest.approx(radius, abs=1.5)
    if radius > 24:  # of smaller ones JPEG leaves less than can be told
        assert rounded_about(saved(image, 80), Part(x, y, x + SIDE, y + SIDE)).radius == pytest.approx(radius, abs=4)


def test_of_a_photo_that_is_not_square():
    image = np.full((SIDE, 320, 3), 255, np.uint8)
    image[:] = np.hstack([photo(SIDE), photo(SIDE, 1)])[:, :320]
    shape = Image.new("L", (320, SIDE), 0)
    ImageDraw.Draw(shape).rounded_rectangle((0, 0, 319, SIDE - 1), 30, fill=255)
    image[np.asarray(shape) == 0] = 255
    assert rounded_about(image, Part(0, 0, 320, SIDE)).radius == pytest.approx(30, abs=1.5)


def test_what_lies_beyond_is_what_the_photo_mirrors_there():
    image, own = cut_out(SIDE / 2, 103, 77, WHITE), photo(SIDE)
    filled, there = RoundedPhoto((103, 77), (303, 277), 100).alone(image, face_of(SIDE, 103, 77))
    np.testing.assert_array_equal(there.landmarks, face_of(SIDE, 0, 0).landmarks)
    y, x = np.indices((SIDE, SIDE)) + 0.5 - SIDE / 2
    away = np.hypot(x, y)
    assert (filled == own)[away <= 98].all(), "within nothing changes"
    for row, column in ((0, 0), (5, 190), (180, 12), (199, 199)):  # mirrored at the arc, 1.5 pixels within the cut
        dy, dx = row + 0.5 - 100, column + 0.5 - 100
        reach = np.hypot(dx, dy)
        share = (2 * 98.5 - reach) / reach
        place = cv2.getRectSubPix(own, (1, 1), (99.5 + dx * share, 99.5 + dy * share))[0, 0]
        assert np.abs(filled[row, column].astype(int) - place).max() <= 8
    small, _ = RoundedPhoto((103, 77), (303, 277), 20).alone(image, face_of(SIDE, 103, 77))
    assert (small[30:170] == page(own, 103, 77, WHITE)[107:247, 103:303])[:, 30:170].all()


def test_what_is_cut_straight_is_no_circle():
    for seed in range(4):
        own = photo(SIDE, seed)
        assert circle(page(own, 103, 77, WHITE), 103, 77) is None
        assert rounded_about(page(own, 103, 77, WHITE), Part(103, 77, 303, 277)) is None
        assert rounded_about(own, Part(0, 0, SIDE, SIDE)) is None
        corners = own.copy()
        for rows in (slice(0, 20), slice(180, 200)):
            for columns in (slice(0, 20), slice(180, 200)):
                corners[rows, columns] = 255
        assert rounded_about(corners, Part(0, 0, SIDE, SIDE)) is None, "square notches"
        bevelled = own.copy()
        y, x = np.indices((SIDE, SIDE))
        bevelled[np.minimum(x, SIDE - 1 - x) + np.minimum(y, SIDE - 1 - y) < 40] = 0
        assert rounded_about(bevelled, Part(0, 0, SIDE, SIDE)) is None, "cut straight"
        assert circle(bevelled, 0, 0) is None


def test_a_person_before_a_white_wall_is_no_circle():
    image = Image.new("RGB", (256, 256), (250, 250, 250))
    shape = Image.new("L", (256, 256), 0)
    draw = ImageDraw.Draw(shape)
    draw.ellipse((60, 30, 196, 220), fill=255)
    draw.ellipse((-10, 190, 266, 400), fill=255)
    image.paste(Image.fromarray(photo(256)), (0, 0), shape)
    own = photo_of(np.asarray(image), face_of(256, 0, 0), None)
    assert own.part is None


def test_odd_places():
    for shape in ((1, 1, 3), (2, 300, 3), (300, 2, 3), (40, 40, 3)):
        plain = np.full(shape, 7, np.uint8)
        for x, y, side in ((0, 0, 1), (-9, -9, 400), (500, 500, 100), (10, 10, 2)):
            assert circle(plain, x, y, side) is None
        assert rounded_about(plain, Part(0, 0, shape[1], shape[0])) is None
        RoundedPhoto((-5.0, -5.0), (9.0, 9.0), 7.0).alone(plain, face_of(20, 0, 0))


@pytest.mark.parametrize("radius, words", [(100, "as a circle"), (40, "with rounded corners")])
def test_it_is_judged_whole(radius, words):
    image = cut_out(radius, 103, 77, WHITE)
    (view,) = FaceStep(Finder(face_of(SIDE, 103, 77)))(image)
    assert view.how == "part" and view.pixels.shape == (SIDE, SIDE, 3) and isinstance(view.part, RoundedPhoto)
    assert view.notes() == [f"it is cut out {words}; what lies beyond was filled with what it mirrors"]
    told = view.to_dict(1, 1, "told")
    assert np.abs(np.subtract(told["part"], (103, 77, 303, 277))).max() <= 1
    np.testing.assert_allclose(region_of(told, *image.shape[:2], "none")[0], (103, 77), atol=1)
    np.testing.assert_allclose(view.region, (103, 77, 303, 277), atol=1)
    again = seen_again(view, image[20:, 30:], FaceStep(), scale=1.0, shift=(30, 20))
    np.testing.assert_array_equal(again.pixels, view.pixels)
    pixels, facts = cut(image, Normalisation(resolution=64), Finder(face_of(SIDE, 103, 77)))
    alone, same = cut(view.pixels, Normalisation(resolution=64), Finder(face_of(SIDE, 0, 0)))
    assert np.abs(pixels.astype(int) - alone).mean() < 2


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_of_a_picture_that_lies_on_its_side(turn):
    image, face = cut_out(100, 103, 77, WHITE), face_of(SIDE, 103, 77)
    lying, there = np.ascontiguousarray(np.rot90(image, turn)), turned(face, image.shape, turn)
    (view,) = FaceStep(Finder(there))(lying)
    upright, _ = RoundedPhoto((103.0, 77.0), (303.0, 277.0), 100.0).alone(image, face)
    assert view.pixels.shape == upright.shape and np.abs(view.pixels.astype(int) - upright).mean() < 3
    photo_upright, region = view.upright(lying)
    np.testing.assert_array_equal(photo_upright, image)
    np.testing.assert_allclose(region, (103, 77, 303, 277), atol=1)


def test_real_photos_are_none(shared_dir):
    for path, pixels, faces in real_photos(shared_dir):
        for face in faces[:1]:
            assert not isinstance(photo_of(pixels, face, None).part, RoundedPhoto), path.name
