"""Photos that lie in plain pictures: found to the pixel, judged as if they had come alone, and never made up."""

import io
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from discriminator.regions import region_of
from faces.decode import load_image
from faces.finding.align import Face, FaceFinder
from faces.finding.face import turned
from faces.finding.face_step import FaceStep, seen_again
from faces.finding.frame import ffhq_quad
from faces.finding.pasted import Part, _trend, photo_about
from faces.normalise import Normalisation, cut

WHITE, BLACK, GREY, BLUE = (255, 255, 255), (0, 0, 0), (128, 128, 128), (30, 60, 150)
LANDMARKS = np.array([[0.38, 0.47], [0.62, 0.47], [0.5, 0.6], [0.4, 0.72], [0.6, 0.72]])


def photo(side: int = 200, seed: int = 0) -> np.ndarray:
    """Rough everywhere, as photos are."""
    small = np.random.default_rng(seed).integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
    return cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)


def face_of(side: float, x: float, y: float) -> Face:
    """A face as it lies in an aligned crop of `side` pixels whose upper left corner is at (x, y)."""
    box = (x + 0.3 * side, y + 0.25 * side, x + 0.7 * side, y + 0.82 * side)
    return Face(box, (LANDMARKS * side + [x, y]).astype(np.float32), 0.9)


def page(pixels: np.ndarray, x: int, y: int, colour: tuple[int, ...], size: tuple[int, int] = (420, 500)) -> np.ndarray:
    out = np.empty((*size, 3), np.uint8)
    out[:] = colour
    out[y : y + len(pixels), x : x + pixels.shape[1]] = pixels
    return out


def saved(image: np.ndarray, quality: int) -> np.ndarray:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=quality)
    return np.asarray(Image.open(out))


class Finder:
    name = "told"
    model = None

    def __init__(self, *faces: Face):
        self.faces = list(faces)

    def find(self, image: np.ndarray) -> list[Face]:
        return self.faces


@pytest.mark.parametrize("colour", [WHITE, BLACK, GREY, BLUE])
@pytest.mark.parametrize("x, y", [(0, 0), (103, 77), (300, 220), (0, 110)])
def test_a_photo_on_a_page_is_found_to_the_pixel(x, y, colour):
    assert photo_about(page(photo(), x, y, colour), face_of(200, x, y)) == (x, y, x + 200, y + 200)


@pytest.mark.parametrize("quality", [95, 75, 50])
def test_it_is_found_in_jpeg(quality):
    found = photo_about(saved(page(photo(), 104, 80, WHITE), quality), face_of(200, 104, 80))
    assert np.abs(np.array(found) - [104, 80, 304, 280]).max() <= 2
    odd = photo_about(saved(page(photo(), 101, 83, GREY), quality), face_of(200, 101, 83))
    assert np.abs(np.array(odd) - [101, 83, 301, 283]).max() <= 2


def test_of_a_larger_photo_only_the_edges_near_the_face_count():
    wide = np.hstack([photo(200, k) for k in range(4)])
    image = np.vstack([np.full((90, 800, 3), 0, np.uint8), wide, np.full((60, 800, 3), 0, np.uint8)])
    assert photo_about(image, face_of(200, 300, 90)) == (0, 90, 800, 290), "between two bars"


def test_text_beside_the_photo_does_not_hide_its_edge():
    image = Image.fromarray(page(photo(), 60, 110, WHITE, (420, 500)))
    draw = ImageDraw.Draw(image)
    for line in range(12):
        draw.text((285, 20 + 30 * line), "some words of a page beside the photo", fill=0)
        draw.text((20, 6 + 8 * line), "and a headline above it", fill=0)
    assert photo_about(np.asarray(image), face_of(200, 60, 110)) == (60, 110, 260, 310)


