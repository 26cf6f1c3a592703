"""Bars drawn across a face's photo are filled; what is a photo's own is left."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from faces.finding.bars import without_bars
from faces.finding.face import turned
from faces.finding.face_step import FaceStep, seen_again
from tests.faces.test_pasted import BLACK, BLUE, GREY, WHITE, Finder, face_of, page, photo, saved

SIDE = 256


def barred(top: int, bottom: int, colour=BLACK, text: str = "", x: int = 12, own: np.ndarray | None = None):
    image = Image.fromarray(photo(SIDE) if own is None else own)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, top, image.width - 1, bottom - 1), fill=colour)
    draw.text((x, (top + bottom) // 2 - 6), text, fill=tuple(255 - c // 2 for c in colour))
    return np.asarray(image)


@pytest.mark.parametrize("colour", [WHITE, BLACK, BLUE, (200, 20, 30)])
@pytest.mark.parametrize("top, bottom", [(160, 186), (205, 238), (40, 60)])
@pytest.mark.parametrize("quality", [None, 95])
def test_a_bar_with_text_is_filled(colour, top, bottom, quality):
    for text, x in (("", 0), ("ALEX MILLER, CEO", 12), ("what somebody says of it", 80)):
        image = barred(top, bottom, colour, text, x)
        image = image if quality is None else saved(image, quality)
        out, count = without_bars(image, face_of(SIDE, 0, 0))
        rows = np.flatnonzero((out != image).any((1, 2)))
        assert count == 1 and abs(rows[0] - top) <= 3 and abs(rows[-1] + 1 - bottom) <= 3
        away = np.abs(out[top:bottom].astype(int) - colour).max(-1)
        assert (away <= 4).mean() < 0.1, "nothing of the bar is left"


def test_it_is_filled_with_what_lies_above_and_below():
    own = np.empty((SIDE, SIDE, 3), np.uint8)
    own[:] = np.random.default_rng(0).integers(0, 256, (1, SIDE, 3))  # the same in all lines
    out, count = without_bars(barred(160, 190, BLACK, "text", own=own), face_of(SIDE, 0, 0))
    assert count == 1 and np.abs(out.astype(int) - own).max() <= 1


def test_two_bars_are_filled():
    image = barred(30, 55, WHITE, "above", own=barred(200, 226, BLACK, "below"))
    _, count = without_bars(image, face_of(SIDE, 0, 0))
    assert count == 2


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_of_a_photo_that_lies_on_its_side(turn):
    image, face = barred(160, 186, BLACK, "some text"), face_of(SIDE, 0, 0)
    upright, _ = without_bars(image, face)
    lying, count = without_bars(np.ascontiguousarray(np.rot90(image, turn)), turned(face, image.shape, turn))
    assert count == 1
    np.testing.assert_array_equal(lying, np.rot90(upright, turn))


def test_what_is_no_bar_is_left():
    for seed in range(4):
        own, face = photo(SIDE, seed), face_of(SIDE, 0, 0)
        assert without_bars(own, face)[0] is own
        part = own.copy()
        part[160:186, :200] = 0
        assert without_bars(part, face)[1] == 0, "not across all of it"
        tall = own.copy()
        tall[120:220] = 40
        assert without_bars(tall, face)[1] == 0, "too much to be filled"
        thin = own.copy()
        thin[160:166] = 0
        assert without_bars(thin, face)[1] == 0, "a line"
        noise = np.random.default_rng(seed).normal(60, 6, (26, SIDE, 1))
        rough = own.copy()
        rough[160:186] = noise.clip(0, 255)
        assert without_bars(rough, face)[1] == 0, "a thing in the photo, of no one colour"
        end = own.copy()
        end[230:] = 0
        assert without_bars(end, face)[1] == 0, "a bar at the photo's end is its page (faces.finding.pasted)"


def test_beyond_the_frame_nothing_is_filled():
    high = np.vstack([photo(SIDE), photo(SIDE, 1), photo(SIDE, 2)])
    high[700:730] = 0
    assert without_bars(high, face_of(SIDE, 0, 0))[1] == 0


def test_odd_places():
    for shape in ((1, 1, 3), (2, 300, 3), (300, 2, 3), (40, 40, 3)):
        plain = np.full(shape, 7, np.uint8)
        for x, y, side in ((0, 0, 1), (-9, -9, 400), (500, 500, 100), (10, 10, 2)):
            assert without_bars(plain, face_of(side, x, y))[1] == 0


def test_the_verdicts_note_says_so():
    image = barred(160, 186, BLACK, "some text")
    (view,) = FaceStep(Finder(face_of(SIDE, 0, 0)))(image)
    told = "a bar across it was filled with what lies above and below"
    assert view.how == "crop" and view.notes() == [told]
    np.testing.assert_array_equal(view.pixels, without_bars(image, face_of(SIDE, 0, 0))[0])
    np.testing.assert_array_equal(seen_again(view, image, FaceStep(), scale=1.0, shift=(0, 0)).pixels, view.pixels)
    (there,) = FaceStep(Finder(face_of(SIDE, 60, 40)))(page(image, 60, 40, GREY, (400, 400)))
    assert there.how == "part" and there.notes()[1:] == [told]
    np.testing.assert_array_equal(there.pixels, view.pixels)
    two = barred(30, 55, WHITE, "above", own=image)
    (both,) = FaceStep(Finder(face_of(SIDE, 0, 0)))(two)
    assert both.notes() == ["2 bars across it were filled with what lies above and below"]
    (plain,) = FaceStep(Finder(face_of(SIDE, 0, 0)))(photo(SIDE))
    assert not plain.notes() and not plain.bars