@pytest.mark.parametrize("length", [6, 31, 32, 77, 256])
def test_a_lines_trend_goes_through_its_halves_medians(length):
    lines = np.random.default_rng(0).integers(0, 256, (5, 3, length), dtype=np.uint8)
    step, half = max(1, length // 32), length // 2
    left, right = (np.median(part[..., ::step], -1) for part in (lines[..., :half], lines[..., half:]))
    share = np.arange(length) / length * 2 - 0.5  # 0 in the middle of the left half, 1 in that of the right
    expected = left[..., None] + share * (right - left)[..., None]
    np.testing.assert_allclose(_trend(lines), expected, rtol=0, atol=1e-4)


def test_a_picture_seen_with_its_colours_turned_round():
    picture = page(photo(), 110, 90, BLUE)
    face = face_of(200, 110, 90)
    there = np.ascontiguousarray(picture[..., ::-1])[..., ::-1]
    assert photo_about(there, face) == photo_about(picture, face) == Part(110, 90, 310, 290)


def test_what_has_no_straight_edge_is_the_photos_own():
    studio = np.full((300, 300, 3), 255, np.uint8)  # a head before a white wall
    cv2.ellipse(studio, (150, 170), (75, 105), 0, 0, 360, (150, 110, 90), -1)
    rough = photo(300)
    sky = rough.copy()  # an even sky, into which the photo goes over softly
    share = np.clip((np.arange(300) - 40) / 60, 0, 1)[:, None, None]
    sky = (share * rough + (1 - share) * np.array([120, 170, 230])).astype(np.uint8)
    for image in (rough, studio, sky):
        assert photo_about(image, face_of(300, 0, 0)) is None


def test_odd_places_are_no_photo():
    plain = np.full((100, 100, 3), 7, np.uint8)
    for face in (
        face_of(100, 0, 0),
        face_of(100, -90, 40),
        face_of(100, 300, 300),
        face_of(9, 50, 50),
        Face((10, 10, 60, 60), None, 0.9),
        Face((10, 10, 60, 60), np.full((5, 2), 20, np.float32), 0.9),
    ):
        assert photo_about(plain, face) is None
    low = page(photo(64), 20, 20, WHITE, (90, 110))
    assert photo_about(low, Face((30, 95, 60, 140), None, 0.9)) is None, "a box below the picture"


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_the_crop_on_a_page_is_what_is_judged(turn):
    upright, face = page(photo(), 130, 90, GREY), face_of(200, 130, 90)
    lying = np.ascontiguousarray(np.rot90(upright, -turn))
    there = turned(face, upright.shape, -turn)
    (view,) = FaceStep(Finder(there))(lying)
    assert view.how == "part" and view.turn == turn and np.array_equal(view.pixels, photo())
    assert view.notes()[-1].startswith("it lies in a larger picture")
    assert view.upright(lying)[1] == (130, 90, 330, 290) and view.side == 200
    told = view.to_dict(1, 1, "told")
    x0, y0, x1, y1 = told["part"]
    assert np.array_equal(np.rot90(lying[y0:y1, x0:x1], turn), photo())
    corners = region_of(told, *lying.shape[:2], "center")
    assert {tuple(corner) for corner in corners.tolist()} == {(x0, y0), (x1, y0), (x1, y1), (x0, y1)}


def test_it_is_seen_the_same_way_again():
    image = page(photo(), 120, 80, BLACK)
    step = FaceStep(Finder(face_of(200, 120, 80)))
    (view,) = step(image)
    half = cv2.resize(image[16:, 8:], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    again = seen_again(view, half, step, scale=0.5, shift=(8, 16))
    assert again.how == "part" and again.part == (56, 32, 156, 132)
    assert np.array_equal(again.pixels, half[32:132, 56:156])
    gone = Part(120, 80, 320, 280).moved(0.5, (400, 16), (20, 20))
    assert gone.of(np.zeros((20, 20, 3))).size > 0


def test_a_larger_photo_on_a_page_is_cut_as_if_it_were_alone():
    """What the frame reaches over the photo's edge is mirrored, as of any photo; nothing of the page is seen."""
    tight, step_side = photo(160), 256
    alone = FaceStep(Finder(face_of(260, -50, -40)), step_side)(tight)[0]
    pasted = FaceStep(Finder(face_of(260, 70, 60)), step_side)(page(tight, 120, 100, WHITE))[0]
    assert pasted.how == alone.how == "ffhq" and pasted.part == (120, 100, 280, 260)
    np.testing.assert_allclose(pasted.pixels.astype(int), alone.pixels, atol=1)  # landmarks are float32


def test_prepared_photos_leave_the_page_out(tmp_path):
    recipe = Normalisation(resolution=64)
    tight = photo(160)
    alone, facts = cut(tight, recipe, Finder(face_of(200, -20, -20)))
    pasted, told = cut(page(tight, 120, 100, WHITE), recipe, Finder(face_of(200, 100, 80)))
    np.testing.assert_array_equal(pasted, alone)
    assert told == facts


def test_real_faces_on_pages(shared_dir):
    """Photos of flickr140k on pages, found by YuNet; by themselves none of them is taken for a photo on a page. (On a
    white page some that are white at their edges can't be told from it.)"""
    model = shared_dir / "weights" / "face_detection_yunet_2023mar.onnx"
    folder = shared_dir / "data/flickr140k/real_vs_fake/real-vs-fake/valid"
    if not model.is_file() or not folder.is_dir():
        pytest.skip("no YuNet or no photos")
    step = FaceStep(FaceFinder.open(model), 256)
    files: list[Path] = [path for label in ("real", "fake") for path in sorted((folder / label).iterdir())[:20]]
    off = []
    for path in files:
        pixels = load_image(path)
        assert step(pixels)[0].part is None
        view = step(saved(page(pixels, 128, 96, BLUE, (480, 512)), 90))[0]
        off.append(99 if view.how != "part" else int(np.abs(np.array(view.part) - [128, 96, 384, 352]).max()))
    assert np.median(off) <= 1 and sum(n > 3 for n in off) <= 2  # of a coloured page JPEG's chroma bleeds over


def test_quads_of_the_drawn_faces_are_their_photos():
    quad = ffhq_quad(face_of(200, 0, 0).landmarks)
    assert np.abs(quad - [[0, 0], [0, 200], [200, 200], [200, 0]]).max() < 12


def rounded(pixels: np.ndarray, radius: int) -> Image.Image:
    """Where a photo with rounded corners is opaque."""
    mask = Image.new("L", pixels.shape[1::-1], 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, pixels.shape[1] - 1, pixels.shape[0] - 1), radius, fill=255)
    return mask


def off(image: np.ndarray, face: Face, x: int, y: int, side: int = 200) -> int:
    """By how many pixels a photo is missed; 999 where it is not found."""
    found = photo_about(image, face)
    return 999 if found is None else int(np.abs(np.array(found) - [x, y, x + side, y + side]).max())


@pytest.mark.parametrize("colour", [WHITE, BLACK, GREY, BLUE])
@pytest.mark.parametrize("quality", [30, 50, 75])
def test_it_is_found_where_a_codecs_colours_reach_over_its_edges(colour, quality):
    """Blocks of 16 pixels of the colours, in which the photo does not lie."""
    assert off(saved(page(photo(), 101, 83, colour), quality), face_of(200, 101, 83), 101, 83) <= 3


@pytest.mark.parametrize("radius", [8, 16, 24, 40])
@pytest.mark.parametrize("quality", [None, 80])
def test_rounded_corners(radius, quality):
    image = Image.new("RGB", (500, 420), WHITE)
    image.paste(Image.fromarray(photo()), (101, 83), rounded(photo(), radius))
    pixels = np.asarray(image) if quality is None else saved(np.asarray(image), quality)
    assert off(pixels, face_of(200, 101, 83), 101, 83) <= 3


@pytest.mark.parametrize("blur, opacity, radius", [(12, 90, 0), (20, 120, 0), (12, 80, 16)])
def test_drop_shadows(blur, opacity, radius):
    image, shadow = Image.new("RGB", (420, 500), WHITE), Image.new("L", (420, 500), 0)
    ImageDraw.Draw(shadow).rounded_rectangle((101, 89, 301, 289), radius, fill=opacity)
    image.paste(BLACK, (0, 0), shadow.filter(ImageFilter.GaussianBlur(blur)))
    image.paste(Image.fromarray(photo()), (101, 83), rounded(photo(), radius))
    assert off(np.asarray(image), face_of(200, 101, 83), 101, 83) <= 3


@pytest.mark.parametrize("thick", [1, 2, 3])
def test_thin_frames(thick):
    image = page(np.full((200 + 2 * thick, 200 + 2 * thick, 3), 190, np.uint8), 101 - thick, 83 - thick, WHITE)
    image[83:283, 101:301] = photo()
    assert off(image, face_of(200, 101, 83), 101, 83) <= 3


@pytest.mark.parametrize("gap, quality", [(2, None), (4, None), (4, 92), (8, 80), (16, 80)])
def test_photos_in_a_grid_with_narrow_gaps(gap, quality):
    image = np.full((3 * 200 + 4 * gap,) * 2 + (3,), 255, np.uint8)
    at = [gap + k * (200 + gap) for k in range(3)]
    for k in range(9):
        image[at[k // 3] :, at[k % 3] :][:200, :200] = photo(200, k)
    pixels = image if quality is None else saved(image, quality)
    for x in at:
        for y in at:
            assert off(pixels, face_of(200, x, y), x, y) <= 3


@pytest.mark.parametrize("along", [0, 1])
def test_a_gradient_as_page(along):
    ramp = np.moveaxis(np.linspace((60, 20, 120), (250, 120, 60), 500)[:, None].repeat(500, 1), 0, along)
    image = ramp.round().astype(np.uint8)
    image[83:283, 101:301] = photo()
    assert off(image, face_of(200, 101, 83), 101, 83) <= 1


@pytest.mark.parametrize("noise", [1, 2, 4])
def test_a_scans_margin_is_not_quite_plain(noise):
    rng = np.random.default_rng(0)
    image = np.clip((248, 246, 240) + rng.normal(0, noise, (420, 500, 3)), 0, 255).round().astype(np.uint8)
    image[83:283, 101:301] = photo()
    assert off(image, face_of(200, 101, 83), 101, 83) <= 1


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.37, 2.5])
def test_resized_pages(scale):
    image = cv2.resize(page(photo(), 101, 83, WHITE), None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    x, y, side = (round(n * scale) for n in (101, 83, 200))
    assert off(image, face_of(side, x, y), x, y, side) <= 3


def test_a_caption_over_the_photo_is_a_bar():
    image = Image.fromarray(np.vstack([np.full((60, 200, 3), 255, np.uint8), photo()]))
    ImageDraw.Draw(image).text((8, 10), "when the caption\nhas two lines", fill=0)
    assert photo_about(np.asarray(image), face_of(200, 0, 60)) == (0, 60, 200, 260)


@pytest.mark.parametrize("noise", [3, 5])
def test_a_walls_edge_is_no_photos(noise):
    """Straight over the photo's whole height, but a wall photographed has no colour that is exactly one."""
    rng = np.random.default_rng(0)
    image = photo(256)
    image[:, 230:] = np.clip(70 + rng.normal(0, noise, (256, 26, 1)), 0, 255).round()
    face = face_of(256, 0, 0)
    assert photo_about(image, face) is None
    for turn in (1, 2, 3):
        assert photo_about(np.ascontiguousarray(np.rot90(image, turn)), turned(face, image.shape, turn)) is None


def real_photos(shared_dir: Path) -> Iterator[tuple[Path, np.ndarray, list[Face]]]:
    """(file, pixels, faces) of photos that lie on no page; skips where there are none."""
    model = shared_dir / "weights" / "face_detection_yunet_2023mar.onnx"
    folders = [shared_dir / "data" / name for name in ("choose_foreign_real/real", "native_train_real/real")]
    if not model.is_file() or not all(folder.is_dir() for folder in folders):
        pytest.skip("no YuNet or no photos")
    finder = FaceFinder.open(model)
    for path in [path for folder in folders for path in sorted(folder.iterdir())[:60]]:
        pixels = load_image(path)
        yield path, pixels, finder.find(pixels)


def test_real_photos_keep_what_was_all_theirs(shared_dir):
    """Walls, doors, hats and windows: of photos that lie on no page none is cut (the black bars of three of UTKFace's
    are bars)."""
    for path, pixels, faces in real_photos(shared_dir):
        assert [photo_about(pixels, face) for face in faces][:1] == [None], path.name
